"""AdvGAN against a network that only answers: from a config to stages.

The attacker has images of its own and a student of another architecture. The
black box is asked about all of its images once (`…-answers`); then the student
is distilled and the game is played against it, once (static) or in turn
(dynamic), and what G makes is judged by the black box.
"""

import importlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxlab.core import keys
from jaxlab.core.errors import InputError
from jaxlab.core.require import above, at_least, one_of, require, some
from jaxlab.core.state import Loss, Objective, State, Task, Update
from jaxlab.core.update import minimise
from jaxlab.engine import hosts
from jaxlab.engine.feed import Feed
from jaxlab.engine.loop import Inputs, Options
from jaxlab.engine.metrics import Meter
from jaxlab.ops.augment import to_float
from jaxlab.papers.advgan import distilled, game, judgement, method, stages
from jaxlab.papers.advgan.oracle import ANSWERS, Ask, Oracle
from jaxlab.recipes import images, optimizers
from jaxlab.recipes.judge import args_of
from jaxlab.recipes.study import Cell, study_of
from jaxlab.runs.model import Model
from jaxlab.runs.stage import Stage, Workspace, judged_by, training

Config = Mapping[str, Any]

ARMS = ('static', 'dynamic')
_ROWS = 500  # images of one question


def program(config: Config) -> list[Stage]:
  """Targets, their answers, and for each arm a student with its generator.

  Raises:
    InputError: a value that cannot be; nothing has been computed yet.
  """
  check(config)
  study = study_of(config, config['study']['arms'], ('success',))
  before = [
    stage for seed in config['study']['seeds'] for stage in box(config, seed)
  ]
  found = study.stages(lambda cell: cell_stages(config, cell))
  return judged_by([*before, *found], 'judge.')


def check(config: Config) -> None:
  """Raises InputError where a value cannot be."""
  stages.check(config)
  judgement.check(config)
  models = one_of(*config['models'])
  require(
    config,
    {
      'study.arms': some(one_of(*ARMS)),
      'blackbox.target': models,
      'blackbox.student': models,
      'blackbox.distil_steps': at_least(1),
      'blackbox.game_steps': at_least(1),
      'blackbox.refine_steps': at_least(1),
      'blackbox.rounds': at_least(1),
      'oracle.answers': one_of(*ANSWERS),
      'oracle.timeout_seconds': above(0),
    },
  )
  if hosts.count() > 1:
    raise InputError(
      'a black box is asked by one process, whose ledger counts; run the '
      'black-box job in one process'
    )
  if config['oracle']['callable']:
    _imported(config)


def box(config: Config, seed: int) -> list[Stage]:
  """The black box of a seed, and what it says of the attacker's images.

  `target-sSEED`, unless the config names a callable, and `answers-sSEED`.
  """
  name = f'answers-s{seed}'
  own = stages.with_model(
    config, config['blackbox']['student'], config['attack']['split']
  )

  def answers(space):
    sets = images.image_task(own, space.offline).sets
    pixels = sets.inliers(config['attack']['split'])['image']
    oracle = ask(config, space, seed)
    meter = Meter('questions', len(pixels))
    found = []
    for start in range(0, len(pixels), _ROWS):
      part = pixels[start : start + _ROWS]
      found.append(oracle(part.astype(np.float32) / 255))
      meter.advance(len(part))
    space.artefacts[name] = {'answers': np.concatenate(found)}
    path = space.folder(name) / 'answers.npy'
    np.save(path, space.artefacts[name]['answers'])
    return {'queries': float(oracle.queries)}

  def load(space):
    path = space.folder(name) / 'answers.npy'
    return {'answers': np.load(path, allow_pickle=False)}

  asked = Stage(name, answers, load=load, judges=False)
  if config['oracle']['callable']:
    return [asked]
  model = config['blackbox']['target']
  return [stages.target_stage(config, f'target-s{seed}', seed, model), asked]


def plan(config: Config, arm: str) -> list[distilled.Phase]:
  """The phases of an arm; both arms take the same number of steps of each
  network."""
  b = config['blackbox']
  rounds = b['rounds']
  if arm == 'dynamic':
    return distilled.phases(
      b['distil_steps'], b['game_steps'], b['refine_steps'], rounds
    )
  return distilled.phases(
    b['distil_steps'] + rounds * b['refine_steps'],
    (rounds + 1) * b['game_steps'],
    0,
    0,
  )


def cell_stages(config: Config, cell: Cell) -> list[Stage]:
  """`ARM-sSEED` and `ARM-sSEED-judge`."""
  b, d = config['blackbox'], config['data']
  own = stages.with_model(config, b['student'], config['attack']['split'])
  phases = plan(config, cell.arm)
  steps = sum(count for _, count in phases)
  shape = (d['size'], d['size'], d['channels'])

  def played(space):
    task = images.image_task(own, space.offline)
    return task, game.make(own, task.network)

  def task(space, inputs):
    _, of = played(space)
    kinds = {kind for kind, _ in phases}
    updates = steps_of(of, own, steps)
    return Task(
      lambda key: _initial(of, key),
      {kind: updates[kind] for kind in sorted(kinds)},
    )

  def inputs(space):
    made, of = played(space)
    answers = space.artefact(f'answers-s{cell.seed}')['answers']
    ledger = space.folder(cell.name) / 'queries.jsonl'
    source = distilled.Distilled(
      {**made.sets.inliers(config['attack']['split']), 'answers': answers},
      phases,
      ask(config, space, cell.seed, ledger),
      changer(of, cell.seed),
      batch_size=d['batch_size'],
      seed=cell.seed,
    )
    held = made.sets.held_out(d['validation_split'], space.mesh)
    return Inputs(
      Feed(source, space.mesh, ahead=d['ahead']),
      {'validation': (game.success(of), held)},
      data=ledger,
    )

  def finish(space, inputs, result):
    counted = Oracle(_nobody, inputs.data, classes=d['num_classes']).queries
    first = space.figures(f'answers-s{cell.seed}')['queries']
    return {'test/queries': float(counted + (first or 0.0))}

  def judge(space):
    made, of = played(space)
    state = space.artefact(cell.name)
    ledger = space.folder(f'{cell.name}-judge') / 'queries.jsonl'
    oracle = ask(config, space, cell.seed, ledger)
    return judgement.judge(own, space, of, made.sets, state, oracle)

  return [
    training(
      cell.name,
      Options(**{**config['train'], 'steps': steps}),
      spec=lambda space: distilled.spec(
        d['batch_size'],
        shape,
        d['num_classes'],
        sorted({kind for kind, _ in phases}),
      ),
      task=task,
      inputs=inputs,
      finish=finish,
      seed=cell.seed,
      keep=lambda space, opened, result: images.kept(
        own, images.image_task(own, space.offline).sets
      ),
    ),
    Stage(f'{cell.name}-judge', judge),
  ]


