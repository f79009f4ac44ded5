"""The ratings that ``fit`` trains on: a CSV, or the stars in photographs, with their scale."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pyiqa_amhp.datasets.csv import check_cells, get_column, read_csv, to_numbers
from pyiqa_amhp.datasets.dataset import check_images_exist
from pyiqa_amhp.datasets.images import find_images
from pyiqa_amhp.datasets.rated_images import RatedImages, read_table
from pyiqa_amhp.datasets.rating_columns import VOTE_COLUMN
from pyiqa_amhp.datasets.rating_scale import infer_scale, parse_scale, scale_text
from pyiqa_amhp.datasets.ratings import LEVELS, default_level_values
from pyiqa_amhp.datasets.stars import STARS, read_stars
from pyiqa_amhp.errors import AMHPError

MIN_IMAGES = 20  # enough for a validation and a test of some images each (our choice)
SPLIT = 'split'  # the split column of the CSV that `fit` writes


@dataclass
class Ratings:
    """Rated photographs to train on.

    Attributes:
        table: a row for each photograph that exists, with the columns of the user's CSV; those with
            "split" in their name are not among them.
        images: folder of the photographs.
        split: part of each photograph by the user's split column, ``(N,)`` of train, val, test or
            ''; None without such a column.
        options: options of the data set (``level_values``, ``text_source`` ...).
        text_source: ``comments``, ``labels`` or ``none``.
        notes: what was found and left out, for the screen.
    """

    table: pd.DataFrame
    images: Path
    split: np.ndarray | None
    options: dict[str, Any]
    text_source: str
    notes: list[str] = field(default_factory=list)

    def select(self, keep: np.ndarray) -> None:
        """Keep some of the photographs.

        Args:
            keep: which of them, ``(N,)`` bool.
        """
        self.table = self.table[keep]
        self.split = None if self.split is None else self.split[keep]
        _check_number(self.table, 'photographs that can be read')


def read_ratings(
    file: Path,
    images: Path,
    scale: str | None = None,
    split_column: str | None = None,
    text_source: str | None = None,
) -> Ratings:
    """Read a CSV of rated photographs.

    Args:
        file: the CSV; see ``read_table`` for its columns.
        images: folder of the photographs.
        scale: ends of the scale, ``1..7``; None: that of the votes, or as ``infer_scale`` finds.
        split_column: name of the column with train, val, test; None: the one with "split" in its
            name, if there is one.
        text_source: comments, labels or none; None: what the file has.

    Raises:
        AMHPError: the file, its ratings or the folder cannot be used.
    """
    table = read_csv(str(file), text_columns=('img_name', 'text'))
    get_column(table, 'img_name', str(file))
    if 'MOS' not in table and 'mos' in table:
        table = table.rename(columns={'mos': 'MOS'})
    votes = [name for name in map(str, table.columns) if VOTE_COLUMN.fullmatch(name)]
    if not votes and 'MOS' not in table:
        columns = ', '.join(map(str, table.columns))
        raise AMHPError(f'{file}: neither MOS nor votes c1..cK; the columns are {columns}')
    options, note = _scale_options(table, file, votes, scale)
    options |= {'text_source': text_source} if text_source else {}
    if text_source != 'none' and 'text' not in table:
        options |= _attribute_options(table, file, options['level_values'])
    column = _split_column(table, file, split_column)
    columns_read = {'meta_info_file': str(file), 'dataroot_target': str(images)}
    rated = read_table({**options, **columns_read, 'narrow_ratings': True})
    texts = 'comments' if rated.texts is not None else 'labels' if rated.labels else 'none'
    ratings = Ratings(table, images, None, {**options, 'text_source': texts}, texts)
    if column:
        ratings.split = rated.splits[column]
        table = table.rename(columns={column: SPLIT})
    others = [name for name in map(str, table.columns) if 'split' in name]
    ratings.table = table.drop(columns=others)
    ratings.notes.append(f'{len(table):,} rated photographs in {file.name}; {note}')
    _leave_out_missing(ratings, rated)
    if ratings.split is not None and (unused := int((ratings.split == '').sum())):
        ratings.notes.append(f'{unused:,} photographs are in no part of {column}; left out')
        ratings.select(ratings.split != '')
    _check_values(rated.mos)
    return ratings


def read_star_ratings(images: Path) -> Ratings:
    """Read the star ratings of the photographs in a folder; see ``stars.py``.

    Raises:
        AMHPError: no photographs, or too few with stars.
    """
    paths = find_images([images])
    found = read_stars(paths)
    names = [path.relative_to(images).as_posix() for path in found.stars]
    stars = np.array(list(found.stars.values()))
    note = (
        f'{len(paths):,} photographs: {len(stars):,} with 1 to 5 stars ({found.sidecars:,} of them '
        f'in sidecars); left out: {found.unrated:,} unrated (0 or nothing), {found.rejected:,} '
        f'rejected (-1), {len(found.problems):,} with XMP that cannot be read'
    )
    table = pd.DataFrame({'img_name': names, 'MOS': stars})
    options = {'level_values': list(default_level_values(STARS, len(LEVELS)))}
    ratings = Ratings(table, images, None, options, 'none', [note, *found.problems[:3]])
    try:
        _check_number(table, 'photographs with stars')
        _check_values(stars)
    except AMHPError as error:
        raise AMHPError(f'{images}: {error} ({note})') from None
    return ratings


def _scale_options(
    table: pd.DataFrame, file: Path, votes: list[str], scale: str | None
) -> tuple[dict[str, Any], str]:
    """Return the options that set the scale, and a note that names it and says why."""
    ends = parse_scale(scale) if scale else None
    if votes and ends:
        values = np.linspace(*ends, len(votes)).tolist()
        options = {'vote_values': values}
        note = f'{len(votes)} vote columns on the scale {scale_text(ends)} (--scale)'
    elif votes:
        values, options = [float(i + 1) for i in range(len(votes))], {}
        note = f'scale 1..{len(votes)}, from {len(votes)} vote columns'
    else:
        mos = to_numbers(table['MOS'], str(file))
        if ends:
            note = f'scale {scale_text(ends)} (--scale)'
            low, high = ends

            def problem(row: int) -> str:
                return f'{mos[row]:g}: outside the scale {low:g}..{high:g} (--scale)'

            check_cells(table['MOS'], (mos < low) | (mos > high), str(file), problem)
        else:
            _check_number(table, 'rated photographs')
            _check_values(mos)
            try:
                ends = infer_scale(mos, len(mos))
            except AMHPError as error:
                raise AMHPError(f'{file}: {error}') from None
            found = f'{mos.min():g} to {mos.max():g}'
            note = f'scale {scale_text(ends)}, inferred from ratings of {found}'
        values, options = list(ends), {}
    levels = default_level_values(values, len(LEVELS))
    return {**options, 'level_values': [float(value) for value in levels]}, note


def _attribute_options(table: pd.DataFrame, file: Path, levels: list[float]) -> dict[str, Any]:
    """Find the scale of attribute labels that are numbers: that of the ratings, if it holds all."""
    ranges = {}
    for column in [name for name in map(str, table.columns) if name.startswith('attr_')]:
        labels = table[column]
        if not pd.api.types.is_numeric_dtype(labels) or labels.isna().all():
            continue
        low, high = float(labels.min()), float(labels.max())
        if low < levels[0] or high > levels[-1]:
            raise AMHPError(
                f'{file}: column {column!r} has labels from {low:g} to {high:g}, outside the scale '
                f'of the ratings ({levels[0]:g}..{levels[-1]:g}); write them on that scale or as '
                f'words ({", ".join(LEVELS)}), or leave them out (--text-source none)'
            )
        ranges[column.removeprefix('attr_')] = [levels[0], levels[-1]]
    return {'attr_range': ranges} if ranges else {}


def _split_column(table: pd.DataFrame, file: Path, given: str | None) -> str:
    """Return the name of the split column; '' without one."""
    columns = [name for name in map(str, table.columns) if 'split' in name]
    if given is not None:
        if given not in columns:
            raise AMHPError(
                f'{file}: --split {given}: the columns with "split" in their name are '
                f'{", ".join(columns) or "none"}'
            )
        return given
    if len(columns) > 1:
        raise AMHPError(f'{file}: split columns {", ".join(columns)}; choose one with --split')
    return columns[0] if columns else ''


def _leave_out_missing(ratings: Ratings, rated: RatedImages) -> None:
    """Leave out photographs that are not there; none at all is an error."""
    check_images_exist(rated, skip_missing=True)
    exist = np.array([Path(rated.path(i)).is_file() for i in range(len(rated.names))])
    if missing := rated.names[~exist].tolist():
        first = ', '.join(missing[:3]) + (', ...' if len(missing) > 3 else '')
        ratings.notes.append(f'{len(missing):,} photographs do not exist, left out: {first}')
    ratings.select(exist)


def _check_number(table: pd.DataFrame, what: str) -> None:
    if len(table) < MIN_IMAGES:
        raise AMHPError(
            f'{len(table)} {what}, expected {MIN_IMAGES} or more: a part of them is needed to '
            'choose the best epoch, and another one to measure it'
        )


def _check_values(mos: np.ndarray) -> None:
    if np.ptp(mos) == 0:
        raise AMHPError(f'all {len(mos)} ratings are {mos[0]:g}: there is nothing to learn')
