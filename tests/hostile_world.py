"""The class of a malicious input, and what its code can use."""

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Case:
    """One malicious input.

    Attributes:
        kind: the heading of its table.
        what: a description of the input.
        way: the command or call that reads it.
        gets: a part of the message that it must get.
        run: function that makes the input and has it read; returns the message, or raises it.
    """

    kind: str
    what: str
    way: str
    gets: str
    run: Callable[['World'], str]


@dataclass
class World:
    """The folder and the fixtures that a case can use.

    Attributes:
        folder: an empty folder.
        amhp: function that runs the command; gives exit code, standard output, standard error.
        make_amhp: function that builds a tiny AMHP.
        tiny: the architecture of a tiny AMHP.
    """

    folder: Path
    amhp: Callable
    make_amhp: Callable
    tiny: dict

    @property
    def trace(self) -> Path:
        """A file that exists only if code in an input has run."""
        return self.folder / 'trace'

    def write(self, name: str, content: str | bytes) -> Path:
        """Write a file in the folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def photo(self, name: str = 'photo.png') -> Path:
        """Write a photograph in the folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
        Image.fromarray(noise).save(path, 'PNG')
        return path

    def refused(self, *arguments) -> str:
        """Run a command that must fail; gives its message."""
        code, out, err = self.amhp(*arguments)
        assert code == 1, (code, out, err)
        return err + out


CASES: list[Case] = []


def case(kind: str, what: str, way: str, gets: str):
    """Decorate the function that runs a case; see ``Case``."""

    def add(run):
        CASES.append(Case(kind, what, way, gets, run))
        return run

    return add


class Code:
    """Object that writes a file when it is unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return open, (str(self.trace), 'w')


def zipped(parts: dict[str, bytes]) -> bytes:
    """Return a zip file with these parts."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return file.getvalue()
