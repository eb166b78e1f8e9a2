"""The geometric view of autoencoders: linear regions, charts, transport.

  python -m jaxlab.main --config=configs/geometry.py              # minutes
  python -m jaxlab.main --config=configs/geometry.py:regions      # the theorem
  python -m jaxlab.main --config=configs/geometry.py:transport    # 25 Gaussians
  python -m jaxlab.main --config=configs/geometry.py:ae_ot_mnist  # one seed
  python -m jaxlab.main --config=configs/geometry.py:smoke        # no download

Paper: Lei, Luo, Yau, Gu, "Geometric Understanding of Deep Learning",
arXiv:1805.10451. It has figures and no numbers.

Measured, two shared CPU cores at a load of 8, jax 0.10.2 (docs/geometry.md):

  :regions    184 s. Of widths 2 to 32, three starts each, the smallest that
              encodes: spirals of 3, 6, 12 radians 2, 4, 32, of 24 none;
              Hilbert's curve of order 1, 2 4, 16, of 3, 4 none. The certified
              lower bounds, 1 and 2 cells, exclude none of them.
  :transport  31 s of processor. Mixed modes .235 without the filter, 0 with it
              (.1 of the samples dropped); paired, three draws, .235 +- .020.
  ''          51 s of processor. Spiral: phi 2,066 cells on the square (Serra's
              bound 280,000, the printed 4.5e12), off by .013, not injective.
              Cap: 1,654 cells, its mesh's image does not overlap. Transport:
              max |w - v| = 3e-15 after 7 Newton steps; generated points .0096
              off the sphere, reconstructions .0096, a Gaussian of codes .059.
  :ae_ot_mnist  one seed. Certificate of .1 reached: .095 +- .012, no cell
              empty. Frechet distance (64 features of a classifier trained
              here): AE-OT 10.9, without the filter 14.7, a Gaussian of the
              same codes 14.7, a VAE (not tuned) 84; reconstructions 3.6.
"""

import ml_collections


def _base(job: str, title: str):
  config = ml_collections.ConfigDict()
  config.paper = 'geometry'
  config.job = job
  config.title = title
  config.claimed = (
    'Networks of a given size cannot learn every curve: what they can is '
    'bounded by their linear cells; transport of codes controls what is '
    'generated.'
  )
  return config


def shapes():
  """Autoencoders of a spiral and of a cap, their cells, a transport map."""
  config = _base('task', 'Autoencoders of a spiral and a spherical cap')

  config.data = {}
  config.data.shapes = ('spiral', 'cap')
  config.data.turns = 6.0  # radians of the spiral
  config.data.angle = 120.0  # degrees from the cap's pole to its rim
  config.data.examples = 2000
  config.data.noise = 0.0  # deviation, of examples
  config.data.batch_size = 100

  config.model = {}
  config.model.hidden = (32, 32)  # of φ; ψ has them the other way round

  config.optimizer = {}
  config.optimizer.name = 'adam'
  config.optimizer.schedule = 'cosine'
  config.optimizer.learning_rate = 0.005
  config.optimizer.final_fraction = 0.01

  config.train = {}
  config.train.steps = 6000
  config.train.log_every_steps = 500
  config.train.eval_every_steps = 500

  config.cells = {}
  config.cells.half_width = 1.5  # of the square that is cut into cells
  config.cells.rings = 12  # of the cap's mesh

  config.transport = {}
  config.transport.atoms = 400  # codes of the cap
  config.transport.samples = 2000  # that are generated
  config.transport.quantile = 0.8  # of dihedral angles that are mixed
  return config


def regions():
  """The smallest encoders of growing spirals and Hilbert curves."""
  config = _base('theorem', 'Smallest encoders of growing curves')

  config.curves = {}
  config.curves.spirals = (3.0, 6.0, 12.0, 24.0)  # radians
  config.curves.hilbert = (1, 2, 3, 4)  # orders
  config.curves.polyline = 400  # corners of a spiral

  config.encoders = {}
  config.encoders.widths = (2, 4, 8, 16, 32)
  config.encoders.depth = 2  # hidden layers
  config.encoders.seeds = 3
  config.encoders.points = 512  # of the curve in a step
  config.encoders.steps = 4000
  config.encoders.rate = 0.003
  config.encoders.polish = 8  # rounds on the exact pieces of near misses
  return config


def transport():
  """A uniform square to 25 Gaussians: cells, map, mode mixture."""
  config = _base('maps', 'Semi-discrete transport to 25 Gaussians')

  config.target = {}
  config.target.atoms = 1000
  config.target.sigma = 0.05  # of each Gaussian; their centres are 2 apart
  config.target.seeds = (0, 1, 2)

  config.transport = {}
  config.transport.samples = 20_000
  config.transport.quantiles = (0.25, 0.5, 0.6, 0.7, 0.8, 0.9)
  config.transport.quantile = 0.8  # of the headline
  config.transport.mixed = 5.0  # σ from every centre: between modes
  return config


def ae_ot_mnist():
  """AE-OT on MNIST beside a Gaussian of codes and a VAE; one seed."""
  config = _base('images', 'Autoencoder and transport on MNIST')

  config.data = {}
  config.data.name = 'mnist'
  config.data.train_split = 'train[:55000]'
  config.data.validation_split = 'train[55000:]'
  config.data.num_classes = 10
  config.data.size = 28
  config.data.channels = 1
  config.data.batch_size = 128
  config.data.eval_batch_size = 500

  config.model = {}
  config.model.hidden = (256, 128)
  config.model.codes = 12  # dimensions
  config.model.beta = 1.0  # of the VAE's divergence
  config.model.sigma = 0.2  # of a pixel, in the VAE's likelihood

  config.judge = {}
  config.judge.hidden = (128, 64)  # of the classifier whose features compare
  config.judge.steps = 1700

  config.optimizer = {}
  config.optimizer.name = 'adam'
  config.optimizer.schedule = 'cosine'
  config.optimizer.learning_rate = 0.001
  config.optimizer.final_fraction = 0.01

  config.train = {}
  config.train.steps = 4300
  config.train.log_every_steps = 430

  config.transport = {}
  config.transport.atoms = 10_000  # codes
  config.transport.rate = 0.003
  config.transport.batch = 4096
  config.transport.solver_samples = 4_000_000  # at most
  config.transport.tolerance = 0.1  # relative error of the masses
  config.transport.certificate = 1_000_000  # samples
  config.transport.samples = 10_000  # that are generated
  config.transport.quantile = 0.8
  return config


def smoke():
  """A tiny autoencoder of the cap, few steps."""
  config = shapes()
  config.data.shapes = ('cap',)
  config.data.examples = 200
  config.data.batch_size = 40
  config.model.hidden = (8, 8)
  config.train.steps = 40
  config.train.log_every_steps = 8
  config.train.eval_every_steps = 16
  config.cells.rings = 4
  config.transport.atoms = 30
  config.transport.samples = 100
  return config


VARIANTS = {
  '': shapes,
  'regions': regions,
  'transport': transport,
  'ae_ot_mnist': ae_ot_mnist,
  'smoke': smoke,
}
