"""Metric losses and propagation against references of their own."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from sklearn.datasets import make_moons
from sklearn.semi_supervised import LabelSpreading

from jaxlab.core.errors import InputError
from jaxlab.engine import mesh
from jaxlab.papers.metric_transfer import (
  graph,
  labels,
  method,
  selection,
  spectrum,
)
from jaxlab.papers.metric_transfer.propagation import LabelPropagation

_DRAW = np.random.default_rng(0)


def units(shape, seed=0):
  x = np.random.default_rng(seed).standard_normal(shape)
  return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def clusters(n=500, classes=5, spread=0.25, dimension=16, seed=1):
  """Features and classes; one connected graph at the default spread."""
  rng = np.random.default_rng(seed)
  centres = units((classes, dimension), seed)
  y = rng.permutation(np.arange(n) % classes)
  x = centres[y] + spread * rng.standard_normal((n, dimension))
  return x.astype(np.float32), y


@pytest.fixture(scope='module')
def blobs():
  """Graph, weights, classes and a labelled mask of 500 images."""
  x, y = clusters()
  found = graph.knn_graph(x, 10)
  mask = selection.balanced_split(y, 3, 5, 0)
  return found, graph.affinity(found), y, mask


# --- losses ---


def toy():
  """Features, indices, labels, bank, its labels, mask: two rows do not count.

  Row 3 is padding; row 4's class has no other member.
  """
  v, bank = units((6, 5)), units((9, 5), 1)
  index = np.array([0, 4, 7, 2, 5, 4])
  known = np.array([0, 1, 0, 1, 1, 2, 0, 0, -1])
  own = np.array([0, 1, 0, 1, 2, 1])
  mask = np.array([True, True, True, False, True, True])
  return v, index, own, bank, known, mask


def snca_reference(sigma, margin):
  v, index, own, bank, known, mask = (np.asarray(x) for x in toy())
  total, rows = 0.0, 0
  for b in range(len(v)):
    terms = np.exp(bank.astype(float) @ v[b].astype(float) / sigma)
    same = [j for j in range(9) if j != index[b] and known[j] == own[b]]
    rest = [j for j in range(9) if j != index[b] and known[j] != own[b]]
    if mask[b] and same:
      p = terms[same].sum() * np.exp(-margin / sigma)
      total -= np.log(p / (p + terms[rest].sum()))
      rows += 1
  return total, rows


@pytest.mark.parametrize('sigma, margin', [(0.5, 0.0), (0.05, 0.1)])
def test_snca_is_its_definition_and_counts_rows_with_neighbours(sigma, margin):
  v, index, own, bank, known, mask = toy()
  total, weight = method.snca_loss(
    v, index, own, bank, known, sigma, margin, mask
  )
  expected, rows = snca_reference(sigma, margin)
  assert rows == weight == 4
  np.testing.assert_allclose(total, expected, rtol=1e-5)


def test_snca_gradient_by_finite_differences():
  v, index, own, bank, known, mask = toy()
  value = jax.jit(
    lambda v: method.snca_loss(v, index, own, bank, known, 0.3, 0.1, mask)[0]
  )
  found = np.asarray(jax.grad(value)(jnp.asarray(v)))
  step = 1e-2
  for b in range(len(v)):
    for j in range(v.shape[1]):
      move = np.zeros_like(v)
      move[b, j] = step
      slope = (value(v + move) - value(v - move)) / (2 * step)
      np.testing.assert_allclose(found[b, j], slope, atol=2e-3)
  assert not found[3:5].any()  # padding, and a class of one


def test_snca_does_not_overflow_where_the_public_code_does():
  v, index, own, bank, known, mask = toy()
  total, _ = method.snca_loss(v, index, own, bank, known, 1e-3, 0.0, mask)
  assert np.isfinite(total) and total > 0


def test_instance_softmax_is_a_cross_entropy_over_the_bank():
  v, index, _, bank, _, mask = toy()
  logits = v.astype(float) @ bank.T.astype(float) / 0.2
  nats = np.log(np.exp(logits).sum(1)) - logits[np.arange(6), index]
  total, weight = method.instance_discrimination_loss(
    v, index, bank, 0.2, mask=mask
  )
  np.testing.assert_allclose(total, nats[mask].sum(), rtol=1e-5)
  assert weight == 5


def test_noise_contrastive_loss_is_its_definition():
  v, index, _, bank, _, mask = toy()
  noise = np.array([1, 3, 3, 8])
  logits = v.astype(float) @ bank[noise].T.astype(float) / 0.2
  z = 9 * np.exp(logits)[mask].mean()
  log_z = method.noise_normaliser(v, bank, noise, 0.2, mask)
  np.testing.assert_allclose(log_z, np.log(z), rtol=1e-5)
  even = 4 / 9
  own = np.exp((v * bank[index]).sum(1).astype(float) / 0.2) / z
  drawn = np.exp(logits) / z
  nats = -np.log(own / (own + even)) - np.log(even / (drawn + even)).sum(1)
  total, _ = method.instance_discrimination_loss(
    v, index, bank, 0.2, noise, log_z, mask
  )
  np.testing.assert_allclose(total, nats[mask].sum(), rtol=1e-5)
  with pytest.raises(ValueError, match='noise_normaliser'):
    method.instance_discrimination_loss(v, index, bank, 0.2, noise)


def test_a_masked_row_counts_nothing_whatever_it_holds():
  v, index, own, bank, known, mask = toy()
  broken = np.array(v)
  broken[3] = np.nan

  def both(v):
    a, _ = method.snca_loss(v, index, own, bank, known, 0.3, 0.0, mask)
    b, _ = method.instance_discrimination_loss(v, index, bank, mask=mask)
    return a + b

  one, two = jax.grad(both)(jnp.asarray(v)), jax.grad(both)(jnp.asarray(broken))
  np.testing.assert_allclose(one[:3], two[:3], rtol=1e-6)
  assert np.isfinite(two).all()


@pytest.mark.parametrize('padding, momentum', [(4, 0.25), (2, 0.0)])
def test_the_bank_moves_once_by_the_mean_of_an_index_and_not_by_padding(
  padding, momentum
):
  v, index, _, bank, _, mask = toy()
  index[3] = padding
  found = np.asarray(method.bank_update(bank, index, v, momentum, mask))
  expected = np.array(bank, float)
  for row in (0, 4, 5, 7):
    mean = v[mask & (index == row)].mean(0)
    moved = momentum * bank[row] + (1 - momentum) * mean
    expected[row] = moved / np.linalg.norm(moved)
  np.testing.assert_allclose(found, expected, atol=1e-6)
  order = np.array([5, 3, 2, 1, 0, 4])
  again = method.bank_update(
    bank, index[order], v[order], momentum, mask[order]
  )
  np.testing.assert_allclose(found, again, atol=1e-6)


def test_a_bank_in_parts_is_a_bank_in_one():
  v, _, own, _, _, _ = toy()
  bank, known = units((16, 5), 2), np.arange(16) % 3
  index = np.array([0, 5, 15, 5, 9, 2])

  def step(v, bank, known):
    loss = lambda v: method.snca_loss(v, index, own, bank, known)[0]
    value, slope = jax.value_and_grad(loss)(v)
    return value, slope, method.bank_update(bank, index, v)

  devices = mesh.make(devices=jax.devices()[:8])
  rows = jax.sharding.NamedSharding(devices, jax.sharding.PartitionSpec('data'))
  apart = jax.jit(step)(v, *jax.device_put((bank, known), rows))
  chex.assert_trees_all_close(
    jax.device_get(apart), jax.device_get(step(v, bank, known)), atol=1e-5
  )


def test_votes_are_sums_over_classes_without_the_own_row():
  v, index, _, bank, known, _ = toy()
  found = method.neighbour_votes(v, bank, known, 4, 0.5, index)
  terms = np.exp(v.astype(float) @ bank.T.astype(float) / 0.5)
  terms[np.arange(6), index] = 0
  sums = [terms[:, known == one].sum(1) for one in range(3)]
  # Row 4's class has itself alone.
  np.testing.assert_allclose(
    np.exp(found[:, :3]), np.stack(sums, 1), rtol=1e-5, atol=1e-7
  )
  assert (np.asarray(found[:, 3]) == -1e4).all()


def test_images_turn_by_quarters():
  images = _DRAW.random((5, 4, 4, 2)).astype(np.float32)
  turns = np.array([0, 1, 2, 3, 1])
  found = method.rotate(images, turns)
  for image, turn, each in zip(images, turns, found):
    np.testing.assert_array_equal(each, np.rot90(image, turn))


def test_pseudo_labels_weigh_their_confidence():
  logits = _DRAW.normal(0, 2, (4, 3)).astype(np.float32)
  logits[3] = np.nan
  targets = np.array([[1, 0, 0], [0.2, 0.5, 0.3], [0, 1, 0], [0, 0, 1.0]])
  weights = np.array([1.0, 0.25, 0.0, 1.0])
  mask = np.array([True, True, True, False])
  x = logits[:3].astype(float)
  logs = x - np.log(np.exp(x).sum(1, keepdims=True))
  expected = -(weights[:3, None] * targets[:3] * logs).sum()
  total, weight = method.weighted_cross_entropy(logits, targets, weights, mask)
  np.testing.assert_allclose(total, expected, rtol=1e-6)
  assert weight == 1.25


# --- graph ---


def test_the_graph_is_brute_force_without_the_image_itself():
  # 900 rows at k = 4 are looked at by groups, 150 all at once.
  for n, k in ((900, 4), (150, 7)):
    x = units((n, 8), n)
    cosine = x.astype(float) @ x.T.astype(float)
    np.fill_diagonal(cosine, -2)
    found = graph.knn_graph(3 * x, k, block=128)
    np.testing.assert_array_equal(
      found.neighbours, np.argsort(-cosine, 1)[:, :k]
    )
    expected = -np.sort(-cosine, 1)[:, :k]
    np.testing.assert_allclose(found.similarity, expected, atol=1e-6)


def test_devices_share_the_rows_of_a_graph():
  x = units((203, 8))
  one = graph.knn_graph(x, 5)
  devices = mesh.make(devices=jax.devices()[:8])
  for found in (
    graph.knn_graph(x, 5, block=16, mesh=devices),
    graph.knn_graph(x, 5, block=64, approximate=True),
  ):
    np.testing.assert_array_equal(found.neighbours, one.neighbours)
    np.testing.assert_allclose(found.similarity, one.similarity, atol=1e-6)


def test_affinities_are_their_formulas(blobs):
  found, _, _, _ = blobs
  cosine, index = found.similarity.astype(float), found.neighbours
  far = (1 - cosine) / 2
  for kind, weight, join in (
    ('const', np.exp(-2 * far / 0.3), lambda a, b: (a + b) / 2),
    ('selftune', np.exp(-2 * far / far[:, -1:]), np.maximum),
    ('power', np.maximum(cosine, 0) ** 3, np.add),
  ):
    dense = np.zeros((500, 500))
    np.put_along_axis(dense, index, weight, 1)
    made = graph.affinity(found, kind, 0.3).toarray()
    np.testing.assert_allclose(made, join(dense, dense.T), rtol=1e-5, atol=1e-7)


# --- spectrum ---


@pytest.mark.parametrize(
  'solver, platform',
  [('lanczos', 'cpu'), ('chebyshev', 'cpu'), ('chebyshev', 'tpu')],
)
def test_the_smallest_pairs_are_found(solver, platform, monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: platform)
  x, _ = clusters(600, seed=3)
  smooth, _ = graph.normalised(graph.affinity(graph.knn_graph(x, 8)))
  dense = np.linalg.eigvalsh(np.eye(600) - smooth.toarray())[:30]
  values, vectors = spectrum.eigenpairs(smooth, 30, solver)
  np.testing.assert_allclose(values, dense, rtol=0.01, atol=1e-6)
  rest = vectors - smooth @ vectors - vectors * values
  assert np.linalg.norm(rest, axis=0).max() < 1e-2
  np.testing.assert_allclose(vectors.T @ vectors, np.eye(30), atol=1e-4)


def test_systems_are_solved_for_all_columns_at_once():
  root = _DRAW.normal(size=(40, 40))
  matrix = root @ root.T + np.eye(40)
  right = _DRAW.normal(size=(40, 3)) * [1, 1e-6, 0]
  found = spectrum.conjugate_gradients(lambda x: matrix @ x, right, 1e-10)
  np.testing.assert_allclose(matrix @ found, right, atol=1e-8, rtol=1e-6)
  with pytest.raises(InputError, match='not solved after 2 products'):
    spectrum.conjugate_gradients(lambda x: matrix @ x, right, 1e-10, 2)


# --- propagation ---


def test_normalized_cut_is_the_dense_formula(blobs):
  """Against NumPy's eigh, written after the notebook."""
  found, weights, y, mask = blobs
  y = np.array(y)
  y[mask.argmax()] = (y[mask.argmax()] + 1) % 5  # a wrong label stays
  w = weights.toarray().astype(float)
  d = w.sum(1)
  lam, u = np.linalg.eigh(np.eye(500) - w / np.sqrt(d[:, None] * d))
  lam, u = lam[1:60], u[:, 1:60]
  assert scipy.sparse.csgraph.connected_components(weights)[0] == 1
  f = np.zeros((500, 5))
  for one in range(5):
    q = np.where(mask, np.where(y == one, 1, -1), 0)
    pd, nd = d * (q == 1), d * (q == -1)
    r = pd.sum() / nd.sum()
    s = np.sqrt(pd / r) - np.sqrt(nd * r)
    s /= np.linalg.norm(s)
    f[:, one] = (u / lam) @ (u.T @ s)
    f[:, one] *= np.sqrt(500) / np.linalg.norm(f[:, one])
  made = method.propagate(found, y, mask, eigenvectors=60)
  np.testing.assert_allclose(made.scores, f, atol=1e-4)
  top = np.sort(f, 1)
  sure = 1 - np.exp(-(top[:, -1] - top[:, -2]))
  rest = ~mask
  np.testing.assert_array_equal(made.labels[rest], f.argmax(1)[rest])
  np.testing.assert_array_equal(made.labels[mask], y[mask])
  assert (f.argmax(1) != y)[mask].any()
  np.testing.assert_allclose(made.confidence[rest], sure[rest], atol=1e-4)
  assert (made.confidence[mask] == 1).all()


