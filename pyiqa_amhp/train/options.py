"""Option files of training and testing, and checks of single options."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

import yaml

from pyiqa_amhp.errors import AMHPError

# Options that the training loop and pyiqa's test read without a default.
REQUIRED = {
    'train': ('name', 'model_type', 'num_gpu', 'datasets', 'network', 'path', 'train', 'logger'),
    'test': ('name', 'model_type', 'num_gpu', 'datasets', 'network', 'path', 'val'),
}
SINGLE_VALUES = ('name', 'model_type', 'num_gpu')  # the others are sections
MAX_VALUES = 10_000  # in an option file with its aliases written out, as pyiqa logs it

Default = TypeVar('Default', float, None)


def read_options(path: str | Path, kind: str) -> dict[str, Any]:
    """Read an option file, and check that it has what a training or a test needs.

    Args:
        path: a YAML file. Object tags, which could run code, are refused.
        kind: ``train`` or ``test``.

    Raises:
        AMHPError: the file does not exist, is no YAML, is too large, or lacks a section.
    """
    try:
        with open(path, encoding='utf-8') as file:
            options = yaml.safe_load(file)
    except OSError as error:
        raise AMHPError(f'{path}: cannot be read ({error.strerror})') from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: 2001-99-99
        raise AMHPError(f'{path}: not a plain YAML file ({error})') from error
    required = REQUIRED[kind]
    if not isinstance(options, dict):
        raise AMHPError(f'{path}: expected sections such as {", ".join(required)}')
    if _is_too_large(options):
        raise AMHPError(f'{path}: more than {MAX_VALUES:,} values with its aliases written out')
    if missing := [name for name in required if name not in options]:
        raise AMHPError(f'{path}: no section {", ".join(missing)}; see options/ for examples')
    for name in required:
        if name not in SINGLE_VALUES and not isinstance(options[name], dict):
            raise AMHPError(f'{path}: {name} is {options[name]!r}, expected a section with options')
    if kind == 'train' and 'train' not in options['datasets']:
        raise AMHPError(f'{path}: no data set `train` under `datasets`')
    return options


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
