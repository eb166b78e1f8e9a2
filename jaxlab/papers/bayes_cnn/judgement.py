"""How sure a trained arm is, and whether it is right to be."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core import keys
from jaxlab.core.errors import InputError
from jaxlab.data.images.sets import drawn
from jaxlab.engine import hosts
from jaxlab.engine.metrics import Meter, read
from jaxlab.evals.calibrate import reliability_diagrams
from jaxlab.evals.classify import answers_in
from jaxlab.evals.ood import collect
from jaxlab.ops import calibration
from jaxlab.ops.detection_metrics import auroc
from jaxlab.papers.bayes_cnn import arms, laplace, method, uncertainty
from jaxlab.papers.bayes_cnn.arms import POST_HOC, VARIATIONAL, Predictor
from jaxlab.recipes import pictures
from jaxlab.recipes.images import ImageTask, image_task
from jaxlab.recipes.study import Cell, Study
from jaxlab.runs.stage import Figures, Stage, Workspace

Config = Mapping[str, Any]

_KEPT = 'predictions.npz'


def stage(config: Config, cell: Cell) -> Stage:
  """The stage `ARM-sSEED-judge`: test figures of one trained arm."""
  base = 'deterministic' if cell.arm in POST_HOC else cell.arm
  trained = f'{base}-s{cell.seed}'
  name = f'{cell.name}-judge'

  def run(space):
    state = space.artefact(trained)
    task = image_task(config, space.offline)
    fitted = _fitted(config, cell.arm, task, state, space)
    found = arms.predictor(
      config,
      cell.arm,
      state.params,
      state.vars,
      keys.stream(cell.seed, 'predictions'),
      state.opt.get('net'),
      fitted,
    )
    figures = _judge(config, name, found, task, state, space)
    if cell.seed == config['study']['seeds'][0]:
      lines = read(space.folder(trained) / 'metrics.jsonl')
      figures |= _times(config, found, task, state, space, lines)
    if cell.arm == 'temperature':
      figures['temperature'] = fitted
    if cell.arm == 'laplace':
      figures['prior_precision'] = fitted.precision
    return figures

  return Stage(name, run)


def log_probabilities(
  found: Predictor, vars, feed, count: int, name: str
) -> np.ndarray:
  """Of all rows of a feed under the first draws: [T, n, k] float32."""
  run = jax.jit(found.logits)
  draws = count if found.draws is None else found.draws
  meter, parts = Meter(name, draws), []
  for t in range(draws):
    weights = found.weights(t)
    logits = lambda batch, weights=weights: run(weights, vars, batch)
    parts.append(collect({0: logits}, feed)[0])
    meter.advance()
  return np.asarray(jax.nn.log_softmax(jnp.asarray(np.stack(parts))))


def summary(log_p: np.ndarray, labels: np.ndarray) -> dict[str, float]:
  """Figures of [T, n, k] log-probabilities, of their mean and of its parts."""
  total = mean_log(log_p)
  found = calibration.summary(total, labels)
  aleatoric, epistemic = traces(log_p)
  entropy, information = method.entropy_split(np.exp(log_p))
  return {
    'accuracy': found['accuracy'],
    'nats': found['nll'],
    'brier': found['brier'],
    'ece': found['ece'],
    'aleatoric': float(aleatoric.mean()),
    'epistemic': float(epistemic.mean()),
    'expected_entropy': float(entropy.mean()),
    'mutual_information': float(information.mean()),
  }


def mean_log(log_p: np.ndarray) -> np.ndarray:
  """log mean_t p_t: [T, n, k] -> [n, k], never below log 1e-30."""
  p = np.exp(np.asarray(log_p, np.float64)).mean(0)
  return np.log(np.maximum(p, 1e-30))


def traces(log_p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Traces of the two covariances of each example: [n] each."""
  split = jax.jit(method.variance_split)(np.exp(log_p))
  aleatoric, epistemic = (np.trace(x, axis1=1, axis2=2) for x in split)
  return np.asarray(aleatoric), np.asarray(epistemic)


