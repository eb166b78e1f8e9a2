"""Documents by regions: intra-domain transfer and stacking.

  python -m jaxlab.main --config=configs/doc_regions.py  # synthetic, 16 classes
  python -m jaxlab.main --config=configs/doc_regions.py:pages
  python -m jaxlab.main --config=configs/doc_regions.py:rvl_cdip
  python -m jaxlab.main --config=configs/doc_regions.py:smoke  # no download

Paper: Das et al., "Document Image Classification with Intra-Domain Transfer
Learning and Stacked Generalization of Deep Convolutional Neural Networks",
arXiv:1801.09321. Its accuracies on RVL-CDIP's test set, by the README and the
file names of its code: holistic .9111, header .86, left body .8521, right body
.8217, footer .8124, stacked .9221.

Measured, '' with one seed (about 7 minutes of one quiet core): holistic .870,
stacked .927, paired .056 [.037, .079]; one network at the pixels of five .853.
pages, one seed, 12 minutes of one core: holistic .209, stacked .373, paired
.164 [.067, .277]: little is learnt in 40 steps. Not run: rvl_cdip. More in
docs/doc_regions.md.
"""

import ml_collections


def synthetic():
  """Sixteen synthetic classes, a small network; no download."""
  config = ml_collections.ConfigDict()
  config.paper = 'doc_regions'
  config.title = 'Documents by regions'
  config.claimed = (
    'Stacking networks of a page and of its regions, begun from the '
    'network of the whole page, classifies documents better than the '
    'whole page alone.'
  )

  config.study = {}
  config.study.seeds = (0,)

  config.data = {}
  # synthetic; documents:NAME, rvl_cdip:PATH, image_folder:PATH, a TFDS set
  config.data.name = 'synthetic'
  config.data.num_classes = 16
  config.data.classes = ()  # their names in order, asserted; (): any
  config.data.height = 195  # of a page, from which regions are cut
  config.data.width = 150
  config.data.distance = 2  # bits of near-duplicate pages; -1: no search
  config.data.least = 16  # pixels of an image that may be a page
  config.data.least_documents = 6  # documents:NAME, of a class
  config.data.most_pages = 70  # the same
  config.data.train_split = 'train'
  config.data.validation_split = 'validation'
  config.data.batch_size = 32
  config.data.eval_batch_size = 64

  config.synthetic = {}
  config.synthetic.seed = 1801
  config.synthetic.train = 960
  config.synthetic.validation = 320
  config.synthetic.test = 640
  config.synthetic.strength = 1.0  # of skew, blur, noise, stains
  config.synthetic.label_noise = 0.05
  config.synthetic.duplicates = 0.1  # of training pages, scanned anew

  config.ood = {}
  config.ood.count = 160
  config.ood.folders = ()  # of RVL-CDIP-N and RVL-CDIP-O, say

  config.model = {}
  # page_cnn, or a network of ImageNet: efficientnet_lite0, resnet50, vgg16, …
  config.model.name = 'page_cnn'
  config.model.pretrained = True  # those of ImageNet begin with its weights
  config.model.path = ''  # of a file of weights; '': packaged
  config.model.height = 64  # of a region as networks see it
  config.model.width = 64
  config.model.features = 16  # page_cnn
  config.model.mean = 0.8  # page_cnn: taken off grey in [0, 1]
  config.model.std = 0.3
  config.model.batch_norm = 'batch'  # running: as given, and no dropout
  # Of running statistics, .9: a tenth is new; 0: the network's own.
  config.model.momentum = 0.0
  config.model.smoothing = 0.0
  config.model.micro_batches = 1
  config.model.frozen = ''  # leaves that are not trained, from their beginning

  config.regions = {}
  # top, bottom, left, right in shares of the page; holistic first
  config.regions.specs = (
    ('holistic', 0.0, 1.0, 0.0, 1.0),
    ('header', 0.0, 256 / 780, 0.0, 1.0),
    ('footer', 524 / 780, 1.0, 0.0, 1.0),
    ('left', 190 / 780, 590 / 780, 0.0, 0.5),
    ('right', 190 / 780, 590 / 780, 0.5, 1.0),
  )
  config.holistic = {}
  for level in (config.holistic, config.regions):
    level.steps = 200
    level.optimizer = {}
    level.optimizer.name = 'adam'
    level.optimizer.schedule = 'cosine'
    level.optimizer.learning_rate = 0.001
    level.optimizer.final_fraction = 0.02
    level.optimizer.momentum = 0.9
    level.optimizer.nesterov = True

  config.stack = {}
  config.stack.protocols = ('paper', 'oof')  # the first makes the headline
  config.stack.kinds = ('mean', 'log_mean', 'convex', 'logistic', 'mlp')
  config.stack.headline = 'mlp'
  config.stack.folds = 3
  config.stack.scaled = True  # bases at their temperatures
  config.stack.penalty = 0.01  # convex, logistic
  config.stack.hidden = 256  # mlp
  config.stack.steps = 400

  config.controls = {}
  config.controls.direct = True  # regions without the holistic network
  config.controls.pixels = True  # a holistic network at the pixels of all
  config.controls.coarse = True  # logistic regression on mean pixels

  config.train = {}
  config.train.log_every_steps = 20
  config.train.eval_every_steps = 40

  # RVL-CDIP; by the README and the file names of the official code.
  config.paper_reported = {
    'holistic': 0.9111,
    'header': 0.86,
    'footer': 0.8124,
    'left': 0.8521,
    'right': 0.8217,
    'stacked': 0.9221,
  }
  return config


