"""Examples a second of image input: jaxlab, grain, and the bare work.

  python benchmarks/input_pipeline.py [--workers=1] [--rounds=9] [--sets …]

TFDS writes two sets of smooth noisy images in the array_record format into a
temporary folder: 32 x 32 as PNG and 224 x 224 as JPEG; jaxlab's own CIFAR-10
joins them where it is prepared. Contenders, in batches of --batch:

  gather    `ndarray.take` of rows and labels by a permutation drawn before;
  decoder   Pillow on encoded bytes that are in memory, the faster of
            `np.asarray(Image.open(…).convert('RGB'))` and `pixels.decode`: no
            reading, no batches, nothing handed over;
  jaxlab    `ArraySource.batch`; `RecordSource.batch` in this thread, and by
            `Feed` with worker processes, on the device at the end;
  grain     `MapDataset` with shuffle and repeat over the same arrays or over
            TFDS's data source, and `mp_prefetch` with as many workers.
            "batch last": `to_iter_dataset()` as it is, then `batch`.
            "batch first": `batch`, then `to_iter_dataset` with its 16 threads
            and a buffer of 16 batches, since its 500 would be 10 GB of them.

All take turns in every round. A turn begins when the processor is idle, so that
no contender works in another's time, and with batches that are not timed, which
empty the contender's own queues. Figures are medians of rounds, ratios medians
of the rounds' ratios. Starting is not timed. Processor time is that of all
processes of the contender: less is better, and a busy machine changes it less.
"""

import argparse
import contextlib
import functools
import io
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from absl import flags
from PIL import Image

from jaxlab.core.errors import InputError
from jaxlab.data import atomic, tfds
from jaxlab.data.images import streaming
from jaxlab.data.images.arrays import Images, open_images
from jaxlab.data.images.pixels import Canvas, decode
from jaxlab.data.in_memory import ArraySource
from jaxlab.engine import mesh
from jaxlab.engine.feed import Feed

# Name -> side, format, examples (CIFAR-10's in training), noise. The noise
# makes the JPEGs 0.57 bytes a pixel, as photographs are.
SHAPES = {
  'synthetic32': (32, 'PNG', 50_000, 6.0),
  'synthetic224': (224, 'JPEG', 1_500, 22.0),
}
BUFFER = 16  # batches, of grain's threads
SECONDS = 0.5  # of a turn


class Contender(NamedTuple):
  name: str
  step: Callable[[], object]  # makes one batch
  queued: int = 0  # batches that may lie ready


def write_sets(folder: Path) -> None:
  """Prepares the synthetic sets with TFDS."""
  import tensorflow_datasets

  core, features = tensorflow_datasets.core, tensorflow_datasets.features

  class Synthetic(core.GeneratorBasedBuilder):
    VERSION = core.Version('1.0.0')

    def _info(self):
      known = {
        'image': features.Image(shape=(None, None, 3)),
        'label': features.ClassLabel(names=list('abcdefghij')),
      }
      return core.DatasetInfo(
        builder=self,
        features=features.FeaturesDict(known),
        disable_shuffling=True,
      )

    def _split_generators(self, dl_manager):
      return {'train': self._generate_examples()}

    def _generate_examples(self):
      draw = np.random.default_rng(0)
      side, encoding, count, noise = SHAPES[self.name]
      for index in range(count):
        small = draw.integers(0, 256, (8, 8, 3), np.uint8)
        picture = Image.fromarray(small).resize((side, side))
        noisy = np.asarray(picture) + draw.normal(0, noise, (side, side, 3))
        picture = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
        encoded = io.BytesIO()
        picture.save(encoded, encoding, quality=90)
        yield index, {'image': encoded.getvalue(), 'label': index % 10}

  tensorflow_datasets.disable_progress_bar()
  for name in SHAPES:
    builder = type(name, (Synthetic,), {'name': name})
    builder(data_dir=folder).download_and_prepare(file_format='array_record')


def plain_decode(data: bytes) -> np.ndarray:
  """What one writes without a library of one's own."""
  return np.asarray(Image.open(io.BytesIO(data)).convert('RGB'))


def own_decode(data: bytes) -> np.ndarray:
  return decode(data, channels=3)


_encoded: list[bytes]  # of a decoding process


def _hold(encoded: list[bytes]) -> None:
  global _encoded
  _encoded = encoded


def _decode_held(decoder, start: int, count: int) -> None:
  for index in range(start, start + count):
    decoder(_encoded[index % len(_encoded)])


