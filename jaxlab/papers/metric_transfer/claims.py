"""The abstract's three claims, a row each, with what a run measured."""

from collections.abc import Mapping

from jaxlab.runs.stage import Stage, Workspace

_COMMAND = 'not run here: python -m jaxlab.main --config=configs/'
# name -> (setting, the paper's gain in points, command)
CLAIMS: Mapping[str, tuple[str, float, str]] = {
  'semi': (
    'semi-supervised, CIFAR-10',
    20.0,
    'metric_transfer.py:paper',
  ),
  'transfer': (
    'ImageNet to CIFAR-10',
    10.0,
    'metric_transfer.py:imagenet_to_cifar10',
  ),
  'few_shot': (
    'few-shot, mini-ImageNet',
    6.0,
    'metric_transfer.py:mini_imagenet',
  ),
}
# TorchSSL's README: FixMatch, WRN-28-2, CIFAR-10.
FIXMATCH = {40: 92.53, 250: 95.14, 4000: 95.79}


def rows_of(own: str, measured: str) -> list[list[str]]:
  """The table's rows: claim, the paper's gain, what is measured."""
  return [
    [text, f'+{gain:g}', measured if name == own else _COMMAND + command]
    for name, (text, gain, command) in CLAIMS.items()
  ]


def claims_stage(own: str, measure) -> Stage:
  """The stage `claims`.

  Args:
    own: of `CLAIMS`, the one that this run measures in its cheapest cell.
    measure: (space) -> what it measured, in words.
  """

  def run(space: Workspace):
    space.page.table(
      "The abstract's claims (points of accuracy)",
      ['claim', 'paper', 'measured in this run'],
      rows_of(own, measure(space)),
    )
    labels = [f'{count:,} labels' for count in FIXMATCH]
    space.page.table(
      'FixMatch on CIFAR-10, WRN-28-2, as published by TorchSSL (%)',
      labels,
      [[f'{value:.2f}' for value in FIXMATCH.values()]],
    )
    return {}

  return Stage('claims', run)
