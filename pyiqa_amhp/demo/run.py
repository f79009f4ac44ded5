"""``amhp demo``: make data, train and test two small models, and write a report."""

import itertools
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from pyiqa_amhp.datasets.csv import parse_csv
from pyiqa_amhp.datasets.ratings import LEVELS
from pyiqa_amhp.demo.data import make_demo_data
from pyiqa_amhp.demo.report import Example, ModelResult, Report, write_card, write_report
from pyiqa_amhp.demo.training import (
    ENCODERS,
    METRICS,
    NOTE,
    choose_encoder,
    test_options,
    train_options,
)
from pyiqa_amhp.train.pipeline import best_checkpoint, read_curve, train_and_test
from pyiqa_amhp.utils.files import check_folder, write_atomically, write_text

# Variants to train: the full model, and the image alone (last and first row of Table 4).
VARIANTS = {'full': 'all', 'image': 'image'}
TITLES = {'full': 'image + attributes + quality levels', 'image': 'image only'}
# Examples to show: caption, kind of comment, column to sort by, rank from 0 (lowest) to 1. Each is
# taken from another source photograph.
EXAMPLES = (
    ('The most liked', 'attribute', 'MOS', 1),
    ('In the middle', 'attribute', 'MOS', 0.5),
    ('The least liked', 'attribute', 'MOS', 0),
    ('Closest prediction', 'attribute', 'error', 0),
    ('Largest error', 'attribute', 'error', 1),
    ('Without a comment', 'none', 'error', 0.5),
    ('Only empty praise', 'praise', 'error', 0.5),
)


def run_demo(
    out: Path, seed: int = 0, scale: float = 1.0, encoder: str | None = None
) -> dict[str, dict[str, float]]:
    """Run the whole example offline; see the README.

    Args:
        out: folder that gets ``data/``, ``experiments/``, ``results/``, the option files,
            ``metrics.json``, ``report.html``, ``card.png``, ``amhp_demo.pth`` and ``scores.csv``.
        seed: seed of everything random. The same seed gives the same numbers (on the same machine
            with the same versions of the libraries).
        scale: number of images, and with it of training steps, relative to the full 1,401.
        encoder: key of ``training.ENCODERS``; None: see ``choose_encoder``.

    Returns:
        The metrics on the held-out photographs: ``{'full': {'srcc': ...}, 'image': {...}}``.

    Raises:
        AMHPError: unknown encoders, a missing package, or a folder that cannot be written.
    """
    encoder = choose_encoder(encoder)
    start, out, console = time.time(), check_folder(out).resolve(), Console()
    out.mkdir(parents=True, exist_ok=True)
    for folder, name in itertools.product(('experiments', 'results', 'tb_logger'), VARIANTS):
        # Otherwise pyiqa renames an existing folder and keeps it.
        shutil.rmtree(out / folder / f'demo_{name}', ignore_errors=True)
    console.print(f'Encoder: {ENCODERS[encoder].title}.', soft_wrap=True, highlight=False)
    console.print(f'[yellow]{NOTE}[/]', soft_wrap=True, highlight=False)
    console.rule('1 of 4: photographs, raters and comments')
    data = make_demo_data(out / 'data', seed, scale)
    console.print(f'{len(data)} images in {out / "data"}')
    results = {}
    for number, name in enumerate(VARIANTS, start=2):
        console.rule(f'{number} of 4: training and testing "{name}" ({TITLES[name]})')
        results[name] = train_one(out, name, seed, data, encoder)
    metrics = {name: result.metrics for name, result in results.items()}
    write_text(out / 'metrics.json', json.dumps(metrics, indent=2) + '\n')
    console.rule('4 of 4: scores through pyiqa.create_metric, and the report')
    best = best_checkpoint(out, 'demo_full')
    write_atomically(out / 'amhp_demo.pth', lambda file: file.write_bytes(best.read_bytes()))
    examples = pick_examples(out, data)
    score_examples(out, examples, console)
    report = Report(
        models=results,
        examples=examples,
        levels=LEVELS,
        splits=_by_name(data['split'].value_counts()),
        sources=_by_name(data.groupby('split')['source'].nunique()),
        comments=_by_name(data.loc[data['split'] == 'test', 'comment_kind'].value_counts()),
        seed=seed,
        seconds=time.time() - start,
        encoder=ENCODERS[encoder].title,
        note=NOTE,
    )
    write_card(out / 'card.png', examples[:3], LEVELS, NOTE)
    page = write_report(out / 'report.html', report)
    console.print(_metrics_table(metrics))
    console.print(f'{report.seconds:.0f} s. Open {page}')
    return metrics


