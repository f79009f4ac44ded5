"""Picking: scores, groups, the best of each group, and what is written about them."""

import csv
import io
import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from pyiqa_amhp.datasets.images import read_image
from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.explain.folder import thumbnail
from pyiqa_amhp.pick.groups import Look, group, look_at
from pyiqa_amhp.pick.reasons import Levels, attribute_levels, in_words, why_better
from pyiqa_amhp.pick.xmp import read_rating, sidecar, stars_for, write_rating
from pyiqa_amhp.scoring import Scorer, score_images
from pyiqa_amhp.scoring.result import ScoreResult
from pyiqa_amhp.scoring.writer import ScoreFile, run_settings
from pyiqa_amhp.utils.environment import import_extra
from pyiqa_amhp.utils.files import check_folder, write_text, writing_to
from pyiqa_amhp.utils.plotting import jpeg_uri, render_page
from pyiqa_amhp.utils.text import writable

PAGE, TABLE, PICKS = 'index.html', 'scores.csv', 'picks'
READ_SIZE = 640  # pixels of each side that a photograph is decoded to, for its hash and thumbnail
SMALL = 150  # pixels of the longer side of the photographs that were not picked
MAX_OTHERS = 2000  # photographs that were not picked on the page, at most; the table has them all
NAMED = 3  # others of a group whose attributes are compared

Progress = Callable[[Iterable, int, str], Iterable]


@dataclass
class Photo:
    """A photograph of the folder.

    Attributes:
        path: its path, as it was given.
        score: its score; None if it could not be read.
        error: why not, else ''.
        percentile: the share of the other photographs that score lower, 0 to 1.
        group: the number of its group of photographs that are alike.
        alike: how many photographs its group has.
        rank: its place among the picks, from 1; 0: not picked.
        words: its attributes in words.
        why: why it was picked among those that are alike.
        picture: a thumbnail as a data URI.
        link: the address of its copy, its link or itself, from the page.
        others: the other photographs of its group, the best first.
    """

    path: str
    score: float | None = None
    error: str = ''
    percentile: float = 0.0
    group: int = -1
    alike: int = 1
    rank: int = 0
    words: str = ''
    why: str = ''
    picture: str = ''
    link: str = ''
    others: list['Photo'] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of its file as it is shown, see ``writable``."""
        return writable(Path(self.path).name)

    @property
    def place(self) -> str:
        """Its place among all photographs, in words."""
        share = int(100 * self.percentile)
        return 'the best of all' if self.percentile == 1 else f'better than {share} %'

    @property
    def stars(self) -> int:
        """The stars for its percentile, 1 to 5; 0 without a score."""
        return 0 if self.score is None else stars_for(self.percentile)


@dataclass
class Picked:
    """What ``pick`` made.

    Attributes:
        photos: all photographs, in their order.
        picks: the picks, the best first.
        files: the files that were written.
        rated: the number of sidecars that were written.
        kept: the number of sidecars whose rating was kept.
    """

    photos: list[Photo]
    picks: list[Photo]
    files: list[Path]
    rated: int = 0
    kept: int = 0


def check_output(out: Path, xmp: bool) -> Path:
    """Check the folder and the packages before anything is scored.

    Raises:
        AMHPError: a package is missing, or the folder cannot be written.
    """
    for name in ('imagehash', 'jinja2', *['lxml'] * xmp):
        import_extra(name, 'pick')
    return check_folder(out)


def pick(
    images: Sequence[Path],
    scorer: Scorer,
    out: Path,
    top: int,
    title: str,
    copy: bool = False,
    xmp: bool = False,
    overwrite: bool = False,
    inputs: Sequence[str] = (),
    progress: Progress = lambda items, total, name: items,
    **reading: Any,
) -> Picked:
    """Pick the best photographs, one of each group of photographs that are alike.

    An interrupted run resumes: scores are kept in ``scores.csv.partial.jsonl`` as they come.

    Args:
        images: the photographs.
        scorer: the metric.
        out: a folder for the page, the table and the picks.
        top: how many to pick.
        title: a line below the heading of the page.
        copy: whether to copy the picks, not only to link to them.
        xmp: whether to write stars into sidecars of all photographs.
        overwrite: whether stars replace those that are there.
        inputs: the paths as they were given, for the settings of the run.
        progress: shows the progress, called with items, their number and a title.
        **reading: options of ``score_images``.

    Raises:
        AMHPError: no photograph can be read, or something cannot be written.
    """
    file, photos = _score(images, scorer, out, inputs, progress, **reading)
    scored = [photo for photo in photos if photo.score is not None]
    if not scored:
        raise AMHPError(f'none of the {len(photos)} photographs could be read: {photos[0].error}')

    def read(photo: Photo) -> Image.Image:
        try:
            limit = reading.get('max_pixels')
            return read_image(photo.path, READ_SIZE, limit, scorer.color_profiles)
        except ImageReadError as error:
            raise AMHPError(f'{error} (it was there when it was scored)') from error

    looks = []
    for photo in progress(scored, len(scored), 'Comparing'):
        image = read(photo)
        looks.append(look_at(image, photo.path))
        photo.picture = _small(image)
    groups = _group(scored, looks)
    _rank(scored, scorer.lower_better)
    picks = _choose(groups, scorer.lower_better)[:top]
    for rank, photo in enumerate(picks, 1):
        photo.rank = rank
    for photo in progress(picks, len(picks), 'Describing'):
        _describe(photo, scorer, read)
    result = Picked(photos, picks, [])
    _write_picks(out / PICKS, picks, copy)
    if xmp:
        _write_stars(scored, overwrite, result)
    result.files = [
        write_text(out / PAGE, _page(result, scorer, title)),
        write_text(out / TABLE, _table(photos, scorer.note)),
    ]
    file.discard()
    return result


def _score(
    images: Sequence[Path],
    scorer: Scorer,
    out: Path,
    inputs: Sequence[str],
    progress: Progress,
    **reading: Any,
) -> tuple[ScoreFile, list[Photo]]:
    """Score the photographs that an interrupted run has not scored.

    Returns:
        The partial file, and all photographs in their order.
    """
    precision = scorer.amhp.backbone.runner.reduced if scorer.amhp else None
    settings = {'max_pixels': reading.get('max_pixels'), 'precision': precision}
    settings = run_settings(inputs, scorer, settings)
    with writing_to(out):
        out.mkdir(parents=True, exist_ok=True)
    file = ScoreFile(out / TABLE, settings, resume=True)
    left = [image for image in images if str(image) not in file.done]
    results = progress(score_images(left, None, scorer, **reading), len(left), 'Scoring')
    for _ in file.append(results):
        pass
    by_path: dict[str, ScoreResult] = {result.path: result for result in file.results()}
    found = [by_path[str(image)] for image in images]
    return file, [Photo(result.path, result.score, result.error) for result in found]


def _small(image: Image.Image) -> str:
    small = image.copy()
    small.thumbnail((SMALL, SMALL))
    return jpeg_uri(small, quality=75)


def _group(photos: Sequence[Photo], looks: Sequence[Look]) -> list[list[Photo]]:
    """Group photographs that are alike, and note each one's group."""
    numbers = group(looks)
    groups: dict[int, list[Photo]] = {}
    for photo, number in zip(photos, numbers.tolist(), strict=True):
        photo.group = number
        groups.setdefault(number, []).append(photo)
    for members in groups.values():
        for photo in members:
            photo.alike = len(members)
    return list(groups.values())


