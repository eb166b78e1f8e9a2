import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.ops import masking
from jaxlab.ops.masking import masking_report
from tests.ops.attacked import (
  KEY,
  quick_compiles,
)

_quick = pytest.fixture(autouse=True, scope='module')(quick_compiles)


def images_and_labels(rows=16):
  draw = np.random.default_rng(0)
  labels = np.arange(rows) % 3
  images = 0.5 + 0.1 * draw.normal(size=(rows, 2, 2, 3))
  images[np.arange(rows), 0, 0, labels] += 0.3
  images = jnp.asarray(images.clip(0, 1), jnp.float32)
  return images, jnp.arange(rows), jnp.asarray(labels)


def net(images, scale=10.0):
  """Three classes: the first three values, against their mean."""
  first = images[:, 0, 0, :]
  return scale * (first - first.mean(-1, keepdims=True))


def report_of(logits_fn, *rest, **options):
  small = {'epsilon': 0.15, 'steps': 4, 'queries': 20, 'curve': (8, 32)}
  return masking_report(logits_fn, **{**small, **options})(
    KEY, *images_and_labels(), *rest
  )


def test_an_honest_network_brings_no_warning():
  found = report_of(net)
  assert found['warnings'] == [] and found['text'] == ''
  accuracy = found['accuracy']
  assert accuracy['clean'] == 1 and accuracy['unbounded'] == 0
  assert accuracy['pgd'] <= accuracy['fgsm'] < 1
  assert list(found['steps_curve']) == [8, 32]
  assert found['zero_gradients'] == 0 and not found['probabilities']
  plain = (float, bool, list, str, dict)
  assert all(isinstance(value, plain) for value in found.values())


def rounded(images):
  return net(jnp.round(images * 255) / 255)


def test_rounding_is_found_out_by_zero_gradients_by_square_and_by_transfer():
  # Of probabilities, which are reported too, and not refused.
  soft = lambda images: jax.nn.softmax(rounded(images))
  found = report_of(soft, transfer=(net, ()))
  assert found['probabilities'] and 'before the softmax' in found['text']
  assert found['zero_gradients'] == 1.0
  assert found['accuracy']['pgd'] > found['accuracy']['square']
  assert 'a gradient of exactly 0' in found['text']
  assert 'Square, without gradients, is stronger' in found['text']
  assert 'a budget of 1' in found['text']
  assert found['accuracy']['transfer'] < found['accuracy']['apgd_ce']
  assert 'crafted on another network' in found['text']


def test_probabilities_and_chance_and_batch_statistics_are_found_out():
  # No attack is needed for these, so that the checks are called themselves.
  x, _, _ = images_and_labels()
  draw = np.random.default_rng(0)
  noisy = lambda images: net(images) + draw.normal()
  assert masking._random_difference(noisy, x, ()) > 0.01
  assert masking._random_difference(net, x, ()) == 0
  whitened = lambda images: net(images - images.mean(0))
  assert masking._batch_difference(whitened, x, ()) > 0.01
  assert masking._batch_difference(net, x, ()) < 1e-6


QUIET = {
  'accuracy': {
    'clean': 0.9,
    'fgsm': 0.6,
    'pgd': 0.5,
    'pgd_scaled': 0.5,
    'apgd_ce': 0.49,
    'apgd_dlr': 0.48,
    'square': 0.55,
    'unbounded': 0.0,
    'transfer': 0.7,
  },
  'steps_curve': {5: 0.6, 20: 0.51, 80: 0.5},
  'random_difference': 1e-6,
  'batch_difference': 1e-6,
  'probabilities': False,
  'zero_gradients': 0.0,
}


@pytest.mark.parametrize(
  'change, message',
  [
    ({'probabilities': True}, 'returns probabilities'),
    ({'random_difference': 0.1}, 'the output is random'),
    ({'batch_difference': 0.1}, 'the rest of the batch'),
    ({'zero_gradients': 0.1}, '10.0% of the images'),
    ({'fgsm': 0.4}, 'one step is stronger (40.0%) than many (50.0%)'),
    ({'square': 0.47}, 'Square, without gradients, is stronger (47.0%)'),
    ({'pgd_scaled': 0.4}, 'the cross-entropy is saturated'),
    ({'unbounded': 0.1}, '10.0% withstand it'),
    ({'transfer': 0.4}, 'crafted on another network'),
    ({'steps_curve': {20: 0.6, 80: 0.5}}, 'has not converged: 20 steps'),
  ],
)
def test_each_symptom_brings_its_own_warning_alone(change, message):
  assert masking._warnings(QUIET) == []
  name, value = next(iter(change.items()))
  sick = {**QUIET, 'accuracy': dict(QUIET['accuracy'])}
  (sick if name in sick else sick['accuracy'])[name] = value
  warnings = masking._warnings(sick)
  assert len(warnings) == 1 and message in warnings[0]


def test_bad_input_is_refused():
  with pytest.raises(ValueError, match='8/255'):
    masking_report(net, epsilon=8)
  for curve in ((5,), (5, 5), (20, 5)):
    with pytest.raises(ValueError, match='must rise'):
      masking_report(net, epsilon=0.1, curve=curve)
  with pytest.raises(ValueError, match='curve must be an integer'):
    masking_report(net, epsilon=0.1, curve=(0, 5))
  x, ids, y = images_and_labels()
  report = masking_report(net, epsilon=0.1)
  with pytest.raises(ValueError, match='not in'):
    report(KEY, 255 * x, ids, y)
  undefined = masking_report(lambda x: net(x) * jnp.nan, epsilon=0.1)
  with pytest.raises(ValueError, match='NaN'):
    undefined(KEY, x, ids, y)
