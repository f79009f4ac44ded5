"""The data of a training by our loop: data sets, their loaders, and the number of epochs."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyiqa.data import build_dataset
from torch.utils.data import DataLoader, Dataset

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.train.changes import data_digest
from pyiqa_amhp.train.sampler import EpochBatches, max_workers, test_loader, train_loader


@dataclass
class Data:
    """Data of a training.

    Attributes:
        dataset: the training set.
        train: its loader.
        batches: its batches.
        epochs: the number of epochs to train.
        val: the loaders of the validation sets.
        digests: what ``data_digest`` gives for all of them, by their names in the options.
    """

    dataset: Dataset
    train: DataLoader
    batches: EpochBatches
    epochs: int
    val: list[DataLoader]
    digests: dict[str, str]


def read_data(opt: dict[str, Any], logger: logging.Logger) -> Data:
    """Build the data sets and their loaders, and set the option ``total_iter`` as pyiqa does.

    Args:
        opt: the options, as pyiqa has parsed them, with ``rank`` and ``world_size``.
        logger: gets a line with the numbers of images, batches and epochs.

    Raises:
        AMHPError: a data set that cannot be read, another phase than train and val, or too few
            images for one batch.
    """
    rank, world_size, val = opt['rank'], opt['world_size'], []
    on_gpu, digests = opt['num_gpu'] > 0, {}
    _log_lowered_workers(opt['datasets'], logger)
    for phase, options in opt['datasets'].items():
        dataset = build_dataset(options)
        dataset.gives_bytes = True  # what ``AMHPDataset`` alone reads
        digests[phase] = data_digest(dataset)
        if phase.split('_')[0] == 'val':
            val.append(test_loader(dataset, options, rank, world_size, on_gpu))
        elif phase == 'train':  # read_options checks that there is one
            batches = EpochBatches(
                len(dataset),
                options['batch_size_per_gpu'],
                rank,
                world_size,
                options.get('dataset_enlarge_ratio') or 1,
                options.get('use_shuffle', True),
            )
            train_set = dataset
            loader = train_loader(dataset, options, batches, opt['manual_seed'], on_gpu=on_gpu)
        else:
            raise AMHPError(f'datasets: {phase!r} in a training; expected train, val, val_1 ...')
    per_epoch = len(batches)
    if not per_epoch:
        raise AMHPError(
            f'train: {batches.total} images do not fill one batch of {batches.size} '
            '(incomplete batches are left out); lower batch_size_per_gpu'
        )
    epochs = opt['train'].get('total_epoch') or math.ceil(
        int(opt['train']['total_iter']) / per_epoch
    )
    data = Data(train_set, loader, batches, int(epochs), val, digests)
    opt['train']['total_iter'] = data.epochs * per_epoch
    logger.info(
        f'Training: {batches.images} images in batches of {batches.size} '
        f'({world_size} processes), {per_epoch} batches an epoch, {data.epochs} epochs.'
    )
    return data


def _log_lowered_workers(datasets: Mapping[str, Any], logger: logging.Logger) -> None:
    """Say once that there are fewer workers than the options ask for."""
    most = max_workers()
    asked = [options.get('num_worker_per_gpu') or 0 for options in datasets.values()]
    if max(asked, default=0) > most:
        logger.info(
            f'num_worker_per_gpu: {max(asked)} lowered to {most}, the cores that each process of '
            'this training may use'
        )
