"""The players as losses of the engine, and one step of each way to play.

`params` has 'enc', 'gen' and 'disc', and for MDGAN 'diffusion', a second
discriminator. A step of GAAN is

  chain(autoencoder, repeat(n, discriminator), generator)

where G has two optimizers: its own, and one with E.

Departs from the papers: the n steps of D have n batches of examples, and the
autoencoder and G see the first of them, with codes z of their own.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlab.core.require import at_least, between, one_of, require, some
from jaxlab.core.state import Loss, Objective, State, Update
from jaxlab.core.update import chain, minimise, repeat
from jaxlab.models.one_draw import parameters
from jaxlab.ops import row_random
from jaxlab.papers.gaan import method
from jaxlab.recipes import optimizers
from jaxlab.runs.model import Kept

Config = Mapping[str, Any]

ARMS = ('gan', 'wgan_gp', 'mdgan', 'vaegan', 'gaan')
ENCODING = ('mdgan', 'vaegan', 'gaan')  # arms that have an encoder


class Rows(NamedTuple):
  """Examples of a batch."""

  x: jax.Array  # [b, …] float32 in [0, 1]
  id: jax.Array  # [b] int
  mask: jax.Array  # [b] bool

  def total(self, each: jax.Array) -> jax.Array:
    """() float32, the sum over the rows that count."""
    return jnp.sum(jnp.where(self.mask, each.astype(jnp.float32), 0.0))

  @property
  def number(self) -> jax.Array:
    """() float32, how many rows count."""
    return self.mask.sum().astype(jnp.float32)


class Game(NamedTuple):
  """An arm, its networks, and the numbers that it plays by."""

  config: Config  # the section of a game
  arm: str
  enc: Any  # [b, …] -> [b, d_z], of VAE-GAN [b, 2 d_z]
  gen: Any  # [b, d_z] -> [b, …] in (0, 1)
  disc: Any  # [b, …] -> logits [b], features [b, d]
  shape: tuple[int, ...]  # of one example
  read: Callable[[Mapping], Rows]  # a batch's examples

  def init(self, key: jax.Array) -> tuple[dict, dict]:
    """New params and vars."""
    x, z = (jnp.zeros((1, *s)) for s in (self.shape, (self.config['latent'],)))
    players = {'gen': (self.gen, z), 'disc': (self.disc, x)}
    if self.arm in ENCODING:
      players['enc'] = (self.enc, x)
    if self.arm == 'mdgan':
      players['diffusion'] = (self.disc, x)
    params = {
      name: parameters(module, jax.random.fold_in(key, i), given, gain=2.0)
      for i, (name, (module, given)) in enumerate(players.items())
    }
    vars: dict[str, Any] = {'updates': jnp.zeros((), jnp.int32)}
    if self.config['ema']:
      vars['ema'] = params['gen']
    return params, vars

  def latent(self, key: jax.Array, ids: jax.Array) -> jax.Array:
    """[b, d_z] codes: uniform on [-1, 1], of VAE-GAN standard normal."""
    shape = (len(ids), self.config['latent'])
    if self.arm == 'vaegan':
      return row_random.normal(key, shape, ids)
    return 2 * row_random.uniform(key, shape, ids) - 1

  def generate(self, params: Any, z: jax.Array) -> jax.Array:
    """G(z), [b, …] in (0, 1)."""
    return self.gen.apply({'params': params['gen']}, z)

  def fake(self, params: Any, key: jax.Array, ids: jax.Array) -> jax.Array:
    """G(z) of new codes."""
    return self.generate(params, self.latent(key, ids))

  def judge(
    self, disc: Any, *sets: jax.Array
  ) -> list[tuple[jax.Array, jax.Array]]:
    """(logits [b], features [b, d]) of each set, all in one pass.

    Where some sets need no gradients, a pass of their own is less work.
    """
    found = self.disc.apply({'params': disc}, jnp.concatenate(sets))
    logits, features = (jnp.split(part, len(sets)) for part in found)
    return list(zip(logits, features))

  def recon(
    self, params: Any, rows: Rows, key: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """E(x), and G(E(x)), of which VAE-GAN draws the code."""
    z = code = self.enc.apply({'params': params['enc']}, rows.x)
    if self.arm == 'vaegan':
      shape = (len(rows.x), self.config['latent'])
      noise = row_random.normal(key, shape, rows.id)
      z = method.gaussian_code(code, noise)
    return code, self.generate(params, z)

  def penalty(
    self, disc: Any, rows: Rows, fake: jax.Array, key: jax.Array, kind: str
  ) -> jax.Array:
    """[b], the gradient penalty between x and G(z)."""
    share = row_random.uniform(key, (len(fake), 1), rows.id)[:, 0]
    points = method.interpolated(share, rows.x, fake)
    return method.gradient_penalty(
      lambda x: self.disc.apply({'params': disc}, x)[0], points, kind
    )


def check(section: Config, name: str) -> None:
  """Raises InputError where a value of a game's section cannot be."""
  weight = at_least(0)
  rules = {
    'arms': some(one_of(*ARMS)),
    'latent': at_least(1),
    'rows': at_least(1, 'examples of one step of D'),
    'critic_steps': at_least(1),
    'penalty': one_of(*method.PENALTIES),
    'penalty_weight': weight,
    'wgan_penalty_weight': weight,
    'latent_data_weight': weight,
    'anchor': one_of(*method.ANCHORS),
    'scope': one_of(*method.SCOPES),
    'recon': one_of(*method.SCHEDULES),
    'recon_label': one_of('real', 'fake'),
    'recon_space': one_of('features', 'data'),
    'autoencoder': one_of('both', 'encoder'),
    'score': one_of('sigmoid', 'logit'),
    'smooth': weight,
    'mdgan_weight': weight,
    'ema': between(0, 0.99999, '0: no average'),
  }
  require(
    {name: section}, {f'{name}.{key}': rule for key, rule in rules.items()}
  )


