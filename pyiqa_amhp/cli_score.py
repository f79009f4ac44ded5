"""The commands that judge photographs, and that write AMHP down for other programs."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from pyiqa_amhp.cli_options import (
    Device,
    Paths,
    SaidText,
    SaidTexts,
    Weights,
    images_and_texts,
)  # fmt: skip
from pyiqa_amhp.cli_output import console, escape, list_problems, problems, progress
from pyiqa_amhp.errors import AMHPError


def score(
    paths: Paths,
    text: SaidText = None,
    texts: SaidTexts = None,
    weights: Weights = None,
    metric: Annotated[str, typer.Option(help='Any no-reference metric of pyiqa.')] = 'amhp',
    out: Annotated[Path | None, typer.Option(help='FILE.csv, .json, .jsonl or .parquet')] = None,
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
    engine: Annotated[str | None, typer.Option(help='torch, openvino or onnxruntime')] = None,
    compiled: Annotated[bool, typer.Option('--compile', help='Use torch.compile.')] = False,
    device: Device = None,
) -> None:
    """Score images; a file that cannot be read becomes a row with its error, and exit code 1."""
    from pyiqa_amhp import score as scoring
    from pyiqa_amhp import score_file

    if resume and out is None:
        raise AMHPError('--resume goes on with a file: give its name with --out')
    if out is not None:
        score_file.check_output(out)
    images, said = images_and_texts(paths, text, texts)
    options = {'precision': precision, 'engine': engine, 'compile': compiled or None}
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
    if summary.failed:
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
    from pyiqa_amhp.score import create_metric

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
