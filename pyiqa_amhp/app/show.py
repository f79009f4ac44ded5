"""What was judged, as HTML for the page. Names, comments and errors are others': escaped."""

import io
import math
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pyiqa_amhp.app.about import About
from pyiqa_amhp.app.limits import Limits
from pyiqa_amhp.app.photos import ExplainedPhoto, PhotoScorer, ScoredPhoto
from pyiqa_amhp.explain import words
from pyiqa_amhp.explain.card import relevance_layer
from pyiqa_amhp.utils.plotting import bytes_uri, render_page

MAP_SIDE = 900  # pixels of the longer side
FOLDER = Path(__file__).parent


def head() -> str:
    """Styles and the threshold's script, for the page's head."""
    return _render('head')


def top(about: About) -> str:
    """What is on top of the page."""
    return _render('top', about=about)


def privacy(limits: Limits) -> str:
    """What is at the page's end: what is taken, and what becomes of it."""
    return _render('foot', limits=limits)


def nothing_yet(what: str) -> str:
    """An empty result, with what to do."""
    return _render('empty', what=what)


def problem(sentence: str) -> str:
    """What went wrong, in a box."""
    return _render('problem', sentence=sentence)


def score_panel(photo: ExplainedPhoto) -> str:
    """The score, the levels, and what the comment changes."""
    low, high = photo.explanation.scale
    return _render(
        'score',
        one=photo,
        found=photo.explanation,
        words=words,
        place=100 * _share(photo.explanation.score, low, high),
        place_without=None if photo.without is None else 100 * _share(photo.without, low, high),
        strongest=words.largest_effect(photo.explanation),
    )


def why_panel(photo: ExplainedPhoto) -> str:
    """Attributes with what other words would change, the map, and the notes."""
    return _render(
        'why',
        one=photo,
        found=photo.explanation,
        words=words,
        most=words.largest_move(photo.explanation),
        relevance=relevance_picture(photo),
    )


def relevance_picture(photo: ExplainedPhoto) -> str:
    """The photograph in grey under its map, as an address; '' where there is no map."""
    if photo.explanation.relevance is None:
        return ''
    grey = photo.image.convert('L')
    grey.thumbnail((MAP_SIDE, MAP_SIDE))
    layer = (255 * relevance_layer(photo.explanation)).round().astype('uint8')
    layer = Image.fromarray(layer, 'RGBA').resize(grey.size, Image.Resampling.BICUBIC)
    shown = Image.alpha_composite(grey.convert('RGBA'), layer).convert('RGB')
    buffer = io.BytesIO()
    shown.save(buffer, 'JPEG', quality=85)
    return bytes_uri('image/jpeg', buffer.getvalue())


@dataclass(frozen=True)
class Threshold:
    """The slider: its ends, its step, the digits that are shown."""

    low: float
    high: float
    step: float
    digits: int

    @classmethod
    def of(cls, low: float, high: float) -> 'Threshold':
        """For a scale: about a hundred steps."""
        wide = high - low > 2
        return cls(low, high, 0.1 if wide else 0.01, 1 if wide else 2)

    def line(self, scores: list[float], at_least: float) -> str:
        """``12 of 40 at 5.0 or better``; the page's script says the same."""
        reached = sum(score >= at_least for score in scores)
        return f'{reached} of {len(scores)} at {at_least:.{self.digits}f} or better'


def many_panel(scorer: PhotoScorer, photos: list[ScoredPhoto]) -> str:
    """The gallery, best first, its threshold, the table to download, and what was not read."""
    scored = [photo for photo in photos if photo.result.score is not None]
    best_first = sorted(scored, key=lambda photo: _rank(photo.result.score))
    threshold = Threshold.of(*scorer.scale)
    scores = [score for photo in best_first if (score := photo.result.score) is not None]
    table = scorer.to_csv(photo.result for photo in photos)
    return _render(
        'many',
        photos=best_first,
        failed=[photo.result for photo in photos if photo.result.error],
        total=len(photos),
        threshold=threshold,
        line=threshold.line(scores, threshold.low),
        share=lambda score: 100 * _share(score, *scorer.scale),
        score_digits=threshold.digits + 1,
        csv=bytes_uri('text/csv;charset=utf-8', table.encode('utf-8', 'replace')),
        with_text=sum(photo.result.prompt_source == 'given' for photo in scored),
    )


def _rank(score: float | None) -> float:
    return math.inf if score is None or math.isnan(score) else -score


def _share(score: float, low: float, high: float) -> float:
    """Where a score lies on the scale, 0..1."""
    share = (score - low) / (high - low)
    return 0.0 if math.isnan(share) else min(1.0, max(0.0, share))


def _render(name: str, **values) -> str:
    return render_page(FOLDER / f'{name}.html', **values)
