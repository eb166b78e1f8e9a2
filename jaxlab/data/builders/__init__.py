"""The data sets that jaxlab builds itself, one folder each.

Nothing here loads tensorflow_datasets, which takes a second.
"""

import functools
import importlib
import pathlib


@functools.cache
def names() -> tuple[str, ...]:
  """The names of all own sets."""
  folder = pathlib.Path(__file__).parent
  return tuple(
    sorted(path.parent.name for path in folder.glob('*/__init__.py'))
  )


def builder_class(name: str):
  """The `packaged.PackagedBuilder` of an own set, one of `names()`."""
  module = importlib.import_module(
    f'jaxlab.data.builders.{name}.{name}_dataset_builder'
  )
  return module.Builder
