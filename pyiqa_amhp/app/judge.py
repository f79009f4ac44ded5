"""What the page and its API ask of the model. One at a time; photographs come as uploads."""

import csv
import io
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image

from pyiqa_amhp.app.limits import Limits
from pyiqa_amhp.app.uploads import Upload
from pyiqa_amhp.datasets.images import read_image
from pyiqa_amhp.datasets.texts import read_texts
from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.explain.explanation import Explanation, as_tensor, explain, reads_text
from pyiqa_amhp.explain.folder import thumbnail
from pyiqa_amhp.explain.relevance import eval_fp32
from pyiqa_amhp.scoring.result import Score, table_columns, to_record
from pyiqa_amhp.scoring.scorer import level_words, scale_ends, score_images

THUMBNAIL = 320  # pixels that both sides of a decoded photograph keep for its small picture
READERS = 2  # threads: whole photographs are in memory while they wait


@dataclass(frozen=True)
class Explained:
    """One photograph.

    Attributes:
        name: of its file. image: RGB.
        found: why it has its score. without: the score without the comment; None where there is
            no comment, or it was not read.
    """

    name: str
    image: Image.Image
    found: Explanation
    without: float | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: all of the explanation, and ``score_without_text``."""
        return {**self.found.to_dict(), 'score_without_text': self.without}


@dataclass(frozen=True)
class Judged:
    """One of many photographs: its row, and a small picture as an address ('' for none)."""

    row: Score
    picture: str


class Judge:
    """An AMHP behind the page.

    Args:
        metric: what ``pyiqa.create_metric`` gave, or an ``AMHP``.
        limits: what is taken.

    Raises:
        AMHPError: another model than AMHP, which cannot explain itself.
    """

    def __init__(self, metric, limits: Limits):
        self.metric = metric if hasattr(metric, 'net') else SimpleNamespace(net=metric)
        self.net, self.limits = self.metric.net, limits
        if not hasattr(self.net, 'explain'):
            raise AMHPError(f'the page needs an AMHP, got {type(self.net).__name__}')
        self.scale = tuple(map(float, scale_ends(self.metric)))
        self.reads_text = reads_text(self.net)
        self._alone = threading.Lock()

    def score(self, photo: Upload | None, text: str | None = None) -> dict[str, Any]:
        """The score, as ``amhp score`` gives it with ``--exact``.

        Raises:
            ImageReadError: it cannot be read.
            AMHPError: no photograph, or a comment that is too long.
        """
        (row,) = self._rows([_given(photo)], [self.limits.check_text(text)])
        if row.error:
            raise ImageReadError(row.error)
        return {**_scored(row), 'scale': list(self.scale)}

    def explain(self, photo: Upload | None, text: str | None = None) -> Explained:
        """Why a photograph has its score, and its score without the comment.

        Raises:
            ImageReadError, AMHPError: as ``score``.
        """
        photo, text = _given(photo), self.limits.check_text(text)
        try:
            image = read_image(photo.path, max_pixels=self.limits.pixels)
        except ImageReadError as error:
            raise ImageReadError(_told(str(error), photo)) from error
        with self._alone:
            found = explain(self.net, image, text)
            read = text and self.reads_text and found.text_source == 'given'
            without = self._without_text(image) if read else None
        return Explained(photo.name, image, found, without)

    def _without_text(self, image: Image.Image) -> float:
        with eval_fp32(self.net):
            x = self.net.preprocess(as_tensor(image).to(self.net.logit_scale))
            return float(self.net.predict(x, [''])[0])

    def score_many(
        self,
        photos: Sequence[Upload] | None,
        texts: Upload | None = None,
        progress: Callable[[Iterable, int], Iterable] = lambda rows, total: rows,
        pictures: bool = False,
    ) -> list[Judged]:
        """Scores of photographs, in their order; one that cannot be read has an error.

        Args:
            texts: a CSV with the columns ``img_name`` and ``text``.
            progress: passes rows on and shows how many came.
            pictures: make a small picture of each.

        Raises:
            AMHPError: no photographs, too many, or texts that do not fit.
        """
        photos = list(photos or ())
        if not photos:
            raise AMHPError('no photographs: choose some first')
        if len(photos) > self.limits.files:
            raise AMHPError(
                f'{len(photos)} photographs at once, and {self.limits.files} is the limit: '
                'choose fewer, or use amhp score for whole folders'
            )
        rows = self._rows(photos, self._texts(photos, texts))
        judged = []
        for photo, row in zip(photos, progress(rows, len(photos)), strict=True):
            judged.append(Judged(row, self._picture(photo) if pictures and not row.error else ''))
        return judged

    def _texts(self, photos: list[Upload], texts: Upload | None) -> list[str]:
        if texts is None:
            return [''] * len(photos)
        try:
            said = read_texts(texts.path, [Path(photo.name) for photo in photos])
        except AMHPError as error:
            raise AMHPError(str(error).replace(texts.path, texts.name)) from error
        return [
            self.limits.check_text(text, f'{texts.name}: the text of {photo.name}')
            for photo, text in zip(photos, said, strict=True)
        ]

    def _rows(self, photos: list[Upload], texts: list[str]):
        """Rows as they come, under the names that the files had where they were."""
        with self._alone:
            rows = score_images(
                [photo.path for photo in photos],
                texts,
                self.metric,
                exact=True,  # the same score as of one photograph alone, which is explained
                workers=READERS,
                max_pixels=self.limits.pixels,
            )
            for photo, row in zip(photos, rows, strict=True):
                row.path, row.error = photo.name, _told(row.error, photo)
                yield row

    def _picture(self, photo: Upload) -> str:
        try:
            return thumbnail(read_image(photo.path, THUMBNAIL, self.limits.pixels))
        except ImageReadError:  # deleted in between: its score is known
            return ''

    def to_csv(self, rows: Iterable[Score]) -> str:
        """The table that ``amhp score --out FILE.csv`` writes."""
        file = io.StringIO(newline='')
        table = csv.DictWriter(file, table_columns(level_words(self.metric)), lineterminator='\n')
        table.writeheader()
        table.writerows(map(to_record, rows))
        return file.getvalue()


def many_to_dicts(judged: Iterable[Judged]) -> list[dict[str, Any]]:
    """As JSON has it: ``name, score, text_source, levels, error`` each."""
    return [{**_scored(one.row), 'error': one.row.error} for one in judged]


def _scored(row: Score) -> dict[str, Any]:
    values = {key: getattr(row, key) for key in ('score', 'text_source', 'levels')}
    return {'name': row.path, **values}  # Gradio's client would download what is called path


def _given(photo: Upload | None) -> Upload:
    if photo is None:
        raise AMHPError('no photograph: choose one first')
    return photo


def _told(error: str, photo: Upload) -> str:
    """The error of a file by the name that its owner knows, without options of ours."""
    error = error.replace(photo.path, photo.name)
    if error.endswith('no such file; check the path'):
        return f'{photo.name}: no longer here, uploads are kept for a while only; choose it again'
    return error.split(', or raise max_pixels')[0]
