"""The pages of a config, and which of them belong together.

`config.data.name` is
  synthetic   sixteen classes, see synthetic.py; nothing is downloaded
  documents:NAME  a TFDS set with a feature that names each page's document
              (`pages`): the largest classes, split by document here
  any other   a labelled set with splits of its own (rvl_cdip:PATH,
              image_folder:PATH, a TFDS set), converted once to grey pages

A group is what must not be parted by folds: pages of one document, and pages
whose perceptual hashes are near.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL

from jaxlab.core.errors import InputError
from jaxlab.core.require import at_least, between, one_of, require
from jaxlab.data import atomic
from jaxlab.data.images import arrays, page_shards, streaming
from jaxlab.data.images.files import RVL_CDIP_CLASSES
from jaxlab.data.images.pixels import Canvas
from jaxlab.data.in_memory import ArraySource
from jaxlab.engine.metrics import say
from jaxlab.ops import duplicates
from jaxlab.papers.doc_regions import layouts, synthetic
from jaxlab.papers.doc_regions.method import folds_of

Config = Mapping[str, Any]
SPLITS = ('train', 'validation', 'test')
_FOLDS = 5  # of a set without splits: one is test, one validation
_OF_GROUP = 10  # pages at most


class Part(NamedTuple):
  """Pages of a split, in memory or in shards."""

  label: np.ndarray  # [n] int32
  group: np.ndarray  # [n] int64, over all splits
  truth: np.ndarray  # [n] int32; differs from label by known label noise
  image: np.ndarray | None  # [n, h, w, 1] uint8
  records: Any = None  # where `image` is None
  size: tuple[int, int] = (0, 0)

  def pages(self, rows: Any) -> np.ndarray:
    """Some pages, [m, h, w, 1] uint8."""
    if self.image is not None:
      return self.image[np.asarray(rows, np.int64)]
    found = streaming.RecordSource(
      *(_Some(self.records, rows), self._canvas()),
      batch_size=len(rows),
      repeat=False,
      shuffle=False,
    )
    return found.batch(0, slice(None))['image']

  def source(
    self,
    batch_size: int,
    rows: np.ndarray | None = None,
    seed: int | None = None,
  ):
    """Batches `image`, `label`, `id` of some pages.

    Args:
      rows: of the part; None: all.
      seed: of the endless stream's orders; None: in order, once.
    """
    rows = np.arange(len(self.label)) if rows is None else rows
    more: dict[str, Any] = {'repeat': False, 'shuffle': False}
    if seed is not None:
      more = {'seed': seed}
    if self.image is not None:
      arrays = {'image': self.image[rows], 'label': self.label[rows]}
      return ArraySource(arrays, batch_size=batch_size, **more)
    return streaming.RecordSource(
      *(_Some(self.records, rows), self._canvas()),
      batch_size=batch_size,
      **more,
    )

  def _canvas(self):
    return Canvas(self.size, 1, 'stretch')


class _Some:
  """Some records of a set, as `streaming.Records`."""

  def __init__(self, records, rows):
    self._records, self._rows = records, np.asarray(rows, np.int64)
    self.name, self.split = records.name, records.split
    self.classes, self.fingerprint = records.classes, records.fingerprint

  def __len__(self) -> int:
    return len(self._rows)

  def read(self, indices):
    return self._records.read(self._rows[np.asarray(indices)].tolist())

  def describe(self, index: int) -> str:
    return self._records.describe(int(self._rows[index]))


class Documents(NamedTuple):
  """A set of documents."""

  classes: tuple[str, ...]
  parts: Mapping[str, Part]
  outside: Mapping[str, np.ndarray]  # OOD set -> [m, h, w, 1] uint8
  skipped: tuple[tuple[str, str], ...]  # files that are not pages, and why

  def seen(self) -> np.ndarray:
    """[n] bool: test pages whose group has a page in train."""
    train = self.parts['train'].group
    return np.isin(self.parts['test'].group, train)


def check(config: Config) -> None:
  """Raises InputError where a value of `data` or `synthetic` cannot be."""
  sides = at_least(32, 'pixels, of the pages that regions are cut from')
  rules = {
    'data.height': sides,
    'data.width': sides,
    'data.batch_size': at_least(1),
    'data.eval_batch_size': at_least(1),
    'data.num_classes': at_least(2),
    'data.distance': between(-1, 16, '-1: no search for duplicates'),
    'data.least': at_least(1, 'pixels of a page'),
    'data.stream': one_of(True, False),
  }
  name = config['data']['name']
  if name == 'synthetic':
    share = between(0, 1, 'a share of the pages')
    rules |= {
      'data.num_classes': one_of(len(RVL_CDIP_CLASSES)),
      'synthetic.strength': at_least(0),
      'synthetic.label_noise': share,
      'synthetic.duplicates': share,
    }
    rules |= {f'synthetic.{split}': at_least(16) for split in SPLITS}
  if name.startswith('documents:'):
    rules |= {
      'data.least_documents': at_least(_FOLDS, 'for test and validation too'),
      'data.most_pages': at_least(1, 'of a class'),
    }
  require(config, rules)


def opened(config: Config, offline: bool) -> Documents:
  """The documents of a config.

  Raises:
    InputError: they cannot be had, or have other classes than the config says.
  """
  data = {**config['data'], 'offline': offline}
  named = {'data': data, 'synthetic': config['synthetic'], 'ood': config['ood']}
  return _opened(json.dumps(named, sort_keys=True, default=list))


@lru_cache(1)
def _opened(text: str) -> Documents:
  config = json.loads(text)
  d = config['data']
  if d['name'] == 'synthetic':
    return _synthetic(config)
  if d['name'].startswith('documents:'):
    return _by_document(config)
  return _with_splits(config)


def _hashes(pages: np.ndarray) -> np.ndarray:
  small = [page_shards.thumbnail(page) for page in pages]
  return duplicates.perceptual_hash(np.stack(small))


def _grouped(d, *known: Sequence[np.ndarray], hashes: Sequence[np.ndarray]):
  """Groups over all splits, cut into them again."""
  joined = [np.concatenate(labels) for labels in known]
  near = duplicates.duplicate_groups(np.concatenate(hashes), d['distance'])
  group = duplicates.merged(near, *joined)
  ends = np.cumsum([len(x) for x in hashes])[:-1]
  return np.split(group, ends)


def _synthetic(config) -> Documents:
  d, s = config['data'], config['synthetic']
  options = {**s, 'size': (d['height'], d['width'])}
  found = {x: _made(options, x, s[x]) for x in SPLITS}
  groups = _grouped(
    d,
    [found[x]['source'] for x in SPLITS],
    hashes=[_hashes(found[x]['image']) for x in SPLITS],
  )
  parts = {
    x: Part(found[x]['label'], group, found[x]['truth'], found[x]['image'])
    for x, group in zip(SPLITS, groups)
  }
  outside = {}
  if config['ood']['count']:
    made = _made(options, 'outside', config['ood']['count'])
    outside = {'out of class': made['image']}
  return Documents(RVL_CDIP_CLASSES, parts, outside, ())


def _made(options, split: str, count: int) -> dict[str, np.ndarray]:
  """`synthetic.make`, kept: the same for the same code, options and Pillow."""
  files = (layouts.__file__, synthetic.__file__)
  code = b''.join(Path(file).read_bytes() for file in files)
  what = json.dumps([options, split, count, PIL.__version__]).encode()
  name = hashlib.sha256(code + what).hexdigest()[:32]

  def write(folder):
    for key, array in synthetic.make(options, split, count).items():
      np.save(folder / f'{key}.npy', array, allow_pickle=False)

  target = atomic.data_dir() / 'decoded' / f'synthetic-pages-{name}'
  atomic.kept_folder(target, f'the synthetic pages of {split}', write)
  return {
    path.stem: np.load(path, allow_pickle=False)
    for path in target.glob('*.npy')
  }


def _by_document(config) -> Documents:
  """The classes with the most pages of enough documents, split by document."""
  d = config['data']
  name, size = d['name'].partition(':')[2], (d['height'], d['width'])
  images, documents, labels = [], [], []
  for split in SPLITS:
    found = arrays.open_images(
      *(name, split),
      size=size,
      channels=1,
      fit='stretch',
      offline=d['offline'],
    )
    records = streaming.open_records(
      name, split, image='document', offline=d['offline']
    )
    images.append(found.image)
    labels.append(found.label)
    documents += records.read(range(len(records)))[0]
  pixels, label = np.concatenate(images), np.concatenate(labels)
  _, document = np.unique(np.array(documents), return_inverse=True)
  (group,) = _grouped(d, [document], hashes=[_hashes(pixels)])
  # Documents that are joined by near pages count once, and are thinned out.
  kept = _ranks(group) < _OF_GROUP
  pixels, label, group = pixels[kept], label[kept], group[kept]
  counts = {
    one: len({*group[label == one]}) for one in range(len(found.classes))
  }
  enough = [x for x in counts if counts[x] >= d['least_documents']]
  enough.sort(key=lambda x: (-(label == x).sum(), x))
  chosen = sorted(enough[: d['num_classes']])
  if len(chosen) < d['num_classes']:
    raise InputError(
      f'{name} has {len(chosen)} classes of at least {d["least_documents"]} '
      f'documents; lower config.data.num_classes = {d["num_classes"]} or '
      'least_documents'
    )
  draw = np.random.default_rng(0).permutation(len(label))
  rows = [draw[label[draw] == one][: d['most_pages']] for one in chosen]
  inside = np.sort(np.concatenate(rows))
  others = draw[~np.isin(label[draw], chosen)][: config['ood']['count']]
  number = np.searchsorted(chosen, label[inside]).astype(np.int32)
  pages, group = pixels[inside], group[inside]
  fold = folds_of(number, group, _FOLDS)
  parts = {}
  for split, mask in zip(SPLITS, (fold > 1, fold == 1, fold == 0)):
    own = number[mask]
    _all_classes(own, found.classes, chosen, split)
    parts[split] = Part(own, group[mask], own, pages[mask])
  outside = {'other classes': pixels[others]} if len(others) else {}
  classes = tuple(found.classes[one] for one in chosen)
  return Documents(classes, parts, outside, ())


def _ranks(group: np.ndarray) -> np.ndarray:
  """The place of each page among those of its group, in a drawn order."""
  draw = np.random.default_rng(1).permutation(len(group))
  order = draw[np.argsort(group[draw], kind='stable')]
  _, first = np.unique(group[order], return_index=True)
  rank = np.arange(len(group))
  rank = rank - np.repeat(first, np.diff([*first, len(group)]))
  found = np.empty(len(group), np.int64)
  found[order] = rank
  return found


def _all_classes(label, classes, chosen, split) -> None:
  absent = [classes[x] for i, x in enumerate(chosen) if i not in label]
  if absent:
    raise InputError(
      f'no page of {", ".join(absent)} came to {split}, as its documents are '
      'joined by near pages; lower config.data.num_classes or distance'
    )


def _with_splits(config) -> Documents:
  d = config['data']
  size = d['height'], d['width']

  def opened(name, split):
    return page_shards.converted(
      *(name, split),
      size=size,
      least=d['least'],
      image=d['image_feature'],
      label=d['label_feature'],
      offline=d['offline'],
    )

  found = {x: opened(d['name'], d[f'{x}_split']) for x in SPLITS}
  classes = found['train'].records.classes
  if len(classes) != d['num_classes']:
    raise InputError(
      f'{d["name"]} has {len(classes)} classes, and config.data.num_classes is '
      f'{d["num_classes"]}'
    )
  if d['classes'] and tuple(d['classes']) != classes:
    raise InputError(
      f'{d["name"]} numbers its classes {list(classes)}, and '
      f'config.data.classes says {list(d["classes"])}: copies with permuted '
      'numbers are about; take labels by name'
    )
  groups = _grouped(d, hashes=[found[x].hashes for x in SPLITS])
  parts = {}
  for split, group in zip(SPLITS, groups):
    one = found[split]
    part = Part(one.label, group, one.label, None, one.records, size)
    if not d['stream']:
      say(f'decoding {len(one.label)} pages of {split}')
      part = part._replace(image=part.pages(range(len(one.label))))
    parts[split] = part
  outside = {}
  for name in config['ood']['folders']:
    one = opened(f'image_folder:{name}', 'test')
    rows = range(min(len(one.label), config['ood']['count']))
    part = Part(one.label, one.label, one.label, None, one.records, size)
    outside[name] = part.pages(rows)
  skipped = sum((found[x].skipped for x in SPLITS), ())
  return Documents(classes, parts, outside, skipped)
