"""The commands that judge photographs, and that write AMHP down for other programs."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from pyiqa_amhp.cli.options import (
    Device,
    Paths,
    SaidText,
    SaidTexts,
    Weights,
    images_and_texts,
    pairs,
)  # fmt: skip
from pyiqa_amhp.cli.output import console, escape, list_problems, problems, progress
from pyiqa_amhp.errors import AMHPError


def score(
    paths: Paths,
    text: SaidText = None,
    texts: SaidTexts = None,
    weights: Weights = None,
    metric: Annotated[str, typer.Option(help='Any no-reference metric of pyiqa.')] = 'amhp',
    out: Annotated[
        str | None,
        typer.Option(help='FILE.csv, .json, .jsonl or .parquet; with --engine ray a folder.'),
    ] = None,
    resume: Annotated[
        bool, typer.Option('--resume', help='Go on with --out where a run was interrupted.')
    ] = False,
    top: Annotated[
        int | None, typer.Option(min=1, help='Show the best N only (with --out: 10).')
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    workers: Annotated[
        int | None, typer.Option(min=1, help='Threads that read images.', show_default='cores')
    ] = None,
    exact: Annotated[
        bool, typer.Option('--exact', help='Decode and resize as a metric call does; slower.')
    ] = False,
    max_pixels: Annotated[
        int | None,
        typer.Option(min=1, help='Larger images are not read.', show_default='178,956,970'),
    ] = None,
    precision: Annotated[str | None, typer.Option(help='fp32, bf16, fp16 or int8')] = None,
    engine: Annotated[
        str | None,
        typer.Option(help='torch, openvino, onnxruntime, or on a cluster: ray, ray+openvino ...'),
    ] = None,
    compiled: Annotated[bool, typer.Option('--compile', help='Use torch.compile.')] = False,
    device: Device = None,
    ray_address: Annotated[
        str | None,
        typer.Option(help='A running cluster (host:6379, auto).', show_default='this machine'),
    ] = None,
    ray_actors: Annotated[
        int | None,
        typer.Option(min=1, help='Models on the cluster.', show_default='one a GPU, or 4 CPUs'),
    ] = None,
    ray_rows: Annotated[
        int | None,
        typer.Option(min=1, help='Images of a part.', show_default='32 to 1,000'),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help='With ray, of tables of images: path=NAME, text=NAME or image=NAME.'),
    ] = None,
) -> None:
    """Score images; a file that cannot be read becomes a row with its error, and exit code 1."""
    from pyiqa_amhp.scoring import writer as score_file

    if resume and out is None:
        raise AMHPError('--resume goes on with a file: give its name with --out')
    options = {'precision': precision, 'engine': engine, 'compile': compiled or None}
    if engine is not None and engine.partition('+')[0] == 'ray':
        options.update(engine=engine.partition('+')[2] or None, device=device)
        _score_on_ray(
            paths,
            out,
            metric,
            weights,
            options,
            {
                'batch_size': batch_size,
                'exact': exact,
                'max_pixels': max_pixels,
                'workers': workers,
            },
            text=text,
            texts=texts,
            columns=pairs('column', column),
            part_rows=ray_rows,
            address=ray_address,
            actors=ray_actors,
            top=top or 10,
        )
        return
    from pyiqa_amhp.scoring import scorer as scoring

    if ray_address or ray_actors or ray_rows or column:
        raise AMHPError('--ray-address, --ray-actors, --ray-rows, --column: only with --engine ray')
    if table := next((path for path in paths if path.endswith(('.csv', '.parquet'))), None):
        raise AMHPError(f'{table}: tables of images take --engine ray; texts go to --texts')
    if out is not None:
        score_file.check_output(out)
    images, said = images_and_texts(paths, text, texts)
    model = scoring.create_metric(metric, weights, device, **options)
    file = None
    if out is not None:
        given = {**options, 'exact': exact, 'text': text, 'texts': texts, 'max_pixels': max_pixels}
        settings = score_file.settings(paths, model, given)
        file = score_file.ScoreFile(out, settings, resume)
        left = [i for i, image in enumerate(images) if str(image) not in file.done]
        images, said = [images[i] for i in left], [said[i] for i in left]
    rows = scoring.score_images(
        images, said, model, batch_size, exact=exact, workers=workers, max_pixels=max_pixels
    )
    rows = progress(rows, len(images), 'Scoring')
    if file is not None:
        rows = _kept(file, rows)
    shown = top or (10 if out is not None else None)
    summary = score_file.summarise(rows, shown, model.lower_better)
    _print_scores(summary.best, f'{metric}, scale {scoring.score_scale(model)}')
    if file is not None:
        file.finish(scoring.level_words(model))
        console.print(f'{summary.rows} rows written to {escape(str(out))}')
    _report_failures(summary)


def _score_on_ray(
    paths: list[str], out: str | None, metric: str, weights, options, scoring, **job
) -> None:
    """Score on a cluster into a folder, and say what came of it."""
    from pyiqa_amhp.scoring.ray.actors import ScorerConfig
    from pyiqa_amhp.scoring.ray.job import score_folder
    from pyiqa_amhp.scoring.ray.storage import hidden

    if out is None:
        raise AMHPError('--engine ray writes a folder of Parquet files: give its name with --out')
    options = {name: value for name, value in options.items() if value is not None}
    scoring = {name: value for name, value in scoring.items() if value}
    try:
        report = score_folder(
            paths, out, ScorerConfig(metric, weights, None, options, scoring), **job
        )
    except KeyboardInterrupt:
        kept = f'the parts so far are kept in {escape(hidden(out))}'
        problems.print(f'{kept}; the same command goes on with them', soft_wrap=True)
        raise
    for warning in report.warnings:
        problems.print(escape(warning), soft_wrap=True)
    _print_scores(report.summary.best, f'{metric}, scale {report.scale}')
    before = f', {report.before} of them from an earlier run' if report.before else ''
    console.print(
        f'{report.summary.rows} rows in {report.parts} parts{before}: {escape(report.folder)}',
        soft_wrap=True,
    )
    _report_failures(report.summary)


def _report_failures(summary) -> None:
    if not summary.failed:
        return
    title = f'[bold red]{summary.failed} of {summary.rows} images could not be scored[/]'
    list_problems(title, summary.errors)
    raise typer.Exit(1)


def _kept(file, rows):
    """All rows of a run, those of an interrupted one first; says what is kept if it ends early."""
    try:
        for _ in file.keep(rows):
            pass
    except BaseException:
        if not file.count:
            file.discard()
            raise
        problems.print(
            f'the rows so far are kept in {escape(str(file.partial))}; --resume goes on with them',
            soft_wrap=True,
        )
        raise
    return file.rows()


def _print_scores(rows, title: str) -> None:
    table = Table(title=title, title_justify='left')
    table.add_column('score', justify='right')
    table.add_column('text')
    table.add_column('image', overflow='fold')
    for row in rows:
        if row.error:
            table.add_row('-', '', f'[red]{escape(row.error)}[/]')
        else:
            table.add_row(f'{row.score:.4f}', row.text_source, escape(row.path))
    console.print(table)


def export(
    onnx: Annotated[Path, typer.Option(help='FILE.onnx; texts go to FILE_text.onnx.')],
    weights: Weights = None,
    metric: Annotated[str, typer.Option(help='amhp or another metric of that arch.')] = 'amhp',
) -> None:
    """Write AMHP as ONNX graphs for onnxruntime, OpenVINO and others, checked beside torch."""
    from pyiqa_amhp.model.export import TOLERANCE, check_file, export_onnx
    from pyiqa_amhp.scoring.scorer import create_metric

    check_file(onnx)
    exported = export_onnx(create_metric(metric, weights, 'cpu').net, onnx)
    for file in exported.files:
        console.print(f'written: {escape(str(file))}', soft_wrap=True)
    if exported.difference is None:
        console.print("not checked: onnxruntime is missing (pip install 'pyiqa-amhp\\[onnx]')")
    else:
        console.print(
            f'largest score difference to torch: {exported.difference:.1e} on a scale of 1 to 10 '
            f'(at most {TOLERANCE:g})'
        )
