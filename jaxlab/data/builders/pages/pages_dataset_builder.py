"""Typeset pages: the documentation of TeX's document classes, rendered."""

import hashlib
from collections import defaultdict
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from jaxlab.data import atomic
from jaxlab.data.builders import packaged
from jaxlab.data.packages import deb, registry

TEXLIVE = registry.Package(
  kind='debian',
  name='texlive-publishers-doc',
  version='2022.20230122-4',
  file='texlive-publishers-doc_2022.20230122-4_all.deb',
  sha256='9b632913d4b0d0871bef41c414fc7ce1167e3bacb55b140901df0c95df1c5765',
  mebibytes=203.2,
  licence='free, mixed: LPPL and others',
)
ROOT = 'usr/share/doc/texlive-doc/'
FILES = 810  # PDF files of the package
WIDTH, HEIGHT = 384, 512  # pixels of an image
PAGES = 10  # of a document, its first
LEAST = 250  # points of the shorter side of a page; smaller ones are figures


class Document(NamedTuple):
  """One PDF file and its rendered pages."""

  label: str
  name: str  # below ROOT
  digest: str  # SHA-256 of the file
  pages: dict[int, bytes]  # number, from 0 -> PNG


class Builder(packaged.PackagedBuilder):
  """Builds the set `pages` from one Debian package."""

  PACKAGES = (TEXLIVE,)
  NEEDS = ('pypdfium2',)
  SUMMARY = '4,576 typeset pages, 250 document classes, 384×512 grey'
  LICENCE = 'mixed, free (LPPL and others)'
  FEATURES = {  # noqa: RUF012
    'image': tfds.features.Image(shape=(HEIGHT, WIDTH, 1)),
    'label': tfds.features.ClassLabel(),  # names: when prepared
    'document': tfds.features.Text(),
    'page': tfds.features.Scalar(dtype=np.int32),
  }
  SUPERVISED = ('image', 'label')
  METADATA = True
  PUBLISHED = {  # noqa: RUF012
    # Measured when the set was made.
    'documents': packaged.Published(706),
    'labels': packaged.Published(250),
    # Of the package, against mistakes of the split.
    'documents in two splits': packaged.Published(0),
    'labels of test not in train': packaged.Published(0),
  }

  def measure(self, read):
    rows = {  # without their images, of 900 MB in all
      split: [row | {'image': None} for row in read(split)]
      for split in packaged.SPLITS
    }
    labels = [{int(row['label']) for row in own} for own in rows.values()]
    return packaged.counts(rows, 'pages', 'document') | {
      'labels': len(set.union(*labels)),
      'labels in test': len(labels[2]),
      'labels of test not in train': len(labels[2] - labels[0]),
    }

  def rows(self):
    documents, left_out = self._render_all(self.fetch(TEXLIVE))
    self.info.metadata['left_out'] = left_out
    atomic.note(
      f'pages: {len(left_out)} files are left out, figures and repeated ones; '
      f'metadata.json of the set names them'
    )
    names = sorted({document.label for document in documents})
    self.info.features['label'].names = names
    return {
      split: [
        {'image': png, 'label': own.label, 'document': own.name, 'page': page}
        for own in documents
        for page, png in own.pages.items()
      ]
      for split, documents in split_documents(documents).items()
    }

  def _render_all(self, package) -> tuple[list[Document], dict[str, str]]:
    """All documents, and file -> why it is left out."""
    files = deb.read_members(
      package, lambda name: name.startswith(ROOT) and name.endswith('.pdf')
    )
    documents: list[Document] = []
    left_out: dict[str, str] = {}
    seen: dict[str, str] = {}  # digest -> the first file that has it
    for path, data in self.progress(files, 'documents', FILES):
      name = path.removeprefix(ROOT)
      digest = hashlib.sha256(data).hexdigest()
      if digest in seen:
        left_out[name] = f'it is {seen[digest]} again'
        continue
      seen[digest] = name
      try:
        pages = render(data)
      except ValueError as error:
        left_out[name] = str(error)
        continue
      if pages:
        # latex/aastex/…: the folder of the package.
        label = name.split('/')[1]
        documents.append(Document(label, name, digest, pages))
      else:
        left_out[name] = 'none of its first pages is of a size of paper'
    return documents, left_out


def render(pdf: bytes) -> dict[int, bytes]:
  """Number -> PNG of the first pages of a document.

  Raises:
    ValueError: the document cannot be read.
  """
  import pypdfium2

  found = {}
  try:
    document = pypdfium2.PdfDocument(pdf)
    try:
      for number in range(min(PAGES, len(document))):
        page = document[number]
        if min(page.get_size()) >= LEAST and (image := _draw(page)).min() < 255:
          found[number] = packaged.encode_png(image)
    finally:
      document.close()
  except pypdfium2.PdfiumError as error:
    raise ValueError(f'PDFium cannot read it: {error}') from error
  return found


def _draw(page) -> np.ndarray:
  """[512, 384] uint8: a page in the middle of white."""
  width, height = page.get_size()
  scale = min(WIDTH / width, HEIGHT / height)
  drawn = page.render(scale=scale, grayscale=True).to_pil().convert('L')
  canvas = Image.new('L', (WIDTH, HEIGHT), 'white')
  place = ((WIDTH - drawn.width) // 2, (HEIGHT - drawn.height) // 2)
  canvas.paste(drawn, place)
  return np.asarray(canvas)


def split_documents(documents: list[Document]) -> dict[str, list[Document]]:
  """Split -> its documents, by name."""
  labels = defaultdict(list)
  for document in sorted(documents, key=lambda document: document.digest):
    labels[document.label].append(document)
  splits: dict[str, list[Document]] = {s: [] for s in packaged.SPLITS}
  for own in labels.values():
    held = max(1, round(len(own) / 10)) if len(own) >= 3 else 0
    splits['test'] += own[:held]
    splits['validation'] += own[held : 2 * held]
    splits['train'] += own[2 * held :]
  for own in splits.values():
    own.sort(key=lambda document: document.name)
  return splits
