"""Region counts against closed forms, dense sampling and each other."""

import itertools

import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.ops import polygons
from jaxlab.ops.piecewise import Kink, Largest, Linear, Piecewise
from jaxlab.papers.geometry import regions

SQUARE = np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])


def net(widths, seed=0, bias=0.1):
  """He normals and small biases."""
  rng = np.random.default_rng(seed)
  return [
    (
      rng.normal(size=(a, b)) * np.sqrt(2 / a),
      bias * rng.normal(size=b),
    )
    for a, b in itertools.pairwise(widths)
  ]


def tent(folds):
  """2^folds linear pieces on [0, 1]: x -> 2 min(x, 1 - x), again and again."""
  first, last = np.ones((1, 2)), np.array([[2.0], [-4.0]])
  bias = np.array([0.0, -0.5])
  middle = [(last @ first, bias) for _ in range(folds - 1)]
  return [(first, bias), *middle, (last, np.zeros(1))]


def forward(layers, x):
  for i, (w, b) in enumerate(layers):
    x = (np.maximum(x, 0) if i else x) @ w + b
  return x


def signs(layers, x):
  """[n, hidden units] patterns at points."""
  found = []
  for w, b in layers[:-1]:
    x = x @ w + b
    found.append(x > 0)
    x = np.maximum(x, 0)
  return np.concatenate(found, 1)


# --- along segments ---


@pytest.mark.parametrize('folds', [1, 2, 3, 8, 12])
def test_a_tent_has_two_to_the_k_pieces(folds):
  found = regions.count_segment(tent(folds), [0.0], [1.0])
  assert found == (2**folds, 2**folds)


def test_marching_finds_the_same_pieces_of_tents():
  for folds in (3, 12):
    found = regions.march_segments(tent(folds), [[0.0]], [[1.0]], 2**folds)
    assert found.pieces == 2**folds and not found.overflow
    want = np.arange(1, 2**folds) / 2**folds
    np.testing.assert_allclose(found.times[0][: 2**folds - 1], want, atol=1e-15)
    slopes = found.slopes[0][: 2**folds, 0]
    np.testing.assert_array_equal(
      slopes, 2.0**folds * (-1) ** np.arange(2**folds)
    )


def test_marching_and_layers_agree_on_random_nets():
  layers = net([10, 12, 12, 2], 1)
  rng = np.random.default_rng(2)
  a, b = rng.normal(size=(2, 5, 10)) * 2
  found = regions.count_segments(layers, a, b)
  marched = regions.march_segments(layers, a, b, 200)
  np.testing.assert_array_equal(found.activation, marched.pieces)
  for i in range(5):
    times = found.times[found.segment == i][1:-1]
    np.testing.assert_allclose(
      times, marched.times[i][: len(times)], atol=1e-12
    )
  assert found.activation.max() > 15


def test_pieces_are_those_of_dense_sampling_and_the_map_is_the_nets():
  layers = net([2, 16, 16, 1], 3)
  a, b = np.array([-2.0, 1.3]), np.array([1.7, -1.9])
  found = regions.count_segments(layers, a[None], b[None])
  t = np.linspace(0, 1, 200_001)
  pattern = signs(layers, a + t[:, None] * (b - a))
  changes = (pattern[1:] != pattern[:-1]).any(1).sum()
  assert found.activation == [changes + 1]
  at = a + found.times[:, None] * (b - a)
  np.testing.assert_allclose(found.values, forward(layers, at), atol=1e-12)
  middle = (found.times[1:] + found.times[:-1]) / 2
  want = (found.values[1:] + found.values[:-1]) / 2
  at = a + middle[:, None] * (b - a)
  np.testing.assert_allclose(want, forward(layers, at), atol=1e-12)


def test_a_unit_dead_behind_a_bend_makes_an_activation_piece_alone():
  bent = (np.ones((1, 2)), np.array([-0.25, -0.5]))
  layers = [bent, (np.array([[0.0], [1.0]]), np.zeros(1))]
  assert regions.count_segment(layers, [0.0], [1.0]) == (2, 3)


def test_a_unit_that_touches_zero_makes_no_piece():
  fold = (np.ones((1, 2)), np.array([0.0, -0.5]))
  touch = (np.array([[2.0], [-4.0]]), np.array([-1.0]))  # 0 at x = 1/2, below
  layers = [fold, touch, (np.ones((1, 1)), np.zeros(1))]
  assert regions.count_segment(layers, [0.0], [1.0]).activation == 2


def test_two_units_at_one_place_make_one_bend():
  twins = np.ones((1, 2)), np.array([-0.5, -0.5])
  layers = [twins, (np.ones((2, 1)), np.zeros(1))]
  assert regions.count_segment(layers, [0.0], [1.0]) == (2, 2)
  found = regions.march_segments(layers, [[0.0]], [[1.0]], 4)
  assert (found.pieces, found.events) == (2, 2)


