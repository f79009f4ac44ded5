"""Checkpoints: reading without running code, checking, saving, digests of weights."""

import json
import os
import pickle
import re
import shutil
import threading
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.utils.files import write_atomically
from pyiqa_amhp.weights.authors_code import from_authors, is_of_authors
from pyiqa_amhp.weights.hub import check_config, fetch_model, hub_id, is_hub_id
from pyiqa_amhp.weights.torchscript import is_torchscript, read_archive

CONFIG_KEY = '_extra_state'  # where torch stores the result of AMHP.get_extra_state
# Keys under which pyiqa, open_clip and others store the tensors of a checkpoint.
WRAPPERS = ('params', 'state_dict', 'model_state_dict', 'model')
DIGEST_SAMPLE = 4096  # numbers of each tensor that go into a digest
VERSION_SAMPLE = 16  # numbers of each tensor that ``tensor_versions`` compares
MAX_TIMES = 4
"""Largest content of a file, in times its size. PyTorch and safetensors do not compress, so more is
a zip bomb. Tensors that share memory count once each (our choice)."""


# Reading


def safe_load(path: str | Path, by_torch: bool = False) -> Any:
    """Read a ``.safetensors`` or PyTorch file without running code; tensors are on the CPU.

    A TorchScript archive (the format of OpenAI's files) is read for its tensors only.

    Args:
        path: a local file.
        by_torch: accept only what ``torch.load`` reads, whatever the file's name is; used where
            another program will load the file by ``torch.load``.

    Raises:
        AMHPError: a file that does not exist, is damaged, holds other objects than tensors and
            plain values (such pickles are refused, never run), or declares more content than its
            size allows (``MAX_TIMES``).
    """
    if is_hub_id(path):
        raise AMHPError(f'{path}: only AMHP loads weights from the hub; give a local file')
    path = Path(path).expanduser()
    if not path.is_file():
        raise AMHPError(f'{path}: no such file')
    if not path.stat().st_size:
        raise AMHPError(f'{path}: the file is empty')
    if zipfile.is_zipfile(path):
        _check_size(path, _declared_sizes(path))
    try:
        if path.suffix == '.safetensors' and not by_torch:
            return safetensors.torch.load_file(path)
        if not by_torch and is_torchscript(path):
            return read_archive(path)
        return torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:  # its text advises weights_only=False: not repeated
        if found := re.search(r'GLOBAL (\S+)', str(error)):
            raise AMHPError(
                f'{path}: refused, since it holds more than tensors ({found[1]}) and loading it '
                'could run code'
            ) from error
        raise AMHPError(f'{path}: damaged, or not a file of weights') from error
    except Exception as error:  # a damaged file can raise nearly any exception
        reason = f'{type(error).__name__}: {error}'.splitlines()[0]
        raise AMHPError(f'{path}: damaged, or not a file of weights ({reason})') from error


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the named tensors of a weights file, on the CPU.

    The prefix ``module.`` of distributed training is removed from the names. A state dict of the
    authors' code is converted to one of AMHP, with a configuration.

    Raises:
        AMHPError: see ``safe_load``; or a file without named tensors.
    """
    content = safe_load(path)
    path = Path(path).expanduser()
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    named = content if isinstance(content, Mapping) else {}
    tensors = {
        str(key).removeprefix('module.'): value
        for key, value in named.items()
        if isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise AMHPError(f'{path}: expected a checkpoint with named tensors, found none')
    _check_size(path, (value.numel() * value.element_size() for value in tensors.values()))
    return with_config(tensors, str(path))


def with_config(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """Convert a state dict of the authors' code (``authors_code.py``); others stay as they are.

    Args:
        state: tensors by name.
        name: what users call it, for messages.
    """
    if not is_of_authors(state):
        return state
    config, state = from_authors(state, name)
    return {**state, CONFIG_KEY: config_to_tensor(config)}


def _declared_sizes(path: Path) -> list[int]:
    """Read the sizes of a zip file's members from its directory; none if it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [member.file_size for member in archive.infolist()]
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return []  # reading the file reports the damage


