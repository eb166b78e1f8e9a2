import itertools
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.ops.beam_search import beam_search, length_penalty

V, EOS, BOS, PAD = 4, 2, 1, 0
LONGEST = 4


def number_of(prefix):
  """A number for each prefix of up to LONGEST - 1 tokens; () is 0."""
  number = 0
  for token in prefix:
    number = number * V + token + 1
  return number


PREFIXES = 1 + number_of((V - 1,) * (LONGEST - 1))


def tables(rows, seed=0):
  """Logits of the next token behind every prefix: [rows, prefixes, V]."""
  draw = np.random.default_rng(seed)
  return draw.normal(scale=1.5, size=(rows, PREFIXES, V)).astype(np.float32)


@partial(jax.jit, static_argnums=(2, 3, 4))
def search(table, mask, width, max_length=LONGEST, alpha=0.6):
  """Beam search in tables; the cache is what makes the prefix known."""
  rows = table.shape[0]
  row = jnp.repeat(jnp.arange(rows), width)

  def step(cache, tokens):
    begun = cache['position'] > 0
    prefix = jnp.where(begun, cache['prefix'] * V + tokens + 1, 0)
    cache = {'position': cache['position'] + 1, 'prefix': prefix}
    return cache, table[row, prefix]

  cache = {
    'position': jnp.zeros((), jnp.int32),
    'prefix': jnp.zeros(rows * width, jnp.int32),
  }
  return beam_search(
    step,
    cache,
    mask,
    width=width,
    max_length=max_length,
    alpha=alpha,
    bos=BOS,
    eos=EOS,
    pad=PAD,
  )


def log_p(table, text):
  """Log-probability of a text whose last token is eos, in float64."""
  total = 0.0
  for i, token in enumerate(text):
    logits = table[number_of(text[:i])].astype(np.float64)
    total += logits[token] - np.log(np.exp(logits).sum())
  return total


def everything(table, max_length, alpha):
  """All texts that end within max_length tokens, the best first."""
  others = [token for token in range(V) if token != EOS]
  texts = [
    (*body, EOS)
    for n in range(max_length)
    for body in itertools.product(others, repeat=n)
  ]
  score = lambda text: log_p(table, text) / ((5 + len(text)) / 6) ** alpha
  return sorted(((score(text), text) for text in texts), reverse=True)


def greedy(table, max_length):
  text: tuple[int, ...] = ()
  while len(text) < max_length - 1:
    text += (int(table[number_of(text)].argmax()),)
    if text[-1] == EOS:
      return text
  return (*text, EOS)


def all_of(rows):
  return np.ones(rows, bool)


def text_of(tokens):
  tokens = np.asarray(tokens).tolist()
  end = tokens.index(EOS) + 1
  assert set(tokens[end:]) <= {PAD}
  return tuple(tokens[:end])


@pytest.mark.parametrize('alpha', [0.0, 0.6, 1.5])
def test_width_1_is_greedy_search(alpha):
  table = tables(40)
  found = search(table, all_of(40), 1, LONGEST, alpha)
  chex.assert_shape(found.tokens, (40, 1, LONGEST))
  lengths = set()
  for row in range(40):
    expected = greedy(table[row], LONGEST)
    lengths.add(len(expected))
    assert text_of(found.tokens[row, 0]) == expected
    score = log_p(table[row], expected) / length_penalty(len(expected), alpha)
    np.testing.assert_allclose(found.score[row, 0], score, rtol=1e-5)
  assert lengths == {1, 2, 3, 4}


@pytest.mark.parametrize('alpha', [0.0, 1.0])
def test_a_beam_as_wide_as_all_texts_finds_what_exhaustive_search_finds(alpha):
  table, length = tables(3, seed=1), 3
  found = search(table, all_of(3), V**length, length, alpha)
  for row in range(3):
    expected = everything(table[row], length, alpha)
    assert len(expected) == 13  # of 1, 2 and 3 tokens: 1 + 3 + 9
    real = np.isfinite(found.score[row])
    assert real.tolist() == [True] * 13 + [False] * (V**length - 13)
    assert [text_of(t) for t in found.tokens[row][:13]] == [
      text for _, text in expected
    ]
    np.testing.assert_allclose(
      found.score[row][:13], [score for score, _ in expected], rtol=1e-5
    )
    assert not np.asarray(found.tokens[row][13:]).any()


