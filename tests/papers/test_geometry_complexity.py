"""Charts of curves and surfaces, and what encoders must have."""

import jax
import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.papers.geometry import complexity, encoders, task


@pytest.mark.parametrize(
  'turns, want', [(3, 2), (6, 3), (12, 4), (24, 8), (48, 16)]
)
def test_charts_of_spirals(turns, want):
  assert complexity.spiral_charts(turns) == want
  assert len(complexity.charts(complexity.spiral(turns, 3000))) == want


def test_charts_of_hilberts_curve():
  counts = [len(complexity.charts(complexity.hilbert(k))) for k in range(1, 6)]
  assert counts == [2, 6, 21, 82, 325]


def test_space_filling_curves_visit_every_cell_once_by_neighbours():
  for points, side in ((complexity.hilbert(3), 8), (complexity.peano(2), 9)):
    place = points * side - 0.5
    np.testing.assert_allclose(place, place.round(), atol=1e-12)
    assert {tuple(p) for p in place.round().astype(int).tolist()} == {
      (i, j) for i in range(side) for j in range(side)
    }
    step = np.abs(np.diff(place, axis=0)).sum(1)
    np.testing.assert_allclose(step, 1, atol=1e-12)


def test_charts_in_space_by_linear_programs():
  # Along its axis a helix is one chart; without a pitch it is a circle.
  assert len(complexity.charts(complexity.helix(12, 120))) == 1
  flat = complexity.helix(12, 120, pitch=0.0)
  assert len(complexity.charts(flat)) == 4
  plane = complexity.hilbert(2)
  space = np.c_[plane, plane.sum(1)]
  assert complexity.charts(space) == complexity.charts(plane)


def test_a_chart_ends_where_the_curve_turns_back():
  there_and_back = np.array([[0.0, 0], [1, 0], [2, 0], [1, 0]])
  assert complexity.charts(there_and_back) == [(0, 2), (2, 3)]
  # 270 degrees of turning one way, then all the way back: two charts.
  angle = np.r_[
    np.linspace(0, 1.5 * np.pi, 40), np.linspace(1.5 * np.pi, 0, 40)
  ]
  steps = np.stack([np.cos(angle), np.sin(angle)], 1)
  points = np.cumsum(steps, 0)
  assert len(complexity.charts(points)) == 3
  # A sine turns without end, and is one chart.
  x = np.linspace(0, 60, 900)
  assert len(complexity.charts(np.stack([x, 3 * np.sin(x)], 1))) == 1


def test_certified_cells_of_hilberts_curve():
  want = [int(2 ** (k - 1) / (3 * 2**0.5)) + 1 for k in range(1, 9)]
  assert [complexity.hilbert_cells(k) for k in range(1, 9)] == want
  assert complexity.paper_hilbert_cells(3) == 16


def test_an_encoder_with_too_few_cells_is_impossible():
  curve = complexity.hilbert_manifold(7)  # 16 cells and more
  assert curve.cells == 16
  answer = complexity.encodable_necessary([2, 4, 1], curve)  # 11 cells
  assert answer == 'impossible'
  assert complexity.encodable_necessary([2, 5, 1], curve) == 'not excluded'
  layers = [(np.ones((2, 4)), np.ones(4)), (np.ones((4, 1)), np.ones(1))]
  assert complexity.encodable_necessary(layers, curve) == 'impossible'
  assert complexity.spiral_manifold(3).cells == 2
  assert complexity.spiral_manifold(1).cells == 1
  with pytest.raises(InputError, match='2 outputs, and Hilbert 7 has'):
    complexity.encodable_necessary([2, 4, 2], curve)


# --- surfaces ---


def test_a_cap_is_a_chart_up_to_its_equator():
  for angle, want in ((60, 'rectifiable'), (88, 'rectifiable')):
    found = complexity.surface_direction(*task.cap_mesh(angle, 4))
    assert found.answer == want
    np.testing.assert_allclose(np.abs(found.direction), [0, 0, 1], atol=0.2)
  found = complexity.surface_direction(*task.cap_mesh(120, 4))
  assert found == ('not rectifiable', None)


def test_an_immersion_that_overlaps_is_left_open():
  # A ramp that winds around twice: normals in a hemisphere, image double.
  turn = np.linspace(0, 4 * np.pi, 49)
  ring = np.stack([np.cos(turn), np.sin(turn)], 1)
  height = 0.02 * turn[:, None]
  points = np.concatenate([np.c_[r * ring, height] for r in (1, 2)])
  i = np.arange(48)
  faces = np.concatenate(
    [np.stack([i, i + 49, i + 50], 1), np.stack([i, i + 50, i + 1], 1)]
  )
  found = complexity.surface_direction(points, faces)
  assert found.answer == 'open' and found.direction is not None
  once = faces[(faces % 49 < 22).all(1)]
  assert complexity.surface_direction(points, once).answer == 'rectifiable'


