"""Writes hugging_face.json: what transformers makes of tests' folders.

  python -m tests.goldens.hugging_face     # needs the extra `bench`

Made with transformers 5.24.0 and PyTorch 2.14.1 on a CPU.
"""

import json
import tempfile
from pathlib import Path

import torch
import transformers

from tests.recipes import hub_folders

# (activation, layer_norm_eps) of the word logits.
VARIANTS = (('gelu_new', 1e-12), ('gelu', 0.1), ('relu', 1e-12))
TOKENIZERS = (
  {'do_lower_case': True},
  {'do_lower_case': False},
  {'do_lower_case': False, 'strip_accents': True},
  {'do_lower_case': True, 'strip_accents': False},
  {'do_lower_case': True, 'tokenize_chinese_chars': False},
)


def outputs_of(model):
  """The model's outputs by name, where there are tokens."""
  tokens, segments, attention = map(torch.tensor, hub_folders.inputs())
  with torch.no_grad():
    found = model.eval()(
      input_ids=tokens.long(),
      token_type_ids=segments.long(),
      attention_mask=attention.long(),
    )
  return {
    name: x[attention] if x.shape[:2] == attention.shape else x
    for name, x in found.items()
  }


def main():
  found = {'outputs': {}, 'variants': [], 'tokenizers': []}
  plain = lambda x: [
    [round(v, 7) for v in r] for r in x.reshape(len(x), -1).tolist()
  ]
  with tempfile.TemporaryDirectory() as scratch:
    folder = Path(scratch)
    for architecture in hub_folders.ARCHITECTURES:
      hub_folders.write(folder / architecture, architecture)
      cls = getattr(transformers, architecture)
      model = cls.from_pretrained(folder / architecture)
      found['outputs'][architecture] = {
        name: plain(x) for name, x in outputs_of(model).items()
      }
    for number, (activation, epsilon) in enumerate(VARIANTS):
      where = hub_folders.write(
        folder / str(number),
        'BertForMaskedLM',
        hidden_act=activation,
        layer_norm_eps=epsilon,
      )
      model = transformers.BertForMaskedLM.from_pretrained(where)
      logits = outputs_of(model)['logits'][::5]
      found['variants'].append([activation, epsilon, plain(logits)])
    for options in TOKENIZERS:
      where = hub_folders.write(folder / 'words', 'BertModel', options=options)
      tokenizer = transformers.AutoTokenizer.from_pretrained(where)
      ids = [tokenizer(text)['input_ids'] for text in hub_folders.TEXTS]
      found['tokenizers'].append([options, ids])
  path = Path(__file__).with_suffix('.json')
  path.write_text(json.dumps(found, ensure_ascii=False) + '\n')


if __name__ == '__main__':
  main()
