"""What a training leaves for others to use: WORKDIR/<stage>/model/.

  model.safetensors   params/… and vars/… of the final State
  config.json         the config that `predict` reads
  inputs.json         what `predict` takes, see `Kept`
  example*            inputs to try it with
  …                   what else the job keeps: vocabulary, class names, …
  model.json          format, paper, job, stage, versions, and the SHA-256 of
                      each of these files
  README.md           the model card, for people

Nothing else is needed to predict: no data, no checkpoint, no network. Nothing
that is read is run.
"""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.core.state import State
from jaxlab.engine import durable, hosts, mesh, tensors
from jaxlab.runs import workdir

FORMAT = 1  # of the folder
FOLDER, ABOUT, WEIGHTS = 'model', 'model.json', 'model.safetensors'
KINDS = ('text', 'question', 'image', 'number', 'vector', 'graph')
_TRAINING = ('health', 'sampler')  # entries of vars that no prediction reads


class Kept(NamedTuple):
  """What a job keeps of a training, beside its State.

  `inputs['kind']` says what `predict` takes a list of:
    text      strings; with `must` each has that piece, '[MASK]'
    question  pairs (question, context)
    image     one array [n, height, width, channels] uint8; `fit` is how other
              images come to that size
    number    whole numbers in [0, `count`)
    graph     {'nodes': [n][`features`], 'edges': pairs of nodes}
    vector    one array [n, `length`] float32, in [`low`, `high`] if given
  """

  inputs: Mapping[str, Any]
  example: Sequence[Any]  # inputs that it answers: JSON, or uint8 images
  files: Mapping[str, Any] = {}  # name -> JSON, text (str) or bytes
  config: Mapping[str, Any] | None = None  # for predict; default: the run's
  leave_out: Sequence[str] = ()  # entries of vars that no prediction reads
  data: Mapping[str, str] = {}  # what it was trained on -> its licence


Predict = Callable[['Model', Any], list]


@dataclass(frozen=True)
class Model:
  """A trained model, as a job's `predict(model, inputs)` reads it."""

  config: Mapping[str, Any]
  params: Mapping[str, Any]  # network -> nested dictionaries of arrays
  vars: Mapping[str, Any]
  files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
  about: Mapping[str, Any] = field(default_factory=dict)  # of model.json
  answers: Predict | None = field(default=None, repr=False)

  def predict(self, inputs: Any) -> list:
    """One answer an input; what it takes is `inputs`, see `Kept`.

    Raises:
      InputError: inputs that it cannot take.
    """
    assert self.answers is not None, 'a model of no job; take jaxlab.load'
    return self.answers(self, inputs)

  def json(self, name: str) -> Any:
    """The value in a JSON file of its folder.

    Raises:
      InputError: there is no such file.
    """
    if name not in self.files:
      raise InputError(
        f'this model has no file {name}, only {sorted(self.files)}; it was '
        'kept by another job, or made by hand'
      )
    return json.loads(self.files[name])

  @property
  def inputs(self) -> dict[str, Any]:
    """What `predict` takes, see `Kept`."""
    return self.json('inputs.json')

  @property
  def classes(self) -> list[str]:
    """Names of the classes; empty where there are none."""
    return self.json('classes.json') if 'classes.json' in self.files else []

  def example(self) -> Any:
    """Inputs to try it with, as `predict` takes them."""
    if 'example.json' in self.files:
      found = self.json('example.json')
      as_array = self.inputs['kind'] == 'vector'
      return np.asarray(found, np.float32) if as_array else found
    names = sorted(x for x in self.files if x.startswith('example'))
    return np.stack([_pixels(self.files[name]) for name in names])


# --- writing ---


def of(
  config: Mapping[str, Any],
  params: Mapping[str, Any],
  vars: Mapping[str, Any],
  kept: Kept,
  answers: Predict | None = None,
) -> Model:
  """The model that `write` would leave, without a folder.

  Args:
    config: of the run.
    answers: the job's `predict`.
  """
  files = {name: _bytes(x) for name, x in _files(kept).items()}
  config = config if kept.config is None else kept.config
  return Model(config, params, vars, files, answers=answers)


def _files(kept: Kept) -> dict[str, Any]:
  own = {'inputs.json': dict(kept.inputs), **_examples(kept.example)}
  return {**own, **kept.files}