def _judge(config, name, found: Predictor, task, state, space) -> Figures:
  e, sets, vars = config['evaluation'], task.sets, state.vars
  look = partial(log_probabilities, found, vars, count=e['draws'], name=name)
  test = drawn(sets.inliers(config['data']['test_split']), e['examples'])
  log_p = look(feed=sets.once(test, space.mesh))
  figures = summary(log_p, test['label'])
  entropy, information = _scores(log_p)
  right = mean_log(log_p).argmax(-1) == test['label']
  curve = uncertainty.accuracy_rejection(entropy, right)
  figures['accuracy_of_surest_half'] = float(curve[len(curve) // 2])
  for other, split in e['ood']:
    outside = {'image': sets.ood(other, split, e['ood_examples'])}
    others = _scores(look(feed=sets.once(outside, space.mesh)))
    for kind, ins, outs in zip(
      ('total', 'epistemic'), (entropy, information), others
    ):
      figures[f'auroc/{other}/{kind}'] = auroc(-ins, -outs)
  count = e['corrupted_examples']
  for kind in e['corruptions']:
    # As many images of the test set are drawn by both, the same ones.
    labels = drawn(sets.inliers(config['data']['test_split']), count)['label']
    images = sets.ood(f'corrupted:{kind}', '', count)
    arrays = {'image': images, 'label': labels}
    shifted = look(feed=sets.once(arrays, space.mesh))
    few = summary(shifted, labels)
    for figure in ('accuracy', 'nats', 'ece'):
      figures[f'corrupted/{kind}/{figure}'] = few[figure]
  if hosts.leads():
    np.savez(
      space.folder(name) / _KEPT,
      log_p=mean_log(log_p).astype(np.float32),
      label=test['label'],
      entropy=entropy,
      parts=np.stack(traces(log_p)),
    )
  return {f'test/{name}': float(value) for name, value in figures.items()}


def _scores(log_p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Total and epistemic uncertainty in nats: entropy, mutual information."""
  p = np.exp(log_p)
  total = uncertainty.entropy(jnp.asarray(p.mean(0)))
  return np.asarray(total), np.asarray(method.entropy_split(p)[1])


def _fitted(config, arm: str, task: ImageTask, state, space: Workspace):
  """What a post-hoc arm takes from training or validation examples."""
  if arm not in POST_HOC:
    return None
  d, sets = config['data'], task.sets
  run = jax.jit(lambda batch: task.logits(state.params, state.vars, batch))
  if arm == 'temperature':
    held = sets.inliers(d['validation_split'])
    logits = collect({0: run}, sets.once(held, space.mesh))[0]
    try:
      return calibration.fit_temperature(logits, held['label'])
    except calibration.NoTemperature as error:
      raise InputError(f'temperature: {error}') from error
  feed = sets.once(sets.inliers(d['train_split']), space.mesh)

  @jax.jit
  def look(batch):
    image = task.prepare(jax.random.key(0), batch)
    (phi,) = task.network.features(
      image, state.params, state.vars, ('embedding',)
    )
    return phi

  found = collect({'phi': look, 'logits': run}, feed, f'{arm} features')
  head = jax.device_get(state.params['net']['head'])
  p = np.asarray(jax.nn.softmax(found['logits']))
  return laplace.fit(
    found['phi'],
    p,
    head['kernel'],
    head['bias'],
    config['laplace']['precision'],
  )


def _times(config, found: Predictor, task, state, space, lines) -> Figures:
  """Seconds of an update, and of a batch's prediction by T draws."""
  d = config['data']
  rates = [
    line['examples_per_second']
    for line in lines
    if 'examples_per_second' in line
  ]
  figures = {'test/seconds_an_update': d['batch_size'] / np.median(rates)}
  some = drawn(task.sets.inliers(d['test_split']), d['eval_batch_size'])
  _, _, batch = next(task.sets.once(some, space.mesh).batches(0, 1))
  run = jax.jit(found.logits)

  def predicted(count):
    began = time.perf_counter()
    for t in range(count):
      t = t if found.draws is None else t % found.draws
      jax.block_until_ready(run(found.weights(t), state.vars, batch))
    return time.perf_counter() - began

  predicted(1)
  asked = config['evaluation']['timed_draws']
  for count in asked if found.draws is None else (found.draws,):
    took = np.median([predicted(count) for _ in range(3)])
    figures[f'test/seconds_a_batch_of_{count}_draws'] = float(took)
  return figures


# --- the figures of the report ---


def figures_stage(config: Config, study: Study) -> Stage:
  """The stage `figures`: the arms of the first seed side by side."""

  def run(space):
    kept = {}
    for arm in study.arms:
      name = f'{study.finals(arm)[0].name}-judge'
      with np.load(space.folder(name) / _KEPT) as held:
        kept[arm] = dict(held)
    space.page.figure(
      'rejection',
      _rejection(kept),
      'Accuracy of the examples kept; the most uncertain (entropy) go first',
    )
    tables = {
      arm: calibration.reliability(x['log_p'], x['label'])
      for arm, x in kept.items()
    }
    space.page.figure(
      'reliability', reliability_diagrams(tables), 'Confidence and accuracy'
    )
    own = [arm for arm in study.arms if arm in VARIATIONAL]
    figures = {}
    if own:
      state = space.artefact(study.finals(own[0])[0].name)
      ratios = jax.device_get(method.signal_to_noise(state.params['net']))
      space.page.figure(
        'signal_to_noise', _histogram(ratios), f'|μ| / σ of {own[0]}, by layer'
      )
      flat = np.concatenate([x.ravel() for x in jax.tree.leaves(ratios)])
      figures['share_of_weights_below_1'] = float((flat < 1).mean())
    _most_uncertain(config, space, kept, (own or study.arms)[0])
    _beside_the_paper(config, space, study)
    return figures

  return Stage('figures', run)


def _rejection(kept: Mapping[str, Mapping]) -> Callable[[Any], None]:
  def draw(axes):
    for arm, x in kept.items():
      right = x['log_p'].argmax(-1) == x['label']
      curve = uncertainty.accuracy_rejection(x['entropy'], right)
      most = int(0.95 * len(curve)) or 1
      axes.plot(np.arange(most) / len(curve), curve[:most], label=arm)
    axes.set_xlabel('share rejected')
    axes.set_ylabel('accuracy of the rest')
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)

  return draw


def _histogram(ratios: Mapping[str, Mapping]) -> Callable[[Any], None]:
  def draw(axes):
    for layer, leaves in ratios.items():
      flat = np.concatenate([x.ravel() for x in jax.tree.leaves(leaves)])
      values = np.log10(np.maximum(flat, 1e-4))
      axes.hist(values, 60, density=True, histtype='step', label=layer)
    axes.set_xlabel('log10 of |μ| / σ')
    axes.set_ylabel('density')
    axes.legend(frameon=False)

  return draw


def _most_uncertain(config, space, kept: Mapping, arm: str) -> None:
  x = kept[arm]
  task = image_task(config, space.offline)
  split = config['data']['test_split']
  test = drawn(task.sets.inliers(split), config['evaluation']['examples'])
  aleatoric, epistemic = x['parts']
  labels = []
  order = np.argsort(-x['entropy'], kind='stable')[:16]
  for i in order:
    guess = x['log_p'][i].argmax()
    labels.append(
      f'{x["label"][i]}, seen {guess}\n'
      f'a {aleatoric[i]:.2f}  e {epistemic[i]:.2f}'
    )
  space.page.images(
    'most_uncertain',
    test['image'][order],
    labels,
    f'The most uncertain test images of {arm}: label, answer, traces of '
    'aleatoric (a) and epistemic (e) covariance',
  )
  answers = answers_in(np.exp(x['log_p']), x['label'])
  classes = task.sets.classes
  pictures.classified(space.page, answers, classes, arm)
  worst = test['image'][answers.ids]
  pictures.mistakes(space.page, answers, worst, classes, arm)


def _beside_the_paper(config, space, study: Study) -> None:
  """The paper's validation accuracies beside ours."""
  known = dict(config.get('paper_reported', {}))
  names = [arm for arm in study.arms if arm in ('deterministic', *VARIATIONAL)]
  rows = []
  for arm in names:
    cells = [f'{cell.name}-judge' for cell in study.finals(arm)]
    ours = [space.figures(name)['test/accuracy'] for name in cells]
    key = 'frequentist' if arm == 'deterministic' else 'bayesian'
    rows.append([arm, known.get(f'{key}_accuracy'), _mean(ours)])
  space.page.table(
    'Accuracy: the paper (on its validation set, its epochs) and here (test)',
    ['arm', 'paper', 'here'],
    [[a, '–' if p is None else p, o] for a, p, o in rows],
  )


def _mean(values: Sequence[float | None]) -> float:
  return float(np.mean([np.nan if v is None else v for v in values]))
