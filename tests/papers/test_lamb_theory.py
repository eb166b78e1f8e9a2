"""The theory row: a problem as the theorems ask for, and honest fits."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.papers.lamb import layered, theory
from jaxlab.runs import sections, stage, workdir
from tests.papers.lamb_jobs import config_of, space_of

H, WIDTH = 4, 4
SMOOTH = layered.spectra(H, 1000.0, 50.0)['even']


def tiny():
  config = config_of('lamb_theory', 'smoke')
  config['problem'] |= {'layers': H, 'width': WIDTH}
  config['study'] |= {
    'steps': (8, 32),
    'spectra_steps': 8,
    'seeds': (0, 1),
    'factors': (0.5, 1.0),
  }
  return config


def problem_of(alike, smoothness=SMOOTH):
  return layered.make_problem(smoothness, WIDTH, alike, jax.random.key(3))


def points(n, scale=2.0, seed=0):
  """[n, H, WIDTH], of which g is to be taken."""
  draw = jax.random.uniform(jax.random.key(seed), (n, H, WIDTH), minval=-1.0)
  return scale * draw


@pytest.fixture(params=layered.ALIKE)
def problem(request):
  return problem_of(request.param)


def hessian(problem, x):
  """[H, WIDTH, H, WIDTH]."""
  return np.asarray(jax.hessian(layered.value, 1)(problem, x))


def test_hessian_of_layer_i_has_norm_l_i_at_the_minimum(problem):
  blocks = hessian(problem, jnp.zeros((H, WIDTH)))
  for i, smooth in enumerate(SMOOTH):
    expected = smooth * np.eye(WIDTH)
    # float32: two rotations and a division by r_i², a few 1e-7 each.
    np.testing.assert_allclose(blocks[i, :, i], expected, atol=1e-5 * smooth)


def test_hessian_of_layer_i_never_exceeds_l_i_and_f_is_not_convex(problem):
  lowest = []
  for z in points(20):
    blocks = hessian(problem, layered.place(problem, z))
    for i, smooth in enumerate(SMOOTH):
      eigen = np.linalg.eigvalsh(blocks[i, :, i]) / smooth
      assert np.abs(eigen).max() <= 1 + 1e-5
      lowest.append(eigen.min())
  # g'' goes down to -1/4, at z = 1.
  assert -0.25 - 1e-5 <= min(lowest) < -0.1


def test_a_layers_gradient_depends_on_that_layer_alone(problem):
  """The theorems' assumption, read literally."""
  blocks = hessian(problem, layered.place(problem, points(1)[0]))
  for i in range(H):
    assert not np.delete(blocks[i], i, axis=1).any()


def test_gradient_differences_obey_the_lipschitz_constants(problem):
  grad = jax.jit(jax.grad(layered.value, 1))
  for a, b, small in zip(points(40), points(40, seed=1), points(40, seed=2)):
    for other in (b, a + 0.01 * small):
      x, y = (layered.place(problem, z) for z in (a, other))
      change = np.linalg.norm(grad(problem, x) - grad(problem, y), axis=1)
      moved = np.linalg.norm(x - y, axis=1)
      # Neighbours a hundredth apart lose two digits of float32.
      assert np.all(change <= SMOOTH * moved * (1 + 1e-3))


def test_f_lies_between_its_minimum_and_a_half(problem):
  at = lambda z: layered.value(problem, layered.place(problem, z))
  values = jax.vmap(at)(points(50, scale=20.0)).tolist()
  assert layered.value(problem, jnp.zeros((H, WIDTH))) == 0
  assert 0 < min(values) < max(values) < 0.5


def test_layers_are_alike_in_energy_or_in_radius():
  energy, radius = map(problem_of, layered.ALIKE)
  np.testing.assert_allclose(energy.weight, 1 / H)
  np.testing.assert_allclose(radius.radius, radius.radius[0], rtol=1e-6)
  np.testing.assert_allclose(radius.weight.sum(), 1, rtol=1e-6)


def test_spectra_share_spread_and_maximum_or_mean():
  kinds = layered.spectra(16, 1000.0, 1000.0)
  for smooth in kinds.values():
    assert smooth.max() / smooth.min() == pytest.approx(1000)
  assert {kinds[k].max() for k in ('few', 'even', 'many')} == {1000.0}
  for name in ('even_low', 'many_low'):
    assert kinds[name].mean() == pytest.approx(kinds['few'].mean())
  means = [kinds[k].mean() for k in ('few', 'even', 'many')]
  assert means == sorted(means)
  assert means[2] / means[0] > 10
  assert kinds['few'].max() / kinds['many_low'].max() > 10


