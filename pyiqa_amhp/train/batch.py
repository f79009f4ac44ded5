"""The batch that a network trains on or predicts, on its device."""

from functools import partial
from typing import Any

import torch
from pyiqa.models.general_iqa_model import GeneralIQAModel
from pyiqa.utils import get_root_logger

from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.model.preprocess import prepare_mirror
from pyiqa_amhp.model.prompts import image_texts
from pyiqa_amhp.train.frozen import FrozenEncoders


class BatchModel(GeneralIQAModel):
    """Keeps a batch of ``AMHPDataset`` on the device of its network.

    Nothing here waits for a GPU: samples are selected before they are copied, and copies from
    pinned memory run beside computation.

    Attributes:
        img_input: images ``(N, 3, H, W)``, floats in [0, 1] times ``img_range``; None for a data
            set without pixels.
        gt_mos, gt_mos_dist: the ratings, ``(N, 1)`` and ``(N, k)``.
        text, img_path, index: of each image; its index in the whole data set, or 0.
        attr_levels: the level ``(N,)`` of each attribute, on the CPU.
        features: features of frozen encoders, ``(N, w)``.
        unreadable: the paths of images that could not be read, and what is wrong with each.
        frozen: the frozen encoders; None if everything is trained.
    """

    def __init__(self, opt: dict[str, Any]):
        self.unreadable: dict[str, str] = {}
        self.frozen: FrozenEncoders | None = None
        self._warned_of_pixels = False
        # The levels of the network, and the tensor that they were read from, with its version.
        self._levels: list[float] = []
        self._levels_of: tuple[Any, int] = (None, 0)
        super().__init__(opt)

    def feed_data(self, data: dict[str, Any]) -> None:
        """Keep a batch of ``AMHPDataset``, without the samples that could not be read.

        Raises:
            AMHPError: the levels of the data are not those of the network, or the batch has no
                pixels and the image encoder is not frozen.
            ImageReadError: an image cannot be read, and the data set does not skip such images.
        """
        self._check_levels(data)
        features, errors = None, data.get('read_error') or [''] * len(data['img_path'])
        if 'img' not in data:
            features, errors = self._image_features(data)
        elif self.frozen and self.frozen.image_part and not self._warned_of_pixels:
            self._warned_of_pixels = True
            get_root_logger().warning(
                'The image encoder is frozen, but a data set gives pixels: they go through the '
                'encoder in each epoch. Set the same `freeze` in the data sets to store the '
                'features on disk'
            )
        keep = [i for i, error in enumerate(errors) if not error]
        for path, error in zip(data['img_path'], errors, strict=True):
            if error and path not in self.unreadable:
                self.unreadable[path] = error
                get_root_logger().warning(
                    f'Left out an unreadable image ({len(self.unreadable)} so far): {error}'
                )
        kept = partial(_select, keep=None if len(keep) == len(errors) else keep)
        self.img_input = self.pixels(kept(data['img'])) if 'img' in data else None
        config = getattr(self.get_bare_model(self.net), 'config', None)  # TANet has none
        if self.img_input is not None and 'mirror' in data and config and config.test_flip:
            mirror = self.to_device(kept(data['mirror']))
            self.img_input = prepare_mirror(self.img_input, mirror)
        self.gt_mos = self.to_device(kept(data['mos_label']))
        self.gt_mos_dist = self.to_device(kept(data['mos_dist']))
        texts = image_texts(data.get('text'), len(errors))
        self.text = [texts[i] for i in keep]
        self.img_path = [data['img_path'][i] for i in keep]
        self.index = kept(data['index']).tolist() if 'index' in data else [0] * len(keep)
        labels = data.get('attr_levels') or {}
        self.attr_levels = {name: kept(numbers) for name, numbers in labels.items()}
        self.features, frozen = {}, self.frozen
        if features is not None:
            name = 'trunk' if frozen and frozen.image_part == 'trunk' else 'Fx'
            self.features[name] = kept(features)
        if frozen and 'text' in frozen.encoders and frozen.net.config.uses_attributes:
            self.features['Ft'] = frozen.text_features(self.text)

    def to_device(self, values: torch.Tensor) -> torch.Tensor:
        """Copy a part of a batch to the device of the model; from pinned memory without waiting."""
        return values.to(self.device, non_blocking=True)

    def pixels(self, images: torch.Tensor) -> torch.Tensor:
        """Copy images to the device of the model, and convert uint8 to floats in [0, 1] there.

        Args:
            images: ``(N, 3, H, W)``, uint8 or floats.
        """
        images = self.to_device(images)
        return images if images.is_floating_point() else images.float() / 255  # as ``to_tensor``

    def _image_features(self, data: dict[str, Any]) -> tuple[torch.Tensor, list[str]]:
        """Get the features ``(N, w)`` of a batch without pixels, and the error of each image."""
        if not (self.frozen and self.frozen.image_part):
            raise AMHPError(
                'a data set gives no pixels (its option `freeze`), but the image encoder is not '
                'frozen; set the same in `train: freeze`, or remove it from the data set'
            )
        reading = {
            'max_pixels': int(data['max_pixels'][0]) or None,
            'color_profiles': bool(data['color_profiles'][0]),
        }
        features, errors = self.frozen.image_features(data['img_path'], **reading)
        for error, skip in zip(errors, data['skip_bad_images'], strict=True):
            if error and not skip:
                raise ImageReadError(error)
        return features, errors

    def _check_levels(self, data: dict[str, Any]) -> None:
        """Refuse ratings on another scale: training on them would work, with wrong results."""
        rated, values = data['level_values'][0].tolist(), self.get_bare_model(self.net).level_values
        if self._levels_of[0] is not values or self._levels_of[1] != values._version:
            self._levels, self._levels_of = values.tolist(), (values, values._version)  # a wait
        if rated != self._levels:
            raise AMHPError(
                f'the ratings are on level_values {_rounded(rated)} and the network on '
                f'{_rounded(self._levels)}; give both the same `level_values` '
                '(or the same `dataset`)'
            )


def _select(values: torch.Tensor, keep: list[int] | None) -> torch.Tensor:
    """Select samples of a batch; None: all, without a copy. What was pinned in memory stays so."""
    if keep is None:
        return values
    selected = values[keep]
    return selected.pin_memory() if values.is_pinned() else selected


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 4) for value in values]
