"""Optimizers and schedules that configs name, against optax written out."""

import chex
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlab.core.errors import InputError
from jaxlab.recipes import optimizers

SECTION = {
  'name': 'sgd',
  'schedule': 'constant',
  'learning_rate': 0.1,
  'clip_norm': 0.0,
  'momentum': 0.9,
  'nesterov': True,
  'weight_decay': 0.01,
  'b1': 0.8,
  'b2': 0.95,
  'eps': 1e-6,
  'final_fraction': 0.1,
  'drops': (0.5, 0.75),
  'drop_factor': 0.1,
  'warmup_steps': 4,
}


def test_three_updates_of_sgd_by_hand():
  """Rate 1 falling to .2 in four updates, momentum .5 (Nesterov), decay .1.

  The gradient is 2 throughout, the parameter 1 at first:

    rate .2 + .4 (1 + cos)  gradient + .1 w  momentum  step      w
    .882843                 2.1              2.1       3.15      -1.780955
    .6                      1.821905         2.871905  3.257857  -3.735669
    .317157                 1.626433         3.062385  3.157626  -4.737132
  """
  section = {**SECTION, 'schedule': 'cosine', 'final_fraction': 0.2}
  section |= {'momentum': 0.5, 'weight_decay': 0.1}
  tx = optimizers.make(section, 4, 1.0)
  w = jnp.float32(1.0)
  state = tx.init(w)
  for wanted in (-1.780955, -3.735669, -4.737132):
    update, state = tx.update(jnp.float32(2.0), state, w)
    w = optax.apply_updates(w, update)
    np.testing.assert_allclose(w, wanted, rtol=1e-6)
  plain = optimizers.make({**section, 'nesterov': False}, 4, 1.0)
  update, _ = plain.update(jnp.float32(2.0), plain.init(w), jnp.float32(1.0))
  np.testing.assert_allclose(update, -0.882843 * 2.1, rtol=1e-6)


def steps(tx, count=3):
  params = jnp.array([1.0, -2.0])
  state, found = tx.init(params), []
  for i in range(count):
    updates, state = tx.update(jnp.array([3.0, 4.0]) / (i + 1), state, params)
    params = optax.apply_updates(params, updates)
    found.append(params)
  return found


@pytest.mark.parametrize(
  'changes, wanted',
  [
    (
      {},
      optax.chain(
        optax.add_decayed_weights(0.01), optax.sgd(0.1, 0.9, nesterov=True)
      ),
    ),
    (
      {'name': 'adam', 'clip_norm': 2.0},
      optax.chain(
        optax.clip_by_global_norm(2.0),
        optax.add_decayed_weights(0.01),
        optax.adam(0.1),
      ),
    ),
    (
      {'name': 'adamw'},
      optax.adamw(0.1, 0.8, 0.95, 1e-6, weight_decay=0.01),
    ),
  ],
)
def test_an_optimizer_is_optaxs(changes, wanted):
  found = optimizers.make({**SECTION, **changes}, 8)
  chex.assert_trees_all_close(steps(found), steps(wanted), rtol=1e-6)


def test_a_rate_may_be_given_in_place_of_the_sections():
  section = {**SECTION, 'momentum': 0.0, 'weight_decay': 0.0}
  (first,) = steps(optimizers.make(section, 8, 0.5), 1)
  chex.assert_trees_all_close(first, jnp.array([-0.5, -4.0]))


def rates(**changes):
  found = optimizers.schedule({**SECTION, **changes}, 8, 1.0)
  return [float(found(count)) for count in range(8)]


def test_schedules_have_their_values():
  cosine = 0.1 + 0.9 * (1 + np.cos(np.pi * np.arange(1, 9) / 8)) / 2
  assert rates(schedule='cosine') == pytest.approx(cosine, rel=1e-5)
  drops = [1.0] * 4 + [0.1] * 2 + [0.01] * 2
  assert rates(schedule='drops') == pytest.approx(drops, rel=1e-5)
  root = [0.25, 0.5, 0.75, 1.0, *(2 / np.sqrt(np.arange(5, 9)))]
  assert rates(schedule='inverse_sqrt') == pytest.approx(root, rel=1e-5)


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'name': 'sgdx'}, r'optimizer\.name = "sgdx" must be one of sgd, adam'),
    ({'schedule': 'steep'}, r'optimizer\.schedule = "steep" must be one of'),
    ({'clip_norm': -1.0}, r'clip_norm = -1\.0 must be at least 0'),
    ({'weight_decay': -1.0}, r'weight_decay = -1\.0 must be at least 0'),
    ({'schedule': 'drops', 'drops': (2.0,)}, r'optimizer\.drops = \[2\.0\]'),
    ({'schedule': 'inverse_sqrt', 'warmup_steps': 0}, 'warmup_steps = 0'),
  ],
)
def test_a_value_that_cannot_be_is_named(changes, message):
  with pytest.raises(InputError, match=message):
    optimizers.make({**SECTION, **changes}, 8)


def test_a_number_that_the_optimizer_takes_must_be_there():
  section = {k: v for k, v in SECTION.items() if k != 'momentum'}
  optimizers.make({**section, 'name': 'adam'}, 8)
  with pytest.raises(InputError, match=r'optimizer\.momentum is missing'):
    optimizers.make(section, 8)
