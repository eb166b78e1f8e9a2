import numpy as np
import pytest

from jaxlab.ops.intervals import wilson


def test_wilson_covers_a_proportion_as_often_as_it_says():
  draw = np.random.default_rng(0)
  hits = draw.binomial(300, 0.7, 4000)
  covered = [low <= 0.7 <= high for low, high in (wilson(h, 300) for h in hits)]
  # 4,000 draws: the standard error of .95 is .0034.
  assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


def test_wilson_solves_its_quadratic():
  """The ends are where |p̂ - p| = z sqrt(p (1 - p) / n)."""
  for end in wilson(30, 80):
    assert abs(30 / 80 - end) == pytest.approx(
      1.96 * (end * (1 - end) / 80) ** 0.5
    )


def test_wilson_stays_inside_zero_and_one():
  assert wilson(0, 10)[0] == pytest.approx(0, abs=1e-12)
  assert wilson(10, 10)[1] == pytest.approx(1)


@pytest.mark.parametrize('successes, trials', [(0, 0), (5, 4), (-1, 4)])
def test_wilson_refuses_what_is_no_proportion(successes, trials):
  with pytest.raises(ValueError, match=f'{successes} successes in {trials}'):
    wilson(successes, trials)