def make_update(game: Game, steps: int) -> Update:
  """One step of a game's arm.

  Args:
    steps: of the whole training.
  """
  c = game.config
  make = lambda: optimizers.make(c['optimizer'], steps)
  n = c['critic_steps']
  # A loss may see the first part of a batch that D's steps divide.
  first = lambda loss: _on_first(n, loss)
  own = LOSSES[game.arm](game, steps)
  updates: list[Update] = []
  if 'autoencoder' in own:
    nets = ('enc', 'gen') if c['autoencoder'] == 'both' else 'enc'
    loss = first(own['autoencoder'])
    updates.append(minimise(loss, nets, make(), name='autoencoder'))
  judges = ('disc', 'diffusion') if game.arm == 'mdgan' else 'disc'
  disc = minimise(own['disc'], judges, make(), name='disc')
  updates.append(repeat(n, disc, split=n > 1))
  updates.append(minimise(first(own['gen']), 'gen', make(), name='gen'))
  if c['ema']:
    updates.append(averaged(c['ema']))
  return chain(*updates)


def averaged(decay: float) -> Update:
  """The moving average of G, at `vars['ema']`."""

  def run(state: State, batch, key):
    new = optax.incremental_update(
      state.params['gen'], state.vars['ema'], 1 - decay
    )
    return state.replace(vars={**state.vars, 'ema': new}), {}

  return run


def average(params: Mapping, vars: Mapping) -> Mapping:
  """The params with G's moving average, where there is one."""
  return {**params, 'gen': vars['ema']} if 'ema' in vars else params


def gaan(game: Game, steps: int) -> dict[str, Loss]:
  """L_R + lambda_r L_W; L_GAN + L_C + lambda_p L_P; L_G."""
  c = game.config

  def autoencoder(params, vars, batch, key):
    rows = game.read(batch)
    z = game.latent(key, rows.id)
    code, recon = game.recon(params, rows, key)
    fake = game.generate(params, z)
    (real,) = game.judge(params['disc'], rows.x)
    of_recon, of_fake = game.judge(params['disc'], recon, fake)
    if c['recon_space'] == 'features':
      each = method.reconstruction(real[1], of_recon[1])
    else:
      each = method.reconstruction(rows.x, recon)
    far = method.latent_data_distance(
      real[1],
      of_recon[1],
      of_fake[1],
      code,
      z,
      rows.mask,
      anchor=c['anchor'],
      scope=c['scope'],
    )
    return Objective(
      rows.total(each),
      rows.number,
      c['latent_data_weight'] * far,
      metrics={
        'reconstruction': (rows.total(each), rows.number),
        'latent_data': (far, jnp.ones(())),
      },
    )

  def disc(params, vars, batch, key):
    rows = game.read(batch)
    keys = jax.random.split(key)
    fake = game.fake(params, keys[0], rows.id)
    recon = game.recon(params, rows, key)[1]
    scores = game.judge(params['disc'], rows.x, recon, fake)
    (real, _), (of_recon, _), (of_fake, _) = scores
    progress = vars['updates'] / steps
    real_weight, weight = method.recon_schedule(c['recon'], progress)
    each = method.disc_terms(real, of_fake, real_weight)
    each += method.recon_term(of_recon, weight, c['recon_label'])
    if c['penalty_weight']:
      steep = game.penalty(params['disc'], rows, fake, keys[1], c['penalty'])
      each += c['penalty_weight'] * steep
    return Objective(rows.total(each), rows.number)

  def gen(params, vars, batch, key):
    rows = game.read(batch)
    fake = game.fake(params, key, rows.id)
    ((real, _),) = game.judge(params['disc'], rows.x)
    ((of_fake, _),) = game.judge(params['disc'], fake)
    apart = method.score_distance(
      real, of_fake, rows.mask, kind=c['score'], smooth=c['smooth']
    )
    return _generator(rows, real, of_fake, vars, penalty=apart)

  return {'autoencoder': autoencoder, 'disc': disc, 'gen': gen}


