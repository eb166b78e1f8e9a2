"""The licence of a set of data, in a few words, for model cards."""

from collections.abc import Mapping

from jaxlab.data import builders
from jaxlab.data.images.outliers import NOISES

_SHIPPED: Mapping[str, str] = {
  'pydoc': 'PSF-2.0 (the documentation of CPython)',
  'bible': 'public domain (World English Bible)',
  **dict.fromkeys((*NOISES, 'rings'), 'none needed: it is drawn'),
}
_OWN = ('image_folder', 'rvl_cdip', 'split_csv', 'text_files', 'aligned')
_FOLDERS = ('documents',)  # prefixes of the name of another set


def licence_of(name: str) -> str:
  """What is known of the licence of a set, by its name in configs.

  Nothing is opened or downloaded.

  >>> licence_of('mnist')
  'none stated; research data set'
  """
  kind, _, rest = name.partition(':')
  if kind in _FOLDERS:
    return licence_of(rest)
  if kind in _OWN:
    return 'that of files of whoever trained it'
  if name in _SHIPPED:
    return _SHIPPED[name]
  if kind in builders.names():
    return builders.builder_class(kind).LICENCE or 'not stated'
  return 'see the page of the set'
