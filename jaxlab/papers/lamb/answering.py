"""Fine-tuning's second job: SQuAD v1.1's answers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from jaxlab.core.require import at_least, require
from jaxlab.core.state import Evaluator, Objective, State
from jaxlab.data.text.squad import Question, Squad, hold_out, read_squad
from jaxlab.data.text.squad_windows import (
  Shape,
  Windows,
  batch_spec,
  make_windows,
)
from jaxlab.evals.squad import Ranked, context_mask, squad
from jaxlab.models.bert_heads import SpanHead
from jaxlab.papers.lamb import span
from jaxlab.recipes import pictures
from jaxlab.runs import workdir
from jaxlab.runs.sections import Sections

Config = Mapping[str, Any]


class Job:
  """The questions and the head of two files of SQuAD v1.1."""

  figures: Mapping[str, float] = {}
  # Of its model: what it takes, files beside it, the set of data.
  inputs: Mapping[str, str] = {'kind': 'question'}
  files: Mapping[str, Any] = {}
  sets = ('text_files',)

  def __init__(self, config: Config, tokenizer: Tokenizer, offline: bool):
    del offline  # the files are the user's
    data = config['data']
    self.config, self.tokenizer, self.head = (
      config,
      tokenizer,
      make_head(config),
    )
    self.about, self.facts, files = {}, {}, {}
    self.ranked: Ranked = {}  # of the last evaluation
    for split in ('train', 'dev'):
      key = f'squad_{split}'
      name, strict = f'config.data.{key}', data['strict']
      files[split] = file = read_squad(data[key], name=name, strict=strict)
      self.about[f'{key}_sha256'] = file.sha256
      self.facts[f'{split}_answers_out_of_place'] = len(file.mismatched)
    self.parts = {'train': files['train'], 'test': files['dev']}
    if data['hold_out']:
      self.parts['train'], self.parts['validation'] = hold_out(files['train'])

  def example(self) -> list[tuple[str, str]]:
    """A question and its context, to try a model with."""
    part = self.parts['test']
    first = part.questions[0]
    return [(first.text, part.contexts[first.context])]

  def training(self) -> dict[str, np.ndarray]:
    """All windows to train on."""
    return self._windows('train', True).arrays

  def evaluation(self, split: str, apply, folder: Path | None = None):
    """The Evaluator of `validation` or `test`, and its windows; None: no such.

    Answers are written to a folder: predictions.json, id -> answer, which is
    what the official script reads, and nbest_predictions.json.
    """
    if split not in self.parts:
      return None
    windows = self._windows(split, False)

    def keep(ranked):
      self.ranked = ranked
      if folder is not None:
        _write(folder, ranked)

    return _evaluator(self.config, apply, windows, keep), windows.arrays

  def show(self, page: Sections, total) -> None:
    """Answers to the first questions beside the right ones."""
    del total  # ranked already
    pictures.answered(
      page,
      [
        (q.text, *self.ranked[q.id][0], q.answers)
        for q in self.parts['test'].questions
        if q.id in self.ranked
      ],
    )

  def _windows(self, split: str, training: bool) -> Windows:
    shape, part = _shape(self.config), self.parts[split]
    found = make_windows(part, self.tokenizer, shape, training=training)
    self.facts[f'{split}_windows'] = len(found.question)
    return found


def _evaluator(config: Config, apply, windows: Windows, keep) -> Evaluator:
  return squad(
    apply,
    len(windows.question),
    windows.read,
    {q.id: q.answers for q in windows.squad.questions},
    n_best=config['data']['n_best'],
    max_answer=config['data']['max_answer'],
    keep=keep,
  )


def _write(folder: Path, ranked: Ranked) -> None:
  all_of = {key: list(map(_answer, found)) for key, found in ranked.items()}
  best = {key: found[0]['text'] for key, found in all_of.items()}
  workdir.write_json(folder / 'predictions.json', best)
  workdir.write_json(folder / 'nbest_predictions.json', all_of)


def _answer(found: tuple[str, float]) -> dict[str, Any]:
  return {'text': found[0], 'probability': found[1]}


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
  _shape(config).check()
  rules = {'data.n_best': at_least(1), 'data.max_answer': at_least(1)}
  require(config, rules)


def spec(config: Config):
  """The arrays of one training batch."""
  return batch_spec(config['data']['batch_size'], _shape(config))


def _shape(config: Config) -> Shape:
  data = config['data']
  return Shape(data['sequence_length'], data['doc_stride'], data['max_query'])


def predict(
  config: Config, tokenizer, apply, params, inputs: Sequence[tuple[str, str]]
) -> list[dict[str, Any]]:
  """The answer to each (question, context), and its probability.

  Args:
    apply: head -> (params, vars, batch) -> (start, end) logits [b, s].
  """
  texts = [context for _, context in inputs]
  asked = [
    Question(str(i), i, question, ('',), 0, 0)  # what is right is not known
    for i, (question, _) in enumerate(inputs)
  ]
  given = Squad(Path(), texts, [''] * len(texts), asked, (), '')
  windows = make_windows(given, tokenizer, _shape(config), training=False)
  ranked: Ranked = {}
  evaluator = _evaluator(
    config, apply(make_head(config)), windows, ranked.update
  )
  rows = len(windows.question)
  batch = {**windows.arrays, 'id': np.arange(rows), 'mask': np.ones(rows, bool)}
  state = State(jnp.zeros((), jnp.int32), params, {}, {})
  total = jax.jit(evaluator.update)(evaluator.init(), state, batch, None)
  evaluator.finish(jax.device_get(total))
  return [_answer(ranked[question.id][0]) for question in asked]
