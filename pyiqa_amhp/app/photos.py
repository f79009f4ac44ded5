"""Scores and explanations of uploaded photographs, for the page and its API."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pyiqa_amhp.app.limits import Limits
from pyiqa_amhp.app.uploads import Upload
from pyiqa_amhp.datasets.images import read_image
from pyiqa_amhp.datasets.texts import read_texts
from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.explain.explanation import Explanation, explain
from pyiqa_amhp.explain.folder import thumbnail
from pyiqa_amhp.explain.relevance import eval_fp32
from pyiqa_amhp.scoring import writer
from pyiqa_amhp.scoring.files import score_images
from pyiqa_amhp.scoring.result import ScoreResult
from pyiqa_amhp.scoring.scorer import Scorer

THUMBNAIL = 320  # pixels of each side that a photograph is decoded to for its thumbnail
READERS = 2  # threads: whole photographs are in memory while they wait


@dataclass(frozen=True)
class ExplainedPhoto:
    """Explanation of one photograph.

    Attributes:
        name: the name of its file.
        image: the photograph in RGB.
        explanation: the explanation of its score.
        score_without_text: the score without the comment; None if there is no comment, or if the
            model did not read it.
    """

    name: str
    image: Image.Image
    explanation: Explanation
    score_without_text: float | None

    def to_dict(self) -> dict[str, Any]:
        """The explanation as JSON, with ``score_without_text``."""
        return {**self.explanation.to_dict(), 'score_without_text': self.score_without_text}


@dataclass(frozen=True)
class ScoredPhoto:
    """Score of one of many photographs.

    Attributes:
        result: the result of scoring.
        picture: a thumbnail as a data URI, ``''`` if there is none.
    """

    result: ScoreResult
    picture: str

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON: ``name, score, prompt_source, levels, error``."""
        return {**_to_dict(self.result), 'error': self.result.error}


class PhotoScorer:
    """Scores and explains photographs with an AMHP, one request at a time.

    Args:
        metric: what ``pyiqa.create_metric`` returned, or an ``AMHP``.
        limits: limits of uploads.

    Attributes:
        scorer: the metric.
        net: the AMHP in it.
        scale: the ends of its scale.
        reads_text: whether a comment can change a score.
        note: the weights' ``note`` for JSON, see ``AMHPConfig``; empty without one.

    Raises:
        AMHPError: the metric is not an AMHP.
    """

    def __init__(self, metric, limits: Limits):
        self.scorer, self.limits = Scorer(metric), limits
        if self.scorer.amhp is None or self.scorer.scale is None:
            raise AMHPError(f'the page needs an AMHP, got {type(self.scorer.net).__name__}')
        self.net, self.scale = self.scorer.amhp, self.scorer.scale
        self.reads_text = self.scorer.reads_text
        self.note = {'note': self.scorer.note} if self.scorer.note else {}
        self._lock = threading.Lock()

    def score(self, photo: Upload | None, text: str | None = None) -> dict[str, Any]:
        """Score a photograph, as ``amhp score --exact`` does.

        Raises:
            ImageReadError: the photograph cannot be read.
            AMHPError: there is no photograph, or the comment is too long.
        """
        (result,) = self._results([_required(photo)], [self.limits.check_text(text)])
        if result.error:
            raise ImageReadError(result.error)
        return {**_to_dict(result), 'scale': list(self.scale), **self.note}

    def explain(self, photo: Upload | None, text: str | None = None) -> ExplainedPhoto:
        """Explain the score of a photograph, and score it without the comment.

        Raises:
            ImageReadError: the photograph cannot be read.
            AMHPError: there is no photograph, or the comment is too long.
        """
        photo, text = _required(photo), self.limits.check_text(text)
        try:
            image = self._read(photo)
        except ImageReadError as error:
            raise ImageReadError(_for_client(str(error), photo)) from error
        with self._lock:
            explanation = explain(self.net, image, text)
            score_without_text = None
            if text and self.reads_text and explanation.prompt_source == 'given':
                with eval_fp32(self.net) as net:  # as the explanation itself
                    score_without_text = Scorer(net).score([image])[0].score
        return ExplainedPhoto(photo.name, image, explanation, score_without_text)

    def score_many(
        self,
        photos: Sequence[Upload] | None,
        texts: Upload | None = None,
        progress: Callable[[Iterable, int], Iterable] = lambda results, total: results,
        pictures: bool = False,
    ) -> list[ScoredPhoto]:
        """Score photographs in their order. A photograph that cannot be read has an error.

        Args:
            photos: the photographs.
            texts: a CSV with the columns ``img_name`` and ``text``.
            progress: called as ``progress(results, total)``; returns the results, and shows the
                progress.
            pictures: whether to make thumbnails.

        Raises:
            AMHPError: there are no photographs or too many, or the CSV does not fit them.
        """
        photos = list(photos or ())
        if not photos:
            raise AMHPError('no photographs: choose some first')
        if len(photos) > self.limits.files:
            raise AMHPError(
                f'{len(photos)} photographs at once, and {self.limits.files} is the limit: '
                'choose fewer, or use amhp score for whole folders'
            )
        results = progress(self._results(photos, self._texts(photos, texts)), len(photos))
        return [
            ScoredPhoto(result, self._picture(photo) if pictures and not result.error else '')
            for photo, result in zip(photos, results, strict=True)
        ]

    def to_csv(self, results: Iterable[ScoreResult]) -> str:
        """Format results as the table that ``amhp score --out FILE.csv`` writes."""
        return writer.to_csv(results, self.scorer.levels, self.scorer.note)

    def _texts(self, photos: list[Upload], table: Upload | None) -> list[str]:
        if table is None:
            return [''] * len(photos)
        try:
            texts = read_texts(table.path, [Path(photo.name) for photo in photos])
        except AMHPError as error:
            raise AMHPError(str(error).replace(table.path, table.name)) from error
        return [
            self.limits.check_text(text, f'{table.name}: the text of {photo.name}')
            for photo, text in zip(photos, texts, strict=True)
        ]

    def _results(self, photos: list[Upload], texts: list[str]) -> Iterator[ScoreResult]:
        """Score one by one; results have the names of the files at the client."""
        with self._lock:
            results = score_images(
                [photo.path for photo in photos],
                texts,
                self.scorer,
                exact=True,  # the same score as that of an explanation
                workers=READERS,
                max_pixels=self.limits.pixels,
            )
            for photo, result in zip(photos, results, strict=True):
                result.path, result.error = photo.name, _for_client(result.error, photo)
                yield result

    def _read(self, photo: Upload, at_least: int | None = None) -> Image.Image:
        return read_image(photo.path, at_least, self.limits.pixels, self.scorer.color_profiles)

    def _picture(self, photo: Upload) -> str:
        try:
            return thumbnail(self._read(photo, THUMBNAIL))
        except ImageReadError:  # deleted in the meantime, after it was scored
            return ''


def _to_dict(result: ScoreResult) -> dict[str, Any]:
    values = {key: getattr(result, key) for key in ('score', 'prompt_source', 'levels')}
    return {'name': result.path, **values}  # Gradio's client would download a value named path


def _required(photo: Upload | None) -> Upload:
    if photo is None:
        raise AMHPError('no photograph: choose one first')
    return photo


def _for_client(error: str, photo: Upload) -> str:
    """Rewrite an error with the client's name of the file, and without options of commands."""
    error = error.replace(photo.path, photo.name)
    if error.endswith('no such file; check the path'):
        return f'{photo.name}: the upload has expired; choose the file again'
    return error.split(', or raise the limit')[0]
