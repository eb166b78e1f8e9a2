"""Transport against closed forms, finite differences and exact cells."""

import jax
import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.engine import mesh
from jaxlab.papers.geometry import assignment, extension, maps, transport
from jaxlab.papers.geometry.power_cells import power_cells
from jaxlab.papers.geometry.transport import Problem


def random_problem(n=60, seed=0, weighted=False):
  rng = np.random.default_rng(seed)
  weights = rng.uniform(0.5, 1.5, n) if weighted else np.ones(n)
  return Problem(rng.uniform(size=(n, 2)), weights / weights.sum())


def test_newton_takes_few_steps_to_equal_areas():
  for weighted in (False, True):
    problem = random_problem(weighted=weighted)
    found = transport.solve(problem)
    assert found.converged and found.steps <= 8
    assert found.errors[-1] <= 1e-12
    masses = transport.cells(problem, found.potentials).masses
    np.testing.assert_allclose(masses, problem.weights, atol=1e-12)


def test_newton_keeps_cells_from_becoming_empty():
  # Voronoi cells of very unequal size need damped steps.
  rng = np.random.default_rng(1)
  near = 0.5 + 0.01 * rng.normal(size=(40, 2))
  problem = Problem(np.concatenate([near, [[0.05, 0.05], [0.9, 0.95]]]))
  found = transport.Newton()(problem)
  assert found.converged and found.masses.min() > 0


def test_gradient_and_hessian_are_those_of_finite_differences():
  problem = random_problem(20, weighted=True)
  h = transport.solve(problem).potentials
  h = h + 5e-4 * np.random.default_rng(2).normal(size=20)
  step = 1e-5 * np.eye(20)
  of = lambda f: np.array([(f(h + e) - f(h - e)) / 2e-5 for e in step])
  slope = of(lambda x: transport.energy(problem, x))
  np.testing.assert_allclose(slope, transport.gradient(problem, h), atol=5e-7)
  matrix = transport.hessian(problem, h).toarray()
  rows = of(lambda x: transport.gradient(problem, x))
  np.testing.assert_allclose(rows, matrix, atol=1e-6)
  np.testing.assert_allclose(matrix.sum(1), 0, atol=1e-12)
  assert np.linalg.eigvalsh(matrix)[1] > 0


def test_cells_are_those_of_the_highest_plane():
  problem = random_problem(30, 3)
  h = problem.voronoi + 0.02 * np.random.default_rng(4).normal(size=30)
  found = transport.cells(problem, h)
  x = np.random.default_rng(5).uniform(size=(40_000, 2))
  index = (x @ problem.atoms.T + h).argmax(1)
  share = np.bincount(index, minlength=30) / len(x)
  assert abs(share - found.masses).max() < 0.006
  assert abs(found.masses.sum() - 1) < 1e-12
  assert (found.masses == 0).any()  # empty cells are found as such
  for i in (index[0], index[1]):
    mean = x[index == i].mean(0)
    np.testing.assert_allclose(mean, found.centroids[i], atol=0.01)


def test_few_atoms_and_lattices_have_cells():
  one = power_cells(np.array([[0.3, 0.3]]), np.zeros(1), np.eye(3)[:, :2] * 2)
  assert one.masses.tolist() == [1.0]
  two = transport.solve(Problem(np.array([[0.25, 0.5], [0.75, 0.5]])))
  np.testing.assert_allclose(two.masses, [0.5, 0.5], atol=1e-15)


def test_a_product_of_lines_has_a_sum_of_potentials():
  x, y = np.array([0.2, 0.5, 0.9]), np.array([0.1, 0.7])
  grid = np.stack(np.meshgrid(x, y, indexing='ij'), -1).reshape(-1, 2)
  found = transport.solve(Problem(grid)).potentials.reshape(3, 2)
  lines = [transport.closed_form_1d(Problem(line[:, None])) for line in (x, y)]
  want = lines[0][:, None] + lines[1]
  np.testing.assert_allclose(found - found[0, 0], want, atol=1e-12)


def test_the_closed_form_of_a_line_cuts_it_at_the_weights():
  weights = np.array([0.5, 0.2, 0.3])
  problem = Problem(np.array([[-1.0], [0.5], [2.0]]), weights, -2, 2)
  h = transport.closed_form_1d(problem)
  x = np.linspace(-2, 2, 100_001)[:, None]
  share = np.bincount(transport.transport_map(problem, h, x)) / len(x)
  np.testing.assert_allclose(share, weights, atol=1e-4)


