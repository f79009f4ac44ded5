"""Features of frozen encoders: made once for each image and each text, then read from disk."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import platformdirs
import torch
from pyiqa.utils import get_root_logger
from torchvision.transforms import functional as TF

from pyiqa_amhp.datasets.images import read_image
from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.train.feature_cache import FeatureCache, Key
from pyiqa_amhp.utils.environment import version_of
from pyiqa_amhp.weights.checkpoint import tensor_versions
from pyiqa_amhp.weights.store import HOME_VARIABLE

FORMAT = 1  # to be raised where the same image or text would get other features
BATCH = 32  # images or texts that go through an encoder at once
READERS = min(4, os.cpu_count() or 1)  # threads that decode images
UNSETTLED = 2_000_000_000  # ns; the longest step in which a file system keeps times (FAT)


def default_folder() -> Path:
    """Where features are kept unless an option says otherwise: the user's cache."""
    home = os.environ.get(HOME_VARIABLE) or platformdirs.user_cache_dir('pyiqa_amhp', False)
    return Path(home).expanduser() / 'features'


class FrozenEncoders:
    """Freezes encoders of a network, and gives their features, from disk where they are there.

    A feature is that of the view of an image that a metric call sees: resized, the centre cut
    out (our choice: random crops would be new in each epoch, with nothing to keep).

    Each encoder's file is named by a hash of all that its features depend on (``encoder_digest``).
    In it an image goes by its path and by the size, the times and the inode of its file, a text
    by itself: whatever changes is computed anew.

    Args:
        net: the network, whose encoders are frozen here.
        encoders: ``image``, ``text`` or both.
        folder: of the cache; None: ``default_folder``.

    Raises:
        AMHPError: a network without CLIP's encoders.
    """

    def __init__(self, net: AMHP, encoders: tuple[str, ...], folder: str | Path | None = None):
        if not isinstance(net, AMHP):
            raise AMHPError(
                'train: freeze needs a network with the encoders of AMHP, got '
                f'{type(net).__name__}; take the option out'
            )
        self.net, self.encoders = net, encoders
        self.folder = default_folder() if folder is None else Path(folder).expanduser()
        self._caches: dict[str, tuple[list, FeatureCache]] = {}
        if 'image' in encoders:
            net.backbone.freeze_image()
        if 'text' in encoders:
            net.backbone.freeze_text()
        net.train(net.training)  # puts the frozen ones into evaluation mode

    @torch.no_grad()
    def image_features(self, paths: list[str]) -> tuple[torch.Tensor, list[str]]:
        """``Fx`` of image files.

        Returns:
            ``(N, n)``, a row of zeros where a file cannot be read, and for each file what is
            wrong with it, ``''`` where nothing is.
        """
        cache = self._cache('image')
        keys = {path: _file_key(path, _stat(path)) for path in paths}
        kept = cache.read(key for key in keys.values() if key)
        rows = {path: kept[key] for path, key in keys.items() if key in kept}
        errors: dict[str, str] = {}
        with ThreadPoolExecutor(READERS) as pool:
            views = pool.map(self._view, [path for path in keys if path not in rows])
            for batch in _batches(views):
                errors |= {path: str(x) for path, _, x in batch if isinstance(x, ImageReadError)}
                good = [item for item in batch if item[0] not in errors]
                if good:
                    x = torch.cat([x for _, _, x in good]).to(self._like)
                    features = self._encode_image(x)
                    rows |= {path: row for (path, _, _), row in zip(good, features, strict=True)}
                    cache.write({key: rows[path] for path, key, _ in good if key})
        return self._stack(paths, rows), [errors.get(path, '') for path in paths]

    @torch.no_grad()
    def text_features(self, texts: list[str]) -> torch.Tensor:
        """``Ft`` of texts, ``(N, n)``: zeros where a text is ``''``, as in AMHP itself."""
        cache = self._cache('text')
        keys = {text: Key(text.encode('utf-8', 'surrogatepass')) for text in texts if text}
        kept = cache.read(keys.values())
        rows = {text: kept[key] for text, key in keys.items() if key in kept}
        for batch in _batches(iter([text for text in keys if text not in rows])):
            new = dict(zip(batch, _numbers(self.net.backbone.encode_text(batch)), strict=True))
            cache.write({keys[text]: row for text, row in new.items()})
            rows |= new
        return self._stack(texts, rows)

    @property
    def _like(self) -> torch.Tensor:
        return self.net.logit_scale

    def _view(self, path: str) -> tuple[str, Key | None, torch.Tensor | ImageReadError]:
        """An image's path, the key to keep its feature under if that is safe, and its view."""
        now, before = time.time_ns(), _stat(path)
        try:
            view = self.net.preprocess.view(TF.to_tensor(read_image(path))[None])
        except ImageReadError as error:
            return path, None, error
        # A file that was just written may be written again without another time to show for it.
        if before and before.changed < now - UNSETTLED:
            return path, _file_key(path, before), view
        return path, None, view

    def _encode_image(self, views: torch.Tensor) -> np.ndarray:
        x = self.net.preprocess.normalised(views)
        return _numbers(self.net.backbone.encode_image(x))

    def _stack(self, names: list[str], rows: dict[str, np.ndarray]) -> torch.Tensor:
        stacked = np.zeros((len(names), self.net.backbone.width), np.float32)
        for i, name in enumerate(names):
            if name in rows:
                stacked[i] = rows[name]
        return torch.from_numpy(stacked).to(self._like)

    def _cache(self, encoder: str) -> FeatureCache:
        """The file of an encoder as it is now."""
        mark = tensor_versions(tensor for _, tensor in _tensors(self.net, encoder))
        if self._caches.get(encoder, (None, None))[0] != mark:
            path = self.folder / f'{encoder}-{encoder_digest(self.net, encoder)}.sqlite'
            get_root_logger().info(f'Features of the frozen {encoder} encoder are kept in {path}')
            self._caches[encoder] = (mark, FeatureCache(path, self.net.backbone.width))
        return self._caches[encoder][1]


