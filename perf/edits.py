"""Edits of photographs of known strength, each of which harms one attribute, and edits as controls.

All are our choice. An edit takes a Pillow image in RGB, its strength, and the number of the
photograph, by which the direction of some edits alternates: which corner is kept, which way the
horizon turns, which colour the cast has.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

CASTS = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1))
"""The channels that a cast keeps: red, green, blue, yellow, magenta, cyan."""
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's grey


def scale_values(image: Image.Image, factor: float, number: int = 0) -> Image.Image:
    """Multiply all values by a factor; what exceeds 255 is cut, as in an overexposed photograph."""
    return image.point(lambda value: min(255, round(value * factor)))


def blur(image: Image.Image, share: float, number: int = 0) -> Image.Image:
    """Blur with a Gaussian whose standard deviation is a share of the shorter side."""
    return image.filter(ImageFilter.GaussianBlur(share * min(image.size)))


def tilt(image: Image.Image, degrees: float, number: int = 0) -> Image.Image:
    """Rotate, and crop the largest part of the same aspect ratio without corners outside.

    Photographs with an even number turn anticlockwise, the others clockwise.
    """
    turned = image.rotate(degrees if number % 2 == 0 else -degrees, Image.Resampling.BICUBIC)
    return centre_crop(turned, share_inside(image.size, degrees))


def share_inside(size: tuple[int, int], degrees: float) -> float:
    """Compute the share of the sides that the part of a rotated image keeps."""
    (width, height), angle = size, math.radians(abs(degrees))
    sin, cos = math.sin(angle), math.cos(angle)
    return min(width / (width * cos + height * sin), height / (width * sin + height * cos))


def cast(image: Image.Image, strength: float, number: int = 0) -> Image.Image:
    """Multiply channels by ``1 - strength``, and restore the mean luma before values are cut.

    ``CASTS`` lists the channels that are kept; photographs take them in turn.
    """
    pixels = np.asarray(image, np.float64)
    gains = np.where(CASTS[number % len(CASTS)], 1, 1 - strength)
    tinted = pixels * gains
    tinted *= (pixels @ LUMA).mean() / max(1e-9, (tinted @ LUMA).mean())
    return Image.fromarray(np.clip(np.rint(tinted), 0, 255).astype(np.uint8))


def desaturate(image: Image.Image, strength: float, number: int = 0) -> Image.Image:
    """Mix with the grey image; strength 1 is grey."""
    return ImageEnhance.Color(image).enhance(1 - strength)


def corner_crop(image: Image.Image, share: float, number: int = 0) -> Image.Image:
    """Keep a share of both sides, at one of the four corners; photographs take them in turn."""
    (width, height), (right, low) = image.size, divmod(number % 4, 2)
    w, h = max(1, round(share * width)), max(1, round(share * height))
    left, top = right * (width - w), low * (height - h)
    return image.crop((left, top, left + w, top + h))


def centre_crop(image: Image.Image, share: float, number: int = 0) -> Image.Image:
    """Keep a share of both sides, in the middle, rounded down to whole pixels."""
    width, height = image.size
    w, h = max(1, math.floor(share * width)), max(1, math.floor(share * height))
    left, top = (width - w) // 2, (height - h) // 2
    return image.crop((left, top, left + w, top + h))


def jpeg(image: Image.Image, quality: float, number: int = 0) -> Image.Image:
    """Encode as JPEG and decode."""
    file = io.BytesIO()
    image.save(file, 'JPEG', quality=int(quality))
    return Image.open(io.BytesIO(file.getvalue())).convert('RGB')


def mirror(image: Image.Image, strength: float = 1, number: int = 0) -> Image.Image:
    """Mirror left and right."""
    return ImageOps.mirror(image)


@dataclass(frozen=True)
class Edit:
    """An edit at three strengths.

    Attributes:
        name: what is done.
        apply: the function, of an image, a strength, and the number of the photograph.
        strengths: weak, medium and strong; controls may have one.
        unit: how a strength is written, a format with one field.
        attribute: the attribute that should get a lower level, as PARA calls it; '' for controls.
    """

    name: str
    apply: Callable[[Image.Image, float, int], Image.Image]
    strengths: tuple[float, ...]
    unit: str
    attribute: str = ''


EDITS = (
    Edit('darker', scale_values, (0.75, 0.5, 0.25), 'values x {:g}', 'light'),
    Edit('overexposed', scale_values, (1.4, 2, 3), 'values x {:g}', 'light'),
    Edit('blurred', blur, (0.005, 0.01, 0.02), 'sigma {:.1%} of the side', 'depth_of_field'),
    Edit('colour cast', cast, (0.2, 0.4, 0.7), 'channels x (1 - {:g})', 'color'),
    Edit('desaturated', desaturate, (0.4, 0.7, 1), 'by {:.0%}', 'color'),
    Edit('tilted', tilt, (4, 8, 15), '{:g} degrees', 'composition'),
    Edit('corner crop', corner_crop, (0.85, 0.7, 0.5), '{:.0%} of the sides', 'composition'),
)  # fmt: skip
CONTROLS = (
    Edit('mirrored', mirror, (1,), 'left and right'),
    Edit('JPEG', jpeg, (90,), 'quality {:g}'),
    Edit('centre crop', centre_crop, (0.85, 0.7, 0.5), '{:.0%} of the sides'),
)
STRENGTHS = ('weak', 'medium', 'strong')
