"""BERT under LAMB on every layout: the same losses and the same gradients."""

import functools

import jax
import numpy as np
import pytest

from jaxlab.core import keys
from jaxlab.core.errors import InputError
from jaxlab.core.state import paths
from jaxlab.engine import mesh
from jaxlab.engine.checkpoint import Checkpoints, Policy
from jaxlab.engine.compiled import Steps, first_state
from jaxlab.papers.lamb import pretraining
from jaxlab.planning import plan
from jaxlab.runs import stage
from tests.papers.lamb_jobs import config_of

STEPS = 4
LAYOUTS = {
  'data-parallel': ({'data': 8}, 'replicated'),
  'zero1': ({'data': 8}, 'zero1'),
  'zero1 on two axes': ({'replica': 2, 'data': 4}, 'zero1'),
  'fsdp': ({'data': 8}, 'fsdp'),
  'tensor-parallel': ({'data': 4, 'model': 2}, 'replicated'),
  'tensor-parallel zero1': ({'data': 4, 'model': 2}, 'zero1'),
}
# Others cut so, and once more.
CONTAINED = ('data-parallel', 'zero1', 'tensor-parallel')


def tiny(update, **sharding):
  config = config_of('bert_lamb')
  config['data'] |= {
    'vocab_size': 64,
    'batch_size': 16,
    'sequence_length': 16,
    'max_predictions': 3,
  }
  config['model'] |= {
    'hidden_size': 16,
    'num_heads': 2,
    'intermediate_size': 32,
    'max_positions': 16,
    'dropout_rate': 0.1,
  }
  config['optimizer'] |= {'warmup_steps': 2, 'learning_rate': 0.02}
  config['train']['steps'] = 20
  # Small leaves are cut too, or there would be nothing to see.
  config['sharding'] |= {'layout': update, 'min_bytes': 256, **sharding}
  return config


def planned_on(devices, config):
  (only,) = pretraining.program(config)
  return only.plan(stage.Workspace(None, config, devices, 0))


@functools.cache
def first(layers):
  """State before the first update, on the host."""
  config = tiny('replicated')
  config['model']['num_layers'] = layers
  planned = planned_on(mesh.make(devices=jax.devices()[:1]), config)
  state = first_state(planned.task, keys.stream(0, 'init'))
  return jax.tree.map(np.asarray, state)


class Job:
  """The real step of a tiny BERT on a mesh, on batches made here."""

  def __init__(self, axes, update, config=None):
    config = config or tiny(update)
    devices = jax.devices()[: int(np.prod(list(axes.values())))]
    self.mesh = mesh.make(axes, devices)
    self.planned = planned_on(self.mesh, config)
    self.like, self.shapes = plan.shapes(self.planned, 'train', self.mesh)
    self.steps = Steps(self.planned.task, 0, self.like)

  def begin(self):
    state = first(self.like.params['net']['layers']['output']['bias'].shape[0])
    return jax.device_put(state, jax.tree.map(lambda x: x.sharding, self.like))

  def batch(self, step):
    rng = np.random.default_rng(step)
    made = {}
    for name, shape in self.shapes.items():
      if shape.dtype == bool:
        value = rng.random(shape.shape) < 0.9
      else:
        high = {'tokens': 64, 'targets': 64, 'positions': 16}.get(name, 2)
        value = rng.integers(high, size=shape.shape, dtype=np.int32)
      made[name] = jax.device_put(value, shape.sharding)
    return made

  def run(self, state, start, stop):
    losses = []
    for step in range(start, stop):
      state, packed = self.steps(
        'train', state, self.batch(step), keys.stream(0, 'train')
      )
      found = dict(zip(self.steps.names['train'], np.asarray(packed)))
      losses.append(found['loss'][0] / found['loss'][1])
    return state, losses

  def gradients(self):
    """LAMB's first moments after one step: the clipped gradient, times .1."""
    state, _ = self.run(self.begin(), 0, 1)
    return {k: np.asarray(v) for k, v in paths(state.opt) if '/mu/' in k}


@functools.cache
def job(name):
  """That of a layout; it takes some seconds to compile."""
  return Job(*LAYOUTS[name])


