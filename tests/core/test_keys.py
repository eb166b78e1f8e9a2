"""Streams of keys: pure functions of seed, name and step."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core import keys


def _bits(key):
  return tuple(np.asarray(jax.random.key_data(key)).tolist())


def test_streams_differ_by_seed_name_and_step():
  found = {
    _bits(keys.at(keys.stream(seed, name), step))
    for seed in range(3)
    for name in ('train', 'init', 'eval/test', 'eval/validation')
    for step in range(50)
  }
  assert len(found) == 3 * 4 * 50


def test_a_key_is_the_same_however_and_in_whatever_order_it_is_asked_for():
  root = keys.stream(1, 'train')
  forward = [_bits(keys.at(root, step)) for step in range(5)]
  backward = [
    _bits(keys.at(keys.stream(1, 'train'), s)) for s in range(5)[::-1]
  ]
  traced = jax.jit(keys.at)
  assert backward[::-1] == forward
  assert [_bits(traced(root, jnp.int32(s))) for s in range(5)] == forward


def test_a_key_is_the_same_in_every_process():
  # Pinned: a run goes on with the keys of the process that began it.
  key = keys.at(keys.stream(7, 'eval/test'), 3)
  assert _bits(key) == (4026517822, 1659432510)


def test_a_step_is_traced_not_baked_in():
  chex.clear_trace_counter()

  @jax.jit
  @chex.assert_max_traces(n=1)
  def draw(step):
    return jax.random.uniform(keys.at(keys.stream(0, 'train'), step))

  assert len({float(draw(step)) for step in range(5)}) == 5
