"""Calibration of TANet: the statistics that the authors' checkpoint lacks.

Their code takes them from each batch. Two ways to replace it are offered:

- ``stored`` (default, since it stays nearer to what the authors ran): an image is scored as in a
  batch with stored images.
- ``diagonal``: each image is scored by its own generated layer alone, as in a training here. It
  needs two numbers in place of images, and ranks further from the authors' code.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torchvision.transforms.functional import to_tensor

from pyiqa_amhp.datasets.images import read_image
from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.model.tanet import TANet, load_checkpoint
from pyiqa_amhp.model.tanet_layers import StoredImages, generated_layer
from pyiqa_amhp.utils.environment import check_device
from pyiqa_amhp.utils.files import check_output
from pyiqa_amhp.weights.checkpoint import write_state

SUFFIXES = ('.pth', '.pt', '.safetensors')
METHODS = ('stored', 'diagonal')
MIN_IMAGES = {'stored': 48, 'diagonal': 2}  # 48: the batch of the authors' code
STORED_IMAGES = 96  # twice the authors' batch (our choice)


@dataclass
class Calibration:
    """Result of a calibration.

    Attributes:
        images: number of images that were used.
        stored: number of stored images; 0 for the diagonal.
        mean, variance: the new statistics; for stored images, the means over them.
        errors: one message for each image that could not be read.
    """

    images: int
    stored: int
    mean: float
    variance: float
    errors: list[str]


@torch.no_grad()
def calibrate(net: TANet, images: Iterable[torch.Tensor], method: str = 'stored') -> int:
    """Estimate what the batch norm after the generated layer needs.

    With ``diagonal`` these are the mean and the (unbiased, as in PyTorch's running statistics)
    variance of the images' own layers. With ``stored`` they are the generated weights of up to 96
    of the images, evenly spaced, and the mean and the (biased, as in a batch norm that normalises)
    variance of each over all images.

    Args:
        net: network that is changed in place, and left in evaluation mode.
        images: batches ``(N, 3, H, W)`` in [0, 1], of any sizes.
        method: ``stored`` or ``diagonal``.

    Returns:
        The number of images.

    Raises:
        AMHPError: another method, too few images, images with equal responses, or ``stored`` for a
            network that was trained on the diagonal.
    """
    if method not in METHODS:
        raise AMHPError(f'calibration method {method!r}: expected {" or ".join(METHODS)}')
    if method == 'stored' and net.statistics == 'trained':
        raise AMHPError(
            "this TANet was trained on the diagonal, not on batches as in the authors' code, and "
            'needs no calibration; the method diagonal replaces the statistics that it learned'
        )
    net.eval()
    batches = [net.layer_inputs(x) for x in images]
    count = sum(len(q) for q, _, _ in batches)
    if count < MIN_IMAGES[method]:
        raise AMHPError(
            f'{count} images: the method {method} needs {MIN_IMAGES[method]} at least, better '
            'a hundred or more'
        )
    q, weight, bias = (torch.cat(parts).double() for parts in zip(*batches, strict=True))
    bn7, shape = net.tygertnet.bn7, net.hypernet.last_out_w.weight
    net.tygertnet.stored = None
    bn7.reset_running_stats()
    if method == 'diagonal':
        responses = generated_layer(q, weight, bias)  # (N, 1)
        mean, variance = responses.mean(0), _positive(responses.var(0), count)
        bn7.running_mean.copy_(mean)
        bn7.running_var.copy_(variance)
        bn7.num_batches_tracked.fill_(1)
        return count
    weight = weight[torch.linspace(0, count - 1, min(count, STORED_IMAGES)).round().long()]
    columns = q @ weight.T + bias  # (N, K)
    variance = _positive(columns.var(0, correction=0), count)
    values = (weight, columns.mean(0), variance)
    net.tygertnet.stored = StoredImages(*(value.to(shape) for value in values)).eval()
    return count


def _positive(variance: torch.Tensor, count: int) -> torch.Tensor:
    """Return variances, after a check that all are positive numbers."""
    least = variance.min()
    if not (torch.isfinite(variance).all() and least > 0):
        raise AMHPError(
            f'the generated layer gives {count} images the variance {least:g}: '
            'expected a positive number; give images that differ, or other weights'
        )
    return variance


def calibrate_tanet(
    checkpoint: str | Path,
    files: Iterable[str | Path],
    out: str | Path,
    device: str | None = None,
    method: str = 'stored',
    **reading: Any,
) -> Calibration:
    """Calibrate a TANet from image files, and save its weights with the statistics.

    Args:
        checkpoint: the authors' for AVA, or one that was calibrated before. One that was trained
            here can only be calibrated by ``diagonal``, which replaces what it learned.
        files: image files. Those that cannot be read are skipped and reported.
        out: the new checkpoint, ``.pth`` or ``.safetensors``: written whole or not at all.
        device: ``cpu``, ``cuda`` ...; None: a GPU if there is one.
        method: see :func:`calibrate`.
        **reading: options of ``read_image``: ``max_pixels``, ``color_profiles``.

    Raises:
        AMHPError: another method, a checkpoint that does not fit, an output that cannot be
            written, or images that are too few or all the same.
    """
    out = check_output(out, SUFFIXES)
    check_device(device)
    net = TANet(pretrained=False)
    load_checkpoint(net, checkpoint)
    device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    net.to(device)
    errors: list[str] = []

    def images() -> Iterator[torch.Tensor]:
        for file in files:
            try:
                image = read_image(file, **reading)
            except ImageReadError as error:
                errors.append(str(error))
            else:
                yield to_tensor(image)[None].to(device)

    try:
        count = calibrate(net, images(), method)
    except AMHPError as error:
        if not errors:
            raise
        raise AMHPError(f'{error} ({len(errors)} cannot be read: {errors[0]})') from error
    write_state(out, net.state_dict())
    bn7, stored = net.tygertnet.bn7, net.tygertnet.stored
    if stored is None:
        return Calibration(count, 0, bn7.running_mean.item(), bn7.running_var.item(), errors)
    mean, variance = stored.mean.mean().item(), stored.variance.mean().item()
    return Calibration(count, len(stored.mean), mean, variance, errors)
