"""Training and scoring on a GPU, each beside its floors in the same run.

    python perf/gpu.py [step training lite scoring]    # default: all; ten minutes with 16 cores
    python perf/gpu.py --tiny                          # the same code in a minute, also on a CPU

step: our step on ready tensors, a plain loop's step, and what the GPU is busy with. training:
`amhp train` with the shipped options and nothing but the data overridden, beside a plain loop on
the same files with as many workers. lite: the small encoder, from files of 224 pixels. scoring:
`score_images` with its defaults, a plain loop with as many processes, decoding alone, the encoder
alone. Photographs are generated; weights are random, which has no effect on speed.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from common import LEVELS, Claim, Plain, comments, machine, table
from photographs import photograph
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from pyiqa_amhp.demo.training import BACKBONE as TINY
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.scoring import Scorer, score_images
from pyiqa_amhp.scoring.device import default_precision
from pyiqa_amhp.train.loss import AMHPEMDLoss
from pyiqa_amhp.train.optim import OptimizerStepper
from pyiqa_amhp.train.pipeline import run_train
from pyiqa_amhp.train.step import FixedStep

HERE = Path(__file__).parents[1]
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
BATCH = 72  # the paper's
DIFFERENT = 400  # photographs; the other files are links to these
MEAN, STD = (0.481, 0.457, 0.408), (0.268, 0.261, 0.275)


@dataclass
class Size:
    """How much is measured.

    Attributes:
        images: the number of files.
        batch: images in a batch of training.
        steps: steps or batches that are timed.
        network: options of AMHP.
        workers: processes that read files.
    """

    images: int
    batch: int
    steps: int
    network: dict
    workers: int


def sync() -> None:
    """Wait for the GPU, if there is one."""
    if DEVICE == 'cuda':
        torch.cuda.synchronize()


def rate(call: Callable[[], object], images: int, times: int) -> float:
    """Measure images a second of a call on a batch of ``images``."""
    for _ in range(4):
        call()
    sync()
    start = time.perf_counter()
    for _ in range(times):
        call()
    sync()
    return images * times / (time.perf_counter() - start)


def busy_seconds(call: Callable[[], object], times: int = 5) -> float | None:
    """Measure the seconds of a call for which the GPU computes; None without a GPU."""
    if DEVICE != 'cuda':
        return None
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(times):
            call()
        sync()
    kernels = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    return sum(event.device_time_total for event in kernels) / 1e6 / times


def peak_gigabytes() -> float | None:
    """Return the peak memory since the last call, in GiB; None without a GPU."""
    if DEVICE != 'cuda':
        return None
    peak = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return peak


def write_photographs(folder: Path, images: int, width: int, height: int) -> None:
    """Write JPEGs and a table of ratings and comments with all of them in the training set."""
    (folder / 'images').mkdir(parents=True)
    rng, texts = np.random.default_rng(0), comments(images, 0)
    different = min(DIFFERENT, images)
    lines = ['img_name,split,text,' + ','.join(f'c{i}' for i in range(1, 11))]
    large = photograph(0, 4 * width, 4 * height)
    for i in range(images):
        name = f'{i:05}.jpg'
        file = folder / 'images' / name
        if i < different:
            left, top = rng.integers(0, 3 * width), rng.integers(0, 3 * height)
            large.crop((left, top, left + width, top + height)).save(file, quality=90)
        else:
            os.link(folder / 'images' / f'{i % different:05}.jpg', file)
        votes = ','.join(map(str, rng.integers(1, 40, 10)))
        split = 'val' if i < different // 10 else 'train'
        lines.append(f'{name},{split},{texts[i]},{votes}')
    (folder / 'rated.csv').write_text('\n'.join(lines))


# Plain loops: what an afternoon's work gives, written without ours


class PlainImages(Dataset):
    """Files as tensors, with token ids and distributions: open, resize, crop, normalise."""

    def __init__(self, folder: Path, size: int, tokenizer: Callable | None = None):
        self.lines = (folder / 'rated.csv').read_text().splitlines()[1:]
        self.folder, self.tokenizer = folder / 'images', tokenizer
        steps: list = [v2.PILToTensor(), v2.Resize((size * 8 // 7,) * 2, antialias=True)]
        steps += [v2.RandomCrop(size)]
        if tokenizer:
            steps += [v2.ToDtype(torch.float32, True), v2.Normalize(MEAN, STD)]
        self.transform = v2.Compose(steps)

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, i: int):
        name, _, text, *votes = self.lines[i].split(',')
        x = self.transform(Image.open(self.folder / name).convert('RGB'))
        if not self.tokenizer:
            return x
        q = torch.tensor([float(v) for v in votes]).view(5, 2).sum(1)
        return x, self.tokenizer([text])[0], q / q.sum()


def plain_loader(dataset: Dataset, batch: int, workers: int, train: bool) -> DataLoader:
    """Build a loader with everything that torch's documentation recommends."""
    return DataLoader(
        dataset, batch, shuffle=train, drop_last=train, num_workers=workers,
        pin_memory=DEVICE == 'cuda', persistent_workers=True, prefetch_factor=4,
    )  # fmt: skip


