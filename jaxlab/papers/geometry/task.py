"""Autoencoders of a curve and of a surface: cells, codes, transport.

For each shape a training and its cells; for the surface also a transport of
the unit square to its codes, by which new points are generated.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core import keys
from jaxlab.core.errors import InputError
from jaxlab.core.require import (
  above,
  at_least,
  between,
  inside,
  one_of,
  require,
  some,
)
from jaxlab.core.source import ArraySpec
from jaxlab.core.state import Evaluator, Objective, Task
from jaxlab.core.update import minimise
from jaxlab.data.in_memory import ArraySource
from jaxlab.engine import feed as feeds
from jaxlab.engine.feed import Feed
from jaxlab.engine.loop import Inputs, Options
from jaxlab.papers.geometry import method, pictures
from jaxlab.papers.geometry.method import (
  complexity,
  extension,
  regions,
  transport,
)
from jaxlab.recipes import optimizers
from jaxlab.runs.model import Kept, Model
from jaxlab.runs.stage import Figures, Stage, Workspace, training

Config = Mapping[str, Any]


def program(config: Config) -> list[Stage]:
  """Of each shape a training and its cells; a transport of the cap's codes.

  Raises:
    InputError: a value that cannot be; nothing has been computed yet.
  """
  check(config)
  stages = []
  for name in config['data']['shapes']:
    stages.append(_training(config, name))
    judge = {'spiral': _spiral_cells, 'cap': _cap_cells}[name]
    run = lambda space, judge=judge: judge(config, space)
    stages.append(Stage(f'{name}-cells', run))
  if 'cap' in config['data']['shapes']:
    stages.append(Stage('transport', lambda space: _transport(config, space)))
  return stages


def check(config: Config) -> None:
  """Raises InputError where a value cannot be."""
  rules = {
    'data.shapes': some(one_of('spiral', 'cap')),
    'data.turns': above(0, 'radians'),
    'data.angle': inside(0, 180, 'degrees from the pole'),
    'data.examples': at_least(2),
    'data.noise': at_least(0),
    'data.batch_size': at_least(1),
    'model.hidden': some(at_least(1)),
    'cells.half_width': above(0),
    'cells.rings': at_least(2),
    'transport.samples': at_least(1),
    'transport.quantile': between(0, 1),
  }
  require(config, rules)
  most = between(2, config['data']['examples'], 'codes of examples')
  require(config, {'transport.atoms': most})


class Shape(NamedTuple):
  """A curve or a surface in [-1, 1]^d, and how its codes are made."""

  widths: tuple[int, ...]  # of φ
  clean: np.ndarray  # [n, d]


def shape_of(config: Config, name: str) -> Shape:
  """The examples of a shape, without noise.

  The spiral is (1 + θ / 2) e^{iθ}, scaled into the square; the cap that of the
  unit sphere around its pole, uniform in area.
  """
  d, n = config['data'], config['data']['examples']
  hidden = tuple(config['model']['hidden'])
  rng = np.random.default_rng([config['seed'], len(name)])
  if name == 'spiral':
    points = spiral(config, 4000)
    share = np.sort(rng.uniform(size=n))
    at = np.linspace(0, 1, len(points))
    clean = [np.interp(share, at, x) for x in points.T]
    return Shape((2, *hidden, 1), np.stack(clean, 1))
  low = np.cos(np.deg2rad(d['angle']))
  z, turn = rng.uniform(low, 1, n), rng.uniform(0, 2 * np.pi, n)
  radius = np.sqrt(1 - z**2)
  ring = radius * np.cos(turn), radius * np.sin(turn), z
  return Shape((3, *hidden, 2), np.stack(ring, 1))


def spiral(config: Config, points: int) -> np.ndarray:
  """The spiral of a config as a polyline in [-1, 1]²."""
  found = complexity.spiral(config['data']['turns'], points)
  return found / np.abs(found).max()


# --- training ---


def _training(config: Config, name: str) -> Stage:
  d = config['data']
  shape = shape_of(config, name)
  dimension = shape.widths[0]
  options = Options(**config['train'])
  tx = optimizers.make(config['optimizer'], options.steps)

  def init(key):
    first, second = jax.random.split(key)
    enc = method.initial(first, shape.widths)
    return {'enc': enc, 'dec': method.initial(second, shape.widths[::-1])}, {}

  def loss(params, vars, batch, key):
    error = method.squared_error(params, batch['x'])
    total = jnp.where(batch['mask'], error, 0.0).sum()
    return Objective(total, batch['mask'].sum().astype(jnp.float32))

  def inputs(space):
    rng = np.random.default_rng([space.seed, 1, dimension])
    noise = d['noise'] * rng.normal(size=shape.clean.shape)
    noisy = (shape.clean + noise).astype(np.float32)
    source = ArraySource(
      {'x': noisy}, batch_size=d['batch_size'], seed=space.seed
    )
    clean = {'x': shape.clean.astype(np.float32)}
    once = lambda rows: ArraySource(
      clean, batch_size=rows, repeat=False, shuffle=False
    )
    held = feeds.held_out(once, space.mesh, d['examples'])
    found = _cells_so_far(config, shape.widths)
    return Inputs(Feed(source, space.mesh), {'shape': (found, held)})

  rows = d['batch_size']
  spec = {
    'x': ArraySpec((rows, dimension), np.float32),
    'id': ArraySpec((rows,), np.int32),
  }
  update = minimise(loss, ('enc', 'dec'), tx)
  return training(
    name,
    options,
    spec=lambda space: {'train': spec},
    task=lambda space, inputs: Task(init, {'train': update}),
    inputs=inputs,
    keep=lambda space, opened, result: Kept(
      {'kind': 'vector', 'length': dimension},
      shape.clean[:2].astype(np.float32).tolist(),
      data={name: 'none needed: it is computed'},
    ),
  )


def _cells_so_far(config: Config, widths) -> Evaluator:
  """`error`, and the exact numbers of cells of φ and ψ∘φ on a square."""

  def init():
    key = jax.eval_shape(lambda: jax.random.key(0))
    nets = {'enc': widths, 'dec': widths[::-1]}
    shapes = {
      name: jax.eval_shape(partial(method.initial, widths=of), key)
      for name, of in nets.items()
    }
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jnp.zeros(2), zeros

  def update(total, state, batch, key):
    error = method.squared_error(state.params, batch['x'])
    error = jnp.where(batch['mask'], error, 0.0).sum()
    params = {name: state.params[name] for name in ('enc', 'dec')}
    return total[0] + jnp.stack([error, batch['mask'].sum()]), params

  def finish(total):
    (error, rows), params = total
    enc, dec = (method.layers(params[name]) for name in ('enc', 'dec'))
    corners = square(config, widths[0])
    of = regions.slice_polygons(enc, corners)
    whole = regions.slice_polygons(method.composed(enc, dec), corners)
    return {
      'error': float(error / rows),
      'encoder_cells': float(of.activation),
      'encoder_linear': float(of.linear),
      'autoencoder_cells': float(whole.activation),
    }

  return Evaluator(init, update, finish)


def square(config: Config, dimension: int) -> np.ndarray:
  """[4, d], the square that is cut into cells: the first and last axes."""
  half = config['cells']['half_width']
  corners = half * np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
  if dimension == 2:
    return corners
  return np.insert(corners, 1, 0.0, axis=1)


# --- judgement ---


def _networks(space: Workspace, name: str):
  """The layers of φ and of ψ."""
  params = jax.device_get(space.artefact(name).params)
  return method.layers(params['enc']), method.layers(params['dec'])


def _cell_table(config, space, widths, enc, dec):
  """Cells of φ and ψ∘φ on the square beside the bounds; the two slices."""
  both = method.composed(enc, dec)
  corners = square(config, widths[0])
  names = {'φ': (enc, widths), 'ψ∘φ': (both, None)}
  rows, slices = [], []
  for name, (net, known) in names.items():
    found = regions.slice_polygons(net, corners)
    slices.append(found)
    shape = known or [len(net[0][0]), *(len(b) for _, b in net)]
    limits = regions.bounds(shape)
    keep = ('serra18', 'montufar17', 'paper_hidden', 'paper')
    about = {'map': name, 'cells': found.activation, 'linear': found.linear}
    rows.append(about | {k: f'{limits[k]:.3g}' for k in keep})
  space.page.table(
    'Cells on a square, exact, beside bounds for all of space',
    [*rows[0]],
    rows,
    show=True,
  )
  return slices


def _spiral_cells(config: Config, space: Workspace) -> Figures:
  enc, dec = _networks(space, 'spiral')
  widths = shape_of(config, 'spiral').widths
  slices = _cell_table(config, space, widths, enc, dec)
  points = spiral(config, 1000)
  found = complexity.injective_along(enc, points)
  charts = len(complexity.charts(points))
  manifold = complexity.spiral_manifold(config['data']['turns'])
  answer = complexity.encodable_necessary(widths, manifold)
  rebuilt = regions.dense(method.composed(enc, dec))(points)
  far = np.linalg.norm(rebuilt - points, axis=1)
  where = f', first not in segment {found.arc[0]}' if found.arc else ''
  space.page.headline(
    f'the spiral of {config["data"]["turns"]:g} radians, {charts} connected '
    f'charts, is {"" if found.injective else "not "}encoded by φ (margin '
    f'{found.margin:.3g}{where}); ψ∘φ is off by {far.mean():.2g} in the mean'
  )
  for name, cells in zip(('phi', 'psi_phi'), slices):
    draw = pictures.cells(cells, curve=points, other=rebuilt)
    text = f'Cells of {"φ" if name == "phi" else "ψ∘φ"}; dashed: reconstruction'
    space.page.figure(f'spiral_{name}', draw, text, (5, 5))
  return {
    'charts': charts,
    'injective': float(found.injective),
    'margin': found.margin,
    'excluded': float(answer == 'impossible'),
    'error': float(far.mean()),
    'cells': slices[0].activation,
    'linear': slices[0].linear,
    'autoencoder_cells': slices[1].activation,
  }


def cap_mesh(angle: float, rings: int) -> tuple[np.ndarray, np.ndarray]:
  """Vertices [n, 3] and faces [m, 3] of a cap of the unit sphere.

  Args:
    angle: degrees from the pole to the rim; rings: of faces.
  """
  around = 6 * rings
  polar = np.deg2rad(angle) * np.arange(1, rings + 1) / rings
  turn = 2 * np.pi * np.arange(around) / around
  ring = np.stack([np.cos(turn), np.sin(turn)], 1)
  levels = [np.c_[np.sin(t) * ring, np.full(around, np.cos(t))] for t in polar]
  vertices = np.concatenate([[[0.0, 0.0, 1.0]], *levels])
  here = np.arange(around)
  there = (here + 1) % around
  faces = [np.stack([0 * here, 1 + here, 1 + there], 1)]
  for k in range(rings - 1):
    a, b = 1 + k * around + here, 1 + k * around + there
    c, d = a + around, b + around
    faces += [np.stack([a, c, d], 1), np.stack([a, d, b], 1)]
  return vertices, np.concatenate(faces)


def _cap_cells(config: Config, space: Workspace) -> Figures:
  enc, dec = _networks(space, 'cap')
  widths = shape_of(config, 'cap').widths
  slices = _cell_table(config, space, widths, enc, dec)
  angle = config['data']['angle']
  vertices, faces = cap_mesh(angle, config['cells']['rings'])
  answer = complexity.surface_direction(vertices, faces).answer
  phi = regions.dense(enc)
  codes = phi(vertices)
  flat = complexity.overlap(codes[faces])
  rebuilt = regions.dense(dec)(codes)
  far = np.linalg.norm(rebuilt - vertices, axis=1)
  space.page.headline(
    f'the cap of {angle:g} degrees is {answer} in one chart; the image of its '
    f'mesh under φ {"overlaps itself" if flat else "does not overlap itself"}; '
    f'ψ∘φ is off by {far.mean():.2g} in the mean'
  )
  space.page.figure(
    'cap_phi',
    pictures.cells(slices[0]),
    'Cells of φ on the plane of the first and last axes',
    (5, 5),
  )
  space.page.figure(
    'cap_codes',
    pictures.mesh(codes, faces, vertices[:, 2]),
    'The mesh in the plane of codes, by height on the cap',
    (5, 5),
  )
  return {
    'rectifiable': float(answer == 'rectifiable'),
    'overlaps': float(flat),
    'error': float(far.mean()),
    'cells': slices[0].activation,
    'linear': slices[0].linear,
    'autoencoder_cells': slices[1].activation,
  }


def _transport(config: Config, space: Workspace) -> Figures:
  """Section 5: T_*ζ = φ_*μ, new points ψ(T(z))."""
  c = config['transport']
  enc, dec = _networks(space, 'cap')
  clean = shape_of(config, 'cap').clean
  codes = regions.dense(enc)(clean[: c['atoms']])
  atoms, affine = transport.rescaled(codes)
  problem = transport.Problem(atoms)
  found = transport.solve(problem)
  if not found.converged:
    raise InputError(
      f'the transport of {c["atoms"]} codes stopped at max |w - ν| = '
      f'{found.errors[-1]:.2g}; take fewer atoms'
    )
  of = transport.cells(problem, found.potentials)
  rng = np.random.default_rng([space.seed, 2])
  z = rng.uniform(size=(c['samples'], 2))
  key = keys.stream(space.seed, 'centres')
  centres = extension.mass_centres(problem, found.potentials, key)
  loose = extension.extend(problem, centres, z, np.inf)
  limit = extension.threshold_at(loose, c['quantile'])
  new = extension.extend(problem, centres, z, limit)
  psi = regions.dense(dec)
  off = lambda y: float(np.abs(np.linalg.norm(psi(y), axis=1) - 1).mean())
  drawn = rng.multivariate_normal(codes.mean(0), np.cov(codes.T), c['samples'])
  figures = {
    'newton_steps': found.steps,
    'mass_error': found.errors[-1],
    'discarded': float(1 - new.kept.mean()),
    'off_sphere/reconstruction': off(codes),
    'off_sphere/transport': off(affine.back(new.points[new.kept])),
    'off_sphere/unfiltered': off(affine.back(loose.points)),
    'off_sphere/gaussian': off(drawn),
  }
  space.page.headline(
    f'transport to {c["atoms"]} codes: max |w - ν| = {found.errors[-1]:.1g} '
    f'after {found.steps} Newton steps; generated points are off the sphere by '
    f'{figures["off_sphere/transport"]:.3g}, reconstructions by '
    f'{figures["off_sphere/reconstruction"]:.3g}, a Gaussian of codes by '
    f'{figures["off_sphere/gaussian"]:.3g}'
  )
  space.page.figure(
    'power_diagram',
    pictures.power(of, atoms),
    'Power cells of equal area, and their atoms (codes of the cap)',
    (5, 5),
  )
  space.page.figure(
    'map',
    pictures.mapped(z, new, atoms),
    'The extended map: from the square to the codes; red: dropped',
    (5, 5),
  )
  return figures


def predict(model: Model, inputs: np.ndarray) -> list[dict[str, Any]]:
  """Codes and reconstructions by a trained autoencoder.

  Args:
    inputs: [n, 2] points for the spiral's, [n, 3] for the cap's.

  Returns:
    One answer a point: `code`, `reconstruction`, `distance` to it.

  Raises:
    InputError: points of another dimension.
  """
  params = model.params
  width = len(params['enc']['dense0']['w'])
  got = np.shape(inputs)[-1]
  rule = one_of(width, cure=f'give [n, {width}]')
  require({'inputs': {'width': got}}, {'inputs.width': rule}, name='')
  codes = method.network(params['enc'], jnp.float32(inputs))
  rebuilt = method.network(params['dec'], codes)
  distance = np.linalg.norm(np.asarray(rebuilt) - inputs, axis=1)
  return [
    {'code': c.tolist(), 'reconstruction': r.tolist(), 'distance': float(d)}
    for c, r, d in zip(np.asarray(codes), np.asarray(rebuilt), distance)
  ]
