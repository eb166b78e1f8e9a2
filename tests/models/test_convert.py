"""Foreign names -> variables: everything is used, filled and of its shape."""

import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlab.data.packages.weights import read_safetensors, write_safetensors
from jaxlab.models.bert import Bert
from jaxlab.models.convert import (
  Rule,
  assign,
  conv_kernel,
  dense_kernel,
  from_flat,
  template,
  to_flat,
)
from jaxlab.models.squeezenet import SqueezeNet
from tests.models.classifiers import SMALL, draw_variables, zeros

IMAGE = (32, 32, 3)


class Net(nn.Module):
  """A convolution, a norm and a dense layer."""

  @nn.compact
  def __call__(self, image, *, train):
    x = nn.Conv(4, (3, 3), name='conv')(image)
    x = nn.BatchNorm(use_running_average=not train, name='norm')(x)
    return nn.Dense(2, name='head')(x.mean((1, 2)))


SHAPES = template(Net(), zeros((8, 8, 3)))
RULES = [
  Rule(r'(conv|head)\.bias', r'params/\1/bias'),
  Rule(r'conv\.weight', 'params/conv/kernel', conv_kernel),
  Rule(r'head\.weight', 'params/head/kernel', dense_kernel),
  (r'bn\.(weight|bias)', lambda m: f'params/norm/{NORM[m[1]]}'),
  (r'bn\.running_(mean|var)', r'batch_stats/norm/\1'),
  (r'bn\.num_batches_tracked', None),
]
NORM = {'weight': 'scale', 'bias': 'bias'}


def foreign(**changes):
  """The arrays of the same net in torch; a change to None leaves one out."""
  rng = np.random.default_rng(0)
  shapes = {
    'conv.weight': (4, 3, 3, 3),
    'conv.bias': (4,),
    'bn.weight': (4,),
    'bn.bias': (4,),
    'bn.running_mean': (4,),
    'bn.running_var': (4,),
    'head.weight': (2, 4),
    'head.bias': (2,),
  }
  flat = {k: rng.standard_normal(s, np.float32) for k, s in shapes.items()}
  flat['bn.num_batches_tracked'] = np.array(3)
  flat |= {name.replace('__', '.'): x for name, x in changes.items()}
  return {name: x for name, x in flat.items() if x is not None}


def test_every_array_arrives_at_its_place():
  flat = foreign()
  found = assign(SHAPES, flat, RULES)
  chex.assert_trees_all_equal_shapes_and_dtypes(found, SHAPES)
  params, stats = found['params'], found['batch_stats']
  np.testing.assert_array_equal(params['head']['kernel'], flat['head.weight'].T)
  np.testing.assert_array_equal(
    params['conv']['kernel'][1, 2, 0, 3], flat['conv.weight'][3, 0, 1, 2]
  )
  np.testing.assert_array_equal(params['norm']['scale'], flat['bn.weight'])
  np.testing.assert_array_equal(stats['norm']['var'], flat['bn.running_var'])
  assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(found))
  assert all(leaf.flags.c_contiguous for leaf in jax.tree.leaves(found))


def test_all_that_is_wrong_is_told_at_once():
  flat = foreign(
    conv__bias=None,
    head__bias=np.zeros(3, 'f4'),
    conv__weight=np.zeros((4, 3, 5, 3), 'f4'),
    head__weight=np.zeros(8, 'f4'),
    bn__running_var=np.zeros(4, 'i4'),
    aux__weight=np.zeros((2, 2), 'f4'),
    bn__running_extra=np.zeros(1, 'f4'),
    bn2__weight=np.zeros(4, 'f4'),
  )
  rules = [
    *RULES,
    (r'bn2\.weight', 'params/norm/scale'),
    (r'bn\.running_extra', 'batch_stats/norm/extra'),
  ]
  with pytest.raises(ValueError) as caught:
    assign(SHAPES, flat, rules)
  text = str(caught.value)
  for line in (
    'do not fit the model, 8 problems',
    "'params/conv/bias' (4,): no array fills this leaf",
    "'params/head/bias' from 'head.bias': shape (3,), the model wants (2,)",
    "'params/conv/kernel' from 'conv.weight': shape (4, 3, 5, 3) -> "
    '(5, 3, 3, 4), the model wants (3, 3, 3, 4)',
    "'params/head/kernel' from 'head.weight': shape (8,) cannot be brought",
    "'batch_stats/norm/var' from 'bn.running_var': dtype int32, the model",
    "'aux.weight' (2, 2): no rule matches this name",
    "'bn.running_extra' (1,): the model has no leaf 'batch_stats/norm/extra'",
    "'params/norm/scale': filled by 'bn.weight' and by 'bn2.weight'",
    'Build the model with the sizes of the weights',
  ):
    assert line in text, line


