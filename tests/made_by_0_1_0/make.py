"""Make the files in this folder. To be run with version 0.1.0 of the package (commit 5dc9a4c).

    PYTHONPATH=<checkout of 5dc9a4c>:<its tests> python make.py FOLDER

The largest tensor has a short period, so that the files compress well.
"""

import json
import lzma
import os
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import yaml
from conftest import write_rated_images
from PIL import Image
from pyiqa_amhp.model.weights import save_checkpoint
from pyiqa_amhp.score import create_metric, score_images
from pyiqa_amhp.score_file import ScoreFile, settings
from pyiqa_amhp.train.run import run_train

from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.train.loop import Training

BACKBONE = {
    'embed_dim': 8,
    'vision_cfg': {'image_size': 32, 'layers': 1, 'width': 8, 'patch_size': 16, 'head_width': 8},
    'text_cfg': {'context_length': 77, 'vocab_size': 49408, 'width': 8, 'heads': 2, 'layers': 1},
}
TEXTS = ['soft light and strong colours', None]
OPTIONS = {
    'name': 'tiny',
    'model_type': 'AMHPModel',
    'num_gpu': 0,
    'manual_seed': 7,
    'datasets': {
        phase: {
            'name': f'tiny_{phase}',
            'type': 'AMHPDataset',
            'meta_info_file': 'rated.csv',
            'dataroot_target': 'images',
            'split_index': 'split',
            'dataset': 'ava',
            'text_source': 'comments',
            'augment': {'resize': [36, 36], **({'random_crop': 32} if phase == 'train' else {})},
            'batch_size_per_gpu': 4,
            'num_worker_per_gpu': 0,
        }
        for phase in ('train', 'val')
    },
    'network': {
        'type': 'AMHP',
        'pretrained_model_path': 'trained.pth',
        'text_source': 'given',
    },
    'path': {'pretrain_network': None},
    'train': {
        'optim': {'type': 'AdamW', 'lr': 0.001},
        'scheduler': {'type': 'CosineAnnealingLR', 'T_max': 2},
        'total_epoch': 2,
        'mos_loss_opt': {'type': 'AMHPEMDLoss', 'r': 2},
    },
    'val': {
        'val_freq': 3,
        'key_metric': 'mse',
        'metrics': {'mse': {'type': 'calculate_mse', 'better': 'lower'}},
    },
    'logger': {'print_freq': 1, 'save_latest_freq': 3, 'use_tb_logger': False},
}


def image() -> torch.Tensor:
    return torch.linspace(0, 1, 3 * 40 * 48).reshape(1, 3, 40, 48)


def write_photos(folder: Path) -> None:
    folder.mkdir()
    for i in range(4):
        pixels = np.arange(48 * 40 * 3, dtype=np.uint32) * (i + 1) // 30 % 256
        Image.fromarray(pixels.astype(np.uint8).reshape(40, 48, 3)).save(folder / f'{i}.png')


def small_amhp() -> AMHP:
    """Random weights that texts move; the token embedding is periodic."""
    torch.manual_seed(5)
    net = AMHP(pretrained=False, backbone=BACKBONE, text_source='given').eval()
    with torch.no_grad():
        embedding = net.backbone.clip.token_embedding.weight
        values = torch.randn(1009)[torch.arange(embedding.numel()) % 1009]
        embedding.copy_(values.reshape(embedding.shape))
        torch.nn.init.normal_(net.fc.weight, std=0.5)
    return net


def scores_of(net: AMHP) -> list[float]:
    with torch.no_grad():
        return [float(net(image(), text=text)) for text in TEXTS]


def main(out: Path) -> None:
    work = out / 'work'
    work.mkdir(parents=True)
    os.chdir(work)
    save_checkpoint('trained.pth', small_amhp().state_dict())
    expected = {'versions': {name: version(name) for name in ('pyiqa', 'torch')}}
    net = AMHP(pretrained_model_path='trained.pth').eval()
    expected['scores'] = scores_of(net)
    write_photos(Path('photos'))
    metric = create_metric('amhp', 'trained.pth', 'cpu')
    names = [f'photos/{i}.png' for i in range(4)]
    rows = list(score_images(names, ['light'] * 4, metric, exact=True))
    expected['table'] = {row.path: row.score for row in rows}
    options = {'exact': True, 'text': 'light'}
    file = ScoreFile('scores.csv', settings(['photos'], metric, options))
    list(file.keep(iter(rows[:2])))

    write_rated_images(work)
    Path('train.yml').write_text(yaml.safe_dump(OPTIONS, sort_keys=False))
    run_train('train.yml', [], work / 'whole')
    latest = 'experiments/tiny/models/net_latest.pth'
    expected['trained'] = scores_of(AMHP(pretrained_model_path=f'whole/{latest}').eval())

    class Stop(BaseException):
        pass

    whole = Training._run_epoch

    def stop_after_one(self, epoch):
        if epoch == 1:
            raise Stop
        whole(self, epoch)

    Training._run_epoch = stop_after_one
    with suppress(Stop):
        run_train('train.yml', [], work / 'cut')
    state = 'cut/experiments/tiny/training_states/3.state'
    for name in ('trained.pth', 'scores.csv.partial.jsonl', state):
        content = lzma.compress(Path(name).read_bytes(), preset=9)
        (out / f'{Path(name).name}.xz').write_bytes(content)
    (out / 'train.yml').write_text(Path('train.yml').read_text())
    (out / 'expected.json').write_text(json.dumps(expected, indent=1) + '\n')


if __name__ == '__main__':
    main(Path(sys.argv[1]).resolve())
