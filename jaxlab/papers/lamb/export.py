"""A trained BERT as a folder that Hugging Face's transformers opens.

  python -m jaxlab.papers.lamb.export runs/bert_lamb/pretrain my-bert
  python -m jaxlab.papers.lamb.export runs/bert_finetune/finetune my-classifier

In Python: `export(stage, folder)`. `AutoTokenizer.from_pretrained(folder)` and
the class that the command prints read it there (BertForPreTraining, …), and
`jaxlab.recipes.hugging_face.load(folder)` here.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxlab.command import Parser, exit_code
from jaxlab.core.errors import InputError
from jaxlab.engine import mesh

Config = Mapping[str, Any]


def export(stage: str | Path, target: str | Path) -> str:
  """Writes the network that a finished stage left.

  Args:
    stage: folder of a stage of configs/bert_lamb.py or bert_finetune.py.
    target: must not be there yet.

  Returns:
    transformers' name of the architecture.

  Raises:
    InputError: it is no such stage, its vocabulary is no more what it was, or
      the target cannot be written.
  """
  # Here: the command names the extra that brings a library which is absent.
  from jaxlab.data.text.wordpiece import Vocabulary
  from jaxlab.papers.lamb import answering, bert, classification, pretrained
  from jaxlab.recipes import hugging_face

  folder = Path(stage).expanduser()
  config, report = _opened(folder)
  config = {**config, 'model': {**pretrained.YOUNG, **config['model']}}
  heads = config['job'] == 'pretraining'
  if heads:
    section = config['data']
    corpus = bert.open_corpus(section, section['vocab_size'], False)
    vocabulary = Vocabulary(tuple(corpus.pieces))
    about = {'corpus_sha256': corpus.sha256}
  else:
    config = pretrained.resolve(config, planning=True)
    vocabulary, about = pretrained.words(config, False)
  for name, digest in about.items():
    if report.get(name) != digest:
      raise InputError(
        f'{folder} was trained with {name} = {report.get(name)}, and the '
        f'vocabulary at hand has {digest}: bring the old one back'
      )
  devices, size = mesh.make(), len(vocabulary.pieces)
  model = bert.make_model(config, size, mesh.platform(devices), heads=heads)
  params = {'net': pretrained.network(folder, devices)}
  head, classes = None, ()
  if not heads:
    params['head'] = pretrained.network(folder, devices, 'head')
    classes = report.get('classes', ())
    head = (
      classification.make_head(config, len(classes))
      if config['target'] == 'classification'
      else answering.make_head(config)
    )
  return hugging_face.export(
    target, model, params, vocabulary, head=head, classes=classes
  )


def _opened(folder: Path) -> tuple[Config, Mapping[str, Any]]:
  """The config and the report of a stage.

  Raises:
    InputError: it is not finished, or of another paper.
  """
  cure = 'name a finished stage of configs/bert_lamb.py or bert_finetune.py'
  try:
    report = json.loads((folder / 'report.json').read_text())
    config = json.loads((folder.parent / 'config.json').read_text())
  except (OSError, ValueError) as error:
    raise InputError(
      f'{folder} is not a finished stage ({error}); {cure}'
    ) from error
  job = config.get('paper'), config.get('job')
  if job not in (('lamb', 'pretraining'), ('lamb', 'finetuning')):
    raise InputError(
      f'{folder} is a stage of {job}, which is not a BERT; {cure}'
    )
  return config, report


def main(argv: list[str] | None = None) -> int:
  """The command; returns its exit code."""
  parser = Parser('jaxlab.papers.lamb.export', __doc__)
  parser.add_argument('stage', help='runs/bert_lamb/pretrain')
  parser.add_argument('folder', help='to be written')

  def run():
    given = parser.parse_args(argv)
    mesh.start()
    print(f'{given.folder}: {export(given.stage, given.folder)}')

  return exit_code(run)


if __name__ == '__main__':
  sys.exit(main())
