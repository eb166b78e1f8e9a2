"""Translation under the encouraging loss: from a config to stages.

The recipe is fairseq's for IWSLT: one vocabulary, Adam with decoupled decay
under an inverse square root, the mean of the last parameters, beam search.

Departs from the paper: byte pairs of raw text instead of Moses tokens, and
sacrebleu instead of tokenised BLEU, so that its figures are not comparable with
the paper's; parameters are averaged every so many updates, where fairseq takes
checkpoints.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core.errors import InputError
from jaxlab.core.require import at_least, between, one_of, require
from jaxlab.core.state import Evaluator, Objective, Task, Update
from jaxlab.core.update import accumulate, chain, minimise
from jaxlab.data.licences import licence_of
from jaxlab.data.text import translation as data
from jaxlab.data.text import translation_batches as batches
from jaxlab.data.text.translation import Pairs
from jaxlab.data.text.translation_batches import TranslationSource
from jaxlab.engine import hosts, mesh
from jaxlab.engine.evaluate import measure
from jaxlab.engine.feed import Feed, held_out
from jaxlab.engine.loop import Inputs
from jaxlab.evals.translate import Bleu, Decoding, translate
from jaxlab.models.transformer import Transformer
from jaxlab.ops.beam_search import beam_search
from jaxlab.ops.losses import masked_cross_entropy
from jaxlab.papers.encouraging import arms
from jaxlab.recipes import optimizers, pictures
from jaxlab.recipes.study import Cell, study_of
from jaxlab.runs import workdir
from jaxlab.runs.model import Kept, Model
from jaxlab.runs.stage import Stage, Workspace, training

Config = Mapping[str, Any]
METRICS = ('bleu', 'nats', 'accuracy')


def program(config: Config) -> list[Stage]:
  """Trials, final runs and their table.

  Raises:
    InputError: a value that cannot be; nothing has been computed yet.
  """
  check(config)
  study = study_of(config, list(config['losses']), METRICS)
  return study.stages(partial(training_stage, config))


def check(config: Config) -> None:
  """Raises InputError where a value cannot be."""
  c, steps = config['average'], config['train']['steps']
  require(
    config,
    {
      'average.every': at_least(1),
      'average.last': between(1, steps // max(c['every'], 1), 'of all updates'),
      'data.batch_tokens': at_least(1),
      'data.eval_batch_size': at_least(1),
      'decode.width': at_least(1),
      'decode.max_length': at_least(1),
      'model.dtype': one_of('float32', 'bfloat16'),
      'optimizer.micro_batches': at_least(1),
    },
  )
  batches.check_lengths(config['data']['lengths'])
  _rows(config, 1)
  arms.check(config)
  make_model(config, config['data']['vocab_size'])
  optimizers.make(config['optimizer'], steps, 1.0)


def make_model(config: Config, vocab_size: int) -> Transformer:
  """The Transformer of the config."""
  c = config['model']
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


def make_task(config: Config, arm: str, rate: float, vocab_size: int) -> Task:
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

  steps, average = config['train']['steps'], config['average']
  tx = optimizers.make(config['optimizer'], steps, rate)
  micro = config['optimizer']['micro_batches']
  if micro > 1:
    step = accumulate(micro, loss, 'net', tx, unroll=False)
  else:
    step = minimise(loss, 'net', tx)
  update = chain(step, bookkeeping(steps, average['last'], average['every']))

  def init(key):
    some = jnp.ones((1, 2), jnp.int32)
    make = lambda k: model.init(k, some, some, deterministic=True)['params']
    net = jax.jit(make)(key)
    none = lambda: jnp.zeros((), jnp.int32)
    total = jax.tree.map(jnp.zeros_like, net)
    vars = {'updates': none(), 'average': {'sum': total, 'count': none()}}
    return {'net': net}, vars

  kinds = [batches.kind_of(length) for length in config['data']['lengths']]
  return Task(init, dict.fromkeys(kinds, update))


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
  c, micro = config['data'], config['optimizer']['micro_batches']
  return batches.rows_of_tokens(c['lengths'], c['batch_tokens'], ways * micro)


def _held_out(config: Config, pairs: Pairs, split: str, space) -> Feed:
  c = config['data']
  source = lambda rows: TranslationSource(
    pairs,
    split,
    lengths=c['lengths'],
    rows=[rows] * len(c['lengths']),
    held_out=True,
    examples=c['eval_examples'],
  )
  return held_out(
    source, space.mesh, c['eval_batch_size'], workers=c['workers']
  )


def _decode(config, cell, pairs, split, space, state) -> dict[str, float]:
  """Translates a split; writes `translations_SPLIT.json`."""
  feed = _held_out(config, pairs, split, space)
  held: Any = feed.source
  sources, references = (
    pairs.texts(split, side, held.chosen) for side in data.SIDES
  )

  def keep(texts: list[str], found: Bleu) -> None:
    space.facts['bleu_signature'] = found.signature
    names = ('source', 'reference', 'translation')
    rows = [dict(zip(names, row)) for row in zip(sources, references, texts)]
    if cell.pictured:
      pictures.translated(space.page, sources, references, texts, split)
    if hosts.leads():
      path = space.folder(cell.name) / f'translations_{split}.json'
      workdir.write_json(path, rows)

  decoding = Decoding(
    searcher(config, make_model(config, pairs.vocab_size)),
    config['decode']['max_length'],
    pairs.text,
    references,
    keep,
  )
  evaluator = make_evaluator(config, pairs.vocab_size, decoding)
  space.facts[f'{split}_sources_cut'] = held.too_long
  return measure(split, evaluator, feed, state, space.seed)


def training_stage(config: Config, cell: Cell) -> Stage:
  """The stage that trains a cell, and translates with it."""
  c = config['data']

  def spec(space):
    rows = _rows(config, mesh.row_ways(space.mesh))
    return {
      batches.kind_of(length): batches.batch_spec(count, length)
      for length, count in zip(c['lengths'], rows)
    }

  def task(space, inputs):
    size = inputs.data.vocab_size if inputs else c['vocab_size']
    return make_task(config, cell.arm, cell.rate(space), size)

  def inputs(space: Workspace) -> Inputs:
    pairs = data.prepare_pairs(
      c['name'],
      c['source'],
      c['target'],
      vocab_size=c['vocab_size'],
      offline=space.offline,
    )
    source = TranslationSource(
      pairs,
      'train',
      lengths=c['lengths'],
      rows=_rows(config, mesh.row_ways(space.mesh)),
      seed=cell.seed,
    )
    space.facts |= {
      'vocab_size': pairs.vocab_size,
      'training_pairs': len(source.chosen) - source.too_long,
      'training_pairs_left_out': source.too_long,
    }
    evaluator = make_evaluator(config, pairs.vocab_size)
    held = _held_out(config, pairs, 'validation', space)
    return Inputs(
      Feed(source, space.mesh, workers=c['workers'], ahead=c['ahead']),
      {'validation': (evaluator, held)},
      {'pairs_sha256': pairs.sha256},
      pairs,
    )

  def finish(space, inputs, result):
    split = 'test' if cell.final else 'validation'
    return _decode(config, cell, inputs.data, split, space, result.state)

  return training(
    cell.name,
    cell.options(config['train']),
    spec=spec,
    task=task,
    inputs=inputs,
    finish=finish,
    seed=cell.seed,
    keep=(lambda space, opened, result: kept(config, opened.data))
    if cell.final
    else None,
  )


def kept(config: Config, pairs: Pairs) -> Kept:
  """What goes beside a network: the tokens, and a sentence to translate."""
  c = config['data']
  words = pairs.tokenizer.to_str()
  inputs = {'kind': 'text', 'source': c['source'], 'target': c['target']}
  return Kept(
    inputs,
    pairs.texts('validation', 'source', np.arange(1)),
    {'tokenizer.json': words},
    data={c['name']: licence_of(c['name'])},
  )


def predict(model: Model, inputs: Sequence[str]) -> list[dict[str, str]]:
  """Translations of texts by a trained network.

  Args:
    inputs: texts in the source language.

  Raises:
    InputError: a text that is longer than the largest of `config.data.lengths`.
  """
  config, lengths = model.config, model.config['data']['lengths']
  words = data.read_tokenizer(model.files['tokenizer.json'].decode())
  size = data.FIRST + words.get_vocab_size()
  search = jax.jit(searcher(config, make_model(config, size)))
  for text in inputs:
    count, most = len(words.encode(text).ids), max(lengths) - 1  # and EOS
    if count > most:
      raise InputError(
        f'"{text[:40]}…" has {count} tokens, and config.data.lengths allows '
        f'{most}: give its sentences one by one'
      )
  source = data.encode(words, inputs, max(lengths))
  batch = {'source': source, 'mask': np.ones(len(inputs), bool)}
  found = np.asarray(search(model.params, model.vars, batch))
  texts = [data.decode(words, row) for row in found]
  return [{'source': a, 'translation': b} for a, b in zip(inputs, texts)]