def test_overlap_of_triangles():
  one = np.array([[0.0, 0], [1, 0], [0, 1]])
  beside = np.array([[1.0, 0], [1, 1], [0, 1]])  # one edge in common
  inside = one / 4 + 0.1
  assert not complexity.overlap(np.stack([one, beside]))
  assert complexity.overlap(np.stack([one, inside]))
  assert complexity.overlap(np.stack([one, beside - 0.01]))
  assert complexity.overlap(np.stack([one, beside, inside]))
  assert complexity.overlap(np.stack([one, one[[0, 0, 1]] + 9]))


def test_bad_meshes_and_curves_are_named():
  vertices, faces = task.cap_mesh(60, 2)
  flat = np.concatenate([faces, [[0, 1, 1]]])
  with pytest.raises(InputError, match=r'face 36 of the mesh has no area'):
    complexity.surface_direction(vertices, flat)
  turned = faces.copy()
  turned[3] = turned[3, ::-1]
  with pytest.raises(InputError, match='is in two faces that way round'):
    complexity.surface_direction(vertices, turned)
  with pytest.raises(InputError, match='points 1 and the next are at one'):
    complexity.charts(np.array([[0.0, 0], [1, 0], [1, 0]]))
  with pytest.raises(InputError, match='two points or more'):
    complexity.charts(np.zeros((1, 2)))
  with pytest.raises(InputError, match=r'order = 0 must be in \[1, 8\]'):
    complexity.hilbert(0)


# --- encoders ---

ZIGZAG = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])


def test_a_code_that_rises_is_injective_and_its_margin_is_its_least_slope():
  linear = [(np.array([[1.0], [3]]), np.zeros(1))]
  found = complexity.injective_along(linear, ZIGZAG)
  assert (found.injective, found.margin) == (False, -1.0)
  assert found.arc == (2, 0.0, 1.0)
  found = complexity.injective_along(linear, ZIGZAG[:3])
  assert (found.injective, found.margin, found.arc) == (True, 1.0, None)
  falling = [(np.array([[-1.0], [-3]]), np.zeros(1))]
  assert complexity.injective_along(falling, ZIGZAG[:3]).injective
  folded = [
    (np.array([[1.0, -1], [1, 1]]), np.array([0.0, -0.5])),
    (np.array([[1.0], [-1.5]]), np.zeros(1)),
  ]  # rises to y = 1/2 at x = 0, then falls
  found = complexity.injective_along(folded, np.array([[0.0, 0], [0, 1]]))
  assert found.arc == (0, 0.5, 1.0) and found.margin == -0.5
  with pytest.raises(InputError, match='2 outputs; injectivity'):
    complexity.injective_along(folded[:1], ZIGZAG)


def test_a_flat_code_is_not_injective():
  flat = [(np.array([[0.0], [0]]), np.zeros(1))]
  assert not complexity.injective_along(flat, ZIGZAG).injective


def test_encoders_of_several_widths_are_trained_at_once_and_polished():
  points = np.array([[-1.0, -0.5], [0.6, -0.5], [0.6, 0.4]])
  found = encoders.train(jax.random.key(0), points, [2, 6], 2, 2, 60, 0.01, 24)
  shapes = [[w.shape for w, _ in nets[0]] for nets in found]
  assert shapes == [
    [(2, 2), (2, 2), (2, 1)],
    [(2, 6), (6, 6), (6, 1)],
  ]
  for nets in found:
    assert not np.array_equal(nets[0][0][0], nets[1][0][0])
    assert all((w != 0).all() for net in nets for w, _ in net)
  good = [complexity.injective_along(n, points).injective for n in found[1]]
  assert any(good)
  # A fold of slope -1/10 over a tenth of the curve.
  net = [
    (np.array([[1.0, 1, 1], [0, 0, 0]]), np.array([1.2, -0.2, -0.4])),
    (np.array([[1.0], [-1.1], [1.1]]), np.zeros(1)),
  ]
  line = np.array([[-1.0, 0], [1, 0]])
  assert not complexity.injective_along(net, line).injective
  better = encoders.polish(net, line, 4, steps=100, rate=0.01)
  assert complexity.injective_along(better, line).injective
  assert encoders.polish(better, line, 4) is better
