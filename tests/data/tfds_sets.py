"""Small sets as TFDS itself writes them, in array_record."""

import tensorflow_datasets as tfds


def write(root, name, features, splits, version='1.0.0', config='', shards=1):
  """Prepares a set in the folder `root`.

  `features`: name -> feature of TFDS; `splits`: name -> list of examples.
  """
  configs = [tfds.core.BuilderConfig(name=config)] if config else []

  class Made(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version(version)
    BUILDER_CONFIGS = configs

    def _info(self):
      return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(features),
        disable_shuffling=True,
      )

    def _split_generators(self, dl_manager):
      return {split: enumerate(rows) for split, rows in splits.items()}

    def _generate_examples(self):
      raise NotImplementedError('the splits are given')

  Made.name = name
  Made(data_dir=root).download_and_prepare(
    file_format='array_record',
    download_config=tfds.download.DownloadConfig(num_shards=shards),
  )
