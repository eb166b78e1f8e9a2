"""Adversarial reprogramming of frozen ImageNet networks.

  python -m jaxlab.main --config=configs/reprogramming.py  # counting squares
  python -m jaxlab.main --config=configs/reprogramming.py:mnist
  python -m jaxlab.main --config=configs/reprogramming.py:untrained
  python -m jaxlab.main --config=configs/reprogramming.py:concealed
  python -m jaxlab.main --config=configs/reprogramming.py:adversarial
  python -m jaxlab.main --config=configs/reprogramming.py:cifar10
  python -m jaxlab.main --config=configs/reprogramming.py:shuffled_mnist
  python -m jaxlab.main --config=configs/reprogramming.py:paper
  python -m jaxlab.main --config=configs/reprogramming.py:smoke  # no download

Paper: Elsayed et al., "Adversarial Reprogramming of Neural Networks",
arXiv:1806.11146. Its figures are reported, unverified.

Measured on two shared cores, one seed, 95 % intervals of the test examples;
more in docs/reprogramming.md:

  counting, SqueezeNet 128 x 128, 400 steps (3.5 minutes)  .543 [.521, .564]
  MNIST, the same                                          .722 [.702, .741]
  counting, EfficientNet-Lite0 96 x 96, 120 steps          .178 [.156, .203]
    its random twin, batch statistics calibrated           .222 [.197, .249]
    its random twin                                        .258 [.232, .286]
  hidden in a photograph, SqueezeNet 96 x 96, 120 steps    .605 [.574, .635]
    all around                                             .224 [.199, .251]

Chance is .1; the paper has .98 to .9999 and .95 to .975 after 60,000 steps.
Not run: cifar10, shuffled_mnist, paper.
"""

import ml_collections


def counting():
  """Counting squares on SqueezeNet at 128 x 128."""
  config = ml_collections.ConfigDict()
  config.paper = 'reprogramming'
  config.title = 'Adversarial reprogramming: counting squares'
  config.claimed = (
    'One additive frame makes an ImageNet classifier do another task; '
    'trained networks are reprogrammed more easily than untrained ones.'
  )

  # Arms of the study: dotted key of this config -> value.
  config.arms = {'program': {}}
  config.study = {}
  config.study.baseline = 'program'
  config.study.rates = (0.1,)  # the paper: 0.05
  config.study.seeds = (0,)
  config.claim = {}
  config.claim.times_chance = 5.0  # what accuracy is held against
  config.claim.baseline_is_best = False  # of the arms

  config.victim = {}
  # squeezenet, efficientnet_lite0, resnet50; with a file of weights
  # inception_v3, resnet50_v2, …; classifier: that of config.training
  config.victim.name = 'squeezenet'
  config.victim.weights = 'pretrained'  # random, calibrated; trained
  config.victim.path = ''  # of a file of weights
  config.victim.size = 128
  config.victim.range = (-1.0, 1.0)  # of the images that it is given
  config.victim.first_class = 0  # 1: logit 0 is a background class
  config.victim.dtype = 'float32'  # of the victim's activations
  config.victim.remat = False

  config.program = {}
  config.program.init = 0.1  # deviation of W
  config.program.penalty = 0.01
  config.program.reduction = 'mean'  # sum, half_sum
  config.program.alpha = 1.0  # largest change of a pixel, in [-1, 1]
  config.program.width = 0  # pixels around the data; 0: all
  config.program.permuted = False  # pixels of data and program
  config.program.carrier = -1  # a packaged photograph, 0 to 19; -1: none
  config.program.groups = ()  # classes of each label; (): label j is class j
  config.program.mapping = 'fixed'  # 'frequency'
  config.program.remap_every = 100  # steps
  config.program.micro_batches = 1

  config.data = {}
  config.data.name = 'counting'  # or any set of images with a ClassLabel
  config.data.train_split = 'train'
  config.data.validation_split = 'validation'
  config.data.num_classes = 10
  config.data.cell = 9  # pixels on the side of a square
  config.data.validation_examples = 500
  config.data.test_examples = 2000
  config.data.size = 28
  config.data.channels = 1
  config.data.shuffled = False  # pixels of the data, one order for all
  config.data.batch_size = 50
  config.data.eval_batch_size = 100

  config.optimizer = {}
  config.optimizer.name = 'adam'
  config.optimizer.schedule = 'cosine'
  config.optimizer.final_fraction = 0.02
  config.optimizer.decay = 0.96
  config.optimizer.decay_steps = 1000

  config.train = {}
  config.train.steps = 400
  config.train.log_every_steps = 25
  config.train.eval_every_steps = 100
  config.train.checkpoint_every_steps = 0
  config.train.checkpoint_every_seconds = 60.0
  config.train.checkpoint_keep = 1
  config.train.max_bad_steps = 0

  config.paper_reported = {
    'reported, unverified: counting, Inception-V3': 0.9993,
    'reported, unverified: counting, worst of six networks': 0.9763,
  }
  return config


