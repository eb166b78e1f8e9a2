"""Answers of a trained model, from its run alone: no data, no network.

  python -m jaxlab.predict RUN "and god [MASK] the light day"
  python -m jaxlab.predict RUN/aloe-s0 one.png two.jpg --json
  python -m jaxlab.predict RUN "Who came?" --context "Ann came."
  python -m jaxlab.predict RUN --context @text.txt "Who came?"
  python -m jaxlab.predict RUN 0 17 254               # nodes of its graph
  python -m jaxlab.predict RUN graph.json             # whole graphs
  python -m jaxlab.predict RUN -- -0.5,0.25           # codes, points, features
  python -m jaxlab.predict RUN --samples=8 --out=DIR  # of a generator
  python -m jaxlab.predict RUN                        # its own example

RUN is the --workdir of a run with one model, RUN/STAGE one of several, or a
folder `model` wherever it was copied to. In Python: `jaxlab.load(RUN)`.

Exit codes: 0 done; 2 bad input.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlab.command import Parser, exit_code
from jaxlab.core.errors import InputError
from jaxlab.runs import record

if TYPE_CHECKING:  # loads JAX: a mistyped path is answered before
  from jaxlab.runs.model import Model

_TOP = 5  # classes shown
_MOST = 8  # numbers of a list shown


def load(run: str | os.PathLike) -> 'Model':
  """The model that a run left: `config`, `params`, `vars`, `predict(inputs)`.

  Args:
    run: WORKDIR where it has one model, WORKDIR/<stage>, or a folder `model`.

  Raises:
    InputError: there is no such model, it is not finished, torn, or of another
      version; says what helps.
  """
  from dataclasses import replace

  from jaxlab import main
  from jaxlab.runs import model

  folder, of = record.of_model(Path(run).expanduser())
  cure = 'copy the folder again'
  if of:
    report = folder.parent / 'report.json'
    cure += (
      f', or remove {report} and run {of.command}: nothing is trained again'
    )
  found = model.read(folder, cure)
  answers = main.predict_of(found.about['paper'], found.about['job'])
  return replace(found, answers=answers)


def main(argv: Sequence[str]) -> int:
  """Predicts for the arguments of a command line; returns the exit code."""
  return exit_code(
    lambda: _run(_parser().parse_intermixed_args(list(argv[1:])))
  )


def _parser() -> Parser:
  found = Parser('jaxlab.predict', __doc__)
  found.add_argument('run', metavar='RUN')
  found.add_argument('inputs', nargs='*', metavar='INPUT')
  found.add_argument('--json', action='store_true', help='print JSON')
  found.add_argument('--context', help='of questions: a text, or @FILE')
  found.add_argument('--samples', type=int, help='draw so many codes')
  found.add_argument('--seed', type=int, default=0, help='of --samples')
  found.add_argument('--out', help='folder for the pictures that it makes')
  return found


def _run(args: argparse.Namespace) -> None:
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  model = load(args.run)
  names, inputs = given(model, args)
  answers = model.predict(inputs)
  plain = [
    _without_pictures(answer, args.out, f'{number}')
    for number, answer in enumerate(answers)
  ]
  if args.json:
    rows = [
      {'input': name, 'answer': _named(model, answer)}
      for name, answer in zip(names, plain)
    ]
    print(json.dumps(rows, indent=1, ensure_ascii=False))
    return
  for name, answer in zip(names, plain):
    print(name)
    for line in shown(model, answer):
      print(f'  {line}')


# --- inputs ---


def given(model: 'Model', args: argparse.Namespace) -> tuple[list, Any]:
  """Names of the inputs, and the inputs as `model.predict` takes them.

  Raises:
    InputError: what it cannot take.
  """
  inputs = model.inputs
  kind, words = inputs['kind'], args.inputs
  for flag, value, kinds in (
    ('--context', args.context, ('question',)),
    ('--samples', args.samples, ('vector',)),
  ):
    if value is not None and kind not in kinds:
      raise InputError(f'{flag}: this model takes inputs of kind "{kind}"')
  if args.samples is not None:
    return _drawn(inputs, words, args)
  if not words:
    print('no INPUT is given: this is its own example', file=sys.stderr)
    found = model.example()
    if kind in ('image', 'vector', 'graph'):
      return [f'example {i}' for i in range(len(found))], found
    return [str(x) for x in found], found
  read = {
    'text': _texts,
    'question': _questions,
    'image': _images,
    'number': _numbers,
    'graph': _graphs,
    'vector': _vectors,
  }
  return words, read[kind](inputs, words, args.context)


def _texts(inputs, words, context) -> list[str]:
  must = inputs.get('must')
  for text in words:
    if must and must not in text:
      raise InputError(f'"{text}" has no {must}; put it where a word is to be')
    if not text.strip():
      raise InputError('an INPUT is empty; give a text')
  return words


def _questions(inputs, words, context) -> list[tuple[str, str]]:
  if not context:
    raise InputError(
      'questions are answered from a text: give it with --context=TEXT or '
      '--context=@FILE'
    )
  if context.startswith('@'):
    context = _bytes(context[1:]).decode(errors='replace')
  return [(question, context) for question in words]


def _images(inputs, words, context) -> np.ndarray:
  from jaxlab.data.images.pixels import Canvas, decode

  size = inputs['height'], inputs['width']
  canvas = Canvas(size, inputs['channels'], inputs['fit'])
  found = []
  for path in words:
    data = _bytes(path)
    found.append(canvas(data, path))
    own = decode(data, what=path).shape
    if own != canvas.shape:
      print(
        f'{path}: {_size(own)} is brought to {_size(canvas.shape)}, '
        f'{inputs["fit"]}',
        file=sys.stderr,
      )
  return np.stack(found)


def _size(shape: tuple[int, ...]) -> str:
  return f'{shape[0]} x {shape[1]} {"grey" if shape[2] == 1 else "colour"}'


def _numbers(inputs, words, context) -> list[int]:
  try:
    return [int(word) for word in words]
  except ValueError as error:
    raise InputError(
      f'{error}; this model takes whole numbers in [0, {inputs["count"]})'
    ) from error


def _graphs(inputs, words, context) -> list[dict]:
  found = []
  for path in words:
    try:
      found.append(json.loads(_bytes(path)))
    except ValueError as error:
      raise InputError(
        f'{path} is not JSON ({error}); give {{"nodes": '
        f'[n][{inputs["features"]}], "edges": [[0, 1], …]}}'
      ) from error
  return found


def _vectors(inputs, words, context) -> np.ndarray:
  length, rows = inputs['length'], []
  for word in words:
    try:
      row = [float(x) for x in word.split(',')]
    except ValueError as error:
      raise InputError(
        f'"{word}" is not a list of numbers ({error}); write {length} of them '
        'with commas, behind --'
      ) from error
    if len(row) != length:
      raise InputError(
        f'"{word}" has {len(row)} numbers; this model takes {length}'
      )
    rows.append(row)
  return np.array(rows, np.float32)


def _drawn(inputs, words, args) -> tuple[list[str], np.ndarray]:
  if words or args.samples < 1 or 'low' not in inputs:
    raise InputError(
      '--samples draws codes of a generator: give a number >= 1, no INPUT, and '
      'the run of one'
    )
  size = args.samples, inputs['length']
  rng = np.random.default_rng(args.seed)
  codes = rng.uniform(inputs['low'], inputs['high'], size)
  return [f'sample {i}' for i in range(len(codes))], codes.astype(np.float32)


def _bytes(path: str) -> bytes:
  try:
    return Path(path).expanduser().read_bytes()
  except OSError as error:
    raise InputError(
      f'{path}: {error.strerror}; give a file that can be read'
    ) from error


# --- answers ---


def shown(model: 'Model', answer: Any) -> Iterator[str]:
  """An answer as lines of text."""
  if isinstance(answer, list):  # of each gap
    for number, words in enumerate(answer, 1):
      top = '  '.join(f'{word} {p:.3f}' for word, p in words.items())
      yield f'{number}: {top}'
    return
  answer = dict(answer)
  p, label = answer.pop('probabilities', None), answer.pop('label', None)
  if p is not None:
    best = np.argsort(-np.asarray(p), kind='stable')[:_TOP]
    yield '  '.join(f'{_class(model, i)} {p[i]:.3f}' for i in best)
    answer.pop('probability', None)
  elif label is not None:
    yield f'{_class(model, label)}'
  for name, one in answer.pop('detectors', {}).items():
    yield (
      f'{name}: {one["verdict"]} (score {one["score"]:.4g}, an inlier from '
      f'{one["threshold"]:.4g} on)'
    )
  if 'aims' in answer:
    aims = answer.pop('aims') or ['any other class']
    for aim, taken in zip(aims, answer.pop('labels')):
      aim = _class(model, aim) if isinstance(aim, int) else aim
      yield f'changed towards {aim}: taken for {_class(model, taken)}'
  for name, region in answer.pop('regions', {}).items():
    yield f'{name}: {_class(model, region)}'
  answer.pop('source', None)
  for name, value in answer.items():
    yield f'{name}: {_short(value)}'


def _class(model: 'Model', label: Any) -> str:
  if isinstance(label, str):
    return label
  names = model.classes
  return names[label] if label < len(names) else str(label)


def _short(value: Any) -> str:
  if isinstance(value, float):
    return f'{value:.4g}'
  if isinstance(value, list):
    some = ', '.join(_short(x) for x in value[:_MOST])
    return f'[{some}{", …" if len(value) > _MOST else ""}]'
  return str(value)


def _named(model: 'Model', answer: Any) -> Any:
  """An answer with the name of its class."""
  label = answer.get('label') if isinstance(answer, dict) else None
  if isinstance(label, int) and label < len(model.classes):
    return {**answer, 'class_name': model.classes[label]}
  return answer


def _without_pictures(answer: Any, out: str | None, name: str) -> Any:
  """An answer whose pictures are files in a folder, or their sizes."""
  if not isinstance(answer, dict):
    return answer
  found = {}
  for key, value in answer.items():
    if not isinstance(value, np.ndarray):
      found[key] = value
      continue
    one = value.ndim == 3
    whole = value[None] if one else value
    if out is None:
      size = ' x '.join(map(str, whole.shape[1:]))
      found[key] = f'{len(whole)} of {size}; written as PNG with --out=DIR'
      continue
    files = [f'{name}.png'] if one else []
    files = files or [f'{name}-{i}.png' for i in range(len(whole))]
    found[key] = [_write(Path(out), file, x) for file, x in zip(files, whole)]
  return found


def _write(folder: Path, file: str, picture: np.ndarray) -> str:
  from PIL import Image

  scaled = np.rint(255 * np.clip(picture, 0, 1)).astype(np.uint8)
  try:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scaled.squeeze()).save(folder / file)
  except OSError as error:
    raise InputError(
      f'cannot write {folder / file}: {error.strerror}; choose another --out'
    ) from error
  return str(folder / file)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
