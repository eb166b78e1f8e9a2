"""mixup on scikit-learn's digits: no download."""

from ml_collections import ConfigDict

CONFIG = {
  'paper': 'examples.new_paper',
  'title': 'mixup on digits',
  'seed': 0,
  'mixup': {'alpha': 0.2},
  'study': {
    'baseline': 'plain',
    'rates': (0.003,),
    'seeds': (0,),
    'metric': 'accuracy',
    'better': 'higher',
  },
  'data': {
    'name': 'digits',
    'image_feature': 'image',
    'label_feature': 'label',
    'train_split': 'train',
    'validation_split': 'validation',
    'test_split': 'test',
    'num_classes': 10,
    'size': 8,
    'channels': 1,
    'crop': 0,
    'stream': False,
    'mean': (0.3,),
    'std': (0.38,),
    'augment': 'none',
    'pad': 0,
    'batch_size': 64,
    'eval_batch_size': 120,
    'workers': 0,
    'ahead': 4,
  },
  'model': {'name': 'lenet', 'padding': 4, 'dtype': 'float32'},
  'optimizer': {
    'name': 'adam',
    'schedule': 'constant',
    'weight_decay': 1e-4,
    'clip_norm': 0.0,
  },
  'train': {
    'steps': 60,
    'log_every_steps': 20,
    'eval_every_steps': 30,
    'checkpoint_every_steps': 0,
  },
  'mesh': {'data': -1},
}


VARIANTS = dict.fromkeys(('', 'smoke'), lambda: ConfigDict(CONFIG))
