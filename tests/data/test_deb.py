"""Reading Debian packages: names, links, damage, kinds of compression."""

import bz2
import gzip
import io
import lzma
import tarfile

import pytest

from jaxlab.data import deb
from jaxlab.engine.errors import InputError

PACKERS = {
  '': lambda data: data,
  '.gz': gzip.compress,
  '.bz2': bz2.compress,
  '.xz': lzma.compress,
}
FILES = {'usr/share/x/a.txt': b'first', 'usr/share/x/b.bin': b'\0' * 5000}


def make_tar(entries):
  """A tar of names -> bytes, or TarInfo fields for what is no file."""
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode='w') as files:
    for name, content in entries.items():
      info = tarfile.TarInfo(name)
      if isinstance(content, bytes):
        info.size = len(content)
        files.addfile(info, io.BytesIO(content))
      else:
        for field, value in content.items():
          setattr(info, field, value)
        files.addfile(info)
  return buffer.getvalue()


def make_ar(members):
  parts = [b'!<arch>\n']
  for name, data in members.items():
    parts.append(
      f'{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n'.encode()
    )
    parts.append(data + b'\n' * (len(data) % 2))
  return b''.join(parts)


@pytest.fixture
def make_deb(tmp_path):
  """Writes a .deb of the entries and returns its path."""

  def write(entries, suffix='.xz', change=lambda data: data):
    data = make_ar(
      {
        'debian-binary': b'2.0\n',
        'control.tar.xz': lzma.compress(make_tar({'./control': b'odd'})),
        f'data.tar{suffix}': PACKERS.get(suffix, bytes)(make_tar(entries)),
      }
    )
    path = tmp_path / 'thing_1_all.deb'
    path.write_bytes(change(data))
    return path

  return write


def link(target, kind=tarfile.SYMTYPE):
  return {'type': kind, 'linkname': target}


@pytest.mark.parametrize('suffix', PACKERS)
def test_files_come_in_order_whatever_packed_them(make_deb, suffix):
  path = make_deb({f'./{name}': data for name, data in FILES.items()}, suffix)
  assert list(deb.read_members(path, lambda name: True)) == list(FILES.items())
  found = deb.read_members(path, lambda name: name.endswith('.txt'))
  assert list(found) == [('usr/share/x/a.txt', b'first')]


def test_folders_are_not_asked_about(make_deb):
  path = make_deb({'./usr': {'type': tarfile.DIRTYPE}, './usr/a': b'1'})
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
def test_names_outside_the_archive_are_refused(make_deb, name):
  path = make_deb({name: b'bad', **FILES})
  with pytest.raises(InputError, match='points outside the archive'):
    list(deb.read_members(path, lambda name: False))


@pytest.mark.parametrize(
  'entry',
  [
    link('b.bin'),
    link('usr/share/x/b.bin', tarfile.LNKTYPE),
    {'type': tarfile.CHRTYPE},
    {'type': tarfile.BLKTYPE},
    {'type': tarfile.FIFOTYPE},
  ],
)
def test_links_and_devices_are_refused_where_they_match(make_deb, entry):
  path = make_deb({**FILES, 'usr/odd': entry})
  with pytest.raises(InputError, match="'usr/odd' is a link or a device"):
    list(deb.read_members(path, lambda name: name == 'usr/odd'))
  found = deb.read_members(path, lambda name: name != 'usr/odd')
  assert dict(found) == FILES


def test_links_are_resolved_within_the_package(make_deb):
  path = make_deb(
    {
      **FILES,
      './usr/share/y/near': link('../x/a.txt'),
      './usr/share/y/far': link('/usr/share/x/b.bin'),
      './usr/share/y/hard': link('./usr/share/x/a.txt', tarfile.LNKTYPE),
    }
  )
  assert deb.read_links(path) == {
    'usr/share/y/near': 'usr/share/x/a.txt',
    'usr/share/y/far': 'usr/share/x/b.bin',
    'usr/share/y/hard': 'usr/share/x/a.txt',
  }


@pytest.mark.parametrize(
  'entry',
  [
    link('../../../etc/passwd'),
    link('../../../usr/a'),
    link('/../etc/passwd'),
    link('../../etc/passwd', tarfile.LNKTYPE),
    link('/etc/passwd', tarfile.LNKTYPE),
  ],
)
def test_links_above_the_root_are_refused(make_deb, entry):
  path = make_deb({'usr/share/odd': entry})
  with pytest.raises(InputError, match='points outside the archive'):
    deb.read_links(path)


@pytest.mark.parametrize('suffix', PACKERS)
def test_every_cut_is_noticed(make_deb, suffix):
  whole = make_deb(FILES, suffix).read_bytes()
  for length in [0, 7, 8, 30, 68, 200, len(whole) // 2, len(whole) - 2]:
    path = make_deb(FILES, suffix, lambda data, n=length: data[:n])
    with pytest.raises(InputError, match=r'damaged|not a Debian package'):
      list(deb.read_members(path, lambda name: True))


def test_a_flipped_bit_is_noticed(make_deb):
  size = len(make_deb(FILES).read_bytes())
  packed = len(lzma.compress(make_tar(FILES)))
  for at in range(size - packed, size - 1, 7):

    def flip(data, at=at):
      changed = bytearray(data)
      changed[at] ^= 4
      return bytes(changed)

    with pytest.raises(InputError, match='damaged'):
      list(deb.read_members(make_deb(FILES, change=flip), lambda name: False))


def test_other_files_are_told_from_packages(make_deb, tmp_path):
  with pytest.raises(InputError, match=r'cannot read .*No such file'):
    list(deb.read_members(tmp_path / 'absent.deb', bool))
  with pytest.raises(InputError, match=r'cannot read .*Is a directory'):
    list(deb.read_members(tmp_path, bool))
  path = tmp_path / 'page.deb'
  path.write_bytes(b'<html>not found</html>')
  with pytest.raises(InputError, match='is no ar archive'):
    list(deb.read_members(path, bool))
  path.write_bytes(make_ar({'debian-binary': b'2.0\n'}))
  with pytest.raises(InputError, match=r'no data\.tar'):
    list(deb.read_members(path, bool))
  with pytest.raises(InputError, match=r'data\.tar\.zst is packed in a way'):
    list(deb.read_members(make_deb(FILES, '.zst'), bool))
