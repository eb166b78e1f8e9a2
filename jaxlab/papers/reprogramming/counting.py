"""The task of counting squares."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core.errors import InputError

GRID = 4  # cells on a side of an image
COUNTS = 10  # 1 to 10 squares


def counting_squares(
  key: jax.Array, n: int, cell: int = 9
) -> tuple[jax.Array, jax.Array]:
  """Images of 1 to 10 squares, to be counted.

  A square fills a cell of a 4 x 4 grid: white within a black frame of one
  pixel, on black. All counts are as likely, and so are all sets of cells.

  Args:
    n: number of images.
    cell: pixels on the side of a cell, at least 3; 9 in the paper.

  Returns:
    images: [n, 4 cell, 4 cell, 3] float32 in [0, 1].
    labels: [n] int32 in [0, 10): one less than the number of squares.

  Departs from the paper: the width of the frame is ours.
  """
  return squares_of(jax.random.split(key, n), cell)


def squares_of(keys: jax.Array, cell: int = 9) -> tuple[jax.Array, jax.Array]:
  """`counting_squares` of one key an image, [n] keys."""
  if cell < 3:
    raise InputError(f'a cell of {cell} pixels has no room for a framed square')

  def one(key):
    of_count, of_cells = jax.random.split(key)
    label = jax.random.randint(of_count, (), 0, COUNTS)
    rank = jax.random.permutation(of_cells, GRID * GRID)
    return rank.reshape(GRID, GRID) <= label, label

  taken, labels = jax.vmap(one)(keys)
  square = np.zeros((cell, cell), np.float32)
  square[1:-1, 1:-1] = 1
  tiles = taken[:, :, None, :, None] * square[:, None, :]
  side = GRID * cell
  grey = tiles.reshape(-1, side, side, 1)
  return jnp.broadcast_to(grey, (*grey.shape[:3], 3)), labels
