"""A Linen network as `ops.piecewise` steps, for exact region counting.

  net = piecewise_linear(LeNet5(), variables, (28, 28, 1), train=False)
  regions.slice_polygons(net, corners)

Reads the traced program, so that convolutions, pooling, skip connections and
normalisation by running statistics need no code of their own. Bends may come
of ReLU and its clipped forms, LeakyReLU, PReLU, absolute values, maxima and
max pooling. All is computed in float64, whatever the module's dtype.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from jaxlab.core.errors import InputError
from jaxlab.ops.piecewise import Kink, Largest, Linear, Piecewise, Step

# Of one input that varies, and constants.
_SHAPES = {
  'broadcast_in_dim',
  'concatenate',
  'copy',
  'cumsum',
  'dynamic_slice',
  'expand_dims',
  'gather',
  'neg',
  'reduce_sum',
  'reduce_window_sum',
  'reshape',
  'rev',
  'slice',
  'split',
  'squeeze',
  'transpose',
}
_SUMS = {'add', 'sub', 'add_any', 'concatenate', 'pad'}
_PRODUCTS = {'mul', 'dot_general', 'conv_general_dilated'}
_INNER = ('jaxpr', 'call_jaxpr', 'fun_jaxpr')
_LOOPS = ('scan', 'while', 'cond')


def piecewise_linear(
  module: nn.Module, variables: Mapping, shape: tuple[int, ...], **call: Any
) -> Piecewise:
  """The steps of `module.apply(variables, input, **call)`.

  Args:
    shape: of one input, without a batch axis.
    call: further arguments, such as train=False.

  Raises:
    InputError: the network is smooth somewhere; names the layer.
  """
  return traced(lambda x: module.apply(variables, x[None], **call)[0], shape)


def traced(apply: Callable, shape: tuple[int, ...]) -> Piecewise:
  """The steps of a function of one input, [*shape] -> an array.

  Raises:
    InputError: as `piecewise_linear`.
  """
  program = jax.make_jaxpr(apply)(jnp.zeros(shape, jnp.float32))
  reader = _Reader()
  with jax.enable_x64(True):
    (result,) = reader.read(program.jaxpr, program.consts, [_Register(0)])
  if not isinstance(result, _Register):
    raise InputError('the network does not depend on its input')
  return Piecewise(tuple(reader.steps), result.index, tuple(shape))


class _Register:
  """A value that depends on the input."""

  def __init__(self, index: int, base: int = -1, scale: Any = None):
    self.index, self.base, self.scale = index, base, scale  # scale * base


class _Sign:
  """register > 0 (or >= 0); `turned`: < 0."""

  def __init__(self, of: int, turned: bool):
    self.of, self.turned = of, turned


class _Reader:
  def __init__(self):
    self.steps: list[Step] = []
    self.registers = 1
    self.inside: list[str] = []  # layers and functions around an equation

  def _new(self) -> int:
    self.registers += 1
    return self.registers - 1

  def linear(self, inputs, map, **known) -> _Register:
    """Adds an affine step."""
    out = self._new()
    self.steps.append(Linear(out, tuple(inputs), map))
    return _Register(out, **known)

  def read(self, jaxpr, consts, arguments) -> list[Any]:
    """The values of a program's results."""
    known: dict[Any, Any] = {}
    known |= zip(jaxpr.constvars, map(_wide, consts))
    known |= zip(jaxpr.invars, arguments)

    def value(atom):
      if isinstance(atom, core.Literal):
        return _wide(atom.val)
      return known[atom]

    for equation in jaxpr.eqns:
      given = [value(atom) for atom in equation.invars]
      known |= zip(equation.outvars, self.equation(equation, given))
    return [value(atom) for atom in jaxpr.outvars]

  def equation(self, equation, given) -> list[Any]:
    """The values that one equation makes."""
    name, params = equation.primitive.name, equation.params
    varying = [i for i, x in enumerate(given) if isinstance(x, _Register)]
    signs = any(isinstance(x, _Sign) for x in given)
    scope = str(equation.source_info.name_stack)
    for key in _INNER:
      if key in params and name not in _LOOPS:
        inner = params[key]
        consts = getattr(inner, 'consts', ())
        before = self.inside
        self.inside = [*before, scope, params.get('name', '')]
        found = self.read(getattr(inner, 'jaxpr', inner), consts, given)
        self.inside = before
        return found
    if not varying and not signs:
      found = equation.primitive.bind(*given, **_wider(params))
      found = found if equation.primitive.multiple_results else [found]
      return [np.asarray(x) for x in found]
    made = self._bent(equation, given)
    if made is None and not signs:
      made = self._straight(equation, given, varying)
    if made is None:
      where = '/'.join(x for x in [*self.inside, scope, name] if x)
      raise InputError(
        f'layer "{where}" is not piecewise linear; cells can be counted with '
        'ReLU, LeakyReLU, PReLU, absolute values and max pooling'
      )
    return made

  def _straight(self, equation, given, varying):
    name, params = equation.primitive.name, equation.params
    if name == 'convert_element_type':
      floats = np.issubdtype(params['new_dtype'], np.floating)
      wide = params['new_dtype'] == jnp.bfloat16
      return [given[0]] if floats or wide else None
    alone = len(varying) == 1
    allowed = (
      name in _SUMS
      or (name in _SHAPES and alone and varying == [0])
      or (name in _PRODUCTS and alone)
      or (name == 'div' and varying == [0])
    )
    if not allowed:
      return None
    constants = {i: x for i, x in enumerate(given) if i not in varying}
    wide, primitive = _wider(params), equation.primitive

    def one(*rows):
      arguments = dict(zip(varying, rows)) | constants
      return primitive.bind(*(arguments[i] for i in range(len(given))), **wide)

    registers = [given[i].index for i in varying]
    if primitive.multiple_results:  # split: a step for each part
      return [
        self.linear(registers, _batched(lambda *x, k=k: one(*x)[k]))
        for k in range(len(equation.outvars))
      ]
    known = {}
    if name == 'mul':
      known = {'base': registers[0], 'scale': constants[1 - varying[0]]}
    return [self.linear(registers, _batched(one), **known)]

  def _bent(self, equation, given):
    """One of the bends that are known; None for anything else."""
    name, params = equation.primitive.name, equation.params
    shape = equation.invars[0].aval.shape
    if name in ('gt', 'ge', 'lt', 'le'):
      of, limit = given
      if isinstance(of, _Register) and _is(limit, 0):
        return [_Sign(of.index, name in ('lt', 'le'))]
      if isinstance(limit, _Register) and _is(of, 0):
        return [_Sign(limit.index, name in ('gt', 'ge'))]
    elif name == 'select_n' and isinstance(given[0], _Sign):
      sign, (off, on) = given[0], given[1:]
      if sign.turned:
        off, on = on, off
      slope = self._slope(sign.of, off, on)
      return None if slope is None else [self._kink(sign.of, slope)]
    elif name == 'abs':
      return [self._kink(given[0].index, -1.0)]
    elif name == 'max':
      for one, other in (given, given[::-1]):
        if _is(other, 0) and isinstance(one, _Register):
          return [self._kink(one.index, 0.0)]
      return [self._largest(self._registers(equation, given))]
    elif name == 'min':
      turned = [self._negative(x) for x in self._registers(equation, given)]
      return [_Register(self._negative(self._largest(turned).index))]
    elif name == 'reduce_max':
      return [self._pooled(given[0].index, *_all_of(params['axes'], shape))]
    elif name == 'reduce_window_max':
      return [self._pooled(given[0].index, _window(params, shape))]
    return None

  def _kink(self, of: int, slope) -> _Register:
    out = self._new()
    self.steps.append(Kink(out, of, slope))
    return _Register(out)

  def _slope(self, of: int, off, on):
    """s where `on` is the register and `off` s times it; else None."""
    if not isinstance(on, _Register) or on.index != of:
      return None
    if not isinstance(off, _Register):
      return 0.0 if _is(off, 0) else None
    return off.scale if off.base == of else None

  def _registers(self, equation, given) -> list[int]:
    """The registers of values of one shape, of constants too."""
    like = next(x.index for x in given if isinstance(x, _Register))
    shape = equation.outvars[0].aval.shape

    def register(x, atom):
      if not isinstance(x, _Register):
        fixed = np.broadcast_to(x, shape)
        of_rows = lambda rows: np.broadcast_to(fixed, (len(rows), *shape))
        return self.linear([like], of_rows).index
      if atom.aval.shape == shape:
        return x.index
      wider = (1,) * (len(shape) - len(atom.aval.shape)) + atom.aval.shape
      widened = lambda rows: np.broadcast_to(
        rows.reshape(-1, *wider), (len(rows), *shape)
      )
      return self.linear([x.index], widened).index

    return [register(x, atom) for x, atom in zip(given, equation.invars)]

  def _negative(self, register: int) -> int:
    return self.linear([register], np.negative).index

  def _largest(self, options) -> _Register:
    out = self._new()
    self.steps.append(Largest(out, tuple(options)))
    return _Register(out)

  def _pooled(self, register: int, places, squeezed=()) -> _Register:
    """The maximum over places, each the indices of all axes.

    Args:
      squeezed: axes that go.
    """

    def pick(x, place):
      x = x[(slice(None), *np.ix_(*place))]
      return np.squeeze(x, tuple(axis + 1 for axis in squeezed))

    options = [
      self.linear([register], lambda x, at=at: pick(x, at)).index
      for at in places
    ]
    return self._largest(options)


