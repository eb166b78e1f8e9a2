"""How far a sampler's gradients are from the full one, at a State.

  error E |g' - full|^2, bias V = E |g' - g|^2, variance G = E |g - full|^2

g' is a batch's gradient, g that of the same nodes and weights with all their
neighbours, full that of all training nodes; no dropout. Means over some
batches; see `method.decompose`. Beside them G of as many uniform nodes, at the
same State.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.engine.source import ArraySpec
from jaxlab.engine.state import Evaluator
from jaxlab.models.sampled_gnn import SampledGNN
from jaxlab.papers.mvs_gnn import feeds
from jaxlab.papers.mvs_gnn.blocks import Assembler, Sample, all_edges, pad
from jaxlab.papers.mvs_gnn.feeds import Shape
from jaxlab.papers.mvs_gnn.method import decompose, squared_distance
from jaxlab.papers.mvs_gnn.sampling import Sampler
from jaxlab.papers.mvs_gnn.training import loss_of

_STREAM = 2  # of random numbers
MEANS = ('error', 'bias', 'variance', 'uniform')
KINDS = ('full', 'drawn', 'exact', 'uniform')


class VarianceBatches:
  """All training nodes, then batches in threes.

  As drawn; the same with all neighbours; uniform nodes with all neighbours.

  The draws are the same in every evaluation but for what was published.

  Args:
    sampler: a sampler of its own, since it is used beside the training's.
  """

  def __init__(
    self,
    nodes: feeds.Nodes,
    sampler: Sampler,
    shape: Shape,
    *,
    draws: int,
    headroom: float,
    lanes: int,
    seed: int,
  ):
    self.nodes, self.sampler, self.lanes = nodes, sampler, lanes
    self.draws, self.seed = draws, seed
    self._all = Assembler(sampler.operator.num_nodes)
    sampler.within(shape.budget)
    first = [self._exact(self._draw(i)) for i in range(min(draws, 4))]
    self.shapes = {
      'drawn': shape,
      'full': self._shape([self._everything()], 1.0),
      # The nodes drawn change with what is published.
      'exact': self._shape(first, headroom),
      'uniform': self._shape(
        [self._exact(self._uniform(i)) for i in range(min(draws, 4))], headroom
      ),
    }
    self._within = {
      kind: Assembler(sampler.operator.num_nodes, self.shapes[kind].budget)
      for kind in ('exact', 'uniform')
    }
    self.spec = {
      kind: {
        **feeds.spec_of(shape, nodes, lanes),
        f'is_{kind}': ArraySpec((lanes,), bool),
      }
      for kind, shape in self.shapes.items()
    }

  @property
  def num_batches(self) -> int:
    return 1 + 3 * self.draws

  def kind(self, step: int) -> str:
    return KINDS[1 + (step - 1) % 3] if step else KINDS[0]

  def batch(self, step: int, rows: slice) -> dict[str, np.ndarray]:
    kind, number = self.kind(step), (step - 1) // 3
    if kind == 'full':
      sample = self._everything()
    elif kind == 'uniform':
      sample = self._uniform(number)
    else:
      sample = self._draw(number)
    if kind in self._within:
      sample = self._exact(sample, self._within[kind])
    budget = self.shapes[kind].budget
    padded = pad(sample, budget, len(self.nodes.labels))
    batch = feeds.arrays_of(padded, self.nodes, self.lanes)
    batch[f'is_{kind}'] = np.ones(self.lanes, bool)
    return {name: array[rows] for name, array in batch.items()}

  def _draw(self, number: int) -> Sample:
    rng = feeds.generator(self.seed, _STREAM, number)
    return self.sampler.sample(rng)

  def _uniform(self, number: int) -> Sample:
    rng = feeds.generator(self.seed, _STREAM, number, 1)
    return Sample((), *self.sampler.uniform_seeds(rng), 0)

  def _exact(self, drawn: Sample, assembler: Assembler | None = None) -> Sample:
    return (assembler or self._all).sample(
      feeds.generator(self.seed, _STREAM),
      drawn.seeds,
      drawn.seed_weight,
      self.sampler.num_layers,
      partial(all_edges, self.sampler.operator),
    )

  def _everything(self) -> Sample:
    train = self.sampler.train
    weight = np.full(len(train), 1 / len(train), np.float32)
    return self._exact(Sample((), train, weight, 0))

  def _shape(self, samples: list[Sample], headroom: float) -> Shape:
    nodes = self.sampler.operator.num_nodes
    budget = feeds.budget_for(samples, nodes, headroom, self.lanes)
    return Shape(budget, False)


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

  def zeros():
    shape = source.shapes['drawn']
    params = jax.eval_shape(
      lambda: net.init(
        jax.random.key(0),
        feeds.blank(shape),
        jnp.zeros((shape.budget.nodes[0], width)),
        shape.budget.outputs,
        train=False,
      )['params']
    )
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), params)

  def init():
    names = (*MEANS, 'overflow')
    return {
      'full': zeros(),
      'drawn': zeros(),
      **{name: jnp.zeros(()) for name in names},
    }

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
