"""How CLIP's encoders run: precision, ``torch.compile`` and engine.

These options change features by rounding only, and are not stored in checkpoints.
"""

import functools
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import nn

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.engines import Encode, Engine

PRECISIONS = {
    'torch': ('fp32', 'bf16', 'fp16'),
    'openvino': ('fp32', 'bf16', 'fp16'),
    'onnxruntime': ('fp32', 'int8'),
}
"""Precisions by engine."""
AUTOCAST = {'bf16': torch.bfloat16, 'fp16': torch.float16}


class Runner:
    """Runs CLIP's encoders; Eq. 4 to 7 stay in the precision of the weights.

    Args:
        precision: ``fp32``, ``bf16``, ``fp16`` or ``int8``. None: fp32, but with
            ``engine='openvino'`` bf16 if the processor supports it and the features of an encoder
            stay close (``MAX_ERROR`` of ``engines.py``). ``int8`` (dynamic
            quantisation, onnxruntime only) is never the default: the activations of trained CLIPs
            have outliers, so int8 loses more accuracy than with random weights. Compare its scores
            with those of fp32 on your own images first.
        compile: whether to use ``torch.compile`` for the encoders, which needs a C++ compiler and
            takes some time at the first batch.
        engine: ``torch``, ``openvino`` or ``onnxruntime``. The latter two run on the processor,
            with as many threads as torch. They are built at the first batch (seconds for ViT-B/16)
            and again when weights change, and compute no gradients.

    Raises:
        AMHPError: an unknown value, a combination that is not possible, or a missing package.
    """

    def __init__(
        self, precision: str | None = None, compile: bool = False, engine: str | None = None
    ):
        self._given = (precision, compile, engine)
        self.engine = engine or 'torch'
        if self.engine not in PRECISIONS:
            raise AMHPError(f'engine={engine!r}: expected one of {", ".join(PRECISIONS)}')
        if compile not in (None, True, False):
            raise AMHPError(f'compile={compile!r}: expected True or False')
        if compile and self.engine != 'torch':
            raise AMHPError(f"compile=True is for engine='torch'; {engine} compiles by itself")
        self.compile = bool(compile)
        possible = PRECISIONS[self.engine]
        if precision is not None and precision not in possible:
            others = [e for e, offered in PRECISIONS.items() if precision in offered]
            hint = f' ({precision} is offered by engine={others[0]!r})' if others else ''
            raise AMHPError(
                f'precision={precision!r} with engine={self.engine!r}: expected one of '
                f'{", ".join(possible)}{hint}'
            )
        self.precision: str = precision or 'fp32'
        self._compiled: dict[Callable, Callable] = {}
        self._engine: Engine | None = None
        if self.engine != 'torch':
            self._engine = Engine(self.engine, precision)
            self.precision = self._engine.precision

    def __reduce__(self):
        """Copy the options only: each copy compiles its encoders, or builds its engine, itself."""
        return Runner, self._given

    def __call__(self, encode: Encode, clip: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """Run ``encode(clip, x)``; returns features ``(N, n)`` in the precision of the weights.

        Images of another precision than the weights' are converted to it.

        Raises:
            AMHPError: gradients or training with an engine that has no gradients; a precision that
                the device does not support; no compiler.
        """
        dtype = next(clip.parameters()).dtype
        x = x.to(dtype) if x.is_floating_point() else x
        if self._engine is not None:
            self._check_no_gradient(clip, x)
            return self._engine(encode, clip, x).to(x.device, dtype)
        with self._autocast(x.device.type):
            return self._encode(encode, clip, x).to(dtype)

    def _check_no_gradient(self, clip: nn.Module, x: torch.Tensor) -> None:
        wants_gradient = torch.is_grad_enabled() and any(
            t.requires_grad for t in (x, *clip.parameters())
        )
        if clip.training or wants_gradient:
            reason = 'the model is in training mode' if clip.training else 'a gradient is needed'
            raise AMHPError(
                f'engine={self.engine!r} computes no gradients, but {reason}; use net.eval() and '
                "torch.no_grad(), or engine='torch' to train and as a loss"
            )

    def _autocast(self, device: str):
        if self.precision == 'fp32':
            return nullcontext()
        if not _has_autocast(device, AUTOCAST[self.precision]):
            raise AMHPError(
                f'precision={self.precision!r}: torch {torch.__version__} has no such autocast on '
                f'{device!r}; use fp32 or another device'
            )
        return torch.autocast(device, AUTOCAST[self.precision])

    def _encode(self, encode: Encode, clip: nn.Module, x: torch.Tensor) -> torch.Tensor:
        if not self.compile:
            return encode(clip, x)
        from torch._dynamo.exc import TorchDynamoException

        if encode not in self._compiled:
            # The function, since compiling the module would rename the keys of its state_dict.
            self._compiled[encode] = torch.compile(encode)
        try:
            return self._compiled[encode](clip, x)
        except TorchDynamoException as error:
            reason = ' '.join(str(error).strip().partition('\n\n')[0].split())
            raise AMHPError(
                f'compile=True: torch.compile failed ({reason}); it needs a C++ compiler (g++, '
                'clang or MSVC; for a GPU also Triton): install one, or leave compile out'
            ) from error


@functools.cache
def _has_autocast(device: str, dtype: torch.dtype) -> bool:
    """Whether autocast works on a device: some versions of torch only warn where it does not."""
    one = torch.ones(1, 1, device=device)
    try:
        with torch.autocast(device, dtype):
            return (one @ one).dtype == dtype
    except RuntimeError:
        return False
