"""From the loss of a batch to new weights: precision, accumulation, clipping, averages, faults.

Options of the section ``train`` (all our choice; the paper trains in single precision with none
of them):

    precision: ``fp32`` (default), ``bf16`` or ``fp16``: of the encoders; what follows them is
        always computed in fp32. fp16 comes with gradient scaling; steps that overflow are left
        out and counted.
    accumulate: batches to one step (default 1). The gradient is that of one batch with all their
        images. Not for losses that compare the images of a batch with each other.
    clip_grad_norm: the most that the gradient's norm may be; default: no limit.
    ema_decay: keep an average of the weights with this decay (0.999, say), and validate and
        save that.
    gradient_checkpointing: compute activations of the encoders twice rather than keep them.
    nonfinite: ``stop`` (default) or ``skip`` where a loss is NaN or infinite. Those that are
        skipped are counted.
"""

from typing import Any

import torch
from pyiqa.utils import get_root_logger
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.model.runtime import Runner
from pyiqa_amhp.train.distributed import all_reduce_sum, world_size
from pyiqa_amhp.train.options import number, one_of

PRECISIONS = ('fp32', 'bf16', 'fp16')
NONFINITE = ('stop', 'skip')


class OptimizerStepper:
    """Takes the losses of batches, and makes a step where there are enough.

    Args:
        net: the network itself, not what wraps it for several processes.
        optimizer: of its parameters.
        train: the section ``train`` of the options.
        batch_size: images of a full batch of this process.

    Attributes:
        steps: how many were made. overflows: how many were left out for fp16's sake.
        skipped: batches whose loss was not finite.
        pending: batches since the last step.
        average: the averaged weights, an AMHP; None without ``ema_decay``.

    Raises:
        AMHPError: options that cannot be.
    """

    def __init__(self, net, optimizer, train: dict[str, Any], batch_size: int):
        self.net, self.optimizer, self.batch_size = net, optimizer, batch_size
        self.device = next(net.parameters()).device
        self.nonfinite = one_of(train, 'nonfinite', NONFINITE)
        self.accumulate = number(
            train, 'accumulate', 1, lambda x: x >= 1 and x == int(x), 'a whole number from 1'
        )
        self.clip = number(train, 'clip_grad_norm', None, lambda x: x > 0, 'a number above 0')
        decay = number(train, 'ema_decay', None, lambda x: 0 < x < 1, 'a number between 0 and 1')
        if self.accumulate > 1 and _compares_images(train):
            raise AMHPError(
                'train: accumulate needs a loss that is a mean over images; metric_loss_opt and '
                'root: batch compare the images of a batch with each other'
            )
        # Buffers are those of the last step: the mask of the text encoder has infinities in it.
        self._average = decay and AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(decay))
        fp16 = set_precision(net, train) == 'fp16'
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=fp16)
        self.steps = self.overflows = self.skipped = self.pending = 0
        self._images = 0.0

    @property
    def average(self):
        return self._average.module.eval() if self._average else None

    def add(self, loss: torch.Tensor, images: int, names: list[str]) -> bool:
        """Take the mean loss of a batch; make a step if it is the last of ``accumulate``.

        Args:
            loss: the mean over its images.
            images: how many; 0: the batch does not count.
            names: of its files.

        Returns:
            Whether a step was made.

        Raises:
            AMHPError: a loss that is not finite, with ``nonfinite: stop``.
        """
        bad = not torch.isfinite(loss)
        all_images, all_bad = all_reduce_sum([float(images), float(bad)], self.device)
        if all_bad:
            self._meet_nonfinite(loss, names if bad else [])
            all_images = 0.0
        elif all_images:
            self.scaler.scale(loss * (images / self.batch_size)).backward()
        self._images += all_images
        self.pending += 1
        return self.finish() if self.pending >= self.accumulate else False

    def finish(self) -> bool:
        """Make a step with what is there; whether one was made."""
        images, self._images, self.pending = self._images, 0.0, 0
        made = bool(images) and self._step(images)
        self.optimizer.zero_grad(set_to_none=True)
        return made

    def _step(self, images: float) -> bool:
        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.net.parameters() if p.grad is not None]
        factor = self.batch_size * world_size() / images
        if factor != 1:
            torch._foreach_mul_(gradients, factor)
        if self.clip:
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.clip)
        before = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.get_scale() < before:
            self.overflows += 1
            return False
        self.steps += 1
        if self._average:
            self._average.update_parameters(self.net)
        return True

    def _meet_nonfinite(self, loss: torch.Tensor, names: list[str]) -> None:
        where = f'its images: {", ".join(names)}' if names else 'a batch of another process'
        what = f'the loss is {loss.item():g} after {self.steps} steps; {where}'
        if self.nonfinite == 'stop':
            raise AMHPError(
                f'train: {what}. Lower the learning rate, limit gradients (clip_grad_norm: 1), use '
                'precision: fp32, or leave such batches out (nonfinite: skip)'
            )
        self.skipped += 1
        get_root_logger().warning(f'Left out a batch ({self.skipped} so far): {what}')

    def state(self) -> dict[str, Any]:
        """For the training state."""
        return {
            'batch': self.batch_size * world_size(),
            'steps': self.steps,
            'overflows': self.overflows,
            'skipped': self.skipped,
            'scaler': self.scaler.state_dict(),
            'average': self._average and self._average.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from ``state()``.

        Raises:
            AMHPError: batches of another size, which would be other batches.
        """
        if state['batch'] != (batch := self.batch_size * world_size()):
            raise AMHPError(
                f'the training state is of batches of {state["batch"]} images and this training '
                f'has {batch} (batch_size_per_gpu times the processes); give the same'
            )
        for name in ('steps', 'overflows', 'skipped'):
            setattr(self, name, state[name])
        self.scaler.load_state_dict(state['scaler'])
        if self._average and state['average']:
            self._average.load_state_dict(state['average'])


def set_precision(net, train: dict[str, Any]) -> str:
    """Have the encoders of an AMHP compute as ``precision`` and ``gradient_checkpointing`` say."""
    precision = one_of(train, 'precision', PRECISIONS)
    checkpointing = bool(train.get('gradient_checkpointing'))
    if not isinstance(net, AMHP):
        if precision != 'fp32' or checkpointing:
            raise AMHPError(
                'train: precision and gradient_checkpointing are for networks of type AMHP, not '
                f'{type(net).__name__}'
            )
        return precision
    backbone = net.backbone
    if train.get('precision'):
        backbone.runner = Runner(precision, backbone.runner.compile)
    if checkpointing:
        backbone.clip.set_grad_checkpointing(True)
    return backbone.runner.precision


def _compares_images(train: dict[str, Any]) -> bool:
    return (
        bool(train.get('metric_loss_opt'))
        or (train.get('mos_loss_opt') or {}).get('root') == 'batch'
    )