def test_more_segments_than_a_block_keep_their_numbers():
  layers = net([3, 8, 1], 4)
  rng = np.random.default_rng(5)
  a, b = rng.normal(size=(2, 35, 3))
  found = regions.count_segments(layers, a, b)
  alone = [regions.count_segment(layers, *pair) for pair in zip(a, b)]
  assert found.linear.tolist() == [x.linear for x in alone]
  assert sorted({*found.segment.tolist()}) == [*range(35)]


# --- on a plane ---


@pytest.mark.parametrize('units', [3, 5, 8, 12])
def test_lines_in_general_position_cut_a_plane(units):
  rng = np.random.default_rng(units)
  hidden = rng.normal(size=(2, units)), rng.normal(size=units)
  layers = [hidden, (rng.normal(size=(units, 1)), np.zeros(1))]
  found = regions.slice_polygons(layers, 1e4 * SQUARE)
  want = 1 + units + units * (units - 1) // 2
  assert found.activation == len(found.polygons) == want == found.linear


def test_cells_fill_the_square_and_hold_the_nets_own_maps():
  layers = net([2, 10, 10, 2], 6)
  found = regions.slice_polygons(layers, SQUARE)
  assert abs(found.areas.sum() - 4) < 1e-9
  assert found.areas.min() > 0
  centre = polygons.centroids(found.polygons)
  ones = np.concatenate([np.ones((len(centre), 1)), centre], 1)
  value = (found.maps * ones[:, None]).sum(-1)
  at = found.origin + centre @ found.basis
  np.testing.assert_allclose(value, forward(layers, at), atol=1e-12)
  patterns = signs(layers, at)
  assert len(np.unique(patterns, axis=0)) == len(patterns) == found.activation
  grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 301)] * 2), -1)
  seen = len(np.unique(signs(layers, grid.reshape(-1, 2)), axis=0))
  assert 0.8 * found.activation < seen <= found.activation


def test_a_line_in_a_slice_meets_as_many_cells_as_the_line_alone():
  layers = net([6, 9, 9, 1], 7)
  rng = np.random.default_rng(8)
  corners = rng.normal(size=(3, 6)) * 3
  found = regions.slice_polygons(layers, corners)
  for _ in range(4):
    weight = rng.dirichlet(np.ones(3), 2)
    a, b = weight @ corners
    flat = lambda x: (x - found.origin) @ found.basis.T
    start, end = flat(a), flat(b)
    met = 0
    for cell in found.polygons:
      edge = np.roll(cell, -1, 0) - cell
      normal = np.stack([-edge[:, 1], edge[:, 0]], 1)
      at = ((start - cell) * normal).sum(1)
      slope = (normal * (end - start)).sum(1)
      with np.errstate(divide='ignore', invalid='ignore'):
        root = -at / slope
      low = root[slope > 0].max(initial=0.0)
      high = root[slope < 0].min(initial=1.0)
      met += high - low > 1e-9
    assert regions.count_segment(layers, a, b).activation == met


def test_cells_of_one_map_that_touch_are_one_linear_region():
  # |x| + 0 · relu(y - x / 3): the second unit bends nothing.
  hidden = np.array([[1.0, -1, -1 / 3], [0, 0, 1]]), np.zeros(3)
  layers = [hidden, (np.array([[1.0], [1], [0]]), np.zeros(1))]
  found = regions.slice_polygons(layers, SQUARE + [[0.01, 0.02]])
  assert (found.activation, found.linear) == (4, 2)


def test_cells_of_one_map_apart_from_each_other_are_two():
  # relu(x - 1/2) + relu(-x - 1/2), then flat outside: relu(1/4 - that).
  hidden = np.array([[1.0, -1], [0, 0]]), np.array([-0.5, -0.5])
  second = -np.ones((2, 1)), np.array([0.25])
  layers = [hidden, second, (np.ones((1, 1)), np.zeros(1))]
  found = regions.slice_polygons(layers, SQUARE)
  # Flat at 0 on both sides, slopes, and flat in the middle.
  assert (found.activation, found.linear) == (5, 5)


def test_pooling_counts_winners_and_not_comparisons():
  # max(x, y, 0) by three options: three cells; a kink after it adds one line.
  pick = lambda k: lambda x: x[:, k : k + 1] if k < 2 else 0 * x[:, :1]
  steps = [
    *(Linear(k + 1, (0,), pick(k)) for k in range(3)),
    Largest(4, (1, 2, 3)),
    Linear(5, (4,), lambda x: x - 0.5),
    Kink(6, 5),
  ]
  whole = Piecewise(tuple(steps[:4]), 4, (2,))
  found = regions.slice_polygons(whole, SQUARE)
  assert (found.activation, found.linear) == (3, 3)
  found = regions.slice_polygons(Piecewise(tuple(steps), 6, (2,)), SQUARE)
  assert (found.activation, found.linear) == (5, 3)
  ends = np.array([[-1.0, 0.4]]), np.array([[1.0, 0.6]])
  along = regions.count_segments(whole, *ends)
  assert (along.activation, along.linear) == (2, 2)
  ends = np.array([[-1.0, -0.5]]), np.array([[-0.5, -1.0]])
  along = regions.count_segments(whole, *ends)  # x = y, but 0 wins
  assert (along.activation, along.linear) == (1, 1)


