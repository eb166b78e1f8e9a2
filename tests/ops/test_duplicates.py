"""Perceptual hashes against their definition, groups against all pairs."""

import numpy as np
import pytest

from jaxlab.ops.duplicates import (
  components,
  duplicate_groups,
  merged,
  perceptual_hash,
)


def hash_by_definition(image):
  """The 64 bits of one image, sum by sum."""
  place = np.arange(32)
  wave = lambda k: np.cos(np.pi * k * (2 * place + 1) / 64)
  low = [[wave(i) @ image @ wave(j) for j in range(8)] for i in range(8)]
  bits = (np.array(low) > np.median(low)).ravel()
  return sum(1 << (63 - i) for i in np.flatnonzero(bits).tolist())


def same_partition(one, other):
  pairs = {*zip(one.tolist(), other.tolist())}
  return len(pairs) == len({*one.tolist()}) == len({*other.tolist()})


def test_the_hash_is_that_of_the_lowest_frequencies():
  images = np.random.default_rng(0).integers(0, 256, (3, 32, 32), np.uint8)
  want = [hash_by_definition(x.astype(float)) for x in images]
  assert perceptual_hash(images).tolist() == want
  with pytest.raises(ValueError, match=r'\(32, 32\); bring them to'):
    perceptual_hash(images[0])


@pytest.mark.parametrize('distance', [0, 1, 3, 6])
def test_groups_are_those_of_all_pairs(distance):
  draw = np.random.default_rng(distance)
  hashes = draw.integers(0, 2**64, 12, np.uint64)
  for count in (1, 2, 3, 3, 5, 7):  # near ones of near ones
    bits = draw.choice(64, count, replace=False).astype(np.uint64)
    mask = np.bitwise_or.reduce(np.uint64(1) << bits)
    hashes = np.append(hashes, [hashes[draw.integers(len(hashes))] ^ mask])
  hashes = np.append(hashes, hashes[:2])
  far = np.bitwise_count(hashes[:, None] ^ hashes[None])
  want = components(np.argwhere(far <= distance), len(hashes))
  assert same_partition(duplicate_groups(hashes, distance), want)


def test_groups_without_a_search_and_bad_distances():
  assert duplicate_groups(np.zeros(3, np.uint64), -1).tolist() == [0, 1, 2]
  with pytest.raises(ValueError, match=r'distance = 64 must be in \[-1, 63\]'):
    duplicate_groups(np.zeros(3, np.uint64), 64)


def test_merged_groups_join_what_either_joins():
  found = merged(np.array([5, 5, 7, 8, 9]), np.array(['a', 'b', 'b', 'c', 'd']))
  assert same_partition(found, np.array([0, 0, 0, 1, 2]))
