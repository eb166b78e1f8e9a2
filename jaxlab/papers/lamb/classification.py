"""Fine-tuning's first job: the class of a text."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from jaxlab.core.errors import InputError
from jaxlab.core.require import at_least, one_of, require
from jaxlab.core.state import Objective
from jaxlab.data.text import labelled
from jaxlab.data.text.labelled import LabelledText
from jaxlab.evals.classify import answers_of, classify
from jaxlab.models.bert_heads import ClassificationHead
from jaxlab.ops.losses import masked_cross_entropy
from jaxlab.recipes import pictures
from jaxlab.runs.sections import Sections

Config = Mapping[str, Any]
Arrays = dict[str, np.ndarray]


class Job:
  """The texts, the head and the figures of a set with labels."""

  def __init__(self, config: Config, tokenizer: Tokenizer, offline: bool):
    self.config, self.tokenizer = config, tokenizer
    name = config['data']['name']
    self.splits = labelled.open_splits(name, offline=offline)
    train, test = self.splits.train, self.splits.test
    self.head = make_head(config, len(train.classes))
    self.about = {'data_sha256': self.splits.sha256}
    self.facts: dict[str, Any] = {'classes': list(train.classes)}
    # What the most frequent class of the training texts gives.
    most = np.bincount(train.labels, minlength=len(train.classes)).argmax()
    accuracy = float(np.mean(test.labels == most))
    self.figures = {'test/majority_accuracy': accuracy}

    # Of its model: what it takes, files beside it, the set of data.
    self.inputs = {'kind': 'text'}
    self.files = {'classes.json': list(train.classes)}
    self.sets = (name,)

  def example(self) -> list[str]:
    """Texts to try a model with."""
    return self.splits.validation.texts[:2]

  def training(self) -> Arrays:
    """All rows to train on."""
    data, part = self.config['data'], self.splits.train
    wanted, count = data['train_examples'] or None, len(part.texts)
    if wanted and wanted > count:
      raise InputError(
        f'config.data.train_examples = {wanted} is more than the {count} texts '
        f'of {data["name"]} that are trained on; take at most that, or 0 for '
        f'all of them'
      )
    texts, labels = part.texts[:wanted], part.labels[:wanted]
    return self._rows('train', part._replace(texts=texts, labels=labels))

  def evaluation(self, split: str, apply, folder=None):
    """The Evaluator of `validation` or `test`, and its rows."""
    del folder
    found = classify(apply, len(self.splits.train.classes))
    return found, self._rows(split, getattr(self.splits, split))

  def show(self, page: Sections, total) -> None:
    """What the test set's answers are: a figure, and the worst mistakes."""
    found, test = answers_of(total['answers']), self.splits.test
    pictures.classified(page, found, test.classes)
    texts = [test.texts[i] for i in found.ids]
    pictures.misread(page, found, texts, test.classes)

  def _rows(self, split: str, part: LabelledText) -> Arrays:
    found = _encode(self.config, self.tokenizer, part)
    self.facts[f'{split}_truncated'] = round(found.truncated, 4)
    self.facts[f'{split}_unknown_tokens'] = round(found.unknown, 4)
    return found.arrays


def _encode(config: Config, tokenizer: Tokenizer, part: LabelledText):
  data = config['data']
  return labelled.encode(part, tokenizer, data['sequence_length'], data['keep'])


def make_head(config: Config, classes: int = 2) -> ClassificationHead:
  """The head, for the config's model; of two classes before data is read."""
  c = config['model']
  rates = c['dropout_rate'], c['initializer_range']
  return ClassificationHead(classes, *rates, jnp.dtype(c['dtype']))


def objective(logits, batch) -> Objective:
  """Cross-entropy and training accuracy."""
  mask = batch['mask']
  nats, rows = masked_cross_entropy(logits, batch['label'], mask)
  right = jnp.sum((logits.argmax(-1) == batch['label']) & mask)
  accuracy = right.astype(jnp.float32), rows
  return Objective(nats, rows, metrics={'accuracy': accuracy})


def check(config: Config) -> None:
  """Raises InputError for a value of config.data that cannot be."""
  rules = {
    'data.keep': one_of(*labelled.KEEP),
    'data.train_examples': at_least(0, '0 takes all'),
  }
  require(config, rules)


def spec(config: Config):
  """The arrays of one training batch."""
  data = config['data']
  return labelled.batch_spec(data['batch_size'], data['sequence_length'])


def predict(
  config: Config, tokenizer, apply, params, inputs: Sequence[str]
) -> list[dict[str, Any]]:
  """The class of each text, by number, and the probabilities of all.

  A text that is too long is cut as in training, by `config.data.keep`.

  Args:
    apply: head -> (params, vars, batch) -> logits [b, k].
  """
  texts = LabelledText(list(inputs), np.zeros(len(inputs), np.int32), ())
  head = make_head(config, params['head']['Dense_0']['bias'].size)
  batch = _encode(config, tokenizer, texts).arrays
  found = np.asarray(jax.nn.softmax(jax.jit(apply(head))(params, {}, batch)))
  return [
    {
      'label': int(row.argmax()),
      'probability': float(row.max()),
      'probabilities': row.tolist(),
    }
    for row in found
  ]
