"""A CSV of rated images, read and checked as a whole: columns by name, errors by row."""

import dataclasses
import logging
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pyiqa_amhp.data import ratings
from pyiqa_amhp.data.ratings import LEVELS, SCALES, RatingError
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.text.attributes import (
    TEMPLATE,
    attribute_levels,
    attribute_sentences,
    check_template,
    levels_by_cuts,
    template_fields,
)

TEXT_SOURCES = ('comments', 'labels', 'none')
AVA_SPLITS = {0: 'train', 1: 'val', 2: 'test'}  # pyiqa's codes in meta_info_AVADataset.csv
VOTE_COLUMN = re.compile(r'(?:c|ratings_)(\d+)')
FIRST_ROW = 2  # as an editor counts: line 1 is the header

logger = logging.getLogger('pyiqa_amhp')


@dataclass(frozen=True)
class RatedImages:
    """Columns of equal length N, kept as arrays so that workers share them.

    Attributes:
        file: the CSV. root: folder of the images.
        names: image names relative to ``root``, ``(N,)``.
        mos: mean scores, ``(N,)``. dist: level distributions, ``(N, k)``.
        level_values: the scores of the levels, ``(k,)``, on the scale of ``mos``.
        texts: comments, or None. labels: attribute name to level words, each ``(N,)``, or None.
        template: the sentence of a label.
        splits: split columns, each ``(N,)`` of train, val, test.
    """

    file: str
    root: str
    names: np.ndarray
    mos: np.ndarray
    dist: np.ndarray
    level_values: np.ndarray
    texts: np.ndarray | None
    labels: dict[str, np.ndarray] | None
    template: str
    splits: dict[str, np.ndarray]

    def path(self, index: int) -> str:
        """Where an image lies."""
        return os.path.join(self.root, str(self.names[index]))

    def text(self, index: int) -> str:
        """What is said about an image: its comment, or sentences from its labels."""
        if self.texts is not None:
            return str(self.texts[index])
        if self.labels is not None:
            words = {name: column[index] for name, column in self.labels.items()}
            return attribute_sentences(words, self.template)
        return ''

    def of_phase(self, phase: str, split_column: str | None) -> 'RatedImages':
        """The rows of one phase; all of them where no split column is named.

        Raises:
            AMHPError: no such column, or no such row.
        """
        if split_column is None:
            return self
        if split_column not in self.splits:
            known = ', '.join(self.splits) or 'none'
            raise AMHPError(
                f'{self.file}: split_index={split_column!r} is not a split column of this file '
                f'({known}); its name must contain "split"'
            )
        rows = self.splits[split_column] == phase
        if not rows.any():
            values, counts = np.unique(self.splits[split_column], return_counts=True)
            there = ', '.join(f'{v}: {c}' for v, c in zip(values, counts, strict=True))
            raise AMHPError(
                f'{self.file}: column {split_column!r} has no row for the phase {phase!r} '
                f'({there}); override_phase chooses another'
            )
        return dataclasses.replace(
            self,
            names=self.names[rows],
            mos=self.mos[rows],
            dist=self.dist[rows],
            texts=None if self.texts is None else self.texts[rows],
            labels=self.labels and {name: column[rows] for name, column in self.labels.items()},
            splits={},
        )


def read_table(opt: dict[str, Any]) -> RatedImages:
    """Read and check a CSV of rated images.

    Columns: ``img_name``; ``MOS`` (or ``mos``), unless there are votes; any split columns (their
    name contains "split"; values train, val, test, or pyiqa's 0, 1, 2). Optional: votes
    ``c1..cK`` or ``ratings_1..K`` (all blank where only the mean is known), ``std``, ``text``,
    ``attr_<name>``. Others are passed over.

    Args:
        opt: ``meta_info_file``, ``dataroot_target``; ``dataset`` (ava, para, aadb: defaults for
            the two following); ``level_values``; ``vote_values`` (default 1..K); ``levels`` (how
            many, and the words of labels); ``default_std`` where only a mean is known;
            ``text_source`` (comments, labels or none; default: what the file has);
            ``text_column``; ``attributes`` (names, in order); ``attr_range`` (ends of numeric
            labels, which are cut into levels of equal width) and ``attr_cuts`` (the upper ends
            of all levels but the last, instead), either one list or one for each name;
            ``attr_template`` (see ``attribute_sentences``); ``protocol`` (``reference``: the
            authors' counting of PARA votes); ``allow_outside_root``; pyiqa's ``mos_normalize``,
            ``mos_range``, ``lower_better``.

    Raises:
        AMHPError: file, row (line of the file) and column, what was expected, what to do.
    """
    for name in ('meta_info_file', 'dataroot_target'):
        if opt.get(name) is None:
            raise AMHPError(f'AMHPDataset: the option {name} is missing')
    file = str(opt['meta_info_file'])
    table = _read_csv(file, text_columns=('img_name', opt.get('text_column') or 'text'))
    if 'MOS' not in table and 'mos' in table:
        table = table.rename(columns={'mos': 'MOS'})
    names = _names(table, file, allow_outside=opt.get('allow_outside_root', False))
    mos, dist, level_values = _ratings(table, file, opt)
    texts, labels = _texts(table, file, opt)
    return RatedImages(
        file=file,
        root=os.path.expanduser(str(opt['dataroot_target'])),
        names=names,
        mos=mos,
        dist=dist,
        level_values=level_values,
        texts=texts,
        labels=labels,
        template=opt.get('attr_template') or TEMPLATE,
        splits={c: _split(table[c], file) for c in table.columns if 'split' in c},
    )


