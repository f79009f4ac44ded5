"""Measure metrics of pyiqa on rated images, beside published results (``amhp benchmark``)."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pyiqa_amhp.datasets.raw import Progress
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
from pyiqa_amhp.scoring.device import default_precision
from pyiqa_amhp.scoring.scorer import (
    Scorer,
    arch_of,
    check_metric,
    create_metric,
    single_image_metrics,
)
from pyiqa_amhp.utils.environment import check_device
from pyiqa_amhp.utils.files import check_folder, write_atomically
from pyiqa_amhp.weights.hub import is_hub_id

MAX_REASONS = 3  # errors of images that a note quotes


@dataclass(frozen=True)
class Benchmark:
    """Results of ``benchmark``.

    Attributes:
        title: title of the table, with the name of the data.
        rows: measured rows, then published ones.
        files: the written files.
        notes: remarks on the whole table.
    """

    title: str
    rows: list[Row]
    files: list[Path]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """Arguments of ``benchmark`` that are the same for all metrics.

    Attributes:
        rated: the rated images.
        out: the output folder.
        device: a device of torch; None: a GPU if there is one.
        batch_size: images in a batch of AMHP; None: see ``score_images``.
        resamples: number of bootstrap resamples.
        progress: shows the progress, as ``tqdm`` does.
        no_network: reason why the hub is out of reach, ``''`` if it is in reach.
        max_pixels, color_profiles: see ``read_image``.
    """

    rated: RatedSet
    out: Path
    device: str | None
    batch_size: int | None
    resamples: int
    progress: Progress
    no_network: str
    max_pixels: int | None = None
    color_profiles: bool = True


def benchmark(
    metrics: Sequence[str],
    rated: RatedSet,
    out: Path,
    weights: Mapping[str, str] | None = None,
    published: Sequence[str] = (),
    device: str | None = None,
    batch_size: int | None = None,
    resamples: int = RESAMPLES,
    progress: Progress = lambda items, total, what: items,
    **reading: Any,
) -> Benchmark:
    """Score rated images with several metrics, and compare how well they agree with the ratings.

    Scores are cached in ``out/scores`` as they come, so that an interrupted call resumes. A
    metric that fails gets an error row.

    Args:
        metrics: names of no-reference metrics of pyiqa, or patterns with ``*`` and ``?`` such as
            ``musiq*``.
        rated: rated images, see ``load_rated``.
        out: folder for ``results.csv``, ``.md``, ``.tex`` and ``.html``, and for
            ``predictions.csv`` with the score of each image by each metric.
        weights: checkpoints by name of the metric; other metrics use their default weights.
        published: names of tables of ``published.yml`` to add below the measured rows.
        device: a device of torch; None: a GPU if there is one.
        batch_size: images in a batch of AMHP; None: 8, and 256 on a GPU. Other metrics get one
            image at a time.
        resamples: number of bootstrap resamples.
        progress: shows the progress of long steps, as ``tqdm`` does.
        **reading: options of ``read_image``: ``max_pixels``, ``color_profiles``.

    Raises:
        AMHPError: an unknown metric or one that scores no single image, weights for a metric that
            is not in ``metrics``, an unknown published table, no such device, or a folder that
            cannot be written.
    """
    out, weights = check_folder(out), dict(weights or {})
    check_device(device)
    names = find_metrics(metrics, weights)
    published_tables = {name: published_rows(name) for name in published}
    rows: list[Row] = []
    predictions: list[tuple[Row, np.ndarray]] = []
    with bounded_downloads() as problem:
        run = Run(rated, out, device, batch_size, resamples, progress, problem, **reading)
        for name in progress(names, len(names), 'Metrics'):
            for row, predicted in _measure(name, weights.get(name), run):
                rows.append(row)
                if predicted is not None:
                    predictions.append((row, predicted))
    title = f'Benchmark: {rated.title}'
    comparable, notes = list(rows), [*rated.notes, *_coverage(rows, len(rated.paths))]
    for name, table in published_tables.items():
        rows += table
        if published_data(name) == rated.dataset:
            comparable += table
        else:
            notes.append(
                f'The published rows of {name} were measured on {published_data(name)}, not on '
                'these images: they are not comparable.'
            )
    files = write_tables(rows, out / 'results', title, notes)
    files.append(_write_predictions(out / 'predictions.csv', rated, predictions))
    try:
        page = out / 'results.html'
        files.append(write_page(page, title, notes, rated, rows, comparable, predictions))
    except AMHPError as error:  # without the extra for pages there are still tables
        notes.append(f'no page: {error}')
    return Benchmark(title, rows, files, notes)


def find_metrics(patterns: Sequence[str], weights: Mapping[str, str]) -> list[str]:
    """List the names of metrics that match the patterns, in their order, each once."""
    known = single_image_metrics()
    names: list[str] = []
    for pattern in patterns:
        matches = [name for name in known if fnmatchcase(name, pattern)]
        if not matches:
            check_metric(pattern)
        names += matches
    if not names:
        raise AMHPError('no metric to measure; give some with --metrics')
    if unused := sorted(weights.keys() - set(names)):
        raise AMHPError(f'weights for {unused[0]!r}, which is not among the metrics')
    return list(dict.fromkeys(names))


def _measure(name: str, weights: str | None, run: Run) -> list[tuple[Row, np.ndarray | None]]:
    """Measure a metric with each of its prompt sources.

    Returns:
        For each prompt source a row, and the scores ``(N,)`` or None if the metric failed.
    """
    method = name
    if weights:
        method = f'{name} ({weights if is_hub_id(weights) else Path(weights).name})'
    try:
        with quiet():
            precision = default_precision(arch_of(name), run.device)
            options = {'precision': precision} if precision else {}
            metric = create_metric(name, weights, run.device, **options)
            scorer = Scorer(metric, run.color_profiles)
    except Exception as error:  # other people's metrics fail in many ways
        return [(error_row(method, reason_for(error, run.no_network)), None)]
    return [
        _measure_with(scorer, method + suffix, source, run)
        for suffix, source in _prompt_sources(scorer, run.rated)
    ]


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the messages of pyiqa before downloads, and warnings of other packages."""
    with redirect_stdout(StringIO()), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield


