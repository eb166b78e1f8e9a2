"""Members of tarballs: found, refused, damaged."""

import tarfile
import zipfile

import pytest

from jaxlab.core.errors import InputError
from jaxlab.data.packages import archives
from tests.data import small_packages

FILES = {'package/a.json': b'[1]', 'package/b.bin': bytes(range(256)) * 400}


@pytest.mark.parametrize('mode', ['w:', 'w:gz', 'w:xz', 'w:bz2'])
def test_member_is_read_by_its_exact_name(tmp_path, mode):
  archive = tmp_path / 'x.tgz'
  archive.write_bytes(small_packages.tgz(FILES, mode))
  for name, content in FILES.items():
    assert archives.read_member(archive, name) == content
  assert archives.read_member(str(archive), 'package/a.json') == b'[1]'
  for near in ('a.json', './package/a.json', 'package/A.json', 'package'):
    with pytest.raises(InputError, match='has no member'):
      archives.read_member(archive, near)
  assert [path.name for path in tmp_path.iterdir()] == ['x.tgz']


def test_only_regular_files_are_read(tmp_path):
  archive = tmp_path / 'x.tgz'
  (tmp_path / 'secret').write_bytes(b'secret')
  kinds = {
    'link': tarfile.SYMTYPE,
    'hard': tarfile.LNKTYPE,
    'pipe': tarfile.FIFOTYPE,
    'folder': tarfile.DIRTYPE,
  }
  archive.write_bytes(
    small_packages.tgz({k: (kind, '../secret') for k, kind in kinds.items()})
  )
  for name in kinds:
    with pytest.raises(InputError, match=f"'{name}' is not a regular file"):
      archives.read_member(archive, name)


@pytest.mark.parametrize('mode', ['w:', 'w:gz', 'w:xz'])
@pytest.mark.parametrize('kept', [0, 0.3, 0.6])
def test_cut_off_archive_is_damaged(tmp_path, mode, kept):
  whole = small_packages.tgz(FILES, mode)
  archive = tmp_path / 'x.tgz'
  # The two zero blocks and padding that end a plain tar are not content.
  archive.write_bytes(whole[: int(len(whole) * kept)])
  with pytest.raises(InputError, match=r'x\.tgz is damaged.*delete it and run'):
    archives.read_member(archive, 'package/b.bin')


def test_flipped_bytes_and_other_files_are_damaged(tmp_path):
  whole = bytearray(small_packages.tgz(FILES))
  whole[40:60] = bytes(20)
  for content in (bytes(whole), b'<html>no such page</html>' * 50):
    archive = tmp_path / 'x.tgz'
    archive.write_bytes(content)
    with pytest.raises(InputError, match='is damaged'):
      archives.read_member(archive, 'package/b.bin')


def test_an_encrypted_member_is_named(tmp_path):
  path = tmp_path / 'a.zip'
  with zipfile.ZipFile(path, 'w') as files:
    files.writestr('x/secret', b'1')
  data = bytearray(path.read_bytes())
  data[6] |= 1  # of the local header, then of the directory
  data[data.index(b'PK\1\2') + 8] |= 1
  path.write_bytes(data)
  for read, name in (
    (archives.read_member, 'x/secret'),
    (archives.read_members, 'x/'),
  ):
    with pytest.raises(
      InputError, match=r"a\.zip is damaged \('x/secret' is en"
    ):
      read(path, name)


def test_absent_archive_is_named(tmp_path):
  with pytest.raises(InputError, match=r'absent\.tgz does not exist'):
    archives.read_member(tmp_path / 'absent.tgz', 'package/a.json')
