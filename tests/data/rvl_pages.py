"""A few files in the layout of RVL-CDIP, some of them no pages."""

import numpy as np
from PIL import Image

MODES = ('1', 'L', 'RGB', 'P', 'RGBA', 'I;16')  # of RVL-CDIP and its copies


def write_page(path, mode='L', size=(40, 60), black=0.5, compression=None):
  """A white page whose upper part is black."""
  page = np.full((size[1], size[0]), 255, np.uint8)
  page[: int(size[1] * black)] = 0
  if mode == 'I;16':
    picture = Image.fromarray(page.astype(np.uint16) * 257)
  else:
    picture = Image.fromarray(page).convert(mode)
  path.parent.mkdir(parents=True, exist_ok=True)
  picture.save(path, compression=compression)


def write_rvl(root, size=(40, 60)):
  """Twelve files: labels 0 to 11, six modes; two are not pages."""
  lists = {'train': [], 'val': [], 'test': []}
  for number in range(12):
    name = f'imagesq/q/o/c/{number}.tif'
    mode = MODES[number % 6]
    fax = 'group4' if mode == '1' else None
    write_page(root / 'images' / name, mode, size, compression=fax)
    split = 'train' if number < 8 else 'val' if number < 10 else 'test'
    lists[split].append(f'{name} {number}')
  (root / 'images/imagesq/q/o/c/6.tif').write_bytes(b'II*\0damaged')
  write_page(root / 'images/imagesq/q/o/c/7.tif', size=(1, 1))
  (root / 'labels').mkdir()
  for split, lines in lists.items():
    (root / 'labels' / f'{split}.txt').write_text('\n'.join(lines) + '\n')
