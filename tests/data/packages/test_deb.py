"""Reading Debian packages: names, links, damage, kinds of compression."""

import lzma
import tarfile

import pytest

from jaxlab.core.errors import InputError
from jaxlab.data.packages import deb
from tests.data import small_packages

FILES = {'usr/share/x/a.txt': b'first', 'usr/share/x/b.bin': b'\0' * 5000}


@pytest.fixture
def make_deb(tmp_path):
  """Writes a .deb of the entries and returns its path."""

  def write(entries, suffix='.xz'):
    path = tmp_path / 'thing_1_all.deb'
    path.write_bytes(small_packages.deb(entries, suffix))
    return path

  return write


def test_files_come_in_order(make_deb):
  path = make_deb(FILES)
  assert list(deb.read_members(path, lambda name: True)) == list(FILES.items())
  found = deb.read_members(path, lambda name: name.endswith('.txt'))
  assert list(found) == [('usr/share/x/a.txt', b'first')]


def test_folders_are_not_asked_about(make_deb):
  path = make_deb({'usr': (tarfile.DIRTYPE, ''), 'usr/a': b'1'})
  asked = []
  list(deb.read_members(path, lambda name: bool(asked.append(name))))
  assert asked == ['usr/a']


def test_long_names_are_whole(make_deb):
  name = 'usr/' + 'long/' * 60 + 'a'
  assert dict(deb.read_members(make_deb({name: b'1'}), bool)) == {name: b'1'}


def test_named_files_must_be_there(make_deb):
  path = make_deb(FILES)
  assert deb.read_files(path, ['usr/share/x/a.txt']) == {
    'usr/share/x/a.txt': b'first'
  }
  with pytest.raises(InputError, match='has no file usr/c, usr/d'):
    deb.read_files(path, ['usr/d', 'usr/share/x/a.txt', 'usr/c'])


@pytest.mark.parametrize(
  'name',
  ['/etc/passwd', '../up', './usr/../../up', '\\up', 'usr\\..\\up', 'c:/x'],
)
def test_names_outside_the_archive_are_refused(tmp_path, name):
  path = tmp_path / 'thing.deb'
  packed = lzma.compress(small_packages.tgz({name: b'bad', **FILES}, 'w:'))
  path.write_bytes(small_packages.ar({'data.tar.xz': packed}))
  with pytest.raises(InputError, match='points outside the archive'):
    list(deb.read_members(path, lambda name: False))


@pytest.mark.parametrize(
  'entry',
  [
    'b.bin',
    (tarfile.LNKTYPE, 'usr/share/x/b.bin'),
    (tarfile.CHRTYPE, ''),
    (tarfile.FIFOTYPE, ''),
  ],
)
def test_links_and_devices_are_refused_where_they_match(make_deb, entry):
  path = make_deb({**FILES, 'usr/odd': entry})
  with pytest.raises(InputError, match="'usr/odd' is a link or a device"):
    list(deb.read_members(path, lambda name: name == 'usr/odd'))
  found = deb.read_members(path, lambda name: name != 'usr/odd')
  assert dict(found) == FILES


def test_links_are_skipped_where_that_is_asked(make_deb):
  path = make_deb(
    {
      **FILES,
      'usr/share/y/far': '/etc/passwd',
      'usr/share/y/hard': (tarfile.LNKTYPE, './usr/share/x/a.txt'),
    }
  )
  found = deb.read_members(path, lambda name: True, skip_links=True)
  assert list(found) == list(FILES.items())
  odd = make_deb({'usr/odd': (tarfile.CHRTYPE, '')})
  with pytest.raises(InputError, match="'usr/odd' is a link or a device"):
    list(deb.read_members(odd, lambda name: True, skip_links=True))


def test_every_cut_is_noticed(make_deb):
  path = make_deb(FILES)
  whole = path.read_bytes()
  for length in [0, 7, 8, 30, 68, 200, len(whole) // 2, len(whole) - 2]:
    path.write_bytes(whole[:length])
    with pytest.raises(InputError, match=r'damaged|not a Debian package'):
      list(deb.read_members(path, lambda name: True))


def test_a_flipped_bit_is_noticed(make_deb):
  path = make_deb(FILES)
  whole = path.read_bytes()
  for at in range(whole.index(b'data.tar.xz') + 60, len(whole) - 1, 7):
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
    with pytest.raises(InputError, match='damaged'):
      list(deb.read_members(path, lambda name: False))


def test_other_files_are_told_from_packages(make_deb, tmp_path):
  with pytest.raises(InputError, match=r'cannot read .*No such file'):
    list(deb.read_members(tmp_path / 'absent.deb', bool))
  with pytest.raises(InputError, match=r'cannot read .*Is a directory'):
    list(deb.read_members(tmp_path, bool))
  path = tmp_path / 'page.deb'
  path.write_bytes(b'<html>not found</html>')
  with pytest.raises(InputError, match='is not an ar archive'):
    list(deb.read_members(path, bool))
  path.write_bytes(small_packages.ar({'debian-binary': b'2.0\n'}))
  with pytest.raises(InputError, match=r'no data\.tar'):
    list(deb.read_members(path, bool))
  for suffix in ('', '.gz', '.zst'):
    with pytest.raises(InputError, match=rf'data\.tar{suffix} is packed in a'):
      list(deb.read_members(make_deb(FILES, suffix), bool))