def test_cells_move_with_atoms_and_domain_as_they_should():
  problem = random_problem(12, 6)
  h = problem.voronoi + 0.01 * np.random.default_rng(7).normal(size=12)
  masses = transport.cells(problem, h).masses
  shift = np.array([0.3, -0.2])
  order = np.random.default_rng(8).permutation(12)
  corners = problem.outline
  cases = {
    'atoms': (problem.atoms + shift, h, corners),
    'domain': (problem.atoms, h - problem.atoms @ shift, corners + shift),
    'constant': (problem.atoms, h + 5, corners),
    'scale': (3 * problem.atoms, 9 * h, 3 * corners),
  }
  for name, given in cases.items():
    np.testing.assert_allclose(
      power_cells(*given).masses, masses, atol=1e-12, err_msg=name
    )
  turned = power_cells(problem.atoms[order], h[order], corners)
  np.testing.assert_allclose(turned.masses, masses[order], atol=1e-12)


def test_potentials_of_squared_costs_and_back():
  problem = random_problem(10)
  h = transport.solve(problem).potentials
  g = transport.to_squared_cost(h, problem.atoms)
  x = np.random.default_rng(9).uniform(size=(500, 2))
  cost = ((x[:, None] - problem.atoms) ** 2).sum(-1)
  want = (x @ problem.atoms.T + h).argmax(1)
  np.testing.assert_array_equal((cost - g).argmin(1), want)
  np.testing.assert_allclose(transport.from_squared_cost(g, problem.atoms), h)


# --- many atoms ---


def scores(seed=0, n=23, d=3, b=64):
  """Whole numbers, so that ties are ties."""
  rng = np.random.default_rng(seed)
  x = rng.integers(-2, 3, (d, b)).astype(np.float32)
  atoms = rng.integers(-2, 3, (n, d)).astype(np.float32)
  h = rng.integers(-2, 3, n).astype(np.float32)
  return x, atoms, h


@pytest.mark.parametrize('d', [3, 9])
def test_tiles_give_the_first_of_the_highest_planes(d):
  x, atoms, h = scores(d=d)
  want = (atoms @ x + h[:, None]).argmax(0)
  top, index = jax.jit(assignment.best, static_argnames='tile')(
    x, atoms, h, tile=5
  )
  np.testing.assert_array_equal(index, want)
  np.testing.assert_array_equal(top, (atoms @ x + h[:, None]).max(0))


def test_shards_of_samples_and_atoms_count_alike():
  x, atoms, h = scores(1, n=24)
  want = np.bincount((atoms @ x + h[:, None]).argmax(0), minlength=24)
  for axes in ({'data': 8}, {'data': 4, 'model': 2}):
    devices = mesh.make(axes)
    found = jax.jit(assignment.counts, static_argnames=('tile', 'devices'))(
      x, atoms, h, tile=5, devices=devices
    )
    np.testing.assert_array_equal(found, want)


def test_sampled_masses_do_not_depend_on_devices():
  problem = random_problem(24)
  key = jax.random.key(1)
  given = problem, problem.voronoi, key, 300, 128, 5
  alone = transport.sampled(*given)
  assert alone.sum() == 384  # whole batches
  shared = transport.sampled(*given, mesh.make({'data': 4, 'model': 2}))
  np.testing.assert_array_equal(alone, shared)


def test_atoms_are_rescaled_by_one_factor_or_by_each_axis():
  y = np.array([[0.0, 5], [10, 6], [4, 5.5]])
  z, affine = transport.rescaled(y, margin=0.1)
  np.testing.assert_allclose(np.ptp(z, axis=0), [0.8, 0.08])
  np.testing.assert_allclose(z.max(0) + z.min(0), 1)
  z, affine = transport.rescaled(y, each_axis=True)
  np.testing.assert_allclose(np.ptp(z, axis=0), 0.9)
  np.testing.assert_allclose(affine.back(z), y)


