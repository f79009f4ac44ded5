"""Memory of one run over 100,000 small images whose scores are written to a file (Unix)."""

import os
import resource
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyiqa
from common import Claim, main
from PIL import Image

from pyiqa_amhp.datasets.images import find_images
from pyiqa_amhp.demo.training import BACKBONE
from pyiqa_amhp.scoring.files import score_images
from pyiqa_amhp.scoring.result import summarise
from pyiqa_amhp.scoring.scorer import Scorer
from pyiqa_amhp.scoring.writer import ScoreFile

IMAGES = 100_000
DIFFERENT = 200  # the other files are links to these


def peak_megabytes() -> float:
    """Return the highest memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == 'darwin' else 2**10)


def make_images(folder: Path) -> None:
    """Write JPEGs of 64 to 160 pixels a side, each under many names."""
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        file = folder / f'{i:06}.jpg'
        if i < DIFFERENT:
            shape = (*rng.integers(64, 160, 2), 3)
            Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(file)
        else:
            os.link(folder / f'{i % DIFFERENT:06}.jpg', file)


def measure(rounds: int) -> list[Claim]:
    """Measure by how much the peak rises after the first 1,000 images."""
    metric = pyiqa.create_metric('amhp', pretrained=False, backbone=BACKBONE, device='cpu')
    scorer = Scorer(metric)
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder, 'photos')
        photos.mkdir()
        make_images(photos)
        images = find_images([photos])
        file = ScoreFile(Path(folder, 'scores.parquet'), {})
        for _ in file.append(score_images(images, [None] * len(images), scorer, 32)):
            if file.count == 1_000:
                early = peak_megabytes()
        assert summarise(file.results(), 10).count == IMAGES
        file.finish(scorer.levels)
        growth = peak_megabytes() - early
    print(f'{early:.0f} MB after 1,000 images')
    return [Claim('memory, 100,000 small images, growth from 1,000 on', growth, 100, unit='MB')]


if __name__ == '__main__':
    main(measure, __doc__, rounds=1)
