"""Pages a second: converted, read, cut into regions, and trained on.

  python benchmarks/page_pipeline.py [--pages=256]

Synthetic pages of 780 x 600 pixels are written as TIFF files in RVL-CDIP's
layout (1-bit Group 4 and 8-bit LZW in turn), then

  converted   files -> shards of grey PNGs, once, all threads
  read        shards -> batches of uint8 pages, in this thread and by worker
              processes of a Feed, on the device at the end
  cut         five regions of 224 x 224 of each page, `crop_regions`

All but the first are medians of three rounds. What a slice consumes is in the
plan of `configs/doc_regions.py:rvl_cdip`.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from jaxlab.data.images import page_shards, streaming
from jaxlab.data.images.files import RVL_CDIP_CLASSES
from jaxlab.data.images.pixels import Canvas
from jaxlab.engine import mesh
from jaxlab.engine.feed import Feed
from jaxlab.papers.doc_regions import method, synthetic

SIZE = 780, 600
BATCH = 32


def write(root: Path, pages: int) -> None:
  """The files, and the list of the split `train`."""
  lines = []
  (root / 'images').mkdir(parents=True)
  for number in range(pages):
    draw = np.random.default_rng(number)
    label = number % len(RVL_CDIP_CLASSES)
    page = synthetic.typeset(RVL_CDIP_CLASSES[label], draw)
    page = synthetic.degraded(page, draw, 0.5).resize(SIZE[::-1])
    name = f'{number}.tif'
    if number % 2:
      page.save(root / 'images' / name, compression='tiff_lzw')
    else:
      page.convert('1').save(root / 'images' / name, compression='group4')
    lines.append(f'{name} {label}')
  (root / 'labels').mkdir()
  (root / 'labels' / 'train.txt').write_text('\n'.join(lines) + '\n')


def rate(work, pages: int) -> float:
  """Pages a second, the median of three rounds."""
  found = []
  for _ in range(3):
    start = time.monotonic()
    work()
    found.append(pages / (time.monotonic() - start))
  return statistics.median(found)


def take(batches, count: int) -> None:
  """So many batches, on the device."""
  for _ in range(count):
    jax.block_until_ready(next(batches)[2]['image'])


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--pages', type=int, default=256)
  count = parser.parse_args().pages // BATCH * BATCH
  mesh.start()
  devices = mesh.make()
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    os.environ['JAXLAB_DATA_DIR'] = f'{folder}/data'
    write(Path(folder) / 'rvl', count)
    start = time.monotonic()
    made = page_shards.converted(f'rvl_cdip:{folder}/rvl', 'train', size=SIZE)
    took = time.monotonic() - start
    rows.append(('converted, once', count / took))
    canvas = Canvas(SIZE, 1, 'stretch')
    source = streaming.RecordSource(made.records, canvas, batch_size=BATCH)

    def alone():
      for step in range(count // BATCH):
        source.batch(step, slice(None))

    rows.append(('read, one thread', rate(alone, count)))
    for workers in (1, 2):
      feed = Feed(source, devices, workers=workers, ahead=4)
      batches = feed.batches(0, 10**9)
      take(batches, 6)  # starts the processes
      fed = rate(lambda of=batches: take(of, count // BATCH), count)
      rows.append((f'read, {workers} worker processes', fed))
      batches.close()
    pages = jax.device_put(source.batch(0, slice(None))['image'])
    cut = jax.jit(
      lambda x: method.crop_regions(
        x.astype(np.float32) / 255, method.REGIONS, (224, 224)
      )
    )
    cut(pages).block_until_ready()
    again = lambda: [cut(pages).block_until_ready() for _ in range(4)]
    rows.append(('cut into five regions', rate(again, 4 * BATCH)))
    size = sum(
      p.stat().st_size for p in Path(folder, 'data').rglob('*.array_record')
    )
  for name, value in rows:
    print(f'{name:28} {value:8.0f} pages/s')
  print(f'{size / count / 1024:.0f} KiB a page in shards')


if __name__ == '__main__':
  main()