def test_the_first_rule_that_matches_the_whole_name_counts():
  shapes = {'a': jax.ShapeDtypeStruct((), np.float32)}
  flat = {'x.y': np.float32(1), 'xy': np.float32(2)}
  rules = [('x', 'a'), (r'x\.y', None), ('x.*', 'a')]
  assert assign(shapes, flat, rules) == {'a': 2}
  assert assign(shapes, flat, [('xy', lambda match: None), ('.*', 'a')]) == {
    'a': 1
  }


def test_floats_take_the_dtype_of_the_model_and_nothing_else_does():
  shapes = {'a': jax.ShapeDtypeStruct((2,), jnp.float32)}
  rules = [Rule('a', 'a')]
  for dtype in (np.float16, np.float64, jnp.bfloat16, '>f4'):
    found = assign(shapes, {'a': np.array([1, 2]).astype(dtype)}, rules)['a']
    assert found.dtype == np.float32 and found.tolist() == [1, 2]
  for dtype in (np.int32, bool, np.complex64):
    with pytest.raises(ValueError, match=f'dtype {np.dtype(dtype)}'):
      assign(shapes, {'a': np.ones(2, dtype)}, rules)
  whole = {'a': jax.ShapeDtypeStruct((2,), jnp.int32)}
  with pytest.raises(ValueError, match='dtype float32, the model wants int32'):
    assign(whole, {'a': np.ones(2, 'f4')}, rules)


def test_templates_compute_nothing_and_know_every_collection():
  assert set(SHAPES) == {'params', 'batch_stats'}
  leaves = jax.tree.leaves(SHAPES)
  assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)


# Without statistics; with; and with layers in units.
@pytest.mark.parametrize('name', ['lenet', 'resnet_b', 'efficientnet_lite'])
def test_variables_survive_a_file_bitwise(name, tmp_path):
  model, shape = SMALL[name]
  variables = draw_variables(model, shape)
  path = tmp_path / 'model.safetensors'
  write_safetensors(path, variables)
  found = from_flat(template(model, zeros(shape)), read_safetensors(path))
  chex.assert_trees_all_equal(found, variables)
  chex.assert_trees_all_equal_shapes_and_dtypes(found, variables)
  assert jax.tree.structure(found) == jax.tree.structure(variables)
  flat = to_flat(variables)
  assert sorted(flat) == sorted(read_safetensors(path))
  assert all(
    re.match(r'(params|batch_stats)/\w+/(\w+/)?\w+', name) for name in flat
  )


@pytest.mark.parametrize('scan', [False, True])
def test_bert_survives_a_file_bitwise(scan, tmp_path):
  model = Bert(20, 2, 8, 2, 16, max_positions=6, scan_layers=scan)
  tokens = jnp.zeros((1, 4), jnp.int32)
  inputs = (tokens, tokens, tokens == 0, tokens)
  shapes = template(model, *inputs, deterministic=True)
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes
  )
  path = tmp_path / 'model.safetensors'
  write_safetensors(path, variables)
  found = from_flat(shapes, read_safetensors(path))
  chex.assert_trees_all_equal(found, variables)
  kernel = 'params/layers_1/intermediate/kernel'
  assert (kernel in to_flat(variables)) == (not scan)


def test_files_of_another_architecture_are_refused_with_both_shapes(tmp_path):
  model, shape = SMALL['squeezenet']
  flat = to_flat(draw_variables(model, shape))
  del flat['params/fire9/expand3/bias']
  with pytest.raises(ValueError) as caught:
    from_flat(template(SqueezeNet(5), zeros(shape)), flat)
  text = str(caught.value)
  assert "'params/fire9/expand3/bias' (256,): no array" in text
  assert '(1, 1, 512, 4), the model wants (1, 1, 512, 5)' in text
  assert '3 problems' in text


def test_keys_that_make_two_paths_one_are_refused():
  with pytest.raises(ValueError, match='one path'):
    to_flat({'a': {'b': 1}, 'a/b': 2})
