"""Snippets of README and docs/: Python runs, commands are understood."""

import configparser
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from jaxlab import compare, main, predict
from jaxlab.data import builders, prepare

_ROOT = Path(__file__).parents[1]
_README = (_ROOT / 'README.md').read_text()
_DRY = {'DRY_RUN': '1'}
_PYTEST = ('2', 'loadfile', 'examples/new_paper')
_START = """
import jax, jax.numpy as jnp, numpy as np
rng = np.random.default_rng(0)
"""
_PAGES = [
  *(_ROOT / name for name in ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md')),
  *sorted((_ROOT / 'docs').glob('*.md')),
]
# What a reader has at hand where a page's Python begins.
_GIVEN = {
  'lamb.md': """
from jaxlab.data.text.wordpiece import Vocabulary
from jaxlab.models.bert import Bert
from jaxlab.recipes import hugging_face
params = {'layers': {'kernel': np.ones((2, 3, 4))}}
pieces = '[PAD] [UNK] [CLS] [SEP] [MASK] Paris is a city'.split()
small = Bert(len(pieces), 1, 8, 2, 16, max_positions=16)
ones = jnp.ones((1, 4), int)
start = small.init(jax.random.key(0), ones, ones, ones > 0, ones[:, :1],
                   deterministic=True)
hugging_face.export('path/to/bert-base-cased', small, {'net': start['params']},
                    Vocabulary(tuple(pieces), lowercase=False))
""",
  'aloe.md': """
key, params = jax.random.key(0), rng.normal(size=(12, 3)).astype('float32')
images, ids = rng.random((4, 2, 2, 3), 'float32'), np.arange(4)
labels = np.arange(4) % 3
logits_fn = lambda x, w: x.reshape(4, -1) @ w
""",
  'encouraging.md': """
logits, labels, mask = rng.normal(size=(4, 3)), np.arange(4) % 3, np.ones(4)
p = rng.random(4)
""",
  'mvs_gnn.md': 'norms, batch_size = rng.random(20) + 0.1, 5',
  'metric_transfer.md': """
features = np.repeat(np.eye(4), 60, 0) + 0.1 * rng.normal(size=(240, 4))
labels = np.where(np.arange(240) % 60, -1, np.arange(240) // 60)
""",
  'bayes_cnn.md': """
import flax.linen as nn
key, x, y = jax.random.key(0), jnp.ones((2, 8, 8, 1)), jnp.array([0, 1])
model = nn.Sequential([lambda x: x.reshape(len(x), -1), nn.Dense(3)])
mean, mean_loss = {'w': jnp.ones(3)}, lambda mean: (mean['w'] ** 2).mean()
""",
  'reprogramming.md': """
key, weights = jax.random.key(0), jnp.zeros((224, 224, 3))
logits = lambda images: images[:, ::8, ::8].reshape(50, -1)[:, :1000]
""",
  'advgan.md': """
images, raw = rng.random((4, 8, 8, 1), 'float32'), jnp.ones((4, 8, 8, 1))
logits, aims = rng.normal(size=(4, 10)).astype('float32'), np.arange(4)
client = lambda images: logits[: len(images)]
""",
  'gaan.md': """
real = recon = fake = jnp.ones((4, 6))
encoded = latent = jnp.ones((4, 2))
mask, score = jnp.ones(4, bool), lambda x: (x**2).sum(-1)
points = jnp.ones((4, 2))
features = rng.normal(size=(50, 3))
features_of_samples = features + 1
""",
  'geometry.md': """
key = jax.random.key(0)
W1, W2, W3 = (rng.normal(size=s) for s in ((2, 8), (8, 8), (8, 1)))
b1, b2, b3 = (rng.normal(size=n) for n in (8, 8, 1))
start, end = np.array([-1.0, -1.0]), np.array([1.0, 1.0])
corners = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
polyline = np.array([[-1.0, 0.0], [0.0, 0.2], [1.0, 0.0]])
atoms, weights = rng.random((5, 2)), np.full(5, 0.2)
""",
  'doc_regions.md': """
pages, labels = rng.random((12, 64, 48, 1), 'float32'), np.arange(12) % 2
groups = np.arange(12)
init = holistic = {'params': {'head': np.ones(3)}}
log_p = test_log_p = np.log(rng.dirichlet([1, 1], (12, 5)))
""",
}
# (page, number of the block) -> why it is not run here.
_NOT_RUN = {
  (
    'data.md',
    0,
  ): 'downloads 98 MB of weights; tests/data/packages/test_weights.py',
  ('models.md', 0): 'needs a run: test_the_page_on_models, slow',
}


def blocks(page, language):
  """(line, text) of a page's fenced blocks of a language ('' for commands)."""
  found, opened = [], None
  for number, line in enumerate(page.read_text().split('\n'), 1):
    if not line.startswith('```'):
      if opened:
        opened[2].append(line)
    elif opened:
      found += [opened] if opened[0] == language else []
      opened = None
    else:
      opened = line[3:].strip(), number, []
  assert opened is None, f'{page}:{opened[1]} is not closed'
  return [(line, '\n'.join(text) + '\n') for _, line, text in found]


def run(page, numbers, names):
  """Runs blocks of a page one after the other, as one program."""
  for number in numbers:
    line, text = blocks(page, 'python')[number]
    exec(compile('\n' * line + text, page, 'exec'), names)


@pytest.mark.parametrize(
  'page',
  [page for page in _PAGES if blocks(page, 'python')],
  ids=lambda page: page.name,
)
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  names = {'__name__': page.name}
  exec(_START + _GIVEN.get(page.name, ''), names)
  numbers = range(len(blocks(page, 'python')))
  run(page, [i for i in numbers if (page.name, i) not in _NOT_RUN], names)
  named = {i for name, i in _NOT_RUN if name == page.name}
  assert named <= {*numbers}


@pytest.mark.slow
def test_the_page_on_models(tmp_path, monkeypatch, capfd):
  """Half a minute: a smoke's run, asked from the shell and in Python."""
  page = _ROOT / 'docs' / 'models.md'
  train, ask = blocks(page, '')[0][1].splitlines()
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('PYTHONPATH', str(_ROOT))
  for command in (train, ask):
    words = shlex.split(command)
    subprocess.run([sys.executable, *words[1:]], check=True)
  assert re.search(r'^  1: \S+ 0\.\d+', capfd.readouterr().out, re.MULTILINE)
  names = {}
  run(page, [0], names)
  assert names['model'].config['model']['num_layers'] == 2


def commands():
  """'page:line' and words of every command of README and docs/."""
  for page in _PAGES:
    for line, text in blocks(page, ''):
      text = text.replace('\\\n', '')  # goes on in the next line
      for command in re.split(r'&&|\n', text):
        if re.match(r' *([\w./]*/)?(python3?|pip|\w+\.sh) ', command):
          words = shlex.split(command, comments=True)
          yield pytest.param(words, id=f'{page.name}:{line} {words[-1]}')


@pytest.mark.parametrize('words', [*commands()])
def test_a_command_is_understood(words, monkeypatch):
  """Flags, configs, their variants and keys exist; nothing is run."""
  monkeypatch.chdir(_ROOT)
  match words:
    case [_, '-m', 'jaxlab.main', '--help']:
      pass
    case [_, '-m', 'jaxlab.main', *argv]:
      main.parse(['main', *argv])
    case [_, '-m', 'jaxlab.predict', *argv]:
      assert predict._parser().parse_intermixed_args(argv).run
    case [_, '-m', 'jaxlab.compare', *argv]:
      assert len(compare._parser().parse_intermixed_args(argv).runs) > 1
    case [_, '-m', 'jaxlab.data.prepare', *argv]:
      assert {*prepare._parse(argv).names} <= {*builders.names()}
    case [_, '-m', 'jaxlab.papers.lamb.export', _, _]:
      pass
    case [_, '-m', 'venv', '.venv']:
      pass
    case [_, '-m', 'pytest', *argv]:
      assert all(x.startswith('-') or x in _PYTEST for x in argv)
    case [_, 'install', *argv]:
      config = configparser.ConfigParser()
      config.read(_ROOT / 'setup.cfg')
      (extra,) = re.findall(r'^\.\[(\w+)\]$', argv[-1])
      assert extra in config['options.extras_require']
    case [script, *argv]:
      subprocess.run([script, *argv], check=True, env={**os.environ, **_DRY})


def test_the_table_of_papers_names_what_there_is(monkeypatch):
  monkeypatch.chdir(_ROOT)
  rows = re.findall(r'^\| .*configs/.*\|\n\|.*\n((?:\|.*\n)+)', _README, re.M)
  cells = [row.split('|') for row in rows[0].splitlines()]
  papers = {path.name for path in (_ROOT / 'jaxlab' / 'papers').glob('[a-z]*')}
  papers -= {path.name for path in (_ROOT / 'jaxlab/papers').glob('*.py')}
  assert {re.findall(r'docs/(\w+)\.md', row[5])[0] for row in cells} == papers
  for row in cells:
    for name in re.findall('`([^`]+)`', row[2]):
      names = {} if name.startswith('from ') else {'name': name}
      exec(name if not names else f'from jaxlab import {name}', names)
    for name in re.findall('`([^`]+)`', row[3]):
      main.parse(['main', f'--config=configs/{name}'])
    assert re.search(r'\*(shown|not shown|refuted)\*', row[4])


def test_links_lead_to_files():
  for page in [*_PAGES, _ROOT / 'benchmarks' / 'budgets.md']:
    for link in re.findall(r'\]\(([^)]+)\)', page.read_text()):
      if not re.match(r'https?:|#', link):
        assert (page.parent / link.partition('#')[0]).exists(), (page, link)


def test_lines_of_prose_are_short():
  for page in _PAGES:
    code = False
    for line in page.read_text().split('\n'):
      code ^= line.startswith('```')
      # A command between backticks stays in one piece.
      free = code or line.startswith(('|', '![', '`'))
      assert free or len(line) <= 110, (page, line)
