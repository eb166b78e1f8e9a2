"""Adversarial reprogramming: from a config to stages.

Every arm of `config.arms` changes some values of the config: another victim,
another mask. Each is a stage `ARM-sSEED-victim`, which brings the weights, and
a stage `ARM-sSEED`, which trains the program alone.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core import keys
from jaxlab.core.errors import InputError
from jaxlab.core.require import above, at_least, multiple_of, one_of, require
from jaxlab.core.state import State, Task, Update
from jaxlab.core.update import accumulate, chain, every, minimise
from jaxlab.engine import mesh
from jaxlab.engine.compiled import Start
from jaxlab.engine.evaluate import measure
from jaxlab.engine.feed import Feed
from jaxlab.engine.loop import Inputs, Options
from jaxlab.engine.metrics import say
from jaxlab.ops.adversarial import of_batch
from jaxlab.ops.attacks import pgd
from jaxlab.papers.reprogramming import (
  counting,
  inputs,
  judgement,
  label_map,
  method,
  victims,
)
from jaxlab.papers.reprogramming.inputs import TaskImages
from jaxlab.recipes import images, optimizers
from jaxlab.recipes.study import Cell, study_of
from jaxlab.runs.model import Kept, Model
from jaxlab.runs.stage import Figures, Stage, Workspace, judged_by, training

Config = Mapping[str, Any]


def program(config: Config) -> list[Stage]:
  """Victims and their programs, and the table of all.

  Raises:
    InputError: a value that cannot be; nothing has been computed yet.
  """
  # Differences of one seed's runs are those of the stage `arms`.
  alone = ('none',) if len(config['study']['seeds']) == 1 else ()
  study = study_of(config, [*config['arms']], ('accuracy', 'nats'), alone)
  arms = {arm: arm_of(config, arm) for arm in study.arms}
  for one in arms.values():
    check(one)
  stages = study.stages(lambda cell: cell_stages(arms[cell.arm], cell))
  if len(arms) > 1:
    stages.append(judgement.comparison(config, study))
  return judged_by(stages, 'claim.')


def arm_of(config: Config, arm: str) -> dict[str, Any]:
  """The config with an arm's values, dotted key -> value, in their places."""
  found = deepcopy(dict(config))
  for key, value in config['arms'][arm].items():
    section: Any = found
    *path, last = key.split('.')
    for name in path:
      section = section.get(name, {})
    if last not in section:
      raise InputError(
        f'config.arms.{arm} changes "{key}", which the config does not have'
      )
    section[last] = value
  return found


def check(config: Config) -> None:
  """Raises InputError where a value cannot be."""
  p = config['program']
  require(
    config,
    {
      'program.init': at_least(0, 'the deviation of W; 0 starts at zeros'),
      'program.penalty': at_least(0),
      'program.reduction': one_of('sum', 'half_sum', 'mean'),
      'program.alpha': above(0),
      'program.width': at_least(0, '0: a program all around'),
      'program.mapping': one_of('fixed', 'frequency'),
      'program.remap_every': at_least(1),
      'program.micro_batches': at_least(1),
      'data.batch_size': multiple_of(p['micro_batches'] or 1),
      'program.permuted': one_of(True, False),
      'claim.times_chance': at_least(1),
    },
  )
  inputs.check(config)
  victims.check(config)
  victim = victims.victim_of(config)
  side = TaskImages(config, victim.channels, True).side
  method.mask_around(victim.size, side, 1, p['width'] or None)
  _groups(config, victim)
  optimizers.make(config['optimizer'], config['train']['steps'], 1.0)


def _groups(config: Config, victim: victims.Victim) -> list[tuple[int, ...]]:
  tasks, first = config['data']['num_classes'], config['victim']['first_class']
  given = config['program']['groups']
  found = [tuple(x) for x in given] or label_map.first_groups(tasks, first)
  label_map.check_groups(found, tasks, victim.classes, first)
  return found


class Parts(NamedTuple):
  """A config as the functions that its stages are made of."""

  victim: victims.Victim
  data: TaskImages
  groups: Callable[[Any], Any]  # State.vars -> the label map
  join: Callable[..., jax.Array]  # (x, W, vars) -> images
  attempt: Callable[..., method.Attempt]  # (params, vars, batch)


