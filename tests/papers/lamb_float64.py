"""Every option of `lamb` and `lars` against the NumPy reference, as a table.

As a program (`JAX_ENABLE_X64=1 python -m tests.papers.lamb_float64`) it runs
the table in float64 and prints {case: [error of the parameters, of the trust
ratios]} as JSON: library code never enables x64, so a process of its own must.
"""

import json
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlab.papers.lamb import method
from tests.papers import lamb_reference as reference

STEPS = 100
RATE = 0.02

# name -> (shape, scale of the weights, scale of the gradients). With zero
# weights, zero gradients, a scalar, gradients small enough for eps to matter.
LEAVES: dict[str, tuple[tuple[int, ...], float, float]] = {
  'dense/bias': ((4,), 0.0, 1e-5),
  'layers/kernel': ((3, 4, 5), 0.5, 1.0),
  'still': ((6,), 1.0, 0.0),
  'temperature': ((), 1.0, 1.0),
}
PUBLISHED = {name: name != 'dense/bias' for name in LEAVES}
STACKED = {name: int(name.startswith('layers/')) for name in LEAVES}
DEEP = {**STACKED, 'layers/kernel': 2, 'still': 1}
SOME = {name: name != 'layers/kernel' for name in LEAVES}


class Case(NamedTuple):
  """One setting, for the library and for the reference."""

  method: str  # 'lamb' or 'lars'
  library: dict[str, Any]
  reference: dict[str, Any]


def nested(flat):
  """{'a/b': value} as {'a': {'b': value}}."""
  tree: dict[str, Any] = {}
  for name, value in flat.items():
    *parents, last = name.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = value
  return tree


