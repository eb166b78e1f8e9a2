"""Every variant of every config: a program, and shapes without data."""

from pathlib import Path

import jax
import pytest

from jaxlab import main
from jaxlab.core.errors import InputError
from jaxlab.engine import mesh
from jaxlab.engine.compiled import first_state
from jaxlab.runs import configs, stage
from tests import runs

FILES = sorted(path.stem for path in (runs.ROOT / 'configs').glob('*.py'))
ALL = [(name, variant) for name in FILES for variant in runs.variants_of(name)]


def test_every_config_has_a_smoke():
  assert runs.smokes() == FILES


@pytest.mark.parametrize('name, variant', ALL, ids=map(':'.join, ALL))
def test_a_variant_is_a_program_and_its_first_training_is_planned(
  name, variant, monkeypatch, tmp_path
):
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(tmp_path))
  config = runs.config_of(name, variant).to_dict()
  assert config['title'] and config['claimed']
  if config.get('data', {}).get('measure'):  # what the data would say
    known = {'num_classes': 3, 'channels': 3, 'size': 32}
    config['data'] |= {**known, 'mean': (0.5,), 'std': (0.2,)}
  stages = main.program_of(config)
  names = [one.name for one in stages]
  assert len({*names}) == len(names)
  trained = [one for one in stages if one.steps]
  opens_its_graph = config['paper'] == 'mvs_gnn'
  if not trained or opens_its_graph:
    return
  devices = mesh.make(devices=jax.devices()[:1])
  space = stage.Workspace(Path('none'), config, devices, 0, offline=True)
  planned = trained[0].plan(space)
  assert planned.spec.keys() == planned.task.steps.keys()
  first = lambda key: first_state(planned.task, key)
  state = jax.eval_shape(first, jax.random.key(0))
  assert jax.tree.leaves(state.params)
  assert not [*tmp_path.iterdir()]


def test_a_variant_that_is_not_there_is_named_with_those_that_are():
  path = runs.path_of('lamb_images')
  with pytest.raises(InputError) as error:
    configs.load(path, 'smok')
  assert 'has no variant "smok"; known: \'\', ' in str(error.value)


@pytest.mark.parametrize(
  'paper, job, message',
  [
    ('lomb', 'task', 'config.paper = "lomb" is not one of advgan, al'),
    ('lamb', 'music', 'config.job = "music" is not one of finetuning, im'),
    ('examples.old_paper', 'task', 'there is no module examples.old_paper'),
  ],
)
def test_a_job_that_is_not_there_is_named(paper, job, message):
  with pytest.raises(InputError) as error:
    main.program_of({'paper': paper, 'job': job})
  assert message in str(error.value)
