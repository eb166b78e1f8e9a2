"""Foreign pickles: what is read, what is refused, what damage does."""

import collections
import contextlib
import io
import itertools
import os
import pickle
import time
import zipfile

import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.data import growth
from jaxlab.data.packages import pickles, torch_pickles
from jaxlab.data.packages.pickles import Record, read_pickle
from jaxlab.data.packages.torch_pickles import read_torch_pickle

RNG = np.random.default_rng(0)
ARRAYS = {
  'matrix': RNG.standard_normal((2, 3)).astype('f4'),
  'fortran': np.asfortranarray(np.arange(6).reshape(2, 3)),
  'big_endian': np.arange(3, dtype='>i2'),
  'empty': np.zeros((0, 4)),
  'nothing': np.array(7, 'u1'),
  'text': np.array(['ab', 'c']),
  'bytes': np.array([b'x', b'yz']),
  'flags': np.array([True, False]),
  'complex': np.array([1 + 2j], 'c8'),
  'scalar': np.float32(3.5),
}


SELF = np.empty(1, object)
SELF[0] = SELF


class Calls:
  """Pickles to a call of any function."""

  def __init__(self, function, *args, state=None):
    self.reduced = (function, args, state)

  def __reduce__(self):
    return self.reduced


def rebuilt(shape, dtype, data, version=(1,)):
  """Pickles to what an array does, with a state that may be wrong."""
  start = np.zeros(1).__reduce__()
  return Calls(start[0], *start[1], state=(*version, shape, dtype, False, data))


@pytest.mark.parametrize('protocol', range(6))
def test_arrays_of_every_protocol_are_read_bitwise(protocol):
  found = read_pickle(pickle.dumps(ARRAYS, protocol=protocol))
  assert list(found) == list(ARRAYS)
  for name, array in ARRAYS.items():
    assert type(found[name]) is type(array), name
    assert found[name].dtype == array.dtype, name
    assert found[name].shape == array.shape, name
    assert found[name].tobytes() == array.tobytes(), name
  assert found['fortran'].flags.f_contiguous
  found['matrix'][0] = 0  # the reader's own memory


@pytest.mark.parametrize('protocol', range(6))
def test_plain_values_are_read(protocol):
  value = {'a': [1, -2.5, None, True], ('b', 2): 'ü', 'c': (b'\xff\0', 10**30)}
  ordered = collections.OrderedDict(value)
  for given in (value, ordered):
    found = read_pickle(pickle.dumps(given, protocol=protocol))
    assert found == value
    assert type(found) is dict
  if protocol > 3:  # before, they are calls
    sets = [{1, ('a', 2)}, frozenset([b'x', 3])]
    found = read_pickle(pickle.dumps(sets, protocol=protocol))
    assert found == sets and [type(x) for x in found] == [set, frozenset]


def test_what_is_shared_and_circular_stays_so():
  array, loop = np.arange(3), []
  loop.append(loop)
  first, second, around = read_pickle(pickle.dumps([array, array, loop]))
  assert first is second
  assert around[0] is around
  laughs = ['ha']
  for _ in range(60):  # 2^60 if each were copied
    laughs = [laughs, laughs]
  assert len(read_pickle(pickle.dumps(laughs))) == 2


def test_strings_and_bytes_of_python_2_are_read():
  # {'w': array([1., 2.], '<f4')} as Python 2 wrote it.
  data = (
    b'\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n'
    b'K\x00\x85U\x01b\x87R(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R'
    b'(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89'
    b'U\x08\x00\x00\x80?\x00\x00\x00@tbs.'
  )
  found = read_pickle(data)
  np.testing.assert_array_equal(found['w'], np.array([1, 2], 'f4'))