def test_spreading_is_the_dense_solve_and_scikit_learns(blobs):
  found, weights, y, mask = blobs
  w = weights.toarray().astype(float)
  d = w.sum(1)
  smooth = w / np.sqrt(d[:, None] * d)
  own = np.eye(5)[y] * mask[:, None]
  dense = 0.1 * np.linalg.solve(np.eye(500) - 0.9 * smooth, own)
  made = method.propagate(found, y, mask, 'spreading', alpha=0.9)
  np.testing.assert_allclose(made.scores, dense, atol=1e-6)
  peer = LabelSpreading(
    kernel=lambda a, b: weights, alpha=0.9, max_iter=2000, tol=1e-12
  ).fit(found.features, np.where(mask, y, -1))
  shares = labels.probabilities(made.scores, 'spreading')
  np.testing.assert_allclose(shares, peer.label_distributions_, atol=1e-5)
  rest = ~mask
  np.testing.assert_array_equal(made.labels[rest], peer.transduction_[rest])


def test_accelerators_solve_the_same_system(blobs, monkeypatch):
  found, weights, y, mask = blobs
  one = method.propagate(found, y, mask, 'spreading', weights=weights)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  two = method.propagate(found, y, mask, 'spreading', weights=weights)
  np.testing.assert_allclose(one.scores, two.scores, atol=1e-5)


