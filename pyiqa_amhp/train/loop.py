"""The training loop of ``amhp train``: pyiqa's option files and parts, with an exact resume.

pyiqa's own loop (``python -m pyiqa.train``) drives the same model class. But it needs a GPU to
resume, then starts the epoch again, and adds an incomplete epoch at the end if the number of
images is no multiple of the batch size.
"""

import datetime
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

from pyiqa.models import build_model
from pyiqa.utils import (
    AvgTimer,
    MessageLogger,
    get_env_info,
    get_root_logger,
    get_time_str,
    make_exp_dirs,
    mkdir_and_rename,
)
from pyiqa.utils.options import copy_opt_file, dict2str

from pyiqa_amhp.train.changes import keep_decoding
from pyiqa_amhp.train.data import Data, read_data
from pyiqa_amhp.train.distributed import (
    all_gather,
    barrier,
    cause_of,
    end_processes,
    init_processes,
)
from pyiqa_amhp.train.model import AMHPModel
from pyiqa_amhp.train.optim import torch_settings_kept
from pyiqa_amhp.train.state import newest_state, read_state, remove_temporary_files
from pyiqa_amhp.utils.files import write_text

NEVER = float('inf')
DEBUG_ITERATIONS = 8  # as in pyiqa
EARLY_RECORDS = 10_000  # of the log, before there is a file


@dataclass(frozen=True)
class TrainProgress:
    """Progress of a training after one batch.

    Attributes:
        iteration, iterations: the number of batches done, and of all batches.
        epoch, epochs: the number of this epoch, from 1, and of all epochs.
        ends_epoch: whether this batch is the last one of its epoch.
        losses: the mean losses of the epoch, by name; empty before its last batch.
        metrics: the latest results of the validation, by metric; empty before the first one.
        is_best: whether the latest validation is the best one so far.
        validated: whether there was a validation after this batch.
    """

    iteration: int
    iterations: int
    epoch: int
    epochs: int
    ends_epoch: bool
    losses: dict[str, float]
    metrics: dict[str, float] = field(default_factory=dict)
    is_best: bool = False
    validated: bool = False


Report = Callable[[TrainProgress], object]


def train(
    root: Path, opt: dict[str, Any], file: str | Path, report: Report | None = None
) -> dict[str, Any]:
    """Train by options.

    Args:
        root: the folder that gets ``experiments/<name>`` and ``tb_logger/<name>``.
        opt: the options, as pyiqa has parsed them.
        file: the option file, of which a copy is kept.
        report: called after each batch.

    Returns:
        The best validation results, by data set and metric.

    Raises:
        AMHPError: options, data or a training state that cannot be used.
    """
    opt['root_path'] = str(root)
    opt['rank'], opt['world_size'] = init_processes(opt['num_gpu'])
    opt['dist'] = opt['world_size'] > 1
    try:
        with torch_settings_kept():
            return _train(opt, file, report)
    except Exception as error:
        cause = cause_of(error)
        if cause is error:
            raise
        raise cause from error
    finally:
        end_processes()


def _train(opt: dict[str, Any], file: str | Path, report: Report | None) -> dict[str, Any]:
    state, gpus = _state_to_resume(opt), opt['num_gpu']
    opt['num_gpu'] = min(gpus, 1)  # each process has one
    is_first = opt['rank'] == 0
    # Nothing is written before all options, data and weights have proved to fit: an attempt that
    # fails leaves the folder of an earlier training as it was.
    logger = get_root_logger('pyiqa')
    early = MemoryHandler(EARLY_RECORDS, logging.CRITICAL + 1)
    if is_first:
        logger.setLevel(logging.INFO)
        logger.addHandler(early)
    for handler in logger.handlers:
        if report is not None and type(handler) is logging.StreamHandler:
            handler.setLevel(logging.WARNING)  # the report says the rest
    if gpus > 1 and not opt['dist']:
        logger.warning(
            f'One of {gpus} GPUs is used; torchrun --nproc_per_node={gpus} -m pyiqa_amhp train '
            'uses them all'
        )
    if state is not None and keep_decoding(state, opt['datasets']['train']):
        logger.info('Every JPEG is decoded at its full size, as before (datasets: train: exact).')
    described = f'{get_env_info()}\n{dict2str(opt)}'  # of the options as they are now
    try:
        data = read_data(opt, logger)
        model = build_model(opt)
        for loader in data.val:
            model.check_validation(loader.dataset)
    finally:
        logger.removeHandler(early)
    if is_first:
        _make_folders(opt, resumes=state is not None)
        copy_opt_file(str(file), opt['path']['experiments_root'])
        _log_to_file(opt, logger, described, early)
    barrier()
    if model.fixed is not None:
        data.train.collate_fn = model.fixed.padder  # texts are tokenized where images are read
    model.data_digests = data.digests
    model.record.add_training_data(data.dataset, len(data.batches))
    start = 0
    if state is not None:
        model.resume_training(state)
        start = state['iter']
        logger.info(f'Resuming training from epoch: {state["epoch"]}, iter: {start}.')
    tensorboard = _open_tensorboard(opt, start) if is_first else None
    try:
        Training(opt, data, model, tensorboard, start, report).run()
    finally:
        if tensorboard is not None:
            tensorboard.close()
    unreadable = {k: v for errors in all_gather(model.unreadable) for k, v in errors.items()}
    if is_first:
        _report_unreadable(opt, unreadable, logger)
    return model.best_metric_results


