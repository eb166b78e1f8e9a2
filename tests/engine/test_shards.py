"""The fingerprint of arrays in parts, here all of one process.

What several processes make of it is in tests/test_pod.py.
"""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxlab.engine import mesh, shards


def _leaves(count, spec, seed=0):
  rng = np.random.default_rng(seed)
  layout = NamedSharding(
    mesh.make({'data': -1, 'model': 2}, jax.devices()[:count]), spec
  )
  whole = mesh.replicated(layout.mesh)
  return {
    'params/w': jax.device_put(rng.normal(size=(16, 8)), layout),
    'params/v': jax.device_put(rng.normal(size=5), whole),
    'step': jax.device_put(np.int32(3), whole),
  }


SPECS = [
  PartitionSpec(),
  PartitionSpec('data'),
  PartitionSpec('model', 'data'),
  PartitionSpec(('data', 'model')),
]


def test_cuts_count_the_parts_along_each_dimension():
  found = [shards.cuts(_leaves(8, spec)) for spec in SPECS]
  assert [cut['params/w'] for cut in found] == [[1, 1], [4, 1], [2, 4], [8, 1]]
  assert {str(cut['params/v']) for cut in found} == {'[1]'}
  assert found[0]['step'] == []


@pytest.mark.parametrize('saved', SPECS)
def test_a_fingerprint_can_be_taken_again_under_any_layout(saved):
  leaves = _leaves(8, saved)
  cut = shards.cuts(leaves)
  wanted = shards.fingerprint(leaves, cut)
  for spec in SPECS:
    for count in (2, 4, 8):
      assert shards.fingerprint(_leaves(count, spec), cut) == wanted


def test_other_values_names_shapes_and_types_have_other_fingerprints():
  leaves = _leaves(8, PartitionSpec('data'))
  w = np.asarray(leaves['params/w'])
  flipped = w.copy()
  flipped.view(np.uint8).reshape(-1)[333] ^= 4
  layout = leaves['params/w'].sharding
  put = lambda array: jax.device_put(array, layout)
  changed = [
    {**leaves, 'params/w': put(flipped)},
    {**leaves, 'params/w': put(w[::-1].copy())},  # the same parts elsewhere
    {**leaves, 'params/w': put(w.reshape(8, 16))},
    {**leaves, 'params/w': put(w.view(np.int32))},
    {'params/u': leaves['params/w'], **leaves},
  ]
  prints = {shards.fingerprint(x, shards.cuts(x)) for x in [leaves, *changed]}
  assert len(prints) == 6
