import numpy as np
import optax
import pytest
import sacrebleu

from jaxlab.core.errors import InputError
from jaxlab.evals.translate import Decoding, bleu, translate
from tests.evals.evaluated import evaluated

PAD, V, T = 0, 11, 5
WORDS = ['', 'the', 'a', 'cat', 'dog', 'sat', 'ran', 'on', 'under', 'mat', '.']
REFERENCES = [
  'The cat sat on the mat, and it was 12.5 % larger than "ours".',
  'A dog ran under the mat: it did not see the cat.',
  'Nobody knows what happened after the dog had gone.',
]
HYPOTHESES = [
  'The cat sat on the mat and it was 12.5 % larger than ours.',
  'A dog ran under a mat; it did not see a cat.',
  'Nobody knows what the dog had seen.',
]


def text(tokens):
  return ' '.join(WORDS[t] for t in tokens if t)


def batches():
  """Three batches of two rows; ids 0 … 4, and one row of padding."""
  draw = np.random.default_rng(0)
  target = draw.integers(1, V, size=(6, T)).astype(np.int32)
  target[1, 3:] = target[3, 1:] = PAD
  ids = np.array([4, 0, 3, 1, 2, 0], np.int32)
  mask = np.array([True] * 5 + [False])
  logits = draw.normal(size=(6, T, V)).astype(np.float32)
  found = draw.integers(1, V, size=(6, T)).astype(np.int32)
  rows = {
    'target': target,
    'id': ids,
    'mask': mask,
    'logits': logits,
    'found': found,
  }
  return rows, [{k: v[i : i + 2] for k, v in rows.items()} for i in (0, 2, 4)]


def take(name):
  return lambda params, vars, batch: batch[name]


def test_figures_are_those_of_all_tokens_and_all_texts():
  rows, some = batches()
  references = [f'the cat sat on mat {i}' for i in range(5)]
  kept = []
  decoding = Decoding(
    take('found'), T, text, references, lambda *found: kept.append(found)
  )
  figures = evaluated(translate(take('logits'), decoding, pad=PAD), some)

  real = (rows['target'] != PAD) & rows['mask'][:, None]
  nats = optax.losses.softmax_cross_entropy_with_integer_labels(
    rows['logits'], rows['target']
  )
  assert figures['tokens'] == real.sum() == 25 - 2 - 4
  np.testing.assert_allclose(figures['nats'], nats[real].mean(), rtol=1e-6)
  right = rows['logits'].argmax(-1) == rows['target']
  np.testing.assert_allclose(figures['accuracy'], right[real].mean(), rtol=1e-6)

  texts = [''] * 5
  for place, found in zip(rows['id'][:5], rows['found']):
    texts[place] = text(found)
  expected = sacrebleu.corpus_bleu(texts, [references])
  assert figures['bleu'] == expected.score
  assert 0 < expected.score < 100
  [(found, score)] = kept
  assert found == texts and score.score == expected.score
  assert next(iter(figures)) == 'bleu'


def test_without_decoding_there_is_no_bleu():
  _, some = batches()
  with_texts = evaluated(
    translate(
      take('logits'), Decoding(take('found'), T, text, ['a'] * 5), pad=PAD
    ),
    some,
  )
  plain = evaluated(translate(take('logits'), pad=PAD), some)
  assert with_texts.pop('bleu') >= 0
  assert plain == with_texts


def test_bleu_is_sacrebleus_with_its_signature():
  found = bleu(HYPOTHESES, REFERENCES)
  assert found.score == sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES]).score
  assert 20 < found.score < 80
  parts = dict(part.split(':') for part in found.signature.split('|'))
  assert parts['tok'] == '13a' and parts['case'] == 'mixed'
  assert parts['nrefs'] == '1' and parts['version'] == sacrebleu.__version__
  assert bleu(REFERENCES, REFERENCES).score == pytest.approx(100)


def test_bleu_is_of_the_corpus_and_not_a_mean_of_sentences():
  each = [bleu([h], [r]).score for h, r in zip(HYPOTHESES, REFERENCES)]
  assert abs(bleu(HYPOTHESES, REFERENCES).score - np.mean(each)) > 1


def test_empty_hypotheses_have_a_bleu_of_0():
  assert bleu([''] * 3, REFERENCES).score == 0
  some = bleu(['', *HYPOTHESES[1:]], REFERENCES).score
  assert 0 < some < bleu(HYPOTHESES, REFERENCES).score


def test_no_texts_or_texts_without_references_are_named():
  with pytest.raises(ValueError, match='0 hypotheses and 0 references'):
    bleu([], [])
  with pytest.raises(ValueError, match='3 hypotheses and 2 references'):
    bleu(HYPOTHESES, REFERENCES[:2])
  with pytest.raises(InputError, match='no tokens; hold out more'):
    evaluated(translate(take('logits'), pad=PAD), [])
