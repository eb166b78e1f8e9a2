"""Fine-tuning's second job: SQuAD v1.1's answers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import tokenizers

from jaxlab.data.squad import hold_out, read_squad
from jaxlab.data.squad_windows import Shape, batch_spec, make_windows
from jaxlab.engine import workdir
from jaxlab.engine.errors import InputError
from jaxlab.engine.state import Evaluator, Objective
from jaxlab.evals.squad import Ranked, context_mask, squad
from jaxlab.models.bert_heads import SpanHead
from jaxlab.papers.lamb import span

Config = Mapping[str, Any]
Arrays = dict[str, np.ndarray]


class Job:
  """The questions, the head and the figures of two files of SQuAD v1.1."""

  def __init__(
    self, config: Config, tokenizer: tokenizers.Tokenizer, offline: bool
  ):
    del offline  # the files are the user's
    data = config['data']
    self.data, self.tokenizer = data, tokenizer
    self.files = {
      split: read_squad(
        data[f'squad_{split}'],
        name=f'config.data.squad_{split}',
        strict=data['strict'],
      )
      for split in ('train', 'dev')
    }
    self.head = make_head(config)
    self.about = {
      f'squad_{split}_sha256': file.sha256 for split, file in self.files.items()
    }
    self.facts: dict[str, Any] = {
      f'{split}_answers_out_of_place': len(file.mismatched)
      for split, file in self.files.items()
    }
    train = self.files['train']
    self.parts = {'train': train, 'test': self.files['dev']}
    if data['hold_out']:
      self.parts['train'], self.parts['validation'] = hold_out(train)

  def training(self) -> Arrays:
    """All windows to train on."""
    return self._windows('train', training=True).arrays

  def evaluation(
    self, split: str, apply, folder: Path | None
  ) -> tuple[Evaluator, Arrays] | None:
    """What measures `validation` or `test`, and its windows.

    Answers are written to a folder: predictions.json, id -> answer, which is
    what the official script reads, and nbest_predictions.json.
    """
    if split not in self.parts:
      return None
    windows = self._windows(split, training=False)
    evaluator = squad(
      apply,
      len(windows.question),
      windows.read,
      {q.id: q.answers for q in self.parts[split].questions},
      n_best=self.data['n_best'],
      max_answer=self.data['max_answer'],
      keep=None if folder is None else lambda ranked: _write(folder, ranked),
    )
    return evaluator, windows.arrays

  def figures(self) -> dict[str, float]:
    return {}

  def _windows(self, split: str, *, training: bool):
    found = make_windows(
      self.parts[split],
      self.tokenizer,
      _shape(self.data),
      training=training,
    )
    self.facts[f'{split}_windows'] = len(found.question)
    return found


def make_head(config: Config) -> SpanHead:
  """The head, for the config's model."""
  model = config['model']
  return SpanHead(model['initializer_range'], jnp.dtype(model['dtype']))


def objective(logits, batch) -> Objective:
  """The mean cross-entropy of the answer's start and end."""
  start, end = logits
  labels = batch['start'], batch['end']
  context = context_mask(batch['first'], batch['length'], start.shape[1])
  nats, rows = span.span_loss(start, end, labels, context, batch['mask'])
  right = (start.argmax(1) == labels[0]) & (end.argmax(1) == labels[1])
  found = jnp.sum(right & batch['mask']).astype(jnp.float32)
  return Objective(nats, rows, metrics={'spans_right': (found, rows)})


def check(config: Config) -> None:
  """Raises InputError for a value of config.data that cannot be."""
  data = config['data']
  _shape(data).check()
  for name in ('n_best', 'max_answer'):
    if data[name] < 1:
      raise InputError(f'config.data.{name} = {data[name]} must be at least 1')


def spec(config: Config):
  """The arrays of one training batch."""
  return batch_spec(config['train']['batch_size'], _shape(config['data']))


def _shape(data) -> Shape:
  return Shape(data['sequence_length'], data['doc_stride'], data['max_query'])


def _write(folder: Path, ranked: Ranked) -> None:
  best = {key: found[0][0] for key, found in ranked.items()}
  workdir.write_json(folder / 'predictions.json', best)
  workdir.write_json(
    folder / 'nbest_predictions.json',
    {
      key: [{'text': text, 'probability': p} for text, p in found]
      for key, found in ranked.items()
    },
  )