def ask(config: Config, space: Workspace, seed: int, ledger=None) -> Oracle:
  """The black box of a seed: a user's callable, or the target trained here.

  Args:
    ledger: where its questions are counted; default: that of `answers-sSEED`.
  """
  c = config['oracle']
  if c['callable']:
    asked, answers = _imported(config), c['answers']
  else:
    model, split = config['blackbox']['target'], config['target']['split']
    own = stages.with_model(config, model, split)
    network = images.image_task(own).network
    args = args_of(space.artefact(f'target-s{seed}'))
    asked, answers = _spoken(judgement.logits_of(network, args), c['answers'])
  return Oracle(
    asked,
    ledger or space.folder(f'answers-s{seed}') / 'queries.jsonl',
    classes=config['data']['num_classes'],
    answers=answers,
    timeout=c['timeout_seconds'],
  )


def _spoken(logits: Ask, answers: str) -> tuple[Ask, str]:
  """Our own target, answering with logits or with labels alone."""
  if answers == 'labels':
    return lambda images: logits(images).argmax(-1), answers
  return logits, 'logits'


def _imported(config: Config) -> Ask:
  """The callable `PACKAGE.MODULE:NAME` of a user."""
  named = config['oracle']['callable']
  module, _, name = named.partition(':')
  try:
    found = getattr(importlib.import_module(module), name)
  except (ImportError, AttributeError, ValueError) as error:
    raise InputError(
      f'config.oracle.callable = "{named}" cannot be had ({error}): give '
      'PACKAGE.MODULE:NAME, importable from here'
    ) from error
  if not callable(found):
    raise InputError(
      f'config.oracle.callable = "{named}" is a {type(found).__name__}: give a '
      'function of images [n, h, w, c] float32 in [0, 1]'
    )
  return found


def _nobody(images):
  raise AssertionError(images)


def changer(of: game.Game, seed: int) -> distilled.Change:
  """What a published generator makes of a batch, on the host."""
  key = keys.stream(seed, 'refine')

  @jax.jit
  def run(flat, image, ids, labels):
    aims = of.aims(key, ids, labels)
    gen = unflatten_dict(flat, sep='/')
    return of.attack(gen, to_float(image), aims)[0]

  return run


def steps_of(of: game.Game, config: Config, steps: int) -> dict[str, Update]:
  """Step kind -> update; all kinds share their optimizers' states."""
  student = optimizers.make(config['blackbox']['optimizer'], steps)
  played = game.update(of, steps)

  def publish(state: State, batch, key):
    state, metrics = played(state, batch, key)
    flat = flatten_dict(state.params['gen'], sep='/')
    sampler = {'published': flat}
    return state.replace(vars={**state.vars, 'sampler': sampler}), metrics

  return {
    'distil': minimise(student_loss(of, False), 'net', student, 'student'),
    'refine': minimise(student_loss(of, True), 'net', student, 'student'),
    'game': played,
    'publish': publish,
  }


def student_loss(of: game.Game, refined: bool) -> Loss:
  """H(b, f) on images, and on what G made of them where `refined`.

  Source: section 3.3.
  """

  def loss(params, vars, batch, key):
    del key
    mask = batch['mask']
    image = to_float(batch['image'])
    logits, new = of.network.train(params, vars, image, mask=mask)
    each = method.distillation(logits, batch['answers'])
    agree = logits.argmax(-1) == batch['answers'].argmax(-1)
    rows = game.masked_sum(jnp.ones(len(mask)), mask)
    metrics = {'agreement': (game.masked_sum(agree, mask), rows)}
    if refined:
      logits, new = of.network.train(
        params, {**vars, **new}, batch['changed'], mask=mask
      )
      each = each + method.distillation(logits, batch['changed_answers'])
      told = batch['changed_answers'].argmax(-1)
      agree = logits.argmax(-1) == told
      metrics['agreement_changed'] = (game.masked_sum(agree, mask), rows)
    return Objective(
      game.masked_sum(each, mask), rows, vars=new, metrics=metrics
    )

  return loss


def _initial(of: game.Game, key: jax.Array):
  params, vars = stages.initial(of, key)
  published = flatten_dict(params['gen'], sep='/')
  return params, {**vars, 'sampler': {'published': published}}


def predict(model: Model, inputs: np.ndarray) -> list[dict[str, Any]]:
  """What a generator makes of images and the student takes them for; as
  `task.predict`."""
  return judgement.answer(model, inputs)
