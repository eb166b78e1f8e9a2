"""Deep metric transfer: a few labels spread over a frozen embedding.

  python -m jaxlab.main --config=configs/metric_transfer.py         # MNIST
  python -m jaxlab.main --config=configs/metric_transfer.py:imagenet_to_cifar10
  python -m jaxlab.main --config=configs/metric_transfer.py:cifar10
  python -m jaxlab.main --config=configs/metric_transfer.py:fewshot
  python -m jaxlab.main --config=configs/metric_transfer.py:mini_imagenet
  python -m jaxlab.main --config=configs/metric_transfer.py:paper
  python -m jaxlab.main --config=configs/metric_transfer.py:smoke

Paper: Liu, Wu, Hu, Lin, "Deep Metric Transfer for Label Propagation with
Limited Annotated Data", arXiv:1812.08781. Its abstract (v1) claims +20 points
on semi-supervised CIFAR-10, +10 from ImageNet to CIFAR-10, +6 on mini-ImageNet.

Measured, default config, 580 processor seconds (14 minutes on two busy cores),
splits 0, 1, 2, ten labels a class, 95 % t-interval; all in
docs/metric_transfer.md:

  pseudo-labels: normalized cut .927 ± .010, spreading .922 ± .009,
    kNN .790 ± .010, scikit-learn's LabelSpreading .820 ± .031
  test accuracy: from the cut's labels .939 ± .017, supervised .853 ± .090,
    plain pseudo-label .845 ± .005; paired differences .086 ± .075, .094 ± .012

imagenet_to_cifar10, 8,000 images, 470 processor seconds: normalized cut
.684 ± .034, kNN .634 ± .023; linear heads .683 ± .015, supervised .660 ± .049,
difference not shown. fewshot, 255 processor seconds: the cut over a pool of 60
a class minus the nearest class mean .020 ± .005 on clip-art at one shot, -.006
± .004 on letters at five.
"""

import ml_collections


def mnist():
  """LeNet by instance discrimination on MNIST, ten labels a class."""
  config = ml_collections.ConfigDict()
  config.paper = 'metric_transfer'
  config.title = 'Deep metric transfer and label propagation'
  config.claimed = (
    'Labels propagated by a metric that was learned elsewhere make much '
    'of a few labels.'
  )

  config.data = {}
  # Any set with an image and a ClassLabel: a TFDS name, image_folder:PATH, …
  config.data.name = 'mnist'
  config.data.train_split = 'train[:20000]'  # the graph; labels of a few
  config.data.train_examples = 20_000
  config.data.validation_split = 'train[55000:]'
  config.data.num_classes = 10
  config.data.size = 28  # side of all images
  config.data.channels = 1
  config.data.mean = (0.1307,)  # taken off inside the network
  config.data.std = (0.3081,)
  config.data.pad = 2
  config.data.batch_size = 128
  config.data.eval_batch_size = 500

  config.model = {}
  config.model.name = 'lenet'  # lenet, mnist_cnn, resnet, wide_resnet, …
  config.model.padding = 2
  config.model.depth = 8
  config.model.width = 8
  config.model.widen = 2
  config.model.growth = 12

  config.metric = {}
  config.metric.loss = 'instance'  # instance, snca, rotation, imagenet, pixels
  config.metric.dimension = 64
  config.metric.temperature = 0.1  # tau, sigma of snca
  config.metric.margin = 0.0  # of snca
  config.metric.momentum = 0.5  # of the bank
  config.metric.noise = 0  # rows of NCE; 0: the softmax over the whole bank
  config.metric.centre = True  # for networks without norms
  config.metric.crop = 0.4  # least share of the area of a random crop; 1: none
  config.metric.colour = False  # grey and colour jitter
  config.metric.flip = False
  config.metric.steps = 1600
  config.metric.optimizer = {}
  config.metric.optimizer.name = 'adam'
  config.metric.optimizer.learning_rate = 0.001
  config.metric.optimizer.schedule = 'cosine'
  config.metric.optimizer.momentum = 0.9
  config.metric.optimizer.nesterov = True
  # Of imagenet: one of recipes/pretrained.py, and the side it sees.
  config.metric.network = 'efficientnet_lite0'
  config.metric.size = 96
  config.metric.components = 0  # leading directions kept; 0: all
  config.metric.path = ''  # a file of weights; '': the packaged one

  config.labels = {}
  config.labels.per_class = 10  # of fine-tuning
  config.labels.table = (1, 5, 10, 50, 100)  # of the table of pseudo-labels

  config.propagation = {}
  config.propagation.k = 20
  config.propagation.kind = 'const'  # const, selftune, power
  config.propagation.temperature = 0.2
  config.propagation.eigenvectors = 200
  config.propagation.alpha = 0.99  # of spreading
  config.propagation.confidence = 'own'  # margin, maxprob, entropy, none
  config.propagation.shown = 600  # points of the projection
  config.propagation.prior = ()  # shares of the classes, for class masses
  config.propagation.methods = (
    'normalized_cut',
    'spreading',
    'knn',
    'sklearn_spreading',
  )
  config.propagation.ratio = 0.8  # of the unlabelled, the surest, trained on

  config.finetune = {}
  config.finetune.targets = 'hard'  # 'soft'
  config.finetune.class_balance = False
  config.finetune.labelled_repeats = 20
  config.finetune.own_weight = 1.0  # of pseudo_label's own answers, at last
  config.finetune.new_leaves = ('head',)  # begun anew; all others must fit

  config.study = {}  # seeds are splits
  # supervised, scratch, pseudo_label, normalized_cut, spreading, knn
  config.study.methods = (
    'normalized_cut',
    'supervised',
    'scratch',
    'pseudo_label',
  )
  config.study.baseline = 'supervised'
  config.study.rates = (0.01,)  # of several, the best on validation is taken
  config.study.seeds = (0, 1, 2)

  config.optimizer = {}  # of fine-tuning
  config.optimizer.name = 'sgd'
  config.optimizer.schedule = 'cosine'
  config.optimizer.nesterov = True
  config.optimizer.weight_decay = 5e-4

  config.train = {}
  config.train.steps = 300  # of fine-tuning; the metric's are its own
  return config