def parts_of(config: Config, offline: bool = True) -> Parts:
  """The functions of a config (an arm's); no data is opened yet."""
  p, victim = config['program'], victims.victim_of(config)
  data = TaskImages(config, victim.channels, offline)
  mask = method.mask_around(victim.size, data.side, 1, p['width'] or None)
  fixed = _groups(config, victim)

  def groups(vars):
    if p['mapping'] == 'frequency':
      return vars['mapping']['labels'][:, None]
    return fixed

  def join(x, weights, vars):
    return method.embed(
      x,
      weights,
      mask,
      p['alpha'],
      permutation=vars.get('pixels'),
      carrier=vars.get('carrier'),
      clip=victim.range,
    )

  attempt = method.attempted(victim.logits, data.read, join)
  return Parts(victim, data, groups, join, attempt)


def make_update(
  config: Config, parts: Parts, rate: float, platform: str
) -> Update:
  """One step of the program; of the victim no gradient is taken.

  Args:
    platform: that it is for: micro-batches are unrolled on 'cpu', where
      convolutions inside loops are slow.
  """
  p = config['program']
  loss = method.reprogramming_loss(
    parts.attempt, parts.groups, p['penalty'], p['reduction']
  )
  tx = optimizers.make(config['optimizer'], config['train']['steps'], rate)
  if p['micro_batches'] > 1:
    unroll = platform == 'cpu'
    step = accumulate(p['micro_batches'], loss, 'program', tx, unroll=unroll)
  else:
    step = minimise(loss, 'program', tx)
  if p['mapping'] == 'frequency':
    return chain(every(p['remap_every'], _remap), step)
  return step


def _remap(state: State, batch, key):
  """Draws the label map up anew and begins to count again."""
  del batch, key
  counts = state.vars['mapping']['counts']
  new = {
    'labels': label_map.frequency_map(counts),
    'counts': jnp.zeros_like(counts),
  }
  good = {'nonfinite': (jnp.zeros(()), jnp.ones(()))}
  return state.replace(vars={**state.vars, 'mapping': new}), good


def cell_stages(config: Config, cell: Cell) -> list[Stage]:
  """The victim's stage and the program's."""
  name = f'{cell.name}-victim'
  return [_victim_stage(config, name, cell), _program_stage(config, name, cell)]


def _victim_stage(config: Config, name: str, cell: Cell) -> Stage:
  v = config['victim']
  if v['weights'] == 'trained':
    return _trained(config['training'], name, cell.seed)

  def load(space):
    return victims.variables(config, cell.seed, space.offline)

  def run(space):
    found = space.artefacts[name] = load(space)
    if v['weights'] != 'pretrained':
      return {}
    victim = victims.victim_of(config)
    try:
      figures = victims.recognised(victim, found, space.offline)
    except InputError as error:
      say(f'{name}: not tried on photographs: {error}')
      return {}
    space.page.headline(
      f'{v["name"]} on images of {v["size"]} x {v["size"]}: top-1 '
      f'{figures["top1"]:.2f}, top-5 {figures["top5"]:.2f} of '
      f'{figures["photographs"]:.0f} photographs'
    )
    return figures

  return Stage(name, run, load=load)


def _trained(section: Config, name: str, seed: int) -> Stage:
  """A small victim, trained plainly or, with a budget, on attacked images."""
  attack = section['attack']

  def update(task: images.ImageTask, space: Workspace) -> Update:
    crafted = None
    if attack['epsilon']:
      crafted = pgd(
        of_batch(task.logits),
        epsilon=attack['epsilon'],
        steps=attack['steps'],
        keep='last',
        unroll=mesh.platform(space.mesh) == 'cpu',
      )
    tx = optimizers.make(section['optimizer'], section['train']['steps'])
    return images.supervised(task, tx, attack=crafted)

  def finish(space, found, result):
    figures = images.test_figures(space, found, result)
    if attack['epsilon']:
      figures |= {'epsilon': attack['epsilon']}
    return {k.replace('test/', 'victim/'): v for k, v in figures.items()}

  return images.classifier_stage(
    name,
    section,
    update,
    options=Options(**section['train']),
    seed=seed,
    finish=finish,
  )


