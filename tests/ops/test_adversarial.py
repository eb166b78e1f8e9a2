import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlab.core.state import Objective
from jaxlab.core.update import create_state, minimise
from jaxlab.ops.adversarial import adversarial_loss, of_batch
from jaxlab.ops.attack_objectives import margins
from jaxlab.ops.attacks import fgsm, mim, pgd
from jaxlab.ops.losses import masked_cross_entropy
from tests.ops.attacked import (
  KEY,
  lengths,
  quick_compiles,
)

_quick = pytest.fixture(autouse=True, scope='module')(quick_compiles)


class Net(nn.Module):
  @nn.compact
  def __call__(self, x, train):
    x = nn.Dense(16)(x.reshape(len(x), -1))
    x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.8)(x))
    return nn.Dense(3)(x)


def make_batch(rows=24):
  draw = np.random.default_rng(0)
  labels = np.arange(rows) % 3
  kinds = draw.uniform(0.3, 0.7, (3, 4, 4, 1))
  images = kinds[labels] + 0.1 * draw.normal(size=(rows, 4, 4, 1))
  return {
    'image': jnp.asarray(images.clip(0, 1), jnp.float32),
    'label': jnp.asarray(labels),
    'id': jnp.arange(rows) + 1000,
    'mask': jnp.arange(rows) < rows - 2,
  }


def apply(params, vars, batch, name='net'):
  """Logits under running statistics."""
  variables = {'params': params[name], 'batch_stats': vars['statistics']}
  return Net().apply(variables, batch['image'], train=False)


def loss(params, vars, batch, key):
  """A training pass: it alone may change the running statistics."""
  variables = {'params': params['net'], 'batch_stats': vars['statistics']}
  logits, new = Net().apply(
    variables, batch['image'], train=True, mutable=['batch_stats']
  )
  total, weight = masked_cross_entropy(logits, batch['label'], batch['mask'])
  return Objective(total, weight, vars={'statistics': new['batch_stats']})


@functools.cache
def start():
  batch = make_batch()
  variables = Net().init(KEY, batch['image'], train=False)
  params = {'net': variables['params']}
  params['other'] = Net().init(jax.random.key(7), batch['image'], False)[
    'params'
  ]
  return params, {'statistics': variables['batch_stats']}, batch


def spied(loss):
  """A loss that also tells which images it was given."""

  def told(params, vars, batch, key):
    objective = loss(params, vars, batch, key)
    return objective.replace(vars={**objective.vars, 'seen': batch['image']})

  return told


def objective(criterion=margins, name='net'):
  return of_batch(lambda p, v, b: apply(p, v, b, name), criterion)


def test_a_budget_of_zero_is_plain_training():
  params, vars, batch = start()
  attacked = adversarial_loss(loss, pgd(objective(), epsilon=0))
  found, plain = (
    jax.value_and_grad(lambda p, f=f: f(p, vars, batch, KEY).sum)(params)
    for f in (attacked, loss)
  )
  chex.assert_trees_all_equal(found, plain)


@pytest.mark.parametrize(
  'attack',
  [
    fgsm(objective(), epsilon=0.05),
    pgd(objective(), epsilon=0.05, steps=2, keep='last'),
    mim(objective(), epsilon=0.05, steps=2),
  ],
  ids=['fgsm', 'pgd', 'mim'],
)
def test_the_loss_sees_attacked_images_and_is_larger(attack):
  params, vars, batch = start()
  attacked = jax.jit(adversarial_loss(spied(loss), attack))
  found = attacked(params, vars, batch, KEY)
  moved = lengths(batch['image'], found.vars['seen'], 'linf')
  assert ((moved > 0.01) & (moved <= 0.05)).all()
  assert found.sum > loss(params, vars, batch, KEY).sum
  assert found.weight == 22


def test_statistics_and_batch_are_left_to_the_pass_of_the_loss():
  params, vars, batch = start()
  before = jax.tree.map(np.array, (params, vars, batch))
  attack = pgd(objective(), epsilon=0.05, steps=3)
  found = adversarial_loss(spied(loss), attack)(params, vars, batch, KEY)
  chex.assert_trees_all_equal((params, vars, batch), before)
  # One pass over what the loss has seen, and none over the attack's steps.
  seen = {**batch, 'image': found.vars['seen']}
  alone = loss(params, vars, seen, KEY)
  chex.assert_trees_all_equal(
    found.vars['statistics'], alone.vars['statistics']
  )
  assert found.sum == alone.sum


