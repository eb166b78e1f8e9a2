"""Translation under the encouraging loss: from a config to stages.

The recipe is fairseq's for IWSLT: one vocabulary, Adam with decoupled decay
under an inverse square root, the mean of the last parameters, beam search.

Departs from the paper: byte pairs of raw text instead of Moses tokens, and
sacrebleu instead of tokenised BLEU, so that its figures are not comparable with
the paper's; parameters are averaged every so many updates, where fairseq takes
checkpoints.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxlab.data import translation as data
from jaxlab.data.translation import Pairs, TranslationSource
from jaxlab.engine import hosts, mesh, workdir
from jaxlab.engine.errors import InputError
from jaxlab.engine.evaluate import Evaluation
from jaxlab.engine.feed import Feed
from jaxlab.engine.stage import Planned, Stage, Workspace, training
from jaxlab.engine.state import Evaluator, Objective, Task, Update
from jaxlab.engine.update import accumulate, chain, create_state, minimise
from jaxlab.evals import study
from jaxlab.evals.study import Cell
from jaxlab.evals.translate import Bleu, Decoding, translate
from jaxlab.models.transformer import Transformer
from jaxlab.ops.beam_search import beam_search
from jaxlab.ops.losses import masked_cross_entropy
from jaxlab.papers.encouraging import arms

Config = Mapping[str, Any]
METRICS = ('bleu', 'nats', 'accuracy')


def program(config: Config) -> list[Stage]:
  """Trials, final runs and their table.

  Raises:
    InputError: a value that cannot be; nothing has been computed yet.
  """
  check(config)
  return study.stages(
    config, list(config['losses']), partial(_stage, config), METRICS
  )


def check(config: Config) -> None:
  """Raises InputError where a value cannot be."""
  c, train = config['average'], config['train']
  data.check_lengths(config['data']['lengths'])
  _rows(config, 1)
  if min(c['last'], c['every']) < 1 or c['last'] * c['every'] > train['steps']:
    raise InputError(
      f'config.average = {dict(c)} and config.train.steps = {train["steps"]}: '
      'give at least 1 of each, with last x every <= steps'
    )
  numbers = {
    'decode.width': config['decode']['width'],
    'decode.max_length': config['decode']['max_length'],
    'data.eval_batch_size': config['data']['eval_batch_size'],
    'optimizer.warmup_steps': config['optimizer']['warmup_steps'],
  }
  for name, value in numbers.items():
    if value < 1:
      raise InputError(f'config.{name} = {value} must be at least 1')
  for arm in config['losses']:
    arms.loss_of(config, arm)
  make_model(config, config['data']['vocab_size'])
  make_optimizer(config, 1.0)


def make_model(config: Config, vocab_size: int) -> Transformer:
  """The Transformer of the config."""
  c = config['model']
  if c['dtype'] not in ('float32', 'bfloat16'):
    raise InputError(
      f'config.model.dtype = "{c["dtype"]}" is not float32 or bfloat16'
    )
  try:
    return Transformer(
      vocab_size,
      c['layers'],
      c['width'],
      c['ffn'],
      c['heads'],
      c['dropout'],
      c['norm'],
      data.PAD,
      jnp.dtype(c['dtype']),
    )
  except ValueError as error:
    raise InputError(f'config.model: {error}') from error


def make_optimizer(config: Config, rate: float) -> optax.GradientTransformation:
  """Clipping, and Adam with decoupled decay under `inverse_sqrt`."""
  c = config['optimizer']
  adam = optax.adamw(
    inverse_sqrt(rate, c['warmup_steps']),
    c['b1'],
    c['b2'],
    c['eps'],
    weight_decay=c['weight_decay'],
  )
  if not c['clip_norm']:
    return adam
  return optax.chain(optax.clip_by_global_norm(c['clip_norm']), adam)


def inverse_sqrt(peak: float, warmup: int) -> optax.Schedule:
  """Linear to `peak` at update `warmup`, then peak √(warmup / update).

  Updates count from 1, so that the first is not lost.
  """

  def schedule(count):
    update = jnp.asarray(count, jnp.float32) + 1
    return peak * jnp.minimum(update / warmup, jnp.sqrt(warmup / update))

  return schedule


def bookkeeping(steps: int, last: int, every: int) -> Update:
  """Counts updates, and sums the parameters that `averaged` divides.

  They are those after updates steps, steps - every, …, `last` of them in all,
  at `vars['average']`: {'sum', 'count'}. It follows the gradient step.
  """

  def run(state, batch, key):
    del batch, key
    done = state.step + 1
    inside = done > steps - last * every
    due = inside & ((steps - done) % every == 0)
    # A run that is prolonged comes by here again: it begins anew.
    count = jnp.where(inside, state.vars['average']['count'], 0)

    def add(total):
      return jax.tree.map(
        lambda t, p: jnp.where(count > 0, t, 0.0) + p,
        total,
        state.params['net'],
      )

    total = jax.lax.cond(
      due, add, lambda total: total, state.vars['average']['sum']
    )
    average = {'sum': total, 'count': count + due.astype(jnp.int32)}
    new = {**state.vars, 'updates': done, 'average': average}
    # The gradient step before has judged what there is to judge.
    return state.replace(vars=new), {'nonfinite': (jnp.zeros(()), jnp.ones(()))}

  return run


def averaged(params, vars):
  """The mean of the last parameters; before these, the present ones."""
  count = vars['average']['count']
  return jax.tree.map(
    lambda p, t: jnp.where(count > 0, t / jnp.maximum(count, 1), p),
    params['net'],
    vars['average']['sum'],
  )


def shifted(target: jax.Array) -> jax.Array:
  """What the decoder is given: [b, t], BOS and all but the last token."""
  return jnp.pad(target[:, :-1], ((0, 0), (1, 0)), constant_values=data.BOS)


def make_task(
  config: Config, arm: str, rate: float, vocab_size: int, evals
) -> Task:
  """The training step on `params['net']`, a kind for each length."""
  model = make_model(config, vocab_size)
  losses = arms.loss_of(config, arm)

  def loss(params, vars, batch, key):
    target = batch['target']
    logits = _apply(
      model,
      params['net'],
      batch['source'],
      shifted(target),
      deterministic=False,
      rngs={'dropout': key},
    )
    mask = (target != data.PAD) & batch['mask'][:, None]
    each = losses(logits, target, mask, vars['updates'])
    nats, tokens = masked_cross_entropy(logits, target, mask)
    right = jnp.sum((logits.argmax(-1) == target) & mask)
    return Objective(
      each.sum(),
      tokens,
      metrics={
        'nats': (nats, tokens),
        'accuracy': (right.astype(jnp.float32), tokens),
      },
    )

  c, tx = config['train'], make_optimizer(config, rate)
  if c['accumulate'] > 1:
    step = accumulate(c['accumulate'], loss, 'net', tx, unroll=False)
  else:
    step = minimise(loss, 'net', tx)
  average = config['average']
  update = chain(
    step, bookkeeping(c['steps'], average['last'], average['every'])
  )

  def init(key):
    some = jnp.ones((1, 2), jnp.int32)
    make = lambda k: model.init(k, some, some, deterministic=True)['params']
    net = jax.jit(make)(key)
    none = lambda: jnp.zeros((), jnp.int32)
    total = jax.tree.map(jnp.zeros_like, net)
    return create_state(
      {'net': net},
      update,
      vars={'updates': none(), 'average': {'sum': total, 'count': none()}},
    )

  kinds = [data.kind_of(length) for length in config['data']['lengths']]
  return Task(init, dict.fromkeys(kinds, update), evals)


def _apply(model: Transformer, net, *args, **options) -> Any:
  return model.apply({'params': net}, *args, **options)


def hypotheses(config: Config, model: Transformer):
  """(params, vars, batch) -> Hypotheses, of tokens but PAD and BOS."""
  c = config['decode']

  def search(params, vars, batch):
    call = partial(_apply, model, averaged(params, vars))
    source = batch['source']
    encoded = call(source, deterministic=True, method='encode')
    memory, cache = call(
      encoded, source, c['width'], c['max_length'], method='begin'
    )

    def step(cache, tokens):
      cache, logits = call(memory, cache, tokens, method='step')
      never = jnp.array([data.PAD, data.BOS])
      return cache, logits.at[:, never].set(-jnp.inf)

    return beam_search(
      step,
      cache,
      batch['mask'],
      width=c['width'],
      max_length=c['max_length'],
      alpha=c['alpha'],
      bos=data.BOS,
      eos=data.EOS,
      pad=data.PAD,
    )

  return search


def searcher(config: Config, model: Transformer):
  """(params, vars, batch) -> the best translations [b, max_length] int32."""
  search = hypotheses(config, model)
  return lambda *args: search(*args).tokens[:, 0]


def make_evaluator(
  config: Config, vocab_size: int, decoding: Decoding | None = None
) -> Evaluator:
  """Figures of the averaged parameters; with `decoding` also BLEU."""
  model = make_model(config, vocab_size)

  def apply(params, vars, batch):
    return _apply(
      model,
      averaged(params, vars),
      batch['source'],
      shifted(batch['target']),
      deterministic=True,
    )

  return translate(apply, decoding, pad=data.PAD)


def _pairs(config: Config, offline: bool) -> Pairs:
  c = config['data']
  return data.prepare_pairs(
    c['name'],
    c['source'],
    c['target'],
    vocab_size=c['vocab_size'],
    offline=offline,
  )


def _rows(config: Config, ways: int) -> tuple[int, ...]:
  """Rows of a training batch of each length."""
  c = config['train']
  if c['accumulate'] < 1:
    raise InputError(
      f'config.train.accumulate = {c["accumulate"]} must be at least 1'
    )
  return data.rows_of_tokens(
    config['data']['lengths'], c['batch_tokens'], ways * c['accumulate']
  )


def _ways(devices) -> int:
  """Among how many devices a batch's rows are shared."""
  return devices.size // devices.shape.get('model', 1)


