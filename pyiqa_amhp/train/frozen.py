"""Features of frozen encoders: computed once for each image and each text, then read from disk."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import platformdirs
import torch
from pyiqa.utils import get_root_logger
from torch import nn
from torchvision.transforms import functional as TF

from pyiqa_amhp.datasets.dataset import frozen_image_part
from pyiqa_amhp.datasets.images import read_image
from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.model.engines import without_autocast
from pyiqa_amhp.train.feature_cache import FeatureCache, Key
from pyiqa_amhp.utils.environment import version_of
from pyiqa_amhp.weights.checkpoint import tensor_versions
from pyiqa_amhp.weights.store import HOME_VARIABLE

FORMAT = 2  # to be raised when the code computes other features of the same image or text
BATCH_SIZE = 32  # images or texts that go through an encoder at once
READERS = min(4, os.cpu_count() or 1)  # threads that decode images
TIME_STEP = 2_000_000_000  # ns; the coarsest resolution of a file's times (FAT)


def default_folder() -> Path:
    """Return the default folder of features, in the user's cache."""
    home = os.environ.get(HOME_VARIABLE) or platformdirs.user_cache_dir('pyiqa_amhp', False)
    return Path(home).expanduser() / 'features'


class FrozenEncoders:
    """Frozen encoders of a network, and a cache of their features on disk.

    The feature of an image is that of the view that a metric call sees: resized and cropped at
    its centre (our choice: random crops differ in each epoch, so that none could be reused).

    Each encoder has a file in the cache, named after a hash of all that its features depend on
    (``encoder_digest``). The key of an image in it is its path, with the size, the times and the
    inode of the file; the key of a text is the text. What has changed is computed again.

    Args:
        net: the network; its encoders are frozen here.
        encoders: ``image`` or ``trunk`` (the image encoder without its projection), ``text``, or
            two of them.
        folder: the folder of the cache; None: ``default_folder``.

    Attributes:
        image_part: what is frozen of the image encoder, ``image`` or ``trunk``; '': nothing.

    Raises:
        AMHPError: the network is no AMHP, or ``trunk`` for an encoder that has none.
    """

    def __init__(self, net: nn.Module, encoders: tuple[str, ...], folder: str | Path | None = None):
        if not isinstance(net, AMHP):
            raise AMHPError(
                'train: freeze needs a network with the encoders of AMHP, got '
                f'{type(net).__name__}; remove the option'
            )
        self.net, self.encoders = net, encoders
        self.image_part = frozen_image_part(encoders)
        self.folder = default_folder() if folder is None else Path(folder).expanduser()
        # By encoder: the state of its weights, and the cache of the features they give.
        self._caches: dict[str, tuple[list, FeatureCache]] = {}
        if 'image' in encoders:
            net.backbone.freeze_image()
        if 'trunk' in encoders:
            net.backbone.freeze_trunk()
        if 'text' in encoders:
            net.backbone.freeze_text()
        net.train(net.training)  # switches the frozen encoders to evaluation mode

    @torch.no_grad()
    def image_features(self, paths: list[str], **reading: Any) -> tuple[torch.Tensor, list[str]]:
        """Read or compute the features of image files: ``Fx``, or those of the trunk.

        Args:
            paths: the paths of N images.
            **reading: options of ``read_image``: ``max_pixels``, ``color_profiles``.

        Returns:
            The features, ``(N, w)``, zeros for a file that cannot be read; and the error of each
            file, ``''`` if there is none.
        """
        assert self.image_part, 'no part of the image encoder is frozen'
        cache = self._cache(self.image_part)
        keys = {path: _file_key(path, _stat(path), reading) for path in paths}
        cached = cache.read(key for key in keys.values() if key)
        rows = {path: cached[key] for path, key in keys.items() if key in cached}
        errors: dict[str, str] = {}
        with ThreadPoolExecutor(READERS) as pool:
            view = partial(self._view, reading=reading)
            views = pool.map(view, [path for path in keys if path not in rows])
            for batch in _batches(views):
                errors |= {path: str(x) for path, _, x in batch if isinstance(x, ImageReadError)}
                good = [item for item in batch if item[0] not in errors]
                if good:
                    x = torch.cat([x for _, _, x in good]).to(self.net.logit_scale)
                    features = self._encode_image(x)
                    rows |= {path: row for (path, _, _), row in zip(good, features, strict=True)}
                    cache.write({key: rows[path] for path, key, _ in good if key})
        return self._stack(paths, rows, cache.width), [errors.get(path, '') for path in paths]

    @torch.no_grad()
    def text_features(self, texts: list[str]) -> torch.Tensor:
        """Read or compute the features ``Ft`` of texts, ``(N, n)``: zeros for ``''``, as AMHP."""
        cache = self._cache('text')
        keys = {text: Key(text.encode('utf-8', 'surrogatepass')) for text in texts if text}
        cached = cache.read(keys.values())
        rows = {text: cached[key] for text, key in keys.items() if key in cached}
        for batch in _batches(iter([text for text in keys if text not in rows])):
            with without_autocast(self.net.logit_scale.device.type):
                features = _numbers(self.net.backbone.encode_text(batch))
            new = dict(zip(batch, features, strict=True))
            cache.write({keys[text]: row for text, row in new.items()})
            rows |= new
        return self._stack(texts, rows, cache.width)

    def _view(
        self, path: str, reading: dict[str, Any]
    ) -> tuple[str, Key | None, torch.Tensor | ImageReadError]:
        """Read an image.

        Returns:
            Its path, its key if its feature can be cached safely, and its view or an error.
        """
        now, before = time.time_ns(), _stat(path)
        try:
            view = self.net.preprocess.view(TF.to_tensor(read_image(path, **reading))[None])
        except ImageReadError as error:
            return path, None, error
        # A file written within the last time step may change again without a new time.
        if before and before.changed < now - TIME_STEP:
            return path, _file_key(path, before, reading), view
        return path, None, view

    def _encode_image(self, views: torch.Tensor) -> np.ndarray:
        x = self.net.preprocess.normalize(views)
        with without_autocast(x.device.type):
            if self.image_part == 'trunk':
                return _numbers(self.net.backbone.encode_trunk(x))
            return _numbers(self.net.backbone.encode_image(x))

    def _stack(self, names: list[str], rows: dict[str, np.ndarray], width: int) -> torch.Tensor:
        stacked = np.zeros((len(names), width), np.float32)
        for i, name in enumerate(names):
            if name in rows:
                stacked[i] = rows[name]
        return torch.from_numpy(stacked).to(self.net.logit_scale)

    def _cache(self, encoder: str) -> FeatureCache:
        """Open the cache of an encoder with its current weights."""
        weights = tensor_versions(tensor for _, tensor in _tensors(self.net, encoder))
        if encoder not in self._caches or self._caches[encoder][0] != weights:
            path = self.folder / f'{encoder}-{encoder_digest(self.net, encoder)}.sqlite'
            get_root_logger().info(f'Features of the frozen {encoder} encoder are stored in {path}')
            self._caches[encoder] = (weights, FeatureCache(path, self._width(encoder)))
        return self._caches[encoder][1]

    def _width(self, encoder: str) -> int:
        backbone = self.net.backbone
        return backbone.clip.visual.trunk.num_features if encoder == 'trunk' else backbone.width