def loop_rate(loader: DataLoader, use: Callable, epochs: int = 2) -> float:
    """Measure images a second over the epochs after the first one."""
    for epoch in range(epochs + 1):
        if epoch == 1:
            sync()
            start, images = time.perf_counter(), 0
        for batch in loader:
            use(batch)
            if epoch:
                images += len(batch[0] if isinstance(batch, list) else batch)
    sync()
    return images / (time.perf_counter() - start)


class PlainTraining:
    """Eq. 1 to 8 under autocast, with a fused AdamW, TF32 and texts of 77 tokens."""

    def __init__(self, size: Size):
        torch.set_float32_matmul_precision('high')
        backbone = AMHP(pretrained=False, **size.network).backbone
        self.net = Plain(backbone.clip, backbone.tokenizer).train().to(DEVICE)
        self.net.values, self.net.levels = self.net.values.to(DEVICE), self.net.levels.to(DEVICE)
        self.tokenizer, self.net.tokenizer = self.net.tokenizer, lambda tokens: tokens
        self.optimizer = torch.optim.AdamW(self.net.parameters(), 2e-6, fused=True)

    def step(self, x: torch.Tensor, tokens: torch.Tensor, q: torch.Tensor) -> None:
        """Make a training step."""
        with torch.autocast(DEVICE, torch.bfloat16):
            p = self.net(x, tokens)[1]
        difference = p.float().cumsum(-1) - q.cumsum(-1)
        loss = (difference.square().mean(-1) + 1e-12).sqrt().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def use(self, batch: list[torch.Tensor]) -> None:
        """Move a batch to the device, and make a step."""
        self.step(*(part.to(DEVICE, non_blocking=True) for part in batch))

    def close(self) -> None:
        """Restore torch's setting, and free the memory."""
        torch.set_float32_matmul_precision('highest')
        del self.net, self.optimizer


# What is measured


def our_step(size: Size, precision: str = 'bf16') -> Callable[[], object]:
    """Return our training step on ready tensors."""
    torch.manual_seed(0)
    net = AMHP(pretrained=False, precision=precision, **size.network).train().to(DEVICE)
    optimizer = torch.optim.AdamW(net.parameters(), 2e-6, weight_decay=1e-3, fused=True)
    stepper = OptimizerStepper(net, optimizer, {}, size.batch)
    step = FixedStep(net, AMHPEMDLoss(), stepper)
    side = net.backbone.image_size
    x = torch.rand(size.batch, 3, side, side, device=DEVICE)
    q = torch.full((size.batch, len(LEVELS)), 0.2, device=DEVICE)
    texts = step.padder.pad(comments(size.batch, 0))
    return lambda: step(x, texts, q, [])