def _prompt_sources(scorer: Scorer, rated: RatedSet) -> list[tuple[str, str | None]]:
    """List suffixes for the name of the method, and the prompt sources to measure.

    An AMHP that can predict prompts is measured with each source, so that the benefit of given
    texts is not mistaken for what the model predicts from an image alone.
    """
    if not scorer.predicts_prompts:
        return [('', None)]
    sources: list[tuple[str, str | None]] = [
        (', predicted text', 'predicted'),
        (', no text', 'none'),
    ]
    return [('', 'given'), *sources] if any(rated.texts) else sources


def _measure_with(
    scorer: Scorer, method: str, source: str | None, run: Run
) -> tuple[Row, np.ndarray | None]:
    """Measure a metric with one prompt source; None: as the metric is configured.

    Returns:
        A row, and the scores ``(N,)`` or None if the metric failed.
    """
    rated = run.rated
    cache = ScoreCache(cache_path(run.out / 'scores', method))
    scoring = ScoringRun(
        scorer, rated.paths, rated.texts, source, run.batch_size, method, run.max_pixels
    )
    try:
        with quiet():
            scores = score_with_cache(scoring, cache, run.progress)
    except MetricFailed as error:
        return error_row(method, str(error)), None
    except Exception as error:
        return error_row(method, reason_for(error, run.no_network)), None
    predicted = np.array([np.nan if s.score is None else s.score for s in scores], np.float64)
    if not np.isfinite(predicted).any():
        reasons = '; '.join(_failure_notes(scores)) or 'no score is a finite number'
        return error_row(method, f'no image has a score: {reasons}'), None
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
    notes = [scorer.note] * bool(scorer.note) + _failure_notes(scores)
    notes += ['lower is better: correlations are those of negated scores'] * scorer.lower_better
    notes += [f'asked for the task {scorer.task!r}'] * bool(scorer.task)
    notes += ['zero-shot: texts do not change the scores'] * ignores_text
    statistics = getattr(scorer.net, 'statistics', 'trained')  # TANet's
    notes += {'trained': [], 'none': ['uncalibrated']}.get(statistics, [statistics])
    return measured_row(method, evaluation, text_source, median_seconds(scores), notes), predicted