def _read_csv(file: str, text_columns: tuple[str, ...]) -> pd.DataFrame:
    """The table, indexed by the line on which each row begins, as an editor counts."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('error', pd.errors.ParserWarning)  # it would cut long rows
            table = pd.read_csv(
                os.path.expanduser(file),
                skip_blank_lines=False,
                index_col=False,
                dtype=dict.fromkeys(text_columns, str),  # 0001 is a name, not 1
            )
    except FileNotFoundError:
        raise AMHPError(f'{file}: no such file; check meta_info_file') from None
    except pd.errors.EmptyDataError:
        raise AMHPError(f'{file}: the file is empty; expected a CSV with a header line') from None
    except pd.errors.ParserWarning:
        raise AMHPError(
            f'{file}, row {FIRST_ROW}: more values than the header has columns; put a text with '
            'commas in double quotes'
        ) from None
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise AMHPError(f'{file}: cannot be read as CSV ({str(error).strip()})') from error
    if table.empty:
        raise AMHPError(f'{file}: a header but no rows')
    breaks = np.zeros(len(table), int)  # within quoted values
    for name in table:
        if not pd.api.types.is_numeric_dtype(table[name]):
            breaks += table[name].fillna('').astype(str).str.count('\n').to_numpy(int)
    table.index = FIRST_ROW + np.arange(len(table)) + np.cumsum(breaks) - breaks
    return table


def _column(table: pd.DataFrame, name: str, file: str) -> pd.Series:
    if name not in table:
        raise AMHPError(
            f'{file}: no column {name!r}; the columns are {", ".join(map(str, table.columns))}'
        )
    return table[name]


def _bad_row(file: str, line: int, column: str, problem: str) -> AMHPError:
    return AMHPError(f'{file}, row {line}, column {column!r}: {problem}')


def _numbers(column: pd.Series, file: str, missing_ok: bool = False) -> np.ndarray:
    values = pd.to_numeric(column, errors='coerce').to_numpy(np.float64, na_value=np.nan)
    bad = np.isinf(values) | (np.isnan(values) & ~(missing_ok & column.isna().to_numpy()))
    if bad.any():
        row = int(np.argmax(bad))
        given = column.iloc[row]
        what = 'empty' if pd.isna(given) else repr(str(given))
        raise _bad_row(file, column.index[row], str(column.name), f'{what}, expected a number')
    return values


def _names(table: pd.DataFrame, file: str, allow_outside: bool) -> np.ndarray:
    column = _column(table, 'img_name', file)
    if column.isna().any():
        raise _bad_row(file, column.isna().idxmax(), 'img_name', 'empty, expected a name')
    repeated = column.duplicated()
    if repeated.any():
        line = repeated.idxmax()
        first = (column == column[line]).idxmax()
        problem = f'{column[line]!r} is in row {first} already; keep one of them'
        raise _bad_row(file, line, 'img_name', problem)
    leaves = column.str.match(r'^(?:[/\\~]|[A-Za-z]:)|(?:^|.*[/\\])\.\.(?:[/\\]|$)')
    if leaves.any() and not allow_outside:
        line = leaves.idxmax()
        problem = (
            f'{column[line]!r} leaves dataroot_target; give names relative to it, or '
            'allow_outside_root: true'
        )
        raise _bad_row(file, line, 'img_name', problem)
    return column.to_numpy(str)


def _split(column: pd.Series, file: str) -> np.ndarray:
    phases = np.array(list(AVA_SPLITS.values()))
    values = np.array(['' if pd.isna(v) else str(AVA_SPLITS.get(v, v)) for v in column])
    bad = ~np.isin(values, phases) & (values != '')  # empty: in no split
    if bad.any():
        row = int(np.argmax(bad))
        problem = f'{str(values[row])!r}, expected train, val or test (or 0, 1, 2)'
        raise _bad_row(file, column.index[row], str(column.name), problem)
    return values


def _vote_columns(table: pd.DataFrame, file: str) -> list[str]:
    """The vote columns by their number, all of 1..K."""
    found = {}
    for column in table.columns:
        if match := VOTE_COLUMN.fullmatch(str(column)):
            found.setdefault(str(column)[: match.start(1)], {})[int(match[1])] = str(column)
    if len(found) > 1:
        raise AMHPError(f'{file}: votes both as c1.. and as ratings_1..; keep one of them')
    prefix, columns = next(iter(found.items()), ('c', {}))
    if missing := sorted(set(range(1, max(columns, default=0) + 1)) - columns.keys()):
        raise AMHPError(f'{file}: no column {prefix}{missing[0]}, though {len(columns)} others')
    if 0 in columns:
        raise AMHPError(f'{file}: votes begin with column {prefix}1, so {columns[0]!r} is unclear')
    return [columns[number] for number in sorted(columns)]


def _ratings(
    table: pd.DataFrame, file: str, opt: dict
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """MOS ``(N,)``, level distributions ``(N, k)`` and level values ``(k,)``, on one scale."""
    votes = _vote_columns(table, file)
    scale = SCALES.get(opt.get('dataset'))
    if opt.get('dataset') is not None and scale is None:
        raise AMHPError(f'dataset={opt["dataset"]!r}: expected one of {", ".join(SCALES)}')
    vote_values = (
        opt.get('vote_values') or (scale and scale.vote_values) or range(1, len(votes) + 1)
    )
    vote_values = np.asarray(list(vote_values), np.float64)
    reference = opt.get('protocol') == 'reference' and opt.get('dataset') == 'para'
    normalise = _normaliser(opt)
    level_values = opt.get('level_values') or (scale and scale.level_values)
    if reference and not opt.get('level_values'):
        level_values = ratings.REFERENCE_PARA_LEVEL_VALUES
    if level_values is None and votes:
        values = np.sort(normalise(vote_values))
        level_values = ratings.default_level_values(values, len(opt.get('levels') or LEVELS))
    if level_values is None:
        raise AMHPError(
            f'{file}: no votes in it, so the scale is not known; give level_values (the score of '
            'each level, for example [1, 2, 3, 4, 5]) or dataset'
        )
    level_values = np.asarray(level_values, np.float64)
    unknown = table[votes].isna().all(axis=1).to_numpy()
    if votes and 'MOS' in table and unknown.any():  # of some rows only the mean is known
        opt = {**opt, 'level_values': level_values.tolist()}
        mos, dist = np.empty(len(table)), np.empty((len(table), len(level_values)))
        for rows, part in ((unknown, table.drop(columns=votes)), (~unknown, table)):
            if rows.any():
                mos[rows], dist[rows], _ = _ratings(part[rows], file, opt)
        return mos, dist, level_values
    try:
        if not votes:
            mos = normalise(_numbers(_column(table, 'MOS', file), file))
            std = _numbers(table['std'], file, missing_ok=True) if 'std' in table else None
            std = None if std is None else std * abs(normalise.factor)
            default = opt.get('default_std')
            dist = ratings.distribution_from_mean(mos, std, level_values, default)
            return mos, dist, level_values
        if len(votes) != len(vote_values):
            raise AMHPError(f'{file}: {len(votes)} vote columns but {len(vote_values)} vote_values')
        counts = np.stack([_numbers(table[column], file) for column in votes], axis=1)  # (N, m)
        normalised = normalise(vote_values)
        order = np.argsort(normalised)  # reversed where a low vote is a good one
        if reference:
            matrix = ratings.REFERENCE_PARA_VOTE_MATRIX
        else:
            matrix = ratings.vote_matrix(normalised[order], level_values)
        dist = ratings.distribution_from_votes(counts[:, order], matrix)
        mean = normalise((counts @ vote_values) / counts.sum(axis=1))
    except RatingError as error:
        at = votes[order[error.column]] if error.column is not None else None
        a_mean = 'std' if 'deviation' in error.reason else 'MOS'
        column = at or (f'{votes[0]}..' if votes else a_mean)
        raise _bad_row(file, table.index[error.row], column, error.reason) from error
    if 'MOS' not in table:
        return mean, dist, level_values
    mos = normalise(_numbers(table['MOS'], file))
    off = np.abs(mos - mean) > 0.01 * np.ptp(normalised)
    if off.any():
        logger.warning(
            '%s: the MOS of %d rows differs from the mean of their votes by more than 1%% of the '
            'scale (first: row %d)', file, off.sum(), table.index[np.argmax(off)],
        )  # fmt: skip
    return mos, dist, level_values


def _normaliser(opt: dict):
    """pyiqa's mos_normalize as a map of scores, with its slope as ``factor``."""
    if not opt.get('mos_normalize'):
        return _Affine(1.0, 0.0)
    if opt.get('mos_range') is None or opt.get('lower_better') is None:
        raise AMHPError('mos_normalize: true needs mos_range: [lo, hi] and lower_better')
    if not (len(opt['mos_range']) == 2 and opt['mos_range'][0] < opt['mos_range'][1]):
        raise AMHPError(f'mos_range={list(opt["mos_range"])}: expected [lo, hi], rising')
    lo, hi = opt['mos_range']
    if opt['lower_better']:
        return _Affine(-1 / (hi - lo), hi / (hi - lo))
    return _Affine(1 / (hi - lo), -lo / (hi - lo))


