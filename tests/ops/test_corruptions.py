import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from jaxlab.ops import corruptions

KEY = jax.random.key(0)
IDS = jnp.arange(4, dtype=jnp.int32) + 10
RANDOM = (
  'gaussian_noise',
  'shot_noise',
  'impulse_noise',
  'speckle_noise',
  'motion_blur',
)


@pytest.fixture(scope='module')
def images():
  """Four smooth colour images [4, 32, 32, 3] in [.2, .8]."""
  draw = np.random.default_rng(0)
  rough = draw.random((4, 32, 32, 3))
  smooth = scipy.ndimage.gaussian_filter(rough, (0, 1, 1, 0))
  smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
  return jnp.asarray(0.2 + 0.6 * smooth, jnp.float32)


def error(name, severity, images):
  found = corruptions.corruption(name, severity)(KEY, images, IDS)
  assert found.shape == images.shape and found.dtype == jnp.float32
  assert float(found.min()) >= 0 and float(found.max()) <= 1
  return float(((found - images) ** 2).mean())


@pytest.mark.parametrize('name', corruptions.NAMES)
def test_images_stay_in_range_and_severity_makes_them_worse(images, name):
  weak, strong = error(name, 1, images), error(name, 5, images)
  assert 1e-6 < weak < strong < 0.2


@pytest.mark.parametrize('name', RANDOM)
def test_a_row_depends_on_key_and_id_and_not_on_its_batch(images, name):
  corrupt = corruptions.corruption(name, 5)
  whole = corrupt(KEY, images, IDS)
  turned = corrupt(KEY, images[::-1], IDS[::-1])
  np.testing.assert_array_equal(whole, turned[::-1])
  alone = corrupt(KEY, images[2:3], IDS[2:3])
  np.testing.assert_allclose(whole[2:3], alone, atol=1e-6)
  assert not np.allclose(whole, corrupt(jax.random.key(1), images, IDS))
  same = corrupt(KEY, images[:1].repeat(4, 0), IDS)
  assert not np.allclose(same[0], same[1])


def test_noises_have_the_variances_of_their_formulas():
  grey = jnp.full((4, 32, 32, 3), 0.5, jnp.float32)
  rows = grey.size
  found = {
    name: np.asarray(corruptions.corruption(name, 1)(KEY, grey, IDS))
    for name in RANDOM[:4]
  }
  for name, variance in (
    ('gaussian_noise', 0.04**2),
    ('shot_noise', 0.5 / 100),
    ('speckle_noise', (0.5 * 0.1) ** 2),
  ):
    values = found[name]
    # A mean of 12,288 values: three of its deviations; their squares vary by
    # sqrt(2 / n) = 1.3 % (a little more for Poisson).
    limit = 3 * np.sqrt(variance / rows)
    assert values.mean() == pytest.approx(0.5, abs=limit)
    assert values.var() == pytest.approx(variance, rel=0.05)
  hit = found['impulse_noise'] != 0.5
  assert hit.mean() == pytest.approx(0.02, abs=3 * np.sqrt(0.02 / rows))
  assert set(np.unique(found['impulse_noise'])) == {0.0, 0.5, 1.0}
  white = (found['impulse_noise'] == 1).sum() / hit.sum()
  assert white == pytest.approx(0.5, abs=3 * 0.5 / np.sqrt(hit.sum()))


def test_the_gaussian_blur_equals_scipys(images):
  sigma = 0.4 + 0.2 * 5
  expected = scipy.ndimage.gaussian_filter(
    np.asarray(images, np.float64),
    (0, sigma, sigma, 0),
    mode='nearest',
    radius=(0, 5, 5, 0),  # ceil(3 sigma)
  )
  found = corruptions.corruption('gaussian_blur', 5)(KEY, images, IDS)
  np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
  'name', ['gaussian_blur', 'defocus_blur', 'motion_blur', 'pixelate']
)
def test_blurs_leave_a_flat_image_as_it_is(name):
  flat = jnp.full((4, 32, 32, 3), 0.3, jnp.float32)
  found = corruptions.corruption(name, 5)(KEY, flat, IDS)
  np.testing.assert_allclose(found, flat, atol=1e-6)


