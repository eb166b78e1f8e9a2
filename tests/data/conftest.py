import pytest

from tests.data import small_packages


@pytest.fixture(scope='module')
def real(tmp_path_factory):
  """The packages of real sets."""
  return small_packages.RealPackages(tmp_path_factory.mktemp('real'))
