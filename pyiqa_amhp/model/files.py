"""Reading tensors and telling what does not fit: nothing that is read can run code."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch

from pyiqa_amhp.errors import AMHPError

# How checkpoints wrap their tensors: pyiqa, open_clip, and others.
WRAPPERS = ('params', 'state_dict', 'model_state_dict', 'model')


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """The named tensors of a ``.safetensors`` file or of a PyTorch checkpoint, on the CPU.

    Raises:
        AMHPError: no such file, a damaged one, one that holds more than tensors (pickles with
            code in them are refused, never run), or one without named tensors.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise AMHPError(f'{path}: no such file')
    if not path.stat().st_size:
        raise AMHPError(f'{path}: the file is empty')
    try:
        if path.suffix == '.safetensors':
            return safetensors.torch.load_file(path)
        content = torch.load(path, map_location='cpu', weights_only=True)
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
    return tensors


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
