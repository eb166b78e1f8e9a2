"""FLOPs counted on jaxprs, against sums done by hand."""

import jax
import jax.numpy as jnp
import pytest

from jaxlab.planning import flops


def test_products_count_two_a_multiplication():
  a, b = jnp.zeros((3, 4, 5)), jnp.zeros((3, 5, 6))
  assert flops.count(jnp.matmul, a, b) == 2 * 3 * 4 * 5 * 6


def test_loops_count_as_often_as_they_turn():
  def turns(x):
    return jax.lax.scan(lambda h, _: (h @ x, None), x, None, length=7)[0]

  assert flops.count(turns, jnp.zeros((4, 4))) == 7 * 2 * 4**3


def test_the_dearest_branch_of_a_cond_counts():
  def step(x):
    return jax.lax.cond(x[0, 0] > 0, lambda: x @ x @ x, lambda: x)

  assert flops.count(step, jnp.zeros((4, 4))) == 2 * 2 * 4**3


def test_recomputation_counts():
  def loss(w, x):
    return jnp.sum(jnp.tanh(x @ w) @ w)

  w, x = jnp.zeros((8, 8)), jnp.zeros((2, 8))
  one = 2 * 2 * 8 * 8
  plain = flops.count(jax.grad(loss), w, x)
  assert plain == 2 * one + 3 * one  # forward; dw, dh, dw: x needs no gradient
  again = flops.count(jax.grad(jax.checkpoint(loss)), w, x)
  assert again > plain


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('groups', [1, 4])
def test_a_convolution_and_both_its_gradients_cost_the_same(stride, groups):
  """The zeros of a strided convolution's gradient are not work."""
  image = jnp.zeros((2, 8, 8, 4))
  kernel = jnp.zeros((3, 3, 4 // groups, 12))

  def convolve(image, kernel):
    return jnp.sum(
      jax.lax.conv_general_dilated(
        image,
        kernel,
        (stride, stride),
        'SAME',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=groups,
      )
      ** 2
    )

  side = 8 // stride
  one = 2 * (2 * side * side * 12) * 9 * (4 // groups)
  assert flops.count(convolve, image, kernel) == one
  both = flops.count(jax.grad(convolve, (0, 1)), image, kernel)
  assert both == pytest.approx(3 * one, rel=0.15)
