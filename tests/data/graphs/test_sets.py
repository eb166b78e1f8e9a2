"""The sets of graphs and digits that jaxlab builds, and their names.

A set is made from its package, whose file is put into an inbox; its tests are
skipped where that cannot be had.
"""

import gzip
import hashlib
import json
import shutil

import chex
import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.data import tfds
from jaxlab.data.builders.debian_graph import (
  debian_graph_dataset_builder as debian,
)
from jaxlab.data.builders.digits import digits_dataset_builder as digits
from jaxlab.data.builders.digits_graph import (
  digits_graph_dataset_builder as digits_graph,
)
from jaxlab.data.builders.mutag import mutag_dataset_builder as mutag
from jaxlab.data.builders.wordnet_graph import (
  wordnet_graph_dataset_builder as wordnet,
)
from jaxlab.data.graphs import adjacency, sets
from jaxlab.data.graphs.types import SPLITS
from tests.data import small_packages
from tests.data.graphs.npz_files import write_npz


def test_rings_and_stars_are_told_apart_by_their_degrees():
  graphs = sets.open_graphs('rings', offline=True)
  assert graphs.classes == ('ring', 'star')
  assert np.bincount(graphs.label).tolist() == [60, 60]
  assert (graphs.num_nodes.min(), graphs.num_nodes.max()) == (5, 12)
  for graph in map(graphs.__getitem__, range(len(graphs))):
    degrees = np.bincount(graph.edges.reshape(-1), minlength=graph.nodes)
    ends = graph.nodes - 1
    wanted = [1] * ends + [ends] if graph.label else [2] * graph.nodes
    assert sorted(degrees) == wanted
    assert {*graph.node_label} <= {0, 1}


def test_mutag_has_its_published_figures(real, monkeypatch):
  real.use('mutag', monkeypatch)
  found = small_packages.check_figures('mutag')
  assert (found['mutagenic'], found['non-mutagenic']) == (125, 63)
  graphs = sets.open_graphs('mutag', offline=True)
  assert len(graphs) == 188
  assert graphs.classes == ('non-mutagenic', 'mutagenic')
  assert graphs.num_nodes.mean() == pytest.approx(17.93, abs=5e-3)
  assert graphs.num_edges.mean() == pytest.approx(19.79, abs=5e-3)
  # Of the TU collection's copy: atoms of each kind, in its order.
  assert graphs.node_classes == ('C', 'N', 'O', 'F', 'I', 'Cl', 'Br')
  counts = np.bincount(graphs.node_label).tolist()
  assert counts == [2_395, 345, 593, 12, 1, 23, 2]
  assert tuple(mutag.ATOMS) == graphs.node_classes


def test_mutag_is_molecules(real, monkeypatch):
  real.use('mutag', monkeypatch)
  # Halogens have one neighbour and carbon at most four, and none is alone.
  most = dict(zip(('C', 'N', 'O', 'F', 'I', 'Cl', 'Br'), (4, 3, 2, 1, 1, 1, 1)))
  graphs = sets.open_graphs('mutag', offline=True)
  nodes = graphs.batch(range(len(graphs))).nodes
  for kind, name in enumerate(graphs.node_classes):
    degrees = nodes['degree'][nodes['label'] == kind]
    assert degrees.min() >= 1 and degrees.max() <= most[name], name


def test_mutag_edge_labels_are_a_code_of_their_atoms(real, monkeypatch):
  real.use('mutag', monkeypatch)
  number = np.array(list(mutag.ATOMS.values()))
  for row in tfds.examples('mutag', 'train', offline=True):
    a, b = number[row['node_label'][row['edges']]].T
    np.testing.assert_array_equal(row['edge_label'], 22 * (a - 1) + b)


@pytest.mark.slow
def test_wordnet_graph_has_its_published_figures(real, monkeypatch):
  real.use('wordnet_graph', monkeypatch)
  small_packages.check_figures('wordnet_graph')
  found = sets.open_node_graph('wordnet_graph', offline=True)
  near = adjacency.adjacency(found.edges, found.num_nodes)
  assert (near.self_loops, near.duplicates, near.isolated) == (0, 0, 1_009)
  assert found.classes[3] == 'noun.Tops' and found.classes[44] == 'adj.ppl'
  parts = np.bincount(found.split) / found.num_nodes
  # The standard error of a part of 117,659 is at most .0014.
  np.testing.assert_allclose(parts, [0.66, 0.10, 0.24], atol=0.006)
  assert found.features[0] == (
    'that which is perceived or known or inferred to have its own distinct '
    'existence (living or nonliving)'
  )
  # Every class is in every split, the smallest with 42 nodes.
  assert np.bincount(found.labels).min() == 42
  for split in ('train', 'validation', 'test'):
    assert len(np.unique(found.labels[found.nodes_of(split)])) == 45