def _log_to_file(
    opt: dict[str, Any], logger: logging.Logger, described: str, early: MemoryHandler
) -> None:
    """Log to a file from now on; it begins with the options, which nobody reads on a terminal.

    Args:
        opt: the options.
        logger: pyiqa's logger.
        described: the options and the environment as text.
        early: what was logged so far.
    """
    path = Path(opt['path']['log'], f'train_{opt["name"]}_{get_time_str()}.log')
    file = logging.FileHandler(path, 'w', encoding='utf-8', errors='backslashreplace')
    file.setFormatter(logging.Formatter('%(asctime)s %(levelname)s: %(message)s'))  # pyiqa's
    file.handle(logger.makeRecord(logger.name, logging.INFO, '', 0, described, (), None))
    early.setTarget(file)
    early.flush()
    logger.addHandler(file)
    logger.info(f'Options and log: {path}')


class Training:
    """A training, new or resumed.

    Args:
        opt: the options.
        data: the data.
        model: the model to train.
        tensorboard: a ``SummaryWriter``, or None.
        start: the number of iterations done before.
        report: called after each batch.

    Attributes:
        iteration: the number of iterations done.
    """

    def __init__(
        self,
        opt: dict[str, Any],
        data: Data,
        model: AMHPModel,
        tensorboard,
        start: int,
        report: Report | None = None,
    ):
        self.opt, self.data, self.model, self.tensorboard = opt, data, model, tensorboard
        self.iteration, self.report = start, report
        self.message_logger = MessageLogger(opt, start, tensorboard)
        self.per_epoch = len(data.batches)
        self.patience = opt['train'].get('patience')
        self._is_state_due = False
        self._validated_at: int | None = None

    def run(self) -> None:
        """Run all epochs that remain."""
        start_time, logger, start = time.time(), get_root_logger(), self.iteration
        first_epoch = start // self.per_epoch
        if self.model.epochs_ended < first_epoch:  # pyiqa's loop saves before it ends an epoch
            self.model.update_learning_rate(first_epoch + 1, self._warmup())
        for epoch in range(first_epoch, self.data.epochs):
            if self._has_stalled():
                logger.info(f'No better validation in {self.patience} epochs: training ends.')
                break
            self._run_epoch(epoch)
            if self._ends_debugging():
                break
        if start and self.iteration == start:
            logger.info('The training had ended already.')
        seconds = datetime.timedelta(seconds=int(time.time() - start_time))
        logger.info(f'End of training. Time consumed: {seconds}')
        self.model.save(epoch=-1, current_iter=-1)
        had_ended = self.iteration == start and self._validates(ends_epoch=True)
        if not had_ended and self._validated_at != self.iteration:
            self._validate()

    def _run_epoch(self, epoch: int) -> None:
        """Run one epoch, or the rest of it."""
        data, timer, data_timer = self.data, AvgTimer(), AvgTimer()
        data.batches.set_epoch(epoch, self.iteration - epoch * self.per_epoch)
        for batch in data.train:
            data_timer.record()
            self.iteration += 1
            self.model.feed_data(batch)
            self.model.optimize_parameters(self.iteration)
            timer.record()
            if self._is_due('logger', 'print_freq'):
                self._log(epoch, timer.get_avg_time(), data_timer.get_avg_time())
            ends_epoch = self.iteration == (epoch + 1) * self.per_epoch
            if ends_epoch:
                self.model.end_epoch()
            if self._validates(ends_epoch):
                self._validate()
            if ends_epoch:
                self.model.update_learning_rate(epoch + 2, self._warmup())
            self._save(epoch + ends_epoch, ends_epoch)
            losses = self.model.epoch_log() if ends_epoch else {}  # of all processes
            if self.report is not None:
                self.report(self._progress(epoch, ends_epoch, losses))
            if self._ends_debugging():
                break
            data_timer.start()
            timer.start()

    def _best_iterations(self) -> list[int]:
        """List the iteration of the best validation, by data set and metric that decides."""
        key = (self.opt.get('val') or {}).get('key_metric')
        best = [
            result
            for results in self.model.best_metric_results.values()
            for metric, result in results.items()
            if key in (None, metric)
        ]
        return [result['iter'] for result in best if result['iter'] is not None]

    def _has_stalled(self) -> bool:
        """Whether no validation was the best one for ``patience`` epochs."""
        best = self._best_iterations()
        since = self.iteration - max(0, *best) if best else 0
        return self.patience is not None and since >= self.patience * self.per_epoch

    def _progress(self, epoch: int, ends_epoch: bool, losses: dict[str, float]) -> TrainProgress:
        return TrainProgress(
            self.iteration,
            self.data.epochs * self.per_epoch,
            epoch + 1,
            self.data.epochs,
            ends_epoch,
            dict(losses),
            dict(getattr(self.model, 'metric_results', None) or {}),
            self.iteration in self._best_iterations(),
            self._validated_at == self.iteration,
        )

    def _log(self, epoch: int, seconds: float, data_seconds: float) -> None:
        log = {
            'epoch': epoch,
            'iter': self.iteration,
            'lrs': self.model.get_current_learning_rate(),
            'time': seconds,
            'data_time': data_seconds,
        }
        self.message_logger(log | self.model.get_current_log())

    def _save(self, epoch: int, ends_epoch: bool) -> None:
        """Save the checkpoints and the training state that are due.

        A state waits for the next step, if gradients are accumulated: they are not part of it.
        """
        numbered = self._is_due('logger', 'save_checkpoint_freq')
        latest = self._is_due('logger', 'save_latest_freq')
        if latest:
            self.model.save_network(self.model.eval_net(), 'net', -1)
        if numbered:
            self.model.save_network(self.model.eval_net(), 'net', self.iteration)
        self._is_state_due |= latest or numbered or ends_epoch
        if self._is_state_due and not self.model.stepper.pending:
            self._is_state_due = False
            self.model.save_training_state(epoch, self.iteration)

    def _validate(self) -> None:
        self._validated_at = self.iteration
        if self.opt.get('val') is not None:
            for loader in self.data.val:
                save_img = self.opt['val'].get('save_img')
                self.model.validation(loader, self.iteration, self.tensorboard, save_img)

    def _validates(self, ends_epoch: bool) -> bool:
        """Whether a validation is due: at ``val_freq``, or each epoch if that is above one."""
        frequency = (self.opt.get('val') or {}).get('val_freq') or NEVER
        rarely = self.per_epoch < frequency < NEVER
        return self._is_due('val', 'val_freq') or (ends_epoch and rarely)

    def _is_due(self, section: str, name: str) -> bool:
        frequency = (self.opt.get(section) or {}).get(name) or NEVER
        return self.iteration % frequency == 0

    def _warmup(self) -> int:
        return self.opt['train'].get('warmup_iter', -1)

    def _ends_debugging(self) -> bool:
        return 'debug' in self.opt['name'] and self.iteration >= DEBUG_ITERATIONS


