"""The stackers of one seed, and the controls beside them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy.special import log_softmax

from jaxlab.ops import calibration
from jaxlab.papers.doc_regions import method, trainings
from jaxlab.papers.doc_regions.documents import Documents
from jaxlab.papers.doc_regions.plans import Plans
from jaxlab.runs.stage import Workspace

Config = Mapping[str, Any]
_COARSE = (16, 12)  # mean pixels of the control


def temperatures(log_p: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """[r]: of each region's network; 1 where none fits best."""
  found = []
  for region in range(log_p.shape[1]):
    try:
      found.append(calibration.fit_temperature(log_p[:, region], labels))
    except calibration.NoTemperature:
      found.append(1.0)
  return np.array(found)


def scaled(log_p: np.ndarray, by: np.ndarray) -> np.ndarray:
  """Log-probabilities [n, r, k] at temperatures [r]."""
  return log_softmax(log_p / by[:, None], -1)


class Seed(NamedTuple):
  """What the networks of one seed say, and the stackers about it."""

  test: np.ndarray  # [n, r, k] of the bases
  cool: np.ndarray  # the same, at the temperatures of the paper's protocol
  answers: dict[tuple[str, str], np.ndarray]  # (model, protocol) -> [n, k]
  outside: dict[str, dict[str, np.ndarray]]  # OOD set -> model -> [m, k]
  lost: np.ndarray | None  # [r], accuracy lost without each region


def stack_seed(
  config: Config, space: Workspace, found: Documents, plans: Plans
) -> Seed:
  """Fits the stackers of one seed and asks everything about the test pages."""
  c = config['stack']
  both = lambda a, b: {
    part: np.concatenate([a[part], b[part]], 1) for part in a
  }
  log_p = lambda plan: trainings.log_p(space, plan.name)
  full = both(log_p(plans.holistic), log_p(plans.regions))
  outside = {name: full[name] for name in found.outside}
  options = {x: c[x] for x in ('penalty', 'hidden', 'steps')}
  options['seed'] = plans.holistic.seed
  validation, train = found.parts['validation'], found.parts['train']
  sets = {'paper': (full['validation'], validation.label, validation.group)}
  if plans.folds:
    held = np.zeros((len(train.label), *full['test'].shape[1:]), np.float32)
    for pair in plans.folds:
      _, rows = trainings.rows_of(config, found, pair[0].fold)
      held[rows] = both(*map(log_p, pair))['held']
    sets['oof'] = held, train.label, train.group
  answers: dict[tuple[str, str], np.ndarray] = {}
  elsewhere: dict[str, dict[str, np.ndarray]] = {
    name: {'holistic': pages[:, 0]} for name, pages in outside.items()
  }
  names = [spec.name for spec in (*plans.holistic.specs, *plans.regions.specs)]
  for region, name in enumerate(names):
    answers[name, '–'] = full['test'][:, region].astype(np.float64)
  lost = None
  for protocol in c['protocols']:
    base, labels, groups = sets[protocol]
    by = temperatures(base, labels)
    by = by if c['scaled'] else np.ones_like(by)
    fit, test = scaled(base, by), scaled(full['test'], by)
    for kind in c['kinds']:
      stacker = method.Stacker(kind, **options).fit(fit, labels, groups)
      answers[kind, protocol] = stacker.predict_log_proba(test)
      for name, pages in outside.items():
        one = stacker.predict_log_proba(scaled(pages, by))
        elsewhere[name][f'{kind}, {protocol}'] = one
    if lost is None:
      told = found.parts['test'].label
      lost = method.leave_one_out('mean', (fit, labels), (test, told))
  if plans.direct:
    direct = log_p(plans.direct)['test']
    for region, spec in enumerate(plans.direct.specs):
      answers[f'{spec.name}, direct', '–'] = direct[:, region]
  if plans.pixels:
    answers['holistic, more pixels', '–'] = log_p(plans.pixels)['test'][:, 0]
  if config['controls']['coarse'] and train.image is not None:
    answers['logistic of mean pixels', '–'] = _coarse(found)
  by = temperatures(full['validation'], validation.label)
  cool = scaled(full['test'], by)
  return Seed(full['test'], cool, answers, elsewhere, lost)


def _coarse(found: Documents) -> np.ndarray:
  """[n, k] log-probabilities by 16 x 12 mean pixels: how hard the set is."""
  from sklearn.linear_model import LogisticRegression
  from threadpoolctl import threadpool_limits

  train, test = found.parts['train'], found.parts['test']
  with threadpool_limits(1):
    model = LogisticRegression(C=1.0, max_iter=3000)
    model.fit(_mean_pixels(train.image), train.label)
    known = model.predict_log_proba(_mean_pixels(test.image))
  log_p = np.full((len(known), len(found.classes)), -30.0)
  log_p[:, model.classes_] = known
  return log_p


def _mean_pixels(image: Any) -> np.ndarray:
  """[n, 192] in [0, 1]: means of fields of pages [n, h, w, 1] uint8."""
  rows, columns = (
    np.linspace(0, length, parts + 1).astype(int)[:-1]
    for length, parts in zip(image.shape[1:3], _COARSE)
  )
  sums = np.add.reduceat(image[..., 0].astype(np.float32), rows, 1)
  sums = np.add.reduceat(sums, columns, 2).reshape(len(image), -1)
  return sums / sums.max()