@pytest.mark.slow
def test_wordnet_classes_agree_with_parts_of_speech(real, monkeypatch):
  real.use('wordnet_graph', monkeypatch)
  (row,) = tfds.examples('wordnet_graph', 'graph', offline=True)
  letter = {b'n': 'noun', b'v': 'verb', b'a': 'adj', b'r': 'adv'}
  speech = [letter[name[:1]] for name in row['name']]
  kinds = [wordnet.CLASSES[label].partition('.')[0] for label in row['label']]
  assert speech == kinds
  assert len(set(row['name'])) == 117_659


def test_a_wordnet_line_is_parsed():
  line = (
    '00001740 29 v 04 breathe 0 take_a_breath 0 respire 0 suspire 3 003 '
    '* 00005041 v 0000 $ 00001740 a 0103 & 00017 s 0000 02 + 02 00 + 08 00 '
    '| draw air | in; "I can breathe"  \n'
  )
  (found,) = wordnet.parse_data('v', '  1 licence \n' + line)
  assert found == wordnet.Synset(
    name='v00001740',
    file=29,
    pointers=['v00005041', 'a00001740', 'a00017'],
    gloss='draw air | in; "I can breathe"',
  )


def test_digits_have_their_figures_and_a_stratified_split(real, monkeypatch):
  pytest.importorskip('sklearn')
  real.use('digits', monkeypatch)
  small_packages.check_figures('digits')
  splits = {
    s: list(tfds.examples('digits', s, offline=True))
    for s in ('train', 'validation', 'test')
  }
  assert [len(rows) for rows in splits.values()] == [1_079, 359, 359]
  pixels, labels, split = digits.load_digits()
  for name, rows in splits.items():
    members = split == SPLITS[name]
    images = np.array([row['image'] for row in rows])
    chex.assert_shape(images, (None, 8, 8, 1))
    np.testing.assert_array_equal(images[..., 0], pixels[members] * 15)
    np.testing.assert_array_equal([r['label'] for r in rows], labels[members])
    # Each class has a fifth, to the rounding of one image.
    share = {'train': 0.6}.get(name, 0.2) * np.bincount(labels)
    assert abs(np.bincount(labels[members]) - share).max() <= 1


def test_digits_graph_joins_nearest_neighbours(real, monkeypatch):
  pytest.importorskip('sklearn')
  real.use('digits_graph', monkeypatch)
  small_packages.check_figures('digits_graph')
  found = sets.open_node_graph('digits_graph', offline=True)
  pixels, labels, split = digits.load_digits()
  np.testing.assert_array_equal(found.features * 16, pixels.reshape(-1, 64))
  np.testing.assert_array_equal(found.labels, labels)
  np.testing.assert_array_equal(found.split, split)
  near = adjacency.adjacency(found.edges, found.num_nodes)
  assert np.diff(near.indptr).min() >= digits_graph.NEIGHBOURS
  distance = ((found.features - found.features[7]) ** 2).sum(1)
  tenth = np.sort(distance)[digits_graph.NEIGHBOURS]
  mine = near.indices[near.indptr[7] : near.indptr[8]]
  assert set(np.flatnonzero(distance < tenth)) - {7} <= set(mine)


def test_a_node_graph_survives_npz(real, monkeypatch, tmp_path):
  pytest.importorskip('sklearn')
  real.use('digits_graph', monkeypatch)
  found = sets.open_node_graph('digits_graph', offline=True)
  write_npz(tmp_path / 'd.npz', found)
  again = sets.open_node_graph(f'npz:{tmp_path / "d.npz"}')
  np.testing.assert_array_equal(again.features.toarray(), found.features)
  chex.assert_trees_all_equal(
    again._replace(features=0), found._replace(features=0)
  )


def test_nearest_edges_break_ties_by_place():
  points = np.array([[0], [1], [2], [2], [9]], np.uint8)
  found = digits_graph.nearest_edges(points, 1)
  # Node 1 lies as near to 0 as to 2 and 3, and 4 as near to 2 as to 3.
  assert found.tolist() == [[0, 1], [2, 3], [2, 4]]


def make_index():
  """An index of 1,200 packages: a chain, some tags, and odd ones."""
  blocks = [
    f'Package: p{i:04}\nVersion: 1\nSection: {"contrib/" * (i % 2)}'
    f'{("admin", "games", "libs")[i % 3]}\nDepends: p{i - 1:04} (>= 1), '
    f'virtual | p{i - 2:04}\nTag: role::program,\n use::x-{i % 4}\n'
    f'Description: number {i}\n more of it'
    for i in range(1_200)
  ]
  blocks += [
    'Package: p0000\nSection: libs\nDescription: an older version',
    'Package: zz\nDepends: zz, p0001\nRecommends: p0001\n'
    'Tag: rare::tag\nDescription-en: no section, größer',
  ]
  return '\n\n'.join(blocks).encode()


