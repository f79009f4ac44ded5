"""An AMHP as ONNX graphs that other programs run: one for images and, where texts count, one more.

The graphs hold the weights as they are, the levels' features among them, and their configuration
as metadata.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.model.clip import encode_images, encode_tokens
from pyiqa_amhp.model.engines import Encoder, needs, to_onnx
from pyiqa_amhp.utils.environment import version_of
from pyiqa_amhp.utils.files import write_atomically
from pyiqa_amhp.weights.checkpoint import stored_config

TOLERANCE = 1e-3  # on a scale of 1 to 10
CHECK_TEXTS = ('Lovely soft light', '', 'The horizon is tilted, and the subject is lost in it.')
MAX_BYTES = 2**31 - 2**20  # of weights: protobuf, which ONNX is written in, stops at 2 GiB


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        files: the graph for images, and the one for texts where texts count.
        difference: the largest one between onnxruntime's scores and torch's, with the level
            values stretched to 1..10; None where onnxruntime is not installed.
    """

    files: tuple[Path, ...]
    difference: float | None


def export_onnx(net: AMHP, file: str | Path) -> Exported:
    """Write ``file`` and, for variants with attributes, a second one with ``_text`` in its name.

    The graph for images takes ``image (N, 3, size, size)``, float32 in [0, 1], resized and cropped
    as the metadata ``resize`` says (mean and deviation are in the graph), and where texts count
    ``text_features (N, n)``, a row of zeros where there is no text. It gives ``score (N, 1)`` and
    ``levels (N, k)``. The graph for texts takes ``tokens (N, L)``, int64, of CLIP's tokenizer, and
    gives ``text_features``. N and L are free. Metadata, each as JSON: ``config``, ``image_size``,
    ``resize``, ``levels``, ``level_values``, ``context_length``, ``version``.

    What is written has been run by onnxruntime, where that is installed, beside torch. Both files
    are written, or neither.

    Raises:
        AMHPError: a name that does not end in ``.onnx`` or cannot be written to, encoders that
            cannot be exported, a missing package, or scores that differ by more than 1e-3 on a
            scale of 1 to 10.
    """
    image_file = check_file(file)
    if not isinstance(net, AMHP):
        raise AMHPError(f'export writes the arch AMHP, got {type(net).__name__}')
    if net.predictor is not None:
        raise AMHPError(
            'this model predicts the first-level prompt of images without a text, which the graphs '
            'do not hold; export one without a predictor'
        )
    needs('onnxscript', 'onnx')
    runner = net.backbone.runner
    if (runner.engine, runner.precision) != ('torch', 'fp32'):
        raise AMHPError(
            f'this model runs with engine={runner.engine!r} and precision={runner.precision!r}; '
            'export one that was made without them'
        )
    if sum(t.nbytes for t in net.state_dict().values()) > MAX_BYTES:
        raise AMHPError(
            f'{image_file}: one ONNX file holds up to 2 GiB, and these weights are more'
        )
    training = net.training
    net.eval()
    try:
        with torch.inference_mode(False), torch.no_grad():
            return _export(net, image_file)
    finally:
        net.train(training)


def text_file(image_file: Path) -> Path:
    """The name of the graph for texts, beside that for images."""
    return image_file.with_name(f'{image_file.stem}_text{image_file.suffix}')


def check_file(file: str | Path) -> Path:
    """The path to write to, before any work is done for it.

    Raises:
        AMHPError: another suffix than ``.onnx``, or a place that cannot be written to.
    """
    path = Path(file).expanduser()
    if path.suffix.lower() != '.onnx':
        raise AMHPError(f'{path}: expected a name that ends in .onnx')
    for written in (path, text_file(path)):
        if written.is_dir():
            raise AMHPError(f'{written}: is a folder, expected a file')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AMHPError(f'{path}: its folder cannot be made ({error})') from error
    return path


