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
from jaxlab.data.text import documents as text

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

_DESCRIPTION = f"""\
Pages of the manuals, examples and templates of TeX's document classes for
publishers and universities: articles, theses, slides, letters, exams, posters.
Rendered as they were typeset, so not scans. Grey, {WIDTH} by {HEIGHT} pixels,
each page made to fit with its proportions kept, and centred on white. Of a
document the first {PAGES} pages are taken, counted from 0 in `page`, without
blank ones and those whose shorter side is under {LEAST} points, which are
figures and logos; a document that occurs twice is kept once, under the first
name. The metadata of the set names the files left out, in `left_out`. The label
is the folder of the package that the document belongs to, by name; `document`
is its file. Split by document within each label, by a hash: a label of 3
documents or more gives a tenth of them, and at least one, to validation and as
many to test, so that these hold no label that train lacks. Pixels depend a
little on the version of PDFium.
{packaged.provenance(TEXLIVE)}
"""

_LICENCE = """\
Every document has the licence of its package, mostly the LaTeX Project Public
License; all are free. The Debian package's Licenses.gz lists them.
"""

_CITATION = """\
@misc{texlivepublishers,
  title = {{\\TeX} Live: publisher styles, theses, etc., documentation},
  author = {{The authors of its packages}},
  howpublished = {Debian package texlive-publishers-doc},
  note = {Version 2022.20230122}
}
"""


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
  PUBLISHED = {  # noqa: RUF012
    # Measured when the set was made.
    'documents': packaged.Published(706),
    'labels': packaged.Published(250),
    # Of the package, against mistakes of the split.
    'documents in two splits': packaged.Published(0),
    'labels of test not in train': packaged.Published(0),
  }

  def measure(self, read):
    documents, labels, found = [], [], {}
    for split in text.SPLITS:
      rows = [(row['document'], int(row['label'])) for row in read(split)]
      found[f'{split} pages'] = len(rows)
      documents.append({document for document, _ in rows})
      labels.append({label for _, label in rows})
    every = set.union(*documents)
    return found | {
      'documents': len(every),
      'labels': len(set.union(*labels)),
      'labels in test': len(labels[2]),
      'documents in two splits': sum(map(len, documents)) - len(every),
      'labels of test not in train': len(labels[2] - labels[0]),
    }

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(HEIGHT, WIDTH, 1)),
          'label': tfds.features.ClassLabel(),  # names: when prepared
          'document': tfds.features.Text(),
          'page': tfds.features.Scalar(dtype=np.int32),
        }
      ),
      supervised_keys=('image', 'label'),
      license=_LICENCE,
      citation=_CITATION,
      metadata=tfds.core.MetadataDict(),
      disable_shuffling=True,  # the pages of a document are neighbours
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # the package clients download; TFDS does not
    documents, left_out = self._render_all(self.fetch(TEXLIVE))
    self.info.metadata['left_out'] = left_out
    atomic.note(
      f'pages: {len(left_out)} files are left out, figures and repeated ones; '
      f'metadata.json of the set names them'
    )
    names = sorted({document.label for document in documents})
    self.info.features['label'].names = names
    splits = split_documents(documents)
    return {
      split: self._generate_examples(splits[split]) for split in text.SPLITS
    }

  def _generate_examples(self, documents):
    for order, document in enumerate(documents):
      for page, png in document.pages.items():
        yield (
          order * PAGES + page,
          {
            'image': png,
            'label': document.label,
            'document': document.name,
            'page': page,
          },
        )

  def _render_all(self, package) -> tuple[list[Document], dict[str, str]]:
    """All documents, and file -> why it is left out."""
    files = deb.read_members(
      package, lambda name: name.startswith(ROOT) and name.endswith('.pdf')
    )
    documents: list[Document] = []
    left_out: dict[str, str] = {}
    seen: dict[str, str] = {}  # digest -> the first file that has it
    for path, data in self.progress(files, FILES, 'documents'):
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
  splits: dict[str, list[Document]] = {split: [] for split in text.SPLITS}
  for own in labels.values():
    held = max(1, round(len(own) / 10)) if len(own) >= 3 else 0
    splits['test'] += own[:held]
    splits['validation'] += own[held : 2 * held]
    splits['train'] += own[2 * held :]
  for own in splits.values():
    own.sort(key=lambda document: document.name)
  return splits
