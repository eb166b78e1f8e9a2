"""AdvGAN's networks and its targets: sizes and shapes by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.models.advgan import Discriminator, Generator
from jaxlab.models.mnist_targets import MnistTarget
from jaxlab.models.one_draw import parameters

IMAGE = jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32)
AIM = jax.ShapeDtypeStruct((2, 10), jnp.float32)


def _count(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _shapes(module, *inputs, **fields):
  make = lambda key, *x: module.init(key, *x, **fields)
  return jax.eval_shape(make, jax.random.key(0), *inputs)['params']


def test_the_generator_is_c8_d16_d32_4r32_u16_u8_c1():
  conv = lambda i, o: 9 * i * o + o
  norm = lambda c: (10 + 1) * 2 * c  # of ten classes
  wanted = conv(1, 8) + norm(8) + conv(8, 16) + norm(16) + conv(16, 32)
  wanted += norm(32) + 4 * 2 * (conv(32, 32) + norm(32))
  wanted += conv(32, 16) + norm(16) + conv(16, 8) + norm(8) + conv(8, 1)
  gen = Generator(channels=1)
  assert _count(_shapes(gen, IMAGE, AIM)) == wanted
  out = jax.eval_shape(lambda k, *x: gen.init_with_output(k, *x)[0],
                       jax.random.key(0), IMAGE, AIM)  # fmt: skip
  assert out.shape == IMAGE.shape


def test_the_target_reaches_every_pixel():
  # Of planes of the input, norms would leave only what borders let through.
  gen = Generator(channels=1, blocks=1)
  aims = jnp.eye(10)[:2]
  images = jnp.broadcast_to(jnp.linspace(0, 1, 32), (2, 32, 32))[..., None]
  params = gen.init(jax.random.key(0), images, aims)
  made = gen.apply(params, images, aims)
  apart = np.abs(made[0] - made[1])[12:20, 12:20]
  assert apart.mean() > 0.3 * np.abs(made[0]).mean()


def test_without_targets_all_images_share_scales_and_shifts():
  conv = lambda i, o: 9 * i * o + o
  gen = Generator(channels=1, blocks=0)
  none = jax.ShapeDtypeStruct((2, 0), jnp.float32)
  wanted = conv(1, 8) + conv(8, 16) + conv(16, 32) + conv(32, 16)
  wanted += conv(16, 8) + conv(8, 1) + 2 * (8 + 16 + 32 + 16 + 8)
  assert _count(_shapes(gen, IMAGE, none)) == wanted


def test_the_discriminator_has_no_norm_after_its_first_layer():
  wanted = (16 * 8 + 8) + (16 * 8 * 16 + 16 + 32) + (16 * 16 * 32 + 32 + 64)
  wanted += 4 * 4 * 32 + 1
  assert _count(_shapes(Discriminator(), IMAGE)) == wanted


@pytest.mark.parametrize(
  ('layout', 'wanted'),
  [
    # A: 28 -> 24 -> 20; B: 28 -> 14 -> 5 -> 1; C: 26, 24, 12, 10, 8, 4;
    # madry: 28, 14, 14, 7
    ('a', 1664 + 102464 + 20 * 20 * 64 * 128 + 128 + 1290),
    ('b', 4160 + 36 * 64 * 128 + 128 + 25 * 128 * 128 + 128 + 1290),
    (
      'c',
      320 + 9248 + 18496 + 36928 + 1024 * 200 + 200 + 200 * 200 + 200 + 2010,
    ),
    ('madry', 832 + 51264 + 49 * 64 * 1024 + 1024 + 10250),
  ],
)
def test_targets_have_the_papers_sizes(layout, wanted):
  assert (
    _count(_shapes(MnistTarget(layout=layout), IMAGE, train=False)) == wanted
  )


def test_one_draw_gives_each_kernel_its_own_numbers_and_variance():
  gen = Generator(channels=1)
  params = parameters(gen, jax.random.key(0), IMAGE, AIM)
  chex_like = _shapes(gen, IMAGE, AIM)
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(
    lambda x: x.shape, chex_like
  )
  kernels = [
    leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    if path[-1].key == 'kernel'
  ]
  large = [k for k in kernels if k.size > 5000]
  for kernel in large:
    assert abs(kernel.std() * np.sqrt(kernel[..., 0].size) - 1) < 0.05
  assert len({float(k.ravel()[0]) for k in kernels}) == len(kernels)
  params = parameters(Discriminator(), jax.random.key(0), IMAGE)
  norms = [v for k, v in params.items() if 'Norm' in k]
  assert len(norms) == 2
  assert all((n['scale'] == 1).all() and not n['bias'].any() for n in norms)


def test_one_draw_refuses_leaves_that_it_does_not_know():
  with pytest.raises(ValueError, match='"embedding" of which it is not known'):
    parameters(nn.Embed(3, 2), jax.random.key(0), jnp.zeros(2, jnp.int32))


def test_sizes_that_cannot_be_are_named():
  make = lambda module, size, *more: jax.eval_shape(
    module.init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32),
    *more,
  )
  with pytest.raises(ValueError, match='multiples of 4'):
    make(Generator(1), 30, jax.ShapeDtypeStruct((1, 10), jnp.float32))
  with pytest.raises(ValueError, match='smaller than 12'):
    make(Discriminator(), 8)
