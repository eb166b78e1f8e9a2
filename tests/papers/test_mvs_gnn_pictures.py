"""The picture of a sampled batch shows edges of the batch alone."""

import numpy as np

from jaxlab.papers.mvs_gnn import blocks, pictures
from jaxlab.runs.sections import Sections


def sample_of(seed=0, nodes=40, seeds=9):
  """Two layers on a random graph, every edge drawn; and its edges."""
  draw = np.random.default_rng(seed)
  dense = draw.random((nodes, nodes)) < 0.3
  counts = dense.sum(1)
  indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
  indices = np.nonzero(dense)[1].astype(np.int32)
  operator = blocks.Operator(
    indptr, indices, draw.random(len(indices)).astype(np.float32)
  )
  chosen = draw.permutation(nodes)[:seeds].astype(np.int32)
  made = blocks.Assembler(nodes).sample(
    draw,
    chosen,
    np.ones(seeds, np.float32),
    2,
    lambda level, of: blocks.all_edges(operator, level, of),
  )
  weights = {
    (i, int(indices[at])): float(operator.weight[at])
    for i in range(nodes)
    for at in range(indptr[i], indptr[i + 1])
  }
  return made, weights


def test_the_tree_has_the_heaviest_edges_of_the_first_seeds():
  sample, weights = sample_of()
  tree = pictures.tree_of(sample, seeds=3, senders=4)
  assert len(tree) == 2
  shown = sample.seeds[:3]
  for nodes, to, by, weight in tree:
    np.testing.assert_array_equal(nodes[: len(shown)], shown)
    assert len(set(nodes.tolist())) == len(nodes)
    for i, node in enumerate(shown):
      mine = {
        (int(nodes[b]), float(w)) for t, b, w in zip(to, by, weight) if t == i
      }
      all_of = [(j, w) for (k, j), w in weights.items() if k == node]
      assert mine == set(sorted(all_of, key=lambda x: -x[1])[:4])
    # Nothing stands there without a line to it.
    assert set(range(len(shown), len(nodes))) <= set(by.tolist())
    shown = nodes


def test_edges_of_history_alone_are_shown_and_those_of_no_weight_are_not():
  layer = blocks.Layer(
    np.array([7, 3, 5], np.int32),
    1,
    1,
    np.array([1, 2], np.int32),
    blocks.Edges(
      np.array([3, 5], np.int32),
      np.array([0, 0], np.int32),
      np.zeros(2, np.float32),
      np.array([0.5, 0], np.float32),
    ),
  )
  sample = blocks.Sample((layer,), np.array([7], np.int32), np.ones(1), 0)
  [(nodes, to, by, weight)] = pictures.tree_of(sample)
  assert nodes.tolist() == [7, 3]
  assert (to.tolist(), by.tolist(), weight.tolist()) == ([0], [1], [0.5])


def test_it_is_drawn_with_a_place_and_a_class_for_every_node(tmp_path):
  sample, _ = sample_of()
  tree, points = pictures.tree_of(sample), []

  class Axes:
    def __getattr__(self, name):
      return lambda *args, **more: None

    def scatter(self, x, y, s, c, **more):
      points.extend(zip(x, y, c))

  classes = np.arange(40) % 7
  pictures.draw_sample(sample, classes)(Axes())
  nodes = tree[-1][0]
  assert len(points) == len(nodes)
  assert len({(x, y) for x, y, _ in points}) == len(nodes)
  assert sorted(c for *_, c in points) == sorted(classes[nodes])
  page = Sections(tmp_path)
  page.figure('sample', pictures.draw_sample(sample, classes))
  assert (tmp_path / 'figures' / 'sample.png').exists()
