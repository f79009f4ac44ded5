"""``AMHPDataset``: rated images from any CSV, for pyiqa's trainer and tester."""

import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pyiqa.data.base_iqa_dataset import BaseIQADataset
from pyiqa.data.transforms import PairedResize, PairedToTensor, transform_mapping
from torch.utils.data import get_worker_info
from torchvision import transforms
from torchvision.transforms.functional import pil_to_tensor

from pyiqa_amhp.datasets.color_profiles import check_option
from pyiqa_amhp.datasets.formats import is_image_name
from pyiqa_amhp.datasets.images import odd_pixel_sum, read_image
from pyiqa_amhp.datasets.rated_images import RatedImages, read_table
from pyiqa_amhp.datasets.ratings import LEVELS
from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.utils.options import check_names, flag, names_read, own_modules

# The keys of pyiqa's transform_mapping, which ignores any other key without a message.
PYIQA_AUGMENTS = (
    'random_crop', 'center_crop', 'resize', 'adaptive_resize', 'random_square_resize',
    'random_arp_resize', 'ada_pad', 'rot90', 'randomerase', 'hflip', 'vflip', 'totensor',
)  # fmt: skip

# The modules that read the options of a data set.
OPTION_READERS = ('pyiqa_amhp.datasets', 'pyiqa.data', 'pyiqa.train', 'pyiqa.utils.options')
# Options of pyiqa's example files that its readers of image pairs or earlier versions had.
UNREAD = {'io_backend', 'filename_tmpl', 'dataroot_gt', 'dataroot_lq'}
# How many images are looked for before training, and the share that may be missing (our choice).
FIRST, MAX_MISSING = 20, 1 / 2


