"""Augmentations against NumPy, Pillow and colorsys, driven by their draws."""

import colorsys
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from PIL import Image

from jaxlab.core import keys
from jaxlab.engine import mesh
from jaxlab.ops import augment as aug
from jaxlab.ops import resized_crop

KEY = keys.stream(3, 'train')
# Values are at most 1 and each is a few float32 operations (half an ulp at 1 is
# 6e-8) away from the reference, or a weighted mean of such.
CLOSE = {'rtol': 0, 'atol': 1e-6}
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


def pictures(b=6, h=9, w=7, c=3, seed=0):
  """[b, h, w, c] uint8 with black, white and grey pixels among them."""
  images = np.random.default_rng(seed).integers(0, 256, (b, h, w, c), np.uint8)
  images[:, 0, 0], images[:, 0, 1], images[:, 0, 2] = 0, 255, 128
  images[:, 1, 0] = images[:, 1, 0, :1]
  return images


def row_key(index, number=0):
  """The key of one step of one image, as `augment` documents it."""
  return jax.random.fold_in(jax.random.fold_in(KEY, index), number)


def luma(image):
  return (image @ np.array([0.299, 0.587, 0.114]))[..., None]


def reference_jitter(image, factors, amounts):
  bright, blend, colour, turn = np.asarray(factors, np.float64)
  image = image.astype(np.float64)
  if amounts[0]:
    image = np.clip(bright * image, 0, 1)
  if amounts[1]:
    image = np.clip(blend * image + (1 - blend) * luma(image).mean(), 0, 1)
  if amounts[2]:
    image = np.clip(colour * image + (1 - colour) * luma(image), 0, 1)
  if amounts[3]:
    image = reference_hue(image, turn)
  return image


def reference_hue(image, turn):
  """Pixel by pixel, by the standard library."""
  result = np.empty_like(image)
  for place in np.ndindex(image.shape[:-1]):
    hue, saturation, value = colorsys.rgb_to_hsv(*image[place].tolist())
    result[place] = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
  return result


def reference_crop(image, box, size):
  """Pillow's crop and bilinear resize of each channel, in floats."""
  top, left, tall, wide = map(int, box)
  part = image[top : top + tall, left : left + wide].astype(np.float32)
  planes = [
    Image.fromarray(np.ascontiguousarray(part[..., c]), 'F').resize(
      size[::-1], Image.Resampling.BILINEAR
    )
    for c in range(image.shape[-1])
  ]
  return np.stack([np.asarray(plane) for plane in planes], -1)


def augment(images, index, *steps):
  """As one program."""
  return jax.jit(lambda x, i: aug.augment(KEY, x, i, *steps))(images, index)


@pytest.mark.parametrize('mode', ['zero', 'reflect'])
def test_pad_crop_is_numpys_pad_and_slice(mode):
  images, index = pictures(), np.arange(6)
  step = aug.pad_crop(3, mode)
  found = augment(images, index, step)
  chex.assert_type(found, jnp.float32)
  sides = ((3, 3), (3, 3), (0, 0))
  for image, i, got in zip(images / 255, index, found):
    padded = np.pad(
      image, sides, {'zero': 'constant', 'reflect': 'reflect'}[mode]
    )
    top, left = np.asarray(aug.draw_pad_crop(row_key(i), 3))
    np.testing.assert_allclose(
      got, padded[top : top + 9, left : left + 7], **CLOSE
    )


def test_flip_mirrors_the_images_whose_draw_says_so():
  images, index = pictures(b=16), np.arange(16) + 100
  found = augment(images, index, aug.flip())
  drawn = [bool(aug.draw_event(row_key(i), 0.5)) for i in index]
  assert 0 < sum(drawn) < 16
  want = [x[:, ::-1] if d else x for x, d in zip(images / 255, drawn)]
  np.testing.assert_allclose(found, np.stack(want), **CLOSE)


@pytest.mark.parametrize(
  'size, scale', [((12, 16), (0.5, 1.0)), ((3, 2), (0.08, 1.0))]
)
def test_random_resized_crop_is_pillows_crop_and_resize(size, scale):
  images, index = pictures(h=13, w=11), np.arange(6)
  step = aug.random_resized_crop(size, scale)
  found = augment(images, index, step)
  chex.assert_shape(found, (6, *size, 3))
  for image, i, got in zip(images / 255, index, found):
    box = resized_crop.draw_resized_crop(
      row_key(i), 13, 11, scale, (0.75, 4 / 3)
    )
    np.testing.assert_allclose(got, reference_crop(image, box, size), **CLOSE)


