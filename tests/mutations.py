"""Wrong code that a test must notice, each a line of the code spoiled.

  python -m tests.mutations            # all, some minutes
  python -m tests.mutations -k keys    # those with `keys` in file or text

Write a dozen for each new method, in the lines that carry its maths, each under
the narrowest test that should see it.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]
# A file and its tests; below, which of them must fail (in the words of pytest's
# -k) once the left text, which is once in the file, is the right one. \n is a
# new line in it.
_LIST = r"""
jaxlab/core/update.py: tests/core/test_update.py
  chained_updates_get_keys_of_their_own
    jax.random.fold_in(key, index)) => key)
    opt={**state.opt, key_name: opt} => opt={key_name: opt}
  repeat_is_the_update_in_a_python_loop
    fold_in(key, i) for i in range(k) => fold_in(key, 0) for i in range(k)
    x.sum(0), stacked)\n\n => x.mean(0), stacked)\n\n
    total[name][1] + count => count
  split_gives_each_repetition_its_own_part
    _cut(batch, k) if split else None => None
    n, n, *x.shape[1:]), 1, 0) => n, n, *x.shape[1:]), 0, 0)
  every_acts_at_its_steps
    state.step % k == 0, => state.step % k == k - 1,
  vars_are_replaced_entry_by_entry
    vars={**state.vars, **objective.vars} => vars={**state.vars}
    grads, total, weight, vars = carry\n => grads, total, weight, _ = carry\n
  micro_batches_get_keys_of_their_own
    jax.random.fold_in(key, i))\n        return => key)\n        return
  micro_batches_and_devices_do_not_change
    weight + objective.weight,\n => objective.weight,\n
    map(lambda g: (g * scale) => map(lambda g: g
    return objective.sum, => return objective.sum / objective.weight,
  no_gradient_flows_through_the_weight
    lax.stop_gradient(objective.weight) => objective.weight
  a_penalty_is_added_once
    objective.sum * scale + objective.penalty => objective.sum * scale
    return objective.sum, => return objective.sum + objective.penalty,
    (int, float)) or added != 0 => (int, float))
    (value * objective.weight, objective.weight) => (value, objective.weight)
  the_penalty_is_that_of_the_first_micro_batch
    \n        loss(trained, vars, => \n        loss(trained, new_vars,
    map(lambda x: x[0], parts) => map(lambda x: x[-1], parts)
    part, jax.random.fold_in(key, 0)) => part, key)
  keeps_the_dtype_of_the_gradients
    (g * scale).astype(g.dtype) => g * scale
  a_batch_of_padding_has_loss_zero
    jnp.where(weight > 0, weight, 1.0), 0.0) => weight, 1.0 / weight)
jaxlab/core/update.py: tests/core/test_nonfinite.py
  nan_in_the_gradient_alone
    1.0 - _all_finite((value, grads)) => 1.0 - _all_finite((value,))
  an_update_written_by_hand_is_judged
    _all_finite((metrics, state.params)) => _all_finite((metrics,))
    _all_finite((metrics, state.params)) => _all_finite((state.params,))
  after_the_limit_the_state_does_not_change
    health['run_length'] >= limit => health['run_length'] > limit
    stay = bad | halted => stay = bad
  nan_on_one_of_eight_devices
    opt=keep(state.opt, new.opt) => opt=new.opt
    vars={**keep(old_entries, entries), => vars={**entries,
    (health['run_length'] + 1) * bad => health['run_length'] + bad
    jnp.where(stay, 0.0, x.astype(jnp.float32)) => x.astype(jnp.float32)
  two_bad_steps_in_a_row_are_skipped
    bad & ~halted & (first < 0) => bad & ~halted
jaxlab/engine/hosts.py: tests/engine/test_hosts.py
  every_process_gets_the_values_of_all_in_order
    json.loads(there[key]) => json.loads(there[keys[0]])
    json.dumps([what, value])) => json.dumps([what, None]))
    make() if leads() else None => make()
  processes_at_different_meetings
    if name != said[0][0]: => if False:
  another_command_is_refused
    if other != said[0][1]: => if False:
  an_error_in_one_process_ends
    stopped := self._stopped():\n          raise => False:\n          raise
    json.dumps([code, words[:2000]]) => json.dumps([1, words[:2000]])
  an_address_in_use
    _check_free(place.coordinator, local) => pass
  the_cause_of_a_broken_collective
    if i != self.place.index: => if True:
    stopped := self._stopped():\n          return => False:\n          return
  without_a_word_is_a_lost_process
    while first.__cause__: => while False:
  an_error_of_its_own_stays
    hasattr(first, 'exit_code') or => False or
    or not of_jax: => or False:
    if not _LOST.search(str(first)): => if False:
  exchanged_about_once_a_second or slow_steps_are_each
    int(self._seconds / max(pace, 1e-9)) => int(self._seconds * pace)
    step < self._next: => step <= self._next:
    self._span = said[0][0] => self._span = said[-1][0]
  a_wish_of_another_process
    any(w[name] for _, w in said) => said[0][1][name]
jaxlab/core/keys.py: tests/core/test_keys.py
  streams_differ
    jax.random.key(seed) => jax.random.key(0)
    zlib.crc32(name.encode()) => zlib.crc32(name[:5].encode())
    jax.random.fold_in(root, step) => jax.random.fold_in(root, step // 2)
  a_key_is_the_same_in_every_process
    zlib.crc32(name.encode()) => abs(hash(name)) % 2**32
jaxlab/engine/partition.py: tests/engine/test_partition.py
  the_first_rule_that_matches_wins
    if re.search(pattern, path): => if re.match(pattern, path):
  optimizer_leaves_follow
    _parameters_of(path, shape, params) or targets => targets
    if size == shape and name => if name
  an_optimizer_leaf_of_either_of_two_like_nets
    for name in (tail, f'{update}/{tail}'): => for name in (tail,):
  an_optimizer_leaf_of_another_shape
    if params.get(name) == shape: => if name in params:
  a_rule_that_cannot_be_meant
    if shape[axis] % ways: => if shape[axis] < ways:
    if len(spec) > len(shape): => if False:
    if index not in used: => if False:
  spread_cuts_the_longest
    (left[d], d) => (left[d], -d)
    -mesh.shape[name]) => mesh.shape[name])
    left[best] //= ways => left[best] //= 1
  spread_that_cannot_cut
    return math.prod(mesh => return max(mesh
    min(spec.min_ways, total) => 1
  spread_holds_small_leaves_whole
    itemsize < spec.min_bytes => itemsize <= spec.min_bytes
    pattern.startswith('^opt/') and => False and
  spread_update_is_the_update_cut
    tx.update(cut(grads), state, cut(params)) => tx.update(grads, state, params)
jaxlab/engine/checkpoint.py: tests/engine/test_checkpoint.py
  a_flipped_bit_that_orbax_does_not_see
    not _is_intact(found, about) => False
  every_n_steps_stay_for_good
    step % self.every_steps == 0 => step % self.every_steps == 1
    >= self.every_seconds => > self.every_seconds
    )\n    self.policy.saved() => )
    managers.EveryNSteps(policy.every_steps) => managers.LatestN(1)
  only_the_newest_stay
    managers.LatestN(policy.keep) => managers.LatestN(policy.keep + 1)
  the_only_checkpoint_damaged
    max(older, default=0) => max(older, default=step)
  a_full_disk_leaves_earlier
    * _MARGIN) + _SLACK => * _MARGIN)
  a_checkpoint_of_another_model
    or have.dtype != want.dtype: => :
    tuple(have.shape) != tuple(want.shape) or => False or
jaxlab/engine/checkpoint.py: tests/core/test_nonfinite.py
  parameters_that_the_optimizer_spoils
    if not path.startswith('params/'): => if path.startswith('params/'):
jaxlab/engine/metrics.py: tests/engine/test_metrics.py
  lines_after_the_restored_step
    if line['step'] <= step] => if line['step'] < step]
  an_evaluation_that_comes_again
    (x['step'], x['kind']) != (step, 'eval') => x['kind'] != 'eval'
  a_torn_last_line
    if not {'step', 'kind'} <= {*line}: => if False:
  a_damaged_line_is_named
    if number < len(texts): => if False:
  a_log_that_is_not_what_was_saved
    saved != _digest(self.path, saved[0]): => False:
  totals_survive_json
    (saved or {}).items() => {}.items()
  sums_are_float64
    old[0] + float(value) => float(np.float32(old[0] + value))
  means_are_sums_over_counts
    old[1] + float(count) => old[1] + 1.0
  what_counted_nothing
    s / c for n, (s, c) in entries.items() if c > 0 => 0.0 for n in entries
  the_line_for_people
    (self.steps - step) * => self.steps *
jaxlab/recipes/study.py: tests/recipes/test_study.py
  each_arm_takes_the_rate_that_was_best
    sign = -1.0 if self.higher => sign = 1.0 if self.higher
    min(tried, key=loss) => max(tried, key=loss)
  a_diverged_trial_is_never_chosen
    found is None or any => found is None and any
  only_final_runs_read_the_test_set
    return self.choose is not None => return self.choose is None
    max(found.max_bad_steps, found.steps) => found.max_bad_steps
  a_setting_may_take_its_rate_from_another
    factor * self._best(space, arm, at) => self._best(space, arm, at)
    self._best(space, arm, at) => self._best(space, arm, setting)
    self.tuned_at(arm, setting)[0] != setting or => False or
  trials_come_before_final_runs
    key=lambda arm: arm != c['baseline'] => key=lambda arm: arm
    or len(rates) == 1 => or len(rates) == 0
  differences_are_paired_by_seed
    x - y for x, y in zip => y - x for x, y in zip
    not name.endswith(_LEFT_OUT) => name
    sum(values) / len(values) => sum(values)
  a_run_without_the_figure_or_diverged
    if values and all(map(math.isfinite, values)) => if values
    math.nan if value is None else value => value or 0.0
  a_verdict_needs_an_interval
    if abs(mean) <= half: => if mean <= half:
    (mean > 0) == higher => mean > 0
  a_plan_takes_the_first_rate
    or space.planning => or not space
