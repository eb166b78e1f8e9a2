"""GAAN (Dist-GAN): a GAN whose distances keep its modes.

  python -m jaxlab.main --config=configs/gaan.py
  python -m jaxlab.main --config=configs/gaan.py:mnist_1k  # K/4, one seed
  python -m jaxlab.main --config=configs/gaan.py:cifar10
  python -m jaxlab.main --config=configs/gaan.py:celeba    # prepared by TFDS
  python -m jaxlab.main --config=configs/gaan.py:paper
  python -m jaxlab.main --config=configs/gaan.py:smoke     # no download

Paper: Tran, Bui and Cheung, "Generative Adversarial Autoencoder Networks",
arXiv:1803.08887. It has curves alone for the 25 Gaussians.

Measured, default config, 31 minutes of two cores shared with other work (load
7 to 9). 25 Gaussians, seeds 0 to 7, 5,000 steps (the authors take 195,000 of
five times the critic), 2,000 points, 95 % t-interval:

                        GAN            WGAN-GP        MDGAN          GAAN
  modes covered         5.3 ± 1.5      0              3.1 ± 1.1      2.6 ± 1.0
  points registered     .142 ± .042    .004 ± .005    .151 ± .062    .090 ± .024
  modes with a point    13.9 ± 3.1     .9 ± 1.1       13.5 ± 3.4     19.8 ± 3.1
  norm of G's gradient  3.07 ± 1.17    .38 ± .28      1.21 ± .44     .035 ± .013

GAAN - GAN, paired: -2.6 ± 1.3, -.051 ± .048, 5.9 ± 4.0, -3.03 ± 1.17. MNIST,
codes of the plane, one seed, 1,200 steps: KL of the classes' areas .52 (GAN)
and .28 (GAAN), Fréchet distance in LeNet's 84 features 218 and 267 (floor 5).
"""

import ml_collections


def default():
  """25 Gaussians, eight seeds; MNIST with codes of the plane."""
  config = _images(_grid(_base()))
  config.parts = ('grid', 'images')
  return config


def _base():
  config = ml_collections.ConfigDict()
  config.paper = 'gaan'
  config.title = 'GAAN: a GAN whose distances keep its modes'
  config.claimed = (
    'Reconstructions as real samples and distances that agree in latent '
    'and data space keep a GAN from losing modes and from vanishing '
    'gradients.'
  )

  config.train = {}  # of all trainings
  config.train.steps = 1
  config.paper_reported = {}
  return config


def _game(arms, latent, rows, rate, b1, b2, penalty, latent_data):
  c = ml_collections.ConfigDict()
  c.arms = arms  # gan, wgan_gp, mdgan, vaegan, gaan; the first: the baseline
  c.latent = latent  # numbers of a code
  c.rows = rows  # examples of one step of one network
  c.critic_steps = 1  # of D, for one of G
  c.penalty = 'wgangp'  # 'squared', 'rms': of the slope of D
  c.penalty_weight = penalty  # lambda_p
  c.wgan_penalty_weight = 10.0
  c.latent_data_weight = latent_data  # lambda_r
  c.anchor = 'recon'  # 'real': the first version of the paper
  c.scope = 'batch_mean'  # 'per_sample', 'pairwise'
  c.recon = 'paper'  # weight of reconstructions in D: 'half', 'decay'
  c.recon_label = 'real'  # 'fake'
  c.recon_space = 'features'  # 'data'
  c.autoencoder = 'both'  # E and G; 'encoder': E alone
  c.score = 'sigmoid'  # 'logit': of the discriminator-score distance
  c.smooth = 0.0  # of its absolute value
  c.mdgan_weight = 10.0  # of MDGAN's reconstruction
  c.ema = 0.0  # decay of a moving average of G, which is then judged
  c.optimizer = _adam(rate, b1, b2)
  return c


def _adam(rate, b1, b2):
  return ml_collections.ConfigDict(
    {
      'name': 'adamw',
      'learning_rate': rate,
      'b1': b1,
      'b2': b2,
      'schedule': 'constant',
    }
  )