class Decoders:
  """Bare decoding in so many processes; 0 means in this thread."""

  def __init__(self, encoded: list[bytes], decoder, workers: int):
    self.decoder, self.workers, self.done = decoder, workers, 0
    if workers:
      self.pool = ProcessPoolExecutor(
        workers, get_context('spawn'), _hold, (encoded,)
      )
    else:
      _hold(encoded)

  def __enter__(self):
    return self

  def __exit__(self, *error):
    if self.workers:
      self.pool.shutdown()

  def run(self, count: int) -> None:
    share = count // max(1, self.workers)
    starts = range(self.done, self.done + count, share)
    self.done += count
    if not self.workers:
      return _decode_held(self.decoder, starts[0], share)
    parts = [
      self.pool.submit(_decode_held, self.decoder, start, share)
      for start in starts
    ]
    for part in parts:
      part.result()


class ArrayRows:
  """The rows of arrays, as a source of grain's."""

  def __init__(self, arrays):
    self.arrays = arrays

  def __len__(self):
    return len(self.arrays['label'])

  def __getitem__(self, index):
    return {name: array[index] for name, array in self.arrays.items()}


def grain_batches(
  source, batch: int, workers: int, batch_first: bool
) -> Iterator:
  import grain

  data = grain.MapDataset.source(source).shuffle(seed=0).repeat()
  if batch_first:
    options = grain.ReadOptions(prefetch_buffer_size=BUFFER)
    data = data.batch(batch).to_iter_dataset(options)
  else:
    data = data.to_iter_dataset().batch(batch)
  if workers:
    data = data.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
  return iter(data)


