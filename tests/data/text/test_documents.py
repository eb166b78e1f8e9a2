"""Text sets, the WordPiece vocabulary and the corpus on disk."""

import os
import pathlib
import pickle
import random
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.data.text import corpus, documents, wordpiece

REPO = pathlib.Path(__file__).parents[3]


@pytest.fixture(scope='module')
def module_dir(tmp_path_factory):
  return tmp_path_factory.mktemp('data')


@pytest.fixture(autouse=True)
def data_dir(module_dir, monkeypatch):
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(module_dir))
  return module_dir


def write_stories(path, documents, seed=0, sentences=8):
  """Made-up text: words of random letters, some of them often."""
  rng = random.Random(seed)
  words = [
    ''.join(rng.choices('abcdefghijklmnop', k=rng.randint(1, 9)))
    for _ in range(3000)
  ]
  with open(path, 'w', encoding='utf-8') as file:
    for _ in range(documents):
      for _ in range(rng.randint(2, sentences)):
        some = words[: rng.choice([30, 300, 3000])]
        file.write(' '.join(rng.choices(some, k=9)).capitalize() + '.\n')
      file.write('\n')
  return path


def run(program, data_dir, **env):
  return subprocess.Popen(
    [sys.executable, '-c', program],
    env=os.environ
    | {'PYTHONPATH': str(REPO), 'JAXLAB_DATA_DIR': str(data_dir)}
    | env,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def read(name, **options):
  return list(documents.open_text(name, **options).documents())


def test_pydoc_topics_are_split_by_name_and_never_shared():
  found = read('pydoc')
  counts = {
    split: sum(d.split == split for d in found) for split in documents.SPLITS
  }
  assert counts['test'] == counts['validation'] == round(len(found) / 10)
  assert all(document.sentences for document in found)
  assert found == read('pydoc')
  flat = [s for document in found for s in document.sentences]
  assert all(s == ' '.join(s.split()) and s for s in flat)
  assert all(any(map(str.isalnum, s)) for s in flat)


def test_hold_out_gives_equal_keys_one_split_and_two_documents_at_least():
  keys = [f'document {i % 20}' for i in range(40)]
  splits = documents.hold_out(keys)
  assert splits[:20] == splits[20:]
  assert splits[:20].count('test') == splits[:20].count('validation') == 2
  moved = [
    a != b for a, b in zip(splits[:20], documents.hold_out([*keys, 'another']))
  ]
  # One key more shifts each of the two boundaries by one document at most.
  assert sum(moved) <= 2
  with pytest.raises(InputError, match='5 different documents, too few'):
    documents.hold_out(['a', 'b', 'c', 'd', 'e', 'e'])


def test_text_files_take_a_line_as_a_sentence_and_a_blank_line_as_an_end(
  tmp_path,
):
  lines = [
    f'\ufeffDoc {i} by Mr. Smith.\n  Second   line {i}\n' for i in range(9)
  ]
  (tmp_path / 'a.txt').write_text('\n\n'.join(lines[:5]), encoding='utf-8')
  (tmp_path / 'b').mkdir()
  (tmp_path / 'b' / 'c.txt').write_text('\r\n\r\n'.join(lines[5:]))
  found = read('text_files', files=f'{tmp_path}/**/*.txt')
  assert sorted(d.sentences[-1] for d in found) == [
    f'Second line {i}' for i in range(9)
  ]
  assert found[0].sentences == ['Doc 0 by Mr. Smith.', 'Second line 0']
  assert {d.split for d in found} == set(documents.SPLITS)


def test_long_lines_are_paragraphs_and_one_long_file_is_cut_in_blocks(tmp_path):
  sentences = [f'Sentence number {i} stands here.' for i in range(400)]
  lines = [' '.join(sentences[i : i + 20]) for i in range(0, 400, 20)]
  assert min(map(len, lines)) > documents.LONG_LINE
  (tmp_path / 'one.txt').write_text('\n'.join(lines))
  found = read('text_files', files=f'{tmp_path}/one.txt')
  assert [s for d in found for s in d.sentences] == sentences
  assert [len(d.sentences) for d in found] == [documents.BLOCK] * 20
  counts = [sum(d.split == split for d in found) for split in documents.SPLITS]
  assert counts == [16, 2, 2]


def test_bad_files_are_named(tmp_path):
  with pytest.raises(InputError, match='needs files'):
    documents.open_text('text_files')
  with pytest.raises(InputError, match=r'nothing\*\.txt.* matches no file'):
    documents.open_text('text_files', files=f'{tmp_path}/nothing*.txt')
  bad = tmp_path / 'bad.txt'
  bad.write_bytes(b'A fine line.\n' + 'Grüße\n'.encode('latin-1'))
  with pytest.raises(InputError, match=r'bad\.txt is not UTF-8.*offset 15\b'):
    read('text_files', files=str(bad))
  few = tmp_path / 'few.txt'
  few.write_text('One.\n\nTwo.\n')
  with pytest.raises(InputError, match=r'few\.txt has 2 different documents'):
    read('text_files', files=str(few))
  empty = tmp_path / 'empty.txt'
  empty.write_text('')
  with pytest.raises(InputError, match=r'empty\.txt has 0 different doc'):
    corpus.prepare_corpus('text_files', vocab_size=99, files=str(empty))
  with pytest.raises(InputError, match='text_files alone'):
    documents.open_text('pydoc', files='*.txt')


def test_vocabulary_is_the_same_in_every_run_and_process(data_dir, tmp_path):
  program = """
from jaxlab.data.text import corpus
print(corpus.prepare_corpus('pydoc', vocab_size=1500).sha256)
"""
  runs = [
    run(program, tmp_path / str(i), RAYON_NUM_THREADS=threads)
    for i, threads in enumerate(['1', '4'])
  ]
  found = {process.communicate()[0].strip() for process in runs}
  assert found == {corpus.prepare_corpus('pydoc', vocab_size=1500).sha256}


def test_rare_characters_beyond_the_alphabet_are_unknown(monkeypatch):
  monkeypatch.setattr(wordpiece, 'ALPHABET', 3)
  counts = {'aab': 9, 'abc': 8, 'cc': 2, 'zy': 1}
  lines = [word for word, count in counts.items() for _ in range(count)]
  pieces = wordpiece.train_vocabulary(lines, counts, 40)
  assert pieces[:5] == list(wordpiece.SPECIAL)
  # a, b and c are the three most frequent; all but a occur inside words.
  assert pieces[5:11] == ['a', 'b', 'c', '##a', '##b', '##c']
  tokenizer = wordpiece.make_tokenizer(pieces)
  assert tokenizer.encode('zy').tokens == ['[UNK]']
  assert '[UNK]' not in tokenizer.encode('cab').tokens


def test_too_small_vocabulary_is_an_error():
  with pytest.raises(InputError, match=r'vocab_size=60 .* need \d+ pieces'):
    corpus.prepare_corpus('pydoc', vocab_size=60)


def test_tokens_spell_the_normalised_text(tmp_path):
  path = write_stories(tmp_path / 'stories.txt', 200)
  made = corpus.prepare_corpus('text_files', vocab_size=400, files=str(path))
  expected = {split: [] for split in documents.SPLITS}
  for document in read('text_files', files=str(path)):
    expected[document.split].append(
      [s.lower().replace('.', ' .') for s in document.sentences]
    )
  for name in documents.SPLITS:
    split = made.split(name)
    assert split.tokens.dtype == np.uint16
    spelled = []
    for start, stop in zip(split.documents[:-1], split.documents[1:]):
      document = []
      for s in range(start, stop):
        tokens = split.tokens[split.sentences[s] : split.sentences[s + 1]]
        words = ' '.join(made.pieces[t] for t in tokens).replace(' ##', '')
        # A word's first piece counts its space: one more than between words.
        assert made.characters[tokens].sum() == len(words) + 1
        assert made.continuation[tokens].sum() == len(tokens) - len(
          words.split()
        )
        document.append(words)
      spelled.append(document)
    assert spelled == expected[name]


def test_corpus_is_pickled_as_its_path_and_rejects_unknown_splits():
  made = corpus.prepare_corpus('pydoc', vocab_size=1500)
  assert len(pickle.dumps(made)) < 1000
  assert pickle.loads(pickle.dumps(made)).sha256 == made.sha256
  assert isinstance(made.split('train').tokens, np.memmap)
  with pytest.raises(InputError, match="no split 'dev'"):
    made.split('dev')


def test_a_damaged_cache_is_named_and_made_again(tmp_path, capsys):
  path = write_stories(tmp_path / 'stories.txt', 40)
  made = corpus.prepare_corpus('text_files', vocab_size=200, files=str(path))
  (made.path / 'train.tokens.npy').unlink()
  with pytest.raises(InputError, match=f'delete {made.path}'):
    made.split('train')
  for name in ('train.tokens.npy', 'corpus.json', 'vocabulary.json'):
    (made.path / name).write_text('{')
    again = corpus.prepare_corpus('text_files', vocab_size=200, files=str(path))
    assert again.sha256 == made.sha256
    assert f'{name} is not what was written' in capsys.readouterr().err


def test_changed_text_or_vocabulary_is_another_corpus(tmp_path):
  path = write_stories(tmp_path / 'stories.txt', 50)
  options = {'name': 'text_files', 'files': str(path)}
  first = corpus.prepare_corpus(vocab_size=200, **options)
  assert corpus.prepare_corpus(vocab_size=200, **options).path == first.path
  assert corpus.prepare_corpus(vocab_size=201, **options).sha256 != first.sha256
  write_stories(path, 50, seed=1)
  assert corpus.prepare_corpus(vocab_size=200, **options).sha256 != first.sha256


PREPARE = """
import sys
from jaxlab.data.text import corpus
made = corpus.prepare_corpus('text_files', vocab_size=2000, files=sys.argv[1])
print(made.sha256, len(made.split('train').tokens))
"""


@pytest.mark.parametrize(
  'seconds',
  [0.05, *(pytest.param(s, marks=pytest.mark.slow) for s in (0, 0.15))],
)
def test_killed_preparation_leaves_a_usable_state(tmp_path, seconds):
  path = write_stories(tmp_path / 'stories.txt', 4000)
  program = PREPARE.replace('sys.argv[1]', repr(str(path)))
  killed = run(program, tmp_path)
  deadline = time.monotonic() + 20
  while not list(tmp_path.glob('text/.*.new-*')):
    assert time.monotonic() < deadline
    time.sleep(0.005)
  time.sleep(seconds)
  killed.kill()
  killed.communicate()
  assert killed.returncode == -9
  assert not list(tmp_path.glob('text/[0-9a-f]*'))
  again, beside = run(program, tmp_path), run(program, tmp_path)
  outputs = [process.communicate() for process in (again, beside)]
  assert outputs[0][0] == outputs[1][0] != ''
  # The two processes made it once.
  assert sum('tokenised the text' in stderr for _, stderr in outputs) == 1
  assert not list(tmp_path.glob('text/.*.new-*'))
  assert len(list(tmp_path.glob('text/[0-9a-f]*'))) == 1


@pytest.mark.parametrize('odd', ['\u2028', '\u2029', '\x0b', '\x0c', '\x1c',
                                 '\x1d', '\x85', '\xa0'])  # fmt: skip
def test_lines_end_with_lf_or_crlf_alone(tmp_path, odd):
  path = tmp_path / 'text.txt'
  path.write_bytes(f'One{odd}two.\r\n{odd}\n\n Three \t four.\n'.encode())
  found = list(documents._read_documents(path))
  assert found == [[f'One{odd}two.', odd], ['Three four.']]