def test_the_gradient_is_that_at_the_attacked_images():
  params, vars, batch = start()
  attacked = adversarial_loss(spied(loss), pgd(objective(), epsilon=0.05))

  def total(params, batch=batch, f=attacked):
    found = f(params, vars, batch, KEY)
    return found.sum, found.vars.get('seen')

  slopes, seen = jax.grad(total, has_aux=True)(params)
  fixed = {**batch, 'image': seen}
  alone = jax.grad(lambda p: loss(p, vars, fixed, KEY).sum)(params)
  chex.assert_trees_all_close(slopes, alone, rtol=1e-5, atol=1e-6)


def test_an_ensemble_crafts_on_one_network_a_step_each_in_its_turn():
  params, vars, batch = start()
  names = ('net', 'other')
  attacks = [fgsm(objective(name=name), epsilon=0.05) for name in names]
  single = [
    attack(KEY, batch['image'], batch['id'], params, vars, batch)
    for attack in attacks
  ]
  assert abs(single[0] - single[1]).max() > 0.05
  attacked = jax.jit(adversarial_loss(spied(loss), attacks))
  counts = [0, 0]
  for step in range(40):
    key = jax.random.fold_in(KEY, step)
    seen = attacked(params, vars, batch, key).vars['seen']
    near = [bool(abs(seen - images).max() < 1e-6) for images in single]
    assert sum(near) == 1
    counts[near.index(True)] += 1
  assert min(counts) >= 10  # of 40 fair draws: 3 deviations


def test_a_share_of_the_rows_stays_clean_whatever_their_order():
  params, vars, batch = start()
  attack = fgsm(objective(), epsilon=0.05)
  attacked = jax.jit(adversarial_loss(spied(loss), attack, mix=0.25))

  def clean(batch, key):
    seen = attacked(params, vars, batch, key).vars['seen']
    return np.asarray((seen == batch['image']).all((1, 2, 3)))

  flags = np.stack([clean(batch, jax.random.key(i)) for i in range(40)])
  assert abs(flags.mean() - 0.25) < 4 * np.sqrt(0.1875 / flags.size)
  assert flags.mean(0).min() > 0 and flags.mean(0).max() < 1
  order = np.random.default_rng(0).permutation(24)
  turned = jax.tree.map(lambda x: x[order], batch)
  np.testing.assert_array_equal(
    clean(turned, jax.random.key(0)), flags[0][order]
  )


def test_bad_input_is_refused():
  params, vars, batch = start()
  attack = fgsm(objective(), epsilon=0.05)
  for mix in (-0.1, 1.0):
    with pytest.raises(ValueError, match='share of clean rows'):
      adversarial_loss(loss, attack, mix=mix)
  with pytest.raises(ValueError, match='at least one attack'):
    adversarial_loss(loss, [])
  for name in ('image', 'id'):
    less = {k: v for k, v in batch.items() if k != name}
    with pytest.raises(ValueError, match=f'no {name!r}'):
      adversarial_loss(loss, attack)(params, vars, less, KEY)
  bytes_ = {**batch, 'image': jnp.zeros([24, 4, 4, 1], jnp.uint8)}
  with pytest.raises(TypeError, match='divided by 255'):
    adversarial_loss(loss, attack)(params, vars, bytes_, KEY)


@pytest.mark.slow
def test_training_on_attacked_images_makes_a_net_robust():
  params, vars, batch = start()
  attack = pgd(objective(), epsilon=0.1, steps=3)
  strong = pgd(objective(), epsilon=0.1, steps=20, restarts=2)

  def trained(loss):
    update = minimise(loss, 'net', optax.adam(1e-2))
    state = create_state(params, update, vars=vars)
    step = jax.jit(update)
    for i in range(80):
      state, _ = step(state, batch, jax.random.fold_in(KEY, i))
    args = (state.params, state.vars)
    adv = strong(KEY, batch['image'], batch['id'], *args, batch)
    logits = [
      apply(*args, {**batch, 'image': x}) for x in (batch['image'], adv)
    ]
    return [float((z.argmax(1) == batch['label']).mean()) for z in logits]

  plain, hardened = trained(loss), trained(adversarial_loss(loss, attack))
  assert plain[0] == 1 and hardened[0] > 0.8
  assert hardened[1] > plain[1] + 0.1
