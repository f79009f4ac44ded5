"""``amhp reproduce``: train and test for a table or figure of the paper, and write it."""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from pyiqa_amhp.datasets.csv import parse_csv
from pyiqa_amhp.datasets.ratings import SCALES
from pyiqa_amhp.demo.data import CSV_NAME, make_demo_data
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.evaluation.figures import Example, write_fig3, write_fig4
from pyiqa_amhp.evaluation.measures import MEASURES, Evaluation, Value, evaluate
from pyiqa_amhp.evaluation.plans import (
    NO_CHANGES,
    PLANS,
    Changes,
    ExperimentPlan,
    ModelSpec,
    full_options,
    small_options,
)
from pyiqa_amhp.evaluation.published import published_data, published_rows
from pyiqa_amhp.evaluation.tables import Row, compare, measured_row, write_tables
from pyiqa_amhp.train.pipeline import read_curve, train_and_test
from pyiqa_amhp.utils.files import check_folder

SMALL_NOTE = (
    "small: the demo's photographs, simulated raters and a tiny model from scratch; it shows that "
    'everything runs, and a difference from the published figures means nothing'
)
EXAMPLES_PER_DATASET = 2  # paper, Fig. 3: two test images of each data set


@dataclass(frozen=True)
class Reproduction:
    """Result of ``reproduce``.

    Attributes:
        title: the table or figure, and the data that it was measured on.
        rows: rows of a table, measured beside published; empty for figures.
        files: the files that were written.
    """

    title: str
    rows: list[Row]
    files: list[Path]


def reproduce(
    what: str,
    out: Path,
    root: Path = Path('datasets'),
    meta: Path = Path('datasets_meta'),
    options: Path = Path('options'),
    small: bool = False,
    seeds: Sequence[int] = (0,),
    scale: float = 1.0,
    changes: Changes = NO_CHANGES,
) -> Reproduction:
    """Train the models of a table or figure of the paper, test them, and write it.

    A model that was trained before with the same options is not trained again.

    Args:
        what: ``table1`` .. ``table5``, ``fig3`` or ``fig4``.
        out: folder that gets ``experiments/``, ``results/``, and the table or figure.
        root: folder of the data sets, with the folders AVA, PARA and AADB.
        meta: folder that ``amhp prepare`` wrote to.
        options: folder of the shipped option files.
        small: train the demo's model on the demo's data instead.
        seeds: seeds of the trainings, and of the demo's data. A table has the means over them; a
            figure is that of the first.
        scale: size of the demo's data relative to the full demo.
        changes: what replaces the shipped option files' own; not for ``small``.

    Raises:
        AMHPError: there is no such table or figure, no seed, data are missing, or changes that do
            not fit.
    """
    if what not in PLANS:
        raise AMHPError(f'{what!r}: expected {", ".join(PLANS)}')
    if not seeds:
        raise AMHPError('no seed; give one or more')
    if small and changes != NO_CHANGES:
        raise AMHPError(
            'a small reproduction has its own model and data; leave out the encoder, the data set, '
            'the ratings and what is frozen'
        )
    plan, out = changes.of(PLANS[what]), check_folder(out).resolve()
    predictions: dict[int, dict[str, pd.DataFrame]] = {}
    for seed in seeds if plan.metrics else seeds[:1]:
        runs = out / f'small_{seed}' if small else out / f'seed_{seed}' if len(seeds) > 1 else out
        if small:
            train_images = _make_demo_data(runs / 'data', seed, scale)
            wanted = [small_options(m, runs, seed, train_images) for m in plan.models]
        else:
            wanted = [
                full_options(m, options, root, meta, runs, seed, changes) for m in plan.models
            ]
            runs.mkdir(parents=True, exist_ok=True)
        predictions[seed] = {
            train['name']: parse_csv(_run(train, test, runs), ('img_path', 'text'))
            for train, test in wanted
        }
    title = f'{what}: {plan.title} ({SMALL_NOTE if small else "measured here"})'
    if what == 'fig3':
        [(seed, of_seed)] = predictions.items()
        examples = _examples(plan.models, of_seed, seed, small)
        return Reproduction(title, [], write_fig3(out, title, examples))
    if what == 'fig4':
        return Reproduction(title, [], write_fig4(out, title, _curves(runs, plan.models[0])))
    rows = table_rows(plan, list(predictions.values()), small)
    is_of_paper = plan.title == PLANS[what].title
    notes = [] if is_of_paper else [f'published: {PLANS[what].title}; other photographs']
    return Reproduction(title, rows, write_tables(rows, out / what, title, notes))


def table_rows(
    plan: ExperimentPlan, predictions: Sequence[Mapping[str, pd.DataFrame]], small: bool = False
) -> list[Row]:
    """Make the rows measured, published and difference for each model, then the other methods.

    There is no difference if the paper's figures are of another data set.

    Args:
        plan: one of ``table1`` .. ``table5``.
        predictions: for each seed, test results as ``amhp test`` writes them, by the keys of the
            plan's models.
        small: whether the ratings are the demo's, on AVA's scale.
    """
    published = {row.method: row for row in published_rows(plan.published)}
    data = published_data(plan.published)
    rows = []
    for model in plan.models:
        evaluations = [
            evaluate(
                of_seed[model.key]['score'],
                of_seed[model.key]['MOS'],
                _parse_lists(of_seed[model.key]['dist']),
                _parse_lists(of_seed[model.key]['rated_dist']),
                threshold=SCALES['ava' if small else model.dataset].threshold,
            )
            for of_seed in predictions
        ]
        mean, notes = mean_evaluation(evaluations, plan.metrics)
        row = measured_row(model.label, mean, model.text_source, notes=notes)
        row = replace(row, values={key: row.values[key] for key in plan.metrics})
        rows += compare(row, published.pop(model.label)) if model.dataset == data else [row]
    return rows + list(published.values())


