"""Overhead of Ray on one machine: the same command with and without it, from start to exit.

    python perf/cluster.py photos/ [--images 500]

ViT-B/16 with random weights scores each photograph once. The two commands take turns on the same
files.
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
    """Seconds that a command takes."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f'{" ".join(command)}\n{done.stderr}')
    return time.perf_counter() - start


def measure(photos: str, images: int, rounds: int) -> list[Claim]:
    """Measure the seconds with Ray over those without it, and the largest score difference."""
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
        for number in range(rounds):
            single, parts = f'{folder}/{number}.parquet', f'{folder}/{number}'
            taken['one process'].append(seconds([*score, '--out', single]))
            taken['ray'].append(seconds([*score, '--out', parts, '--engine', 'ray']))
            times = {name: f'{runs[-1]:.1f} s' for name, runs in taken.items()}
            print(number, times, flush=True)
        one, ray = pd.read_parquet(single), pd.read_parquet(parts)
    if list(one['path']) != list(ray['path']):
        raise SystemExit('the two commands wrote different rows')
    difference = float(abs(one['score'] - ray['score']).max())
    what = f'{len(found)} photographs, ray / one process, from start to exit'
    return [
        ratio(what, taken['ray'], taken['one process'], bound=1.15),
        Claim(f'{len(found)} photographs, largest score difference', difference, bound=1e-5),
    ]


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('photos', help='a folder of photographs')
    parser.add_argument('--images', type=int, default=500, help='how many of them')
    parser.add_argument('--rounds', type=int, default=3, help='runs of each command')
    arguments = parser.parse_args()
    claims = measure(arguments.photos, arguments.images, arguments.rounds)
    print(f'{machine()}\n\n{table(claims)}')