def measure_step(size: Size) -> list[Claim]:
    """Measure our step on ready tensors against a plain one and the GPU's busy time."""
    peak_gigabytes()
    call = our_step(size)
    ours, busy = rate(call, size.batch, size.steps), busy_seconds(call)
    claims = [Claim(f'training step on ready tensors, bf16, batch {size.batch}', ours, unit='/s')]
    if busy is not None:
        ratio = size.batch / ours / busy
        claims += [
            Claim('what the GPU itself would do', size.batch / busy, unit='/s'),
            Claim('training step / busy time of the GPU', ratio, 1.25),
            Claim('peak memory of the training step', peak_gigabytes(), unit='GB'),
        ]
    del call
    plain = PlainTraining(size)
    side = plain.net.clip.visual.image_size
    side = side if isinstance(side, int) else side[0]
    x = torch.rand(size.batch, 3, side, side, device=DEVICE)
    tokens = plain.tokenizer(comments(size.batch, 0)).to(DEVICE)
    q = torch.full((size.batch, len(LEVELS)), 0.2, device=DEVICE)
    theirs = rate(lambda: plain.step(x, tokens, q), size.batch, size.steps)
    plain.close()
    claims.append(Claim("a plain loop's step on ready tensors", theirs, unit='/s'))
    return claims


def train_rate(folder: Path, size: Size, **changes) -> float:
    """Run `amhp train` by the shipped options on a folder; return images a second.

    Only the data, the start from random weights and the device are overridden. The time is that of
    the epochs after the first one, which captures the step and starts the workers.
    """
    options = yaml.safe_load((HERE / 'options' / 'train_amhp_custom.yml').read_text())
    for data in options['datasets'].values():
        data.update(
            meta_info_file=str(folder / 'rated.csv'), dataroot_target=str(folder / 'images')
        )
    options['network'].update(pretrained=False, **size.network)
    options['val']['val_freq'] = options['logger']['save_latest_freq'] = None
    options['train']['total_epoch'] = 3
    for section, values in changes.items():
        target = options['datasets']['train'] if section == 'data' else options[section]
        target.update(values)
    ends: list[float] = []
    images = 0

    def report(progress) -> None:
        nonlocal images
        if progress.ends_epoch:
            ends.append(time.perf_counter())
            images = progress.iteration // progress.epoch

    with tempfile.TemporaryDirectory() as root:
        file = Path(root, 'train.yml')
        file.write_text(yaml.safe_dump(options))
        run_train(file, [], root, report)
    batch = options['datasets']['train']['batch_size_per_gpu']
    return 2 * images * batch / (ends[2] - ends[0])


def measure_training(size: Size, folder: Path) -> list[Claim]:
    """Measure the real loop against a plain one on the same files, and our step alone."""
    peak_gigabytes()
    changes = {'data': {'batch_size_per_gpu': size.batch}}
    if size.network:  # --tiny
        side = TINY['vision_cfg']['image_size']
        changes['data']['augment'] = {'resize': [side + 8] * 2, 'grid_crop': {'size': side}}
    ours, peak = train_rate(folder, size, **changes), peak_gigabytes()
    step = rate(our_step(size), size.batch, size.steps)
    plain = PlainTraining(size)
    side = TINY['vision_cfg']['image_size'] if size.network else 224
    loader = plain_loader(
        PlainImages(folder, side, plain.tokenizer), size.batch, size.workers, True
    )
    theirs = loop_rate(loader, plain.use)
    plain.close()
    bound = None if size.network else 1400
    return [
        Claim('`amhp train`, shipped options', ours, bound, at_least=True, unit='/s'),
        Claim('`amhp train` / our step on ready tensors', ours / step, 0.85, at_least=True),
        Claim('a plain training loop on the same files', theirs, unit='/s'),
        Claim('`amhp train` / a plain training loop', ours / theirs),
        Claim('peak memory of `amhp train`', peak, unit='GB'),
    ]