def cifar10():
  """ResNet-8 of width 16 by instance discrimination on CIFAR-10."""
  config = mnist()
  config.data.name = 'cifar10'
  config.data.train_split = 'train[:45000]'
  config.data.train_examples = 45_000
  config.data.validation_split = 'train[45000:]'
  config.data.size = 32
  config.data.channels = 3
  config.data.mean = (0.4914, 0.4822, 0.4465)
  config.data.std = (0.2470, 0.2435, 0.2616)
  config.data.augment = 'crop_flip'
  config.data.pad = 4
  config.model.name = 'resnet'
  config.model.width = 16
  config.metric.dimension = 128
  config.metric.centre = False
  config.metric.crop = 0.2
  config.metric.colour = True
  config.metric.flip = True
  config.metric.steps = 7030  # 20 epochs
  config.metric.optimizer.name = 'sgd'
  config.metric.optimizer.learning_rate = 0.03
  config.metric.optimizer.weight_decay = 5e-4
  config.labels.per_class = 25
  config.labels.table = (5, 10, 25, 50, 100, 200, 400, 800)
  config.propagation.ratio = 0.2
  config.finetune.labelled_repeats = 1
  config.train.steps = 3515
  config.paper_reported = {
    **_reported('normalized_cut', INSTANCE_NC),
    **_reported('knn', INSTANCE_KNN),
    'fixmatch/250': 0.9514,
  }
  return config


# Pseudo-labels over WRN-28-2 by instance discrimination, from the outputs of
# the authors' notebooks; labels -> accuracy.
COUNTS = (50, 100, 250, 500, 1000, 2000, 4000, 8000)
INSTANCE_NC = (58.29, 62.76, 69.63, 72.97, 74.20, 74.56, 75.15, 75.24)
INSTANCE_KNN = (38.82, 45.43, 58.77, 67.35, 71.35, 74.62, 76.71, 78.24)


def _reported(name, values):
  return {f'{name}/{n}': round(x / 100, 4) for n, x in zip(COUNTS, values)}


def paper():
  """WRN-28-2, 1,270 epochs of instance discrimination, all of CIFAR-10.

  The paper has no validation split: 5,000 of its training images are ours.
  Its learning rate restarts seven times (10 epochs, then twice as many each);
  here it falls once.
  """
  config = cifar10()
  config.model.name = 'wide_resnet'
  config.model.depth = 28
  config.model.dtype = 'bfloat16'
  config.metric.steps = 1270 * 351
  config.metric.optimizer.final_fraction = 1e-5 / 0.03
  config.optimizer.final_fraction = 1e-3
  config.train.steps = 500_000
  config.train.log_every_steps = 500
  config.train.checkpoint_every_seconds = 300.0
  return config


