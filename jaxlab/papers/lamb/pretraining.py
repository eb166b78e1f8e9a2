"""BERT pretraining: from `configs/bert_lamb.py` to stages."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.core.require import at_least, between, one_of, require
from jaxlab.core.state import Objective, Task
from jaxlab.data.licences import licence_of
from jaxlab.data.packages import registry
from jaxlab.data.text import wordpiece
from jaxlab.data.text.corpus import Corpus
from jaxlab.data.text.pretraining import (
  PretrainingSource,
  batch_spec,
  unigram_nats,
)
from jaxlab.engine import mesh, partition
from jaxlab.engine.compiled import Start
from jaxlab.engine.evaluate import measured
from jaxlab.engine.feed import Feed, held_out
from jaxlab.engine.loop import FitResult, Inputs, Options
from jaxlab.evals.pretraining import masked_lm
from jaxlab.models.bert import Bert
from jaxlab.ops.losses import masked_cross_entropy
from jaxlab.papers.lamb import bert, optimizers, ratios, sizes
from jaxlab.recipes import pictures
from jaxlab.recipes.study import Cell
from jaxlab.runs.model import Kept, Model
from jaxlab.runs.sections import Sections
from jaxlab.runs.stage import Figures, Stage, Workspace, training

Config = Mapping[str, Any]

_FILLED = 6  # test examples whose masked words are shown
_METRICS = ('mlm_nats', 'mlm_bits_per_character', 'mlm_accuracy')


def program(config: Config) -> list[Stage]:
  """The stages of `configs/bert_lamb.py`.

  One, or two with a re-warm-up; with `config.study.batch_sizes` the cells of a
  study of batch sizes, and its figures.

  Raises:
    InputError: a value that cannot be; nothing has been computed yet.
  """
  if config['study']['batch_sizes']:
    return sizes.stages(config, _METRICS, _cell_stage)
  require(config, {'second.opt': one_of('keep', 'reset')})
  two = bool(config['second']['steps'])
  first = pretraining('pretrain', config, keep=not two)
  if not two:
    return [first]
  kept = config['second']['opt'] == 'keep'

  def start(space: Workspace) -> Start:
    earlier = space.artefact(first.name)
    return Start(earlier.params, opt=earlier.opt if kept else {})

  steps = config['train']['steps'] if kept else 0
  return [first, pretraining('second', second(config), start, steps)]


def second(config: Config) -> Config:
  """The config of the second phase: a length, a batch, a schedule of its own.

  Raises:
    InputError: a value that cannot be.
  """
  c = config['second']
  rule = between(0, c['steps'], 'see config.second.steps')
  require(config, {'second.warmup_steps': rule})
  keys = {
    'train': ('steps',),
    'data': ('batch_size', 'sequence_length', 'max_predictions'),
    'optimizer': ('micro_batches', 'learning_rate', 'warmup_steps'),
  }
  new = {name: {key: c[key] for key in of} for name, of in keys.items()}
  return sizes.changed(config, **new)


def _cell_stage(config: Config, cell: Cell) -> Stage:
  return pretraining(cell.name, config, cell=cell)


def pretraining(
  name: str,
  config: Config,
  start: Callable[[Workspace], Start] | None = None,
  kept_steps: int = 0,
  cell: Cell | None = None,
  keep: bool = True,
) -> Stage:
  """The stage of one phase, or of one training of a study.

  Args:
    start: what it begins with; default: new parameters.
    kept_steps: updates that the optimizer state of `start` has seen.
    cell: of a study: has the rate, and whether the test set is read.
    keep: leave a model; a study's trials never do.
  """
  c, train = config['data'], config['train']
  options = cell.options(train) if cell else Options(**train)
  check(config)
  optimizers.make(config)  # complains now
  shape = c['batch_size'], c['sequence_length'], c['max_predictions']

  def task(space, inputs):
    corpus = inputs.data if inputs else None
    rate = cell.rate(space) if cell else None
    tx = optimizers.make(config, rate, kept_steps)
    return make_task(config, space.mesh, tx, corpus)

  return training(
    name,
    options,
    spec=lambda space: {'train': batch_spec(*shape)},
    task=task,
    inputs=partial(_open, config),
    finish=partial(_finish, config, name) if not cell or cell.final else None,
    rules=partial(bert.rules, config),
    seed=config['seed'],
    start=start,
    flops={'train': step_flops(config)},
    keep=(lambda space, opened, result: kept(config, opened.data))
    if keep and (not cell or cell.final)
    else None,
  )


def kept(config: Config, corpus: Corpus) -> Kept:
  """What goes beside a BERT: its vocabulary, and a sentence with a gap."""
  c, words = config['data'], wordpiece.make_tokenizer(corpus.pieces)
  held = corpus.split('validation')
  length = min(16, c['sequence_length'] - 2)
  ids = [int(token) for token in held.tokens[:length]]
  gap = min(4, len(ids) - 1)
  parts = [bert.text_of(corpus.pieces, x) for x in (ids[:gap], ids[gap + 1 :])]
  name = (c['text_files'] and 'text_files') or c['name']
  most = c['sequence_length']
  return Kept(
    {'kind': 'text', 'must': '[MASK]', 'most': most},
    [' '.join([parts[0], '[MASK]', parts[1]]).strip()],
    {
      'vocabulary.json': corpus.pieces,
      'tokenizer.json': words.to_str(),
    },
    config,
    data={name: licence_of(name)},
  )


def check(config: Config) -> None:
  """Raises InputError where a value cannot be."""
  bert.check(config)
  dtypes = 'float32', config['model']['dtype']
  rules = {
    'data.eval_examples': at_least(1),
    'sharding.layout': one_of('replicated', 'zero1', 'fsdp'),
    'sharding.gradient_dtype': one_of(*dtypes, cure='see config.model.dtype'),
  }
  require(config, rules)


def make_model(config: Config, vocab_size: int, platform: str) -> Bert:
  """The BERT of the config, with the heads of pre-training."""
  dtype = jnp.dtype(config['sharding']['gradient_dtype'])
  return bert.make_model(config, vocab_size, platform, gradient_dtype=dtype)


def make_task(
  config: Config,
  devices: jax.sharding.Mesh,
  tx: Any,
  corpus: Corpus | None = None,
) -> Task:
  """The training step on `params['net']`.

  Departs from the paper: BERT adds two means, over masked tokens and over
  pairs. Here a pair weighs as many tokens as a full row masks, so that the
  loss stays one sum over one weight and adds up over micro-batches; the two
  differ by how many rows are short.

  Args:
    tx: the optimizer.
    corpus: what is trained on; None: a vocabulary of the size asked for.
  """
  c = config['data']
  vocab_size = corpus.vocab_size if corpus else c['vocab_size']
  model = make_model(config, vocab_size, mesh.platform(devices))
  masked = max(1, round(c['masked_fraction'] * c['sequence_length']))
  pair = min(c['max_predictions'], masked)

  def loss(params, vars, batch, key):
    mlm, nsp = _apply(model, params, batch, dropout=key)
    rows = batch['mask']
    mask = batch['target_mask'] & rows[:, None]
    nats, tokens = masked_cross_entropy(mlm, batch['targets'], mask)
    metrics = {'mlm_nats': (nats, tokens)}
    if not c['next_sentence']:
      return Objective(nats, tokens, metrics=metrics)
    nsp_nats, count = masked_cross_entropy(nsp, batch['next_sentence'], rows)
    metrics['nsp_nats'] = (nsp_nats, count)
    return Objective(nats + pair * nsp_nats, tokens, metrics=metrics)

  def init(key):
    shapes = [(1, 8), (1, 8), (1, 8), (1, 1)]
    kinds = [jnp.int32, jnp.int32, jnp.bool_, jnp.int32]
    dummy = [jnp.zeros(s, d) for s, d in zip(shapes, kinds)]
    make = lambda k: model.init(k, *dummy, deterministic=True)['params']
    net = jax.jit(make)(key)
    if corpus and config['model']['unigram_bias']:
      net = {**net, 'mlm_bias': jnp.asarray(_log_unigram(corpus))}
    return {'net': net}, {}

  if config['sharding']['layout'] != 'replicated':
    tx = partition.spread_update(tx, devices, bert.rules(config, devices))
  return Task(init, {'train': bert.make_update(config, loss, 'net', tx)})


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


def _log_unigram(corpus: Corpus) -> np.ndarray:
  """[vocab] float32, log of the add-one frequencies of the training tokens."""
  tokens = np.asarray(corpus.split('train').tokens)
  counts = np.bincount(tokens, minlength=corpus.vocab_size) + 1.0
  return np.log(counts / counts.sum()).astype(np.float32)


def step_flops(config: Config) -> float:
  """Model FLOPs of one update: backward is twice forward, see `bert`.

  What is recomputed does not count.
  """
  c, width = config['data'], config['model']['hidden_size']
  words = c['max_predictions'] * (width + c['vocab_size'])
  heads = 2 * width * (words + width + 2)
  return 3.0 * c['batch_size'] * (bert.encoder_flops(config) + heads)


def _corpus(config: Config, offline: bool) -> Corpus:
  return bert.open_corpus(config['data'], config['data']['vocab_size'], offline)


def _source(config: Config, corpus: Corpus, split: str, rows: int, **more):
  c = config['data']
  return PretrainingSource(
    corpus,
    split,
    batch_size=rows,
    sequence_length=c['sequence_length'],
    max_predictions=c['max_predictions'],
    masked_fraction=c['masked_fraction'],
    short_fraction=c['short_fraction'],
    whole_word=c['whole_word'],
    next_sentence=c['next_sentence'],
    **more,
  )


def _held_out(config: Config, corpus: Corpus, split: str, devices) -> Feed:
  """Held-out examples: the same positions whatever the run's seed."""
  count = config['data']['eval_examples']
  more = {'seed': 0, 'repeat': False, 'examples': count}
  source = lambda rows: _source(config, corpus, split, rows, **more)
  return held_out(source, devices, min(128, count))


