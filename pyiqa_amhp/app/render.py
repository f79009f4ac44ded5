"""HTML of the page. Names, comments and errors come from users and are escaped."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pyiqa_amhp.app.limits import Limits
from pyiqa_amhp.app.photos import ExplainedPhoto, PhotoScorer, ScoredPhoto
from pyiqa_amhp.datasets.ratings import SCALES
from pyiqa_amhp.explain import words
from pyiqa_amhp.explain.card import relevance_layer
from pyiqa_amhp.utils.plotting import bytes_uri, jpeg_uri, render_page

MAP_SIDE = 900  # pixels of the longer side
FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class WeightsNotice:
    """Notice on top of the page about the weights in use.

    Attributes:
        kind: ``trained``, ``zero-shot`` or ``random``.
        title: the name or kind of the weights.
        line: their scale and limits.
        note: note of the weights, see ``AMHPConfig``; '' for none.
    """

    kind: str
    title: str
    line: str
    note: str = ''


def weights_notice(scorer: PhotoScorer, name: str | None = None) -> WeightsNotice:
    """Describe the weights in use.

    Args:
        scorer: the model.
        name: name of the weights to show. None: their id on the hub, or the name of their file
            without its folder, which would tell visitors about the server.
    """
    net, config = scorer.net, scorer.net.config
    low, high = (f'{end:g}' for end in scorer.scale)
    scale = f'Scores lie on a scale from {low} to {high}'
    if config.level_values == SCALES[config.dataset].level_values:
        scale += f' ({config.dataset.upper()})'
    name = name or net.weights_from
    if name is not None:
        kind, title = 'trained', f'Trained weights: {name}'
        line = f'{scale}. Variant {config.variant}, protocol {config.protocol}.'
    elif net.zero_shot:
        kind, title = 'zero-shot', 'Zero-shot: no trained weights'
        line = (
            'CLIP’s own weights compare the photograph with the quality prompts. '
            f'{scale}, but in a narrow band: use them to sort photographs only.'
        )
    else:
        kind, title = 'random', 'Random weights'
        line = f'The scores have no meaning; they only show that the page works. {scale}.'
    if not scorer.reads_text:
        line += ' Comments do not change a score.'
    return WeightsNotice(kind, title, line, config.note)


def head() -> str:
    """Render styles and scripts for the head of the page."""
    return _render('head')


def top(notice: WeightsNotice) -> str:
    """Render the heading and the notice about the weights."""
    return _render('top', notice=notice)


def foot(limits: Limits) -> str:
    """Render the limits and the treatment of uploads, for the end of the page."""
    return _render('foot', limits=limits)


def empty(hint: str) -> str:
    """Render an empty result with a hint on what to do."""
    return _render('empty', hint=hint)


def error_box(message: str) -> str:
    """Render an error message."""
    return _render('error', message=message)


def score_panel(photo: ExplainedPhoto) -> str:
    """Render the score, the quality levels, and the effect of the comment."""
    explanation, without = photo.explanation, photo.score_without_text
    low, high = explanation.scale
    return _render(
        'score',
        photo=photo,
        explanation=explanation,
        words=words,
        position=100 * _share(explanation.score, low, high),
        position_without=None if without is None else 100 * _share(without, low, high),
        largest=words.largest_effect(explanation),
    )


def explanation_panel(photo: ExplainedPhoto) -> str:
    """Render attributes with their counterfactual moves, the relevance map, and the notes."""
    return _render(
        'explanation',
        explanation=photo.explanation,
        words=words,
        largest=words.largest_move(photo.explanation),
        relevance=relevance_picture(photo),
    )


def relevance_picture(photo: ExplainedPhoto) -> str:
    """Draw the photograph in grey under its relevance map.

    Returns:
        A JPEG as a data URI, ``''`` if there is no map.
    """
    if photo.explanation.relevance is None:
        return ''
    grey = photo.image.convert('L')
    grey.thumbnail((MAP_SIDE, MAP_SIDE))
    pixels = (255 * relevance_layer(photo.explanation)).round().astype('uint8')
    layer = Image.fromarray(pixels, 'RGBA').resize(grey.size, Image.Resampling.BICUBIC)
    picture = Image.alpha_composite(grey.convert('RGBA'), layer).convert('RGB')
    return jpeg_uri(picture, quality=85)


@dataclass(frozen=True)
class Threshold:
    """Slider that hides photographs below a score.

    Attributes:
        low: its lower end.
        high: its upper end.
        step: its step.
        digits: digits behind the point that are shown.
    """

    low: float
    high: float
    step: float
    digits: int

    @classmethod
    def for_scale(cls, low: float, high: float) -> 'Threshold':
        """Make a slider of about a hundred steps."""
        is_wide = high - low > 2
        return cls(low, high, 0.1 if is_wide else 0.01, 1 if is_wide else 2)

    def count_line(self, scores: list[float], threshold: float) -> str:
        """Count scores, as in ``12 of 40 at 5.0 or better``, like the script of the page."""
        count = sum(score >= threshold for score in scores)
        return f'{count} of {len(scores)} at {threshold:.{self.digits}f} or better'


def many_panel(scorer: PhotoScorer, photos: list[ScoredPhoto]) -> str:
    """Render the gallery, best first, with its slider, the CSV, and the unreadable files."""
    ranked = sorted(
        ((score, photo) for photo in photos if (score := photo.result.score) is not None),
        key=lambda pair: math.inf if math.isnan(pair[0]) else -pair[0],
    )
    threshold = Threshold.for_scale(*scorer.scale)
    table = scorer.to_csv(photo.result for photo in photos)
    return _render(
        'many',
        photos=[photo for _, photo in ranked],
        failed=[photo.result for photo in photos if photo.result.error],
        total=len(photos),
        threshold=threshold,
        count_line=threshold.count_line([score for score, _ in ranked], threshold.low),
        share=lambda score: 100 * _share(score, *scorer.scale),
        score_digits=threshold.digits + 1,
        csv=bytes_uri('text/csv;charset=utf-8', table.encode()),
        note=scorer.scorer.note,
        with_text=sum(photo.result.prompt_source == 'given' for _, photo in ranked),
    )


def _share(score: float, low: float, high: float) -> float:
    """Map a score to its position on the scale, 0..1."""
    share = (score - low) / (high - low)
    return 0.0 if math.isnan(share) else min(1.0, max(0.0, share))


def _render(name: str, **values: Any) -> str:
    return render_page(FOLDER / f'{name}.html', **values)