def mnist():
  """MNIST on SqueezeNet at 128 x 128."""
  config = counting()
  config.title = 'Adversarial reprogramming: MNIST'
  config.data.name = 'mnist'
  config.data.train_split = 'train[:55000]'
  config.data.validation_split = 'train[59500:]'
  config.data.test_split = 'test[:2000]'
  config.program.penalty = 0.05
  config.paper_reported = {
    'reported, unverified: MNIST, Inception-V3': 0.9753,
    'reported, unverified: MNIST, worst of six networks': 0.9496,
  }
  return config


def shuffled_mnist():
  """MNIST with one order of the pixels for all images."""
  config = mnist()
  config.title = 'Adversarial reprogramming: shuffled MNIST'
  config.data.shuffled = True
  config.paper_reported = {
    'reported, unverified: shuffled MNIST, Inception-V3': 0.9709
  }
  return config


def cifar10():
  """CIFAR-10 on SqueezeNet at 128 x 128."""
  config = mnist()
  config.title = 'Adversarial reprogramming: CIFAR-10'
  config.data.name = 'cifar10'
  config.data.train_split = 'train[:45000]'
  config.data.validation_split = 'train[49500:]'
  config.data.size = 32
  config.data.channels = 3
  config.program.penalty = 0.01
  config.train.steps = 4000
  config.paper_reported = {
    'reported, unverified: CIFAR-10, Inception-V3': 0.6911,
    'reported, unverified: CIFAR-10, worst of six networks': 0.5858,
  }
  return config


def untrained():
  """EfficientNet-Lite0 at 96 x 96: trained, random, and random calibrated."""
  config = counting()
  config.title = 'Adversarial reprogramming: are trained networks needed?'
  config.victim.name = 'efficientnet_lite0'
  config.victim.size = 96
  config.study.baseline = 'trained'
  config.arms = ml_collections.ConfigDict(
    {
      'trained': {},
      'random': {'victim.weights': 'random'},
      'calibrated': {'victim.weights': 'calibrated'},
    },
    convert_dict=False,
  )
  config.claim.baseline_is_best = True
  config.train.steps = 120
  config.train.eval_every_steps = 60
  config.data.test_examples = 1000
  config.paper_reported = {
    'reported, unverified: MNIST, random Inception-V3': 0.4539,
    'reported, unverified: MNIST, random ResNet-V2-152': 0.1032,
    'reported, unverified: MNIST, random ResNet-V2-50': 0.9325,
  }
  return config


def concealed():
  """Few pixels, a small scale, hidden in a photograph; SqueezeNet, 96 x 96."""
  config = counting()
  config.title = 'Adversarial reprogramming: size, scale, concealment'
  config.victim.size = 96
  config.study.baseline = 'whole'
  config.arms = ml_collections.ConfigDict(
    {
      'whole': {},
      'frame': {'program.width': 4},
      'scale': {'program.alpha': 0.1},
      'concealed': {
        'program.alpha': 0.2,
        'program.permuted': True,
        'program.carrier': 0,
      },
    },
    convert_dict=False,
  )
  config.train.steps = 120
  config.train.eval_every_steps = 60
  config.data.test_examples = 1000
  return config