jaxlab/recipes/images.py: tests/recipes/test_images.py
  a_step_is_sgd_on_the_masked_mean
    (logits.argmax(-1) == labels) & mask) => (logits.argmax(-1) == labels))
    mask.sum().astype(jnp.float32)) => jnp.float32(len(mask)))
  micro_batches_and_a_loss_of_ones_own
    vars={**new, **found.vars} => vars={**new}
    of_logits = loss or => of_logits =
  the_network_sees_the_middle
    ((length - side) // 2 for => ((length - side) for
  predictions_are_probabilities
    inputs[start : start + d['eval_batch_size']] => inputs
    'probability': float(row.max()), => 'probability': float(row.min()),
jaxlab/recipes/judge.py: tests/recipes/test_judge.py
  an_image_withstands
    found[''] & each for => each for
    {**batch, 'image': image}) => batch)
    np.logical_and.reduce => np.logical_or.reduce
  outliers_are_scored_set_by_set
    ends = np.cumsum([len(part) => ends = np.cumsum([1 + len(part)
jaxlab/recipes/optimizers.py: tests/recipes/test_optimizers.py
  schedules_have_their_values
    cosine(count + 1) => cosine(count)
    int(share * steps): factor => int(share * steps) + 1: factor
    jnp.asarray(count, jnp.float32) + 1 => jnp.asarray(count, jnp.float32)
  an_optimizer_is_optaxs
    optax.chain(optax.add_decayed_weights(decay), tx) => tx
    clip_by_global_norm(section['clip_norm']), tx) => clip(1.0), tx)
jaxlab/papers/lamb/method.py: tests/papers/test_lamb.py
  float32[lamb: and defaults]
    m = at(b1) * m + at(share) * g\n => m = at(b1) * m + g\n
    (1 - b2) * g * g\n => (1 - b2) * abs(g)\n
    step), correction(b2, step)\n => step), correction(b1, step)\n
    correction(b1, step), => correction(b1, step + 1),
    layers.ratio(weights, u, rule) => layers.ratio(u, weights, rule)
  float32[lamb: and N-LAMB]
    correction(b1, step + 1), => correction(b1, step),
    if variant == 'nn_lamb': => if variant != 'lamb':
  float32[lamb: and NN-LAMB]
    v / at(next2) => v / at(now2)
  float32[lamb: and correction]
    if bias_correction else 1.0 => if decay else 1.0
  float32[lamb: and betas and L1]
    (jnp.sqrt(v_hat) + at(eps)) => jnp.sqrt(v_hat + at(eps))
    layers.ratio(weights, u, rule) => layers.ratio(weights, m_hat, rule)
    at(decay) * weights\n      ratio => at(decay) * g\n      ratio
  float32[lamb: and masks]
    if rule.decay and not decoupled_decay => if not decoupled_decay
  rate_of_step_zero[lamb]
    factor(state.step) => factor(step)
  bias_correction_at_step_one
    -jnp.expm1( => 1 - jnp.exp(
  float32[lars and other and numbers]
    m = b * m + (1 - b) * d => m = b * m + d
    (weights, m, rule, *c) => (weights, m, rule, c[0])
    (weights, d, rule, *c) => (weights, g, rule, *c)
  float32[lars and paper: and defaults]
    layers.ratio(weights, m, rule, => layers.ratio(weights, d, rule,
    1.0 if order == 'paper' else 0.001 => 0.001
  float32[lars and masks]
    at(decay) * weights if rule.decay else g => at(decay) * weights
  float32[lars and nesterov]
    b * m + step if nesterov else m => m
  rate_of_step_zero[lars]
    _at(learning_rate, state.step)\n => _at(learning_rate, 1)\n
  bfloat16_parameters
    return change.astype(x.dtype), m.astype => return change, m.astype
    return change.astype(x.dtype), m, ratio => return change, m, ratio
jaxlab/papers/lamb/layers.py: tests/papers/test_lamb.py
  ratio_is_one_where_a_norm_is_zero
    (norm_x == 0) | (norm_u == 0) => norm_x == 0
    (norm_x == 0) | (norm_u == 0) => norm_u == 0
  nan_gradients_are_not_hidden
    (norm_x == 0) | (norm_u == 0) => ~((norm_x > 0) & (norm_u > 0))
  float32[lars and other and numbers]
    norm_x + eps) => norm_x)
    self._clip(scale * => self._clip(
  float32 and phi and pair
    jnp.clip(x, lower, upper) => jnp.maximum(x, lower)
    jnp.clip(x, lower, upper) => jnp.minimum(x, upper)
    self._phi(norm_x) => norm_x
  float32 and masks
    if not rule.adapt: => if False:
  a_stacked_leaf_moves_as_its_layers_apart
    tuple(range(axes, x.ndim)) => tuple(range(0, x.ndim))
  float32 and stacked and inf
    jnp.max(jnp.abs(x) => jnp.max((x)
  float32 and several and L1
    jnp.sum(jnp.abs(x) => jnp.sum((x)
  bfloat16_parameters
    jnp.promote_types(x.dtype, jnp.float32) => x.dtype
  default_decay_mask
    r'(bias|(^|/)b)$' => r'(bias|(^|/)b)'
    (?i)layer_?norm => (?i)layer_norm
  layer_axes_match
    or parts[i + 1].isdigit(): => :
jaxlab/papers/lamb/schedules.py: tests/papers/test_lamb.py
  the_jumping_schedule
    step < start + warmup, rising => step <= start + warmup, rising
  the_schedule_equals_the_reference
    end = max(start + warmup, 0)\n => end = start + warmup\n
    falling**power => falling
  the_schedule_without_jump
    total if jump else (total - end) or 1 => total
  a_late_start_has_rate_zero
    jnp.maximum(step - start, 0) => (step - start)
jaxlab/papers/metric_transfer/method.py: tests/papers/test_metric_transfer.py
  the_bank_moves_once
    mean / jnp.maximum(same.sum(1), 1)[:, None] => mean
    (index[:, None] == index) & keep => index[:, None] == index
    jnp.where(keep, index, len(bank)) => index
    momentum * bank[index] + (1 - momentum) * mean => bank[index] + mean
  snca_is_its_definition
    jnp.arange(len(bank)) != index[:, None]\n => jnp.arange(len(bank)) != -1\n
    logits, 0) - margin / sigma * same => logits, 0) - margin * same
    same.any(1) if mask is None else same.any(1) & mask => mask
  noise_contrastive_loss
    jnp.log(len(noise) / len(bank)) => jnp.log(1 / len(bank))
    (even - (drawn - log_normaliser)).sum(1) => (even - drawn).sum(1)
    jnp.maximum(where.sum(), 1)) + jnp.log(len(bank)) => where.sum())
  votes_are_sums
    jnp.where(own, -jnp.inf, logits) => logits
    jnp.log(votes) + top => jnp.log(votes)
  pseudo_labels_weigh
    0.0)).sum(), weights.sum() => 0.0)).sum(), mask.sum()
jaxlab/papers/metric_transfer/graph.py: tests/papers/test_metric_transfer.py
  the_graph_is_brute_force
    [np.arange(count), np.arange(start, rows.stop)] = -np.inf => [:, n:] = 0
    (best, groups - k, 1)[:, groups - k :] => (best, k, 1)[:, :k]
  devices_share_the_rows
    lax.axis_index(axes) * each => 0
  affinities_are_their_formulas
    (1 - s[:, -1:]) / 2 => (1 - s[:, :1]) / 2
    (one_way + other) * 0.5 => one_way + other
jaxlab/papers/metric_transfer/spectrum.py: tests/papers/test_metric_transfer.py
  the_smallest_pairs_are_found
    found[order] = block => found[:] = block
    ritz, turn = ritz[::-1], turn[:, ::-1] => pass
    gram - basis.T @ (smooth @ basis) => basis.T @ (smooth @ basis)
  systems_are_solved
    tolerance**2 * square => tolerance * square
    np.where(open, new / np.where(open, square, 1), 0) * way => 0 * way
jaxlab/papers/metric_transfer/labels.py: tests/papers/test_metric_transfer.py
  normalized_cut_is_the_dense_formula
    np.sqrt(d / ratio) * hit => np.sqrt(d) * hit
    (vectors.T @ bias) / values => (vectors.T @ bias)
    cut * np.sqrt(len(y)) => cut
    np.where(known, y, found) => found
    np.where(known, 1, np.where(reached, sure, 0)) => sure
  spreading_is_the_dense_solve
    (1 - alpha) * solve_spreading => solve_spreading
  nearest_labelled_images_vote
    cosine[rows[:, None] == known] = -np.inf => pass
    np.put_along_axis(cosine, far, -np.inf, 1) => pass
  components_are_cut_apart
    np.full((len(y), classes), -np.inf) => np.zeros((len(y), classes))
    np.where(reached, shares.argmax(1), UNDECIDED) => shares.argmax(1)
  class_masses_are_moved
    p / p.sum() / np.maximum(mass, 1e-30) => p / p.sum()