@dataclass(frozen=True)
class _Affine:
    factor: float
    offset: float

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        return scores * self.factor + self.offset


def _texts(table: pd.DataFrame, file: str, opt: dict):
    """Comments or labels, whichever ``text_source`` says."""
    column = opt.get('text_column') or 'text'
    attributes = {c.removeprefix('attr_'): c for c in table.columns if c.startswith('attr_')}
    source = opt.get('text_source')
    if source is None:  # what the file has; what an option names must be there
        labels = attributes or opt.get('attributes')
        comments = opt.get('text_column') or column in table
        source = 'comments' if comments else 'labels' if labels else 'none'
    if source not in TEXT_SOURCES:
        raise AMHPError(f'text_source={source!r}: expected {", ".join(TEXT_SOURCES)}')
    if source == 'comments':
        # plain Python strings in an array: what a sample gives goes through the collate function
        return _column(table, column, file).fillna('').astype(str).to_numpy(object), None
    if source == 'none':
        return None, None
    template = opt.get('attr_template') or TEMPLATE
    chosen = list(opt.get('attributes') or template_fields(template) or attributes)
    if not chosen or (missing := [name for name in chosen if name not in attributes]):
        what = f'attr_{missing[0]}' if chosen else 'attr_<name>'
        raise AMHPError(
            f'{file}: no column {what!r}; attributes there: {list(attributes)}; choose from them '
            'with attributes, or text_source: none'
        )
    check_template(template, chosen)
    return None, {name: _labels(table[attributes[name]], name, file, opt) for name in chosen}


