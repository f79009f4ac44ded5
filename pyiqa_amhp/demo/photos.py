"""Images of the demo: crops of a few photographs, edited with known strengths.

The sources are photographs in the wheels of scikit-image and matplotlib (no download). The crops,
the edits and the split of the photographs are our choice.
"""

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
    """One source photograph.

    Attributes:
        name: name of the photograph, as in the column ``source``.
        file: path of its file in the wheel, after the name of the package.
        split: train, val or test; all crops of a photograph are in one split.
        subject: x and y of its subject, in pixels of the file.
        views: smallest and largest side of a square crop, in pixels of the file.
        grey: whether it has no colours.
    """

    name: str
    file: str
    split: str
    subject: tuple[float, float]
    views: tuple[float, float]
    grey: bool = False

    @property
    def package(self) -> str:
        """Package that ships the photograph."""
        return self.file.partition('/')[0]


# As many for testing as the report has examples, so that each of them shows another photograph.
# The left and right views of the motorcycle are one photograph; only the left one is used.
SOURCES = (
    Source('astronaut', 'skimage/data/astronaut.png', 'train', (222, 160), (220, 400)),
    Source(
        'officer', 'matplotlib/mpl-data/sample_data/grace_hopper.jpg', 'train',
        (265, 200), (260, 450),
    ),
    Source('photographer', 'skimage/data/camera.png', 'train', (240, 150), (240, 420), grey=True),
    Source('tissue', 'skimage/data/ihc.png', 'train', (330, 360), (200, 400)),
    Source('moon', 'skimage/data/moon.png', 'train', (120, 85), (150, 300), grey=True),
    Source('grass', 'skimage/data/grass.png', 'train', (256, 256), (200, 360), grey=True),
    Source('gravel', 'skimage/data/gravel.png', 'train', (256, 256), (200, 360), grey=True),
    Source('retina', 'skimage/data/retina.jpg', 'val', (700, 690), (600, 1200)),
    Source('clock', 'skimage/data/clock_motion.png', 'val', (210, 155), (150, 250), grey=True),
    Source('cat', 'skimage/data/chelsea.png', 'test', (222, 130), (190, 300)),
    Source('motorcycle', 'skimage/data/motorcycle_left.png', 'test', (345, 265), (270, 470)),
    Source('coffee', 'skimage/data/coffee.png', 'test', (310, 185), (220, 390)),
    Source('rocket', 'skimage/data/rocket.jpg', 'test', (322, 250), (230, 420)),
    Source('galaxies', 'skimage/data/hubble_deep_field.jpg', 'test', (700, 610), (200, 450)),
    Source('coins', 'skimage/data/coins.png', 'test', (200, 150), (140, 260), grey=True),
    Source('bricks', 'skimage/data/brick.png', 'test', (256, 256), (200, 360), grey=True),
)  # fmt: skip
GREY_SATURATION = 0.15  # which raters like best: grey photographs show no change of saturation

# Edits of an image. Units: exposure in stops; contrast, cast, saturation as fractions of the full
# effect; warmth is the direction of the cast (-1 blue, 1 orange); blur (its sigma) and motion (its
# length) in percent of the image's width; tilt in degrees; offset of the subject from the middle
# as a fraction of the width; noise is a standard deviation of pixels in [0, 1].
EDITS = (
    'exposure', 'contrast', 'cast', 'warmth', 'saturation', 'blur', 'motion', 'tilt', 'offset',
    'noise',
)  # fmt: skip
MAX_VIEWS = 16  # random views among which a crop is chosen


def load_sources() -> dict[str, Image.Image]:
    """Load the source photographs as RGB, by name.

    Raises:
        AMHPError: scikit-image or matplotlib is not installed, or a photograph is missing.
    """
    photos = {}
    for source in SOURCES:
        spec = find_spec(source.package)
        if spec is None or not spec.submodule_search_locations:
            name = {'skimage': 'scikit-image'}.get(source.package, source.package)
            raise AMHPError(
                f"the demo's photographs come with {name}, which is not installed: "
                "pip install 'pyiqa-amhp[demo]'"
            )
        path = Path(spec.submodule_search_locations[0]).parent / source.file
        if not path.is_file():
            raise AMHPError(
                f'{path}: not there, though {source.package} ships it: '
                "pip install --force-reinstall 'pyiqa-amhp[demo]'"
            )
        with Image.open(path) as image:
            photos[source.name] = image.convert('RGB')
    return photos


