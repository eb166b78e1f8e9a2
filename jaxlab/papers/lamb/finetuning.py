"""Fine-tuning BERT: from the config to one stage."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from tokenizers import Tokenizer

from jaxlab.core.require import at_least, one_of, require
from jaxlab.core.state import Task
from jaxlab.data.in_memory import ArraySource
from jaxlab.data.licences import licence_of
from jaxlab.data.packages import registry
from jaxlab.engine import mesh
from jaxlab.engine.compiled import Start
from jaxlab.engine.evaluate import measured
from jaxlab.engine.feed import Feed, held_out
from jaxlab.engine.loop import FitResult, Inputs, Options
from jaxlab.models.bert import Bert
from jaxlab.papers.lamb import (
  answering,
  bert,
  classification,
  optimizers,
  pretrained,
  span,
)
from jaxlab.runs.model import Kept, Model
from jaxlab.runs.stage import Figures, Stage, Workspace, training

Config = Mapping[str, Any]

TARGETS = {'classification': classification, 'squad': answering}
NETS = ('net', 'head')  # the encoder, by the name it has in pre-training


class Opened(NamedTuple):
  """The network and the data, at `Inputs.data`."""

  model: Bert
  job: Any  # a Job of the target: its data and head
  apply: Any  # (params, vars, batch) -> outputs of the head, no dropout
  pieces: Sequence[str]  # of the vocabulary


def program(config: Config) -> list[Stage]:
  """The one stage of `configs/bert_finetune.py`.

  Raises:
    InputError: a value that cannot be; nothing has been computed yet.
  """
  options = Options(**config['train'])
  require(config, {'target': one_of(*TARGETS)})
  # A plan may do without the checkpoint; `_open` may not.
  shaped = pretrained.resolve(config, planning=True)
  target = TARGETS[config['target']]
  bert.check(shaped)
  target.check(config)
  optimizers.make(config)  # complains now
  require(config, {'data.eval_batch_size': at_least(1)})

  def task(space, inputs):
    if inputs:
      opened: Opened = inputs.data
      return make_task(config, opened.model, opened.job.head)
    size, platform = shaped['vocabulary']['size'], mesh.platform(space.mesh)
    model = bert.make_model(shaped, size, platform, heads=False)
    return make_task(config, model, target.make_head(shaped))

  def start(space):
    return Start({'net': pretrained.encoder(config, space.mesh)})

  return [
    training(
      'finetune',
      options,
      spec=lambda space: {'train': target.spec(config)},
      task=task,
      inputs=partial(_open, config),
      finish=partial(_finish, config),
      seed=config['seed'],
      start=start if config['model']['checkpoint'] else None,
      flops={'train': step_flops(shaped)},
      keep=lambda space, opened, result: kept(config, opened.data),
    )
  ]


def kept(config: Config, opened: 'Opened') -> Kept:
  """What goes beside the network: vocabulary, classes, an input to try.

  Its config has the shape of the checkpoint in it, and asks for none.
  """
  own, job = pretrained.resolve(config), opened.job
  own['model'] = {**own['model'], 'checkpoint': ''}
  words = own['vocabulary']
  # A Hugging Face folder's words are the files of whoever gave it.
  text = words['name'] if not words['text_files'] else 'text_files'
  return Kept(
    job.inputs,
    job.example(),
    {
      'vocabulary.json': [*opened.pieces],
      'tokenizer.json': job.tokenizer.to_str(),
      **job.files,
    },
    own,
    data={name: licence_of(name) for name in (*job.sets, text or 'text_files')},
  )


def forward(model: Bert, head, params, batch, dropout=None):
  """The head's logits of a batch, or its (start, end) logits."""
  tokens = batch['tokens']
  first = batch.get('first', batch['length'])  # no second segment
  segments, attention = span.layout(first, batch['length'], tokens.shape[1])
  keys: list[dict[str, jax.Array]] = [{}, {}]
  if dropout is not None:
    keys = [{'dropout': key} for key in jax.random.split(dropout)]
  sequence, pooled = model.apply(
    {'params': params['net']},
    tokens,
    segments,
    attention,
    deterministic=dropout is None,
    rngs=keys[0],
    method='encode',
  )
  return head.apply(
    {'params': params['head']},
    sequence,
    pooled,
    deterministic=dropout is None,
    rngs=keys[1],
  )


