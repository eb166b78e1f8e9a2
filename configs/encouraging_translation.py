"""The encouraging loss beside cross-entropy in translation, each tuned alike.

  python -m jaxlab.main --config=configs/encouraging_translation.py
  python -m jaxlab.main --config=configs/encouraging_translation.py:iwslt
  python -m jaxlab.main --config=configs/encouraging_translation.py:smoke

Paper: Zhao et al., AAAI 2022, arXiv:2110.06537 (configs/encouraging.py). From
cross-entropy to the encouraging loss (reported, unverified): De-En 35.09 to
35.50 BLEU.

Measured on two CPU cores, rates tuned alike on validation, then seeds 0 to 2 on
test, 95 % t-intervals, paired by seed; not converged; docs/encouraging.md:

  LibreOffice's help, BLEU    16.28 ± 1.31    16.52 ± .41     .23 ± 1.02
"""

import ml_collections


def libreoffice():
  """English to German on LibreOffice's help; a small Transformer."""
  config = ml_collections.ConfigDict()
  config.paper = 'encouraging'
  config.job = 'translation'
  config.title = 'The encouraging loss in translation'
  config.claimed = (
    'A bonus for well-classified examples improves what is learned over '
    'cross-entropy.'
  )

  bonus = {'bonus': 'conservative', 'bonus_scale': 1.0, 'log_end': 0.5}
  smooth = {'label_smoothing': 0.1}
  config.losses = {'ce': smooth, 'el': {**bonus, **smooth}}
  config.study = {}
  config.study.baseline = 'ce'  # what the others are compared with
  config.study.rates = (4e-3, 8e-3, 16e-3)
  config.study.seeds = (0, 1, 2)
  config.study.metric = 'bleu'

  config.data = {}
  # bible_pairs, libreoffice_help_pairs, aligned:FOLDER/x.de,FOLDER/x.en
  config.data.name = 'libreoffice_help_pairs'
  config.data.source = 'en'  # text features; not read for aligned files
  config.data.target = 'de'
  config.data.vocab_size = 4000  # >= 259
  config.data.lengths = (32, 64)  # padded, with EOS; a step kind for each
  # Of a side, padding included, all micro-batches together.
  config.data.batch_tokens = 2048
  config.data.eval_batch_size = 40
  config.data.eval_examples = 500  # of validation, and of test; 0: all

  config.model = {
    'layers': 2,
    'width': 128,
    'ffn': 512,
    'heads': 4,
    'dropout': 0.1,
    'norm': 'pre',  # 'pre', 'post'
    'dtype': 'float32',
  }
  config.optimizer = {
    'name': 'adamw',
    'schedule': 'inverse_sqrt',
    'micro_batches': 1,
    'b2': 0.98,
    'warmup_steps': 300,
    'weight_decay': 1e-4,
  }

  config.train = {}
  config.train.steps = 1200
  config.train.eval_every_steps = 400  # nats and accuracy; BLEU at the end
  # Of parameters: the last so many, every so many steps.
  config.average = {'last': 5, 'every': 50}
  config.decode = {'width': 4, 'alpha': 0.6, 'max_length': 80}
  return config


def iwslt():
  """The paper's De-En model on the user's own two files."""
  config = libreoffice()
  config.title = 'The encouraging loss on IWSLT14 De-En'
  config.data.name = 'aligned:iwslt14/text.de,iwslt14/text.en'
  config.data.source = 'de'
  config.data.target = 'en'
  config.data.vocab_size = 10_000
  config.data.lengths = (32, 64, 128, 256)
  config.data.eval_batch_size = 64
  config.data.eval_examples = 0
  config.model.layers = 6
  config.model.width = 512
  config.model.ffn = 1024
  config.model.dropout = 0.4
  config.model.norm = 'post'
  config.model.dtype = 'bfloat16'
  config.study.rates = (1e-3,)
  config.study.seeds = (0, 1, 2, 3, 4)
  config.optimizer.warmup_steps = 4000
  config.train.steps = 20_000
  config.data.batch_tokens = 16_384
  config.optimizer.micro_batches = 4
  config.train.eval_every_steps = 1000
  config.average.last = 10
  config.average.every = 250
  config.decode.width = 5
  config.decode.alpha = 1.0
  config.decode.max_length = 256
  config.paper_reported = {'iwslt14_de_en_bleu': {'ce': 35.09, 'el': 35.50}}
  return config


def smoke():
  """Words of CPython's language reference in reverse: no download."""
  config = libreoffice()
  config.study.rates = (4e-3,)
  config.study.seeds = (0,)
  config.losses = {'el': config.losses.el}
  config.study.baseline = 'el'
  config.data.name = 'pydoc'
  config.data.source = 'text'
  config.data.target = 'reversed'
  config.data.vocab_size = 400
  config.data.lengths = (32,)
  config.data.batch_tokens = 512
  config.data.eval_batch_size = 8
  config.data.eval_examples = 16
  config.model.layers = 1
  config.model.width = 16
  config.model.ffn = 32
  config.optimizer.warmup_steps = 5
  config.train.steps = 24
  config.train.log_every_steps = 6
  config.train.eval_every_steps = 12
  config.average = {'last': 2, 'every': 6}
  config.decode.width = 2
  config.decode.max_length = 16
  return config


VARIANTS = {'': libreoffice, 'iwslt': iwslt, 'smoke': smoke}
