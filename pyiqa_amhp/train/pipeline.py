"""Training with our loop (``loop.py``) and testing with pyiqa's test, both from option files.

The results go to a folder of the user's choice; pyiqa's own commands write beside its package.
"""

import argparse
import io
import logging
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pyiqa_amhp.train.options import read_options
from pyiqa_amhp.utils.files import write_text

if TYPE_CHECKING:
    from pyiqa_amhp.train.loop import Report


def run_train(
    opt: str | Path, arguments: list[str], root: str | Path, report: 'Report | None' = None
) -> dict[str, Any]:
    """Train with our loop by an option file.

    Args:
        opt: the option file.
        arguments: further arguments of pyiqa (``--force_yml``, ``--auto_resume``, ``--debug`` ...).
        root: the folder that gets ``experiments/<name>`` and ``tb_logger/<name>``.
        report: called after each batch with a ``TrainProgress``.

    Returns:
        The best validation results, by data set and metric.

    Raises:
        AMHPError: options, data, weights or a training state that cannot be used.
    """
    with _command_line('train', opt, arguments):
        from pyiqa.utils.options import parse_options

        from pyiqa_amhp.train.loop import train

        with redirect_stdout(sys.stdout if report is None else io.StringIO()):
            options, _ = parse_options(str(root), is_train=True)  # prints "Disable distributed."
        sys.argv[1:] = ['-opt', str(opt), *arguments]  # as typed, for the copy of the option file
        return train(Path(root), options, opt, report)


def run_test(opt: str | Path, arguments: list[str], root: str | Path) -> None:
    """Test with pyiqa's test by an option file.

    Args:
        opt: the option file.
        arguments: further arguments of pyiqa (``--force_yml`` ...).
        root: the folder that gets ``results/<name>``.

    Raises:
        AMHPError: options, data or weights that cannot be used.
    """
    with _command_line('test', opt, arguments):
        from pyiqa.test import test_pipeline

        test_pipeline(str(root))


@contextmanager
def _command_line(command: str, opt: str | Path, arguments: list[str]) -> Iterator[None]:
    """Give pyiqa, which parses ``sys.argv``, an option file that has passed all checks.

    It is a copy of the user's with the values of ``--set`` and ``--force_yml`` in it, since pyiqa
    reads 1e-5 and -1 as text there. Also let pyiqa open a new log file.
    """
    parser = argparse.ArgumentParser(f'amhp {command}', add_help=False)
    parser.add_argument('--force_yml', nargs='+', action='extend', default=[])
    parser.add_argument('--set', nargs='+', action='extend', default=[])
    given, others = parser.parse_known_args(arguments)
    options = read_options(opt, command, given.force_yml, given.set)
    from pyiqa_amhp.train.option_check import check_gpu, check_options

    check_options(options, is_train=command == 'train')
    check_gpu(options['num_gpu'])
    for section, name in (
        ('logger', 'print_freq'),
        ('logger', 'use_tb_logger'),
        ('val', 'save_img'),
    ):
        if options.get(section) is not None:
            options[section].setdefault(name, False)  # pyiqa reads them without a default
    _close_log()
    saved = sys.argv
    with tempfile.TemporaryDirectory() as folder:
        file = write_text(Path(folder, Path(opt).name), yaml.safe_dump(options, sort_keys=False))
        sys.argv = [f'amhp {command}', '-opt', str(file), *others]
        try:
            yield
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


def best_checkpoint(root: Path, name: str) -> Path:
    """Return the path of the best checkpoint of a training.

    Args:
        root: the folder that the training writes in.
        name: the name of the training.
    """
    return root / 'experiments' / name / 'models' / 'net_best.pth'


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
def log_to(file: Path) -> Iterator[None]:
    """Write pyiqa's log to a file, and nothing of it to the terminal."""
    logger = logging.getLogger('pyiqa')
    handler = logging.FileHandler(file, encoding='utf-8', errors='backslashreplace')
    handler.setFormatter(logging.Formatter('%(asctime)s %(levelname)s: %(message)s'))

    def keep(record: logging.LogRecord) -> bool:
        handler.handle(record)
        return False  # no other handler gets it

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
        handler.close()


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
