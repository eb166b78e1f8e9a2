"""Rules of configs: one message names key, value, rule and cure."""

import math

import pytest

from jaxlab.core.errors import InputError
from jaxlab.core.require import (
  above,
  at_least,
  between,
  each,
  filled,
  inside,
  multiple_of,
  one_of,
  require,
  some,
)


@pytest.mark.parametrize(
  'rule, good, bad',
  [
    (at_least(1), (1, 2.5), (0.999, math.nan, 'a', None)),
    (above(0), (1e-9,), (0, math.nan)),
    (between(0, 1), (0, 1, 0.5), (-0.1, 1.1, math.nan)),
    (inside(0, 1), (0.5,), (0, 1, math.nan)),
    (one_of('a', 'b'), ('a',), ('c', '', 1)),
    (filled(), ((1,), {'a': 1}), ((), {}, 3)),
    (each(above(0)), ((), (1, 2)), ((1, 0), 3)),
    (some(above(0)), ((1, 2),), ((), (1, 0), 3)),
    (multiple_of(4), (0, 8), (6, math.nan)),
  ],
)
def test_a_rule_takes_the_good_and_refuses_the_bad(rule, good, bad):
  for value in good:
    require({'part': {'key': value}}, {'part.key': rule})
  for value in bad:
    with pytest.raises(InputError, match=r'^config\.part\.key = .* must be '):
      require({'part': {'key': value}}, {'part.key': rule})


@pytest.mark.parametrize(
  'config, rule, message',
  [
    ({'a': 2}, between(0, 1, 'as 8 / 255'), 'a = 2 must be in [0, 1]; as 8 /'),
    ({'a': 'x'}, one_of('y', 'z'), 'a = "x" must be one of y, z'),
    (
      {'a': (3, 0)},
      each(above(0)),
      'a = [3, 0] must be numbers or names',
    ),
    ({'a': 'x\x1b[2J'}, one_of('y'), r"a = 'x\x1b[2J' must be one of y"),
    ({'b': 1}, at_least(0), 'config.a is missing'),
  ],
)
def test_the_message_names_key_value_rule_and_cure(config, rule, message):
  with pytest.raises(InputError) as error:
    require(config, {'a': rule})
  assert message in str(error.value)
