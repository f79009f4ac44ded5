"""Whether a training can be trusted: killed, shared, accumulated, or given bad images.

    python perf/training_trust.py kills         # 20 trainings, each killed at a random moment
    python perf/training_trust.py processes     # two (Gloo, CPU) against one
    python perf/training_trust.py accumulation  # gradients of small batches and a large one
    python perf/training_trust.py bad-images    # 2% of the files are bad in every way

Each trains the demo's small model on its photographs, with pictures made on the spot.
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
ENVIRONMENT = {**os.environ, 'OMP_NUM_THREADS': '1'}  # sums in one order, two runs side by side
BAD_SHARE = 0.02


def options(out: Path, file: str, epochs: int = 3, batch: int = 16, **train) -> Path:
    """The option file of a training with all that has a state: an average, a predictor, workers."""
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
    """``amhp train`` in a folder of its own; what it says goes to a file there."""
    root.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, *launcher, '-m', 'pyiqa_amhp', 'train', '-opt', str(opt), *more]
    with (root / 'said.txt').open('a') as said:
        return subprocess.Popen(
            command, cwd=root, stdout=said, stderr=subprocess.STDOUT, env=ENVIRONMENT
        )


def finish(process: subprocess.Popen, root: Path) -> None:
    if process.wait():
        sys.exit(f'a training failed; it said:\n{(root / "said.txt").read_text()[-3000:]}')


def train(opt: Path, root: Path, *more: str, **options) -> None:
    finish(start(opt, root, *more, **options), root)


def digest(root: Path) -> str:
    """Of the latest and the best weights, by value."""
    found = hashlib.sha256()
    for name in ('latest', 'best'):
        file = root / 'experiments' / NAME / 'models' / f'net_{name}.pth'
        for key, value in sorted(torch.load(file, weights_only=True)['params'].items()):
            found.update(key.encode() + value.contiguous().numpy().tobytes())
    return found.hexdigest()


def losses(root: Path) -> np.ndarray:
    return np.array([value for _, value in read_curve(root, NAME, 'losses/l_mos')])


def is_training(root: Path) -> bool:
    return 'Training: ' in (root / 'said.txt').read_text()


def kills(out: Path, times: int, seed: int) -> list[Claim]:
    """Kill trainings at random moments between the first batch and the end, and go on."""
    opt, whole = options(out, 'train.yml'), out / 'whole'
    process = start(opt, whole)
    began = first_batch(process, whole)
    finish(process, whole)
    length = time.monotonic() - began
    expected = digest(whole)
    moments = np.random.default_rng(seed).uniform(0, length, times)

    def kill_once(number: int) -> tuple[str, str]:
        root = out / f'cut_{number}'
        process = start(opt, root)
        began = first_batch(process, root)
        time.sleep(max(0, began + moments[number] - time.monotonic()))
        process.kill()
        process.wait()
        said = (root / 'said.txt').read_text().strip().splitlines()[-1]
        train(opt, root, '--auto_resume')
        return digest(root), said[:100]

    with ThreadPoolExecutor(2) as pool:
        results = list(tqdm(pool.map(kill_once, range(times)), total=times, desc='Kills'))
    for moment, (_, said) in zip(moments, results, strict=True):
        print(f'killed {moment:5.1f} s after the first batch; its last words: {said}')
    equal = sum(found == expected for found, _ in results)
    what = f'of {times} killed trainings ended with the hash of one that ran through'
    return [Claim(what, equal, times, at_least=True)]


def first_batch(process: subprocess.Popen, root: Path) -> float:
    """When the data were read and the first batch began."""
    while process.poll() is None and not is_training(root):
        time.sleep(0.02)
    return time.monotonic()


def processes(out: Path) -> list[Claim]:
    """Losses of two processes with half the batch, and of one."""
    one, two = out / 'one', out / 'two'
    train(options(out, 'one.yml', batch=16), one)
    torchrun = ('-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2')
    train(options(out, 'two.yml', batch=8), two, launcher=torchrun)
    a, b = losses(one), losses(two)
    what = f'two processes against one: largest difference of the loss, {len(a)} batches'
    return [Claim(what, float(np.abs(a - b).max()), 1e-5)]


def accumulation(out: Path) -> list[Claim]:
    """The gradient of four batches of eight, and of one of 32."""
    from pyiqa.data import build_dataset
    from pyiqa.models import build_model
    from torch.utils.data import default_collate

    torch.set_num_threads(1)
    found = []
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
        found.append({n: p.grad for n, p in model.net.named_parameters() if p.grad is not None})
    a, b = found
    far = max(float((a[name] - b[name]).abs().max()) for name in a)
    largest = max(float(gradient.abs().max()) for gradient in a.values())
    what = 'four batches of 8 against one of 32: largest difference over largest gradient'
    return [Claim(what, far / largest, 1e-5)]


def spoil(path: Path, way: int) -> None:
    """Make a file bad: truncated, empty, text, a bomb, 1 x 1, 20,000 x 3, gone."""
    if way == 0:
        path.write_bytes(path.read_bytes()[:700])
    elif way == 1:
        path.write_bytes(b'')
    elif way == 2:
        path.write_text('not an image')
    elif way == 3:
        Image.new('1', (30_000, 30_000)).save(path.with_suffix('.png'), optimize=False)
        path.with_suffix('.png').replace(path)
    else:
        path.unlink()


def bad_images(out: Path) -> list[Claim]:
    """The same training, where 2 % of the files are bad in different ways, or simply gone."""
    data = out / 'data' / 'images'
    table = pd.read_csv(out / 'data' / CSV_NAME)
    names = table['img_name'][table['split'] != 'test']
    bad = names.sample(round(BAD_SHARE * len(names)), random_state=0)
    odd = {(1, 1): bad.index[0], (20_000, 3): bad.index[1]}  # odd shapes are images all the same
    for size, row in odd.items():
        Image.new('RGB', size, 'grey').save(data / table['img_name'][row])
    rest = bad.drop(list(odd.values()))
    for number, name in enumerate(rest):
        spoil(data / name, number % 5)
    opt, mixed, gone = options(out, 'train.yml'), out / 'mixed', out / 'gone'
    train(opt, mixed)
    for name in rest:
        (data / name).unlink(missing_ok=True)
    train(opt, gone)
    reported = (mixed / 'experiments' / NAME / 'unreadable.txt').read_text().splitlines()
    vanish = out / 'vanish'
    process = start(opt, vanish)
    first_batch(process, vanish)
    kept = names.drop(bad.index)
    victims = kept.sample(len(rest), random_state=1)
    for name in victims:
        (data / name).unlink()
    finish(process, vanish)
    more = (vanish / 'experiments' / NAME / 'unreadable.txt').read_text()
    named = sum(name in more for name in victims)
    return [
        Claim(f'bad files reported of {len(rest)}', len(reported), len(rest), at_least=True),
        Claim(
            'weights as where these files are gone', float(digest(mixed) == digest(gone)), 1, True
        ),
        Claim(f'files that vanished during the run, reported, of {len(victims)}', named, 1, True),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('what', choices=('kills', 'processes', 'accumulation', 'bad-images'))
    parser.add_argument('--times', type=int, default=20, help='how many trainings to kill')
    parser.add_argument('--seed', type=int, default=0, help='of the moments')
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        make_demo_data(out / 'data', 0, scale=0.2 if arguments.what != 'bad-images' else 0.6)
        if arguments.what == 'kills':
            claims = kills(out, arguments.times, arguments.seed)
        elif arguments.what == 'processes':
            claims = processes(out)
        else:
            claims = {'accumulation': accumulation, 'bad-images': bad_images}[arguments.what](out)
    print(f'{machine()}\n\n{table(claims)}')


if __name__ == '__main__':
    main()