def _export(net: AMHP, file: Path) -> Exported:
    graphs = {file: _image_program(net)}
    if net.config.uses_attributes:
        graphs[text_file(file)] = _text_program(net)
    for program in graphs.values():
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # lines of code by their paths on this machine
        program.model.metadata_props.update(metadata(net))
    try:
        # Beside their places, so that nothing is there before all of it has been checked.
        with tempfile.TemporaryDirectory(prefix='.amhp-', dir=file.parent) as folder:
            made = [Path(folder, target.name) for target in graphs]
            for program, path in zip(graphs.values(), made, strict=True):
                program.save(path, external_data=False)
            difference = _difference(net, *made)
            for target, path in zip(graphs, made, strict=True):
                write_atomically(target, path.replace)
    except OSError as error:
        raise AMHPError(f'{file}: cannot be written ({error})') from error
    return Exported(tuple(graphs), difference)


class ScoreGraph(nn.Module):
    """From images in [0, 1] of the encoders' size, and texts' features, to scores and levels."""

    def __init__(self, net: AMHP):
        super().__init__()
        self.net = net
        FTa = net.level_features()
        self.register_buffer('FTa', FTa.detach())  # (k, n)

    def forward(self, image: torch.Tensor, text_features: torch.Tensor | None = None):
        """``(N, 3, size, size)`` and ``(N, n)`` to ``(N, 1)`` and ``(N, k)``."""
        Fx = encode_images(self.net.backbone.clip, self.net.preprocess.normalised(image))
        return self.net.head(Fx, text_features, self.FTa)


def _image_program(net: AMHP):
    size, n = net.backbone.image_size, net.backbone.width
    inputs = {'image': (torch.zeros(2, 3, size, size), {0: 'N'})}
    if net.config.uses_attributes:
        inputs['text_features'] = (torch.zeros(2, n), {0: 'N'})
    return to_onnx(ScoreGraph(net), inputs, ['score', 'levels'], optimize=True)


def _text_program(net: AMHP):
    inputs = {'tokens': (torch.zeros(2, 8, dtype=torch.int64), {0: 'N', 1: 'L'})}
    encoder = Encoder(encode_tokens, net.backbone.clip)
    return to_onnx(encoder, inputs, ['text_features'], optimize=True)


def metadata(net: AMHP) -> dict[str, str]:
    """What a program needs to know to feed the graphs, each value as JSON."""
    view = net.preprocess
    resize = {
        'rule': view.resize,  # squash: both sides to `side`; shortest: the shorter one
        'side': view.resize_size,
        'interpolation': 'bilinear, antialiased',
        'crop': view.crop,
        'flip': view.flip,
    }
    values = {
        'config': stored_config(net.config.to_tensor()),
        'image_size': view.size,
        'resize': resize,
        'levels': net.config.levels,
        'level_values': net.config.level_values,
        'context_length': net.backbone.tokenizer.context_length,
        'version': version_of('pyiqa-amhp'),
    }
    return {name: json.dumps(value) for name, value in values.items()}


def _difference(net: AMHP, image_file: Path, texts_file: Path | None = None) -> float | None:
    """Of the files' scores from the model's, levels stretched to 1..10; None: no onnxruntime.

    Raises:
        AMHPError: more than ``TOLERANCE``.
    """
    try:
        import onnxruntime
    except ImportError:
        return None
    size = net.backbone.image_size
    image = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    session = _session(onnxruntime, image_file)
    inputs = {'image': image.numpy()}
    if texts_file is not None:
        texts = _session(onnxruntime, texts_file)
        tokens = net.backbone.tokenize([text for text in CHECK_TEXTS if text]).cpu().numpy()
        features = torch.zeros(3, net.backbone.width)
        features[[bool(text) for text in CHECK_TEXTS]] = torch.from_numpy(
            texts.run(None, {'tokens': tokens})[0]
        )
        inputs['text_features'] = features.numpy()
    scores = torch.from_numpy(session.run(['score'], inputs)[0])
    expected, _ = net.predict(net.preprocess.normalised(image).to(net.logit_scale), [*CHECK_TEXTS])
    low, high = net.level_values[0].item(), net.level_values[-1].item()
    difference = (scores - expected.cpu()).abs().max().item() * 9 / (high - low)
    if not difference <= TOLERANCE:
        raise AMHPError(
            f'onnxruntime scores differ from torch by {difference:.3g} on a scale of 1 to 10, more '
            f'than {TOLERANCE:g}: nothing was written'
        )
    return difference


def _session(onnxruntime, file: Path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(file, options, providers=['CPUExecutionProvider'])