def _open(config: Config, space: Workspace) -> Inputs:
  """The feed and the validation examples; `data` is the Corpus."""
  c, corpus = config['data'], _corpus(config, space.offline)
  rows, seed = c['batch_size'], config['seed']
  feed = Feed(
    _source(config, corpus, 'train', rows, seed=seed),
    space.mesh,
    workers=c['workers'],
    ahead=c['ahead'],
  )
  model = make_model(config, corpus.vocab_size, mesh.platform(space.mesh))
  apply = lambda params, vars, batch: _apply(model, params, batch)
  found = _held_out(config, corpus, 'validation', space.mesh)
  few = min(_FILLED, mesh.round_rows(space.mesh, min(128, c['eval_examples'])))
  evaluator = ratios.watched(
    masked_lm(apply, corpus.characters, (few, c['max_predictions'])),
    config['model']['num_layers'],
  )
  evals = {'validation': (evaluator, found)}
  return Inputs(feed, evals, {'corpus_sha256': corpus.sha256}, corpus)


def _finish(
  config: Config,
  name: str,
  space: Workspace,
  inputs: Inputs,
  result: FitResult,
) -> Figures:
  """The test set, once, and the unigram on the same masked positions."""
  corpus, (evaluator, validation) = inputs.data, inputs.evals['validation']
  test = _held_out(config, corpus, 'test', space.mesh)
  figures, total = measured('test', evaluator, test, result.state, space.seed)
  figures = {k: v for k, v in figures.items() if not ratios.is_one(k)}
  known = {**result.metrics, **figures}
  for split, feed in (('validation', validation), ('test', test)):
    source: Any = feed.source
    unigram = unigram_nats(corpus, source)
    below = unigram.nats - known[f'{split}/mlm_nats']
    figures |= {
      f'{split}/unigram_nats': unigram.nats,
      f'{split}/unigram_bits_per_character': unigram.bits_per_character,
      f'{split}/nats_below_unigram': below,
    }
  space.facts |= {
    'download_seconds': round(registry.download_seconds(), 3),
    'vocab_size': corpus.vocab_size,
  }
  space.page.headline(
    f'Masked words of the test text: {figures["test/nats_below_unigram"]:.2f} '
    f'nats below what their frequencies alone give '
    f'({figures["test/mlm_nats"]:.2f} of {figures["test/unigram_nats"]:.2f}). '
    'What is claimed of batches and pods, one run does not test'
  )
  _show_filled(space.page, corpus, test.source, total)
  ratios.show(space.page, space.folder(name), result.state)
  return figures


