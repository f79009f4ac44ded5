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
from pyiqa_amhp.evaluation.measures import evaluate
from pyiqa_amhp.evaluation.plans import PLANS, ModelSpec, full_options, small_options
from pyiqa_amhp.evaluation.published import published_rows
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
    seed: int = 0,
    scale: float = 1.0,
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
        seed: seed of the training, and of the demo's data.
        scale: size of the demo's data relative to the full demo.

    Raises:
        AMHPError: there is no such table or figure, or data are missing.
    """
    if what not in PLANS:
        raise AMHPError(f'{what!r}: expected {", ".join(PLANS)}')
    plan, out = PLANS[what], check_folder(out).resolve()
    root_of_runs = out / f'small_{seed}' if small else out
    if small:
        train_images = _make_demo_data(root_of_runs / 'data', seed, scale)
        wanted = [small_options(m, root_of_runs, seed, train_images) for m in plan.models]
    else:
        wanted = [full_options(m, options, root, meta, root_of_runs, seed) for m in plan.models]
        root_of_runs.mkdir(parents=True, exist_ok=True)
    predictions = {
        train['name']: parse_csv(_run(train, test, root_of_runs), ('img_path', 'text'))
        for train, test in wanted
    }
    title = f'{what}: {plan.title} ({SMALL_NOTE if small else "measured here"})'
    if what == 'fig3':
        examples = _examples(plan.models, predictions, seed, small)
        return Reproduction(title, [], write_fig3(out, title, examples))
    if what == 'fig4':
        curves = _curves(root_of_runs, plan.models[0])
        return Reproduction(title, [], write_fig4(out, title, curves))
    rows = table_rows(what, predictions, small)
    return Reproduction(title, rows, write_tables(rows, out / what, title))


def table_rows(
    what: str, predictions: Mapping[str, pd.DataFrame], small: bool = False
) -> list[Row]:
    """Make the rows measured, published and difference for each model, then the other methods.

    Args:
        what: ``table1`` .. ``table5``.
        predictions: test results as ``amhp test`` writes them, by the keys of the plan's models.
        small: whether the ratings are the demo's, on AVA's scale.
    """
    plan = PLANS[what]
    published = {row.method: row for row in published_rows(plan.published)}
    rows = []
    for model in plan.models:
        table = predictions[model.key]
        evaluation = evaluate(
            table['score'],
            table['MOS'],
            _parse_lists(table['dist']),
            _parse_lists(table['rated_dist']),
            threshold=SCALES['ava' if small else model.dataset].threshold,
        )
        row = measured_row(model.label, evaluation, model.text_source)
        row = replace(row, values={key: row.values[key] for key in plan.metrics})
        rows += compare(row, published.pop(model.label))
    return rows + list(published.values())


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
