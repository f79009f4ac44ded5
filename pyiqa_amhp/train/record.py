"""Records of trainings and tests for programs to read: ``training.json`` and ``testing.json``.

They hold what a model card says about a checkpoint, and the weights that each figure was measured
on. They name no folders of the machine.
"""

import copy
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pyiqa_amhp.train.sampler import Shard
from pyiqa_amhp.utils.environment import version_of
from pyiqa_amhp.utils.files import write_text
from pyiqa_amhp.weights.checkpoint import weights_digest
from pyiqa_amhp.weights.hub import is_hub_id

FORMAT = 1
TRAINING, TESTING = 'training.json', 'testing.json'
PACKAGES = ('pyiqa-amhp', 'pyiqa', 'torch', 'open_clip_torch')
# The options that identify the images, ratings and texts of a data set.
DATA_OPTIONS = (
    'name', 'type', 'dataset', 'split_index', 'level_values', 'vote_values', 'protocol',
    'text_column', 'attributes', 'attr_template', 'comment_mode', 'comment_attributes',
    'comment_seed', 'batch_size_per_gpu', 'augment', 'freeze', 'exact',
)  # fmt: skip
FILE_OPTIONS = ('meta_info_file', 'comments_file')  # recorded without their folders
RENAMED = {'by_text_source': 'by_prompt_source'}  # keys of results that older versions wrote


class Record:
    """Record of one training or test, in the folder of the experiment or of the results.

    Args:
        opt: the options, as pyiqa has read them.

    Attributes:
        iteration: the number of iterations done.
    """

    def __init__(self, opt: Mapping[str, Any]):
        training = opt['is_train']
        folder = opt['path'].get('experiments_root' if training else 'results_root')
        self.path = Path(folder, TRAINING if training else TESTING) if folder else None
        self.iteration = 0
        self.content: dict[str, Any] = {
            'format': FORMAT,
            'name': opt.get('name'),
            'versions': {package: version_of(package) for package in PACKAGES},
            'seed': opt.get('manual_seed'),
            'processes': opt.get('world_size') or 1,
            'network': _without_folders(opt.get('network') or {}),
            'train': _without_folders(opt.get('train') or {}),
            'validation': _only(opt.get('val') or {}, ('key_metric', 'metrics', 'val_freq')),
            'data': {},
            'iterations_per_epoch': None,
            'checkpoints': {},
            'measured': [],
        }
        if training:
            started_from = (opt.get('path') or {}).get('pretrain_network')
            self.content['continued_from'] = started_from and _file_name(started_from)
            train = (opt.get('datasets') or {}).get('train')
            self.content['data']['train'] = train and _data_options(train)

    def add_training_data(self, dataset, iterations_per_epoch: int) -> None:
        """Add the training set, and the number of iterations in an epoch of it."""
        self.content['data']['train'] = describe(dataset)
        self.content['iterations_per_epoch'] = iterations_per_epoch

    def add_results(
        self,
        dataset,
        state: Mapping[str, torch.Tensor],
        images: int,
        metrics: Mapping[str, float],
        by_prompt_source: Mapping[str, Mapping[str, float]],
    ) -> None:
        """Add the results of weights on a data set, and write the record.

        Args:
            dataset: the data set.
            state: the weights.
            images: the number of images that could be read.
            metrics: the values of the metrics, by their names in the option file.
            by_prompt_source: such values for each source of attribute prompts.
        """
        self.content['measured'].append(
            {
                'iteration': self.iteration or None,
                'weights': weights_digest(state),
                'data': describe(dataset),
                'images': images,
                'metrics': finite(metrics),
                'by_prompt_source': {k: finite(v) for k, v in by_prompt_source.items()},
            }
        )
        self.write()

    def add_checkpoint(self, name: str, state: Mapping[str, torch.Tensor]) -> None:
        """Add the digest of a checkpoint's weights, and write the record."""
        checkpoint = {'iteration': self.iteration, 'weights': weights_digest(state)}
        self.content['checkpoints'][name] = checkpoint
        self.write()

    def resume(self, iteration: int) -> None:
        """Read what an interrupted training recorded up to ``iteration``."""
        self.iteration = iteration
        earlier = read_record(self.path) if self.path else None
        if earlier is None:
            return
        self.content['measured'] = [
            row for row in earlier['measured'] if (row.get('iteration') or 0) <= iteration
        ]
        self.content['checkpoints'] = {
            name: checkpoint
            for name, checkpoint in earlier['checkpoints'].items()
            if checkpoint.get('iteration', 0) <= iteration
        }

    def write(self) -> None:
        """Write the file, whole or not at all."""
        if self.path is not None:
            write_text(self.path, json.dumps(self.content, indent=1, default=str) + '\n')


def read_record(path: Path) -> dict[str, Any] | None:
    """Read a record; None if there is none, or the file is damaged or no record.

    Keys of older versions get their names of today.
    """
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError):
        return None
    kinds = {'checkpoints': dict, 'measured': list, 'data': dict, 'versions': dict}
    kinds |= {'network': dict, 'train': dict, 'validation': dict}
    if not isinstance(content, dict) or content.get('format') != FORMAT:
        return None
    if not all(isinstance(content.get(key), kind) for key, kind in kinds.items()):
        return None
    rows = [*content['checkpoints'].values(), *content['measured']]
    if not all(isinstance(row, dict) for row in rows):
        return None
    content['measured'] = [
        {RENAMED.get(key, key): value for key, value in row.items()} for row in content['measured']
    ]
    return content


def describe(dataset) -> dict[str, Any]:
    """Describe the images and texts of a data set; unknown values are None."""
    dataset = dataset.dataset if isinstance(dataset, Shard) else dataset
    images = getattr(dataset, 'images', None)
    source = None
    if images is not None:
        comments = getattr(dataset, 'comments', None) is not None or images.texts is not None
        source = 'comments' if comments else 'labels' if images.labels is not None else 'none'
    options = _data_options(dataset.opt)
    split = options['split'] if 'split_index' in options else 'all'
    return {**options, 'split': split, 'images': len(dataset), 'text_source': source}


def _data_options(opt: Mapping[str, Any]) -> dict[str, Any]:
    files = {key: Path(str(opt[key])).name for key in FILE_OPTIONS if opt.get(key)}
    split = opt.get('override_phase') or opt.get('phase')
    return {**_only(opt, DATA_OPTIONS), **files, 'split': split}


def _only(opt: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: copy.deepcopy(opt[name]) for name in names if opt.get(name) is not None}


def _without_folders(opt: Mapping[str, Any]) -> dict[str, Any]:
    """Copy options without the folders of this machine."""
    copied = copy.deepcopy(dict(opt))  # pyiqa removes some options after reading them
    copied.pop('feature_cache', None)
    for name in ('pretrained_model_path', 'clip_weights'):
        if isinstance(copied.get(name), str):
            copied[name] = _file_name(copied[name])
    return copied


def _file_name(weights: str) -> str:
    return weights if is_hub_id(weights) else Path(weights).name


def finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Replace NaN and infinity, which JSON does not have, by None."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}
