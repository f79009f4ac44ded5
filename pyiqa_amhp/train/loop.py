"""The training loop of ``amhp train``: pyiqa's parts and option files, with an exact resume.

pyiqa's own loop (``python -m pyiqa.train``) drives the same model class, but begins the epoch anew
where it is resumed, needs a GPU for that, and makes another, incomplete epoch where the batches do
not divide the images.
"""

import datetime
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyiqa.data import build_dataset
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
from pyiqa.utils.options import copy_opt_file, dict2str, parse_options
from torch.utils.data import DataLoader

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.train import distributed as processes
from pyiqa_amhp.train.sampler import EpochBatches, test_loader, train_loader
from pyiqa_amhp.train.state import newest_state, read_state, remove_leftovers
from pyiqa_amhp.utils.files import write_atomically

NEVER = float('inf')
DEBUG_ITERATIONS = 8  # as in pyiqa


@dataclass
class Data:
    """What a training reads.

    Attributes:
        train: the loader of ``batches``. val: those of the validation sets.
        epochs: how many.
    """

    train: DataLoader
    batches: EpochBatches
    val: list[DataLoader] = field(default_factory=list)
    epochs: int = 0


def train(root: Path) -> dict[str, Any]:
    """Train as the command line says (``-opt FILE``, pyiqa's further arguments).

    Args:
        root: the folder that gets ``experiments/<name>`` and ``tb_logger/<name>``.

    Returns:
        The best validation results, by data set and metric.

    Raises:
        AMHPError: options, data or a training state that cannot be used.
    """
    opt, arguments = parse_options(str(root), is_train=True)
    opt['root_path'] = str(root)
    opt['rank'], opt['world_size'] = processes.join(opt['num_gpu'])
    opt['dist'] = opt['world_size'] > 1
    try:
        return _train(opt, arguments.opt)
    finally:
        processes.leave()


def _train(opt: dict[str, Any], file: str) -> dict[str, Any]:
    state, gpus = _state_to_resume(opt), opt['num_gpu']
    opt['num_gpu'] = min(gpus, 1)  # a process has one
    first = opt['rank'] == 0
    if first:
        _make_folders(opt, anew=state is None)
        copy_opt_file(file, opt['path']['experiments_root'])
    processes.wait()
    log = Path(opt['path']['log'], f'train_{opt["name"]}_{get_time_str()}.log')
    logger = get_root_logger('pyiqa', logging.INFO, str(log) if first else None)
    if gpus > 1 and not opt['dist']:
        logger.warning(
            f'One of {gpus} GPUs is used; torchrun --nproc_per_node={gpus} -m pyiqa_amhp train '
            'uses them all'
        )
    logger.info(get_env_info())
    logger.info(dict2str(opt))
    data = _read_data(opt, logger)
    model = build_model(opt)
    model.record.trained_on(data.train.dataset, len(data.batches))
    start = 0
    if state is not None:
        model.resume_training(state)
        start = state['iter']
        logger.info(f'Resuming training from epoch: {state["epoch"]}, iter: {start}.')
    board = _board(opt, start) if first else None
    try:
        Training(opt, data, model, board, start).run()
    finally:
        if board is not None:
            board.close()
    unreadable = {k: v for part in processes.all_gather(model.unreadable) for k, v in part.items()}
    if first:
        _report_unreadable(opt, unreadable, logger)
    return model.best_metric_results


class Training:
    """A training from iteration ``start`` on.

    Args:
        opt: the options. data: what it reads. model: pyiqa's, an ``AMHPModel``.
        board: TensorBoard's writer, or None. start: how many iterations are done.
    """

    def __init__(self, opt: dict[str, Any], data: Data, model, board, start: int):
        self.opt, self.data, self.model, self.board, self.done = opt, data, model, board, start
        self.message = MessageLogger(opt, start, board)
        self.per_epoch = len(data.batches)
        self._save_state = False

    def run(self) -> None:
        """All epochs that are left."""
        began, logger, start = time.time(), get_root_logger(), self.done
        first = start // self.per_epoch
        if self.model.epochs_ended < first:  # pyiqa's loop saves before it ends an epoch
            self.model.update_learning_rate(first + 1, self._warmup())
        for epoch in range(first, self.data.epochs):
            self._run_epoch(epoch)
            if self._is_debugged():
                break
        if start and self.done == start:
            logger.info('The training had ended already.')
        spent = datetime.timedelta(seconds=int(time.time() - began))
        logger.info(f'End of training. Time consumed: {spent}')
        self.model.save(epoch=-1, current_iter=-1)
        if not self._is_due('val', 'val_freq'):
            self._validate()

    def _run_epoch(self, epoch: int) -> None:
        """One epoch, or what is left of it."""
        data, timer, data_timer = self.data, AvgTimer(), AvgTimer()
        data.batches.begin(epoch, self.done - epoch * self.per_epoch)
        if hasattr(data.train.dataset, 'begin_epoch'):
            data.train.dataset.begin_epoch(epoch, self.opt['manual_seed'])
        for batch in data.train:
            data_timer.record()
            self.done += 1
            self.model.feed_data(batch)
            self.model.optimize_parameters(self.done)
            timer.record()
            if self._is_due('logger', 'print_freq'):
                self._log(epoch, timer.get_avg_time(), data_timer.get_avg_time())
            ends = self.done == (epoch + 1) * self.per_epoch
            if ends:
                self.model.end_epoch()
            if self._is_due('val', 'val_freq'):
                self._validate()
            if ends:
                self.model.update_learning_rate(epoch + 2, self._warmup())
            self._save(epoch + ends, ends)
            if self._is_debugged():
                break
            data_timer.start()
            timer.start()

    def _log(self, epoch: int, seconds: float, data_seconds: float) -> None:
        log = {'epoch': epoch, 'iter': self.done, 'lrs': self.model.get_current_learning_rate()}
        log |= {'time': seconds, 'data_time': data_seconds}
        self.message(log | self.model.get_current_log())

    def _save(self, epoch: int, ends: bool) -> None:
        """Checkpoints and the state, where they are due.

        The state is put off until the gradients of ``accumulate`` batches have become a step.
        """
        numbered = self._is_due('logger', 'save_checkpoint_freq')
        latest = self._is_due('logger', 'save_latest_freq')
        for due, number in ((latest, -1), (numbered, self.done)):
            if due:
                self.model.save_network(self.model.eval_net(), 'net', number)
        self._save_state |= latest or numbered or ends
        if self._save_state and not self.model.updates.pending:
            self._save_state = False
            self.model.save_training_state(epoch, self.done)

    def _validate(self) -> None:
        if self.opt.get('val') is not None:
            for loader in self.data.val:
                save_img = self.opt['val'].get('save_img')
                self.model.validation(loader, self.done, self.board, save_img)

    def _is_due(self, section: str, name: str) -> bool:
        frequency = (self.opt.get(section) or {}).get(name) or NEVER
        return self.done % frequency == 0

    def _warmup(self) -> int:
        return self.opt['train'].get('warmup_iter', -1)

    def _is_debugged(self) -> bool:
        return 'debug' in self.opt['name'] and self.done >= DEBUG_ITERATIONS


