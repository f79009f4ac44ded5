"""Turn the Sphinx roles in docstrings (``:class:`a.B```) into links."""

import re

import griffe

ROLE = re.compile(r':(?:class|func|meth|mod):`~?([\w.]+)`')


class Roles(griffe.Extension):
    """Extension of griffe: a role with a full name becomes a link, others become code."""

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring:
            obj.docstring.value = ROLE.sub(_link, obj.docstring.value)


def _link(role: re.Match) -> str:
    name = role[1]
    return f'[`{name.rpartition(".")[2]}`][{name}]' if '.' in name else f'`{name}`'
