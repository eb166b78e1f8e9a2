"""The main job: BERT's task under LAMB, on one device and on eight."""

import functools
import importlib.util
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlab.engine import keys, mesh, stage
from jaxlab.engine.state import paths
from jaxlab.models import bert
from jaxlab.papers.lamb import method
from jaxlab.papers.lamb import pretraining as task
from jaxlab.planning import flops, plan

ROOT = Path(__file__).parents[2]


def config_of(name=''):
  path = ROOT / 'configs' / 'bert_lamb.py'
  spec = importlib.util.spec_from_file_location('config', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(name).to_dict()


@pytest.fixture
def tiny(monkeypatch, tmp_path_factory):
  """The smoke config on its real text, a few steps of a small model."""
  data = tmp_path_factory.getbasetemp() / 'bert_lamb_data'
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(data))
  config = config_of('smoke')
  config['data'] |= {
    'vocab_size': 512,
    'sequence_length': 32,
    'max_predictions': 5,
    'eval_examples': 16,
  }
  config['model'] |= {
    'hidden_size': 32,
    'intermediate_size': 64,
    'dropout_rate': 0.1,
  }
  config['train'] |= {'batch_size': 16, 'steps': 20, 'eval_every_steps': 0}
  return config


def space_on(devices, config, folder):
  return stage.Workspace(
    folder, config, mesh.make(devices=jax.devices()[:devices]), config['seed']
  )


def test_accumulated_micro_batches_give_the_whole_batch_gradient(
  tiny, tmp_path
):
  tiny['model']['dropout_rate'] = 0.0
  results = []
  for micro in (1, 4):
    tiny['train']['accumulate'] = micro
    space = space_on(1, tiny, tmp_path)
    phase = task.phases(tiny)[0]
    job, feed = task.build(tiny, phase, space)
    _, _, batch = next(feed.batches(0, 1))
    state = job.init(keys.stream(0, 'init'))
    state, found = jax.jit(job.steps['train'])(
      state, batch, keys.stream(0, 'train')
    )
    # LAMB's first moment after one step is (1 - b1) times the clipped
    # gradient, before any normalisation could amplify rounding.
    moment = [leaf for path, leaf in paths(state.opt) if '/mu/' in path]
    results.append((found['loss'][0] / found['loss'][1], moment))
  np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-6)
  chex.assert_trees_all_close(results[0][1], results[1][1], atol=1e-7)


def test_scanned_and_unscanned_bert_get_the_same_update():
  """One trust ratio a layer, also where layers are slices of one leaf."""
  sizes = {
    'vocab_size': 64,
    'num_layers': 3,
    'hidden_size': 16,
    'num_heads': 2,
    'intermediate_size': 32,
    'max_positions': 16,
  }
  batch = (
    jax.random.randint(jax.random.key(1), (4, 16), 0, 64),
    jnp.zeros((4, 16), jnp.int32),
    jnp.ones((4, 16), bool),
    jnp.tile(jnp.arange(3), (4, 1)),
  )
  scanned = bert.Bert(**sizes, scan_layers=True)
  flat = bert.Bert(**sizes, scan_layers=False)
  init = jax.jit(lambda k: scanned.init(k, *batch, deterministic=True))
  params = init(jax.random.key(0))['params']
  # Layers of equal scale would hide a ratio taken over all of them.
  scale = jnp.array([0.1, 1.0, 10.0])
  params['layers'] = jax.tree.map(
    lambda x: x * scale.reshape(-1, *[1] * (x.ndim - 1)), params['layers']
  )

  @functools.partial(jax.jit, static_argnums=0)
  def update(model, params):
    def loss(p):
      logits, nsp = model.apply({'params': p}, *batch, deterministic=True)
      return jnp.mean(logits**2) + jnp.mean(nsp**2)

    mask = method.default_decay_mask
    # The gradient of a key's bias is all rounding, and with a small eps
    # Adam's first step would be its sign.
    tx = method.lamb(
      1e-2,
      eps=1e-3,
      decay_mask=mask,
      adapt_mask=mask,
      layer_axes=method.layer_axes_from,
    )
    grads = jax.grad(loss)(params)
    updates, _ = tx.update(grads, tx.init(params), params)
    return optax.apply_updates(params, updates)

  stacked = update(scanned, params)
  separate = update(flat, bert.unstack_layers(params))
  chex.assert_trees_all_close(
    bert.unstack_layers(stacked), separate, rtol=1e-5, atol=1e-7
  )

  # The test could fail: one norm over all layers is another update.
  @jax.jit
  def moved(params):
    grads = jax.tree.map(jnp.ones_like, params)
    naive = method.lamb(1e-2)
    layered = method.lamb(1e-2, layer_axes=method.layer_axes_from)
    return [
      tx.update(grads, tx.init(params), params)[0] for tx in (naive, layered)
    ]

  one, many = moved(params)
  kernel = lambda t: t['layers']['intermediate']['kernel']
  assert not np.allclose(kernel(one), kernel(many), rtol=0.1)


