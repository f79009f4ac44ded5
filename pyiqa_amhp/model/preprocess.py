"""Preprocessing: images of any size to the encoders' input."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn
from torchvision.transforms import functional as TF

from pyiqa_amhp.datasets.images import odd_pixel_sum, read_image
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.config import AMHPConfig

MAX_ASPECT = 32  # a longer image is cut before resize='shortest' (our choice)
EXACT_IN_FP32 = 2**24  # whole numbers up to here are exact in fp32, in which Pillow takes a box


def check_images(x: object) -> torch.Tensor:
    """Check a batch of images.

    Args:
        x: ``(N, 3, H, W)`` or grey ``(N, 1, H, W)``, floating point.

    Returns:
        The batch with three channels, ``(N, 3, H, W)``.

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


def at_least_fp32(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Convert a tensor to ``dtype``, or to fp32 if that is more precise."""
    return x.to(torch.promote_types(dtype, torch.float32))


def should_mirror(x: torch.Tensor) -> torch.Tensor:
    """Select the images to mirror, ``(N, 1, 1, 1)`` of bool: those with an odd sum of 8-bit pixels.

    The authors' code mirrors test images at random. This choice depends on nothing but the image,
    so that a score is the same from call to call, in any batch, on any device. It is made on the
    pixels as ``read_image`` gives them, before any arithmetic that rounds.

    Args:
        x: images ``(N, 3, H, W)`` in [0, 1].
    """
    return (x.detach() * 255).round().long().sum(dim=(1, 2, 3), keepdim=True) % 2 == 1


def prepare_mirror(x: torch.Tensor, mirror: torch.Tensor) -> torch.Tensor:
    """Make ``Preprocess`` mirror images by a choice that was made on other pixels.

    A data set resizes its images, and ``should_mirror`` chooses others by the pixels after that
    than by those of the file. Where the two differ, the image is mirrored here, so that it is as
    ``mirror`` says after ``Preprocess`` mirrors it again or leaves it. Mirroring changes no sum.

    Args:
        x: images ``(N, 3, H, W)`` in [0, 1].
        mirror: the choice by the pixels of the files, ``(N,)`` of bool.
    """
    return torch.where(mirror.to(x.device).reshape(-1, 1, 1, 1) != should_mirror(x), x.flip(-1), x)


class Preprocess(nn.Module):
    """Resizes, crops and normalises images as ``AMHPConfig`` says.

    Args:
        size: side of the encoders' square input in pixels.
        mean, std: mean and standard deviation of each channel.
        resize: ``squash`` (to a square) or ``shortest`` (the shorter side).
        resize_size: length of the resized side in pixels.
        crop: ``center`` or ``corner`` (top-left).
        flip: whether to mirror the images that ``should_mirror`` selects.

    Raises:
        AMHPError: ``resize_size`` below ``size``.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
        resize: str,
        resize_size: int,
        crop: str,
        flip: bool,
    ):
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
        assert config.image_mean and config.image_std  # resolve_clip sets both
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
        """Mirror, resize and crop images ``(N, 3, H, W)`` to ``(N, 3, size, size)``.

        The authors' loader mirrors the resized image and then crops it, which is the same.
        """
        if self.flip:
            x = torch.where(should_mirror(x), x.flip(-1), x)
        return self._resize_and_crop(x)

    def view_file(
        self, source: Any, max_pixels: int | None = None, color_profiles: bool = True
    ) -> np.ndarray:
        """Compute the view of an image file by Pillow: ``(size, size, 3)``, uint8.

        A large JPEG is decoded at a fraction of its size, at least twice ``resize_size`` on each
        side (our choice). The mean pixel moves by less than 0.01 even in images that are noise
        down to the pixel (``tests/test_preprocess.py``). ``normalize`` makes the encoders' input
        from a view.

        Args:
            source, max_pixels, color_profiles: see ``read_image``, which also documents the errors.
        """
        # should_mirror needs every pixel, so the image is not decoded at a smaller size.
        at_least = None if self.flip else 2 * self.resize_size
        image = read_image(source, at_least, max_pixels, color_profiles)
        if self.flip and odd_pixel_sum(image):
            image = ImageOps.mirror(image)
        box = self._box_before_resizing(image.width, image.height)
        if box is None:
            return np.array(self._resize_and_crop(image))  # a writable copy
        return np.array(image.resize((self.size, self.size), Image.Resampling.BILINEAR, box))

    def _box_before_resizing(
        self, width: int, height: int
    ) -> tuple[float, float, float, float] | None:
        """Find the part of an image that is kept after resizing to a square.

        To resize that part alone is a fifth faster than to resize the image and crop it. Pillow
        reads pixels around the part too, so the result is the same, bit for bit, as long as the
        part's ends are exact numbers: with a power of two, such as 256.

        Returns:
            ``(left, top, right, bottom)`` in pixels; None where the result could differ.
        """
        is_power_of_two = self.resize_size & (self.resize_size - 1) == 0
        is_exact = is_power_of_two and max(width, height) * self.resize_size <= EXACT_IN_FP32
        if self.resize != 'squash' or not is_exact:
            return None
        start = self._start(self.resize_size - self.size)
        first, last = start / self.resize_size, (start + self.size) / self.resize_size
        return width * first, height * first, width * last, height * last

    def _start(self, spare: int) -> int:
        """Return where a crop begins on a side that is ``spare`` pixels too long."""
        return round(spare / 2) if self.crop == 'center' else 0

    def _resize_and_crop(self, image: Any) -> Any:
        """Resize and crop a tensor ``(N, 3, H, W)`` or a Pillow image."""
        side = [self.resize_size] * 2
        if self.resize == 'shortest':
            image, side = self._crop_long_side(image), side[:1]
        if TF.get_image_size(image) != [self.resize_size] * 2:
            image = TF.resize(image, side, TF.InterpolationMode.BILINEAR, antialias=True)
        return self._crop(image, self.size, self.size)

    def _crop_long_side(self, image: Any) -> Any:
        """Cut an image to ``MAX_ASPECT``: resizing a strip of 20,000 x 3 would take much memory."""
        width, height = TF.get_image_size(image)
        longest = MAX_ASPECT * min(width, height)
        return self._crop(image, min(height, longest), min(width, longest))

    def _crop(self, image: Any, height: int, width: int) -> Any:
        """Cut the middle or the corner out of a tensor ``(N, 3, H, W)`` or a Pillow image."""
        spare = [
            side - kept
            for side, kept in zip(TF.get_image_size(image), (width, height), strict=True)
        ]
        if spare == [0, 0]:
            return image
        left, top = map(self._start, spare)
        if isinstance(image, torch.Tensor):
            return image[..., top : top + height, left : left + width]
        # Pillow's own crop refuses parts with more pixels than its limit.
        box = (left, top, left + width, top + height)
        return image.transform((width, height), Image.Transform.EXTENT, box)

    def seen_region(
        self, height: int, width: int, mirrored: bool = False
    ) -> tuple[float, float, float, float]:
        """Return the part of an image that its view shows.

        Args:
            height, width: of the image in pixels.
            mirrored: whether ``should_mirror`` selects the image.

        Returns:
            ``(left, top, right, bottom)`` as shares of the width and the height.
        """
        sides = [self.resize_size] * 2  # width, height
        if self.resize == 'shortest':
            shortest = min(width, height)
            sides = [int(self.resize_size * side / shortest) for side in (width, height)]
        spare = [side - self.size for side in sides]
        left, top = map(self._start, spare)
        right, bottom = left + self.size, top + self.size
        if mirrored and self.flip:
            left, right = sides[0] - right, sides[0] - left
        return left / sides[0], top / sides[1], right / sides[0], bottom / sides[1]

    def normalize(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise views ``(N, 3, size, size)`` in [0, 1] to the encoders' input."""
        return (x - self.mean.to(x)) / self.std.to(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Turn images ``(N, 3, H, W)`` in [0, 1] into the encoders' input ``(N, 3, size, size)``.

        In training, images of the input's size are the data set's own crops and are only
        normalised, as in pyiqa's NIMA.
        """
        if not (self.training and x.shape[-2:] == (self.size, self.size)):
            x = self.view(x)
        return self.normalize(x)