@pytest.fixture(scope='module')
def expected():
  one = Job({'data': 1}, 'replicated')
  return one.run(one.begin(), 0, STEPS)[1], one.gradients()


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[pytest.mark.slow] if name in CONTAINED else [])
    for name in LAYOUTS
  ],
)
def test_losses_and_gradients_are_those_of_one_device(name, expected):
  here = job(name)
  state, losses = here.run(here.begin(), 0, STEPS)
  np.testing.assert_allclose(losses, expected[0], rtol=1e-5)
  gradients = here.gradients()
  assert gradients.keys() == expected[1].keys()
  largest = max(np.abs(want).max() for want in expected[1].values())
  for path, want in expected[1].items():
    error = np.abs(gradients[path] - want).max()
    if path.endswith('key/bias'):
      # A softmax does not see it: its gradient is 0, and all else is rounding.
      assert error < 1e-6 * largest
    else:
      assert error < 1e-4 * np.abs(want).max(), path
  kernel = 'layers/intermediate/kernel'
  leaves = dict(paths(state))
  moment = next(v for k, v in leaves.items() if f'mu/{kernel}' in k)
  cuts = {
    'data-parallel': (1, 1),
    'tensor-parallel': (2, 2),
    'tensor-parallel zero1': (2, 4),
    'fsdp': (8, 8),
  }.get(name, (1, 8))
  whole = leaves[f'params/net/{kernel}']
  for leaf, ways in zip((whole, moment), cuts, strict=True):
    cut = leaf.sharding.shard_shape(leaf.shape)
    assert np.prod(cut) * ways == leaf.size


@pytest.mark.parametrize(
  'before, update',
  [
    pytest.param('data-parallel', 'replicated', marks=pytest.mark.slow),
    pytest.param('data-parallel', 'zero1', marks=pytest.mark.slow),
    ('fsdp', 'zero1'),
  ],
)
def test_restored_on_another_mesh_training_goes_on_alike(
  before, update, tmp_path
):
  """8 -> 4 devices, cut in one way -> in another or not."""
  eight = job(before)
  state, _ = eight.run(eight.begin(), 0, 2)
  kept = Checkpoints(tmp_path, Policy())
  kept.save(state, 2, {})
  kept.wait()
  _, losses = eight.run(state, 2, STEPS)
  four = Job({'data': 4}, update)
  found, _ = kept.restore(four.like, 2)
  kept.close()
  assert len(found.params['net']['mlm_bias'].sharding.device_set) == 4
  _, others = four.run(found, 2, STEPS)
  np.testing.assert_allclose(others, losses, rtol=1e-5)


def test_accumulated_micro_batches_give_the_whole_batch_gradient():
  """Rows of several lengths: pairs and masked tokens weigh alike in both."""
  found = []
  for micro in (1, 4):
    config = tiny('replicated')
    config['model'] |= {'dropout_rate': 0.0, 'num_layers': 1}
    config['optimizer']['micro_batches'] = micro
    one = Job({'data': 1}, 'replicated', config)
    _, (loss,) = one.run(one.begin(), 0, 1)
    found.append((loss, one.gradients()))
  (loss, whole), (summed, parts) = found
  np.testing.assert_allclose(summed, loss, rtol=1e-6)
  for path, want in whole.items():
    np.testing.assert_allclose(parts[path], want, atol=1e-7, err_msg=path)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_gradients_are_summed_over_devices_in_the_dtype_asked_for(dtype):
  """Read off the program before the compiler, which on a CPU widens bfloat16.

  The gradient of each matrix leaves its product in that dtype, and the sum
  over devices is made of that product.
  """
  config = tiny('replicated', gradient_dtype=dtype)
  config['model'] |= {'dtype': 'bfloat16', 'dropout_rate': 0.0}
  devices = mesh.make({'data': 8})
  planned = planned_on(devices, config)
  state, shapes = plan.shapes(planned, 'train', devices)
  jaxpr = jax.make_jaxpr(planned.task.steps['train'])(
    state, shapes, jax.random.key(0)
  )
  found = _products_of_shape(jaxpr.jaxpr, (16, 32))
  assert found
  assert {str(d) for d in found} == {dtype}


def _products_of_shape(jaxpr, shape):
  """dtypes of the products that yield the gradient of `intermediate`."""
  found = []
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'dot_general':
      out = equation.outvars[0].aval
      if sorted(out.shape) == sorted(shape):
        found.append(out.dtype)
    for value in equation.params.values():
      for item in value if isinstance(value, (tuple, list)) else (value,):
        inner = getattr(item, 'jaxpr', item)
        if hasattr(inner, 'eqns'):
          found += _products_of_shape(inner, shape)
  return found


@pytest.mark.parametrize(
  'change, message',
  [
    ({'layout': 'zero2'}, 'layout = "zero2" must be one of replicated, zero1'),
    ({'gradient_dtype': 'bfloat16'}, 'must be one of float32, float32'),
  ],
)
def test_a_sharding_that_cannot_be_is_an_input_error(change, message):
  config = tiny('replicated') | {}
  config['sharding'] |= change
  with pytest.raises(InputError, match=message):
    pretraining.program(config)


def test_fsdp_beside_a_model_axis_is_an_input_error():
  with pytest.raises(
    InputError, match='"fsdp" must be one of replicated, zero1'
  ):
    planned_on(mesh.make({'data': 4, 'model': 2}), tiny('fsdp'))