def measure_lite(size: Size, folder: Path) -> list[Claim]:
    """Measure training of the small encoder from files of its input's size."""
    network = {'backbone': 'EfficientNet-Lite0'}
    lite = Size(size.images, size.batch if size.network else 128, size.steps, network, size.workers)
    changes = {'data': {'batch_size_per_gpu': lite.batch}}
    ours = train_rate(folder, lite, **changes)
    bound = None if size.network else 4000
    what = '`amhp train`, EfficientNet-Lite0, 224-pixel files'
    return [Claim(what, ours, bound, at_least=True, unit='/s')]


def measure_scoring(size: Size, folder: Path) -> list[Claim]:
    """Measure scoring of files against a plain loop, decoding alone and the encoder alone."""
    peak_gigabytes()
    precision = default_precision('AMHP', DEVICE)  # as `amhp score` chooses it
    net = AMHP(pretrained=False, precision=precision, **size.network).eval().to(DEVICE)
    side, batch = net.backbone.image_size, 8 if size.network else 256
    files = sorted(str(path) for path in (folder / 'images').iterdir())
    scorer = Scorer(net)
    list(score_images(files[: len(files) // 4], metric=scorer, batch_size=batch))
    start = time.perf_counter()
    results = list(score_images(files, metric=scorer, batch_size=batch))
    sync()
    ours, peak = len(files) / (time.perf_counter() - start), peak_gigabytes()
    assert all(result.score is not None for result in results)
    half = net.backbone.clip.visual.to(torch.bfloat16)
    mean, std = (torch.tensor(v, device=DEVICE).view(1, 3, 1, 1) for v in (MEAN, STD))
    loader = plain_loader(PlainImages(folder, side), batch, size.workers, False)

    def encode(x: torch.Tensor) -> None:
        with torch.inference_mode():
            x = x.to(DEVICE, non_blocking=True).float() / 255
            half(((x - mean) / std).bfloat16()).float().cpu()

    theirs, decoding = loop_rate(loader, encode, 1), loop_rate(loader, lambda x: None, 1)
    x = torch.randint(0, 255, (batch, 3, side, side), dtype=torch.uint8, device=DEVICE)
    alone = rate(lambda: encode(x), batch, size.steps)
    return [
        Claim(f'`score_images`, 640 x 427 JPEGs, {precision or "fp32"}', ours, unit='/s'),
        Claim('a plain loop with as many processes, bf16 weights', theirs, unit='/s'),
        Claim('`score_images` / plain loop', ours / theirs, 0.9, at_least=True),
        Claim('decoding alone', decoding, unit='/s'),
        Claim(f'the encoder alone, bf16 weights, batch {batch}', alone, unit='/s'),
        Claim('peak memory of scoring', peak, unit='GB'),
    ]


def main() -> None:
    """Measure the named parts, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parts = ('step', 'training', 'lite', 'scoring')
    parser.add_argument('parts', nargs='*', help=f'some of {", ".join(parts)}; default: all')
    parser.add_argument('--tiny', action='store_true', help='a small model and few files')
    parser.add_argument('--images', type=int, default=7200, help='how many files')
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(parts):
        parser.error(f'no part {", ".join(sorted(unknown))}; there are {", ".join(parts)}')
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    size = Size(arguments.images, BATCH, 30, {}, cores or 1)
    if arguments.tiny:
        size = Size(96, 8, 4, {'backbone': TINY}, cores or 1)
    elif DEVICE == 'cpu':
        parser.error('no GPU here; --tiny runs the same code on the processor')
    chosen, claims = arguments.parts or parts, []
    with tempfile.TemporaryDirectory() as temporary:
        large, small = Path(temporary, 'large'), Path(temporary, 'small')
        write_photographs(large, size.images, 640, 427)
        write_photographs(small, size.images, 224, 224)
        for part in chosen:
            measure = globals()[f'measure_{part}']
            folder = () if part == 'step' else (small if part == 'lite' else large,)
            measured = measure(size, *folder)
            claims += measured
            print(f'\n# {part}\n{table(measured)}', flush=True)
    print(f'\n{machine()}\n\n{table(claims)}')


if __name__ == '__main__':
    main()