jaxlab/papers/metric_transfer/selection.py: tests/papers/test_metric_transfer.py
  the_surest_are_selected
    np.argsort(-found.confidence[others] => np.argsort(found.confidence[others]
    best[found.labels[best] != UNDECIDED] => best
jaxlab/papers/metric_transfer/finetuning.py: tests/papers/test_metric_stages.py
  an_arm_is_trained_on_its_rows
    weight[others] = found.confidence[others] => pass
    [known] * f['labelled_repeats'] => [known]
  leaves_are_taken
    if {*name.split('/')} & {*new}: => if False:
    have is None or have.shape != leaf.shape => have is None
jaxlab/papers/metric_transfer/pretraining.py: tests/papers/test_metric_stages.py
  the_bank_is_read_before
    jnp.where(mask, index, len(bank['labels'])) => index
  the_centre_of_what
    jnp.average(output, 0, weights=batch['mask']) => output.mean(0)
  the_normaliser_of_noise
    bank['normalised'] = jnp.ones((), bool) => pass
jaxlab/papers/metric_transfer/episodes.py: tests/papers/test_metric_stages.py
  pools_hold_the_same
    [rows[shots : shots + queries] for => [rows[:queries] for
  episodes_are_answered
    own < 0, other, own => own == own, other, own
jaxlab/ops/row_random.py: tests/ops/test_row_random.py
  a_row_follows_from_its_id
    jnp.arange(shape[0]) if ids is None else ids => jnp.arange(shape[0])
  normals_are_standard_and_independent
    words[:, :1], words[:, 1:], flat => words[:1, :1], words[:1, 1:], flat
    np.float32(2**-23 - 1) => np.float32(2**-23 - 0.9)
jaxlab/ops/variational.py: tests/ops/test_variational.py
  has_its_direction
    ratio, gap = sigma_q / sigma_p => ratio, gap = sigma_p / sigma_q
  the_divergence_is_that_of_draws
    (ratio**2 + gap**2 - 1) / 2 => (ratio**2 + gap - 1) / 2
  ard_is_the_divergence
    softplus(-log_alpha) / 2 => softplus(-log_alpha)
  log_uniform_fit
    k1 * (1 - sure) => k1 * sure
  the_root_has_no_infinite_slope
    jnp.sqrt(jnp.where(large, variance, 1.0)) => jnp.sqrt(variance)
  lrt_has_the_moments
    linear(squared, jnp.square(sigma)) => linear(squared, sigma)
    + jnp.square(bias_sigma) => + bias_sigma
  modes_differ_in_what_examples_share
    * s\n\n\ndef sigmas => \n\n\ndef sigmas
  trees_are_drawn_leaf_by_leaf
    ends[:-1])\n => ends[:-1] * 0)\n
jaxlab/models/bayesian.py: tests/models/test_bayesian.py
  nets_have_the_papers_numbers
    (1000, 1000), => (1000, 100),
  noise_of_an_example_is_its_own
    mu, sigma, key, ids, **bias => mu, sigma, key, None, **bias
  modes_have_the_same_spread
    variational.sample(second, *pair) => pair[0]
  a_strided_convolution
    window_strides=(self.strides, self.strides) => window_strides=(2, 1)
  dropout_scales_up
    x / (1 - self.dropout) => x
jaxlab/papers/bayes_cnn/method.py: tests/papers/test_bayes_cnn.py
  the_bound_is_mean_nats
    return beta / n_train => return beta
  blundells_weights
    -np.expm1(-M * math.log(2)) => 1.0
  schedules_have_the_mean
    beta * batches * blundell_weights => beta * blundell_weights
  predictions_are_those_of_draws
    draw(jax.random.fold_in(key, t), q) => draw(key, q)
  pruning_takes_the_least
    jnp.abs(m) / s, mu, sigma => jnp.abs(m) * s, mu, sigma
jaxlab/papers/bayes_cnn/uncertainty.py: tests/papers/test_bayes_cnn.py
  variance_is_split
    centred = p - p.mean(0) => centred = p
  entropy_is_split
    entropy(p).mean(0)\n => entropy(p)[0]\n
jaxlab/papers/bayes_cnn/priors.py: tests/papers/test_bayes_cnn.py
  the_mixtures_divergence
    variational.log_normal(w, m, s) - log_prior(w) => -log_prior(w)
  the_divergence_of_a_tree
    jax.tree.map(lambda _: prior.mu, sigma) => sigma
jaxlab/papers/bayes_cnn/ivon.py: tests/papers/test_bayes_cnn.py
  ivon_is_the_official_update
    ess * (h + weight_decay) * product => ess * h * product
    (m / debias + weight_decay * mean) => (m + weight_decay * mean)
    hess_init + weight_decay if rescale_lr => 1.0 if rescale_lr
    + more / 2 => + more
jaxlab/papers/bayes_cnn/laplace.py: tests/papers/test_bayes_cnn.py
  laplace_has_the_curvature
    ((i == j) - p[:, j]) => ((i == j) + p[:, j])
  the_precision_has_the_largest_evidence
    gained - lost - precision * squares => gained - lost
jaxlab/papers/bayes_cnn/arms.py: tests/papers/test_bayes_cnn_task.py
  the_loss_is_nats_by_row
    kl, b['n_train'], weight => kl, 32, weight
  several_draws_average
    (total or len(draws)) => 1
  an_ensembles_members
    arm == 'ensemble'), 'net', tx) => False), 'net', tx)
  ivon_takes_its_gradient_at_a_draw
    {**params, 'net': shifted} => params
  number_of_examples_that_is_not
    (*VARIATIONAL, 'ivon'):\n => VARIATIONAL:\n
jaxlab/papers/bayes_cnn/judgement.py: tests/papers/test_bayes_cnn_task.py
  figures_are_of_the_mean
    np.float64)).mean(0) => np.float64))[0]
jaxlab/papers/reprogramming/method.py: tests/papers/test_reprogramming.py
  share_one_place
    first = (n - k) // 2 => first = (n - k + 1) // 2
    mask[hole, hole] = 0\n  return => mask[hole] = 0\n  return
    (hole.start, n - hole.stop) => (n - hole.stop, hole.start)
  is_0_in_the_hole
    jnp.tanh(weights * mask)\n\n => jnp.tanh(weights)\n\n
  those_written_out and range
    data + alpha * program => data + program
    jnp.clip(found, *clip) => found
    jnp.clip(found, *clip) => jnp.clip(found, *RANGE)
  are_shuffled_alike
    mask = shuffle(mask[None], permutation)[0] => pass
    data = shuffle(data, permutation) => pass
    carrier + alpha * jnp.tanh(data + => carrier + data + alpha * jnp.tanh(
  a_frame_has_its_width
    hole.stop + width) => hole.stop + width + 1)
    max(0, hole.start - width) => hole.start - width
  the_objective_is
    'half_sum': 0.5 => 'half_sum': 1.0
    -jnp.where(mask, own, 0.0).sum() => -own.sum()
    jnp.where(mask[:, None], logits, 0.0)\n    known => logits\n    known
  counts_what_the_victim_says
    .at[labels, top].add(mask) => .at[labels, top].add(1)
  calibrated_statistics
    {**variables, 'batch_stats': train => {'batch_stats': train
jaxlab/papers/reprogramming/label_map.py: tests/papers/test_reprogramming.py
  summed_probability
    there, every[:, classes], -jnp.inf) => there, every[:, classes], 0)
    jnp.where(there, every[:, classes], -jnp.inf) => every[:, classes]
  predictions_are_of_the_likeliest
    ((classes == top) & there) => (classes == top)
    of_top.argmax(-1), -1) => of_top.argmax(-1), 0)
  cannot_be_is_refused
    and first != 1: => and first > 1:
    setdefault(one, label) != label => setdefault(one, label) > label
    if not first <= one < classes: => if not one < classes:
  most_frequent_pairs
    .at[:, of].set(-1) => .at[:, of].set(0)
  dead_targets
    == 0) | ~there).all(-1) => == 0)).all(-1)
jaxlab/papers/reprogramming/counting.py: tests/papers/test_reprogramming.py
  counted_again
    square[1:-1, 1:-1] = 1 => square[:] = 1
    <= label, label => < label, label
  all_counts_and_all_cells
    (), 0, COUNTS) => (), 0, COUNTS - 1)
jaxlab/papers/reprogramming/inputs.py: tests/papers/test_reprogramming.py
  numbers_of_splits
    found[found < self.count] => found
    * self.rows\n => * (stop - start)\n
    'test': 3 * 2**29 => 'test': 2**30
  grey_data
    x.mean(-1, keepdims=True) => x[..., :1]
    return 2 * x - 1 => return x
jaxlab/papers/reprogramming/task.py: tests/papers/test_reprogramming.py
  concealed_arm_joins
    permutation=vars.get('pixels') => permutation=None
    p['alpha'],\n => 1.0,\n
  map_by_frequency_is_drawn
    'counts': jnp.zeros_like(counts), => 'counts': counts,
  frozen_victim
    Start(params={'net': params}, => Start(params={},
jaxlab/papers/reprogramming/victims.py: tests/papers/test_reprogramming.py
  reads_images_in_its_own_range
    (found - low) / (high - low) => (found - low) / high
  photographs
    :, :k] == labels => :, : k - 1] == labels
jaxlab/papers/advgan/method.py: tests/papers/test_advgan.py
  margin_loss_by_hand
    -lead, -kappa) => -lead, kappa)
    lead if targeted else -lead, => lead,
  cross_entropy_loss_pulls
    return found if targeted else -found => return found
  games_by_hand
    lambda d: d**2 / 2, => lambda d: (d + 1) ** 2 / 2,
    lambda d: -jax.nn.softplus(d),\n => lambda d: jax.nn.softplus(-d),\n
  hinge_is_of_the_whole_image
    axes = tuple(range(1, perturbation.ndim)) => axes = -1
    norm - c, 0.0) => norm, 0.0)
    jnp.sqrt(jnp.where(over, square, 1.0)) => jnp.sqrt(square)
  images_stay_in_ball
    return ball.project(images, ball.box(images), => return (
  tanh_has_a_gradient
    ball.epsilon * jnp.tanh(raw) => jnp.clip(raw, -0.3, 0.3)
  distillation_is_cross_entropy
    -jnp.sum(answers * log_p, -1) => -jnp.sum(jnp.exp(log_p) * log_p, -1)
  targets_are_even
    randint(key, (), 1, classes) => randint(key, (), 0, classes)
  success_counts
    counted = counted & (aims != labels) => counted = counted
    (found == aims) & counted, counted => (found == aims), counted
    counted = clean.argmax(-1) == labels => counted = clean.argmax(-1) >= 0
jaxlab/papers/advgan/oracle.py: tests/papers/test_advgan_oracle.py
  on_disk_before
    self._count(len(images))\n => pass\n
  every_image_is_counted
    self._known = True => pass
    self.queries = total\n => self.queries += 1\n
  a_torn_last_line
    if lines[-1]: => if False:
jaxlab/papers/advgan/game.py: tests/papers/test_advgan_task.py
  discriminator_first
    labels)\n    changed, perturb => 9 - labels)\n    changed, perturb
    play = terms.generator( => play = -terms.generator(
  padding_has_no_part
    jnp.sum(jnp.where(mask, each, 0.0)) => jnp.sum(each)
  told_its_target
    self.classes if self.targeted else 0)\n    raw => 0)\n    raw
jaxlab/papers/advgan/distilled.py: tests/papers/test_advgan_task.py
  phases_alternate
    found += [('refine', refine), *one] => found += [*one, ('refine', refine)]
  batches_ask_about
    self._ask(changed) => self._ask(found['image'])
    side='right' => side='left'