def _check_size(path: Path, sizes: Iterable[int]) -> None:
    file_size, content_size = path.stat().st_size, sum(sizes)
    if content_size > MAX_TIMES * file_size:
        raise AMHPError(
            f'{path}: refused, since its {file_size:,} bytes say that they hold {content_size:,}; '
            f'weights are stored uncompressed (at most {MAX_TIMES} times the size of the file)'
        )


@dataclass(frozen=True)
class Checkpoint:
    """A trained AMHP as read from a file.

    Attributes:
        path: the local file.
        config: the configuration that is stored in it; options newer than the file are missing.
        state: the tensors, without the configuration.
        name: name for users: the file's name without its folder, or an id of the hub.
    """

    path: Path
    config: dict[str, Any]
    state: dict[str, torch.Tensor]
    name: str = ''


def read_checkpoint(path: str | Path, newest: bool = False) -> Checkpoint:
    """Read a checkpoint of AMHP, ``.pth`` (pyiqa's format) or ``.safetensors``.

    Args:
        path: a file, or ``hf-hub:owner/name`` with or without ``@revision``, which is read from
            the local cache or else downloaded.
        newest: look for a newer commit on the hub before the cache is used.

    Raises:
        AMHPError: see ``read_tensors`` and ``fetch_model``; or a file without an AMHP
            configuration.
    """
    if is_hub_id(path):
        model = hub_id(path)
        checkpoint = read_checkpoint(fetch_model(model, newest))
        check_config(checkpoint.path, model, checkpoint.config)
        return replace(checkpoint, name=str(model))
    state = read_tensors(path)
    try:
        config = stored_config(state.pop(CONFIG_KEY, None))
    except AMHPError as error:
        raise AMHPError(
            f'{path}: no AMHP configuration in it; expected a checkpoint that AMHP was saved to, '
            "or one of the authors' code (CLIP weights go to clip_weights=)"
        ) from error
    return Checkpoint(Path(path).expanduser(), config, state, Path(path).name)


# Saving


def save_checkpoint(path: str | Path, state: dict[str, torch.Tensor]) -> Path:
    """Save the ``state_dict()`` of an AMHP; the suffix decides the format.

    ``.safetensors`` also gets the configuration as readable metadata. Any other suffix means
    pyiqa's format, ``{'params': ...}``.

    Raises:
        AMHPError: the file could not be written; an earlier file is unchanged.
    """
    metadata = None
    if Path(path).suffix == '.safetensors':
        metadata = {'format': 'pt', 'pyiqa_amhp': json.dumps(stored_config(state[CONFIG_KEY]))}
    return write_state(path, state, metadata)


