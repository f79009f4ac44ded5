"""Models behind the paper's Tables 1 to 5 and Figures 3 and 4, and their option files."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from pyiqa_amhp.datasets.csv import parse_csv
from pyiqa_amhp.datasets.raw import TRAIN
from pyiqa_amhp.demo import training as demo
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.config import LITE
from pyiqa_amhp.train.pipeline import best_checkpoint

ALL_METRICS = ('acc', 'srcc', 'plcc', 'mse', 'emd1', 'emd2')
# PARA's attributes in the order of Table 5, each with the closest attribute of the demo's data.
DEMO_ATTRIBUTES = {
    'content': 'content',
    'composition': 'composition',
    'color': 'color',
    'light': 'light',
    'depth_of_field': 'focus',
    'object_emphasis': 'steadiness',
}
DEMO_LABELS = {'text_source': 'labels', 'attr_range': [1, 5]}
SPLITS = ('official_split', 'split')  # columns, in this order
WITHOUT_ATTRIBUTES = {'all': 'image+levels', 'image+attributes': 'image'}


@dataclass(frozen=True)
class ModelSpec:
    """One model to train and test.

    Attributes:
        label: name of its row, as in the paper.
        key: name of its files.
        dataset: ava, para or aadb.
        variant: variant of the architecture.
        attributes: attributes whose labels are the text; None for those in the option files.
        validate_on: split for validation: ``val``, or ``test`` to get a curve over test images.
    """

    label: str
    key: str
    dataset: str
    variant: str = 'all'
    attributes: tuple[str, ...] | None = None
    validate_on: str = 'val'

    @property
    def text_source(self) -> str:
        """Kind of text that the model reads: ``comments``, ``labels`` or ``none``."""
        if self.variant in ('image', 'image+levels'):
            return 'none'
        return 'comments' if self.dataset == 'ava' else 'labels'


@dataclass(frozen=True)
class ExperimentPlan:
    """One table or figure of the paper.

    Attributes:
        title: title of the table or figure.
        models: the models that it needs.
        metrics: the columns of a table; empty for figures.
        published: name of the published table to compare with; '' for figures.
    """

    title: str
    models: tuple[ModelSpec, ...]
    metrics: tuple[str, ...] = ()
    published: str = ''


AMHP = {name: ModelSpec('AMHP', f'{name}_all', name) for name in ('ava', 'para', 'aadb')}
CLIP = {name: ModelSpec('CLIP', f'{name}_levels', name, 'image+levels') for name in AMHP}
VARIANTS = (
    ModelSpec('Img', 'ava_image', 'ava', 'image'),
    ModelSpec('Img + Attr', 'ava_attributes', 'ava', 'image+attributes'),
    ModelSpec('Img + Qual', 'ava_levels', 'ava', 'image+levels'),
    ModelSpec('Img + Attr + Qual', 'ava_all', 'ava'),
)
ATTRIBUTE_SUBSETS = tuple(
    ModelSpec(label, f'para_{n}_attributes', 'para', attributes=tuple(DEMO_ATTRIBUTES)[:n])
    for n, label in enumerate(
        ('Content', '+ Composition', '+ Color', '+ Light', '+ Depth of field', '+ Object emphasis'),
        start=1,
    )
)

PLANS = {
    'table1': ExperimentPlan('AVA', (AMHP['ava'],), ALL_METRICS, 'table1'),
    'table2': ExperimentPlan('PARA', (AMHP['para'],), ('acc', 'srcc', 'plcc'), 'table2'),
    'table3': ExperimentPlan('AADB', (AMHP['aadb'],), ('srcc',), 'table3'),
    'table4': ExperimentPlan('Components, AVA', VARIANTS, ALL_METRICS, 'table4'),
    'table5': ExperimentPlan('Attributes, PARA', ATTRIBUTE_SUBSETS, ('srcc', 'plcc'), 'table5'),
    'fig3': ExperimentPlan(
        'Test images', tuple(model for name in AMHP for model in (AMHP[name], CLIP[name]))
    ),
    'fig4': ExperimentPlan(
        'SRCC and PLCC by epoch, AVA',
        (ModelSpec('AMHP', 'ava_curve', 'ava', validate_on='test'),),
    ),
}


@dataclass(frozen=True)
class Changes:
    """What replaces the shipped option files' own, each of them None for no change.

    Attributes:
        encoder: name of the encoders (``backbone``); EfficientNet-Lite0 has its own option files.
        freeze: what stays as it is, see ``AMHPModel``.
        dataset: data set of a table that the paper measured on another one.
        ratings: CSV in the place of the data set's meta file, with ``official_split`` or ``split``.
            Without columns ``attr_*`` no model reads attributes.
        images: folder of its images.
        epochs: number of epochs to train.
    """

    encoder: str | None = None
    freeze: str | None = None
    dataset: str | None = None
    ratings: Path | None = None
    images: Path | None = None
    epochs: int | None = None

    def of(self, plan: ExperimentPlan) -> ExperimentPlan:
        """Return the plan with its models on the data that there are.

        Raises:
            AMHPError: another data set for models of several data sets, or ratings for these.
        """
        if self.dataset not in (None, *AMHP):
            raise AMHPError(f'data set {self.dataset!r}: expected {", ".join(AMHP)}')
        datasets = {model.dataset for model in plan.models}
        if len(datasets) > 1 and (self.dataset or self.ratings):
            found = ', '.join(sorted(datasets))
            raise AMHPError(
                f'{plan.title}: has models of {found}; leave out the data set and the ratings'
            )
        models = []
        for model in plan.models:
            if self.dataset and self.dataset != model.dataset:
                key = model.key.replace(model.dataset, self.dataset)
                model = replace(model, key=key, dataset=self.dataset)
            if not self._has_attributes:
                model = replace(model, variant=WITHOUT_ATTRIBUTES.get(model.variant, model.variant))
            models.append(model)
        title = plan.title
        if self.dataset and self.dataset not in datasets:
            title = f'{title.partition(",")[0]}, {self.dataset.upper()}'
        return replace(plan, models=tuple(models), title=title)

    def apply(self, opt: dict[str, Any]) -> None:
        """Change the options of a training or a test in place."""
        for data in opt['datasets'].values():
            if self.ratings:
                data['meta_info_file'] = str(self.ratings.resolve())
                data['split_index'] = self._split_column
                if not self._has_attributes:
                    data['text_source'] = 'none'
            if self.images:
                data['dataroot_target'] = str(self.images.resolve())
            if self.freeze and 'train' in opt:
                data['freeze'] = self.freeze
        if 'train' not in opt:
            return
        if self.encoder:
            opt['network']['backbone'] = self.encoder
        if self.freeze:
            opt['train']['freeze'] = self.freeze
        if self.epochs:
            opt['train']['total_epoch'] = self.epochs

    @cached_property
    def _columns(self) -> list[str]:
        """Columns of the ratings; it is read once for all models."""
        return list(parse_csv(self.ratings, nrows=0).columns) if self.ratings else []

    @property
    def _split_column(self) -> str:
        for name in SPLITS:
            if name in self._columns:
                return name
        raise AMHPError(f'{self.ratings}: expected a column {" or ".join(SPLITS)}')

    @property
    def _has_attributes(self) -> bool:
        """Whether models can read attributes: they can with the shipped files' own data."""
        return not self.ratings or any(name.startswith('attr_') for name in self._columns)


