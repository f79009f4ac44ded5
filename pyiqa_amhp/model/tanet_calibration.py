"""Calibration of TANet: the batch-norm statistics that the authors' checkpoint lacks."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torchvision.transforms.functional import to_tensor

from pyiqa_amhp.datasets.images import read_image
from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.model.tanet import TANet, load_checkpoint
from pyiqa_amhp.utils.environment import check_device
from pyiqa_amhp.utils.files import check_output
from pyiqa_amhp.weights.checkpoint import write_state

SUFFIXES = ('.pth', '.pt', '.safetensors')


@dataclass
class Calibration:
    """Result of a calibration.

    Attributes:
        images: number of images that were used.
        mean, variance: the new statistics.
        errors: one message for each image that could not be read.
    """

    images: int
    mean: float
    variance: float
    errors: list[str]


@torch.no_grad()
def calibrate(net: TANet, images: Iterable[torch.Tensor]) -> int:
    """Estimate the statistics of the batch norm after the generated layer.

    They become the mean and the (unbiased, as in PyTorch's batch norm) variance over the images.

    Args:
        net: network that is changed in place, and left in evaluation mode.
        images: batches ``(N, 3, H, W)`` in [0, 1], of any sizes.

    Returns:
        The number of images.

    Raises:
        AMHPError: fewer than two images, or images with equal responses.
    """
    net.eval()
    batches = [net.response(x).flatten().double().cpu() for x in images]
    responses = torch.cat(batches) if batches else torch.empty(0)
    if len(responses) < 2:
        raise AMHPError(f'{len(responses)} images: a variance needs two at least, better hundreds')
    mean, variance = responses.mean(), responses.var()
    if not (torch.isfinite(variance) and variance > 0):
        raise AMHPError(
            f'the generated layer gives {len(responses)} images the variance {variance:g}: '
            'expected a positive number; give images that differ, or other weights'
        )
    bn7 = net.tygertnet.bn7
    bn7.running_mean.fill_(mean.item())
    bn7.running_var.fill_(variance.item())
    bn7.num_batches_tracked.fill_(1)
    return len(responses)


def calibrate_tanet(
    checkpoint: str | Path,
    files: Iterable[str | Path],
    out: str | Path,
    device: str | None = None,
    **reading: Any,
) -> Calibration:
    """Calibrate a TANet from image files, and save its weights with the statistics.

    Args:
        checkpoint: the authors' for AVA, or one of ours, whose statistics are replaced.
        files: image files. Those that cannot be read are skipped and reported.
        out: the new checkpoint, ``.pth`` or ``.safetensors``: written whole or not at all.
        device: ``cpu``, ``cuda`` ...; None: a GPU if there is one.
        **reading: options of ``read_image``: ``max_pixels``, ``color_profiles``.

    Raises:
        AMHPError: a checkpoint that does not fit, an output that cannot be written, or images that
            are too few or all the same.
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
        count = calibrate(net, images())
    except AMHPError as error:
        if not errors:
            raise
        raise AMHPError(f'{error} ({len(errors)} cannot be read: {errors[0]})') from error
    write_state(out, net.state_dict())
    bn7 = net.tygertnet.bn7
    return Calibration(count, bn7.running_mean.item(), bn7.running_var.item(), errors)