def test_object_arrays_are_read_also_out_of_npy_files(tmp_path):
  array = np.empty((2, 2), object)
  array[0, 0], array[0, 1] = {'a': np.arange(2)}, [1, 2]
  array[1, 0], array[1, 1] = np.array([None, 'x'], object), None
  for path, save in (
    (tmp_path / 'x.npy', lambda p: np.save(p, array, allow_pickle=True)),
    (tmp_path / 'x.pkl', lambda p: p.write_bytes(pickle.dumps(array))),
  ):
    save(path)
    found = read_pickle(path)
    assert found.shape == (2, 2) and found.dtype == object
    np.testing.assert_array_equal(found[0, 0]['a'], [0, 1])
    assert found[0, 1] == [1, 2] and found[1, 1] is None
    assert found[1, 0].tolist() == [None, 'x']
  np.save(tmp_path / 'plain.npy', np.arange(3))
  with pytest.raises(InputError, match=r'plain\.npy .*int64 needs no pickle'):
    read_pickle(tmp_path / 'plain.npy')


GLOBALS = (
  b"cos\nsystem\n(S'touch {}'\ntR.",
  b"(S'touch {}'\nios\nsystem\n.",
  b"(cos\nsystem\nS'touch {}'\no.",
  b'\x80\x02cposix\nsystem\nX\x00\x00\x00\x00\x85R.',
  b"c__builtin__\neval\n(S'1'\ntR.",
  b"cbuiltins\nexec\n(S'1'\ntR.",
  b'\x80\x04\x8c\x08builtins\x8c\x07getattr\x93.',
  b'\x80\x02cnumpy\nload\n.',
  b'\x80\x04\x8c\x05numpy\x8c\x14core.multiarray.load\x93.',
  b'\x80\x02ctorch\nload\n.',
  b'\x80\x02cjaxlab.data.pickles\nos.system\n.',
  b'\x80\x02cigraph\nGraph.Read\n.',
)


@pytest.mark.parametrize('program', GLOBALS)
def test_foreign_globals_are_refused_and_not_run(program, tmp_path):
  touched = tmp_path / 'touched'
  data = program.replace(b'{}', str(touched).encode())
  for read in (
    lambda: read_pickle(data, allow=['igraph.Graph'], what='evil.pkl'),
    lambda: read_torch_pickle(torch_zip(data), 'evil.pkl'),
  ):
    with pytest.raises(InputError, match=r'evil\.pkl asks to import .*refused'):
      read()
  assert not touched.exists()


@pytest.mark.parametrize('protocol', range(6))
def test_a_call_hidden_in_an_array_is_refused_and_not_run(protocol, tmp_path):
  touched = tmp_path / 'touched'
  hidden = np.array([{'x': Calls(os.system, f'touch {touched}')}], object)
  data = pickle.dumps([ARRAYS, hidden], protocol=protocol)
  with pytest.raises(InputError, match=r'posix\.system.*safetensors'):
    read_pickle(data)
  assert not touched.exists()
  pickle.loads(data)  # it would have been run
  assert touched.exists()


def test_allowed_names_are_recorded_and_not_imported():
  data = (
    b'\x80\x02]cigraph\nGraph\nK\x03]K\x01a\x86R}X\x01\x00\x00\x00kK\x02sba'
    b'cigraph\nGraph\n)\x81a.'
  )
  called, made = read_pickle(data, allow=['igraph.Graph'])
  assert isinstance(called, Record) and called.name == 'igraph.Graph'
  assert called.args == (3, [1]) and called.state == {'k': 2}
  assert made.args == () and made.state is None
  with pytest.raises(InputError, match=r'igraph\.Graph, which is refused'):
    read_pickle(data, allow=['igraph.Vertex'])


def test_arrays_within_records_are_built():
  inner = pickle.dumps(np.arange(3), protocol=2)[2:-1]
  data = b'\x80\x02cfoo\nBar\n' + inner + b'\x85R' + inner + b'b.'
  found = read_pickle(data, allow=['foo.Bar'])
  np.testing.assert_array_equal(found.args[0], [0, 1, 2])
  np.testing.assert_array_equal(found.state, [0, 1, 2])


