"""Measure the speed on 12-megapixel JPEGs with ViT-B/16, beside pyiqa's loop and the encoder.

The photographs are generated: noise of all scales (1/f, as in nature), about 4 MB each.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import pyiqa
import torch
from common import Claim, in_turns, main, speedup
from PIL import Image

from pyiqa_amhp.datasets.images import read_image
from pyiqa_amhp.scoring.files import score_images

PHOTOGRAPHS, N = 24, 8


def photograph(seed: int, width: int = 4000, height: int = 3000) -> Image.Image:
    """Generate large coloured shapes and grain whose octaves are equally strong."""
    rng = np.random.default_rng(seed)
    shapes = rng.integers(0, 256, (9, 12, 3), np.uint8)
    colour = np.asarray(Image.fromarray(shapes).resize((width, height), Image.Resampling.BICUBIC))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    spectrum = np.fft.rfft2(rng.standard_normal((height, width)))
    grain = np.fft.irfft2(spectrum / np.maximum(frequency, 1 / width), s=(height, width))
    grain *= 25 / grain.std()
    return Image.fromarray((colour + grain[..., None]).clip(0, 255).astype(np.uint8))


def pyiqa_loop(metric, paths: list[str]) -> list[float]:
    """Score images one by one, as the command ``pyiqa amhp -t FOLDER`` does."""
    return [metric(path).item() for path in paths]


def measure(rounds: int) -> list[Claim]:
    """Measure the throughput against pyiqa's loop and the encoder, in the same rounds."""
    torch.manual_seed(0)
    metric = pyiqa.create_metric('amhp', pretrained=False, device='cpu')
    prepared = torch.rand(N, 3, 224, 224)
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder, f'{i:02}.jpg')) for i in range(PHOTOGRAPHS)]
        for i, path in enumerate(paths):
            photograph(i % N).save(path, quality=88)

        def encoder() -> None:
            with torch.inference_mode():
                for _ in range(0, PHOTOGRAPHS, N):
                    metric.net.backbone.encode_image(prepared)

        seconds = in_turns(
            {
                'pyiqa': lambda: pyiqa_loop(metric, paths),
                'ours': lambda: list(score_images(paths, None, metric, N)),
                'exact': lambda: list(score_images(paths, None, metric, N, exact=True)),
                'encoder': encoder,
            },
            rounds,
        )
        start = time.perf_counter()
        read_image(paths[0], 512)
        decoding = time.perf_counter() - start
        size = sum(Path(path).stat().st_size for path in paths) / len(paths) / 1e6
    ours = seconds['ours']
    print(f'{size:.1f} MB a photograph, decoded at a fraction of its size in {decoding:.3f} s')
    return [
        speedup('12 MP JPEGs, photographs a second / pyiqa', ours, seconds['pyiqa'], bound=1.8),
        speedup('12 MP JPEGs, / encoder on ready tensors', ours, seconds['encoder'], bound=0.9),
        speedup('12 MP JPEGs with --exact, / pyiqa', seconds['exact'], seconds['pyiqa']),
    ]


if __name__ == '__main__':
    main(measure, __doc__, rounds=3)