def _bins(scores: Sequence[CachedScore]) -> np.ndarray | None:
    """Stack the distributions ``(N, m)``, with NaN for images without a score.

    None if an image with a score has no distribution, or one of another length.
    """
    lengths = {len(s.bins) for s in scores if s.score is not None}
    if len(lengths) != 1 or lengths == {0}:
        return None
    [m] = lengths
    return np.array([s.bins if s.score is not None else (np.nan,) * m for s in scores])


def _scale(
    scorer: Scorer, predicted: np.ndarray, bins: np.ndarray | None
) -> tuple[float, float] | None:
    """Find the ends of a metric's scale; None if they are not stated.

    If the score is the mean of a distribution over 1, 2, .. m, they are 1 and m, whatever
    pyiqa's table says (0..10 for NIMA, whose bins are AVA's votes 1..10).
    """
    if bins is not None and scorer.level_values is None:
        scored = np.isfinite(predicted)
        mean = bins[scored] @ np.arange(1, bins.shape[1] + 1)
        if np.allclose(mean, predicted[scored], rtol=0, atol=1e-3):
            return 1.0, float(bins.shape[1])
    return scorer.scale


def _no_distributions(scorer: Scorer, bins: np.ndarray | None, rated: RatedSet) -> str:
    """Say why distributions are not compared; ``''`` if they are compared."""
    if rated.dist is None:
        return 'the ratings are means only'
    if bins is None:
        return 'the metric gives no distribution'
    values: Sequence[float] | np.ndarray | None = scorer.level_values
    m, k = bins.shape[1], len(rated.level_values)
    if values is None and m % k == 0:  # bins 1..m, merged in groups
        values = np.arange(1, m + 1).reshape(k, -1).mean(axis=1)
    if values is None or len(values) != k or not np.allclose(values, rated.level_values):
        return "the metric's levels are not those of the ratings"
    return ''


def _coverage(rows: Sequence[Row], images: int) -> list[str]:
    """State how many images each metric scored, and how many metrics were not measured."""
    measured = [row for row in rows if not row.error]
    notes = [
        f'{row.method}: scored {row.images:,} of {images:,} images, '
        f'{images - row.images:,} missing.'
        for row in measured
        if row.images is not None and row.images < images
    ]
    if measured and not notes:
        notes = [f'Each measured metric scored all {images:,} images.']
    failed = len(rows) - len(measured)
    return notes + [f'{failed} of {len(rows)} rows could not be measured.'] * bool(failed)


def _failure_notes(scores: Sequence[CachedScore]) -> list[str]:
    """Count the images without a score, and quote the first reasons."""
    notes = []
    for failure, reasons in (
        ('could not be read', [s.unreadable for s in scores if s.unreadable]),
        ('made the metric fail', [s.failed for s in scores if s.failed]),
    ):
        if reasons:
            first = '; '.join(reasons[:MAX_REASONS])
            more = '; ...' if len(reasons) > MAX_REASONS else ''
            notes.append(f'{len(reasons)} of {len(scores)} images {failure}: {first}{more}')
    return notes


def _write_predictions(
    path: Path, rated: RatedSet, predictions: Sequence[tuple[Row, np.ndarray]]
) -> Path:
    """Write the score of each image by each metric as CSV."""
    columns = {row.method: predicted for row, predicted in predictions}
    table = pd.DataFrame({'img_name': rated.names, 'MOS': rated.mos, **columns})
    return write_atomically(
        path, lambda file: table.to_csv(file, index=False, errors='backslashreplace')
    )