def test_no_stand_in_can_be_changed_by_a_pickle():
  # BUILD could set attributes of functions, classes and instances.
  known = {**torch_pickles._KNOWN, 'foo.Bar': Record}
  for name, stand_in in known.items():
    module, _, attribute = name.rpartition('.')
    named = b'c' + module.encode() + b'\n' + attribute.encode() + b'\n'
    before = dict(getattr(stand_in, '__dict__', {}))
    for state in (
      b'}X\x05\x00\x00\x00buildK\x01s',
      b'N}X\x04\x00\x00\x00nameNs\x86',
    ):
      for made in (b'', b')\x81'):
        data = b'\x80\x02' + named + made + state + b'b.'
        for read in (
          lambda data=data: read_torch_pickle(torch_zip(data)),
          lambda data=data: read_pickle(data, allow=['foo.Bar']),
        ):
          with contextlib.suppress(InputError):
            read()
    assert before == dict(getattr(stand_in, '__dict__', {})), name
  assert read_pickle(pickle.dumps(np.arange(2))).tolist() == [0, 1]


@pytest.mark.parametrize(
  'shape, dtype, data, why',
  [
    ((1000,), 'f4', b'abcd', '4 bytes for float32'),
    ((1,), 'f4', b'abcdefgh', '8 bytes for float32'),
    ((-1,), 'f4', b'', 'shape'),
    ((2.0,), 'f4', b'abcdefgh', 'shape'),
    ((True,), 'f4', b'abcd', 'shape'),
    ([1], 'f4', b'abcd', 'shape'),
    ((2**40, 2**40), 'f4', b'', '0 bytes'),
    ((2,), object, [1], 'not 2 objects'),
    ((1,), object, b'abcdefgh', 'not 1 objects'),
    ((2,), 'f4', [1, 2], 'damaged'),
    ((1,), [('a', 'f4')], b'abcd', 'dtype'),
    ((1,), 'M8[s]', b'abcdefgh', 'dtype'),
  ],
)
def test_arrays_that_do_not_fit_their_bytes_are_refused(
  shape, dtype, data, why
):
  for version in ((1,), ()):
    made = rebuilt(shape, np.dtype(dtype), data, version)
    with pytest.raises(InputError, match=why):
      read_pickle(pickle.dumps(made), what='x')


def test_a_state_that_is_no_dtype_is_refused():
  with pytest.raises(InputError, match='without a dtype'):
    read_pickle(pickle.dumps(rebuilt((1,), 'f4', b'abcd')))


@pytest.mark.parametrize(
  'data',
  [
    b'',
    b'\x80',
    b'hello',
    b'\x80\x02N',
    b'\x80\x02N.more',
    b'\x80\x04\x95\x04\0\0\0\0\0\0\0N.NN',
    b'\x80\x04\x95\x03\0\0\0\0\0\0\0N.',
    b'\x80\x02Nr\xff\xff\xff\xff.',  # room for 4e9 entries
    b'Np99999999\n.',
    b'\x80\x02\x82\x01.',  # the registry of extensions
    b'\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x00.',
    b'\x80\x02]]\x94ah\x07.',
    b'\x80\x05\x97.',  # a buffer out of band
    b'P1\n.',  # a persistent id
    b'\x80\x02}]K\x01s.',  # a list as a key
    pickle.dumps(SELF),
    b'(' * 100_000 + b't' * 100_000 + b'.',
    b']' * 3000 + b'a' * 2999 + b'.',
  ],
  ids=range(18),
)
def test_damage_is_an_input_error_at_once(data):
  start = time.monotonic()
  with pytest.raises(InputError, match=r'some\.pkl is damaged.*fetch'):
    read_pickle(data, what='some.pkl')
  assert time.monotonic() - start < 2