def _state_to_resume(opt: dict[str, Any]) -> dict[str, Any] | None:
    """Read the state that ``--auto_resume`` or ``path: resume_state`` asks for, if any."""
    if opt['auto_resume']:
        folder = Path(opt['path']['training_states'])
        return newest_state(folder, lambda text: print(f'Warning: {text}', flush=True))
    file = opt['path'].get('resume_state')
    return read_state(Path(file)) if file else None


def _make_folders(opt: dict[str, Any], resumes: bool) -> None:
    if resumes:
        for name in ('models', 'training_states'):
            Path(opt['path'][name]).mkdir(parents=True, exist_ok=True)
            remove_temporary_files(Path(opt['path'][name]))
        return
    make_exp_dirs(opt)  # pyiqa renames an older experiment of this name
    if opt['logger'].get('use_tb_logger'):
        root = Path(opt['root_path'])
        (root / 'tb_logger_archived').mkdir(parents=True, exist_ok=True)
        mkdir_and_rename(str(root / 'tb_logger' / opt['name']))


def _open_tensorboard(opt: dict[str, Any], start: int):
    """Open TensorBoard's writer; it hides what a killed run wrote after ``start``."""
    opt['logger'].setdefault('use_tb_logger', False)
    if not opt['logger']['use_tb_logger'] or 'debug' in opt['name']:
        return None
    if (opt['logger'].get('wandb') or {}).get('project'):
        from pyiqa.utils import init_wandb_logger

        init_wandb_logger(opt)
    from torch.utils.tensorboard import SummaryWriter

    folder = Path(opt['root_path'], 'tb_logger', opt['name'])
    return SummaryWriter(str(folder), purge_step=start + 1 if start else None)


def _report_unreadable(
    opt: dict[str, Any], unreadable: dict[str, str], logger: logging.Logger
) -> None:
    """List the images that could not be read in a file, and warn with their number."""
    if not unreadable:
        return
    path = Path(opt['path']['experiments_root'], 'unreadable.txt')
    write_text(path, '\n'.join(unreadable.values()) + '\n')
    logger.warning(f'{len(unreadable)} images could not be read and were left out: see {path}')
