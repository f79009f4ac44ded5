"""Convert images with an embedded colour profile (ICC) to sRGB, by Little CMS in Pillow.

The same numbers are other colours in Adobe RGB, Display P3 or ProPhoto RGB. Neither the paper nor
the authors' code says anything about profiles; pyiqa ignores them.
"""

import functools
import io
import logging

import numpy as np
from PIL import Image

from pyiqa_amhp.errors import AMHPError

MAX_PROFILE = 4 * 2**20  # bytes of a profile that is read; printers' have 0.5 to 3 MB (our choice)
SRGB_TOLERANCE = 2  # levels of 255 by which a profile that counts as sRGB may move a colour
PROFILES = 32  # that are kept ready: a folder has few different ones

MODES = {'1': 'L', 'L': 'L', 'LA': 'L', 'La': 'L', 'CMYK': 'CMYK'}
"""Mode whose colours an image has, without its transparency; ``RGB`` for all other modes."""
SPACES = {'L': 'GRAY', 'RGB': 'RGB', 'CMYK': 'CMYK'}
DEVICES = ('scnr', 'mntr', 'prtr', 'spac')  # classes of profiles that describe the colours of files

logger = logging.getLogger('pyiqa_amhp')


def to_srgb(image: Image.Image, profile: object) -> Image.Image:
    """Convert an image to sRGB by its colour profile.

    The rendering intent is perceptual, Pillow's default. It makes a difference only for profiles
    with tables (printers'); cameras' and screens' are a matrix and curves.

    As viewers do, it ignores a profile that is damaged or of another kind of image, such as an RGB
    profile in a grey image. Profiles of sRGB itself, which most images with a profile have, are
    recognised once and cost nothing after that.

    Args:
        image: 8 bits a channel, any mode but LAB.
        profile: ``image.info['icc_profile']``; None or empty if there is none.

    Returns:
        An image of mode ``RGB``, or ``RGBA`` if the image has transparency; or the image itself if
        there is nothing to convert.
    """
    if not isinstance(profile, bytes) or not 0 < len(profile) <= MAX_PROFILE:
        return image
    mode = MODES.get(image.mode, 'RGB')
    transform = _transform(profile, mode)
    if transform is None:
        return image
    colors, alpha = _split(image, mode)
    rgb = transform.apply(colors)
    if alpha is not None:
        rgb.putalpha(alpha)
    return rgb


def check_option(value: object) -> bool:
    """Check an option ``color_profiles``; None is the default, True.

    Raises:
        AMHPError: not True, False or None.
    """
    if value is not None and not isinstance(value, bool):
        raise AMHPError(f'color_profiles={value!r}: expected True or False')
    return value is not False


def _split(image: Image.Image, mode: str) -> tuple[Image.Image, Image.Image | None]:
    """Split an image into its colours, in the given mode, and its transparency, if any."""
    if mode == 'CMYK' or not is_transparent(image):
        return (image if image.mode == mode else image.convert(mode)), None
    image = image.convert('LA' if mode == 'L' else 'RGBA')
    return image.convert(mode), image.getchannel('A')


def is_transparent(image: Image.Image) -> bool:
    """Whether an image has transparency in any form."""
    if image.mode in ('RGBA', 'RGBa', 'LA', 'La', 'PA') or 'transparency' in image.info:
        return True
    return image.mode == 'P' and image.palette is not None and image.palette.mode == 'RGBA'


@functools.lru_cache(PROFILES)
def _transform(profile: bytes, mode: str):
    """Make the transform of a profile to sRGB.

    Threads share it: without its cache of one pixel, a transform of Little CMS has no state.

    Returns:
        A transform from ``mode`` to ``RGB``; None if the profile is sRGB, damaged, or of another
        kind of image.
    """
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space, device = source.profile.xcolor_space.strip(), source.profile.device_class
        if space != SPACES[mode] or device not in DEVICES:
            return None
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile('sRGB'),
            mode,
            'RGB',
            ImageCms.Intent.PERCEPTUAL,
            ImageCms.Flags.NOCACHE,
        )
        return None if mode != 'CMYK' and _is_srgb(transform, mode) else transform
    except ImportError:
        logger.warning('Pillow has no ImageCms here: colour profiles of images are not applied')
    except Exception:  # damaged profiles: almost any error of Pillow and Little CMS
        pass
    return None


def _is_srgb(transform, mode: str) -> bool:
    """Whether a transform leaves all colours as they are, up to ``SRGB_TOLERANCE``."""
    grid = np.arange(0, 256, 15, dtype=np.uint8)
    if mode == 'RGB':
        colors = np.stack(np.meshgrid(grid, grid, grid), axis=-1).reshape(len(grid), -1, 3)
    else:
        colors = np.arange(256, dtype=np.uint8)[None]
    before = Image.fromarray(colors)
    after = np.asarray(transform.apply(before), np.int16)
    return bool(np.abs(after - np.asarray(before.convert('RGB'))).max() <= SRGB_TOLERANCE)
