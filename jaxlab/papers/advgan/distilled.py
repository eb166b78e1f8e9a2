"""The black-box attack's batches: phases, and what the oracle says.

Static distillation is `distil` steps, then `game` steps. Dynamic distillation
goes on: rounds of `refine` steps, on images and on what the generator of the
last game makes of them, and `game` steps. The last step of each game publishes
the generator.

  distil   image, answers
  refine   image, answers, changed, changed_answers
  game, publish   image

all with `label` and `id`.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxlab.core.source import ArraySpec, Spec
from jaxlab.data.in_memory import Order

Phase = tuple[str, int]  # kind, steps
# (generator's parameters by path, images uint8, ids, labels) -> images
# [b, h, w, c] float32 with their perturbation
Change = Callable[..., np.ndarray]


def phases(distil: int, game: int, refine: int, rounds: int) -> list[Phase]:
  """The phases of dynamic distillation; of static, with 0 rounds.

  Args:
    distil: steps of the student on images alone, first of all.
    game: steps of each game; there is one before each round and one at the end.
    refine: steps of the student in each round.

  Source: section 3.3, the alternation.
  """
  one: list[Phase] = [('game', game - 1), ('publish', 1)]
  found: list[Phase] = [('distil', distil), *one]
  for _ in range(rounds):
    found += [('refine', refine), *one]
  return [phase for phase in found if phase[1]]


def spec(
  rows: int, shape: tuple[int, int, int], classes: int, kinds: Sequence[str]
) -> Mapping[str, Spec]:
  """The arrays of the batches of each kind."""
  always = {
    'image': ArraySpec((rows, *shape), np.uint8),
    'label': ArraySpec((rows,), np.int32),
    'id': ArraySpec((rows,), np.int32),
  }
  answers = ArraySpec((rows, classes), np.float32)
  more: dict[str, dict[str, ArraySpec]] = {
    'distil': {'answers': answers},
    'refine': {
      'answers': answers,
      'changed': ArraySpec((rows, *shape), np.float32),
      'changed_answers': answers,
    },
  }
  return {kind: {**always, **more.get(kind, {})} for kind in kinds}


class Distilled:
  """A `Publishing` source of the attacker's images.

  Args:
    arrays: image [n, h, w, c] uint8, label [n] int32, answers [n, k] float32,
      the oracle's probabilities.
    plan: of `phases`.
    ask: the oracle: images float32 -> probabilities.
    change: see `Change`.
    batch_size, seed: of the batches and their order.
  """

  def __init__(
    self,
    arrays: Mapping[str, np.ndarray],
    plan: Sequence[Phase],
    ask: Callable[[np.ndarray], np.ndarray],
    change: Change,
    *,
    batch_size: int,
    seed: int,
  ):
    self.arrays = arrays
    self._ask, self._change = ask, change
    self._order = Order(len(arrays['image']), batch_size=batch_size, seed=seed)
    self._ends = np.cumsum([steps for _, steps in plan])
    self._kinds = [kind for kind, _ in plan]
    self._gen: Mapping[str, np.ndarray] = {}
    shape, classes = arrays['image'].shape[1:], arrays['answers'].shape[1]
    self.spec = spec(batch_size, shape, classes, sorted({*self._kinds}))

  def kind(self, step: int) -> str:
    place = int(np.searchsorted(self._ends, step, side='right'))
    return self._kinds[min(place, len(self._kinds) - 1)]

  def batch(self, step: int, rows: slice) -> dict[str, np.ndarray]:
    index = self._order.indices(step, rows)
    kind = self.kind(step)
    found = {
      'image': self.arrays['image'][index],
      'label': self.arrays['label'][index],
      'id': index.astype(np.int32),
    }
    if kind in ('distil', 'refine'):
      found['answers'] = self.arrays['answers'][index]
    if kind == 'refine':
      changed = np.asarray(
        self._change(self._gen, found['image'], found['id'], found['label'])
      )
      found['changed'] = changed
      found['changed_answers'] = self._ask(changed)
    return found

  def publishes(self, step: int) -> bool:
    return self.kind(step) == 'publish'

  def publish(self, snapshot: Mapping[str, np.ndarray]) -> None:
    self._gen = snapshot
