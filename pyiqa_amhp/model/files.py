"""Reading tensors and telling what does not fit: nothing that is read can run code."""

import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.archive import is_torchscript, read_archive
from pyiqa_amhp.model.hub import is_hub_id

# How checkpoints wrap their tensors: pyiqa, open_clip, and others.
WRAPPERS = ('params', 'state_dict', 'model_state_dict', 'model')
MOST_TIMES = 4
"""A file holds at most this many times its own size: PyTorch and safetensors do not compress, so
more is a bomb. Tensors that share memory count each (our choice)."""


def read_plain(path: str | Path, by_torch: bool = False) -> Any:
    """What a ``.safetensors`` file or a PyTorch file holds, tensors on the CPU.

    Of TorchScript archives, OpenAI's form, only tensors are read and no code is run.

    Args:
        by_torch: take only what ``torch.load`` reads, whatever the file's name, to know that
            others may do so.

    Raises:
        AMHPError: no such file, a damaged one, or one that holds more than tensors and plain
            values (pickles with code in them are refused, never run) or more of them than its
            size can (``MOST_TIMES``).
    """
    if is_hub_id(path):
        raise AMHPError(f'{path}: of the hub only AMHP is read, and not here; give a local file')
    path = Path(path).expanduser()
    if not path.is_file():
        raise AMHPError(f'{path}: no such file')
    if not path.stat().st_size:
        raise AMHPError(f'{path}: the file is empty')
    if zipfile.is_zipfile(path):
        _check_size(path, _declared(path))
    try:
        if path.suffix == '.safetensors' and not by_torch:
            return safetensors.torch.load_file(path)
        if not by_torch and is_torchscript(path):
            return read_archive(path)
        return torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:  # its text advises weights_only=False: not passed on
        if found := re.search(r'GLOBAL (\S+)', str(error)):
            raise AMHPError(
                f'{path}: refused, since it holds more than tensors ({found[1]}) and loading it '
                'could run code'
            ) from error
        raise AMHPError(f'{path}: damaged, or not a file of weights') from error
    except Exception as error:  # damaged files fail in many ways
        reason = f'{type(error).__name__}: {error}'.splitlines()[0]
        raise AMHPError(f'{path}: damaged, or not a file of weights ({reason})') from error


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """The named tensors of a file of weights, on the CPU.

    Raises:
        AMHPError: see ``read_plain``; or there are no named tensors.
    """
    content = read_plain(path)
    path = Path(path).expanduser()
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = isinstance(content, Mapping) and {
        str(key).removeprefix('module.'): value
        for key, value in content.items()
        if isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise AMHPError(f'{path}: expected a checkpoint with named tensors, found none')
    _check_size(path, (value.numel() * value.element_size() for value in tensors.values()))
    return tensors


def _declared(path: Path) -> list[int]:
    """The sizes that a zip file's parts say they have."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [part.file_size for part in archive.infolist()]
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return []  # damaged: reading it will tell


def _check_size(path: Path, sizes: Iterable[int]) -> None:
    here, inside = path.stat().st_size, sum(sizes)
    if inside > MOST_TIMES * here:
        raise AMHPError(
            f'{path}: refused, since its {here:,} bytes say that they hold {inside:,}; weights are '
            f'stored uncompressed (at most {MOST_TIMES} times the size of the file)'
        )


def check_keys(
    module: torch.nn.Module,
    state: Mapping[str, torch.Tensor],
    path: str | Path,
    ignore: tuple[str, ...] = (),
) -> None:
    """Compare names and shapes with what ``module`` expects.

    Raises:
        AMHPError: naming the keys that are missing, unexpected, or of another shape.
    """
    expected = {k: v for k, v in module.state_dict().items() if k not in ignore}
    problems = []
    for title, keys in (
        ('missing', expected.keys() - state.keys()),
        ('unexpected', state.keys() - expected.keys()),
    ):
        if keys:
            problems.append(f'{len(keys)} {title}: {_some(sorted(keys))}')
    shapes = [
        f'{key} is {list(state[key].shape)}, expected {list(expected[key].shape)}'
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    if shapes:
        problems.append(f'{len(shapes)} of another shape: {_some(shapes)}')
    if problems:
        raise AMHPError(f'{path}: the weights do not fit the model ({"; ".join(problems)})')


def _some(items: list[str], most: int = 5) -> str:
    return ', '.join(items[:most]) + (', ...' if len(items) > most else '')