def grain_contenders(over: str, source, batch: int, workers: int):
  last = grain_batches(source, batch, workers, False)
  first = grain_batches(source, batch, workers, True)
  ways = max(1, workers)
  return [
    Contender(
      f'grain over {over}, batch last',
      lambda: next(last),
      ways * (500 // batch + 2),
    ),
    Contender(
      f'grain over {over}, batch first',
      lambda: next(first),
      ways * (BUFFER + 2),
    ),
  ]


def in_memory(images: Images, batch: int) -> list[Contender]:
  pixels, label = np.asarray(images.image), images.label
  arrays = {'image': images.image, 'label': label}
  source = ArraySource(arrays, batch_size=batch)
  order = np.random.default_rng(0).permutation(len(label))
  whole = len(label) // batch
  places, steps = itertools.cycle(range(whole)), itertools.count()

  def gather():
    start = next(places) * batch
    index = order[start : start + batch]
    return pixels.take(index, 0), label.take(index, 0)

  rows = ArrayRows({'image': pixels, 'label': label})
  return [
    Contender('gather', gather),
    Contender(
      'jaxlab ArraySource',
      lambda: source.batch(next(steps), slice(0, batch)),
    ),
    *grain_contenders('arrays', rows, batch, 0),
  ]


@contextlib.contextmanager
def streamed(
  name: str, split: str, shape, batch: int, workers: int
) -> Iterator[list[Contender]]:
  records = streaming.open_records(name, split)
  source = streaming.RecordSource(records, Canvas(shape[:2]), batch_size=batch)
  encoded, _ = records.read(list(range(min(len(records), 2_000))))
  found = []
  with contextlib.ExitStack() as stack:
    for label, decoder in (('plain', plain_decode), ('own', own_decode)):
      bare = stack.enter_context(Decoders(encoded, decoder, workers))
      run = functools.partial(bare.run, batch)
      found.append(Contender(f'decoder, {label}', run))
    if workers:
      ahead = 2 * workers
      feed = Feed(source, mesh.make(), workers=workers, ahead=ahead)
      batches = stack.enter_context(contextlib.closing(feed.batches(0, 2**31)))
      run = lambda: jax.block_until_ready(next(batches))
      found.append(Contender('jaxlab Feed', run, ahead + 1))
    else:
      steps, whole = itertools.count(), slice(0, batch)
      run = lambda: source.batch(next(steps), whole)
      found.append(Contender('jaxlab RecordSource', run))
    data = tfds.open_split(name, split, offline=True)
    yield found + grain_contenders('TFDS', data, batch, workers)


def processor_seconds() -> float:
  """Of this process and those it started."""
  ticks = 0
  for pid in ('self', *(each.pid for each in active_children())):
    with contextlib.suppress(OSError):
      fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
      ticks += int(fields[11]) + int(fields[12])
  return ticks / os.sysconf('SC_CLK_TCK')


def settle() -> None:
  """Waits until all queues are full."""
  for _ in range(200):
    before = processor_seconds()
    time.sleep(0.1)
    if processor_seconds() - before < 0.02:
      return
  sys.exit('a contender works on and on while nobody asks it to')


class Turn(NamedTuple):
  rate: float  # examples a second
  cost: float  # processor microseconds an example, of all processes


def turn(contender: Contender, batch: int) -> Turn:
  settle()
  for _ in range(contender.queued):
    contender.step()
  used = processor_seconds()
  start, count, seconds = time.perf_counter(), 0, 0.0
  while seconds < SECONDS or count < 3:
    contender.step()
    count, seconds = count + 1, time.perf_counter() - start
  used = processor_seconds() - used
  return Turn(count * batch / seconds, 1e6 * used / (count * batch))


def measure(
  contenders: list[Contender], batch: int, rounds: int
) -> dict[str, list[Turn]]:
  for each in contenders:
    each.step()
  found: dict[str, list[Turn]] = {each.name: [] for each in contenders}
  draw = np.random.default_rng(0)
  for _ in range(rounds):
    for place in draw.permutation(len(contenders)):
      each = contenders[place]
      found[each.name].append(turn(each, batch))
  return found


def ratios(found: dict[str, list[Turn]], under: str) -> str:
  """jaxlab's rate over that of the fastest named `under…`, and the costs'."""
  own = next(turns for name, turns in found.items() if 'jaxlab' in name)
  rivals = [turns for name, turns in found.items() if name.startswith(under)]
  median = lambda turns: statistics.median(each.rate for each in turns)
  best = max(rivals, key=median)
  rate = statistics.median(a.rate / b.rate for a, b in zip(own, best))
  cost = statistics.median(b.cost / a.cost for a, b in zip(own, best))
  return f'{under} {rate:.2f} ({cost:.2f})'


def print_rows(title: str, found: dict[str, list[Turn]]) -> None:
  for name, turns in found.items():
    rates = [each.rate for each in turns]
    cost = statistics.median(each.cost for each in turns)
    print(
      f'| {title} | {name} | {statistics.median(rates):,.0f} | '
      f'{min(rates):,.0f}-{max(rates):,.0f} | {cost:,.1f} |',
      flush=True,
    )
    title = ''


def run_set(name: str, batch: int, workers: int, rounds: int) -> list[str]:
  """Prints a set's rows; returns its ratios."""
  images = open_images(name, 'train', channels=3, offline=True)
  shape = images.image.shape[1:]
  at = f'{name}, {shape[0]} x {shape[1]}'
  found = []
  turns = measure(in_memory(images, batch), batch, rounds)
  print_rows(f'{at}, in memory', turns)
  found.append(
    f'{at}, in memory: {ratios(turns, "gather")}, target 0.8; '
    f'{ratios(turns, "grain")}'
  )
  for count in sorted({0, workers}):
    with streamed(name, 'train', shape, batch, count) as contenders:
      turns = measure(contenders, batch, rounds)
    print_rows(f'{at}, {count} workers', turns)
    small, large = shape[0] == 32, shape[0] == 224
    found.append(
      f'{at}, {count} workers: {ratios(turns, "grain")}'
      f'{", target 2" * small}; {ratios(turns, "decoder")}'
      f'{", target 0.9" * large}'
    )
  return found


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--sets', nargs='*', default=[*SHAPES, 'cifar10'])
  parser.add_argument('--batch', type=int, default=128)
  parser.add_argument('--workers', type=int, default=1)
  parser.add_argument('--rounds', type=int, default=9)
  given = parser.parse_args()
  try:
    import grain
  except ImportError as error:
    print(f'{error}: pip install grain', file=sys.stderr)
    sys.exit(2)
  flags.FLAGS.mark_as_parsed()  # grain's workers read them
  mesh.start()
  before = os.getloadavg()[0]
  with tempfile.TemporaryDirectory() as folder:
    prepared = atomic.data_dir() / 'tfds'
    os.environ['TFDS_DATA_DIR'] = os.environ['JAXLAB_DATA_DIR'] = folder
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints there
      write_sets(Path(folder))
    if prepared.exists():
      (Path(folder) / 'tfds').symlink_to(prepared)
    print(
      f'batches of {given.batch}, {given.rounds} rounds, {os.cpu_count()} '
      f'cores; grain {grain.__version__}, Pillow {Image.__version__}, NumPy '
      f'{np.__version__}, jax {jax.__version__}\n'
      f'| input | contender | examples/s, median | min-max | processor us an '
      f'example |\n|---|---|---|---|---|'
    )
    lines = []
    for name in given.sets:
      try:
        lines += run_set(name, given.batch, given.workers, given.rounds)
      except InputError as error:
        lines.append(f'{name}: left out ({str(error).splitlines()[0]})')
    print('jaxlab against the fastest of each kind: rate (processor time)')
    print('\n'.join(lines))
  print(f'load before {before:.1f}, after {os.getloadavg()[0]:.1f}')


if __name__ == '__main__':
  main()