def _show_filled(page: Sections, corpus: Corpus, source, total) -> None:
  """The first test examples, their masked words filled in."""
  batch = source.batch(0, slice(0, len(total['answer'])))
  name = corpus.pieces.__getitem__
  rows, masked = [], []
  for i, tokens in enumerate(batch['tokens']):
    places = {}
    for j in np.flatnonzero(batch['target_mask'][i]):
      answer, true = total['answer'][i, j], batch['targets'][i, j]
      p = float(total['confidence'][i, j])
      places[int(batch['positions'][i, j])] = (name(answer), p, name(true))
    rows.append([name(x) for x in tokens[batch['attention'][i]]])
    masked.append(places)
  pictures.filled(page, rows, masked)


def predict(model: Model, inputs: list[str]) -> list[list[dict[str, float]]]:
  """Pieces of words that may stand where texts have [MASK].

  Args:
    inputs: texts, no longer than the config's sequences.

  Returns:
    For each [MASK] of each text the five likeliest pieces with their
    probabilities.

  Raises:
    InputError: a text that is too long.
  """
  config, name = model.config, model.json('vocabulary.json')
  longest = config['data']['sequence_length']
  tokenizer = wordpiece.make_tokenizer(name)
  ids = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
  special = wordpiece.special_ids(name)
  tokens = np.full((len(inputs), longest), special.pad, np.int32)
  for row, text in zip(tokens, inputs):
    first, *rest = map(ids, text.split('[MASK]'))
    masked = [piece for part in rest for piece in (special.mask, *part)]
    whole = [special.cls, *first, *masked, special.sep]
    if len(whole) > longest:
      raise InputError(
        f'a text of {len(whole)} tokens is longer than '
        f'config.data.sequence_length = {longest}; shorten it'
      )
    row[: len(whole)] = whole
  net = make_model(config, len(name), jax.default_backend())
  batch = {
    'tokens': tokens,
    'segments': np.zeros_like(tokens),
    'attention': tokens != special.pad,
    'positions': np.broadcast_to(np.arange(longest), tokens.shape),
  }
  logits, _ = jax.jit(partial(_apply, net))(model.params, batch)
  best, pieces = map(np.asarray, jax.lax.top_k(jax.nn.softmax(logits), 5))
  return [
    [
      {name[piece]: float(p) for piece, p in zip(pieces[i, j], best[i, j])}
      for j in np.flatnonzero(tokens[i] == special.mask)
    ]
    for i in range(len(inputs))
  ]
