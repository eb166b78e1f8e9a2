"""A folder as Hugging Face's libraries write one for a BERT.

  config.json                   the network: models/bert_config.py reads it
  model.safetensors             the weights; or model.safetensors.index.json
                                and the shards that it names
  vocab.txt or tokenizer.json   the pieces, by id
  tokenizer_config.json         whether text is put in lower case

Nothing is fetched and nothing in the folder is run. `models/bert_names.py`
knows the names of the weights; `recipes/hugging_face.py` puts all together.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any

import safetensors
import tokenizers
from tokenizers import decoders, processors

from jaxlab.core.errors import InputError
from jaxlab.data import atomic
from jaxlab.data.packages import pickles, weights
from jaxlab.data.text.wordpiece import SPECIAL, Vocabulary, special_ids

CONFIG = 'config.json'
WEIGHTS = 'model.safetensors'
_INDEX = 'model.safetensors.index.json'
_OLD = 'pytorch_model.bin'
_VOCABULARY = 'vocab.txt'
_TOKENIZER = 'tokenizer.json'
_OPTIONS = 'tokenizer_config.json'
_ROLES = ('pad_token', 'unk_token', 'cls_token', 'sep_token', 'mask_token')
_EMPTY: tuple[Any, ...] = (None, [])
_CLASSES = (None, 'BertTokenizer', 'BertTokenizerFast')


def is_folder(path: Path) -> bool:
  """Whether there is a config.json with weights or a vocabulary beside it."""
  names = (WEIGHTS, _INDEX, _OLD, _VOCABULARY, _TOKENIZER)
  return (path / CONFIG).is_file() and any((path / x).exists() for x in names)


def read_json(path: Path) -> dict[str, Any]:
  """An object in JSON.

  Raises:
    InputError: it is absent, damaged, or no object.
  """
  _check_file(path)
  try:
    found = json.loads(path.read_bytes())
  except (OSError, ValueError, RecursionError) as error:
    raise InputError(
      f'{path} is not JSON ({type(error).__name__}: {error}): copy it again'
    ) from error
  if not isinstance(found, dict):
    raise InputError(
      f'{path} holds {found!r:.40}, not an object: copy it again'
    )
  return found


def _check_file(path: Path) -> None:
  if path.is_file():
    return
  there = sorted(x.name for x in path.parent.glob('*'))[:12]
  has = f'{path.parent} has {there}' if there else f'{path.parent} has no files'
  raise InputError(
    f'there is no file {path} ({has}): copy it, or name the folder that '
    'save_pretrained wrote'
  )


def read_weights(folder: Path) -> weights.Flat:
  """The arrays of a folder by their names, in one file or in shards.

  Raises:
    InputError: a file is absent, damaged, or not beside the index; or the
      index and a shard disagree.
  """
  return _gather(folder, weights.read_safetensors)


def weights_sha256(folder: Path) -> str:
  """SHA-256 of the names and contents of the files that `read_weights` reads.

  Raises:
    InputError: a file is absent.
  """
  digest = hashlib.sha256()
  for path, _ in _files(folder):
    with open(path, 'rb') as file:
      own = hashlib.file_digest(file, 'sha256').hexdigest()
    digest.update(f'{path.name}:{own}\n'.encode())
  return digest.hexdigest()


def read_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
  """The shapes of a folder's arrays; their contents are not read.

  Raises:
    InputError: as `read_weights`.
  """

  def read(path):
    with (
      pickles.damage(str(path)),
      safetensors.safe_open(path, framework='np') as file,
    ):
      names = file.keys()
      return {name: tuple(file.get_slice(name).get_shape()) for name in names}

  return _gather(folder, read)


def _gather(folder: Path, read: Callable[[Path], dict]) -> dict[str, Any]:
  """What `read` finds in all files of weights, together."""
  found: dict[str, Any] = {}
  for path, wanted in _files(folder):
    part = read(path)
    if wanted is not None and (other := sorted(wanted ^ part.keys())):
      raise InputError(
        f'{folder / _INDEX} and the shard {path.name!r} disagree on '
        f'{other[:5]}: copy both again, of one version'
      )
    found |= part
  return found


def _files(folder: Path) -> list[tuple[Path, set[str] | None]]:
  """The files of weights, and the names that an index says are in them."""
  path, index = folder / WEIGHTS, folder / _INDEX
  if path.exists() or not index.exists():
    if (folder / _OLD).exists() and not path.exists():
      raise InputError(
        f'{folder} has its weights in {_OLD} alone, a pickle: write '
        f'{WEIGHTS} by transformers, model.save_pretrained(folder)'
      )
    _check_file(path)
    return [(path, None)]
  places = read_json(index).get('weight_map')
  if not isinstance(places, dict) or not places:
    raise InputError(
      f'{index} has no weight_map of names and shards, but {places!r:.40}: '
      'copy it again'
    )
  shards: dict[str, set[str]] = {}
  for name, shard in places.items():
    named = isinstance(shard, str) and shard.endswith('.safetensors')
    if not named or PurePath(shard).name != shard:
      raise InputError(
        f'{index} says that {name!r} is in {shard!r:.80}, which is not the '
        'name of a .safetensors file beside it: shards lie in the folder of '
        'their index'
      )
    shards.setdefault(shard, set()).add(name)
  for shard, names in shards.items():
    if not (folder / shard).is_file():
      raise InputError(
        f'{index} names the shard {shard!r} with {len(names)} arrays, and '
        f'{folder} has no such file: copy it there'
      )
  return [(folder / shard, shards[shard]) for shard in sorted(shards)]


def read_vocabulary(folder: Path) -> Vocabulary:
  """The pieces of a folder, and whether its texts are in lower case.

  What tokenizer_config.json says counts before tokenizer.json. Where neither
  speaks of lower case, a vocabulary without capitals is in lower case.

  Raises:
    InputError: files are absent, damaged or disagree, a special piece is
      missing, the tokenizer is not BERT's, or nothing tells the case.
  """
  options = _optional(folder / _OPTIONS)
  whole = _optional(folder / _TOKENIZER)
  pieces = None
  if (folder / _VOCABULARY).exists() or not whole:
    pieces = _read_pieces(folder / _VOCABULARY)
  normalizer: dict[str, Any] = {}
  if whole:
    path = folder / _TOKENIZER
    with pickles.damage(str(path)):
      normalizer, own = _read_tokenizer(whole, path)
    if pieces is not None and pieces != own:
      both = enumerate(itertools.zip_longest(pieces, own))
      number, (one, other) = next(x for x in both if len({*x[1]}) > 1)
      raise InputError(
        f'the pieces of {folder / _VOCABULARY} and of {path} differ, first '
        f'{one!r} and {other!r} with the id {number}: keep the file that '
        'belongs to the weights'
      )
    pieces = own
  assert pieces is not None
  _check_options(options, folder / _OPTIONS)
  special_ids(pieces)

  def told(key, theirs, default):
    found = options.get(key, normalizer.get(theirs, default))
    if found is not default and not isinstance(found, bool):
      raise InputError(f'{folder}: {key} = {found!r:.40} must be true or false')
    return found

  lowercase = told('do_lower_case', 'lowercase', None)
  if lowercase is None:
    capital = next((x for x in pieces if _has_capital(x)), None)
    if capital is not None:
      raise InputError(
        f'{folder / _OPTIONS} does not say do_lower_case, and the vocabulary '
        f'has pieces with capitals such as {capital!r}: write '
        '{"do_lower_case": false} there if texts are to keep theirs'
      )
    lowercase = True
  return Vocabulary(
    tuple(pieces),
    lowercase,
    told('strip_accents', 'strip_accents', None),
    told('tokenize_chinese_chars', 'handle_chinese_chars', True),
  )


def _optional(path: Path) -> dict[str, Any]:
  return read_json(path) if path.exists() else {}


def _read_pieces(path: Path) -> list[str]:
  """The lines of a vocab.txt."""
  _check_file(path)
  try:
    text = path.read_bytes().decode()
  except (OSError, UnicodeDecodeError) as error:
    raise InputError(f'{path} is not text in UTF-8 ({error})') from error
  lines = text.replace('\r\n', '\n').removesuffix('\n').split('\n')
  _check_different(lines, path)
  return lines


def _check_different(pieces: list[str], path: Path) -> None:
  first: dict[str, int] = {}
  for number, piece in enumerate(pieces):
    if (before := first.setdefault(piece, number)) != number:
      raise InputError(
        f'{path}: the piece {piece!r} has the ids {before} and {number}; each '
        'has one'
      )


def _read_tokenizer(
  whole: Mapping[str, Any], path: Path
) -> tuple[dict[str, Any], list[str]]:
  """(normalizer, pieces) of a tokenizer.json."""
  parts: dict[str, dict[str, Any]] = {}
  for part, kind in (
    ('model', 'WordPiece'),
    ('normalizer', 'BertNormalizer'),
    ('pre_tokenizer', 'BertPreTokenizer'),
  ):
    found = whole.get(part)
    shown = found.get('type') if isinstance(found, dict) else found
    if shown != kind:
      raise InputError(
        f"{path}: the {part} is {shown!r:.80}, and BERT's is {kind}; other "
        'tokenizers are not read here'
      )
    parts[part] = whole[part]
  model = parts['model']
  for key, value in (
    ('unk_token', '[UNK]'),
    ('continuing_subword_prefix', '##'),
    ('max_input_chars_per_word', 100),
  ):
    if model.get(key, value) != value:
      raise InputError(f'{path}: {key} = {model[key]!r:.40} must be {value!r}')
  numbers: Any = model.get('vocab')
  ids = numbers.values() if isinstance(numbers, dict) else [None]
  if not all(type(x) is int for x in ids) or {*ids} != {*range(len(ids))}:
    raise InputError(
      f'{path}: the vocabulary does not give each of its pieces one id from 0 '
      'on: copy it again'
    )
  for added in whole.get('added_tokens') or []:
    if numbers.get(added.get('content')) != added.get('id'):
      raise InputError(
        f'{path} adds {added.get("content")!r:.40} as {added.get("id")!r:.20} '
        'to the vocabulary, which is not read here: put it in the vocabulary'
      )
  return parts['normalizer'], sorted(numbers, key=numbers.get)


def _check_options(options: Mapping[str, Any], path: Path) -> None:
  """Raises InputError where tokenizer_config.json is not of BERT's."""
  if (kind := options.get('tokenizer_class')) not in _CLASSES:
    raise InputError(
      f'{path}: tokenizer_class = {kind!r:.80} must be one of '
      f'{", ".join(map(str, _CLASSES[1:]))}; others are not read here'
    )
  for key, values in (('do_basic_tokenize', (True,)), ('never_split', _EMPTY)):
    if (found := options.get(key, values[0])) not in values:
      raise InputError(
        f'{path}: {key} = {found!r:.80} must be {values[0]}, or left out'
      )
  for role, piece in zip(_ROLES, SPECIAL):
    found = options.get(role, piece)
    found = found.get('content') if isinstance(found, dict) else found
    if found != piece:
      raise InputError(f'{path}: {role} = {found!r:.80} must be {piece!r}')


