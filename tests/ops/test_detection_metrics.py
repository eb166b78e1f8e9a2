import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from sklearn import metrics as reference

from jaxlab.ops import detection_metrics as metrics

_K = np.arange(20)
_DRAW = np.random.default_rng(0)
_IN = _DRAW.normal(1.5, 1, 10_000)
_OUT = _DRAW.normal(0, 0.5, 10_000)
CASES = {
  'ramps': ((_K + 1) / 20, 0.6 * _K / 20),
  'plateau': (
    np.append(0.01, np.linspace(0.5, 1, 19)),
    np.append(np.linspace(0, 0.45, 16), np.linspace(0.9, 0.99, 4)),
  ),
  'ties': (
    np.array([1.0] * 18 + [0.5, 0.2]),
    np.array([1.0] * 5 + [0.3] * 15),
  ),
  'normal': (_IN, _OUT),
  'uneven': (_IN, _OUT[:2000]),
}
# Of other people's code on these scores: ALOE's, then OpenOOD's and
# scikit-learn's roc_curve; to the digits that are known.
GOLDEN = {
  'ramps': (
    (0.90, 0.735, 0.275, 0.775594, 0.671448),
    (0.73875, 0.802802, 0.700401, 0.50, 0.80),
  ),
  'plateau': (
    (0.95, 0.7875, 0.125, 0.672334, 0.768387),
    (0.7875, 0.697334, 0.793387, 0.90, 0.20),
  ),
  'ties': (
    (1.0, 0.7125, 0.15, 0.581732, 0.723979),
    (0.825, 0.866210, 0.524357, 1.0, 0.25),
  ),
  'normal': (
    (0.5995, 0.912019, 0.14325, 0.935207, 0.856009),
    (0.912019, 0.935257, 0.856009, 0.2433, 0.599),
  ),
  'uneven': (
    (0.5975, 0.911878, 0.14115, 0.982481, 0.553211),
    (0.911878, 0.982531, 0.553211, 0.247, 0.596),
  ),
}
ALL = (
  metrics.auroc,
  metrics.auroc_interval,
  metrics.aupr_in,
  metrics.aupr_out,
  metrics.detection_error,
  metrics.fpr_at_95tpr_id_positive,
  metrics.fpr_at_95tpr_ood_positive,
  metrics.roc,
  metrics.summary,
  metrics.aloe_figures,
)


@pytest.mark.parametrize('case', CASES)
def test_figures_equal_the_golden_values(case):
  inside, outside = CASES[case]
  found = (
    metrics.auroc(inside, outside),
    metrics.aupr_in(inside, outside),
    metrics.aupr_out(inside, outside),
    metrics.fpr_at_95tpr_ood_positive(inside, outside),
    metrics.fpr_at_95tpr_id_positive(inside, outside),
  )
  # Known to six digits.
  assert np.abs(np.array(found) - GOLDEN[case][1]).max() < 1e-6
  # Of the detection error, ALOE's code has no convention of its own.
  error = metrics.detection_error(inside, outside)
  assert error == pytest.approx(GOLDEN[case][0][2], abs=1e-12)


@pytest.mark.parametrize('case', CASES)
def test_the_figures_of_aloes_code_equal_the_golden_values(case):
  found = metrics.aloe_figures(*CASES[case])
  names = ('fpr', 'auroc', 'detection_error', 'auin', 'auout')
  assert tuple(found) == names
  assert np.abs(np.array([*found.values()]) - GOLDEN[case][0]).max() < 1e-6


@pytest.mark.parametrize('case', CASES)
def test_figures_equal_scikit_learns(case):
  inside, outside = CASES[case]
  is_in = np.repeat([1, 0], [len(inside), len(outside)])
  scores = np.concatenate([inside, outside])
  assert metrics.auroc(inside, outside) == pytest.approx(
    reference.roc_auc_score(is_in, scores), abs=1e-12
  )
  for name, truth, values in (
    ('aupr_in', is_in, scores),
    ('aupr_out', 1 - is_in, -scores),
  ):
    ours = getattr(metrics, name)
    precision, recall, _ = reference.precision_recall_curve(truth, values)
    area = reference.auc(recall, precision)
    assert ours(inside, outside) == pytest.approx(area, abs=1e-12)
    step = reference.average_precision_score(truth, values)
    assert ours(inside, outside, 'step') == pytest.approx(step, abs=1e-12)
  fpr, tpr, _ = reference.roc_curve(is_in, scores, drop_intermediate=False)
  np.testing.assert_allclose(metrics.roc(inside, outside), (fpr, tpr))


def test_auroc_is_the_share_of_pairs_with_ties_as_halves():
  draw = np.random.default_rng(1)
  inside, outside = draw.integers(1, 6, 30), draw.integers(0, 5, 40)
  above = (inside[:, None] > outside).mean()
  equal = (inside[:, None] == outside).mean()
  assert metrics.auroc(inside, outside) == pytest.approx(above + equal / 2)
  assert metrics.auroc(outside, inside) == pytest.approx(1 - above - equal / 2)


