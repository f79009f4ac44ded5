"""What a metric takes as an image: a file, bytes, a Pillow image or a tensor."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

from pyiqa_amhp.datasets.color_profiles import check_option
from pyiqa_amhp.datasets.images import Source, read_image
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.preprocess import check_images
from pyiqa_amhp.plugin import extend_inference_model

ImageInput = Source | torch.Tensor
SINGLE = (str, Path, bytes, bytearray, memoryview, Image.Image)
EPSILON = 1e-6  # by which values may leave [0, 1], as in pyiqa


class ReadsImages:
    """A network of ours, which reads images itself, also as a metric of pyiqa.

    pyiqa's own reading ignores EXIF orientation, clips 16-bit grey to white, drops transparency
    and knows no colour profiles. ``metric('photo.jpg')`` is to score what ``amhp score`` and
    ``explain`` do.

    Attributes:
        color_profiles: whether images with a colour profile are converted to sRGB.
    """

    color_profiles = True

    def set_reading(self, color_profiles: bool | None) -> None:
        """Set how images are read; None: the default.

        Raises:
            AMHPError: not True, False or None.
        """
        self.color_profiles = check_option(color_profiles)
        extend_inference_model()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy or a pickle, for which no ``__init__`` runs."""
        super().__setstate__(state)  # type: ignore[misc]  # of torch's Module
        extend_inference_model()

    def read_input(self, image: ImageInput) -> torch.Tensor:
        """Read one image as ``(1, 3, H, W)`` in [0, 1]; see ``to_batch``."""
        return to_batch(image, color_profiles=self.color_profiles)


def to_batch(image: ImageInput, **reading: Any) -> torch.Tensor:
    """Read one image as a batch.

    Args:
        image: a path, bytes, an open binary file, a Pillow image of any mode, or a tensor
            ``(3, H, W)`` or ``(1, 3, H, W)`` with values in [0, 1].
        **reading: options of ``read_image``.

    Returns:
        ``(1, 3, H, W)`` in [0, 1]. A tensor with one channel keeps it.

    Raises:
        ImageReadError: the image cannot be read.
        AMHPError: a tensor of another shape or with values outside [0, 1].
        TypeError: another type.
    """
    if not isinstance(image, torch.Tensor):
        return to_tensor(read_image(image, **reading))[None]
    x = image[None] if image.dim() == 3 else image
    check_images(x)
    if len(x) != 1:
        raise AMHPError(f'got {len(x)} images {tuple(x.shape)}, expected one')
    low, high = (float(value) for value in x.detach().aminmax())
    if low < -EPSILON or high > 1 + EPSILON:
        raise AMHPError(f'image: values from {low:.4g} to {high:.4g}, expected [0, 1]')
    return x


def one_or_many(images: ImageInput | Iterable[ImageInput]) -> Iterable[ImageInput]:
    """Give an iterable of images for whatever names one image or several.

    Args:
        images: one image, see ``to_batch``; a tensor ``(N, 3, H, W)``, which is N images; or an
            iterable of images of any of these types.

    Raises:
        AMHPError: a tensor of another shape.
        TypeError: neither an image nor an iterable of images.
    """
    if isinstance(images, torch.Tensor):
        return list(check_images(images[None] if images.dim() == 3 else images).split(1))
    if isinstance(images, SINGLE) or hasattr(images, 'read'):
        return [images]  # type: ignore[list-item]  # what has `read` is a file
    if not isinstance(images, Iterable) or hasattr(images, '__array__'):
        raise TypeError(
            'images: expected a path, bytes, a file, a Pillow image, a tensor, or an iterable of '
            f'them, got {type(images).__name__}'
        )
    return images


def one_text_each(texts: Any, count: int | None) -> Any:
    """Refuse texts whose letters or keys would be taken for texts.

    Args:
        texts: an iterable of texts, None, or one text for a single image.
        count: number of images; None: not known yet.

    Raises:
        AMHPError: one text for several images, or a dict.
    """
    if isinstance(texts, str):
        if count == 1:
            return [texts]
        raise AMHPError(
            f'texts={texts!r} is one text for {count or "several"} images: give one for each, in '
            'a list; None for an image without one'
        )
    if isinstance(texts, Mapping):
        raise AMHPError(
            'texts is a dict, whose order need not be that of the images: give a list with one '
            'for each image, [texts.get(path) for path in paths]'
        )
    return texts
