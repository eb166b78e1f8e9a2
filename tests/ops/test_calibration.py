import numpy as np
import pytest
import scipy.special
from sklearn import metrics as reference

from jaxlab.ops import calibration


def logits_of(confidences, classes=2):
  """Logits whose largest softmax probability is class 0's."""
  p = np.asarray(confidences, np.float64)[:, None]
  rest = np.repeat((1 - p) / (classes - 1), classes - 1, -1)
  return np.log(np.concatenate([p, rest], -1))


def drawn(rows, temperature, seed=0, classes=5):
  """Logits, and labels drawn from softmax(logits / temperature)."""
  draw = np.random.default_rng(seed)
  logits = draw.normal(0, 4, (rows, classes))
  p = scipy.special.softmax(logits / temperature, -1)
  labels = (p.cumsum(-1) < draw.random((rows, 1))).sum(-1)
  return logits, np.minimum(labels, classes - 1)


def test_ece_equals_a_case_worked_by_hand():
  # Bins of a fifth: (.4, .6] has .55, .6 (one of two right), (.6, .8] has .7
  # (right), (.8, 1] has .9, .95, 1 (two of three right).
  logits = logits_of([0.55, 0.6, 0.7, 0.9, 0.95, 1 - 1e-12])
  labels = np.array([0, 1, 0, 0, 1, 0])
  gaps = 2 * abs(0.575 - 0.5) + abs(0.7 - 1) + 3 * abs(2.85 / 3 - 2 / 3)
  found = calibration.ece(logits, labels, bins=5)
  assert found == pytest.approx(gaps / 6, abs=1e-9)

  table = calibration.reliability(logits, labels, bins=5)
  assert table.examples.tolist() == [0, 0, 2, 1, 3]
  np.testing.assert_allclose(table.low, [0, 0.2, 0.4, 0.6, 0.8])
  np.testing.assert_allclose(table.high, [0.2, 0.4, 0.6, 0.8, 1])
  np.testing.assert_allclose(table.accuracy[2:], [0.5, 1, 2 / 3])
  np.testing.assert_allclose(table.confidence[2:], [0.575, 0.7, 0.95])
  assert np.isnan(table.accuracy[:2]).all()


def test_bins_of_equal_mass_hold_as_many_and_keep_equal_confidences_together():
  logits, labels = drawn(100, 1.0)
  table = calibration.reliability(logits, labels, bins=7, equal_mass=True)
  assert set(table.examples) == {14, 15} and table.examples.sum() == 100
  assert (np.diff(table.confidence) > 0).all()
  # Worked by hand: (.6, .6, .6, .6) and (.8, .9) of three bins asked for.
  logits = logits_of([0.6, 0.9, 0.6, 0.6, 0.8, 0.6])
  labels = np.array([0, 0, 1, 1, 1, 0])
  table = calibration.reliability(logits, labels, bins=3, equal_mass=True)
  assert table.examples.tolist() == [4, 2]
  found = calibration.ece(logits, labels, bins=3, equal_mass=True)
  assert found == pytest.approx((4 * 0.1 + 2 * 0.35) / 6)
  more = calibration.reliability(logits, labels, bins=50, equal_mass=True)
  assert more.examples.tolist() == [4, 1, 1]


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
  # exp(0) / 2 is exactly 1/2, the edge of two bins.
  table = calibration.reliability(np.zeros((3, 2)), np.array([0, 1, 0]), bins=2)
  assert table.examples.tolist() == [3, 0]


def test_nll_and_brier_equal_scikit_learns():
  logits, labels = drawn(200, 2.0)
  p = scipy.special.softmax(logits, -1)
  expected = reference.log_loss(labels, p, labels=range(5))
  assert calibration.nll(logits, labels) == pytest.approx(expected)
  errors = (p - np.eye(5)[labels]) ** 2
  assert calibration.brier(logits, labels) == pytest.approx(
    errors.sum(-1).mean()
  )
  assert calibration.brier(logits_of([1 - 1e-15]), [1]) == pytest.approx(2)


@pytest.mark.parametrize('temperature', [0.3, 1.0, 4.0])
def test_temperature_scaling_recovers_a_known_temperature(temperature):
  logits, labels = drawn(20_000, temperature)
  found = calibration.fit_temperature(logits, labels)
  # Its deviation is 1 / sqrt(n) times a factor near 1, relative to it.
  assert found == pytest.approx(temperature, rel=0.04)
  for factor in (0.99, 1.01):
    worse = calibration.nll(logits / (factor * found), labels)
    assert worse > calibration.nll(logits / found, labels)


def test_a_set_that_no_temperature_fits_is_refused():
  logits = np.random.default_rng(0).normal(size=(30, 4))
  with pytest.raises(ValueError, match='all of 30 validation examples'):
    calibration.fit_temperature(logits, logits.argmax(-1))
  with pytest.raises(ValueError, match='0 of 30'):
    calibration.fit_temperature(logits, logits.argmin(-1))


@pytest.mark.parametrize('scale', [1e-2, 2.0, 1e3])
def test_no_temperature_fits_where_every_example_is_right(scale):
  with pytest.raises(calibration.NoTemperature, match='all of 3'):
    calibration.fit_temperature(scale * np.eye(3), [0, 1, 2])


_GOOD = np.arange(12.0).reshape(4, 3) / 5
_BAD = {
  r'logits are \(0, 3\)': (_GOOD[:0], [0] * 0),
  r'logits are \(4,\)': (_GOOD[:, 0], [0] * 4),
  r'logits are \(4, 1\)': (_GOOD[:, :1], [0] * 4),
  r'labels are int64 \(3,\)': (_GOOD, [0] * 3),
  'labels are float64': (_GOOD, [0.0] * 4),
  'logits of 1 of 4 examples are not finite, first at row 2': (
    np.where(np.arange(4)[:, None] == 2, np.nan, _GOOD),
    [0] * 4,
  ),
  'these are probabilities': (scipy.special.softmax(_GOOD, -1), [0] * 4),
  r'2 labels are outside of \[0, 3\), first 3 at row 1': (_GOOD, [0, 3, 1, -1]),
}


@pytest.mark.parametrize('words', _BAD)
@pytest.mark.parametrize(
  'function',
  [
    calibration.ece,
    calibration.reliability,
    calibration.nll,
    calibration.brier,
    calibration.fit_temperature,
    calibration.summary,
  ],
)
def test_bad_input_is_refused(function, words):
  with pytest.raises(ValueError, match=words):
    function(*_BAD[words])


def test_no_bins_are_refused():
  with pytest.raises(ValueError, match='bins=0'):
    calibration.ece(_GOOD, [0] * 4, bins=0)
