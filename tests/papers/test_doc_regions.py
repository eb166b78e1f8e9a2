"""Regions, transfer, folds and stackers against independent references."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.special import log_softmax, logsumexp

from jaxlab.core.errors import InputError
from jaxlab.papers.doc_regions import method, stackers
from jaxlab.papers.doc_regions.method import REGIONS, RegionSpec, Stacker


def log_p(n=60, regions=3, classes=4, seed=0, sharp=1.0):
  """Log-probabilities and labels: every region knows something."""
  draw = np.random.default_rng(seed)
  y = draw.permutation(np.arange(n) % classes)
  logits = draw.normal(0, 1, (n, regions, classes))
  logits[np.arange(n), :, y] += sharp
  return log_softmax(logits, -1), y


# --- regions ---


def test_regions_are_those_of_a_page_of_780_by_600():
  want = {
    'holistic': (0, 780, 0, 600),
    'header': (0, 256, 0, 600),
    'footer': (524, 780, 0, 600),
    'left': (190, 590, 0, 300),
    'right': (190, 590, 300, 600),
  }
  scale = np.array([780, 780, 600, 600])
  for name, *sides in REGIONS:
    np.testing.assert_allclose(np.array(sides) * scale, want.pop(name))
  assert not want


def test_crops_are_pillows_of_the_same_boxes():
  pages = np.random.default_rng(0).random((2, 39, 31, 1), np.float32)
  found = np.asarray(method.crop_regions(pages, REGIONS, (9, 12)))
  assert found.shape == (2, 5, 9, 12, 1)
  for page, crops in zip(pages[..., 0], found[..., 0]):
    for (_, top, bottom, left, right), crop in zip(REGIONS, crops):
      box = left * 31, top * 39, right * 31, bottom * 39
      want = Image.fromarray(page).resize(
        (12, 9), Image.Resampling.BILINEAR, box=box
      )
      np.testing.assert_allclose(crop, np.asarray(want), atol=2e-5)


def test_a_marker_pixel_is_in_its_regions_alone():
  """One black pixel a page; rows and columns are of 780 x 600 over ten."""
  marks = {
    (10, 30): {'holistic', 'header'},
    (70, 30): {'holistic', 'footer'},
    (40, 10): {'holistic', 'left'},
    (40, 50): {'holistic', 'right'},
    (22, 10): {'holistic', 'header', 'left'},
    (56, 50): {'holistic', 'footer', 'right'},
  }
  pages = np.zeros((len(marks), 78, 60, 1), np.float32)
  for page, (row, column) in zip(pages, marks):
    page[row, column] = 1
  crops = np.asarray(method.crop_regions(pages, REGIONS, (40, 30)))
  for found, want in zip(crops, marks.values()):
    lit = {x.name for x, crop in zip(REGIONS, found) if crop.max() > 0.01}
    assert lit == want


@pytest.mark.parametrize(
  'specs, size, message',
  [
    ([RegionSpec('low', 0.5, 1.1, 0, 1)], (4, 4), r'region "low" has rows'),
    (
      [RegionSpec('thin', 0, 1, 0.5, 0.5)],
      (4, 4),
      r'"thin" has rows .*columns',
    ),
    ([RegionSpec('left', 0, 1, -0.1, 1)], (4, 4), r'fractions of the page'),
    ([], (4, 4), 'there are no regions'),
    ([REGIONS[0], REGIONS[0]], (4, 4), 'two regions have one name'),
    (REGIONS, (0, 4), r'size = \(0, 4\) of regions'),
  ],
)
def test_regions_that_cannot_be_are_named(specs, size, message):
  with pytest.raises(InputError, match=message):
    method.crop_regions(np.zeros((1, 8, 8, 1), np.float32), specs, size)


# --- transfer ---


def trees():
  """(source, init): one leaf misshapen, one absent, one unused, a head."""
  ones = jnp.ones
  source = {
    'conv': {'kernel': 2 * ones((3, 4)), 'bias': 2 * ones(4)},
    'norm': {'scale': 2 * ones(5)},
    'head': {'kernel': 2 * ones((4, 7))},
    'old': 2 * ones(1),
  }
  init = {
    'conv': {'kernel': ones((3, 4)), 'bias': ones(4, jnp.bfloat16)},
    'norm': {'scale': ones(6)},
    'new': ones(2),
    'head': {'kernel': ones((4, 7))},
  }
  return source, init


def test_transfer_copies_what_fits_and_reports_the_rest():
  source, init = trees()
  found = method.transfer(source, init, 'copy')
  assert found.copied == ('conv/bias', 'conv/kernel', 'head/kernel')
  assert (found.fresh, found.absent) == ((), ('new',))
  assert (found.misshapen, found.unused) == (
    ('norm/scale',),
    ('norm/scale', 'old'),
  )
  np.testing.assert_array_equal(found.tree['conv']['kernel'], 2)
  np.testing.assert_array_equal(found.tree['head']['kernel'], 2)
  np.testing.assert_array_equal(found.tree['norm']['scale'], 1)
  assert found.tree['conv']['bias'].dtype == jnp.bfloat16


def test_transfer_leaves_the_head_where_it_is_new():
  source, init = trees()
  found = method.transfer(source, init, 'reinit')
  assert found.fresh == ('head/kernel',)
  assert 'head/kernel' in found.unused
  np.testing.assert_array_equal(found.tree['head']['kernel'], 1)
  np.testing.assert_array_equal(found.tree['conv']['kernel'], 2)
  with pytest.raises(InputError, match='head = "keep" must be copy or reinit'):
    method.transfer(source, init, 'keep')
  with pytest.raises(InputError, match='no leaf of the source fits; it has'):
    method.transfer({'old': source['old']}, init)


# --- folds ---


def grouped(n=90, classes=3, seed=0):
  draw = np.random.default_rng(seed)
  groups = draw.integers(0, 24, n)
  return draw.integers(0, classes, n), groups


def test_folds_keep_groups_whole_and_spread_classes():
  y, groups = grouped()
  fold = method.folds_of(y, groups, 3)
  for group in np.unique(groups):
    assert len({*fold[groups == group].tolist()}) == 1
  share = [np.bincount(y[fold == f], minlength=3) for f in range(3)]
  assert np.min(share) >= 5 and np.max(np.sum(share, 1)) <= 36
  assert (method.folds_of(y, groups, 3) == fold).all()


def test_no_prediction_is_by_a_model_that_saw_the_page_or_its_group():
  y, groups = grouped()
  x = np.stack([np.arange(len(y)), groups], 1)

  def predict(seen, rows):
    """Whether each page, and its group, was among those fitted on."""
    page = np.isin(rows[:, 0], seen[0][:, 0])
    return np.stack([page, np.isin(rows[:, 1], seen[0][:, 1])], 1)

  found, fold = method.out_of_fold(
    lambda x, y: (x, y), predict, x, y, groups, 4
  )
  assert found.shape == (len(y), 2) and not found.any()
  assert {*fold.tolist()} == {0, 1, 2, 3}


def test_a_prediction_stands_where_its_page_does():
  y, groups = grouped(40)
  x = np.arange(40.0)
  found, _ = method.out_of_fold(
    lambda x, y: None, lambda model, x: x[:, None] + 1, x, y, groups, 3
  )
  np.testing.assert_array_equal(found[:, 0], x + 1)


@pytest.mark.parametrize(
  'labels, groups, folds, message',
  [
    ([0, 0, 1, 1], [0, 1, 2, 2], 2, 'class 1 is absent from training when'),
    ([0, 0, 1, 1], [0, 1, 2, 3], 5, 'number of groups of pages, 4'),
    ([0, 0, 1, 1], [0, 1, 2, 3], 1, 'folds = 1 must be at least 2'),
  ],
)
def test_folds_that_cannot_be_are_named(labels, groups, folds, message):
  with pytest.raises(InputError, match=message):
    method.folds_of(np.array(labels), np.array(groups), folds)


# --- stackers ---


def test_the_mean_stacker_is_a_hand_average():
  p = np.array([[[0.9, 0.1], [0.3, 0.7]], [[0.5, 0.5], [0.2, 0.8]]])
  given, y = np.log(p), np.array([0, 1])
  found = Stacker('mean').fit(given, y).predict_log_proba(given)
  np.testing.assert_allclose(np.exp(found), [[0.6, 0.4], [0.35, 0.65]])
  found = Stacker('log_mean').fit(given, y).predict_log_proba(given)
  root = np.sqrt([[0.27, 0.07], [0.1, 0.4]])
  want = root / root.sum(1, keepdims=True)
  np.testing.assert_allclose(np.exp(found), want)


@pytest.mark.parametrize('loss', [stackers._linear, stackers._convex])
def test_gradients_of_the_fits_are_those_of_their_losses(loss):
  given, y = log_p(20)
  size = 12 * 4 + 4 if loss is stackers._linear else 12
  theta = np.random.default_rng(1).normal(0, 0.3, size)
  _, grad = loss(given, y, theta)
  step = 1e-6 * np.eye(size)
  want = [
    (loss(given, y, theta + e)[0] - loss(given, y, theta - e)[0]) / 2e-6
    for e in step
  ]
  np.testing.assert_allclose(grad, want, atol=1e-7)


def test_convex_weights_are_on_the_simplex_of_each_class():
  given, y = log_p(80)
  stacker = Stacker('convex', penalty=1e-4).fit(given, y)
  weights = np.exp(log_softmax(stacker.weights.reshape(3, 4), 0))
  joint = (np.exp(given) * weights).sum(1)
  want = joint / joint.sum(1, keepdims=True)
  np.testing.assert_allclose(
    np.exp(stacker.predict_log_proba(given)), want, rtol=1e-9
  )
  assert weights.min() > 0 and np.ptp(weights) > 0.05


def test_logistic_stacking_is_a_penalised_minimum():
  given, y = log_p(80)
  stacker = Stacker('logistic', penalty=0.1).fit(given, y)
  _, grad = stackers._linear(given, y, stacker.weights)
  np.testing.assert_allclose(grad, -0.1 * stacker.weights, atol=1e-4)
  found = stacker.predict_log_proba(given)
  np.testing.assert_allclose(logsumexp(found, 1), 0, atol=1e-12)


def complementary(n, seed):
  """Two regions that each know one bit of four classes, surely or not."""
  draw = np.random.default_rng(seed)
  y = np.concatenate([np.arange(4), draw.integers(0, 4, n - 4)])
  bits = np.stack([y // 2, y % 2], 1)
  told = np.where(draw.random((n, 2)) < 0.95, bits, 1 - bits)
  p = np.empty((n, 2, 4))
  for region, half in enumerate((np.arange(4) // 2, np.arange(4) % 2)):
    p[:, region] = np.where(half == told[:, region, None], 0.45, 0.05)
  # An unused region that is sure of nothing.
  noise = draw.dirichlet(np.full(4, 0.3), n)[:, None]
  return np.log(np.concatenate([p, noise], 1)), y


@pytest.mark.parametrize('kind', method.KINDS)
def test_stacking_is_better_than_the_best_of_complementary_regions(kind):
  """Each region alone is right about half; both together about .9."""
  fit, judged = complementary(300, 0), complementary(300, 1)
  if kind in ('mean', 'log_mean'):  # a region of noise drowns the others
    fit, judged = ((x[:, :2], y) for x, y in (fit, judged))
  stacker = Stacker(kind, hidden=16, steps=300, rate=0.01)
  found = stacker.fit(*fit).predict_log_proba(judged[0])
  assert found.shape == (300, 4)
  np.testing.assert_allclose(logsumexp(found, 1), 0, atol=1e-6)
  right = (found.argmax(1) == judged[1]).mean()
  best = (judged[0].argmax(-1) == judged[1][:, None]).mean(0).max()
  least = 0.6 if kind == 'convex' else 0.85
  assert right >= least and right > best + 0.1, (right, best)


def test_the_mlp_leaves_the_step_that_is_best_on_whole_groups_held_out():
  given, y = log_p(40, sharp=0.0)  # nothing to learn: it overfits
  groups = np.repeat(np.arange(10), 4)
  options = {'hidden': 64, 'steps': 200, 'rate': 0.05, 'dropout': 0.0}
  stacker = Stacker('mlp', held=0.5, **options).fit(given, y, groups)
  found = stacker.predict_log_proba(given)
  start = log_softmax(given.mean(1), -1)
  rows = np.arange(40)
  apart = np.random.default_rng(0).permutation(10) < 5
  held = apart[groups]
  nats = lambda x, mask: -x[rows, y][mask].mean()
  assert nats(found, held) <= nats(start, held) + 1e-6
  assert nats(found, ~held) > 0.5  # 200 steps to the end would reach 0


@pytest.mark.parametrize(
  'kind, change, message',
  [
    ('vote', None, 'stacker "vote" is not one of mean'),
    ('logistic', lambda x, y: (x, 0 * y), 'fitted without a page of class 1'),
    ('mean', lambda x, y: (np.exp(x), y), 'must be at most 0 and no NaN'),
    ('mean', lambda x, y: (np.nan * x, y), 'no NaN'),
    ('mean', lambda x, y: (x[:, 0], y), 'give .pages, regions, classes.'),
    ('mean', lambda x, y: (x, y[:-1]), 'have labels'),
    ('convex', lambda x, y: (x, y + 1), 'labels reach 4'),
  ],
)
def test_what_cannot_be_stacked_is_named(kind, change, message):
  given, y = log_p()
  with pytest.raises(InputError, match=message):
    Stacker(kind).fit(*change(given, y))


def test_a_stacker_asked_about_other_regions_says_so():
  given, y = log_p()
  stacker = Stacker('mean').fit(given, y)
  with pytest.raises(InputError, match=r'= \[3, 4\] and is given \[2, 4\]'):
    stacker.predict_log_proba(given[:, :2])
  with pytest.raises(InputError, match=r'fitted to .* = \[\]'):
    Stacker('mean').predict_log_proba(given)


# --- what regions add ---


def test_disagreement_counts_answers_and_their_spread():
  p = np.array(
    [
      [[0.98, 0.01, 0.01]] * 3,
      [[1 - 2e-9, 1e-9, 1e-9], [1e-9, 1 - 2e-9, 1e-9], [1e-9, 1e-9, 1 - 2e-9]],
      [[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.9, 0.05, 0.05]],
    ]
  )
  answers, spread = method.disagreement(np.log(p))
  assert answers.tolist() == [1, 3, 2]
  np.testing.assert_allclose(spread[:2], [0, np.log(3)], atol=1e-6)
  assert 0 < spread[2] < spread[1]


def test_q_and_double_fault_by_counting():
  a = np.array([1, 1, 1, 1, 0, 0, 0, 0, 1, 0], bool)
  b = np.array([1, 1, 1, 0, 0, 0, 0, 1, 0, 1], bool)
  n11, n00, n10, n01 = 3, 3, 2, 2
  right = np.stack([a, b], 1)
  want = (n11 * n00 - n10 * n01) / (n11 * n00 + n10 * n01)
  assert method.q_statistic(right)[0, 1] == pytest.approx(want)
  assert method.double_fault(right)[0, 1] == pytest.approx(0.3)
  assert method.double_fault(right)[0, 0] == pytest.approx(0.5)


def test_leaving_out_the_region_that_knows_costs_most():
  fit, judged = complementary(200, 0), complementary(200, 1)
  lost = method.leave_one_out('logistic', fit, judged)
  assert lost.shape == (3,) and lost[:2].min() > 0.3 and abs(lost[2]) < 0.05


def test_a_paired_difference_is_drawn_by_groups():
  draw = np.random.default_rng(0)
  groups = np.repeat(np.arange(40), 5)
  gain = np.repeat(draw.normal(0.1, 0.5, 40), 5)  # alike within a group
  mean, low, high = method.paired_difference(gain, 0 * gain, groups)
  of_groups = gain[::5]
  half = 1.96 * of_groups.std() / np.sqrt(40)
  assert mean == pytest.approx(of_groups.mean())
  assert low == pytest.approx(mean - half, abs=0.03)
  assert high == pytest.approx(mean + half, abs=0.03)
