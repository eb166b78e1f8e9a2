"""Labelled image files: folders of classes, lists of splits, RVL-CDIP."""

import csv
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.data.splits import tenths

SUFFIXES = (
  *('.png', '.jpg', '.jpeg', '.tif', '.tiff'),
  *('.bmp', '.gif', '.webp', '.ppm', '.pgm', '.pbm'),
)
RVL_CDIP_CLASSES = (
  *('letter', 'form', 'email', 'handwritten', 'advertisement'),
  *('scientific report', 'scientific publication', 'specification'),
  *('file folder', 'news article', 'budget', 'invoice', 'presentation'),
  *('questionnaire', 'resume', 'memo'),
)
_LISTS = {'train': 'train', 'validation': 'val', 'test': 'test'}
_SPLIT_FOLDERS = {  # split -> the names its folder may have
  'train': ('train',),
  'validation': ('validation', 'val', 'valid'),
  'test': ('test',),
}


class FileRecords:
  """Image files and their labels, each file read when it is asked for.

  The fingerprint is of the files' paths, labels, sizes and times of change:
  reading all of them would take as long as decoding.
  """

  def __init__(self, name: str, split: str, listed: 'Listed'):
    self.name, self.split, self.classes = name, split, listed.classes
    self._files = [listed.root / file for file, _ in listed.files]
    self._label = np.array([label for _, label in listed.files], np.int32)
    digest = hashlib.sha256(repr((split, listed.classes)).encode())
    for path, (file, label) in zip(self._files, listed.files):
      try:
        known = os.stat(path)
      except OSError as error:
        raise _unreadable(path, error) from error
      state = (file, label, known.st_size, known.st_mtime_ns)
      digest.update(repr(state).encode())
    self.fingerprint = digest.hexdigest()

  def __len__(self) -> int:
    return len(self._files)

  def read(self, indices: Sequence[int]) -> tuple[list[bytes], np.ndarray]:
    """Whole files, and labels [n] int32."""
    data = []
    for path in map(self._files.__getitem__, indices):
      try:
        data.append(path.read_bytes())
      except OSError as error:
        raise _unreadable(path, error) from error
    return data, self._label[np.asarray(indices, np.int64)]

  def describe(self, index: int) -> str:
    return str(self._files[index])


class Listed(NamedTuple):
  """The files of a split."""

  classes: tuple[str, ...]
  root: pathlib.Path
  files: list[tuple[str, int]]  # below root, and their labels


def open_files(kind: str, path: str, split: str) -> FileRecords:
  """Opens a set of image files: `kind` is one of KINDS.

  Raises:
    InputError: no such folder, or as the reader of that kind.
  """
  root = pathlib.Path(path).expanduser().absolute()
  if not path or not root.is_dir():
    raise InputError(
      f'{kind}:{path} names no folder: give its path behind the colon, as in '
      f'{kind}:/data/pictures'
    )
  name = f'{kind}:{path}'
  return FileRecords(name, split, KINDS[kind](name, root, split))


def _image_folder(name: str, root: pathlib.Path, split: str) -> Listed:
  """Images in folders that are named for their classes.

  Images lie in `root`/CLASS, at any depth. Where `root` has a folder `train`
  that holds folders, they lie in `root`/train/CLASS instead, and the other
  splits in `root`/validation (or val, valid) and `root`/test: there are no
  others. Without these, a tenth of each class is `test` and a tenth
  `validation`, by a hash of the file's path below `root`, so that a file's
  split hardly depends on which others there are.

  Classes are the sorted names of the class folders of all splits. Hidden files
  are passed over, as is whatever lies beside the class folders or is not an
  image.

  Raises:
    InputError: no such folder or split, no class, a class without images, a
      file in a class folder that is not an image by its suffix, or an image
      outside of the class folders.
  """
  parts = _split_folders(root)
  _check_split(name, split, parts or _SPLIT_FOLDERS)
  tops = list(parts.values()) or [root]
  classes = sorted({p.name for top in tops for p in _visible(top, True)})
  if not classes:
    raise InputError(
      f'{root} has no folders of classes: put images in {root}/CLASS'
    )
  top = parts.get(split, root)
  for stray in _visible(top, False):
    if _is_image(stray):
      raise InputError(
        f'{stray} is in no folder of a class: move it to one beside it'
      )
  files = []
  for label, folder in enumerate(classes):
    if (top / folder).is_dir():
      found = _images_below(top / folder, root)
      chosen = found if parts else sorted(tenths(found)[split])
      files += [(file, label) for file in chosen]
  if not files:
    raise InputError(
      f'the split {split!r} of {name} has no images: a tenth of each class is '
      f'held out, so give five images a class or more, or folders train, '
      f'validation and test'
    )
  return Listed(tuple(classes), root, files)