def test_noise_of_a_layer_has_the_stated_variance():
  draw = lambda t: layered.noise(jax.random.key(0), t, (H, WIDTH), 3.0, 5)
  drawn = np.asarray(jax.vmap(draw)(jnp.arange(4000)))
  found = (drawn**2).sum(axis=2).mean(axis=0)
  # χ² of 4 degrees: relative deviation √(2 / 4 / 4000) = .011; four of them.
  np.testing.assert_allclose(found, 9 / 5, rtol=0.045)
  # A mean of 4 · 4000 entries of variance .45: deviation .0053.
  assert abs(drawn.mean()) < 0.022


def by_hand(name, problem, rate, root, x, steps, sigma):
  """Means of the four norms in float64 NumPy, gradient and rules anew."""
  rotation = np.asarray(problem.rotation, float)
  radius, weight = (np.asarray(v, float)[:, None] for v in problem[2:0:-1])
  x, seen = np.asarray(x, float), []
  for t in range(steps):
    z = np.einsum('hij,hj->hi', rotation, x) / radius
    slope = weight / WIDTH / radius * z / (1 + z * z) ** 2
    grad = np.einsum('hji,hj->hi', rotation, slope)
    layers = np.linalg.norm(grad, axis=1)
    square = (grad**2).sum()
    seen.append([square, square**0.5, layers.sum(), np.abs(grad).sum()])
    given = grad + np.asarray(layered.noise(root, t, x.shape, sigma, steps))
    if name == 'lars':
      given = given / np.linalg.norm(given, axis=1, keepdims=True)
    if name == 'lamb':
      given = np.sign(given) / math.sqrt(WIDTH)
    x = x - rate * given
  square, norm, layers, entries = np.mean(seen, axis=0)
  return {
    'square': square,
    'norm': norm**2,
    'layers': layers**2 / H,
    'entries': entries**2 / (H * WIDTH),
  }


@pytest.mark.parametrize('name', ['sgd', 'lars', 'lamb'])
def test_descent_is_the_algorithm_written_by_hand(name, problem):
  steps, sigma, rate = 12, 0.2, {'sgd': 0.02}.get(name, 0.004)
  root, x = jax.random.key(7), layered.place(problem, points(1)[0])
  found = layered.descend(
    name, steps, 0.0, sigma, problem, jnp.array([[rate]]), root[None], x[None]
  )
  hand = by_hand(name, problem, rate, root, x, steps, sigma)
  for measure, expected in hand.items():
    # A dozen float32 steps.
    assert found[measure][0, 0] == pytest.approx(expected, rel=1e-4)


def test_step_size_minimises_what_the_rate_trades():
  """Δ / (η T) + η Σ L / 2, which at the least is √(2 Δ Σ L / T)."""
  gap, steps = 0.2, 100
  cost = lambda eta: gap / (eta * steps) + eta * SMOOTH.sum() / 2
  best = float(layered.step_size('lars', SMOOTH, gap, steps))
  assert cost(best) < min(cost(0.99 * best), cost(1.01 * best))
  assert cost(best) == pytest.approx((2 * gap * SMOOTH.sum() / steps) ** 0.5)
  assert layered.step_size('lamb', SMOOTH, gap, steps) == best
  assert layered.step_size('sgd', SMOOTH, gap, steps) == 1 / SMOOTH.max()


@pytest.mark.parametrize('name', ['sgd', 'lars', 'lamb'])
@pytest.mark.parametrize('sigma', [0.0, 0.5])
def test_measures_stay_below_the_bound_and_near_it(name, sigma, problem):
  """Without noise that is a theorem about every single run."""
  steps, n = 64, 6
  starts = jax.vmap(lambda z: layered.place(problem, z))(points(n))
  gap = np.asarray(jax.vmap(lambda x: layered.value(problem, x))(starts))
  rates = layered.step_size(name, SMOOTH, gap, steps)[:, None]
  roots = jax.random.split(jax.random.key(1), n)
  found = layered.descend(
    name, steps, 0.0, sigma, problem, jnp.asarray(rates), roots, starts
  )
  share = found[layered.OWN[name]][:, 0] / layered.bound(
    name, SMOOTH, gap, sigma, steps
  )
  assert np.all(share < 1)
  # Or the bound would say nothing: it is loose by a constant alone.
  assert np.all(share > 0.05)


def test_slopes_are_those_of_power_laws():
  steps = [10, 100, 1000]
  values = [[5 * t**-0.5 for t in steps], [0.1 * t**-2.0 for t in steps]]
  assert layered.slopes(steps, values) == pytest.approx([-0.5, -2.0])


def test_exponents_tell_maximum_from_mean():
  kinds = [*layered.spectra(16, 1000.0, 1000.0).values()]
  by_max = [3 * x.max() for x in kinds]
  by_mean = [x.mean() ** 2 / 7 for x in kinds]
  p, q = layered.exponents(kinds, [by_max, by_mean])
  assert p == pytest.approx([1, 0], abs=1e-9)
  assert q == pytest.approx([0, 2], abs=1e-9)


