"""How far a sampler's gradients are from the full one, at a State.

  error E |g' - full|^2, bias V = E |g' - g|^2, variance G = E |g - full|^2

g' is a batch's gradient, g that of the same nodes and weights with all their
neighbours, full that of all training nodes; no dropout. Means over some
batches; see `method.decompose`.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.data.source import ArraySpec
from jaxlab.engine.state import Evaluator
from jaxlab.models.sampled_gnn import SampledGNN
from jaxlab.papers.mvs_gnn import feeds
from jaxlab.papers.mvs_gnn.blocks import Assembler, Sample, all_edges, pad
from jaxlab.papers.mvs_gnn.feeds import Shape
from jaxlab.papers.mvs_gnn.method import decompose
from jaxlab.papers.mvs_gnn.sampling import Sampler
from jaxlab.papers.mvs_gnn.training import loss_of

_STREAM = 2  # of random numbers
KINDS = ('full', 'drawn', 'exact')


class VarianceBatches:
  """All training nodes, then batches in pairs: as drawn, with all neighbours.

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
    }
    self._exactly = Assembler(
      sampler.operator.num_nodes, self.shapes['exact'].budget
    )

    self.spec = {
      kind: {
        **feeds.spec_of(shape, nodes, lanes),
        f'is_{kind}': ArraySpec((lanes,), bool),
      }
      for kind, shape in self.shapes.items()
    }

  @property
  def num_batches(self) -> int:
    return 1 + 2 * self.draws

  def kind(self, step: int) -> str:
    return KINDS[(step > 0) + (step > 0 and step % 2 == 0)]

  def batch(self, step: int, rows: slice) -> dict[str, np.ndarray]:
    kind = self.kind(step)
    if kind == 'full':
      sample = self._everything()
    else:
      sample = self._draw((step - 1) // 2)
      if kind == 'exact':
        sample = self._exact(sample, self._exactly)
    budget = self.shapes[kind].budget
    padded = pad(sample, budget, len(self.nodes.labels))
    batch = feeds.arrays_of(padded, self.nodes, self.lanes)
    batch[f'is_{kind}'] = np.ones(self.lanes, bool)
    return {name: array[rows] for name, array in batch.items()}

  def _draw(self, number: int) -> Sample:
    rng = feeds.generator(self.seed, _STREAM, number)
    return self.sampler.sample(rng)

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
  """`error`, `bias`, `variance`: mean squared distances; `full`: |full|^2;
  `overflow`: entries that had to be left out of the exact batches."""
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
    names = ('error', 'bias', 'variance', 'overflow')
    return {
      'full': zeros(),
      'drawn': zeros(),
      **{name: jnp.zeros(()) for name in names},
    }

  def update(total, state, batch, key):
    (kind,) = [kind for kind in KINDS if f'is_{kind}' in batch]
    gradient = jax.grad(value)(state.params, state.vars, batch, losses[kind])
    found = gradient['net']
    if kind != 'exact':
      return {**total, kind: found}
    parts = decompose(total['drawn'], found, total['full'])._asdict()
    more = {name: total[name] + part for name, part in parts.items()}
    overflow = total['overflow'] + batch['overflow'].max()
    return {**total, **more, 'overflow': overflow}

  def finish(total):
    norm = sum(
      float(np.square(x).sum()) for x in jax.tree.leaves(total['full'])
    )
    means = {
      name: float(total[name]) / source.draws
      for name in ('error', 'bias', 'variance')
    }
    return {**means, 'full': norm, 'overflow': float(total['overflow'])}

  return Evaluator(init, update, finish)