def write_state(
    path: str | Path, state: dict[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> Path:
    """Write tensors as ``.safetensors`` (with ``metadata``), else in pyiqa's format.

    Raises:
        AMHPError: the file could not be written; an earlier file is unchanged.
    """
    state = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    if Path(path).suffix != '.safetensors':
        return write_torch(path, {'params': state})

    def write(file: Path) -> None:
        try:
            safetensors.torch.save_file(state, file, metadata=metadata)
        except safetensors.SafetensorError as error:  # only its text has the system's error number
            if number := re.search(r'os error (\d+)', str(error)):
                raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
            raise

    return write_atomically(path, write)


def write_torch(path: str | Path, content: dict[str, Any]) -> Path:
    """Write a file by ``torch.save``, whole or not at all.

    Raises:
        AMHPError: the file could not be written; an earlier file is unchanged.
    """

    def write(file: Path) -> None:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch's writer hides the system's error
            raise AMHPError(
                f'{path}: could not be written; is the disk full, or the size of files limited? '
                f'({shutil.disk_usage(file.parent).free / 2**20:,.0f} MB are free)'
            ) from error

    return write_atomically(path, write)


# Configuration


def config_to_tensor(config: Mapping[str, Any]) -> torch.Tensor:
    """Pack a configuration into a uint8 tensor of JSON, which every checkpoint format can hold."""
    text = json.dumps(config, sort_keys=True)
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def stored_config(tensor: torch.Tensor | None) -> dict[str, Any]:
    """Unpack the configuration that ``config_to_tensor`` packed.

    Raises:
        AMHPError: None, or a tensor that holds something else.
    """
    config = None
    if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.uint8:
        with suppress(ValueError, RecursionError):
            # Not bytes(tensor.tolist()), which would make n zeros of a single number n.
            config = json.loads(tensor.cpu().numpy().tobytes())
    if not isinstance(config, dict):
        raise AMHPError('not an AMHP configuration')
    return config


# Checks and digests


def check_keys(
    module: torch.nn.Module,
    state: Mapping[str, torch.Tensor],
    path: str | Path,
    ignore: tuple[str, ...] = (),
) -> None:
    """Check that a state has the names and shapes that ``module`` expects.

    Args:
        module: the module that will load the state.
        state: tensors by name.
        path: the file of the state, for the error message.
        ignore: names in ``module`` that the state does not hold.

    Raises:
        AMHPError: missing or unexpected keys, or tensors of another shape; some are named.
    """
    expected = {k: v for k, v in module.state_dict().items() if k not in ignore}
    problems = []
    for title, keys in (
        ('missing', expected.keys() - state.keys()),
        ('unexpected', state.keys() - expected.keys()),
    ):
        if keys:
            problems.append(f'{len(keys)} {title}: {_first_five(sorted(keys))}')
    shapes = [
        f'{key} is {list(state[key].shape)}, expected {list(expected[key].shape)}'
        for key in expected.keys() & state.keys() - {CONFIG_KEY}  # a text: of any length
        if state[key].shape != expected[key].shape
    ]
    if shapes:
        problems.append(f'{len(shapes)} of another shape: {_first_five(sorted(shapes))}')
    if problems:
        raise AMHPError(f'{path}: the weights do not fit the model ({"; ".join(problems)})')


def _first_five(items: list[str]) -> str:
    return ', '.join(items[:5]) + (', ...' if len(items) > 5 else '')


def weights_digest(state: Mapping[str, torch.Tensor]) -> str:
    """Compute a digest that identifies weights, whatever file they are in.

    Args:
        state: tensors of a network or a checkpoint; the configuration does not count.
    """
    digest = blake2b(digest_size=16)
    for name in sorted(state.keys() - {CONFIG_KEY}):
        digest_tensor(digest, name, state[name])
    return digest.hexdigest()


def digest_tensor(digest, name: str, value: Any) -> None:
    """Add a name and a tensor (evenly spaced numbers of it), or another value, to a digest."""
    digest.update(name.encode())
    if isinstance(value, torch.Tensor):
        digest.update(f'{value.dtype}{tuple(value.shape)}'.encode())
        flat = value.detach().flatten()
        sample = flat[:: max(1, len(flat) // DIGEST_SAMPLE)].cpu().contiguous()
        digest.update(sample.view(torch.uint8).numpy().tobytes() if len(sample) else b'')
    else:
        digest.update(repr(value).encode())


_remembered = threading.local()


@contextmanager
def weights_at_rest(samples: dict[tuple, bytes]) -> Iterator[None]:
    """Read the numbers of tensors only once in ``tensor_versions``, in this thread.

    To read them takes milliseconds and waits for a GPU. As long as addresses and version counters
    stay the same, the numbers that were read first count. So changes through ``tensor.data`` are
    not noticed here; those of tensors made in ``torch.inference_mode`` still are.

    Args:
        samples: what was read; the same dict in the next call goes on with it.
    """
    before = getattr(_remembered, 'samples', None)
    _remembered.samples = samples
    try:
        yield
    finally:
        _remembered.samples = before


def tensor_versions(tensors: Iterable[torch.Tensor]) -> list:
    """Return marks that differ after any of these tensors was changed or replaced.

    The memory address and torch's version counter show most changes. Changes through
    ``tensor.data``, and of tensors made in ``torch.inference_mode``, do not count as a version;
    evenly spaced numbers of each tensor (``VERSION_SAMPLE``) show those.
    """
    tensors = [tensor.detach() for tensor in tensors]
    counted = not any(t.is_inference() for t in tensors)
    marks: list = [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors]
    known = getattr(_remembered, 'samples', None) if counted else None
    key = tuple(marks)
    if known is not None and key in known:
        return [*marks, known[key]]
    samples = [
        t.reshape(-1)[:: max(1, t.numel() // VERSION_SAMPLE)].to(torch.float64) for t in tensors
    ]
    if samples:
        marks.append(torch.cat(samples).cpu().numpy().tobytes())
        if known is not None:
            known[key] = marks[-1]
    return marks