def _grid(config):
  """25 Gaussians in the plane: MLPs of 3 x 128."""
  arms = ('gan', 'wgan_gp', 'mdgan', 'gaan')
  g = config.grid = _game(arms, 2, 64, 1e-3, 0.8, 0.999, 0.1, 0.1)
  g.seeds = (0, 1, 2, 3, 4, 5, 6, 7)  # of one program
  g.width = 128
  g.layers = 3
  g.points = 50_000  # of the data
  g.samples = 2000  # that are counted
  g.train = {'steps': 5000, 'log_every_steps': 250, 'eval_every_steps': 500}
  return config


def _images(config):
  """MNIST by small networks, codes of the plane."""
  config.data = {}
  config.data.name = 'mnist'
  config.data.train_split = 'train[:55000]'
  config.data.validation_split = 'train[59500:]'
  config.data.num_classes = 10
  config.data.size = 28  # side of all images
  config.data.channels = 1
  config.data.mean = (0.0,)  # taken off inside the classifier
  config.data.std = (1.0,)
  config.data.pad = 0
  config.data.batch_size = 128  # of the classifier
  config.data.eval_batch_size = 250

  arms = ('gan', 'gaan')
  c = config.images = _game(arms, 2, 32, 2e-4, 0.5, 0.9, 1.0, 1.0)
  c.seeds = (0,)
  c.stack = 1  # images of the set as channels of one
  c.layout = 'dcgan'  # 'sngan', 'resnet'
  c.norm = 'none'  # 'group', of all three networks
  c.kernel = 5
  c.gen_widths = (64, 32, 16)
  c.disc_widths = (16, 32, 64)
  c.enc_widths = (16, 32, 64)
  c.smooth_end = False  # a last convolution of stride 1
  c.frames = 6  # pictures of the training
  c.classifier = True  # judges by a classifier of the same set
  c.train = {'steps': 1200, 'log_every_steps': 50, 'eval_every_steps': 200}

  config.model = {}  # the classifier
  config.model.name = 'lenet'
  config.model.padding = 2
  config.classifier = {}
  config.classifier.steps = 860
  config.classifier.optimizer = _adam(1e-3, 0.9, 0.999)
  config.classifier.train = {'log_every_steps': 86, 'eval_every_steps': 430}

  config.judge = {}
  config.judge.samples = 5000
  config.judge.accuracy = 0.97  # of the classifier, at least
  config.judge.nearest = 200  # samples whose nearest neighbour is sought
  config.judge.side = 96  # of the map of the latent plane
  return config


def mnist_1k():
  """Three digits an image, 1,000 modes, D a quarter as wide."""
  config = _images(_base())
  config.parts = ('images',)
  config.title = 'GAAN: 1,000 modes of stacked digits'
  c = config.images
  c.stack = 3
  c.latent = 256
  c.rows = 64
  c.penalty_weight = 0.5
  c.latent_data_weight = 0.01
  c.gen_widths = (64, 32, 16, 8)
  c.smooth_end = True
  c.disc_widths = (2, 4, 8)  # K/4; K/2: 4, 8, 16; K: 8, 16, 32
  c.enc_widths = (8, 16, 32)
  c.train.steps = 800
  config.judge.samples = 25_600
  # Dist-GAN's row is reported, unverified; DCGAN's is PacGAN's table 3.
  config.paper_reported.images = {
    'gan': {'test/modes': '30.6 ± 20.73', 'test/kl': '5.99 ± .42'},
    'gaan': {
      'test/modes': '859.5 ± 68.7, unverified',
      'test/kl': '1.04 ± .29, unverified',
    },
  }
  return config