def _has_capital(piece: str) -> bool:
  named = piece.startswith('[') and piece.endswith(']')  # [CLS], [unused1]
  return piece != piece.lower() and not named


def write_folder(
  target: Path,
  config: Mapping[str, Any],
  flat: weights.Flat,
  vocabulary: Vocabulary,
  longest: int,
) -> None:
  """Writes a folder that Hugging Face's libraries open, whole or not at all.

  Args:
    config: of the network.
    flat: arrays by transformers' names.
    longest: tokens of a sequence at most.

  Raises:
    InputError: there is something of that name, a piece has a line end, or
      nothing can be written there.
  """
  if target.exists() or target.is_symlink():
    raise InputError(f'{target} is there already: remove it, or name another')
  for piece in vocabulary.pieces:
    if not piece or {*'\r\n'} & {*piece}:
      raise InputError(f'the piece {piece!r} cannot be a line of {_VOCABULARY}')
  options = {
    'do_lower_case': vocabulary.lowercase,
    'model_max_length': longest,
    'strip_accents': vocabulary.strip_accents,
    'tokenize_chinese_chars': vocabulary.chinese_apart,
    'tokenizer_class': 'BertTokenizer',
    **dict(zip(_ROLES, SPECIAL)),
  }
  try:
    with atomic.whole(target) as folder:
      folder.mkdir()
      for name, found in ((CONFIG, config), (_OPTIONS, options)):
        text = json.dumps(found, indent=2, sort_keys=True)
        (folder / name).write_text(f'{text}\n')
      lines = ''.join(f'{piece}\n' for piece in vocabulary.pieces)
      (folder / _VOCABULARY).write_bytes(lines.encode())
      _whole_tokenizer(vocabulary).save(str(folder / _TOKENIZER))
      # transformers asks which framework wrote the file.
      weights.write_safetensors(folder / WEIGHTS, flat, {'format': 'pt'})
  except OSError as error:
    raise InputError(
      f'cannot write {target} ({error.strerror}): name a folder that can be '
      'written'
    ) from error


def _whole_tokenizer(vocabulary: Vocabulary) -> tokenizers.Tokenizer:
  """The tokenizer with [CLS] and [SEP], as other programs use it."""
  tokenizer, special = vocabulary.tokenizer(), vocabulary.special
  tokenizer.add_special_tokens(list(SPECIAL))
  tokenizer.post_processor = processors.TemplateProcessing(
    single='[CLS] $A [SEP]',
    pair='[CLS] $A [SEP] $B:1 [SEP]:1',
    special_tokens=[('[CLS]', special.cls), ('[SEP]', special.sep)],
  )
  tokenizer.decoder = decoders.WordPiece()
  return tokenizer
