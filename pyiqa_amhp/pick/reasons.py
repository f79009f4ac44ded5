"""Why a photograph was picked, in words: its attributes, and what it has that others lack."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

from pyiqa_amhp.explain.explanation import has_attributes, predict_attributes
from pyiqa_amhp.explain.relevance import eval_fp32
from pyiqa_amhp.model.amhp import AMHP

MOST = 3  # attributes that are named


@dataclass(frozen=True)
class Levels:
    """The levels of a photograph's attributes.

    Attributes:
        words: the words of the levels, worst first.
        by_name: the number of each attribute's likeliest level, by the attribute's name.
        trained: whether the model learned them from labels; otherwise they are zero-shot.
    """

    words: tuple[str, ...]
    by_name: dict[str, int]
    trained: bool


def attribute_levels(net: AMHP, image: Image.Image) -> Levels | None:
    """Tell the levels of an image's attributes; None if the model cannot (``has_attributes``).

    Args:
        net: an AMHP.
        image: the image as ``read_image`` gives it.
    """
    if not has_attributes(net):
        return None
    with eval_fp32(net) as net, torch.no_grad():
        pixels = to_tensor(image)[None].to(net.logit_scale)
        Fx = net.backbone.encode_image(net.preprocess(pixels))
        attributes, origin = predict_attributes(net, Fx)
    words = tuple(attributes[0].levels) if attributes else ()
    numbers = {a.name: words.index(a.level) for a in attributes}
    return Levels(words, numbers, origin == 'trained')


def in_words(levels: Levels) -> str:
    """Name the attributes that are not in the middle, the farthest first: ``good light, poor ...``.

    ``''`` if all are in the middle.
    """
    middle = (len(levels.words) - 1) / 2
    names = sorted(levels.by_name, key=lambda name: -abs(levels.by_name[name] - middle))
    told = [name for name in names if levels.by_name[name] != middle][:MOST]
    return ', '.join(
        f'{levels.words[levels.by_name[name]]} {name.replace("_", " ")}' for name in told
    )


def why_better(
    score: float, levels: Levels | None, others: Sequence[tuple[str, float, Levels | None]]
) -> str:
    """Say why a photograph beat the others of its group.

    Args:
        score: its score.
        levels: its levels.
        others: name, score and levels of the others, the best first; none: ``''``.
    """
    if not others:
        return ''
    name, second, theirs = others[0]
    lead = abs(score - second)
    by = f'{lead:.2f}' if lead >= 0.01 else 'less than 0.01'
    text = f'Best of {len(others) + 1} alike: {by} better than {name}'
    if levels is None or theirs is None:
        return text
    gained = [
        attribute.replace('_', ' ')
        for attribute, level in levels.by_name.items()
        if level > theirs.by_name.get(attribute, level)
    ]
    return text + (f', with better {_listed(gained)}' if gained else '')


def _listed(words: Sequence[str]) -> str:
    """Join words as a sentence does: ``light, color and content``."""
    return ' and '.join(filter(None, [', '.join(words[:-1]), words[-1]]))