def cifar10():
  """CIFAR-10 by the DCGAN of the paper."""
  config = _images(_base())
  config.parts = ('images',)
  d = config.data
  d.name, d.size, d.channels = 'cifar10', 32, 3
  d.train_split, d.validation_split = 'train[:49500]', 'train[49500:]'
  d.mean, d.std = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
  c = config.images
  c.latent, c.rows = 128, 64
  c.gen_widths = (512, 256, 128)
  c.disc_widths = c.enc_widths = (128, 256, 512)
  c.train.steps = 300_000
  c.train.log_every_steps, c.train.eval_every_steps = 500, 20_000
  config.model = {
    'name': 'resnet',
    'depth': 20,
    'width': 16,
  }
  d.augment, d.pad = 'crop_flip', 4  # of the classifier
  config.classifier.steps = 19_000
  config.classifier.train.eval_every_steps = 1900
  config.judge.accuracy = 0.85
  config.judge.samples = 10_000
  return config


def cifar10_sngan():
  """CIFAR-10 by the authors' convolutional networks of SN-GAN."""
  config = cifar10()
  c = config.images
  c.layout = 'sngan'
  c.kernel = 4
  c.gen_widths, c.smooth_end = (1024, 512, 256, 128), True
  c.disc_widths = (64,)
  return config


def cifar10_resnet():
  """CIFAR-10 by the authors' residual networks."""
  config = cifar10()
  c = config.images
  c.layout = 'resnet'
  c.gen_widths, c.disc_widths = (256,), (128,)
  c.optimizer.b1 = 0.0
  return config


def celeba():
  """CelebA at 64 x 64; nothing judges but the eye and D."""
  config = cifar10()
  d = config.data
  d.name, d.size = 'celeb_a', 64
  d.label_feature = ''
  d.num_classes = 0
  d.train_split, d.validation_split = 'train', 'validation[:2000]'
  d.augment = 'none'
  c = config.images
  c.latent = 100
  c.classifier = False
  c.gen_widths = (1024, 512, 256, 128)
  c.disc_widths = c.enc_widths = (128, 256, 512, 1024)
  c.train.steps = 200_000
  return config


def paper():
  """The authors' lengths and widths: 25 Gaussians and MNIST."""
  config = default()
  g = config.grid
  g.rows, g.critic_steps = 128, 5
  g.train.steps = 195_000
  g.train.log_every_steps, g.train.eval_every_steps = 500, 5000
  c = config.images
  c.latent, c.rows = 100, 64
  c.gen_widths = (256, 128, 64)
  c.disc_widths = c.enc_widths = (64, 128, 256)
  c.train.steps = 100_000
  c.train.log_every_steps, c.train.eval_every_steps = 500, 5000
  return config


def smoke():
  """Few points and digits, tiny networks: no download."""
  config = default()
  config.train.log_every_steps = 5
  g = config.grid
  g.arms = ('gaan',)
  g.seeds = (0, 1)
  g.rows, g.width, g.layers = 32, 16, 1
  g.points, g.samples = 1000, 200
  g.train.steps, g.train.log_every_steps = 20, 5
  g.train.eval_every_steps = 10
  d = config.data
  d.name, d.size = 'digits', 16
  d.train_split, d.validation_split = 'train', 'validation'
  d.batch_size = 32
  c = config.images
  c.arms = ('gan',)
  c.rows = 8
  c.kernel = 3
  c.gen_widths = c.disc_widths = c.enc_widths = (4,)
  c.train.steps, c.train.log_every_steps = 20, 5
  c.train.eval_every_steps = 10
  c.frames = 2
  config.model.padding = 0
  config.classifier.steps = 20
  config.classifier.train.log_every_steps = 5
  config.classifier.train.eval_every_steps = 10
  config.judge.samples, config.judge.accuracy = 120, 0.0
  config.judge.nearest, config.judge.side = 20, 8
  return config


VARIANTS = {
  '': default,
  'mnist_1k': mnist_1k,
  'cifar10': cifar10,
  'cifar10_sngan': cifar10_sngan,
  'cifar10_resnet': cifar10_resnet,
  'celeba': celeba,
  'smoke': smoke,
  'paper': paper,
}
