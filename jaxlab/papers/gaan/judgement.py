"""What trained generators of images are worth, and the table of them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from jaxlab.core import keys
from jaxlab.core.state import State
from jaxlab.engine.metrics import Meter, read
from jaxlab.evals import generative as evals
from jaxlab.evals.generative import Classifier
from jaxlab.ops import generative
from jaxlab.papers.gaan import game
from jaxlab.recipes import images
from jaxlab.recipes.judge import args_of
from jaxlab.recipes.study import interval, verdict
from jaxlab.runs.stage import Figures, Workspace

Config = Mapping[str, Any]

_ROWS = 250  # images that a network sees at once


def name_of(config: Config) -> str:
  """What the classifier is called beside its figures."""
  return f'{config["model"]["name"]} of {config["data"]["name"]}'


def classifier_of(config: Config, space: Workspace) -> Classifier:
  """The trained classifier, its accuracy on the test set with it."""
  task = images.image_task(config, space.offline)
  args = args_of(space.artefact('classifier'))
  accuracy = space.figures('classifier')['test/accuracy']

  def run(pixels):
    (features,) = task.network.features(pixels, *args, ['embedding'])
    return features, task.network.logits(pixels, *args)

  return Classifier(
    name_of(config),
    float('nan') if accuracy is None else accuracy,
    run,
    config['data']['channels'],
  )


def judge(
  config: Config, of: game.Game, seed: int, space: Workspace
) -> Figures:
  """Samples, their distance to the test set, modes, the latent plane."""
  c, j = config['images'], config['judge']
  state = space.artefact(f'{of.arm}-s{seed}')
  params = game.average(state.params, state.vars)
  key = keys.stream(seed, 'judge')
  generate = jax.jit(lambda z: of.generate(params, z))
  latent = np.asarray(of.latent(key, jnp.arange(j['samples'])))
  fake = many(generate, latent, f'{of.arm}-s{seed}: samples')
  pictures(config, space, of, state, fake)
  sets = images.image_task(config, space.offline).sets
  real = {
    name: examples(sets.inliers(config['data'][f'{name}_split']), of, c, j)
    for name in ('train', 'test')
  }
  figures = {
    'test/nearest': nearness(fake, real['train'], real['test'], j['nearest'])
  }
  figures |= densities(space, of, params, real['test'], fake)
  if not c['classifier']:
    return figures
  classifier = classifier_of(config, space)
  see = lambda x, name: evals.view(
    classifier, x, _ROWS, f'{of.arm}-s{seed}: {name}'
  )
  views = {name: see(x, name) for name, x in real.items()}
  found = see(fake, 'features')
  rows = min(len(views['test'].features), len(found.features))
  distances = evals.distances(
    views['test'].features[:rows],
    found.features[:rows],
    views['train'].features[:rows],
  )
  figures |= {f'test/{name}': value for name, value in distances.items()}
  modes = evals.modes(classifier, found.probabilities, j['accuracy'])
  figures |= {f'test/{name}': value for name, value in modes.items()}
  if c['latent'] == 2 and c['stack'] == 1:
    frequencies = np.bincount(
      sets.inliers(config['data']['train_split'])['label'],
      minlength=config['data']['num_classes'],
    )
    figures |= plane(config, space, of, generate, see, frequencies)
  size = views['test'].features.shape[1]
  space.page.table(
    f'{of.arm}, seed {seed}: {j["samples"]} samples; distances of {rows} to '
    f'as many test images, by {size} features of {classifier.name} (test '
    f'accuracy {classifier.accuracy:.4f})',
    ['figure', 'value'],
    [[name, value] for name, value in figures.items()],
  )
  return figures


def many(run, arrays: np.ndarray, name: str) -> np.ndarray:
  """A jitted function of rows, some at a time; all rows."""
  meter = Meter(name, -(-len(arrays) // _ROWS))
  found = []
  for start in range(0, len(arrays), _ROWS):
    part = arrays[start : start + _ROWS]
    wide = [(0, _ROWS - len(part)), *[(0, 0)] * (arrays.ndim - 1)]
    found.append(np.asarray(run(np.pad(part, wide)))[: len(part)])
    meter.advance()
  return np.concatenate(found)


def examples(
  arrays: Mapping[str, np.ndarray], of: game.Game, c: Config, j: Config
) -> np.ndarray:
  """[n, h, w, c] float32 in [0, 1]: real images as the game sees them.

  Args:
    arrays: of a split, in its order.
  """
  rows = min(len(arrays['image']) // c['stack'], j['samples']) * c['stack']
  part = np.asarray(arrays['image'][:rows])
  batch = {
    'image': part,
    'id': np.arange(rows),
    'mask': np.ones(rows, bool),
  }
  return np.asarray(of.read(batch).x)


def nearness(
  fake: np.ndarray, train: np.ndarray, test: np.ndarray, count: int
) -> float:
  """Median distance of samples to the nearest training image over that of
  test images, in pixels: far below 1 for a generator that memorises."""
  far = [
    float(np.median(generative.nearest_distances(x[:count], train)))
    for x in (fake, test)
  ]
  return far[0] / far[1]


def densities(
  space: Workspace,
  of: game.Game,
  params: Mapping,
  real: np.ndarray,
  fake: np.ndarray,
) -> dict[str, float]:
  """Means over dimensions of D's features, of real and of generated images.

  Returns:
    `test/feature_distance`, the 1-D Wasserstein distance of the two, in
    deviations of the real ones.
  """
  see = jax.jit(lambda x: of.judge(params['disc'], x)[0][1].mean(-1))
  found = [many(see, x[:2000], '') for x in (real, fake)]
  apart = scipy.stats.wasserstein_distance(*found) / (found[0].std() + 1e-12)

  def draw(axes):
    for values, label in zip(found, ('real', 'generated')):
      axes.hist(values, 60, density=True, alpha=0.5, label=label)
    axes.set_xlabel('mean over the features of D')
    axes.legend(frameon=False)

  space.page.figure(f'{of.arm}-features', draw, f'{of.arm}: M(Phi)')
  return {'test/feature_distance': float(apart)}


def pictures(
  config: Config,
  space: Workspace,
  of: game.Game,
  state: State,
  fake: np.ndarray,
) -> None:
  """Grids of samples, at the end and over the training."""
  channels = lambda x: x if x.shape[-1] in (1, 3) else x[..., :1]
  film = np.asarray(state.vars['film'])
  steps = int(state.step)
  apart = -(-steps // len(film))
  frames = [mosaic(channels(frame)) for frame in film]
  space.page.images(
    f'{of.arm}-training',
    np.stack(frames),
    [f'step {i * apart + 1}' for i in range(len(film))],
    f'{of.arm}: the same 16 codes as training goes on',
    columns=len(film),
  )
  space.page.images(
    f'{of.arm}-samples', channels(fake[:32]), caption=f'{of.arm}: samples'
  )


def mosaic(images: np.ndarray) -> np.ndarray:
  """[n², h, w, c] -> [n h, n w, c]."""
  side = int(len(images) ** 0.5)
  _, h, w, c = images.shape
  lines = images.reshape(side, side, h, w, c).transpose(0, 2, 1, 3, 4)
  return lines.reshape(side * h, side * w, c)


def plane(config, space, of, generate, see, frequencies) -> dict[str, float]:
  """The classes of G(z) over the square of codes, as the paper draws it."""
  side = config['judge']['side']
  line = np.linspace(-1, 1, side, dtype=np.float32)
  codes = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
  made = many(generate, codes, f'{of.arm}: plane')
  p = see(made, 'plane').probabilities[:, 0]
  labels = p.argmax(-1).reshape(side, side)
  found = generative.latent_map(labels, frequencies)

  def draw(axes):
    shown = axes.imshow(
      labels, cmap='tab10', vmin=-0.5, vmax=9.5, extent=(-1, 1, 1, -1)
    )
    axes.figure.colorbar(shown, ticks=range(10), label='class of G(z)')

  caption = f'{of.arm}: classes of G(z) over z in [-1, 1]²; areas ' + ' '.join(
    f'{area:.2f}' for area in found.areas
  )
  space.page.figure(f'{of.arm}-plane', draw, caption, (5, 4))
  return {
    'test/plane_classes': float((found.areas > 0.01).sum()),
    'test/plane_kl': found.kl,
    'test/plane_regions': float(found.components.sum()),
    'test/plane_boundary': found.boundary,
  }


def conclude(config: Config, space: Workspace) -> Figures:
  """The table of all arms, how the game went, and the verdict."""
  c = config['images']
  arms, seeds = c['arms'], c['seeds']
  by_cell = {
    (arm, seed): space.figures(f'{arm}-s{seed}-judge')
    | {
      name.replace('dynamics', 'end'): value
      for name, value in space.figures(f'{arm}-s{seed}').items()
    }
    for arm in arms
    for seed in seeds
  }
  value = lambda x: float('nan') if x is None else x
  values = lambda arm, name: [value(by_cell[arm, s][name]) for s in seeds]
  reported = config['paper_reported'].get('images', {})
  names = list(dict.fromkeys(n for found in by_cell.values() for n in found))
  rows, figures = [], {}
  for name in names:
    row = {'figure': name}
    for arm in arms:
      if name in by_cell[arm, seeds[0]]:
        row[arm] = interval(values(arm, name))
        figures[f'{arm}/{name}'] = float(np.mean(values(arm, name)))
      said = reported.get(arm, {})
      if name in said:
        row[f'{arm}, reported'] = said[name]
    rows.append(row)
  columns = ['figure', *arms, *[f'{arm}, reported' for arm in reported]]
  d = config['data']
  space.page.table(
    f'{d["name"]}, {c["train"]["steps"]} steps, seeds {list(seeds)}',
    columns,
    rows,
    show=True,
  )
  better = {'test/modes': True, 'test/plane_kl': False, 'test/fcd': False}
  for name, higher in better.items():
    if name not in names:
      continue
    for arm in arms[1:]:
      pairs = zip(values(arm, name), values(arms[0], name))
      gains = [x - y for x, y in pairs]
      words = f'{d["name"]}, {name}: {arm} - {arms[0]} = {interval(gains)}'
      space.page.headline(words, verdict(gains, higher))
  _curves(space, arms, seeds)
  return figures


def _curves(space: Workspace, arms, seeds) -> None:
  """The gradient of G and D's scores over steps."""
  for name, title in (
    ('gradient', 'norm of the gradient of L_G'),
    ('score_fake', 'E s(D(G(z))); dashed: E s(D(x))'),
  ):

    def draw(axes, name=name, title=title):
      for i, arm in enumerate(arms):
        for seed in seeds:
          path = space.folder(f'{arm}-s{seed}') / 'metrics.jsonl'
          lines = [line for line in read(path) if line['kind'] == 'eval']
          steps = [line['step'] for line in lines]
          of = lambda key, lines=lines: [
            line[f'dynamics/{key}'] for line in lines
          ]
          label = arm if seed == seeds[0] else None
          axes.plot(steps, of(name), f'C{i}', label=label)
          if name == 'score_fake':
            axes.plot(steps, of('score_real'), f'C{i}--')
      if name == 'gradient':
        axes.set_yscale('log')
      axes.set_xlabel('steps')
      axes.set_ylabel(title)
      axes.legend(frameon=False)
      axes.grid(alpha=0.3)

    space.page.figure(f'images-{name}', draw, title)