def write(
  folder: Path,
  state: State,
  kept: Kept,
  config: Mapping[str, Any],
  about: Mapping[str, Any],
) -> None:
  """Writes the folder, whole or not at all; on disk when it returns.

  Every process calls this: parts of State may lie on others. The leader writes.

  Args:
    folder: WORKDIR/<stage>/model; one that is there is replaced.
    config: of the run.
    about: what model.json says beside the digests.

  Raises:
    InputError: State is not a nested dictionary of arrays, or nothing can be
      written.
  """
  assert kept.inputs['kind'] in KINDS, kept.inputs
  out = (*_TRAINING, *kept.leave_out)
  vars = {name: x for name, x in state.vars.items() if name not in out}
  flat, empty = tensors.flattened({'params': state.params, 'vars': vars})
  arrays = {
    path: np.asarray(mesh.whole(x), order='C') for path, x in flat.items()
  }
  if not hosts.leads():
    return
  config = config if kept.config is None else kept.config
  files: dict[str, Any] = {
    'config.json': config,
    **_files(kept),
  }
  about = {
    'format': FORMAT,
    **about,
    'data': dict(kept.data),
    'parameters': sum(x.size for p, x in arrays.items() if p[:6] == 'params'),
    'empty': empty,
  }
  beside = folder.with_name(f'.{folder.name}.{os.getpid()}')
  shutil.rmtree(beside, ignore_errors=True)
  try:
    beside.mkdir(parents=True)
    tensors.save(beside / WEIGHTS, arrays)
    for name, value in files.items():
      _write(beside / name, _bytes(value), folder)
    digests = {x.name: _sha256(x) for x in sorted(beside.iterdir())}
    _write_about(beside, {**about, 'files': digests})
    durable.sync_tree(beside)
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)
    durable.sync(folder.parent)
  except OSError as error:
    raise InputError(
      f'cannot write {folder}: {error.strerror}; free space and run the same '
      'command again: nothing is trained again'
    ) from error
  finally:
    shutil.rmtree(beside, ignore_errors=True)


def add(folder: Path, name: str, value: Any) -> None:
  """Adds a JSON file to a model: what a judgement found out, a threshold.

  Nothing happens where there is no model.
  """
  if not hosts.leads() or not (folder / ABOUT).is_file():
    return
  workdir.write_json(folder / name, value)
  about = json.loads((folder / ABOUT).read_text())
  about.pop('sha256')
  about['files'][name] = _sha256(folder / name)
  _write_about(folder, about)


def _examples(example: Sequence[Any]) -> dict[str, Any]:
  if not isinstance(example[0], np.ndarray):
    return {'example.json': list(example)}
  return {f'example_{i}.png': _png(x) for i, x in enumerate(example)}


def _png(pixels: np.ndarray) -> bytes:
  from PIL import Image

  assert pixels.dtype == np.uint8, pixels.dtype
  file = io.BytesIO()
  whole = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
  Image.fromarray(whole).save(file, 'PNG')
  return file.getvalue()


def _pixels(png: bytes) -> np.ndarray:
  from PIL import Image

  found = np.asarray(Image.open(io.BytesIO(png), formats=('PNG',)))
  return found if found.ndim == 3 else found[..., None]


def _bytes(value: Any) -> bytes:
  if isinstance(value, bytes):
    return value
  if isinstance(value, str):
    return value.encode()
  return (json.dumps(value, indent=1, ensure_ascii=False) + '\n').encode()


def _write(path: Path, data: bytes, folder: Path) -> None:
  """Writes a file, or links to the same one of another model of the run.

  The graph that many trainings share would else be there many times.
  """
  if len(data) > 2**20:
    for other in folder.parents[1].glob(f'*/{FOLDER}/{path.name}'):
      if other.stat().st_size == len(data) and other.read_bytes() == data:
        try:
          os.link(other, path)
          return
        except OSError:
          break  # a file system without links
  path.write_bytes(data)


def _write_about(folder: Path, about: Mapping[str, Any]) -> None:
  workdir.write_json(folder / ABOUT, {**about, 'sha256': _own_sha256(about)})


def _own_sha256(about: Mapping[str, Any]) -> str:
  text = json.dumps(about, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _sha256(path: Path) -> str:
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


# --- reading ---


def read(folder: Path, cure: str = 'copy the folder again') -> Model:
  """The model in a folder, every file of it compared with its SHA-256.

  Args:
    cure: of a folder that is not whole.

  Raises:
    InputError: it is absent, torn, or of another version.
  """
  about = _read_about(folder, cure)
  files: dict[str, bytes] = {}
  for name, digest in about['files'].items():
    try:
      files[name] = (folder / name).read_bytes()
    except OSError as error:
      raise InputError(
        f'{folder / name} cannot be read ({error.strerror}); {cure}'
      ) from error
    if hashlib.sha256(files[name]).hexdigest() != digest:
      raise InputError(f'{folder / name} is not what was written; {cure}')
  tree = tensors.nested(tensors.decode(files.pop(WEIGHTS)), about['empty'])
  config = json.loads(files.pop('config.json'))
  return Model(config, tree['params'], tree.get('vars', {}), files, about)


def _read_about(folder: Path, cure: str) -> dict[str, Any]:
  path = folder / ABOUT
  try:
    about = json.loads(path.read_text())
    given = about['format']
    if given == FORMAT and about.pop('sha256') != _own_sha256(about):
      raise ValueError('its SHA-256 is not the one that it says')
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    words = getattr(error, 'strerror', None) or error
    raise InputError(f'{path} is not a whole file ({words}); {cure}') from error
  if given != FORMAT:
    by = about.get('versions', {}).get('jaxlab', 'another version')
    raise InputError(
      f'{folder} is of format {given}, written by jaxlab {by}; this one reads '
      f'format {FORMAT}: install that version, or train again with this one'
    )
  return about