def sample_strengths(n: int, seed: int) -> pd.DataFrame:
    """Draw ``n`` rows of edit strengths, one column for each of EDITS.

    Each image has a carelessness of its own: a low one means few and small faults. This
    correlates the attributes, as in real collections, and spreads the scores.
    """
    rng = np.random.default_rng(seed)
    carelessness = rng.beta(1.1, 1.3, n)

    def fault() -> np.ndarray:
        """Draw strengths in [0, 1]: mostly small, larger and more often with carelessness."""
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
    photo: Image.Image,
    source: Source,
    tilt: float,
    offset: float,
    size: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, float]:
    """Crop a tilted square view, with its subject off the middle as far as the photo allows.

    Args:
        photo: the source photograph.
        source: description of the photograph.
        tilt: tilt of the view, in degrees.
        offset: wanted distance of the subject from the middle, as a fraction of the width.
        size: width and height of the image, in pixels.
        rng: source of random choices.

    Returns:
        The image, float32 ``(size, size, 3)`` in [0, 1], and its true offset.
    """
    angle = np.deg2rad(tilt)
    spread = abs(np.cos(angle)) + abs(np.sin(angle))  # bounding box of a tilted unit square
    sides = np.minimum(rng.uniform(*source.views, MAX_VIEWS), min(photo.size) / spread)
    directions = rng.uniform(0, 2 * np.pi, MAX_VIEWS)
    reach = sides / 2 * spread
    x = source.subject[0] + offset * sides * np.cos(directions)
    y = source.subject[1] + offset * sides * np.sin(directions)
    x = np.clip(x, reach, photo.width - reach)
    y = np.clip(y, reach, photo.height - reach)
    true_offsets = np.hypot(x - source.subject[0], y - source.subject[1]) / sides
    best = np.argmin(np.abs(true_offsets - offset).round(2))  # the first of equally good views

    # Twice the size, then halved: a cheap and sufficient protection from aliasing.
    fine = 2 * size
    scale = sides[best] / fine
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    matrix = (
        cos, sin, x[best] - (cos + sin) * fine / 2,
        -sin, cos, y[best] - (cos - sin) * fine / 2,
    )  # fmt: skip
    view = photo.transform((fine, fine), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return np.asarray(view.reduce(2), np.float32) / 255, float(true_offsets[best])


def edit(image: np.ndarray, strengths: pd.Series, rng: np.random.Generator) -> np.ndarray:
    """Apply all edits but tilt and offset, in the order of a camera.

    Args:
        image: the image, ``(H, W, 3)`` in [0, 1].
        strengths: the strength of each of EDITS.
        rng: source of random choices.
    """
    percent = image.shape[1] / 100
    x = image
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
    """Average copies that are shifted along a line of ``length`` pixels."""
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
    """Write edited crops of every source photograph as JPEG.

    Args:
        out: folder of the images; it is made if needed, and other files in it are kept.
        seed: seed of everything random. The same seed gives the same bytes (with the same
            versions of the libraries).
        n_per_source: number of images from each source, or from each source of a split
            (``{'train': 140, 'val': 60, 'test': 43}``).
        size: width and height of the images, in pixels.

    Returns:
        A table with one row for each image: ``img_name``, ``source``, one column for each of
        EDITS, ``split``. ``tilt`` and ``offset`` are the true ones of the crop; ``saturation`` of a
        grey photograph is the usual one.

    Raises:
        AMHPError: scikit-image, matplotlib or one of the photographs is missing.
    """
    photos = load_sources()
    counts = {
        s.name: n_per_source if isinstance(n_per_source, int) else n_per_source[s.split]
        for s in SOURCES
    }
    strengths = sample_strengths(sum(counts.values()), seed)
    rows = []
    crops = [(source, number) for source in SOURCES for number in range(counts[source.name])]
    for index, (source, number) in enumerate(crops):
        rng = np.random.default_rng((seed, index))
        row = strengths.iloc[index].copy()
        if source.grey:
            row['saturation'] = GREY_SATURATION
        image, row['offset'] = crop(photos[source.name], source, row.tilt, row.offset, size, rng)
        name = f'{source.name}_{number:04d}.jpg'
        _write_jpeg(Path(out) / name, edit(image, row, rng))
        rows.append(
            {'img_name': name, 'source': source.name, **row.round(4), 'split': source.split}
        )
    return pd.DataFrame(rows)


def _write_jpeg(path: Path, image: np.ndarray) -> None:
    pixels = Image.fromarray(np.round(image * 255).astype(np.uint8))
    write_atomically(path, lambda file: pixels.save(file, 'JPEG', quality=93, subsampling=0))
