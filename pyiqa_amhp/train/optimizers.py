"""The optimizer and the schedule of learning rates of a training, from pyiqa's options."""

import inspect
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from pyiqa.utils import get_root_logger
from torch import nn
from torch.optim.lr_scheduler import LinearLR, SequentialLR

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.train.evaluation import EvalModel
from pyiqa_amhp.train.option_check import CLOSE
from pyiqa_amhp.train.options import one_of
from pyiqa_amhp.utils.options import nearest

WEIGHT_DECAY = 1e-3  # paper, section 4.2.1
IMPLEMENTATIONS = {'fused', 'foreach', 'capturable', 'differentiable'}  # of torch's optimizers


class OptimizerSetup(EvalModel):
    """Builds the optimizer and the scheduler; ``AMHPModel`` trains with them.

    Attributes:
        by_step: whether the scheduler counts steps, not epochs.
    """

    by_step: bool

    def setup_optimizers(self) -> None:
        """Build the optimizer as pyiqa, but with the weight decay in ``lr_<part>`` groups too."""
        optim = self.opt['train']['optim']
        optim.setdefault('weight_decay', WEIGHT_DECAY)
        for key in [key for key in optim if key.startswith('lr_')]:
            optim.setdefault(f'weight_decay_{key.removeprefix("lr_")}', optim['weight_decay'])
        self._check_parts(key.removeprefix('lr_') for key in optim if key.startswith('lr_'))
        with _short_log_of_frozen_parameters(self.net):
            super().setup_optimizers()
        groups = self.optimizer.param_groups
        groups[:] = [group for group in groups if group['params']]  # pyiqa leaves empty ones

    def get_optimizer(
        self, optim_type: str, params: Iterable[Any], lr: float, **options: Any
    ) -> torch.optim.Optimizer:
        """Build the optimizer as pyiqa, but the fused one of torch where there is one.

        It updates all tensors by one kernel, which makes a step of AdamW several times faster on a
        CPU too, and changes weights by rounding only. ``fused: false`` under ``optim`` or any other
        choice among torch's implementations (``foreach``, ``capturable``, ...) is kept.
        """
        optimizer = getattr(torch.optim, optim_type)
        known = inspect.signature(optimizer).parameters
        if 'fused' in known and not IMPLEMENTATIONS & options.keys():
            params = list(params)
            with suppress(RuntimeError):  # this version of torch has none for this device
                return optimizer(params, lr, fused=True, **options)
        return optimizer(params, lr, **options)

    def _check_parts(self, parts: Iterable[str]) -> None:
        """Check that learning rates ``lr_<part>`` are of parts of the network.

        An option file may name parts that a variant of the network lacks: that is a warning.
        """
        names = [name for name, _ in self.get_bare_model(self.net).named_parameters()]
        words = {word for name in names for word in name.split('.')}
        for part in parts:
            if not any(part in name for name in names):
                message = f'train: optim: lr_{part}: no parameter of the network has {part!r} in it'
                if guess := nearest(part, words, CLOSE):
                    raise AMHPError(message + guess)
                get_root_logger().warning(message)

    def setup_schedulers(self, scheduler_name: str = 'scheduler') -> None:
        """Build the scheduler as pyiqa, or with a warm-up that counts steps."""
        train = self.opt['train']
        self.by_step = one_of(train, 'schedule_by', ('epoch', 'step')) == 'step'
        if not self.by_step:
            super().setup_schedulers(scheduler_name)
            return
        warmup = max(0, train.get('warmup_iter') or 0)
        steps = -(-train['total_iter'] // (train.get('accumulate') or 1))
        if train[scheduler_name]['type'] == 'CosineAnnealingLR':
            T_max = train[scheduler_name].get('T_max')
            train[scheduler_name]['T_max'] = T_max or max(1, steps - warmup)
        super().setup_schedulers(scheduler_name)
        if warmup:
            [main] = self.schedulers
            linear = LinearLR(self.optimizer, 1 / (warmup + 1), total_iters=warmup)
            self.schedulers[:] = [SequentialLR(self.optimizer, [linear, main], [warmup])]


@contextmanager
def _short_log_of_frozen_parameters(net: nn.Module) -> Iterator[None]:
    """Log the number of frozen parameters instead of pyiqa's warning for each tensor of them."""
    frozen = sum(p.numel() for p in net.parameters() if not p.requires_grad)
    logger = get_root_logger()
    if frozen:
        logger.info(f'{frozen:,} parameters are frozen')
    logger.addFilter(_is_not_of_frozen_parameter)
    try:
        yield
    finally:
        logger.removeFilter(_is_not_of_frozen_parameter)


def _is_not_of_frozen_parameter(record: logging.LogRecord) -> bool:
    return not record.getMessage().endswith('will not be optimized.')
