"""``amhp benchmark``: any metrics of pyiqa on any rated images, beside what others published."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pyiqa_amhp.atomic import write_atomically
from pyiqa_amhp.benchmark.evaluate import RESAMPLES, evaluate, range_map
from pyiqa_amhp.benchmark.images import RatedSet
from pyiqa_amhp.benchmark.network import bounded_downloads, reason_for
from pyiqa_amhp.benchmark.published import published_rows
from pyiqa_amhp.benchmark.scores import (
    Journal,
    Judged,
    MetricFailed,
    fingerprint,
    journal_path,
    judge_images,
    typical_seconds,
)
from pyiqa_amhp.benchmark.tables import (
    Row,
    columns,
    failed_row,
    format_value,
    measured_row,
    notes_of,
    write_tables,
)
from pyiqa_amhp.drawing import PREDICTED, RATED, drawing, render_page, svg_uri
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.score import create_metric, scale_ends

Progress = Callable[[Iterable, int, str], Iterable]
NAMED = 3  # unreadable images that a note names


@dataclass(frozen=True)
class Benchmark:
    """What came out.

    Attributes:
        title: the data. rows: measured, then published. files: what was written.
    """

    title: str
    rows: list[Row]
    files: list[Path]


def benchmark(
    metrics: Sequence[str],
    rated: RatedSet,
    out: Path,
    weights: Mapping[str, str] | None = None,
    published: Sequence[str] = (),
    device: str | None = None,
    batch_size: int = 8,
    resamples: int = RESAMPLES,
    progress: Progress = lambda items, total, what: items,
) -> Benchmark:
    """Judge rated images by several metrics and compare.

    Scores are kept in ``out/scores`` as they come, so that an interrupted call goes on where it
    was. A metric that fails is a row with the reason.

    Args:
        metrics: names that ``pyiqa.create_metric`` knows, all no-reference.
        rated: see ``load_rated``.
        out: gets ``results.csv``, ``.md``, ``.tex``, ``.html``.
        weights: a checkpoint for some of the metrics, by name.
        published: tables of ``published.yml`` to put below.
        resamples: of the bootstrap.
        progress: wraps what takes long, as ``tqdm`` does.

    Raises:
        AMHPError: a name that is no metric, or weights for a metric that is not asked for.
    """
    out, weights = Path(out).expanduser(), dict(weights or {})
    metrics = list(dict.fromkeys(metrics))
    _check_names(metrics, weights)
    below = [row for name in published for row in published_rows(name)]
    rows, plots = [], []
    for name in metrics:
        row, predicted = _measure(
            name, rated, out, weights.get(name), device, batch_size, resamples, progress
        )
        rows.append(row)
        if predicted is not None:
            plots.append((row, predicted))
    title = f'Benchmark: {rated.title}'
    files = write_tables([*rows, *below], out / 'results', title)
    files.append(_write_page(out / 'results.html', title, rated, [*rows, *below], plots))
    return Benchmark(title, [*rows, *below], files)


def _check_names(metrics: Sequence[str], weights: Mapping[str, str]) -> None:
    import pyiqa

    known = pyiqa.list_models('NR')
    if not metrics:
        raise AMHPError('no metric to measure; give some with --metrics')
    if unknown := [name for name in metrics if name not in known]:
        raise AMHPError(
            f'{unknown[0]!r} is not a no-reference metric of pyiqa; expected some of '
            f'{", ".join(known)}'
        )
    if extra := sorted(weights.keys() - set(metrics)):
        raise AMHPError(f'weights for {extra[0]!r}, which is not among the metrics')


def _measure(
    name: str,
    rated: RatedSet,
    out: Path,
    weights: str | None,
    device: str | None,
    batch_size: int,
    resamples: int,
    progress: Progress,
) -> tuple[Row, np.ndarray | None]:
    """A row, and the scores ``(N,)`` if there are any."""
    method = f'{name} ({Path(weights).name})' if weights else name
    with bounded_downloads() as problem:
        try:
            metric = create_metric(name, weights, device)
            judged = judge_images(
                metric,
                rated.paths,
                rated.texts,
                Journal(journal_path(out / 'scores', method)),
                fingerprint(metric),
                progress,
                method,
                batch_size,
            )
        except MetricFailed as error:
            return failed_row(method, str(error)), None
        except Exception as error:  # other people's metrics fail in many ways
            return failed_row(method, reason_for(error, problem)), None
    predicted = np.array([np.nan if j.score is None else j.score for j in judged], np.float64)
    evaluation = evaluate(
        predicted,
        rated.mos,
        _bins(judged),
        rated.dist,
        threshold=rated.threshold,
        lower_better=metric.lower_better,
        mapping=range_map(scale_ends(metric), rated.scale, metric.lower_better),
        no_dist='no distributions' if rated.dist is not None else 'the ratings are means only',
        resamples=resamples,
    )
    text_source = rated.text_source if any(j.text for j in judged) else 'none'
    notes = [*_left_out(judged), *(['lower is better: correlations negated'] * metric.lower_better)]
    return measured_row(method, evaluation, text_source, typical_seconds(judged), notes), predicted


def _bins(judged: Sequence[Judged]) -> np.ndarray | None:
    """Distributions ``(N, m)``, NaN where there is no score; None unless all others have one."""
    lengths = {len(j.bins) for j in judged if j.score is not None}
    if len(lengths) != 1 or lengths == {0}:
        return None
    [m] = lengths
    return np.array([j.bins if j.score is not None else (np.nan,) * m for j in judged])


def _left_out(judged: Sequence[Judged]) -> list[str]:
    notes = []
    for what, reasons in (
        ('could not be read', [j.unreadable for j in judged if j.unreadable]),
        ('made the metric fail', [j.failed for j in judged if j.failed]),
    ):
        if reasons:
            some = '; '.join(reasons[:NAMED]) + ('; ...' if len(reasons) > NAMED else '')
            notes.append(f'{len(reasons)} images {what}: {some}')
    return notes


def _write_page(
    path: Path,
    title: str,
    rated: RatedSet,
    rows: Sequence[Row],
    plots: Sequence[tuple[Row, np.ndarray]],
) -> Path:
    shown = columns(rows)
    page = render_page(
        Path(__file__).with_name('page.html'),
        title=title,
        notes=rated.notes,
        header=[name for _, name in shown],
        rows=[(row, [format_value(key, row.values.get(key)) for key, _ in shown]) for row in rows],
        remarks=notes_of(rows),
        pictures=[_scatter(rated, row, predicted) for row, predicted in plots],
    )
    return write_atomically(path, lambda file: file.write_text(page, encoding='utf-8'))


def _scatter(rated: RatedSet, row: Row, predicted: np.ndarray) -> tuple[str, str]:
    """A picture of predicted over rated scores, and its description."""
    srcc = format_value('srcc', row.values.get('srcc')).partition(' [')[0]
    with drawing() as new_figure:
        figure = new_figure(figsize=(4.6, 4.0), layout='constrained')
        axes = figure.add_subplot(xlabel='rated MOS', ylabel='score')
        axes.scatter(rated.mos, predicted, s=12, color=PREDICTED, alpha=0.5, linewidths=0)
        if not row.mapping and row.values['mse'].value is not None:  # on one scale
            low = min(rated.mos.min(), np.nanmin(predicted))
            high = max(rated.mos.max(), np.nanmax(predicted))
            axes.plot([low, high], [low, high], color=RATED, linewidth=1)
        axes.set_title(f'{row.method}: SRCC {srcc}', loc='left', fontsize=10.5)
        return svg_uri(figure), f'scores of {row.method} over rated MOS'