def _labels(column: pd.Series, name: str, file: str, opt: dict) -> np.ndarray:
    """Level words: as they are in the file, or from numbers."""
    levels = tuple(opt.get('levels') or LEVELS)
    if not pd.api.types.is_numeric_dtype(column) or column.isna().all():
        words = column.astype(object).fillna('').astype(str).to_numpy(object)
        bad = ~np.isin(words, np.array(['', *levels], dtype=object))
        if bad.any():
            row = int(np.argmax(bad))
            problem = f'{words[row]!r}, expected a number or one of {", ".join(levels)}'
            raise _bad_row(file, column.index[row], str(column.name), problem)
        return words
    bounds, cuts = (_of_attribute(opt, key, name, file) for key in ('attr_range', 'attr_cuts'))
    if bounds is None and cuts is None:
        raise AMHPError(f'{file}: column {column.name!r} has numbers; give attr_range: [lo, hi]')
    values = _numbers(column, file, missing_ok=True)
    if bounds is not None:
        lo, hi = bounds
        attribute_levels([], lo, hi, levels)  # checks the range
        outside = (values < lo) | (values > hi)
        if outside.any():
            row = int(np.argmax(outside))
            problem = f'{values[row]:g}, expected {lo:g} to {hi:g} (attr_range)'
            raise _bad_row(file, column.index[row], str(column.name), problem)
    if cuts is not None:
        return np.array(levels_by_cuts(values, cuts, levels), dtype=object)
    return np.array(attribute_levels(values, lo, hi, levels), dtype=object)


def _of_attribute(opt: dict, key: str, name: str, file: str):
    """An option that is one list for all attributes or has one for each name."""
    value = opt.get(key)
    if not isinstance(value, Mapping):
        return value
    if name not in value:
        raise AMHPError(f'{file}: {key} has {", ".join(value)} but not {name!r}; add it')
    return value[name]