# --- in the whole space, and bounds ---


def test_programs_find_the_cells_that_slices_find():
  layers = net([2, 3, 3, 1], 9)
  found = regions.enumerate_cells(layers, [-1, -1], [1, 1])
  sliced = regions.slice_polygons(layers, SQUARE)
  assert found.count == sliced.activation > 6
  middle = polygons.centroids(sliced.polygons) + sliced.origin
  want = {tuple(row) for row in signs(layers, middle).tolist()}
  assert {tuple(row) for row in found.patterns.tolist()} == want


def test_an_enumeration_out_of_time_gives_no_count():
  layers = net([2, 6, 6, 1], 10)
  found = regions.enumerate_cells(layers, [-1, -1], [1, 1], seconds=0.0)
  assert str(found) == '≥ 0 cells' and not found.complete
  with pytest.raises(InputError, match='≥ 0 cells: time or room was up; rai'):
    found.count  # noqa: B018
  found = regions.enumerate_cells(layers, [-1, -1], [1, 1], most=2)
  assert str(found) == '≥ 2 cells'


TABLE = """
1 8 8 8 1    | 1179648 589824 729 729 576
2 8 8 1      | 18944 9472 1369 1369 592
2 4 2 4 1    | 968 484 484 242 44
3 8 4 2      | 5952 1488 1395 1395 120
3 16 16 2    | 182714368 45678592 485809 485809 87125
2 16 16 16 1 | 1176821039104 588410519552 2571353 2571353 561152
"""


@pytest.mark.parametrize('row', TABLE.strip().split('\n'))
def test_bounds_are_those_of_the_table(row):
  widths, want = (list(map(int, part.split())) for part in row.split('|'))
  found = regions.bounds(widths)
  names = ('paper', 'paper_hidden', 'montufar17', 'serra18')
  assert [found[name] for name in names] == want[:4]
  assert found['montufar14_lower'] == want[4]
  assert all(type(value) is int for value in found.values())


def test_counts_keep_the_bounds_and_hanin_rolnick_is_rounded_up():
  for seed in range(3):
    layers = net([2, 5, 4, 1], seed, bias=1.0)
    count = regions.slice_polygons(layers, 3 * SQUARE).activation
    assert count <= regions.bounds([2, 5, 4, 1])['serra18']
  assert regions.bounds([3, 2, 2, 1])['hanin_rolnick'] == 11  # 64 / 6


FAR = [[-9.0, 0]], [[9.0, 0]]
BAD = {
  'capacity = 1 sign': lambda n: regions.march_segments(n, *FAR, 1),
  'starts where it': lambda n: regions.count_segment(n, [0.0, 0], [0.0, 0]),
  r'reads \[2\]': lambda n: regions.count_segment(n, [0.0], [1.0]),
  'not finite': lambda n: regions.count_segment(n, [0.0, np.nan], [1.0, 0]),
  'three or more': lambda n: regions.slice_polygons(n, SQUARE[:2]),
  'on one line': lambda n: regions.slice_polygons(n, SQUARE * [1, 0]),
  'no convex': lambda n: regions.slice_polygons(n, SQUARE[[0, 2, 1, 3]]),
  'no common': lambda n: regions.slice_polygons(net([3, 2, 1]), np.eye(4, 3)),
  'layers is empty': lambda n: regions.slice_polygons([], SQUARE),
  'layer 1 has W': lambda n: regions.slice_polygons([n[1], n[0]], SQUARE),
  'low < high': lambda n: regions.enumerate_cells(n, [0, 0], [0, 1]),
  'at least 1': lambda n: regions.bounds([2, 1]),
}


@pytest.mark.parametrize('words, call', BAD.items(), ids=BAD)
def test_bad_input_is_named(words, call):
  with pytest.raises(InputError, match=words):
    call(net([2, 4, 1], 11))


# --- polygons ---


def test_clipping_keeps_area_and_labels():
  square = np.array([[[0.0, 0], [1, 0], [1, 1], [0, 1]]])
  labels = np.array([[1, 2, 3, 4]])
  value = square[..., 0] + square[..., 1] - 0.5
  left, names = polygons.clip(square, value, labels, np.array([9]))
  np.testing.assert_allclose(polygons.areas(left), [1 - 0.125])
  length = polygons.edge_lengths(left)[0]
  by = {int(k): length[names[0] == k].sum() for k in (1, 2, 3, 4, 9)}
  want = {1: 0.5, 2: 1, 3: 1, 4: 0.5, 9: np.sqrt(0.5)}
  assert by == pytest.approx(want)
  corner, _ = polygons.clip(square, -value, labels, np.array([9]))
  np.testing.assert_allclose(polygons.centroids(corner), [[1 / 6, 1 / 6]])
  wide, longer = polygons.padded(left, 9), polygons.padded(names, 9)
  again, _ = polygons.clip(wide, np.ones((1, 9)), longer, np.array([5]))
  np.testing.assert_array_equal(again, left)
  none, _ = polygons.clip(square, value - 9, labels, np.array([9]))
  assert polygons.areas(none).tolist() == [0.0]
