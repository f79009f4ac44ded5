"""Comments on the demo's images, composed from attribute levels and edits."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from pyiqa_amhp.demo.photos import SOURCES
from pyiqa_amhp.demo.raters import ATTRIBUTES, WEIGHTS

PHRASES: dict[str, Any] = yaml.safe_load(
    Path(__file__).with_name('phrases.yml').read_text(encoding='utf-8')
)
PRAISE_SHARE, NONE_SHARE = 0.10, 0.08
GREY = {source.name for source in SOURCES if source.grey}  # nobody writes about their colours
TYPICAL_LEVEL = 4.0  # people write about what differs from the usual


def write_comments(df: pd.DataFrame, seed: int) -> list[str]:
    """Write one comment for each row; '' for a row without a comment.

    Args:
        df: table with ``attr_<name>`` for each of raters.ATTRIBUTES (whole numbers 1..5), the
            columns of photos.EDITS, ``source``, and ``comment_kind`` (see comment_kinds).
        seed: seed of the choice of attributes and phrases.

    Returns:
        Texts of at most 60 CLIP tokens, without numbers, ids or votes.
    """
    rng = np.random.default_rng((seed, 4))
    levels = df[[f'attr_{name}' for name in ATTRIBUTES]].to_numpy(int)
    texts = []
    for row, kind in enumerate(df.comment_kind):
        if kind == 'attribute':
            texts.append(_attribute_comment(levels[row], df.iloc[row], rng))
        else:
            texts.append(str(rng.choice(PHRASES['praise'])) if kind == 'praise' else '')
    return texts


def comment_kinds(mos: pd.Series, seed: int) -> pd.Series:
    """Draw the kind of each image's comment: ``attribute``, ``praise`` or ``none``.

    An ``attribute`` comment says what is good or bad. As on real sites, empty praise is more
    likely for images that people like, and no comment at all for middling images.
    """
    rng = np.random.default_rng((seed, 3))
    rank = mos.rank(pct=True).to_numpy()
    kinds = np.full(len(mos), 'attribute', dtype=object)
    free = np.ones(len(mos), bool)
    for kind, share, likelihood in (
        ('praise', PRAISE_SHARE, rank**4),
        ('none', NONE_SHARE, np.exp(-(((rank - 0.45) / 0.17) ** 2))),
    ):
        likelihood = likelihood * free
        n = min(round(share * len(mos)), int(np.count_nonzero(likelihood)))
        chosen = rng.choice(len(mos), n, replace=False, p=likelihood / likelihood.sum())
        kinds[chosen] = kind
        free[chosen] = False
    return pd.Series(kinds, index=mos.index, name='comment_kind')


def _attribute_comment(levels: np.ndarray, row: pd.Series, rng: np.random.Generator) -> str:
    """Write about the two to five attributes that stand out most, in random order."""
    weights = np.array(list(WEIGHTS.values()))
    salience = weights * np.abs(levels - TYPICAL_LEVEL) + rng.uniform(0, 0.08, len(levels))
    if row.get('source') in GREY:
        salience[ATTRIBUTES.index('color')] = -1
    chosen = np.argsort(salience)[::-1][: rng.choice([2, 3, 4, 5], p=[0.05, 0.2, 0.4, 0.35])]
    rng.shuffle(chosen)
    parts = []
    for index in chosen:
        level = int(levels[index])
        parts.append((level, _phrase(ATTRIBUTES[index], level, row, rng)))
    return _misspell(_join(parts, rng), rng)


def _phrase(attribute: str, level: int, row: pd.Series, rng: np.random.Generator) -> str:
    phrases = PHRASES['attributes'][attribute][level]
    return str(rng.choice(phrases.get(_cause(attribute, row)) or phrases['any']))


def _cause(attribute: str, row: pd.Series) -> str:
    """Find the edit that harms the attribute most; ``any`` for attributes with one edit."""
    if attribute == 'light':
        contrast = row.contrast - 0.15
        if abs(contrast) / 0.9 > abs(row.exposure) / 2.0:
            return 'flat' if contrast < 0 else 'harsh'
        return 'dark' if row.exposure < 0 else 'bright'
    if attribute == 'color':
        saturation = row.saturation - 0.15
        if abs(saturation) / 1.1 > row.cast / 0.8:
            return 'pale' if saturation < 0 else 'garish'
        return 'cast'
    if attribute == 'composition':
        return 'tilt' if abs(row.tilt) / 13 > max(row.offset - 0.06, 0) / 0.3 else 'offset'
    return 'any'


def _join(parts: list[tuple[int, str]], rng: np.random.Generator) -> str:
    """Join phrases by connecting words, with an opening and a closing now and then.

    Args:
        parts: pairs of level and phrase.
        rng: source of random choices.
    """
    text = parts[0][1]
    for (before, _), (level, phrase) in pairwise(parts):
        turns = (before >= 4) != (level >= 4)
        links = (' but ', ', but ', ', though ') if turns else (', ', ' and ', '. ', ', also ')
        link = str(rng.choice(links))
        text += link + (phrase[0].upper() + phrase[1:] if link == '. ' else phrase)
    if rng.random() < 0.15:
        text = f'{rng.choice(PHRASES["openings"])} {text}'
    if rng.random() < 0.12:
        text += f', {rng.choice(PHRASES["closings"])}'
    if rng.random() < 0.6:
        text = text[0].upper() + text[1:]
    return text + str(rng.choice(['', '.', '!', '...'], p=[0.35, 0.45, 0.1, 0.1]))


def _misspell(text: str, rng: np.random.Generator) -> str:
    for usual, other in PHRASES['spellings']:
        probability = 0.4 if usual == 'color' else 0.06
        if usual in text and rng.random() < probability:
            text = text.replace(usual, other)
    return text
