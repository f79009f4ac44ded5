"""A small AMHP that learns from nothing, and its option files as a user would write them."""

import copy
from pathlib import Path
from typing import Any

from pyiqa_amhp.demo.data import CSV_NAME

# CLIP's shape, made small enough to learn from nothing on two cores within a minute.
BACKBONE: dict[str, Any] = {
    'embed_dim': 128,
    'vision_cfg': {'image_size': 64, 'layers': 3, 'width': 128, 'patch_size': 8, 'head_width': 32},
    'text_cfg': {'context_length': 77, 'vocab_size': 49408, 'width': 128, 'heads': 4, 'layers': 2},
}
EPOCHS, BATCH, LEARNING_RATE = 8, 32, 1e-3
METRICS = {
    'acc': {'type': 'calculate_acc', 'threshold': 5},
    'srcc': {'type': 'calculate_srcc'},
    'plcc': {'type': 'calculate_plcc'},
    'krcc': {'type': 'calculate_krcc'},
    'mse': {'type': 'calculate_mse', 'better': 'lower'},
    'emd1': {'type': 'calculate_emd', 'r': 1, 'better': 'lower'},
    'emd2': {'type': 'calculate_emd', 'r': 2, 'better': 'lower'},
}


def data_options(out: Path, phase: str, **options) -> dict[str, Any]:
    """The section of one phase of the demo's data in ``out / 'data'``, with further options."""
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
    out: Path, name: str, seed: int, images: int, variant: str = 'all', **data
) -> dict[str, Any]:
    """The option file of one training.

    Args:
        out: folder of the demo. name: of the experiment.
        images: how many there are to train on.
        variant: of the arch. data: options of its data sets.
    """
    batches = max(1, images // BATCH)
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


def test_options(out: Path, name: str, seed: int, **data) -> dict[str, Any]:
    """The option file of one test, on the photographs that no training has seen."""
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