def _program_stage(config: Config, of_victim: str, cell: Cell) -> Stage:
  p, d = config['program'], config['data']
  shapes = inputs.spec(config)

  def init(key):
    parts = parts_of(config)
    first, second = jax.random.split(key)
    victim = parts.victim
    shape = (victim.size, victim.size, victim.channels)
    params, vars = _like_the_victim(config, victim, first)
    weights = p['init'] * jax.random.normal(second, shape)
    if p['mapping'] == 'frequency':
      tasks = d['num_classes']
      counts = jnp.zeros((tasks, victim.classes), jnp.float32)
      labels = label_map.frequency_map(counts)
      vars = {**vars, 'mapping': {'labels': labels, 'counts': counts}}
    if p['permuted']:
      order = keys.stream(config['seed'], 'pixels')
      vars = {**vars, 'pixels': method.pixel_order(order, victim.size)}
    if p['carrier'] >= 0:
      vars = {**vars, 'carrier': jnp.zeros(shape)}
    return {**params, 'program': {'weights': weights}}, vars

  def task(space, opened):
    parts = opened.data if opened else parts_of(config)
    rate, platform = cell.rate(space), mesh.platform(space.mesh)
    return Task(init, {'train': make_update(config, parts, rate, platform)})

  def open_inputs(space):
    parts = parts_of(config, space.offline)
    held = parts.data.held_out('validation', space.mesh)
    evaluator = judgement.judged(parts.attempt, parts.groups)
    feed = Feed(
      parts.data.source(d['batch_size'], cell.seed),
      space.mesh,
      workers=d['workers'],
      ahead=d['ahead'],
    )
    return Inputs(feed, {'validation': (evaluator, held)}, data=parts)

  def start(space):
    left = space.artefact(of_victim)
    if isinstance(left, State):
      params, vars = left.params['net'], left.vars['net']
    else:
      params, vars = left['params']['net'], left['vars']['net']
    more = {}
    if p['carrier'] >= 0:
      size = config['victim']['size']
      photo = victims.photograph(p['carrier'], size, space.offline)
      more = {'carrier': 2 * photo - 1}
    return Start(params={'net': params}, vars={'net': vars, **more})

  def finish(space, opened, result) -> Figures:
    parts: Parts = opened.data
    feed = parts.data.held_out('test', space.mesh)
    evaluator, _ = opened.evals['validation']  # compiled already
    figures = measure('test', evaluator, feed, result.state, space.seed)
    judgement.show(
      config,
      space,
      parts.attempt,
      parts.groups,
      result.state,
      feed,
      figures,
      space.figures(of_victim),
    )
    return figures

  return training(
    cell.name,
    cell.options(config['train']),
    spec=lambda space: shapes,
    task=task,
    inputs=open_inputs,
    finish=finish if cell.final else None,
    seed=cell.seed,
    start=start,
    keep=(lambda space, opened, result: kept(config, opened.data))
    if cell.final
    else None,
  )


def kept(config: Config, parts: Parts) -> Kept:
  """What goes beside a program: the config of its arm, and small images."""
  d, data = config['data'], parts.data
  if not data.counting:
    return images.kept(config, data.sets)
  takes = {
    'kind': 'image',
    'height': data.side,
    'width': data.side,
    'channels': 3,
    'fit': 'crop',
  }
  some, _ = counting.counting_squares(jax.random.key(0), 2, d['cell'])
  names = [f'{n + 1} squares' for n in range(d['num_classes'])]
  return Kept(
    takes,
    [np.uint8(255 * x) for x in np.asarray(some)],
    {'classes.json': names},
    config,
    data={d['name']: 'none needed: it is drawn'},
  )


def _like_the_victim(config: Config, victim: victims.Victim, key):
  """Weights of its shapes, for the victim's own to take the place of."""
  if config['victim']['weights'] == 'random':
    return victim.network.init(key)
  shapes = jax.eval_shape(victim.network.init, key)
  return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def predict(model: Model, inputs: np.ndarray) -> list[dict[str, Any]]:
  """The task's labels of its small images, by the reprogrammed victim.

  Args:
    inputs: [n, k, k, c] uint8, or float32 in [0, 1].

  Returns:
    One answer an image: `label`, its `probability`, `probabilities` of the
    labels' sets of classes, and `class`, the victim's own answer.

  Raises:
    InputError: images of another size.
  """
  parts = parts_of(model.config)
  side, channels = parts.data.side, 3 if parts.data.counting else 0
  channels = channels or model.config['data']['channels']
  images.check_images(inputs, side, side, channels)

  @jax.jit
  def run(params, vars, images):
    x = parts.data.as_read(images)
    joined = parts.join(x, params['program']['weights'], vars)
    logits = parts.victim.logits(joined, params, vars)
    each = method.mapped_log_probability(logits, parts.groups(vars))
    return jnp.exp(each), logits.argmax(-1)

  found = []
  rows = model.config['data']['eval_batch_size']
  for start in range(0, len(inputs), rows):
    p, top = run(model.params, model.vars, inputs[start : start + rows])
    found += [
      {
        'label': int(np.argmax(row)),
        'probability': float(np.max(row)),
        'probabilities': np.asarray(row).tolist(),
        'class': int(of),
      }
      for row, of in zip(p, top)
    ]
  return found