def test_motion_draws_a_line_through_a_point():
  point = jnp.zeros((4, 33, 33, 1)).at[:, 16, 16].set(1.0)
  found = corruptions.corruption('motion_blur', 5)(KEY, point, IDS)
  np.testing.assert_allclose(found.sum((1, 2, 3)), 1, rtol=1e-5)
  y, x = np.mgrid[-16:17, -16:17]
  for image in np.asarray(found[..., 0]):
    spread = np.cov(np.stack([x, y]).reshape(2, -1), aweights=image.ravel())
    thin, long = np.linalg.eigvalsh(spread)
    # Half a pixel across; along, of half-width 5.5 and its scale.
    assert thin < 0.4 and 7 < long < 14


def test_brightness_contrast_and_saturation_are_their_formulas(images):
  x = np.asarray(images)
  for name, expected in (
    ('brightness', x + 0.4),
    ('contrast', 0.15 * x + 0.85 * x.mean((1, 2), keepdims=True)),
    ('saturate', 3.5 * x - 2.5 * (x @ [0.299, 0.587, 0.114])[..., None]),
  ):
    found = corruptions.corruption(name, 5)(KEY, images, IDS)
    np.testing.assert_allclose(found, expected.clip(0, 1), atol=1e-6)


def test_pixelation_makes_blocks(images):
  found = corruptions.corruption('pixelate', 4)(KEY, images, IDS)
  blocks = np.asarray(found).reshape(4, 16, 2, 16, 2, 3)
  assert (blocks == blocks[:, :, :1, :, :1]).all()


@pytest.mark.parametrize('channels', [1, 3])
def test_jpeg_is_pillows_at_the_quality_of_the_severity(images, channels):
  images = images[..., :channels]
  found = corruptions.corruption('jpeg', 2)(KEY, images, IDS)
  pixels = np.round(np.asarray(images[1]) * 255).astype(np.uint8)
  file = io.BytesIO()
  Image.fromarray(pixels.squeeze()).save(file, 'JPEG', quality=40)
  expected = np.asarray(Image.open(file)).reshape(pixels.shape)
  np.testing.assert_array_equal(np.round(found[1] * 255), expected)


def test_corruptions_work_within_jit(images):
  corrupt = corruptions.corruption('speckle_noise', 5)
  np.testing.assert_allclose(
    jax.jit(corrupt)(KEY, images, IDS), corrupt(KEY, images, IDS), atol=1e-6
  )


def test_bad_names_severities_and_images_are_refused(images):
  with pytest.raises(ValueError, match="no corruption 'fog'"):
    corruptions.corruption('fog', 1)
  for severity in (0, 6, 1.5):
    with pytest.raises(ValueError, match=f'severity={severity}'):
      corruptions.corruption('contrast', severity)
  corrupt = corruptions.corruption('contrast', 1)
  nan = images.at[0, 0, 0, 0].set(jnp.nan)
  for bad, ids, words in (
    (images * 255, IDS, 'divide uint8'),
    (images - 0.5, IDS, r'images lie in \[-0.3'),
    (nan, IDS, 'are NaN'),
    ((images * 255).astype(jnp.uint8), IDS, 'images are uint8'),
    (images[0], IDS, r'\(32, 32, 3\)'),
    (images[..., :2], IDS, r'1 or 3'),
    (images, IDS[:2], r'ids are \(2,\)'),
  ):
    with pytest.raises(ValueError, match=words):
      corrupt(KEY, bad, ids)
  with pytest.raises(ValueError, match='colour images alone'):
    corruptions.corruption('saturate', 1)(KEY, images[..., :1], IDS)