def test_a_beam_finds_what_greedy_search_misses():
  table = np.full((1, PREFIXES, V), -9.0, np.float32)

  def put(prefix, **logits):
    for name, p in logits.items():
      token = {'a': 0, 'b': 3, 'end': EOS}[name]
      table[0, number_of(prefix), token] = np.log(p)

  put((), a=0.6, b=0.4)
  put((0,), a=0.3, b=0.3, end=0.4)  # .6 · .4 = .24
  put((3,), end=1.0)  # .4
  first = text_of(search(table, all_of(1), 1).tokens[0, 0])
  assert first == (0, EOS)
  both = search(table, all_of(1), 2, LONGEST, 0.0)
  assert [text_of(t) for t in both.tokens[0]] == [(3, EOS), (0, EOS)]
  np.testing.assert_allclose(np.exp(both.score[0]), [0.4, 0.24], rtol=2e-3)


def test_a_row_does_not_depend_on_the_others_of_its_batch():
  table = tables(6, seed=2)
  together = search(table, all_of(6), 3)
  for row in range(6):
    alone = search(table[row : row + 1], all_of(1), 3)
    # Equal to rounding: the batch has other vector lengths.
    np.testing.assert_array_equal(together.tokens[row], alone.tokens[0])
    np.testing.assert_allclose(together.score[row], alone.score[0], rtol=1e-6)


def test_rows_that_do_not_count_have_no_hypotheses_and_change_no_other():
  table = tables(4, seed=3)
  mask = np.array([True, False, True, False])
  whole = search(table, all_of(4), 3)
  found = search(table, mask, 3)
  np.testing.assert_array_equal(found.tokens[::2], whole.tokens[::2])
  np.testing.assert_array_equal(found.score[::2], whole.score[::2])
  assert np.isneginf(found.score[1::2]).all()
  assert not np.asarray(found.tokens[1::2]).any()


def test_the_search_ends_with_its_last_row():
  steps = []

  def step(cache, tokens):
    jax.debug.callback(lambda position: steps.append(int(position)), cache)
    logits = jnp.where(cache == 1, 9.0 * (jnp.arange(V) == EOS), jnp.arange(V))
    return cache + 1, jnp.broadcast_to(logits, (len(tokens), V))

  found = beam_search(
    step,
    jnp.zeros((), jnp.int32),
    all_of(2),
    width=1,
    max_length=50,
    alpha=0.0,
    bos=BOS,
    eos=EOS,
    pad=PAD,
  )
  jax.block_until_ready(found)
  jax.effects_barrier()
  assert sorted(steps) == [0, 1]
  assert text_of(found.tokens[0, 0]) == (3, EOS)


def test_equal_scores_are_ordered_by_the_lower_index():
  table = np.zeros((2, PREFIXES, V), np.float32)
  found = search(table, all_of(2), 3, 3, 0.0)
  # Live: 0, 1 (eos is third, and ends), 3; then their first tokens 0, 1 and
  # eos, which is the first of the three to be third; then all must end.
  expected = [(EOS,), (0, EOS), (0, 0, EOS)]
  for row in range(2):
    assert [text_of(t) for t in found.tokens[row]] == expected
  np.testing.assert_allclose(
    found.score[0], -np.log(4) * np.array([1, 2, 3]), rtol=1e-6
  )


def test_one_trace_serves_every_batch_of_a_shape():
  plain = lambda table: search.__wrapped__(table, all_of(2), 2)
  traced = jax.jit(chex.assert_max_traces(plain, n=1))
  traced(tables(2, seed=4))
  traced(tables(2, seed=5))


def test_arguments_that_cannot_be_are_named():
  table = tables(1)
  with pytest.raises(ValueError, match='width=0 must be at least 1'):
    search(table, all_of(1), 0)
  with pytest.raises(ValueError, match='max_length=0 must be at least 1'):
    search(table, all_of(1), 1, 0)
  with pytest.raises(ValueError, match='2 logits and eos=2: a vocabulary'):
    search(table[..., :2], all_of(1), 1)
