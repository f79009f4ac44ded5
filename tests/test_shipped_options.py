"""The shipped option files of the data sets: prepare, train and test on small data."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import TINY
from layouts import write_aadb, write_ava, write_para

from pyiqa_amhp.datasets.prepare import prepare
from pyiqa_amhp.train.pipeline import run_test, run_train
from pyiqa_amhp.weights.checkpoint import read_checkpoint

SHIPPED = Path(__file__).parents[1] / 'options'
WRITERS = {'ava': write_ava, 'para': write_para, 'aadb': write_aadb}
SCALES = {'ava': (1.5, 9.5), 'para': (1, 5), 'aadb': (0, 1)}
SIZES = {'num_worker_per_gpu': 0, 'batch_size_per_gpu': 4}


def in_small(kind, name, folder, protocol):
    """Read a shipped file, with the protocol in its one line; change paths and sizes."""
    text = (SHIPPED / f'{kind}_amhp_{name}.yml').read_text()
    assert text.count('&protocol paper') == 1
    opt = yaml.safe_load(text.replace('&protocol paper', f'&protocol {protocol}'))
    opt['num_gpu'] = 0
    for data in opt['datasets'].values():
        data.update(SIZES, augment={'resize': [37, 37]})
        data['meta_info_file'] = str(folder / Path(data['meta_info_file']).name)
        data['dataroot_target'] = str(folder / data['dataroot_target'])
        if 'comments_file' in data:
            data['comments_file'] = str(folder / Path(data['comments_file']).name)
    opt['val']['pbar'] = False
    if kind == 'train':
        opt['datasets']['train']['augment'] = {
            'resize': [36, 36], 'grid_crop': {'size': 32, 'step': 1},
        }  # fmt: skip
        opt['network'].update(pretrained=False, backbone=TINY)
        opt['train'].update(total_epoch=1)
        opt['val'].update(val_freq=2)
        opt['logger'].update(print_freq=1)
    else:
        best = folder / opt['network']['pretrained_model_path']
        opt['network']['pretrained_model_path'] = str(best)
    return opt


@pytest.fixture(scope='module', params=WRITERS)
def prepared(request, tmp_path_factory):
    """A small prepared data set in the folder where the option files expect it."""
    folder = tmp_path_factory.mktemp(request.param)
    name = request.param
    root = WRITERS[name](folder / 'datasets' / name.upper())
    prepare(name, root, folder, val_images=None if name == 'aadb' else 4)
    return name, folder


@pytest.mark.parametrize('protocol', ['paper', 'reference'])
def test_prepare_train_test(prepared, protocol):
    name, folder = prepared
    for kind, run in (('train', run_train), ('test', run_test)):
        file = folder / f'{kind}_{protocol}.yml'
        file.write_text(yaml.safe_dump(in_small(kind, name, folder, protocol)))
        run(file, [], folder)
    checkpoint = read_checkpoint(folder / f'experiments/train_amhp_{name}/models/net_best.pth')
    assert (checkpoint.config['dataset'], checkpoint.config['protocol']) == (name, protocol)

    results = folder / 'results' / f'test_amhp_{name}'
    table = pd.read_csv(results / f'{name}_test.csv', keep_default_na=False)
    meta = pd.read_csv(next(folder.glob('meta_info_*.csv')))
    test = meta[meta['official_split'] == 2]
    assert len(table) == len(test)
    assert np.allclose(sorted(table['MOS']), sorted(test['MOS']), atol=1e-6)
    low, high = SCALES[name]
    assert table['score'].between(low, high).all()
    if name == 'ava':
        assert table['text'].str.contains('colours|light|thirds|focus').sum() >= 3
    else:
        sentences = 1 if (name, protocol) == ('para', 'reference') else {'para': 6, 'aadb': 3}[name]
        assert (table['text'].str.count('A photo with') == sentences).all()
    metrics = json.loads((results / f'{name}_test.json').read_text())
    assert metrics['images'] == len(test)
    assert all(np.isfinite(value) for value in metrics.values())