@pytest.mark.parametrize(
  'amounts', [(0.4, 0.4, 0, 0), (0, 0, 0.4, 0.5), (0.8, 1.5, 2.0, 0.1)]
)
def test_colour_jitter_is_the_float64_reference(amounts):
  images, index = pictures(), np.arange(6)
  step = aug.colour_jitter(*amounts)
  found = augment(images, index, step)
  for image, i, got in zip(images / 255, index, found):
    drawn = aug.draw_jitter(row_key(i), *amounts)
    # Hue divides by the spread of a pixel, at least 1 / 255 here before the
    # others shrink it, and multiplies by it again; blends by up to 3 add
    # their own rounding.
    np.testing.assert_allclose(
      got, reference_jitter(image, drawn, amounts), rtol=0, atol=3e-6
    )


def test_grey_is_the_luma_of_the_images_whose_draw_says_so():
  images, index = pictures(b=16), np.arange(16)
  found = augment(images, index, aug.grey(0.5))
  drawn = [bool(aug.draw_event(row_key(i), 0.5)) for i in index]
  assert 0 < sum(drawn) < 16
  want = [
    np.repeat(luma(x), 3, -1) if d else x for x, d in zip(images / 255, drawn)
  ]
  np.testing.assert_allclose(found, np.stack(want), **CLOSE)


@pytest.mark.parametrize(
  'steps',
  [
    (aug.pad_crop(2), aug.flip(), aug.grey(0.5)),
    pytest.param(  # many operations, each compiled alone
      (aug.random_resized_crop(5), aug.colour_jitter(0.4, 0.4, 0.4, 0.1)),
      marks=pytest.mark.slow,
    ),
  ],
  ids=['moves', 'sums'],
)
def test_steps_give_the_same_images_outside_of_a_program(steps):
  images, index = pictures(), np.arange(6)
  found = aug.augment(KEY, images, index, *steps)
  chex.assert_type(found, jnp.float32)
  # Hue divides by the spread of a pixel; see below.
  np.testing.assert_allclose(
    found, augment(images, index, *steps), rtol=0, atol=3e-6
  )


def test_hue_agrees_with_colorsys_on_a_grid_of_colours():
  grid = np.array(list(itertools.product(np.linspace(0, 1, 9), repeat=3)))
  for turn in (-0.5, -0.21, 0.0, 1 / 3, 0.5):
    np.testing.assert_allclose(
      aug.turn_hue(jnp.asarray(grid, jnp.float32), jnp.float32(turn)),
      reference_hue(grid, turn),
      **CLOSE,
    )


def test_hue_leaves_grey_pixels_alone():
  image = pictures(b=1)[0] / np.float32(255)
  flat = np.repeat(image[..., :1], 3, -1)
  np.testing.assert_array_equal(aug.turn_hue(flat, jnp.float32(0.3)), flat)


def test_weights_of_a_large_axis_are_those_of_float64():
  for start, length, n, size in (
    (37, 450, 500, 224),
    (401, 99, 500, 224),
    (499, 1, 500, 5),
    (0, 224, 224, 224),
  ):
    weights = jax.jit(resized_crop.resize_weights, static_argnums=(2, 3))
    found = weights(start, length, n, size)
    centre = (np.arange(size) + 0.5) * length / size
    away = np.arange(n)[None] + 0.5 - start - centre[:, None]
    want = np.maximum(0, 1 - np.abs(away) / max(1, length / size))
    want[:, :start] = want[:, start + length :] = 0
    want /= want.sum(1, keepdims=True)
    np.testing.assert_allclose(found, want, rtol=0, atol=3e-7)
    if length == size:
      np.testing.assert_array_equal(found, np.eye(n))


def test_boxes_have_the_documented_areas_ratios_and_places():
  rows, columns = 120, 90
  scale, ratio = (0.08, 1.0), (3 / 4, 4 / 3)
  draw = lambda key: resized_crop.draw_resized_crop(
    key, rows, columns, scale, ratio
  )
  boxes = jax.jit(jax.vmap(draw))(jax.random.split(KEY, 4000))
  top, left, tall, wide = map(np.asarray, boxes)
  assert (top >= 0).all() and (top + tall <= rows).all()
  assert (left >= 0).all() and (left + wide <= columns).all()
  assert tall.min() >= 1 and wide.min() >= 1
  # Rounding both sides moves a ratio by at most half a pixel in each.
  assert (wide + 0.5 >= ratio[0] * (tall - 0.5)).all()
  assert (wide - 0.5 <= ratio[1] * (tall + 0.5)).all()
  share = tall * wide / (rows * columns)
  assert 0.07 < share.min() < 0.1 and share.max() > 0.9
  # In a box that is refused the large ones are: below uniform's mean of 0.54.
  assert 0.4 < share.mean() < 0.54
  place = top[rows - tall > 20] / (rows - tall)[rows - tall > 20]
  assert abs(place.mean() - 0.5) < 0.02  # 0.29 / sqrt(3000) = 0.005
  # Small boxes always fit, so that no refusal favours this image's own ratio:
  # the logarithm is uniform in ±0.288, its mean 0.288 / sqrt(3 n) from 0.
  small = np.log(wide / tall)[share < 0.3]
  assert len(small) > 800 and abs(small.mean()) < 0.025
  assert small.min() < -0.25 and small.max() > 0.25


