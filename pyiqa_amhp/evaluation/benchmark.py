"""``amhp benchmark``: any metrics of pyiqa on any rated images, beside what others published."""

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.evaluation.measures import RESAMPLES, evaluate, range_map
from pyiqa_amhp.evaluation.network import bounded_downloads, reason_for
from pyiqa_amhp.evaluation.page import write_page
from pyiqa_amhp.evaluation.published import published_data, published_rows
from pyiqa_amhp.evaluation.rated_set import RatedSet
from pyiqa_amhp.evaluation.scores import (
    Journal,
    Judged,
    MetricFailed,
    journal_path,
    judge_images,
    typical_seconds,
)
from pyiqa_amhp.evaluation.tables import Row, failed_row, measured_row, write_tables
from pyiqa_amhp.model.config import AMHPConfig
from pyiqa_amhp.scoring.scorer import create_metric, fingerprint, scale_ends
from pyiqa_amhp.utils.files import write_atomically
from pyiqa_amhp.weights.hub import is_hub_id

Progress = Callable[[Iterable, int, str], Iterable]
NAMED = 3  # unreadable images that a note names


@dataclass(frozen=True)
class Benchmark:
    """What came out.

    Attributes:
        title: the data. rows: measured, then published. files: what was written.
        notes: what holds for the whole table.
    """

    title: str
    rows: list[Row]
    files: list[Path]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """What all metrics of a call share: see ``benchmark``."""

    rated: RatedSet
    out: Path
    device: str | None
    batch_size: int
    resamples: int
    progress: Progress
    no_network: str


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
        metrics: names that ``pyiqa.create_metric`` knows, all no-reference; ``*`` and ``?`` stand
            for any letters, as in ``musiq*``.
        rated: see ``load_rated``.
        out: gets ``results.csv``, ``.md``, ``.tex``, ``.html`` and, with the score of each image
            by each metric, ``predictions.csv``.
        weights: a checkpoint for some of the metrics, by name.
        published: tables of ``published.yml`` to put below.
        device: ``cpu``, ``cuda`` ...; None: a GPU if there is one.
        batch_size: images for each pass through AMHP.
        resamples: of the bootstrap.
        progress: wraps what takes long, as ``tqdm`` does.

    Raises:
        AMHPError: a name that is no metric, weights for a metric that is not asked for, or a
            published table that there is not.
    """
    out, weights = Path(out).expanduser(), dict(weights or {})
    names = _names(metrics, weights)
    below = {name: published_rows(name) for name in published}
    rows: list[Row] = []
    predictions: list[tuple[Row, np.ndarray]] = []
    with bounded_downloads() as problem:
        run = Run(rated, out, device, batch_size, resamples, progress, problem)
        for name in progress(names, len(names), 'Metrics'):
            for row, predicted in _measure(name, weights.get(name), run):
                rows.append(row)
                if predicted is not None:
                    predictions.append((row, predicted))
    title = f'Benchmark: {rated.title}'
    same = [name for name in below if published_data(name) == rated.dataset]
    comparable = rows + [row for name in same for row in below[name]]
    rows = rows + [row for name in below for row in below[name]]
    notes = rated.notes + [
        f'The published rows of {name} were measured on {published_data(name)}, not on these '
        'images: they are no comparison.'
        for name in below
        if name not in same
    ]
    files = write_tables(rows, out / 'results', title, notes)
    files.append(_write_predictions(out / 'predictions.csv', rated, predictions))
    try:
        page = out / 'results.html'
        files.append(write_page(page, title, notes, rated, rows, comparable, predictions))
    except AMHPError as error:  # the tables are there whether or not there is a page
        notes.append(f'no page: {error}')
    return Benchmark(title, rows, files, notes)


def _names(metrics: Sequence[str], weights: Mapping[str, str]) -> list[str]:
    """The metrics that are meant, in their order, each once."""
    import pyiqa

    known, names = pyiqa.list_models('NR'), []
    for given in metrics:
        meant = [name for name in known if fnmatchcase(name, given)]
        if not meant:
            raise AMHPError(
                f'{given!r} is not a no-reference metric of pyiqa; expected some of '
                f'{", ".join(known)}'
            )
        names += meant
    if not names:
        raise AMHPError('no metric to measure; give some with --metrics')
    if extra := sorted(weights.keys() - set(names)):
        raise AMHPError(f'weights for {extra[0]!r}, which is not among the metrics')
    return list(dict.fromkeys(names))


def _measure(name: str, weights: str | None, run: Run) -> list[tuple[Row, np.ndarray | None]]:
    """Rows, each with the scores ``(N,)`` if there are any."""
    named = weights if is_hub_id(weights) else weights and Path(weights).name
    method = f'{name} ({named})' if weights else name
    try:
        with _quiet():
            metric = create_metric(name, weights, run.device)
            made_of = fingerprint(metric)
    except Exception as error:  # other people's metrics fail in many ways
        return [(failed_row(method, reason_for(error, run.no_network)), None)]
    return [
        _measure_with(metric, made_of, method + said, source, run)
        for said, source in _prompt_sources(metric, run.rated)
    ]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what pyiqa prints before downloads, and warnings that old calls of others bring."""
    with redirect_stdout(StringIO()), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield


