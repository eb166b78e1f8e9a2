"""AdvGAN against adversarially trained networks: from a config to stages.

Two protocols stand beside each other. Transfer: examples are made for an
undefended network, and the attacker does not know of the defence, as in the
paper's table. Adaptive: a generator, and APGD, against the defended network
itself.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlab.core import keys
from jaxlab.core.require import at_least, one_of, require, some
from jaxlab.ops.apgd import apgd
from jaxlab.papers.advgan import game, judgement, stages
from jaxlab.recipes import images
from jaxlab.recipes.judge import args_of
from jaxlab.recipes.study import Cell, study_of
from jaxlab.runs.model import Model
from jaxlab.runs.stage import Stage, judged_by

Config = Mapping[str, Any]


def program(config: Config) -> list[Stage]:
  """For each seed an undefended network and its generator; for each defence
  a network, a generator against it, and a judgement.

  Raises:
    InputError: a value that cannot be; nothing has been computed yet.
  """
  stages.check(config)
  judgement.check(config)
  c = config['defended']
  require(
    config,
    {
      'study.arms': some(one_of(*stages.DEFENCES)),
      'defended.model': one_of(*config['models']),
      'defended.apgd_steps': at_least(1),
      'defended.apgd_restarts': at_least(1),
    },
  )
  study = study_of(
    config, config['study']['arms'], ('transfer/success', 'adaptive/success')
  )
  before = []
  for seed in config['study']['seeds']:
    plain = f'plain-s{seed}'
    before += [
      stages.target_stage(config, plain, seed, c['model']),
      stages.game_stage(config, f'{plain}-game', seed, c['model'], plain),
    ]
  found = study.stages(lambda cell: cell_stages(config, cell))
  return judged_by([*before, *found], 'judge.')


def cell_stages(config: Config, cell: Cell) -> list[Stage]:
  """`DEFENCE-sSEED-target`, `DEFENCE-sSEED` and `DEFENCE-sSEED-judge`."""
  c, plain = config['defended'], f'plain-s{cell.seed}'
  target = f'{cell.name}-target'
  own = stages.with_model(config, c['model'], config['attack']['split'])

  def judge(space):
    task = images.image_task(own, space.offline)
    of = game.make(own, task.network)
    args = args_of(space.artefact(target))
    logits = judgement.logits_of(task.network, args)
    few = config['judge']['attacked']
    test = judgement.test_images(config, task.sets, few)
    key = keys.stream(space.seed, 'judge')
    labels = jnp.asarray(test['label'])
    aims = of.aims(key, jnp.arange(len(labels)), labels)
    aimed = judgement.Aimed(
      test['image'], test['label'], np.asarray(aims), logits(test['image'])
    )
    blind = space.artefact(f'{plain}-game')
    made = {
      'AdvGAN, transfer': judgement.Generated(of, blind.params['gen'])(aimed)
    }
    usual = judgement.iterative(
      of, judgement.usual_attacks(of), args_of(blind), aimed, key
    )
    made |= {f'{name}, transfer': one for name, one in usual.items()}
    seeing = space.artefact(cell.name)
    made['AdvGAN, adaptive'] = judgement.Generated(of, seeing.params['gen'])(
      aimed
    )
    name = f'APGD-{c["apgd_steps"]} x {c["apgd_restarts"]}, adaptive'
    strong = apgd(
      judgement.aim_objective(of),
      epsilon=config['attack']['epsilon'],
      steps=c['apgd_steps'],
      restarts=c['apgd_restarts'],
    )
    made |= judgement.iterative(of, {name: strong}, args, aimed, key)
    rows = []
    for attack, one in made.items():
      targeted = of.targeted and judgement.CW not in attack
      found = judgement.hits(one, logits, targeted)
      rows.append(judgement.row(attack, one, found))
    space.page.table(
      f'Success against a network trained with {cell.arm}',
      judgement.COLUMNS,
      rows,
      show=True,
    )
    by_name = {row['attack']: row for row in rows}
    accuracy = (aimed.clean.argmax(-1) == test['label']).mean()
    return {
      'test/transfer/success': by_name['AdvGAN, transfer']['success'],
      'test/adaptive/success': by_name['AdvGAN, adaptive']['success'],
      'test/apgd/success': by_name[name]['success'],
      'test/clean_accuracy': float(accuracy),
    }

  other = f'{plain}-game' if cell.arm == 'advgan' else plain
  return [
    stages.target_stage(config, target, cell.seed, c['model'], cell.arm, other),
    stages.game_stage(config, cell.name, cell.seed, c['model'], target),
    Stage(f'{cell.name}-judge', judge),
  ]


def predict(model: Model, inputs: np.ndarray) -> list[dict[str, Any]]:
  """As `task.predict`."""
  return judgement.answer(model, inputs)
