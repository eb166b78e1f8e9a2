"""Four training steps of ALOE's family, in NumPy and float64.

  python -m tests.goldens.aloe_steps      # writes aloe_steps.json

Nothing of jaxlab is imported: the losses, the attacks, the gradients, batch
normalisation, augmentation and SGD are written out here. Random numbers are
JAX's, by the keys that the library documents:

  step t        key(7), t               keys of attack, images, outliers: split
  image i       fold_in(key, i), then fold_in by the number of the change
  attack        split in ID and outliers, fold_in(key, 0), fold_in(key, i)

The network: x = (image - .3) / .5, z = x V, batch normalisation with scale and
bias, relu, logits = h W + b.
"""

import json
from pathlib import Path

import jax
import numpy as np

PATH = Path(__file__).with_suffix('.json')
MEAN, STD = 0.3, 0.5
ROWS, SIDE, HIDDEN, CLASSES, STEPS = 6, 5, 7, 3, 4
MOMENTUM, EPSILON = 0.9, 1e-5  # of batch normalisation
EPS, ATTACK_STEPS, STEP_SIZE = 8 / 255, 3, 4 / 255
RATE, DECAY, FINAL, PAD = 0.3, 0.01, 0.1, 1

# ID images attacked, outliers used, outliers attacked
ARMS = {
  'original': (False, False, False),
  'adv': (True, False, False),
  'oe': (False, True, False),
  'aoe': (True, True, False),
  'aloe': (True, True, True),
}
# arm, candidates (0: no mining), statistics of attacks, changes of outliers
CASES = {
  **{arm: (arm, 0, 'running', 'crop_flip') for arm in ARMS},
  'aloe, batch statistics': ('aloe', 0, 'batch', 'crop_flip'),
  'aloe, mined': ('aloe', 5, 'running', 'crop_flip'),
  'oe, outliers as they are': ('oe', 0, 'running', 'none'),
}
RATIO, QUANTILE, WEIGHT = 2, 0.4, 0.5


def start():
  """Parameters and running statistics."""
  draw = np.random.default_rng(0)
  params = {
    'V': draw.normal(0, 0.4, (SIDE * SIDE, HIDDEN)),
    'scale': draw.uniform(0.5, 1.5, HIDDEN),
    'bias': draw.normal(0, 0.3, HIDDEN),
    'W': draw.normal(0, 0.7, (HIDDEN, CLASSES)),
    'b': draw.normal(0, 0.1, CLASSES),
  }
  stats = {
    'mean': draw.normal(0, 0.5, HIDDEN),
    'var': draw.uniform(0.5, 2, HIDDEN),
  }
  return params, stats


def batch(case, step):
  """uint8 images, labels, ids, a mask, and outliers of each row."""
  _, candidates, statistics, _ = CASES[case]
  draw = np.random.default_rng(100 + step)
  count, shape = candidates or RATIO, (SIDE, SIDE, 1)
  mask = np.ones(ROWS, bool)
  # Where attacks look at the batch, a masked row is one of black pixels.
  mask[step % ROWS] = not step % 2 or statistics == 'batch'
  return {
    'image': draw.integers(0, 256, (ROWS, *shape)).astype(np.uint8),
    'label': draw.integers(0, CLASSES, ROWS).astype(np.int32),
    'id': draw.permutation(50)[:ROWS].astype(np.int32),
    'mask': mask,
    'outlier': draw.integers(0, 256, (ROWS, count, *shape)).astype(np.uint8),
    'outlier_id': draw.permutation(90)[: ROWS * count]
    .reshape(ROWS, count)
    .astype(np.int32),
  }