DEEP = b'\x80\x02}' + b'(' * 5_000 + b't' * 5_000 + b'K\x01s.'
# A tuple of the tuple before, twice, over and over: 2**22 to be hashed.
WIDE = b'\x80\x04})' + b''.join(b'q%ch%c\x86' % (i, i) for i in range(22))
LONG = b'T' + (10_000).to_bytes(4, 'little') + b'a' * 10_000 + b'q\x010'


@pytest.mark.parametrize(
  ('data', 'words'),
  [
    (DEEP, 'more than 200 deep'),
    (WIDE + b'K\x01s.', 'would take more than'),
    (WIDE[:3] + b'(' + WIDE[3:] + b'K\x01u.', 'would take more than'),
    (b'(' + WIDE[3:] + b'K\x01d.', 'would take more than'),
    (WIDE[:2] + b'\x8f(' + WIDE[3:] + b'\x90.', 'would take more than'),
    (WIDE[:2] + b'(' + WIDE[3:] + b'\x91.', 'would take more than'),
    (
      b'ccollections\nOrderedDict\n(](' + WIDE[3:] + b'NtatR.',
      'would take more than',
    ),
    # The same bytes as the state of a thousand arrays.
    (
      b'\x80\x02(cnumpy.core.multiarray\n_reconstruct\nq\x000'
      b'cnumpy\ndtype\n(X\x02\x00\x00\x00f4tR(K\x03X\x01\x00\x00\x00<NNNtbq\x020'
      + LONG
      + b'h\x00)R(K\x01M\xc4\x09\x85h\x02\x89h\x01tb' * 1000
      + b'l.',
      'would take more than',
    ),
    # The same as the argument of a thousand calls.
    (
      b'\x80\x02(c_codecs\nencode\nq\x000X\x06\x00\x00\x00latin1q\x020'
      + LONG
      + b'h\x00h\x01h\x02\x86R' * 1000
      + b'l.',
      'would take more than',
    ),
    (WIDE + b'Q.', 'refers to data outside itself'),
  ],
  ids=[
    *('deep', 'wide', 'wide pairs', 'wide dict', 'wide set', 'wide frozen'),
    *('wide ordered', 'copies', 'calls', 'shown'),
  ],
)
def test_a_small_pickle_cannot_crash_hang_or_fill_the_memory(
  data, words, monkeypatch
):
  monkeypatch.setattr(growth, '_ANY', 2**20)
  with pytest.raises(InputError, match=words):
    read_pickle(data)


@pytest.mark.parametrize('protocol', [0, 2, 5])
def test_cut_off_and_changed_bytes_raise_nothing_but_input_errors(protocol):
  data = pickle.dumps(
    [ARRAYS['matrix'], {'k': (1, None)}, ARRAYS['scalar']], protocol=protocol
  )
  for end in range(len(data)):
    with pytest.raises(InputError):
      read_pickle(data[:end])
  refused = 0
  for i, flip in itertools.product(range(len(data)), (1, 0x10, 0x80, 0xFF)):
    changed = data[:i] + bytes([data[i] ^ flip]) + data[i + 1 :]
    try:
      read_pickle(changed)
    except InputError:
      refused += 1
  assert refused > len(data)


def test_a_file_that_is_not_there_is_named(tmp_path):
  for read in (read_pickle, read_torch_pickle):
    with pytest.raises(InputError, match=r'cannot read .*none\.pkl \(No such'):
      read(tmp_path / 'none.pkl')


# torch's files, made without torch.


def dump(value):
  return pickle.dumps(value, protocol=2)[2:-1]


def tensor(
  count=6,
  offset=0,
  shape=(2, 3),
  strides=(3, 1),
  key='0',
  kind='FloatStorage',
  view=b'',
  rest=b'',
):
  """Opcodes of one tensor of torch."""
  return (
    b'ctorch._utils\n_rebuild_tensor_v2\n(('
    + dump('storage')
    + f'ctorch\n{kind}\n'.encode()
    + dump(key)
    + dump('cpu')
    + dump(count)
    + view
    + b'tQ'
    + dump(offset)
    + dump(shape)
    + dump(strides)
    + b'\x89}'
    + rest
    + b'tR'
  )