def _all_of(axes, shape):
  """The places of whole axes, which go."""
  places = []
  for at in itertools.product(*(range(shape[axis]) for axis in axes)):
    place = [np.arange(n) for n in shape]
    for axis, i in zip(axes, at):
      place[axis] = np.array([i])
    places.append(place)
  return places, tuple(axes)


def _window(params, shape):
  """The places of a window; padding repeats what the window covers."""
  if {*params['base_dilation']} != {1}:
    raise InputError('max pooling with base_dilation is not known here')
  axes = [
    (n, low, stride, d, size, (n + low + high - d * (size - 1) - 1) // stride)
    for n, (low, high), stride, d, size in zip(
      shape,
      params['padding'],
      params['window_strides'],
      params['window_dilation'],
      params['window_dimensions'],
    )
  ]
  return [
    [
      np.clip(np.arange(last + 1) * stride - low + o * d, 0, n - 1)
      for o, (n, low, stride, d, _, last) in zip(at, axes)
    ]
    for at in itertools.product(*(range(axis[4]) for axis in axes))
  ]


def _batched(one: Callable) -> Callable[..., np.ndarray]:
  """A function of rows as one of [n, …]; few sizes n are compiled."""

  def run(*arrays):
    n = len(arrays[0])
    size = 1 << max(n - 1, 1).bit_length()
    filled = [
      np.concatenate([x, np.zeros((size - n, *x.shape[1:]))]) for x in arrays
    ]
    with jax.enable_x64(True):
      return np.asarray(every(*filled))[:n]

  every = jax.jit(jax.vmap(one))
  return run


def _wide(x):
  x = np.asarray(x)
  floats = x.dtype == jnp.bfloat16 or np.issubdtype(x.dtype, np.floating)
  return x.astype(np.float64) if floats else x


def _wider(params):
  """Parameters of a primitive that ask for no narrower numbers."""
  wide = dict(params)
  for key in ('preferred_element_type', 'new_dtype', 'dtype'):
    if wide.get(key) is not None and np.issubdtype(wide[key], np.floating):
      wide[key] = np.dtype(np.float64)
  return wide


def _is(x, number) -> bool:
  known = not isinstance(x, _Register | _Sign)
  return known and np.size(x) > 0 and bool(np.all(np.asarray(x) == number))
