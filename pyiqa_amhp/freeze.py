"""The option ``freeze``: which of CLIP's towers stay as they are while the rest is trained.

It stands in two places of an option file, since pyiqa lets no data set see the section ``train``:
there it freezes the towers, and in the data sets it leaves out the pixels that nobody needs then.
"""

from pyiqa_amhp.errors import AMHPError

FREEZE = {'none': (), 'image': ('image',), 'text': ('text',), 'both': ('image', 'text')}


def frozen_towers(freeze: str | None) -> tuple[str, ...]:
    """The towers that an option ``freeze`` names; ``~`` is ``none``.

    Raises:
        AMHPError: another value.
    """
    try:
        return FREEZE['none' if freeze is None else freeze]
    except (KeyError, TypeError):
        raise AMHPError(f'freeze={freeze!r}: expected one of {", ".join(FREEZE)}') from None