def torch_zip(program, storages=(), order=b'little'):
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w') as files:
    files.writestr('archive/data.pkl', program)
    files.writestr('archive/byteorder', order)
    for key, array in dict(storages).items():
      files.writestr(f'archive/data/{key}', array.tobytes())
  return file.getvalue()


def torch_legacy(program, storages=(), little=True):
  system = {'protocol_version': 1001, 'little_endian': little}
  data = b''.join(
    pickle.dumps(x, protocol=2) for x in (0x1950A86A20F9469CFC6C, 1001, system)
  )
  data += program + pickle.dumps([*dict(storages)], protocol=2)
  for array in dict(storages).values():
    data += array.size.to_bytes(8, 'little') + array.tobytes()
  return data


SIX = {'0': np.arange(6, dtype='<f4')}


@pytest.mark.parametrize('write', [torch_zip, torch_legacy])
def test_strides_offsets_and_shared_storages_are_followed(write):
  program = (
    b'\x80\x02}('
    + dump('whole')
    + tensor()
    + dump('turned')
    + tensor(shape=(3, 2), strides=(1, 3))
    + dump('every_other')
    + tensor(offset=1, shape=(3,), strides=(2,))
    + dump('repeated')
    + tensor(shape=(2, 3), strides=(0, 1))
    + dump('number')
    + tensor(offset=5, shape=(), strides=())
    + dump('empty')
    + tensor(offset=6, shape=(0, 3), strides=(3, 1))
    + b'u.'
  )
  found = read_torch_pickle(write(program, SIX))
  whole = np.arange(6, dtype='f4').reshape(2, 3)
  np.testing.assert_array_equal(found['whole'], whole)
  np.testing.assert_array_equal(found['turned'], whole.T)
  np.testing.assert_array_equal(found['every_other'], [1, 3, 5])
  np.testing.assert_array_equal(found['repeated'], [[0, 1, 2]] * 2)
  assert found['number'].shape == () and found['number'] == 5
  assert found['empty'].shape == (0, 3)
  assert not found['whole'].flags.writeable


@pytest.mark.parametrize('write', [torch_zip, torch_legacy])
@pytest.mark.parametrize(
  'fields',
  [
    {'offset': 1},
    {'offset': -1},
    {'offset': 10**18},
    {'shape': (7,), 'strides': (1,)},
    {'shape': (2, 3), 'strides': (4, 1)},
    {'shape': (2, 3), 'strides': (-3, 1), 'offset': 3},
    {'shape': (2,), 'strides': (2**62,)},
    {'shape': (10**9,), 'strides': (0,)},  # memory for whoever copies it
    {'shape': (-1,), 'strides': (1,)},
    {'shape': (6,), 'strides': ()},
    {'shape': (), 'strides': (1,)},
    {'shape': [6], 'strides': [1]},
    {'shape': (6.0,), 'strides': (1,)},
    {'count': 5},
    {'count': 7},
    {'count': -6},
    {'count': 2**61},
    {'kind': 'DoubleStorage'},
    {'kind': 'HalfStorage'},
    {'key': '../secret'},
    {'key': 'byteorder'},
    {'rest': b'}X\x04\x00\x00\x00conj\x88s'},  # a conjugate view
    {'view': b'(K\x00K\x00t'},
  ],
  ids=str,
)
def test_tensors_beyond_their_storage_are_refused(fields, write):
  data = write(b'\x80\x02' + tensor(**fields) + b'.', SIX)
  with pytest.raises(InputError, match=r'bad\.pth is damaged'):
    read_torch_pickle(data, 'bad.pth')


