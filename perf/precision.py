"""How well reduced precision ranks photographs: SRCC between its scores and those of fp32.

    python perf/precision.py             # EfficientNet-Lite0 fitted to OASIS: 3 minutes, two cores
    python perf/precision.py --vit --every 4    # ViT-B/16, 131 photographs: 5 minutes, two cores
    python perf/precision.py --weights FILE.pth --images FOLDER    # any model, any photographs

The photographs are the 522 of OASIS. Without a GPU TF32 is imitated: the inputs of all matrix
products and convolutions are rounded to its ten bits. ViT-B/16 starts from random weights, since
CLIP's need a network; a few steps move its scores far less apart than a real training would, which
makes it a hard case: the same rounding swaps more photographs.
"""

import argparse
import itertools
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import Claim, machine, table
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from pyiqa_amhp.model import runtime
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.train.loss import AMHPEMDLoss

OASIS = Path(__file__).parents[2] / 'shared' / 'data' / 'oasis'
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
MOST = 1e-4  # 1 - SRCC up to which a precision may be the default of `amhp score` on a GPU
BATCH, STEPS, TRAINED = 32, 30, 8
PRODUCTS = ('mm', 'addmm', 'bmm', 'baddbmm', 'convolution', 'linear', 'attention')


class RoundedProducts(TorchDispatchMode):
    """Rounds the inputs of matrix products and convolutions to ten bits, as TF32 does."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run an operation of torch, a product with rounded inputs."""
        if any(name in func.__name__ for name in PRODUCTS):
            args = tree_map(to_ten_bits, args)
        return func(*args, **(kwargs or {}))


def to_ten_bits(x):
    """Round a tensor in fp32 to the nearest number with ten bits after the first."""
    if not isinstance(x, torch.Tensor) or x.dtype != torch.float32:
        return x
    return ((x.contiguous().view(torch.int32) + (1 << 12)) & ~((1 << 13) - 1)).view(torch.float32)


@contextmanager
def tf32() -> Iterator[None]:
    """Compute in TF32 on a GPU, and imitate it elsewhere."""
    if DEVICE == 'cpu':
        torch.backends.mha.set_fastpath_enabled(False)  # which hides its products
        with RoundedProducts():
            yield
        torch.backends.mha.set_fastpath_enabled(True)
        return
    matmul, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision('high')
    torch.backends.cudnn.allow_tf32 = True
    yield
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = cudnn


def scores(net: AMHP, views: torch.Tensor, precision: str, weights: bool = False) -> np.ndarray:
    """Score views ``(N, 3, size, size)``, with converted weights or by autocast."""
    net.backbone.runner = runtime.Runner(precision)
    runtime.CONVERTED_ON = frozenset({DEVICE}) if weights else frozenset()
    with torch.inference_mode():
        batches = [net.predict(x.to(DEVICE), [''] * len(x))[0] for x in views.split(BATCH)]
    return torch.cat(batches)[:, 0].cpu().double().numpy()


def compare(name: str, net: AMHP, views: torch.Tensor) -> list[Claim]:
    """Compare each precision with fp32."""
    torch.backends.cudnn.allow_tf32 = False
    exact = scores(net, views, 'fp32')
    claims = [Claim(f'{name}: standard deviation of the scores', float(exact.std()))]

    def add(what: str, values: np.ndarray) -> None:
        srcc = float(pd.Series(exact).corr(pd.Series(values), method='spearman'))
        note = f'scores differ by {np.abs(exact - values).max():.1e} at most'
        claims.append(Claim(f'{name}: {what}, 1 - SRCC', 1 - srcc, MOST, note=note))
        print(*claims[-1].cells(), flush=True)

    for precision, weights in itertools.product(('bf16', 'fp16'), (True, False)):
        what = f'{precision}, {"weights" if weights else "autocast"}'
        add(what, scores(net, views, precision, weights))
    with tf32():
        add('TF32' if DEVICE == 'cuda' else 'TF32, imitated', scores(net, views, 'fp32'))
    return claims


def fitted(folder: Path) -> Path:
    """Fit EfficientNet-Lite0 to OASIS, images only, as ``perf/fit_oasis.py`` does."""
    from pyiqa_amhp.fit import FitSettings, fit

    os.environ['PYIQA_AMHP_HOME'] = str(folder)  # the cache of features
    out = folder / 'oasis.pth'
    fit(OASIS / 'ratings.csv', OASIS / 'images', out, FitSettings(text_source='none'))
    return out


def trained_vit(views: torch.Tensor) -> AMHP:
    """Train ViT-B/16 from random weights on OASIS, ``STEPS`` batches of ``TRAINED`` photographs."""
    torch.manual_seed(0)
    net = AMHP(pretrained=False, variant='image+levels', precision='bf16').to(DEVICE).train()
    loss = AMHPEMDLoss()
    ratings = pd.read_csv(OASIS / 'ratings.csv').sort_values('img_name')['MOS'].to_numpy()
    centre = 1 + 9 * torch.tensor((ratings - 1) / 6, dtype=torch.float32)  # 1..7 to 1..10
    q = (-((centre[:, None] - net.level_values.cpu()) ** 2) / 4).softmax(dim=1)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    for step in range(STEPS):
        rows = torch.randperm(len(views))[:TRAINED]
        dist = net.predict(views[rows].to(DEVICE), [''] * TRAINED)[1]
        value = loss(dist, q[rows].to(DEVICE))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if step % 10 == 9:
            print(f'ViT-B/16: step {step + 1}, loss {value.item():.4f}', flush=True)
    return net.eval()


def read_views(net: AMHP, folder: Path) -> torch.Tensor:
    """Read photographs, in the order of their names, as normalised views."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in ('.jpg', '.png'))
    pixels = np.stack([net.preprocess.view_file(path) for path in files])
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return net.preprocess.cpu().normalize(x)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--vit', action='store_true', help='train ViT-B/16 and compare it')
    parser.add_argument('--weights', help='a checkpoint in the place of the fitted one')
    parser.add_argument('--images', type=Path, default=OASIS / 'images')
    parser.add_argument('--every', type=int, default=1, help='compare every Nth photograph')
    arguments = parser.parse_args()
    if arguments.vit:
        views = read_views(AMHP(pretrained=False), OASIS / 'images')
        claims = compare('ViT-B/16', trained_vit(views), views[:: arguments.every])
        print(f'{machine()}\n\n{table(claims)}')
        return
    with tempfile.TemporaryDirectory() as folder:
        weights = arguments.weights or fitted(Path(folder))
        net = AMHP(pretrained_model_path=str(weights)).eval()
        views = read_views(net, arguments.images)[:: arguments.every]
        claims = compare(Path(weights).stem, net.to(DEVICE), views)
        print(f'{machine()}, {len(views)} photographs\n\n{table(claims)}', flush=True)


if __name__ == '__main__':
    main()
