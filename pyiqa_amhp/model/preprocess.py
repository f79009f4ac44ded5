"""From an image batch of any size to the encoders' input."""

import numpy as np
import torch
from torch import nn
from torchvision.transforms import functional as TF

from pyiqa_amhp.datasets.images import read_image
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.config import AMHPConfig

LONGEST = 32  # short sides that are looked at of a long one, with resize='shortest' (our choice)


def check_images(x: torch.Tensor) -> torch.Tensor:
    """Pass on a batch ``(N, 3, H, W)``, grey ones ``(N, 1, H, W)`` repeated to three channels.

    Raises:
        TypeError: not a floating-point tensor.
        AMHPError: another shape, an empty image, or pixels that are not finite.
    """
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
        raise TypeError(f'image batch: expected a float tensor with values in [0, 1], got {kind}')
    if x.dim() != 4 or x.shape[1] not in (1, 3) or 0 in x.shape:
        raise AMHPError(f'image batch: expected (N, 3, H, W) or (N, 1, H, W), got {tuple(x.shape)}')
    if not torch.isfinite(x).all():
        bad = (~torch.isfinite(x)).flatten(1).sum(1)
        where = ', '.join(f'image {i}: {count}' for i, count in enumerate(bad.tolist()) if count)
        raise AMHPError(f'image batch: pixels that are NaN or infinite ({where})')
    return x.expand(-1, 3, -1, -1)


def odd_images(x: torch.Tensor) -> torch.Tensor:
    """Which images to mirror, ``(N, 1, 1, 1)``: those whose 8-bit pixels have an odd sum.

    The authors' code mirrors test images at random. A toss that depends on nothing but the
    image keeps that, and keeps a score the same from call to call, in any batch, on any device:
    so it is made on the pixels as given, before any arithmetic that rounds.
    """
    return (x.detach() * 255).round().long().sum(dim=(1, 2, 3), keepdim=True) % 2 == 1


class Preprocess(nn.Module):
    """Resize, crop and normalise, as ``AMHPConfig`` says.

    Args:
        size: side of the encoders' square input in pixels.
        mean, std: of each channel.
        resize: ``squash`` or ``shortest``; resize_size: in pixels.
        crop: ``center`` or ``corner``.
        flip: mirror the images of ``odd_images``.

    Raises:
        AMHPError: ``resize_size`` below ``size``.
    """

    def __init__(self, size, mean, std, resize, resize_size, crop, flip):
        super().__init__()
        if resize_size < size:
            raise AMHPError(f'resize_size={resize_size}: expected at least the input size, {size}')
        self.size, self.resize, self.resize_size = size, resize, resize_size
        self.crop, self.flip = crop, flip
        shape = (1, 3, 1, 1)
        self.register_buffer('mean', torch.tensor(mean).reshape(shape), persistent=False)
        self.register_buffer('std', torch.tensor(std).reshape(shape), persistent=False)

    @classmethod
    def from_config(cls, config: AMHPConfig, size: int) -> 'Preprocess':
        """Build the preprocessing of a model with a square input of ``size`` pixels."""
        return cls(
            size=size,
            mean=config.image_mean,
            std=config.image_std,
            resize=config.resize,
            resize_size=config.resize_size or round(size * 256 / 224),
            crop=config.crop,
            flip=config.test_flip,
        )

    def view(self, x: torch.Tensor) -> torch.Tensor:
        """What the model sees of each image: ``(N, 3, H, W)`` to ``(N, 3, size, size)``."""
        odd = odd_images(x) if self.flip else None
        x = self._resized_and_cropped(x)
        return torch.where(odd, x.flip(-1), x) if self.flip else x

    def quick_view(self, source, max_pixels: int | None = None) -> np.ndarray:
        """The same of one image file, by Pillow, in whole numbers: ``(size, size, 3)``, uint8.

        A large JPEG is decoded at a fraction of its size, at least twice ``resize_size`` on each
        side (our choice): the mean pixel moves by less than 0.01 even in images that are noise
        down to the pixel (``tests/test_preprocess.py``). ``normalised`` makes the encoders' input
        of it.

        Args:
            source, max_pixels: see ``read_image``, whose errors are raised.
        """
        # The toss for mirroring needs every pixel.
        image = read_image(source, None if self.flip else 2 * self.resize_size, max_pixels)
        odd = self.flip and int(np.asarray(image).sum(dtype=np.int64)) % 2
        pixels = np.asarray(self._resized_and_cropped(image))
        return np.array(pixels[:, ::-1] if odd else pixels)  # a copy that may be written to

    def _resized_and_cropped(self, x):
        """For tensors ``(N, 3, H, W)`` and Pillow's images."""
        side = [self.resize_size] * 2
        if self.resize == 'shortest':
            x, side = self._without_far_ends(x), side[:1]
        if TF.get_image_size(x) != [self.resize_size] * 2:
            x = TF.resize(x, side, TF.InterpolationMode.BILINEAR, antialias=True)
        if self.crop == 'center':
            return TF.center_crop(x, self.size)
        return TF.crop(x, 0, 0, self.size, self.size)

    def _without_far_ends(self, x):
        """A strip 20,000 x 3 would grow to a million pixels a row, of which 224 are looked at."""
        width, height = TF.get_image_size(x)
        sides = [min(side, LONGEST * min(width, height)) for side in (height, width)]
        if sides == [height, width]:
            return x
        return TF.center_crop(x, sides) if self.crop == 'center' else TF.crop(x, 0, 0, *sides)

    def seen_region(self, height: int, width: int) -> tuple[float, float, float, float]:
        """What a view shows of an image: (left, top, right, bottom) as shares of its sides."""
        sides = [self.resize_size] * 2  # width, height
        if self.resize == 'shortest':
            shortest = min(width, height)
            sides = [int(self.resize_size * side / shortest) for side in (width, height)]
        spare = [side - self.size for side in sides]
        left, top = [round(s / 2) if self.crop == 'center' else 0 for s in spare]
        right, bottom = left + self.size, top + self.size
        return left / sides[0], top / sides[1], right / sides[0], bottom / sides[1]

    def normalised(self, x: torch.Tensor) -> torch.Tensor:
        """Views ``(N, 3, size, size)`` in [0, 1] as the encoders' input."""
        return (x - self.mean.to(x)) / self.std.to(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(N, 3, H, W)`` in [0, 1] to normalised ``(N, 3, size, size)``.

        In training, images that have the input's size already are the data set's own crops and
        are only normalised, as in pyiqa's NIMA.
        """
        if not (self.training and x.shape[-2:] == (self.size, self.size)):
            x = self.view(x)
        return self.normalised(x)
