"""``amhp prepare``: a publisher's files, checked against the images on disk, to a meta file."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from pyiqa_amhp.datasets import aadb, ava, para
from pyiqa_amhp.datasets.comment_store import CommentStore, write_store
from pyiqa_amhp.datasets.comments import read_comments
from pyiqa_amhp.datasets.images import read_image
from pyiqa_amhp.datasets.keywords import AttributeKeywords
from pyiqa_amhp.datasets.raw import (
    TEST,
    TRAIN,
    VAL,
    Problem,
    RawDataset,
    add_problem,
    drop_escaping_paths,
    find_any,
)
from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.utils.files import write_atomically, writing_to

META_FILES = {
    'ava': 'meta_info_AVADataset.csv',
    'para': 'meta_info_PARADataset.csv',
    'aadb': 'meta_info_AADBDataset.csv',
}
READERS = {'ava': ava.read_ava, 'para': para.read_para, 'aadb': aadb.read_aadb}
VAL_IMAGES = 2000  # as pyiqa cuts it from AVA; the paper does not say
COMMENTS_FILE = 'ava_comments.arrow'
REPORT_FILE = 'prepare_report.json'
SPLITS = {TRAIN: 'train', VAL: 'val', TEST: 'test'}
Progress = Callable[[Iterable, int, str], Iterable]


@dataclass
class PrepareReport:
    """What ``prepare`` found and wrote.

    Attributes:
        dataset, root, images_folder: what was read.
        images: rows of the meta file; splits: of each split.
        with_comments, with_attribute_comments, comments: images and comments; None where the
            data set has none.
        missing: images that the ratings name and the folder does not have; left out.
        corrupt: images that cannot be read; left out. None where they were not opened.
        problems: everything that was passed over, by kind.
        files: what was written.
        seed: of the validation split.
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
    """Turn a download into a meta file, and AVA's comments into a store beside it.

    Args:
        dataset: ``ava``, ``para`` or ``aadb``.
        root: the folder of the download.
        out: where the files go; nothing there is touched before everything is ready.
        verify_images: open every image, and leave the corrupt ones out. Interrupted, the next
            call goes on where this one was. Else an image only has to exist.
        force: overwrite the files of an earlier call.
        val_images: where there is no validation split, how many training images make one, drawn
            by ``seed``; None: 2,000, or a tenth of the training images if that is less (our
            choice). 0: none, as in the paper.
        comments: AVA's comments, where they do not lie under ``root``.
        progress: wraps what takes long, as ``tqdm`` does.

    Raises:
        AMHPError: see the readers; files of an earlier call without ``force``; no image there.
    """
    if dataset not in META_FILES:
        raise AMHPError(f'data set {dataset!r}: expected {", ".join(META_FILES)}')
    root, out = Path(root).expanduser(), Path(out).expanduser()
    if not root.is_dir():
        raise AMHPError(f'{root}: no such folder; give the folder of the download with --root')
    meta = out / META_FILES[dataset]
    store = out / COMMENTS_FILE if dataset == 'ava' else None
    there = [str(path) for path in (meta, store) if path is not None and path.exists()]
    if there and not force:
        raise AMHPError(f'{", ".join(there)}: there already; --force overwrites')

    published = READERS[dataset](root)
    published.table, problems = drop_escaping_paths(published), published.problems
    table = published.table
    if table.empty:
        raise AMHPError(f'{root}: not one name of an image that stays in {published.images}')
    missing = _missing(published)
    add_problem(problems, 'images that are not there; left out', missing)
    table = table[~table['img_name'].isin(missing)]
    if table.empty:
        raise AMHPError(
            f'{published.images}: none of the {len(published.table)} images is there (first: '
            f'{published.table["img_name"].iloc[0]}); unpack them or give another --root'
        )
    journal = out / f'.verified_{dataset}.txt'
    corrupt = None
    if verify_images:
        corrupt = _corrupt(published.images, table['img_name'].tolist(), journal, progress)
        add_problem(problems, 'images that cannot be read; left out', corrupt.values())
        table = table[~table['img_name'].isin(corrupt)]
    if not (table['official_split'] == VAL).any():
        trained = int((table['official_split'] == TRAIN).sum())
        n = min(VAL_IMAGES, trained // 10) if val_images is None else val_images
        table = table.assign(official_split=cut_validation(table, n, seed))
    report = PrepareReport(
        dataset=dataset,
        root=str(root),
        images_folder=str(published.images),
        images=len(table),
        splits={
            name: int((table['official_split'] == code).sum()) for code, name in SPLITS.items()
        },
        missing=len(missing),
        corrupt=None if corrupt is None else len(corrupt),
        problems=problems,
        files=[str(meta)],
        seed=seed,
    )
    if store is not None:
        _prepare_comments(root, comments, table, store, report, progress)
    write_atomically(meta, lambda file: table.to_csv(file, index=False))
    _write_report(out / REPORT_FILE, report)
    journal.unlink(missing_ok=True)
    return report


def summary(report: PrepareReport) -> dict[str, int]:
    """The report's counts of images, in words; what does not apply is left out."""
    counts = {
        'in the meta file': report.images,
        **{f'  in {name}': count for name, count in report.splits.items()},
        'with comments': report.with_comments,
        'with attribute comments': report.with_attribute_comments,
        'missing, left out': report.missing,
        'corrupt, left out': report.corrupt,
    }
    return {what: count for what, count in counts.items() if count is not None}


def cut_validation(table: pd.DataFrame, val_images: int, seed: int) -> np.ndarray:
    """``official_split`` with ``val_images`` of the training images moved to validation.

    Each image has a fixed rank by its name and the seed, and the first become validation: copies
    of a data set that differ by a few images differ by these few in their validation too.

    Raises:
        AMHPError: as many as there are training images, or more.
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


def _missing(published: RawDataset) -> list[str]:
    """Names that are not in the folder; each folder is listed once, which is fast."""
    names = published.table['img_name']
    folders = names.str.rpartition('/')[0]
    there: set[str] = set()
    for folder in folders.unique():
        prefix = f'{folder}/' if folder else ''
        place = published.images / folder
        if place.is_dir():
            there.update(prefix + entry.name for entry in os.scandir(place))
    return names[~names.isin(there)].tolist()


def _corrupt(folder: Path, names: list[str], journal: Path, progress: Progress) -> dict[str, str]:
    """Open every image; names and reasons of those that cannot be read.

    The journal has a line for each image that was opened, with its size, so that an interrupted
    call is continued and a changed file is opened again.
    """
    done = _read_journal(journal)
    sizes = {name: (folder / name).stat().st_size for name in names}
    left = [name for name in names if done.get(name, (None,))[0] != sizes[name]]
    with writing_to(journal):
        journal.parent.mkdir(parents=True, exist_ok=True)
        with journal.open('a', encoding='utf-8') as file:
            for name, reason in progress(_opened(folder, left), len(left), 'Opening images'):
                done[name] = (sizes[name], reason)
                file.write(json.dumps([name, sizes[name], reason]) + '\n')
    return {name: done[name][1] for name in names if done[name][1]}


def _read_journal(journal: Path) -> dict[str, tuple[int, str]]:
    done = {}
    if journal.is_file():
        for line in journal.read_text(encoding='utf-8').splitlines():
            try:
                name, size, reason = json.loads(line)
            except ValueError:  # cut by the interruption
                continue
            done[name] = (size, reason)
    return done


def _opened(folder: Path, names: list[str]) -> Iterator[tuple[str, str]]:
    """Names and what is wrong with each image ('' if nothing), by as many threads as cores."""

    def reason(name: str) -> str:
        try:
            read_image(folder / name)
        except ImageReadError as error:
            return str(error)
        return ''

    rest = iter(names)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while block := list(islice(rest, 256)):
            yield from zip(block, pool.map(reason, block), strict=True)


def _prepare_comments(
    root: Path,
    given: Path | None,
    table: pd.DataFrame,
    store: Path,
    report: PrepareReport,
    progress: Progress,
) -> None:
    path = given or find_any(root, ava.COMMENTS)
    if path is None:
        what = f'no comments ({" or ".join(ava.COMMENTS[:2])}); training goes without text'
        add_problem(report.problems, what, [root])
        return
    said, problems = read_comments(path, progress)
    report.problems += problems
    ids = ava.image_ids(table['img_name'], str(root))
    said = said.filter(np.isin(said['image_id'].to_numpy(), ids))
    if not len(said):
        raise AMHPError(f"{path}: not one comment is about an image of {root}; are they AVA's?")
    lexicon = AttributeKeywords()
    masks = lexicon.masks(said['text'])
    write_store(store, said, masks, lexicon.attributes)
    commented = said['image_id'].to_numpy()
    report.comments = len(said)
    report.with_comments = len(np.unique(commented))
    report.with_attribute_comments = len(np.unique(commented[masks > 0]))
    report.files.append(str(store))
    CommentStore(store)  # as the data set will open it


def _write_report(path: Path, report: PrepareReport) -> None:
    """One file for all data sets: this one's part is replaced, the others' stay."""
    try:
        parts = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        parts = {}
    parts = {**(parts if isinstance(parts, dict) else {}), report.dataset: asdict(report)}
    text = json.dumps(parts, indent=2, ensure_ascii=False) + '\n'
    write_atomically(path, lambda file: file.write_text(text, encoding='utf-8'))
