"""The players as losses of the engine: generator, discriminator, student.

`params` has 'gen', 'disc' and 'net', the network under attack: the target
itself, or a student of it. It is frozen in the game.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlab.core.require import at_least, between, inside, one_of, require
from jaxlab.core.state import Evaluator, Loss, Objective, Update
from jaxlab.core.update import chain, minimise
from jaxlab.models.advgan import Discriminator, Generator
from jaxlab.models.normalised import Network
from jaxlab.models.one_draw import parameters
from jaxlab.ops.augment import to_float
from jaxlab.papers.advgan import method
from jaxlab.recipes import optimizers

Config = Mapping[str, Any]


class Game(NamedTuple):
  """What is played against whom."""

  config: Config
  network: Network  # of the network under attack
  gen: Generator
  disc: Discriminator

  @property
  def classes(self) -> int:
    """The number of classes."""
    return self.config['data']['num_classes']

  @property
  def targeted(self) -> bool:
    """Whether images are to be taken for a given class, and not for any."""
    return self.config['attack']['targeted']

  def init(self, key: jax.Array) -> dict[str, Any]:
    """Parameters of 'gen' and 'disc'."""
    d = self.config['data']
    image = jnp.zeros((1, d['size'], d['size'], d['channels']))
    aim = jnp.zeros((1, self.classes if self.targeted else 0))
    first, second = jax.random.split(key)
    return {
      'gen': parameters(self.gen, first, image, aim),
      'disc': parameters(self.disc, second, image),
    }

  def aims(
    self, key: jax.Array, ids: jax.Array, labels: jax.Array
  ) -> jax.Array:
    """What an image is to be taken for [b] int: a drawn class, or, of an
    attack without targets, its own class, which is to be left."""
    if not self.targeted:
      return labels
    return method.targets(key, ids, labels, self.classes)

  def attack(
    self, gen: Any, images: jax.Array, aims: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Images with their perturbation, and the perturbation, [b, h, w, c].

    Args:
      gen: parameters of the generator.
      images: [b, h, w, c] float32 in [0, 1].
      aims: [b] int, as of `aims`.
    """
    a = self.config['attack']
    told = jax.nn.one_hot(aims, self.classes if self.targeted else 0)
    raw = self.gen.apply({'params': gen}, images, told)
    perturbation = method.bounded(raw, a['epsilon'], a['bound'])  # type: ignore
    changed = method.project(images, perturbation, a['epsilon'])
    return changed, perturbation

  def score(self, disc: Any, images: jax.Array) -> jax.Array:
    """[b] scores of the discriminator."""
    return self.disc.apply({'params': disc}, images)  # type: ignore


def make(config: Config, network: Network) -> Game:
  """The game of a config."""
  c = config['attack']
  return Game(
    config,
    network,
    Generator(config['data']['channels'], c['gen_width'], c['gen_blocks']),
    Discriminator(c['disc_width']),
  )


def check(config: Config) -> None:
  """Raises InputError where a value of `attack` cannot be."""
  units = 'in units of images in [0, 1]: 8 / 255 for 8 grey levels'
  require(
    config,
    {
      'attack.epsilon': inside(0, 1, units),
      'attack.bound': one_of('tanh', 'clip'),
      'attack.targeted': one_of(True, False),
      'attack.loss': one_of('cw', 'ce'),
      'attack.kappa': at_least(0),
      'attack.gan': one_of('lsgan', 'vanilla'),
      'attack.alpha': at_least(0),
      'attack.beta': at_least(0),
      'attack.hinge_share': between(0, 1, 'of the longest perturbation'),
      'attack.gen_width': at_least(1),
      'attack.gen_blocks': at_least(0),
      'attack.disc_width': at_least(1),
      'data.size': at_least(12, 'the discriminator halves images three times'),
    },
  )


def disc_loss(game: Game) -> Loss:
  """D tells images from those with a perturbation."""
  terms = method.gan_terms(game.config['attack']['gan'])

  def loss(params, vars, batch, key):
    del vars
    images, mask = to_float(batch['image']), batch['mask']
    aims = game.aims(key, batch['id'], batch['label'])
    changed, _ = game.attack(params['gen'], images, aims)
    real = game.score(params['disc'], images)
    fake = game.score(params['disc'], changed)
    each = terms.real(real) + terms.fake(fake)
    return Objective(
      masked_sum(each, mask), masked_sum(jnp.ones_like(each), mask)
    )

  return loss


def gen_loss(game: Game) -> Loss:
  """L of eq. 4, with its parts and the shares of success as metrics."""
  a = game.config['attack']
  terms = method.gan_terms(a['gan'])

  def loss(params, vars, batch, key):
    images, mask = to_float(batch['image']), batch['mask']
    labels = batch['label']
    aims = game.aims(key, batch['id'], labels)
    changed, perturbation = game.attack(params['gen'], images, aims)
    logits = game.network.logits(changed, params, vars)
    harm = method.adversarial_loss(
      logits,
      aims,
      kind=a['loss'],
      targeted=a['targeted'],
      kappa=a['kappa'],
    )
    play = terms.generator(game.score(params['disc'], changed))
    c = a['hinge_share'] * a['epsilon'] * np.sqrt(images[0].size)
    over = method.hinge(perturbation, c)
    each = method.generator_loss(
      harm, play, over, alpha=a['alpha'], beta=a['beta']
    )
    rows = masked_sum(jnp.ones_like(each), mask)
    hit = (logits.argmax(-1) == aims) == a['targeted']
    parts = {
      'adversarial': harm,
      'game': play,
      'hinge': over,
      'hinge_active': (over > 0).astype(jnp.float32),
      'reached': hit.astype(jnp.float32),
    }
    metrics = {name: (masked_sum(x, mask), rows) for name, x in parts.items()}
    return Objective(masked_sum(each, mask), rows, metrics=metrics)

  return loss


def update(game: Game, steps: int) -> Update:
  """D, then G: eq. 4's min max."""
  section = game.config['attack']['optimizer']
  make = lambda: optimizers.make(section, steps)
  return chain(
    minimise(disc_loss(game), 'disc', make(), name='disc'),
    minimise(gen_loss(game), 'gen', make(), name='gen'),
  )


def success(game: Game) -> Evaluator:
  """`success`, the share of counted images whose attack reaches its aim, and
  `counted`, on the network of the State itself."""
  names = ('success', 'counted')

  def evaluate(total, state, batch, key):
    images, labels = to_float(batch['image']), batch['label']
    aims = game.aims(key, batch['id'], labels)
    changed, _ = game.attack(state.params['gen'], images, aims)
    logits = lambda x: game.network.logits(x, state.params, state.vars)
    found = method.succeeded(
      logits(images), logits(changed), labels, aims if game.targeted else None
    )
    return {
      name: total[name] + masked_sum(x.astype(jnp.float32), batch['mask'])
      for name, x in zip(names, found)
    }

  def finish(total):
    hits, rows = (float(total[name]) for name in names)
    return {'success': hits / rows if rows else float('nan'), 'counted': rows}

  return Evaluator(lambda: {n: jnp.zeros(()) for n in names}, evaluate, finish)


def masked_sum(each: jax.Array, mask: jax.Array) -> jax.Array:
  """() float32, the sum over the rows that are real."""
  each = jnp.asarray(each, jnp.float32)
  return jnp.sum(jnp.where(mask, each, 0.0))
