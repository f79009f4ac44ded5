"""Speed and scores of ViT-B/16 on the CPU, by each engine and precision, against torch in fp32.

The input is a batch of eight tensors, the weights are random. Speed does not depend on the weights,
but differences of scores do: trained weights have outliers that random ones lack.
PYIQA_AMHP_WEIGHTS=FILE compares the scores of a trained checkpoint too.
"""

import os
from pathlib import Path

import numpy as np
import torch
from common import Claim, comments, in_turns, main, speedup
from scipy.stats import spearmanr

from pyiqa_amhp.model.amhp import AMHP

N = 8
EVERY = 8  # one of so many images of OASIS is scored; all of them take ten minutes
IMAGES = Path(__file__).parents[2] / 'shared' / 'data' / 'oasis' / 'images'
CONFIGURATIONS = {
    'openvino': {'engine': 'openvino'},
    'openvino fp32': {'engine': 'openvino', 'precision': 'fp32'},
    'onnxruntime fp32': {'engine': 'onnxruntime'},
    'onnxruntime int8': {'engine': 'onnxruntime', 'precision': 'int8'},
    'torch bf16': {'precision': 'bf16'},
}


def model(**options) -> AMHP:
    """Build a model with fixed random weights; comments change its scores."""
    torch.manual_seed(0)
    net = AMHP(**options)
    if 'pretrained' in options:
        torch.nn.init.normal_(net.fc.weight, std=0.02)
    return net.eval()


def speed(rounds: int) -> list[Claim]:
    """Measure how many times as fast as torch in fp32 each configuration is."""
    torch.manual_seed(0)
    x = torch.rand(N, 3, 224, 224)
    nets = {name: model(pretrained=False, **options) for name, options in CONFIGURATIONS.items()}
    nets['torch fp32'] = model(pretrained=False)
    claims = []
    with torch.inference_mode():
        for what, texts in (('a comment each', comments(N, 0)), ('images only', [''] * N)):
            calls = {name: lambda n=net, t=texts: n.predict(x, t) for name, net in nets.items()}
            seconds = in_turns(calls, rounds)
            floor = seconds['torch fp32']
            for name in CONFIGURATIONS:
                precision = nets[name].backbone.runner.precision
                # A speed is claimed only where the processor computes in bf16.
                bound = 2.0 if (name, precision) == ('openvino', 'bf16') else None
                title = name if precision in name else f'{name} (here {precision})'
                title = f'{title}, {what}: times as fast as torch fp32'
                claims.append(speedup(title, seconds[name], floor, bound=bound))
    return claims


@torch.inference_mode()
def scores(net: AMHP, views: torch.Tensor) -> np.ndarray:
    """Score images that ``view_file`` read, each with a comment: ``(N,)``."""
    batches = []
    for i, batch in enumerate(views.split(N)):
        x = net.preprocess.normalize(batch.permute(0, 3, 1, 2).float() / 255)
        batches.append(net.predict(x, comments(len(batch), i))[0][:, 0])
    return torch.cat(batches).numpy()


def accuracy(title: str, options: dict) -> list[Claim]:
    """Compare scores with torch in fp32: rank correlation and largest difference."""
    if not IMAGES.is_dir():
        return [Claim(f'{title}, scores beside torch fp32', None, note='no OASIS beside here')]
    exact, claims = model(**options), []
    files = sorted(file for file in IMAGES.iterdir() if file.suffix.lower() in ('.jpg', '.jpeg'))
    files = files[::EVERY]
    views = torch.stack([torch.from_numpy(exact.preprocess.view_file(file)) for file in files])
    expected = scores(exact, views)
    print(f'{title}: {len(files)} images, scores {expected.min():.4f} .. {expected.max():.4f}')
    for name in ('openvino', 'openvino fp32', 'onnxruntime int8'):
        got = scores(model(**options, **CONFIGURATIONS[name]), views)
        of = f'{title}, {name}, {len(files)} images of OASIS'
        bound = 0.999 if name.startswith('openvino') else None
        srcc = float(spearmanr(expected, got).statistic)
        claims.append(Claim(f'{of}: SRCC with torch fp32', srcc, bound, at_least=True))
        bound = 1e-3 if name == 'openvino fp32' else None
        difference = float(np.abs(expected - got).max())
        claims.append(Claim(f'{of}: largest score difference', difference, bound))
    return claims


def measure(rounds: int) -> list[Claim]:
    """Measure speed, and the differences of scores."""
    claims = speed(rounds) + accuracy('random weights', {'pretrained': False})
    if os.environ.get('PYIQA_AMHP_WEIGHTS'):
        claims += accuracy('trained weights', {})
    return claims


if __name__ == '__main__':
    main(measure, __doc__)
