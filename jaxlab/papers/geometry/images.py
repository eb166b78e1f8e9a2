"""The job of section 5 on images: an autoencoder, a transport to its codes.

Beside a Gaussian fitted to the same codes, and a variational autoencoder of
the same networks. Distances are between features of a small classifier,
trained here: they compare what is in the table, and nothing else.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core import keys
from jaxlab.core.require import (
  above,
  at_least,
  between,
  require,
  some,
)
from jaxlab.core.state import Evaluator, Objective, Task
from jaxlab.core.update import minimise
from jaxlab.data.images.sets import ImageSets
from jaxlab.data.licences import licence_of
from jaxlab.engine.feed import Feed
from jaxlab.engine.loop import Inputs, Options
from jaxlab.engine.metrics import say
from jaxlab.ops.generative import frechet_distance, nearest_distances
from jaxlab.ops.losses import masked_cross_entropy
from jaxlab.ops.row_random import normal
from jaxlab.papers.geometry import method
from jaxlab.papers.geometry.method import extension, transport
from jaxlab.recipes import images, optimizers
from jaxlab.runs.model import Kept, Model
from jaxlab.runs.stage import Figures, Stage, Workspace, training

Config = Mapping[str, Any]


def program(config: Config) -> list[Stage]:
  """Three trainings, the transport, what they generate.

  Raises:
    InputError: a value that cannot be; nothing has been computed yet.
  """
  check(config)
  return [
    _training(config, 'judge', config['judge']['steps']),
    _training(config, 'vae', config['train']['steps']),
    _training(config, 'autoencoder', config['train']['steps']),
    Stage('transport', lambda space: _transport(config, space), load=_loaded),
    Stage('generated', lambda space: _generated(config, space)),
  ]


def check(config: Config) -> None:
  """Raises InputError where a value cannot be."""
  one = at_least(1)
  rules = {
    'data.size': one,
    'data.channels': one,
    'data.batch_size': one,
    'data.eval_batch_size': one,
    'model.hidden': some(one),
    'model.codes': one,
    'model.beta': at_least(0),
    'model.sigma': above(0),
    'judge.hidden': some(one),
    'judge.steps': one,
    'transport.atoms': at_least(2),
    'transport.rate': above(0),
    'transport.batch': one,
    'transport.solver_samples': one,
    'transport.tolerance': above(0),
    'transport.certificate': one,
    'transport.samples': at_least(2),
    'transport.quantile': between(0, 1),
  }
  require(config, rules)


# --- trainings ---


def widths(config: Config, name: str) -> dict[str, list[int]]:
  """The networks of one of the three trainings."""
  d, m = config['data'], config['model']
  pixels, hidden = d['size'] ** 2 * d['channels'], [*m['hidden']]
  if name == 'judge':
    return {'net': [pixels, *config['judge']['hidden'], d['num_classes']]}
  codes = 2 * m['codes'] if name == 'vae' else m['codes']
  return {
    'enc': [pixels, *hidden, codes],
    'dec': [m['codes'], *hidden[::-1], pixels],
  }


def flat(pixels) -> jax.Array:
  """[b, h, w, c] uint8, or floating in [0, 1] -> [b, h w c] in [0, 1]."""
  scale = 255 if jnp.issubdtype(pixels.dtype, jnp.integer) else 1
  return jnp.asarray(pixels, jnp.float32).reshape(len(pixels), -1) / scale


def _loss(config: Config, name: str):
  m = config['model']

  def loss(params, vars, batch, key):
    x, mask = flat(batch['image']), batch['mask']
    if name == 'judge':
      logits = method.network(params['net'], x)
      total, rows = masked_cross_entropy(logits, batch['label'], mask)
      right = (logits.argmax(-1) == batch['label']) & mask
      metrics = {'accuracy': (right.sum().astype(jnp.float32), rows)}
      return Objective(total, rows, metrics=metrics)
    if name == 'vae':
      found = method.network(params['enc'], x)
      mean, log = jnp.split(found, 2, -1)
      noise = normal(key, mean.shape, batch['id'])
      code = method.drawn_code(mean, log, noise)
      error = ((method.network(params['dec'], code) - x) ** 2).sum(-1)
      error = error / (2 * m['sigma'] ** 2)
      error += m['beta'] * method.divergence(mean, log)
    else:
      error = method.squared_error(params, x)
    total = jnp.where(mask, error, 0.0).sum()
    return Objective(total, mask.sum().astype(jnp.float32))

  return loss


def _training(config: Config, name: str, steps: int) -> Stage:
  d = config['data']
  options = Options(**{**config['train'], 'steps': steps})
  tx = optimizers.make(config['optimizer'], steps)
  nets = widths(config, name)
  loss = _loss(config, name)

  def init(key):
    made = jax.random.split(key, len(nets))
    return {
      net: method.initial(k, of) for k, (net, of) in zip(made, nets.items())
    }, {}

  def inputs(space):
    sets = ImageSets(d, space.offline)
    source = sets.source(d['train_split'], d['batch_size'], space.seed)
    feed = Feed(source, space.mesh, workers=d['workers'], ahead=d['ahead'])
    held = sets.held_out(d['validation_split'], space.mesh)
    return Inputs(
      feed, {'validation': (_mean_loss(loss, name == 'judge'), held)}, data=sets
    )

  update = minimise(loss, tuple(nets) if len(nets) > 1 else 'net', tx)
  return training(
    name,
    options,
    spec=lambda space: images.spec(config),
    task=lambda space, inputs: Task(init, {'train': update}),
    inputs=inputs,
    keep=(lambda space, opened, result: kept(config, opened.data))
    if name == 'autoencoder'
    else None,
  )


def kept(config: Config, sets: ImageSets) -> Kept:
  """What goes beside the autoencoder."""
  d = config['data']
  takes = {
    'kind': 'image',
    'height': d['size'],
    'width': d['size'],
    'channels': d['channels'],
    'fit': 'crop',
  }
  some = sets.inliers(d['validation_split'])['image'][:2]
  return Kept(
    takes, list(np.asarray(some)), data={d['name']: licence_of(d['name'])}
  )


def _mean_loss(loss, classifies: bool) -> Evaluator:
  """`loss` over a feed, and of a classifier `accuracy`."""

  def update(total, state, batch, key):
    found = loss(state.params, state.vars, batch, key)
    right = found.metrics.get('accuracy', (jnp.zeros(()),))[0]
    return total + jnp.stack([found.sum, found.weight, right])

  def finish(total):
    figures = {'loss': float(total[0] / total[1])}
    if classifies:
      figures['accuracy'] = float(total[2] / total[1])
    return figures

  return Evaluator(lambda: jnp.zeros(3), update, finish)


# --- transport and judgement ---


def _in_batches(run, x, rows: int = 2000) -> np.ndarray:
  run = jax.jit(run)
  parts = [run(x[i : i + rows]) for i in range(0, len(x), rows)]
  return np.concatenate([np.asarray(part) for part in parts])


def _codes(config: Config, space: Workspace) -> np.ndarray:
  """[atoms, codes] of the first training images."""
  sets = ImageSets(config['data'], space.offline)
  split = config['data']['train_split']
  pixels = sets.inliers(split)['image'][: config['transport']['atoms']]
  params = space.artefact('autoencoder').params['enc']
  return _in_batches(lambda x: method.network(params, flat(x)), pixels)


def _transport(config: Config, space: Workspace) -> Figures:
  c = config['transport']
  codes = np.unique(_codes(config, space), axis=0)
  atoms, _ = transport.rescaled(codes, each_axis=True)
  problem = transport.Problem(atoms)
  solver = transport.AdamDoubling(
    rate=c['rate'],
    batch=c['batch'],
    samples=c['solver_samples'],
    tolerance=c['tolerance'],
    seed=space.seed,
  )
  found = solver(problem, say=say)
  key = keys.stream(space.seed, 'certificate')
  known = transport.certify(
    problem, found.potentials, key, c['certificate'], c['batch']
  )
  reached = known.holds(c['tolerance'])
  space.page.headline(
    f'{len(codes)} codes, {found.samples:,} samples: relative error of the '
    f'masses {known.relative:.3g} ± {known.noise:.2g}, {known.empty} cells '
    f'empty; the certificate of {c["tolerance"]:g} is '
    f'{"reached" if reached else "not reached"}'
  )
  artefact = {
    'potentials': np.asarray(found.potentials, np.float32),
    'codes': np.asarray(codes, np.float32),
  }
  path = space.folder('transport') / 'transport.npz'
  np.savez(path, potentials=artefact['potentials'], codes=artefact['codes'])
  space.artefacts['transport'] = artefact
  return {
    'relative_error': known.relative,
    'noise': known.noise,
    'l1': known.l1,
    'worst': known.worst,
    'empty': known.empty,
    'samples': found.samples,
    'reached': float(reached),
  }


def _loaded(space: Workspace):
  with np.load(space.folder('transport') / 'transport.npz') as found:
    return dict(found)


def _generated(config: Config, space: Workspace) -> Figures:
  d, count = config['data'], config['transport']['samples']
  sets = ImageSets(d, space.offline)
  train = np.asarray(flat(sets.inliers(d['train_split'])['image']))
  test = np.asarray(flat(sets.inliers(d['test_split'])['image']))
  own = space.artefact('autoencoder').params
  other = space.artefact('vae').params
  decode = lambda net: lambda z: jnp.clip(method.network(net, z), 0, 1)
  made: dict[str, np.ndarray] = {}
  rng = np.random.default_rng([space.seed, 5])

  kept, transported = _new_codes(config, space, rng)
  made['AE-OT'] = _in_batches(decode(own['dec']), transported['filtered'])
  made['AE-OT, no filter'] = _in_batches(
    decode(own['dec']), transported['unfiltered']
  )
  codes = transported['atoms']
  drawn = rng.multivariate_normal(codes.mean(0), np.cov(codes.T), count)
  made['AE, Gaussian of codes'] = _in_batches(
    decode(own['dec']), drawn.astype(np.float32)
  )
  z = rng.normal(size=(count, config['model']['codes'])).astype(np.float32)
  made['VAE'] = _in_batches(decode(other['dec']), z)
  rebuild = lambda x: decode(own['dec'])(method.network(own['enc'], x))
  made['AE, test images rebuilt'] = _in_batches(rebuild, test[:count])
  made['training images'] = train[-count:]

  features = _features(space.artefact('judge').params['net'])
  real = features(test)
  rows, by = [], {}
  held = np.median(nearest_distances(test[:_NEAR], train))
  for name, x in made.items():
    near = None
    if name != 'training images':
      near = float(np.median(nearest_distances(x[:_NEAR], train)) / held)
    by[name] = frechet_distance(features(x), real)
    rows.append(
      {
        'images': name,
        'n': len(x),
        'Fréchet distance': by[name],
        'nearest / test': near if near is not None else '–',
        'discarded': 1 - kept if name == 'AE-OT' else '–',
      }
    )
    say(f'{name}: {by[name]:.4g}')
  space.page.headline(
    'Fréchet distance to test images, features of a classifier trained here: '
    + ', '.join(f'{k} {v:.3g}' for k, v in by.items())
    + '; one seed, no interval'
  )
  space.page.table(
    'Generated images; nearest: median distance to the nearest training image '
    'over that of test images',
    [*rows[0]],
    rows,
    show=True,
  )
  side, channels = d['size'], d['channels']
  for name, x in made.items():
    grid = x[:32].reshape(-1, side, side, channels)
    slug = ''.join(s if s.isalnum() else '_' for s in name.lower())
    space.page.images(slug, grid, caption=name)
  return {f'frechet/{k}': v for k, v in by.items()} | {'discarded': 1 - kept}


_NEAR = 1000  # images whose neighbours are looked for


def _features(params):
  """Images [n, pixels] -> the last hidden layer [n, k] float64."""
  last = len(params) - 1
  body = {f'dense{i}': params[f'dense{i}'] for i in range(last)}
  run = lambda x: jax.nn.relu(method.network(body, x))
  return lambda x: _in_batches(run, np.asarray(x, np.float32)).astype(float)


def _new_codes(config: Config, space: Workspace, rng):
  """The share of samples kept, and codes with and without the filter."""
  c = config['transport']
  left = space.artefact('transport')
  codes = np.asarray(left['codes'], float)
  atoms, affine = transport.rescaled(codes, each_axis=True)
  problem = transport.Problem(atoms)
  key = keys.stream(space.seed, 'centres')
  centres = extension.mass_centres(
    problem,
    left['potentials'],
    key,
    c['certificate'],
    c['batch'],
    allow_empty=True,
  )
  z = rng.uniform(size=(2 * c['samples'], atoms.shape[1]))
  loose = extension.extend(problem, centres, z, np.inf)
  limit = extension.threshold_at(loose, c['quantile'])
  new = extension.extend(problem, centres, z, limit)
  back = lambda y: affine.back(y)[: c['samples']].astype(np.float32)
  return float(new.kept.mean()), {
    'filtered': back(new.points[new.kept]),
    'unfiltered': back(loose.points),
    'atoms': codes,
  }


def predict(model: Model, inputs: np.ndarray) -> list[dict[str, Any]]:
  """Codes and reconstructions of images, by the autoencoder.

  Args:
    inputs: [n, h, w, c] uint8, or floating in [0, 1].

  Returns:
    One answer an image: `code`, `error`, and `picture`, the reconstruction
    [h, w, c] float32 in [0, 1].

  Raises:
    InputError: images of another shape.
  """
  d, params = model.config['data'], model.params
  images.check_images(inputs, d['size'], d['size'], d['channels'])
  x = flat(np.asarray(inputs))
  codes = method.network(params['enc'], x)
  rebuilt = method.network(params['dec'], codes)
  error = ((x - rebuilt) ** 2).sum(-1)
  return [
    {
      'code': c.tolist(),
      'error': float(e),
      'picture': np.clip(r, 0, 1).reshape(inputs.shape[1:]),
    }
    for c, r, e in zip(*map(np.asarray, (codes, rebuilt, error)))
  ]
