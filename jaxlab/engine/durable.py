"""What is on disk after a power loss: files, and the names of files.

A file that was written and renamed may be empty after a power loss, and its
name may be gone: the kernel writes both when it likes. `fsync` makes it write
them now. Imports no JAX.
"""

import os
from pathlib import Path


def write(path: Path, text: str) -> None:
  """Writes a file whole or not at all, and on disk when it returns.

  Raises:
    OSError: what was there is as it was.
  """
  temporary = path.with_name(f'.{path.name}.{os.getpid()}')
  try:
    with open(temporary, 'w', encoding='utf-8') as file:
      file.write(text)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except OSError:
    temporary.unlink(missing_ok=True)
    raise
  sync(path.parent)


def sync(path: Path) -> None:
  """Writes what is in a file, or the names in a folder, to disk."""
  number = os.open(path, os.O_RDONLY)
  try:
    os.fsync(number)
  finally:
    os.close(number)


def sync_tree(folder: Path) -> None:
  """`sync` of all files and folders in a folder, and of itself."""
  for at, _, names in os.walk(folder):
    for name in names:
      sync(Path(at, name))
    sync(Path(at))