def encoder_digest(net: AMHP, encoder: str) -> str:
    """Hash all that the features of an encoder depend on, beside the image or the text.

    These are every byte of its weights, its architecture and settings (with the preprocessing of
    images, the tokenizer of texts), the engine and the precision, the versions of the packages that
    compute it, and the type of device.
    """
    runner = net.backbone.runner
    packages = ('pyiqa-amhp', 'open_clip_torch', 'timm', 'torch', 'torchvision', 'pillow')
    versions = [version_of(package) for package in (*packages, runner.engine)]
    settings: list[object] = [
        FORMAT,
        encoder,
        net.logit_scale.device.type,
        runner.engine,
        runner.precision,
        versions,
    ]
    if encoder == 'text':
        settings.append(net.backbone._text_cfg)
    settings += [
        (name, type(module).__name__, _settings(module))
        for name, module in net.named_modules()
        if _belongs(name, encoder)
    ]
    digest = blake2b(repr(settings).encode(), digest_size=16)
    for name, tensor in _tensors(net, encoder):
        digest.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}'.encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _belongs(name: str, encoder: str) -> bool:
    """Whether an encoder's features depend on a module, parameter or buffer of this name."""
    name = f'{name}.'
    if encoder == 'image':
        return name.startswith(('backbone.clip.visual.', 'preprocess.'))
    if encoder == 'trunk':
        return name.startswith(('backbone.clip.visual.trunk.', 'preprocess.'))
    return name.startswith('backbone.clip.') and not name.startswith('backbone.clip.visual.')


def _tensors(net: AMHP, encoder: str) -> Iterator[tuple[str, torch.Tensor]]:
    for tensors in (net.named_parameters(), net.named_buffers()):
        yield from ((name, tensor) for name, tensor in tensors if _belongs(name, encoder))


def _settings(module: nn.Module) -> list[tuple[str, str]]:
    """List the plain attributes of a module, such as its number of heads."""
    return sorted(
        (name, repr(value))
        for name, value in vars(module).items()
        if name != 'training' and _is_plain(value)
    )


def _is_plain(value) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str | None)


class _Stat(NamedTuple):
    """Status of a file that differs from that of other files, and after any change."""

    size: int
    modified: int  # ns; programs can set this time back, but not the next one
    changed: int  # ns; `modified` on a system without such a time
    inode: int


def _stat(path: str) -> _Stat | None:
    """Read the status of a file; None if there is none."""
    try:
        stat = os.stat(path)
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return None
    changed = stat.st_mtime_ns if os.name == 'nt' else stat.st_ctime_ns  # nt: time of creation
    return _Stat(stat.st_size, stat.st_mtime_ns, changed, stat.st_ino)


def _file_key(path: str, stat: _Stat | None, reading: dict[str, Any]) -> Key | None:
    stamp = repr((*(stat or ()), *sorted(reading.items())))
    return stat and Key(os.fsencode(os.path.abspath(path)), stamp.encode())


def _batches(items: Iterator) -> Iterator[list]:
    while batch := list(islice(items, BATCH_SIZE)):
        yield batch


def _numbers(features: torch.Tensor) -> np.ndarray:
    return features.float().cpu().numpy()
