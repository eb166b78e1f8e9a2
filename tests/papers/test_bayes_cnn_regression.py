"""Regression by weight-space sampling: its bound, its figures, its answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxlab.core.errors import InputError
from jaxlab.papers.bayes_cnn import method, regression
from jaxlab.runs.model import Model
from tests import runs

KEY = jax.random.key(0)


@pytest.fixture(scope='module')
def config():
  return runs.config_of('bayes_cnn', 'regression').to_dict()


def test_the_bound_is_that_of_a_gaussian_likelihood(config):
  net = regression.network(config)
  q = net.init(KEY, jnp.zeros((1, 10)))
  params = {'net': q, 'noise': {'log': jnp.log(0.7)}}
  draw = np.random.default_rng(0)
  x, y = draw.normal(size=(5, 10)), draw.normal(size=5)
  batch = {'x': jnp.float32(x), 'y': jnp.float32(y), 'mask': np.arange(5) < 3}
  found = regression.make_loss(config, net)(params, {}, batch, KEY)
  first, _ = jax.random.split(KEY)
  f = net.apply(q, first, batch['x'])[:, 0]
  nats = -scipy.stats.norm.logpdf(y, f, 0.7)
  np.testing.assert_allclose(found.sum, nats[:3].sum(), rtol=1e-5)
  assert found.weight == 3
  kl = method.kl(q, method.Gaussian(0.3))
  np.testing.assert_allclose(found.penalty, kl / 310, rtol=1e-5)


def test_splits_are_apart_and_scaled_by_the_training_rows():
  sets = regression.diabetes()
  assert [len(sets[s]['y']) for s in sets] == [310, 44, 88]
  np.testing.assert_allclose(sets['train']['x'].mean(0), 0, atol=1e-5)
  np.testing.assert_allclose(sets['train']['y'].std(), 1, rtol=1e-5)
  assert abs(sets['test']['y'].mean()) > 1e-3
  rows = {tuple(x) for s in sets.values() for x in s['x'].round(4).tolist()}
  assert len(rows) == 442


def test_figures_of_gaussian_predictions():
  mean, deviation = np.array([0.0, 1.0, 2.0]), np.array([1.0, 0.5, 2.0])
  y = np.array([0.5, 3.0, 2.0])
  found = regression.figures_of(mean, deviation, y)
  wanted = -scipy.stats.norm.logpdf(y, mean, deviation).mean()
  np.testing.assert_allclose(found['nats'], wanted)
  np.testing.assert_allclose(found['rmse'], np.sqrt(4.25 / 3))
  np.testing.assert_allclose(found['coverage_of_95'], 2 / 3)


def test_answers_hold_the_noise_and_the_weights(config):
  net = regression.network(config)
  q = net.init(KEY, jnp.zeros((1, 10)))
  params = {'net': q, 'noise': {'log': jnp.log(0.7)}}
  x = np.random.default_rng(0).normal(size=(4, 10)).astype(np.float32)
  config = {**config, 'evaluation': {'draws': 30}}
  made = Model(config, params, {})
  found = regression.predict(made, x)
  assert len(found) == 4
  for row in found:
    assert row['deviation'] > 0.7
    share = 1 - 0.49 / row['deviation'] ** 2
    np.testing.assert_allclose(row['epistemic'], share, rtol=1e-3)
  with pytest.raises(InputError, match=r'inputs.width = 9 must be in \[10, 10'):
    regression.predict(made, x[:, :9])


@pytest.mark.parametrize(
  'section, name, value, message',
  [
    ('bayes', 'n_train', None, 'n_train = None'),
    ('bayes', 'n_train', 442, 'the training split has 310'),
    ('optimizer', 'weight_decay', 0.1, 'counts the prior twice'),
    ('evaluation', 'draws', 0, 'draws = 0 must be at least 1'),
    ('prior', 'sigma', 0.0, 'zero width'),
  ],
)
def test_a_config_that_cannot_be_is_refused(
  config, section, name, value, message
):
  changed = {**config, section: {**config[section], name: value}}
  with pytest.raises(InputError, match=message):
    regression.program(changed)
