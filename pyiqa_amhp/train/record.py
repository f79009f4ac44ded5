"""What a training or a test leaves for programs to read: ``training.json`` and ``testing.json``.

Logs are for people. These files hold what a model card says of a checkpoint, and which of its
weights each figure was measured on, and no folders of the machine.
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
from pyiqa_amhp.utils.files import write_atomically
from pyiqa_amhp.weights.checkpoint import weights_digest
from pyiqa_amhp.weights.hub import is_hub_id

FORMAT = 1
TRAINING, TESTING = 'training.json', 'testing.json'
PACKAGES = ('pyiqa-amhp', 'pyiqa', 'torch', 'open_clip_torch')
# What says which images, ratings and texts these are; file names are kept without their folders.
DATA_OPTIONS = (
    'name', 'type', 'dataset', 'split_index', 'level_values', 'vote_values', 'protocol',
    'text_column', 'attributes', 'attr_template', 'comment_mode', 'comment_attributes',
    'comment_seed', 'batch_size_per_gpu', 'augment', 'freeze',
)  # fmt: skip
FILE_OPTIONS = ('meta_info_file', 'comments_file')


class Record:
    """The record of one training or test, in the folder of the experiment or of the results.

    Args:
        opt: the options, as pyiqa has read them.

    Attributes:
        iteration: how many iterations are done.
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

    def trained_on(self, dataset, iterations_per_epoch: int) -> None:
        """Note the training images, and how many iterations go over them once."""
        self.content['data']['train'] = describe(dataset)
        self.content['iterations_per_epoch'] = iterations_per_epoch

    def measured(
        self,
        dataset,
        state: Mapping[str, torch.Tensor],
        images: int,
        metrics: Mapping[str, float],
        by_text_source: Mapping[str, Mapping[str, float]],
    ) -> None:
        """Note how well weights judge a data set, and write the record.

        Args:
            images: how many could be read.
            metrics: by their names in the option file. by_text_source: the same by the kind of
                text that the model read.
        """
        self.content['measured'].append(
            {
                'iteration': self.iteration or None,
                'weights': weights_digest(state),
                'data': describe(dataset),
                'images': images,
                'metrics': _finite(metrics),
                'by_text_source': {k: _finite(v) for k, v in by_text_source.items()},
            }
        )
        self.write()

    def saved(self, name: str, state: Mapping[str, torch.Tensor]) -> None:
        """Note which weights a checkpoint holds, and write the record."""
        known = {'iteration': self.iteration, 'weights': weights_digest(state)}
        self.content['checkpoints'][name] = known
        self.write()

    def go_on(self, iteration: int) -> None:
        """Take over what an interrupted training had noted up to ``iteration``."""
        self.iteration = iteration
        before = read_record(self.path) if self.path else None
        if before is None:
            return
        done = (m for m in before['measured'] if (m.get('iteration') or 0) <= iteration)
        self.content['measured'] = list(done)
        self.content['checkpoints'] = {
            name: known
            for name, known in before['checkpoints'].items()
            if known.get('iteration', 0) <= iteration
        }

    def write(self) -> None:
        """Write the record whole."""
        if self.path is not None:
            text = json.dumps(self.content, indent=1, default=str) + '\n'
            write_atomically(self.path, lambda file: file.write_text(text, encoding='utf-8'))


def read_record(path: Path) -> dict[str, Any] | None:
    """A record; None where there is none, or it is damaged or of another kind."""
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError):
        return None
    kinds = {'checkpoints': dict, 'measured': list, 'data': dict, 'versions': dict}
    kinds |= {'network': dict, 'train': dict, 'validation': dict}
    if not isinstance(content, dict) or content.get('format') != FORMAT:
        return None
    good = all(isinstance(content.get(key), kind) for key, kind in kinds.items())
    rows = [*content['checkpoints'].values(), *content['measured']] if good else [None]
    return content if all(isinstance(row, dict) for row in rows) else None


def describe(dataset) -> dict[str, Any]:
    """Which images and texts a data set has; what it does not say is None."""
    dataset = dataset.dataset if isinstance(dataset, Shard) else dataset
    images = getattr(dataset, 'images', None)
    source = None
    if images is not None:
        comments = getattr(dataset, 'comments', None) is not None or images.texts is not None
        source = 'comments' if comments else 'labels' if images.labels is not None else 'none'
    found = _data_options(dataset.opt)
    split = found['split'] if 'split_index' in found else 'all'
    return {**found, 'split': split, 'images': len(dataset), 'text_source': source}


def _data_options(opt: Mapping[str, Any]) -> dict[str, Any]:
    files = {key: Path(str(opt[key])).name for key in FILE_OPTIONS if opt.get(key)}
    split = opt.get('override_phase') or opt.get('phase')
    return {**_only(opt, DATA_OPTIONS), **files, 'split': split}


def _only(opt: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: copy.deepcopy(opt[name]) for name in names if opt.get(name) is not None}


def _without_folders(opt: Mapping[str, Any]) -> dict[str, Any]:
    """Options without where this machine keeps things."""
    kept = copy.deepcopy(dict(opt))  # pyiqa takes some options out where it has read them
    kept.pop('feature_cache', None)
    for name in ('pretrained_model_path', 'clip_weights'):
        if isinstance(kept.get(name), str):
            kept[name] = _file_name(kept[name])
    return kept


def _file_name(weights: str) -> str:
    return weights if is_hub_id(weights) else Path(weights).name


def _finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """None for what is not defined, since JSON has no NaN."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}