def _feed(config, source, space, steps=None) -> Feed:
  c = config['data']
  return Feed(
    source,
    space.mesh,
    workers=c['workers'],
    ahead=c['ahead'],
    axes=mesh.row_axes(space.mesh),
    steps=steps,
  )


def _held_out(config, pairs, split, space) -> tuple[TranslationSource, Feed]:
  c, ways = config['data'], _ways(space.mesh)
  rows = -(-c['eval_batch_size'] // ways) * ways
  source = TranslationSource(
    pairs,
    split,
    lengths=c['lengths'],
    rows=[rows] * len(c['lengths']),
    held_out=True,
    examples=c['eval_examples'],
  )
  return source, _feed(config, source, space, source.num_batches)


def _decode(config, cell, pairs, split, space, state) -> dict[str, float]:
  """Translates a split; writes `translations_SPLIT.json`."""
  held, feed = _held_out(config, pairs, split, space)
  sources, references = (
    pairs.texts(split, side, held.chosen) for side in data.SIDES
  )

  def keep(texts: list[str], found: Bleu) -> None:
    space.facts['bleu_signature'] = found.signature
    if hosts.leads():
      rows = zip(sources, references, texts)
      names = ('source', 'reference', 'translation')
      workdir.write_json(
        space.folder(cell.name) / f'translations_{split}.json',
        [dict(zip(names, row)) for row in rows],
      )

  decoding = Decoding(
    searcher(config, make_model(config, pairs.vocab_size)),
    config['decode']['max_length'],
    pairs.text,
    references,
    keep,
  )
  evaluator = make_evaluator(config, pairs.vocab_size, decoding)
  found = Evaluation(split, evaluator, feed, space.seed).run(state)
  space.facts[f'{split}_sources_cut'] = held.too_long
  return {f'{split}/{name}': value for name, value in found.items()}


def _stage(config: Config, cell: Cell) -> Stage:
  options = study.options_of(config, cell, ['batch_tokens', 'accumulate'])

  def build(space: Workspace):
    pairs = _pairs(config, space.offline)
    # What a checkpoint belongs to, beside the config.
    options.about['pairs_sha256'] = pairs.sha256
    _, held_out = _held_out(config, pairs, 'validation', space)
    evaluator = make_evaluator(config, pairs.vocab_size)
    source = TranslationSource(
      pairs,
      'train',
      lengths=config['data']['lengths'],
      rows=_rows(config, _ways(space.mesh)),
      seed=cell.seed,
    )
    space.facts |= {
      'vocab_size': pairs.vocab_size,
      'pairs_sha256': pairs.sha256,
      'training_pairs': len(source.chosen) - source.too_long,
      'training_pairs_left_out': source.too_long,
    }
    task = make_task(
      config,
      cell.arm,
      cell.rate(space),
      pairs.vocab_size,
      {'validation': (evaluator, held_out)},
    )
    return task, _feed(config, source, space)

  def finish(space, task, fitted):
    del task
    pairs = _pairs(config, space.offline)
    split = 'test' if cell.test else 'validation'
    found = _decode(config, cell, pairs, split, space, fitted.state)
    return {**fitted.metrics, **found}

  def plan(space):
    c = config['data']
    rows = _rows(config, _ways(space.mesh))
    spec = {
      data.kind_of(length): data.batch_spec(r, length)
      for length, r in zip(c['lengths'], rows)
    }
    task = make_task(config, cell.arm, cell.learning_rate, c['vocab_size'], {})
    return Planned(
      task, spec, options.steps, max_bad_steps=options.max_bad_steps
    )

  return training(cell.name, build, options, finish, plan, seed=cell.seed)
