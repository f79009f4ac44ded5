"""Which models stand behind the paper's Tables 1 to 5 and Figures 3 and 4, as option files."""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from pyiqa_amhp.datasets.raw import TRAIN
from pyiqa_amhp.demo import training as small
from pyiqa_amhp.errors import AMHPError

ALL_METRICS = ('acc', 'srcc', 'plcc', 'mse', 'emd1', 'emd2')
# In the paper's order (Table 5); in the demo's data, what comes nearest to each.
ATTRIBUTES = {
    'content': 'content',
    'composition': 'composition',
    'color': 'color',
    'light': 'light',
    'depth_of_field': 'focus',
    'object_emphasis': 'steadiness',
}
SMALL_LABELS = {'text_source': 'labels', 'attr_range': [1, 5]}


@dataclass(frozen=True)
class Model:
    """One model to train and test.

    Attributes:
        label: of its row, as in the paper.
        key: of its files.
        dataset: ava, para or aadb.
        variant: of the arch.
        attributes: whose labels are the text; None for what is usual for the data set.
        validate_on: ``val``; or ``test``, for a curve over the test images.
    """

    label: str
    key: str
    dataset: str
    variant: str = 'all'
    attributes: tuple[str, ...] | None = None
    validate_on: str = 'val'


@dataclass(frozen=True)
class Plan:
    """A table or a figure.

    Attributes:
        title: what it shows. models: what it needs. metrics: its columns.
        published: the published table that stands beside it; '' for figures.
    """

    title: str
    models: tuple[Model, ...]
    metrics: tuple[str, ...] = field(default=())
    published: str = ''


AMHP = {name: Model('AMHP', f'{name}_all', name) for name in ('ava', 'para', 'aadb')}
CLIP = {
    name: Model('CLIP', f'{name}_levels', name, 'image+levels') for name in ('ava', 'para', 'aadb')
}
VARIANTS = (
    Model('Img', 'ava_image', 'ava', 'image'),
    Model('Img + Attr', 'ava_attributes', 'ava', 'image+attributes'),
    Model('Img + Qual', 'ava_levels', 'ava', 'image+levels'),
    Model('Img + Attr + Qual', 'ava_all', 'ava'),
)
SUBSETS = tuple(
    Model(label, f'para_{n}_attributes', 'para', attributes=tuple(ATTRIBUTES)[:n])
    for n, label in enumerate(
        ('Content', '+ Composition', '+ Color', '+ Light', '+ Depth of field', '+ Object emphasis'),
        start=1,
    )
)

PLANS = {
    'table1': Plan('AVA', (AMHP['ava'],), ALL_METRICS, 'table1'),
    'table2': Plan('PARA', (AMHP['para'],), ('acc', 'srcc', 'plcc'), 'table2'),
    'table3': Plan('AADB', (AMHP['aadb'],), ('srcc',), 'table3'),
    'table4': Plan('Components, AVA', VARIANTS, ALL_METRICS, 'table4'),
    'table5': Plan('Attributes, PARA', SUBSETS, ('srcc', 'plcc'), 'table5'),
    'fig3': Plan('Test images', tuple(m for name in AMHP for m in (AMHP[name], CLIP[name]))),
    'fig4': Plan(
        'SRCC and PLCC by epoch, AVA',
        (Model('AMHP', 'ava_curve', 'ava', validate_on='test'),),
    ),
}


def small_options(model: Model, out: Path, seed: int, images: int) -> tuple[dict, dict]:
    """Options of training and testing on the demo's photographs, with the demo's model.

    PARA's and AADB's labels are played by the demo's.
    """
    data: dict[str, Any] = {}
    if model.dataset != 'ava':
        names = model.attributes or (
            tuple(ATTRIBUTES) if model.dataset == 'para' else ('color', 'light', 'content')
        )
        data = {**SMALL_LABELS, 'attributes': [ATTRIBUTES[name] for name in names]}
    train = small.train_options(out, model.key, seed, images, model.variant, **data)
    if model.validate_on == 'test':
        train['datasets']['val'].update(
            small.data_options(out, 'test', **data), phase='val', override_phase='test'
        )
    return train, small.test_options(out, model.key, seed, **data)


def full_options(
    model: Model, options: Path, root: Path, meta: Path, out: Path, seed: int
) -> tuple[dict, dict]:
    """Options of training and testing on the whole data set, from the shipped files.

    Args:
        options: the folder of the shipped files.
        root: with the folders AVA, PARA, AADB. meta: what ``amhp prepare`` wrote.
        out: where the experiment will lie.
    """
    train, test = (
        _shipped(options / f'{kind}_amhp_{model.dataset}.yml') for kind in ('train', 'test')
    )
    for opt in (train, test):
        opt.update(name=model.key, manual_seed=seed)
        for data in opt['datasets'].values():
            file = meta / Path(data['meta_info_file']).name
            if not file.is_file():
                raise AMHPError(
                    f'{file}: no such file; make it with amhp prepare {model.dataset}, or give '
                    '--meta'
                )
            data['meta_info_file'] = str(file)
            place = Path(data['dataroot_target']).relative_to('datasets')
            data['dataroot_target'] = str(root / place)
            if 'comments_file' in data:
                data['comments_file'] = str(meta / Path(data['comments_file']).name)
            if model.attributes:
                data['attributes'] = list(model.attributes)
    train['network']['variant'] = model.variant
    if model.validate_on == 'test':
        train['datasets']['val'].update(override_phase='test')
        train['val']['val_freq'] = _steps_of_an_epoch(train['datasets']['train'])
    best = out / 'experiments' / model.key / 'models' / 'net_best.pth'
    test['network']['pretrained_model_path'] = str(best)
    return copy.deepcopy(train), copy.deepcopy(test)


def _steps_of_an_epoch(data: dict[str, Any]) -> int:
    """pyiqa leaves out a last batch that is not full."""
    split = pd.read_csv(data['meta_info_file'], usecols=['official_split'])['official_split']
    return max(1, int((split == TRAIN).sum()) // data['batch_size_per_gpu'])


def _shipped(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise AMHPError(
            f'{path}: no such file; give the folder of the option files with --options (they are '
            'in the repository, not in the installed package)'
        )
    return yaml.safe_load(path.read_text(encoding='utf-8'))
