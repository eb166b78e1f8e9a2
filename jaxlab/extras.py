"""Names the extra that brings a library, where jaxlab lacks the library.

`pip install jaxlab` brings what a method needs. The extras of setup.cfg bring
the rest; a module that needs one and has it not says so in its ImportError.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

# Extra of setup.cfg -> the modules that it brings and jaxlab imports.
BRINGS = {
  'run': (
    *('PIL', 'array_record', 'google', 'jinja2', 'jraph', 'matplotlib'),
    'orbax',
    *('sacrebleu', 'safetensors', 'sklearn', 'tensorflow_datasets'),
    *('threadpoolctl', 'tokenizers', 'tqdm'),
  ),
  'data': ('h5py', 'pypdfium2'),
}


def cure(error: BaseException) -> str:
  """The line that names the library and its extra; '' for other errors."""
  if not isinstance(error, ModuleNotFoundError):
    return ''
  root = (error.name or '').partition('.')[0]
  for extra, modules in BRINGS.items():
    if root in modules:
      return (
        f"{root} is not installed: pip install 'jaxlab[{extra}]' (in a clone: "
        f"pip install -e '.[{extra}]')"
      )
  return ''


class _Loader(SourceFileLoader):
  def exec_module(self, module: ModuleType) -> None:
    try:
      super().exec_module(module)
    except ModuleNotFoundError as error:
      if not (line := cure(error)):
        raise
      raise ModuleNotFoundError(line, name=error.name) from None


class Finder:
  """Finds jaxlab's own modules, and no others."""

  @staticmethod
  def find_spec(
    name: str,
    path: Sequence[str] | None = None,
    target: ModuleType | None = None,
  ) -> ModuleSpec | None:
    if not name.startswith('jaxlab.'):
      return None
    spec = PathFinder.find_spec(name, path, target)
    if spec and type(spec.loader) is SourceFileLoader:
      spec.loader = _Loader(spec.loader.name, spec.loader.path)
    return spec


def installed() -> None:
  """Lets every later import of a module of jaxlab name the extra."""
  if Finder not in sys.meta_path:
    sys.meta_path.insert(0, Finder)
