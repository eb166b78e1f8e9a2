"""What one process of two sees of several layouts; tests/test_pod.py judges.

`look(folder, what)` writes folder/tour-I.json.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from jaxlab.core.errors import InputError, NonFiniteError
from jaxlab.core.state import paths
from jaxlab.core.update import create_state, minimise
from jaxlab.engine import hosts, loop, mesh, partition
from jaxlab.engine.checkpoint import Checkpoints, Policy
from jaxlab.engine.feed import Feed
from jaxlab.engine.fingerprint import state_sha256
from tests.engine import toys
from tests.papers import test_bert_sharding

ROWS = 16
SPREAD = (
  ('/w$', PartitionSpec(None, 'data')),
  ('/bits$', PartitionSpec('data')),
  ('.*', PartitionSpec()),
)


def meshes():
  """Devices in order, in turns, and a 'model' axis that spans hosts."""
  # A torus may well hand out the devices of two hosts in turns.
  turns = [jax.devices()[i] for i in (0, 4, 1, 5, 2, 6, 3, 7)]
  return {
    'in order': mesh.make(),
    'in turns': mesh.make(devices=turns),
    'model': mesh.make({'data': 4, 'model': 2}, turns),
    'model within hosts': mesh.make({'data': 4, 'model': 2}),
  }


class Rows:
  """Rows that are their own numbers; 20 of them; remembers what was asked."""

  spec = {'train': {'x': toys.ArraySpec((ROWS,), np.int32)}}  # noqa: RUF012

  def __init__(self):
    self.asked = []

  def kind(self, step):
    return 'train'

  def batch(self, step, rows):
    self.asked.append([rows.start, rows.stop])
    begin, end = (min(ROWS * step + i, 20) for i in (rows.start, rows.stop))
    return {'x': np.arange(begin, end, dtype=np.int32) + 1}


def feeds(devices):
  """What was asked of the source, and the batches that came of it."""
  source = Rows()
  feed = Feed(source, devices, steps=2, ahead=1)
  wrong = []
  for step, _, batch in feed.batches(0, 2):
    whole = np.arange(ROWS) + ROWS * step + 1
    whole[whole > 20] = 0
    for name, wanted in (('x', whole), ('mask', whole > 0)):
      for part in batch[name].addressable_shards:
        if not np.array_equal(part.data, wanted[part.index]):
          wrong.append([step, name, str(part.index)])
  return {'asked': source.asked[: len(source.asked) // 2], 'wrong': wrong}


def _bits():
  """Random bytes, which are stored as they are."""
  return np.random.default_rng(1).integers(256, size=20_000, dtype=np.uint8)


def state(devices, rules):
  """The same values wherever it lies."""
  w = np.random.default_rng(0).normal(size=(16, 64)).astype(np.float32)
  net = {'w': jnp.asarray(w), 'v': jnp.arange(5.0), 'none': jnp.zeros((0, 3))}
  update = minimise(toys.squares, 'net', optax.adam(1e-2))
  made = create_state({'net': net}, update, vars={'bits': _bits()})
  return mesh.place(made, partition.shardings(made, devices, rules))


def checkpoints(folder, all_meshes):
  """A spread State, saved, and restored under other layouts."""
  first = state(all_meshes['in order'], SPREAD)
  found = {'sha256': {'saved': state_sha256(first)}, 'specs': {}}
  kept = Checkpoints(folder / 'spread', Policy())
  kept.save(first, 1, {})
  kept.wait()
  single = Checkpoints(folder / 'single', Policy())
  by_model = (('/w$', PartitionSpec('model')), *SPREAD[1:])
  layouts = {
    'same': (kept, 'in order', SPREAD),
    'in turns': (kept, 'in turns', SPREAD),
    'replicated': (kept, 'in order', partition.REPLICATED),
    'model': (kept, 'model', by_model),
    'of one process': (single, 'in order', SPREAD),
  }
  for name, (source, devices, rules) in layouts.items():
    like = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
      state(all_meshes[devices], rules),
    )
    again, _ = source.restore(like, 1)
    found['sha256'][name] = state_sha256(again)
    found['specs'][name] = str(again.params['net']['w'].sharding.spec)
  found['damaged'] = _damaged(folder, kept, like)
  kept.close()
  single.close()
  return found


def _damaged(folder, kept, like):
  """One bit of the second process's part is flipped on disk."""
  hosts.meet('read')
  if hosts.leads():
    needle = _bits()[15_000:15_032].tobytes()
    for path in (folder / 'spread' / '1' / 'state').rglob('*'):
      data = bytearray(path.read_bytes()) if path.is_file() else bytearray()
      if needle in data:
        data[data.find(needle) + 7] ^= 4
        path.write_bytes(data)
  hosts.meet('spoiled')
  try:
    kept.restore(like, 1)
  except InputError as error:
    return str(error)
  return 'nothing was noticed'