def _rvl_cdip(name: str, root: pathlib.Path, split: str) -> Listed:
  """RVL-CDIP: 16 classes of scanned pages, 320,000 / 40,000 / 40,000 files.

  Source: Harley, Ufkes & Derpanis, ICDAR 2015. `root`/labels has train.txt,
  val.txt and test.txt with lines `relative/path.tif LABEL`, and `root`/images
  the files.

  Raises:
    InputError: a folder or list is missing, or a line is malformed, has a
      label outside of the classes or names a file that is not there.
  """
  _check_split(name, split, _LISTS)
  text = root / 'labels' / f'{_LISTS[split]}.txt'
  try:
    lines = text.read_text('utf-8').split('\n')
    lines = lines[:-1] if not lines[-1] else lines
  except (OSError, UnicodeDecodeError) as error:
    raise InputError(
      f'cannot read {text} ({error}): unpack both archives of RVL-CDIP, so '
      f'that {root} has the folders images and labels'
    ) from error
  count = len(RVL_CDIP_CLASSES)
  files = []
  for number, line in enumerate(lines, 1):
    file, _, value = line.strip().rpartition(' ')
    place = pathlib.PurePosixPath(file)
    why = ''
    if not file or place.is_absolute() or '..' in place.parts:
      why = 'is not "relative/path.tif LABEL"'
    elif value not in map(str, range(count)):
      why = f'has a label that is none of 0, …, {count - 1}'
    elif not (root / 'images' / file).is_file():
      why = f'names a file that is not in {root / "images"}'
    if why:
      raise InputError(
        f'{text}, line {number}: {line!r} {why}; mend or remove the line'
      )
    files.append((file, int(value)))
  if not files:
    raise InputError(f'{text} has no lines: unpack it again')
  return Listed(RVL_CDIP_CLASSES, root / 'images', files)


def _split_csv(name: str, root: pathlib.Path, split: str) -> Listed:
  """Images whose splits are lists, as mini-ImageNet is handed on.

  `root` has train.csv, val.csv and test.csv with the columns `filename` and
  `label`, and the files in images/FILENAME or LABEL/FILENAME. Classes are the
  sorted labels of all three lists; they may have none in common.

  Source: Ravi & Larochelle, ICLR 2017, for the lists.

  Raises:
    InputError: a folder or list is missing, or a line is malformed or names a
      file that is not there.
  """
  _check_split(name, split, _LISTS)
  lists = {one: root / f'{file}.csv' for one, file in _LISTS.items()}
  rows = {one: _listed(text) for one, text in lists.items()}
  classes = sorted({label for found in rows.values() for _, label in found})
  numbers = {label: number for number, label in enumerate(classes)}
  files = []
  for file, label in rows[split]:
    places = [f'images/{file}', f'{label}/{file}']
    there = [place for place in places if (root / place).is_file()]
    if '..' in pathlib.PurePosixPath(label, file).parts or not there:
      raise InputError(
        f'{lists[split]} names {file!r} of {label!r}, which is at none of '
        f'{places} in {root}: put it there, or remove the line'
      )
    files.append((there[0], numbers[label]))
  return Listed(tuple(classes), root, files)


def _check_split(name: str, split: str, known: Iterable[str]) -> None:
  if split not in known:
    raise InputError(f'{name} has no split {split!r}; it has {list(known)}')


def _listed(path: pathlib.Path) -> list[tuple[str, str]]:
  """(filename, label) of each line."""
  try:
    with open(path, newline='', encoding='utf-8') as lines:
      rows = list(csv.DictReader(lines))
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise InputError(
      f'cannot read {path} ({error}): put train.csv, val.csv and test.csv there'
    ) from error
  found = [(row.get('filename', ''), row.get('label', '')) for row in rows]
  if not found or not all(file and label for file, label in found):
    raise InputError(
      f'{path} must have the columns filename and label, filled in each of '
      'its lines, and a line at least'
    )
  return found


def _unreadable(path: pathlib.Path, error: OSError) -> InputError:
  return InputError(
    f'cannot read {path} ({error.strerror}): restore it, or start again '
    f'without it'
  )


def _visible(folder: pathlib.Path, folders: bool) -> list[pathlib.Path]:
  """Folders, or files, of a folder, without hidden ones."""
  return sorted(
    path
    for path in folder.iterdir()
    if path.is_dir() == folders and not path.name.startswith('.')
  )


def _split_folders(root: pathlib.Path) -> dict[str, pathlib.Path]:
  """Split -> folder; none where `train` is missing, or is itself a class."""
  train = root / 'train'
  if not train.is_dir() or not _visible(train, True):
    return {}
  return {
    split: root / name
    for split, names in _SPLIT_FOLDERS.items()
    for name in reversed(names)
    if (root / name).is_dir()
  }


def _is_image(path: pathlib.Path) -> bool:
  return path.suffix.lower() in SUFFIXES


def _images_below(folder: pathlib.Path, root: pathlib.Path) -> list[str]:
  """Paths below `root` of the images at any depth of a class's folder, also
  behind links, each folder once."""
  found, seen = [], set()
  for where, folders, files in os.walk(folder, followlinks=True):
    real = os.path.realpath(where)
    if real in seen:  # a link back to what it lies in
      folders.clear()
      continue
    seen.add(real)
    folders[:] = [name for name in folders if not name.startswith('.')]
    for name in files:
      path = pathlib.Path(where, name)
      if name.startswith('.'):
        continue
      if not _is_image(path):
        raise InputError(
          f'{path} is not an image by its name: remove it, or give it one of '
          f'{", ".join(SUFFIXES)}'
        )
      found.append(path.relative_to(root).as_posix())
  if not found:
    raise InputError(
      f'the class folder {folder} has no images: fill or remove it'
    )
  return sorted(found)


# Readers of a named set's folder, by what stands before the colon of the name.
KINDS: Mapping[str, Callable[[str, pathlib.Path, str], Listed]] = {
  'image_folder': _image_folder,
  'rvl_cdip': _rvl_cdip,
  'split_csv': _split_csv,
}
