"""`--plan`: a program compiled for a TPU slice that is not there.

  python -m jaxlab.main --config=configs/bert_lamb.py:paper --plan=v3:32x32

Each topology is compiled in a process of its own. Nothing is computed and no
data is read: State and batches are shapes.
"""

import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxlab.core import keys
from jaxlab.core.errors import DoesNotFitError, InputError
from jaxlab.core.state import State
from jaxlab.core.update import guarded
from jaxlab.engine import mesh
from jaxlab.engine.compiled import Steps, abstract_state
from jaxlab.engine.metrics import say
from jaxlab.planning import flops, hlo, topology
from jaxlab.runs import workdir
from jaxlab.runs.stage import Planned, Stage, Workspace

MFU = (0.3, 0.5, 1.0)  # shares of the peak that minutes are given for
_GIB = 2**30


@dataclass(frozen=True)
class Row:
  """One step kind of one stage on one topology."""

  topology: str
  stage: str
  kind: str
  mesh: dict[str, int]
  chips: int
  cores: int
  fits: bool
  hbm_bytes: int  # of a core
  bytes: dict[str, int]  # of a core: arguments, temporaries, peak, …
  collectives: list[dict[str, Any]]
  compile_seconds: float
  step_flops: float  # of the model, globally
  program_flops: float  # with what is recomputed
  floor_ms: dict[str, float]  # compute, hbm, ici, of one step
  steps: int
  minutes: dict[str, float]  # MFU -> of all steps
  why: str = ''  # where it does not fit
  same_as: str = ''  # a stage with the same step, whose row this is


def rows(
  stages: Sequence[Stage], space: Workspace, place: topology.Topology
) -> list[Row]:
  """Compiles every training stage for the devices of `space.mesh`.

  Raises:
    InputError: no stage says what it would compile.
  """
  found: list[Row] = []
  seen: dict[str, Row] = {}  # by the program before it is compiled
  for stage in stages:
    if stage.plan is None:
      continue
    planned = stage.plan(space)
    for kind in planned.task.steps:
      args = *shapes(planned, kind, space.mesh), _key()
      steps = Steps(planned.task, planned.max_bad_steps, args[0])
      lowered = steps.lower(kind, *args)
      digest = hashlib.sha256(lowered.as_text().encode()).hexdigest()
      if first := seen.get(digest):
        row = _again(first, stage, kind, planned)
      else:
        say(f'{place.name}: compiling the {kind} step of {stage.name}')
        row = seen[digest] = _row(
          stage, kind, planned, space, place, lowered, args
        )
      found.append(row)
  if not found:
    raise InputError('this config has no training stage to plan')
  return found


def _key():
  return jax.eval_shape(lambda: keys.stream(0, 'train'))


def _again(first: Row, stage: Stage, kind: str, planned: Planned) -> Row:
  """The row of a step that was compiled for another stage."""
  scale = planned.steps / first.steps
  return replace(
    first,
    stage=stage.name,
    kind=kind,
    compile_seconds=0.0,
    steps=planned.steps,
    minutes={mfu: m * scale for mfu, m in first.minutes.items()},
    same_as=first.stage,
  )


def _row(stage: Stage, kind, planned, space, place, lowered, args) -> Row:
  start, why, sizes, found = time.monotonic(), '', {}, []
  compiled, text = None, ''
  try:
    compiled, text = _compile(lowered)
  except jax.errors.JaxRuntimeError as error:
    why = _too_large(error)
    if not why:
      raise
  seconds = time.monotonic() - start
  if compiled is not None:
    sizes = _sizes(compiled.memory_analysis())
    found = hlo.collectives(text)
  update = guarded(planned.task.steps[kind], planned.max_bad_steps)
  program = flops.count(update, *args)
  model = planned.flops.get(kind, program)
  chip, per_chip = place.chip, place.devices_per_chip
  peak = place.chips * chip.teraflops * 1e12
  return Row(
    topology=place.name,
    stage=stage.name,
    kind=kind,
    mesh=dict(space.mesh.shape),
    chips=place.chips,
    cores=len(place.devices),
    fits=compiled is not None,
    hbm_bytes=int(chip.hbm_gib * _GIB / per_chip),
    bytes=sizes,
    collectives=[{**c._asdict(), 'dtypes': list(c.dtypes)} for c in found],
    compile_seconds=round(seconds, 1),
    step_flops=model,
    program_flops=program,
    floor_ms={
      'compute': 1e3 * program / peak,
      'hbm': _hbm_ms(sizes, chip, per_chip),
      'ici': _ici_ms(found, chip, per_chip),
    },
    steps=planned.steps,
    minutes={
      f'{mfu:.0%}': planned.steps * model / (mfu * peak) / 60 for mfu in MFU
    },
    why=why,
  )


