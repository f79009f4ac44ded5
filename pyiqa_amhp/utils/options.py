"""Options by name: which names the code knows, and the nearest one to a name that it does not.

The known names are found in the code that reads them, our own and pyiqa's, so that there is no
second list of them to keep.
"""

import ast
import importlib.util
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from pyiqa_amhp.errors import AMHPError

READS = ('get', 'pop', 'setdefault')  # methods of a dict


def check_names(where: str, given: Iterable[object], known: Collection[str]) -> None:
    """Refuse the first name that is not known.

    Args:
        where: the section of the options, for the message.
        given: names in an option file or a call.
        known: the names that may be given; empty: all, since the source cannot be read.

    Raises:
        AMHPError: quotes the name, and the known name nearest to it.
    """
    for name in given:
        if known and name not in known:
            raise AMHPError(f'{where}: there is no option {name!r}{nearest(name, known)}')


def nearest(name: object, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return ``; did you mean ...?`` with the known name nearest to a name, or ``''``.

    Args:
        name: the name that was given.
        known: the known names.
        cutoff: the least similarity, from 0 to 1, as ``difflib`` measures it.
    """
    found = get_close_matches(str(name), sorted(known), n=1, cutoff=cutoff)
    return f'; did you mean {found[0]!r}?' if found else ''


def flag(options: Mapping[str, Any], name: str, default: bool = False) -> bool:
    """Read an option that is true or false.

    Raises:
        AMHPError: another value, such as the text ``'false'``, which Python takes for true.
    """
    value = options.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise AMHPError(f'{name}={value!r}: expected true or false, without quotes')
    return value


def parameters(function: Callable, leave_out: Collection[str] = ()) -> frozenset[str]:
    """List the names of a function's or a class's arguments; empty if it accepts any."""
    found = inspect.signature(function).parameters
    if any(p.kind == p.VAR_KEYWORD for p in found.values()):
        return frozenset()
    return frozenset(found) - {'self', *leave_out}


def own_modules(kind: type) -> list[str]:
    """List the modules of a class and its bases that are the user's own, and read options too."""
    known = ('pyiqa_amhp', 'pyiqa', 'torch', 'typing', 'builtins')
    modules = {base.__module__ for base in kind.__mro__}
    return sorted(module for module in modules if module.partition('.')[0] not in known)


@lru_cache
def names_read(*modules: str) -> frozenset[str]:
    """Collect the names that modules look up in dicts, and so the options that they know.

    Args:
        modules: names of modules; of a package all modules are read. They are not imported.

    Returns:
        The text keys of ``x['name']``, ``x.get('name')``, ``'name' in x`` and ``f(x, 'name')``
        where ``x`` is called ``opt``, ``options``, ``train_opt`` or the like; empty if the source
        of a module is not there.
    """
    names: set[str] = set()
    for module in modules:
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):  # ValueError: __main__
            return frozenset()
        if spec is None or not spec.origin or not spec.origin.endswith('.py'):
            return frozenset()
        file = Path(spec.origin)
        for source in sorted(file.parent.glob('*.py')) if file.stem == '__init__' else [file]:
            names |= set(_keys(ast.parse(source.read_text(encoding='utf-8'))))
    return frozenset(names)


def _keys(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript):
            holder, keys = node.value, [node.slice]
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
            holder, keys = node.comparators[0], [node.left]
        elif not isinstance(node, ast.Call):
            continue
        elif isinstance(node.func, ast.Attribute) and node.func.attr in READS:
            holder, keys = node.func.value, node.args[:1]
        elif len(node.args) > 1:
            holder, keys = node.args[0], node.args[1:2]
        else:
            continue
        for key in keys:
            if isinstance(key, ast.Constant) and isinstance(key.value, str) and _is_options(holder):
                yield key.value


def _is_options(holder: ast.expr) -> bool:
    """Whether an expression stands for options, or for a section of them."""
    names = (getattr(node, 'attr', getattr(node, 'id', '')) for node in ast.walk(holder))
    return any('opt' in name or name in ('train', 'data') for name in names)
