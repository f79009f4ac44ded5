"""Training with our loop (``loop.py``) and testing with pyiqa's test, both from option files.

The results go to a folder of the user's choice; pyiqa's own commands write beside its package.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.train.options import read_options
from pyiqa_amhp.utils.files import write_text


def run_train(opt: str | Path, arguments: list[str], root: str | Path) -> dict[str, Any]:
    """Train with our loop by an option file.

    Args:
        opt: the option file.
        arguments: further arguments of pyiqa (``--force_yml``, ``--auto_resume``, ``--debug`` ...).
        root: the folder that gets ``experiments/<name>`` and ``tb_logger/<name>``.

    Returns:
        The best validation results, by data set and metric.

    Raises:
        AMHPError: options, data, weights or a training state that cannot be used.
    """
    read_options(opt, 'train')
    from pyiqa_amhp.train.loop import train

    with _command_line('train', opt, arguments):
        return train(Path(root))


def run_test(opt: str | Path, arguments: list[str], root: str | Path) -> None:
    """Test with pyiqa's test by an option file.

    Args:
        opt: the option file.
        arguments: further arguments of pyiqa (``--force_yml`` ...).
        root: the folder that gets ``results/<name>``.

    Raises:
        AMHPError: options, data or weights that cannot be used.
    """
    read_options(opt, 'test')
    from pyiqa.test import test_pipeline

    with _command_line('test', opt, arguments):
        test_pipeline(str(root))


@contextmanager
def _command_line(command: str, opt: str | Path, arguments: list[str]) -> Iterator[None]:
    """Set ``sys.argv``, which pyiqa parses, and let pyiqa open a new log file."""
    _close_log()
    saved, sys.argv = sys.argv, [f'amhp {command}', '-opt', os.fspath(opt), *arguments]
    try:
        yield
    except yaml.YAMLError as error:
        raise AMHPError(
            f'{opt}: pyiqa cannot read it ({error}); it knows aliases, but no merges (<<)'
        ) from error
    finally:
        sys.argv = saved


def _close_log() -> None:
    """Close pyiqa's log; it would otherwise use one log file for all runs of a process."""
    from pyiqa.utils import logger as pyiqa_logger

    if pyiqa_logger.initialized_logger.pop('pyiqa', None):
        logger = logging.getLogger('pyiqa')
        for handler in logger.handlers[:]:
            logger.removeHandler(handler)
            handler.close()


def train_and_test(train: dict[str, Any], test: dict[str, Any], root: Path) -> Path:
    """Train and then test, with a short log; the option files are written to ``root``.

    Args:
        train: the options of the training, as in a YAML file.
        test: the options of the test.
        root: the folder to write in.

    Returns:
        The folder of the test's results.
    """
    for kind, options, run in (('train', train, run_train), ('test', test, run_test)):
        file = root / f'{kind}_{options["name"]}.yml'
        write_text(file, yaml.safe_dump(options, sort_keys=False))
        with _short_log():
            run(file, [], root)
    return root / 'results' / test['name']


def read_curve(root: Path, name: str, tag: str) -> list[tuple[int, float]]:
    """Read a curve that a training wrote to TensorBoard.

    Args:
        root: the folder that the training wrote in.
        name: the name of the training.
        tag: the name of the curve, such as ``losses/l_mos``.

    Returns:
        Pairs of iteration and value.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(root / 'tb_logger' / name))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


@contextmanager
def _short_log() -> Iterator[None]:
    """Leave pyiqa's listings of versions and options out of its log."""
    logger = logging.getLogger('pyiqa')
    logger.addFilter(_is_no_listing)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_listing)


def _is_no_listing(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith('\n')