class Spoiled(toys.Rows):
  """A number that is not finite in row 40, of the second process."""

  def batch(self, step, rows):
    batch = super().batch(step, rows)
    if step == 2:
      batch['x'][batch['id'] == 2040] = np.nan
    return batch


def not_finite(folder, devices):
  try:
    _fit(folder / 'bad', toys.two_optimizers().task, Spoiled(), devices)
  except NonFiniteError as error:
    return str(error)
  return 'nothing was noticed'


class Learned(toys.Learned):
  """Remembers its snapshots."""

  def __init__(self):
    super().__init__()
    self.seen = []

  def publish(self, snapshot):
    super().publish(snapshot)
    self.seen.append(snapshot['p'].tolist())


def published(folder, devices):
  source = Learned()
  _fit(folder / 'learned', toys.published().task, source, devices)
  return source.seen


def _fit(folder, task, source, devices):
  options = loop.Options(steps=5, checkpoint_every_seconds=0)
  feed = Feed(source, devices)
  inputs = loop.Inputs(feed)
  return loop.fit('toy', task, inputs, options, folder, devices, seed=0)


class Bert(test_bert_sharding.Job):
  """The tiny BERT under LAMB, on devices of several processes."""

  def begin(self):
    state = test_bert_sharding.first(layers=2)
    return mesh.place(state, jax.tree.map(lambda x: x.sharding, self.like))

  def gradients(self):
    state, _ = self.run(self.begin(), 0, 1)
    moments = [(k, v) for k, v in paths(state.opt) if '/mu/' in k]
    return {k: mesh.whole(v).ravel().tolist() for k, v in moments}


def bert(layout):
  job = Bert(*test_bert_sharding.LAYOUTS[layout])
  _, losses = job.run(job.begin(), 0, test_bert_sharding.STEPS)
  return {
    'losses': [float(x) for x in losses],
    'gradients': job.gradients(),
  }


def layouts(folder: Path):
  """All but BERT, which takes its time to compile."""
  there = meshes()
  for devices in there.values():
    mesh.connect(devices)
  return {
    'process': [jax.process_index(), jax.process_count()],
    'feeds': {name: feeds(devices) for name, devices in there.items()},
    'checkpoints': checkpoints(folder, there),
    'not finite': not_finite(folder, there['in turns']),
    'published': published(folder, there['in order']),
    'gathered': hosts.gather('squares', hosts.index() ** 2 + 1),
    'shared': hosts.share('name', lambda: f'of {hosts.index()}'),
  }


def look(folder: Path, what: str) -> None:
  """Writes what this process sees: of 'layouts', or of 'bert'."""
  if what == 'bert':
    seen = {name: bert(name) for name in ('data-parallel', 'zero1')}
  else:
    seen = layouts(folder)
  path = folder / f'tour-{hosts.index()}.json'
  path.write_text(json.dumps(seen, indent=1))