def adversarial():
  """Counting on an adversarially trained MNIST network and its plain twin."""
  config = counting()
  config.title = 'Adversarial reprogramming of an adversarially trained network'
  config.victim.name = 'classifier'
  config.victim.weights = 'trained'
  config.study.baseline = 'plain'
  config.arms = ml_collections.ConfigDict(
    {'plain': {}, 'adversarial': {'training.attack.epsilon': 0.2}},
    convert_dict=False,
  )
  config.claim.baseline_is_best = True
  config.data.cell = 5
  config.training = {}
  config.training.seed = 0
  config.training.data = {}
  config.training.data.name = 'mnist'
  config.training.data.image_feature = 'image'
  config.training.data.label_feature = 'label'
  config.training.data.train_split = 'train[:55000]'
  config.training.data.validation_split = 'train[55000:]'
  config.training.data.test_split = 'test'
  config.training.data.num_classes = 10
  config.training.data.size = 28
  config.training.data.channels = 1
  config.training.data.crop = 0
  config.training.data.stream = False
  config.training.data.mean = (0.1307,)
  config.training.data.std = (0.3081,)
  config.training.data.augment = 'none'
  config.training.data.pad = 0
  config.training.data.batch_size = 64
  config.training.data.eval_batch_size = 250
  config.training.data.workers = 0
  config.training.data.ahead = 4
  config.training.model = {}
  config.training.model.name = 'lenet'
  config.training.model.padding = 2
  config.training.model.dtype = 'float32'
  config.training.attack = {}
  config.training.attack.epsilon = 0.0  # 0: plain training
  config.training.attack.steps = 5
  config.training.optimizer = {}
  config.training.optimizer.name = 'adam'
  config.training.optimizer.schedule = 'cosine'
  config.training.optimizer.learning_rate = 0.002
  config.training.optimizer.final_fraction = 0.02
  config.training.train = config.train.copy_and_resolve_references()
  config.training.train.steps = 859
  config.training.train.log_every_steps = 100
  config.training.train.eval_every_steps = 0
  config.train.steps = 2000
  config.train.log_every_steps = 100
  config.train.eval_every_steps = 500
  config.paper_reported = {
    'reported, unverified: MNIST, Inception-V3': 0.9753,
    'reported, unverified: MNIST, Inception-V3 adversarial': 0.9752,
  }
  return config


def paper():
  """ResNet-50-V2 at 299 x 299, the paper's recipe: 100,000 steps of 80.

  The weights are a file of one's own: config.victim.path.
  """
  config = counting()
  config.title = 'Adversarial reprogramming: the paper'
  config.victim.name = 'resnet50_v2'
  config.victim.path = 'resnet50v2_weights_tf_dim_ordering_tf_kernels.h5'
  config.victim.size = 299
  config.victim.dtype = 'bfloat16'
  config.victim.remat = True
  config.program.penalty = 0.01
  config.data.batch_size = 80
  config.data.eval_batch_size = 200
  config.data.validation_examples = 2000
  config.data.test_examples = 100_000
  config.optimizer.schedule = 'exponential'
  config.optimizer.decay_steps = 2500  # two epochs of 100,000 images
  config.train.steps = 100_000
  config.train.log_every_steps = 500
  config.train.eval_every_steps = 5000
  config.train.checkpoint_every_seconds = 300.0
  return config


def smoke():
  """Counting on a small random network with a map by frequency."""
  config = adversarial()
  config.title = 'Adversarial reprogramming: smoke'
  config.victim.weights = 'random'
  config.study.baseline = 'program'
  config.arms = {'program': {}}
  config.claim.baseline_is_best = False
  config.program.mapping = 'frequency'
  config.program.remap_every = 16
  config.data.cell = 3
  config.data.batch_size = 16
  config.data.eval_batch_size = 40
  config.data.validation_examples = 40
  config.data.test_examples = 70
  config.training.data.size = 16
  config.train.steps = 48
  config.train.log_every_steps = 12
  config.train.eval_every_steps = 24
  return config


VARIANTS = {
  '': counting,
  'mnist': mnist,
  'cifar10': cifar10,
  'shuffled_mnist': shuffled_mnist,
  'untrained': untrained,
  'concealed': concealed,
  'adversarial': adversarial,
  'paper': paper,
  'smoke': smoke,
}
