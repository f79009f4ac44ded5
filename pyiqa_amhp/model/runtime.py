"""How CLIP's encoders run: precision, ``torch.compile`` and engine.

These options change features by rounding only, and are not stored in checkpoints.
"""

import functools
import logging
import threading
import time
from collections.abc import Callable

import torch
from torch import nn

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.engines import Encode, Engine, copy_with_tensors, without_autocast
from pyiqa_amhp.weights.checkpoint import tensor_versions

PRECISIONS = {
    'torch': ('fp32', 'bf16', 'fp16'),
    'openvino': ('fp32', 'bf16', 'fp16'),
    'onnxruntime': ('fp32', 'int8'),
}
"""Precisions by engine."""
DTYPES = {'bf16': torch.bfloat16, 'fp16': torch.float16}
CONVERTED_ON = frozenset({'cuda'})
"""Types of devices where reduced precision without gradients uses a copy of the encoders whose
weights were converted once. Autocast converts them in each call: on an H100 6,536 images a second
with ViT-B/16 and batches of 256, against 10,062 with the copy."""

COMPILING = 5  # seconds from which the first batch of a shape has been compiled (our choice)

logger = logging.getLogger('pyiqa_amhp')


class Runner:
    """Runs CLIP's encoders; Eq. 4 to 7 stay in the precision of the weights.

    Reduced precision is torch's autocast. Where no gradient is needed, a GPU uses a copy of the
    encoders with converted weights, which is kept until the weights change.

    Args:
        precision: ``fp32``, ``bf16``, ``fp16`` or ``int8``. None: fp32, but with
            ``engine='openvino'`` bf16 if the processor supports it and the features of an encoder
            stay close (``MAX_ERROR`` of ``engines.py``). ``int8`` (dynamic
            quantisation, onnxruntime only) is never the default: the activations of trained CLIPs
            have outliers, so int8 loses more accuracy than with random weights. Compare its scores
            with those of fp32 on your own images first.
        compile: whether to use ``torch.compile`` for the encoders, which needs a C++ compiler and
            takes some minutes at the first batch.
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
        self._shapes: set[tuple] = set()  # of inputs so far, with the function that read them
        self._copy = ConvertedCopy(self.precision)
        self._engine: Engine | None = None
        if self.engine != 'torch':
            self._engine = Engine(self.engine, precision)
            self.precision = self._engine.precision

    def __reduce__(self):
        """Copy the options only: a copy compiles, converts or builds its encoders itself."""
        return Runner, self._given

    @property
    def reduced(self) -> str | None:
        """Reduced precision that the user chose; None for fp32 and for engines, which choose."""
        return self.precision if self.engine == 'torch' and self.precision != 'fp32' else None

    def __call__(self, encode: Encode, clip: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """Run ``encode(clip, x)``; returns features ``(N, n)`` in the precision of the weights.

        Images of another precision than the weights' are converted to it.

        Raises:
            AMHPError: gradients or training with an engine that has no gradients; a precision that
                the device does not support; no compiler.
        """
        dtype = next(clip.parameters()).dtype
        x = x.to(dtype) if x.is_floating_point() else x
        if self.precision == 'fp32' and self._engine is None:
            return self._encode(encode, clip, x).to(dtype)
        gradient = _needs_gradient(clip, x)
        if self._engine is not None:
            if gradient:
                raise AMHPError(
                    f'engine={self.engine!r} computes no gradients, but {gradient}; use net.eval() '
                    "and torch.no_grad(), or engine='torch' to train and as a loss"
                )
            return self._engine(encode, clip, x).to(x.device, dtype)
        if x.device.type in CONVERTED_ON and not gradient:
            with without_autocast(x.device.type):
                clip, x = self._copy(clip), self._copy.convert(x)
                return self._encode(encode, clip, x).to(dtype)
        if clip.training:
            self._copy.clear()  # the weights are about to change
        with self._autocast(x.device.type):
            return self._encode(encode, clip, x).to(dtype)

    def _autocast(self, device: str):
        if not _has_autocast(device, DTYPES[self.precision]):
            raise AMHPError(
                f'precision={self.precision!r}: torch {torch.__version__} has no such autocast on '
                f'{device!r}; use fp32 or another device'
            )
        return torch.autocast(device, DTYPES[self.precision])

    def _encode(self, encode: Encode, clip: nn.Module, x: torch.Tensor) -> torch.Tensor:
        if not self.compile:
            return encode(clip, x)
        from torch._dynamo.exc import TorchDynamoException

        start, shape = time.perf_counter(), (encode, *x.shape)
        is_first = encode not in self._compiled
        if is_first:
            logger.warning('compile=True: compiling %s, which takes minutes ...', encode.__name__)
            # The function, since compiling the module would rename the keys of its state_dict.
            self._compiled[encode] = torch.compile(encode)
        try:
            features = self._compiled[encode](clip, x)
        except TorchDynamoException as error:
            reason = ' '.join(str(error).strip().partition('\n\n')[0].split())
            raise AMHPError(
                f'compile=True: torch.compile failed ({reason}); it needs a C++ compiler (g++, '
                'clang or MSVC; for a GPU also Triton): install one, or leave compile out'
            ) from error
        seconds = time.perf_counter() - start
        # Another shape may compile it again, which no call can know before.
        if is_first or (shape not in self._shapes and seconds > COMPILING):
            logger.warning(
                'compile=True: compiled %s for shape %s in %.0f s',
                encode.__name__, tuple(x.shape), seconds,
            )  # fmt: skip
        self._shapes.add(shape)
        return features


class ConvertedCopy:
    """A copy of CLIP's encoders with weights in reduced precision, made again when weights change.

    Threads may share it.

    Args:
        precision: ``bf16`` or ``fp16``; with another one nothing is converted.
    """

    def __init__(self, precision: str):
        self._dtype = DTYPES.get(precision)
        self._lock = threading.Lock()
        self._weights: list = []
        self._clip: nn.Module | None = None

    def __call__(self, clip: nn.Module) -> nn.Module:
        """Return the copy of ``clip``, which has no gradients."""
        with self._lock:
            weights = tensor_versions(clip.state_dict().values())
            if self._clip is None or weights != self._weights:
                with torch.inference_mode(False), torch.no_grad():
                    self._clip = copy_with_tensors(clip, self.convert)
                self._weights = weights
            return self._clip

    def convert(self, tensor: torch.Tensor) -> torch.Tensor:
        """Convert a tensor of floating-point numbers; others stay as they are."""
        return tensor.to(self._dtype) if tensor.is_floating_point() else tensor

    def clear(self) -> None:
        """Free the memory of the copy."""
        with self._lock:
            self._clip = None


def _needs_gradient(clip: nn.Module, x: torch.Tensor) -> str:
    """Say why a call needs gradients; ``''`` if it does not."""
    if clip.training:
        return 'the model is in training mode'
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, *clip.parameters())):
        return 'a gradient is needed'
    return ''


@functools.cache
def _has_autocast(device: str, dtype: torch.dtype) -> bool:
    """Whether autocast works on a device: some versions of torch only warn where it does not."""
    one = torch.ones(1, 1, device=device)
    try:
        with torch.autocast(device, dtype):
            return (one @ one).dtype == dtype
    except RuntimeError:
        return False