def test_the_tree_and_softened_shares_agree_with_the_planes():
  rng = np.random.default_rng(10)
  atoms = rng.uniform(size=(40, 2))
  h = -(atoms**2).sum(1) / 2 + 0.01 * rng.normal(size=40)
  x = rng.uniform(size=(500, 2))
  score = x @ atoms.T + h
  np.testing.assert_array_equal(
    assignment.Tree(atoms, h).best(x), score.argmax(1)
  )
  soft = np.exp((score - score.max(1, keepdims=True)) / 0.01)
  want = (soft / soft.sum(1, keepdims=True)).sum(0)
  given = (np.float32(v) for v in (x.T, atoms, h))
  found = jax.jit(assignment.shares, static_argnames='tile')(
    *given, 0.01, tile=7
  )
  np.testing.assert_allclose(found, want, rtol=2e-4, atol=1e-4)


def test_annealing_comes_near_the_exact_solution():
  problem = random_problem()
  found = transport.Annealed(steps=2000)(problem)
  exact = np.abs(transport.gradient(problem, found.potentials)).sum()
  assert exact < 0.06 and found.samples == 32_000
  assert np.abs(transport.gradient(problem, problem.voronoi)).sum() > 0.3


def test_adam_stops_at_its_certificate():
  problem = random_problem(20)
  solver = transport.AdamDoubling(
    rate=0.01,
    batch=512,
    patience=5,
    tolerance=0.1,
    samples=400_000,
    check=1 << 14,
    tile=20,
  )
  said = []
  found = solver(problem, say=said.append)
  assert found.converged and found.samples < 400_000
  exact = transport.gradient(problem, found.potentials)
  relative = np.sqrt((exact**2 / problem.weights).sum())
  assert relative < 0.13
  assert 'relative error' in said[-1] and len(said) == len(found.errors)


def test_a_certificate_has_no_bias_and_names_empty_cells():
  problem = random_problem(20)
  rng = np.random.default_rng(11)
  w = problem.weights * np.r_[np.full(10, 1.2), np.full(10, 0.8)]
  known = [
    transport.certificate(problem, rng.multinomial(2000, w)).relative ** 2
    for _ in range(400)
  ]
  assert np.mean(known) == pytest.approx(0.04, rel=0.05)
  right = [
    transport.certificate(problem, rng.multinomial(2000, problem.weights))
    for _ in range(400)
  ]
  chi = np.array([x.relative**2 for x in right])
  assert chi.max() < 6 * right[0].noise ** 2
  empty = transport.certificate(problem, np.r_[0, np.full(19, 100)])
  assert empty.empty == 1 and not empty.holds(9.0)
  assert empty.worst == pytest.approx(1.0)


def test_draws_depend_on_key_and_step_alone():
  key = jax.random.key(3)
  low, high = np.float32([0, 1]), np.float32([1, 3])
  x = assignment.draw(key, 4, (2, 16), low, high)
  assert ((x >= low[:, None]) & (x <= high[:, None])).all()
  devices = mesh.make({'data': 8})
  shared = jax.jit(assignment.draw, static_argnames=('shape', 'devices'))(
    key, 4, (2, 16), low, high, devices=devices
  )
  np.testing.assert_array_equal(x, shared)
  assert not np.array_equal(x, assignment.draw(key, 5, (2, 16), low, high))


# --- the extended map ---


def test_the_extended_map_mixes_near_atoms_by_inverse_distance():
  atoms = np.array([[0.2, 0.5], [0.3, 0.5], [0.9, 0.5]])
  problem = Problem(atoms)
  centres = extension.Centres(atoms, np.arange(3), 0)
  x = np.array([[0.24, 0.5], [0.61, 0.5]])
  far = extension.extend(problem, centres, x, np.inf)
  d = np.array([0.04, 0.06, 0.66])
  want = (atoms / d[:, None]).sum(0) / (1 / d).sum()
  np.testing.assert_allclose(far.points[0], want)
  assert far.kept.all() and far.nearest.tolist() == [0, 2]
  # Of the plane with slope .9 both others are too far for the filter.
  near = extension.extend(problem, centres, x, 0.2)
  assert near.kept.tolist() == [True, False]
  np.testing.assert_allclose(near.points[0], [0.24, 0.5])
  np.testing.assert_allclose(near.points[1], atoms[2])


def test_dihedral_angles_are_those_of_the_normals():
  planes = np.array([[[0.0, 0], [1, 0], [1e-9, 0], [0, -2]]])
  found = extension.angles(planes)
  want = [np.pi / 4, 1e-9, np.arctan(2)]
  np.testing.assert_allclose(found[0], want, rtol=1e-7)


