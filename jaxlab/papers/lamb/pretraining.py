"""BERT pretraining: from `configs/bert_lamb.py` to stages."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlab.data import packages
from jaxlab.data.corpus import Corpus, prepare_corpus
from jaxlab.data.pretraining import PretrainingSource, batch_spec, unigram_nats
from jaxlab.engine import mesh, partition, report
from jaxlab.engine.errors import InputError
from jaxlab.engine.evaluate import Evaluation
from jaxlab.engine.feed import Feed
from jaxlab.engine.loop import Fitted, Options
from jaxlab.engine.stage import Planned, Stage, Workspace, training
from jaxlab.engine.state import Objective, Task, paths
from jaxlab.engine.update import accumulate, create_state, minimise
from jaxlab.evals.pretraining import masked_lm
from jaxlab.models.bert import Bert
from jaxlab.ops.losses import masked_cross_entropy
from jaxlab.papers.lamb import bert, method, optimizers, study

Config = Mapping[str, Any]


class Phase(NamedTuple):
  """One stage of the recipe: a length, a batch, a schedule of its own."""

  name: str
  steps: int
  batch_size: int
  accumulate: int
  sequence_length: int
  max_predictions: int
  learning_rate: float
  warmup_steps: int
  before: str = ''  # the phase whose parameters this one starts from
  kept_steps: int = 0  # updates that its optimizer state brings along; 0: reset


def program(config: Config) -> list[Stage]:
  """The stages of `configs/bert_lamb.py`.

  One, or two with a re-warm-up; with `config.study.batch_sizes` the cells of a
  study of batch sizes, and its figures.

  Raises:
    InputError: a value that cannot be; nothing has been computed yet.
  """
  if config['study']['batch_sizes']:
    return study.stages(config, lambda run: _studied(config, run))
  return [_stage(config, phase) for phase in phases(config)]


def _studied(config: Config, run: study.Run) -> Stage:
  """One run of a study: its own optimizer, seed, batch and rate."""
  c = {
    **config,
    'seed': run.seed,
    'optimizer': {**config['optimizer'], 'name': run.optimizer},
  }
  phase = Phase(
    run.name,
    run.steps,
    run.batch_size,
    run.accumulate,
    c['data']['sequence_length'],
    c['data']['max_predictions'],
    run.learning_rate,
    run.warmup_steps,
  )
  return _stage(c, phase, run)


def make_optimizer(
  config: Config, phase: Phase
) -> optax.GradientTransformation:
  """Clipping, the optimizer and the schedule of one phase."""
  return optimizers.make(
    config['optimizer'],
    phase.steps,
    learning_rate=phase.learning_rate,
    warmup_steps=phase.warmup_steps,
    kept_steps=phase.kept_steps,
  )


def make_model(config: Config, vocab_size: int, devices) -> Bert:
  """The BERT of the config, with the heads of pre-training."""
  return bert.make_model(
    config,
    vocab_size,
    mesh.platform(devices),
    gradient_dtype=jnp.dtype(config['sharding']['gradient_dtype']),
  )


def make_task(
  config: Config,
  phase: Phase,
  model: Bert,
  init,
  evals,
  devices: jax.sharding.Mesh,
) -> Task:
  """The training step on `params['net']`.

  Departs from the paper: BERT adds two means, over masked tokens and over
  pairs. Here a pair weighs as many tokens as a full row masks, so that the
  loss stays one sum over one weight and adds up over micro-batches; the two
  differ by how many rows are short.
  """
  fraction = config['data']['masked_fraction']
  pair = min(
    phase.max_predictions, max(1, round(fraction * phase.sequence_length))
  )

  def loss(params, vars, batch, key):
    mlm, nsp = _apply(model, params, batch, dropout=key)
    rows = batch['mask']
    mask = batch['target_mask'] & rows[:, None]
    nats, tokens = masked_cross_entropy(mlm, batch['targets'], mask)
    metrics = {'mlm_nats': (nats, tokens)}
    if not config['data']['next_sentence']:
      return Objective(nats, tokens, metrics=metrics)
    nsp_nats, count = masked_cross_entropy(nsp, batch['next_sentence'], rows)
    metrics['nsp_nats'] = (nsp_nats, count)
    return Objective(nats + pair * nsp_nats, tokens, metrics=metrics)

  tx = make_optimizer(config, phase)
  if config['sharding']['layout'] != 'replicated':
    tx = partition.spread_update(tx, devices, bert.rules(config, devices))
  if phase.accumulate > 1:
    update = accumulate(phase.accumulate, loss, 'net', tx, unroll=False)
  else:
    update = minimise(loss, 'net', tx)
  return Task(lambda key: init(key, update), {'train': update}, evals)


def _apply(model, params, batch, dropout=None):
  return model.apply(
    {'params': params['net']},
    batch['tokens'],
    batch['segments'],
    batch['attention'],
    batch['positions'],
    deterministic=dropout is None,
    rngs={} if dropout is None else {'dropout': dropout},
  )


def build(config: Config, phase: Phase, space: Workspace) -> tuple[Task, Feed]:
  """The task of one phase and the feed of its training batches."""
  corpus = _corpus(config, space.offline)
  model = make_model(config, corpus.vocab_size, space.mesh)
  evals = {
    'validation': (
      masked_lm(_plain(model), corpus.characters),
      _held_out(config, phase, corpus, 'validation', space),
    )
  }
  source = PretrainingSource(
    corpus, 'train', batch_size=phase.batch_size, **_examples(config, phase)
  )
  data = config['data']
  feed = Feed(
    source,
    space.mesh,
    workers=data['workers'],
    ahead=data['ahead'],
    axes=mesh.row_axes(space.mesh),
  )
  init = _initialiser(config, phase, model, corpus, space)
  return make_task(config, phase, model, init, evals, space.mesh), feed


def plan(config: Config, phase: Phase, space: Workspace) -> Planned:
  """One phase as shapes, for a machine that is not there."""
  vocab = config['data']['vocab_size']
  model = make_model(config, vocab, space.mesh)

  def init(key, update):
    return create_state({'net': _new_parameters(model, key)}, update)

  task = make_task(config, phase, model, init, {}, space.mesh)
  spec = batch_spec(
    phase.batch_size, phase.sequence_length, phase.max_predictions
  )
  return Planned(
    task,
    {'train': spec},
    phase.steps,
    bert.rules(config, space.mesh),
    config['train']['max_bad_steps'],
    {'train': step_flops(config, phase)},
  )


def measure(
  config: Config, phase: Phase, space: Workspace, task: Task, fitted: Fitted
) -> dict[str, float]:
  """The test set, once, and the unigram on the same masked positions."""
  corpus = _corpus(config, space.offline)
  feed = _held_out(config, phase, corpus, 'test', space)
  evaluator, _ = task.evals['validation']  # compiled already
  found = Evaluation('test', evaluator, feed, space.seed).run(fitted.state)
  figures = {**fitted.metrics, **{f'test/{k}': v for k, v in found.items()}}
  for split in ('validation', 'test'):
    source = _source(config, phase, corpus, split, space)
    unigram = unigram_nats(corpus, source)
    figures |= {
      f'{split}/unigram_nats': unigram.nats,
      f'{split}/unigram_bits_per_character': unigram.bits_per_character,
      f'{split}/nats_below_unigram': (
        unigram.nats - figures[f'{split}/mlm_nats']
      ),
    }
  space.facts |= {
    'download_seconds': round(packages.download_seconds(), 3),
    'vocab_size': corpus.vocab_size,
    'corpus_sha256': corpus.sha256,
  }
  return figures


def step_flops(config: Config, phase: Phase) -> float:
  """Model FLOPs of one update: matrix products, backward = 2 x forward.

  A multiplication and an addition are two; embeddings' look-ups and what is
  recomputed are none.
  """
  c, length = config['model'], phase.sequence_length
  width, inner = c['hidden_size'], c['intermediate_size']
  layer = 2 * length * width * (4 * width + 2 * inner) + 4 * length**2 * width
  words = phase.max_predictions * (width + config['data']['vocab_size'])
  heads = 2 * width * (words + width + 2)
  types = 2 * length * 2 * width  # a product with one-hot rows
  row = c['num_layers'] * layer + heads + types
  return 3.0 * phase.batch_size * row


def _stage(config: Config, phase: Phase, run: study.Run | None = None) -> Stage:
  # All of these complain now, not after the data has been made.
  train = dict(config['train'])
  for name in ('steps', 'batch_size', 'accumulate'):
    train.pop(name)
  options = Options(steps=phase.steps, **train)
  _check(config, phase)
  make_optimizer(config, phase)

  def make(space):
    # What a checkpoint belongs to, beside the config.
    options.about['corpus_sha256'] = _corpus(config, space.offline).sha256
    rate = run.rate(space) if run else phase.learning_rate
    return build(config, phase._replace(learning_rate=rate), space)

  def finish(space, task, fitted):
    if run and not run.test:
      return fitted.metrics
    _draw_ratios(space.folder(phase.name) / 'figures', fitted.state)
    return measure(config, phase, space, task, fitted)

  return training(
    phase.name,
    make,
    options,
    finish,
    lambda space: plan(config, phase, space),
    lambda devices: bert.rules(config, devices),
    config['seed'],
  )


def _initialiser(config, phase, model, corpus, space):
  def init(key, update):
    if phase.before:
      earlier = space.artefact(phase.before)
      state = create_state(earlier.params, update)
      return state.replace(opt=earlier.opt) if phase.kept_steps else state
    net = _new_parameters(model, key)
    if config['model']['unigram_bias']:
      net = {**net, 'mlm_bias': jnp.asarray(_log_unigram(corpus))}
    return create_state({'net': net}, update)

  return init


def _new_parameters(model: Bert, key):
  shapes = [(1, 8), (1, 8), (1, 8), (1, 1)]
  kinds = [jnp.int32, jnp.int32, jnp.bool_, jnp.int32]
  dummy = [jnp.zeros(s, d) for s, d in zip(shapes, kinds)]
  make = lambda k: model.init(k, *dummy, deterministic=True)['params']
  return jax.jit(make)(key)


def _log_unigram(corpus: Corpus) -> np.ndarray:
  """[vocab] float32, log of the add-one frequencies of the training tokens."""
  tokens = np.asarray(corpus.split('train').tokens)
  counts = np.bincount(tokens, minlength=corpus.vocab_size) + 1.0
  return np.log(counts / counts.sum()).astype(np.float32)


def _corpus(config: Config, offline: bool) -> Corpus:
  c = config['data']
  return prepare_corpus(
    'text_files' if c['text_files'] else c['name'],
    files=c['text_files'],
    vocab_size=c['vocab_size'],
    offline=offline,
  )


def _examples(config: Config, phase: Phase) -> dict[str, Any]:
  c = config['data']
  return {
    'sequence_length': phase.sequence_length,
    'max_predictions': phase.max_predictions,
    'masked_fraction': c['masked_fraction'],
    'short_fraction': c['short_fraction'],
    'whole_word': c['whole_word'],
    'next_sentence': c['next_sentence'],
    'seed': config['seed'],
  }


def _source(config, phase, corpus, split, space) -> PretrainingSource:
  """The held-out examples: the same positions whatever the run's seed."""
  ways = space.mesh.size // space.mesh.shape.get('model', 1)
  return PretrainingSource(
    corpus,
    split,
    batch_size=-(-min(128, config['data']['eval_examples']) // ways) * ways,
    **{**_examples(config, phase), 'seed': 0},
    repeat=False,
    examples=config['data']['eval_examples'],
  )


def _held_out(config, phase, corpus, split, space) -> Feed:
  source = _source(config, phase, corpus, split, space)
  return Feed(
    source,
    space.mesh,
    steps=source.num_batches,
    axes=mesh.row_axes(space.mesh),
  )


def _plain(model: Bert):
  return lambda params, vars, batch: _apply(model, params, batch)


def phases(config: Config) -> list[Phase]:
  """The recipe's phases: one, or two."""
  train, data, rate = config['train'], config['data'], config['optimizer']
  first = Phase(
    'pretrain',
    train['steps'],
    train['batch_size'],
    train['accumulate'],
    data['sequence_length'],
    data['max_predictions'],
    rate['learning_rate'],
    rate['warmup_steps'],
  )
  second = dict(config['second'])
  opt = second.pop('opt')
  if opt not in ('keep', 'reset'):
    raise InputError(f'config.second.opt = "{opt}" is not "keep" or "reset"')
  if not second['steps']:
    return [first]
  kept = train['steps'] if opt == 'keep' else 0
  return [
    first,
    Phase('second', before='pretrain', kept_steps=kept, **second),
  ]


def _check(config: Config, phase: Phase) -> None:
  model = config['model']
  if phase.sequence_length > model['max_positions']:
    raise InputError(
      f'sequence length {phase.sequence_length} of stage "{phase.name}" is '
      f'longer than the position table, config.model.max_positions = '
      f'{model["max_positions"]}; raise that, or take shorter sequences'
    )
  if model['dtype'] not in ('float32', 'bfloat16'):
    raise InputError(
      f'config.model.dtype = "{model["dtype"]}" is not float32 or bfloat16'
    )
  wide = config['sharding']['gradient_dtype']
  if wide not in ('float32', model['dtype']):
    raise InputError(
      f'config.sharding.gradient_dtype = "{wide}" is not float32 or '
      f'config.model.dtype, "{model["dtype"]}"'
    )
  if model['hidden_size'] % model['num_heads']:
    raise InputError(
      f'config.model.hidden_size = {model["hidden_size"]} does not divide by '
      f'config.model.num_heads = {model["num_heads"]}'
    )
  if phase.batch_size < 1 or phase.batch_size % max(phase.accumulate, 1):
    raise InputError(
      f'batch of {phase.batch_size} does not divide into {phase.accumulate} '
      f'micro-batches in stage "{phase.name}"'
    )


def _draw_ratios(folder, state) -> None:
  """The trust ratios of the last update, smallest to largest."""
  try:
    ratios = method.trust_ratios(state.opt['net'])
  except ValueError:
    return  # AdamW has none
  flat = sorted(
    (float(x), path) for path, leaf in paths(ratios) for x in np.ravel(leaf)
  )

  def draw(axes):
    axes.semilogy([x for x, _ in flat], 'o', markersize=3)
    axes.set_xlabel('parameter tensors of all layers, sorted')
    axes.set_ylabel('trust ratio of the last update')
    axes.grid(alpha=0.3)

  report.figure(folder / 'trust_ratios.png', draw)
