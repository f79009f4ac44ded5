"""Scores of image files: one reader, one loop, rows as they come."""

import inspect
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pandas as pd
import torch
from torchvision.transforms.functional import to_tensor

from pyiqa_amhp.atomic import write_atomically
from pyiqa_amhp.data.images import read_image
from pyiqa_amhp.data.ratings import SCALES
from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.model.config import AMHPConfig

logger = logging.getLogger('pyiqa_amhp')


@dataclass
class Score:
    """What became of one image.

    Attributes:
        path: as it was given.
        score: on the metric's scale; None where the image could not be read.
        text_source: ``given`` where a text was used, else ``none``.
        levels: AMHP's probability of each quality level, by its word.
        bins: another metric's probability of each of its scores, where it was asked for and the
            metric gives one.
        error: why there is no score, else ''.
    """

    path: str
    score: float | None = None
    text_source: str = 'none'
    levels: dict[str, float] = field(default_factory=dict)
    bins: tuple[float, ...] = ()
    error: str = ''


def create_metric(name: str = 'amhp', weights: str | None = None, device: str | None = None):
    """``pyiqa.create_metric`` for a no-reference metric, with errors that say what to do.

    Args:
        name: any no-reference metric of pyiqa, ours among them.
        weights: a checkpoint, for ``pretrained_model_path``.
        device: ``cpu``, ``cuda`` ...; None: a GPU if there is one.

    Raises:
        AMHPError: no such metric, one that needs a reference image, or weights that do not load.
    """
    import pyiqa

    known = pyiqa.list_models('NR')
    if name not in known:
        reason = 'needs a reference image' if name in pyiqa.list_models() else 'is not known'
        raise AMHPError(f'metric {name!r} {reason}; no-reference metrics: {", ".join(known)}')
    options = {} if weights is None else {'pretrained_model_path': str(weights)}
    return pyiqa.create_metric(name, device=device, **options)


def score_scale(metric) -> str:
    """The ends of the metric's scale: of the votes, or of levels that are the user's own."""
    config = getattr(metric.net, 'config', None)
    if not isinstance(config, AMHPConfig):
        return str(metric.score_range or 'not stated').replace(', ', '..')
    low, high = scale_ends(metric)
    return f'{low:g}..{high:g}'


def scale_ends(metric) -> tuple[float, float] | None:
    """The same as numbers; None where an end is open or not stated. pyiqa's ``~1`` is 1."""
    config = getattr(metric.net, 'config', None)
    if isinstance(config, AMHPConfig):
        scale, values = SCALES[config.dataset], config.level_values
        ends = scale.vote_values if values == scale.level_values else values
        return ends[0], ends[-1]
    number = r'~?(-?\d+(?:\.\d+)?)'
    stated = re.fullmatch(rf'{number}, *{number}', str(metric.score_range))
    return stated and (float(stated[1]), float(stated[2]))


def score_images(
    paths: Iterable[str | Path],
    texts: Sequence[str | None] | None = None,
    metric='amhp',
    batch_size: int = 8,
    with_bins: bool = False,
) -> Iterator[Score]:
    """Score image files one after the other, in their order, in constant memory.

    Args:
        paths: image files. One that cannot be read gives a row with an error.
        texts: one for each path, None or '' where there is none. Only AMHP reads them.
        metric: a name, or what ``pyiqa.create_metric`` gave.
        batch_size: images for each pass through AMHP; other metrics get one image at a time,
            at its own size.
        with_bins: ask other metrics for their distribution too (NIMA, MUSIQ, ...).

    Yields:
        A ``Score`` for each path.

    Raises:
        AMHPError: not as many texts as paths, or a batch size below 1.
    """
    if isinstance(metric, str):
        metric = create_metric(metric)
    paths = [os.fspath(path) for path in paths]
    texts = [None] * len(paths) if texts is None else list(texts)
    if len(texts) != len(paths):
        raise AMHPError(f'{len(texts)} texts for {len(paths)} images: give one for each')
    if batch_size < 1:
        raise AMHPError(f'batch size {batch_size}: expected 1 or more')
    if hasattr(metric.net, 'judge'):
        judge = _judge_amhp
    else:
        judge = _judge_with_bins if with_bins and _gives_bins(metric) else _judge_other
    work = iter(zip(paths, texts, strict=True))
    while batch := list(islice(work, batch_size)):
        yield from judge(metric, batch)


def _read(path: str) -> tuple[torch.Tensor | None, str]:
    """The image ``(1, 3, H, W)`` in [0, 1], or why there is none."""
    try:
        return to_tensor(read_image(path))[None], ''
    except ImageReadError as error:
        return None, str(error)


