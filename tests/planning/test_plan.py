"""`--plan`: what fits a TPU slice, said on a machine that has none."""

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from jaxlab import main
from jaxlab.core.errors import InputError
from jaxlab.engine import mesh
from jaxlab.planning import plan, topology
from jaxlab.runs import stage
from tests import runs

ROOT = Path(__file__).parents[2]
tpu = [
  pytest.mark.tpu,
  pytest.mark.skipif(
    find_spec('libtpu') is None, reason='libtpu is not installed'
  ),
]


def run(folder, config, *flags):
  """`--plan` in a process of its own: one at a time can hold libtpu."""
  done = subprocess.run(
    [
      *(
        sys.executable,
        '-m',
        'jaxlab.main',
        f'--config={ROOT}/configs/{config}',
      ),
      *(f'--workdir={folder}', *flags),
    ],
    capture_output=True,
    text=True,
    cwd=ROOT,
    env={k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'},
    check=False,
  )
  rows = []
  if (folder / 'plan.json').exists():
    rows = json.loads((folder / 'plan.json').read_text())
  return done, rows


def row(**changes):
  values = {
    'topology': 'v3:2x2',
    'stage': 'pretrain',
    'kind': 'train',
    'mesh': {'data': 8},
    'chips': 4,
    'cores': 8,
    'fits': True,
    'hbm_bytes': 16 * 2**30,
    'bytes': {'arguments': 2**30, 'temporaries': 2**29, 'peak': 2**31},
    'collectives': [
      {'kind': 'all-reduce', 'dtypes': ['f32'], 'bytes': 10**6, 'times': 24},
      {'kind': 'all-reduce', 'dtypes': ['f32'], 'bytes': 10**6, 'times': 1},
    ],
    'compile_seconds': 3.0,
    'step_flops': 4 * 123e12 * 60.0,
    'program_flops': 5 * 123e12 * 60.0,
    'floor_ms': {'compute': 1.0, 'hbm': 2.0, 'ici': 3.0},
    'steps': 2,
    'minutes': {'30%': 6.7, '50%': 4.0, '100%': 2.0},
  }
  return plan.Row(**{**values, **changes})


def test_the_table_sums_stages_and_works_out_the_papers_own_time():
  paper = {'job': {'minutes': 8.0, 'tpu_v3_chips': 4}, 'other': {'f1': 90.0}}
  too_large = row(
    stage='second', fits=False, bytes={}, why='Used 17.50G of 15.75G hbm'
  )
  text = plan.table([row(), too_large], paper)
  assert text.startswith(
    'DOES NOT FIT by 1.75 GiB a core: the train step of second on v3:2x2'
  )
  assert 'config.data.batch_size' in text.split('\n')[0]
  assert '| v3:2x2 | pretrain | 4 (8) | yes | 1.00 + 0.500, of 16.0 |' in text
  assert '25 all-reduce f32 25.0 MB' in text
  assert '| v3:2x2 | second | 4 (8) | NO |' in text
  assert '13.4 min at 30%, 8.00 min at 50%, 4.00 min at 100%' in text
  # Two stages of two steps of one minute each at the peak, in eight minutes.
  assert 'the paper (job): 8.0 min on 4 v3 chips = 50.0% of their peak' in text


def test_a_plan_that_does_not_fit_ends_with_1(tmp_path, monkeypatch, capsys):
  def planned(fits):
    def run(command):
      path = re.search('--plan_child=(.*)', command[-1])[1]
      Path(path).write_text(json.dumps([asdict(row(fits=fits, why='no'))]))
      return SimpleNamespace(returncode=0)

    return run

  flags = ['--config=bert_lamb:smoke', '--plan=v3:2x2', f'--workdir={tmp_path}']
  for fits, code in ((True, 0), (False, 1)):
    monkeypatch.setattr(plan.subprocess, 'run', planned(fits))
    assert main.main(['jaxlab', *flags]) == code
  said = capsys.readouterr()
  assert '\nDOES NOT FIT: the train step' in said.out
  assert 'jaxlab: DOES NOT FIT' in said.err


def test_the_same_step_is_compiled_once(monkeypatch, tmp_path):
  config = runs.config_of('encouraging', 'smoke').to_dict()
  one = mesh.make(devices=jax.devices()[:1])
  space = stage.Workspace(tmp_path, config, one, 0, offline=True)
  first, *rest = main.program_of(config)
  longer = lambda space: first.plan(space)._replace(steps=3 * first.steps)
  stages = [first, first._replace(name='longer', plan=longer), *rest]
  compiled = []

  def counted(lowered):
    compiled.append(lowered)
    return None, ''

  monkeypatch.setattr(plan, '_compile', counted)
  place = topology.Topology('v3:1x1', topology.CHIPS['v3'], 1, [0])
  rows = plan.rows(stages, space, place)
  assert len(compiled) == 1 and len(rows) > 1
  assert [row.stage for row in rows] == [one.name for one in stages if one.plan]
  one, again = rows[:2]
  assert (one.same_as, again.same_as) == ('', one.stage)
  assert again.program_flops == one.program_flops
  assert again.steps == 3 * one.steps
  assert again.minutes['30%'] == pytest.approx(3 * one.minutes['30%'])


@pytest.mark.parametrize(
  'name, message',
  [
    ('v9:2x2', 'no TPU is called "v9"; valid names look like v2:4x4, v3:32x32'),
    ('v3', 'has no shape; write v3:32x32'),
    ('32x32', 'no TPU is called "32x32"'),
  ],
)
def test_a_wrong_name_lists_the_valid_ones(name, message):
  with pytest.raises(InputError) as caught:
    topology.describe(name)
  assert message in str(caught.value)


def test_libtpu_that_is_absent_is_named(monkeypatch):
  monkeypatch.setattr(topology.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(InputError, match=r'pip install .jaxlab.plan.'):
    topology.describe('v3:2x2')


def test_libtpu_that_another_process_holds_is_named():
  said = 'ABORTED: Internal error when accessing libtpu multi-process lockfile'
  found = topology._explained('v3:2x2', 1, RuntimeError(said))
  assert 'another process holds libtpu' in str(found)


class TestOnTopologies:
  pytestmark = tpu

  def test_a_small_bert_fits_and_its_collectives_are_bounded(self, tmp_path):
    done, rows = run(
      tmp_path,
      'bert_lamb.py:smoke',
      '--plan=v3:2x2,v6e:2x2',
      '--config.sharding.layout=zero1',
      '--config.sharding.min_bytes=4096',
      '--config.model.dtype=bfloat16',
      '--config.optimizer.clip_norm=0.0',  # it has a norm of its own
    )
    assert done.returncode == 0, done.stderr
    assert [(r['topology'], r['chips'], r['cores']) for r in rows] == [
      ('v3:2x2', 4, 8),
      ('v6e:2x2', 4, 4),
    ]
    for found in rows:
      assert found['fits']
      assert 0 < found['bytes']['peak'] < found['hbm_bytes']
      # Gradients are summed and new parameters gathered once, those of the
      # tied word embedding twice: 4 bytes each.
      numbers = 183_554 + 1024 * 64
      for kind in ('all-reduce', 'all-gather'):
        moved = sum(
          c['bytes'] * c['times']
          for c in found['collectives']
          if c['kind'] == kind
        )
        assert 0 < moved < 1.05 * 4 * numbers, kind
      assert not any('bf16' in c['dtypes'] for c in found['collectives'])
      # Trust ratios need the norms of all leaves at once, not leaf by leaf.
      small = [
        c
        for c in found['collectives']
        if c['kind'] == 'all-reduce'
        and 'f32' in c['dtypes']
        and c['bytes'] < 2**14
      ]
      assert sum(c['times'] for c in small) <= 3
      assert found['minutes']['50%'] == pytest.approx(
        2 * found['minutes']['100%']
      )
    assert 'v3:2x2, all stages:' in done.stdout

  def test_mistakes_are_input_errors(self, tmp_path):
    for flags, message in (
      (['--plan=v3:3x7'], 'libtpu knows no such topology'),
      (['--plan=v3:2x2', '--config.data.batch_size=12'], 'does not divide by'),
      (['--plan=v3:2x2', '--config.mesh.data=16'], 'do not multiply to the 8'),
    ):
      done, _ = run(tmp_path, 'bert_lamb.py:smoke', *flags)
      assert done.returncode == 2
      assert message in done.stderr

  @pytest.mark.slow
  def test_the_paper_recipe_fits_the_papers_pod(self, tmp_path):
    done, rows = run(tmp_path, 'bert_lamb.py:paper', '--plan=v3:32x32')
    assert done.returncode == 0, done.stderr
    assert [r['stage'] for r in rows] == ['pretrain', 'second']
    assert all(r['fits'] and r['hbm_bytes'] == 16 * 2**30 for r in rows)
    size = rows[0]['bytes']
    assert size['arguments'] + size['temporaries'] <= 3.0e9
    for found in rows:
      reduced = [c for c in found['collectives'] if c['kind'] == 'all-reduce']
      assert not any('bf16' in c['dtypes'] for c in reduced)
      # The trust ratios of 24 layers and of all other leaves.
      norms = [c for c in reduced if c['bytes'] < 64_000 and c['times'] == 1]
      assert len(norms) < 12