class GridCrop:
    """Crop a random square window whose corner lies on a grid.

    The authors' code takes 224 x 224 windows out of 256 x 256 at steps of 8: 5 x 5 windows.

    Args:
        size: side of the window, in pixels.
        step: step of the grid, in pixels.

    Raises:
        AMHPError: when called, an image that is smaller than the window.
    """

    def __init__(self, size: int, step: int = 8):
        self.size, self.step = size, step

    def __call__(self, image: Image.Image) -> Image.Image:
        left, top = (self._corner(side) for side in image.size)
        return image.crop((left, top, left + self.size, top + self.size))

    def _corner(self, side: int) -> int:
        if side < self.size:
            raise AMHPError(f'grid_crop of {self.size} pixels from {side}: resize to more first')
        return self.step * int(torch.randint((side - self.size) // self.step + 1, ()))


def build_augments(augment: dict[str, Any] | None) -> list:
    """Build the transforms of an ``augment`` section: pyiqa's, and ``grid_crop``.

    Raises:
        AMHPError: an unknown key.
    """
    steps = []
    for key, args in (augment or {}).items():
        if key == 'grid_crop':
            steps.append(GridCrop(**args) if isinstance(args, dict) else GridCrop(args))
        elif key in PYIQA_AUGMENTS:
            steps += transform_mapping(key, args)
        else:
            known = ', '.join(('grid_crop', *PYIQA_AUGMENTS))
            raise AMHPError(f'augment: unknown key {key!r}; known are {known}')
    return steps


class AMHPDataset(BaseIQADataset):
    """Rated images from a CSV with a header line.

    The options are pyiqa's ``meta_info_file``, ``dataroot_target``, ``phase``,
    ``override_phase``, ``split_index`` (name of a split column), ``augment``, ``img_range``,
    ``mos_normalize`` with ``mos_range`` and ``lower_better``; those of
    :func:`pyiqa_amhp.datasets.rated_images.read_table`; and

        skip_bad_images: return unreadable images as samples with a ``read_error`` instead of
            raising an error; ``AMHPModel`` leaves them out and counts them. If most of the first
            images do not exist, that is an error all the same.
        max_pixels: images with more pixels are unreadable; default: see ``images.py``.
        color_profiles: whether images with a colour profile are converted to sRGB; default: true.
        exact: true decodes every JPEG at its full size in training too. Default (our choice): if
            the first transform is a ``resize``, a large JPEG is decoded at a fraction of its size,
            at least twice that of the resize on each side, as ``amhp score`` does.
        freeze: as in the section ``train``. With ``image``, ``trunk`` or ``both`` no image is
            opened here, since ``AMHPModel`` reads image features from disk. ``augment`` then does
            not apply: a feature is that of the view of a metric call (our choice).

    A sample has ``img`` ``(3, H, W)``, floats in [0, 1] times ``img_range``; ``mos_label``
    ``(1,)``; ``mos_dist`` and ``level_values`` ``(k,)``; ``text`` (``''`` for an image without
    one); ``img_path``; ``read_error`` (``''`` for a readable image). With a frozen image encoder it
    has ``skip_bad_images``, ``max_pixels`` (0: none) and ``color_profiles`` in place of ``img`` and
    ``read_error``. Outside training, ``mirror`` is the choice of ``should_mirror`` by the pixels of
    the file. If labels are read, ``attr_levels`` maps each attribute to the index of its level, -1
    for a missing label.

    Attributes:
        gives_bytes: whether ``img`` is uint8, 0 to 255, where ``img_range`` is 1 and the transforms
            end in a Pillow image. Our loop sets it: a quarter of the bytes go to the GPU, where
            ``BatchModel.pixels`` makes floats of them, with the same digits on the CPU.

    Raises:
        AMHPError: a fault in the options or the file; names file, row and column.
        ImageReadError: from ``dataset[i]``, an image that cannot be read.
    """

    seeds: tuple[int, int] | None = None
    gives_bytes = False

    def __init__(self, opt: Mapping[str, Any]):
        check_names(f'data set {opt.get("name")}', opt, known_options(type(self)))
        super().__init__(opt)

    def init_path_mos(self, opt: dict[str, Any]) -> None:
        """Read and check the whole table; ``get_split`` then selects the rows of this phase."""
        self.images: RatedImages = read_table(opt)

    def mos_normalize(self, opt: dict[str, Any]) -> None:
        """Do nothing: ``read_table`` has normalised the scores."""

    def get_split(self, opt: dict[str, Any]) -> None:
        """Keep the rows of this phase.

        Raises:
            AMHPError: a pickled ``split_file``, no row in this phase, or images that do not exist
                (``check_images_exist``).
        """
        if opt.get('split_file') is not None:
            raise AMHPError(
                f'split_file={opt["split_file"]!r}: pickles are not read, since loading one can '
                'run code; put the split into a column and name it in split_index'
            )
        self.images = self.images.of_phase(self.phase, opt.get('split_index'))
        check_images_exist(self.images, flag(opt, 'skip_bad_images'))

    def get_transforms(self, opt: dict[str, Any]) -> None:
        """Build the transforms: ``augment``, then to a tensor."""
        self.img_range = opt.get('img_range', 1.0)
        self.skip_bad_images = flag(opt, 'skip_bad_images')
        self.color_profiles = check_option(opt.get('color_profiles'))
        self.reads_images = not frozen_image_part(frozen_encoders(opt.get('freeze')))
        if opt.get('augment') and not self.reads_images:
            self.logger.info(
                f'{opt.get("name")}: freeze={opt["freeze"]}: augment does not apply; features are '
                'those of the test view (resized, centre crop)'
            )
        self.trans = transforms.Compose([*build_augments(opt.get('augment')), PairedToTensor()])
        trains = self.phase == 'train'  # validation is as a metric call
        self.at_least = _enough_pixels(self.trans) if trains and not flag(opt, 'exact') else None

    @property
    def paths_mos(self) -> list[list]:
        """Pairs of path and MOS, as in pyiqa's data sets."""
        return [[self.images.path(i), float(mos)] for i, mos in enumerate(self.images.mos)]

    def text(self, index: int) -> str:
        """Return the text of an image; '' if it has none."""
        return self.images.text(index)

    def __len__(self) -> int:
        return len(self.images.mos)

    def begin_epoch(self, epoch: int, seed: int) -> None:
        """Make the random parts of a sample depend on the seed, the epoch and its index alone."""
        self.seeds = (seed, epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.seeds is None:
            return self._sample(index)
        # In a worker nothing else draws random numbers.
        with seeded_random(*self.seeds, index, restore=get_worker_info() is None):
            return self._sample(index)

    def _sample(self, index: int) -> dict[str, Any]:
        path = self.images.path(index)
        sample = {
            'mos_label': torch.tensor([self.images.mos[index]], dtype=torch.float32),
            'mos_dist': torch.tensor(self.images.dist[index], dtype=torch.float32),
            'level_values': torch.tensor(self.images.level_values, dtype=torch.float32),
            'text': self.text(index),
            'img_path': path,
        }
        if self.reads_images:
            sample |= self._read_image(path)
        else:
            sample['skip_bad_images'] = self.skip_bad_images
            sample['max_pixels'] = self.opt.get('max_pixels') or 0
            sample['color_profiles'] = self.color_profiles
        levels = self.images.attribute_levels(index, self.opt.get('levels') or LEVELS)
        if levels:
            sample['attr_levels'] = levels
        return sample

    def _read_image(self, path: str) -> dict[str, Any]:
        """Read an image as ``img``, with ``read_error``, if it is a placeholder, and ``mirror``."""
        image, problem = Image.new('RGB', (256, 256)), ''
        try:
            max_pixels = self.opt.get('max_pixels')
            image = read_image(path, self.at_least, max_pixels, self.color_profiles)
        except ImageReadError as error:
            if not self.skip_bad_images:
                raise
            problem = str(error)
        sample = {'img': self._pixels(image), 'read_error': problem}
        if self.phase != 'train':
            sample['mirror'] = odd_pixel_sum(image)  # before the resize, as in a metric call
        return sample

    def _pixels(self, image: Image.Image) -> torch.Tensor:
        """Transform an image to ``img``, floats or, see ``gives_bytes``, uint8."""
        *steps, last = getattr(self.trans, 'transforms', [self.trans])
        if not (self.gives_bytes and self.img_range == 1 and isinstance(last, PairedToTensor)):
            return self.trans(image) * self.img_range
        for step in steps:
            image = step(image)
        is_bytes = isinstance(image, Image.Image) and image.mode in ('L', 'RGB')
        return pil_to_tensor(image) if is_bytes else last(image)


def _enough_pixels(trans: transforms.Compose) -> int | None:
    """Return the pixels that each side needs before the transforms; None: all that there are."""
    first = trans.transforms[0]
    if not isinstance(first, PairedResize) or first.max_size is not None:
        return None
    size = first.size  # the shorter side, or both
    return 2 * (max(size) if isinstance(size, Sequence) else size)


def check_images_exist(images: RatedImages, skip_missing: bool) -> None:
    """Look for the first images of a table.

    A wrong folder, or names without their suffix, would otherwise be a warning for each image.

    Args:
        images: the table.
        skip_missing: whether some images may be missing (``skip_bad_images``); otherwise the first
            one must be there.

    Raises:
        AMHPError: most of the first images are missing; it names the path of the first of them, the
            options to check, and a file that the name may stand for.
    """
    paths = [images.path(i) for i in range(min(FIRST, len(images.names)))]
    missing = [path for path in paths if not os.path.exists(path)]
    too_many = len(missing) > MAX_MISSING * len(paths)
    if not (too_many or (paths[0] in missing and not skip_missing)):
        return
    folder = '' if os.path.isdir(images.root) else ' (no such folder)'
    raise AMHPError(
        f'{missing[0]}: {len(missing)} of the first {len(paths)} images are not there; check '
        f'dataroot_target={images.root!r}{folder} (--images of a command) and the column '
        f'img_name of {images.file}{_hint(Path(missing[0]))}'
    )


def _hint(path: Path) -> str:
    """Name a file beside a missing one that differs in its suffix or its case alone."""
    try:
        files = sorted(os.listdir(path.parent))
    except OSError:
        return ''
    for other in files:
        stem = os.path.splitext(other)[0]
        if is_image_name(Path(other)) and stem in (path.name, path.stem):
            return f'; there is {other!r}: names need the suffix of their file'
        if other.lower() == path.name.lower():
            return f'; there is {other!r}: upper and lower case differ'
    return ''


def known_options(kind: type[AMHPDataset]) -> frozenset[str]:
    """List the options that a class of data sets or its loader reads; empty: that is not known."""
    known = names_read(*OPTION_READERS, *own_modules(kind))
    return known and known | UNREAD


def with_defaults(opt: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the options, with ``defaults`` for those that are missing or ``~``."""
    return {**opt, **{key: value for key, value in defaults.items() if opt.get(key) is None}}


FREEZE = {
    'none': (),
    'image': ('image',),
    'trunk': ('trunk',),
    'text': ('text',),
    'both': ('image', 'text'),
}


def frozen_encoders(freeze: str | None) -> tuple[str, ...]:
    """List the parts that an option ``freeze`` names; ``~`` is ``none``.

    Raises:
        AMHPError: another value.
    """
    try:
        return FREEZE['none' if freeze is None else freeze]
    except (KeyError, TypeError):
        raise AMHPError(f'freeze={freeze!r}: expected one of {", ".join(FREEZE)}') from None


def frozen_image_part(frozen: Iterable[str]) -> str:
    """Return what is frozen of the image encoder: ``image``, ``trunk`` or ''.

    If anything is, training reads its features from disk and opens no image.

    Args:
        frozen: what ``frozen_encoders`` returned.
    """
    return next((part for part in frozen if part in ('image', 'trunk')), '')


@contextmanager
def seeded_random(*seeds: int, restore: bool = True) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's (CPU) random numbers.

    Args:
        *seeds: whole numbers from 0.
        restore: whether to restore the random numbers afterwards, which takes 0.15 ms.
    """
    before = _random_states() if restore else None
    numbers = np.random.SeedSequence(seeds).generate_state(2, np.uint64).tolist()
    random.seed(numbers[0])
    np.random.seed(numbers[0] % 2**32)
    torch.default_generator.manual_seed(numbers[1] % 2**63)
    try:
        yield
    finally:
        if before is not None:
            random.setstate(before[0])
            np.random.set_state(before[1])
            torch.set_rng_state(before[2])


def _random_states() -> tuple[Any, Any, torch.Tensor]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()
