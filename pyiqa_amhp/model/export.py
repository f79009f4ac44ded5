"""Export of an AMHP as ONNX graphs: one for images and, if the variant reads texts, one for texts.

The graphs hold the weights and the features of the quality levels, and the configuration as
metadata.
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
from pyiqa_amhp.model.engines import Encoder, onnxruntime_session, to_onnx
from pyiqa_amhp.utils.environment import import_extra, version_of
from pyiqa_amhp.utils.files import check_output, write_atomically, writing_to
from pyiqa_amhp.weights.checkpoint import stored_config

TOLERANCE = 1e-3  # on a scale of 1 to 10
CHECK_TEXTS = ('Lovely soft light', '', 'The horizon is tilted, and the subject is lost in it.')
MAX_BYTES = 2**31 - 2**20  # of weights: ONNX is written as protobuf, which holds up to 2 GiB


@dataclass(frozen=True)
class Exported:
    """Result of an export.

    Attributes:
        files: the graph for images, and the graph for texts if the variant reads texts.
        difference: largest difference between the scores of onnxruntime and torch, with the level
            values stretched to 1..10; None if onnxruntime is not installed.
    """

    files: tuple[Path, ...]
    difference: float | None


def export_onnx(net: AMHP, file: str | Path) -> Exported:
    """Export an AMHP; both files are written, or neither.

    The graph for images is written to ``file``. It takes ``image (N, 3, size, size)``, float32 in
    [0, 1], resized and cropped as the metadata ``resize`` says (it normalises by mean and
    deviation itself), and for variants with attributes ``text_features (N, n)``, a row of zeros
    for an image without a text. It returns ``score (N, 1)`` and ``levels (N, k)``.

    The graph for texts, for variants with attributes, is written beside it, with ``_text`` in its
    name. It takes ``tokens (N, L)``, int64, of CLIP's tokenizer, and returns ``text_features``.

    N and L are free. Metadata, each as JSON: ``config``, ``image_size``, ``resize``, ``levels``,
    ``level_values``, ``context_length``, ``version``. If onnxruntime is installed, its scores are
    compared with torch's before anything is written.

    Args:
        net: a model without a predictor, with engine ``torch`` and precision ``fp32``.
        file: path of the graph for images, ``.onnx``; its folder is made.

    Raises:
        AMHPError: a name that does not end in ``.onnx`` or cannot be written, a model that cannot
            be exported, a missing package, or scores that differ by more than 1e-3 on a scale of
            1 to 10.
    """
    image_file = check_file(file)
    if not isinstance(net, AMHP):
        raise AMHPError(f'export writes the arch AMHP, got {type(net).__name__}')
    if net.predictor is not None:
        raise AMHPError(
            'this model predicts the attribute prompt of images without a text, which the graphs '
            'cannot do; export one without a predictor'
        )
    import_extra('onnxscript', 'onnx')
    runner = net.backbone.runner
    if (runner.engine, runner.precision) != ('torch', 'fp32'):
        raise AMHPError(
            f'this model runs with engine={runner.engine!r} and precision={runner.precision!r}; '
            'export one that was made without them'
        )
    if sum(t.nbytes for t in net.state_dict().values()) > MAX_BYTES:
        raise AMHPError(
            f'{image_file}: one ONNX file holds up to 2 GiB, and these weights are larger'
        )
    training = net.training
    net.eval()
    try:
        with torch.inference_mode(False), torch.no_grad():
            return _export(net, image_file)
    finally:
        net.train(training)


def text_file(image_file: Path) -> Path:
    """Return the path of the graph for texts, beside that for images."""
    return image_file.with_name(f'{image_file.stem}_text{image_file.suffix}')


def check_file(file: str | Path) -> Path:
    """Check the path of the graph for images before any work, and make its folder.

    Raises:
        AMHPError: another suffix than ``.onnx``, or a path that cannot be written.
    """
    path = check_output(file, ['.onnx'])
    check_output(text_file(path), ['.onnx'])
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _export(net: AMHP, file: Path) -> Exported:
    graphs = {file: _image_program(net)}
    if net.config.uses_attributes:
        graphs[text_file(file)] = _text_program(net)
    for program in graphs.values():
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # source lines, with paths of this machine
        program.model.metadata_props.update(metadata(net))
    # The files move to their final paths after all of them have been checked.
    with (
        writing_to(file),
        tempfile.TemporaryDirectory(prefix='.amhp-', dir=file.parent) as folder,
    ):
        written = [Path(folder, target.name) for target in graphs]
        for program, path in zip(graphs.values(), written, strict=True):
            program.save(path, external_data=False)
        difference = _score_difference(net, *written)
        for target, path in zip(graphs, written, strict=True):
            write_atomically(target, path.replace)
    return Exported(tuple(graphs), difference)


class ScoreGraph(nn.Module):
    """The graph for images: image and text features to scores and level distributions."""

    FTa: torch.Tensor

    def __init__(self, net: AMHP):
        super().__init__()
        self.net = net
        self.register_buffer('FTa', net.level_features().detach())  # (k, n)

    def forward(self, image: torch.Tensor, text_features: torch.Tensor | None = None):
        """Score images ``(N, 3, size, size)`` in [0, 1], with ``text_features (N, n)``.

        Returns:
            Scores ``(N, 1)`` and level distributions ``(N, k)``.
        """
        Fx = encode_images(self.net.backbone.clip, self.net.preprocess.normalize(image))
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
    """Return what a program needs to prepare the graphs' inputs, each value as JSON."""
    view = net.preprocess
    resize = {
        'rule': view.resize,  # squash: both sides become `side`; shortest: the shorter one does
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


def _score_difference(net: AMHP, image_file: Path, texts_file: Path | None = None) -> float | None:
    """Compare the scores of the files, run by onnxruntime, with those of the model.

    Returns:
        The largest difference, with the level values stretched to 1..10; None if onnxruntime is
        not installed.

    Raises:
        AMHPError: a difference above ``TOLERANCE``.
    """
    try:
        image_session = onnxruntime_session(image_file)
    except AMHPError:  # not installed
        return None
    size = net.backbone.image_size
    image = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    inputs = {'image': image.numpy()}
    if texts_file is not None:
        tokens = net.backbone.tokenize([text for text in CHECK_TEXTS if text]).cpu().numpy()
        features = torch.zeros(3, net.backbone.width)
        features[[bool(text) for text in CHECK_TEXTS]] = torch.from_numpy(
            onnxruntime_session(texts_file).run(None, {'tokens': tokens})[0]
        )
        inputs['text_features'] = features.numpy()
    scores = torch.from_numpy(image_session.run(['score'], inputs)[0])
    expected, _ = net.predict(net.preprocess.normalize(image).to(net.logit_scale), [*CHECK_TEXTS])
    low, high = net.level_values[0].item(), net.level_values[-1].item()
    difference = (scores - expected.cpu()).abs().max().item() * 9 / (high - low)
    if not difference <= TOLERANCE:
        raise AMHPError(
            f'onnxruntime scores differ from torch by {difference:.3g} on a scale of 1 to 10, more '
            f'than {TOLERANCE:g}: nothing was written'
        )
    return difference