@pytest.fixture
def own_dir(tmp_path, monkeypatch):
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(tmp_path))
  monkeypatch.setenv('PATH', '')
  (tmp_path / 'inbox').mkdir()
  return tmp_path


@pytest.mark.parametrize('name', debian.INBOX)
def test_debian_graph_is_made_from_an_index_in_the_inbox(own_dir, name):
  index = make_index()
  packed = gzip.compress(index) if name.endswith('.gz') else index
  (own_dir / 'inbox' / name).write_bytes(packed)
  small_packages.check_figures('debian_graph')
  found = sets.open_node_graph('debian_graph', offline=True)
  assert found.num_nodes == 1_201
  assert found.classes == ('admin', 'games', 'libs')
  assert found.labels[:4].tolist() == [0, 1, 2, 0]
  assert (found.labels[-1], found.split[-1]) == (-1, -1)
  assert found.features[0] == 'number 0'
  assert found.features[-1] == 'no section, größer'
  # p1 needs p0; p2 needs p1 and, as an alternative, p0; …; zz needs p1.
  assert len(found.edges) == 1_199 + 1_198 + 1
  assert [0, 1] in found.edges.tolist() and [1, 1_200] in found.edges.tolist()
  tags = sets.open_node_graph('debian_graph:tags', offline=True)
  assert tags.classes == ('role::program', *(f'use::x-{i}' for i in range(4)))
  assert tags.labels[5].tolist() == [1, 0, 1, 0, 0]
  assert tags.labels[-1].tolist() == [0] * 5 and tags.split[-1] == -1
  np.testing.assert_array_equal(tags.split[:-1], found.split[:-1])
  folder = own_dir / 'tfds' / 'debian_graph' / '1.0.0'
  assert json.loads((folder / 'metadata.json').read_text()) == {
    'sha256': hashlib.sha256(index).hexdigest()
  }


def test_debian_graph_says_how_to_come_by_an_index(own_dir, monkeypatch):
  cure = r'[\s\S]*apt-get update[\s\S]*> dumpavail\.txt[\s\S]*inbox'
  with pytest.raises(InputError, match='apt-cache is not installed' + cure):
    sets.open_node_graph('debian_graph')
  (own_dir / 'bin').mkdir()
  monkeypatch.setenv('PATH', str(own_dir / 'bin'))
  client = own_dir / 'bin' / 'apt-cache'
  client.write_text('#!/bin/sh\n')
  client.chmod(0o755)
  with pytest.raises(InputError, match='has 0 packages, fewer than' + cure):
    sets.open_node_graph('debian_graph')
  client.write_text('#!/bin/sh\necho E: broken lists >&2\nexit 100\n')
  with pytest.raises(InputError, match=r'code 100.*broken lists' + cure):
    sets.open_node_graph('debian_graph')
  (own_dir / 'inbox' / 'dumpavail.txt.gz').write_bytes(b'no gzip')
  with pytest.raises(InputError, match=r'cannot read .*dumpavail\.txt\.gz'):
    sets.open_node_graph('debian_graph')


@pytest.mark.slow
def test_debian_graph_of_this_machine(own_dir, monkeypatch):
  monkeypatch.undo()
  if shutil.which('apt-cache') is None:
    pytest.skip('there is no apt-cache here')
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(own_dir))
  try:
    found = small_packages.check_figures('debian_graph')
  except InputError as error:
    pytest.skip(f'the apt index cannot be used: {error}')
  # Any whole index of Debian: Debian 12 has 63,666, 275,726, 58, .467 and 68.
  assert found['nodes'] > 10_000
  assert found['undirected edges'] > 2 * found['nodes']
  assert found['sections'] > 30
  assert 0.3 < found['edge homophily'] < 0.7
  assert found['tags'] > 30


@pytest.mark.parametrize('name', ['proteins', 'digits_graph', 'tu', 'cora', ''])
def test_unknown_sets_of_graphs_are_refused_with_what_there_is(name):
  with pytest.raises(InputError, match=r'mutag, rings and tu:FOLDER'):
    sets.open_graphs(name)


@pytest.mark.parametrize('name', ['cora', 'mutag', 'wordnet', 'wordnet_graph:'])
def test_unknown_graphs_are_refused_with_what_there_is(name):
  with pytest.raises(
    InputError, match=r'digits_graph, wordnet_graph, debian_gr'
  ):
    sets.open_node_graph(name)


def test_offline_says_what_to_fetch(own_dir):
  with pytest.raises(InputError, match=r'graphkernels-0\.2\.1\.tar\.gz'):
    sets.open_graphs('mutag', offline=True)
  with pytest.raises(InputError, match=r'apt-get download wordnet-base=1:3'):
    sets.open_node_graph('wordnet_graph', offline=True)
