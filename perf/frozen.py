"""Time of an epoch with frozen encoders of ViT-B/16: the first beside the later ones.

``AMHPModel`` trains the head (``freeze: both``) on 48 JPEGs of 1200 x 800 pixels with a comment
each, on an empty cache. The first epoch decodes and encodes images; the others read features from
disk.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import Claim, comments, main, ratio
from PIL import Image

IMAGES, SIZE, BATCH = 48, (1200, 800), 24


def write_data(folder: Path) -> Path:
    """Write images with some detail, and the CSV with their ratings."""
    rng = np.random.default_rng(0)
    rows = []
    for i, comment in enumerate(comments(IMAGES, seed=0)):
        coarse = Image.fromarray(rng.integers(0, 256, (100, 150, 3), np.uint8))
        coarse.resize(SIZE, Image.Resampling.BICUBIC).save(folder / f'{i}.jpg', quality=90)
        votes = dict(zip((f'c{j}' for j in range(1, 11)), rng.integers(1, 50, 10), strict=True))
        rows.append({'img_name': f'{i}.jpg', **votes, 'text': comment, 'split': 'train'})
    pd.DataFrame(rows).to_csv(folder / 'rated.csv', index=False)
    return folder / 'rated.csv'


def options(csv: Path) -> dict:
    """Return the options of a training, as in an option file."""
    data = {
        'name': 'frozen', 'type': 'AMHPDataset', 'phase': 'train', 'meta_info_file': str(csv),
        'dataroot_target': str(csv.parent), 'split_index': 'split', 'dataset': 'ava',
        'freeze': 'both', 'batch_size_per_gpu': BATCH, 'num_worker_per_gpu': 0,
    }  # fmt: skip
    return {
        'num_gpu': 0, 'is_train': True, 'dist': False, 'rank': 0, 'world_size': 1,
        'model_type': 'AMHPModel', 'path': {}, 'datasets': {'train': data},
        'network': {'type': 'AMHP', 'pretrained': False, 'dataset': 'ava'}, 'logger': {},
        'train': {
            'freeze': 'both', 'feature_cache': str(csv.parent / 'features'), 'total_iter': 1000,
            'optim': {'type': 'AdamW', 'lr': 1e-3},
            'scheduler': {'type': 'CosineAnnealingLR', 'T_max': 5},
            'mos_loss_opt': {'type': 'AMHPEMDLoss'},
        },
    }  # fmt: skip


def measure(rounds: int) -> list[Claim]:
    """Measure the time of the first epoch as a ratio to each of the others."""
    from pyiqa.data import build_dataloader, build_dataset
    from pyiqa.models import build_model

    with tempfile.TemporaryDirectory() as folder:
        opt = options(write_data(Path(folder)))
        data = opt['datasets']['train']
        loader = build_dataloader(build_dataset(data), data, num_gpu=0, seed=0)
        torch.manual_seed(0)
        model = build_model(opt)
        step = 0
        seconds = []
        for _ in range(1 + rounds):
            start = time.perf_counter()
            for batch in loader:
                step += 1
                model.feed_data(batch)
                model.optimize_parameters(step)
            seconds.append(time.perf_counter() - start)
    first, *later = seconds
    claim = f'frozen encoders, {IMAGES} images: first epoch / a later one'
    return [ratio(claim, [first] * rounds, later, bound=50, at_least=True)]


if __name__ == '__main__':
    main(measure, __doc__)
