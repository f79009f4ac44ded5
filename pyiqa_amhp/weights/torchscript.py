"""Tensors of TorchScript archives, the format of OpenAI's weights, without running their code.

``torch.jit.load`` would run the archive's own ``__setstate__``, and a script can write files
(``torch.from_file``). This reader ignores the code and replaces objects by plain nodes.
"""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

MAX_TENSORS = 100_000  # the largest CLIP has a few hundred (our choice)
STORAGES = {
    'FloatStorage': torch.float32, 'HalfStorage': torch.float16, 'BFloat16Storage': torch.bfloat16,
    'DoubleStorage': torch.float64, 'LongStorage': torch.int64, 'IntStorage': torch.int32,
    'ShortStorage': torch.int16, 'CharStorage': torch.int8, 'ByteStorage': torch.uint8,
    'BoolStorage': torch.bool,
}  # fmt: skip


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive; a damaged one is not."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith('/constants.pkl') for name in archive.namelist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return False  # another format, or damaged, which reading it reports


def read_archive(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a TorchScript archive, named as in its ``state_dict()``.

    Raises:
        Exception: of nearly any kind, if the archive is damaged or holds something else.
    """
    with zipfile.ZipFile(path) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith('/data.pkl') and n.count('/') == 1)
        folder = name.removesuffix('data.pkl')
        order = f'{folder}byteorder'
        if order in archive.namelist() and archive.read(order) != b'little':
            raise ValueError('not in little-endian order')
        with archive.open(name) as file:
            root = _Reader(file, archive, folder).load()
    state: dict[str, torch.Tensor] = {}
    remaining = [('', root)]
    while remaining:
        prefix, node = remaining.pop()
        values = node.values if isinstance(node, _Node) else {}
        for key, value in reversed(values.items()):
            if isinstance(value, _Node):
                remaining.append((f'{prefix}{key}.', value))
            elif isinstance(value, torch.Tensor):
                state[prefix + str(key)] = value
        if max(len(state) + len(remaining), len(prefix)) > MAX_TENSORS:
            raise ValueError('too many modules within modules')
    return state


class _Node:
    """Stand-in for an object of any class in the archive; keeps its attributes."""

    values: dict[str, Any]

    def __setstate__(self, values):
        self.values = values if isinstance(values, dict) else {}


# The unpickler written in Python: the one in C allocates as much memory as a file asks for.
class _Reader(pickle._Unpickler):
    """Unpickler that knows tensors and plain containers only."""

    def __init__(self, file, archive: zipfile.ZipFile, folder: str):
        super().__init__(file)
        self._archive, self._folder = archive, folder

    def find_class(self, module: str, name: str):
        if module.split('.')[0] == '__torch__':
            return _Node
        if (module, name) == ('torch._utils', '_rebuild_tensor_v2'):
            return _tensor
        if (module, name) == ('collections', 'OrderedDict'):
            return dict
        if module == 'torch.jit._pickle':  # build_intlist and the like
            return _first
        if module == 'torch' and name in STORAGES:
            return STORAGES[name]
        raise pickle.UnpicklingError(f'GLOBAL {module}.{name}')

    def persistent_load(self, pid) -> torch.Tensor:
        """Read the flat tensor of a storage, ``('storage', type, key, device, length)``."""
        _, dtype, key, _, length = pid
        data = self._archive.read(f'{self._folder}data/{key}')
        if not length:
            return torch.empty(0, dtype=dtype)
        return torch.frombuffer(bytearray(data), dtype=dtype, count=length)


def _first(value, *_):
    return value


def _tensor(storage: torch.Tensor, offset, size, stride, *_) -> torch.Tensor:
    return storage.as_strided(size, stride, offset)
