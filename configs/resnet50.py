"""ResNet-50 v1.5 on ImageNet at batch 32,768, for a TPU pod.

  python -m jaxlab.main --config=configs/resnet50.py --plan=v3:16x16
  python -m jaxlab.main --config=configs/resnet50.py            # on the pod
  python -m jaxlab.main --config=configs/resnet50.py:lars_32k
  python -m jaxlab.main --config=configs/resnet50.py:smoke      # no download

Paper: You et al., ICLR 2020: 76.42 % top-1 at batch 32,768 with LAMB (reported,
unverified); its first author's published recipe, followed here, states 76.3 %
on 128 TPU v3 chips: 3,519 steps, rate .04, 782 steps of warm-up, decay to 0
without a jump, weight decay 1.5 on all but BatchNorm, label smoothing .1,
gradients clipped at norm 1, no bias correction. Batch statistics are those of
the whole batch (cross-replica BatchNorm).

Not run: no machine here has ImageNet or a pod. `imagenet2012` must be prepared
by TFDS in ArrayRecord; each host decodes its own rows to a 256 x 256 canvas
(shorter side, centre), and crops are made on the device.
"""

import ml_collections


def lamb_32k():
  """The author's recipe."""
  config = ml_collections.ConfigDict()
  config.paper = 'lamb'
  config.job = 'images'
  config.title = 'ResNet-50 with LAMB'
  config.claimed = (
    'LAMB trains ResNet-50 on ImageNet in batches of up to 32,768 at '
    'the usual accuracy.'
  )

  config.data = {}
  config.data.name = 'imagenet2012'
  config.data.train_split = 'train'
  config.data.validation_split = 'validation'
  config.data.test_split = 'validation'  # ImageNet's test labels are secret
  config.data.num_classes = 1000
  config.data.size = 256
  config.data.channels = 3
  config.data.crop = 224
  config.data.stream = True
  config.data.augment = 'imagenet'
  config.data.pad = 0
  config.data.mean = (0.485, 0.456, 0.406)
  config.data.std = (0.229, 0.224, 0.225)
  config.data.batch_size = 32768
  config.data.eval_batch_size = 4096
  config.data.workers = 32  # a host

  config.model = {}
  config.model.name = 'resnet50'
  config.model.depth = 50
  config.model.width = 64
  config.model.padding = 0
  config.model.dtype = 'bfloat16'
  config.model.label_smoothing = 0.1

  config.optimizer = {}
  config.optimizer.name = 'lamb'
  config.optimizer.learning_rate = 0.04
  config.optimizer.warmup_steps = 782
  config.optimizer.power = 1.0
  config.optimizer.weight_decay = 1.5
  config.optimizer.clip_norm = 1.0
  config.optimizer.bias_correction = False
  config.optimizer.exclude = 'norm'

  config.train = {}
  config.train.steps = 3519  # 90 epochs of 1,281,167 images
  config.train.log_every_steps = 20
  config.train.eval_every_steps = 391
  config.train.checkpoint_every_seconds = 300.0
  config.train.checkpoint_keep = 2

  config.study = {}
  config.study.batch_sizes = ()
  config.study.reference_batch_size = 8192
  config.study.examples = 115_000_000
  config.study.largest_micro_batch = 32768
  config.study.warmup_steps = 782
  config.study.seeds = (0,)
  config.study.optimizers = {}
  config.study.baseline = 'momentum'

  config.paper_reported = {
    'author_recipe_32k': {'top1': 0.763, 'tpu_v3_chips': 128},
    'lamb_32k_reported_unverified': {'top1': 0.7642},
  }
  return config


def at_batch(config, batch_size):
  """The square-root rule: 90 epochs, 782 steps of warm-up, rate with √batch."""
  config.train.steps = 90 * 1_281_167 // batch_size
  config.data.batch_size = batch_size
  config.optimizer.learning_rate = 0.04 * (batch_size / 32768) ** 0.5
  return config


def lars_32k():
  """LARS, Algorithm 1, with LAMB's schedule; its rate is not tuned."""
  config = lamb_32k()
  config.optimizer.name = 'lars'
  config.optimizer.weight_decay = 1e-4
  return config


def momentum_8k():
  """The usual baseline: Nesterov momentum, rate .1 x batch / 256."""
  config = at_batch(lamb_32k(), 8192)
  config.optimizer.name = 'momentum'
  config.optimizer.learning_rate = 3.2
  config.optimizer.weight_decay = 5e-5
  config.optimizer.clip_norm = 0.0
  return config


def smoke():
  """The same code on scikit-learn's digits, enlarged to 20 x 20 in colour."""
  config = lamb_32k()
  config.data.name = 'digits'
  config.data.test_split = 'test'
  config.data.num_classes = 10
  config.data.size = 20
  config.data.crop = 16
  config.data.workers = 0
  config.data.eval_batch_size = 120
  config.model.name = 'resnet'
  config.model.depth = 8
  config.model.width = 8
  config.model.dtype = 'float32'
  config.optimizer.warmup_steps = 10
  config.optimizer.weight_decay = 0.01
  config.train.steps = 60
  config.data.batch_size = 64
  config.train.log_every_steps = 15
  config.train.eval_every_steps = 30
  return config


VARIANTS = {
  '': lamb_32k,
  'lamb_32k': lamb_32k,
  'lamb_16k': lambda: at_batch(lamb_32k(), 16384),
  'lamb_8k': lambda: at_batch(lamb_32k(), 8192),
  'lars_32k': lars_32k,
  'momentum_8k': momentum_8k,
  'smoke': smoke,
}
