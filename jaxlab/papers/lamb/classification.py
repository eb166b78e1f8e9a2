"""Fine-tuning's first job: the class of a text."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers

from jaxlab.data import labelled_text
from jaxlab.data.text import LabelledText
from jaxlab.engine.errors import InputError
from jaxlab.engine.require import at_least, one_of, require
from jaxlab.engine.state import Evaluator, Objective
from jaxlab.evals.classify import classify
from jaxlab.models.bert_heads import ClassificationHead
from jaxlab.ops.losses import masked_cross_entropy

Config = Mapping[str, Any]
Arrays = dict[str, np.ndarray]


class Job:
  """The texts, the head and the figures of a set with labels."""

  def __init__(
    self, config: Config, tokenizer: tokenizers.Tokenizer, offline: bool
  ):
    self.config, self.tokenizer = config, tokenizer
    splits = labelled_text.open_splits(config['data']['name'], offline=offline)
    self.splits = splits
    self.head = make_head(config, len(splits.train.classes))
    self.about = {'data_sha256': splits.sha256}
    self.facts: dict[str, Any] = {'classes': list(splits.train.classes)}

  def training(self) -> Arrays:
    """All rows to train on."""
    data, part = self.config['data'], self.splits.train
    wanted, count = data['train_examples'], len(part.texts)
    if wanted > count:
      raise InputError(
        f'config.data.train_examples = {wanted} is more than the {count} texts '
        f'of {data["name"]} that are trained on; take at most that, or 0 for '
        f'all of them'
      )
    if wanted:
      part = part._replace(
        texts=part.texts[:wanted], labels=part.labels[:wanted]
      )
    return self._encode('train', part)

  def evaluation(
    self, split: str, apply, folder: Path | None
  ) -> tuple[Evaluator, Arrays] | None:
    """What measures `validation` or `test`, and its rows."""
    del folder
    part = getattr(self.splits, split)
    return classify(apply), self._encode(split, part)

  def figures(self) -> dict[str, float]:
    """What the most frequent class of the training texts gives."""
    train, test = self.splits.train.labels, self.splits.test.labels
    most = np.bincount(train, minlength=len(self.splits.train.classes)).argmax()
    return {'test/majority_accuracy': float(np.mean(test == most))}

  def _encode(self, split: str, part) -> Arrays:
    found = _encode(self.config, self.tokenizer, part)
    self.facts[f'{split}_truncated'] = round(found.truncated, 4)
    self.facts[f'{split}_unknown_tokens'] = round(found.unknown, 4)
    return found.arrays


def _encode(config: Config, tokenizer, part) -> labelled_text.Encoded:
  data = config['data']
  return labelled_text.encode(
    part, tokenizer, data['sequence_length'], data['keep']
  )


def make_head(config: Config, classes: int = 2) -> ClassificationHead:
  """The head, for the config's model; of two classes before data is read."""
  model = config['model']
  return ClassificationHead(
    classes,
    model['dropout_rate'],
    model['initializer_range'],
    jnp.dtype(model['dtype']),
  )


def objective(logits, batch) -> Objective:
  """Cross-entropy and training accuracy."""
  mask = batch['mask']
  nats, rows = masked_cross_entropy(logits, batch['label'], mask)
  right = jnp.sum((logits.argmax(-1) == batch['label']) & mask)
  return Objective(
    nats, rows, metrics={'accuracy': (right.astype(jnp.float32), rows)}
  )


def check(config: Config) -> None:
  """Raises InputError for a value of config.data that cannot be."""
  rules = {
    'data.keep': one_of(*labelled_text.KEEP),
    'data.train_examples': at_least(0, '0 takes all'),
  }
  require(config, rules)


def spec(config: Config):
  """The arrays of one training batch."""
  data = config['data']
  return labelled_text.batch_spec(data['batch_size'], data['sequence_length'])


def predict(config: Config, tokenizer, apply, params, inputs: Sequence[str]):
  """The class of each text, by number, with its probability.

  Args:
    apply: head -> (params, vars, batch) -> logits [b, k].
  """
  labels = np.zeros(len(inputs), np.int32)
  rows = _encode(config, tokenizer, LabelledText(list(inputs), labels, ()))
  head = make_head(config, params['head']['Dense_0']['bias'].size)
  logits = jax.jit(apply(head))(params, {}, rows.arrays)
  return [
    {'label': int(row.argmax()), 'probability': float(row.max())}
    for row in np.asarray(jax.nn.softmax(logits))
  ]
