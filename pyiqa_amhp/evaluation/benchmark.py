"""``amhp benchmark``: any metrics of pyiqa on any rated images, beside what others published."""

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
    CachedScore,
    MetricFailed,
    ScoreCache,
    ScoringRun,
    cache_path,
    median_seconds,
    score_with_cache,
)
from pyiqa_amhp.evaluation.tables import Row, error_row, measured_row, write_tables
from pyiqa_amhp.scoring.scorer import Scorer, create_metric
from pyiqa_amhp.utils.files import write_atomically
from pyiqa_amhp.weights.hub import is_hub_id

Progress = Callable[[Iterable, int, str], Iterable]
NAMED = 3  # unreadable images that a note names


@dataclass(frozen=True)
class Benchmark:
    """Results of ``benchmark``.

    Attributes:
        title: names the data.
        rows: measured rows, then published ones.
        files: the files that were written.
        notes: remarks on the whole table.
    """

    title: str
    rows: list[Row]
    files: list[Path]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """The arguments of ``benchmark`` that all its metrics share."""

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
    """Score rated images with several metrics, and compare how well they agree with the ratings.

    Scores are cached in ``out/scores`` as they come, so that an interrupted call resumes. A
    metric that fails is a row with the reason.

    Args:
        metrics: names that ``pyiqa.create_metric`` knows, all no-reference; ``*`` and ``?`` stand
            for any letters, as in ``musiq*``.
        rated: the images, see ``load_rated``.
        out: a folder that gets ``results.csv``, ``.md``, ``.tex``, ``.html`` and, with the score
            of each image by each metric, ``predictions.csv``.
        weights: checkpoints of some of the metrics, by the metric's name.
        published: tables of ``published.yml`` whose rows are added below.
        device: ``cpu``, ``cuda`` ...; None: a GPU if there is one.
        batch_size: images for each pass through AMHP.
        resamples: how many the bootstrap draws.
        progress: wraps what takes long, as ``tqdm`` does.

    Raises:
        AMHPError: a name that is no metric, weights for a metric that is not asked for, or an
            unknown published table.
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
    """The names that the patterns stand for, in their order, each once."""
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
    """Measure a metric: rows, each with the scores ``(N,)`` if there are any."""
    method = name
    if weights:
        method = f'{name} ({weights if is_hub_id(weights) else Path(weights).name})'
    try:
        with _quiet():
            scorer = Scorer(create_metric(name, weights, run.device))
    except Exception as error:  # other people's metrics fail in many ways
        return [(error_row(method, reason_for(error, run.no_network)), None)]
    return [
        _measure_with(scorer, method + suffix, source, run)
        for suffix, source in _prompt_sources(scorer, run.rated)
    ]


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress what pyiqa prints before downloads, and warnings of other packages."""
    with redirect_stdout(StringIO()), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield


def _prompt_sources(scorer: Scorer, rated: RatedSet) -> list[tuple[str, str | None]]:
    """The prompt sources to measure, each with a suffix for the method's name.

    An AMHP that can predict prompts is measured with each source, so that nobody takes what given
    texts are worth for what the model sees in a bare image.
    """
    if not scorer.predicts_prompts:
        return [('', None)]
    given = [('', 'given')] * any(rated.texts)
    return [*given, (', predicted text', 'predicted'), (', no text', 'none')]


