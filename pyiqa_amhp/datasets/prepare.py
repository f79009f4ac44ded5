"""``amhp prepare``: write a meta file from a download, checked against its images."""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pyiqa_amhp.datasets import aadb, ava, para
from pyiqa_amhp.datasets.comment_store import CommentStore, write_store
from pyiqa_amhp.datasets.comments import read_comments
from pyiqa_amhp.datasets.images import read_image
from pyiqa_amhp.datasets.keywords import AttributeKeywords, read_masks
from pyiqa_amhp.datasets.raw import (
    SPLIT_NAMES,
    TRAIN,
    VAL,
    Problem,
    Progress,
    add_problem,
    drop_escaping_paths,
    find_optional,
)
from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.utils.files import check_folder, write_atomically, write_text
from pyiqa_amhp.utils.journal import Journal

META_FILES = {
    'ava': 'meta_info_AVADataset.csv',
    'para': 'meta_info_PARADataset.csv',
    'aadb': 'meta_info_AADBDataset.csv',
}
READERS = {'ava': ava.read_ava, 'para': para.read_para, 'aadb': aadb.read_aadb}
VAL_IMAGES = 2000  # as in pyiqa's split of AVA; the paper does not say
COMMENTS_FILE = 'ava_comments.arrow'
REPORT_FILE = 'prepare_report.json'
READ_AT_ONCE = 256  # images that threads read before their results are written


@dataclass
class PrepareReport:
    """Counts, problems and output files of ``prepare``.

    Attributes:
        dataset: ``ava``, ``para`` or ``aadb``.
        root: folder of the download.
        images_folder: folder of the images.
        images: number of rows in the meta file.
        splits: number of images in each split.
        missing: number of rated images that do not exist; left out.
        corrupt: number of images that cannot be read; left out. None if they were not opened.
        comments: number of comments; None without comments.
        with_comments: number of images with comments; None without comments.
        with_attribute_comments: number of images with comments about attributes; None without
            comments.
        problems: faults that were worked around, by kind.
        files: paths of the files that were written.
        seed: seed of the validation split.
    """

    dataset: str
    root: str
    images_folder: str
    images: int
    splits: dict[str, int]
    missing: int
    corrupt: int | None
    comments: int | None = None
    with_comments: int | None = None
    with_attribute_comments: int | None = None
    problems: list[Problem] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    seed: int = 0


