"""Checkpoints: when, whole or not at all, checked, on any mesh."""

import gc
import json
import shutil
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from jaxlab.core.errors import InputError
from jaxlab.core.update import create_state, minimise
from jaxlab.engine import loop, mesh, partition
from jaxlab.engine.checkpoint import Checkpoints, Policy
from jaxlab.engine.fingerprint import state_sha256
from tests.engine import toys

# The reads that a failing restore leaves behind are Orbax's own affair.
pytestmark = pytest.mark.filterwarnings(
  'ignore::pytest.PytestUnraisableExceptionWarning'
)
_SHARDED = (('/w$', PartitionSpec('data')), ('.*', PartitionSpec()))


def _devices(count):
  return mesh.make(devices=jax.devices()[:count])


def _state(count=1, seed=0, **more):
  """A State on `count` devices with leaves of all sorts."""
  rng = np.random.default_rng(seed)
  net = {
    'w': jnp.asarray(rng.normal(size=(16, 32)), jnp.float32),
    'half': jnp.asarray(rng.normal(size=(5,)), jnp.bfloat16),
    'none': jnp.zeros((0, 3)),
    **more,
  }
  update = minimise(toys.squares, 'net', optax.adam(1e-2))
  seen = {
    'bits': jnp.asarray(rng.integers(256, size=20_000), jnp.uint8),
    'seen': jnp.asarray(rng.integers(99, size=7)),
    'yes': jnp.ones(2, bool),
  }
  state = create_state({'net': net}, update, vars=seen)
  layout = partition.shardings(state, _devices(count), _SHARDED)
  return jax.device_put(state, layout)


def _like(state):
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    state,
  )


def _steps(folder):
  return sorted(int(path.name) for path in folder.iterdir())


@pytest.fixture(autouse=True)
def collected():
  yield
  gc.collect()  # within the filter above


@pytest.fixture(scope='module')
def two_saved(tmp_path_factory):
  """A folder with steps 3 and 6, of seeds 3 and 6."""
  folder = tmp_path_factory.mktemp('two')
  kept = Checkpoints(folder, Policy())
  for step in (3, 6):
    kept.save(_state(seed=step), step, {'note': 'x'})
  kept.close()
  return folder


@pytest.fixture
def opened(two_saved, tmp_path):
  """Opens a copy of `two_saved`, after `spoil(folder)`."""
  open_ones = []

  def open_copy(spoil=lambda folder: None):
    folder = tmp_path / f'copy{len(open_ones)}'
    shutil.copytree(two_saved, folder)
    spoil(folder)
    open_ones.append(Checkpoints(folder, Policy()))
    return open_ones[-1]

  yield open_copy
  for kept in open_ones:
    kept.close()


def test_every_n_steps_stay_for_good_and_every_m_seconds_roll(tmp_path):
  now = [0.0]
  policy = Policy(every_steps=5, every_seconds=4, keep=2, clock=lambda: now[0])
  kept = Checkpoints(tmp_path, policy)
  saved = []
  for step in range(20):  # a second a step
    now[0] = float(step)
    if policy.due(step):
      kept.save(_state(), step, {})
      saved.append(step)
  kept.close()
  # Each save starts the seconds anew: 0, +4, 5, +4, 10, …
  assert saved == [0, 4, 5, 9, 10, 14, 15, 19]
  assert _steps(tmp_path) == [0, 5, 10, 15, 19]


def test_only_the_newest_stay_where_no_step_is_kept_for_good(tmp_path):
  kept = Checkpoints(tmp_path, Policy(keep=2))
  for step in range(5):
    kept.save(_state(), step, {})
  kept.close()
  assert _steps(tmp_path) == [3, 4]


def test_a_policy_of_zeros_is_never_due():
  policy = Policy(0, 0.0, clock=iter([0.0, 1e9, 2e9]).__next__)
  assert not any(policy.due(step) for step in range(1000))


def test_a_step_comes_back_bit_by_bit_with_what_is_said_of_it(opened):
  kept = opened()
  state = _state(seed=6)
  found, about = kept.restore(_like(state), 6)
  assert kept.latest() == 6
  chex.assert_trees_all_equal_structs(found, state)
  chex.assert_trees_all_equal_shapes_and_dtypes(found, state)
  chex.assert_trees_all_equal(found, state)
  assert found.params['net']['half'].dtype == jnp.bfloat16
  assert found.params['net']['none'].shape == (0, 3)
  assert (about['note'], about['step']) == ('x', 6)