def pages():
  """Twelve document classes of typeset pages, EfficientNet-Lite0."""
  config = synthetic()
  config.title = 'Documents by regions: typeset pages'
  config.data.name = 'documents:pages'
  config.data.num_classes = 12
  config.data.height = 260
  config.data.width = 200
  config.data.batch_size = 24
  config.model.name = 'efficientnet_lite0'
  config.model.height = 96
  config.model.width = 96
  # Pages are not photographs: with the statistics of these nothing is learnt,
  # and in 40 steps the network's own .99 does not leave them.
  config.model.momentum = 0.9
  config.model.frozen = 'stem|stage[1-5]_'
  for level in (config.holistic, config.regions):
    level.steps = 40
  config.train.log_every_steps = 5
  config.train.eval_every_steps = 10
  return config


def rvl_cdip():
  """VGG-16 at 224 x 224 on RVL-CDIP, weights of a file of one's own."""
  config = synthetic()
  config.title = 'Documents by regions: RVL-CDIP'
  config.data.name = 'rvl_cdip:/data/rvl-cdip'
  config.data.classes = (
    *('letter', 'form', 'email', 'handwritten', 'advertisement'),
    *('scientific report', 'scientific publication', 'specification'),
    *('file folder', 'news article', 'budget', 'invoice', 'presentation'),
    *('questionnaire', 'resume', 'memo'),
  )
  config.data.height = 780
  config.data.width = 600
  config.data.stream = True
  config.data.batch_size = 256
  config.data.eval_batch_size = 512
  config.data.workers = 16
  config.data.ahead = 8
  config.ood.count = 2000
  config.model.name = 'vgg16_torch'
  config.model.path = 'vgg16.safetensors'
  config.model.height = 224
  config.model.width = 224
  config.model.dtype = 'bfloat16'
  config.model.smoothing = 0.1
  for level, rate, epochs in (
    (config.holistic, 1e-3, 10),
    (config.regions, 2e-5 * 256 / 32, 5),
  ):
    level.steps = 1250 * epochs
    level.optimizer.name = 'sgd'
    level.optimizer.learning_rate = rate
  config.train.log_every_steps = 50
  config.train.eval_every_steps = 1250
  config.train.checkpoint_every_seconds = 300.0
  config.controls.pixels = False  # VGG's first dense layer fixes its size
  config.controls.coarse = False
  config.mesh = {'region': 4, 'data': -1}
  return config


def smoke():
  """Whole pages and headers of few pages."""
  config = synthetic()
  config.title = 'Documents by regions: smoke'
  config.synthetic.train = 96
  config.synthetic.validation = 48
  config.synthetic.test = 48
  config.ood.count = 4
  config.data.height = 96
  config.data.width = 72
  config.data.batch_size = 16
  config.data.eval_batch_size = 48
  config.model.height = 32
  config.model.width = 32
  config.model.features = 4
  for level in (config.holistic, config.regions):
    level.steps = 8
  config.stack.protocols = ('paper',)
  config.stack.kinds = ('mean', 'convex')
  config.stack.headline = 'convex'
  config.controls.direct = False
  config.controls.pixels = False
  config.train.log_every_steps = 2
  config.train.eval_every_steps = 4
  config.regions.specs = (
    ('holistic', 0.0, 1.0, 0.0, 1.0),
    ('header', 0.0, 256 / 780, 0.0, 1.0),
  )
  return config


VARIANTS = {
  '': synthetic,
  'pages': pages,
  'rvl_cdip': rvl_cdip,
  'smoke': smoke,
}
