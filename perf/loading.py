"""Speed of the loader of `amhp train`, beside a plain data set with the same number of processes.

The plain data set opens a file by Pillow, resizes and crops it, and makes floats of it, in torch's
DataLoader with workers that stay. Both read the same generated JPEGs in batches of 72: of 640 x
427, resized to 256 x 256 and cropped to 224 x 224, and of 224 x 224, as they are. Ours reads texts
and ratings too, checks each file, and has its random numbers from the seed, the epoch and the
image. The last lines are the processor time of one sample in one process.
"""

import random
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from common import Claim, comments, in_turns, main, speedup
from photographs import photograph
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import to_tensor

from pyiqa_amhp.datasets.dataset import AMHPDataset
from pyiqa_amhp.train.sampler import EpochBatches, max_workers, train_loader

N, BATCHES, DIFFERENT = 72, 10, 24  # images of a batch, batches of an epoch, photographs
AUGMENTS = {
    (640, 427): {'resize': [256, 256], 'grid_crop': {'size': 224, 'step': 8}},
    (224, 224): {'hflip': True},
}


class PlainImages(Dataset):
    """The images alone, without any check."""

    def __init__(self, paths: list[str]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        image = Image.open(self.paths[index]).convert('RGB')
        if image.size != (224, 224):
            image = image.resize((256, 256), Image.Resampling.BILINEAR)
            left, top = 8 * random.randrange(5), 8 * random.randrange(5)
            image = image.crop((left, top, left + 224, top + 224))
        elif random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return to_tensor(image)


def write_images(folder: Path, width: int, height: int) -> Path:
    """Write JPEGs and a CSV of their ratings and texts; return the CSV."""
    (folder / 'images').mkdir(parents=True)
    photographs = [photograph(seed, width, height) for seed in range(DIFFERENT)]
    names = [f'{i:03}.jpg' for i in range(N * BATCHES)]
    for i, name in enumerate(names):
        photographs[i % DIFFERENT].save(folder / 'images' / name, quality=88)
    votes = {f'c{j + 1}': [1 + (i + j) % 7 for i in range(len(names))] for j in range(10)}
    table = pd.DataFrame({'img_name': names, **votes, 'text': comments(len(names), 0)})
    table.to_csv(folder / 'rated.csv', index=False)
    return folder / 'rated.csv'


def our_images(csv: Path, augment: dict) -> AMHPDataset:
    """Build the training set as the shipped options and the training loop do."""
    dataset = AMHPDataset(
        {
            'name': 'perf', 'phase': 'train', 'meta_info_file': str(csv), 'dataset': 'ava',
            'dataroot_target': str(csv.parent / 'images'), 'skip_bad_images': True,
            'augment': augment,
        }
    )  # fmt: skip
    dataset.gives_bytes = True
    return dataset


def milliseconds(dataset: AMHPDataset) -> float:
    """Measure the processor time of a sample in ms: the least of several rounds of a batch."""
    dataset.begin_epoch(0, 0)
    seconds = []
    for _ in range(8):
        start = time.process_time()
        for index in range(N):
            dataset[index]
        seconds.append(time.process_time() - start)
    return 1000 * min(seconds) / N


def measure(rounds: int) -> list[Claim]:
    """Measure the images a second of whole epochs, as ratios to the plain data set."""
    torch.set_num_threads(1)
    workers, claims, samples = max_workers(), [], []
    for (width, height), augment in AUGMENTS.items():
        with tempfile.TemporaryDirectory() as folder:
            csv = write_images(Path(folder, 'rated'), width, height)
            dataset = our_images(csv, augment)
            batches = EpochBatches(len(dataset), N)
            paths = [dataset.images.path(i) for i in range(len(dataset))]
            ours = train_loader(dataset, {'num_worker_per_gpu': workers}, batches)
            plain = DataLoader(
                PlainImages(paths), N, True, num_workers=workers, persistent_workers=True
            )
            calls = {'ours': lambda x=ours: list(x), 'plain': lambda x=plain: list(x)}
            seconds = in_turns(calls, rounds)
            what = f'loading {width} x {height} JPEGs in training'
            claims.append(
                speedup(f'{what} / a plain data set', seconds['ours'], seconds['plain'], bound=0.9)
            )
            rate = len(dataset) / min(seconds['ours'])
            claims.append(Claim(f'{what}, {workers} processes', rate, unit='images/s'))
            samples.append(Claim(f'{what}, a sample', milliseconds(dataset), unit='ms'))
            del ours, plain, calls  # ends the workers
    return claims + samples


if __name__ == '__main__':
    main(measure, __doc__)
