"""Read MATLAB files in a separate process: scipy's reader crashes on some damaged ones."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from pyiqa_amhp.errors import AMHPError

TIMEOUT = 300  # seconds

# Prints JSON: numbers and strings as lists, cells as {'cell': [..]}, structures as empty cells.
_PROGRAM = """
import json, sys
import numpy as np
from scipy.io import loadmat

def plain(value):
    value = np.asarray(value)
    if value.dtype.names:
        return {'cell': []}
    if value.dtype == object:
        return {'cell': [plain(part) for part in value.ravel()]}
    return value.tolist()

try:
    mat = loadmat(sys.argv[1])
    values = {name: plain(mat[name]) for name in sys.argv[2:] if name in mat}
    names = [name for name in mat if not name.startswith('__')]
    text = json.dumps({'values': values, 'names': names})
except NotImplementedError:
    text = json.dumps({'too_new': True})
except Exception as error:
    text = json.dumps({'error': str(error)})
sys.stdout.write(text)
"""


def load_mat(path: Path, variables: list[str]) -> dict[str, np.ndarray]:
    """Load variables of a file of MATLAB 4 to 7.2; cells become flat arrays of objects.

    Raises:
        AMHPError: a newer format, a damaged file, or a variable that is missing.
    """
    found = _load_in_process(path, variables)
    if 'too_new' in found:
        raise AMHPError(f'{path}: a MATLAB 7.3 file; save it again with -v7')
    if 'error' in found:
        raise AMHPError(f'{path}: damaged, or no MATLAB file ({found["error"]}); replace it')
    values, names = found['values'], ', '.join(found['names'])
    if missing := [name for name in variables if name not in values]:
        raise AMHPError(f'{path}: no variable {missing[0]!r}; there are {names or "none"}')
    return {name: _to_array(value) for name, value in values.items()}


def _load_in_process(path: Path, variables: list[str]) -> dict[str, Any]:
    """Run the program in a Python of its own and parse what it prints."""
    command = [sys.executable, '-c', _PROGRAM, str(path.absolute()), *variables]
    try:
        process = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired:
        return {'error': f'not finished in {TIMEOUT} seconds'}
    if process.returncode:
        return {'error': f'the reader stopped with code {process.returncode}'}
    return json.loads(process.stdout)


def _to_array(value: Any) -> np.ndarray:
    """Convert a variable that the program printed."""
    if isinstance(value, dict):
        cells = np.empty(len(value['cell']), object)
        for i, part in enumerate(value['cell']):  # np.array would stack cells of equal shape
            cells[i] = _to_array(part)
        return cells
    return np.array(value)
