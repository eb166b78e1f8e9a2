"""Regression with Gaussian weights, beside exact Bayesian linear regression.

Any Linen module through weight-space sampling (`models.bayesian.bayesian`),
here dense layers, on scikit-learn's diabetes: 442 patients, ten measurements,
the disease's progress a year later, all scaled to mean 0 and deviation 1.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core import keys
from jaxlab.core.require import above, at_least, between, require
from jaxlab.core.source import ArraySpec
from jaxlab.core.state import Evaluator, Objective, Task
from jaxlab.core.update import minimise
from jaxlab.data.in_memory import ArraySource, permutation
from jaxlab.engine import feed as feeds
from jaxlab.engine.feed import Feed
from jaxlab.engine.loop import Inputs, Options
from jaxlab.models.bayesian import Bayesian, Mlp, bayesian
from jaxlab.papers.bayes_cnn import method, priors
from jaxlab.recipes import optimizers
from jaxlab.runs.model import Kept, Model
from jaxlab.runs.stage import Figures, Stage, judged_by, training

Config = Mapping[str, Any]

FEATURES = 10
_TRAIN, _VALIDATION = 310, 44  # rows; the other 88 are the test set


def program(config: Config) -> list[Stage]:
  """The training, and its judgement.

  Raises:
    InputError: a value that cannot be; nothing has been computed yet.
  """
  limit, draws = method.RHO_LIMIT, at_least(1, 'draws of the weights')
  require(
    config,
    {
      'data.batch_size': at_least(1),
      'bayes.spread': between(-limit, limit, 'rho of every weight; about -5'),
      'bayes.beta': at_least(0, '1: the evidence lower bound'),
      'bayes.noise': above(0, 'deviation of the noise at first'),
      'evaluation.draws': draws,
    },
  )
  method.check_n_train(config['bayes']['n_train'], _TRAIN)
  method.refuse_decay(
    config['optimizer']['weight_decay'], config['bayes']['beta']
  )
  priors.make(config['prior'])
  options = Options(**config['train'])
  tx = optimizers.make(config['optimizer'], options.steps)
  net = network(config)

  def init(key):
    q = net.init(key, jnp.zeros((1, FEATURES)))
    noise = jnp.log(jnp.float32(config['bayes']['noise']))
    return {'net': q, 'noise': {'log': noise}}, {}

  def inputs(space):
    sets = diabetes()
    source = ArraySource(
      sets['train'],
      batch_size=config['data']['batch_size'],
      seed=config['seed'],
    )
    once = lambda rows: ArraySource(
      sets['validation'], batch_size=rows, repeat=False, shuffle=False
    )
    held = feeds.held_out(once, space.mesh, _VALIDATION)
    return Inputs(
      Feed(source, space.mesh), {'validation': (_squared(net), held)}
    )

  rows = config['data']['batch_size']
  spec = {
    'x': ArraySpec((rows, FEATURES), np.float32),
    'y': ArraySpec((rows,), np.float32),
    'id': ArraySpec((rows,), np.int32),
  }
  update = minimise(make_loss(config, net), ('net', 'noise'), tx)
  trained = training(
    'train',
    options,
    spec=lambda space: {'train': spec},
    task=lambda space, inputs: Task(init, {'train': update}),
    inputs=inputs,
    keep=lambda space, opened, result: kept(),
  )
  judge = Stage('judge', lambda space: _judge(config, net, space))
  return judged_by([trained, judge], 'evaluation.')


def kept() -> Kept:
  """What goes beside the network."""
  rows = diabetes()['test']['x'][:2].tolist()
  inputs = {'kind': 'vector', 'length': FEATURES}
  licence = 'BSD-3-Clause (the package); public data of Efron et al. 2004'
  return Kept(inputs, rows, data={'diabetes (scikit-learn)': licence})


def network(config: Config) -> Bayesian:
  """Dense layers with one output, all weights Gaussian."""
  hidden = tuple(config['model']['hidden'])
  return bayesian(Mlp((*hidden, 1)), config['bayes']['spread'])


def diabetes() -> dict[str, dict[str, np.ndarray]]:
  """split -> x [n, 10] and y [n] float32, scaled by the training split."""
  import sklearn.datasets

  found = sklearn.datasets.load_diabetes()
  order = permutation(len(found.target), seed=0, epoch=0)
  x, y = found.data[order], found.target[order]
  x, y = ((v - v[:_TRAIN].mean(0)) / v[:_TRAIN].std(0) for v in (x, y))
  ends = {
    'train': slice(_TRAIN),
    'validation': slice(_TRAIN, _TRAIN + _VALIDATION),
    'test': slice(_TRAIN + _VALIDATION, None),
  }
  return {
    split: {'x': x[rows].astype('f4'), 'y': y[rows].astype('f4')}
    for split, rows in ends.items()
  }


def make_loss(config: Config, net: Bayesian):
  """The negative bound of a Gaussian likelihood, in nats an example."""
  b, prior = config['bayes'], priors.make(config['prior'])

  def loss(params, vars, batch, key):
    draw, other = jax.random.split(key)
    f = net.apply(params['net'], draw, batch['x'])[:, 0]
    log = params['noise']['log']
    nats = (f - batch['y']) ** 2 * jnp.exp(-2 * log) / 2 + log
    nats = jnp.where(batch['mask'], nats + math.log(2 * math.pi) / 2, 0.0)
    kl = priors.kl(params['net'], prior, other)
    return Objective(
      nats.sum(),
      batch['mask'].sum().astype(jnp.float32),
      penalty=method.elbo(jnp.zeros(()), kl, b['n_train'], b['beta']),
      metrics={'kl': (kl, jnp.ones(()))},
    )

  return loss


def _squared(net: Bayesian) -> Evaluator:
  """`rmse` of the mean weights."""

  def update(total, state, batch, key):
    gap = net.mean(state.params['net'], batch['x'])[:, 0] - batch['y']
    squares = jnp.where(batch['mask'], gap**2, 0.0).sum()
    return total + jnp.stack([squares, batch['mask'].sum()])

  finish = lambda total: {'rmse': math.sqrt(total[0] / total[1])}
  return Evaluator(lambda: jnp.zeros(2), update, finish)


def moments(net: Bayesian, params, x, key, draws: int):
  """Mean and deviation of predictions: [n] each; the noise is in the second.

  And the share of the variance that is the weights', epistemic: [n].
  """
  if not isinstance(params['noise']['log'], jax.core.Tracer):
    method.check_posterior(params['net'])
  run = jax.jit(lambda k: net.apply(params['net'], k, x)[:, 0])
  f = np.stack([run(jax.random.fold_in(key, t)) for t in range(draws)])
  noise = math.exp(2 * float(params['noise']['log']))
  total = f.var(0) + noise
  return f.mean(0), np.sqrt(total), f.var(0) / total


def figures_of(mean, deviation, y) -> dict[str, float]:
  """Of Gaussian predictions: RMSE, nats, and the share within 1.96 σ."""
  z = (y - mean) / deviation
  nats = z**2 / 2 + np.log(deviation) + math.log(2 * math.pi) / 2
  return {
    'rmse': float(np.sqrt(np.mean((y - mean) ** 2))),
    'nats': float(nats.mean()),
    'coverage_of_95': float((abs(z) < 1.96).mean()),
  }


def _judge(config, net: Bayesian, space) -> Figures:
  import sklearn.linear_model

  sets, state = diabetes(), space.artefact('train')
  params = jax.device_get(state.params)
  key = keys.stream(space.seed, 'predictions')
  x, y = sets['test']['x'], sets['test']['y']
  draws = config['evaluation']['draws']
  mean, deviation, share = moments(net, params, x, key, draws)
  exact = sklearn.linear_model.BayesianRidge().fit(
    sets['train']['x'], sets['train']['y']
  )
  centre, width = exact.predict(x, return_std=True)
  rows = {
    'Bayes by Backprop': figures_of(mean, deviation, y),
    'exact linear': figures_of(centre, width, y),
    'mean of the training set': figures_of(np.zeros_like(y), 1.0 + 0 * y, y),
  }
  names = ('rmse', 'nats', 'coverage_of_95')
  space.page.headline(
    'test nats: Bayes by Backprop '
    f'{rows["Bayes by Backprop"]["nats"]:.3f}, exact linear regression '
    f'{rows["exact linear"]["nats"]:.3f}'
  )
  space.page.table(
    'Test predictions of scaled targets',
    ('model', *names),
    [[of, *(row[n] for n in names)] for of, row in rows.items()],
    show=True,
  )
  space.page.figure(
    'predictions', _predictions(mean, deviation, y), 'Test set, ± 1.96 σ'
  )
  own = {f'test/{k}': v for k, v in rows['Bayes by Backprop'].items()}
  linear = {f'test/linear_{k}': v for k, v in rows['exact linear'].items()}
  return {**own, **linear, 'test/epistemic_share': float(share.mean())}


def _predictions(mean, deviation, y):
  def draw(axes):
    order = np.argsort(mean)
    axes.errorbar(
      np.arange(len(y)), mean[order], 1.96 * deviation[order], fmt='.', lw=0.7
    )
    axes.plot(np.arange(len(y)), y[order], 'x', label='target')
    axes.set_xlabel('test example, by prediction')
    axes.legend(frameon=False)

  return draw


def predict(model: Model, inputs: np.ndarray) -> list[dict[str, float]]:
  """Predictions of scaled targets.

  Args:
    inputs: [n, 10] float32, scaled as the training split.

  Returns:
    One answer a row: `mean`, `deviation`, and `epistemic`, the weights' share
    of the variance.

  Raises:
    InputError: rows of another length.
  """
  rule = between(FEATURES, FEATURES, 'give [n, 10]')
  width = np.shape(inputs)[-1]
  require({'inputs': {'width': width}}, {'inputs.width': rule}, name='')
  config = model.config
  found = moments(
    network(config),
    model.params,
    jnp.float32(inputs),
    keys.stream(config['seed'], 'predictions'),
    config['evaluation']['draws'],
  )
  names = ('mean', 'deviation', 'epistemic')
  return [dict(zip(names, map(float, row))) for row in zip(*found)]