@pytest.mark.parametrize(
  'rows, columns, box',
  [(10, 400, (0, 193, 10, 13)), (400, 10, (193, 0, 13, 10))],
)
def test_an_image_no_box_fits_gets_the_largest_centred_one(rows, columns, box):
  found = resized_crop.draw_resized_crop(
    KEY, rows, columns, (0.9, 1.0), (3 / 4, 4 / 3)
  )
  assert tuple(map(int, found)) == box


@pytest.mark.parametrize('probability', [0.0, 0.2, 0.5, 1.0])
def test_flip_and_grey_happen_with_their_probability(probability):
  count = 4000
  draw = lambda key: aug.draw_event(key, probability)
  happened = np.asarray(jax.vmap(draw)(jax.random.split(KEY, count)))
  deviation = (probability * (1 - probability) / count) ** 0.5
  assert abs(happened.mean() - probability) <= 4 * deviation


def test_pad_crop_reaches_every_offset_equally():
  draw = lambda key: aug.draw_pad_crop(key, 2)
  offsets = np.asarray(jax.vmap(draw)(jax.random.split(KEY, 5000)))
  counts = np.bincount(offsets @ [5, 1], minlength=25)
  # Chi-squared with 24 degrees of freedom: 60 has a probability of 6e-5.
  assert len(counts) == 25
  assert ((counts - 200.0) ** 2 / 200).sum() < 60


def test_results_depend_on_the_index_and_not_on_the_place():
  images, index = pictures(b=8), np.array([5, 3, 8, 1, 9, 2, 6, 4])
  steps = (aug.pad_crop(2), aug.flip(), aug.colour_jitter(0.4, 0.4, 0.4, 0.1))
  call = jax.jit(lambda x, i: aug.augment(KEY, x, i, *steps))
  found = call(images, index)
  order = np.random.default_rng(1).permutation(8)
  np.testing.assert_array_equal(call(images[order], index[order]), found[order])
  assert not np.array_equal(call(images, index + 1), found)
  twice = call(images[[0, 0]], index[[0, 0]])
  np.testing.assert_array_equal(twice[0], twice[1])


def on_devices(count, images, index, steps):
  devices = mesh.make({'data': count}, jax.devices()[:count])
  rows = NamedSharding(devices, PartitionSpec('data'))
  found = jax.jit(lambda k, x, i: aug.augment(k, x, i, *steps))(
    KEY, jax.device_put(images, rows), jax.device_put(index, rows)
  )
  assert len(found.sharding.device_set) == count
  return np.asarray(found)


def test_one_and_eight_devices_give_the_same_images():
  images, index = pictures(b=16, h=32, w=32), np.arange(16, dtype=np.int32)
  moves = (
    aug.pad_crop(4, 'reflect'),
    aug.flip(),
    aug.normalise(MEAN, STD),
  )
  one, eight = (on_devices(n, images, index, moves) for n in (1, 8))
  np.testing.assert_array_equal(one, eight)
  sums = (
    aug.random_resized_crop(24),
    aug.colour_jitter(0.4, 0.4, 0.4, 0.1),
    aug.grey(0.2),
  )
  one, eight = (on_devices(n, images, index, sums) for n in (1, 8))
  # Products and the mean of an image may be summed in another order.
  np.testing.assert_allclose(one, eight, **CLOSE)


def test_no_step_draws_from_another_steps_key():
  images, index = pictures(b=32, h=8, w=8), np.arange(32)
  twice = augment(images, index, aug.flip(), aug.flip())
  changed = (abs(twice - images / np.float32(255)) > 0.001).any((1, 2, 3))
  # Two tosses of one coin would undo each other always.
  assert 4 <= changed.sum() <= 28