jaxlab/papers/advgan/stages.py: tests/papers/test_advgan_task.py
  training_on_what_a_generator
    return of.attack(vars['other'], images, aims)[0] => return images
    aims = of.aims(key, ids, batch['label']) => aims = batch['label']
jaxlab/papers/lamb/layers.py: tests/papers/test_lamb.py
  options_of_other_libraries
    norm_u + share * norm_x + eps => norm_u + eps
    return lambda x: jnp.clip(x, lower, upper) => return lambda x: x
  derivative_through_an_update
    jnp.sqrt(jnp.where(zero, 1, square)) => jnp.sqrt(square)
  a_mask_that_can_be_called
    function = callable(tree) and => function = callable(tree) or
  default_decay_mask
    name = path_name(path).removesuffix('/value') => name = path_name(path)
jaxlab/papers/lamb/method.py: tests/papers/test_lamb.py
  options_of_other_libraries
    share = 1 - b1 if grad_averaging else 1.0 => share = 1 - b1
    (at(1.0), -eta) if outer_rate else (-eta, at(1.0)) => (-eta, at(1.0))
jaxlab/engine/durable.py: tests/engine/test_durability.py
  a_power_loss
    for name in names:\n => for name in ():\n
jaxlab/engine/checkpoint.py: tests/engine/test_durability.py
  a_reader_leaves
    cleanup_tmp_directories=writes => cleanup_tmp_directories=True
jaxlab/engine/feed.py: tests/engine/test_waiting.py
  ends_the_wait
    wait=not preemption.asked() => wait=True
jaxlab/data/atomic.py: tests/data/images/test_arrays.py
  a_damaged_cache
    if _sha256(folder / name) != wanted: => if False:
jaxlab/papers/encouraging/bonus.py: tests/papers/test_encouraging.py
  the_default_is
    LOG_END = 0.75 => LOG_END = 0.5
  numbers_of_the_bonus
    moved = tangents[0] + slope * tangents[1] => moved = slope * tangents[1]
jaxlab/papers/encouraging/odds.py: tests/papers/test_encouraging.py
  a_mask_of_floats
    return kept if mask.dtype == bool else => return kept if True else
jaxlab/papers/encouraging/method.py: tests/papers/test_encouraging.py
  soft_labels
    jnp.where(labels > 0, labels.astype => jnp.where(labels > 0.5, labels.astype
  official_betas
    1: high & yes, 2: high & ~yes => 1: high & ~yes, 2: high & yes
    .get(beta, high) => .get(beta, odds > 0)
jaxlab/papers/lamb/method.py: tests/papers/test_lamb.py
  decay_may_follow
    state.step)\n    now1 => step)\n    now1
    state.step)\n\n => state.step + 1)\n\n
jaxlab/papers/lamb/layers.py: tests/papers/test_lamb_sharding.py
  layers_may_be_sharded
    jax.sharding.reshard(ratio, jax.P()) if any(spec) else ratio => ratio
jaxlab/models/advgan.py: tests/models/test_advgan.py
  target_reaches_every_pixel
    return (1 + scale) * x + shift => return (1 + scale - scale) * x
jaxlab/data/packages/pickles.py: tests/data/packages/test_pickles.py
  a_small_pickle_cannot
    if depth > _DEEPEST: => if False:
    if self._work > self._limit: => if False:
    self._spend_on(state) => pass
    self._spend_on(args) => pass
    for item in key if type(key) is tuple else (): => for item in ():
    self._check_key(key)\n => pass\n
    self._check_key(item)\n => pass\n
  damage_is_an_input_error
    for _ in range(_DEEPEST): => while True:
    if number > self._most: => if False:
    (pickle.FRAME, load_frame), => (pickle.BUILD, load_build),
  no_stand_in_can_be
    elif type(made) is not dict: => elif vars(made).update(state):
jaxlab/data/packages/torch_pickles.py: tests/data/packages/test_pickles.py
  tensors_beyond_their
    if last >= len(data) or count > len(data): => if last >= len(data):
    if file.readinto(buffer) != len(buffer): => if not file.readinto(buffer):
jaxlab/data/images/pixels.py: tests/data/images/test_arrays.py
  pgm_of_9
    picture.mode == 'I' and picture.format => False and picture.format
  16_bit_png
    values == clear, BACKGROUND, => values == -1, BACKGROUND,
    value >> 8 for value in => value for value in
    if raw == 'LA;16B': => if raw == 'LA;8B':
  imagemagicks
    {'exif', 'Raw profile type exif'} => {'exif'}
  long_profiles
    if 'MAX_TEXT' not in str(error): => if True:
jaxlab/ops/calibration.py: tests/ops/test_calibration.py
  every_example_is_right
    labels] > rivals.max(-1)).all(): => labels] > rivals.max(-1)).any() and 0:
  no_temperature_fits
    if not 1.01 * _COLDEST < temperature < _HOTTEST / 1.01: => if False:
jaxlab/data/builders/packaged.py: tests/data/test_licences.py
  says_what_it_is
    description=f'{about.description}{made}', => description=about.description,
    text.read_text('utf-8') if text.exists() else self.LICENCE => self.LICENCE
jaxlab/data/builders/packaged.py: tests/data/images/test_sets.py
  letters_are_ten_of
    splits[home].append(row) => splits['train'].append(row)
jaxlab/data/packages/deb.py: tests/data/packages/test_deb.py
  names_outside_the
    archives.check_inside( => str(
  links_and_devices
    if info.isreg() else None => if not info.isdir() else None
  links_are_skipped
    (link and skip_links) => (skip_links and not info.isreg())
jaxlab/data/packages/archives.py: tests/data/packages/test_registry.py
  member_outside_the
    check_inside(archive, member, 'name a file inside it') => pass
jaxlab/data/packages/archives.py: tests/data/packages/test_archives.py
  only_regular_files
    opened if info.isreg() else lambda: None => opened
  encrypted
    if entry.flag_bits & 1: => if False:
jaxlab/data/packages/registry.py: tests/data/packages/test_registry.py
  even_if_it_was_right
    if _verified.get(path) != identity: => if not identity:
jaxlab/data/tfds.py: tests/data/test_tfds.py
  a_damaged_description
    _described(make.name, target, => _described(make.name, _root(),
jaxlab/runs/configs.py: tests/runs/test_configs.py
  each_section_gets_its_own_defaults
    if not has or _has(config, has): => if True:
    if key not in inside: => if True:
    (not key or key in config[section]) => True
    for arm in config.losses.values(): => for arm in ():
    if config.get('paper') == 'encouraging': => if 'losses' in config:
  an_optimizer_anywhere
    yield from _with_optimizer(value) => pass
    'schedule=cosine': => 'schedule=sine':
    value in ('', section[key]) => value == ''
  the_engine_has_the_same
    checkpoint_every_seconds': 60.0 => checkpoint_every_seconds': 6.0
jaxlab/runs/workdir.py: tests/runs/test_workdir.py
  removed_during
    if error.errno == errno.ENOENT and inside: => if inside is None:
jaxlab/ops/attack_loop.py: tests/ops/test_attacks.py
  labels_outside_of
    check_labels(leaves[i], classes) => pass
jaxlab/recipes/measured.py: tests/recipes/test_measured.py
  is_that_of_the_training
    pixels.std((0, 1, 2)) => pixels.std((0, 1, 2)).mean() * np.ones(3) / 2
    np.median([min(image.shape[:2]) => np.median([max(image.shape[:2])
jaxlab/planning/plan.py: tests/planning/test_plan.py
  the_same_step_is
    scale = planned.steps / first.steps => scale = 1.0
    if first := seen.get(digest): => if first := None:
  does_not_fit
    raise DoesNotFitError(lacking[0]) => say(lacking[0])
jaxlab/papers/doc_regions/nets.py: tests/papers/test_doc_regions_task.py
  running_statistics_have
    fields['momentum'] = m['momentum'] => pass
jaxlab/runs/report.py: tests/runs/test_report.py
  intervals_are_bands
    top = [y for _, y in high] => top = [y for _, y in low]
    if label.endswith(_ENDS): => if False:
  the_first_screen_says
    tables = [s for name, s in shown if name == shown[0][0]] => tables = []
    for x in found[::-1] for s in => for x in found for s in
  every_figure_is_there_once
    if (stage['name'], s) not in placed] => if s]
  figures_stand_beside
    known = all(isinstance(end, float) for => known = any(0 for
  names_and_values_are_escaped
    autoescape=True => autoescape=False
  a_run_that_stops_leaves
    'unfinished': len(finished) < len(found), => 'unfinished': False,
jaxlab/runs/stage.py: tests/runs/test_report.py
  a_run_that_stops_leaves
    except (Preempted, NonFiniteError): => except NonFiniteError:
jaxlab/engine/loop.py: tests/engine/test_loop.py
  watched
    now - self.watched >= _SECONDS_BETWEEN_LOOKS => now < 0
    self.watched = self.options.clock()\n    self.progress => self.progress
jaxlab/data/growth.py: tests/data/packages/test_weights.py
  small_files_cannot
    if built > limit(stored): => if False:
jaxlab/data/packages/weights.py: tests/data/packages/test_weights.py
  shard_is_read_once
    if len({*shards}) != len(shards): => if not shards:
jaxlab/core/errors.py: tests/test_main.py
  names_cannot
    c if c.isprintable() or => c if True or
jaxlab/papers/gaan/method.py: tests/papers/test_gaan.py
  latent_data_distance_is_its_definition
    jnp.where(keep, x.astype(jnp.float32), 0.0).sum(0) => x.sum(0)
    held = recon if anchor == 'recon' else real => held = real
    both = mask[:, None] & mask => both = mask[:, None] | mask
    return (f - weight * g) ** 2 => return (f - g) ** 2
    mean((f - weight * g) ** 2, mask) => mean(f - weight * g, mask) ** 2
    square -= 2 * (a @ b.T) / a.shape[-1] => square -= (a @ b.T) / a.shape[-1]
  lambda_w_brings_both
    math.sqrt(latent / features) => latent / features
  score_distance_pulls
    jax.lax.stop_gradient(jnp.sign(apart)) * apart => jnp.abs(apart)
    jnp.sqrt(apart**2 + smooth**2) => jnp.sqrt(apart**2 + smooth)
  penalty_of_a_linear_score
    return (square - 1) ** 2 => return (1 - square) ** 3
    1 / slope.shape[-1] if kind == 'rms' else 1.0 => 1.0
    square * scale + _TINY) - 1) ** 2 => square * scale + _TINY) - 1) ** 2 * -1
    square * scale + _TINY => square * scale
  interpolated_points
    share * real + (1 - share) * fake => share * fake + (1 - share) * real
  reconstructions_count_as
    2 * (0.1 * progress - 0.05) => 0.1 * progress - 0.05
    return 0.95 + grown, 0.05 - grown => return 0.95 - grown, 0.05 + grown
  terms_of_the_discriminator
    softplus(-recon if label == 'real' else recon) => softplus(-recon)
    real_weight * jax.nn.softplus(-real) => jax.nn.softplus(-real)
  the_divergence_of_a_gaussian
    jnp.exp(log_variance / 2) * noise => jnp.exp(log_variance) * noise
    mu**2 + jnp.exp(log_variance) - 1 => mu**2 + jnp.exp(log_variance)
jaxlab/papers/gaan/game.py: tests/papers/test_gaan_game.py
  step_is_autoencoder_then or losses_of_a_step
    weight = method.recon_schedule(c['recon'], progress) => weight = 1.0, 1.0
    c['latent_data_weight'] * far, => far,
    progress = vars['updates'] / steps => progress = vars['updates'] * 0.0
    fake, keys[1], c['penalty']) => fake, keys[1], c['penalty']) * -1
    state.vars['ema'], 1 - decay => state.vars['ema'], decay
    repeat(n, disc, split=n > 1) => repeat(n, disc)
  padding_has_no_part
    jnp.where(self.mask, => jnp.where(True,
  encoder_alone
    if c['autoencoder'] == 'both' => if c['autoencoder']
jaxlab/papers/gaan/side_by_side.py: tests/papers/test_gaan_game.py
  seeds_side_by_side
    -1, count, *x.shape[1:]), 1, 0) => count, -1, *x.shape[1:]), 0, 0)
    jax.random.fold_in(key, s) => jax.random.fold_in(key, 0)
