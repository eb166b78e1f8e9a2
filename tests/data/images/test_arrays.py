"""Decoding by stated rules, canvases, and sets decoded once."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from jaxlab.core.errors import InputError
from jaxlab.data.images import arrays, pixels, streaming
from jaxlab.data.images.arrays import open_images
from jaxlab.data.images.pixels import Canvas, decode, resize

RED = (255, 0, 0)


def encode(picture, encoding='PNG', **options):
  data = io.BytesIO()
  picture.save(data, encoding, **options)
  return data.getvalue()


def noise(*shape, seed=0):
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def png16(rows, colour, *more):
  """A PNG of 16 bits a channel, which Pillow writes for grey alone.

  Args:
    colour: half of PNG's colour type: 0 grey, 1 colour, 2 grey with alpha.
    *more: (name, body) of chunks before the pixels.
  """
  height, width = rows.shape[:2]
  lines = b''.join(b'\0' + row.astype('>u2').tobytes() for row in rows)

  def chunk(name, body):
    crc = zlib.crc32(name + body)
    return struct.pack('>I', len(body)) + name + body + struct.pack('>I', crc)

  kind = 2 * int(colour)
  head = struct.pack('>IIBBBBB', width, height, 16, kind, 0, 0, 0)
  return (
    b'\x89PNG\r\n\x1a\n'
    + chunk(b'IHDR', head)
    + b''.join(chunk(*one) for one in more)
    + chunk(b'IDAT', zlib.compress(lines))
    + chunk(b'IEND', b'')
  )


@pytest.mark.parametrize('encoding', ['PNG', 'TIFF', 'BMP', 'PPM', 'WEBP'])
def test_lossless_formats_give_back_the_pixels(encoding):
  known = noise(5, 7, 3)
  options = {'lossless': True} if encoding == 'WEBP' else {}
  found = decode(encode(Image.fromarray(known), encoding, **options))
  assert found.dtype == np.uint8
  np.testing.assert_array_equal(found, known)


def test_jpeg_is_decoded_as_pillow_does():
  data = encode(Image.fromarray(noise(16, 24, 3)), 'JPEG')
  np.testing.assert_array_equal(
    decode(data, channels=3), np.asarray(Image.open(io.BytesIO(data)))
  )


def test_channels_of_every_mode():
  grey, colour = noise(4, 6), noise(4, 6, 3)
  luma = np.rint(colour @ np.array([0.299, 0.587, 0.114]))
  tripled = np.repeat(grey[..., None], 3, 2)
  bits = grey > 127
  black_white = np.where(bits, 255, 0).astype(np.uint8)[..., None]
  wide = grey.astype(np.uint16) << 8 | 200
  cases = {
    'grey': (encode(Image.fromarray(grey)), grey[..., None], tripled),
    'colour': (encode(Image.fromarray(colour)), luma[..., None], colour),
    'one bit': (
      encode(Image.fromarray(bits)),
      black_white,
      np.repeat(black_white, 3, 2),
    ),
    '16 bits, grey': (png16(wide, False), grey[..., None], tripled),
    '16 bits, TIFF': (
      encode(Image.fromarray(wide), 'TIFF'),
      grey[..., None],
      tripled,
    ),
    '16 bits, colour': (
      png16(colour.astype(np.uint16) << 8 | 200, True),
      luma[..., None],
      colour,
    ),
  }
  for name, (data, one, three) in cases.items():
    # Pillow's luma is in integers: it may differ by rounding.
    found = decode(data, channels=1).astype(int)
    assert found.shape == one.shape, name
    assert abs(found - one).max() <= (1 if 'colour' in name else 0), name
    np.testing.assert_array_equal(decode(data, channels=3), three, name)
    own = decode(data).shape[-1]
    assert own == (3 if 'colour' in name else 1), name


def test_transparency_is_laid_on_white():
  pixel = np.zeros((1, 4, 4), np.uint8)
  pixel[0, :, 0] = 200  # red
  pixel[0, :, 3] = (255, 0, 51, 255)
  want = [[200, 0, 0], [255, 255, 255], [244, 204, 204], [200, 0, 0]]
  found = decode(encode(Image.fromarray(pixel, 'RGBA')))
  assert abs(found[0].astype(int) - want).max() <= 1

  grey = np.array([[[100, 255], [100, 0], [100, 51]]], np.uint8)
  found = decode(encode(Image.fromarray(grey, 'LA')))
  assert found.shape == (1, 3, 1)
  assert abs(found[0, :, 0].astype(int) - [100, 255, 224]).max() <= 1

  palette = Image.new('P', (2, 1))
  palette.putpalette([255, 0, 0, 0, 0, 255])
  palette.putpixel((1, 0), 1)
  np.testing.assert_array_equal(decode(encode(palette)), [[RED, (0, 0, 255)]])
  found = decode(encode(palette, transparency=1))
  np.testing.assert_array_equal(found, [[RED, (255, 255, 255)]])

  keyed = Image.new('RGB', (2, 1), RED)
  keyed.putpixel((0, 0), (1, 2, 3))
  found = decode(encode(keyed, transparency=(1, 2, 3)))
  np.testing.assert_array_equal(found, [[(255, 255, 255), RED]])


def test_cmyk_and_ycbcr_become_rgb():
  cyan = Image.new('CMYK', (8, 8), (255, 0, 0, 0))
  found = decode(encode(cyan, 'TIFF'))
  np.testing.assert_array_equal(found[0, 0], [0, 255, 255])
  found = decode(encode(cyan, 'JPEG', quality=95))
  assert abs(found[4, 4].astype(int) - [0, 255, 255]).max() <= 3
  luminous = encode(Image.new('YCbCr', (8, 8), (255, 128, 128)), 'TIFF')
  np.testing.assert_array_equal(decode(luminous)[0, 0], [255, 255, 255])


@pytest.mark.parametrize('encoding', ['JPEG', 'PNG', 'TIFF'])
def test_exif_orientation_is_applied(encoding):
  picture = Image.new('RGB', (16, 8), RED)
  exif = Image.Exif()
  exif[0x0112] = 6  # to be turned by 90 degrees
  assert decode(encode(picture, encoding)).shape == (8, 16, 3)
  assert decode(encode(picture, encoding, exif=exif)).shape == (16, 8, 3)
  nonsense = {} if encoding == 'TIFF' else {'exif': b'Exif\0\0nonsense'}
  assert decode(encode(picture, encoding, **nonsense)).shape == (8, 16, 3)


def test_the_first_of_several_frames_is_read():
  frames = [Image.new('RGB', (4, 4), (value,) * 3) for value in (10, 200)]
  for encoding in ('GIF', 'TIFF'):
    data = encode(frames[0], encoding, save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(
      decode(data, channels=1), np.full((4, 4, 1), 10)
    )


def test_an_image_of_one_pixel_is_an_image():
  for mode in ('1', 'L', 'RGB', 'RGBA'):
    data = encode(Image.new(mode, (1, 1)))
    assert decode(data, channels=3).shape == (1, 1, 3)
    assert Canvas(5)(data, '').shape == (5, 5, 3)


BROKEN = {
  'empty': b'',
  'foreign': b'%PDF-1.4 this is not an image',
  'half a PNG': encode(Image.fromarray(noise(64, 64, 3)))[:900],
  'half a JPEG': encode(Image.fromarray(noise(64, 64, 3)), 'JPEG')[:900],
  'a PNG of nothing': b'\x89PNG\r\n\x1a\n',
  'damaged': encode(Image.fromarray(noise(64, 64, 3))).replace(
    b'IDAT', b'IDAT\xff\xff', 1
  ),
  'script': b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n',
}


@pytest.mark.parametrize('name', BROKEN)
def test_bytes_that_are_no_image_are_an_input_error(name):
  with pytest.raises(InputError) as caught:
    decode(BROKEN[name], what='example 7 of birds')
  text = str(caught.value)
  assert text.startswith('example 7 of birds does not decode as PNG, JPEG')
  assert text.endswith('replace or remove it')
  assert ' at 0x' not in text


def test_values_of_32_bits_are_refused():
  data = encode(Image.fromarray(np.ones((2, 2), np.float32)), 'TIFF')
  with pytest.raises(InputError, match='32 bits have no known range'):
    decode(data)


@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
@pytest.mark.parametrize('limit', [63, 31])
def test_decompression_bombs_are_refused(monkeypatch, limit):
  data = encode(Image.new('L', (8, 8)))
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', limit)
  with pytest.raises(InputError, match=r'what does not decode.*(64|8 x 8) pix'):
    decode(data, what='what')
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 64)
  assert decode(data).shape == (8, 8, 1)


def test_canvases_of_the_three_fits():
  wide = np.zeros((4, 8, 3), np.uint8)
  wide[:, :4] = RED  # the left half
  crop = resize(wide, (4, 4), 'crop')
  np.testing.assert_array_equal(crop, wide[:, 2:6])
  pad = resize(wide, (8, 8), 'pad')
  np.testing.assert_array_equal(pad[:2], 255)
  np.testing.assert_array_equal(pad[2:6], wide)
  np.testing.assert_array_equal(pad[6:], 255)
  flat = resize(wide, (2, 4), 'stretch')
  assert flat.shape == (2, 4, 3) and (flat[:, 0] == RED).all()
  for fit in ('crop', 'pad', 'stretch'):
    np.testing.assert_array_equal(resize(wide, (4, 8), fit), wide)
    large = resize(noise(61, 40, 1), (20, 30), fit)
    assert large.shape == (20, 30, 1)


def test_shrinking_averages_and_does_not_alias():
  stripes = np.zeros((32, 32, 1), np.uint8)
  stripes[:, ::2] = 255
  # Every second column would be black or white altogether.
  found = resize(stripes, (8, 8), 'stretch')
  assert abs(found[:, 1:-1].astype(int) - 127).max() <= 2


def test_a_canvas_decodes_as_decode_and_resize():
  for known in (noise(40, 25, 3), noise(25, 40, 3)):
    data = encode(Image.fromarray(known))
    for fit in ('crop', 'pad', 'stretch'):
      np.testing.assert_array_equal(
        Canvas((10, 12), 3, fit)(data, ''), resize(known, (10, 12), fit)
      )


@pytest.mark.parametrize(
  'options, message',
  [
    ({'size': 0}, 'size=0 must be one or two positive'),
    ({'size': (3, 4, 5)}, r'size=\(3, 4, 5\)'),
    ({'size': 2.5}, r'size=2\.5'),
    ({'size': 8, 'channels': 2}, 'channels=2 must be 1, 3 or None'),
    ({'size': 8, 'fit': 'squash'}, "fit='squash' must be crop"),
  ],
)
def test_a_bad_canvas_is_an_input_error(options, message):
  with pytest.raises(InputError, match=message):
    Canvas(**options)


def test_a_canvas_without_a_shape_says_so():
  with pytest.raises(InputError, match='size=None, channels=3: batches need'):
    _ = Canvas(None).shape


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """Classes `ant` and `bee`, 20 images of 6 x 5 each, numbered in colour."""
  monkeypatch.setenv('JAXLAB_DATA_DIR', str(tmp_path / 'cache'))
  root = tmp_path / 'insects'
  for number, name in enumerate(('bee', 'ant')):
    (root / name).mkdir(parents=True)
    for i in range(20):
      picture = Image.new('RGB', (5, 6), (i, number, 7))
      picture.save(root / name / f'{i:02}.png')
  return root


def test_a_folder_becomes_arrays_once(folder, capsys):
  found = open_images(f'image_folder:{folder}', 'train')
  assert isinstance(found.image, np.memmap)
  assert found.image.shape == (32, 6, 5, 3) and found.image.dtype == np.uint8
  assert found.classes == ('ant', 'bee') and found.skipped == ()
  assert found.label.dtype == np.int32
  # The class's number is 1 for ant in the picture and 0 among the classes.
  np.testing.assert_array_equal(found.image[:, 0, 0, 1], 1 - found.label)
  assert 'decoded 32 images' in capsys.readouterr().err
  with pytest.raises(ValueError, match='read-only'):
    found.image[0] = 0

  again = open_images(f'image_folder:{folder}', 'train')
  assert capsys.readouterr().err == ''
  assert again.fingerprint == found.fingerprint
  np.testing.assert_array_equal(again.image, found.image)

  grey = open_images(f'image_folder:{folder}', 'train', size=(4, 4), channels=1)
  assert grey.image.shape == (32, 4, 4, 1)
  assert grey.fingerprint != found.fingerprint
  test = open_images(f'image_folder:{folder}', 'test')
  assert len(test.image) == 4 and test.fingerprint != found.fingerprint

  Image.new('RGB', (5, 6), (99, 0, 7)).save(folder / 'bee' / '03.png')
  changed = open_images(f'image_folder:{folder}', 'train').image
  late = open_images(f'image_folder:{folder}', 'test').image
  held = open_images(f'image_folder:{folder}', 'validation').image
  assert 99 in np.concatenate([changed, late, held])[..., 0]


def test_images_of_different_shape_name_two_and_the_cure(folder):
  Image.new('RGB', (9, 9)).save(folder / 'bee' / '04.png')
  with pytest.raises(InputError) as caught:
    open_images(f'image_folder:{folder}', 'train')
  text = str(caught.value)
  assert 'is 6 x 5 with 3 channels and' in text
  assert 'bee/04.png is 9 x 9 with 3 channels: give size' in text
  Image.new('L', (5, 6)).save(folder / 'bee' / '04.png')
  with pytest.raises(InputError, match='with 1 channels: give channels'):
    open_images(f'image_folder:{folder}', 'train')
  for size in (6, (6, 5)):
    fine = open_images(f'image_folder:{folder}', 'train', size=size, channels=3)
    assert len(fine.image) == 32


def test_undecodable_images_stop_or_are_counted_and_named(folder, capsys):
  name = f'image_folder:{folder}'
  records = streaming.open_records(name, 'train')
  bad = (4, 11, 30)
  paths = [Path(records.describe(index)) for index in bad]
  for path in paths[:2]:
    path.write_bytes(b'nonsense')
  paths[2].write_bytes(paths[2].read_bytes()[:45])
  with pytest.raises(InputError) as caught:
    open_images(name, 'train')
  assert str(caught.value).startswith(f'{paths[0]} does not decode')
  assert 'allow for such images with max_undecodable' in str(caught.value)
  with pytest.raises(InputError, match='after 2 that were allowed for'):
    open_images(name, 'train', max_undecodable=2)
  assert not list((folder.parent / 'cache' / 'decoded').glob('*/image.npy'))
  capsys.readouterr()

  for _ in range(2):  # decoding, and from the disk
    found = open_images(name, 'train', max_undecodable=3)
    assert found.skipped == bad
    assert found.image.shape == (29, 6, 5, 3) and len(found.label) == 29
    np.testing.assert_array_equal(found.image[:, 0, 0, 1], 1 - found.label)
    shown = capsys.readouterr().err
    assert '3 of the 32 images' in shown and str(paths[1]) in shown
  with pytest.raises(InputError, match='max_undecodable=3 allows it'):
    open_images(name, 'train')
  with pytest.raises(InputError, match='max_undecodable=-1'):
    open_images(name, 'train', max_undecodable=-1)


def test_no_decodable_image_and_a_full_disk_are_input_errors(
  folder, monkeypatch
):
  name = f'image_folder:{folder}'
  monkeypatch.setattr(
    arrays.shutil, 'disk_usage', lambda _: type('Usage', (), {'free': 100})
  )
  with pytest.raises(InputError, match=r'0\.0 GB left: lower size'):
    open_images(name, 'train')
  for path in folder.rglob('*.png'):
    path.write_bytes(b'')
  with pytest.raises(InputError, match='no image of the split'):
    open_images(name, 'train', max_undecodable=99)


def test_a_damaged_cache_is_named_and_made_again(folder, capsys):
  name = f'image_folder:{folder}'
  first = open_images(name, 'train')
  [whole] = (folder.parent / 'cache' / 'decoded').glob('*/image.npy')
  pixels = np.array(first.image)
  content = bytearray(whole.read_bytes())
  flipped = [*content]
  flipped[-1] ^= 1
  for damage in (bytes(flipped), bytes(content[:100]), b''):
    whole.write_bytes(damage)
    again = open_images(name, 'train')
    np.testing.assert_array_equal(again.image, pixels)
    said = capsys.readouterr().err
    assert f'{whole} is not what was written' in said
  whole.with_name('sha256.json').unlink()
  open_images(name, 'train')
  assert 'sha256.json is not what' in capsys.readouterr().err


def test_two_processes_decode_a_set_once(folder):
  program = (
    'from jaxlab.data.images.arrays import open_images\n'
    f'print(open_images("image_folder:{folder}", "train").fingerprint)\n'
  )
  started = [
    subprocess.Popen(
      [sys.executable, '-c', program],
      cwd=Path(__file__).parents[3],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for _ in range(2)
  ]
  outputs = [process.communicate(timeout=60) for process in started]
  assert len({out for out, _ in outputs}) == 1
  assert ''.join(err for _, err in outputs).count('decoded 32 images') == 1


def test_pixel_arrays_are_written_in_blocks(folder, monkeypatch):
  whole = open_images(f'image_folder:{folder}', 'train')
  monkeypatch.setattr(streaming, '_BLOCK', 7)
  monkeypatch.setattr(arrays, '_FORMAT', -1)
  blocks = open_images(f'image_folder:{folder}', 'train')
  assert blocks.image.filename != whole.image.filename
  assert blocks.fingerprint == whole.fingerprint


def test_pgm_of_9_to_16_bits_keeps_the_higher_byte_of_its_scale():
  for most, values in ((4095, (0, 4095, 2048)), (1023, (0, 1023, 512))):
    body = b''.join(struct.pack('>H', value) for value in values)
    found = decode(b'P5 3 1 %d ' % most + body)
    assert found.ravel().tolist() == [0, 255, 128]


def test_16_bit_png_with_alpha_or_a_clear_colour():
  rows = np.array([[[0x3200, 0xFFFF], [0x3200, 0]]])
  found = decode(png16(rows, 2))
  assert found.tolist() == [[[0x32], [255]]]
  clear = (b'tRNS', struct.pack('>H', 7))
  found = decode(png16(np.array([[7, 0x6400]]), 0, clear))
  assert found.ravel().tolist() == [255, 100]
  clear = (b'tRNS', struct.pack('>HHH', 0x100, 0x200, 0x300))
  rows = np.array([[[0x100, 0x200, 0x300], [0x6400, 0, 0xFF00]]])
  assert decode(png16(rows, 1, clear)).tolist() == [
    [[255, 255, 255], [100, 0, 255]]
  ]


def test_a_png_turned_by_imagemagicks_exif_is_turned():
  exif = Image.Exif()
  exif[274] = 6
  raw = exif.tobytes()
  notes = PngImagePlugin.PngInfo()
  text = f'\nexif\n{len(raw):8}\n{raw.hex()}\n'
  notes.add_text('Raw profile type exif', text, zip=True)
  data = encode(Image.new('L', (2, 1)), pnginfo=notes)
  assert decode(data).shape == (2, 1, 1)


def test_long_profiles_and_texts_do_not_hide_the_pixels():
  picture = Image.fromarray(noise(3, 4))
  notes = PngImagePlugin.PngInfo()
  notes.add_text('Comment', 'x' * (2 << 20), zip=True)
  for options in ({'icc_profile': bytes(2 << 20)}, {'pnginfo': notes}):
    found = decode(encode(picture, **options))
    np.testing.assert_array_equal(found[..., 0], noise(3, 4))


def test_every_side_has_a_box_inside_of_it():
  class Sides:
    """A picture without pixels."""

    def __init__(self, *size):
      self.size, (self.width, self.height) = size, size

    def resize(self, size, _, box):
      left, top, right, low = box
      assert left >= 0 and top >= 0
      assert right <= self.width and low <= self.height
      return size

  for canvas in (32, 64, 256):
    for side in range(1, 2001):
      for picture in (Sides(side, 2 * side), Sides(side + 3, side)):
        pixels._fit(picture, (canvas, canvas), 'crop')
