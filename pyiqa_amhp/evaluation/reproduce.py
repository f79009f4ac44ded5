"""``amhp reproduce``: the paper's tables and figures, from training to the printed page."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from pyiqa_amhp.datasets.ratings import SCALES
from pyiqa_amhp.demo.data import CSV_NAME, make_demo_data
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.evaluation import figures
from pyiqa_amhp.evaluation.measures import evaluate
from pyiqa_amhp.evaluation.plans import PLANS, Model, full_options, small_options
from pyiqa_amhp.evaluation.published import published_rows
from pyiqa_amhp.evaluation.tables import Row, compare, measured_row, write_tables
from pyiqa_amhp.train.pipeline import read_curve, train_and_test

SMALL_NOTE = (
    "small: the demo's photographs, simulated raters and a tiny model from scratch; it shows that "
    'everything runs, and a difference from the published figures means nothing'
)
IMAGES_OF_A_SET = 2  # paper, Fig. 3: two test images of each data set


@dataclass(frozen=True)
class Reproduced:
    """What came out.

    Attributes:
        title: what it shows, and on what.
        rows: of a table, measured beside published; empty for figures.
        files: what was written.
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
) -> Reproduced:
    """Train what a table or figure of the paper needs, test it, and write the table or figure.

    A model that was trained before with the same options is not trained again.

    Args:
        what: ``table1`` .. ``table5``, ``fig3``, ``fig4``.
        out: gets ``experiments/``, ``results/``, and the table or figure.
        root: the data sets, in folders AVA, PARA, AADB. meta: what ``amhp prepare`` made of them.
        options: the folder of the shipped option files.
        small: the whole thing on the demo's photographs, with the demo's model.
        seed: of the training, and of the small data.
        scale: share of the small data; tests use less than 1.

    Raises:
        AMHPError: no such table or figure, or data that are missing.
    """
    if what not in PLANS:
        raise AMHPError(f'{what!r}: expected {", ".join(PLANS)}')
    plan, out = PLANS[what], Path(out).expanduser().resolve()
    place = out / f'small_{seed}' if small else out
    if small:
        images = len(_small_photos(place, seed, scale))
        wanted = [small_options(model, place, seed, images) for model in plan.models]
    else:
        wanted = [full_options(model, options, root, meta, place, seed) for model in plan.models]
        place.mkdir(parents=True, exist_ok=True)
    runs = {train['name']: _run(train, test, place) for train, test in wanted}
    title = f'{what}: {plan.title} ({SMALL_NOTE if small else "measured here"})'
    if what == 'fig3':
        files = figures.write_fig3(out, title, _cards(plan.models, runs, seed, small))
        return Reproduced(title, [], files)
    if what == 'fig4':
        curves = _curves(place, plan.models[0])
        return Reproduced(title, [], figures.write_fig4(out, title, curves))
    rows = table_rows(what, {key: pd.read_csv(file) for key, file in runs.items()}, small)
    return Reproduced(title, rows, write_tables(rows, out / what, title))


def table_rows(what: str, predictions: dict[str, pd.DataFrame], small: bool = False) -> list[Row]:
    """Measured, published and difference for each model of a table, then the other methods.

    Args:
        what: ``table1`` .. ``table5``.
        predictions: by the keys of the plan's models, as ``amhp test`` writes them.
        small: the ratings are the demo's, on AVA's scale.
    """
    plan = PLANS[what]
    published = {row.method: row for row in published_rows(plan.published)}
    rows = []
    for model in plan.models:
        table = predictions[model.key]
        evaluation = evaluate(
            table['score'],
            table['MOS'],
            _lists(table['dist']),
            _lists(table['rated_dist']),
            threshold=SCALES['ava' if small else model.dataset].threshold,
        )
        wanted = {key: evaluation.values[key] for key in plan.metrics}
        row = measured_row(model.label, evaluation, _text_source(model))
        row = Row(**{**vars(row), 'values': wanted})
        rows += compare(row, published.pop(model.label))
    return rows + list(published.values())


def _small_photos(place: Path, seed: int, scale: float) -> pd.DataFrame:
    """The training photographs of the demo, made once for each folder."""
    csv, made_with = place / 'data' / CSV_NAME, place / 'data' / 'made_with.json'
    wanted = json.dumps({'seed': seed, 'scale': scale})
    if not (made_with.is_file() and made_with.read_text() == wanted and csv.is_file()):
        make_demo_data(place / 'data', seed, scale)
        made_with.write_text(wanted)
    table = pd.read_csv(csv)
    return table[table['split'] == 'train']


def _run(train: dict, test: dict, place: Path) -> Path:
    """The predictions of a model, which is trained and tested unless it was with these options."""
    [data] = test['datasets'].values()
    name = train['name']
    predictions = place / 'results' / name / f'{data["name"]}.csv'
    files = {place / f'{kind}_{name}.yml': opt for kind, opt in (('train', train), ('test', test))}
    same = all(file.is_file() and _plain(file) == opt for file, opt in files.items())
    if not (same and predictions.is_file()):
        for folder in ('experiments', 'results', 'tb_logger'):
            shutil.rmtree(place / folder / name, ignore_errors=True)
        train_and_test(train, test, place)
    return predictions


def _plain(file: Path) -> dict:
    return yaml.safe_load(file.read_text(encoding='utf-8'))


def _lists(column: pd.Series) -> np.ndarray:
    return np.array([json.loads(cell) for cell in column])


def _text_source(model: Model) -> str:
    if model.variant in ('image', 'image+levels'):
        return 'none'
    return 'comments' if model.dataset == 'ava' else 'labels'


def _cards(
    models: Sequence[Model], runs: dict[str, Path], seed: int, small: bool
) -> list[figures.Card]:
    """Test images drawn by the seed, two of each data set, with the scores of both models."""
    cards = []
    for number, (amhp, clip) in enumerate(zip(models[::2], models[1::2], strict=True)):
        ours, theirs = (
            pd.read_csv(runs[model.key], keep_default_na=False).set_index('img_path')
            for model in (amhp, clip)
        )
        scale = SCALES['ava' if small else amhp.dataset].vote_values
        low, high = scale[0], scale[-1]
        rng = np.random.default_rng([seed, number])
        for path in rng.choice(np.array(ours.index, dtype=object), IMAGES_OF_A_SET, replace=False):
            scores = (ours.loc[path, 'MOS'], ours.loc[path, 'score'], theirs.loc[path, 'score'])
            rated, by_amhp, by_clip = ((score - low) / (high - low) for score in scores)
            cards.append(
                figures.Card(
                    image=Path(path),
                    data=amhp.dataset.upper() + ' (played by the demo)' * small,
                    text=ours.loc[path, 'text'],
                    rated=rated,
                    amhp=by_amhp,
                    clip=by_clip,
                )
            )
    return cards


def _curves(place: Path, model: Model) -> dict[str, list[float]]:
    """SRCC and PLCC on the test images after each epoch."""
    train = _plain(place / f'train_{model.key}.yml')
    name, steps = train['datasets']['val']['name'], int(train['val']['val_freq'])
    curves = {}
    for metric in ('srcc', 'plcc'):
        points = dict(read_curve(place, model.key, f'val_metrics/{name}/{metric}'))
        # pyiqa goes on for a part of an epoch, and validates once more at its end: not shown
        epochs = range(1, train['train']['total_epoch'] + 1)
        curves[metric.upper()] = [points[epoch * steps] for epoch in epochs]
    return curves