def gan(game: Game, steps: int) -> dict[str, Loss]:
  """The non-saturating GAN."""

  def disc(params, vars, batch, key):
    rows = game.read(batch)
    fake = game.fake(params, key, rows.id)
    (real, _), (of_fake, _) = game.judge(params['disc'], rows.x, fake)
    each = method.disc_terms(real, of_fake)
    return Objective(rows.total(each), rows.number)

  def gen(params, vars, batch, key):
    rows = game.read(batch)
    fake = game.fake(params, key, rows.id)
    ((real, _),) = game.judge(params['disc'], rows.x)
    ((of_fake, _),) = game.judge(params['disc'], fake)
    return _generator(rows, real, of_fake, vars, method.gen_term(of_fake))

  return {'disc': disc, 'gen': gen}


def wgan_gp(game: Game, steps: int) -> dict[str, Loss]:
  """D is a critic whose slope is held at 1."""
  c = game.config

  def disc(params, vars, batch, key):
    rows = game.read(batch)
    keys = jax.random.split(key)
    fake = game.fake(params, keys[0], rows.id)
    (real, _), (of_fake, _) = game.judge(params['disc'], rows.x, fake)
    each = method.critic_terms(real, of_fake)
    steep = game.penalty(params['disc'], rows, fake, keys[1], 'wgangp')
    each += c['wgan_penalty_weight'] * steep
    return Objective(rows.total(each), rows.number)

  def gen(params, vars, batch, key):
    rows = game.read(batch)
    fake = game.fake(params, key, rows.id)
    ((real, _),) = game.judge(params['disc'], rows.x)
    ((of_fake, _),) = game.judge(params['disc'], fake)
    return _generator(rows, real, of_fake, vars, -of_fake)

  return {'disc': disc, 'gen': gen}


def mdgan(game: Game, steps: int) -> dict[str, Loss]:
  """Manifold step: 'disc' tells x from G(E(x)); diffusion step: 'diffusion'
  tells G(E(x)) from G(z).

  Source: Che et al., section 3.2, with log losses.
  """
  c = game.config

  def autoencoder(params, vars, batch, key):
    rows = game.read(batch)
    recon = game.recon(params, rows, key)[1]
    ((score, _),) = game.judge(params['disc'], recon)
    apart = method.reconstruction(rows.x, recon)
    each = c['mdgan_weight'] * apart + method.gen_term(score)
    metrics = {'reconstruction': (rows.total(apart), rows.number)}
    return Objective(rows.total(each), rows.number, metrics=metrics)

  def disc(params, vars, batch, key):
    rows = game.read(batch)
    fake = game.fake(params, key, rows.id)
    recon = game.recon(params, rows, key)[1]
    (real, _), (low, _) = game.judge(params['disc'], rows.x, recon)
    (high, _), (of_fake, _) = game.judge(params['diffusion'], recon, fake)
    each = method.disc_terms(real, low) + method.disc_terms(high, of_fake)
    return Objective(rows.total(each), rows.number)

  def gen(params, vars, batch, key):
    rows = game.read(batch)
    fake = game.fake(params, key, rows.id)
    ((real, _),) = game.judge(params['diffusion'], rows.x)
    ((of_fake, _),) = game.judge(params['diffusion'], fake)
    return _generator(rows, real, of_fake, vars, method.gen_term(of_fake))

  return {'autoencoder': autoencoder, 'disc': disc, 'gen': gen}


