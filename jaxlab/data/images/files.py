"""Labelled image files: folders of classes, lists of splits, RVL-CDIP."""

import csv
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from jaxlab.engine.errors import InputError

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

  def __init__(
    self,
    name: str,
    split: str,
    classes: tuple[str, ...],
    root: pathlib.Path,
    files: list[str],
    label: list[int],
  ):
    self.name, self.split, self.classes = name, split, classes
    self._root, self._files = root, files
    self._label = np.array(label, np.int32)
    digest = hashlib.sha256(repr((split, classes)).encode())
    for file, value in zip(files, label):
      try:
        known = os.stat(root / file)
      except OSError as error:
        raise _unreadable(root / file, error) from error
      state = (file, value, known.st_size, known.st_mtime_ns)
      digest.update(repr(state).encode())
    self.fingerprint = digest.hexdigest()

  def __len__(self) -> int:
    return len(self._files)

  def read(self, indices: Sequence[int]) -> tuple[list[bytes], np.ndarray]:
    """Whole files, and labels [n] int32."""
    data = []
    for index in indices:
      path = self._root / self._files[index]
      try:
        data.append(path.read_bytes())
      except OSError as error:
        raise _unreadable(path, error) from error
    return data, self._label[np.asarray(indices, np.int64)]

  def describe(self, index: int) -> str:
    return str(self._root / self._files[index])


def open_image_folder(path: str, split: str) -> FileRecords:
  """Images in folders that are named for their classes.

  Images lie in `path`/CLASS, at any depth. Where `path` has a folder `train`
  that holds folders, they lie in `path`/train/CLASS instead, and the other
  splits in `path`/validation (or val, valid) and `path`/test: there are no
  others. Without these, a tenth of each class is `test` and a tenth
  `validation`, by a hash of the file's path below `path`, so that a file's
  split hardly depends on which others there are.

  Classes are the sorted names of the class folders of all splits. Hidden files
  are passed over, as is whatever lies beside the class folders and is no image.

  Raises:
    InputError: no such folder or split, no class, a class without images, a
      file in a class folder that is not an image by its suffix, or an image
      outside of the class folders.
  """
  root = _folder(path, 'image_folder')
  parts = _split_folders(root)
  _check_split(f'image_folder:{path}', split, parts or _SPLIT_FOLDERS)
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
  files: list[str] = []
  label: list[int] = []
  for number, name in enumerate(classes):
    if (top / name).is_dir():
      found = _images_below(top / name, root)
      files += found if parts else _held_out(found, split)
      label += [number] * (len(files) - len(label))
  if not files:
    raise InputError(
      f'the split {split!r} of image_folder:{path} has no images: a tenth of '
      f'each class is held out, so give five images a class or more, or '
      f'folders train, validation and test'
    )
  return FileRecords(
    f'image_folder:{path}', split, tuple(classes), root, files, label
  )


def open_rvl_cdip(path: str, split: str) -> FileRecords:
  """RVL-CDIP: 16 classes of scanned pages, 320,000 / 40,000 / 40,000 files.

  Source: Harley, Ufkes & Derpanis, ICDAR 2015. `path`/labels has train.txt,
  val.txt and test.txt with lines `relative/path.tif LABEL`, and `path`/images
  the files.

  Raises:
    InputError: a folder or list is missing, or a line is malformed, has a
      label outside of the classes or names a file that is not there.
  """
  root = _folder(path, 'rvl_cdip')
  _check_split(f'rvl_cdip:{path}', split, _LISTS)
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
  files, label = [], []
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
    files.append(file)
    label.append(int(value))
  if not files:
    raise InputError(f'{text} has no lines: unpack it again')
  return FileRecords(
    f'rvl_cdip:{path}', split, RVL_CDIP_CLASSES, root / 'images', files, label
  )


def open_split_csv(path: str, split: str) -> FileRecords:
  """Images whose splits are lists, as mini-ImageNet is handed on.

  `path` has train.csv, val.csv and test.csv with the columns `filename` and
  `label`, and the files in images/FILENAME or LABEL/FILENAME. Classes are the
  sorted labels of all three lists; they may have none in common.

  Source: Ravi & Larochelle, ICLR 2017, for the lists.

  Raises:
    InputError: a folder or list is missing, or a line is malformed or names a
      file that is not there.
  """
  root = _folder(path, 'split_csv')
  _check_split(f'split_csv:{path}', split, _LISTS)
  lists = {one: root / f'{name}.csv' for one, name in _LISTS.items()}
  rows = {one: _listed(text) for one, text in lists.items()}
  classes = sorted({label for found in rows.values() for _, label in found})
  numbers = {name: number for number, name in enumerate(classes)}
  files, label = [], []
  for file, name in rows[split]:
    places = [f'images/{file}', f'{name}/{file}']
    there = [place for place in places if (root / place).is_file()]
    if '..' in pathlib.PurePosixPath(name, file).parts or not there:
      raise InputError(
        f'{lists[split]} names {file!r} of {name!r}, which is at none '
        f'of {places} in {root}: put it there, or remove the line'
      )
    files.append(there[0])
    label.append(numbers[name])
  return FileRecords(
    f'split_csv:{path}', split, tuple(classes), root, files, label
  )


def _check_split(name: str, split: str, known: Iterable[str]) -> None:
  if split not in known:
    raise InputError(f'{name} has no split {split!r}; it has {list(known)}')


def _listed(path: pathlib.Path) -> list[tuple[str, str]]:
  """(filename, label) of each line."""
  try:
    with open(path, newline='', encoding='utf-8') as lines:
      found = [
        (row.get('filename'), row.get('label')) for row in csv.DictReader(lines)
      ]
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise InputError(
      f'cannot read {path} ({error}): put train.csv, val.csv and test.csv there'
    ) from error
  if not found or not all(file and label for file, label in found):
    raise InputError(
      f'{path} must have the columns filename and label, filled in each of '
      'its lines, and a line at least'
    )
  return [(str(file), str(label)) for file, label in found]


def _unreadable(path: pathlib.Path, error: OSError) -> InputError:
  return InputError(
    f'cannot read {path} ({error.strerror}): restore it, or start again '
    f'without it'
  )


def _folder(path: str, kind: str) -> pathlib.Path:
  folder = pathlib.Path(path).expanduser().absolute()
  if not path or not folder.is_dir():
    raise InputError(
      f'{kind}:{path} names no folder: give its path behind the colon, as in '
      f'{kind}:/data/pictures'
    )
  return folder


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


def _held_out(files: list[str], split: str) -> list[str]:
  """The files of one split of a class."""
  ranked = sorted(files, key=lambda f: hashlib.sha256(f.encode()).digest())
  held = round(len(files) / 10)
  parts = {
    'test': ranked[:held],
    'validation': ranked[held : 2 * held],
    'train': ranked[2 * held :],
  }
  return sorted(parts[split])


# The kind of a set, before the colon of its name, -> what opens it.
OPENERS: Mapping[str, Callable[[str, str], FileRecords]] = {
  'image_folder': open_image_folder,
  'rvl_cdip': open_rvl_cdip,
  'split_csv': open_split_csv,
}
