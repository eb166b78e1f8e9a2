"""Networks with Gaussian weights, for Bayes by Backprop.

Two ways to the same posterior, a tree {'mu': weights, 'rho': of each}:

  posterior = bayesian(model)       # any Linen module, weights drawn whole
  q = posterior.init(key, image, train=False)
  logits = posterior.apply(q, key, image, train=False)

  net = BayesNet('lenet5', 10, mode='lrt')      # layers that know their noise
  logits = net.apply({'params': q['mu'], 'rho': q['rho']}, image,
                     train=True, rngs={'posterior': key}, ids=ids)

The layers keep means in the collection `params` under the names of nn.Conv and
nn.Dense, deviations in a collection beside it, so that weights drawn from `q`
are those of the plain network. `mode` says how a layer is computed:

  lrt      local reparameterisation: training
  flipout  one draw of the weights with signs for each example
  sample   one draw of the weights for the batch: prediction
  mean     the means alone, a plain network that needs no deviations

Networks (K. Shridhar et al., arXiv:1901.02731, appendix; softplus after all
layers but the last) and their weights for ten classes:

  lenet5      61,706 of one channel, 62,006 of three
  alexnet     2,175,946 (11 x 11 stride 4, then 5 x 5, 3 x 3, 3 x 3, 3 x 3)
  alexnet_half  half its channels
  3conv3fc    1,782,634
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxlab.models.blocks import check_image, max_pool
from jaxlab.ops import row_random, variational

Tree = Any

MODES = ('lrt', 'flipout', 'sample', 'mean')
KINDS = ('rho', 'log_alpha')
SPREAD = {'rho': -5.0, 'log_alpha': -10.0}  # initial values


class _Gaussian(nn.Module):
  """What both layers share: weights by name, and the four modes."""

  features: int
  mode: str = 'lrt'
  posterior: str = 'rho'  # 'log_alpha': σ² = α μ²
  spread: float | None = None  # of every weight at first; None: SPREAD
  use_bias: bool = True
  dtype: Any = jnp.float32  # of activations; variances are float32
  kernel_init: Callable = nn.initializers.lecun_normal()

  def _output(self, linear, x, shape, ids):
    for name, value, known in (
      ('mode', self.mode, MODES),
      ('posterior', self.posterior, KINDS),
    ):
      if value not in known:
        raise ValueError(f'{name}="{value}" is not one of {", ".join(known)}')
    x = x.astype(self.dtype)
    mu, sigma = self._weights('kernel', self.kernel_init, shape)
    bias: dict[str, Any] = {}
    if self.use_bias:
      zeros = nn.initializers.zeros_init()
      pair = self._weights('bias', zeros, (self.features,))
      bias = dict(zip(('bias_mu', 'bias_sigma'), pair))
    if self.mode == 'mean' or self.is_initializing():
      found = linear(x, mu.astype(self.dtype))
      return found + jnp.asarray(bias.get('bias_mu', 0.0), self.dtype)
    key = self.make_rng('posterior')
    if self.mode in ('lrt', 'flipout'):
      layer = getattr(variational, self.mode)
      return layer(linear, x, mu, sigma, key, ids, **bias)
    first, second = jax.random.split(key)
    found = linear(x, variational.sample(first, mu, sigma).astype(self.dtype))
    if self.use_bias:
      offset = variational.sample(second, *pair)
      found = found + offset.astype(self.dtype)
    return found

  def _weights(self, name, init, shape):
    """(μ, σ) of a weight; σ is None in mode 'mean', which looks at none."""
    mu = self.param(name, init, shape, jnp.float32)
    if self.mode == 'mean':
      return mu, None
    first = SPREAD[self.posterior] if self.spread is None else self.spread
    made = self.variable(
      self.posterior, name, lambda: jnp.full(shape, first, jnp.float32)
    )
    if self.posterior == 'rho':
      return mu, variational.sigma_of_rho(made.value)
    return mu, variational.sigma_of_alpha(mu, made.value)


class BayesDense(_Gaussian):
  """A dense layer of Gaussian weights."""

  @nn.compact
  def __call__(self, x: jax.Array, ids: jax.Array | None = None) -> jax.Array:
    """[b, ..., c] -> [b, ..., features] of `dtype`.

    Args:
      ids: [b] integer: noise is keyed by them; None: by rows.

    Raises:
      ValueError: an unknown mode or posterior.
    """
    shape = (x.shape[-1], self.features)
    return self._output(jnp.dot, x, shape, ids)


class BayesConv(_Gaussian):
  """A square two-dimensional convolution of Gaussian weights."""

  size: int = 3
  strides: int = 1
  padding: int = 0

  @nn.compact
  def __call__(self, x: jax.Array, ids: jax.Array | None = None) -> jax.Array:
    """[b, h, w, c] -> [b, h', w', features]; otherwise as BayesDense."""
    pads = ((self.padding, self.padding),) * 2
    linear = partial(
      lax.conv_general_dilated,
      window_strides=(self.strides, self.strides),
      padding=pads,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    shape = (self.size, self.size, x.shape[-1], self.features)
    return self._output(linear, x, shape, ids)


class _Layers(NamedTuple):
  """Convolutions with the pooling behind each, then dense layers."""

  # (features, size, strides, padding, (window, strides) of the pool or ())
  convs: tuple[tuple[int, int, int, int, tuple[int, ...]], ...]
  dense: tuple[int, ...]


def _alexnet(*features: int) -> _Layers:
  sizes = (11, 4, 5), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1)
  pools: tuple = (2, 2), (2, 2), (), (), (2, 2)
  return _Layers(
    tuple((f, *s, p) for f, s, p in zip(features, sizes, pools)), ()
  )


NETS: Mapping[str, _Layers] = {
  'lenet5': _Layers(((6, 5, 1, 0, (2, 2)), (16, 5, 1, 0, (2, 2))), (120, 84)),
  'alexnet': _alexnet(64, 192, 384, 256, 128),
  'alexnet_half': _alexnet(32, 96, 192, 128, 64),
  '3conv3fc': _Layers(
    tuple((f, 5, 1, p, (3, 2)) for f, p in ((32, 2), (64, 2), (128, 1))),
    (1000, 1000),
  ),
}


class BayesNet(nn.Module):
  """One of NETS, Bayesian or plain (mode 'mean').

  Its dense layers fix the image size of `init`.
  """

  net: str
  num_classes: int
  mode: str = 'mean'
  posterior: str = 'rho'
  spread: float | None = None
  padding: int = 0  # zeros around the image: 2 makes 32 x 32 of 28 x 28
  dropout: float = 0.0  # of the inputs of dense layers; needs rng 'dropout'
  activation: Callable[[jax.Array], jax.Array] = nn.softplus
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    image: jax.Array,
    *,
    train: bool = False,
    ids: jax.Array | None = None,
  ) -> jax.Array:
    """Logits.

    Args:
      image: [b, h, w, c] float32 in about [-1, 1].
      train: without effect: noise is a matter of `mode` and `dropout`.
      ids: [b] integer, the examples' numbers: noise is keyed by them.

    Returns:
      [b, num_classes] float32.

    Raises:
      ValueError: wrong rank or dtype, too small, an unknown net or mode.
    """
    if self.net not in NETS:
      raise ValueError(f'no net "{self.net}"; known: {", ".join(NETS)}')
    net = NETS[self.net]
    check_image(image, max(1, 16 - 2 * self.padding), ', or raise padding')
    own: dict[str, Any] = {
      'mode': self.mode,
      'posterior': self.posterior,
      'spread': self.spread,
    }
    around = ((0, 0), (self.padding,) * 2, (self.padding,) * 2, (0, 0))
    x = jnp.pad(image, around)
    for i, (features, size, strides, padding, pool) in enumerate(net.convs, 1):
      x = BayesConv(
        features,
        size=size,
        strides=strides,
        padding=padding,
        dtype=self.dtype,
        name=f'conv{i}',
        **own,
      )(x, ids)
      x = self.activation(x)
      x = max_pool(x, *pool) if pool else x
    x = x.reshape(len(x), -1)
    for i, features in enumerate(net.dense, 1):
      x = self._drop(x, ids)
      layer = BayesDense(features, dtype=self.dtype, name=f'dense{i}', **own)
      x = self.activation(layer(x, ids))
    x = self._drop(x.astype(jnp.float32), ids)
    self.sow('intermediates', 'embedding', x)
    return BayesDense(self.num_classes, name='head', **own)(x, ids)

  def _drop(self, x, ids):
    if not self.dropout or self.is_initializing():
      return x
    key = self.make_rng('dropout')
    kept = row_random.kept(key, x.shape, self.dropout, ids)
    return jnp.where(kept, x / (1 - self.dropout), jnp.zeros((), x.dtype))


class Mlp(nn.Module):
  """Dense layers with softplus between them: [b, d] -> [b, features[-1]]."""

  features: tuple[int, ...]

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    for i, features in enumerate(self.features):
      x = nn.Dense(features, name=f'dense{i}')(nn.softplus(x) if i else x)
    return x


class Bayesian(NamedTuple):
  """A Linen module whose weights are Gaussian."""

  init: Callable[..., Tree]  # (key, *args) -> {'mu': tree, 'rho': tree}
  apply: Callable[..., Any]  # (q, key, *args) -> output under drawn weights
  mean: Callable[..., Any]  # (q, *args) -> output under the means


def bayesian(
  model: nn.Module,
  rho0: float = SPREAD['rho'],
  chosen: Callable[[str], bool] = lambda path: True,
) -> Bayesian:
  """Any Linen module with Gaussian weights, drawn whole at each call.

  Args:
    model: one whose collection `params` alone matters; others are given at
      each call as `more={…}`.
    rho0: ρ of every weight at first.
    chosen: 'conv1/kernel' -> whether it is Gaussian; the others stay weights.
  """

  def init(key, *args, **kwargs):
    mu = model.init(key, *args, **kwargs)['params']
    return {'mu': mu, 'rho': variational.constant(mu, rho0, chosen)}

  def mean(q, *args, more=None, **kwargs):
    variables = {'params': q['mu'], **(more or {})}
    return model.apply(variables, *args, **kwargs)

  def apply(q, key, *args, **kwargs):
    return mean({'mu': variational.draw(key, q)}, *args, **kwargs)

  return Bayesian(init, apply, mean)
