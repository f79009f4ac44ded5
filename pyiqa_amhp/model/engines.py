"""The encoders as ONNX graphs, run by OpenVINO or onnxruntime on the processor."""

import copy
import functools
import importlib
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.weights.checkpoint import tensor_versions

Session = Callable[[np.ndarray], np.ndarray]
MAX_ERROR = {'fp32': 1e-3, 'bf16': 0.05, 'fp16': 0.05, 'int8': 0.15}
"""Of features beside torch's, relative (our choice)."""
OPENVINO_PRECISIONS = {'fp32': 'f32', 'bf16': 'bf16', 'fp16': 'f16'}


def needs(package: str, extra: str):
    """An optional package, imported.

    Raises:
        AMHPError: it is not installed; which extra of ours brings it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise AMHPError(
            f"{package} is not installed ({error}): pip install 'pyiqa-amhp[{extra}]'"
        ) from error


class Engine:
    """Runs ``encode(clip, x)`` by graphs that are made of the weights as they are.

    Args:
        name: ``openvino`` or ``onnxruntime``.
        precision: see :class:`pyiqa_amhp.model.runtime.Runner`.

    Raises:
        AMHPError: a missing package, or a precision that this processor does not compute in.
    """

    def __init__(self, name: str, precision: str | None):
        self.name = name
        extra = {'openvino': 'openvino', 'onnxruntime': 'onnx'}[name]
        for package in (name, 'onnxscript'):
            needs(package, extra)
        self.precision = _openvino_precision(precision) if name == 'openvino' else precision
        self.precision = self.precision or 'fp32'
        self._weights: list = []
        self._sessions: dict[Callable, Session] = {}

    def __call__(self, encode, clip: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """Features ``(N, n)``, float32 on the CPU, of images or token ids of any number."""
        weights = tensor_versions(clip.state_dict().values())
        if weights != self._weights:
            self._sessions.clear()
            self._weights = weights
        if encode not in self._sessions:
            self._sessions[encode] = self._build(encode, clip, x)
        return torch.from_numpy(self._sessions[encode](_array(x)))

    def _build(self, encode, clip: nn.Module, x: torch.Tensor) -> Session:
        dims = {0: 'N'} if x.is_floating_point() else {0: 'N', 1: 'L'}
        example = torch.zeros(2, *x.shape[1:], dtype=torch.float32 if len(dims) == 1 else x.dtype)
        build = _openvino if self.name == 'openvino' else _onnxruntime
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            file = Path(folder, 'encoder.onnx')
            program = to_onnx(
                Encoder(encode, clip),
                {'x': (example, dims)},
                ['features'],
                optimize=self.precision == 'int8',  # else few weights are found to be constant
            )
            # Else onnxruntime advises, by a warning, to run another package's tools first.
            program.model.metadata_props['onnx.quant.pre_process'] = 'onnxruntime.quant'
            program.save(file, external_data=True)  # encoders of over 2 GB fit no other way
            # A graph that is read wrongly shows in fp32, where rounding does not hide it.
            for precision in dict.fromkeys(('fp32', self.precision)):
                session = build(file, precision)
                self._check(session, precision, encode, clip, x[:1])
        return session

    def _check(self, session: Session, precision: str, encode, clip, x: torch.Tensor) -> None:
        """Compare with torch once: an engine may read a graph differently, and say nothing."""
        with torch.no_grad():
            expected = encode(clip, x).float().cpu()
        error = (torch.from_numpy(session(_array(x))) - expected).norm() / expected.norm()
        if not error <= MAX_ERROR[precision]:
            raise AMHPError(
                f'engine={self.name!r} in {precision} does not give the features of these encoders '
                f"({error:.1%} off torch's); use another engine or precision"
            )


def _array(x: torch.Tensor) -> np.ndarray:
    x = x.detach().cpu()
    return (x.float() if x.is_floating_point() else x).contiguous().numpy()


class Encoder(nn.Module):
    """``encode(clip, x)`` as a module of its own."""

    def __init__(self, encode, clip: nn.Module):
        super().__init__()
        self.encode, self.clip = encode, clip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images or token ids to features ``(N, n)``."""
        return self.encode(self.clip, x)


