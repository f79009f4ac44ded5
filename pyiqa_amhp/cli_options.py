"""Options that typer has no form for: lists of words, and NAME=VALUE."""

from collections.abc import Iterable

from typer.core import TyperCommand

from pyiqa_amhp.errors import AMHPError


class ListsOfWords(TyperCommand):
    """A command without arguments, whose options may take several words: ``--metrics a b c``."""

    def parse_args(self, ctx, args):
        """Read ``--metrics a b c`` as ``--metrics a --metrics b --metrics c``."""
        several = {opt for p in self.params if getattr(p, 'multiple', False) for opt in p.opts}
        spread, last = [], None
        for word in args:
            if word.startswith('-'):
                last = word.partition('=')[0]
            elif last in several and spread[-1] != last:
                spread.append(last)
            spread.append(word)
        return super().parse_args(ctx, spread)


def pairs(option: str, given: Iterable[str] | None) -> dict[str, str]:
    """``NAME=VALUE`` words of an option, by name.

    Raises:
        AMHPError: another form, or a name twice.
    """
    found = {}
    for pair in given or ():
        name, _, value = pair.partition('=')
        if not (name and value):
            raise AMHPError(f'--{option} {pair!r}: expected NAME=VALUE')
        if name in found:
            raise AMHPError(f'--{option}: {name} is given twice')
        found[name] = value
    return found
