"""Option files of the demo, with a small AMHP that is trained from scratch."""

import copy
from pathlib import Path
from typing import Any

from pyiqa_amhp.demo.data import CSV_NAME

# CLIP's architecture, small enough to train from scratch on two cores within a minute.
BACKBONE: dict[str, Any] = {
    'embed_dim': 128,
    'vision_cfg': {'image_size': 64, 'layers': 3, 'width': 128, 'patch_size': 8, 'head_width': 32},
    'text_cfg': {'context_length': 77, 'vocab_size': 49408, 'width': 128, 'heads': 4, 'layers': 2},
}
EPOCHS, BATCH, LEARNING_RATE = 8, 32, 1e-3
METRICS: dict[str, dict[str, Any]] = {
    'acc': {'type': 'calculate_acc', 'threshold': 5},
    'srcc': {'type': 'calculate_srcc'},
    'plcc': {'type': 'calculate_plcc'},
    'krcc': {'type': 'calculate_krcc'},
    'mse': {'type': 'calculate_mse', 'better': 'lower'},
    'emd1': {'type': 'calculate_emd', 'r': 1, 'better': 'lower'},
    'emd2': {'type': 'calculate_emd', 'r': 2, 'better': 'lower'},
}


def data_options(out: Path, phase: str, **options: Any) -> dict[str, Any]:
    """Make the section of one data set in an option file.

    Args:
        out: folder of the demo, with its data in ``data``.
        phase: ``train``, ``val`` or ``test``.
        **options: further options of the data set.
    """
    size = BACKBONE['vision_cfg']['image_size']
    resize = round(size * 256 / 224)
    augment = {'resize': [resize, resize]}
    if phase == 'train':
        augment['random_crop'] = size
    return {
        'name': f'demo_{phase}',
        'type': 'AMHPDataset',
        'phase': phase,
        'meta_info_file': str(out / 'data' / CSV_NAME),
        'dataroot_target': str(out / 'data' / 'images'),
        'split_index': 'split',
        'dataset': 'ava',
        'text_source': 'comments',
        'augment': augment,
        'batch_size_per_gpu': BATCH,
        'num_worker_per_gpu': 0,
        'use_shuffle': phase == 'train',
        **options,
    }


def train_options(
    out: Path, name: str, seed: int, train_images: int, variant: str = 'all', **data: Any
) -> dict[str, Any]:
    """Make the option file of one training.

    Args:
        out: folder of the demo.
        name: name of the experiment.
        seed: seed of the training.
        train_images: number of images to train on.
        variant: variant of the architecture.
        **data: further options of the data sets.
    """
    batches = max(1, train_images // BATCH)
    return {
        'name': name,
        'model_type': 'AMHPModel',
        'num_gpu': 0,
        'manual_seed': seed,
        'datasets': {phase: data_options(out, phase, **data) for phase in ('train', 'val')},
        'network': {
            'type': 'AMHP',
            'pretrained': False,
            'backbone': copy.deepcopy(BACKBONE),
            'variant': variant,
            'dataset': 'ava',
        },
        'path': {'pretrain_network': None, 'resume_state': None},
        'train': {
            'optim': {'type': 'AdamW', 'lr': LEARNING_RATE, 'weight_decay': 1e-3},
            'scheduler': {'type': 'CosineAnnealingLR', 'T_max': EPOCHS},
            'total_epoch': EPOCHS,
            'warmup_iter': -1,
            'mos_loss_opt': {'type': 'AMHPEMDLoss', 'r': 2},
        },
        'val': {
            'val_freq': batches,
            'save_img': False,
            'key_metric': 'srcc',
            'metrics': copy.deepcopy(METRICS),
        },
        'logger': {
            'print_freq': max(1, batches // 4),
            'save_latest_freq': batches * EPOCHS,
            'use_tb_logger': True,
        },
    }


def test_options(out: Path, name: str, seed: int, **data: Any) -> dict[str, Any]:
    """Make the option file of one test, on the held-out photographs.

    Args:
        out: folder of the demo.
        name: name of the experiment.
        seed: seed in the option file.
        **data: further options of the data set.
    """
    best = out / 'experiments' / name / 'models' / 'net_best.pth'
    return {
        'name': name,
        'model_type': 'AMHPModel',
        'num_gpu': 0,
        'manual_seed': seed,
        'datasets': {'test_1': data_options(out, 'test', **data)},
        'network': {'type': 'AMHP', 'pretrained_model_path': str(best)},
        'path': {'pretrain_network': None},
        'val': {'save_img': False, 'metrics': copy.deepcopy(METRICS)},
    }