def mean_evaluation(
    evaluations: Sequence[Evaluation], measures: Sequence[str]
) -> tuple[Evaluation, list[str]]:
    """Average the values of several seeds, and the ends of their intervals (our choice).

    Args:
        evaluations: results of the same images, one for each seed.
        measures: keys of the measures that the notes are about.

    Returns:
        The means, and notes with the values of each seed.
    """
    if len(evaluations) == 1:
        return evaluations[0], []
    means, notes = {}, []
    for key, name, _ in MEASURES:
        values = [evaluation.values[key] for evaluation in evaluations]
        reasons = [value.reason for value in values if value.value is None]
        if reasons:
            means[key] = Value(reason=reasons[0])
            continue
        value, low, high = (
            None if None in column else float(np.mean(column))
            for column in ([getattr(v, end) for v in values] for end in ('value', 'low', 'high'))
        )
        means[key] = replace(values[0], value=value, low=low, high=high)
        if key in measures:
            notes.append(f'{name} by seed: {", ".join(f"{v.value:.4f}" for v in values)}')
    return replace(evaluations[0], values=means), notes


def _make_demo_data(folder: Path, seed: int, scale: float) -> int:
    """Make the demo's data unless they are there, and count the images to train on."""
    csv, made_with = folder / CSV_NAME, folder / 'made_with.json'
    wanted = json.dumps({'seed': seed, 'scale': scale})
    if not (made_with.is_file() and made_with.read_text() == wanted and csv.is_file()):
        make_demo_data(folder, seed, scale)
        made_with.write_text(wanted)
    return int((pd.read_csv(csv)['split'] == 'train').sum())


def _run(train: dict[str, Any], test: dict[str, Any], root: Path) -> Path:
    """Train and test, unless that was done with the same options; return the predictions' CSV."""
    [data] = test['datasets'].values()
    name = train['name']
    predictions = root / 'results' / name / f'{data["name"]}.csv'
    files = {root / f'{kind}_{name}.yml': opt for kind, opt in (('train', train), ('test', test))}
    same = all(file.is_file() and _read_yaml(file) == opt for file, opt in files.items())
    if not (same and predictions.is_file()):
        for folder in ('experiments', 'results', 'tb_logger'):
            shutil.rmtree(root / folder / name, ignore_errors=True)
        train_and_test(train, test, root)
    return predictions


def _read_yaml(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text(encoding='utf-8'))


def _parse_lists(cells: Iterable[str]) -> np.ndarray:
    return np.array([json.loads(cell) for cell in cells])


def _examples(
    models: Sequence[ModelSpec], predictions: Mapping[str, pd.DataFrame], seed: int, small: bool
) -> list[Example]:
    """Draw test images of each data set by the seed, with the scores of both models.

    Args:
        models: AMHP and CLIP in turn, a pair for each data set.
        predictions: test results by the keys of the models.
        seed: seed of the draw.
        small: whether the images and ratings are the demo's, on AVA's scale.
    """
    examples = []
    for number, (amhp, clip) in enumerate(zip(models[::2], models[1::2], strict=True)):
        by_amhp = predictions[amhp.key].set_index('img_path')
        by_clip = predictions[clip.key].set_index('img_path')
        votes = SCALES['ava' if small else amhp.dataset].vote_values
        low, high = votes[0], votes[-1]
        rng = np.random.default_rng([seed, number])
        paths = np.array(by_amhp.index, dtype=object)
        for path in rng.choice(paths, EXAMPLES_PER_DATASET, replace=False):
            scores = (
                by_amhp.loc[path, 'MOS'], by_amhp.loc[path, 'score'], by_clip.loc[path, 'score'],
            )  # fmt: skip
            rated, amhp_score, clip_score = ((score - low) / (high - low) for score in scores)
            examples.append(
                Example(
                    image=Path(path),
                    data=amhp.dataset.upper() + ' (demo data)' * small,
                    text=by_amhp.loc[path, 'text'],
                    rated=rated,
                    amhp=amhp_score,
                    clip=clip_score,
                )
            )
    return examples


def _curves(root: Path, model: ModelSpec) -> dict[str, list[float]]:
    """Read SRCC and PLCC on the test images after each epoch."""
    train = _read_yaml(root / f'train_{model.key}.yml')
    name, steps = train['datasets']['val']['name'], int(train['val']['val_freq'])
    curves = {}
    for metric in ('srcc', 'plcc'):
        by_step = dict(read_curve(root, model.key, f'val_metrics/{name}/{metric}'))
        epochs = range(1, train['train']['total_epoch'] + 1)
        curves[metric.upper()] = [by_step[epoch * steps] for epoch in epochs]
    return curves