def test_ratio_is_the_geometric_mean_with_its_interval():
  mean, low, high = layered.ratio([2.0, 8.0], [1.0, 1.0])
  assert mean == pytest.approx(4.0)
  # t(.975, 1) = 12.706; the logarithms' standard error is ln 2.
  assert high / mean == pytest.approx(2**12.706, rel=1e-3)
  assert low * high == pytest.approx(mean**2)


@pytest.mark.parametrize(
  'section, key, value',
  [
    ('problem', 'layers', 2),
    ('problem', 'width', 0),
    ('problem', 'spread', 0.5),
    ('problem', 'spread', math.nan),
    ('problem', 'max_smoothness', 0.0),
    ('problem', 'noise', -1.0),
    ('problem', 'start', 0.0),
    ('problem', 'alike', ()),
    ('problem', 'alike', ('mass',)),
    ('study', 'steps', (256,)),
    ('study', 'steps', (256, 256)),
    ('study', 'steps', (256, 0)),
    ('study', 'spectra_steps', 0),
    ('study', 'seeds', ()),
    ('study', 'seeds', (0, 0)),
    ('study', 'tuning_seeds', ()),
    ('study', 'tuning_seeds', (0,)),
    ('study', 'factors', (0.5, 2.0)),
    ('study', 'factors', (0.0, 1.0)),
    ('study', 'b2', 1.0),
  ],
)
def test_a_bad_value_is_named_before_anything_runs(section, key, value):
  config = config_of('lamb_theory')
  config[section][key] = value
  message = rf'config\.{section}\.{key} = .* must be '
  with pytest.raises(InputError, match=message):
    theory.program(config)


def test_norms_beyond_float32_are_an_input_error(tmp_path):
  config = tiny()
  config['problem']['start'] = 1e-30
  with pytest.raises(InputError, match='0 or not finite'):
    run(config, tmp_path)


def run(config, folder):
  folder.mkdir(parents=True, exist_ok=True)
  workdir.write_json(folder / 'config.json', config)
  stage.run_all(theory.program(config), space_of(config, folder))
  out = folder / 'theory'
  report = json.loads((out / 'report.json').read_text())
  return report['metrics'], json.loads((out / 'theory.json').read_text()), out


@pytest.fixture(scope='module')
def done(tmp_path_factory):
  return run(tiny(), tmp_path_factory.mktemp('theory'))


def test_the_stage_reports_slopes_exponents_and_rivals(done):
  figures, found, out = done
  assert all(map(math.isfinite, figures.values()))
  name = 'energy/lars/theorem_layers/'
  mine = [c for c in found['cells'] if c['optimizer'] == 'lars'][:2]
  assert [c['steps'] for c in mine] == [8, 32]
  values = np.array([c['theorem']['layers'] for c in mine]).T
  fits = layered.slopes([8, 32], values)
  assert figures[name + 'slope'] == pytest.approx(np.mean(fits))
  # t(.975, 1) = 12.706, two seeds.
  half = 12.706 * np.std(fits, ddof=1) / math.sqrt(2)
  assert figures[name + 'slope_half_width'] == pytest.approx(half, rel=1e-3)
  assert {name + 'of_max_L', name + 'of_mean_L_half_width'} <= {*figures}
  assert len(found['rates']) == len(found['spectra']) == 4 * 4
  assert len(found['rivals']) == 3 * 5
  assert len(found['cells']) == 4 * (2 + 5)
  page = json.loads((out / sections.FILE).read_text())
  rates, spectra, rivals = (x for x in page if x['kind'] == 'table')
  assert [len(x['rows']) for x in (rates, spectra, rivals)] == [16, 16, 15]
  row = dict(zip(rates['columns'], rates['rows'][4]))
  assert [*row.values()][:4] == ['energy', 'lars', 'theorem', 'layers']
  assert row['slope'] == f'{np.mean(fits):.3g} ± {half:.3g}'
  assert row['theorem'] == layered.THEOREM['lars'][0]
  tuned = dict(zip(rates['columns'], rates['rows'][5]))
  assert (tuned['rate'], tuned['theorem']) == ('tuned', '–')
  plots = {path.name for path in (out / 'figures').glob('*.png')}
  assert plots == {'norm_energy.png', 'measures_energy.png'}


def test_factors_are_chosen_by_the_tuning_seeds_alone(done, tmp_path):
  config, first = tiny(), done[1]['cells']
  config['study']['seeds'] = (5, 6)
  second = run(config, tmp_path)[1]['cells']
  assert [c['factor'] for c in first] == [c['factor'] for c in second]
  assert all(
    a['theorem']['norm'] != b['theorem']['norm'] for a, b in zip(first, second)
  )
