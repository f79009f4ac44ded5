"""Photographs for the demo: many crops of a few real ones, edited with known strengths.

The sources are the colour photographs inside scikit-image's wheel (no download). How they are
cropped and edited, and which photograph goes into which split, is our choice.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.utils.files import write_atomically


@dataclass(frozen=True)
class Source:
    """One photograph: its file, where its subject is, how wide a view may be.

    Attributes:
        name: as in the ``source`` column.
        file: in scikit-image's ``data`` folder.
        split: train, val or test; a photograph is in one only.
        subject: x, y of what the picture is about, in pixels of the file.
        views: narrowest and widest side of a square crop, in pixels of the file.
    """

    name: str
    file: str
    split: str
    subject: tuple[float, float]
    views: tuple[float, float]


# The left and right views of the motorcycle are one photograph; only the left one is used.
SOURCES = (
    Source('astronaut', 'astronaut.png', 'train', (222, 160), (220, 400)),
    Source('coffee', 'coffee.png', 'train', (310, 185), (220, 390)),
    Source('rocket', 'rocket.jpg', 'train', (322, 250), (230, 420)),
    Source('galaxies', 'hubble_deep_field.jpg', 'train', (700, 610), (200, 450)),
    Source('tissue', 'ihc.png', 'train', (330, 360), (200, 400)),
    Source('retina', 'retina.jpg', 'val', (700, 690), (600, 1200)),
    Source('cat', 'chelsea.png', 'test', (222, 130), (190, 300)),
    Source('motorcycle', 'motorcycle_left.png', 'test', (345, 265), (270, 470)),
)

# What can be done to a picture. Units: exposure in stops; contrast, cast, saturation as fractions
# of the full effect; warmth is the side of the cast (-1 blue, 1 orange); blur (the sigma) and
# motion (the length) in percent of the picture's width; tilt in degrees; offset of the subject
# from the middle as a fraction of the width; noise is a standard deviation in [0, 1] pixels.
EDITS = (
    'exposure', 'contrast', 'cast', 'warmth', 'saturation', 'blur', 'motion', 'tilt', 'offset',
    'noise',
)  # fmt: skip
VIEWS_TRIED = 16


def load_sources() -> dict[str, Image.Image]:
    """The source photographs by name, RGB.

    Raises:
        AMHPError: scikit-image, or one of its pictures, is not installed.
    """
    spec = find_spec('skimage')
    if spec is None or not spec.submodule_search_locations:
        raise AMHPError(
            "the demo's photographs come with scikit-image, which is not installed: "
            "pip install 'pyiqa-amhp[demo]'"
        )
    folder = Path(spec.submodule_search_locations[0]) / 'data'
    photos = {}
    for source in SOURCES:
        path = folder / source.file
        if not path.is_file():
            raise AMHPError(
                f'{path}: not there, though scikit-image ships it: '
                "pip install --force-reinstall 'pyiqa-amhp[demo]'"
            )
        with Image.open(path) as image:
            photos[source.name] = image.convert('RGB')
    return photos


def sample_strengths(n: int, seed: int) -> pd.DataFrame:
    """Draw ``n`` rows of edit strengths, one column for each of EDITS.

    Care differs from picture to picture: a careful one has few and small faults, so the quality
    of the attributes is correlated, as in real collections, and scores spread.
    """
    rng = np.random.default_rng(seed)
    carelessness = rng.beta(1.1, 1.3, n)

    def fault() -> np.ndarray:
        """Strengths in [0, 1]; most are small, more and larger ones with less care."""
        happens = rng.random(n) < 0.15 + 0.75 * carelessness
        return np.where(
            happens, rng.beta(1.2, 1.2, n) * (0.3 + 0.7 * carelessness), 0.06 * rng.random(n)
        )

    def sign(negative: float) -> np.ndarray:
        return np.where(rng.random(n) < negative, -1.0, 1.0)

    return pd.DataFrame(
        {
            'exposure': 2.6 * fault() * sign(0.55),
            'contrast': np.clip(0.15 + fault() * sign(0.6), -0.9, 0.9),
            'cast': fault(),
            'warmth': sign(0.5),
            'saturation': np.clip(0.15 + 1.1 * fault() * sign(0.6), -0.95, 1.0),
            'blur': 2.6 * fault() ** 1.2,
            'motion': 11.0 * np.where(rng.random(n) < 0.45, fault(), 0.0),
            'tilt': 16.0 * fault() * sign(0.5),
            'offset': 0.44 * fault() + 0.04 * rng.random(n),
            'noise': 0.16 * np.where(rng.random(n) < 0.7, fault(), 0.02),
        }
    ).round(4)


def crop(
    photo: Image.Image, source: Source, tilt: float, offset: float, size: int, rng
) -> tuple[np.ndarray, float]:
    """A tilted square view, its subject ``offset`` widths from the middle where the photo allows.

    Returns:
        The picture, float32 ``(size, size, 3)`` in [0, 1], and the offset it really has.
    """
    angle = np.deg2rad(tilt)
    spread = abs(np.cos(angle)) + abs(np.sin(angle))  # bounding box of a tilted unit square
    sides = np.minimum(rng.uniform(*source.views, VIEWS_TRIED), min(photo.size) / spread)
    directions = rng.uniform(0, 2 * np.pi, VIEWS_TRIED)
    reach = sides / 2 * spread
    x = source.subject[0] + offset * sides * np.cos(directions)
    y = source.subject[1] + offset * sides * np.sin(directions)
    x = np.clip(x, reach, photo.width - reach)
    y = np.clip(y, reach, photo.height - reach)
    got = np.hypot(x - source.subject[0], y - source.subject[1]) / sides
    best = np.argmin(np.abs(got - offset).round(2))  # of equally good ones the first drawn

    # Twice the size first, then halved: a cheap and sufficient guard against aliasing.
    fine = 2 * size
    scale = sides[best] / fine
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    matrix = (
        cos, sin, x[best] - (cos + sin) * fine / 2,
        -sin, cos, y[best] - (cos - sin) * fine / 2,
    )  # fmt: skip
    view = photo.transform((fine, fine), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return np.asarray(view.reduce(2), np.float32) / 255, float(got[best])


def edit(picture: np.ndarray, strengths: pd.Series, rng) -> np.ndarray:
    """Apply all edits but tilt and offset, in a camera's order; ``(H, W, 3)`` in [0, 1]."""
    percent = picture.shape[1] / 100
    x = picture
    if strengths.motion * percent >= 1:
        x = _motion_blur(x, strengths.motion * percent, rng.uniform(0, 180))
    if strengths.blur > 0.02:
        sigma = strengths.blur * percent
        x = ndimage.gaussian_filter(x, (sigma, sigma, 0), mode='nearest', truncate=3)

    light = x**2.2 * 2**strengths.exposure  # linear light, as the sensor sees it
    tint = strengths.cast * strengths.warmth
    light = light * np.array([1 + 0.55 * tint, 1 - 0.08 * abs(tint), 1 - 0.55 * tint])
    x = np.clip(light, 0, 1) ** (1 / 2.2)

    if strengths.contrast >= 0:  # an S curve
        curve = x * x * (3 - 2 * x)
        x = x + strengths.contrast * (curve - x)
    else:
        x = x + strengths.contrast * 0.85 * (x - x.mean())
    grey = (x @ np.array([0.299, 0.587, 0.114]))[..., None]
    x = grey + (1 + strengths.saturation) * (x - grey)
    x = x + rng.normal(0, strengths.noise, x.shape) if strengths.noise > 0 else x
    return np.clip(x, 0, 1)


