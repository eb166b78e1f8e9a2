"""Fine-tuning's second job: SQuAD v1.1's answers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers

from jaxlab.data.squad import Question, Squad, hold_out, read_squad
from jaxlab.data.squad_windows import Shape, batch_spec, make_windows
from jaxlab.engine import workdir
from jaxlab.engine.require import at_least, require
from jaxlab.engine.state import Evaluator, Objective, State
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
    self.config, self.tokenizer = config, tokenizer
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
    right = {q.id: q.answers for q in self.parts[split].questions}
    keep = None if folder is None else lambda ranked: _write(folder, ranked)
    return _evaluator(self.config, apply, windows, right, keep), windows.arrays

  def figures(self) -> dict[str, float]:
    return {}

  def _windows(self, split: str, *, training: bool):
    found = make_windows(
      self.parts[split],
      self.tokenizer,
      _shape(self.config),
      training=training,
    )
    self.facts[f'{split}_windows'] = len(found.question)
    return found


def _evaluator(config: Config, apply, windows, answers, keep) -> Evaluator:
  return squad(
    apply,
    len(windows.question),
    windows.read,
    answers,
    n_best=config['data']['n_best'],
    max_answer=config['data']['max_answer'],
    keep=keep,
  )


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


def _write(folder: Path, ranked: Ranked) -> None:
  best = {key: found[0][0] for key, found in ranked.items()}
  workdir.write_json(folder / 'predictions.json', best)
  workdir.write_json(
    folder / 'nbest_predictions.json',
    {key: list(map(_answer, found)) for key, found in ranked.items()},
  )


def _answer(found: tuple[str, float]) -> dict[str, Any]:
  return {'text': found[0], 'probability': found[1]}


def predict(
  config: Config, tokenizer, apply, params, inputs: Sequence[tuple[str, str]]
):
  """The answer to each (question, context), with its probability.

  Args:
    apply: head -> (params, vars, batch) -> (start, end) logits [b, s].
  """
  questions = [
    Question(str(i), i, question, ('',), 0, 0)
    for i, (question, _) in enumerate(inputs)
  ]
  contexts = [context for _, context in inputs]
  asked = Squad(Path(), contexts, [''] * len(contexts), questions, (), '')
  windows = make_windows(asked, tokenizer, _shape(config), training=False)
  ranked: Ranked = {}
  evaluator = _evaluator(
    config,
    apply(make_head(config)),
    windows,
    {q.id: q.answers for q in questions},
    ranked.update,
  )
  count = len(windows.question)
  batch = {
    **windows.arrays,
    'id': np.arange(count),
    'mask': np.ones(count, bool),
  }
  state = State(jnp.zeros((), jnp.int32), params, {}, {})
  key = jax.random.key(0)  # not used
  total = jax.jit(evaluator.update)(evaluator.init(), state, batch, key)
  evaluator.finish(jax.device_get(total))
  return [_answer(ranked[question.id][0]) for question in questions]
