"""From a checkpoint of TANet's authors and image files to a checkpoint that can judge."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torchvision.transforms.functional import to_tensor

from pyiqa_amhp.datasets.images import read_image
from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.model.tanet import TANet, calibrate, load_checkpoint
from pyiqa_amhp.weights.checkpoint import write_safetensors, write_torch

SUFFIXES = ('.pth', '.pt', '.safetensors')


@dataclass
class Calibration:
    """What was estimated: of how many images, and what was wrong with the others."""

    images: int
    mean: float
    variance: float
    errors: list[str]


def check_target(path: str | Path) -> Path:
    """The new checkpoint's path, before any work is done for it.

    Raises:
        AMHPError: a suffix that is not one of ``SUFFIXES``, or a folder of that name.
    """
    path = Path(path).expanduser()
    if path.suffix not in SUFFIXES:
        raise AMHPError(f'{path}: expected a name that ends in {", ".join(SUFFIXES)}')
    if path.is_dir():
        raise AMHPError(f'{path}: is a folder, expected a file')
    return path


def calibrate_tanet(
    checkpoint: str | Path, files: Iterable[str | Path], out: str | Path, device: str | None = None
) -> Calibration:
    """Estimate TANet's batch-norm statistics from image files, and store them with its weights.

    Args:
        checkpoint: the authors' for AVA, or one of ours (whose statistics are replaced).
        files: images. Those that cannot be read are left out and told.
        out: the new checkpoint, ``.pth`` or ``.safetensors``: written whole or not at all.
        device: ``cpu``, ``cuda`` ...; None: a GPU if there is one.

    Raises:
        AMHPError: a checkpoint that does not fit, or images that are too few or all the same.
    """
    out = check_target(out)
    net = TANet(pretrained=False)
    load_checkpoint(net, checkpoint)
    device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    net.to(device)
    errors: list[str] = []

    def images():
        for file in files:
            try:
                image = read_image(file)
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
    _save(out, net.state_dict())
    bn7 = net.tygertnet.bn7
    return Calibration(count, bn7.running_mean.item(), bn7.running_var.item(), errors)


def _save(path: Path, state: dict[str, torch.Tensor]) -> None:
    state = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    if path.suffix == '.safetensors':
        write_safetensors(path, state)
    else:  # pyiqa's form
        write_torch(path, {'params': state})
