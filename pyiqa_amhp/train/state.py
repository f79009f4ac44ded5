"""Training states: everything that an exact resume needs, in one file.

``experiments/<name>/training_states/<iteration>.state`` holds the weights and their average, the
optimizer, the schedule, the states of the random number generators, counters and the best results
so far. A state is written whole or not at all, and reading it runs no code.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.weights.checkpoint import safe_load, write_torch

SUFFIX = '.state'
FORMAT = 1


def random_states() -> dict[str, Any]:
    """Return the random states of Python, NumPy, torch and all GPUs as plain values and tensors."""
    version, numbers, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    return {
        'python': [version, torch.tensor(numbers), gauss],
        'numpy': [
            torch.from_numpy(numpy_state['state']['key'].astype(np.int64)),
            int(numpy_state['state']['pos']),
            int(numpy_state['has_gauss']),
            float(numpy_state['gauss']),
        ],
        'torch': torch.get_rng_state(),
        'cuda': torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Restore what ``random_states`` returned.

    The states of GPUs are restored only if the number of GPUs is the same.
    """
    version, numbers, gauss = states['python']
    random.setstate((version, tuple(numbers.tolist()), gauss))
    key, *rest = states['numpy']
    np.random.set_state(('MT19937', key.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states['torch'].cpu())  # pyiqa's loader moves all tensors to a GPU
    if states['cuda'] and len(states['cuda']) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in states['cuda']])


def write_state(folder: Path, state: dict[str, Any], keep_last: int) -> Path:
    """Write ``<iter>.state``, and delete all states but the newest ``keep_last``."""
    path = write_torch(folder / f'{state["iter"]}{SUFFIX}', {'format': FORMAT, **state})
    for old in states_in(folder)[keep_last:]:
        old.unlink(missing_ok=True)
    return path


def states_in(folder: Path) -> list[Path]:
    """List the states in a folder, the newest first."""
    numbered = [path for path in folder.glob(f'*{SUFFIX}') if path.stem.isdigit()]
    return sorted(numbered, key=lambda path: int(path.stem), reverse=True)


def read_state(path: Path) -> dict[str, Any]:
    """Read a training state.

    Raises:
        AMHPError: the file is damaged, could run code (see ``safe_load``), or is no state of ours.
    """
    state = safe_load(path, by_torch=True)
    if not isinstance(state, dict) or state.get('format') != FORMAT:
        raise AMHPError(
            f'{path}: not a state of `amhp train` (pyiqa alone saves less, which cannot be '
            'resumed exactly)'
        )
    return state


def newest_state(folder: Path, warn: Callable[[str], object]) -> dict[str, Any] | None:
    """Read the newest state that is not damaged; None if there is none.

    Args:
        folder: the folder ``training_states``.
        warn: called with a message for each state that cannot be read.
    """
    for path in states_in(folder):
        try:
            return read_state(path)
        except AMHPError as error:
            warn(f'{error}; trying the state before it')
    return None


def remove_temporary_files(folder: Path) -> None:
    """Delete temporary files that a killed process left in a folder."""
    for path in folder.glob('.*.*'):
        if path.suffix in (SUFFIX, '.pth') and path.is_file():
            path.unlink(missing_ok=True)
