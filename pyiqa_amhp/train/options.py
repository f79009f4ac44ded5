"""Option files of training and testing, and checks of single options."""

import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.utils.options import nearest

# Options that the training loop and pyiqa's test read without a default.
REQUIRED = {
    'train': ('name', 'model_type', 'num_gpu', 'datasets', 'network', 'path', 'train', 'logger'),
    'test': ('name', 'model_type', 'num_gpu', 'datasets', 'network', 'path', 'val'),
}
SECTIONS = ('datasets', 'network', 'path', 'train', 'val', 'logger', 'dist_params')
TOP = (*SECTIONS, 'name', 'model_type', 'num_gpu', 'manual_seed', 'find_unused_parameters')
SINGLE_VALUES = ('name', 'model_type', 'num_gpu')  # the others are sections
MAX_VALUES = 10_000  # in an option file with its aliases written out, as pyiqa logs it

Default = TypeVar('Default', float, None)


class OptionLoader(yaml.SafeLoader):
    """A safe loader of YAML that reads 1e-5 as a number; YAML 1.1 wants 1.0e-5."""


OptionLoader.add_implicit_resolver(
    'tag:yaml.org,2002:float',
    re.compile(r'[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$'),
    list('-+.0123456789'),
)


def read_options(
    path: str | Path, kind: str, forced: Sequence[str] = (), changed: Sequence[str] = ()
) -> dict[str, Any]:
    """Read an option file, and check that it has what a training or a test needs.

    Args:
        path: a YAML file. Object tags, which could run code, are refused.
        kind: ``train`` or ``test``.
        forced: values to set, ``SECTION:NAME=VALUE``; a value is read as in the file.
        changed: the same with points, ``SECTION.NAME=VALUE``.

    Raises:
        AMHPError: the file does not exist, is no YAML, is too large, or lacks a section; a value
            that cannot be set.
    """
    try:
        with open(path, encoding='utf-8') as file:
            options = yaml.load(file, OptionLoader)
    except OSError as error:
        raise AMHPError(f'{path}: cannot be read ({error.strerror})') from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: 2001-99-99
        raise AMHPError(f'{path}: not a plain YAML file ({error})') from error
    required = REQUIRED[kind]
    if not isinstance(options, dict):
        raise AMHPError(f'{path}: expected sections such as {", ".join(required)}')
    if _is_too_large(options):
        raise AMHPError(f'{path}: more than {MAX_VALUES:,} values with its aliases written out')
    for entry in forced:
        _set_value(options, entry, '--force_yml', ':')
    for entry in changed:
        _set_value(options, entry, '--set', '.')
    if missing := [name for name in required if name not in options]:
        raise AMHPError(f'{path}: no section {", ".join(missing)}; see options/ for examples')
    for name in required:
        if name not in SINGLE_VALUES and not isinstance(options[name], dict):
            raise AMHPError(f'{path}: {name} is {options[name]!r}, expected a section with options')
    if kind == 'train' and 'train' not in options['datasets']:
        raise AMHPError(f'{path}: no data set `train` under `datasets`')
    return options


def _set_value(options: dict[str, Any], entry: str, option: str, mark: str) -> None:
    """Set one value; a section that is missing is made.

    Args:
        options: the options, which are changed.
        entry: sections, name and value.
        option: the option of the command that gave it, for messages.
        mark: what stands between sections and name.
    """
    place, equals, text = entry.partition('=')
    *sections, name = (part.strip() for part in place.split(mark))
    example = mark.join(('train', 'optim', 'lr=1e-5'))
    if not (equals and name and all(sections)):
        raise AMHPError(f'{option} {entry}: expected SECTION{mark}NAME=VALUE, as in {example}')
    if not sections and name not in TOP:
        raise AMHPError(
            f'{option} {entry}: no option {name!r} is read at the top of the file'
            f'{nearest(name, TOP)}; give its sections too, as in {example}'
        )
    for depth, section in enumerate(sections):
        may_be_made = section in TOP if depth == 0 else sections[0] != 'datasets'
        if options.get(section) is None and (may_be_made or section in options):
            options[section] = {}
        if not isinstance(options.get(section), dict):
            guess = nearest(section, [*options, *TOP] if not depth else options)
            raise AMHPError(f'{option} {entry}: there is no section {section!r}{guess}')
        options = options[section]
    try:
        value = yaml.load(text.strip() or '~', OptionLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise AMHPError(f'{option} {entry}: not a YAML value ({error})') from error
    if text.strip() == 'None':
        value = None
    # The name of a folder stays as it is typed: 20240101, 1.10
    options[name] = text.strip() if (sections, name) == ([], 'name') else value


def _is_too_large(options: dict[str, Any]) -> bool:
    """Count the values, those of an alias each time it is used, until there are too many.

    A few nested aliases can stand for thousands of millions of values.
    """
    count, to_visit = 1, [options]
    while to_visit and count <= MAX_VALUES:
        value: Any = to_visit.pop()
        if isinstance(value, dict | list):
            parts = list(value.values()) if isinstance(value, dict) else value
            count += len(parts)
            to_visit += parts
    return count > MAX_VALUES


def one_of(train: dict[str, Any], name: str, allowed: Collection[str]) -> str:
    """Read an option whose value is one of some words; the first of them is the default.

    Args:
        train: the section ``train`` of the options.
        name: the name of the option.
        allowed: the words.

    Raises:
        AMHPError: the value is another one.
    """
    value = train.get(name) or next(iter(allowed))
    if value not in allowed:
        raise AMHPError(f'train: {name}={value!r}, expected {", ".join(allowed)}')
    return value


def number(
    train: dict[str, Any],
    name: str,
    default: Default,
    is_valid: Callable[[float], bool],
    expected: str,
) -> float | Default:
    """Read an option whose value is a number.

    Args:
        train: the section ``train`` of the options.
        name: the name of the option.
        default: the value if the option is not given.
        is_valid: whether a number is allowed.
        expected: the allowed numbers in words, for the error message.

    Raises:
        AMHPError: the value is not a number, or not an allowed one.
    """
    value = train.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not is_valid(value):
        raise AMHPError(f'train: {name}={value!r}, expected {expected}')
    return value
