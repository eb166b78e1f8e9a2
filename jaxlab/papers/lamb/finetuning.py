"""Fine-tuning BERT: from the config to one stage."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxlab.data import packages, wordpiece
from jaxlab.data.in_memory import ArraySource
from jaxlab.engine import mesh
from jaxlab.engine.errors import InputError
from jaxlab.engine.evaluate import Evaluation
from jaxlab.engine.feed import Feed
from jaxlab.engine.loop import Fitted, Options
from jaxlab.engine.stage import Planned, Stage, Workspace, training
from jaxlab.engine.state import Task
from jaxlab.engine.update import accumulate, create_state, minimise
from jaxlab.models.bert import Bert
from jaxlab.models.bert_heads import encoder_params
from jaxlab.papers.lamb import (
  answering,
  bert,
  classification,
  optimizers,
  pretrained,
  span,
)

Config = Mapping[str, Any]

TARGETS = {'classification': classification, 'squad': answering}
STAGE = 'finetune'
NETS = ('net', 'head')  # the encoder, by the name it has in pre-training


def program(config: Config) -> list[Stage]:
  """The one stage of `configs/bert_finetune.py`.

  Raises:
    InputError: a value that cannot be; nothing has been computed yet.
  """
  train = dict(config['train'])
  for name in ('batch_size', 'accumulate'):
    train.pop(name)
  options = Options(**train)
  if config['target'] not in TARGETS:
    raise InputError(
      f'config.target = "{config["target"]}" is not one of {", ".join(TARGETS)}'
    )
  shaped = pretrained.resolve(config, planning=True)
  _check(shaped)
  TARGETS[config['target']].check(config)
  make_optimizer(config)
  built: dict[str, _Built] = {}

  def make(space):
    built[STAGE] = found = _build(config, space)
    # What a checkpoint belongs to, beside the config.
    options.about.update(found.about)
    return found.task, found.feed

  def finish(space, task, fitted):
    return _measure(config, space, built[STAGE], fitted)

  return [
    training(STAGE, make, options, finish, lambda space: plan(shaped, space))
  ]


def make_optimizer(config: Config) -> optax.GradientTransformation:
  """Clipping, the optimizer that the config names, warm-up and decay."""
  c = config['optimizer']
  return optimizers.make(
    c,
    config['train']['steps'],
    learning_rate=c['learning_rate'],
    warmup_steps=c['warmup_steps'],
  )


def make_model(config: Config, vocab_size: int, platform: str) -> Bert:
  """The encoder of the config, for devices of a platform."""
  return bert.make_model(config, vocab_size, platform, heads=False)


def forward(model: Bert, head, params, batch, dropout=None):
  """What the head says of a batch: logits, or (start, end) logits."""
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


def make_task(config: Config, model: Bert, head, encoder, evals) -> Task:
  """The training step on the encoder and its head.

  Args:
    encoder: parameters to start from; None for new ones.
  """
  target = TARGETS[config['target']]

  def loss(params, vars, batch, key):
    return target.objective(forward(model, head, params, batch, key), batch)

  tx, micro = make_optimizer(config), config['train']['accumulate']
  if micro > 1:
    update = accumulate(micro, loss, NETS, tx, unroll=False)
  else:
    update = minimise(loss, NETS, tx)

  def init(key):
    new = new_parameters(model, head, key)
    if encoder is not None:
      new['net'] = encoder
    return create_state(new, update)

  return Task(init, {'train': update}, evals)


def new_parameters(model: Bert, head, key) -> dict[str, Any]:
  """Of the encoder and of the head, drawn from streams of their own."""

  def make(key):
    keys = jax.random.split(key)
    row = jnp.zeros((1, 8), jnp.int32)
    outputs, found = model.init_with_output(
      keys[0], row, row, row == 0, deterministic=True, method='encode'
    )
    top = head.init(keys[1], *outputs, deterministic=True)
    return {'net': found['params'], 'head': top['params']}

  return jax.jit(make)(key)


class _Built(NamedTuple):
  """What `_build` makes, and `_measure` uses again."""

  task: Task
  feed: Feed
  model: Bert
  job: Any
  apply: Any  # (params, vars, batch) -> what the head says, no dropout
  about: dict[str, Any]


def _build(config: Config, space: Workspace) -> _Built:
  config = pretrained.resolve(config)
  corpus = pretrained.open_corpus(config, space.offline)
  tokenizer = wordpiece.make_tokenizer(corpus.pieces)
  model = make_model(config, corpus.vocab_size, mesh.platform(space.mesh))
  folder = config['model']['checkpoint']
  # Before the data, whose preparation takes longer.
  found = pretrained.read(config, corpus, space.mesh) if folder else None
  job = TARGETS[config['target']].Job(config, tokenizer, space.offline)
  about = {'corpus_sha256': corpus.sha256, **job.about}
  encoder = None
  if found:
    about['pretrained_sha256'] = found.sha256
    encoder = encoder_params(found.params, config['model']['scan_layers'])
    expected = jax.eval_shape(
      lambda key: new_parameters(model, job.head, key)['net'],
      jax.random.key(0),
    )
    pretrained.check_shapes(encoder, expected, folder)
  apply = lambda params, vars, batch: forward(model, job.head, params, batch)
  evals = {}
  made = job.evaluation('validation', apply, None)
  if made:
    evals['validation'] = made[0], _held_out(config, made[1], space)
  source = ArraySource(
    job.training(),
    batch_size=config['train']['batch_size'],
    seed=config['seed'],
  )
  data = config['data']
  job.facts['epochs'] = round(
    config['train']['steps'] * source.order.batch_size / source.num_examples, 3
  )
  feed = Feed(
    source,
    space.mesh,
    workers=data['workers'],
    ahead=data['ahead'],
    axes=mesh.row_axes(space.mesh),
  )
  task = make_task(config, model, job.head, encoder, evals)
  return _Built(task, feed, model, job, apply, about)


def plan(config: Config, space: Workspace) -> Planned:
  """Fine-tuning as shapes, for a machine that is not there.

  No data is read: a classifier has two classes here, and the vocabulary the
  size that was asked for.
  """
  vocab = config['vocabulary']['size']
  model = make_model(config, vocab, mesh.platform(space.mesh))
  target = TARGETS[config['target']]
  return Planned(
    make_task(config, model, target.make_head(config), None, {}),
    {'train': target.spec(config)},
    config['train']['steps'],
    max_bad_steps=config['train']['max_bad_steps'],
    flops={'train': step_flops(config)},
  )


def step_flops(config: Config) -> float:
  """Model FLOPs of one update: matrix products, backward = 2 x forward.

  A multiplication and an addition are two; embeddings' look-ups, the heads'
  few outputs and what is recomputed are none.
  """
  c, length = config['model'], config['data']['sequence_length']
  width, inner = c['hidden_size'], c['intermediate_size']
  layer = 2 * length * width * (4 * width + 2 * inner) + 4 * length**2 * width
  types = 2 * length * 2 * width  # a product with one-hot rows
  row = c['num_layers'] * layer + types + 2 * width * width
  return 3.0 * config['train']['batch_size'] * row


def _measure(
  config: Config, space: Workspace, built: _Built, fitted: Fitted
) -> dict[str, float]:
  """The test set, read once, here."""
  evaluator, arrays = built.job.evaluation(
    'test', built.apply, space.folder(STAGE)
  )
  feed = _held_out(config, arrays, space)
  found = Evaluation('test', evaluator, feed, space.seed).run(fitted.state)
  space.facts |= {
    **built.job.facts,
    **built.about,
    'download_seconds': round(packages.download_seconds(), 3),
  }
  return {
    **{f'test/{name}': value for name, value in found.items()},
    **built.job.figures(),
  }


def _held_out(config: Config, arrays, space: Workspace) -> Feed:
  ways = space.mesh.size // space.mesh.shape.get('model', 1)
  source = ArraySource(
    arrays,
    batch_size=-(-config['data']['eval_batch_size'] // ways) * ways,
    repeat=False,
    shuffle=False,
  )
  return Feed(
    source,
    space.mesh,
    steps=source.num_batches,
    axes=mesh.row_axes(space.mesh),
  )


def _check(config: Config) -> None:
  model, data, train = config['model'], config['data'], config['train']
  if data['sequence_length'] > model['max_positions']:
    raise InputError(
      f'config.data.sequence_length = {data["sequence_length"]} is longer than '
      f'the position table, config.model.max_positions = '
      f'{model["max_positions"]}; take shorter sequences, or a model that was '
      'pre-trained with more positions'
    )
  if model['dtype'] not in ('float32', 'bfloat16'):
    raise InputError(
      f'config.model.dtype = "{model["dtype"]}" is not float32 or bfloat16'
    )
  if model['hidden_size'] % model['num_heads']:
    raise InputError(
      f'config.model.hidden_size = {model["hidden_size"]} does not divide by '
      f'config.model.num_heads = {model["num_heads"]}'
    )
  if not 0 <= model['dropout_rate'] < 1:
    raise InputError(
      f'config.model.dropout_rate = {model["dropout_rate"]} is not in [0, 1)'
    )
  if train['accumulate'] < 1 or train['batch_size'] % train['accumulate']:
    raise InputError(
      f'config.train.batch_size = {train["batch_size"]} does not divide into '
      f'config.train.accumulate = {train["accumulate"]} micro-batches'
    )
  for name in ('batch_size', 'eval_batch_size'):
    value = (train if name in train else data)[name]
    if value < 1:
      raise InputError(f'config: {name} = {value} must be at least 1')
