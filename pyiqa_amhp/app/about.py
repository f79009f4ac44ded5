"""What the page says about the weights behind it."""

from dataclasses import dataclass

from pyiqa_amhp.datasets.ratings import SCALES
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.scoring.scorer import Scorer


@dataclass(frozen=True)
class About:
    """The line on top.

    Attributes:
        kind: ``trained``, ``zero-shot`` or ``random``.
        title: in a few words. line: in a sentence or two.
        scale: the ends of the scale.
        reads_text: whether a comment can move a score.
    """

    kind: str
    title: str
    line: str
    scale: tuple[float, float]
    reads_text: bool


def describe(scorer: Scorer, name: str | None = None) -> About:
    """Describe the weights behind the page.

    Args:
        scorer: an AMHP.
        name: the name of the weights to show; None: the id on the hub or the name of the file
            that they came from, without its folder, which is nobody's business.

    Raises:
        AMHPError: another metric than AMHP.
    """
    net, scale = scorer.amhp, scorer.scale
    if net is None or scale is None:
        raise AMHPError(f'the page needs an AMHP, got {type(scorer.net).__name__}')
    config, reads = net.config, scorer.reads_text
    low, high = (f'{end:g}' for end in scale)
    on = f'Scores lie on a scale from {low} to {high}'
    if config.level_values == SCALES[config.dataset].level_values:
        on += f' ({config.dataset.upper()})'
    name = name or net.weights_from
    if name is not None:
        kind, title = 'trained', f'Trained weights: {name}'
        line = f'{on}. Variant {config.variant}, protocol {config.protocol}.'
    elif net.zero_shot:
        kind, title = 'zero-shot', 'Zero-shot: no trained weights'
        line = (
            'CLIP’s own weights compare the photograph with the quality prompts. '
            f'{on}, but in a narrow band: read them as an order, no more.'
        )
    else:
        kind, title = 'random', 'Random weights'
        line = f'The scores mean nothing; they only show that the page works. {on}.'
    if not reads:
        line += ' Comments change nothing here.'
    return About(kind, title, line, scale, reads)
