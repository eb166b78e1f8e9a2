"""How far a sampler's gradients are from the full one, at a State.

  error E |g' - full|^2, bias V = E |g' - g|^2, variance G = E |g - full|^2

g' is a batch's gradient, g that of the same nodes and weights with all their
neighbours, full that of all training nodes; no dropout. Means over some
batches; see `method.decompose`. Beside them G of as many uniform nodes, at the
same State.
"""

import copy
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core.state import Evaluator
from jaxlab.models.sampled_gnn import SampledGNN
from jaxlab.papers.mvs_gnn import feeds
from jaxlab.papers.mvs_gnn.blocks import Assembler, Sample, all_edges
from jaxlab.papers.mvs_gnn.feeds import Shape
from jaxlab.papers.mvs_gnn.method import decompose, squared_distance
from jaxlab.papers.mvs_gnn.sampling import Sampler
from jaxlab.papers.mvs_gnn.training import loss_of, new_params

_STREAM = 2  # of random numbers
MEANS = ('error', 'bias', 'variance', 'uniform')
KINDS = ('full', 'drawn', 'exact', 'uniform')


class VarianceBatches(feeds.PaddedSource):
  """All training nodes, then batches in threes.

  As drawn; the same with all neighbours; uniform nodes with all neighbours.

  The draws are the same in every evaluation but for what was published.

  Args:
    sampler: of the training; `self.sampler` is a copy.
    shape: of its batches.
  """

  def __init__(
    self,
    nodes: feeds.NodeData,
    sampler: Sampler,
    shape: Shape,
    *,
    draws: int,
    headroom: float,
    lanes: int,
    seed: int,
  ):
    self.sampler = copy.copy(sampler)
    self.draws, self.seed = draws, seed
    size = sampler.operator.num_nodes
    self._within = dict.fromkeys(KINDS, Assembler(size))
    self.sampler.within(shape.budget)
    some = range(min(draws, 4))
    fitted = lambda samples, room: feeds.shape_for(samples, size, room, lanes)
    shapes = {
      'drawn': shape,
      'full': fitted([self._everything()], 1.0),
      # The nodes drawn change with what is published.
      'exact': fitted(
        [self._exact(self._draw(i), 'exact') for i in some], headroom
      ),
      'uniform': fitted([self._uniform(i) for i in some], headroom),
    }
    for kind in ('exact', 'uniform'):
      self._within[kind] = Assembler(size, shapes[kind].budget)
    super().__init__(nodes, shapes, lanes)

  @property
  def num_batches(self) -> int:
    return 1 + 3 * self.draws

  def kind(self, step: int) -> str:
    return KINDS[1 + (step - 1) % 3] if step else KINDS[0]

  def sample(self, step: int) -> Sample:
    kind, number = self.kind(step), (step - 1) // 3
    if kind == 'full':
      return self._everything()
    if kind == 'uniform':
      return self._uniform(number)
    drawn = self._draw(number)
    return drawn if kind == 'drawn' else self._exact(drawn, kind)

  def arrays(self, kind, padded):
    mark = {f'is_{kind}': np.ones(self.lanes, bool)}
    return {**super().arrays(kind, padded), **mark}

  def _draw(self, number: int) -> Sample:
    rng = feeds.generator(self.seed, _STREAM, number)
    return self.sampler.sample(rng)

  def _uniform(self, number: int) -> Sample:
    rng = feeds.generator(self.seed, _STREAM, number, 1)
    seeds = self.sampler.uniform_seeds(rng)
    return self._exact(Sample((), *seeds, 0), 'uniform')

  def _exact(self, drawn: Sample, kind: str) -> Sample:
    return self._within[kind].sample(
      feeds.generator(self.seed, _STREAM),
      drawn.seeds,
      drawn.seed_weight,
      self.sampler.num_layers,
      partial(all_edges, self.sampler.operator),
    )

  def _everything(self) -> Sample:
    train = self.sampler.train
    weight = np.full(len(train), 1 / len(train), np.float32)
    return self._exact(Sample((), train, weight, 0), 'full')


def evaluator(net: SampledGNN, source: VarianceBatches) -> Evaluator:
  """The figures `error`, `bias`, `variance`, `uniform`, `full`, `overflow`.

  Mean squared distances, `uniform` that of uniform nodes; |full|^2; entries
  that had to be left out of the exact batches.
  """
  nodes = len(source.nodes.labels)

  def value(params, vars, batch, loss):
    return loss(params, vars, batch, jax.random.key(0)).sum

  losses = {
    kind: loss_of(net, shape, nodes, train=False)
    for kind, shape in source.shapes.items()
  }
  width = source.nodes.features.shape[1]

  def init():
    make = partial(new_params, net, source.shapes['drawn'], width)
    params = jax.eval_shape(make, jax.random.key(0))
    zeros = lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), params)
    numbers = {name: jnp.zeros(()) for name in (*MEANS, 'overflow')}
    return {'full': zeros(), 'drawn': zeros(), **numbers}

  def update(total, state, batch, key):
    (kind,) = [kind for kind in KINDS if f'is_{kind}' in batch]
    gradient = jax.grad(value)(state.params, state.vars, batch, losses[kind])
    found = gradient['net']
    if kind in ('full', 'drawn'):
      return {**total, kind: found}
    if kind == 'exact':
      parts = decompose(total['drawn'], found, total['full'])._asdict()
    else:
      parts = {'uniform': squared_distance(found, total['full'])}
    more = {name: total[name] + part for name, part in parts.items()}
    overflow = total['overflow'] + batch['overflow'].max()
    return {**total, **more, 'overflow': overflow}

  def finish(total):
    norm = sum(
      float(np.square(x).sum()) for x in jax.tree.leaves(total['full'])
    )
    means = {name: float(total[name]) / source.draws for name in MEANS}
    return {**means, 'full': norm, 'overflow': float(total['overflow'])}

  return Evaluator(init, update, finish)
