"""The jobs' own arithmetic, answers and checks; conformance runs the smoke."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.papers.geometry import images, maps, method, task, theorem
from jaxlab.runs import sections
from jaxlab.runs.model import Model
from jaxlab.runs.stage import Workspace
from tests import runs


def config_of(variant, **changes):
  config = runs.config_of('geometry', variant)
  for key, value in changes.items():
    section, name = key.split('__')
    config[section][name] = value
  return config.to_dict()


def params_of(widths, seed=0):
  rng = np.random.default_rng(seed)
  return {
    f'dense{i}': {
      'w': rng.normal(size=(a, b)).astype('f4'),
      'b': rng.normal(size=b).astype('f4'),
    }
    for i, (a, b) in enumerate(zip(widths, widths[1:]))  # noqa: RUF007
  }


def forward(params, x):
  for i in range(len(params)):
    layer = params[f'dense{i}']
    x = (np.maximum(x, 0) if i else x) @ layer['w'] + layer['b']
  return x


def test_the_networks_the_error_and_the_composition():
  enc, dec = params_of([3, 4, 2]), params_of([2, 4, 3], 1)
  x = np.random.default_rng(2).normal(size=(5, 3)).astype('f4')
  rebuilt = forward(dec, forward(enc, x))
  want = ((x - rebuilt) ** 2).sum(1)
  found = method.squared_error({'enc': enc, 'dec': dec}, x)
  np.testing.assert_allclose(found, want, rtol=1e-5)
  whole = method.composed(method.layers(enc), method.layers(dec))
  assert [w.shape for w, _ in whole] == [(3, 4), (4, 4), (4, 3)]
  found = method.regions.dense(whole)(x)
  np.testing.assert_allclose(found, rebuilt, rtol=1e-5, atol=1e-5)


def test_initial_layers_have_the_he_deviation():
  made = jax.jit(lambda key: method.initial(key, (50, 200, 7)))(
    jax.random.key(0)
  )
  for name, fan_in in (('dense0', 50), ('dense1', 200)):
    w = np.asarray(made[name]['w'])
    assert w.std() == pytest.approx((2 / fan_in) ** 0.5, rel=0.1)
  assert np.asarray(made['dense0']['b']).std() == pytest.approx(0.1, rel=0.3)


def test_the_divergence_is_that_of_gaussians():
  mean, log = np.array([[0.5, -1.0]]), np.log([[0.25, 2.0]])
  want = (0.25 + 0.25 - 1 - np.log(0.25) + 1 + 2 - 1 - np.log(2)) / 2
  assert method.divergence(mean, log)[0] == pytest.approx(want, rel=1e-6)
  code = method.drawn_code(mean, log, np.array([[2.0, -1.0]]))
  np.testing.assert_allclose(code, [[1.5, -1 - 2**0.5]], rtol=1e-6)


def test_losses_of_images_ignore_padding():
  config = config_of('ae_ot_mnist', data__size=2, model__hidden=(3,))
  config['model']['codes'] = 2
  rng = np.random.default_rng(3)
  batch = {
    'image': rng.integers(0, 256, (4, 2, 2, 1)).astype(np.uint8),
    'label': np.arange(4, dtype=np.int32),
    'id': np.arange(4, dtype=np.int32),
    'mask': np.array([True, True, True, False]),
  }
  x = batch['image'].reshape(4, 4)[:3] / 255
  for name in ('autoencoder', 'vae'):
    nets = images.widths(config, name)
    params = {k: params_of(w) for k, w in nets.items()}
    found = images._loss(config, name)(params, {}, batch, jax.random.key(0))
    assert found.weight == 3
    if name == 'autoencoder':
      rebuilt = forward(params['dec'], forward(params['enc'], x))
      want = ((rebuilt - x) ** 2).sum()
      assert float(found.sum) == pytest.approx(want, rel=1e-5)
      continue
    mean, log = np.split(forward(params['enc'], x), 2, 1)
    kl = (mean**2 + np.exp(log) - 1 - log).sum() / 2
    rest = float(found.sum) - kl  # the error of pixels over 2 σ²
    assert rest > 0
    config['model']['sigma'] *= 2
    less = images._loss(config, name)(params, {}, batch, jax.random.key(0))
    assert float(less.sum) - kl == pytest.approx(rest / 4, rel=1e-3)
    config['model']['beta'] = 0.0
    none = images._loss(config, name)(params, {}, batch, jax.random.key(0))
    assert float(none.sum) == pytest.approx(rest / 4, rel=1e-3)


def test_answers_are_codes_and_reconstructions():
  config = config_of('smoke')
  params = {'enc': params_of([2, 3, 1]), 'dec': params_of([1, 3, 2], 1)}
  x = np.array([[0.1, -0.4], [0.3, 0.2]], np.float32)
  made = Model(config, params, {})
  found = task.predict(made, x)
  rebuilt = forward(params['dec'], forward(params['enc'], x))
  for row, answer in zip(rebuilt, found, strict=True):
    np.testing.assert_allclose(answer['reconstruction'], row, rtol=1e-5)
  far = np.linalg.norm(rebuilt - x, axis=1)
  np.testing.assert_allclose([a['distance'] for a in found], far, rtol=1e-5)
  with pytest.raises(InputError, match=r'inputs\.width = 3 must be'):
    task.predict(made, np.zeros((1, 3)))
  config = config_of('ae_ot_mnist', data__size=1, model__hidden=(3,))
  params = {'enc': params_of([1, 3, 1]), 'dec': params_of([1, 3, 1], 1)}
  pixels = np.full((1, 1, 1, 1), 51, np.uint8)
  made = Model(config, params, {})
  (answer,) = images.predict(made, pixels)
  want = forward(params['dec'], forward(params['enc'], np.array([[0.2]])))
  shown = np.clip(want[0], 0, 1).reshape(1, 1, 1)
  np.testing.assert_allclose(answer['picture'], shown, rtol=1e-5)
  with pytest.raises(InputError, match='what the model was trained on'):
    images.predict(made, np.zeros((1, 2, 2, 1)))


def test_shapes_are_a_spiral_and_a_cap():
  config = config_of('smoke')
  found = task.shape_of(config, 'spiral')
  assert found.widths == (2, 8, 8, 1) and abs(found.clean).max() <= 1
  radius = np.linalg.norm(found.clean, axis=1)
  assert (np.diff(radius) >= 0).all()
  found = task.shape_of(config, 'cap')
  assert found.widths == (3, 8, 8, 2)
  np.testing.assert_allclose(np.linalg.norm(found.clean, axis=1), 1)
  assert -0.5 <= found.clean[:, 2].min() < -0.3
  vertices, faces = task.cap_mesh(120, 5)
  np.testing.assert_allclose(np.linalg.norm(vertices, axis=1), 1)
  assert vertices[:, 2].min() == pytest.approx(-0.5)
  a, b, c = np.moveaxis(vertices[faces], 1, 0)
  area = np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2
  assert area == pytest.approx(2 * np.pi * 1.5, rel=0.03)


def test_cells_of_a_spiral_are_told_with_its_encoder(tmp_path):
  config = config_of('smoke', data__turns=3.0)
  enc, dec = params_of([2, 8, 8, 1]), params_of([1, 8, 8, 2], 1)
  space = Workspace(tmp_path, config, None, 0)
  space.page = sections.Sections(tmp_path)
  space.artefacts['spiral'] = SimpleNamespace(params={'enc': enc, 'dec': dec})
  figures = task._spiral_cells(config, space)
  layers = method.layers(enc)
  square = task.square(config, 2)
  found = method.regions.slice_polygons(layers, square)
  assert figures['cells'] == found.activation
  assert figures['charts'] == 2 and figures['excluded'] == 0
  points = task.spiral(config, 1000)
  known = method.complexity.injective_along(layers, points)
  assert figures['injective'] == known.injective
  kinds = [x['kind'] for x in space.page.found]
  assert kinds == ['table', 'headline', 'figure', 'figure']


def test_the_study_of_the_theorem_says_what_it_shows(tmp_path):
  config = config_of(
    'regions',
    curves__spirals=(1.0,),
    curves__hilbert=(1,),
    curves__polyline=9,
    encoders__widths=(2, 3),
    encoders__seeds=1,
    encoders__points=8,
    encoders__steps=40,
    encoders__polish=0,
  )
  (only,) = theorem.program(config)
  space = Workspace(tmp_path, config, None, 0)
  space.page = sections.Sections(tmp_path)
  figures = only.run(space)
  assert figures['spiral_1/certified_cells'] == 1
  assert {'hilbert_1/smallest_width', 'spiral_1/smallest_width'} <= {*figures}
  table = next(x for x in space.page.found if x['kind'] == 'table')
  assert table['rows'][1][:4] == ['Hilbert 1', 2, 1, 1]


def rows_of(spirals, hilberts, certified=1):
  return [
    {
      'curve': f'{family} {i}',
      'family': family,
      'smallest trained': width,
      'certified cells': certified,
      'connected charts': 2,
      'its upper bound': 9,
      'its cells along the curve': 3,
    }
    for family, widths in (('spiral', spirals), ('hilbert', hilberts))
    for i, width in enumerate(widths)
  ]


@pytest.mark.parametrize(
  'rows, verdict',
  [
    (rows_of((2, 4), (2, 2, None)), 'shown'),
    (rows_of((2, 4), (4, 4)), 'not shown'),
    (rows_of((4, 2), (2, 4)), 'not shown'),
    (rows_of((None, None), (2, 4)), 'not shown'),
    (rows_of((2, 4), (2, 4), certified=10), 'refuted'),
  ],
)
def test_the_verdict_on_the_theorem(rows, verdict, tmp_path):
  space = Workspace(tmp_path, {}, None, 0)
  space.page = sections.Sections(tmp_path)
  theorem._show(space, rows)
  assert space.page.found[0]['verdict'] == verdict


@pytest.mark.parametrize(
  'variant, changes, words',
  [
    ('smoke', {'data__shapes': ('cube',)}, 'data.shapes'),
    ('smoke', {'transport__atoms': 300}, r'transport.atoms = 300 must be in'),
    ('regions', {'curves__hilbert': (6,)}, 'curves.hilbert'),
    ('transport', {'target__atoms': 10}, 'target.atoms = 10'),
    ('ae_ot_mnist', {'transport__tolerance': 0}, 'transport.tolerance = 0'),
  ],
)
def test_bad_values_are_named(variant, changes, words):
  config = config_of(variant, **changes)
  jobs = {'task': task, 'theorem': theorem, 'maps': maps, 'images': images}
  with pytest.raises(InputError, match=words):
    jobs[config['job']].program(config)
