"""What jobs call keys of the judgement is read by no training."""

import jax
import pytest

from jaxlab import main
from jaxlab.engine import mesh
from jaxlab.runs import stage, workdir
from tests import runs

# Config, variant -> keys that a training reads all the same, and why it may.
JOBS = {
  # Outliers of test sets are left out; `outliers_sha256` tells if others are.
  ('aloe', 'smoke'): {'ood.sets'},
  ('advgan', 'smoke'): set(),
  ('bayes_cnn', 'smoke'): set(),
  ('encouraging', 'smoke'): set(),
  ('gaan', 'smoke'): set(),
  ('mvs_gnn', 'smoke'): set(),
  ('reprogramming', 'smoke'): set(),
}


class Watched(dict):
  """A config that tells which keys are looked at."""

  def __init__(self, config, seen, prefix=''):
    super().__init__(
      {
        k: Watched(v, seen, f'{prefix}{k}.') if isinstance(v, dict) else v
        for k, v in config.items()
      }
    )
    self.seen, self.prefix = seen, prefix

  def __getitem__(self, key):
    self.seen.add(self.prefix + key)
    return super().__getitem__(key)

  def __deepcopy__(self, memo):
    return Watched(dict(self), self.seen, self.prefix)


@pytest.mark.parametrize('job', JOBS, ids=lambda job: job[0])
def test_no_training_reads_keys_of_the_judgement(job, tmp_path, monkeypatch):
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(tmp_path / 'data'))
  name, variant = job
  seen: set[str] = set()
  config = Watched(runs.config_of(name, variant).to_dict(), seen)
  devices = mesh.make(devices=jax.devices()[:1])
  stages = main.program_of(config)
  space = stage.Workspace(tmp_path, config, devices, 0, offline=True)
  trainings = [one for one in stages if one.steps]
  judging = trainings[0].unread
  assert judging and all(one.unread == judging for one in stages)
  keys = workdir.flatten(config)
  known = [key for key in keys if workdir._among(key, judging)]
  assert known, f'{judging} are not keys of the config'
  seen.clear()
  trainings[0].plan(space)
  trainings[0].open(space)
  read = {key for key in known if key in seen}
  assert read <= JOBS[job]
