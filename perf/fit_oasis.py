"""``amhp fit`` on OASIS: SRCC on its held-out themes and time, three seeds.

    python perf/fit_oasis.py            # image only, EfficientNet-Lite0, the split of the CSV
    python perf/fit_oasis.py --split random      # or theme: splits that `fit` makes itself

522 photographs with mean beauty ratings; no theme is in two of train, val and test. Each run starts
with an empty cache of features, so that its time is that of a first run. The defaults of ``fit``
were chosen by a five-fold cross-validation by themes within train and val, and the best epoch by
val; the test photographs chose nothing.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from common import Claim, machine, table

OASIS = Path(__file__).parents[2] / 'shared' / 'data' / 'oasis'
MIN_SRCC, MAX_SECONDS = 0.66, 180


def run(seed: int, split: str) -> tuple[list[Claim], float, float]:
    """Fit with one seed on a split; return its rows, the SRCC and the seconds."""
    from pyiqa_amhp.fit import FitSettings, fit

    with tempfile.TemporaryDirectory() as folder:
        os.environ['PYIQA_AMHP_HOME'] = folder  # the cache of features
        columns = pd.read_csv(OASIS / 'ratings.csv')
        csv, group = Path(folder, 'ratings.csv'), 'theme' if split == 'theme' else None
        columns.drop(columns=[] if split == 'own' else 'split').to_csv(csv, index=False)
        start = time.perf_counter()
        settings = FitSettings(seed=seed, text_source='none', group=group)
        result = fit(csv, OASIS / 'images', Path(folder, 'oasis.pth'), settings)
        seconds = time.perf_counter() - start
    values = result.test.evaluation.values
    rows = [
        Claim(
            f'seed {seed}, epoch {result.best_epoch}: {name.upper()} on '
            f'{result.images["test"]} photographs (range: 95% interval)',
            values[name].value, low=values[name].low, high=values[name].high,
        )
        for name in ('srcc', 'plcc', 'acc')
    ]  # fmt: skip
    srcc = values['srcc'].value
    assert srcc is not None
    return [*rows, Claim(f'seed {seed}: time', seconds, unit='s')], srcc, seconds


def main() -> None:
    """Print the table of all seeds and their means."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--split', choices=('own', 'random', 'theme'), default='own')
    arguments = parser.parse_args()
    claims, scores, times = [], [], []
    for seed in range(arguments.seeds):
        rows, srcc, seconds = run(seed, arguments.split)
        claims += rows
        scores.append(srcc)
        times.append(seconds)
    mean, longest = float(np.mean(scores)), max(times)
    bound = MIN_SRCC if arguments.split == 'own' else None
    what = 'mean SRCC (range: of the seeds)'
    claims += [
        Claim(what, mean, bound, at_least=True, low=min(scores), high=max(scores)),
        Claim('longest time', longest, MAX_SECONDS, unit='s'),
    ]
    print(f'{machine()}\n\n{table(claims)}')


if __name__ == '__main__':
    main()
