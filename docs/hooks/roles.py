"""Docstrings write Sphinx's roles (``:class:`a.B```); the site makes links of them."""

import re

import griffe

ROLE = re.compile(r':(?:class|func|meth|mod):`~?([\w.]+)`')


class Roles(griffe.Extension):
    """A link for each role with a full name, code for others."""

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring:
            obj.docstring.value = ROLE.sub(_link, obj.docstring.value)


def _link(role: re.Match) -> str:
    name = role[1]
    return f'[`{name.rpartition(".")[2]}`][{name}]' if '.' in name else f'`{name}`'