def encoder_digest(net: AMHP, encoder: str) -> str:
    """A hash of all that the features of an encoder depend on, beside the image or the text.

    That is: every byte of its weights; its form and its settings, and for images those of the
    preprocessing, for texts those of the tokenizer; the engine and the precision; the versions of
    the packages that compute it, and the kind of device.
    """
    runner = net.backbone.runner
    packages = ('pyiqa-amhp', 'open_clip_torch', 'timm', 'torch', 'torchvision', 'pillow')
    versions = [version_of(package) for package in (*packages, runner.engine)]
    about = [
        FORMAT,
        encoder,
        net.logit_scale.device.type,
        runner.engine,
        runner.precision,
        versions,
    ]
    if encoder == 'text':
        about.append(net.backbone._text_cfg)
    about += [
        (name, type(module).__name__, _settings(module))
        for name, module in net.named_modules()
        if _belongs(name, encoder)
    ]
    digest = blake2b(repr(about).encode(), digest_size=16)
    for name, tensor in _tensors(net, encoder):
        digest.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}'.encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()


def _belongs(name: str, encoder: str) -> bool:
    """Whether a module, parameter or buffer takes part in an encoder's features."""
    name = f'{name}.'
    if encoder == 'image':
        return name.startswith(('backbone.clip.visual.', 'preprocess.'))
    return name.startswith('backbone.clip.') and not name.startswith('backbone.clip.visual.')


def _tensors(net: AMHP, encoder: str) -> Iterator[tuple[str, torch.Tensor]]:
    for tensors in (net.named_parameters(), net.named_buffers()):
        yield from ((name, tensor) for name, tensor in tensors if _belongs(name, encoder))


def _settings(module: torch.nn.Module) -> list[tuple[str, str]]:
    """The plain numbers and words of a module, such as its count of heads."""
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
    """What tells a file from another one, or from itself before a change."""

    size: int
    modified: int  # anybody can set this time back, but not the next one
    changed: int  # where the system knows one, else `modified`
    inode: int


def _stat(path: str) -> _Stat | None:
    """A file as it is now; None if there is none."""
    try:
        stat = os.stat(path)
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return None
    changed = stat.st_mtime_ns if os.name == 'nt' else stat.st_ctime_ns  # nt: of creation
    return _Stat(stat.st_size, stat.st_mtime_ns, changed, stat.st_ino)


def _file_key(path: str, stat: _Stat | None) -> Key | None:
    return stat and Key(os.fsencode(os.path.abspath(path)), repr(tuple(stat)).encode())


def _batches(items: Iterator) -> Iterator[list]:
    while batch := list(islice(items, BATCH)):
        yield batch


def _numbers(features: torch.Tensor) -> np.ndarray:
    return features.float().cpu().numpy()
