"""LAMB and LARS in float64 NumPy, from the algorithms as printed.

One tensor and one layer at a time, plain loops, no code shared with jaxlab.
Everything is a dict: name -> array, or name -> what holds for that array.
"""

import numpy as np


def _layers(x, axes):
  """The parts of a tensor that are layers: pairs (index, slice)."""
  return [(index, x[index]) for index in np.ndindex(*x.shape[:axes])]


def _ratio(x, direction, phi, norm_ord, coefficient=1.0, eps=0.0):
  weight_norm = np.linalg.norm(np.ravel(x), norm_ord)
  norm = np.linalg.norm(np.ravel(direction), norm_ord)
  if weight_norm == 0.0 or norm == 0.0:
    return 1.0
  if isinstance(phi, tuple):
    weight_norm = min(max(weight_norm, phi[0]), phi[1])
  elif phi is not None:
    weight_norm = phi(weight_norm)
  return coefficient * weight_norm / (norm + eps)


class _Options:
  def __init__(self, names, decay, adapt, axes):
    self.decay = decay or dict.fromkeys(names, True)
    self.adapt = adapt or dict.fromkeys(names, True)
    self.axes = axes or dict.fromkeys(names, 0)


def lamb(
  params,
  grads,
  rate,
  b1=0.9,
  b2=0.999,
  eps=1e-6,
  weight_decay=0.01,
  decay=None,
  adapt=None,
  axes=None,
  bias_correction=True,
  phi=None,
  norm_ord=2,
  nesterov_m=False,
  nesterov_v=False,
):
  """Algorithm 2 for t = 1 … len(grads).

  Args:
    params: name -> array.
    grads: one dict a step.
    rate: function of t - 1.

  Returns:
    Parameters after the last step; its trust ratios.
  """
  x = {name: np.array(value, np.float64) for name, value in params.items()}
  options = _Options(x, decay, adapt, axes)
  m = {name: np.zeros_like(value) for name, value in x.items()}
  v = {name: np.zeros_like(value) for name, value in x.items()}
  ratios = {}
  for t, gradient in enumerate(grads, start=1):
    for name in x:
      g = np.asarray(gradient[name], np.float64)
      m[name] = b1 * m[name] + (1 - b1) * g
      v[name] = b2 * v[name] + (1 - b2) * g**2
      m_now, m_next, v_now, v_next = 1.0, 1.0, 1.0, 1.0
      if bias_correction:
        m_now, m_next = 1 - b1**t, 1 - b1 ** (t + 1)
        v_now, v_next = 1 - b2**t, 1 - b2 ** (t + 1)
      m_hat, v_hat = m[name] / m_now, v[name] / v_now
      if nesterov_m:
        m_hat = b1 * m[name] / m_next + (1 - b1) * g / m_now
      if nesterov_v:
        v_hat = b2 * v[name] / v_next + (1 - b2) * g**2 / v_now
      u = m_hat / (np.sqrt(v_hat) + eps)
      if options.decay[name]:
        u = u + weight_decay * x[name]
      u = np.array(u)  # a 0-d result is not an array
      ratio = np.ones(x[name].shape[: options.axes[name]])
      for index, weights in _layers(x[name], options.axes[name]):
        if options.adapt[name]:
          ratio[index] = _ratio(weights, u[index], phi, norm_ord)
        u[index] = ratio[index] * u[index]
      ratios[name] = ratio
      x[name] = x[name] - rate(t - 1) * u
  return x, ratios


def lars(
  params,
  grads,
  rate,
  momentum=0.9,
  weight_decay=0.0,
  trust_coefficient=1.0,
  eps=0.0,
  order='paper',
  nesterov=False,
  decay=None,
  adapt=None,
  axes=None,
  phi=None,
  norm_ord=2,
):
  """Algorithm 1 ('paper'), or the order of the 2017 report ('you2017')."""
  x = {name: np.array(value, np.float64) for name, value in params.items()}
  options = _Options(x, decay, adapt, axes)
  m = {name: np.zeros_like(value) for name, value in x.items()}
  ratios = {}
  for t, gradient in enumerate(grads, start=1):
    for name in x:
      d = np.array(gradient[name], np.float64)
      if options.decay[name]:
        d = d + weight_decay * x[name]
      if order == 'paper':
        m[name] = momentum * m[name] + (1 - momentum) * d
        d = m[name]
      d = np.array(d)  # a copy, and an array where the result is 0-d
      ratio = np.ones(x[name].shape[: options.axes[name]])
      for index, weights in _layers(x[name], options.axes[name]):
        if options.adapt[name]:
          ratio[index] = _ratio(
            weights, d[index], phi, norm_ord, trust_coefficient, eps
          )
        d[index] = ratio[index] * d[index]
      ratios[name] = ratio
      step = rate(t - 1) * d
      if order == 'you2017':
        m[name] = momentum * m[name] + step
        step = momentum * m[name] + step if nesterov else m[name]
      x[name] = x[name] - step
  return x, ratios


def warmup_polynomial(t, peak, warmup, total, power=1.0, jump=True, start=0):
  """The rate at step t, a number."""
  if t >= total:
    return 0.0
  if t < start + warmup:
    return peak * max(t - start, 0) / warmup
  if jump:
    return peak * (1 - t / total) ** power
  end = max(start + warmup, 0)
  return peak * ((total - t) / (total - end)) ** power
