"""The command ``amhp score``, in this process or on a Ray cluster."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from pyiqa_amhp.cli.options import (
    BatchSize,
    ColorProfiles,
    Device,
    MaxPixels,
    Paths,
    Text,
    Texts,
    Weights,
    find_images_and_texts,
    parse_pairs,
)  # fmt: skip
from pyiqa_amhp.cli.output import console, error_console, escape, list_errors, progress
from pyiqa_amhp.errors import AMHPError

if TYPE_CHECKING:
    from pyiqa_amhp.scoring.result import ScoreResult, Summary
    from pyiqa_amhp.scoring.writer import ScoreFile


@dataclass(frozen=True)
class ScoreOptions:
    """Options of both ways of scoring.

    Attributes:
        paths: image files, folders and globs; on Ray also tables of images.
        text: a text for all images.
        texts: a CSV with a text for each image.
        metric: the name of the metric.
        weights: a checkpoint; None: the default weights.
        device: a device of torch; None: a GPU if there is one.
        model: options of AMHP: ``precision``, ``engine``, ``compile``.
        reading: options of ``score_images``: ``batch_size``, ``workers``, ``exact``,
            ``max_pixels``, ``color_profiles``.
        out: the file or, on Ray, the folder of results; None: results are only shown.
        top: number of best images to show; None: not given.
    """

    paths: list[str]
    text: str | None
    texts: Path | None
    metric: str
    weights: str | None
    device: str | None
    model: dict[str, Any]
    reading: dict[str, Any]
    out: str | None
    top: int | None


@dataclass(frozen=True)
class RayOptions:
    """Options of scoring on Ray.

    Attributes:
        address: the address of a cluster.
        actors: number of models on the cluster.
        rows: images of a part of the result.
        columns: ``NAME=VALUE`` pairs of columns of tables.
    """

    address: str | None
    actors: int | None
    rows: int | None
    columns: list[str] | None

    def any_given(self) -> bool:
        """Return whether any of the options was given."""
        return any((self.address, self.actors, self.rows, self.columns))


def score(
    paths: Paths,
    text: Text = None,
    texts: Texts = None,
    weights: Weights = None,
    metric: Annotated[str, typer.Option(help='A no-reference metric of pyiqa.')] = 'amhp',
    out: Annotated[
        str | None,
        typer.Option(
            help='File of results, FILE.csv, .json, .jsonl or .parquet; with --engine ray a folder.'
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option('--resume', help='Resume an interrupted run that has the same --out.')
    ] = False,
    top: Annotated[
        int | None,
        typer.Option(
            min=1, help='Number of best images to show.', show_default='all; 10 with --out'
        ),
    ] = None,
    batch_size: BatchSize = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help='Threads that read images; for many on a GPU processes.',
            show_default='cores, at most 16 or 32',
        ),
    ] = None,
    exact: Annotated[
        bool,
        typer.Option('--exact', help='Decode and resize exactly as a metric call does; slower.'),
    ] = False,
    max_pixels: MaxPixels = None,
    color_profiles: ColorProfiles = True,
    precision: Annotated[
        str | None,
        typer.Option(
            help='Precision of AMHP: fp32, bf16, fp16 or int8.',
            show_default='fp32; fp16 on a GPU; with openvino bf16 if the processor has it',
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help='Engine of AMHP: torch, openvino, onnxruntime; on a cluster ray, ray+openvino ...',
            show_default='torch',
        ),
    ] = None,
    compiled: Annotated[
        bool, typer.Option('--compile', help='Use torch.compile for AMHP.')
    ] = False,
    device: Device = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            help='Address of a running Ray cluster: host:6379, auto.', show_default='this machine'
        ),
    ] = None,
    ray_actors: Annotated[
        int | None,
        typer.Option(
            min=1,
            help='Number of models on the Ray cluster.',
            show_default='one for each GPU, or for 4 CPUs',
        ),
    ] = None,
    ray_rows: Annotated[
        int | None,
        typer.Option(
            min=1, help='Images in a part of the result on Ray.', show_default='32 to 1,000'
        ),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help='Columns of tables of images on Ray: path=NAME, text=NAME, image=NAME.'),
    ] = None,
) -> None:
    """Score images. A file that cannot be read is an error row, and the exit code is 1."""
    if resume and out is None:
        raise AMHPError('--resume needs the file of the interrupted run: give it with --out')
    on_ray = engine is not None and engine.partition('+')[0] == 'ray'
    if on_ray and engine:
        engine = engine.partition('+')[2] or None
    options = ScoreOptions(
        paths,
        text,
        texts,
        metric,
        weights,
        device,
        {'precision': precision, 'engine': engine, 'compile': compiled or None},
        {
            'batch_size': batch_size,
            'workers': workers,
            'exact': exact,
            'max_pixels': max_pixels,
            'color_profiles': color_profiles,
        },
        out,
        top,
    )
    ray = RayOptions(ray_address, ray_actors, ray_rows, column)
    if on_ray:
        score_on_ray(options, ray)
    elif ray.any_given():
        raise AMHPError('--ray-address, --ray-actors, --ray-rows, --column: only with --engine ray')
    else:
        score_locally(options, resume)


def score_locally(options: ScoreOptions, resume: bool) -> None:
    """Score in this process, and write a table if ``--out`` is given."""
    from pyiqa_amhp.scoring import writer
    from pyiqa_amhp.scoring.device import default_precision
    from pyiqa_amhp.scoring.files import score_images
    from pyiqa_amhp.scoring.processes import clear_errors
    from pyiqa_amhp.scoring.result import ScoreResult, summarise
    from pyiqa_amhp.scoring.scorer import Scorer, arch_of, create_metric
    from pyiqa_amhp.utils.environment import check_device
    from pyiqa_amhp.utils.files import check_output

    table = next((path for path in options.paths if path.endswith(('.csv', '.parquet'))), None)
    if table:
        raise AMHPError(f'{table}: tables of images take --engine ray; texts go to --texts')
    if options.out is not None:
        check_output(options.out, writer.WRITERS)
    images, texts = find_images_and_texts(options.paths, options.text, options.texts)
    check_device(options.device)
    model = {**options.model}
    if model['precision'] is None:
        arch = arch_of(options.metric)
        model['precision'] = default_precision(arch, options.device, model['engine'])
    metric = create_metric(options.metric, options.weights, options.device, **model)
    scorer = Scorer(metric, options.reading['color_profiles'])
    file = None
    if options.out is not None:
        settings = {key: options.reading[key] for key in ('exact', 'max_pixels')}
        settings |= {**model, 'text': options.text, 'texts': options.texts}
        settings = writer.run_settings(options.paths, scorer, settings)
        file = writer.ScoreFile(options.out, settings, resume)
        missing = [i for i, image in enumerate(images) if str(image) not in file.done]
        images, texts = [images[i] for i in missing], [texts[i] for i in missing]
    results: Iterable[ScoreResult] = score_images(images, texts, scorer, **options.reading)
    results = progress(results, len(images), 'Scoring')
    shown = options.top or (10 if file is not None else None)
    with clear_errors():
        if file is not None:
            results = _append_all(file, results)
        summary = summarise(results, shown, scorer.lower_better)
    if file is not None:
        file.finish(scorer.levels, scorer.note)
    task = f', task {scorer.task}' if scorer.task else ''
    title = f'{options.metric}{task}, scale {scorer.scale_text}'
    _print_scores(summary.best, title, scorer.note)
    if file is not None:
        console.print(f'{summary.count} rows written to {escape(str(options.out))}')
    _report_failures(summary)


def score_on_ray(options: ScoreOptions, ray: RayOptions) -> None:
    """Score on a Ray cluster, and write a folder of Parquet files."""
    from pyiqa_amhp.scoring.ray.actors import ScorerConfig
    from pyiqa_amhp.scoring.ray.job import score_folder
    from pyiqa_amhp.scoring.ray.storage import redact

    if options.out is None:
        raise AMHPError('--engine ray writes a folder of Parquet files: give its name with --out')
    model = {**options.model, 'device': options.device}
    config = ScorerConfig(
        options.metric,
        options.weights,
        None,
        {name: value for name, value in model.items() if value is not None},
        {name: value for name, value in options.reading.items() if value is not None},
    )
    try:
        report = score_folder(
            options.paths,
            options.out,
            config,
            text=options.text,
            texts=options.texts,
            columns=parse_pairs('column', ray.columns),
            shard_rows=ray.rows,
            address=ray.address,
            actors=ray.actors,
            top=options.top or 10,
        )
    except KeyboardInterrupt:
        kept = f'the parts so far are kept in {escape(redact(options.out))}'
        error_console.print(f'{kept}; the same command resumes', soft_wrap=True)
        raise
    for warning in report.warnings:
        error_console.print(escape(warning), soft_wrap=True)
    _print_scores(report.summary.best, f'{options.metric}, scale {report.scale}', report.note)
    before = f', {report.shards_before} of them from an earlier run' if report.shards_before else ''
    console.print(
        f'{report.summary.count} rows in {report.shards} parts{before}: {escape(report.folder)}',
        soft_wrap=True,
    )
    _report_failures(report.summary)


def _append_all(file: 'ScoreFile', results: Iterable['ScoreResult']) -> Iterator['ScoreResult']:
    """Write all results to the partial file, and read it from the start.

    Returns:
        The results of this run and of the interrupted run that it resumes.
    """
    try:
        for _ in file.append(results):
            pass
    except BaseException:
        if not file.count:
            file.discard()
            raise
        error_console.print(
            f'the results so far are kept in {escape(str(file.partial))}; --resume resumes the run',
            soft_wrap=True,
        )
        raise
    return file.results()


def _print_scores(results: Iterable['ScoreResult'], title: str, note: str = '') -> None:
    table = Table(title=title, title_justify='left')
    if note:
        table.caption, table.caption_justify = f'[yellow]{escape(note)}[/]', 'left'
    table.add_column('score', justify='right')
    table.add_column('text')
    table.add_column('image', overflow='fold')
    for result in results:
        if result.error:
            table.add_row('-', '', f'[red]{escape(result.error)}[/]')
        else:
            table.add_row(f'{result.score:.4f}', result.prompt_source, escape(result.path))
    console.print(table)


def _report_failures(summary: 'Summary') -> None:
    """List the images without a score, and exit with code 1 if there are any."""
    if not summary.failed:
        return
    title = f'[bold red]{summary.failed} of {summary.count} images could not be scored[/]'
    list_errors(title, summary.errors)
    raise typer.Exit(1)
