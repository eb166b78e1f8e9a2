"""AdvGAN: generators of adversarial examples.

  python -m jaxlab.main --config=configs/advgan.py        # MNIST, target A
  python -m jaxlab.main --config=configs/advgan.py:mnist_blackbox
  python -m jaxlab.main --config=configs/advgan.py:mnist_defended
  python -m jaxlab.main --config=configs/advgan.py:cifar10
  python -m jaxlab.main --config=configs/advgan.py:smoke  # no download

Measured on two CPU cores (docs/advgan.md): seeds 0, 1, 2 of the first, 18
minutes each at a load of 8: success .9132 ± .0508 over all nine other classes.

Paper: Xiao et al., "Generating Adversarial Examples with Adversarial
Networks", arXiv:1801.02610.
"""

import ml_collections


def mnist():
  """Target A on MNIST, seen by the attacker; all target classes."""
  config = ml_collections.ConfigDict()
  config.paper = 'advgan'
  config.title = 'AdvGAN: generators of adversarial examples'
  config.claimed = (
    'A generator trained once against a network makes adversarial '
    'examples of new images in one pass; behind a black box, distilling '
    'in turn with the game helps.'
  )

  config.study = {}
  config.study.arms = ('a',)  # networks to be attacked, of config.models
  config.study.baseline = 'a'
  config.study.rates = (0.001,)
  config.study.seeds = (0,)
  config.study.metric = 'success'

  config.data = {}
  config.data.name = 'mnist'
  config.data.validation_split = 'train[55000:56000]'
  config.data.num_classes = 10
  config.data.size = 28  # side of all images, a multiple of 4
  config.data.channels = 1
  config.data.mean = (0.0,)  # taken off inside the networks
  config.data.std = (1.0,)
  config.data.pad = 0
  config.data.batch_size = 32
  config.data.eval_batch_size = 250

  config.models = {}
  for layout in ('a', 'b', 'c', 'madry'):
    config.models[layout] = _model('mnist_target', layout=layout)

  config.target = {}
  config.target.split = 'train[:55000]'
  config.target.steps = 500
  config.target.optimizer = _adam(0.001)
  # Of adversarially trained targets.
  config.target.defence_epsilon = 0.3
  config.target.defence_steps = 7
  # 'new' stays at constant answers for long: epsilon .3 is hard to begin with.
  config.target.defence_start = 'undefended'

  config.attack = {}
  config.attack.split = 'train[:55000]'
  config.attack.epsilon = 0.3  # L-infinity, images in [0, 1]
  config.attack.bound = 'tanh'  # 'clip'
  config.attack.targeted = True
  config.attack.loss = 'cw'  # 'ce'
  config.attack.kappa = 0.0
  config.attack.gan = 'lsgan'  # 'vanilla'
  config.attack.alpha = 0.1  # of the game
  config.attack.beta = 0.1  # of the hinge
  # c of the hinge, a share of the longest perturbation, epsilon √d.
  config.attack.hinge_share = 0.5
  config.attack.gen_width = 16  # 8 in the paper, for one target class
  config.attack.gen_blocks = 4
  config.attack.disc_width = 8
  config.attack.optimizer = _adam(0.001)

  config.train = {}
  config.train.steps = 1000
  config.train.log_every_steps = 50

  config.judge = {}
  config.judge.images = 1000  # of the test set, each with all targets
  config.judge.attacked = 50  # by other attacks too, one target each
  config.judge.epsilons = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
  config.judge.pgd_steps = 40
  config.judge.cw_steps = 60  # of each of three searches
  config.judge.square_queries = 200
  return config


def _adam(rate):
  return ml_collections.ConfigDict({'name': 'adam', 'learning_rate': rate})


def _model(name, **options):
  return ml_collections.ConfigDict(
    {'name': name, 'dtype': 'float32', **options}
  )


