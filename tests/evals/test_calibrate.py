import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.evals import calibrate
from jaxlab.ops import calibration
from jaxlab.runs.sections import write_figure
from tests.evals.evaluated import evaluated


def drawn(rows, temperature, seed=0):
  draw = np.random.default_rng(seed)
  logits = draw.normal(0, 4, (rows, 3)).astype(np.float32)
  p = np.exp(logits / temperature)
  p /= p.sum(-1, keepdims=True)
  labels = (p.cumsum(-1) < draw.random((rows, 1))).sum(-1).clip(0, 2)
  return logits, labels


def batches(logits, labels, size=16):
  """The last one padded with what must not matter."""
  pad = -len(labels) % size
  arrays = {
    'logits': np.pad(logits, ((0, pad), (0, 0)), constant_values=np.nan),
    'label': np.pad(labels, (0, pad), constant_values=77),
    'mask': np.arange(len(labels) + pad) < len(labels),
  }
  count = (len(labels) + pad) // size
  return [
    {k: jnp.asarray(np.split(v, count)[i]) for k, v in arrays.items()}
    for i in range(count)
  ]


def figures(some, bins=15):
  evaluator = calibrate.calibrate(lambda p, v, batch: batch['logits'], bins)
  return evaluated(evaluator, some)


@pytest.mark.parametrize('bins', [1, 15])
def test_the_evaluator_equals_the_functions_on_all_rows(bins):
  logits, labels = drawn(37, 2.0)
  found = figures(batches(logits, labels), bins)
  expected = calibration.summary(logits, labels, bins)
  assert found.pop('examples') == 37
  assert set(found) == set(expected) - {'ece_equal_mass'}
  for name, value in found.items():
    assert value == pytest.approx(expected[name], rel=1e-5, abs=1e-6)


def test_certain_and_even_confidences_have_their_bins():
  # Confidence 1 in float32, and 1/3, the edge of a bin of three.
  logits = np.array([[90, 0, 0], [0, 0, 0]], np.float32)
  found = figures(batches(logits, np.array([0, 1]), 2), bins=3)
  assert found['ece'] == pytest.approx((0 + 1 / 3) / 2, abs=1e-6)


def test_a_temperature_is_fitted_on_one_set_and_measured_on_another():
  def apply(batch, scale):
    return batch['logits'] * scale

  validation, test = drawn(4000, 3.0), drawn(2000, 3.0, seed=1)
  t, (before, after) = calibrate.temperature_scaled(
    apply,
    (jnp.float32(2),),
    batches(*validation, 1000),
    batches(*test, 1001),
  )
  doubled = 2 * validation[0].astype(np.float64)
  # float32 logits against float64 ones.
  assert t == pytest.approx(
    calibration.fit_temperature(doubled, validation[1]), rel=1e-5
  )
  assert t == pytest.approx(6, rel=0.08)
  assert (before['temperature'], after['temperature']) == (1.0, t)
  assert after['ece'] < 0.04 < 0.2 < before['ece']
  expected = calibration.nll(2 * test[0].astype(np.float64) / t, test[1])
  assert after['nll'] == pytest.approx(expected, rel=1e-5)
  assert after['accuracy'] == before['accuracy']


def test_reliability_diagrams_are_drawn(tmp_path):
  tables = {
    name: calibration.reliability(*drawn(300, t))
    for name, t in (('before', 3.0), ('after', 1.0))
  }
  path = tmp_path / 'figures' / 'reliability.png'
  write_figure(path, calibrate.reliability_diagrams(tables))
  assert path.read_bytes()[:4] == b'\x89PNG'


def test_bad_input_is_refused():
  logits, labels = drawn(16, 1.0)
  with pytest.raises(ValueError, match='bins=0'):
    calibrate.calibrate(lambda p, v, b: b['logits'], bins=0)
  (batch,) = batches(logits, labels)
  with pytest.raises(InputError, match='no examples'):
    figures([{**batch, 'mask': jnp.zeros(16, bool)}])
  broken = {**batch, 'logits': batch['logits'].at[3, 1].set(jnp.nan)}
  with pytest.raises(InputError, match='not finite'):
    figures([broken])

  def scaled(batch):
    return calibrate.temperature_scaled(
      lambda batch: batch['logits'], (), [batch], [batch]
    )

  with pytest.raises(InputError, match='1 of 16 examples are not finite'):
    scaled(broken)


def test_where_no_temperature_fits_it_and_its_figures_are_nan():
  logits, _ = drawn(16, 1.0)
  (easy,) = batches(logits, logits.argmax(-1))
  t, (plain, scaled) = calibrate.temperature_scaled(
    lambda batch: batch['logits'], (), [easy], [easy]
  )
  assert np.isnan([t, *scaled.values()]).all()
  assert plain['accuracy'] == 1 and plain['nll'] > 0