def _motion_blur(x: np.ndarray, length: float, degrees: float) -> np.ndarray:
    """The mean of shifted copies along a line of ``length`` pixels."""
    reach = int(np.ceil(length))
    angle = np.deg2rad(degrees)
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    for step in np.linspace(-length / 2, length / 2, 4 * reach + 1):
        row = round(reach + step * np.sin(angle))
        column = round(reach + step * np.cos(angle))
        kernel[row, column] += 1
    kernel /= kernel.sum()
    return np.stack(
        [ndimage.convolve(x[..., c], kernel, mode='nearest') for c in range(x.shape[2])], axis=-1
    )


def make_photos(
    out: Path,
    seed: int,
    n_per_source: dict[str, int] | int = 180,
    size: int = 128,
) -> pd.DataFrame:
    """Write edited crops of every source photograph into ``out``, as JPEG.

    Args:
        out: the folder for the pictures, made where missing. Other files in it stay.
        seed: same seed, same files, byte for byte (with the same library versions).
        n_per_source: pictures for each source, or for the sources of each split
            (``{'train': 200, 'val': 120, 'test': 150}``).
        size: width and height in pixels.

    Returns:
        One row a picture: ``img_name``, ``source``, one column for each of EDITS, ``split``.
        ``tilt`` and ``offset`` are what the crop really has.

    Raises:
        AMHPError: scikit-image, or one of its pictures, is missing.
    """
    photos = load_sources()
    counts = {
        s.name: n_per_source if isinstance(n_per_source, int) else n_per_source[s.split]
        for s in SOURCES
    }
    strengths = sample_strengths(sum(counts.values()), seed)
    rows = []
    for index, (source, number) in enumerate(_each(counts)):
        rng = np.random.default_rng((seed, index))
        given = strengths.iloc[index].copy()
        picture, given['offset'] = crop(
            photos[source.name], source, given.tilt, given.offset, size, rng
        )
        name = f'{source.name}_{number:04d}.jpg'
        _write_jpeg(Path(out) / name, edit(picture, given, rng))
        rows.append(
            {'img_name': name, 'source': source.name, **given.round(4), 'split': source.split}
        )
    return pd.DataFrame(rows)


def _each(counts: dict[str, int]) -> Iterator[tuple[Source, int]]:
    for source in SOURCES:
        for number in range(counts[source.name]):
            yield source, number


def _write_jpeg(path: Path, picture: np.ndarray) -> None:
    buffer = io.BytesIO()
    pixels = np.round(picture * 255).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, 'JPEG', quality=93, subsampling=0)
    write_atomically(path, lambda temporary: temporary.write_bytes(buffer.getvalue()))
