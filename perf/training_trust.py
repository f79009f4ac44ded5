"""Checks of training: interruptions, several processes, accumulated gradients, bad images.

    python perf/training_trust.py kills         # 20 trainings, each killed at a random moment
    python perf/training_trust.py processes     # two (Gloo, CPU) against one
    python perf/training_trust.py accumulation  # gradients of small batches and a large one
    python perf/training_trust.py bad-images    # 2% of the files are bad in different ways

Each trains the demo's small model on the demo's photographs.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from common import Claim, machine, table
from PIL import Image
from tqdm import tqdm

from pyiqa_amhp.demo import training
from pyiqa_amhp.demo.data import CSV_NAME, make_demo_data
from pyiqa_amhp.train.pipeline import read_curve

NAME = 'trust'
ENVIRONMENT = {**os.environ, 'OMP_NUM_THREADS': '1'}  # sums in one order; two runs at a time
OUTPUT = 'output.txt'
BAD_SHARE = 0.02


def options(out: Path, file: str, epochs: int = 3, batch: int = 16, **train) -> Path:
    """Write the options of a training with an average, a predictor and a worker process."""
    images = int((pd.read_csv(out / 'data' / CSV_NAME)['split'] == 'train').sum())
    opt = training.train_options(out, NAME, seed=3, images=images)
    opt['network'] |= {'predictor': 'feature'}
    opt['train'] |= {'total_epoch': epochs, 'ema_decay': 0.9, 'clip_grad_norm': 1.0, **train}
    opt['datasets']['train'] |= {
        'batch_size_per_gpu': batch, 'num_worker_per_gpu': 1, 'skip_bad_images': True,
    }  # fmt: skip
    opt['val']['val_freq'], opt['datasets']['val']['skip_bad_images'] = 5, True
    opt['logger'] |= {'print_freq': 1, 'save_latest_freq': 3, 'use_tb_logger': True}
    path = out / file
    path.write_text(yaml.safe_dump(opt, sort_keys=False))
    return path


def start(opt: Path, root: Path, *more: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen:
    """Start ``amhp train`` in a folder of its own; its output goes to a file there."""
    root.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, *launcher, '-m', 'pyiqa_amhp', 'train', '-opt', str(opt), *more]
    with (root / OUTPUT).open('a') as output:
        return subprocess.Popen(
            command, cwd=root, stdout=output, stderr=subprocess.STDOUT, env=ENVIRONMENT
        )


def finish(process: subprocess.Popen, root: Path) -> None:
    if process.wait():
        sys.exit(f'a training failed; its output:\n{(root / OUTPUT).read_text()[-3000:]}')


def train(opt: Path, root: Path, *more: str, **options) -> None:
    finish(start(opt, root, *more, **options), root)


def digest(root: Path) -> str:
    """Hash the values of the latest and the best weights."""
    hashed = hashlib.sha256()
    for name in ('latest', 'best'):
        file = root / 'experiments' / NAME / 'models' / f'net_{name}.pth'
        for key, value in sorted(torch.load(file, weights_only=True)['params'].items()):
            hashed.update(key.encode() + value.contiguous().numpy().tobytes())
    return hashed.hexdigest()


def losses(root: Path) -> np.ndarray:
    return np.array([value for _, value in read_curve(root, NAME, 'losses/l_mos')])


def is_training(root: Path) -> bool:
    return 'Training: ' in (root / OUTPUT).read_text()


def kills(out: Path, times: int, seed: int) -> list[Claim]:
    """Kill trainings at random moments between the first batch and the end, and resume them."""
    opt, whole = options(out, 'train.yml'), out / 'whole'
    process = start(opt, whole)
    start_time = wait_for_first_batch(process, whole)
    finish(process, whole)
    length = time.monotonic() - start_time
    expected = digest(whole)
    moments = np.random.default_rng(seed).uniform(0, length, times)

    def kill_once(number: int) -> tuple[str, str]:
        root = out / f'killed_{number}'
        process = start(opt, root)
        start_time = wait_for_first_batch(process, root)
        time.sleep(max(0, start_time + moments[number] - time.monotonic()))
        process.kill()
        process.wait()
        last_line = (root / OUTPUT).read_text().strip().splitlines()[-1]
        train(opt, root, '--auto_resume')
        return digest(root), last_line[:100]

    with ThreadPoolExecutor(2) as pool:
        results = list(tqdm(pool.map(kill_once, range(times)), total=times, desc='Kills'))
    for moment, (_, last_line) in zip(moments, results, strict=True):
        print(f'killed {moment:5.1f} s after the first batch; its last line: {last_line}')
    equal = sum(hashed == expected for hashed, _ in results)
    claim = f'of {times} killed trainings ended with the hash of one without an interruption'
    return [Claim(claim, equal, times, at_least=True)]


def wait_for_first_batch(process: subprocess.Popen, root: Path) -> float:
    """Wait until the data have been read; return the time of the first batch."""
    while process.poll() is None and not is_training(root):
        time.sleep(0.02)
    return time.monotonic()


def processes(out: Path) -> list[Claim]:
    """Compare the losses of two processes with half the batch size and of one process."""
    one, two = out / 'one', out / 'two'
    train(options(out, 'one.yml', batch=16), one)
    torchrun = ('-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2')
    train(options(out, 'two.yml', batch=8), two, launcher=torchrun)
    a, b = losses(one), losses(two)
    claim = f'two processes against one: largest difference of the loss, {len(a)} batches'
    return [Claim(claim, float(np.abs(a - b).max()), 1e-5)]


def accumulation(out: Path) -> list[Claim]:
    """Compare the gradient of four batches of 8 images and of one batch of 32."""
    from pyiqa.data import build_dataset
    from pyiqa.models import build_model
    from torch.utils.data import default_collate

    torch.set_num_threads(1)
    gradients = []
    for size, count in ((32, 1), (8, 4)):
        opt = yaml.safe_load(options(out, 'one.yml', batch=size, accumulate=count).read_text())
        opt |= {'is_train': True, 'dist': False, 'rank': 0, 'world_size': 1}
        opt['path'] |= {'models': str(out), 'training_states': str(out)}
        torch.manual_seed(0)
        model = build_model(opt)
        model.optimizer.step = lambda *_: None
        model.optimizer.zero_grad = lambda **_: None
        dataset = build_dataset({**opt['datasets']['train'], 'phase': 'train'})
        dataset.begin_epoch(0, 3)
        for number in range(count):
            samples = [dataset[i] for i in range(number * size, (number + 1) * size)]
            model.feed_data(default_collate(samples))
            model.optimize_parameters(1)
        named = model.net.named_parameters()
        gradients.append({name: p.grad for name, p in named if p.grad is not None})
    a, b = gradients
    difference = max(float((a[name] - b[name]).abs().max()) for name in a)
    largest = max(float(gradient.abs().max()) for gradient in a.values())
    claim = 'four batches of 8 against one of 32: largest difference over largest gradient'
    return [Claim(claim, difference / largest, 1e-5)]


def damage(path: Path, kind: int) -> None:
    """Truncate a file (kind 0), empty it, write text or a huge image to it, or delete it (4)."""
    if kind == 0:
        path.write_bytes(path.read_bytes()[:700])
    elif kind == 1:
        path.write_bytes(b'')
    elif kind == 2:
        path.write_text('not an image')
    elif kind == 3:
        Image.new('1', (30_000, 30_000)).save(path.with_suffix('.png'), optimize=False)
        path.with_suffix('.png').replace(path)
    else:
        path.unlink()


def bad_images(out: Path) -> list[Claim]:
    """Compare trainings in which 2 % of the files are bad, and in which they are deleted."""
    data = out / 'data' / 'images'
    table = pd.read_csv(out / 'data' / CSV_NAME)
    names = table['img_name'][table['split'] != 'test']
    bad = names.sample(round(BAD_SHARE * len(names)), random_state=0)
    odd = {(1, 1): bad.index[0], (20_000, 3): bad.index[1]}  # odd shapes, but readable images
    for size, row in odd.items():
        Image.new('RGB', size, 'grey').save(data / table['img_name'][row])
    rest = bad.drop(list(odd.values()))
    for number, name in enumerate(rest):
        damage(data / name, number % 5)
    opt, mixed, deleted = options(out, 'train.yml'), out / 'mixed', out / 'deleted'
    train(opt, mixed)
    for name in rest:
        (data / name).unlink(missing_ok=True)
    train(opt, deleted)
    reported = (mixed / 'experiments' / NAME / 'unreadable.txt').read_text().splitlines()
    during = out / 'deleted_during'
    process = start(opt, during)
    wait_for_first_batch(process, during)
    more = names.drop(bad.index).sample(len(rest), random_state=1)
    for name in more:
        (data / name).unlink()
    finish(process, during)
    listed = (during / 'experiments' / NAME / 'unreadable.txt').read_text()
    same = float(digest(mixed) == digest(deleted))
    return [
        Claim(f'bad files reported of {len(rest)}', len(reported), len(rest), at_least=True),
        Claim('same weights as if these files were deleted', same, 1, at_least=True),
        Claim(
            f'files reported of {len(more)} that were deleted during the training',
            sum(name in listed for name in more),
            1,
            at_least=True,
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    checks = {'processes': processes, 'accumulation': accumulation, 'bad-images': bad_images}
    parser.add_argument('check', choices=('kills', *checks))
    parser.add_argument('--times', type=int, default=20, help='number of trainings to kill')
    parser.add_argument('--seed', type=int, default=0, help='seed of the moments')
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        make_demo_data(out / 'data', 0, scale=0.2 if arguments.check != 'bad-images' else 0.6)
        if arguments.check == 'kills':
            claims = kills(out, arguments.times, arguments.seed)
        else:
            claims = checks[arguments.check](out)
    print(f'{machine()}\n\n{table(claims)}')


if __name__ == '__main__':
    main()