def make_task(config: Config, model: Bert, head) -> Task:
  """The training step on the encoder and its head."""
  target = TARGETS[config['target']]

  def loss(params, vars, batch, key):
    return target.objective(forward(model, head, params, batch, key), batch)

  def init(key):
    """Of the encoder and of the head, drawn from streams of their own."""
    keys = jax.random.split(key)
    row = jnp.zeros((1, 8), jnp.int32)
    outputs, found = model.init_with_output(
      keys[0], row, row, row == 0, deterministic=True, method='encode'
    )
    top = head.init(keys[1], *outputs, deterministic=True)
    return {'net': found['params'], 'head': top['params']}, {}

  update = bert.make_update(config, loss, NETS, optimizers.make(config))
  return Task(jax.jit(init), {'train': update})


def step_flops(config: Config) -> float:
  """Model FLOPs of one update: backward is twice forward, see `bert`.

  The heads' few outputs and what is recomputed do not count.
  """
  pooler = 2 * config['model']['hidden_size'] ** 2
  return (
    3.0 * config['data']['batch_size'] * (bert.encoder_flops(config) + pooler)
  )


def _open(config: Config, space: Workspace) -> Inputs:
  """The feed and the held-out rows; `data` is an Opened."""
  config = pretrained.resolve(config)
  vocabulary, about = pretrained.words(config, space.offline)
  # Before the data, whose preparation takes longer.
  if config['model']['checkpoint']:
    about['pretrained_sha256'] = pretrained.sha256(config, about)
  size, platform = len(vocabulary.pieces), mesh.platform(space.mesh)
  model = bert.make_model(config, size, platform, heads=False)
  tokenizer = vocabulary.tokenizer()
  job = TARGETS[config['target']].Job(config, tokenizer, space.offline)
  apply = _plain(model, job.head)
  found = job.evaluation('validation', apply)
  evals = {'validation': _held_out(config, found, space)} if found else {}
  c = config['data']
  source = ArraySource(
    job.training(), batch_size=c['batch_size'], seed=config['seed']
  )
  feed = Feed(source, space.mesh, workers=c['workers'], ahead=c['ahead'])
  opened = Opened(model, job, apply, vocabulary.pieces)
  return Inputs(feed, evals, {**about, **job.about}, opened)


def _plain(model: Bert, head):
  return lambda params, vars, batch: forward(model, head, params, batch)


def _held_out(config: Config, found, space: Workspace):
  """(Evaluator, feed) of (Evaluator, arrays)."""
  evaluator, arrays = found
  source = lambda rows: ArraySource(
    arrays, batch_size=rows, repeat=False, shuffle=False
  )
  rows = config['data']['eval_batch_size']
  return evaluator, held_out(source, space.mesh, rows)


def _finish(
  config: Config, space: Workspace, inputs: Inputs, result: FitResult
) -> Figures:
  """The test set, read once, here."""
  job, folder = inputs.data.job, space.folder('finetune')
  found = job.evaluation('test', inputs.data.apply, folder)
  evaluator, feed = _held_out(config, found, space)
  figures, total = measured('test', evaluator, feed, result.state, space.seed)
  job.show(space.page, total)
  rows = config['train']['steps'] * config['data']['batch_size']
  source: Any = inputs.feed.source
  space.facts |= {
    **job.facts,
    'epochs': round(rows / source.num_examples, 3),
    'download_seconds': round(registry.download_seconds(), 3),
  }
  return {**figures, **job.figures}


def predict(model: Model, inputs: list) -> list[dict[str, Any]]:
  """Classes of texts, or answers, by a fine-tuned BERT.

  Args:
    inputs: texts; for SQuAD pairs (question, context).

  Returns:
    For each `label`, the number of a class, and `probabilities`, or `text`; and
    `probability`.
  """
  config, size = model.config, len(model.json('vocabulary.json'))
  # Not made of the pieces: it knows whether texts keep their capitals.
  tokenizer = Tokenizer.from_str(json.dumps(model.json('tokenizer.json')))
  net = bert.make_model(config, size, jax.default_backend(), heads=False)
  apply, target = partial(_plain, net), TARGETS[config['target']]
  return target.predict(config, tokenizer, apply, model.params, inputs)