def to_onnx(graph: nn.Module, inputs: dict[str, tuple], outputs: list[str], optimize: bool = False):
    """An ONNX program of ``graph`` in evaluation, float32.

    By torch's exporter on top of ``torch.export``: the older one, which needs no onnxscript, is
    deprecated since torch 2.9.

    Args:
        graph: on any device; it is not changed.
        inputs: names to an example each, and to the names of its free dimensions by their place.
        outputs: their names.
        optimize: tidy the graph up; engines do so by themselves, and here it takes time.

    Raises:
        AMHPError: a missing package, or encoders that cannot be exported.
    """
    needs('onnxscript', 'onnx')
    examples = tuple(example for example, _ in inputs.values())
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # about the exporter's own code
        try:
            return torch.onnx.export(
                _plain(graph).eval(),
                examples,
                input_names=list(inputs),
                output_names=outputs,
                dynamic_shapes=tuple(dims for _, dims in inputs.values()),
                dynamo=True,
                optimize=optimize,
                verbose=False,
            )
        except Exception as error:  # of many kinds
            reason = str(error).strip().splitlines()[0]
            raise AMHPError(
                f'these encoders cannot be exported to ONNX ({type(error).__name__}: {reason}); '
                "use engine='torch'"
            ) from error


def _plain(graph: nn.Module) -> nn.Module:
    """``graph`` with float32 tensors on the CPU that autograd may see; itself where it has them."""
    tensors = [*graph.parameters(), *graph.buffers()]
    plain = all(
        t.device.type == 'cpu' and t.dtype in (torch.float32, torch.int64) and not t.is_inference()
        for t in tensors
    )
    if plain:
        return graph
    return copy.deepcopy(graph, {id(t): _plain_tensor(t) for t in tensors})


@functools.cache
def openvino_core():
    """OpenVINO, once for the process.

    Its second core, let go after the first, leaves the thread a signal stack in memory that is
    gone (2026.4): Ctrl-C, or the end of a worker process, would crash.
    """
    return needs('openvino', 'openvino').Core()


def _openvino_precision(precision: str | None) -> str:
    """The one that is asked for, or bf16 where OpenVINO itself would choose it, else fp32."""
    ov, core = needs('openvino', 'openvino'), openvino_core()
    if precision is None:
        native = core.get_property('CPU', 'INFERENCE_PRECISION_HINT') == ov.Type.bf16
        return 'bf16' if native else 'fp32'
    able = core.get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
    if precision.upper() not in able:
        can = [p for p in OPENVINO_PRECISIONS if p.upper() in able]
        raise AMHPError(
            f'precision={precision!r}: this processor computes in {", ".join(can)} with OpenVINO'
        )
    return precision


def _openvino(file: Path, precision: str) -> Session:
    core = openvino_core()
    options = {
        'INFERENCE_PRECISION_HINT': OPENVINO_PRECISIONS[precision],
        # Streams that share out a batch are a little faster, but leave a single image one core.
        'PERFORMANCE_HINT': 'LATENCY',
        'INFERENCE_NUM_THREADS': torch.get_num_threads(),
    }
    model = core.compile_model(core.read_model(file), 'CPU', options)
    return lambda x: np.array(model(x)[0])  # a copy: the next call writes over its own


def _onnxruntime(file: Path, precision: str) -> Session:
    ort = needs('onnxruntime', 'onnx')
    if precision == 'int8':
        file = _quantised(file)
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = ort.InferenceSession(file, options, providers=['CPUExecutionProvider'])
    return lambda x: session.run(None, {'x': x})[0]


def _quantised(file: Path) -> Path:
    """Weights of matrix products as int8, a scale for each channel; activations at run time."""
    quantization = needs('onnxruntime.quantization', 'onnx')
    target = file.with_name('int8.onnx')
    quantization.quantize_dynamic(
        file,
        target,
        op_types_to_quantize=['MatMul', 'Gemm'],  # as a convolution it is slower than fp32
        per_channel=True,
        reduce_range=True,  # 7 bits: without VNNI sums of 8 overflow, and with it speed is the same
        weight_type=quantization.QuantType.QInt8,
        use_external_data_format=True,
    )
    return target


def _plain_tensor(tensor: torch.Tensor) -> torch.Tensor:
    plain = tensor.detach().cpu().clone()
    plain = plain.float() if plain.is_floating_point() else plain
    return nn.Parameter(plain, False) if isinstance(tensor, nn.Parameter) else plain
