"""Where a training stands: everything that decides how it goes on, in one file.

``experiments/<name>/training_states/<iteration>.state`` holds the weights (and their average),
the optimizer, the schedule, random states, counts and the best results so far. It is written
whole or not at all, and reading it runs no code.
"""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.weights.checkpoint import safe_load, write_torch

SUFFIX = '.state'
FORMAT = 1


def random_states() -> dict[str, Any]:
    """Python's, NumPy's, torch's and all GPUs' random states, as plain values and tensors."""
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
    """Put back what ``random_states`` gave; a GPU's only if there are as many as there were."""
    version, numbers, gauss = states['python']
    random.setstate((version, tuple(numbers.tolist()), gauss))
    key, *rest = states['numpy']
    np.random.set_state(('MT19937', key.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states['torch'].cpu())  # pyiqa's loader puts all on a GPU
    if states['cuda'] and len(states['cuda']) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in states['cuda']])


def write_state(folder: Path, state: dict[str, Any], keep_last: int) -> Path:
    """Write ``<iter>.state``, and delete all but the newest ``keep_last`` of them."""
    path = write_torch(folder / f'{state["iter"]}{SUFFIX}', {'format': FORMAT, **state})
    for old in states_in(folder)[keep_last:]:
        old.unlink(missing_ok=True)
    return path


def states_in(folder: Path) -> list[Path]:
    """The states in a folder, the newest first."""
    named = [path for path in folder.glob(f'*{SUFFIX}') if path.stem.isdigit()]
    return sorted(named, key=lambda path: int(path.stem), reverse=True)


def read_state(path: Path) -> dict[str, Any]:
    """Read a state.

    Raises:
        AMHPError: see ``safe_load``; or another program's file.
    """
    state = safe_load(path, by_torch=True)
    if not isinstance(state, dict) or state.get('format') != FORMAT:
        raise AMHPError(
            f'{path}: not a state of `amhp train` (pyiqa alone keeps less and cannot go on exactly)'
        )
    return state


def newest_state(folder: Path, warn) -> dict[str, Any] | None:
    """The newest state that can be read; None where there is none.

    Args:
        folder: ``training_states``.
        warn: is told of those that cannot.
    """
    for path in states_in(folder):
        try:
            return read_state(path)
        except AMHPError as error:
            warn(f'{error}; the state before it is taken')
    return None


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files that a killed process left in ``folder``."""
    for path in folder.glob('.*.*'):
        if path.suffix in (SUFFIX, '.pth') and path.is_file():
            path.unlink(missing_ok=True)