def test_the_second_stage_starts_from_the_first_ones_parameters(tiny, tmp_path):
  tiny['train']['steps'] = 3
  tiny['optimizer']['warmup_steps'] = 1
  tiny['second'] |= {
    'steps': 2,
    'batch_size': 16,
    'sequence_length': 64,
    'max_predictions': 9,
    'warmup_steps': 1,
  }
  space = space_on(8, tiny, tmp_path)
  stage.workdir.write_json(tmp_path / 'config.json', tiny)
  stage.run_all(task.program(tiny), space)
  again = space_on(8, tiny, tmp_path)
  stages = task.program(tiny)
  stage.run_all(stages, again)  # both are skipped
  before = again.artefact('pretrain')
  chex.assert_trees_all_equal(before, space.artefact('pretrain'))
  for opt, moments in (('keep', before.opt), ('reset', None)):
    tiny['second']['opt'] = opt
    phase = task.phases(tiny)[1]
    job, _ = task.build(tiny, phase, again)
    state = job.init(keys.stream(0, 'init'))
    chex.assert_trees_all_equal(state.params, before.params)
    assert int(state.step) == 0
    if moments is not None:
      chex.assert_trees_all_equal(state.opt, moments)
    else:
      zero = [x for p, x in paths(state.opt) if '/mu/' in p or '/nu/' in p]
      assert all(not np.any(x) for x in zero)


@pytest.mark.parametrize('opt, before', [('keep', 7), ('reset', 0)])
def test_the_second_stage_warms_up_anew_whatever_its_optimizer_remembers(
  opt, before
):
  config = config_of()
  config['train']['steps'] = 7
  config['second'] |= {'steps': 10, 'warmup_steps': 4, 'opt': opt}
  config['optimizer']['clip_norm'] = 0
  phase = task.phases(config)[1]
  tx = task.make_optimizer(config, phase)
  params = {'kernel': jnp.ones((3, 3))}
  sizes = []
  for step in range(before, before + 6):
    state = tx.init(params)._replace(step=jnp.asarray(step))
    updates, _ = tx.update(params, state, params)
    sizes.append(float(jnp.linalg.norm(updates['kernel'])) / 3)
  peak = config['second']['learning_rate']
  # LAMB's update is the rate times the weights' norm, here 3.
  expected = [0, peak / 4, peak / 2, 3 * peak / 4, peak, peak * 5 / 6]
  np.testing.assert_allclose(sizes, expected, rtol=1e-5)


@pytest.mark.parametrize('index', [0, 1])
def test_the_paper_recipe_builds_its_shapes(index):
  """BERT-Large's State and step, abstractly: nothing is allocated."""
  config = config_of('paper')
  assert len(task.program(config)) == 2
  phase = task.phases(config)[index]
  assert (phase.batch_size, phase.sequence_length) == (
    (65536, 128),
    (32768, 512),
  )[index]
  space = stage.Workspace(None, config, mesh.make({'replica': 2, 'data': 4}), 0)
  planned = task.plan(config, phase, space)
  state, batch = plan.shapes(planned, 'train', space.mesh)
  assert sum(x.size for x in jax.tree.leaves(state.params)) == 336_226_108
  update = planned.task.steps['train']
  after, _ = jax.eval_shape(update, state, batch, jax.random.key(0))
  chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
  for path, leaf in paths(state.opt):
    if leaf.size * leaf.dtype.itemsize > 2**20:
      cut = leaf.sharding.shard_shape(leaf.shape)
      assert np.prod(cut) * 8 == leaf.size, path


def test_the_model_flops_are_those_of_the_traced_step():
  """The formula counts no recomputation; without remat both agree."""
  config = config_of('paper')
  config['model']['remat'] = False
  phase = task.phases(config)[0]._replace(batch_size=64)
  space = stage.Workspace(None, config, mesh.make({'replica': 2, 'data': 4}), 0)
  planned = task.plan(config, phase, space)
  shapes = plan.shapes(planned, 'train', space.mesh)
  traced = flops.count(planned.task.steps['train'], *shapes, jax.random.key(0))
  # The one-hot rows of the type embedding need no gradient, so that their
  # product has no third part.
  assert traced == pytest.approx(task.step_flops(config, phase), rel=1e-3)


def test_the_optimizers_of_the_config_take_a_step(tiny):
  for name in ('lamb', 'n_lamb', 'nn_lamb', 'lars', 'adamw'):
    tiny['optimizer']['name'] = name
    tx = task.make_optimizer(tiny, task.phases(tiny)[0])
    params = {'layers': {'kernel': jnp.ones((2, 3, 3))}, 'bias': jnp.ones(3)}
    grads = jax.tree.map(jnp.ones_like, params)
    state = tx.init(params)
    for _ in range(2):  # the first has rate 0
      updates, state = tx.update(grads, state, params)
    assert np.all(np.asarray(updates['layers']['kernel']) < 0)