def vaegan(game: Game, steps: int) -> dict[str, Loss]:
  """A VAE whose likelihood is in features of D; D finds both G(E(x)) and G(z)
  fake.

  Source: Larsen et al., algorithm 1. Departs from the paper: E and G follow
  L_prior + L_like together, both divided by the number of features, and G then
  the game.
  """
  c = game.config

  def autoencoder(params, vars, batch, key):
    rows = game.read(batch)
    code, recon = game.recon(params, rows, key)
    ((_, real),) = game.judge(params['disc'], rows.x)
    ((_, of_recon),) = game.judge(params['disc'], recon)
    each = method.reconstruction(real, of_recon)
    prior = method.gaussian_divergence(code) / real.shape[-1]
    metrics = {'reconstruction': (rows.total(each), rows.number)}
    return Objective(rows.total(each + prior), rows.number, metrics=metrics)

  def disc(params, vars, batch, key):
    rows = game.read(batch)
    keys = jax.random.split(key)
    fake = game.fake(params, keys[0], rows.id)
    recon = game.recon(params, rows, keys[1])[1]
    scores = game.judge(params['disc'], rows.x, recon, fake)
    (real, _), (of_recon, _), (of_fake, _) = scores
    each = method.disc_terms(real, of_fake)
    each += method.recon_term(of_recon, 1.0, 'fake')
    if c['penalty_weight']:
      steep = game.penalty(params['disc'], rows, fake, key, c['penalty'])
      each += c['penalty_weight'] * steep
    return Objective(rows.total(each), rows.number)

  def gen(params, vars, batch, key):
    rows = game.read(batch)
    keys = jax.random.split(key)
    fake = game.fake(params, keys[0], rows.id)
    recon = game.recon(params, rows, keys[1])[1]
    ((real, _),) = game.judge(params['disc'], rows.x)
    (of_recon, _), (of_fake, _) = game.judge(params['disc'], recon, fake)
    each = method.gen_term(of_fake) + method.gen_term(of_recon)
    return _generator(rows, real, of_fake, vars, each)

  return {'autoencoder': autoencoder, 'disc': disc, 'gen': gen}


LOSSES: Mapping[str, Callable[[Game, int], dict[str, Loss]]] = {
  'gan': gan,
  'wgan_gp': wgan_gp,
  'mdgan': mdgan,
  'vaegan': vaegan,
  'gaan': gaan,
}


def _generator(rows, real, fake, vars, each=None, penalty=0.0) -> Objective:
  """G's objective, with E s(D) on both sides as metrics; it counts updates."""
  score = lambda logits: (rows.total(jax.nn.sigmoid(logits)), rows.number)
  return Objective(
    jnp.zeros(()) if each is None else rows.total(each),
    rows.number,
    penalty,
    vars={'updates': vars['updates'] + 1},
    metrics={'score_real': score(real), 'score_fake': score(fake)},
  )


def _on_first(n: int, loss: Loss) -> Loss:
  """The loss of the first of n parts, cut as `repeat` cuts them."""

  def part(x):
    return x.reshape(x.shape[0] // n, n, *x.shape[1:])[:, 0]

  def run(params, vars, batch, key):
    cut = batch if n == 1 else jax.tree.map(part, batch)
    return loss(params, vars, cut, key)

  return run


def gradient_norm(
  game: Game, params: Any, vars: Any, batch: Mapping, key: jax.Array
) -> jax.Array:
  """|gradient of G's loss in G's parameters|, () float32."""
  loss = LOSSES[game.arm](game, 1)['gen']

  def value(gen):
    found = loss({**params, 'gen': gen}, vars, batch, key)
    return found.sum / found.weight + found.penalty

  return optax.tree.norm(jax.grad(value)(params['gen']))


def kept(
  config: Mapping[str, Any], part: str, arm: str, data: Mapping[str, str]
) -> Kept:
  """What goes beside a generator: the config of its arm alone, and codes.

  Args:
    part: of `config.parts`.
    data: what it was trained on -> its licence.
  """
  c = config[part]
  own = {**config, 'parts': (part,), part: {**c, 'arms': (arm,)}}
  codes = np.random.default_rng(0).uniform(-1, 1, (4, c['latent']))
  inputs = {'kind': 'vector', 'length': c['latent'], 'low': -1, 'high': 1}
  out = ('film', 'updates')
  return Kept(inputs, codes.round(3).tolist(), {}, own, out, data)
