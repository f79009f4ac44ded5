"""CLIP's encoders as ONNX graphs, run by OpenVINO or onnxruntime on the processor."""

import copy
import functools
import logging
import tempfile
import threading
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.utils.environment import import_extra
from pyiqa_amhp.weights.checkpoint import tensor_versions

Encode = Callable[[nn.Module, torch.Tensor], torch.Tensor]  # encode_images or encode_tokens
Session = Callable[[np.ndarray], np.ndarray]
Module = TypeVar('Module', bound=nn.Module)
MAX_ERROR = {'fp32': 1e-3, 'bf16': 0.05, 'fp16': 0.05, 'int8': 0.15}
"""Largest error of features, relative to torch's (our choice)."""
OPENVINO_PRECISIONS = {'fp32': 'f32', 'bf16': 'bf16', 'fp16': 'f16'}
logger = logging.getLogger('pyiqa_amhp')
_export_lock = threading.Lock()  # the exporter replaces functions of torch while it runs


class Engine:
    """Runs ``encode(clip, x)`` by ONNX graphs, which are built again whenever weights change.

    Threads may share it: the first of them builds, and they run beside each other.

    Args:
        name: ``openvino`` or ``onnxruntime``.
        precision: see :class:`pyiqa_amhp.model.runtime.Runner`.

    Raises:
        AMHPError: a missing package, or a precision that this processor does not support.
    """

    def __init__(self, name: str, precision: str | None):
        self.name = name
        extra = {'openvino': 'openvino', 'onnxruntime': 'onnx'}[name]
        for package in (name, 'onnxscript'):
            import_extra(package, extra)
        self._given = precision
        self.precision: str = precision or 'fp32'
        if name == 'openvino':
            self.precision = _openvino_precision(precision)
        self._lock = threading.Lock()
        self._weights: list = []
        self._sessions: dict[Encode, Session] = {}

    def __call__(self, encode: Encode, clip: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """Compute features ``(N, n)``, float32 on the CPU, of any number of images or texts."""
        with self._lock:
            weights = tensor_versions(clip.state_dict().values())
            if weights != self._weights:
                self._sessions.clear()
                self._weights = weights
            if encode not in self._sessions:
                with without_autocast(x.device.type):
                    self._sessions[encode] = self._build(encode, clip, x)
            session = self._sessions[encode]
        return torch.from_numpy(session(_array(x)))

    def _build(self, encode: Encode, clip: nn.Module, x: torch.Tensor) -> Session:
        dims = {0: 'N'} if x.is_floating_point() else {0: 'N', 1: 'L'}
        example = torch.zeros(2, *x.shape[1:], dtype=torch.float32 if len(dims) == 1 else x.dtype)
        build = _openvino if self.name == 'openvino' else _onnxruntime
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            file = Path(folder, 'encoder.onnx')
            program = to_onnx(
                Encoder(encode, clip),
                {'x': (example, dims)},
                ['features'],
                optimize=self.precision == 'int8',  # quantisation needs constant weights
            )
            # Without this onnxruntime warns that the graph was not preprocessed by its own tool.
            program.model.metadata_props['onnx.quant.pre_process'] = 'onnxruntime.quant'
            program.save(file, external_data=True)  # one file holds at most 2 GB
            # A wrong graph shows in fp32 first, where rounding does not hide it.
            for precision in dict.fromkeys(('fp32', self.precision)):
                candidate = build(file, precision)
                error = self._error(candidate, encode, clip, x[:1])
                if error <= MAX_ERROR[precision]:
                    session = candidate
                elif precision == 'fp32' or self._given:
                    raise AMHPError(
                        f'engine={self.name!r} in {precision} does not give the features of these '
                        f"encoders ({error:.1%} off torch's); use another engine or precision"
                    )
                else:
                    logger.info(
                        "engine=%r: %s is %.1f%% off torch's features: this encoder runs in fp32",
                        self.name,
                        precision,
                        100 * error,
                    )
        return session

    @staticmethod
    def _error(session: Session, encode: Encode, clip: nn.Module, x: torch.Tensor) -> float:
        """Compare features with torch's: an engine may read a graph wrongly without an error."""
        with torch.no_grad():
            expected = encode(clip, x).float().cpu()
        return float((torch.from_numpy(session(_array(x))) - expected).norm() / expected.norm())


def _array(x: torch.Tensor) -> np.ndarray:
    x = x.detach().cpu()
    return (x.float() if x.is_floating_point() else x).contiguous().numpy()


def without_autocast(device: str) -> AbstractContextManager:
    """Switch off the autocast of the caller, which must not change what is kept for later calls."""
    try:
        return torch.autocast(device, enabled=False)
    except RuntimeError:  # a device that has no autocast
        return nullcontext()


class Encoder(nn.Module):
    """One of CLIP's encoders as a module of its own, which runs ``encode(clip, x)``."""

    def __init__(self, encode: Encode, clip: nn.Module):
        super().__init__()
        self.encode, self.clip = encode, clip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Encode images or token ids to features ``(N, n)``."""
        return self.encode(self.clip, x)


def to_onnx(
    graph: nn.Module,
    inputs: dict[str, tuple[torch.Tensor, dict[int, str]]],
    outputs: list[str],
    optimize: bool = False,
) -> Any:
    """Convert a module to an ONNX program in evaluation mode and float32.

    It uses torch's exporter on top of ``torch.export``: the older one, which needs no onnxscript,
    is deprecated since torch 2.9.

    Args:
        graph: module on any device; it is not changed.
        inputs: an example of each input and the names of its free dimensions, by input name.
        outputs: names of the outputs.
        optimize: simplify the graph. The engines do so themselves, and here it takes time.

    Raises:
        AMHPError: a missing package, or a module that cannot be converted.
    """
    import_extra('onnxscript', 'onnx')
    examples = tuple(example for example, _ in inputs.values())
    with _export_lock, torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # they concern the exporter's own code
        try:
            return torch.onnx.export(
                _exportable(graph).eval(),
                examples,
                input_names=list(inputs),
                output_names=outputs,
                dynamic_shapes=tuple(dims for _, dims in inputs.values()),
                dynamo=True,
                optimize=optimize,
                verbose=False,
            )
        except Exception as error:  # the exporter raises many kinds
            reason = str(error).strip().splitlines()[0]
            raise AMHPError(
                f'these encoders cannot be exported to ONNX ({type(error).__name__}: {reason}); '
                "use engine='torch'"
            ) from error


def _exportable(graph: nn.Module) -> nn.Module:
    """Return a copy with float32 tensors on the CPU that autograd can use, or ``graph`` itself."""
    tensors = [*graph.parameters(), *graph.buffers()]
    is_exportable = all(
        t.device.type == 'cpu' and t.dtype in (torch.float32, torch.int64) and not t.is_inference()
        for t in tensors
    )
    if is_exportable:
        return graph
    return copy_with_tensors(graph, _exportable_tensor)


def copy_with_tensors(module: Module, convert: Callable[[torch.Tensor], torch.Tensor]) -> Module:
    """Copy a module but for its tensors: those of the copy are ``convert(tensor)``.

    Args:
        module: any module; it is not changed.
        convert: returns the tensor itself to share its memory, or another one.
    """

    def converted(tensor: torch.Tensor) -> torch.Tensor:
        new = convert(tensor)
        is_parameter = isinstance(tensor, nn.Parameter) and new is not tensor
        return nn.Parameter(new, False) if is_parameter else new

    tensors = (*module.parameters(), *module.buffers())
    return copy.deepcopy(module, {id(tensor): converted(tensor) for tensor in tensors})


def _exportable_tensor(tensor: torch.Tensor) -> torch.Tensor:
    copied = tensor.detach().cpu().clone()
    return copied.float() if copied.is_floating_point() else copied


@functools.cache
def openvino_core() -> Any:
    """Return the process's only OpenVINO core.

    When a second core is freed after the first, the thread keeps a signal stack in freed memory
    (2026.4): Ctrl-C, or the end of a worker process, would crash.
    """
    return import_extra('openvino', 'openvino').Core()


def _openvino_precision(precision: str | None) -> str:
    """Check a precision, or choose bf16 where OpenVINO itself would choose it, else fp32."""
    ov, core = import_extra('openvino', 'openvino'), openvino_core()
    if precision is None:
        native = core.get_property('CPU', 'INFERENCE_PRECISION_HINT') == ov.Type.bf16
        return 'bf16' if native else 'fp32'
    capabilities = core.get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
    if precision.upper() not in capabilities:
        supported = [p for p in OPENVINO_PRECISIONS if p.upper() in capabilities]
        raise AMHPError(
            f'precision={precision!r}: this processor computes in {", ".join(supported)} with '
            'OpenVINO'
        )
    return precision


def _openvino(file: Path, precision: str) -> Session:
    core = openvino_core()
    options = {
        'INFERENCE_PRECISION_HINT': OPENVINO_PRECISIONS[precision],
        # Parallel streams are a little faster for batches, but give a single image one core only.
        'PERFORMANCE_HINT': 'LATENCY',
        'INFERENCE_NUM_THREADS': torch.get_num_threads(),
    }
    model = core.compile_model(core.read_model(file), 'CPU', options)
    idle: list = []  # requests: each holds the input and output of one call at a time

    def run(x: np.ndarray) -> np.ndarray:
        try:
            request = idle.pop()
        except IndexError:
            request = model.create_infer_request()
        features = request.infer(x, share_outputs=False)[0]  # the next call overwrites its own
        idle.append(request)
        return features

    return run


def _onnxruntime(file: Path, precision: str) -> Session:
    session = onnxruntime_session(_quantised(file) if precision == 'int8' else file)
    return lambda x: session.run(None, {'x': x})[0]


def onnxruntime_session(file: Path) -> Any:
    """Load a graph by onnxruntime on the CPU, with as many threads as torch uses."""
    ort = import_extra('onnxruntime', 'onnx')
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return ort.InferenceSession(file, options, providers=['CPUExecutionProvider'])


def _quantised(file: Path) -> Path:
    """Quantise the weights of matrix products to int8, with a scale for each channel.

    Activations are quantised at run time.
    """
    quantization = import_extra('onnxruntime.quantization', 'onnx')
    target = file.with_name('int8.onnx')
    quantization.quantize_dynamic(
        file,
        target,
        op_types_to_quantize=['MatMul', 'Gemm'],  # int8 convolutions are slower than fp32
        per_channel=True,
        reduce_range=True,  # 7 bits, at the same speed: without VNNI sums of 8 bits overflow
        weight_type=quantization.QuantType.QInt8,
        use_external_data_format=True,
    )
    return target
