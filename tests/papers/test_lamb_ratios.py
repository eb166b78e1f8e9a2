"""Trust ratios by layer: read off an optimizer's state at evaluations."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlab.core.state import Evaluator, State
from jaxlab.papers.lamb import method, ratios
from jaxlab.runs.sections import Sections

PARAMS = {
  'word_embedding': jnp.ones((4, 3)),
  'embedding_layer_norm': {'scale': jnp.ones(3)},
  'layers': {
    'one': {
      'kernel': jnp.arange(1.0, 13).reshape(2, 2, 3),
      'bias': jnp.ones((2, 3)),
    },
    'two': {'kernel': jnp.arange(2.0, 14).reshape(2, 2, 3)},
  },
  'pooler': {'kernel': 3 * jnp.ones((3, 3))},
}


def state_of(tx):
  """After one update by gradients of one."""
  grads = jax.tree.map(jnp.ones_like, PARAMS)
  _, opt = tx.update(grads, tx.init(PARAMS), PARAMS)
  return State(jnp.int32(1), {'net': PARAMS}, {'net': opt}, {})


@pytest.fixture(scope='module')
def state():
  return state_of(
    method.lamb(0.1, weight_decay=0.0, layer_axes=method.layer_axes_from)
  )


def test_a_layers_ratio_is_the_mean_of_its_matrices(state):
  found = ratios.by_layer(ratios.of_state(state), 2)
  # The first update of LAMB without decay is the sign: norm of weights by
  # root of their number.
  ratio = lambda x: np.linalg.norm(x) / np.sqrt(np.size(x))
  one, two = (np.asarray(PARAMS['layers'][n]['kernel']) for n in ('one', 'two'))
  want = {
    'embeddings': 1,
    'layer_0': (ratio(one[0]) + ratio(two[0])) / 2,
    'layer_1': (ratio(one[1]) + ratio(two[1])) / 2,
    'heads': 3,
  }
  assert list(found) == list(want)
  for name, value in want.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-4)


def test_layers_that_are_not_scanned_are_the_same_ones(state):
  whole = ratios.of_state(state)
  apart = {k: v for k, v in whole.items() if k != 'layers'}
  for i in (0, 1):
    apart[f'layers_{i}'] = jax.tree.map(lambda x, i=i: x[i], whole['layers'])
  a, b = ratios.by_layer(whole, 2), ratios.by_layer(apart, 2)
  assert {k: float(v) for k, v in a.items()} == pytest.approx(
    {k: float(v) for k, v in b.items()}
  )


def evaluated(state):
  own = Evaluator(
    lambda: {'n': jnp.zeros(())},
    lambda total, state, batch, key: {'n': total['n'] + 1},
    lambda total: {'count': float(total['n'])},
  )
  made = ratios.watched(own, 2)
  total = made.init()
  for _ in range(3):
    total = jax.jit(made.update)(total, state, {}, None)
  assert own.finish(total) == {'count': 3}
  return made.finish(jax.device_get(total))


def test_an_evaluation_has_them_beside_its_own_figures(state):
  found = evaluated(state)
  want = ratios.by_layer(ratios.of_state(state), 2)
  assert list(found) == ['count', *(f'{name}/trust_ratio' for name in want)]
  assert found['layer_1/trust_ratio'] == pytest.approx(float(want['layer_1']))
  assert [name for name in found if ratios.is_one(name)] == list(found)[1:]


def test_an_optimizer_without_ratios_has_none(tmp_path):
  state = state_of(optax.sgd(0.1))
  assert evaluated(state) == {'count': 3}
  page = Sections(tmp_path)
  ratios.show(page, tmp_path, state)
  assert page.found == []


def test_they_are_drawn_over_the_steps_of_evaluations(state, tmp_path):
  name = 'validation/layer_{}/trust_ratio'.format
  lines = [
    {'step': 0, 'kind': 'eval', name(0): 1.0},
    {'step': 5, 'kind': 'train', 'loss': 2.0},
    {'step': 5, 'kind': 'eval', name(0): 0.5, name(1): 0.25},
    {'step': 9, 'kind': 'eval', name(0): 0.75, name(1): None},
  ]
  found = ratios.over_time(lines)
  assert found == {'layer_0': [(5, 0.5), (9, 0.75)], 'layer_1': [(5, 0.25)]}
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  (tmp_path / 'metrics.jsonl').write_text(text)
  page = Sections(tmp_path)
  ratios.show(page, tmp_path, state)
  assert [x['file'] for x in page.found] == ['trust_ratios.png']
  assert (tmp_path / 'figures' / 'trust_ratios.png').exists()
