"""Measure whether relevance maps are faithful, by deleting patches.

The result is the per cent of the demo's test images on which the score changes more without the
20 % most relevant patches than without the 20 % least relevant ones. Without ``--weights`` the
demo's models are trained first, which takes minutes.
"""

import argparse
import tempfile
from pathlib import Path

from common import Claim, machine, table

SHARE, BOUND, BATCH = 0.2, 70, 50


def demo_models(out: Path) -> tuple[list[Path], Path]:
    """Train the models of the demo. Return their checkpoints and the folder of the data."""
    from pyiqa_amhp.demo.run import run_demo

    run_demo(out)
    runs = [out / 'experiments' / name for name in ('demo_full', 'demo_image')]
    return [run / 'models' / 'net_best.pth' for run in runs], out / 'data'


def test_images(data: Path):
    """List the demo's test images and their comments, ``''`` for no comment."""
    import pandas as pd

    from pyiqa_amhp.demo.data import CSV_NAME

    rows = pd.read_csv(data / CSV_NAME, keep_default_na=False)
    rows = rows[rows['split'] == 'test']
    return [data / 'images' / name for name in rows['img_name']], list(rows['text'])


def measure(weights: list[Path], files: list[Path], texts: list[str], fill: str) -> list[Claim]:
    """Measure each model without comments and, if it reads them, with comments."""
    import torch

    from pyiqa_amhp.explain.relevance import faithfulness
    from pyiqa_amhp.model.amhp import AMHP

    claims = []
    for path in weights:
        net = AMHP(pretrained_model_path=str(path)).eval()
        x = torch.cat([net.preprocess(net.read_input(file)) for file in files])
        settings = {'image only': [''] * len(x)}
        if net.config.uses_attributes and any(texts):
            settings = {'with comments': texts, **settings}
        for name, comments in settings.items():
            pairs = [
                faithfulness(net, x[i : i + BATCH], comments[i : i + BATCH], SHARE, fill)
                for i in range(0, len(x), BATCH)
            ]
            most, least = (torch.cat(changes).abs() for changes in zip(*pairs, strict=True))
            note = f'changes {most.mean():.3f} and {least.mean():.3f}'
            print(f'{path}, {name}: {note}')
            share = 100 * float((most > least).float().mean())
            title = f'variant {net.config.variant}, {name}: most relevant patches matter more'
            claims.append(Claim(title, share, BOUND, at_least=True, unit='%', note=note))
    return claims


def main() -> None:
    """Run the measurement from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--weights', type=Path, nargs='+', help='trained checkpoints')
    parser.add_argument('--data', type=Path, help="the demo's data folder (with --weights)")
    parser.add_argument('--fill', default='mean', help='colour of deleted patches: mean or grey')
    parser.add_argument('--images', nargs='+', help='measure on these images, without texts')
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        weights, data = arguments.weights, arguments.data
        if not weights:
            weights, data = demo_models(Path(folder))
        if arguments.images:
            from pyiqa_amhp.datasets.images import find_images

            files = find_images(arguments.images)
            texts = [''] * len(files)
        elif data:
            files, texts = test_images(data)
        else:
            parser.error('--weights needs --data or --images')
        claims = measure(weights, files, texts, arguments.fill)
    print(f'{len(files)} images\n{machine()}\n\n{table(claims)}')


if __name__ == '__main__':
    main()