def mnist_blackbox():
  """A alone is asked; the student is C, on images that A never saw."""
  config = mnist()
  config.job = 'blackbox'
  config.title = 'AdvGAN against a black box: static and dynamic distillation'
  config.study.arms = ('static', 'dynamic')
  config.study.baseline = 'static'
  config.target.split = 'train[:27500]'
  config.target.steps = 400
  config.attack.split = 'train[27500:42500]'

  config.blackbox = {}
  config.blackbox.target = 'a'  # unless oracle.callable is given
  config.blackbox.student = 'c'
  config.blackbox.distil_steps = 400
  config.blackbox.game_steps = 150
  # Of dynamic distillation; static takes as many steps of each network.
  config.blackbox.rounds = 4
  config.blackbox.refine_steps = 60
  config.blackbox.optimizer = _adam(0.001)

  config.oracle = {}
  # PACKAGE.MODULE:NAME of a function of images [n, h, w, c] float32 in [0, 1].
  config.oracle.callable = ''
  config.oracle.answers = 'logits'  # 'probabilities', 'labels'
  config.oracle.timeout_seconds = 300.0
  return config


def mnist_defended():
  """A, adversarially trained, under transferred and adaptive attacks."""
  config = mnist()
  config.job = 'defended'
  config.title = 'AdvGAN against adversarially trained networks'
  config.study.arms = ('none', 'pgd')  # 'fgsm', 'ensemble', 'advgan'
  config.study.baseline = 'none'
  config.study.metric = 'transfer/success'
  config.study.better = 'lower'  # for the one who defends

  config.defended = {}
  config.defended.model = 'a'  # 'madry', the MNIST challenge's
  config.defended.apgd_steps = 50
  config.defended.apgd_restarts = 1
  return config


def cifar10():
  """ResNet-32 and WRN-34-10 on CIFAR-10, seen by the attacker."""
  config = mnist()
  config.study.arms = ('resnet', 'wide_resnet')
  config.study.baseline = 'resnet'
  config.models = {
    'resnet': _model('resnet', depth=32, width=16),
    'wide_resnet': _model('wide_resnet', depth=34, widen=10),
  }
  d = config.data
  d.name, d.size, d.channels = 'cifar10', 32, 3
  d.mean, d.std = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
  d.augment, d.pad, d.batch_size = 'crop_flip', 4, 128
  d.validation_split = 'train[49000:]'
  config.target.split = config.attack.split = 'train[:49000]'
  config.target.steps = 78_200
  config.target.optimizer = {
    'name': 'sgd',
    'learning_rate': 0.1,
    'nesterov': True,
    'weight_decay': 5e-4,
    'schedule': 'cosine',
  }
  config.target.defence_epsilon = config.attack.epsilon = 8 / 255
  config.train.steps = 20_000
  config.judge.epsilons = (2 / 255, 4 / 255, 6 / 255, 8 / 255)
  return config


def smoke():
  """Digits at 16 x 16, a small network: no download."""
  return _small(mnist())


def smoke_blackbox():
  """The same behind an oracle."""
  config = _small(mnist_blackbox())
  config.target.split = 'train[:50%]'
  config.attack.split = 'train[50%:]'
  b = config.blackbox
  b.distil_steps, b.game_steps, b.refine_steps, b.rounds = 8, 4, 4, 1
  return config


def smoke_defended():
  """The same with adversarial training."""
  config = _small(mnist_defended())
  config.target.defence_steps = 2
  config.defended.apgd_steps = 2
  return config


def _small(config):
  config.models = {
    'a': _model('lenet', padding=0),
    'c': _model('lenet', padding=2),
  }
  d = config.data
  d.name, d.size = 'digits', 16
  config.target.split = config.attack.split = 'train'
  d.validation_split, d.test_split = 'validation', 'test'
  d.batch_size, d.eval_batch_size = 32, 64
  config.target.steps, config.train.steps = 30, 20
  config.train.log_every_steps = 5
  config.train.eval_every_steps = 10
  config.attack.gen_width, config.attack.gen_blocks = 4, 1
  config.attack.disc_width = 4
  config.judge.images, config.judge.attacked = 16, 8
  config.judge.epsilons = (0.1, 0.3)
  config.judge.pgd_steps, config.judge.cw_steps = 2, 0
  config.judge.square_queries = 0
  return config


VARIANTS = {
  '': mnist,
  'mnist_blackbox': mnist_blackbox,
  'mnist_defended': mnist_defended,
  'cifar10': cifar10,
  'smoke': smoke,
  'smoke_blackbox': smoke_blackbox,
  'smoke_defended': smoke_defended,
}