jaxlab/models/dcgan.py: tests/models/test_dcgan.py
  halve_is_a_strided
    before = (7 - size) // 2 => before = (6 - size) // 2
    six = _six(kernel)[::-1, :, ::-1] => six = _six(kernel)[::-1, :, :]
jaxlab/ops/generative.py: tests/ops/test_generative.py
  frechet
    math.sqrt(len(x) - 1) => math.sqrt(len(x))
    traces - 2 * float(cross) => traces - float(cross)
    if rows <= size: => if rows < size:
  ceiling or conventions
    {'gaan': (8.0, => {'gaan': (9.0,
    (counts >= least) => (counts > least)
  kernel_distance_is
    (total(x, x) - itself) => total(x, x)
  stacked_modes_are
    sure.min(1) >= confidence => sure.max(1) >= confidence
  latent_map_has
    steps / side => steps / labels.size
jaxlab/evals/generative.py: tests/evals/test_generative.py
  no_mode_is_counted
    if not found >= least: => if found > least:
  padding_is_dropped
    features[: len(part)], p[: len(part)] => features, p
jaxlab/ops/polygons.py: tests/papers/test_geometry_regions.py
  clipping_keeps_area
    begins = np.where(inside, new[:, None], labels) => begins = labels
    inside & ~again, crossing => inside, crossing
    total = 3 * cross.sum(1) => total = 2 * cross.sum(1)
jaxlab/papers/geometry/segments.py: tests/papers/test_geometry_regions.py
  pieces_are_those or marching_and_layers
    order = np.lexsort([share, at]) => order = np.lexsort([-share, at])
    flat[new, unit] = 0.0 => flat[new, unit] = 1.0
  two_units_at_one_place
    apart = np.diff(knots.time) > TINY => apart = np.diff(knots.time) > -1
  dead_behind_a_bend
    bends = middle & (off > 1e-13 => bends = middle & (off >= 0 * 1e-13
  more_segments
    part.segment[:] += number * _LINES => part.segment[:] += number
  pooling_counts
    middle & (pattern[1:-1] != pattern[:-2]) => middle
jaxlab/papers/geometry/marching.py: tests/papers/test_geometry_regions.py
  same_pieces_of_tents
    leaves = jnp.where(on, slope < 0, slope > 0) => leaves = slope != 0
jaxlab/papers/geometry/slices.py: tests/papers/test_geometry_regions.py
  cells_fill_the_square
    z, step.slope * z)\n      cells = => z, 1 - z)\n      cells =
  cells_of_one_map_that_touch
    same = apart <= FLAT * scale => same = apart < 0
  cells_of_one_map_apart
    same = apart <= FLAT * scale => same = apart <= scale
  pooling_counts
    np.where(on, number, live[winner]) => 2 * live[winner] + on
jaxlab/papers/geometry/enumeration.py: tests/papers/test_geometry_regions.py
  programs_find
    1.0 - seen.sum(1) => 2.0 - seen.sum(1)
jaxlab/papers/geometry/bounds.py: tests/papers/test_geometry_regions.py
  bounds_are_those
    serra(layer + 1, min(dimension, n - j)) => serra(layer + 1, dimension)
    zip(least, hidden) => zip(widths, hidden)
jaxlab/papers/geometry/complexity.py: tests/papers/test_geometry_complexity.py
  charts_of_hilberts_curve or a_chart_ends
    spread >= np.pi - _ANGLE => spread >= 2 * np.pi
    np.round(turn / (2 * np.pi)) => 0
  certified_cells
    4 ** (order - 1) // 18) + 1 => 4 ** (order - 1) // 18)
  a_code_that_rises or a_flat_code
    bad = slope <= 0 => bad = slope < 0
    way * change / span => change / span
  overlap_of_triangles
    (apart > near).all(1).any() => (apart > near).all()
jaxlab/papers/geometry/power_cells.py: tests/papers/test_geometry_transport.py
  highest_plane or finite_differences
    equations[:, 2] < 0 => equations[:, 2] > 0
    polygons[count == 0] = outline[0] => pass
jaxlab/papers/geometry/problems.py: tests/papers/test_geometry_transport.py
  finite_differences
    facets.data / apart / of.whole => facets.data / apart**2 / of.whole
  closed_form_of_a_line
    np.cumsum(problem.weights)[:-1] => np.cumsum(problem.weights[::-1])[:-1]
  potentials_of_squared_costs
    2 * np.asarray(h) + (np.asarray(atoms) => np.asarray(h) + (np.asarray(atoms)
jaxlab/papers/geometry/solvers.py: tests/papers/test_geometry_transport.py
  newton_keeps_cells
    tried.masses.min() >= least and left => left
jaxlab/papers/geometry/certificates.py: tests/papers/test_geometry_transport.py
  certificate_has_no_bias
    ((c**2 - c) / problem.weights) => ((c**2) / problem.weights)
jaxlab/papers/geometry/assignment.py: tests/papers/test_geometry_transport.py
  tiles_give_the_first
    jnp.where(value > top, index, best) => jnp.where(value >= top, index, best)
    tile).min(0)\n => tile).max(0)\n
  shards_of_samples
    lax.pmin(jnp.where => lax.pmax(jnp.where
    lax.axis_index(axis) * size if axis else 0 => 0
  softened_shares
    jnp.exp(top - new) => 1.0
jaxlab/papers/geometry/extension.py: tests/papers/test_geometry_transport.py
  extended_map_mixes
    1 / np.maximum(distance, 1e-12), 0.0 => 1.0, 0.0
    angle <= threshold => angle >= threshold
  dihedral_angles
    -np.ones((*atoms.shape[:2], 1)) => np.zeros((*atoms.shape[:2], 1))
jaxlab/models/piecewise_linear.py: tests/models/test_piecewise_linear.py
  all_known_bends
    _Sign(of.index, name in ('lt', 'le')) => _Sign(of.index, False)
    turned = [self._negative(x) => turned = [x
jaxlab/papers/geometry/encoders.py: tests/papers/test_geometry_complexity.py
  several_widths
    range(number * seeds, (number + 1) * seeds) => range(seeds)
jaxlab/papers/geometry/method.py: tests/papers/test_geometry_jobs.py
  composition
    (w @ v, b @ v + c) => (w @ v, c)
  divergence
    mean**2 + variance - 1 => mean**2 + variance
jaxlab/papers/doc_regions/method.py: tests/papers/test_doc_regions.py
  regions_are_those_of_a_page_of_780_by_600
    256 / 780, 0.0, 1.0) => 250 / 780, 0.0, 1.0)
  crops_are_pillows
    -start * scale, => -start,
    antialias=True => antialias=False
  a_marker_pixel_is_in_its_regions_alone
    spec.top * height, spec.left * width => spec.left * height, spec.top * width
  transfer_copies_what_fits
    if head == 'reinit' and head_name => if head_name
    if jnp.shape(given[name]) != jnp.shape(leaf): => if False:
    {*given} - {*fates['copied']} => set()
  transfer_leaves_the_head
    if head == 'reinit' and head_name => if False and head_name
  folds_keep_groups_whole
    return fold[of]\n => return np.arange(len(labels)) % folds\n
    cost.sum(1) + 1e-3 * crowd => -cost.sum(1)
  folds_that_cannot_be
    (filled[:, label] > 0).sum() < 2 => False
  no_prediction_is_by_a_model_that_saw
    predict(fit(x[~held], y[~held]), x[held]) => predict(fit(x, y), x[held])
  disagreement_counts
    entropy(p.mean(1)) - entropy(p).mean(1) => entropy(p.mean(1))
  q_and_double_fault
    b.T @ b, a.T @ b => b.T @ a, a.T @ b
    wrong.T @ wrong / len(wrong) => wrong.T @ wrong
  a_paired_difference_is_drawn_by_groups
    sums[taken].sum(1) / sizes[taken].sum(1) => sums[taken].mean(1)
jaxlab/papers/doc_regions/stackers.py: tests/papers/test_doc_regions.py
  the_mean_stacker_is_a_hand_average
    logsumexp(log_p, 1) - np.log(log_p.shape[1]) => log_p.mean(1)
    log_softmax(log_p.mean(1), -1) => log_p.mean(1)
  gradients_of_the_fits
    - np.exp(weights)\n => \n
  the_mlp_leaves_the_step_that_is_best
    better = value < best => better = value > -1
  what_cannot_be_stacked
    and not counts.all() => and False
jaxlab/papers/doc_regions/nets.py: tests/papers/test_doc_regions_task.py
  each_region_is_optimised_as_if_alone
    optax.GradientTransformation(jax.vmap(tx.init), update) => tx
  frozen_leaves_stay
    jax.lax.stop_gradient(leaf) if re.match => leaf if re.match
    & mask[:, None]\n    accuracy => \n    accuracy
  evaluation_counts_each_region
    -jnp.where(mask[:, None], own, 0.0) => -own
  new_networks_have_he_kernels
    (6 / fan_in) ** 0.5 => (2 / fan_in) ** 0.5
jaxlab/papers/doc_regions/trainings.py: tests/papers/test_doc_regions_task.py
  regions_begin_as_the_holistic
    head = 'copy' => head = 'reinit'
  a_pretrained_network_begins
    head = 'reinit' => head = 'copy'
jaxlab/papers/doc_regions/documents.py: tests/papers/test_doc_regions_task.py
  pages_of_one_source_are_of_one_group
    duplicates.merged(near, *joined) => near
  permuted_class_numbers
    tuple(d['classes']) != classes => len(d['classes']) != len(classes)
jaxlab/papers/doc_regions/stacking.py: tests/papers/test_doc_regions_task.py
  the_table_has_what_stackers
    _, rows = trainings.rows_of(config => rows, _ = trainings.rows_of(config
jaxlab/ops/duplicates.py: tests/ops/test_duplicates.py
  the_hash_is_that_of_the_lowest
    waves[:, :_KEPT, :_KEPT] => waves[:, 1:_KEPT + 1, :_KEPT]
  groups_are_those_of_all_pairs
    near = others[far <= distance] => near = others[far < distance]
    dtype=np.uint64), distance + 1) => dtype=np.uint64), distance or 1)
  merged_groups_join
    for label in labels:\n    _, first => for label in labels[:1]:\n    _, first
jaxlab/data/images/page_shards.py: tests/data/images/test_page_shards.py
  every_mode_becomes_one_grey_page
    if min(page.shape[:2]) < least: => if min(page.shape[:2]) < 1:
  shards_are_cut_and_read_across
    len(labels) % _SHARD == 0: => len(labels) == 0:
jaxlab/data/array_records.py: tests/data/images/test_page_shards.py
  an_example_is_read_as_it_was_written
    integers.values.append(label) => integers.values.append(0)
jaxlab/data/text/wordpiece.py: tests/recipes/test_hugging_face.py
  texts_are_read_as
    lowercase=lowercase, => lowercase=True,
    strip_accents=strip_accents, => strip_accents=None,
    handle_chinese_chars=chinese_apart, => handle_chinese_chars=True,
    SpecialIds(*(numbers[piece] for piece in SPECIAL)) => SpecialIds(*range(5))
jaxlab/data/text/wordpiece.py: tests/papers/test_bert_hub.py
  a_folders_encoder_and_words
    json.dumps(self).encode() => json.dumps(self.pieces).encode()
jaxlab/data/text/masking.py: tests/data/text/test_pretraining.py
  masks_are_80_10_10
    draw < 0.8), mask_id, tokens => draw < 0.8), 4, tokens
jaxlab/data/text/pretraining.py: tests/data/text/test_sentence_pairs.py
  pairs_are_legal
    tokens[:, 0] = special.cls => tokens[:, 0] = 2
    tokens[column >= length] = special.pad => tokens[column >= length] = 0
jaxlab/data/text/labelled.py: tests/data/text/test_labelled.py
  a_long_text_keeps
    [special.cls, *ids, special.sep] => [2, *ids, 3]
    sequence_length, special.pad) => sequence_length, 0)
  unknown_words_are_counted
    tokens == special.unk => tokens == 1