def _compile(lowered) -> tuple[Any, str]:
  """The compiled program and its optimised text.

  The text is what the compiler writes down: libtpu hands out modules that this
  JAX cannot read back (v5p and v6e, collectives in pieces of three operands).
  """
  with tempfile.TemporaryDirectory() as folder:
    options = {'xla_dump_to': folder, 'xla_dump_hlo_as_text': True}
    compiled = lowered.compile(compiler_options=options)
    files = Path(folder).glob('*.after_optimizations.txt')
    largest = max(files, key=lambda path: path.stat().st_size)
    return compiled, largest.read_text()


def shapes(planned: Planned, kind: str, devices) -> tuple[State, dict]:
  """State and one batch of a kind, as shapes with their layouts."""
  state = abstract_state(planned.task, devices, planned.rules)
  rows = NamedSharding(devices, PartitionSpec(mesh.row_axes(devices)))
  ways = mesh.row_ways(devices)
  batch = {}
  for name, array in planned.spec[kind].items():
    if array.shape[0] % ways:
      raise InputError(
        f'batch of {array.shape[0]} rows ("{name}" of step kind "{kind}") does '
        f'not divide by the {ways} cores that share the rows; take another '
        'topology or a multiple of that'
      )
    batch[name] = jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=rows)
  length = next(iter(batch.values())).shape[:1]
  mask = jax.ShapeDtypeStruct(length, np.bool_, sharding=rows)
  batch.setdefault('mask', mask)
  return state, batch


def _sizes(stats) -> dict[str, int]:
  """Bytes of one device; donated arguments are counted once."""
  sizes = {
    'arguments': stats.argument_size_in_bytes,
    'results': stats.output_size_in_bytes - stats.alias_size_in_bytes,
    'temporaries': stats.temp_size_in_bytes,
    'code': stats.generated_code_size_in_bytes,
  }
  return {**sizes, 'peak': sum(sizes.values())}


def _too_large(error) -> str:
  """The compiler's own words where a program does not fit; else ''."""
  said = str(error)
  if 'RESOURCE_EXHAUSTED' not in said:
    return ''
  used = re.search(r'Used ([\d.]+\w+) of ([\d.]+\w+) hbm', said)
  return used[0] if used else ' '.join(said.split())[:200]


def _hbm_ms(sizes, chip, per_chip) -> float:
  """Arguments and results once, temporaries written and read once."""
  moved = (
    sizes.get('arguments', 0)
    + sizes.get('arguments', 0)  # what is donated is written again
    + sizes.get('results', 0)
    + 2 * sizes.get('temporaries', 0)
  )
  return 1e3 * moved * per_chip / (chip.hbm_gbps * 1e9)


def _ici_ms(found: Sequence[hlo.Collective], chip, per_chip) -> float:
  """All links of a chip busy all the time; an all-reduce sends twice."""
  sent = sum(
    c.bytes * c.times * (2 if c.kind == 'all-reduce' else 1) for c in found
  )
  return 1e3 * sent * per_chip / (chip.ici_gbps * 1e9)


def as_json(
  stages: Sequence[Stage], space: Workspace, place: topology.Topology
) -> list[dict[str, Any]]:
  """`rows` as JSON."""
  return [asdict(row) for row in rows(stages, space, place)]


def in_processes(
  argv: Sequence[str], names: Sequence[str], folder: Path, paper: Mapping
) -> None:
  """Plans each topology in its own process; prints and writes the table.

  Raises:
    InputError: a plan failed; the others are kept.
    DoesNotFitError: a step needs more memory than there is.
  """
  found: list[Row] = []
  failed = []
  for name in names:
    path = folder / f'plan-{re.sub(r"[^A-Za-z0-9]+", "_", name)}.json'
    path.unlink(missing_ok=True)
    command = [sys.executable, '-m', 'jaxlab.main', *argv[1:]]
    done = subprocess.run([*command, f'--plan={name}', f'--plan_child={path}'])
    if done.returncode:
      failed.append(name)
    else:
      found += [Row(**row) for row in json.loads(path.read_text())]
  if found:
    text = table(found, paper)
    print(text, flush=True)
    workdir.write_json(folder / 'plan.json', [asdict(row) for row in found])
    say(f'plan: {folder / "plan.json"}')
  if failed:
    raise InputError(f'no plan for {", ".join(failed)}: see above')
  if lacking := _lacking(found):
    raise DoesNotFitError(lacking[0])


