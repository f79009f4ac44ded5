"""Writes a small raw file (DNG), since there is no package that does."""

import struct

import numpy as np

KINDS = {1: 'B', 3: 'H', 4: 'I', 5: 'II', 10: 'ii'}  # of values in TIFF
IDENTITY = [(1, 1), (0, 1), (0, 1), (0, 1), (1, 1), (0, 1), (0, 1), (0, 1), (1, 1)]


def write_dng(path, colour, width=96, height=64, flip=1, preview=None):
    """Write a DNG of one colour.

    Args:
        path: the file.
        colour: red, green and blue, 0 to 1.
        width, height: of the sensor, in pixels.
        flip: EXIF's orientation.
        preview: the bytes of a JPEG and its size, ``(jpeg, width, height)``; None: none.
    """
    red, green, blue = (round(16383 * value) for value in colour)
    sensor = np.empty((height, width), '<u2')
    sensor[::2, ::2], sensor[1::2, 1::2] = red, blue
    sensor[::2, 1::2] = sensor[1::2, ::2] = green
    main = {
        254: (4, [0]), 256: (4, [width]), 257: (4, [height]), 258: (3, [16]), 259: (3, [1]),
        262: (3, [32803]), 277: (3, [1]), 278: (4, [height]), 279: (4, [sensor.nbytes]),
        284: (3, [1]), 33421: (3, [2, 2]), 33422: (1, [0, 1, 1, 2]), 50714: (3, [0]),
        50717: (4, [16383]),
    }  # fmt: skip
    camera = {
        271: (2, b'Test\0'), 272: (2, b'Camera\0'), 274: (3, [flip]), 50706: (1, [1, 4, 0, 0]),
        50707: (1, [1, 1, 0, 0]), 50708: (2, b'Test Camera\0'), 50721: (10, IDENTITY),
        50728: (5, [(1, 1)] * 3), 50778: (3, [21]),
    }  # fmt: skip
    if preview is None:
        content = _directory({**main, **camera}, 8, sensor.tobytes())
    else:
        jpeg, wide, high = preview
        small = {
            254: (4, [1]), 256: (4, [wide]), 257: (4, [high]), 258: (3, [8, 8, 8]), 259: (3, [7]),
            262: (3, [6]), 277: (3, [3]), 278: (4, [high]), 279: (4, [len(jpeg)]), 330: (4, [0]),
        }  # fmt: skip
        first = _directory({**small, **camera}, 8, jpeg)
        small[330] = (4, [8 + len(first)])
        first = _directory({**small, **camera}, 8, jpeg)
        content = first + _directory(main, 8 + len(first), sensor.tobytes())
    path.write_bytes(b'II*\0' + struct.pack('<I', 8) + content)
    return path


def _directory(tags, start, pixels):
    """Return a directory of TIFF at an offset, its values, and then the pixels (tag 273)."""
    tags = dict(sorted({**tags, 273: (4, [0])}.items()))
    offset, values, entries = start + 2 + 12 * len(tags) + 4, b'', []
    for tag, (kind, numbers) in tags.items():
        if kind == 2:
            data = numbers
        else:
            data = b''.join(
                struct.pack('<' + KINDS[kind], *(n if isinstance(n, tuple) else (n,)))
                for n in numbers
            )
        entries.append([tag, kind, len(numbers), data])
    for entry in entries:
        data = entry[3]
        if len(data) > 4:
            entry[3] = struct.pack('<I', offset + len(values))
            values += data + b'\0' * (len(data) % 2)
    place = struct.pack('<I', offset + len(values))
    body = b''.join(
        struct.pack('<HHI', tag, kind, count) + (place if tag == 273 else data.ljust(4, b'\0'))
        for tag, kind, count, data in entries
    )
    directory = struct.pack('<H', len(entries)) + body + b'\0' * 4 + values + pixels
    return directory + b'\0' * (len(directory) % 2)
