"""The errors that end a run, each with its exit code.

Imports nothing, so that a mistake is reported before JAX is loaded.
"""

DOES_NOT_FIT = 1
BAD_INPUT = 2
NON_FINITE = 3
PREEMPTED = 75
HOST_LOST = 76


def printable(text: object) -> str:
  """Text whose control characters are escaped, but for ends of lines.

  Names out of files of others would otherwise command the terminal.
  """
  return ''.join(
    c if c.isprintable() or c == '\n' else repr(c)[1:-1] for c in str(text)
  )


class InputError(ValueError):
  """Something the user gave is wrong: names the thing, the value, the cure."""

  exit_code = BAD_INPUT


class DamagedError(InputError):
  """A checkpoint that cannot be read, or is not what was written."""


class DoesNotFitError(RuntimeError):
  """A plan found that a step needs more memory than the devices have."""

  exit_code = DOES_NOT_FIT


class NonFiniteError(FloatingPointError):
  """Loss or gradients were not finite more often than the config allows."""

  exit_code = NON_FINITE


class Preempted(BaseException):
  """SIGTERM or Ctrl-C arrived; everything finished so far is saved.

  A `BaseException`, so that no `except Exception` on the way swallows it.
  """

  exit_code = PREEMPTED


class HostLostError(ConnectionError):
  """A process of this run did not arrive or died; run the command again."""

  exit_code = HOST_LOST


class WorkerLostError(HostLostError):
  """A process that prepares data died; run the command again."""


class OtherStopped(RuntimeError):
  """Another process of this run has stopped, for the reason given.

  Every process leaves with the exit code of the one that stopped first.
  """

  def __init__(self, words: str, exit_code: int):
    super().__init__(words)
    self.exit_code = exit_code
