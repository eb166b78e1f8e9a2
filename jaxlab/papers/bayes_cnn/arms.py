"""The arms of the study: how each is trained, and what its draws are.

  lrt, flipout, sample  Bayes by Backprop, the forward pass computed so
  deterministic         the same network without a posterior
  mc_dropout            Gal and Ghahramani 2016, arXiv:1506.02142
  ensemble              Lakshminarayanan et al. 2017, arXiv:1612.01474
  ivon                  the posterior of an optimizer
  laplace, temperature  of the deterministic arm's network, after its training

Of Bayes by Backprop params['net'] is {'mu', 'rho' or 'log_alpha'}, of an
ensemble a tree with a leading axis of members.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlab.core.errors import InputError
from jaxlab.core.state import Loss, Objective, State, Tree, Update
from jaxlab.core.update import minimise
from jaxlab.models.bayesian import BayesNet
from jaxlab.ops import variational
from jaxlab.ops.losses import masked_cross_entropy
from jaxlab.papers.bayes_cnn import method, priors
from jaxlab.recipes import images, optimizers
from jaxlab.recipes.images import ImageTask

Config = Mapping[str, Any]

VARIATIONAL = ('lrt', 'flipout', 'sample')
TRAINED = (*VARIATIONAL, 'deterministic', 'mc_dropout', 'ensemble', 'ivon')
POST_HOC = ('laplace', 'temperature')
# (params, vars, images, key, ids) -> logits of each draw, new vars
Forward = Callable[..., tuple[list[jax.Array], Mapping]]


def image_task(config: Config, arm: str, offline: bool = True) -> ImageTask:
  """The classifier of an arm; its `logits` are those of the mean weights.

  Those of an ensemble are log mean probabilities.

  Raises:
    InputError: as of `images.image_task`; an arm that wants 'bayes_net'.
  """
  plain = images.image_task(config, offline)
  if arm in ('lrt', 'flipout', 'mc_dropout'):
    _bayes_net(config)
  if arm in VARIATIONAL:
    b = config['bayes']

    def init(key):
      params, vars = plain.network.init(key)
      mu = params['net']
      spread = variational.constant(mu, b['spread'])
      return {'net': {'mu': mu, b['posterior']: spread}}, vars

    def logits(params, vars, batch):
      return plain.logits({'net': params['net']['mu']}, vars, batch)

  elif arm == 'ensemble':
    members = config['ensemble']['members']

    def init(key):
      made = [plain.network.init(k)[0] for k in jax.random.split(key, members)]
      vars = plain.network.init(key)[1]
      return jax.tree.map(lambda *x: jnp.stack(x), *made), vars

    def logits(params, vars, batch):
      one = lambda member: plain.logits({'net': member}, vars, batch)
      found = _each_member(one, params['net'], members)
      return jax.nn.logsumexp(jax.nn.log_softmax(found), 0) - np.log(members)

  else:
    return plain
  network = plain.network._replace(init=init)
  return plain._replace(network=network, logits=logits)


def make_update(
  config: Config, arm: str, rate: float, task: ImageTask, steps: int
) -> Update:
  """The training step of an arm.

  Raises:
    InputError: n_train is not the number of training examples.
  """
  b, section = config['bayes'], config['optimizer']
  if task.sets is not None and arm in (*VARIATIONAL, 'ivon'):
    found = task.sets.source(config['data']['train_split'], 1)
    method.check_n_train(b['n_train'], found.num_batches)
  if arm in VARIATIONAL:
    tx = method.optimizer(
      optimizers.make(section, steps, rate),
      optimizers.make(section, steps, rate * b['spread_rate']),
    )
    return minimise(_bound(config, arm, task), 'net', tx)
  if arm == 'ivon':
    c = config['ivon']
    tx = method.ivon(
      optimizers.schedule(section, steps, rate),
      ess=b['n_train'],
      hess_init=c['hess_init'],
      beta2=c['beta2'],
      weight_decay=c['weight_decay'],
    )
    return _AtDraws(_loss(_plain(task), task), tx)
  forward = {
    'deterministic': _plain,
    'mc_dropout': lambda task: _dropped(config),
    'ensemble': lambda task: _members(config, task),
  }[arm](task)
  tx = optimizers.make(section, steps, rate)
  # A sum over members, so that each has the gradient of a network alone.
  return minimise(_loss(forward, task, arm == 'ensemble'), 'net', tx)


class Predictor(NamedTuple):
  """The draws of a trained arm."""

  draws: int | None  # how many there are; None: any number
  weights: Callable[[int], Any]  # t -> a draw, a function of t alone
  logits: Callable[[Any, Any, Mapping], jax.Array]  # (draw, vars, batch)


def predictor(
  config: Config, arm: str, params, vars, key: jax.Array, opt=None, fitted=None
) -> Predictor:
  """The draws of an arm.

  Args:
    params, vars: of the State that its training left; of POST_HOC that of the
      deterministic arm.
    opt: State.opt['net'], for 'ivon'.
    fitted: a `Laplace`, or a temperature.
  """
  plain = images.image_task(config).logits
  run = lambda weights, vars, batch: plain({'net': weights}, vars, batch)
  net, at = params['net'], lambda t: jax.random.fold_in(key, t)
  if arm in VARIATIONAL:
    method.check_posterior(net)
    draw = jax.jit(variational.draw)
    return Predictor(None, lambda t: draw(at(t), net), run)
  if arm == 'ensemble':
    member = lambda t: jax.tree.map(lambda x: x[t], net)
    return Predictor(config['ensemble']['members'], member, run)
  if arm == 'ivon':
    if opt is None:
      raise InputError('ivon: its posterior is in State.opt; give opt=')
    add = jax.jit(
      lambda key: jax.tree.map(jnp.add, net, method.ivon_noise(key, opt))
    )
    return Predictor(None, lambda t: add(at(t)), run)
  if arm == 'mc_dropout':
    forward = _dropped(config)

    def dropped(key, vars, batch):
      image = images.augment.to_float(batch['image'])
      return forward(params, vars, image, key, batch['id'])[0][0]

    return Predictor(None, at, dropped)
  if arm == 'laplace':

    def headed(t):
      kernel, bias = fitted.draw(np.random.default_rng(t))
      return {**net, 'head': {'kernel': kernel, 'bias': bias}}

    return Predictor(None, headed, run)
  if arm == 'temperature':
    scaled = lambda w, vars, batch: run(w, vars, batch) / fitted
    return Predictor(1, lambda t: net, scaled)
  return Predictor(1, lambda t: net, run)


def _loss(forward: Forward, task: ImageTask, total: bool = False) -> Loss:
  """Nats of the labels: the mean of the draws, or their sum."""

  def loss(params, vars, batch, key):
    augment, draw = jax.random.split(key)
    image = task.prepare(augment, batch)
    draws, new = forward(params, vars, image, draw, batch['id'])
    labels, mask = batch['label'], batch['mask']
    pairs = [masked_cross_entropy(x, labels, mask) for x in draws]
    right = sum(((x.argmax(-1) == labels) & mask).sum() for x in draws)
    rows = pairs[0][1]
    return Objective(
      jnp.stack([nats for nats, _ in pairs]).sum() / (total or len(draws)),
      rows,
      vars=new,
      metrics={'accuracy': (jnp.float32(right) / len(draws), rows)},
    )

  return loss


def _bound(config: Config, arm: str, task: ImageTask) -> Loss:
  """The evidence lower bound; vars['updates'] counts."""
  b = config['bayes']
  prior = priors.make(config['prior'])
  batches = -(-b['n_train'] // config['data']['batch_size'])
  beta = method.beta_schedule(
    b['schedule'], batches, b['warmup_epochs'], b['beta']
  )
  forward = _noisy(config, arm, task)
  nats = _loss(forward, task)

  def loss(params, vars, batch, key):
    first, second = jax.random.split(key)
    found = nats(params, vars, batch, first)
    kl = priors.kl(params['net'], prior, second, b['kl_samples'])
    weight = beta(vars['updates'])
    return found.replace(
      penalty=method.elbo(jnp.zeros(()), kl, b['n_train'], weight),
      vars={**found.vars, 'updates': vars['updates'] + 1},
      metrics={**found.metrics, 'kl': (kl, jnp.ones(()))},
    )

  return loss


def _plain(task: ImageTask) -> Forward:
  def forward(params, vars, image, key, ids):
    logits, new = task.network.train(params, vars, image)
    return [logits], new

  return forward


def _members(config: Config, task: ImageTask) -> Forward:
  """Every member on the same batch; its gradients are its own alone."""
  members = config['ensemble']['members']

  def forward(params, vars, image, key, ids):
    one = lambda net: task.network.train({'net': net}, vars, image)[0]
    return [*_each_member(one, params['net'], members)], {}

  return forward


def _each_member(one: Callable, net: Tree, members: int) -> jax.Array:
  """one(member) of all, stacked: an axis of devices, a loop on a CPU.

  XLA:CPU computes a convolution with a kernel for each member slowly.
  """
  if jax.default_backend() != 'cpu':
    return jax.vmap(one)(net)
  each = [jax.tree.map(lambda x, i=i: x[i], net) for i in range(members)]
  return jnp.stack([one(member) for member in each])


def _noisy(config: Config, arm: str, task: ImageTask) -> Forward:
  """Draws of Bayes by Backprop."""
  b = config['bayes']

  def forward(params, vars, image, key, ids):
    q, found = params['net'], []
    new: Mapping = {}
    for i in range(b['samples']):
      each = jax.random.fold_in(key, i)
      if arm == 'sample':
        weights = {'net': variational.draw(each, q)}
        logits, new = task.network.train(weights, vars, image)
      else:
        net = _bayes_net(config, mode=arm, posterior=b['posterior'])
        variables = {'params': q['mu'], b['posterior']: q[b['posterior']]}
        logits = _applied(config, net, variables, image, ids, posterior=each)
      found.append(logits)
    return found, new

  return forward


def _dropped(config: Config) -> Forward:
  net = _bayes_net(config, dropout=config['mc_dropout']['rate'])

  def forward(params, vars, image, key, ids):
    variables = {'params': params['net']}
    found = _applied(config, net, variables, image, ids, dropout=key)
    return [found], {}

  return forward


def _bayes_net(config: Config, **fields: Any) -> BayesNet:
  m, d = config['model'], config['data']
  if m['name'] != 'bayes_net':
    raise InputError(
      f'config.model.name = "{m["name"]}": lrt, flipout and mc_dropout are '
      'layers of "bayes_net"; other networks take the arm "sample"'
    )
  return BayesNet(
    net=m['net'],
    num_classes=d['num_classes'],
    padding=m['padding'],
    dtype=jnp.dtype(m['dtype']),
    **fields,
  )


def _applied(config, net, variables, image, ids, **keys) -> jax.Array:
  d = config['data']
  centre, scale = (np.asarray(d[name], np.float32) for name in ('mean', 'std'))
  image = (image - centre) / scale
  return net.apply(variables, image, train=True, ids=ids, rngs=keys)


@dataclass(frozen=True)
class _AtDraws:
  """A gradient step whose gradient is taken at a draw of IVON's posterior."""

  loss: Loss
  tx: Any

  @property
  def optimizers(self):
    """As of all Updates."""
    return {'net': ('net', self.tx)}

  def __call__(self, state: State, batch, key):
    draw, rest = jax.random.split(key)
    noise = method.ivon_noise(draw, state.opt['net'])

    def moved(params, *more):
      shifted = jax.tree.map(jnp.add, params['net'], noise)
      return self.loss({**params, 'net': shifted}, *more)

    def update(grads, opt, mean):
      return self.tx.update(grads, opt, mean, noise=noise)

    tx = optax.GradientTransformation(self.tx.init, update)
    return minimise(moved, 'net', tx)(state, batch, rest)
