"""Memory and speed of AVA's ratings and comments at full size, on an imitation made here.

    python perf/prepare_ava.py [--root DIR] [--images 255530] [--comments 1600000]

Makes AVA.txt, the list of test ids, AVA_Comments_Full.txt and empty image files in DIR (a
temporary folder unless given; 300 MB), then measures, each in a new process:

- prepare without opening images: seconds, and the largest resident memory in GB;
- opening the training data set: seconds, beside a floor: pandas reading the same CSV;
- a text at random: microseconds, beside a floor: the same from a Python list in memory;
- eight workers that read all their texts: private memory in MB that they add together.

Linux only (/proc).
"""

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

PHRASES = (
    'the light is lovely', 'i like how you used it', 'composition', 'colour works well here',
    'nice shot', 'focus seems soft on the eyes', 'but', 'great idea for this challenge', 'congrats',
    'very good image', 'would have liked more contrast in the sky', 'bit distracting', 'well done',
)  # fmt: skip
TEST_IMAGES, WORKERS = 19_928, 8


def imitate(root: Path, images: int, comments: int) -> None:
    """Write the files of AVA in its own form; comments are phrases at random, about 100 letters."""
    rng = np.random.default_rng(0)
    ids = np.sort(rng.choice(np.arange(1, 960_000), images, replace=False))
    votes = rng.poisson([1, 2, 5, 17, 50, 65, 40, 17, 5, 2], (images, 10))
    tags = rng.integers(0, 67, (images, 2))
    with (root / 'AVA.txt').open('w') as file:
        for i, image_id in enumerate(ids):
            fields = (i + 1, image_id, *votes[i], *tags[i], 1396)
            file.write(' '.join(map(str, fields)) + '\n')
    (root / 'aesthetics_image_lists').mkdir()
    test = rng.choice(ids, min(TEST_IMAGES, images // 10), replace=False)
    text = '\n'.join(map(str, test))
    (root / 'aesthetics_image_lists' / 'generic_test.jpgl').write_text(text)
    counts = rng.multinomial(comments, np.full(images, 1 / images))
    with (root / 'AVA_Comments_Full.txt').open('w') as file:
        for i, image_id in enumerate(ids):
            lengths = rng.integers(1, 12, counts[i])
            picks = iter(rng.integers(0, len(PHRASES), lengths.sum()))
            said = [' '.join(PHRASES[next(picks)] for _ in range(length)) for length in lengths]
            file.write(f'{i + 1}#{image_id}#{"#".join(said)}\n')
    (root / 'images').mkdir()
    for image_id in ids:
        (root / 'images' / f'{image_id}.jpg').touch()


def measure_prepare(root: Path) -> dict[str, float]:
    """Seconds and GB of ``prepare``, with all imports."""
    from pyiqa_amhp.datasets.prepare import prepare

    start = time.perf_counter()
    report = prepare('ava', root, root / 'meta', force=True)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {'prepare, s': seconds, 'prepare, GB': peak, 'comments': report.comments}


def measure_data_set(root: Path) -> dict[str, float]:
    """Opening, a text at random, and what workers add."""
    import pandas as pd

    from pyiqa_amhp.datasets.paper import AVACommentsDataset

    csv = root / 'meta' / 'meta_info_AVADataset.csv'
    pd.read_csv(csv)  # into the cache of the disk
    floor = seconds_of(lambda: pd.read_csv(csv))
    opt = {
        'phase': 'train',
        'meta_info_file': str(csv),
        'dataroot_target': str(root / 'images'),
        'comments_file': str(root / 'meta' / 'ava_comments.arrow'),
    }
    start = time.perf_counter()
    dataset = AVACommentsDataset(opt)
    opening = time.perf_counter() - start

    order = np.random.default_rng(0).permutation(len(dataset))[:50_000].tolist()
    at_random = seconds_of(lambda: [dataset.text(i) for i in order]) / len(order)
    added = private_memory_of_workers(dataset)
    texts = [dataset.text(i) for i in range(len(dataset))]
    in_memory = seconds_of(lambda: [texts[i] for i in order]) / len(order)
    return {
        'open, s': opening,
        'open, floor (pandas.read_csv), s': floor,
        'open, ratio': opening / floor,
        'text, us': at_random * 1e6,
        'text, floor (list in memory), us': in_memory * 1e6,
        'eight workers, private MB': added,
    }


def seconds_of(call) -> float:
    """The shortest of three."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def private_memory_of_workers(dataset) -> float:
    """MB that eight forked workers hold for themselves, over what they hold before any text."""
    fork = multiprocessing.get_context('fork')
    queue, barrier = fork.Queue(), fork.Barrier(WORKERS)

    def work(rank: int) -> None:
        before = private_memory()
        for i in range(rank, len(dataset), WORKERS):
            dataset.text(i)
        barrier.wait()
        queue.put(private_memory() - before)

    workers = [fork.Process(target=work, args=(rank,)) for rank in range(WORKERS)]
    for worker in workers:
        worker.start()
    added = sum(queue.get() for _ in workers)
    for worker in workers:
        worker.join()
    return added


def private_memory() -> float:
    """MB of this process that no other shares."""
    rollup = Path('/proc/self/smaps_rollup').read_text().splitlines()
    kb = [int(line.split()[1]) for line in rollup if line.startswith('Private_')]
    return sum(kb) / 1024


def main() -> None:
    """Make the imitation, measure in new processes, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--root', type=Path)
    parser.add_argument('--images', type=int, default=255_530)
    parser.add_argument('--comments', type=int, default=1_600_000)
    parser.add_argument('--part', choices=('prepare', 'data set'), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        measure = measure_prepare if arguments.part == 'prepare' else measure_data_set
        print(json.dumps(measure(arguments.root)))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = arguments.root or Path(folder)
        root.mkdir(parents=True, exist_ok=True)
        if not (root / 'AVA.txt').exists():
            imitate(root, arguments.images, arguments.comments)
        print(
            f'{arguments.images:,} images, {os.cpu_count()} cores, Python {sys.version.split()[0]}'
        )
        for part in ('prepare', 'data set'):
            command = [sys.executable, __file__, '--root', str(root), '--part', part]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            for what, value in json.loads(output.splitlines()[-1]).items():
                print(f'{what:36} {value:12,.2f}')


if __name__ == '__main__':
    main()