def test_nearest_labelled_images_vote_by_their_cosine(blobs):
  found, _, y, mask = blobs
  x, known = found.features.astype(float), np.flatnonzero(mask)
  expected = np.zeros((500, 5))
  for i in range(500):
    others = [j for j in known if j != i]
    best = sorted(others, key=lambda j: -x[i] @ x[j])[:6]
    for j in best:
      expected[i, y[j]] += np.exp(x[i] @ x[j] / 0.05)
  expected /= expected.sum(1, keepdims=True)
  made = method.propagate(found, y, mask, 'knn', nearest=6, temperature=0.1)
  np.testing.assert_allclose(made.scores, expected, atol=1e-5)
  np.testing.assert_allclose(
    made.confidence[~mask], expected.max(1)[~mask], atol=1e-5
  )


def test_ten_clusters_on_a_sphere_are_found_by_five_labels_each():
  x, y = clusters(2000, 10, 0.12, 32)
  mask = selection.balanced_split(y, 5, 10, 0)
  found = graph.knn_graph(x, 20)
  cut = method.propagate(found, y, mask)
  right = (cut.labels == y)[~mask]
  assert right.mean() >= 0.99
  surest = np.argsort(-cut.confidence[~mask])[: len(right) // 5]
  assert right[surest].all()
  spread = method.propagate(found, y, mask, 'spreading')
  assert (spread.labels == y)[~mask].mean() >= 0.99


@pytest.mark.parametrize('name', ['normalized_cut', 'spreading'])
def test_two_moons_are_told_by_three_labels_each(name):
  flat, y = make_moons(600, noise=0.06, random_state=0)
  x = np.column_stack([flat, np.full(600, 3.0)])  # as directions
  mask = selection.balanced_split(y, 3, 2, 0)
  model = LabelPropagation(name, k=10, kind='selftune')
  model.fit(x, np.where(mask, y, -1))
  assert (model.transduction_ == y).mean() >= 0.99


@pytest.mark.parametrize('name', labels.METHODS)
def test_the_order_of_images_does_not_matter(name):
  x, y = clusters(400)
  mask = selection.balanced_split(y, 3, 5, 0)
  order = np.random.default_rng(7).permutation(400)
  one = method.propagate(graph.knn_graph(x, 10), y, mask, name)
  other = method.propagate(
    graph.knn_graph(x[order], 10), y[order], mask[order], name
  )
  np.testing.assert_allclose(one.scores[order], other.scores, atol=2e-4)
  assert (one.labels[order] == other.labels).mean() > 0.995


def apart():
  """Three components: two classes, one class, and no label at all."""
  own, y = clusters(180, 2, 0.2, 12, seed=4)
  side = np.repeat([0, 1, 2], 60)
  x = np.zeros((180, 3, 12), np.float32)
  x[np.arange(180), side] = own + 0.5  # all at right angles to other sides
  x = x.reshape(180, -1)
  y = np.where(side == 1, 2, y)
  mask = np.zeros(180, bool)
  for one in (0, 1):
    mask[np.flatnonzero((side == 0) & (y == one))[:2]] = True
  mask[np.flatnonzero(side == 1)[:1]] = True
  return x, y, side, mask


def test_components_are_cut_apart_and_one_without_labels_stays_undecided():
  x, y, side, mask = apart()
  found = graph.knn_graph(x, 30)
  for name in ('normalized_cut', 'spreading'):
    made = method.propagate(found, y, mask, name)
    np.testing.assert_array_equal(made.labels[side < 2], y[side < 2])
    assert (made.labels[side == 2] == -1).all()
    assert (made.confidence[side == 2] == 0).all()
    shares = labels.probabilities(made.scores, name)
    assert not shares[side == 2].any()
  cut = method.propagate(found, y, mask)
  assert (cut.confidence[side == 1] == 1).all()
  assert np.isneginf(cut.scores[side == 1][:, :2]).all()
  one = method.propagate(found, y * 0, mask)  # all of one class
  np.testing.assert_array_equal(one.labels, np.where(side < 2, 0, -1))
  assert (method.propagate(found, y, mask, 'knn').labels >= 0).all()
  none = np.flatnonzero(side == 2)
  assert not {*none} & {*selection.selected(cut, mask, 1.0)}


def test_copies_of_an_image_are_neighbours_and_get_its_label():
  x, y = clusters(200)
  x[50:65], y[50:65] = x[50], y[50]
  found = graph.knn_graph(x, 5)
  assert np.isin(found.neighbours[50:65], np.arange(50, 65)).all()
  np.testing.assert_allclose(found.similarity[50:65], 1, atol=1e-6)
  assert not (found.neighbours == np.arange(200)[:, None]).any()
  mask = selection.balanced_split(y, 3, 5, 0)
  mask[50:65] = False
  alone = method.propagate(found, y, mask, kind='selftune')
  # More copies than neighbours find each other alone, where none is labelled.
  assert len({*alone.labels[50:65]}) == 1
  mask[57] = True
  again = method.propagate(found, y, mask, kind='selftune')
  assert (again.labels[50:65] == y[50]).all()


# --- what is made of labels ---


def test_confidences_are_their_formulas():
  scores = np.array([[0.0, 2.0, 1.5], [1.0, 1.0, 0.0]])
  shares = labels.probabilities(scores, 'normalized_cut')
  np.testing.assert_allclose(
    shares, np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
  )
  sure = lambda kind: labels.confidences(scores, shares, kind)
  np.testing.assert_allclose(sure('margin'), [1 - np.exp(-0.5), 0], atol=1e-12)
  np.testing.assert_allclose(sure('maxprob'), shares.max(1))
  spread = 1 + (shares * np.log(shares)).sum(1) / np.log(3)
  np.testing.assert_allclose(sure('entropy'), spread / spread.max())
  np.testing.assert_array_equal(sure('none'), [1, 1])


def test_the_surest_are_selected_beside_all_labelled():
  found = labels.Propagated(
    np.zeros((6, 2)),
    np.array([0, 1, -1, 0, 1, 0]),
    np.array([1, 0.2, 0.9, 0.8, 0.5, 1]),
  )
  mask = np.array([True, False, False, False, False, True])
  # Of four unlabelled, half are two: rows 2 and 3, and row 2 is undecided.
  assert selection.selected(found, mask, 0.5).tolist() == [0, 3, 5]
  assert selection.selected(found, mask, 0.75).tolist() == [0, 3, 4, 5]
  assert selection.selected(found, mask, 0.0).tolist() == [0, 5]


def test_class_masses_are_moved_towards_the_prior(blobs):
  found, _, y, mask = blobs
  shares = np.array([[0.6, 0.4], [0.7, 0.3], [0.0, 0.0]])
  made = labels.class_mass_normalised(shares, [1, 3])
  scaled = shares * [0.25 / 1.3, 0.75 / 0.7]
  scaled[:2] /= scaled[:2].sum(1, keepdims=True)
  np.testing.assert_allclose(made, scaled)
  prior = [0.6, 0.1, 0.1, 0.1, 0.1]
  for name in labels.METHODS:
    even = method.propagate(found, y, mask, name)
    moved = method.propagate(found, y, mask, name, prior=prior)
    assert (moved.labels == 0).sum() >= (even.labels == 0).sum()
    assert np.isfinite(moved.scores).all()


def test_splits_are_balanced_seeded_and_nested():
  y = np.repeat(np.arange(4), [30, 20, 10, 5])
  one, two = (selection.balanced_split(y, n, 4, 3) for n in (2, 5))
  assert np.bincount(y[one]).tolist() == [2] * 4
  assert np.bincount(y[two]).tolist() == [5] * 4
  assert not (one & ~two).any()
  assert (one != selection.balanced_split(y, 2, 4, 4)).any()
  with pytest.raises(InputError, match='6 labels a class: class 3 has 5'):
    selection.balanced_split(y, 6, 4, 0)


def test_class_weights_even_the_classes_out():
  y = np.array([0, 0, 0, 2])
  np.testing.assert_allclose(selection.class_weights(y, 3), [4 / 9, 0, 4 / 3])


# --- scikit-learn's face ---


@pytest.mark.parametrize('name', labels.METHODS)
def test_the_estimator_takes_any_integers_and_answers_new_images(name):
  x, y = clusters(300, 3, 0.15)
  names = np.array([30, 4, 17])[y]
  mask = selection.balanced_split(y, 4, 3, 0)
  model = LabelPropagation(name, k=8)
  assert model.get_params()['k'] == 8
  model.fit(x, np.where(mask, names, -1))
  assert model.classes_.tolist() == [4, 17, 30]
  assert (model.transduction_ == names).mean() > 0.97
  assert model.label_distributions_.shape == (300, 3)
  np.testing.assert_allclose(model.label_distributions_.sum(1), 1)
  assert (model.confidence_[mask] == 1).all()
  again, other = clusters(90, 3, 0.15, seed=1)
  assert model.score(again, np.array([30, 4, 17])[other]) > 0.9


# --- bad input ---


def bad(**changes):
  x, y = clusters(40, 2)
  mask = np.arange(40) < 8
  given = {'x': x, 'y': y, 'mask': mask, 'k': 5, 'method': 'knn', 'more': {}}
  given |= {
    name: change(given[name]) if callable(change) else change
    for name, change in changes.items()
  }
  found = graph.knn_graph(given['x'], given['k'])
  method.propagate(
    found, given['y'], given['mask'], given['method'], **given['more']
  )


def nan_at_7(x):
  x[7, 2] = np.nan
  return x


def zero_at_3(x):
  x[3] = 0
  return x


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'x': nan_at_7}, '1 of 40 rows of features hold NaN .* row 7'),
    ({'x': zero_at_3}, '1 of 40 rows of features have length 0, .* row 3'),
    ({'x': lambda x: x.astype(int)}, 'give floating numbers'),
    ({'k': 40}, r'k = 40 .* must be in \[1, 39\]'),
    ({'k': 0}, 'k = 0 '),
    ({'mask': lambda m: m & False}, 'no image is labelled'),
    ({'more': {'num_classes': 3}}, 'class 2 has no label'),
    ({'y': lambda y: y + 3}, 'class 0 has no label'),
    ({'more': {'num_classes': 1}}, 'label 1 is outside of the classes 0 … 0'),
    ({'y': lambda y: np.where(y, -2, 0)}, 'label -2 is outside'),
    ({'y': lambda y: y / 2}, 'labels are float64'),
    ({'y': lambda y: y[1:]}, r'must be \[40\]'),
    ({'method': 'walk'}, 'method "walk" is not one of'),
    ({'more': {'confidence': 'luck'}}, 'confidence "luck" is not one of'),
    ({'method': 'spreading', 'more': {'alpha': 1.0}}, 'alpha = 1.0'),
    ({'method': 'spreading', 'more': {'kind': 'flat'}}, 'affinity "flat"'),
    ({'method': 'spreading', 'more': {'temperature': 0}}, 'temperature = 0'),
    (
      {'method': 'normalized_cut', 'more': {'eigenvectors': 1}},
      'eigenvectors = 1',
    ),
    (
      {'method': 'normalized_cut', 'more': {'solver': 'magic'}},
      'solver "magic"',
    ),
    ({'more': {'prior': [1.0]}}, r'prior \(1,\) must be 2 shares'),
  ],
)
def test_bad_input_is_named(changes, message):
  with pytest.raises(InputError, match=message):
    bad(**changes)


def test_the_estimator_names_bad_labels():
  x, y = clusters(40, 2)
  with pytest.raises(InputError, match='the least -3'):
    LabelPropagation(k=5).fit(x, y - 3)
  with pytest.raises(InputError, match='no image is labelled'):
    LabelPropagation(k=5).fit(x, np.full(40, -1))
