"""A torch net and the Flax net with its weights, for comparisons of attacks."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

COUNT = 500


class Twin(NamedTuple):
  net: Any  # torch, in evaluation mode
  apply: Any  # (images [b, 14, 14, 1], params) -> logits [b, 10]
  params: Any
  planes: np.ndarray  # [500, 1, 14, 14] float32, torch's layout
  images: jax.Array  # the same, [500, 14, 14, 1]
  labels: np.ndarray
  ids: jax.Array


class Net(nn.Module):
  @nn.compact
  def __call__(self, image):
    x = image
    for i, features in enumerate((8, 16), 1):
      x = nn.Conv(features, (3, 3), 2, padding=1, name=f'conv{i}')(x)
      x = nn.relu(x)
    x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)  # torch's order
    return nn.Dense(10, name='head')(x)


def make(torch, convert) -> Twin:
  """Ten noisy patterns, 500 images, fitted until all are known."""
  draw = np.random.default_rng(0)
  patterns = draw.random((10, 1, 14, 14))
  labels = draw.integers(0, 10, COUNT)
  planes = 0.5 * patterns[labels] + 0.5 * draw.random((COUNT, 1, 14, 14))
  planes = planes.clip(0, 1).astype(np.float32)
  torch.set_num_threads(1)
  torch.manual_seed(0)
  layers = torch.nn
  net = layers.Sequential(
    layers.Conv2d(1, 8, 3, 2, 1),
    layers.ReLU(),
    layers.Conv2d(8, 16, 3, 2, 1),
    layers.ReLU(),
    layers.Flatten(),
    layers.Linear(256, 10),
  )
  optimizer = torch.optim.Adam(net.parameters(), 1e-2)
  for _ in range(40):
    optimizer.zero_grad()
    logits = net(torch.tensor(planes))
    layers.functional.cross_entropy(logits, torch.tensor(labels)).backward()
    optimizer.step()
  net.eval()
  images = jnp.asarray(planes.transpose(0, 2, 3, 1))
  shapes = jax.eval_shape(Net().init, jax.random.key(0), images)
  names = {'0': 'conv1', '2': 'conv2', '5': 'head'}
  own = lambda match: names[match[1]]
  kernel = lambda match: f'params/{own(match)}/kernel'
  rules = [
    (r'([02])\.weight', kernel, lambda w: w.transpose(2, 3, 1, 0)),
    (r'(5)\.weight', kernel, lambda w: w.T),
    (r'(\d)\.bias', lambda match: f'params/{own(match)}/bias'),
  ]
  flat = {name: w.detach().numpy() for name, w in net.state_dict().items()}
  params = convert.assign(shapes, flat, rules)
  apply = lambda images, params: Net().apply(params, images)
  with torch.no_grad():
    theirs = net(torch.tensor(planes)).numpy()
  np.testing.assert_allclose(
    apply(images, params), theirs, rtol=1e-4, atol=1e-3
  )
  assert (theirs.argmax(1) == labels).all()
  return Twin(net, apply, params, planes, images, labels, jnp.arange(COUNT))