def test_mass_centres_of_samples_are_those_of_the_cells():
  problem = random_problem(8)
  h = transport.solve(problem).potentials
  exact = extension.mass_centres(problem, h, jax.random.key(0))
  np.testing.assert_allclose(
    exact.points, transport.cells(problem, h).centroids
  )
  line = Problem(np.array([[0.2], [0.4], [0.9]]))
  h = transport.closed_form_1d(line)
  found = extension.mass_centres(line, h, jax.random.key(0), 4096, 2048)
  np.testing.assert_allclose(found.points[:, 0], [1 / 6, 0.5, 5 / 6], atol=0.02)
  h = np.array([9.0, 0.0, 0.0])
  with pytest.raises(InputError, match='2 cells are empty, that of atom 1'):
    extension.mass_centres(line, h, jax.random.key(0), 2048, 2048)
  some = extension.mass_centres(
    line, h, jax.random.key(0), 2048, 2048, allow_empty=True
  )
  assert (some.atoms.tolist(), some.empty) == ([0], 2)


def test_the_filter_lets_no_sample_between_modes():
  points = maps.target(0, 250, 0.05)
  atoms, affine = transport.rescaled(points)
  np.testing.assert_allclose(affine.back(atoms), points)
  assert atoms.min() >= 0.05 - 1e-12 and atoms.max() <= 0.95 + 1e-12
  problem = Problem(atoms)
  h = transport.solve(problem).potentials
  centres = extension.mass_centres(problem, h, jax.random.key(0))
  z = np.random.default_rng(1).uniform(size=(3000, 2))
  loose = extension.extend(problem, centres, z, np.inf)
  limit = extension.threshold_at(loose, 0.6)
  tight = extension.extend(problem, centres, z, limit)
  of = lambda x: maps.mixture(affine.back(x.points[x.kept]), 0.05, 5.0)
  assert of(loose)['mixed'] > 0.2 > 0.01 > of(tight)['mixed']
  assert of(tight)['modes'] == 25
  assert 0.1 < 1 - tight.kept.mean() < 0.5


def test_mixture_counts_points_far_from_all_centres():
  points = np.array([[0.0, 0], [0.2, 0], [1, 1], [4, 4]])
  found = maps.mixture(points, 0.05, 3.0)
  assert found['mixed'] == 0.5 and found['modes'] == 2
  assert found['uneven'] == pytest.approx((2 * (0.5 - 0.04) + 23 * 0.04) / 2)


# --- bad input ---

GOOD = np.array([[0.1, 0.2], [0.5, 0.6], [0.9, 0.3]])


@pytest.mark.parametrize(
  'given, words',
  [
    ((GOOD[[0, 1, 0]],), 'atoms 0 and 2 are the same; merge'),
    ((GOOD, [0.5, 0.5, 0]), 'atom 2 has weight 0'),
    ((GOOD, [0.5, 0.2, 0.2]), 'weights add up to 0.9;'),
    ((GOOD, [0.5, 0.5]), r'weights is \[2\] for 3 atoms'),
    ((GOOD + [0.2, 0],), 'atom 2 is outside of the box, as are 1 of 3'),
    ((GOOD, None, 1.0, 0.0), 'is empty'),
    ((GOOD * np.nan,), 'not finite'),
    ((GOOD[0],), r'give \[n, d\]'),
  ],
)
def test_a_bad_problem_is_named(given, words):
  with pytest.raises(InputError, match=words):
    Problem(*given)


def test_empty_cells_and_other_dimensions_are_named():
  problem = Problem(GOOD)
  h = problem.voronoi + [9.0, 0, 0]
  with pytest.raises(InputError, match='2 cells are empty at the start, that'):
    transport.Newton()(problem, h)
  with pytest.raises(InputError, match='d = 3: exact cells are for the plane'):
    transport.cells(Problem(np.eye(3)), np.zeros(3))
  with pytest.raises(InputError, match='rising atoms'):
    transport.closed_form_1d(Problem(GOOD[::-1, :1]))
  centres = extension.Centres(GOOD[:1], np.arange(1), 0)
  with pytest.raises(InputError, match='1 cells cannot be mixed'):
    extension.extend(problem, centres, GOOD, 1.0)
