"""BERT-Large on the paper's pod: which leaf is cut how, against a golden table.

To write the table anew after a wanted change, run this file as a program.
"""

import json
import math
from functools import partial
from pathlib import Path
from unittest import mock

import jax
from jax.sharding import AbstractMesh

from jaxlab.core.state import paths
from jaxlab.engine import partition
from jaxlab.engine.compiled import first_state
from jaxlab.papers.lamb import pretraining
from jaxlab.runs import stage
from tests.papers.lamb_jobs import config_of

GOLDEN = Path(__file__).parents[1] / 'goldens' / 'bert_large_partition.json'


def table():
  """path -> [shape, spec] of every leaf of State on a 32 x 64 mesh."""
  config = config_of('bert_lamb', 'paper')
  mesh = AbstractMesh((32, 64), ('replica', 'data'))
  space = stage.Workspace(None, config, mesh, 0)
  with mock.patch('jaxlab.engine.mesh.platform', lambda mesh: 'tpu'):
    planned = pretraining.program(config)[0].plan(space)
  made = partial(first_state, planned.task)
  state = jax.eval_shape(made, jax.random.key(0))
  layout = partition.shardings(state, mesh, planned.rules)
  found = dict(paths(layout))
  return {
    path: [list(leaf.shape), str(found[path].spec)]
    for path, leaf in paths(state)
  }, found


def test_the_partition_table_is_the_golden_one():
  assert table()[0] == json.loads(GOLDEN.read_text())


def test_every_moment_above_a_megabyte_is_cut_32_ways_or_more():
  found, layout = table()
  cut = {}
  for path, (shape, _) in found.items():
    if path.startswith('opt/') and 4 * math.prod(shape) > 2**20:
      local = layout[path].shard_shape(tuple(shape))
      cut[path] = math.prod(shape) // math.prod(local)
  assert len(cut) == 20
  assert min(cut.values()) >= 32


if __name__ == '__main__':
  GOLDEN.parent.mkdir(exist_ok=True)
  GOLDEN.write_text(json.dumps(table()[0], indent=1) + '\n')