jaxlab/data/text/squad_windows.py: tests/data/text/test_squad_windows.py
  rows_are_question_and_context
    sequence_length, special.pad) => sequence_length, 0)
    [special.cls, *query.ids => [2, *query.ids
jaxlab/data/packages/hub_folder.py: tests/recipes/test_hugging_face_refused.py
  shards_that_are_absent
    shard.endswith('.safetensors') => True
    if not named or PurePath(shard).name != shard: => if not named:
    sorted(wanted ^ part.keys()) => sorted(wanted - part.keys())
  options_of_other_tokenizers
    options.get(key, values[0])) not in values: => options.get(key)) is ():
    if found != piece: => if False:
  vocabularies_that_do_not_fit
    (piece, number)) != number => (piece, number)) < 0
  tokenizer_json_that_is_not
    if pieces is not None and pieces != own: => if False:
    if model.get(key, value) != value: => if False:
jaxlab/data/packages/hub_folder.py: tests/recipes/test_hugging_face.py
  texts_are_read_as
    normalizer.get(theirs, default)) => default)
  with_capitals_is_not_put
    if capital is not None: => if False:
    piece != piece.lower() and not named => piece != piece.lower()
  exports_that_cannot_be
    & {*piece}: => & {0}:
jaxlab/models/bert.py: tests/recipes/test_hugging_face.py
  activations_and_epsilons
    'gelu_new': gelu_tanh, => 'gelu_new': gelu,
    y = ACTIVATIONS[self.activation](y) => y = gelu(y)
    norm(ACTIVATIONS[self.activation](x)) => norm(gelu(x))
jaxlab/models/bert_names.py: tests/recipes/test_hugging_face.py
  outputs_are_those_of
    x.T.reshape(x.shape[1], heads, -1) => x.reshape(x.shape[1], heads, -1)
    x.T.reshape(heads, -1, x.shape[0]) => x.reshape(heads, -1, x.shape[0])
  what_old_files_have
    '.weight|.gamma' => '.weight'
  encoder_is_taken_from_any
    tuple(left)\n => ()\n
  exported_is_loaded_back
    lambda x: x.reshape(x.shape[0], -1).T => lambda x: x.reshape(x.shape[0], -1)
    x.reshape(-1, x.shape[-1]).T => x.reshape(-1, x.shape[-1])
jaxlab/models/bert_names.py: tests/recipes/test_hugging_face_refused.py
  weights_that_do_not_fit
    np.array_equal(found.pop(copy), found[original]) => [found.pop(copy)]
    if len(found) < len(flat): => if False:
jaxlab/models/bert_config.py: tests/recipes/test_hugging_face.py
  rates_ranges_and_classes
    config['hidden_dropout_prob'] if dropout is None => 0.1 if True
    'attention_probs_dropout_prob': 'att => 'hidden_dropout_prob': 'att
jaxlab/models/bert_config.py: tests/recipes/test_hugging_face_refused.py
  keys_of_the_config
    type(value) is type(x) and value == x => True
    if key not in known and not => if key == 0 and not
    type(x) is int and low <= x => low <= x
jaxlab/models/bert_heads.py: tests/models/test_bert_heads.py
  a_new_pooler_is_drawn
    kernel = init(key, => kernel = 0.04 * init(key,
jaxlab/recipes/hugging_face.py: tests/recipes/test_hugging_face.py
  what_old_files_have
    if architecture == MASKED_LM else 'pooler' => if False else 'pooler'
jaxlab/recipes/hugging_face.py: tests/recipes/test_hugging_face_refused.py
  keys_of_the_config
    fields['intermediate_size'], shape[0] => shape[0], shape[0]
    if about.pad not in (None, pad): => if False:
  weights_that_do_not_fit
    if not name.startswith(may)] => if not name]
  vocabularies_that_do_not_fit
    if len(vocabulary.pieces) != size: => if False:
jaxlab/recipes/hugging_face.py: tests/papers/test_bert_hub.py
  squad_is_exported_without
    if not k.startswith('bert.pooler.')} => if k}
jaxlab/papers/lamb/pretrained.py: tests/papers/test_bert_hub.py
  configs_that_contradict
    if hub and named: => if False:
  without_a_pooler_gets
    keys.stream(config['seed'], 'pooler') => keys.stream(0, 'pooler')
  a_folders_encoder_and_words
    if unused:\n => if not unused:\n
jaxlab/papers/lamb/export.py: tests/papers/test_bert_hub.py
  a_pretraining_is_exported
    if report.get(name) != digest: => if False:
jaxlab/engine/tensors.py: tests/runs/test_model.py
  nested_dictionaries_come_back
    if not value:\n        empty.append(path) => if not value:\n        pass
    for name in parents:\n      at = => for name in parents[1:]:\n      at =
  what_cannot_be_named
    or '/' in key or => or
    not isinstance(key, str) => False
jaxlab/runs/model.py: tests/runs/test_model.py
  a_model_is_read_as_it_was_written
    _TRAINING = ('health', 'sampler') => _TRAINING = ('health',)
    (*_TRAINING, *kept.leave_out) => _TRAINING
    if p[:6] == 'params' => if p
  grey_examples_and_others
    x in self.files if x.startswith('example')) => x in ('example_1.png',))
    found if found.ndim == 3 else found[..., None] => found
    config if kept.config is None else kept.config\n  return => config\n  return
  every_file_is_compared
    hexdigest() != digest: => hexdigest() == '':
    about.pop('sha256') != _own_sha256(about): => not about.pop('sha256'):
  another_version_is_named
    if given != FORMAT: => if given > 99:
  a_failed_write_leaves
    beside.mkdir(parents=True) => folder.rename(beside)
    finally:\n    shutil.rmtree(beside, => finally:\n    shutil.rmtree(folder,
  only_the_leader_writes
    if not hosts.leads():\n    return\n  conf => if 0:\n    return\n  conf
    if not hosts.leads() or => if
  a_judgement_adds_a_file
    about['files'][name] = _sha256(folder / name)\n => \n
    or not (folder / ABOUT).is_file() => or False
  a_large_file_of_two_models
    os.link(other, path) => raise OSError
    and other.read_bytes() == data => and True
jaxlab/runs/card.py: tests/runs/test_model.py
  a_card_says_what
    other.startswith(f'{stage}-') or => True or
    if run.report(stage) and => if
    not x.endswith(('_low', '_high')) => x
    for end in ('_low', '_high')] => for end in ('_high', '_low')]