def flat(tree):
  """The inverse of `nested`."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(leaf)
    for path, leaf in leaves
  }


def _both(name, **options):
  return Case(name, options, options)


def _squash(norm):
  return norm / (1 + norm)


def _shared(name):
  """The cases that LAMB and LARS have in common."""
  ramp = {
    'peak': 0.05,
    'warmup': 20,
    'total': 90,
    'power': 0.5,
    'jump': False,
    'start': -5,
  }
  return {
    'masks': Case(
      name,
      {
        'weight_decay': 0.3,
        'decay_mask': method.default_decay_mask,
        'adapt_mask': method.default_decay_mask,
      },
      {'weight_decay': 0.3, 'decay': PUBLISHED, 'adapt': PUBLISHED},
    ),
    'two masks, a tree and a prefix tree': Case(
      name,
      {
        'weight_decay': 0.3,
        'decay_mask': nested(SOME),
        'adapt_mask': {
          'dense': False,
          'layers': {'kernel': True},
          'still': True,
          'temperature': False,
        },
      },
      {
        'weight_decay': 0.3,
        'decay': SOME,
        'adapt': {name: name in ('layers/kernel', 'still') for name in LEAVES},
      },
    ),
    'phi pair': _both(name, phi=(0.2, 0.9)),
    'stacked': Case(
      name,
      {
        'layer_axes': method.layer_axes_from,
        'weight_decay': 0.1,
        'norm_ord': 2,
      },
      {'axes': STACKED, 'weight_decay': 0.1},
    ),
    'several layer axes, L1': Case(
      name,
      {'layer_axes': nested(DEEP), 'norm_ord': 1},
      {'axes': DEEP, 'norm_ord': 1},
    ),
    'stacked, L inf, phi callable': Case(
      name,
      {'norm_ord': math.inf, 'layer_axes': nested(STACKED), 'phi': _squash},
      {'norm_ord': math.inf, 'axes': STACKED, 'phi': _squash},
    ),
    'schedule': Case(
      name,
      {'learning_rate': method.warmup_polynomial(**ramp)},
      {'rate': lambda t: reference.warmup_polynomial(t, **ramp)},
    ),
  }


def _cases():
  n_lamb = {'nesterov_m': True}
  nn_lamb = {'nesterov_m': True, 'nesterov_v': True}
  raw = {'bias_correction': False}
  cases = {
    'defaults': _both('lamb'),
    'betas, eps, decay, L1': _both(
      'lamb', b1=0.88, b2=0.95, eps=1e-3, weight_decay=1.5, norm_ord=1
    ),
    'betas 0, L inf': _both(
      'lamb', b1=0.0, b2=0.0, weight_decay=0.0, norm_ord=math.inf
    ),
    'no bias correction': _both('lamb', **raw),
    'N-LAMB': Case('lamb', {'variant': 'n_lamb'}, n_lamb),
    'NN-LAMB': Case('lamb', {'variant': 'nn_lamb'}, nn_lamb),
    'NN-LAMB, raw': Case('lamb', dict(variant='nn_lamb', **raw), nn_lamb | raw),
  }
  cases = {f'lamb: {name}': case for name, case in cases.items()}
  for name, case in _shared('lamb').items():
    cases[f'lamb: {name}'] = case
  for order, coefficient in (('paper', 1.0), ('you2017', 0.001)):
    # 0.001 moves the weights little in 100 steps: so also with a larger one.
    own = {
      'defaults': _both('lars'),
      'other numbers': _both(
        'lars',
        momentum=0.5,
        weight_decay=0.2,
        trust_coefficient=0.2,
        eps=0.1,
        norm_ord=math.inf,
      ),
    }
    if order == 'you2017':
      own['nesterov'] = _both('lars', nesterov=True, trust_coefficient=0.1)
    for name, case in {**own, **_shared('lars')}.items():
      cases[f'lars {order}: {name}'] = Case(
        'lars',
        {'order': order} | case.library,
        {'order': order, 'trust_coefficient': coefficient} | case.reference,
      )
  return cases


CASES = _cases()


def problem(dtype):
  """Weights and STEPS gradients: name -> array of `dtype`."""
  rng = np.random.default_rng(0)
  params, grads = {}, {}
  for name, (shape, weights, scale) in LEAVES.items():
    params[name] = np.asarray(weights * rng.normal(size=shape), dtype)
    noise = rng.normal(size=(STEPS, *shape)) + rng.normal(size=shape)
    grads[name] = np.asarray(scale * noise, dtype)
  params['layers/kernel'][1] = 0  # one zero layer in a stack
  return params, grads


def follow(tx, params, grads):
  """Parameters and optimizer state after as many updates as gradients."""

  def step(carry, gradient):
    params, state = carry
    updates, state = tx.update(gradient, state, params)
    return (optax.apply_updates(params, updates), state), None

  scan = jax.jit(lambda *args: jax.lax.scan(step, args[:2], args[2])[0])
  return scan(params, tx.init(params), grads)


def relative_error(ours, theirs, start=None):
  """Largest error of a tensor over its largest entry, over all tensors.

  The largest at the end or, where `start` is given, at the start: not entry by
  entry, for entries, and whole scalars, come close to zero on their way.
  """
  size = lambda x: np.max(np.abs(x))
  return float(
    max(
      size(np.asarray(ours[name], np.float64) - theirs[name])
      / max(size(theirs[name]), size(start[name]) if start else 0.0)
      for name in theirs
    )
  )


def errors(case, dtype):
  """[of the parameters, of the last trust ratios] against the reference."""
  params, grads = problem(dtype)
  library = {'learning_rate': RATE} | case.library
  tx = getattr(method, case.method)(**library)
  ours, state = follow(
    tx, jax.tree.map(jnp.asarray, nested(params)), nested(grads)
  )
  steps = [{name: g[t] for name, g in grads.items()} for t in range(STEPS)]
  expected = {'rate': lambda _: RATE} | case.reference
  theirs, ratios = getattr(reference, case.method)(params, steps, **expected)
  axes = case.library.get('layer_axes')
  found = flat(method.trust_ratios(state, axes))
  for name, ratio in ratios.items():
    assert found[name].shape == ratio.shape, (name, found[name].shape)
  assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(ours))
  return [
    relative_error(flat(ours), theirs, params),
    relative_error(found, ratios),
  ]


def optax_errors(dtype, steps=STEPS):
  """Our transformations, masks off, against optax's: name -> error."""
  ours_and_theirs = {
    'optax.lamb': (
      method.lamb(RATE, weight_decay=0.1),
      optax.lamb(RATE, weight_decay=0.1),
    ),
    'optax.lamb, no decay': (
      method.lamb(RATE, 0.8, 0.9, 1e-4, 0.0),
      optax.lamb(RATE, 0.8, 0.9, 1e-4),
    ),
    'optax.lars': (method.lars(RATE, order='you2017'), optax.lars(RATE)),
    'optax.lars, nesterov': (
      method.lars(RATE, 0.8, 0.2, 0.1, 'you2017', eps=0.1, nesterov=True),
      optax.lars(
        RATE, 0.2, trust_coefficient=0.1, eps=0.1, momentum=0.8, nesterov=True
      ),
    ),
  }
  start, grads = problem(dtype)
  params = jax.tree.map(jnp.asarray, nested(start))
  grads = nested({name: g[:steps] for name, g in grads.items()})
  return {
    name: relative_error(
      flat(follow(ours, params, grads)[0]),
      flat(follow(theirs, params, grads)[0]),
      start,
    )
    for name, (ours, theirs) in ours_and_theirs.items()
  }


if __name__ == '__main__':
  table: dict[str, Any] = {
    name: errors(case, np.float64) for name, case in CASES.items()
  }
  table['optax'] = optax_errors(np.float64)
  print(json.dumps(table))
