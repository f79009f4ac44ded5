"""Steps of the optimizer: precision, accumulation, clipping, averaged weights, losses not finite.

Options of the section ``train`` (all our choice; the paper trains in single precision with none
of them):

    precision: the precision of the encoders: ``fp32`` (default), ``tf32``, ``bf16`` or ``fp16``, or
        ``auto``: bf16 on a GPU that computes in it, otherwise fp32. The rest of the network is
        always computed in fp32. With tf32 a GPU rounds what it multiplies to ten bits; elsewhere it
        is fp32. With fp16 gradients are scaled; steps that overflow are left out and counted.
    accumulate: the number of batches for one step (default 1). The gradient is that of one batch
        with all their images. Not for losses that compare the images of a batch with each other.
    clip_grad_norm: the limit of the gradient's norm; default: no limit.
    ema_decay: the decay of an exponential moving average of the weights (0.999, say), which is
        then validated and saved; default: no average.
    gradient_checkpointing: compute the activations of the encoders twice to save memory.
    nonfinite: what to do if a loss is NaN or infinite: ``stop`` (default), or ``skip`` to leave
        the batch out and count it.
    cuda_graph: false launches the kernels of a step one by one, see ``step.py``.
    deterministic: true makes a GPU give the same weights each time, where torch has such kernels;
        it warns where it has none. On a CPU that is always so.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyiqa.utils import get_root_logger
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.model.runtime import Runner
from pyiqa_amhp.train.distributed import all_reduce_sum, world_size
from pyiqa_amhp.train.options import number, one_of
from pyiqa_amhp.utils.options import flag

PRECISIONS = ('fp32', 'auto', 'tf32', 'bf16', 'fp16')
NONFINITE = ('stop', 'skip')
MAX_UNCHECKED = 200  # steps whose losses may wait on the device to be checked


class OptimizerStepper:
    """Accumulates gradients from the losses of batches, and makes steps of the optimizer.

    Args:
        net: the network itself, without the wrapper for several processes.
        optimizer: the optimizer of its parameters.
        train: the section ``train`` of the options.
        batch_size: the number of images in a full batch of this process.

    Attributes:
        steps: the number of steps made.
        overflows: the number of steps left out because fp16 overflowed.
        skipped: the number of batches left out because their loss was not finite.
        pending: the number of batches since the last step.

    Raises:
        AMHPError: the value of an option is not allowed.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        train: dict[str, Any],
        batch_size: int,
    ):
        self.net, self.optimizer, self.batch_size = net, optimizer, batch_size
        self.device = next(net.parameters()).device
        self.nonfinite = one_of(train, 'nonfinite', NONFINITE)
        self.accumulate = number(
            train, 'accumulate', 1, lambda x: x >= 1 and x == int(x), 'a whole number from 1'
        )
        self.clip_norm = number(train, 'clip_grad_norm', None, lambda x: x > 0, 'a number above 0')
        decay = number(train, 'ema_decay', None, lambda x: 0 < x < 1, 'a number between 0 and 1')
        if self.accumulate > 1 and _compares_images(train):
            raise AMHPError(
                'train: accumulate needs a loss that is a mean over images; metric_loss_opt and '
                'root: batch compare the images of a batch with each other'
            )
        # Buffers are not averaged: the mask of the text encoder has infinities in it.
        self._average = (
            AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay else None
        )
        fp16 = set_precision(net, train) == 'fp16'
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=fp16)
        self.steps = self.overflows = self.skipped = self.pending = 0
        self._images = 0.0
        self._unchecked: list[tuple[torch.Tensor, list[str]]] = []  # losses, paths

    @property
    def average(self) -> nn.Module | None:
        """The network with the averaged weights; None without ``ema_decay``."""
        return self._average.module.eval() if self._average else None

    def add(self, loss: torch.Tensor, images: int, paths: list[str]) -> bool:
        """Add the gradient of a batch; make a step if it is the last of ``accumulate``.

        Args:
            loss: the mean loss of its images.
            images: the number of its images; 0: the batch does not count.
            paths: the paths of its images, for messages.

        Returns:
            Whether a step was made.

        Raises:
            AMHPError: the loss is not finite, with ``nonfinite: stop``.
        """
        bad = not torch.isfinite(loss)
        all_images, all_bad = all_reduce_sum([float(images), float(bad)], self.device)
        if all_bad:
            self._handle_nonfinite(loss.item(), paths if bad else [])
            all_images = 0.0
        elif all_images:
            self.scaler.scale(loss * (images / self.batch_size)).backward()
        self._images += all_images
        self.pending += 1
        return self.finish() if self.pending >= self.accumulate else False

    def finish(self) -> bool:
        """Make a step with the batches since the last one; return whether one was made."""
        images, self._images, self.pending = self._images, 0.0, 0
        is_made = bool(images) and self._step(images)
        self.optimizer.zero_grad(set_to_none=True)
        return is_made

    def _step(self, images: float) -> bool:
        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.net.parameters() if p.grad is not None]
        factor = self.batch_size * world_size() / images
        if factor != 1:
            torch._foreach_mul_(gradients, factor)
        if self.clip_norm:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.clip_norm)
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.get_scale() < scale:
            self.overflows += 1
            return False
        self.steps += 1
        if self._average:
            self._average.update_parameters(self.net)
        return True

    def update(self, loss: torch.Tensor, hold: torch.Tensor) -> None:
        """Make a step of a full batch without waiting for the device; ``made`` then counts it.

        The weights stay as they are if the loss is not finite. Only for fused Adam and AdamW, which
        read that from the device.

        Args:
            loss: the mean loss of the images.
            hold: 1 if the weights are to stay as they are in any case, otherwise 0.
        """
        optimizer: Any = self.optimizer
        loss.backward()
        if self.clip_norm:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.clip_norm)
        optimizer.found_inf = torch.maximum((~torch.isfinite(loss.detach())).float(), hold)
        try:
            optimizer.step()
        finally:
            del optimizer.found_inf
        optimizer.zero_grad(set_to_none=True)

    def made(self, loss: torch.Tensor, paths: list[str]) -> None:
        """Count a step that ``update`` made; ``check`` looks at its loss later.

        Args:
            loss: its loss, on the device.
            paths: the paths of its images, for messages.
        """
        self.steps += 1
        self._unchecked.append((loss, paths))
        if self._average:
            self._average.update_parameters(self.net)
        if len(self._unchecked) >= MAX_UNCHECKED:
            self.check()

    def check(self) -> None:
        """Check the losses of the steps since the last check, which waits for the device.

        Raises:
            AMHPError: one of them is not finite, with ``nonfinite: stop``. Weights were not changed
                by that step.
        """
        if not self._unchecked:
            return
        unchecked, self._unchecked = self._unchecked, []
        losses = torch.stack([loss for loss, _ in unchecked])
        self.steps -= len(unchecked)
        for loss, (_, paths) in zip(losses.tolist(), unchecked, strict=True):
            if math.isfinite(loss):
                self.steps += 1
            else:
                self._handle_nonfinite(loss, paths)

    def _handle_nonfinite(self, loss: float, paths: list[str]) -> None:
        """Stop, or warn that the batch is left out; no paths: it is one of another process."""
        batch = f'its images: {", ".join(paths)}' if paths else 'a batch of another process'
        problem = f'the loss is {loss:g} after {self.steps} steps; {batch}'
        if self.nonfinite == 'stop':
            raise AMHPError(
                f'train: {problem}. Lower the learning rate, limit gradients (clip_grad_norm: 1), '
                'use precision: fp32, or leave such batches out (nonfinite: skip)'
            )
        self.skipped += 1
        get_root_logger().warning(f'Left out a batch ({self.skipped} so far): {problem}')

    def state_dict(self) -> dict[str, Any]:
        """Return the counters, the scale of the gradient and the averaged weights."""
        self.check()
        return {
            'batch': self.batch_size * world_size(),
            'steps': self.steps,
            'overflows': self.overflows,
            'skipped': self.skipped,
            'scaler': self.scaler.state_dict(),
            'average': self._average.state_dict() if self._average else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from what ``state_dict`` returned.

        Raises:
            AMHPError: the size of the batches has changed, and so would the batches.
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


def set_precision(net: nn.Module, train: dict[str, Any]) -> str:
    """Apply ``precision``, ``deterministic`` and ``gradient_checkpointing`` to a network.

    Returns:
        The precision of the encoders.

    Raises:
        AMHPError: the network is no AMHP, and an option for its encoders is set.
    """
    precision = one_of(train, 'precision', PRECISIONS)
    checkpointing = bool(train.get('gradient_checkpointing'))
    if flag(train, 'deterministic'):
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # asked for by cuBLAS
        torch.use_deterministic_algorithms(True, warn_only=True)
    if not isinstance(net, AMHP):
        if precision not in ('fp32', 'auto') or checkpointing:
            raise AMHPError(
                'train: precision and gradient_checkpointing are for networks of type AMHP, not '
                f'{type(net).__name__}'
            )
        return 'fp32'
    backbone, device = net.backbone, next(net.parameters()).device.type
    runner = backbone.runner
    if precision == 'auto':
        has_bf16 = device == 'cuda' and torch.cuda.is_bf16_supported()
        use = 'bf16' if has_bf16 and runner.engine == 'torch' else None  # None: as it was built
        get_root_logger().info(f'precision: auto is {use or runner.precision} on {device}')
    else:
        use = 'fp32' if precision == 'tf32' else train.get('precision')
        if precision == 'tf32' and device == 'cuda':
            torch.set_float32_matmul_precision('high')
    if use:
        backbone.runner = Runner(use, runner.compile)
    if checkpointing:
        backbone.clip.set_grad_checkpointing(True)
    return backbone.runner.precision


@contextmanager
def torch_settings_kept() -> Iterator[None]:
    """Restore the settings of torch's process that ``set_precision`` may change."""
    precision = torch.get_float32_matmul_precision()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


def _compares_images(train: dict[str, Any]) -> bool:
    """Whether a loss depends on more than one image at once."""
    return (
        bool(train.get('metric_loss_opt'))
        or (train.get('mos_loss_opt') or {}).get('root') == 'batch'
    )