jaxlab/runs/record.py: tests/test_predict.py
  an_unfinished_run_says
    if not run.report(stage):\n    raise => if False:\n    raise
    [f'--workdir={folder}'] if folder else [] => []
  of_several_models
    if len(run.models) > 1: => if False:
    if stage not in run.stages: => if False:
  what_is_no_run
    if known.get('format') != FORMAT: => if False:
    if (folder / 'config.json').is_file(): => if False:
  a_run_without_a_network
    if not run.models:\n => if False:\n
jaxlab/runs/record.py: tests/runs/test_model.py
  a_card_says_what
    next(items, '')\n  return => pass\n  return
jaxlab/predict.py: tests/test_predict.py
  a_missing_and_a_torn_model
    model.read(folder, cure) => model.read(folder)
  images_of_every_mode
    inputs['channels'], inputs['fit']) => 3, inputs['fit'])
    if own != canvas.shape: => if own == canvas.shape:
  texts_need_a_gap
    if must and must not in text: => if must and must in text:
    value is not None and kind not in kinds => False
  questions_have_a_context
    context.startswith('@') => context.startswith('@@')
    parse_intermixed_args => parse_args
  numbers_and_vectors
    np.random.default_rng(args.seed) => np.random.default_rng(0)
    if len(row) != length: => if len(row) < length:
    rng.uniform(inputs['low'], inputs['high'], size) => rng.uniform(0, 9, size)
  json_has_inputs
    return {**answer, 'class_name': model.classes[label]} => return answer
  answers_are_lines
    np.argsort(-np.asarray(p), => np.argsort(np.asarray(p),
    names[label] if label < len(names) else str(label) => str(label)
    answer.pop('aims') or ['any other class'] => answer.pop('aims')
  pictures_are_written
    np.clip(picture, 0, 1) => picture
    one = value.ndim == 3 => one = True
jaxlab/compare.py: tests/test_compare.py
  figures_differences_and_curves
    known or metric.endswith(_ENDS) or value is None => known or value is None
    len({y for _, y in points}) > 1 for => len(points) > 0 for
    if len({*values}) > 1: => if True:
    if not figure.endswith(_ENDS): => if True:
    where = f'{arm}-b{setting}' if setting else arm => where = arm
  equal_configs_and_absent
    return 'absent' => return 'null'
    '/'.join(folder.parts[-count:]) => folder.parts[-1]
  an_unfinished_run_is_shown
    if missing := run.unfinished(): => if missing := []:
  what_cannot_be_compared
    len({*whole}) < len(whole) or len(whole) < 2 => len(whole) < 2
    if run.unfinished() == run.stages: => if False:
jaxlab/recipes/images.py: tests/recipes/test_images.py
  predictions_are_probabilities
    or shape[1:] != (height, width, channels): => :
    not (low >= 0 and high <= 1) => not low >= 0
    dtype != np.uint8 and not np.issubdtype(dtype, np.floating) => False
jaxlab/papers/aloe/detectors.py: tests/papers/test_aloe.py
  told_by_the_threshold
    if name != 'mahalanobis'}\n => }\n
    _ACCEPTED = 0.95 => _ACCEPTED = 0.9
    chosen.get(f'{name}_eta', 0.0) => chosen.get(name, 0.5)
    scores[name][i] >= one['threshold'] => scores[name][i] < one['threshold']
jaxlab/papers/doc_regions/task.py: tests/papers/test_doc_regions_task.py
  a_folder_in_rvl_cdips_layout
    for one in networks['specs']] => for one in networks['specs'][::-1]]
jaxlab/papers/mvs_gnn/task.py: tests/papers/test_mvs_gnn_task.py
  predictions_are_the_classes
    if model.inputs['several'] else => if not model.inputs['several'] else
jaxlab/papers/encouraging/graphs.py: tests/papers/test_encouraging_graphs.py
  a_graph_is_answered
    jax.nn.softmax(logits).mean(1))[:, 0] => jax.nn.softmax(logits)[:, 0])[:, 0]
    edge.max() < len(node) => edge.max() <= len(node)
    second - joined.n_node[0] => second
    len(node)] for node, _ in rows] => nodes] for node, _ in rows]
jaxlab/runs/stage.py: tests/runs/test_stage.py
  a_model_is_there_before
    if stage.model]\n => if stage.steps > 9]\n
    'seed': seed,\n    **_when() => 'seed': space.seed,\n    **_when()
    model=keep is not None, => model=False,
jaxlab/papers/aloe/method.py: tests/papers/test_aloe.py
  four_steps_are_those_of_numpy
    'aoe': Terms(True, True, 0.0) => 'aoe': Terms(False, True, 1.0)
    total = total + weight * far => total = total + far
    jnp.argsort(sure, 1) => jnp.argsort(-sure, 1)
    math.floor(quantile * (candidates - keep)) => math.floor(quantile * keep)
    mask=jnp.repeat(mask, each)) => mask=jnp.ones(len(flat), bool))
    wide).reshape(-1, each - 1).mean(-1) => wide).reshape(-1, each - 1).sum(-1)
  a_masked_row_changes_nothing
    images, labels = real(batch['image']), => images, labels = batch['image'],
    outliers, ids = real(batch['outlier']), => outliers, ids = batch['outlier'],
  acet_attacks_the_second_half
    outliers[:, each - count :] => outliers[:, :count]
jaxlab/papers/aloe/task.py: tests/papers/test_aloe.py
  four_steps_are_those_of_numpy
    a['batch_norm'] == 'running' => a['batch_norm'] != 'other'
    weight=c['weight'], => weight=5.0,
    step_size=a['step_size'] or None => step_size=1e-6
    keep='last' => keep='best'
    {**config['data'], 'augment': c['augment']} => config['data']
    craft, first, second = jax.random => first, craft, second = jax.random
jaxlab/recipes/optimizers.py: tests/papers/test_aloe.py
  four_steps_are_those_of_numpy
    return lambda count: cosine(count + 1) => return lambda count: peak
    optax.chain(optax.add_decayed_weights(decay), tx) => tx
    nesterov=c['nesterov'] => nesterov=False
jaxlab/recipes/optimizers.py: tests/recipes/test_optimizers.py
  three_updates_of_sgd_by_hand
    alpha=section['final_fraction'] => alpha=0.0
    nesterov=c['nesterov'] => nesterov=True
jaxlab/recipes/images.py: tests/papers/test_aloe.py
  four_steps_are_those_of_numpy
    return augment.augment(key, found, batch['id'], *changes) => return found
jaxlab/recipes/images.py: tests/recipes/test_images.py
  a_masked_row_may_hold_anything
    if 'mask' in batch: => if 'no mask' in batch:
jaxlab/models/normalised.py: tests/papers/test_aloe.py
  four_steps_are_those_of_numpy
    counted = mask | ~mask.any() => counted = mask | True
  a_network_in_training_leaves_masked_rows_out
    counted = mask | ~mask.any() => counted = mask
    if mask is not None:\n      images => if mask is None:\n      images
jaxlab/papers/aloe/judgement.py: tests/papers/test_aloe.py
  a_set_whose_kind_was_trained_on_is_in_no_mean
    means = ood.averaged(_unseen(rows)) => means = ood.averaged(rows)
    averaged(_unseen(own)) => averaged(own)
  a_test_set_that_was_trained_on_is_not_judged
    if then not in (None, sets.outliers_sha256): => if then == '':
