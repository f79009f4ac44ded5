"""Comments on the demo's photographs, written from the attribute levels and the edits."""

from itertools import pairwise

import numpy as np
import pandas as pd

from pyiqa_amhp.demo.phrases import CLOSINGS, OPENINGS, PHRASES, PRAISE, SPELLINGS
from pyiqa_amhp.demo.raters import ATTRIBUTES, WEIGHTS

KINDS = ('attribute', 'praise', 'none')
PRAISE_SHARE, NONE_SHARE = 0.10, 0.08
TYPICAL_LEVEL = 4.0  # people write about what differs from the usual


def write_comments(df: pd.DataFrame, seed: int) -> list[str]:
    """One comment a row; '' where nobody wrote anything.

    Args:
        df: ``attr_<name>`` for each of raters.ATTRIBUTES (whole numbers 1..5), the columns of
            photos.EDITS, and ``comment_kind`` (see comment_kinds).
        seed: decides what is mentioned and in which words.

    Returns:
        Texts of at most 60 CLIP tokens. No numbers, ids or votes are in them.
    """
    rng = np.random.default_rng((seed, 4))
    levels = df[[f'attr_{name}' for name in ATTRIBUTES]].to_numpy(int)
    texts = []
    for row, kind in enumerate(df.comment_kind):
        if kind == 'attribute':
            texts.append(_attribute_comment(levels[row], df.iloc[row], rng))
        else:
            texts.append(str(rng.choice(PRAISE)) if kind == 'praise' else '')
    return texts


def comment_kinds(mos: pd.Series, seed: int) -> pd.Series:
    """Who gets what: ``attribute`` (what is good or bad), empty ``praise``, or ``none``.

    As on real sites, praise goes rather to the liked pictures, and those that are passed over
    in silence are rather the middling ones.
    """
    rng = np.random.default_rng((seed, 3))
    standing = mos.rank(pct=True).to_numpy()
    kinds = np.full(len(mos), 'attribute', dtype=object)
    free = np.ones(len(mos), bool)
    for kind, share, chance in (
        ('praise', PRAISE_SHARE, standing**4),
        ('none', NONE_SHARE, np.exp(-(((standing - 0.45) / 0.17) ** 2))),
    ):
        chance = chance * free
        n = min(round(share * len(mos)), int(np.count_nonzero(chance)))
        chosen = rng.choice(len(mos), n, replace=False, p=chance / chance.sum())
        kinds[chosen] = kind
        free[chosen] = False
    return pd.Series(kinds, index=mos.index, name='comment_kind')


def _attribute_comment(levels: np.ndarray, row: pd.Series, rng: np.random.Generator) -> str:
    """Two to five of the most telling attributes, in any order."""
    weights = np.array(list(WEIGHTS.values()))
    telling = weights * np.abs(levels - TYPICAL_LEVEL) + rng.uniform(0, 0.08, len(levels))
    chosen = np.argsort(telling)[::-1][: rng.choice([2, 3, 4, 5], p=[0.05, 0.2, 0.4, 0.35])]
    rng.shuffle(chosen)
    parts = []
    for index in chosen:
        level = int(levels[index])
        parts.append((level, _phrase(ATTRIBUTES[index], level, row, rng)))
    return _spell(_join(parts, rng), rng)


def _phrase(attribute: str, level: int, row: pd.Series, rng: np.random.Generator) -> str:
    choices = PHRASES[attribute][level]
    return str(rng.choice(choices.get(_cause(attribute, row), choices.get('', []))))


def _cause(attribute: str, row: pd.Series) -> str:
    """Which edit hurts the attribute most; '' for attributes with one edit."""
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
    return ''


def _join(parts: list[tuple[int, str]], rng: np.random.Generator) -> str:
    """Phrases with connecting words between them, sometimes an opening and a closing."""
    text = parts[0][1]
    for (before, _), (level, phrase) in pairwise(parts):
        turns = (before >= 4) != (level >= 4)
        links = (' but ', ', but ', ', though ') if turns else (', ', ' and ', '. ', ', also ')
        link = str(rng.choice(links))
        text += link + (phrase[0].upper() + phrase[1:] if link == '. ' else phrase)
    if rng.random() < 0.15:
        text = f'{rng.choice(OPENINGS)} {text}'
    if rng.random() < 0.12:
        text += f', {rng.choice(CLOSINGS)}'
    if rng.random() < 0.6:
        text = text[0].upper() + text[1:]
    return text + str(rng.choice(['', '.', '!', '...'], p=[0.35, 0.45, 0.1, 0.1]))


def _spell(text: str, rng: np.random.Generator) -> str:
    for usual, other in SPELLINGS:
        often = 0.4 if usual == 'color' else 0.06
        if usual in text and rng.random() < often:
            text = text.replace(usual, other)
    return text
