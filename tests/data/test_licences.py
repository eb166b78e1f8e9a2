"""What is known of the licences of sets."""

import inspect
import pathlib

import pytest

from jaxlab.data import builders
from jaxlab.data.builders.digits import digits_dataset_builder as digits
from jaxlab.data.licences import licence_of


@pytest.mark.parametrize(
  'name, words',
  [
    ('mnist', 'none stated; research data set'),
    ('documents:pages', builders.builder_class('pages').LICENCE),
    ('image_folder:/home/x', 'that of files of whoever trained it'),
    ('aligned:a,b', 'that of files of whoever trained it'),
    ('pydoc', 'PSF-2.0'),
    ('gaussian_noise', 'none needed'),
    ('wikipedia/20230601.en', 'see the page of the set'),
  ],
)
def test_a_set_has_a_licence_by_its_name(name, words):
  assert licence_of(name).startswith(words)


def test_every_own_set_says_its_licence():
  for name in builders.names():
    assert licence_of(name) == builders.builder_class(name).LICENCE
    assert licence_of(name)


def test_every_own_set_says_what_it_is_and_what_it_is_made_of(tmp_path):
  for name in builders.names():
    make = builders.builder_class(name)
    info = make(data_dir=tmp_path).info
    assert len(info.description) > 200, name
    assert info.citation.startswith('@'), name
    licence = info.as_proto.redistribution_info.license
    text = pathlib.Path(inspect.getfile(make)).with_name('LICENCE.txt')
    told = text.read_text().strip() if text.exists() else make.LICENCE
    assert licence == told, name
    for package in make.PACKAGES:
      assert f'{package.file} of ' in info.description
      assert package.sha256 in info.description
  assert digits.SHA256 in builders.builder_class('digits')().info.description