def softmax(z):
  e = np.exp(z - z.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def forward(params, x, mean, var):
  """Logits, and what the way back needs."""
  u = (x.reshape(len(x), -1) - MEAN) / STD
  z = u @ params['V']
  hat = (z - mean(z)) / np.sqrt(var(z) + EPSILON)
  a = hat * params['scale'] + params['bias']
  h = np.maximum(a, 0)
  return h @ params['W'] + params['b'], (u, z, hat, a, h)


def statistics_of(stats, kind, mask=None):
  """(mean, var) of pre-activations: running, or of the rows of the mask."""
  if kind == 'running':
    return (lambda z: stats['mean']), (lambda z: stats['var'])
  rows = lambda z: z if mask is None else z[mask]
  return (lambda z: rows(z).mean(0)), (lambda z: rows(z).var(0))


def backward(params, kept, dlogits, var, kind, mask=None):
  """Gradients of parameters and of pixels, from those of logits."""
  u, z, hat, a, h = kept
  grads = {'W': h.T @ dlogits, 'b': dlogits.sum(0)}
  da = (dlogits @ params['W'].T) * (a > 0)
  grads['scale'], grads['bias'] = (da * hat).sum(0), da.sum(0)
  dhat = da * params['scale']
  root = np.sqrt(var(z) + EPSILON)
  dz = dhat / root
  if kind == 'batch':
    rows = np.ones(len(z), bool) if mask is None else mask
    n = rows.sum()
    dz -= rows[:, None] * dhat.sum(0) / (n * root)
    dz -= rows[:, None] * hat * (dhat * hat).sum(0) / (n * root)
  grads['V'] = u.T @ dz
  return grads, (dz @ params['V'].T / STD)


def d_nats(logits, labels):
  """Gradient of each row's cross-entropy with respect to its logits."""
  return softmax(logits) - np.eye(CLASSES)[labels]


def d_uniform(logits):
  """Gradient of the cross-entropy to the uniform distribution."""
  return softmax(logits) - 1 / CLASSES


def nats(logits, labels):
  return -np.log(softmax(logits))[np.arange(len(labels)), labels]


def to_uniform(logits):
  return -np.log(softmax(logits)).mean(-1)


def change(key, images, ids, kind):
  """Images in [0, 1], cropped out of their padding and mirrored."""
  images = images / 255
  if kind == 'none':
    return images
  found = []
  for image, i in zip(images, ids):
    row = jax.random.fold_in(key, int(i))
    crop, mirror = jax.random.fold_in(row, 0), jax.random.fold_in(row, 1)
    top, left = np.asarray(jax.random.randint(crop, (2,), 0, 2 * PAD + 1))
    wide = np.pad(image, ((PAD, PAD), (PAD, PAD), (0, 0)))
    image = wide[top : top + SIDE, left : left + SIDE]
    if bool(jax.random.bernoulli(mirror, 0.5)):
      image = image[:, ::-1]
    found.append(image)
  return np.stack(found)


def attacked(key, images, ids, gradient):
  """Sign steps of ascent from a random start, in the ball and in [0, 1]."""
  key = jax.random.fold_in(key, 0)
  noise = [
    jax.random.uniform(
      jax.random.fold_in(key, int(i)), images.shape[1:], np.float32, -1.0
    )
    for i in ids
  ]
  low = np.maximum(images - EPS, 0)
  high = np.minimum(images + EPS, 1)
  x = np.clip(images + EPS * np.array(noise, np.float64), low, high)
  for _ in range(ATTACK_STEPS):
    x = np.clip(x + STEP_SIZE * np.sign(gradient(x)), low, high)
  return x


def trained(case):
  """Losses of the steps, and the parameters and statistics after them."""
  arm, candidates, kind, changes = CASES[case]
  attack_in, outliers, attack_out = ARMS[arm]
  params, stats = start()
  trace = {name: np.zeros_like(x) for name, x in params.items()}
  losses = []
  for step in range(STEPS):
    b = batch(case, step)
    mask, rows = b['mask'], b['mask'].sum()
    key = jax.random.fold_in(jax.random.key(7), step)
    craft, first, second = jax.random.split(key, 3)
    craft_in, craft_out = jax.random.split(craft)

    def slope(of_logits, params=params, stats=stats):
      def gradient(pixels):
        mean, var = statistics_of(stats, kind)
        logits, kept = forward(params, pixels, mean, var)
        found = backward(params, kept, of_logits(logits), var, kind)[1]
        return found.reshape(pixels.shape)

      return gradient

    x = change(first, b['image'], b['id'], 'crop_flip')
    x = np.where(mask[:, None, None, None], x, 0)
    if attack_in:
      of = lambda logits, b=b: d_nats(logits, b['label'])
      x = attacked(craft_in, x, b['id'], slope(of))
    x = x[:, None]
    if outliers:
      flat = b['outlier'].reshape(-1, SIDE, SIDE, 1)
      o = change(second, flat, b['outlier_id'].reshape(-1), changes)
      ids = b['outlier_id']
      if candidates:
        mean, var = statistics_of(stats, 'running')
        sure = -to_uniform(forward(params, o, mean, var)[0])
        order = np.argsort(sure.reshape(ROWS, -1), 1, kind='stable')
        lowest = int(QUANTILE * (candidates - RATIO))
        taken = order[:, lowest : lowest + RATIO]
        ids = np.take_along_axis(ids, taken, 1)
        o = o.reshape(ROWS, -1, SIDE, SIDE, 1)
        o = o[np.arange(ROWS)[:, None], taken].reshape(-1, SIDE, SIDE, 1)
      if attack_out:
        o = attacked(craft_out, o, ids.reshape(-1), slope(d_uniform))
      x = np.concatenate([x, o.reshape(ROWS, -1, SIDE, SIDE, 1)], 1)
    each = x.shape[1]
    x = x.reshape(-1, SIDE, SIDE, 1)
    real = np.repeat(mask, each)
    mean, var = statistics_of(stats, 'batch', real)
    logits, kept = forward(params, x, mean, var)
    own, far = logits[::each], np.arange(len(x)) % each > 0
    loss = nats(own, b['label'])[mask].sum() / rows
    d = np.zeros_like(logits)
    d[::each] = d_nats(own, b['label']) / rows
    if outliers:
      share = WEIGHT / (rows * (each - 1))
      loss += share * to_uniform(logits[far & real]).sum()
      d[far] = share * d_uniform(logits[far])
    d[~real] = 0
    grads, _ = backward(params, kept, d, var, 'batch', real)
    losses.append(loss)
    stats = {
      'mean': MOMENTUM * stats['mean'] + (1 - MOMENTUM) * mean(kept[1]),
      'var': MOMENTUM * stats['var'] + (1 - MOMENTUM) * var(kept[1]),
    }
    share = 0.5 * (1 + np.cos(np.pi * (step + 1) / STEPS))
    rate = RATE * ((1 - FINAL) * share + FINAL)
    new = {}
    for name, value in params.items():
      g = grads[name] + DECAY * value
      trace[name] = MOMENTUM * trace[name] + g
      new[name] = value - rate * (g + MOMENTUM * trace[name])
    params = new
  return {
    'losses': losses,
    **{name: x.reshape(-1).tolist() for name, x in {**params, **stats}.items()},
  }


def main():
  digits = lambda values: [float(f'{x:.9g}') for x in values]
  found = {
    case: {name: digits(values) for name, values in trained(case).items()}
    for case in CASES
  }
  PATH.write_text(json.dumps(found, separators=(',', ':')) + '\n')


if __name__ == '__main__':
  main()