@pytest.mark.parametrize('write', [torch_zip, torch_legacy])
def test_cut_off_and_changed_torch_files_raise_nothing_but_input_errors(write):
  data = write(b'\x80\x02}' + dump('w') + tensor() + b's.', SIX)
  assert list(read_torch_pickle(data)) == ['w']
  for end in range(len(data)):
    with pytest.raises(InputError):
      read_torch_pickle(data[:end])
  refused = 0
  for i, flip in itertools.product(range(len(data)), (1, 0x80)):
    changed = data[:i] + bytes([data[i] ^ flip]) + data[i + 1 :]
    try:
      read_torch_pickle(changed)
    except InputError:
      refused += 1
  assert refused > len(data) // 2


def test_torch_files_of_other_machines_and_other_zips_are_told_apart():
  program = b'\x80\x02' + tensor() + b'.'
  for data in (
    torch_zip(program, SIX, order=b'big'),
    torch_legacy(program, SIX, little=False),
  ):
    with pytest.raises(InputError, match='big-endian'):
      read_torch_pickle(data)
  file = io.BytesIO()
  np.savez(file, x=np.arange(3))
  with pytest.raises(InputError, match=r'holds no data\.pkl of torch'):
    read_torch_pickle(file.getvalue())
  with pytest.raises(InputError, match=r'not what torch\.save writes'):
    read_torch_pickle(pickle.dumps({'a': 1}))


@pytest.mark.parametrize('zipped', [True, False])
def test_every_tensor_equals_what_torch_reads(zipped):
  torch = pytest.importorskip('torch', reason='needs torch: .[bench]')
  torch.manual_seed(0)
  base = torch.randn(4, 6)
  floats = ('float64', 'float32', 'float16', 'bfloat16', 'complex64')
  whole = ('int64', 'int32', 'int16', 'int8', 'uint8', 'bool', 'uint16')
  tree = {
    **{name: base.to(getattr(torch, name)) for name in floats},
    **{name: (base > 0).to(getattr(torch, name)) for name in whole},
    'turned': base.T,
    'cut': base[1:3, ::2],
    'parameter': torch.nn.Parameter(base[2]),
    'empty': torch.zeros(0, 3),
    'number': torch.tensor(2.5),
    'net': torch.nn.BatchNorm2d(3).state_dict(),
    'list': [base, (1, 'x', None, torch.Size([1, 2]))],
  }
  file = io.BytesIO()
  torch.save(tree, file, _use_new_zipfile_serialization=zipped)
  found = read_torch_pickle(file.getvalue())
  assert list(found) == list(tree)
  flat = {**found, **found.pop('net'), 'base': found['list'][0]}
  theirs = {**tree, **tree['net'], 'base': base}
  assert found['list'][1] == (1, 'x', None, (1, 2))
  compared = 0
  for name, array in flat.items():
    if isinstance(array, np.ndarray):
      want = theirs[name].detach()
      assert array.dtype.name == str(want.dtype).removeprefix('torch.')
      want = want.double() if name == 'bfloat16' else want
      np.testing.assert_array_equal(array.astype(want.numpy().dtype), want)
      compared += 1
  assert compared == 12 + 5 + 5 + 1
  assert found['turned'].strides == (4, 24)


@pytest.mark.parametrize('zipped', [True, False])
def test_a_pickled_torch_module_is_refused_with_the_cure(zipped):
  torch = pytest.importorskip('torch', reason='needs torch: .[bench]')
  file = io.BytesIO()
  torch.save(torch.nn.Linear(2, 2), file, _use_new_zipfile_serialization=zipped)
  with pytest.raises(InputError, match=r'Linear.*model\.state_dict'):
    read_torch_pickle(file.getvalue())


def test_notes_that_were_never_resolved_are_not_returned():
  # A storage on its own, outside of any tensor.
  storage = tensor()
  start, end = storage.index(b'((') + 1, storage.index(b'tQ') + 2
  data = torch_zip(b'\x80\x02' + storage[start:end] + b'.', SIX)
  with pytest.raises(InputError, match='damaged'):
    read_torch_pickle(data)
  with pytest.raises(InputError, match='damaged'):
    pickles.read_pickle(b'\x80\x02cnumpy\ndtype\n.')
