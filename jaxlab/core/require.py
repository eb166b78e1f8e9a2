"""Rules for the values of a config, checked before anything is computed.

  require(config, {
    'attack.epsilon': between(0, 1, 'in units of images in [0, 1]'),
    'attack.batch_norm': one_of('running', 'batch'),
    'study.seeds': filled(),
    'ood.epsilons': each(above(0)),
  })

Imports no JAX.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from jaxlab.core.errors import InputError


class Rule(NamedTuple):
  """A condition on a value."""

  holds: Callable[[Any], Any]
  words: str  # 'must be …'
  cure: str = ''


def at_least(low: float, cure: str = '') -> Rule:
  """A number >= low."""
  return Rule(lambda x: x >= low, f'at least {low}', cure)


def above(low: float, cure: str = '') -> Rule:
  """A number > low."""
  return Rule(lambda x: x > low, f'above {low}', cure)


def between(low: float, high: float, cure: str = '') -> Rule:
  """A number in [low, high]."""
  return Rule(lambda x: low <= x <= high, f'in [{low}, {high}]', cure)


def inside(low: float, high: float, cure: str = '') -> Rule:
  """A number in (low, high)."""
  return Rule(lambda x: low < x < high, f'in ({low}, {high})', cure)


def one_of(*choices: Any, cure: str = '') -> Rule:
  """One of some values."""
  known = ', '.join(str(choice) for choice in choices)
  return Rule(lambda x: x in choices, f'one of {known}', cure)


def filled(cure: str = 'give at least one') -> Rule:
  """A sequence or mapping that is not empty."""
  return Rule(len, 'filled', cure)


def each(rule: Rule) -> Rule:
  """A sequence whose every value keeps a rule; it may be empty."""
  holds = lambda values: all(rule.holds(x) for x in values)
  return Rule(holds, f'numbers or names, each {rule.words}', rule.cure)


def some(rule: Rule) -> Rule:
  """A sequence that is not empty and whose every value keeps a rule."""
  every = each(rule)
  holds = lambda values: len(values) and every.holds(values)
  return Rule(holds, f'at least one value, each {rule.words}', rule.cure)


def multiple_of(part: int, cure: str = '') -> Rule:
  """A whole multiple of a number."""
  return Rule(lambda x: not x % part, f'a multiple of {part}', cure)


def require(
  config: Mapping[str, Any], rules: Mapping[str, Rule], name: str = 'config.'
) -> None:
  """Checks values of a config.

  Args:
    rules: dotted key -> Rule.
    name: before the key in messages; '' for values that are of no config.

  Raises:
    InputError: a value breaks its rule, or a key is absent; names the key, the
      value and the rule.
  """
  for key, rule in rules.items():
    value = _value(config, key, name)
    try:
      good = bool(rule.holds(value))
    except TypeError:  # a value of another type
      good = False
    if not good:
      shown = _plain(value)
      cure = f'; {rule.cure}' if rule.cure else ''
      raise InputError(f'{name}{key} = {shown} must be {rule.words}{cure}')


def _value(config: Mapping[str, Any], key: str, prefix: str) -> Any:
  value: Any = config
  for name in key.split('.'):
    if not isinstance(value, Mapping) or name not in value:
      raise InputError(f'{prefix}{key} is missing')
    value = value[name]
  return value


def _plain(value: Any) -> Any:
  if isinstance(value, str):  # a foreign file's may hold control characters
    return f'"{value}"' if value.isprintable() else repr(value)
  if isinstance(value, Iterable) and not isinstance(value, Mapping):
    return list(value)
  return value
