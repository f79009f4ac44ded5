"""ICC profiles, made byte by byte: matrix and curves (RGB), a curve (grey), a table (CMYK).

The primaries and gammas are those that the colour spaces' publishers state. A profile holds them
adapted to D50 (Bradford), as the ICC prescribes.
"""

import struct

import numpy as np

D50 = np.array([0.96420, 1.0, 0.82491])
WHITES = {'D65': (0.3127, 0.3290), 'D50': (0.3457, 0.3585)}
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
# primaries x, y of red, green and blue; white; gamma (None: sRGB's curve)
SPACES = {
    'srgb': (((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)), 'D65', None),
    'adobe': (((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), 'D65', 563 / 256),
    'p3': (((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), 'D65', None),
    'prophoto': (((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)), 'D50', 1.8),
}


def rgb_profile(space: str) -> bytes:
    """Make the profile of one of ``SPACES``."""
    gamma = SPACES[space][2]
    curve = _table(_srgb_to_linear(np.linspace(0, 1, 1024))) if gamma is None else _gamma(gamma)
    columns = zip(('rXYZ', 'gXYZ', 'bXYZ'), to_xyz(space).T, strict=True)
    tags = {name: _xyz(column) for name, column in columns}
    tags |= dict.fromkeys(('rTRC', 'gTRC', 'bTRC'), curve)
    return _profile('mntr', 'RGB ', 'XYZ ', tags)


def grey_profile(gamma: float) -> bytes:
    """Make the profile of grey with a gamma."""
    return _profile('mntr', 'GRAY', 'XYZ ', {'kTRC': _gamma(gamma)})


def cmyk_profile(red_ink: bool = False) -> bytes:
    """Make the profile of a printer whose inks darken white evenly; its colours are grey.

    Args:
        red_ink: whether the inks make the paper red instead of dark.
    """
    inks = np.indices((2, 2, 2, 2)).reshape(4, -1).T  # each ink off and on, the last fastest
    lightness = 100 * (1 - inks.max(axis=1))
    a = 60 * inks.max(axis=1) if red_ink else 0 * lightness
    lab = np.stack([lightness * 2.55, 128 + a, 128 + 0 * a], axis=1).round().astype(np.uint8)
    line = bytes(range(256))
    head = struct.pack('>4s4xBBBx', b'mft1', 4, 3, 2)
    identity = struct.pack('>9i', *(65536 * np.eye(3)).astype(int).ravel())
    table = head + identity + 4 * line + lab.tobytes() + 3 * line
    return _profile('prtr', 'CMYK', 'Lab ', {'A2B0': table})


def to_xyz(space: str) -> np.ndarray:
    """Return the matrix ``(3, 3)`` from linear RGB to XYZ under D50."""
    primaries, white, _ = SPACES[space]
    colors = np.array([[x / y, 1, (1 - x - y) / y] for x, y in (*primaries, WHITES[white])]).T
    matrix = colors[:, :3] * np.linalg.solve(colors[:, :3], colors[:, 3])
    scale = (BRADFORD @ D50) / (BRADFORD @ colors[:, 3])
    return np.linalg.inv(BRADFORD) @ np.diag(scale) @ BRADFORD @ matrix


def from_srgb(rgb: np.ndarray, space: str) -> np.ndarray:
    """Store sRGB colours in [0, 1], ``(.., 3)``, in another space; for those that it holds."""
    linear = _srgb_to_linear(rgb) @ (np.linalg.inv(to_xyz(space)) @ to_xyz('srgb')).T
    gamma = SPACES[space][2]
    linear = linear.clip(0, 1)
    return _linear_to_srgb(linear) if gamma is None else linear ** (1 / gamma)


def _srgb_to_linear(x: np.ndarray) -> np.ndarray:
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def _linear_to_srgb(x: np.ndarray) -> np.ndarray:
    return np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)


def _xyz(values: np.ndarray) -> bytes:
    return struct.pack('>4s4x3i', b'XYZ ', *(round(65536 * value) for value in values))


def _gamma(gamma: float) -> bytes:
    return struct.pack('>4s4xIH', b'curv', 1, round(256 * gamma))


def _table(values: np.ndarray) -> bytes:
    numbers = (65535 * values).round().astype('>u2')
    return struct.pack('>4s4xI', b'curv', len(numbers)) + numbers.tobytes()


def _profile(device: str, space: str, connection: str, tags: dict[str, bytes]) -> bytes:
    tags = {'wtpt': _xyz(D50), **tags}
    offset, entries, data = 132 + 12 * len(tags), b'', b''
    for name, content in tags.items():
        entries += struct.pack('>4sII', name.encode(), offset + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    names = [word.encode() for word in (device, space, connection)]
    head = struct.pack('>I4xI4s4s4s12x4s', offset + len(data), 0x02400000, *names, b'acsp')
    head += bytes(68 - len(head)) + struct.pack('>3i', *(round(65536 * x) for x in D50))
    return head + bytes(128 - len(head)) + struct.pack('>I', len(tags)) + entries + data
