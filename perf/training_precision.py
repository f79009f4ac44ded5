"""SRCC of trainings in fp32, TF32 and bf16: what a faster precision costs.

    python perf/training_precision.py [--seeds 3] [--epochs 8] [--precisions fp32 tf32 bf16]

Each precision trains the whole EfficientNet-Lite0 encoder, from its ImageNet weights, on OASIS (522
photographs with mean beauty ratings; no theme is in two of train, val and test), from the same
seeds, and is tested on the held-out themes. TF32 is of GPUs: elsewhere it is fp32, and left out.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import yaml
from common import Claim, machine, table

from pyiqa_amhp.train.pipeline import best_checkpoint, train_and_test

HERE = Path(__file__).parents[1]
OASIS = HERE.parent / 'shared' / 'data' / 'oasis'
LEVEL_VALUES = [1.0, 2.5, 4.0, 5.5, 7.0]


def test_srcc(precision: str, seed: int, epochs: int, batch: int) -> float:
    """Train with a precision and a seed; return the SRCC on the held-out photographs."""
    options = yaml.safe_load((HERE / 'options' / 'train_amhp_para_lite.yml').read_text())
    options.update(name=f'{precision}_{seed}', manual_seed=seed)
    options['datasets']['train']['augment']['hflip'] = True
    for phase, data in options['datasets'].items():
        del data['attributes']
        data.update(
            type='AMHPDataset', phase=phase, meta_info_file=str(OASIS / 'ratings.csv'),
            dataroot_target=str(OASIS / 'images'), split_index='split',
            level_values=LEVEL_VALUES, batch_size_per_gpu=batch,
        )  # fmt: skip
    del options['network']['dataset']
    options['network'].update(level_values=LEVEL_VALUES, variant='image')
    options['train'].update(total_epoch=epochs, precision=precision)
    metrics = {'srcc': {'type': 'calculate_srcc'}}
    options['val'].update(val_freq=1000, pbar=False, metrics=metrics)
    options['logger'].update(use_tb_logger=False, save_latest_freq=None)
    with tempfile.TemporaryDirectory() as folder:
        weights = best_checkpoint(Path(folder), options['name']).with_name('net_latest.pth')
        test = {key: options[key] for key in ('name', 'model_type', 'num_gpu', 'manual_seed')}
        data = {**options['datasets']['val'], 'name': 'test', 'phase': 'test'}
        test |= {'datasets': {'test': data}, 'path': {'pretrain_network': None}}
        test |= {'val': options['val']}
        test['network'] = {'type': 'AMHP', 'pretrained_model_path': str(weights)}
        results = train_and_test(options, test, Path(folder))
        return json.loads((results / 'test.json').read_text())['srcc']


def main() -> None:
    """Print the SRCC of each precision, and its difference to fp32 with the same seeds."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--epochs', type=int, default=8)
    parser.add_argument('--batch', type=int, default=32)
    parser.add_argument('--precisions', nargs='+', default=['fp32', 'tf32', 'bf16'])
    arguments = parser.parse_args()
    precisions = [p for p in arguments.precisions if p != 'tf32' or torch.cuda.is_available()]
    srcc: dict[str, list[float]] = {precision: [] for precision in precisions}
    for seed in range(arguments.seeds):
        for precision, values in srcc.items():
            values.append(test_srcc(precision, seed, arguments.epochs, arguments.batch))
            print(f'seed {seed}, {precision}: SRCC {values[-1]:.4f}', flush=True)
    claims = []
    for precision, values in srcc.items():
        what = f'{precision}: mean SRCC (range: of the seeds)'
        claims.append(Claim(what, float(np.mean(values)), low=min(values), high=max(values)))
        if precision != 'fp32' and 'fp32' in srcc:
            differences = np.array(values) - srcc['fp32']
            low, high = float(differences.min()), float(differences.max())
            what = f'{precision} - fp32, SRCC with the same seed'
            claims.append(Claim(what, float(differences.mean()), low=low, high=high))
    print(f'{machine()}\n\n{table(claims)}')


if __name__ == '__main__':
    main()
