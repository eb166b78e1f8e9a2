"""Collectives of a compiled program, read off its text.

A collective inside a loop counts as often as the loop turns.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

KINDS = (
  'all-reduce',
  'all-gather',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
)
_BITS = {'pred': 8, 's4': 4, 'u4': 4, 'bf16': 16}  # others end in their bits
_HEAD = re.compile(r'^(?:ENTRY )?%?([\w.-]+) \(.*\{\s*$')
_COLLECTIVE = re.compile(
  rf'= (.*?) ({"|".join(KINDS)})(-start)?\(.*?(?:channel_id=(\d+)|$)',
  re.MULTILINE,
)
_WHILE = re.compile(r' while\(.*?condition=%?([\w.-]+), body=%?([\w.-]+)(.*)$')
_CALLED = re.compile(
  r'(?:calls|to_apply|true_computation|false_computation)=%?([\w.-]+)'
  r'|branch_computations=\{([^}]*)\}'
)
_SHAPE = re.compile(r'\b(pred|bf16|[suf]\d+(?:e\w+)?)\[([\d,]*)\]')


class Collective(NamedTuple):
  """All executions of one instruction in one step of one device."""

  kind: str  # one of KINDS
  dtypes: tuple[str, ...]  # 'bf16', 'f32', … of its results
  bytes: int  # of its results, in one execution
  times: int  # executions a step


def collectives(text: str) -> list[Collective]:
  """The collectives of an optimised HLO module, largest first."""
  blocks = dict(_blocks(text))
  entry = re.search(r'^ENTRY %?([\w.-]+)', text, re.MULTILINE)
  times = _times(blocks, entry[1] if entry else '')
  found: dict[str, Collective] = {}
  for name, lines in blocks.items():
    if not times.get(name):
      continue
    for shape, kind, start, channel in _COLLECTIVE.findall('\n'.join(lines)):
      one = Collective(kind, *_size(shape, kind, start), times[name])
      # TPUs go on with a collective piece by piece beside other work, in loops
      # too: all pieces have the channel of the one that begins it.
      key = channel or f'unnamed {len(found)}'
      if key not in found or one.times < found[key].times:
        found[key] = one
  return sorted(found.values(), key=lambda c: -c.bytes * c.times)


def _blocks(text: str) -> Iterator[tuple[str, list[str]]]:
  """Computations by name, each with its lines."""
  name = ''
  lines: list[str] = []
  for line in text.splitlines():
    head = _HEAD.match(line)
    if head:
      name, lines = head[1], []
    elif line.startswith('}') and name:
      yield name, lines
      name = ''
    else:
      lines.append(line)


def _times(blocks, entry) -> dict[str, int]:
  """How often each computation runs in a step."""
  times: dict[str, int] = {}
  queue = [(entry, 1)]
  while queue:
    name, count = queue.pop()
    times[name] = times.get(name, 0) + count
    for line in blocks.get(name, ()):
      loop = _WHILE.search(line)
      if loop:
        condition, body, rest = loop.groups()
        turns = _turns(rest, blocks.get(condition, ()))
        queue.append((body, count * turns))
        continue
      for called, branches in _CALLED.findall(line):
        names = [called] if called else re.findall(r'[\w.-]+', branches)
        queue += [(each, count) for each in names]
  return times


def _turns(rest: str, condition) -> int:
  """Turns of a loop: as XLA states them, or the bound it counts up to."""
  known = re.search(r'known_trip_count[^0-9]*(\d+)', rest)
  if known:
    return int(known[1])
  bounds = re.findall(r'constant\((\d+)\)', '\n'.join(condition))
  return max(map(int, bounds), default=1)


def _size(shape: str, kind: str, start: str) -> tuple[tuple[str, ...], int]:
  """dtypes and bytes of a result; of a tuple, all its parts."""
  parts = _SHAPE.findall(shape)
  if start and kind != 'all-reduce':
    parts = parts[len(parts) // 2 :]  # the operands come first
  total = 0
  for dtype, dimensions in parts:
    bits = _BITS.get(dtype) or int(re.sub(r'e.*', '', dtype[1:]))
    total += bits * math.prod(map(int, filter(None, dimensions.split(','))))
  return tuple(sorted({dtype for dtype, _ in parts})), total // 8