def _judge_amhp(metric, batch: list[tuple[str, str | None]]) -> list[Score]:
    """One pass for all images of the batch, whatever their sizes."""
    net, device = metric.net, next(metric.net.parameters()).device
    rows, views, texts, readable = [], [], [], []
    for path, text in batch:
        image, error = _read(path)
        rows.append(Score(path, error=error))
        if image is not None:
            views.append(net.preprocess(image.to(device)))
            texts.append((text or '').strip() if net.config.uses_attributes else '')
            readable.append(rows[-1])
    if not readable:
        return rows
    with torch.inference_mode():
        mos, dist = net.judge(torch.cat(views), texts)
    for row, text, score, levels in zip(
        readable, texts, mos[:, 0].tolist(), dist.tolist(), strict=True
    ):
        row.score, row.text_source = score, 'given' if text else 'none'
        row.levels = dict(zip(net.config.levels, levels, strict=True))
    return rows


def _judge_other(metric, batch: list[tuple[str, str | None]]) -> list[Score]:
    rows = []
    for path, _ in batch:
        image, error = _read(path)
        score = None if image is None else float(metric(image))
        rows.append(Score(path, score, error=error))
    return rows


def _gives_bins(metric) -> bool:
    return 'return_dist' in inspect.signature(metric.net.forward).parameters


def _judge_with_bins(metric, batch: list[tuple[str, str | None]]) -> list[Score]:
    rows = []
    for path, _ in batch:
        image, error = _read(path)
        row = Score(path, error=error)
        if image is not None:
            mos, dist = metric(image, return_mos=True, return_dist=True)
            row.score, bins = float(mos), dist.flatten().tolist()
            if len(bins) > 1 and min(bins) >= 0 and abs(sum(bins) - 1) < 1e-3:
                row.bins = tuple(bins)  # else it is one number, or no probabilities
        rows.append(row)
    return rows


def to_frame(rows: Iterable[Score]) -> pd.DataFrame:
    """One row an image: ``path, score, text_source``, ``p_<level>`` for AMHP, ``error``."""
    return pd.DataFrame(
        [
            {
                'path': row.path,
                'score': row.score,
                'text_source': row.text_source,
                **{f'p_{level}': p for level, p in row.levels.items()},
                'error': row.error,
            }
            for row in rows
        ]
    )


WRITERS = {
    '.csv': lambda frame, path: frame.to_csv(path, index=False),
    '.json': lambda frame, path: frame.to_json(
        path, orient='records', indent=2, force_ascii=False, double_precision=15
    ),
    '.jsonl': lambda frame, path: frame.to_json(
        path, orient='records', lines=True, force_ascii=False, double_precision=15
    ),
    '.parquet': lambda frame, path: frame.to_parquet(path, index=False),
}


def check_output(path: str | Path) -> Path:
    """The output's path, before any work is done for it.

    Raises:
        AMHPError: a suffix that is not one of ``WRITERS``, or a folder of that name.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in WRITERS:
        raise AMHPError(f'{path}: expected a name that ends in {", ".join(WRITERS)}')
    if path.is_dir():
        raise AMHPError(f'{path}: is a folder, expected a file')
    return path


def write_scores(frame: pd.DataFrame, path: str | Path) -> Path:
    """Write a table in the form that the suffix names: whole or not at all."""
    path = check_output(path)
    return write_atomically(path, lambda file: WRITERS[path.suffix.lower()](frame, file))


def read_texts(path: str | Path, images: Sequence[Path]) -> list[str | None]:
    """The texts of a CSV with the columns ``img_name`` and ``text``, one for each image.

    An ``img_name`` is an image's whole path or any end of it, the file name at least.

    Raises:
        AMHPError: no such file, not a CSV, columns missing, two texts for one name, a name that
            fits several images, or no name that fits any image.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise AMHPError(f'{path}: cannot be read as CSV ({error})') from error
    if missing := {'img_name', 'text'} - set(table.columns):
        raise AMHPError(f'{path}: no column {" and ".join(sorted(missing))}')
    names = table['img_name'].str.replace('\\', '/')
    if names.duplicated().any():
        raise AMHPError(f'{path}: two texts for {names[names.duplicated()].iloc[0]!r}')
    by_name = dict(zip(names, table['text'], strict=True))
    texts: list[str | None] = [None] * len(images)
    taken: dict[str, Path] = {}
    for i, image in enumerate(images):
        name = next((end for end in _ends(image) if end in by_name), None)
        if name is None:
            continue
        if name in taken:
            raise AMHPError(
                f'{path}: {name!r} fits both {taken[name]} and {image}; give more of their paths'
            )
        taken[name], texts[i] = image, by_name[name]
    if not taken:
        raise AMHPError(
            f'{path}: no img_name fits any of the {len(images)} images (first: {images[0]})'
        )
    if len(taken) < len(images):
        logger.warning(
            '%s: %d of %d images have no text', path, len(images) - len(taken), len(images)
        )
    return texts


def _ends(image: Path) -> Iterator[str]:
    """``/a/b/c.jpg``, ``a/b/c.jpg``, ``b/c.jpg``, ``c.jpg``."""
    parts = image.absolute().as_posix().split('/')
    return ('/'.join(parts[i:]) for i in range(len(parts)))
