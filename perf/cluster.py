"""What Ray costs on one machine: the same command with and without it, from start to exit.

    python perf/cluster.py photos/ [--images 500]

ViT-B/16 with random weights; each photograph once. Both commands take the same files in turns.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from common import Claim, machine, ratio, table

from pyiqa_amhp.datasets.images import find_images
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.weights.checkpoint import save_checkpoint


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f'{" ".join(command)}\n{done.stderr}')
    return time.perf_counter() - start


def measure(photos: str, images: int, rounds: int) -> list[Claim]:
    """Seconds with Ray over seconds without it, and the largest difference of a score."""
    taken: dict[str, list[float]] = {'one process': [], 'ray': []}
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        weights = save_checkpoint(f'{folder}/amhp.pth', AMHP(pretrained=False).state_dict())
        chosen = Path(folder, 'photos')
        chosen.mkdir()
        found = find_images([photos])[:images]
        for number, image in enumerate(found):
            (chosen / f'{number:05d}{image.suffix}').symlink_to(image.absolute())
        score = [
            sys.executable,
            '-m',
            'pyiqa_amhp',
            'score',
            str(chosen),
            '--weights',
            str(weights),
        ]
        for round in range(rounds):
            single, parts = f'{folder}/{round}.parquet', f'{folder}/{round}'
            taken['one process'].append(seconds([*score, '--out', single]))
            taken['ray'].append(seconds([*score, '--out', parts, '--engine', 'ray']))
            print(round, {name: f'{times[-1]:.1f} s' for name, times in taken.items()}, flush=True)
        one = pd.read_parquet(single)
        ray = pd.concat([pd.read_parquet(part) for part in sorted(Path(parts).glob('part-*'))])
        if list(one['path']) != list(ray['path']):
            raise SystemExit('not the same rows')
        difference = float(abs(one['score'].to_numpy() - ray['score'].to_numpy()).max())
    what = f'{len(found)} photographs, ray / one process, from start to exit'
    return [
        ratio(what, taken['ray'], taken['one process'], bound=1.15),
        Claim(f'{len(found)} photographs, largest score difference', difference, bound=1e-5),
    ]


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('photos', help='a folder of photographs')
    parser.add_argument('--images', type=int, default=500)
    parser.add_argument('--rounds', type=int, default=3)
    given = parser.parse_args()
    claims = measure(given.photos, given.images, given.rounds)
    print(f'{machine()}\n\n{table(claims)}')
