"""TANet: the theme of a photograph decides how its aesthetics are scored.

Reference:
    He et al.: "Rethinking Image Aesthetics Assessment: Models, Datasets and Benchmarks",
    IJCAI 2022.

An independent implementation. Sizes, the order of the steps and the names of the modules are those
of the authors' public code for AVA (github:
woshidandan/TANet-image-aesthetics-and-quality-assessment), so that a checkpoint of theirs loads.
``tygertnet`` is their spelling.

**Where it differs from the authors' code.** There, the generated layer mixes the images of a batch:
entry (i, j) of an N x N matrix is image i's features by image j's generated weight, plus image i's
bias. A batch norm made at every call normalises each column over the batch, in testing too, and
each row is pooled to ten numbers. So a score depends on the batch that the image is in, and a
single image is an error. Here a score depends on the image only, in one of two ways:

- *diagonal*: each image uses its own generated weight and bias (the diagonal of that matrix), the
  batch norm is a layer with running statistics over that one number, and pooling one number to ten
  repeats it. A network that is trained here is trained and scored so, and learns the statistics.
- *stored*: the columns of the matrix are those of stored images, with the mean and variance that
  each had over them, so that an image is scored as in a batch of the authors, but always the same
  one. Their ranking is closer to the authors' than that of the diagonal. It is not equal: by
  their code the same image has another score in another batch.

A checkpoint of the authors has neither statistics nor images: ``amhp tanet calibrate`` adds them,
*stored* unless told otherwise, and until then the metric warns that it is uncalibrated.

**What is not known.** The paper does not say how an image becomes 224 x 224. The authors' code
squashes it with Pillow's default filter, which is bicubic from Pillow 7 on and was nearest before;
their version is not stated. Their checkpoint file was not available when this was written: the
names are read from their code. Their code for TAD66K is another network (one output, a softmax over
the batch in place of the batch norm), which is undefined for an image by itself: its checkpoint is
refused.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from torchvision.models import resnet18
from torchvision.transforms import functional as TF

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.inputs import ReadsImages
from pyiqa_amhp.model.preprocess import at_least_fp32, check_images
from pyiqa_amhp.model.tanet_layers import (
    GRID,
    HIDDEN,
    SCENES,
    SCORES,
    HyperNet,
    MobileNet,
    StoredImages,
    TargetNet,
    generated_layer,
    self_similarity,
)
from pyiqa_amhp.weights.checkpoint import check_keys, read_tensors, write_state
from pyiqa_amhp.weights.store import TANET, find_tanet, store_path

SIZE = 224
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # authors' code

logger = logging.getLogger('pyiqa_amhp')
_warned: set[str] = set()


class TANet(ReadsImages, nn.Module):
    """The arch ``TANet`` of pyiqa: scores an image on AVA's scale, 1..10.

    Args:
        pretrained: False: random weights, the start of training. True: ``pretrained_model_path``,
            then the environment variable ``PYIQA_AMHP_WEIGHTS`` if it names a TANet, then the entry
            ``tanet`` of the user's store, since no weights come with this package.
        pretrained_model_path: a checkpoint, ``.pth`` or ``.safetensors``: the authors' for AVA, or
            one of this arch. It loads without running code.
        color_profiles: whether images with a colour profile are converted to sRGB when they are
            read (our choice). False: as pyiqa.

    Raises:
        AMHPError: no weights to load, or weights that do not fit.
    """

    level_values: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        pretrained: bool = True,
        pretrained_model_path: str | Path | None = None,
        color_profiles: bool = True,
    ):
        super().__init__()
        self.set_reading(color_profiles)
        if pretrained not in (True, False):
            raise AMHPError(f'pretrained={pretrained!r}: expected True or False')
        if pretrained and pretrained_model_path is None:
            pretrained_model_path = find_tanet()
        if pretrained and pretrained_model_path is None:
            raise AMHPError(
                'TANet: no weights come with this package; give pretrained_model_path=FILE (the '
                "authors' checkpoint for AVA, SRCC_758_LCC_765.pth in their public code, or one "
                'of your own), store it once (`amhp weights add FILE --as tanet`), or '
                'pretrained=False for random weights'
            )
        self.res365_last = resnet18(weights=None, num_classes=SCENES)
        self.hypernet = HyperNet()
        self.tygertnet = TargetNet()
        self.mobileNet = MobileNet()
        self.head_rgb = nn.Sequential(
            nn.ReLU(), nn.Dropout(0.75), nn.Linear(GRID**4, SCORES), nn.Softmax(dim=1)
        )
        self.head = nn.Sequential(
            nn.ReLU(), nn.Dropout(0.75), nn.Linear(3 * SCORES, SCORES), nn.Softmax(dim=1)
        )
        for name, values in (
            ('level_values', torch.arange(1.0, SCORES + 1)),
            ('mean', torch.tensor(IMAGENET_MEAN).reshape(1, 3, 1, 1)),
            ('std', torch.tensor(IMAGENET_STD).reshape(1, 3, 1, 1)),
        ):
            self.register_buffer(name, values, persistent=False)
        if pretrained_model_path is not None:
            load_checkpoint(self, pretrained_model_path)
            _log_statistics(self, pretrained_model_path)

    @property
    def statistics(self) -> str:
        """What the batch norm after the generated layer uses.

        ``stored images``, ``diagonal`` (calibrated), ``trained`` (the diagonal, as in training
        here), or ``none``.
        """
        return statistics_of(self.state_dict())

    @property
    def calibrated(self) -> bool:
        """Whether the batch norm after the generated layer has statistics of any images."""
        return self.statistics != 'none'

    def forward(
        self,
        x: torch.Tensor,
        return_mos: bool = True,
        return_dist: bool = False,
        text: str | list[str | None] | None = None,
    ) -> torch.Tensor | list[torch.Tensor]:
        """Score a batch.

        Args:
            x: ``(N, 3, H, W)`` or grey ``(N, 1, H, W)``, values in [0, 1], any size.
            return_mos: return the scores, ``(N, 1)``, in 1..10.
            return_dist: return the distributions over the votes 1..10, ``(N, 10)``.
            text: ignored; ``AMHPModel``, which can train this arch too, passes one.

        Returns:
            One tensor, or ``[mos, dist]`` as in pyiqa's NIMA.

        Raises:
            AMHPError, TypeError: images of another shape or type, see ``check_images``.
        """
        if not (return_mos or return_dist):
            raise AMHPError('nothing to return: return_mos and return_dist are both False')
        x = self.preprocess(x)
        scene = self.res365_last(x)  # (N, 365)
        branches = (
            self.mobileNet(x),
            self.tygertnet(scene, *self.hypernet(scene)),
            self.head_rgb(self_similarity(x)),
        )
        dist = self.head(torch.cat(branches, dim=1))
        dist = at_least_fp32(dist, dist.dtype)
        mos = (dist * self.level_values).sum(dim=1, keepdim=True)
        outputs = [mos] * return_mos + [dist] * return_dist
        return outputs if len(outputs) > 1 else outputs[0]

    def preprocess(self, x: torch.Tensor) -> torch.Tensor:
        """Check images, squash them to 224 x 224 (bicubic) if they have another size, normalise."""
        x = at_least_fp32(check_images(x), self.mean.dtype)
        if x.shape[-2:] != (SIZE, SIZE):
            x = TF.resize(x, [SIZE, SIZE], TF.InterpolationMode.BICUBIC, antialias=True)
            x = x.clamp(0, 1)  # bicubic overshoots; Pillow, which the authors use, clips it too
        return ((x - self.mean) / self.std).to(self.mean.dtype)

    def layer_inputs(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Compute features ``(N, 100)``, and generated weights ``(N, 100)``, biases ``(N, 1)``."""
        scene = self.res365_last(self.preprocess(x))
        return self.tygertnet.features(scene), *self.hypernet(scene)

    def response(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the diagonal of the generated layer, before the batch norm: ``(N, 1)``."""
        return generated_layer(*self.layer_inputs(x))


def statistics_of(state: Mapping[str, torch.Tensor]) -> str:
    """Return which statistics a state has, as ``TANet.statistics`` names them."""
    if 'tygertnet.stored.mean' in state:
        return 'stored images'
    batches = int(state.get('tygertnet.bn7.num_batches_tracked', 0))
    return 'none' if not batches else 'diagonal' if batches == 1 else 'trained'


def load_checkpoint(net: TANet, path: str | Path) -> None:
    """Load a checkpoint; the network stays uncalibrated if it has no statistics and no images.

    Raises:
        AMHPError: see ``read_tensors``; or keys that do not fit, by name.
    """
    state = read_tensors(path)
    if 'head.2.bias' in state and state['head.2.bias'].shape == (1,):
        raise AMHPError(
            f'{path}: a TANet with one output, as the authors trained for TAD66K; expected the '
            'one for AVA, with ten (theirs for TAD66K cannot score an image by itself)'
        )
    net.tygertnet.bn7.reset_running_stats()
    statistics = {f'tygertnet.bn7.{k}': v for k, v in net.tygertnet.bn7.state_dict().items()}
    if not statistics.keys() & state.keys():
        state = {**state, **statistics}
    net.tygertnet.stored = None
    if any(key.startswith('tygertnet.stored.') for key in state):
        count = len(state.get('tygertnet.stored.mean', torch.empty(1)).flatten())
        empty = torch.empty(count, HIDDEN), torch.empty(count), torch.empty(count)
        net.tygertnet.stored = StoredImages(*empty)
    check_keys(net, state, path)
    net.load_state_dict(state)


def add_to_store(path: str | Path) -> Path:
    """Copy a checkpoint into the user's store, as what the metric ``tanet`` uses.

    Raises:
        AMHPError: see ``load_checkpoint``; or a store that cannot be written.
    """
    net = TANet(pretrained=False)
    load_checkpoint(net, path)
    return write_state(store_path(TANET), net.state_dict())


_NOTICES = {
    'none': (
        'TANet is uncalibrated: %s has no statistics for the batch norm of the generated layer '
        "(the authors' code computes them from each batch), so its scores are wrong. Estimate "
        'them once, from a hundred images or more: amhp tanet calibrate %s IMAGES --out FILE.pth'
    ),
    'diagonal': (
        'TANet scores by the diagonal: %s was calibrated so, and its scores differ from the '
        "authors' on batches; `amhp tanet calibrate --method stored` comes closer to them"
    ),
    'stored images': (
        "TANet scores against stored images: %s was calibrated so, as a stand-in for the authors' "
        'batches'
    ),
}


def _log_statistics(net: TANet, path: str | Path) -> None:
    """Log once per process and file which statistics the scores use, or that they lack them."""
    message = _NOTICES.get(net.statistics)
    if message and str(path) not in _warned:
        _warned.add(str(path))
        logger.warning(message, *[path] * message.count('%s'))
