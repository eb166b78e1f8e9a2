"""What the commands that take their words by argparse have in common."""

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from jaxlab import extras
from jaxlab.core.errors import InputError, printable


class Parser(argparse.ArgumentParser):
  """A command's words; mistakes are InputErrors, as everywhere."""

  def __init__(self, module: str, about: str | None):
    super().__init__(
      module,
      description=about,
      formatter_class=argparse.RawDescriptionHelpFormatter,
    )

  def error(self, message: str) -> NoReturn:
    raise InputError(f'{message}; see python -m {self.prog} --help')


def exit_code(run: Callable[[], None]) -> int:
  """Runs a command; what the user can mend is one line, and its exit code."""
  try:
    run()
  except InputError as error:
    print(f'jaxlab: {printable(error)}', file=sys.stderr)
    return error.exit_code
  except ModuleNotFoundError as error:
    if not (line := extras.cure(error)):
      raise
    print(f'jaxlab: {line}', file=sys.stderr)
    return InputError.exit_code
  return 0
