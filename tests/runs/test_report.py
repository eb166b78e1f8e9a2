"""report.html: one page that needs nothing but itself."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from jaxlab.core.errors import Preempted
from jaxlab.engine import metrics
from jaxlab.runs import report, stage, workdir
from jaxlab.runs.sections import write_figure

_CONFIG = {
  'paper': 'toy',
  'title': 'Less < more & "more"',
  'claimed': 'A beats B',
  'paper_reported': {'test': {'accuracy': 0.987654}},
  'model': {'name': '<script>alert(1)</script>'},
}


class Reader(HTMLParser):
  """The page as a list of (path of tags, text), ids, links and images."""

  def __init__(self, text):
    super().__init__()
    self.path, self.texts, self.ids = [], [], []
    self.links, self.images, self.tags = [], [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    found = dict(attrs)
    self.tags.append((tag, found))
    if tag not in ('meta', 'img', 'link', 'html'):
      self.path.append(tag)
    if 'id' in found:
      self.ids.append(found['id'])
    if tag == 'a':
      self.links.append(found['href'])
    if tag == 'img':
      self.images.append(found)

  def handle_endtag(self, tag):
    if tag != 'html':
      assert self.path.pop() == tag

  def handle_data(self, data):
    if data.strip():
      self.texts.append(('/'.join(self.path), data.strip()))

  def at(self, place):
    return [text for path, text in self.texts if path.endswith(place)]


def first(space):
  log = metrics.Log(space.folder('first'), 0)
  for step in (5, 10):
    log.write(step, 'train', {'loss': 1 / step, 'seconds': 1.0})
    log.write(step, 'eval', {'test/loss': 2 / step, 'test/once': 1.0})
  log.close()
  path = space.folder('first') / 'figures' / 'a_<b>.png'
  write_figure(path, lambda axes: axes.plot([0, 1]))
  space.page.table('Folded', ('x',), [[1]], show=True)
  return {
    'test/accuracy': 0.123456789,
    'test/accuracy_low': 0.1,
    'test/accuracy_high': 0.2,
    '<i>count</i>': 7,
  }


def second(space):
  space.page.headline('<A> beats B by 3', 'shown')
  rows = [{'arm': '<b>', 'value': 0.123456}, {'arm': 'B|C', 'value': np.nan}]
  space.page.table('Arms & values', ('arm', 'value'), rows, show=True)
  space.page.figure('line', lambda axes: axes.plot([1, 0]), 'A <line>')
  picture = np.linspace(0, 1, 3 * 4 * 4).reshape(3, 4, 4, 1)
  space.page.images('grid', picture, ('a', 'b', 'c'), 'Three pictures')
  space.page.samples('Texts', [[('plain <', 0.0), ('bright', 0.5)]])
  return {'test/value': 2.5}


STAGES = [stage.Stage('first', first), stage.Stage('second', second)]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('report')
  workdir.write_json(folder / 'config.json', _CONFIG)
  space = stage.Workspace(folder, _CONFIG, mesh=None, seed=3)
  space.command = ('--config=toy', f'--workdir={folder}')
  stage.run_all(STAGES, space)
  return folder


@pytest.fixture(scope='module')
def page(folder):
  return Reader((folder / 'report.html').read_text())


def test_the_page_needs_no_other_file_and_no_network(folder, page):
  text = (folder / 'report.html').read_text()
  assert not re.search(r'https?:|//[a-z]', re.sub(r'base64,[^"]*', '', text))
  assert not {'link', 'script', 'iframe'} & {tag for tag, _ in page.tags}
  assert not re.search(r'@import|url\(', text)
  assert all(x['src'].startswith('data:image/png;base64,') for x in page.images)


def test_it_fits_a_phone_and_describes_its_images(page):
  assert (
    'meta',
    {'name': 'viewport', 'content': 'width=device-width, initial-scale=1'},
  ) in page.tags
  assert all(image['alt'] for image in page.images)


def test_contents_lead_to_what_is_there(page):
  assert page.links == ['#figures', '#samples', '#stages', '#config', '#origin']
  assert {link[1:] for link in page.links} <= {*page.ids}


def test_the_first_screen_says_what_was_claimed_and_whether_it_held(page):
  texts = [text for _, text in page.texts]
  order = [
    texts.index(text)
    for text in (
      _CONFIG['title'],
      'What is claimed: A beats B',
      '<A> beats B by 3',
      'shown',
      'Arms & values',
      'Folded',
    )
  ]
  assert order == sorted(order)
  assert page.at('table/tr/td')[:4] == ['<b>', '0.1235', 'B|C', 'not finite']
  # What is not a table of the last stage is folded into its stage.
  assert page.at('details/h3')[0] == 'Folded'


def test_every_figure_is_there_once(folder, page):
  files = sorted(folder.glob('*/figures/*.png'))
  # 'once' has one value and is not a curve.
  assert [path.name for path in files] == [
    *('a_<b>.png', 'curves.png', 'grid.png', 'line.png'),
  ]
  shown = [base64.b64decode(x['src'].split(',')[1]) for x in page.images]
  assert sorted(shown) == sorted(path.read_bytes() for path in files)
  assert {'A <line>', 'Three pictures'} <= {*page.at('figcaption')}


def test_figures_stand_beside_the_papers_with_their_interval(folder):
  alone = Reader(report._template().render(report._page(folder, ['first'])))
  # 'first' shows a table; without it its own figures come first.
  assert alone.at('h3')[0] == 'Folded'
  about = report._first(
    {'test/a': 1.5, 'test/a_low': 1.0, 'test/a_high': 2.0, 'b': 3.0},
    {'paper.a': 1.4},
  )
  assert about['rows'] == [
    ['test/a', 1.5, '1 to 2'],
    ['b', 3.0, '–'],
    ['the paper: paper.a', 1.4, '–'],
  ]
  measured = alone.at('div/div/div/table/tr/td')
  assert measured[:2] == ['test/accuracy', '0.1235']
  assert measured[-2:] == ['test.accuracy', '0.9877']


def test_headlines_and_tables_are_printed_at_the_end(folder):
  assert report.summary(folder, ['second']) == [
    'second: <A> beats B by 3 [shown]',
    'Arms & values\n  arm  value\n  <b>  0.1235\n  B|C  not finite',
  ]
  assert (folder / 'second' / 'tables.md').read_text().splitlines()[2:] == [
    '| arm | value |',
    '|---|---|',
    '| <b> | 0.1235 |',
    r'| B\|C | not finite |',
  ]


def test_names_and_values_are_escaped(folder, page):
  text = (folder / 'report.html').read_text()
  assert '<title>toy: Less &lt; more &amp; &#34;more&#34;</title>' in text
  assert _CONFIG['model']['name'] in page.at('td')
  assert '<i>count</i>' in page.at('td')
  for raw in ('<script', '<i>', '<A>', '<line>'):
    assert raw not in text


def test_the_page_says_what_computed_it(page):
  [said] = [
    t for t in page.at('p') if t.startswith('seed 3; fing') and 'jax' in t
  ][:1]
  assert re.search(r'fingerprint [^<]*; jax \d+\.\d+', said)
  assert 'model.name' in page.at('td')
  origin = page.at('td')[-12:]
  assert origin[::2] == [
    *('folder', 'command', 'date', 'commit', 'device', 'versions'),
  ]
  assert origin[3] == 'python -m jaxlab.main --config=toy'
  assert re.fullmatch(r'\d{4}-\d\d-\d\d', origin[5])


def test_intervals_are_bands_and_share_the_panel_of_their_metric(
  tmp_path, monkeypatch
):
  log = metrics.Log(tmp_path, 0)
  for step in (1, 2, 3):
    value = {'v/acc': step, 'v/acc_low': step - 1, 'v/acc_high': step + 2}
    log.write(step, 'eval', value)
    log.write(step, 'train', {'acc': 2 * step, 'examples_per_second': step})
  log.close()
  drawn = []
  monkeypatch.setattr(
    report.sections,
    'write_drawing',
    lambda path, draw, *rest: drawn.append(draw),
  )
  report.curves(tmp_path)
  from matplotlib.figure import Figure

  figure = Figure()
  drawn[0](figure)
  accuracy, _ = figure.axes
  assert [a.get_title() for a in figure.axes] == ['acc', 'examples per second']
  assert {x.get_label() for x in accuracy.get_lines()} == {'train/acc', 'v/acc'}
  [band] = accuracy.collections
  points = {tuple(x) for x in band.get_paths()[0].vertices.tolist()}
  assert {(1, 0), (3, 2), (1, 3), (3, 5)} <= points


def test_a_run_that_stops_leaves_a_page(tmp_path):
  workdir.write_json(tmp_path / 'config.json', _CONFIG)

  def stops(space):
    log = metrics.Log(space.folder('second'), 0)
    log.write(4, 'train', {'loss': 1.0})
    log.close()
    raise Preempted('stopped')

  stages = [
    STAGES[0],
    stage.Stage('second', stops, 10),
    STAGES[1]._replace(name='third'),
  ]
  space = stage.Workspace(tmp_path, _CONFIG, mesh=None, seed=3)
  with pytest.raises(Preempted):
    stage.run_all(stages, space)
  found = Reader(Path(tmp_path / 'report.html').read_text())
  assert 'toy, not finished: 1 of 3 stages' in found.at('p')
  assert found.at('summary/span')[1:3] == ['at step 4', 'not begun']