def imagenet_to_cifar10():
  """EfficientNet-Lite0 of ImageNet, frozen; CIFAR-10 at 96 x 96."""
  config = cifar10()
  config.data.train_split = 'train[:8000]'
  config.data.train_examples = 8000
  config.data.validation_split = 'train[49000:]'
  config.data.test_split = 'test[:1000]'
  config.data.eval_batch_size = 100
  config.metric.loss = 'imagenet'
  config.metric.components = 128  # as the paper's embedding
  config.labels.per_class = 10
  config.labels.table = (1, 5, 10, 25, 50, 100)
  config.propagation.ratio = 0.8
  config.study.methods = ('supervised', 'normalized_cut', 'pseudo_label')
  config.heads = {}
  config.heads.penalties = (1e-4, 1e-3, 1e-2)  # scikit-learn's C
  config.paper_reported = {}
  return config


def fewshot():
  """5-way episodes of clip-art and of letters, frozen ImageNet features."""
  config = imagenet_to_cifar10()
  config.job = 'fewshot'
  config.data.name = 'clipart'
  config.data.train_split = 'train'
  config.data.size = 64
  config.data.num_classes = 13
  config.metric.components = 0
  config.propagation.k = 10
  config.propagation.kind = 'selftune'
  config.fewshot = {}
  # (set, split, its classes): none was trained on here.
  config.fewshot.sets = (('clipart', 'train', 13), ('letters', 'train', 10))
  config.fewshot.ways = 5
  config.fewshot.shots = (1, 5)
  config.fewshot.queries = 15  # of a class
  config.fewshot.episodes = 600
  config.fewshot.examples_a_class = 100  # embedded at most; 0: all
  config.fewshot.inductive = ('centroid', 'nearest')
  config.fewshot.transductive = ('spreading', 'normalized_cut')
  config.fewshot.pools = (15, 60)  # unlabelled images of a class
  return config


def mini_imagenet():
  """SNCA on mini-ImageNet's 64 base classes, episodes of the 20 novel ones.

  Give `--config.data.name=split_csv:PATH`, a folder with images/, train.csv,
  val.csv and test.csv, and the same name in config.fewshot.sets.
  """
  config = fewshot()
  config.data.name = 'split_csv:mini_imagenet'
  config.data.train_split = 'train'
  config.data.train_examples = 38_400
  config.data.validation_split = 'validation'
  config.data.test_split = 'test'
  config.data.num_classes = 100  # of all splits
  config.data.size = 84
  config.data.mean = (0.485, 0.456, 0.406)
  config.data.std = (0.229, 0.224, 0.225)
  config.model.name = 'wide_resnet'
  config.model.depth = 28
  config.model.widen = 2
  config.metric.loss = 'snca'
  config.metric.temperature = 0.05
  config.metric.optimizer.name = 'sgd'
  config.metric.optimizer.learning_rate = 0.1
  config.metric.steps = 200 * 300
  config.fewshot.sets = (('split_csv:mini_imagenet', 'test', 100),)
  config.fewshot.examples_a_class = 0
  config.fewshot.pools = (15, 595)
  return config


def smoke():
  """scikit-learn's digits, one arm, no download."""
  config = mnist()
  config.data.name = 'digits'
  config.data.train_split = 'train[:1072]'
  config.data.train_examples = 1072  # eight devices share the bank
  config.data.validation_split = 'validation'
  config.data.size = 8
  config.data.mean = (0.3,)
  config.data.std = (0.38,)
  config.data.batch_size = 32
  config.data.eval_batch_size = 120
  config.model.padding = 4
  config.metric.dimension = 16
  config.metric.crop = 0.6
  # Adam would make much of the order in which eight devices add.
  config.metric.optimizer.name = 'sgd'
  config.metric.optimizer.learning_rate = 0.03
  config.metric.steps = 48
  config.labels.table = (5,)
  config.propagation.k = 10
  config.propagation.eigenvectors = 40
  config.propagation.shown = 50
  config.propagation.methods = ('normalized_cut', 'spreading', 'knn')
  config.study.methods = ('normalized_cut',)
  config.study.baseline = 'normalized_cut'
  config.study.seeds = (0,)
  config.train.steps = 36
  config.train.log_every_steps = 12
  config.train.eval_every_steps = 18
  return config


VARIANTS = {
  '': mnist,
  'mnist': mnist,
  'cifar10': cifar10,
  'imagenet_to_cifar10': imagenet_to_cifar10,
  'fewshot': fewshot,
  'mini_imagenet': mini_imagenet,
  'paper': paper,
  'smoke': smoke,
}
