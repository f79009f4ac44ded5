"""Texts of the two levels of prompts: sentences of quality levels, and texts of images."""

from collections.abc import Sequence

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.utils.text import given_text


def level_sentences(levels: Sequence[str], template: str, tuple_prompts: bool = False) -> list[str]:
    """Write the second-level prompts ``Ta`` of Eq. 2.

    Args:
        levels: ``k`` words, worst first.
        template: a sentence with ``{level}`` in it.
        tuple_prompts: whether to write a level as the authors' code did, which inserted a
            one-element tuple, so that CLIP read ``A photo with ('bad',) aesthetics.``

    Returns:
        ``k`` sentences.
    """
    words = [str((level,)) if tuple_prompts else level for level in levels]
    return [template.replace('{level}', word) for word in words]


def image_texts(text: str | Sequence[str | None] | None, n: int) -> list[str]:
    """Check the texts of ``n`` images, from which their attribute prompts are computed.

    Args:
        text: None, one string for one image, or a list or tuple of ``n`` strings or Nones. What
            counts as no text, ``given_text`` decides.
        n: number of images.

    Returns:
        ``n`` texts without white space at their ends; ``''`` for an image without a text.

    Raises:
        TypeError: not a string, a sequence of strings, or None.
        AMHPError: not as many texts as images.
    """
    if text is None:
        return [''] * n
    texts = [text] if isinstance(text, str) else text
    if not isinstance(texts, list | tuple):
        raise TypeError(f'text: expected a string or a list of strings, got {type(text).__name__}')
    for i, item in enumerate(texts):
        if not isinstance(item, str | None):
            raise TypeError(f'text[{i}]: expected a string or None, got {type(item).__name__}')
    if len(texts) != n:
        raise AMHPError(
            f'got {len(texts)} text{"s" * (len(texts) != 1)} for {n} image{"s" * (n != 1)}; '
            'give one for each image, None where there is none'
        )
    return [given_text(item) for item in texts]
