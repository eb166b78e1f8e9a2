"""Collectives counted in a program's text, loops included."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxlab.engine import mesh
from jaxlab.planning import hlo

_TEXT = """\
HloModule jit_step, entry_computation_layout={()->f32[]}

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  ROOT %s = f32[] add(%x, %x)
}

%body.1 (p: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %g = bf16[4,8]{1,0:T(8,128)(2,1)} all-reduce(%fusion.32), to_apply=%add
  ROOT %t = (s32[], bf16[4,8]) tuple(%i, %g)
}

%condition.1 (p: (s32[], bf16[4,8])) -> pred[] {
  %constant.58 = s32[]{:T(256)} constant(24)
  ROOT %lt = pred[] compare(%i, %constant.58), direction=LT
}

%body.2 (p: s32[]) -> s32[] {
  %two = (f32[3]{0}, s32[5]{0}) all-reduce(%a, %b), to_apply=%add
  ROOT %i = s32[] add(%p, %p)
}

%condition.2 (p: s32[]) -> pred[] {
  ROOT %lt = pred[] compare(%p, %p), direction=LT
}

ENTRY %main.3 (a: f32[]) -> f32[] {
  %while.1 = (s32[], bf16[4,8]) while(%t0), condition=%condition.1, body=%body.1
  %while.2 = s32[] while(%t1), condition=%condition.2, body=%body.2, \
backend_config={"known_trip_count":{"n":"7"}}
  %start = (f32[2], f32[16]) all-gather-start(%q), channel_id=2, dimensions={0}
  %done = f32[16] all-gather-done(%start)
  ROOT %x = f32[] parameter(0)
}
"""


def test_a_collective_in_a_loop_counts_as_often_as_the_loop_turns():
  found = hlo.collectives(_TEXT)
  assert found == [
    hlo.Collective('all-reduce', ('bf16',), 64, 24),
    hlo.Collective('all-reduce', ('f32', 's32'), 32, 7),
    hlo.Collective('all-gather', ('f32',), 64, 1),
  ]


def test_a_collective_that_goes_on_piece_by_piece_counts_once():
  pieces = _TEXT.replace(
    '  %g = bf16',
    '  %piece = f32[16] all-gather(%q), channel_id=2, dimensions={0}\n'
    '  %more = f32[16] all-gather(%q), channel_id=2, dimensions={0}\n'
    '  %g = bf16',
  )
  assert pieces.count('channel_id=2') == 3
  assert hlo.collectives(pieces) == hlo.collectives(_TEXT)


@pytest.mark.parametrize('turns', [3, 5])
def test_the_collectives_of_a_program_compiled_here_are_found(turns):
  devices = mesh.make()
  rows = NamedSharding(devices, PartitionSpec('data'))
  whole = NamedSharding(devices, PartitionSpec())

  def step(w, x):
    def body(h, _):
      # The sum over rows is over devices: an all-reduce a turn.
      return h + (x.T @ (x @ h)), None

    return jax.lax.scan(body, w, None, length=turns)[0]

  w = jax.ShapeDtypeStruct((16, 4), jnp.float32, sharding=whole)
  x = jax.ShapeDtypeStruct((32, 16), jnp.float32, sharding=rows)
  compiled = jax.jit(step, out_shardings=whole).lower(w, x).compile()
  found = hlo.collectives(compiled.as_text())
  assert [(c.kind, c.bytes, c.times) for c in found] == [
    ('all-reduce', 16 * 4 * 4, turns)
  ]