def _read_data(opt: dict[str, Any], logger) -> Data:
    """Data sets and their loaders; ``total_iter`` is put into the options, as pyiqa does."""
    rank, world_size, data, val = opt['rank'], opt['world_size'], None, []
    for phase, options in opt['datasets'].items():
        dataset = build_dataset(options)
        if phase.split('_')[0] == 'val':
            val.append(test_loader(dataset, options, rank, world_size))
        elif phase == 'train':
            batches = EpochBatches(
                len(dataset),
                options['batch_size_per_gpu'],
                rank,
                world_size,
                options.get('dataset_enlarge_ratio') or 1,
                options.get('use_shuffle', True),
            )
            data = Data(train_loader(dataset, options, batches), batches)
        else:
            raise AMHPError(f'datasets: {phase!r} in a training; expected train, val, val_1 ...')
    per_epoch = len(data.batches)
    if not per_epoch:
        raise AMHPError(
            f'train: {data.batches.total} images do not fill one batch of {data.batches.size} '
            '(incomplete batches are left out); lower batch_size_per_gpu'
        )
    given = opt['train'].get('total_epoch')
    data.epochs = int(given) if given else -(-int(opt['train']['total_iter']) // per_epoch)
    data.val = val
    opt['train']['total_iter'] = data.epochs * per_epoch
    logger.info(
        f'Training: {data.batches.images} images in batches of {data.batches.size} '
        f'({world_size} processes), {per_epoch} batches an epoch, {data.epochs} epochs.'
    )
    return data


def _state_to_resume(opt: dict[str, Any]) -> dict[str, Any] | None:
    """The state that ``--auto_resume`` or ``path: resume_state`` stand for, if there is one."""
    folder = Path(opt['path']['training_states'])
    if opt['auto_resume']:
        return newest_state(folder, lambda text: print(f'Warning: {text}', flush=True))
    given = opt['path'].get('resume_state')
    return read_state(Path(given)) if given else None


def _make_folders(opt: dict[str, Any], anew: bool) -> None:
    board = Path(opt['root_path'], 'tb_logger', opt['name'])
    if anew:
        make_exp_dirs(opt)  # pyiqa moves an older experiment of this name aside
        if opt['logger'].get('use_tb_logger'):
            (board.parent.parent / 'tb_logger_archived').mkdir(parents=True, exist_ok=True)
            mkdir_and_rename(str(board))
        return
    for name in ('models', 'training_states'):
        Path(opt['path'][name]).mkdir(parents=True, exist_ok=True)
        remove_leftovers(Path(opt['path'][name]))


def _board(opt: dict[str, Any], start: int):
    """TensorBoard's writer; what a killed run wrote after ``start`` is taken out of sight."""
    opt['logger'].setdefault('use_tb_logger', False)
    if not opt['logger']['use_tb_logger'] or 'debug' in opt['name']:
        return None
    if (opt['logger'].get('wandb') or {}).get('project'):
        from pyiqa.utils import init_wandb_logger

        init_wandb_logger(opt)
    from torch.utils.tensorboard import SummaryWriter

    folder = Path(opt['root_path'], 'tb_logger', opt['name'])
    return SummaryWriter(str(folder), purge_step=start + 1 if start else None)


def _report_unreadable(opt: dict[str, Any], unreadable: dict[str, str], logger) -> None:
    """All images that could not be read, in the log and in a file."""
    if not unreadable:
        return
    path = Path(opt['path']['experiments_root'], 'unreadable.txt')
    lines = '\n'.join(unreadable.values()) + '\n'
    write_atomically(path, lambda file: file.write_text(lines, encoding='utf-8'))
    logger.warning(f'{len(unreadable)} images could not be read and were left out: see {path}')