def test_figures_of_perfect_useless_and_reversed_detectors():
  high, low = np.arange(10.0, 30), np.arange(10.0)
  best = metrics.summary(high, low)
  assert best['auroc'] == best['aupr_in'] == best['aupr_out'] == 1
  assert best['detection_error'] == best['fpr_at_95tpr_id_positive'] == 0
  assert best['fpr_at_95tpr_ood_positive'] == 0
  worst = metrics.summary(low, high)
  assert worst['auroc'] == 0 and worst['detection_error'] == 0.5
  same = metrics.summary(np.ones(5), np.ones(15))
  assert same['auroc'] == same['detection_error'] == 0.5
  assert same['fpr_at_95tpr_id_positive'] == 1
  # The straight line from (0, 1) to (1, 1/4): a quirk of the trapezoid, which
  # the average precision does not have.
  assert same['aupr_in'] == pytest.approx(0.625)
  assert metrics.aupr_in(np.ones(5), np.ones(15), 'step') == 0.25


def test_the_threshold_accepts_at_least_95_percent_and_no_lower_one_is_taken():
  draw = np.random.default_rng(2)
  for n in (1, 7, 19, 20, 21, 100, 999):
    scores = draw.normal(size=n).round(1)
    threshold = metrics.threshold_at_tpr(scores)
    assert (scores >= threshold).mean() >= 0.95
    assert (scores > threshold).mean() < 0.95
  assert metrics.threshold_at_tpr(scores, 1.0) == scores.min()
  assert metrics.accepted([1, 2, 3, 4], 3) == 0.5


def test_delongs_interval_covers_the_truth_as_often_as_it_says():
  # N(1, 1) against N(0, 1): P(ID > OOD) = Phi(1 / sqrt 2).
  truth = scipy.stats.norm.cdf(1 / np.sqrt(2))
  draw = np.random.default_rng(3)
  covered = 0
  for _ in range(300):
    inside, outside = draw.normal(1, 1, 40), draw.normal(0, 1, 60)
    low, high = metrics.auroc_interval(inside, outside)
    assert low < metrics.auroc(inside, outside) < high
    covered += low <= truth <= high
  # 300 trials at .95 have a deviation of .013: three of them.
  assert abs(covered / 300 - 0.95) < 0.038


def test_delongs_interval_equals_a_pair_by_pair_reference():
  draw = np.random.default_rng(4)
  inside, outside = draw.integers(2, 9, 25), draw.integers(0, 7, 35)
  wins = (inside[:, None] > outside) + 0.5 * (inside[:, None] == outside)
  variance = wins.mean(1).var(ddof=1) / 25 + wins.mean(0).var(ddof=1) / 35
  area = wins.mean()
  half = scipy.stats.norm.ppf(0.975) * np.sqrt(variance) / (area * (1 - area))
  ends = [np.log(area / (1 - area)) + x for x in (-half, half)]
  expected = [1 / (1 + np.exp(-x)) for x in ends]
  found = metrics.auroc_interval(inside, outside)
  np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_interval_of_a_perfect_detector_has_a_width():
  low, high = metrics.auroc_interval(np.arange(20) + 50, np.arange(50))
  assert high == 1 and 0.8 < low < 0.9  # 20 of 20: Wilson's .839
  assert metrics.auroc_interval([1.0], [0.0])[0] < 0.3
  low, high = metrics.auroc_interval(np.ones(9), np.ones(9))  # all tie
  assert low < 0.3 and high > 0.7


def test_the_bootstrap_agrees_with_delong():
  inside, outside = _IN[:400], _OUT[:400]
  found = metrics.bootstrap(metrics.auroc, inside, outside, replicates=400)
  # Both are estimates: the ends differ by a tenth of the width, .004.
  np.testing.assert_allclose(
    found, metrics.auroc_interval(inside, outside), atol=0.005
  )
  assert found == metrics.bootstrap(
    metrics.auroc, inside, outside, replicates=400
  )


@pytest.mark.parametrize('metric', ALL, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
  'inside, outside, words',
  [
    ([], [1.0], 'no ID scores'),
    ([1.0], [], 'no OOD scores'),
    ([1.0, np.nan, np.nan], [1.0], '2 of 3 ID scores .* row 1'),
    ([1.0], [0.0, -np.inf], '1 of 2 OOD scores .* row 1'),
    ([[1.0]], [1.0], r'ID scores are float64 \(1, 1\)'),
    ([1.0], ['a'], 'the OOD scores are'),
  ],
)
def test_bad_scores_are_refused_by_name_and_count(
  metric, inside, outside, words
):
  with pytest.raises(ValueError, match=words):
    metric(inside, outside)


def test_bad_arguments_are_refused():
  with pytest.raises(ValueError, match="interpolation='linear'"):
    metrics.aupr_in([1], [0], 'linear')
  for tpr in (0, 95):
    with pytest.raises(ValueError, match=f'tpr={tpr}'):
      metrics.threshold_at_tpr([1.0], tpr)


def test_scores_may_be_bfloat16():
  scores = jnp.array([2, 3], 'bfloat16')
  assert metrics.auroc(scores, [1.0, 2.0]) == 0.875
  assert metrics.auroc([2.0, 3.0], scores - 1) == 0.875
