"""``AMHPDataset``: rated images from any CSV, as pyiqa's trainer and tester expect them.

What the file holds is read and checked in ``table.py``.
"""

import os
import random
from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from pyiqa.data.base_iqa_dataset import BaseIQADataset
from pyiqa.data.transforms import PairedToTensor, transform_mapping
from torchvision import transforms

from pyiqa_amhp.datasets.images import read_image
from pyiqa_amhp.datasets.rated_images import RatedImages, read_table
from pyiqa_amhp.datasets.ratings import LEVELS
from pyiqa_amhp.errors import AMHPError, ImageReadError

# What pyiqa's transform_mapping knows; it passes over any other key in silence.
PYIQA_AUGMENTS = (
    'random_crop', 'center_crop', 'resize', 'adaptive_resize', 'random_square_resize',
    'random_arp_resize', 'ada_pad', 'rot90', 'randomerase', 'hflip', 'vflip', 'totensor',
)  # fmt: skip


class GridCrop:
    """A random window whose corner lies on a grid.

    The authors' code takes 224 x 224 windows out of 256 x 256 at steps of 8: 5 x 5 of them.
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
    """The transforms of an ``augment`` section: pyiqa's, and ``grid_crop``.

    Raises:
        AMHPError: a key that neither knows.
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

    Options (``opt``), beside pyiqa's ``meta_info_file``, ``dataroot_target``, ``phase``,
    ``override_phase``, ``split_index`` (the name of a split column), ``augment``, ``img_range``,
    ``mos_normalize`` with ``mos_range`` and ``lower_better``: those of
    :func:`pyiqa_amhp.datasets.rated_images.read_table`, and

        skip_bad_images: give unreadable images as samples with a ``read_error`` instead of
            raising; ``AMHPModel`` leaves them out and counts them.
        max_pixels: images with more are unreadable; default: see ``images.py``.
        freeze: as in the section ``train``. With ``image`` or ``both`` no image is opened here:
            ``AMHPModel`` takes its feature from disk. ``augment`` then does not apply, since a
            feature is that of the view a metric call sees (our choice).

    A sample: ``img`` ``(3, H, W)`` in [0, 1] times ``img_range``; ``mos_label`` ``(1,)``;
    ``mos_dist`` and ``level_values`` ``(k,)``; ``text`` (``''`` where there is none);
    ``img_path``; ``read_error``. With a frozen image encoder ``skip_bad_images`` stands in the
    place of ``img`` and ``read_error``. Where labels are read, ``attr_levels`` has the number of
    each attribute's level by its name, -1 where there is no label.

    Raises:
        AMHPError: anything wrong with the options or the file, by file, row and column.
        ImageReadError: from ``dataset[i]``, an image that cannot be read.
    """

    seeds: tuple[int, int] | None = None

    def init_path_mos(self, opt):
        """Read and check the whole table; ``get_split`` then takes this phase's rows."""
        self.images: RatedImages = read_table(opt)

    def mos_normalize(self, opt):
        """Nothing left to do: the table is read on the scale that is asked for."""

    def get_split(self, opt):
        """Keep the rows of this phase.

        Raises:
            AMHPError: a pickled ``split_file``, no row in this phase, or a first image that is
                not there.
        """
        if opt.get('split_file') is not None:
            raise AMHPError(
                f'split_file={opt["split_file"]!r}: pickles are not read, since loading one can '
                'run code; put the split into a column and name it in split_index'
            )
        self.images = self.images.of_phase(self.phase, opt.get('split_index'))
        first = self.images.path(0)
        if not (os.path.exists(first) or opt.get('skip_bad_images')):
            raise AMHPError(
                f'{first}: the first image is not there; check '
                f'dataroot_target={opt["dataroot_target"]!r} and the column img_name'
            )

    def get_transforms(self, opt):
        """``augment``, then to a tensor; nothing of it if the image encoder is frozen."""
        self.img_range = opt.get('img_range', 1.0)
        self.skips_bad = bool(opt.get('skip_bad_images'))
        self.gives_pixels = 'image' not in frozen_encoders(opt.get('freeze'))
        if opt.get('augment') and not self.gives_pixels:
            self.logger.info(
                f'{opt.get("name")}: freeze={opt["freeze"]}: augment does not apply; features are '
                'those of the test view (resized, the centre cut out)'
            )
        self.trans = transforms.Compose([*build_augments(opt.get('augment')), PairedToTensor()])

    @property
    def paths_mos(self) -> list[list]:
        """Pairs of path and MOS, pyiqa's way to list a data set."""
        return [[self.images.path(i), float(mos)] for i, mos in enumerate(self.images.mos)]

    def text(self, index: int) -> str:
        """What is said about an image; '' where there is nothing."""
        return self.images.text(index)

    def __len__(self) -> int:
        return len(self.images.mos)

    def begin_epoch(self, epoch: int, seed: int) -> None:
        """From now on what is random in a sample depends on the seed, the epoch and its index."""
        self.seeds = (seed, epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.seeds is None:
            return self._sample(index)
        with random_numbers_from(*self.seeds, index):
            return self._sample(index)

    def _sample(self, index: int) -> dict[str, Any]:
        path = self.images.path(index)
        labels = self.images.attribute_levels(index, self.opt.get('levels') or LEVELS)
        return {
            **({'attr_levels': labels} if labels else {}),
            **(self._pixels(path) if self.gives_pixels else {'skip_bad_images': self.skips_bad}),
            'mos_label': torch.tensor([self.images.mos[index]], dtype=torch.float32),
            'mos_dist': torch.tensor(self.images.dist[index], dtype=torch.float32),
            'level_values': torch.tensor(self.images.level_values, dtype=torch.float32),
            'text': self.text(index),
            'img_path': path,
        }

    def _pixels(self, path: str) -> dict[str, Any]:
        """``img``, and ``read_error``, with which it is only a filler."""
        image, problem = Image.new('RGB', (256, 256)), ''
        try:
            image = read_image(path, max_pixels=self.opt.get('max_pixels'))
        except ImageReadError as error:
            if not self.skips_bad:
                raise
            problem = str(error)
        return {'img': self.trans(image) * self.img_range, 'read_error': problem}


def with_defaults(opt: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Options, and ``defaults`` for those that are not given or ``~``."""
    return {**opt, **{key: value for key, value in defaults.items() if opt.get(key) is None}}


FREEZE = {'none': (), 'image': ('image',), 'text': ('text',), 'both': ('image', 'text')}


def frozen_encoders(freeze: str | None) -> tuple[str, ...]:
    """The encoders that an option ``freeze`` names; ``~`` is ``none``.

    Raises:
        AMHPError: another value.
    """
    try:
        return FREEZE['none' if freeze is None else freeze]
    except (KeyError, TypeError):
        raise AMHPError(f'freeze={freeze!r}: expected one of {", ".join(FREEZE)}') from None


@contextmanager
def random_numbers_from(*seeds: int):
    """Python's, NumPy's and torch's (CPU) random numbers from these seeds, and then as before."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    numbers = np.random.SeedSequence(seeds).generate_state(2, np.uint64).tolist()
    random.seed(numbers[0])
    np.random.seed(numbers[0] % 2**32)
    torch.default_generator.manual_seed(numbers[1] % 2**63)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
