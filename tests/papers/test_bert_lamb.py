"""The main job: BERT's task under LAMB."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlab.core.errors import InputError
from jaxlab.core.state import paths
from jaxlab.engine import mesh
from jaxlab.models import bert
from jaxlab.papers.lamb import method, optimizers
from jaxlab.papers.lamb import pretraining as task
from jaxlab.planning import flops, plan
from jaxlab.runs import model, stage
from tests.papers.lamb_jobs import begun, config_of, space_of


@pytest.fixture
def tiny(monkeypatch, tmp_path_factory):
  """The smoke config on its real text, with a small model."""
  data = tmp_path_factory.getbasetemp() / 'lamb_data'
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(data))
  config = config_of('bert_lamb', 'smoke')
  config['data'] |= {
    'vocab_size': 512,
    'batch_size': 16,
    'sequence_length': 32,
    'max_predictions': 5,
    'eval_examples': 16,
  }
  config['model'] |= {
    'num_layers': 1,
    'hidden_size': 32,
    'intermediate_size': 64,
  }
  return config


def test_scanned_and_unscanned_bert_get_the_same_update():
  """One trust ratio a layer, also where layers are slices of one leaf."""
  sizes = {
    'vocab_size': 64,
    'num_layers': 2,
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
  scale = jnp.array([0.1, 10.0])
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

  some = {'layers': {'intermediate': params['layers']['intermediate']}}
  one, many = moved(some)
  kernel = lambda t: t['layers']['intermediate']['kernel']
  assert not np.allclose(kernel(one), kernel(many), rtol=0.1)


@pytest.mark.parametrize('opt', ['keep', 'reset'])
def test_the_second_stage_starts_from_what_the_first_one_left(
  opt, tiny, tmp_path
):
  tiny['second'] |= {'steps': 2, 'sequence_length': 64, 'opt': opt}
  tiny['second'] |= {'warmup_steps': 1}
  first, then = task.program(tiny)
  space = space_of(tiny, tmp_path)
  fresh, inputs = begun(first, space)
  some = lambda tree: jax.tree.map(lambda x: x + jnp.ones_like(x), tree)
  left = fresh.replace(
    step=jnp.asarray(120), params=some(fresh.params), opt=some(fresh.opt)
  )
  space.artefacts['pretrain'] = left
  state, later = begun(then, space)
  assert later.feed.source.spec['train']['tokens'].shape == (64, 64)
  assert inputs.about == later.about
  chex.assert_trees_all_equal(state.params, left.params)
  assert int(state.step) == 0
  # New moments and ratios are those of any new optimizer: 0 and 1.
  moments = left.opt if opt == 'keep' else fresh.opt
  chex.assert_trees_all_equal(state.opt, moments)


def test_the_decoders_bias_begins_as_the_unigram_of_the_training_text(
  tiny, tmp_path
):
  (only,) = task.program(tiny)
  state, inputs = begun(only, space_of(tiny, tmp_path))
  corpus = inputs.data
  counts = np.bincount(corpus.split('train').tokens, minlength=512)
  p = (counts + 1) / (counts.sum() + 512)
  bias = state.params['net']['mlm_bias']
  np.testing.assert_allclose(np.exp(bias), p, rtol=1e-5)
  # So the likeliest pieces are the most frequent ones, whatever the text.
  net = jax.tree.map(jnp.zeros_like, state.params['net']) | {'mlm_bias': bias}
  asked = ['The [MASK] of an [MASK] statement.', 'No mask.']
  made = model.of(tiny, {'net': net}, {}, task.kept(tiny, corpus))
  (one, two), none = task.predict(made, asked)
  best = [corpus.pieces[i] for i in np.argsort(-p, kind='stable')[:5]]
  assert [*one] == [*two] == best
  assert one[best[0]] == pytest.approx(p.max(), rel=1e-5)
  assert none == []
  with pytest.raises(InputError, match=r'longer than .*sequence_length = 32'):
    task.predict(made, ['word ' * 40])


@pytest.mark.parametrize('opt, before', [('keep', 7), ('reset', 0)])
def test_the_second_stage_warms_up_anew_whatever_its_optimizer_remembers(
  opt, before
):
  config = config_of('bert_lamb')
  config['second'] |= {'steps': 10, 'warmup_steps': 4, 'opt': opt}
  config['optimizer']['clip_norm'] = 0
  tx = optimizers.make(task.second(config), kept_steps=before)
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
  config = config_of('bert_lamb', 'paper')
  stages = task.program(config)
  assert len(stages) == 2
  space = stage.Workspace(None, config, mesh.make({'replica': 2, 'data': 4}), 0)
  planned = stages[index].plan(space)
  rows = planned.spec['train']['tokens'].shape
  assert rows == ((65536, 128), (32768, 512))[index]
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
  config = config_of('bert_lamb', 'paper')
  config['model']['remat'] = False
  config['data']['batch_size'] = 64
  space = stage.Workspace(None, config, mesh.make({'replica': 2, 'data': 4}), 0)
  planned = task.program(config)[0].plan(space)
  shapes = plan.shapes(planned, 'train', space.mesh)
  traced = flops.count(planned.task.steps['train'], *shapes, jax.random.key(0))
  # The one-hot rows of the type embedding need no gradient, so that their
  # product has no third part.
  assert traced == pytest.approx(planned.flops['train'], rel=1e-3)


def test_the_optimizers_of_the_config_take_a_step():
  config = config_of('bert_lamb', 'smoke')
  for name in optimizers.NAMES:
    config['optimizer']['name'] = name
    tx = optimizers.make(config)
    params = {'layers': {'kernel': jnp.ones((2, 3, 3))}, 'bias': jnp.ones(3)}
    grads = jax.tree.map(jnp.ones_like, params)
    state, step = tx.init(params), jax.jit(tx.update)
    for _ in range(2):  # the first has rate 0
      updates, state = step(grads, state, params)
    assert np.all(np.asarray(updates['layers']['kernel']) < 0)
