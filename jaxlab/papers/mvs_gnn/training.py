"""The training steps of sampled graph networks, with histories and refreshes.

`State.vars` hold, for samplers that use them,
  history  {level: [n', hidden]}  what each hidden layer last gave for a node,
           0 before; n' is n rounded up, so that devices can share the rows
  sampler  {published: {id, norm} [s], live: {norm} [n']}
Every step writes what it computed to `history` and to `live`. A refresh alone
says which nodes `published` has, those of its own large batch; it and the steps
of the kind 'publish' write their norms. What a refresh writes is of a forward
pass of its own, without dropout.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxlab.core.state import Key, Objective, Task, Tree
from jaxlab.core.update import minimise
from jaxlab.models.sampled_gnn import SampledGNN
from jaxlab.papers.mvs_gnn import feeds
from jaxlab.papers.mvs_gnn.feeds import Shape
from jaxlab.papers.mvs_gnn.method import (
  last_layer_gradient_norms,
  sigmoid_logit_gradients,
  softmax_logit_gradients,
)


def node_losses(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """[b] float32: cross-entropy, or the mean binary one over the labels.

  Args:
    logits: [b, k] float32.
    labels: [b] int32 in [0, k), or [b, k] of 0 and 1.
  """
  if labels.ndim == 1:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  targets = labels.astype(jnp.float32)
  return optax.sigmoid_binary_cross_entropy(logits, targets).mean(-1)


def node_norms(
  inputs: jax.Array, logits: jax.Array, labels: jax.Array
) -> jax.Array:
  """[b] float32: norms of the head's gradients, one node each."""
  if labels.ndim == 1:
    grads = softmax_logit_gradients(logits, labels)
  else:
    grads = sigmoid_logit_gradients(logits, labels) / labels.shape[1]
  return last_layer_gradient_norms(inputs, grads)


def loss_of(
  net: SampledGNN,
  shape: Shape,
  num_nodes: int,
  train: bool = True,
  exact: bool = False,
):
  """The loss of a batch of that shape: an estimate of the mean training loss.

  Args:
    train: with dropout.
    exact: what is written is of a second forward pass, without dropout.

  Returns:
    A `Loss`; its `vars` are the history and the live norms after the batch,
    where `vars` has such.
  """

  def loss(params, vars, batch, key):
    layers = tuple(feeds.layer_of(batch, i) for i in range(shape.levels))
    known: tuple[jax.Array, ...] = ()
    if shape.history:
      known = tuple(
        _rows(table, graph.nodes['id'])
        for table, graph in zip(_by_level(vars['history']), layers[1:])
      )
    seed, label = feeds.whole(batch, 'seed'), feeds.whole(batch, 'label')
    real = seed < num_nodes
    # A node without a label is never weighted.
    safe = jnp.maximum(label, 0)
    weights = {'params': params['net']}
    forward: Any = partial(
      net.apply,
      weights,
      layers,
      feeds.whole(batch, 'features'),
      shape.budget.outputs,
      known,
    )
    logits, values = forward(train=train, rngs={'dropout': key})
    each = node_losses(logits, safe)
    weight = feeds.whole(batch, 'weight')
    total = jnp.where(weight > 0, weight * each, 0.0).sum()
    change: dict[str, Any] = {}
    if exact:
      _, values = forward(train=False)
    values = jax.lax.stop_gradient(values)
    if 'history' in vars:
      change['history'] = {
        str(level): _written(table, batch, level, values, shape, num_nodes)
        for level, table in enumerate(_by_level(vars['history']))
      }
    if 'sampler' in vars:
      # Without the head's dropout.
      sure: Any = net.apply(weights, values[-1], method='logits')
      norms = jax.lax.stop_gradient(node_norms(values[-1], sure, safe))
      live = vars['sampler']['live']['norm']
      at = jnp.where(real, seed, len(live))
      live = live.at[at].set(norms, mode='drop')
      change['sampler'] = {**vars['sampler'], 'live': {'norm': live}}
    one = jnp.ones((), jnp.float32)
    count = real.sum().astype(jnp.float32)
    metrics = {
      'seeds': (count, one),
      'overflow': (batch['overflow'].max().astype(jnp.float32), one),
    }
    return Objective(total, one, vars=change, metrics=metrics)

  return loss


def publishing(loss, refresh: bool):
  """The loss of a step that publishes the live norms of some nodes.

  Args:
    refresh: of its own seeds, which become those published; else of those that
      are published.
  """

  def published(params, vars, batch, key):
    found = loss(params, vars, batch, key)
    sampler = found.vars['sampler']
    of = feeds.whole(batch, 'seed') if refresh else sampler['published']['id']
    norms = _rows(sampler['live']['norm'], of)
    changed = {**sampler, 'published': {'id': of, 'norm': norms}}
    return found.replace(vars={**found.vars, 'sampler': changed})

  return published


def make_task(
  net: SampledGNN,
  shapes: Mapping[str, Shape],
  num_nodes: int,
  num_features: int,
  tx: optax.GradientTransformation,
  history_dtype: str = 'float32',
) -> Task:
  """A step kind for each shape; 'refresh' and 'publish' publish.

  Args:
    history_dtype: of the stored embeddings: float32 or bfloat16.
  """
  updates = {}
  for kind, shape in shapes.items():
    loss = loss_of(net, shape, num_nodes, exact=kind == 'refresh')
    if kind in feeds.PUBLISHING:
      loss = publishing(loss, kind == 'refresh')
    updates[kind] = minimise(loss, 'net', tx)
  rows = -(-num_nodes // 1024) * 1024

  def init(key):
    params = new_params(net, next(iter(shapes.values())), num_features, key)
    vars: dict[str, Any] = {}
    if any(shape.history for shape in shapes.values()):
      vars['history'] = {
        str(level): jnp.zeros((rows, net.hidden), jnp.dtype(history_dtype))
        for level in range(net.num_layers - 1)
      }
    if 'refresh' in shapes:
      size = shapes['refresh'].budget.outputs[-1]
      vars['sampler'] = {
        'published': {
          'id': jnp.full(size, num_nodes, jnp.int32),
          'norm': jnp.zeros(size),
        },
        'live': {'norm': jnp.zeros(rows)},
      }
    return {'net': params}, vars

  return Task(init, updates)


def new_params(
  net: SampledGNN, shape: Shape, num_features: int, key: Key
) -> Tree:
  """Parameters of the network; they do not depend on the shape."""
  budget = shape.budget
  return net.init(
    key,
    feeds.empty(shape).layers,
    jnp.zeros((budget.nodes[0], num_features)),
    budget.outputs,
    train=False,
  )['params']


def _by_level(tables: Mapping[str, jax.Array]) -> list[jax.Array]:
  return [tables[str(level)] for level in range(len(tables))]


def _rows(table: jax.Array, ids: jax.Array) -> jax.Array:
  """Rows of a table of nodes; zeros for padding."""
  return table.at[ids].get(mode='fill', fill_value=0)


def _written(table, batch, level: int, values, shape: Shape, num_nodes: int):
  ids = feeds.real_ids(batch, level, shape.budget.outputs[level], num_nodes)
  ids = jnp.where(ids < num_nodes, ids, len(table))
  return table.at[ids].set(values[level].astype(table.dtype), mode='drop')