def _rank(photos: Sequence[Photo], lower_better: bool) -> None:
    """Set the percentile of each photograph among all of them."""
    scores = np.array([_key(photo, lower_better) for photo in photos])
    lower = np.searchsorted(np.sort(scores), scores, side='left')
    for photo, count in zip(photos, lower.tolist(), strict=True):
        photo.percentile = count / max(1, len(photos) - 1)


def _key(photo: Photo, lower_better: bool) -> float:
    assert photo.score is not None
    return -photo.score if lower_better else photo.score


def _choose(groups: Sequence[list[Photo]], lower_better: bool) -> list[Photo]:
    """Choose the best of each group, the best first; equal scores keep their order."""
    best = []
    for members in groups:
        ordered = sorted(members, key=lambda photo: -_key(photo, lower_better))
        ordered[0].others = ordered[1:]
        best.append(ordered[0])
    return sorted(best, key=lambda photo: -_key(photo, lower_better))


def _describe(photo: Photo, scorer: Scorer, read: Callable[[Photo], Image.Image]) -> None:
    """Give a pick a large picture, its attributes in words, and what it has that others lack."""
    image = read(photo)
    photo.picture = thumbnail(image)

    def levels_of(image: Image.Image) -> Levels | None:
        return attribute_levels(scorer.amhp, image) if scorer.amhp else None

    levels = levels_of(image)
    if levels is not None:
        photo.words = in_words(levels)
    others = [
        (other.name, other.score or 0.0, levels_of(read(other))) for other in photo.others[:NAMED]
    ]
    others += [(other.name, other.score or 0.0, None) for other in photo.others[NAMED:]]
    photo.why = why_better(photo.score or 0.0, levels, others)


def _write_picks(folder: Path, picks: Sequence[Photo], copy: bool) -> None:
    """Copy the picks or link to them, in the place of those of an earlier run."""
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            if re.match(r'\d{3,}_', old.name):
                old.unlink()
    for photo in picks:
        source = Path(photo.path).absolute()
        target = folder / f'{photo.rank:03}_{source.name}'
        photo.link = f'{PICKS}/{quote(os.fsencode(target.name))}'
        with writing_to(target):
            if copy:
                shutil.copy2(source, target)
                continue
            try:
                target.symlink_to(source)
            except OSError:  # Windows allows links to few users
                photo.link = source.as_uri()


def _write_stars(photos: Sequence[Photo], overwrite: bool, result: Picked) -> None:
    for photo in photos:
        path = sidecar(photo.path)
        if not overwrite and read_rating(path):  # 0: no stars yet
            result.kept += 1
        else:
            write_rating(path, photo.stars)
            result.rated += 1


def _page(result: Picked, scorer: Scorer, title: str) -> str:
    picked = {id(photo) for photo in result.picks}
    others = [p for p in result.photos if p.score is not None and id(p) not in picked]
    others.sort(key=lambda photo: -_key(photo, scorer.lower_better))
    return render_page(
        Path(__file__).with_name('page.html'),
        title=title,
        scale=scorer.scale_text,
        note=scorer.note,
        picks=result.picks,
        others=others[:MAX_OTHERS],
        hidden=max(0, len(others) - MAX_OTHERS),
        failed=[photo for photo in result.photos if photo.error],
        photos=result.photos,
        table=TABLE,
        folder=PICKS,
    )


def _table(photos: Sequence[Photo], note: str) -> str:
    """Format the table of all photographs as CSV."""
    file = io.StringIO(newline='')
    columns = ['path', 'score', 'percentile', 'stars', 'group', 'alike', 'pick', 'attributes']
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow([*columns, *['note'] * bool(note), 'error'])
    for p in photos:
        has = p.score is not None
        row: list[Any] = [writable(p.path), p.score, f'{p.percentile:.4f}' if has else '']
        row += [p.stars or '', p.group if has else '', p.alike if has else '', p.rank or '']
        writer.writerow([*row, p.words, *[note] * bool(note), writable(p.error)])
    return file.getvalue()
