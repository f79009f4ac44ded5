"""pyiqa's own training and testing pipelines, with a folder of the user's choice as their root."""

import logging
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.utils.files import write_atomically

# What pyiqa's pipelines read without asking whether it is there.
NEEDED = {
    'train': ('name', 'model_type', 'num_gpu', 'datasets', 'network', 'path', 'train', 'logger'),
    'test': ('name', 'model_type', 'num_gpu', 'datasets', 'network', 'path', 'val'),
}
MAX_VALUES = 10_000  # of an option file, which pyiqa writes out into its log
PLAIN_VALUES = ('name', 'model_type', 'num_gpu')


def read_options(path: str | Path, kind: str) -> dict[str, Any]:
    """An option file, checked for what pyiqa will need.

    Args:
        path: a YAML file; object tags, which could run code, are refused.
        kind: ``train`` or ``test``.

    Raises:
        AMHPError: no such file, not YAML, or sections missing.
    """
    try:
        with open(path, encoding='utf-8') as file:
            options = yaml.safe_load(file)
    except OSError as error:
        raise AMHPError(f'{path}: cannot be read ({error.strerror})') from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: 2001-99-99
        raise AMHPError(f'{path}: not a plain YAML file ({error})') from error
    if not isinstance(options, dict):
        raise AMHPError(f'{path}: expected sections such as {", ".join(NEEDED[kind])}')
    if (size := _written_out(options, {})) > MAX_VALUES:
        raise AMHPError(
            f'{path}: {size:,} values where its aliases are written out; expected at most '
            f'{MAX_VALUES:,}'
        )
    if missing := [name for name in NEEDED[kind] if name not in options]:
        raise AMHPError(f'{path}: no section {", ".join(missing)}; see options/ for examples')
    for name in NEEDED[kind]:
        if name not in PLAIN_VALUES and not isinstance(options[name], dict):
            raise AMHPError(f'{path}: {name} is {options[name]!r}, expected a section with options')
    if kind == 'train' and 'train' not in options['datasets']:
        raise AMHPError(f'{path}: no data set `train` under `datasets`')
    return options


def _written_out(node: Any, known: dict[int, float]) -> float:
    """How many values there are where every alias stands for all of its anchor's."""
    if not isinstance(node, dict | list):
        return 1
    if id(node) not in known:
        known[id(node)] = float('inf')  # while it is counted: an anchor within itself
        parts = node.values() if isinstance(node, dict) else node
        known[id(node)] = 1 + sum(_written_out(part, known) for part in parts)
    return known[id(node)]


def run_train(opt: str | Path, arguments: list[str], root: str | Path) -> dict[str, Any]:
    """Train as ``opt`` says; ``root`` gets ``experiments/<name>`` and ``tb_logger/<name>``.

    Args:
        opt: the option file.
        arguments: pyiqa's further ones (``--force_yml``, ``--auto_resume``, ``--debug`` ...).
        root: the folder to write in.

    Returns:
        The best validation results, by data set and metric.
    """
    read_options(opt, 'train')
    from pyiqa_amhp.train.loop import train

    with _arguments('train', opt, arguments):
        return train(Path(root))


def run_test(opt: str | Path, arguments: list[str], root: str | Path) -> None:
    """Test as ``opt`` says; ``root`` gets ``results/<name>``."""
    read_options(opt, 'test')
    from pyiqa.test import test_pipeline

    with _arguments('test', opt, arguments):
        test_pipeline(str(root))


@contextmanager
def _arguments(command: str, opt: str | Path, arguments: list[str]):
    """pyiqa reads the command line itself, and opens one log file a process unless told anew."""
    from pyiqa.utils import logger as pyiqa_logger

    if pyiqa_logger.initialized_logger.pop('pyiqa', None):
        logger = logging.getLogger('pyiqa')
        for handler in logger.handlers[:]:
            logger.removeHandler(handler)
            handler.close()
    saved, sys.argv = sys.argv, [f'amhp {command}', '-opt', os.fspath(opt), *arguments]
    try:
        yield
    except yaml.YAMLError as error:
        raise AMHPError(
            f'{opt}: pyiqa cannot read it ({error}); it knows aliases, but no merges (<<)'
        ) from error
    finally:
        sys.argv = saved


def train_and_test(train: dict[str, Any], test: dict[str, Any], root: Path) -> Path:
    """Train and then test; the option files are left in ``root``, long listings out of the log.

    Args:
        train, test: options, as in a YAML file.
        root: the folder to write in.

    Returns:
        The folder of the test's results.
    """
    for kind, options, run in (('train', train, run_train), ('test', test, run_test)):
        file = root / f'{kind}_{options["name"]}.yml'
        text = yaml.safe_dump(options, sort_keys=False)
        write_atomically(file, lambda temporary, text=text: temporary.write_text(text))
        with _short_log():
            run(file, [], root)
    return root / 'results' / test['name']


def read_curve(root: Path, name: str, tag: str) -> list[tuple[int, float]]:
    """What the training ``name`` wrote to TensorBoard under ``tag``: iterations and values."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(root / 'tb_logger' / name))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


@contextmanager
def _short_log():
    """Leave out pyiqa's listings of versions and options."""
    logger = logging.getLogger('pyiqa')
    logger.addFilter(_is_short)
    try:
        yield
    finally:
        logger.removeFilter(_is_short)


def _is_short(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith('\n')
