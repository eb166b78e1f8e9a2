"""Tokenised texts on disk: flat token arrays, offsets into them, a vocabulary.

They are made once, under the data directory, and then only memory-mapped, so
that any number of workers share one copy.
"""

import itertools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import tokenizers

from jaxlab.data import atomic, kept

FORMAT = 1  # of the folders; a new one makes old folders unused
_LINES = 4096  # texts tokenised at once
_Arrays = TypeVar('_Arrays', bound=tuple)


class TokenStore:
  """An opened folder; pickled as its path."""

  FOLDER: ClassVar[str]  # under the data directory
  ABOUT: ClassVar[str]  # the JSON file of `name`, `sha256` and more

  def __init__(self, path: str | os.PathLike):
    self.path = pathlib.Path(path)
    self.known: dict[str, Any] = kept.load(self.path, self.ABOUT)
    self.name: str = self.known['name']
    self.sha256: str = self.known['sha256']  # of vocabulary and all tokens

  def __reduce__(self):
    return type(self), (self.path,)

  @classmethod
  def prepared(
    cls, options: list, what: str, make: Callable[[pathlib.Path], None]
  ) -> Self:
    """Opens the folder of the options, made first where it is not yet there.

    Two processes prepare it once, and one that is killed leaves nothing that
    is read.
    """
    name = kept.digest_of([FORMAT, *options])[:32]
    folder = atomic.data_dir() / cls.FOLDER / name
    return cls(atomic.kept_folder(folder, what, make))


def cut(
  tokenizer: tokenizers.Tokenizer, texts: Iterable[str]
) -> Iterator[list[tuple[str, list[int]]]]:
  """Texts and their tokens, some thousands at once."""
  texts = iter(texts)
  while some := list(itertools.islice(texts, _LINES)):
    found = tokenizer.encode_batch(some, add_special_tokens=False)
    yield [(text, encoding.ids) for text, encoding in zip(some, found)]


def rows(texts: Sequence[Sequence[int]], length: int, pad: int) -> np.ndarray:
  """[n, length] int32: the tokens of each text, then `pad`."""
  found = np.full((len(texts), length), pad, np.int32)
  for row, tokens in zip(found, texts):
    row[: len(tokens)] = tokens
  return found


def load(kind: type[_Arrays], folder: pathlib.Path, name: str) -> _Arrays:
  """The arrays of a NamedTuple, each in a file of the folder; memory-mapped."""
  names = [f'{name}.{part}.npy' for part in kind._fields]  # type: ignore
  return kind(*(kept.load(folder, name) for name in names))


def update(digest, arrays: Iterable[np.ndarray]) -> None:
  """Hashes arrays' types, shapes and values."""
  for array in arrays:
    digest.update(f'{array.dtype}:{array.shape}\n'.encode())
    digest.update(array.view(np.uint8).data)