def _prompt_sources(metric, rated: RatedSet) -> list[tuple[str, str | None]]:
    """Where first-level prompts come from, by what is added to the method's name.

    An AMHP that can predict them is measured with each kind, so that nobody takes what the given
    texts are worth for what the model sees in a bare image.
    """
    if getattr(metric.net, 'predictor', None) is None:
        return [('', None)]
    given = [('', 'given')] * any(rated.texts)
    return [*given, (', predicted text', 'predicted'), (', no text', 'none')]


def _measure_with(
    metric, made_of: str, method: str, source: str | None, run: Run
) -> tuple[Row, np.ndarray | None]:
    """The row of one kind of first-level prompt; ``source`` None: the metric's own way.

    Args:
        made_of: the metric's fingerprint.
    """
    rated = run.rated
    if source:
        metric.net.config = dataclasses.replace(metric.net.config, prompt_source=source)
        made_of = f'{made_of} {source}'
    try:
        with _quiet():
            judged = judge_images(
                metric,
                rated.paths,
                rated.texts,
                Journal(journal_path(run.out / 'scores', method)),
                made_of,
                run.progress,
                method,
                run.batch_size,
            )
    except MetricFailed as error:
        return failed_row(method, str(error)), None
    except Exception as error:
        return failed_row(method, reason_for(error, run.no_network)), None
    predicted = np.array([np.nan if j.score is None else j.score for j in judged], np.float64)
    bins = _bins(judged)
    no_dist = _no_distributions(metric, bins, rated)
    scored = np.array([j.score is not None for j in judged])
    evaluation = evaluate(
        predicted[scored],
        rated.mos[scored],
        None if no_dist else bins[scored],
        None if no_dist else rated.dist[scored],
        threshold=rated.threshold,
        lower_better=metric.lower_better,
        mapping=range_map(_scale(metric, predicted, bins), rated.scale, metric.lower_better),
        no_dist=no_dist,
        resamples=run.resamples,
    )
    deaf = ignores_text(metric)
    texts = 'predicted' if source == 'predicted' else rated.text_source
    text_source = texts if any(j.text for j in judged) and not deaf else 'none'
    notes = _left_out(judged)
    notes += ['lower is better: correlations are of the negated scores'] * metric.lower_better
    notes += ['zero-shot: a text changes nothing'] * deaf
    notes += ['uncalibrated'] * (not getattr(metric.net, 'calibrated', True))
    return measured_row(method, evaluation, text_source, typical_seconds(judged), notes), predicted


def _bins(judged: Sequence[Judged]) -> np.ndarray | None:
    """Distributions ``(N, m)``, NaN where there is no score; None unless all others have one."""
    lengths = {len(j.bins) for j in judged if j.score is not None}
    if len(lengths) != 1 or lengths == {0}:
        return None
    [m] = lengths
    return np.array([j.bins if j.score is not None else (np.nan,) * m for j in judged])


def _scale(metric, predicted: np.ndarray, bins: np.ndarray | None) -> tuple[float, float] | None:
    """The ends of a metric's scale.

    Where the score is the mean of a distribution over 1, 2, .. m they are 1 and m, whatever
    pyiqa's table says (0..10 for NIMA, whose bins are AVA's votes 1..10).
    """
    if bins is not None and _levels_of(metric) is None:
        there = np.isfinite(predicted)
        mean = bins[there] @ np.arange(1, bins.shape[1] + 1)
        if np.allclose(mean, predicted[there], rtol=0, atol=1e-3):
            return 1.0, float(bins.shape[1])
    return scale_ends(metric)


def _no_distributions(metric, bins: np.ndarray | None, rated: RatedSet) -> str:
    """Why distributions are not compared; '' if they are."""
    if rated.dist is None:
        return 'the ratings are means only'
    if bins is None:
        return 'the metric gives no distribution'
    values, m, k = _levels_of(metric), bins.shape[1], len(rated.level_values)
    if values is None and m % k == 0:  # 1..m, merged in groups
        values = np.arange(1, m + 1).reshape(k, -1).mean(axis=1)
    if values is None or len(values) != k or not np.allclose(values, rated.level_values):
        return "the metric's levels are not those of the ratings"
    return ''


def _levels_of(metric) -> tuple[float, ...] | None:
    """The level values of an AMHP; None for other metrics."""
    config = getattr(metric.net, 'config', None)
    return config.level_values if isinstance(config, AMHPConfig) else None


def ignores_text(metric) -> bool:
    """Whether a text changes no score of an AMHP that reads one: before it is trained."""
    fc = getattr(metric.net, 'fc', None)
    return _levels_of(metric) is not None and fc is not None and not fc.weight.any()


def _left_out(judged: Sequence[Judged]) -> list[str]:
    notes = []
    for what, reasons in (
        ('could not be read', [j.unreadable for j in judged if j.unreadable]),
        ('made the metric fail', [j.failed for j in judged if j.failed]),
    ):
        if reasons:
            some = '; '.join(reasons[:NAMED]) + ('; ...' if len(reasons) > NAMED else '')
            notes.append(f'{len(reasons)} of {len(judged)} images {what}: {some}')
    return notes


def _write_predictions(
    path: Path, rated: RatedSet, predictions: Sequence[tuple[Row, np.ndarray]]
) -> Path:
    columns = {row.method: predicted for row, predicted in predictions}
    table = pd.DataFrame({'img_name': rated.names, 'MOS': rated.mos, **columns})
    return write_atomically(path, lambda file: table.to_csv(file, index=False))
