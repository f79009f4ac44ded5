"""The rated images of a benchmark: from any CSV, or from what ``amhp prepare`` wrote."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pyiqa_amhp.datasets.prepare import COMMENTS_FILE, META_FILES, REPORT_FILE
from pyiqa_amhp.datasets.rating_columns import VOTE_COLUMN
from pyiqa_amhp.datasets.ratings import SCALES
from pyiqa_amhp.errors import AMHPError

META_FOLDER = Path('datasets_meta')
ALL = 'all'  # as a split: every image
KNOWN_OPTIONS = {
    'dataset', 'split_index', 'level_values', 'vote_values', 'levels', 'default_std',
    'text_column', 'attributes', 'attr_range', 'attr_cuts', 'attr_template', 'protocol',
    'allow_outside_root', 'mos_normalize', 'mos_range', 'lower_better', 'comments_file',
    'comment_mode', 'comment_attributes', 'comment_seed', 'threshold',
}  # fmt: skip


@dataclass(frozen=True)
class RatedSet:
    """Rated images to judge.

    Attributes:
        title: what is shown above the tables.
        names: of the ``N`` images, relative to their folder. paths: where they lie.
        mos: mean scores ``(N,)``.
        dist: level distributions ``(N, k)``; None where the ratings do not give any.
        level_values: the scores of the levels ``(k,)``.
        scale: the ends of the rating scale. threshold: a score above it is "high" in ACC.
        texts: one for each image, '' where there is none.
        text_source: ``comments``, ``labels`` or ``none``.
        dataset: ava, para, aadb, or '' for others.
        notes: what a reader of the tables has to know about the data.
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
        source: ``ava``, ``para`` or ``aadb`` (the meta file in ``meta_folder``), a CSV in the
            form of ``AMHPDataset``, or a folder with one such CSV.
        images: their folder; None: where ``amhp prepare`` found them, or ``images`` beside the
            CSV.
        split: ``train``, ``val``, ``test``, or ``all``.
        text_source: ``comments``, ``labels`` or ``none``; None: what the data has.
        options: those of ``AMHPDataset`` and of the data sets on it (``KNOWN_OPTIONS``), and
            ``threshold`` of ACC, by default the data set's, else the middle of the scale.

    Raises:
        AMHPError: no such data, an unknown option, or what ``AMHPDataset`` finds wrong.
    """
    from pyiqa_amhp.datasets.dataset import AMHPDataset
    from pyiqa_amhp.datasets.paper import AADBDataset, AVACommentsDataset, PARADataset

    opt = dict(options or {})
    if unknown := opt.keys() - KNOWN_OPTIONS:
        known = ', '.join(sorted(KNOWN_OPTIONS))
        raise AMHPError(f'option {sorted(unknown)[0]!r}: expected one of {known}')
    threshold = opt.pop('threshold', None)
    kinds = {'ava': AVACommentsDataset, 'para': PARADataset, 'aadb': AADBDataset}
    if source in kinds:
        kind, file = kinds[source], _meta_file(source, meta_folder)
        folder = images or _prepared_images(source, meta_folder)
        store = meta_folder / COMMENTS_FILE
        if source == 'ava' and store.is_file():
            opt.setdefault('comments_file', str(store))
    else:
        kind, file = AMHPDataset, _csv(Path(source).expanduser())
        folder = images or file.parent / 'images'
    if text_source is not None:
        opt['text_source'] = text_source
    columns = list(map(str, pd.read_csv(file, nrows=0).columns)) if file.is_file() else []
    opt['split_index'] = _split_column(opt.get('split_index'), columns, split, file)
    opt |= {'meta_info_file': str(file), 'dataroot_target': str(folder)}
    opt |= {'phase': 'test' if split == ALL else split, 'skip_bad_images': True}
    dataset = kind(opt)
    return _rated_set(dataset, columns, split, source, threshold)


def _rated_set(dataset, columns: list[str], split: str, source: str, threshold) -> RatedSet:
    rated, opt = dataset.images, dataset.opt
    name = opt.get('dataset') or ''
    votes = [column for column in columns if VOTE_COLUMN.fullmatch(column)]
    scale = _scale(opt, votes, rated.level_values)
    if threshold is None:
        threshold = SCALES[name].threshold if name else sum(scale) / 2
    texts = [dataset.text(i) for i in range(len(dataset))]
    with_text = sum(map(bool, texts))
    where = 'all images' if split == ALL else f'split {split}'
    dist, notes = rated.dist, [f'{len(texts):,} images, {where} of {Path(rated.file).name}.']
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
    return RatedSet(
        title=f'{label}, {where}',
        names=[str(n) for n in rated.names],
        paths=[rated.path(i) for i in range(len(rated.mos))],
        mos=rated.mos,
        dist=dist,
        level_values=tuple(map(float, rated.level_values)),
        scale=scale,
        threshold=float(threshold),
        texts=texts,
        text_source=_text_source(dataset) if with_text else 'none',
        dataset=name,
        notes=notes,
    )


def _text_source(dataset) -> str:
    if getattr(dataset, 'comments', None) is not None or dataset.images.texts is not None:
        return 'comments'
    return 'labels'


def _scale(opt: Mapping[str, Any], votes: list[str], level_values) -> tuple[float, float]:
    """The ends of the scale on which the MOS are."""
    if opt.get('mos_normalize'):
        return 0.0, 1.0
    name = opt.get('dataset')
    ends: Sequence[float] = SCALES[name].vote_values if name else ()
    if not name:
        ends = opt.get('vote_values') or (range(1, len(votes) + 1) if votes else level_values)
    return float(min(ends)), float(max(ends))


def _meta_file(name: str, folder: Path) -> Path:
    file = folder / META_FILES[name]
    if not file.is_file():
        raise AMHPError(f'{file}: no such file; make it with amhp prepare {name} --root FOLDER')
    return file


def _prepared_images(name: str, folder: Path) -> str:
    try:
        report = json.loads((folder / REPORT_FILE).read_text(encoding='utf-8'))
        return report[name]['images_folder']
    except (OSError, ValueError, KeyError, TypeError):
        raise AMHPError(
            f'{folder / REPORT_FILE}: does not say where the images of {name} are; give --images'
        ) from None


def _csv(source: Path) -> Path:
    if source.is_dir():
        files = sorted(source.glob('*.csv'))
        if len(files) != 1:
            raise AMHPError(f'{source}: {len(files)} CSV files in this folder, expected one')
        return files[0]
    if not source.is_file():
        names = ', '.join(META_FILES)
        raise AMHPError(f'{source}: no such file; expected a CSV, its folder, or {names}')
    return source


def _split_column(given: str | None, columns: list[str], split: str, file: Path) -> str | None:
    """The column that says the split; None for all images."""
    if split == ALL:
        return None
    if given is not None:
        return given
    found = [column for column in columns if 'split' in column]
    if 'official_split' in found:
        return 'official_split'
    if len(found) != 1:
        what = f'{len(found)} split columns ({", ".join(found)})' if found else 'no split column'
        raise AMHPError(f'{file}: {what}; choose with the option split_index, or --split all')
    return found[0]
