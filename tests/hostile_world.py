"""What a hostile input is, and what it has to work with."""

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
        kind: the heading it stands under. what: the input in words. way: how it comes in.
        gets: words of the message that it must get.
        run: makes the input and gives it in; returns the message, or raises it.
    """

    kind: str
    what: str
    way: str
    gets: str
    run: Callable[['World'], str]


@dataclass
class World:
    """What a case has to work with.

    Attributes:
        at: an empty folder. trace: a file that only code in an input would make.
        amhp: runs the command; gives exit code, standard output, standard error.
        make_amhp: builds a tiny AMHP. tiny: its form.
    """

    at: Path
    amhp: Callable
    make_amhp: Callable
    tiny: dict

    @property
    def trace(self) -> Path:
        return self.at / 'trace'

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.at / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def photo(self, name: str = 'photo.png') -> Path:
        path = self.at / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
        Image.fromarray(noise).save(path, 'PNG')
        return path

    def refused(self, *arguments) -> str:
        """The message of a command that must fail in words."""
        code, out, err = self.amhp(*arguments)
        assert code == 1, (code, out, err)
        return err + out


CASES: list[Case] = []


def case(kind: str, what: str, way: str, gets: str):
    def add(run):
        CASES.append(Case(kind, what, way, gets, run))
        return run

    return add


class Code:
    """Unpickled, it makes a file."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return open, (str(self.trace), 'w')


def zipped(parts: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return file.getvalue()