def train_one(out: Path, variant: str, seed: int, data: pd.DataFrame, encoder: str) -> ModelResult:
    """Train and test one model as ``amhp train`` and ``amhp test`` do."""
    name = f'demo_{variant}'
    train_images = int((data['split'] == 'train').sum())
    results = train_and_test(
        train_options(out, name, seed, train_images, VARIANTS[variant], encoder),
        test_options(out, name, seed, encoder),
        out,
    )
    metrics = json.loads((results / 'demo_test.json').read_text())
    predicted = pd.read_csv(results / 'demo_test.csv')
    return ModelResult(
        title=TITLES[variant],
        metrics={key: metrics[key] for key in METRICS},
        predicted=predicted['score'].to_numpy(),
        rated=predicted['MOS'].to_numpy(),
        losses=read_curve(out, name, 'losses/l_mos'),
        validation=read_curve(out, name, 'val_metrics/demo_val/srcc'),
    )


def pick_examples(out: Path, data: pd.DataFrame) -> list[Example]:
    """Pick held-out images by MOS, by the error of the prediction, and by kind of comment.

    Each is taken from another source photograph.
    """
    table = parse_csv(out / 'results' / 'demo_full' / 'demo_test.csv', ('img_path', 'text'))
    table['img_name'] = [Path(path).name for path in table['img_path']]
    table = table.merge(data[['img_name', 'comment_kind', 'source']], on='img_name')
    table['error'] = (table['score'] - table['MOS']).abs()
    picks: dict[str, pd.Series] = {}
    for caption, kind, column, rank in EXAMPLES:
        rows = table[table['comment_kind'] == kind].sort_values(column, kind='stable')
        if len(rows):
            picks[caption] = rows.iloc[round(rank * (len(rows) - 1))]
            table = table[table['source'] != picks[caption]['source']]
    return [
        Example(
            image=Path(row['img_path']),
            text=row['text'],
            rated=row['MOS'],
            predicted=row['score'],
            rated_dist=json.loads(row['rated_dist']),
            predicted_dist=json.loads(row['dist']),
            caption=caption,
        )
        for caption, row in picks.items()
    ]


def score_examples(out: Path, examples: list[Example], console: Console) -> None:
    """Score the examples as a user would, with and without their comments."""
    import pyiqa

    metric = pyiqa.create_metric(
        'amhp', pretrained_model_path=str(out / 'amhp_demo.pth'), device='cpu'
    )
    rows: list[dict[str, Any]] = [
        {
            'image': example.image.name,
            'rated': example.rated,
            'score': float(metric(str(example.image), text=example.text)),
            'score_without_text': float(metric(str(example.image))),
            'text': example.text,
            'note': NOTE,
        }
        for example in examples
    ]
    frame = pd.DataFrame(rows)
    write_atomically(out / 'scores.csv', lambda file: frame.to_csv(file, index=False))
    table = Table('image', 'rated', 'with text', 'without', 'text', title='Held-out examples')
    table.title_justify = table.caption_justify = 'left'
    table.caption = f'[yellow]{NOTE}[/]'
    for column in table.columns[1:4]:
        column.justify = 'right'
    for row in rows:
        numbers = (f'{row[key]:.2f}' for key in ('rated', 'score', 'score_without_text'))
        table.add_row(row['image'], *numbers, row['text'])
    console.print(table)


def _by_name(counts: pd.Series) -> dict[str, int]:
    return {str(name): int(count) for name, count in counts.items()}


def _metrics_table(metrics: dict[str, dict[str, float]]) -> Table:
    table = Table(title='Held-out photographs', title_justify='left')
    table.caption, table.caption_justify = f'[yellow]{NOTE}[/]', 'left'
    table.add_column('model', no_wrap=True)
    for key in METRICS:
        table.add_column(key.upper(), justify='right')
    for name, values in metrics.items():
        table.add_row(name, *(f'{values[key]:.3f}' for key in METRICS))
    return table
