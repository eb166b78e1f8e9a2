"""mixup on scikit-learn's digits: no download."""

from ml_collections import ConfigDict

CONFIG = {
  'paper': 'examples.new_paper',
  'title': 'mixup on digits',
  'mixup': {'alpha': 0.2},
  'study': {
    'baseline': 'plain',
    'rates': (0.003,),
    'seeds': (0,),
  },
  'data': {
    'name': 'digits',
    'train_split': 'train',
    'validation_split': 'validation',
    'num_classes': 10,
    'size': 8,
    'channels': 1,
    'mean': (0.3,),
    'std': (0.38,),
    'pad': 0,
    'batch_size': 64,
    'eval_batch_size': 120,
  },
  'model': {'name': 'lenet', 'padding': 4, 'dtype': 'float32'},
  'optimizer': {
    'name': 'adam',
    'weight_decay': 1e-4,
  },
  'train': {
    'steps': 60,
    'log_every_steps': 20,
    'eval_every_steps': 30,
  },
}


VARIANTS = dict.fromkeys(('', 'smoke'), lambda: ConfigDict(CONFIG))
