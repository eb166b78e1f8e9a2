"""LAMB, LARS, momentum and AdamW on small images, at several batch sizes.

  python -m jaxlab.main --config=configs/lamb_images.py          # one training
  python -m jaxlab.main --config=configs/lamb_images.py:scaling  # the study
  python -m jaxlab.main --config=configs/lamb_images.py:cifar10
  python -m jaxlab.main --config=configs/lamb_images.py:folder \
    --config.data.name=image_folder:PATH                         # PATH/CLASS/…
  python -m jaxlab.main --config=configs/lamb_images.py:smoke    # no download

Paper: You et al., "Large Batch Optimization for Deep Learning: Training BERT
in 76 minutes", ICLR 2020, appendix (MNIST with LeNet, CIFAR-10 with a small
ResNet: reported, unverified).

In the study momentum, LARS and LAMB follow the square-root rule from a rate
chosen at batch 64; AdamW is tuned at every batch size.

Measured, :scaling, two shared CPU cores, jax 0.10.2, 33 to 80 s a training;
test accuracy, seeds 0, 1, 2, 95 % t-interval, one epoch, not converged:

  batch             64              256             1,024
  lamb, sqrt        .9884 ± .0008   .9826 ± .0061   .588 ± .647
  lars, sqrt        .9867 ± .0011   .9774 ± .0072   .647 ± .210
  momentum, sqrt    .9861 ± .0015   .9772 ± .0034   .847 ± .024
  adamw, tuned      .9850 ± .0029   .9816 ± .0080   .927 ± .040

LAMB is the best at 64 (paired, .0034 ± .0031 above AdamW). That its rule keeps
the accuracy up to 1,024, where an epoch is 53 steps, is refuted here.
"""

import ml_collections


def mnist():
  """A ResNet-8 with 8 channels on MNIST."""
  config = ml_collections.ConfigDict()
  config.paper = 'lamb'
  config.job = 'images'
  config.title = 'LAMB on small images'
  config.claimed = (
    'LAMB keeps its accuracy as batches grow, with the rate scaled by '
    'the square root and nothing tuned again.'
  )

  config.data = {}
  # Any set with an image and a ClassLabel: a TFDS name, image_folder:PATH, …
  config.data.name = 'mnist'
  config.data.train_split = 'train[:55000]'
  config.data.validation_split = 'train[55000:]'
  config.data.num_classes = 10
  config.data.size = 28  # side of all images
  config.data.channels = 1
  config.data.mean = (0.1307,)
  config.data.std = (0.3081,)
  config.data.batch_size = 64
  config.data.eval_batch_size = 1000

  config.model = {}
  config.model.name = 'resnet'  # 'resnet', 'resnet50', 'lenet'
  config.model.depth = 8
  config.model.width = 8
  config.model.padding = 2  # LeNet: 28 + 2 x 2 = 32
  config.model.label_smoothing = 0.0

  config.optimizer = {}
  config.optimizer.name = 'lamb'  # lamb, n_lamb, nn_lamb, lars, momentum, adamw
  config.optimizer.learning_rate = 1e-2
  config.optimizer.warmup_steps = 50
  config.optimizer.power = 1.0
  config.optimizer.weight_decay = 1e-4

  config.train = {}
  config.train.steps = 1718  # two epochs

  config.study = {}
  config.study.batch_sizes = ()
  config.study.reference_batch_size = 64
  config.study.examples = 55_000  # one epoch
  config.study.largest_micro_batch = 1024
  config.study.warmup_steps = 11  # a fifth of the steps at batch 1,024
  config.study.seeds = (0, 1, 2)
  config.study.optimizers = {}
  config.study.baseline = 'adamw'  # what the others are compared with

  config.paper_reported = {
    'mnist_lenet_reported_unverified': {'lamb_accuracy': 0.9945}
  }
  return config


def scaling():
  """Four optimizers, three batch sizes, three seeds."""
  config = mnist()
  config.title = 'Batch sizes: momentum, LARS, LAMB and AdamW on MNIST'
  config.study.batch_sizes = (64, 256, 1024)
  config.study.optimizers = {
    'momentum': {'rule': 'sqrt', 'rates': (0.03, 0.1, 0.3)},
    'lars': {'rule': 'sqrt', 'rates': (0.01, 0.03, 0.1)},
    'lamb': {'rule': 'sqrt', 'rates': (0.01, 0.03, 0.1)},
    'adamw': {'rule': 'tuned', 'rates': (0.003, 0.01, 0.03)},
  }
  return config


def cifar10():
  """ResNet-20 on CIFAR-10, 20 epochs."""
  config = mnist()
  config.data.name = 'cifar10'
  config.data.train_split = 'train[:45000]'
  config.data.validation_split = 'train[45000:]'
  config.data.size = 32
  config.data.channels = 3
  config.data.augment = 'crop_flip'
  config.data.mean = (0.4914, 0.4822, 0.4465)
  config.data.std = (0.2470, 0.2435, 0.2616)
  config.model.depth = 20
  config.model.width = 16
  config.optimizer.warmup_steps = 400
  config.train.steps = 7020
  config.data.batch_size = 128
  config.paper_reported = {
    'cifar10_davidnet_reported_unverified': {'lamb_accuracy': 0.94}
  }
  return config


def folder():
  """One's own images: --config.data.name=image_folder:PATH, PATH/CLASS/…."""
  config = mnist()
  config.title = 'LAMB on a folder of images'
  d = config.data
  d.name = 'image_folder:'
  d.train_split, d.validation_split = 'train', 'validation'
  # What is 0 or empty is that of the training images.
  d.measure = True
  d.num_classes, d.channels, d.size = 0, 0, 0
  d.mean, d.std = (), ()
  d.augment = 'crop_flip'
  d.eval_batch_size = 64
  config.model.depth = 20
  config.model.width = 16
  config.train.steps = 1000
  config.paper_reported = {}
  return config


def smoke():
  """LeNet on scikit-learn's digits, 8 x 8 pixels: no download."""
  config = mnist()
  config.data.name = 'digits'
  config.data.train_split = 'train'
  config.data.validation_split = 'validation'
  config.data.size = 8
  config.data.mean = (0.3,)
  config.data.std = (0.38,)
  config.data.eval_batch_size = 128
  config.model.name = 'lenet'
  config.model.padding = 4
  config.optimizer.warmup_steps = 10
  config.train.steps = 60
  config.train.log_every_steps = 15
  config.train.eval_every_steps = 30
  return config


VARIANTS = {
  '': mnist,
  'scaling': scaling,
  'cifar10': cifar10,
  'folder': folder,
  'smoke': smoke,
}
