"""report.html: one page that needs nothing but itself."""

import base64
import html
import re

import numpy as np
import pytest

from jaxlab.engine import metrics, report, stage, workdir
from jaxlab.engine.sections import write_figure

_PNG = b'\x89PNG\r\n\x1a\n'
_CONFIG = {
  'paper': 'toy',
  'title': 'Less < more & "more"',
  'paper_reported': {'test': {'accuracy': 0.987654}},
  'model': {'name': '<script>alert(1)</script>'},
}


@pytest.fixture(scope='module')
def page(tmp_path_factory):
  """The page of two stages, one of which has curves and a figure."""
  folder = tmp_path_factory.mktemp('report')

  def first(space):
    log = metrics.Log(space.folder('first'), 0)
    for step in (5, 10):
      log.write(step, 'train', {'loss': 1 / step, 'seconds': 1.0})
      log.write(step, 'eval', {'test/loss': 2 / step, 'test/once': 1.0})
    log.close()
    path = space.folder('first') / 'figures' / 'a_<b>.png'
    write_figure(path, lambda axes: axes.plot([0, 1]))
    return {'test/accuracy': 0.123456789, '<i>count</i>': 7}

  def second(space):
    space.page.headline('<A> beats B by 3', 'shown')
    rows = [{'arm': '<b>', 'value': 0.123456}, {'arm': 'B|C', 'value': np.nan}]
    space.page.table('Arms & values', ('arm', 'value'), rows, show=True)
    space.page.figure('line', lambda axes: axes.plot([1, 0]), 'A <line>')
    picture = np.linspace(0, 1, 3 * 4 * 4).reshape(3, 4, 4, 1)
    space.page.images('grid', picture, ('a', 'b', 'c'), 'Three pictures')
    space.page.samples('Texts', [[('plain <', 0.0), ('bright', 0.5)]])
    return {}

  workdir.write_json(folder / 'config.json', _CONFIG)
  space = stage.Workspace(folder, _CONFIG, mesh=None, seed=3)
  stages = [stage.Stage('first', first), stage.Stage('second', second)]
  stage.run_all(stages, space)
  return folder, (folder / 'report.html').read_text()


def test_the_page_needs_no_other_file_and_no_network(page):
  _, text = page
  assert not re.search(r'https?:|//[a-z]', re.sub(r'base64,[^"]*', '', text))
  assert not re.search(r'<(link|script|iframe)|@import|url\(', text)
  sources = re.findall(r'(?:src|href)="([^"]*)"', text)
  assert len(sources) == text.count('src=')
  assert all(x.startswith('data:image/png;base64,') for x in sources)


def test_every_figure_is_in_the_page(page):
  folder, text = page
  files = sorted((folder / 'first' / 'figures').iterdir())
  # 'once' has one point and is no curve; 'seconds' is no metric.
  assert [path.name for path in files] == ['a_<b>.png', 'curve_loss.png']
  embedded = re.findall(r'base64,([^"]*)"', text)
  images = [base64.b64decode(x, validate=True) for x in embedded[:2]]
  assert images == [path.read_bytes() for path in files]
  assert all(image.startswith(_PNG) for image in images)
  assert '<h3>curve loss</h3>' in text


def test_the_figures_measured_and_the_papers_stand_side_by_side(page):
  _, text = page
  measured, paper = re.search(
    r'Measured here</h3>(.*?)</div><div><h3>The paper reports</h3>(.*?)</div>',
    text,
  ).groups()
  assert '<td>test/accuracy</td><td class="n">0.123457</td>' in measured
  assert '<td>test.accuracy</td><td class="n">0.987654</td>' in paper
  assert text.count('Measured here') == 2
  assert text.index('<h2>first</h2>') < text.index('<h2>second</h2>')


def test_sections_stand_in_their_order_before_the_figures(page):
  folder, text = page
  second = text[text.index('<h2>second</h2>') :]
  places = [
    second.index(words)
    for words in (
      '&lt;A&gt; beats B by 3 <span class="verdict">shown</span>',
      '<h3>Arms &amp; values</h3><table><tr><th>arm</th><th>value</th></tr>'
      '<tr><td>&lt;b&gt;</td><td class=n>0.1235</td></tr>'
      '<tr><td>B|C</td><td class=n>not finite</td></tr></table>',
      '<h3>A &lt;line&gt;</h3>',
      '<h3>Three pictures</h3>',
      '<span style="background: rgba(255, 170, 0, 0.50)">bright</span>',
      'Measured here',
    )
  ]
  assert places == sorted(places)
  assert second.count('src="data:') == 2  # each figure once
  assert (folder / 'second' / 'tables.md').read_text().splitlines()[2:] == [
    '| arm | value |',
    '|---|---|',
    '| <b> | 0.1235 |',
    r'| B\|C | not finite |',
  ]


def test_headlines_and_tables_are_printed_at_the_end(page):
  folder, _ = page
  assert report.summary(folder, ['first', 'second']) == [
    'second: <A> beats B by 3 [shown]',
    'Arms & values\n  arm  value\n  <b>  0.1235\n  B|C  not finite',
  ]


def test_names_and_values_are_escaped(page):
  _, text = page
  assert '<title>toy: Less &lt; more &amp; &quot;more&quot;</title>' in text
  assert f'<td>{html.escape(_CONFIG["model"]["name"])}</td>' in text
  assert '<td>&lt;i&gt;count&lt;/i&gt;</td><td>7</td>' in text
  assert '<h3>a &lt;b&gt;</h3>' in text
  for raw in ('<script', '<i>', '<b>', '<A>', '<line>'):
    assert raw not in text


def test_the_page_says_what_computed_it(page):
  _, text = page
  assert 'seed 3' in text
  assert re.search(r'fingerprint [^<]*; jax \d+\.\d+', text)
  assert '<td>model.name</td>' in text