def prepare(
    dataset: str,
    root: Path,
    out: Path,
    verify_images: bool = False,
    force: bool = False,
    seed: int = 0,
    val_images: int | None = None,
    comments: Path | None = None,
    progress: Progress = lambda items, total, what: items,
) -> PrepareReport:
    """Write the meta file of a download, and the comments of AVA beside it.

    Args:
        dataset: ``ava``, ``para`` or ``aadb``.
        root: folder of the download.
        out: folder for the files; nothing in it changes before all results are ready.
        verify_images: open every image and leave corrupt ones out; after an interruption the
            next call resumes. Otherwise an image only has to exist.
        force: overwrite the files of an earlier call.
        seed: seed of the validation split.
        val_images: number of training images to validate on, if the data set has no validation
            split. None: 2,000, or a tenth of the training images if that is less (our choice).
            0: none, as in the paper.
        comments: AVA's file of comments, if it is not under ``root``.
        progress: shows the progress of long steps, as ``tqdm`` does.

    Raises:
        AMHPError: a fault that the readers report, files of an earlier call without ``force``, or
            no image exists.
    """
    if dataset not in META_FILES:
        raise AMHPError(f'data set {dataset!r}: expected {", ".join(META_FILES)}')
    root, out = Path(root).expanduser(), check_folder(out)
    if not root.is_dir():
        raise AMHPError(f'{root}: no such folder; give the folder of the download with --root')
    meta = out / META_FILES[dataset]
    store = out / COMMENTS_FILE if dataset == 'ava' else None
    existing = [str(path) for path in (meta, store) if path is not None and path.exists()]
    if existing and not force:
        raise AMHPError(f'{", ".join(existing)}: exists already; --force overwrites')

    raw = READERS[dataset](root)
    table, problems = drop_escaping_paths(raw), raw.problems
    if table.empty:
        raise AMHPError(f'{root}: not one name of an image that stays in {raw.images}')
    missing = _missing_images(raw.images, table['img_name'])
    add_problem(problems, 'images that do not exist; left out', missing)
    if len(missing) == len(table):
        raise AMHPError(
            f'{raw.images}: none of the {len(table)} images is there (first: {missing[0]}); unpack '
            'them or give another --root'
        )
    table = table[~table['img_name'].isin(missing)]
    journal = Journal(out / f'.verified_{dataset}.txt')
    corrupt = None
    if verify_images:
        corrupt = _corrupt_images(raw.images, table['img_name'].tolist(), journal, progress)
        add_problem(problems, 'images that cannot be read; left out', corrupt.values())
        table = table[~table['img_name'].isin(corrupt)]
    if not (table['official_split'] == VAL).any():
        trained = int((table['official_split'] == TRAIN).sum())
        n = min(VAL_IMAGES, trained // 10) if val_images is None else val_images
        table = table.assign(official_split=cut_validation(table, n, seed))
    report = PrepareReport(
        dataset=dataset,
        root=str(root),
        images_folder=str(raw.images),
        images=len(table),
        splits={
            name: int((table['official_split'] == code).sum()) for code, name in SPLIT_NAMES.items()
        },
        missing=len(missing),
        corrupt=None if corrupt is None else len(corrupt),
        problems=problems,
        files=[str(meta)],
        seed=seed,
    )
    if store is not None:
        path = comments or find_optional(root, ava.COMMENTS)
        _write_comments(path, table, store, report, progress)
    write_atomically(meta, lambda file: table.to_csv(file, index=False))
    _write_report(out / REPORT_FILE, report)
    journal.delete()
    return report


def summary(report: PrepareReport) -> dict[str, int]:
    """List the counts of images in a report, by their labels; None counts are left out."""
    counts = {
        'in the meta file': report.images,
        **{f'  in {name}': count for name, count in report.splits.items()},
        'with comments': report.with_comments,
        'with attribute comments': report.with_attribute_comments,
        'missing, left out': report.missing,
        'corrupt, left out': report.corrupt,
    }
    return {label: count for label, count in counts.items() if count is not None}


def cut_validation(table: pd.DataFrame, val_images: int, seed: int) -> np.ndarray:
    """Move some of the training images to validation.

    Each image has a fixed rank, by its name and the seed, and the first ``val_images`` are taken:
    between copies of a data set that differ by a few images, the validation images differ by no
    more.

    Args:
        table: ``img_name`` and ``official_split``, ``N`` rows.
        val_images: number of images to move.
        seed: seed of the ranks.

    Returns:
        The new ``official_split``, ``(N,)``.

    Raises:
        AMHPError: not fewer than there are training images.
    """
    split = table['official_split'].to_numpy(copy=True)
    train = np.flatnonzero(split == TRAIN)
    if val_images < 0 or 0 < val_images >= len(train):
        raise AMHPError(
            f'{val_images} validation images of {len(train)} training images: expected fewer; '
            'give another number with --val-images'
        )
    names = table['img_name'].to_numpy(object)[train]
    ranks = [blake2b(f'{seed} {name}'.encode(), digest_size=8).digest() for name in names]
    split[train[np.argsort(np.array(ranks), kind='stable')[:val_images]]] = VAL
    return split


def _missing_images(folder: Path, names: pd.Series) -> list[str]:
    """Find the names that do not exist in a folder; lists each folder once, which is fast."""
    existing: set[str] = set()
    for subfolder in names.str.rpartition('/')[0].unique():
        prefix = f'{subfolder}/' if subfolder else ''
        if (folder / subfolder).is_dir():
            existing.update(prefix + entry.name for entry in os.scandir(folder / subfolder))
    return names[~names.isin(existing)].tolist()


def _corrupt_images(
    folder: Path, names: list[str], journal: Journal, progress: Progress
) -> dict[str, str]:
    """Open every image that is not in the journal; return the corrupt ones with the reason.

    Args:
        folder: folder of the images.
        names: names of the images in the folder.
        journal: has a line for each opened image: name, size in bytes, reason ('' if it is
            readable). An image whose size has changed since is opened again.
        progress: shows the progress.
    """
    sizes = {name: (folder / name).stat().st_size for name in names}
    known = {(name, size): reason for name, size, reason in journal.repair(_is_entry)}
    unchecked = [name for name in names if (name, sizes[name]) not in known]
    checked = progress(_check_images(folder, unchecked), len(unchecked), 'Opening images')
    entries = ([name, sizes[name], reason] for name, reason in checked)
    for name, size, reason in journal.append(entries):
        known[name, size] = reason
    reasons = {name: known[name, sizes[name]] for name in names}
    return {name: reason for name, reason in reasons.items() if reason}


def _is_entry(value: Any) -> bool:
    """Whether a line of the journal is a name, a size and a reason."""
    return isinstance(value, list) and [type(part) for part in value] == [str, int, str]


def _check_images(folder: Path, names: list[str]) -> Iterator[tuple[str, str]]:
    """Open images in as many threads as cores; yield each name and what is wrong, '' if nothing."""

    def reason(name: str) -> str:
        try:
            read_image(folder / name)
        except ImageReadError as error:
            return str(error)
        return ''

    rest = iter(names)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while block := list(islice(rest, READ_AT_ONCE)):
            yield from zip(block, pool.map(reason, block), strict=True)


def _write_comments(
    path: Path | None, table: pd.DataFrame, store: Path, report: PrepareReport, progress: Progress
) -> None:
    """Write the comments on the images of a table to a store, and count them in the report.

    Args:
        path: AVA's file of comments; None if there is none, which is added to the problems.
        table: rows of the meta file.
        store: file to write.
        report: gets the counts, the problems and the file.
        progress: shows the progress.

    Raises:
        AMHPError: no comment is about an image of the table.
    """
    if path is None:
        what = f'no comments ({" or ".join(ava.COMMENTS[:2])}); training goes without text'
        add_problem(report.problems, what, [report.root])
        return
    comments, problems = read_comments(path, progress)
    report.problems += problems
    ids = ava.image_ids(table['img_name'], report.root)
    comments = comments.filter(np.isin(comments['image_id'].to_numpy(), ids))
    if not len(comments):
        raise AMHPError(
            f"{path}: not one comment is about an image of {report.root}; are they AVA's?"
        )
    keywords = AttributeKeywords()
    masks = read_masks(keywords, comments['text'])
    write_store(store, comments, masks, keywords.attributes, keywords.digest)
    image_ids = comments['image_id'].to_numpy()
    report.comments = len(comments)
    report.with_comments = len(np.unique(image_ids))
    report.with_attribute_comments = len(np.unique(image_ids[masks > 0]))
    report.files.append(str(store))
    CommentStore(store)  # fails here rather than in training


def _write_report(path: Path, report: PrepareReport) -> None:
    """Write a report to the file of all data sets; those of the others stay in it."""
    try:
        reports = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        reports = {}
    reports = {**(reports if isinstance(reports, dict) else {}), report.dataset: asdict(report)}
    write_text(path, json.dumps(reports, indent=2, ensure_ascii=False) + '\n')
