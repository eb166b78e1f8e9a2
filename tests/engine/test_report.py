"""report.html: one page that needs nothing but itself."""

import base64
import html
import re

import pytest

from jaxlab.engine import metrics, report, stage, workdir

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
    report.figure(path, lambda axes: axes.plot([0, 1]))
    return {'test/accuracy': 0.123456789, '<i>count</i>': 7}

  def second(space):
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
  images = [base64.b64decode(x, validate=True) for x in embedded]
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


def test_names_and_values_are_escaped(page):
  _, text = page
  assert '<title>toy: Less &lt; more &amp; &quot;more&quot;</title>' in text
  assert f'<td>{html.escape(_CONFIG["model"]["name"])}</td>' in text
  assert '<td>&lt;i&gt;count&lt;/i&gt;</td><td>7</td>' in text
  assert '<h3>a &lt;b&gt;</h3>' in text
  for raw in ('<script', '<i>', '<b>'):
    assert raw not in text


def test_the_page_says_what_computed_it(page):
  _, text = page
  assert 'seed 3' in text
  assert re.search(r'fingerprint [^<]*; jax \d+\.\d+', text)
  assert '<td>model.name</td>' in text