NO_CHANGES = Changes()


def small_options(
    model: ModelSpec, out: Path, seed: int, train_images: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Make the options to train and test the demo's model on the demo's data.

    The demo's attribute labels stand in for those of PARA and AADB.

    Args:
        model: the model.
        out: folder with the demo's data; it gets the experiment.
        seed: seed of the training.
        train_images: number of images to train on.

    Returns:
        The options of the training, and those of the test.
    """
    data: dict[str, Any] = {}
    if model.dataset != 'ava':
        names = model.attributes or (
            tuple(DEMO_ATTRIBUTES) if model.dataset == 'para' else ('color', 'light', 'content')
        )
        data = {**DEMO_LABELS, 'attributes': [DEMO_ATTRIBUTES[name] for name in names]}
    train = demo.train_options(out, model.key, seed, train_images, model.variant, **data)
    if model.validate_on == 'test':
        train['datasets']['val'].update(
            demo.data_options(out, 'test', **data), phase='val', override_phase='test'
        )
    return train, demo.test_options(out, model.key, seed, **data)


def full_options(
    model: ModelSpec,
    options: Path,
    root: Path,
    meta: Path,
    out: Path,
    seed: int,
    changes: Changes = NO_CHANGES,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Make the options to train and test on a whole data set, from the shipped files.

    Args:
        model: the model.
        options: folder of the shipped option files.
        root: folder with the folders AVA, PARA and AADB.
        meta: folder that ``amhp prepare`` wrote to.
        out: folder that gets the experiment.
        seed: seed of the training.
        changes: what replaces the files' own.

    Returns:
        The options of the training, and those of the test.

    Raises:
        AMHPError: an option file or the data set's meta file is missing.
    """
    lite = '_lite' if changes.encoder == LITE else ''
    train = _read_shipped(options / f'train_amhp_{model.dataset}{lite}.yml')
    test = _read_shipped(options / f'test_amhp_{model.dataset}.yml')
    for opt in (train, test):
        opt.update(name=model.key, manual_seed=seed)
        for data in opt['datasets'].values():
            file = changes.ratings or meta / Path(data['meta_info_file']).name
            if not file.is_file():
                raise AMHPError(
                    f'{file}: no such file; make it with amhp prepare {model.dataset}, or give '
                    '--meta'
                )
            data['meta_info_file'] = str(file)
            images = Path(data['dataroot_target']).relative_to('datasets')
            data['dataroot_target'] = str(root / images)
            if 'comments_file' in data:
                data['comments_file'] = str(meta / Path(data['comments_file']).name)
            if model.attributes:
                data['attributes'] = list(model.attributes)
        changes.apply(opt)
    train['network']['variant'] = model.variant
    if model.validate_on == 'test':
        train['datasets']['val'].update(override_phase='test')
        train['val']['val_freq'] = _steps_in_epoch(train['datasets']['train'])
    elif changes.ratings:  # few images: at least one validation an epoch
        steps = _steps_in_epoch(train['datasets']['train'])
        train['val']['val_freq'] = min(steps, train['val']['val_freq'])
    test['network']['pretrained_model_path'] = str(best_checkpoint(out, model.key))
    return train, test


def _steps_in_epoch(data: dict[str, Any]) -> int:
    """Count the steps of an epoch; a last batch that is not full is left out."""
    column = data['split_index']
    split = parse_csv(data['meta_info_file'], (column,), usecols=[column])[column]
    images = int(split.isin([str(TRAIN), 'train']).sum())
    return max(1, images // data['batch_size_per_gpu'])


def _read_shipped(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise AMHPError(
            f'{path}: no such file; give the folder of the option files with --options (they are '
            'in the repository, not in the installed package)'
        )
    return yaml.safe_load(path.read_text(encoding='utf-8'))