def test_without_steps_pixels_become_floats_of_the_unit_interval():
  images = pictures()
  found = aug.augment(KEY, images, np.arange(6))
  chex.assert_type(found, jnp.float32)
  # A division by a constant may be compiled as a product: half an ulp.
  np.testing.assert_allclose(found, images / 255, rtol=1.2e-7)
  np.testing.assert_array_equal(aug.to_float(found), found)


def test_normalise_serves_without_a_key_and_in_any_rank():
  images = aug.to_float(pictures())
  found = aug.normalise(MEAN, STD)(None, images)
  np.testing.assert_allclose(
    found, (np.asarray(images) - MEAN) / STD, rtol=0, atol=1e-6
  )
  grey = aug.normalise([0.5], [0.5])(None, images[..., :1])
  assert float(grey.min()) == -1 and float(grey.max()) == 1


def test_brightness_and_contrast_work_on_grey_images():
  images = pictures(c=1)
  found = augment(images, np.arange(6), aug.colour_jitter(0.5, 0.5))
  chex.assert_shape(found, images.shape)
  for image, i, got in zip(images / 255, range(6), found):
    bright, blend, _, _ = np.asarray(
      aug.draw_jitter(row_key(i), 0.5, 0.5, 0, 0), np.float64
    )
    image = np.clip(bright * image, 0, 1)
    want = np.clip(blend * image + (1 - blend) * image.mean(), 0, 1)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
  'make, message',
  [
    (lambda: aug.pad_crop(-1), 'pad=-1 must be at least 0'),
    (lambda: aug.pad_crop(1, 'edge'), "mode='edge' zero or reflect"),
    (lambda: aug.flip(1.5), r'probability=1.5 must be in \[0, 1\]'),
    (lambda: aug.grey(float('nan')), 'probability=nan'),
    (lambda: aug.random_resized_crop(0), 'size=0 must be positive'),
    (lambda: aug.random_resized_crop(8, (0.0, 1.0)), 'scale=.*positive'),
    (lambda: aug.random_resized_crop(8, (0.5, 1.5)), 'scale=.*at most 1'),
    (
      lambda: aug.random_resized_crop(8, ratio=(2.0, 1.0)),
      'ratio=.*the lesser first',
    ),
    (lambda: aug.colour_jitter(-0.1), 'brightness=-0.1'),
    (lambda: aug.colour_jitter(hue=0.6), r'hue=0.6 in \[0, 0.5\]'),
    (lambda: aug.colour_jitter(float('nan')), 'brightness=nan'),
    (lambda: aug.normalise(MEAN, (1.0,)), 'one number a channel'),
    (lambda: aug.normalise(MEAN, (1.0, 0.0, 1.0)), 'std positive'),
  ],
)
def test_bad_ranges_name_the_argument_and_what_it_may_be(make, message):
  with pytest.raises(ValueError, match=message):
    make()


@pytest.mark.parametrize(
  'images, step, message',
  [
    (
      pictures(c=1),
      aug.grey(0.1),
      'grey of images with 1 channels.*channels=3',
    ),
    (pictures(c=1), aug.colour_jitter(hue=0.1), 'saturation and hue of images'),
    (pictures(h=4), aug.pad_crop(4, 'reflect'), 'mirrors beyond.*4 x 7'),
    (pictures(c=1), aug.normalise(MEAN, STD), '1 channels.*3'),
    (pictures().astype(np.int32), aug.flip(), 'int32; give uint8'),
    (pictures()[0], aug.flip(), r'must be \[b, h, w, c\]'),
  ],
)
def test_images_that_do_not_suit_a_step_are_refused(images, step, message):
  with pytest.raises(ValueError, match=message):
    aug.augment(KEY, images, np.arange(6), step)


def test_another_batch_of_the_same_shape_is_not_traced_again():
  chex.clear_trace_counter()
  steps = (aug.pad_crop(2), aug.random_resized_crop(8), aug.grey(0.5))

  @jax.jit
  @chex.assert_max_traces(n=1)
  def call(key, images, index):
    return aug.augment(key, images, index, *steps)

  for step in range(3):
    key = keys.at(KEY, step)
    found = call(key, pictures(seed=step), np.arange(6) + step)
    chex.assert_tree_all_finite(found)


def test_an_image_is_the_same_in_any_batch_also_by_tpus_keys():
  key, images = jax.random.key(0, impl='rbg'), pictures(4).astype(np.float32)
  images = images / 255
  change = jax.jit(
    lambda x, index: aug.augment(key, x, index, aug.pad_crop(2), aug.flip())
  )
  whole = change(images, jnp.arange(5, 9))
  some = change(images[2:], jnp.arange(7, 9))
  np.testing.assert_array_equal(whole[2:], some)
  assert np.abs(whole - images).max() > 0