def test_a_full_disk_leaves_earlier_checkpoints_intact(opened, monkeypatch):
  kept = opened()
  monkeypatch.setattr(
    shutil, 'disk_usage', lambda folder: SimpleNamespace(free=2**20)
  )
  with pytest.raises(InputError, match='20 MiB needed, 1 MiB free; free space'):
    # 1.2 x 3 MiB of parameters and Adam's moments, and 16 MiB of slack.
    kept.save(_state(big=jnp.zeros((2**18,))), 9, {})
  monkeypatch.undo()
  assert _steps(kept.folder) == [3, 6]
  state = _state(seed=6)
  chex.assert_trees_all_equal(kept.restore(_like(state), 6)[0], state)


def test_a_disk_that_fills_while_writing_is_an_input_error(opened, monkeypatch):
  kept = opened()

  def full():
    raise OSError(28, 'No space left on device')

  with monkeypatch.context() as patch:
    patch.setattr(kept._manager, 'wait_until_finished', full)
    with pytest.raises(InputError, match=r'No space left.*free space'):
      kept.wait()


def _check_damaged(kept, step, older):
  with pytest.raises(InputError) as caught:
    kept.restore(_like(_state()), step)
  message = str(caught.value)
  assert f'checkpoint {kept.folder / str(step)} is damaged' in message
  assert f'remove that folder to go on from step {older}' in message
  return message


