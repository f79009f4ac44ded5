"""MATLAB files, read in a process of their own: scipy's reader crashes on some damaged ones."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from pyiqa_amhp.errors import AMHPError

TIMEOUT = 300  # seconds

# Numbers and strings as lists, cells in an object, structures as nothing. A crash stays in here.
_READ = """
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
    wanted = {name: plain(mat[name]) for name in sys.argv[2:] if name in mat}
    there = [name for name in mat if not name.startswith('__')]
    found = {'wanted': wanted, 'there': there}
    text = json.dumps(found)
except NotImplementedError:
    text = json.dumps({'new': True})
except Exception as error:
    text = json.dumps({'error': str(error)})
sys.stdout.write(text)
"""


def load_mat(path: Path, wanted: list[str]) -> dict[str, np.ndarray]:
    """Variables of a file of MATLAB 4 to 7.2, cells as flat arrays of objects.

    Raises:
        AMHPError: a newer form, a damaged file, or a variable that is not there.
    """
    found = _in_a_process(path, wanted)
    if 'new' in found:
        raise AMHPError(f'{path}: a MATLAB 7.3 file; save it again with -v7')
    if 'error' in found:
        raise AMHPError(f'{path}: damaged, or no MATLAB file ({found["error"]}); replace it')
    if missing := [name for name in wanted if name not in found['wanted']]:
        there = ', '.join(found['there'])
        raise AMHPError(f'{path}: no variable {missing[0]!r}; there are {there or "none"}')
    return {name: to_array(value) for name, value in found['wanted'].items()}


def _in_a_process(path: Path, wanted: list[str]) -> dict[str, Any]:
    command = [sys.executable, '-c', _READ, str(path.absolute()), *wanted]
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired:
        return {'error': f'no end in {TIMEOUT} seconds'}
    if done.returncode:
        return {'error': f'the reader stopped with code {done.returncode}'}
    return json.loads(done.stdout)


def to_array(value: Any) -> np.ndarray:
    """A variable as it comes from the reader."""
    if isinstance(value, dict):
        cells = np.empty(len(value['cell']), object)
        for i, part in enumerate(value['cell']):  # at once, equal shapes would be one array
            cells[i] = to_array(part)
        return cells
    return np.array(value)