def _measure_with(
    scorer: Scorer, method: str, source: str | None, run: Run
) -> tuple[Row, np.ndarray | None]:
    """Measure a metric with one prompt source; None: as the metric is configured."""
    rated = run.rated
    cache = ScoreCache(cache_path(run.out / 'scores', method))
    scoring = ScoringRun(scorer, rated.paths, rated.texts, source, run.batch_size, method)
    try:
        with _quiet():
            scores = score_with_cache(scoring, cache, run.progress)
    except MetricFailed as error:
        return error_row(method, str(error)), None
    except Exception as error:
        return error_row(method, reason_for(error, run.no_network)), None
    predicted = np.array([np.nan if s.score is None else s.score for s in scores], np.float64)
    bins = _bins(scores)
    no_dist = _no_distributions(scorer, bins, rated)
    scored = np.array([s.score is not None for s in scores])
    evaluation = evaluate(
        predicted[scored],
        rated.mos[scored],
        None if no_dist or bins is None else bins[scored],
        None if no_dist or rated.dist is None else rated.dist[scored],
        threshold=rated.threshold,
        lower_better=scorer.lower_better,
        mapping=range_map(_scale(scorer, predicted, bins), rated.scale, scorer.lower_better),
        no_dist=no_dist,
        resamples=run.resamples,
    )
    ignores_text = scorer.takes_text and not scorer.reads_text
    texts = 'predicted' if source == 'predicted' else rated.text_source
    text_source = texts if any(s.text for s in scores) and not ignores_text else 'none'
    notes = _left_out(scores)
    notes += ['lower is better: correlations are of the negated scores'] * scorer.lower_better
    notes += ['zero-shot: a text changes nothing'] * ignores_text
    notes += ['uncalibrated'] * (not getattr(scorer.net, 'calibrated', True))
    return measured_row(method, evaluation, text_source, median_seconds(scores), notes), predicted


def _bins(scores: Sequence[CachedScore]) -> np.ndarray | None:
    """Distributions ``(N, m)``, NaN where there is no score; None unless all others have one."""
    lengths = {len(s.bins) for s in scores if s.score is not None}
    if len(lengths) != 1 or lengths == {0}:
        return None
    [m] = lengths
    return np.array([s.bins if s.score is not None else (np.nan,) * m for s in scores])


def _scale(
    scorer: Scorer, predicted: np.ndarray, bins: np.ndarray | None
) -> tuple[float, float] | None:
    """The ends of a metric's scale.

    Where the score is the mean of a distribution over 1, 2, .. m they are 1 and m, whatever
    pyiqa's table says (0..10 for NIMA, whose bins are AVA's votes 1..10).
    """
    if bins is not None and scorer.level_values is None:
        there = np.isfinite(predicted)
        mean = bins[there] @ np.arange(1, bins.shape[1] + 1)
        if np.allclose(mean, predicted[there], rtol=0, atol=1e-3):
            return 1.0, float(bins.shape[1])
    return scorer.scale


def _no_distributions(scorer: Scorer, bins: np.ndarray | None, rated: RatedSet) -> str:
    """Why distributions are not compared; '' if they are."""
    if rated.dist is None:
        return 'the ratings are means only'
    if bins is None:
        return 'the metric gives no distribution'
    values: Sequence[float] | np.ndarray | None = scorer.level_values
    m, k = bins.shape[1], len(rated.level_values)
    if values is None and m % k == 0:  # 1..m, merged in groups
        values = np.arange(1, m + 1).reshape(k, -1).mean(axis=1)
    if values is None or len(values) != k or not np.allclose(values, rated.level_values):
        return "the metric's levels are not those of the ratings"
    return ''


def _left_out(scores: Sequence[CachedScore]) -> list[str]:
    notes = []
    for what, reasons in (
        ('could not be read', [s.unreadable for s in scores if s.unreadable]),
        ('made the metric fail', [s.failed for s in scores if s.failed]),
    ):
        if reasons:
            some = '; '.join(reasons[:NAMED]) + ('; ...' if len(reasons) > NAMED else '')
            notes.append(f'{len(reasons)} of {len(scores)} images {what}: {some}')
    return notes


def _write_predictions(
    path: Path, rated: RatedSet, predictions: Sequence[tuple[Row, np.ndarray]]
) -> Path:
    columns = {row.method: predicted for row, predicted in predictions}
    table = pd.DataFrame({'img_name': rated.names, 'MOS': rated.mos, **columns})
    return write_atomically(path, lambda file: table.to_csv(file, index=False))