def test_a_truncated_file_is_damage_with_a_cure(opened, two_saved):
  names = [
    path.relative_to(two_saved)
    for path in sorted((two_saved / '6' / 'state').rglob('*'))
    if path.is_file() and path.parent.name == 'd'
  ]
  refused = 0
  for name in names:

    def cut(folder, name=name):
      data = (folder / name).read_bytes()
      (folder / name).write_bytes(data[: len(data) // 2])

    kept = opened(cut)
    try:
      found, _ = kept.restore(_like(_state()), 6)
    except InputError:
      _check_damaged(kept, 6, older=3)
      refused += 1
    else:  # a file that nothing needs any more
      chex.assert_trees_all_equal(found, _state(seed=6))
  assert names and refused


def test_a_flipped_bit_that_orbax_does_not_see_is_noticed(opened):
  # Many random bytes: not compressed, nor under the checksum of an index.
  needle = np.asarray(_state(seed=6).vars['bits']).tobytes()[100:132]
  flipped = []

  def flip(folder):
    for path in (folder / '6' / 'state').rglob('*'):
      data = bytearray(path.read_bytes()) if path.is_file() else bytearray()
      at = data.find(needle)
      if at >= 0:
        data[at + 7] ^= 4
        path.write_bytes(data)
        flipped.append(path)

  kept = opened(flip)
  assert flipped
  message = _check_damaged(kept, 6, older=3)
  assert 'its SHA-256 is not the recorded one' in message
  state = _state(seed=3)
  chex.assert_trees_all_equal(kept.restore(_like(state), 3)[0], state)


def test_a_flipped_bit_anywhere_gives_the_same_state_or_is_refused(
  opened, two_saved
):
  files = [
    path.relative_to(two_saved)
    for path in sorted((two_saved / '6' / 'state').rglob('*'))
    if path.is_file() and path.parent.name == 'd'
  ]
  rng = np.random.default_rng(0)
  outcomes = []
  for _ in range(20):

    def flip(folder):
      path = folder / files[rng.integers(len(files))]
      data = bytearray(path.read_bytes())
      data[rng.integers(len(data))] ^= 1 << rng.integers(8)
      path.write_bytes(data)

    try:
      found, _ = opened(flip).restore(_like(_state()), 6)
      chex.assert_trees_all_equal(found, _state(seed=6))
      outcomes.append('same')
    except InputError:
      outcomes.append('refused')
  assert 'refused' in outcomes


@pytest.mark.parametrize('lost', ['about', 'about/metadata', 'state'])
def test_a_missing_part_is_damage_with_a_cure(opened, lost):
  def remove(folder):
    path = folder / '6' / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()

  _check_damaged(opened(remove), 6, older=3)


def test_a_mangled_about_is_damage_with_a_cure(opened):
  def mangle(folder):
    path = folder / '6' / 'about' / 'metadata'
    path.write_text(path.read_text()[:-9])

  _check_damaged(opened(mangle), 6, older=3)


def test_an_about_without_its_sha256_is_damage_with_a_cure(opened):
  def drop(folder):
    path = folder / '6' / 'about' / 'metadata'
    about = json.loads(path.read_text())
    del about['state_sha256']
    path.write_text(json.dumps(about))

  _check_damaged(opened(drop), 6, older=3)


def test_the_only_checkpoint_damaged_means_from_step_0(opened):
  def spoil(folder):
    shutil.rmtree(folder / '3')
    shutil.rmtree(folder / '6' / 'about')

  _check_damaged(opened(spoil), 6, older=0)


def test_a_checkpoint_of_another_model_lists_the_leaves(opened):
  net = {'w': jnp.zeros((16, 8)), 'bias': jnp.zeros(3)}
  update = minimise(toys.squares, 'net', optax.sgd(1e-2))
  state = create_state({'net': net}, update)
  other = jax.device_put(state, partition.shardings(state, _devices(1)))
  kept = opened()
  with pytest.raises(InputError) as caught:
    kept.restore(_like(other), 6)
  message = str(caught.value)
  assert f'{kept.folder / "6"} belongs to another model' in message
  assert '"opt/net/0/count" is not in this model' in message
  assert 'more; choose another --workdir' in message

  narrow = _like(_state())
  narrow.params['net']['w'] = other.params['net']['w']
  with pytest.raises(InputError) as caught:
    kept.restore(_like(narrow), 6)
  assert (
    '"params/net/w" is float32(16, 32), the model has float32(16, 8);'
  ) in str(caught.value)

  wider = _like(_state())
  wider.params['net']['bias'] = other.params['net']['bias']
  with pytest.raises(InputError, match=r'"params/net/bias" \(3,\) is missing'):
    kept.restore(_like(wider), 6)

  retyped = _like(_state())
  retyped.params['net']['half'] = jnp.zeros(5)
  with pytest.raises(InputError, match=r'is bfloat16\(5,\), the model has fl'):
    kept.restore(retyped, 6)


def test_a_half_written_checkpoint_is_ignored(opened):
  def half(folder):
    torn = folder / '9.orbax-checkpoint-tmp'
    shutil.copytree(folder / '6' / 'state', torn / 'state.orbax-checkpoint-tmp')

  kept = opened(half)
  assert kept.latest() == 6
  kept.save(_state(seed=9), 9, {})
  kept.wait()
  assert _steps(kept.folder) == [6, 9]
  state = _state(seed=9)
  chex.assert_trees_all_equal(kept.restore(_like(state), 9)[0], state)


def test_the_first_checkpoint_half_written_is_no_checkpoint(tmp_path):
  (tmp_path / 'checkpoints' / '0.orbax-checkpoint-tmp' / 'state').mkdir(
    parents=True
  )
  task = toys.two_optimizers().task
  with pytest.raises(
    InputError, match='holds no checkpoint; remove its report'
  ):
    loop.last_state(task, tmp_path, _devices(1))


def test_a_state_moves_from_eight_devices_to_one_to_four(tmp_path):
  first = state = _state(8)
  assert len(state.params['net']['w'].addressable_shards) == 8
  for step, count in ((1, 1), (2, 4)):
    kept = Checkpoints(tmp_path, Policy())
    kept.save(state, step, {})
    kept.wait()
    wanted = _like(_state(count))
    state, _ = kept.restore(wanted, step)
    kept.close()
    chex.assert_trees_all_equal(state, first)
    for leaf, like in zip(jax.tree.leaves(state), jax.tree.leaves(wanted)):
      assert leaf.sharding == like.sharding
    assert len(state.params['net']['w'].addressable_shards) == count


def test_the_fingerprint_does_not_know_the_devices_but_every_leaf():
  prints = {count: state_sha256(_state(count)) for count in (1, 4, 8)}
  assert len(set(prints.values())) == 1
  tree = {'a': np.arange(6, dtype=np.int32), 'b': np.zeros(())}
  others = [
    {'c': tree['a'], 'b': tree['b']},
    {**tree, 'a': tree['a'].reshape(2, 3)},
    {**tree, 'a': tree['a'].view(np.float32)},
    {**tree, 'a': tree['a'][::-1]},
    {**tree, 'b': -tree['b']},
  ]
  assert len({state_sha256(other) for other in [tree, *others]}) == 6
  assert state_sha256(dict(reversed(tree.items()))) == state_sha256(tree)


def test_saving_a_step_twice_keeps_the_first(opened):
  kept = opened()
  kept.save(_state(seed=7), 6, {})
  kept.wait()
  state = _state(seed=6)
  chex.assert_trees_all_equal(kept.restore(_like(state), 6)[0], state)
