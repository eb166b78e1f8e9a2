import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.core.errors import InputError
from jaxlab.evals.robust import robust
from jaxlab.ops.adversarial import of_batch
from jaxlab.ops.attacks import fgsm, pgd
from jaxlab.ops.intervals import wilson
from tests.evals.evaluated import evaluated
from tests.ops.attacked import quick_compiles

_quick = pytest.fixture(autouse=True, scope='module')(quick_compiles)


def apply(params, vars, batch):
  x = batch['image']
  return x.reshape(len(x), -1) @ params['net']


def make_batch(rows=24):
  draw = np.random.default_rng(0)
  images = draw.uniform(0.2, 0.8, (rows, 3, 3, 1)).astype(np.float32)
  weights = draw.normal(size=(9, 4)).astype(np.float32)
  labels = (images.reshape(rows, 9) @ weights).argmax(1)
  labels[:4] = (labels[:4] + 1) % 4  # four are wrong without any attack
  batch = {
    'image': images,
    'label': labels.astype(np.int32),
    'id': np.arange(rows, dtype=np.int32),
    'mask': np.ones(rows, bool),
  }
  return {'net': jnp.asarray(weights)}, batch


def moved(by):
  return lambda key, images, ids, params, vars, batch: images + by


HARMLESS = robust(apply, {'none': moved(0.0)})


def cut(batch, size):
  """Batches of one size; what fills the last one is rubbish under the mask."""
  rows = len(batch['mask'])
  for first in range(0, rows, size):
    part = {k: v[first : first + size] for k, v in batch.items()}
    short = size - len(part['mask'])
    fill = {'image': 0, 'label': 77, 'id': 0, 'mask': False}
    yield {
      name: np.concatenate(
        [x, np.full((short, *x.shape[1:]), fill[name], x.dtype)]
      )
      for name, x in part.items()
    }


def test_figures_equal_those_of_the_attacks_called_by_hand():
  params, batch = make_batch()
  objective = of_batch(apply)
  attacks = {
    'fgsm': fgsm(objective, epsilon=0.02),
    'pgd': pgd(objective, epsilon=0.03, steps=5),
  }
  found = evaluated(robust(apply, attacks), [batch], params)
  right = np.asarray(apply(params, {}, batch).argmax(1)) == batch['label']
  assert found['examples'] == 24
  assert found['accuracy'] == right.mean() == 20 / 24
  worst = right.copy()
  for stage, (name, attack) in enumerate(attacks.items()):
    key = jax.random.fold_in(jax.random.key(0), stage)
    args = (batch['image'], batch['id'], params, {}, batch)
    images = attack(key, *args)
    logits = apply(params, {}, {**batch, 'image': images})
    stands = right & np.asarray(logits.argmax(1) == batch['label'])
    worst &= stands
    assert found[f'{name}_accuracy'] == pytest.approx(stands.mean())
    assert found[f'{name}_nonfinite'] == 0
    interval = found[f'{name}_accuracy_low'], found[f'{name}_accuracy_high']
    assert interval == pytest.approx(wilson(int(stands.sum()), 24))
  assert found['worst_accuracy'] == pytest.approx(worst.mean())
  assert 0 < found['worst_accuracy'] < found['accuracy']


def test_figures_do_not_depend_on_how_the_set_is_cut():
  params, batch = make_batch()
  attack = pgd(of_batch(apply), epsilon=0.03, steps=3)
  evaluator = robust(apply, {'pgd': attack})
  whole = evaluated(evaluator, [batch], params)
  for size in (7, 16):
    found = evaluated(evaluator, cut(batch, size), params)
    assert found == pytest.approx(whole)


def test_an_attacked_image_whose_logits_are_not_finite_has_fooled_nobody():
  params, batch = make_batch()

  def torn(params, vars, batch):
    logits = apply(params, vars, batch)
    return jnp.where(batch['image'].max() > 0.85, jnp.nan, logits)

  found = evaluated(robust(torn, {'torn': moved(0.1)}), [batch], params)
  assert found['torn_accuracy'] == found['accuracy'] == 20 / 24
  assert found['torn_nonfinite'] == 24


@pytest.mark.parametrize(
  'change, message',
  [
    ({'image': lambda x: 255 * x}, r'24 of 24 examples have pixels outside'),
    ({'image': lambda x: np.where(x > 0.79, np.nan, x)}, 'have pixels outside'),
    ({'label': lambda y: y + 4}, '24 of 24 examples have labels outside'),
    ({'mask': lambda mask: ~mask}, 'no examples'),
  ],
)
def test_a_bad_set_is_refused(change, message):
  params, batch = make_batch()
  changed = {k: change.get(k, lambda x: x)(v) for k, v in batch.items()}
  changed = {k: np.asarray(v, batch[k].dtype) for k, v in changed.items()}
  with pytest.raises(InputError, match=message):
    evaluated(HARMLESS, [changed], params)


def test_probabilities_are_refused():
  params, batch = make_batch()
  soft = lambda *args: jax.nn.softmax(apply(*args))
  with pytest.raises(InputError, match='probabilities'):
    evaluated(robust(soft, {'none': moved(0.0)}), [batch], params)


def test_clean_logits_that_are_not_finite_are_refused():
  params, batch = make_batch()
  bad = lambda *args: apply(*args).at[3, 1].set(jnp.inf)
  with pytest.raises(InputError, match='1 of 24 examples have NaN or infinite'):
    evaluated(robust(bad, {'none': moved(0.0)}), [batch], params)


def test_logits_of_a_wrong_shape_are_refused():
  params, batch = make_batch()
  flat = lambda *args: apply(*args).max(1)
  with pytest.raises(ValueError, match='must return'):
    evaluated(robust(flat, {'none': moved(0.0)}), [batch], params)


@pytest.mark.parametrize('attacks', [{}, {'worst': moved(0.0)}])
def test_no_attacks_and_taken_names_are_refused(attacks):
  with pytest.raises(ValueError, match='one or more'):
    robust(apply, attacks)