def table(found: Sequence[Row], paper: Mapping[str, Any]) -> str:
  """The plans as a Markdown table, totals and the paper's own time below."""
  lines = [
    *_lacking(found),
    '| topology | stage | chips (cores) | fits | GiB a core: arguments + '
    'temporaries, of | collectives a step | floor ms: compute, HBM, ICI | '
    'minutes at 30/50/100 % MFU | compiled in |',
    '|---|---|---|---|---|---|---|---|---|',
  ]
  for row in found:
    size = row.bytes
    memory = (
      f'{_digits(size["arguments"] / _GIB)} + '
      f'{_digits(size["temporaries"] / _GIB)}'
      if size
      else row.why
    )
    floor = row.floor_ms
    minutes = ' / '.join(map(_digits, row.minutes.values()))
    compiled = f'{row.compile_seconds:.0f} s'
    lines.append(
      f'| {row.topology} | {row.stage}'
      + (f' {row.kind}' if row.kind != 'train' else '')
      + f' | {row.chips} ({row.cores}) | {"yes" if row.fits else "NO"} | '
      f'{memory}, of {row.hbm_bytes / _GIB:.1f} | {_summed(row.collectives)} | '
      f'{", ".join(_digits(floor[name]) for name in floor)} | '
      f'{minutes} | {f"as {row.same_as}" if row.same_as else compiled} |'
    )
  lines += ['', *_totals(found), *_reported(found, paper)]
  return '\n'.join(lines)


def _digits(value: float) -> str:
  """Three significant digits: 0.0123, 1.50, 12.3, 1,234."""
  if value >= 100 or not value:
    return f'{value:,.0f}'
  return f'{value:#.3g}'


def _lacking(found: Sequence[Row]) -> list[str]:
  """Which steps do not fit, by how much, and what to change."""
  lines = []
  for row in found:
    if row.fits:
      continue
    said = re.search(r'Used ([\d.]+)([KMG]) of ([\d.]+)([KMG])', row.why)
    by = ''
    if said:
      unit = {'K': 2**10, 'M': 2**20, 'G': 2**30}
      over = float(said[1]) * unit[said[2]] - float(said[3]) * unit[said[4]]
      by = f' by {_digits(over / _GIB)} GiB a core'
    lines.append(
      f'DOES NOT FIT{by}: the {row.kind} step of {row.stage} on {row.topology} '
      f'({row.why}); take a smaller config.data.batch_size or more '
      'micro_batches where the config has them, another config.mesh, or a '
      'larger topology'
    )
  return lines + ([''] if lines else [])


def _summed(collectives) -> str:
  total: dict[str, list[int]] = {}
  for c in collectives:
    name = f'{c["kind"]} {"/".join(c["dtypes"])}'
    entry = total.setdefault(name, [0, 0])
    entry[0] += c['times']
    entry[1] += c['times'] * c['bytes']
  return (
    '; '.join(
      f'{count} {name} {_digits(size / 1e6)} MB'
      for name, (count, size) in total.items()
    )
    or 'none'
  )


def _totals(found) -> list[str]:
  lines = []
  for name in dict.fromkeys(row.topology for row in found):
    mine = [row for row in found if row.topology == name]
    total = {k: sum(row.minutes[k] for row in mine) for k in mine[0].minutes}
    pairs = ', '.join(f'{_digits(v)} min at {k}' for k, v in total.items())
    lines.append(f'{name}, all stages: {pairs} of the peak')
  return lines


def _reported(found, paper: Mapping[str, Any]) -> list[str]:
  """What share of the peak the paper's own time amounts to."""
  first = found[0].topology
  total = sum(
    row.step_flops * row.steps for row in found if row.topology == first
  )
  lines = []
  for name, entry in paper.items():
    if not isinstance(entry, Mapping) or 'minutes' not in entry:
      continue
    for kind, chip in topology.CHIPS.items():
      chips = entry.get(f'tpu_{kind}_chips')
      if chips:
        peak = chips * chip.teraflops * 1e12
        share = total / (peak * 60 * entry['minutes'])
        lines.append(
          f'the paper ({name}): {entry["minutes"]} min on {chips} {kind} chips'
          f' = {share:.1%} of their peak, for the FLOPs planned here'
        )
  return lines
