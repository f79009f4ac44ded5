"""SRCC with given, predicted and no attribute prompts, beside that of the image-only variant.

    python perf/predicted_text.py                  # the demo's photographs, seeds 0, 1, 2
    python perf/predicted_text.py --predictor levels
    python perf/predicted_text.py --oasis          # OASIS, with themes as comments
    python perf/predicted_text.py --para attributes.csv --images imgs/ --freeze trunk

Each seed trains two small models in the same way: ``image``, and ``all`` with a predictor. Their
image encoder is a small ResNet: trained on 1,000 crops of five photographs, it generalises better
to unseen photographs than the demo's transformer. The last weights are tested, not the best epoch,
since the validation set is a single photograph. With ``--predictor levels`` the texts are made from
attribute labels, as the paper does for PARA and AADB.

``--para`` trains three models on real photographs by ``options/train_amhp_para_lite.yml``, with the
small encoder: image and levels; all without a predictor; all with ``predictor: levels``.
The CSV has the columns of ``amhp prepare para``. The best epoch by validation SRCC (given prompts)
is tested. ``--label-with`` gives other photographs, such as OASIS, the attributes that a model with
``predictor: levels`` predicts, and maps their ratings from ``--scale`` to PARA's:

    python perf/predicted_text.py --para ../shared/data/oasis/ratings.csv --images \
        ../shared/data/oasis/images --freeze trunk --label-with para.pth --scale 1 7
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from common import Claim, machine, table
from explanations import read
from PIL import Image
from tqdm import tqdm

from pyiqa_amhp.datasets.para import RANGES, SCALE
from pyiqa_amhp.demo import training
from pyiqa_amhp.demo.data import CSV_NAME, make_demo_data
from pyiqa_amhp.demo.raters import ATTRIBUTES
from pyiqa_amhp.evaluation.plans import LITE, Changes, ModelSpec, full_options
from pyiqa_amhp.train.pipeline import train_and_test

OASIS = Path(__file__).parents[2] / 'shared' / 'data' / 'oasis'
OPTIONS = Path(__file__).parents[1] / 'options'
OASIS_LEVELS = [1.0, 2.5, 4.0, 5.5, 7.0]
IMAGE_ENCODER = {'image_size': 64, 'layers': [1, 1, 1, 1], 'width': 32, 'head_width': 32}
EPOCHS = 16


def options(
    out: Path, kind: str, seed: int, predictor: str, dropout: float, oasis: bool
) -> tuple[dict, dict]:
    """Make the options of one training and of its test.

    Args:
        out: folder of the data and the experiment.
        kind: variant of the architecture, ``image`` or ``all``.
        seed: seed of the training.
        predictor: kind of prompt predictor of the variant ``all``.
        dropout: share of texts that are dropped in training.
        oasis: whether to use OASIS in place of the demo's data.
    """
    data: dict = {}
    if predictor == 'levels' and kind == 'all':
        data = {'text_source': 'labels', 'attr_range': [1, 5], 'attributes': list(ATTRIBUTES)}
    if oasis:
        data = {
            'meta_info_file': str(OASIS / 'ratings.csv'), 'dataroot_target': str(OASIS / 'images'),
            'text_column': 'theme', 'level_values': OASIS_LEVELS, 'dataset': None,
        }  # fmt: skip
    csv = data.get('meta_info_file', out / 'data' / CSV_NAME)
    train_images = int((pd.read_csv(csv)['split'] == 'train').sum())
    train = training.train_options(out, kind, seed, train_images, kind, **data)
    train['network']['backbone']['vision_cfg'] = IMAGE_ENCODER
    train['train']['total_epoch'] = train['train']['scheduler']['T_max'] = EPOCHS
    if oasis:
        train['network'] |= {'level_values': OASIS_LEVELS}
    if kind == 'all':
        train['network'] |= {'predictor': predictor, 'attributes': list(ATTRIBUTES)}
        train['train'] |= {'text_dropout': dropout}
    test = training.test_options(out, kind, seed, **data)
    latest = out / 'experiments' / kind / 'models' / 'net_latest.pth'
    test['network']['pretrained_model_path'] = str(latest)
    return train, test


def measure(seed: int, predictor: str, dropout: float, oasis: bool) -> list[Claim]:
    """Train with one seed, and measure SRCC on the held-out photographs."""
    with tempfile.TemporaryDirectory() as folder:
        out, results = Path(folder), {}
        if not oasis:
            make_demo_data(out / 'data', seed)
        for kind in ('image', 'all'):
            tested = train_and_test(*options(out, kind, seed, predictor, dropout, oasis), out)
            results[kind] = json.loads((tested / 'demo_test.json').read_text())
    image = results['image']['srcc']
    given, predicted, none = (
        results['all']['prompt_source'][source]['srcc'] for source in ('given', 'predicted', 'none')
    )
    what = f'seed {seed}, predictor {predictor}: SRCC'
    return [
        Claim(f'{what}, given text', given),
        Claim(f'{what}, image-only variant', image),
        Claim(f'{what}, text dropped to none', none),
        Claim(f'{what}, predicted text', predicted),
        Claim(f'{what}, predicted - image-only', predicted - image, -0.01, True),
        Claim(f'{what}, predicted - none', predicted - none, 0.02, True),
    ]


def measure_para(seed: int, changes: Changes) -> list[Claim]:
    """Train three models on PARA with one seed, and measure SRCC on its test photographs.

    Args:
        seed: seed of the trainings.
        changes: the data, and what replaces the option file's own.
    """
    srcc, models = {}, {'levels': 'image+levels', 'all': 'all', 'predictor': 'all'}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        for key, variant in models.items():
            model = ModelSpec(key, key, 'para', variant)
            train, test = full_options(model, OPTIONS, out, out, out, seed, changes)
            if key == 'predictor':
                train['network'] |= {'predictor': 'levels', 'predicted_text': 'expectation'}
                train['network']['attributes'] = train['datasets']['train']['attributes']
                for data in train['datasets'].values():
                    data['attribute_labels'] = True
            results = json.loads((train_and_test(train, test, out) / 'para_test.json').read_text())
            sources = results.get('prompt_source') or {'': results}
            srcc |= {(key, source): values['srcc'] for source, values in sources.items()}
    image, without = srcc['levels', ''], srcc['all', '']
    given, predicted, none = (srcc['predictor', s] for s in ('given', 'predicted', 'none'))
    what = f'seed {seed}, predictor levels on PARA: SRCC'
    return [
        Claim(f'{what}, image and levels', image),
        Claim(f'{what}, all without a predictor, given', without),
        Claim(f'{what}, given', given),
        Claim(f'{what}, predicted', predicted),
        Claim(f'{what}, none', none),
        Claim(f'{what}, predicted - image and levels', predicted - image, -0.003, True),
        Claim(f'{what}, given - without a predictor', given - without, -0.005, True),
    ]


def label(
    ratings: Path, images: Path, weights: Path, scale: tuple[float, float], out: Path
) -> None:
    """Write ratings with the mean levels of attributes that a model predicts, on PARA's scales.

    Args:
        ratings: CSV of photographs with ``MOS``, and ``std`` perhaps.
        images: folder of the photographs.
        weights: checkpoint of a model with ``predictor: levels``.
        scale: ends of the scale of ``MOS``.
        out: the CSV to write.
    """
    import pyiqa

    net = pyiqa.create_metric('amhp', pretrained_model_path=str(weights), device='cpu').net
    rated = pd.read_csv(ratings)
    files = [images / name for name in rated['img_name']]
    levels = np.concatenate([read(net, [Image.open(file)]).levels for file in tqdm(files)])
    for name, column in zip(net.config.attributes, levels.T, strict=True):
        low, high = RANGES[name]
        rated[f'attr_{name}'] = low + (column - 1) * (high - low) / (len(net.config.levels) - 1)
    factor = (SCALE[1] - SCALE[0]) / (scale[1] - scale[0])
    rated['MOS'] = SCALE[0] + (rated['MOS'] - scale[0]) * factor
    if 'std' in rated:
        rated['std'] *= factor
    rated.to_csv(out, index=False)


def over_seeds(claims: tuple[Claim, ...]) -> Claim:
    """Average one claim over the seeds, with its range."""
    values = [claim.value for claim in claims]
    what = 'mean over seeds' + claims[0].what[claims[0].what.index(', predictor') :]
    mean = sum(values) / len(values)
    return replace(claims[0], what=what, value=mean, low=min(values), high=max(values))


def main() -> None:
    """Run the command line: train, test, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--predictor', choices=('feature', 'levels'), default='feature')
    parser.add_argument('--dropout', type=float, default=0.2, help='train: text_dropout')
    parser.add_argument('--oasis', action='store_true')
    parser.add_argument('--para', type=Path, help='CSV of photographs of PARA, with attributes')
    parser.add_argument('--images', type=Path, help='folder of these photographs')
    parser.add_argument('--freeze', help='with --para: what is not trained, trunk for example')
    parser.add_argument('--epochs', type=int, help='with --para')
    parser.add_argument(
        '--label-with', type=Path, help='with --para: a model that gives attributes'
    )
    parser.add_argument('--scale', type=float, nargs=2, default=SCALE, help='ends of the ratings')
    arguments = parser.parse_args()
    if arguments.oasis and arguments.predictor == 'levels':
        parser.error('OASIS has no attribute labels: --predictor feature')
    if arguments.para and not arguments.images:
        parser.error('--para needs --images DIR')
    with tempfile.TemporaryDirectory() as folder:
        ratings = arguments.para
        if arguments.label_with:
            ratings = Path(folder, 'labelled.csv')
            of = arguments.para, arguments.images, arguments.label_with, arguments.scale
            label(*of, ratings)
        changes = Changes(
            LITE, arguments.freeze, 'para', ratings, arguments.images, arguments.epochs
        )
        by_seed = [
            measure_para(seed, changes)
            if ratings
            else measure(seed, arguments.predictor, arguments.dropout, arguments.oasis)
            for seed in arguments.seeds
        ]
    claims = [claim for of_seed in by_seed for claim in of_seed]
    if len(by_seed) > 1:
        claims += [over_seeds(same) for same in zip(*by_seed, strict=True)]
    print(f'{machine()}\n\n{table(claims)}')


if __name__ == '__main__':
    main()
