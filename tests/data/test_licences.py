"""What is known of the licences of sets."""

import pytest

from jaxlab.data import builders
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