jaxlab/papers/aloe/sets.py: tests/papers/test_aloe.py
  a_set_whose_kind_was_trained_on_is_in_no_mean
    if not any(method.FAMILY => if any(method.FAMILY
jaxlab/evals/ood.py: tests/papers/test_aloe.py
  an_attack_hurts_the_detector_that_it_is_on
    run = attack(objective, epsilon) => run = attack(objective, 1e-9)
jaxlab/papers/aloe/paper_evaluation.py: tests/papers/test_aloe.py
  the_papers_own_evaluation_stands_beside
    attack = make(objective, epsilon) => attack = make(objective, 1e-9)
    min(len(images), len(inside['image'])) => len(inside['image'])
jaxlab/ops/mahalanobis.py: tests/ops/test_mahalanobis.py
  a_singular_covariance_has_its_pseudo_inverse
    kept = shares > _SINGULAR => kept = shares > -1.0
    alive = variances > (_CONSTANT => alive = variances >= 0 * (_CONSTANT
jaxlab/runs/stage.py: tests/runs/test_stage.py
  changed_keys_of_the_judgement
    in (None, _judged(stage, space)) => in (None, done.get('judged_sha256'))
    () if stage.judges else stage.unread => ()
  a_judgement_in_a_training
    () if stage.judges else stage.unread => stage.unread
  eval_names_a_training
    if stage.steps and done.get('steps') != stage.steps: => if False:
  what_a_training_reads_cannot_change
    'unread' in done and own != _own(stage, space): => own is None:
    **found.about, **space.own} => **found.about}
jaxlab/main.py: tests/test_main.py
  eval_trains_nothing
    trains=not values.eval => trains=True
jaxlab/runs/workdir.py: tests/runs/test_workdir.py
  keys_that_no_stage_counts_may_change
    if not all(_among(key, names) for names in unread) => if True
  one_stage_that_counts_a_key_keeps_it
    if not all(_among(key, names) for names in unread) => if not unread
  a_checkpoint_that_says_nothing_keeps_every_key
    found.append(('', ())) => pass
  a_torn_config_is_known_again
    free = (*_FREE, *unread) => free = _FREE
jaxlab/papers/mvs_gnn/training.py: tests/papers/test_mvs_gnn_steps.py
  a_partial_batch_with_old_embeddings
    _rows(table, graph.nodes['id'])\n => 0 * _rows(table, graph.nodes['id'])\n
    set(values[level].astype(table.dtype), => add(0 * values[level],
    where(weight > 0, weight * each => where(weight > 0, each
    set(norms, mode='drop') => set(norms[::-1], mode='drop')
    inputs, grads)\n => 0 * inputs, grads)\n
  refreshed_histories_and_norms
    ids = jnp.where(ids < num_nodes, ids, len(table)) => ids = ids + 1
    if refresh else sampler[ => if not refresh else sampler[
    at = jnp.where(real, seed, len(live)) => at = seed + 1
jaxlab/papers/mvs_gnn/minimal_variance.py: tests/papers/test_mvs_gnn_steps.py
  a_partial_batch_with_old_embeddings
    history=np.where(of, np.float32(0), weight) => history=weight
    weight=np.where(of, weight, np.float32(0)) => weight=weight
    p[drawn], len(p)) => p[drawn] / p[drawn], len(p))
  without_a_history_every_neighbour_is_fresh
    if level == 0 or not self.history: => if level == 0:
jaxlab/papers/mvs_gnn/task.py: tests/papers/test_mvs_gnn_steps.py
  a_job_without_a_history
    method['options'].get('history', True) => True
jaxlab/papers/mvs_gnn/nodewise.py: tests/papers/test_mvs_gnn_steps.py
  official_rows_are_never_scaled_up
    np.maximum(1, total) => np.maximum(0.1, total)
    kept[nodes] = True => kept[nodes] |= False
  official_rows_draw_alike
    kept[nodes] = True => kept[nodes] |= False
    operator.degrees[some], fan_out) => operator.degrees[some] - 1, fan_out)
jaxlab/extras.py: tests/test_face.py
  each_module_loads_or_names
    if not name.startswith('jaxlab.'): => if name.startswith('jaxlab.'):
    spec.loader = _Loader( => spec.loader = SourceFileLoader(
    sys.meta_path.insert(0, Finder) => sys.meta_path.append(Finder)
  setup_cfg_brings
    'data': ('h5py', => 'data': ('nothing', 'h5py',
    (error.name or '').partition('.')[0] => (error.name or '')
    if root in modules: => if root not in modules:
    if not isinstance(error, ModuleNotFoundError): => if error is None:
jaxlab/__init__.py: tests/test_face.py
  type_checkers_see
    'jaxlab.predict': ('load',), => 'jaxlab.predict': (),
    lars as lars => lars
  a_method_loads_soon
    sorted({*globals(), *__all__}) => sorted(globals())
    extras.installed()\n => extras.installed()\nimport jaxlab.ops.attacks\n
jaxlab/ops/intervals.py: tests/test_face.py
  a_method_loads_soon
    import statistics\n => import statistics\nimport scipy.special\n
jaxlab/main.py: tests/test_face.py
  a_door_says_in_one_line
    extras.cure(error) or _exhausted(error) => _exhausted(error)
jaxlab/data/prepare.py: tests/test_face.py
  a_door_says_in_one_line
    print(f'error: {line}', => print(f'error: {error!r}',
jaxlab/command.py: tests/test_face.py
  a_library_missed_later
    print(f'jaxlab: {line}', => print(f'jaxlab: {error}',
jaxlab/evals/classify.py: tests/recipes/test_pictures.py
  the_confusion_is_the_bincount
    counts.at[labels, answer] => counts.at[answer, labels]
    .add(mask.astype(jnp.int32)) => .add(1)
    np.bincount(labels * k + answer, => np.bincount(answer * k + labels,
  the_worst_mistakes_are_ordered
    jnp.where(mask & ~right, confidence => jnp.where(mask, confidence
    wrong[np.argsort(-confidence[wrong], => wrong[np.argsort(confidence[wrong],
    jnp.stack([ids, labels, answer], 1) => jnp.stack([ids, answer, labels], 1)
    [total['mistakes'], rows] => [rows, total['mistakes']]
  few_mistakes_shows_no_others
    jnp.where(mask & ~right, confidence => jnp.where(~right, confidence
    kept = np.isfinite(total => kept = ~np.isnan(total
  the_diagram_is_that_of_all_logits
    int32), 0) - 1\n  ones => int32), 1) - 1\n  ones
    .astype(int) - 1, 0, BINS => .astype(int), 0, BINS
jaxlab/evals/pretraining.py: tests/evals/test_pretraining.py
  the_first_rows_of_the_first_batch
    jnp.where(begun, total[n], x) => x
    jnp.exp(gap) => gap
jaxlab/recipes/pictures.py: tests/recipes/test_pictures.py
  rows_of_labels_that_sum_to_one
    counts.sum(1, keepdims => counts.sum(0, keepdims
    *(column, row, str => *(row, column, str
  told_with_label_answer_and_probability
    if p < 0.995 or p >= 1 else => if p < 2 else
    f'is {a}, said {b} ({ => f'is {b}, said {a} ({
  the_true_one_beside_a_wrong_one
    places.get(place, ( => places.get(place + 1, (
    {_percent(p)} [{true}]', 0.0)] => {_percent(p)} [{answer}]', 0.0)]
    and not answer.startswith('##') => and answer
  answers_stand_beside_the_right_ones
    0.3 if answer in right else 0.9 => 0.3 if answer == right[0] else 0.3
  translations_stand_between
    sources, translations, references) => sources, references, translations)
  clean_difference_and_sum
    (shown.changed - shown.clean) / (2 * => (shown.clean - shown.changed) / (2 *
    if name in budgets: => if budgets:
  from_near_to_far
    key=lambda name: found[ => key=lambda name: -found[
    if row['setting'] == 'clean'] => if row['setting']]
jaxlab/recipes/judge.py: tests/recipes/test_judge.py
  the_first_images_of_an_attack_are_kept
    first.setdefault(name, (image, => first.setdefault(name, (0 * image,
    first[''], first[name])) => first[name], first[name]))
jaxlab/runs/sections.py: tests/runs/test_sections.py
  every_picture_in_its_place
    i % columns + 0.5 => i // columns + 0.5
  tensorboard_gets_images_and_text
    if highlight > 0 and piece.strip() => if piece.strip()
    [..., :3]\n => [..., ::-1]\n
jaxlab/papers/lamb/ratios.py: tests/papers/test_lamb_ratios.py
  the_mean_of_its_matrices
    append(leaf[i]) => append(leaf[0])
    _OTHERS['embedding' not in path] => _OTHERS['embedding' in path]
    jnp.stack(each).mean() => jnp.stack(each).sum()
    if not path.endswith(_WEIGHTS): => if not path:
  over_the_steps_of_evaluations
    and line['step'] and value => and value
    and line['step'] and value => and line['step']
jaxlab/papers/mvs_gnn/pictures.py: tests/papers/test_mvs_gnn_pictures.py
  the_heaviest_edges_of_the_first_seeds
    np.argsort(-weight[mine], => np.argsort(weight[mine],
    to += [i] * len(mine) => to += [0] * len(mine)
  edges_of_history_alone
    mine = mine[weight[mine] > 0] => pass
    np.maximum(weight, np.abs(layer.edges.history)) => weight
  a_place_and_a_class_for_every_node
    _ring(spread, 1.0 + level) => _ring(0 * spread, 1.0 + level)
    of = classes[tree[-1][0]] => of = classes[tree[-1][0]][::-1] * 0
jaxlab/recipes/study.py: tests/recipes/test_study.py
  only_final_runs_read_the_test_set
    seed == self.seeds[0]), => True),
    return self.final and self.first => return self.first
"""


def _read(text):
  """[(file, old, new, test file, -k)] of the list."""
  found = []
  for line in text.strip('\n').split('\n'):
    if not line.startswith('  '):
      file, tests = line.split(': ')
    elif not line.startswith('    '):
      words = line.strip()
    else:
      old, new = line[4:].replace('\\n', '\n').split(' => ')
      found.append((file, old, new, tests, words))
  return found


_MUTATIONS = _read(_LIST)
# Runs pytest in forks of a process that has imported what takes long.
_SERVER = """
import json, os, sys
import chex, flax.linen, jax, optax, orbax.checkpoint, pytest
for line in sys.stdin:
  if not (child := os.fork()):
    os.dup2(os.open('log.txt', os.O_CREAT | os.O_TRUNC | os.O_WRONLY), 1)
    os.dup2(1, 2)
    code = pytest.main(json.loads(line))
    sys.stdout.flush()
    os._exit(code)
  print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class _Copy:
  """A copy of the repository, which alone is spoiled."""

  def __init__(self, folder):
    self.folder = folder
    for name in ('jaxlab', 'tests', 'configs'):
      shutil.copytree(_ROOT / name, folder / name)
    shutil.copy2(_ROOT / 'setup.cfg', folder)
    # Named like a worker, so that conftest.py leaves the environment, and in
    # it the folder of compiled programs, as these tests have it.
    more = {'PYTEST_XDIST_WORKER': 'mutations', 'PYTHONDONTWRITEBYTECODE': '1'}
    self.server = subprocess.Popen(
      [sys.executable, '-c', _SERVER],
      cwd=folder,
      env={**os.environ, **more},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )

  def pytest(self, words, *files):
    """The exit code and the output of pytest -k words."""
    flags = ['-x', '-p', 'no:cacheprovider', '-m', '', '-k', words]
    self.server.stdin.write(json.dumps([*flags, *files]) + '\n')
    self.server.stdin.flush()
    code = int(self.server.stdout.readline())
    return code, (self.folder / 'log.txt').read_text()


@pytest.fixture(scope='session')
def copy(tmp_path_factory):
  copy = _Copy(tmp_path_factory.mktemp('mutations'))
  yield copy
  copy.server.communicate()


def test_the_list_fits_the_code():
  texts = {file: (_ROOT / file).read_text() for file, *_ in _MUTATIONS}
  counts = {(f, old): texts[f].count(old) for f, old, *_ in _MUTATIONS}
  stale = [(n, *where) for where, n in counts.items() if n != 1]
  assert not stale, f'(times found, file, text): {stale}'


@pytest.mark.slow
def test_the_copy_passes_as_it_is(copy):
  words = ' or '.join({f'({words})' for *_, words in _MUTATIONS})
  code, said = copy.pytest(words, *{tests for *_, tests, _ in _MUTATIONS})
  assert code == 0, said


@pytest.mark.slow
@pytest.mark.parametrize(
  'file, old, new, tests, words',
  _MUTATIONS,
  ids=[f'{file}: {old!r} -> {new!r}' for file, old, new, *_ in _MUTATIONS],
)
def test_a_mutation_is_noticed(copy, file, old, new, tests, words):
  text = (_ROOT / file).read_text()
  assert text.count(old) == 1, 'the list is stale'
  (copy.folder / file).write_text(text.replace(old, new))
  code, said = copy.pytest(words, tests)
  shutil.copy2(_ROOT / file, copy.folder / file)
  # 0: nothing failed; more than 1: no test ran.
  assert code == 1, said


if __name__ == '__main__':
  sys.exit(pytest.main(['-m', '', '--durations=0', __file__, *sys.argv[1:]]))
