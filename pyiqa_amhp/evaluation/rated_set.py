"""Rated images of a benchmark, from any CSV or from the files of ``amhp prepare``."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyiqa_amhp.datasets.csv import get_column, parse_csv
from pyiqa_amhp.datasets.prepare import COMMENTS_FILE, META_FILES, REPORT_FILE
from pyiqa_amhp.datasets.rating_columns import VOTE_COLUMN
from pyiqa_amhp.datasets.ratings import SCALES
from pyiqa_amhp.datasets.raw import SPLIT_NAMES
from pyiqa_amhp.errors import AMHPError

if TYPE_CHECKING:
    from pyiqa_amhp.datasets.dataset import AMHPDataset

META_FOLDER = Path('datasets_meta')
ALL = 'all'  # value of ``split`` that selects every image
KNOWN_OPTIONS = {
    'dataset', 'split_index', 'level_values', 'vote_values', 'levels', 'default_std',
    'text_column', 'attributes', 'attr_range', 'attr_cuts', 'attr_template', 'protocol',
    'allow_outside_root', 'mos_normalize', 'mos_range', 'lower_better', 'comments_file',
    'comment_mode', 'comment_attributes', 'comment_seed', 'threshold', 'narrow_ratings',
}  # fmt: skip


@dataclass(frozen=True)
class RatedSet:
    """Rated images to evaluate metrics on.

    Attributes:
        title: text above the tables.
        names: names of the ``N`` images, relative to their folder.
        paths: paths of the images.
        mos: mean scores, ``(N,)``.
        dist: level distributions, ``(N, k)``; None if the ratings give no distribution.
        level_values: scores of the levels, ``(k,)``.
        scale: lowest and highest possible rating.
        threshold: threshold of ACC; a score above it is "high".
        texts: one text for each image; '' for an image without one.
        text_source: kind of the texts: ``comments``, ``labels`` or ``none``.
        dataset: ava, para, aadb, or '' for another data set.
        notes: remarks on the data for the reader of the tables.
    """

    title: str
    names: list[str]
    paths: list[str]
    mos: np.ndarray
    dist: np.ndarray | None
    level_values: tuple[float, ...]
    scale: tuple[float, float]
    threshold: float
    texts: list[str]
    text_source: str
    dataset: str
    notes: list[str] = field(default_factory=list)


def load_rated(
    source: str,
    images: Path | None = None,
    split: str = 'test',
    text_source: str | None = None,
    options: Mapping[str, Any] | None = None,
    meta_folder: Path = META_FOLDER,
) -> RatedSet:
    """Read the rated images of one split.

    Args:
        source: ``ava``, ``para`` or ``aadb`` for the meta file in ``meta_folder``; or a CSV as
            ``AMHPDataset`` reads it; or a folder with one such CSV.
        images: folder of the images. None: the folder where ``amhp prepare`` found them, or the
            folder ``images`` beside the CSV.
        split: ``train``, ``val``, ``test``, or ``all``.
        text_source: ``comments``, ``labels`` or ``none``; None for any texts that the data have.
        options: options of the data set (``KNOWN_OPTIONS``). One of them is ``threshold`` of ACC;
            its default is the data set's threshold, or else the middle of the scale.
        meta_folder: folder that ``amhp prepare`` wrote to.

    Raises:
        AMHPError: missing data, an unknown option, or an error that ``AMHPDataset`` finds.
    """
    from pyiqa_amhp.datasets.dataset import AMHPDataset
    from pyiqa_amhp.datasets.paper import AADBDataset, AVACommentsDataset, PARADataset

    opt = dict(options or {})
    if unknown := opt.keys() - KNOWN_OPTIONS:
        known = ', '.join(sorted(KNOWN_OPTIONS))
        raise AMHPError(f'option {sorted(unknown)[0]!r}: expected one of {known}')
    threshold = opt.pop('threshold', None)
    if not isinstance(threshold, int | float | None):
        raise AMHPError(f'option threshold={threshold!r}: expected a number')
    classes = {'ava': AVACommentsDataset, 'para': PARADataset, 'aadb': AADBDataset}
    folder: str | Path
    if source in classes:
        file = _meta_file(source, meta_folder)
        folder = images or _prepared_images(source, meta_folder)
        comments = meta_folder / COMMENTS_FILE
        if source == 'ava' and comments.is_file():
            opt.setdefault('comments_file', str(comments))
    else:
        file = _find_csv(Path(source).expanduser())
        folder = images or file.parent / 'images'
    if text_source is not None:
        opt['text_source'] = text_source
    columns = list(map(str, parse_csv(file, nrows=0).columns))
    opt['split_index'] = _split_column(opt.get('split_index'), columns, split, file)
    _check_split(split, opt['split_index'], file)
    opt |= {'meta_info_file': str(file), 'dataroot_target': str(folder)}
    opt |= {'phase': 'test' if split == ALL else split, 'skip_bad_images': True}
    dataset = classes.get(source, AMHPDataset)(opt)
    return _rated_set(dataset, columns, split, source, threshold)


def _rated_set(
    dataset: 'AMHPDataset', columns: list[str], split: str, source: str, threshold: float | None
) -> RatedSet:
    """Collect the rated images of an opened data set, with notes on its ratings and texts."""
    rated, opt = dataset.images, dataset.opt
    name = opt.get('dataset') or ''
    votes = [column for column in columns if VOTE_COLUMN.fullmatch(column)]
    scale = _scale(opt, votes, rated.level_values)
    if threshold is None:
        threshold = SCALES[name].threshold if name else sum(scale) / 2
    texts = [dataset.text(i) for i in range(len(dataset))]
    with_text = sum(map(bool, texts))
    images = 'all images' if split == ALL else f'split {split}'
    notes = [f'{len(texts):,} rated images, {images} of {Path(rated.file).name}.']
    dist: np.ndarray | None = rated.dist
    if votes:
        notes.append("Rated distributions: the raters' votes.")
    elif 'std' in columns or opt.get('default_std') is not None:
        notes.append(
            'Rated distributions are made from mean and deviation, not votes: EMD1 and EMD2 '
            'depend on that.'
        )
    else:
        dist = None
    label = source if source == name else Path(rated.file).parent.name
    notes.append(f'ACC: above {threshold:g} is high, on a scale of {scale[0]:g}..{scale[1]:g}.')
    if with_text < len(texts):
        notes.append(f'{len(texts) - with_text:,} of {len(texts):,} images have no text.')
    has_comments = getattr(dataset, 'comments', None) is not None or rated.texts is not None
    text_source = 'comments' if has_comments else 'labels'
    return RatedSet(
        title=f'{label}, {images}',
        names=[str(n) for n in rated.names],
        paths=[rated.path(i) for i in range(len(rated.mos))],
        mos=rated.mos,
        dist=dist,
        level_values=tuple(map(float, rated.level_values)),
        scale=scale,
        threshold=float(threshold),
        texts=texts,
        text_source=text_source if with_text else 'none',
        dataset=name,
        notes=notes,
    )


def _scale(
    opt: Mapping[str, Any], votes: Sequence[str], level_values: np.ndarray
) -> tuple[float, float]:
    """Return the lowest and highest possible MOS."""
    if opt.get('mos_normalize'):
        return 0.0, 1.0
    if name := opt.get('dataset'):
        values = SCALES[name].vote_values
    elif opt.get('vote_values'):
        values = opt['vote_values']
    else:
        values = tuple(range(1, len(votes) + 1)) if votes else tuple(level_values)
    return float(min(values)), float(max(values))


def _meta_file(name: str, folder: Path) -> Path:
    file = folder / META_FILES[name]
    if not file.is_file():
        raise AMHPError(f'{file}: no such file; make it with amhp prepare {name} --root FOLDER')
    return file


def _prepared_images(name: str, folder: Path) -> str:
    """Read from the report of ``amhp prepare`` which folder holds the images."""
    try:
        report = json.loads((folder / REPORT_FILE).read_text(encoding='utf-8'))
        return report[name]['images_folder']
    except (OSError, ValueError, KeyError, TypeError):
        raise AMHPError(
            f'{folder / REPORT_FILE}: does not say where the images of {name} are; give --images'
        ) from None


def _find_csv(source: Path) -> Path:
    if source.is_dir():
        files = sorted(source.glob('*.csv'))
        if len(files) != 1:
            raise AMHPError(f'{source}: {len(files)} CSV files in this folder, expected one')
        return files[0]
    if not source.is_file():
        names = ', '.join(META_FILES)
        raise AMHPError(f'{source}: no such file; expected a CSV, its folder, or {names}')
    return source


def _check_split(split: str, column: str, file: Path) -> None:
    """Check that there is such a split, and that it has images.

    Raises:
        AMHPError: an unknown split, or one without images; the message lists those of the file.
    """
    known = (*SPLIT_NAMES.values(), ALL)
    if split == ALL:
        return
    near = get_close_matches(split, known, 1)
    problem = f'--split {split}: expected {", ".join(known)}'
    problem += f'; did you mean {near[0]}?' if near and split not in known else ''
    counts = get_column(parse_csv(file), column, str(file)).value_counts()
    names: Mapping[Any, str] = SPLIT_NAMES
    there = {names.get(value, str(value)): count for value, count in counts.items()}
    if split not in known or split not in there:
        found = ', '.join(f'{name}: {count}' for name, count in there.items()) or 'none'
        raise AMHPError(f'{problem}; images by split in {file.name}: {found}')


def _split_column(given: str | None, columns: list[str], split: str, file: Path) -> str:
    """Choose the column with the split; ``''`` for all images."""
    if split == ALL:
        return ''  # not None, for which data sets of the paper take their own
    if given is not None:
        return given
    candidates = [column for column in columns if 'split' in column]
    if 'official_split' in candidates:
        return 'official_split'
    if len(candidates) != 1:
        problem = (
            f'{len(candidates)} split columns ({", ".join(candidates)})'
            if candidates
            else 'no split column'
        )
        raise AMHPError(f'{file}: {problem}; choose with the option split_index, or --split all')
    return candidates[0]
