"""What is installed here, and how this process runs. Imports nothing heavy."""

import importlib
import os
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from pyiqa_amhp.errors import AMHPError


def version_of(package: str) -> str:
    """The version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return 'not installed'


def import_extra(name: str, extra: str) -> ModuleType:
    """Import a package that comes with an extra of ours.

    Args:
        name: of the package or of a module in it.
        extra: the extra that installs it, such as ``demo``.

    Raises:
        AMHPError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = error.name or name
        raise AMHPError(f"{missing} is not installed: pip install 'pyiqa-amhp[{extra}]'") from error


def usable_cores() -> int:
    """Return the number of processor cores that this process may use."""
    if hasattr(os, 'sched_getaffinity'):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def limit_thread_spin() -> None:
    """Limit how long torch's threads spin while they wait for each other.

    Spinning slows a machine that does something else too (reading images, another training) ten
    times and more; the limit costs nothing on an idle machine. Call it before torch is imported.
    """
    os.environ.setdefault('GOMP_SPINCOUNT', '20000')


def check_device(device: str | None) -> None:
    """Check that torch can use a device, before a model is built for it.

    Args:
        device: as torch names it, ``cpu``, ``cuda``, ``cuda:1``, ``mps``; None: any.

    Raises:
        AMHPError: no such device on this machine; the message lists those that there are.
    """
    if device is None:
        return
    import torch

    try:
        torch.empty(0, device=device)
    except Exception as error:  # each backend of torch has its own
        reason = str(error).strip().splitlines()[0].removesuffix('.')
        there = ['cpu', *(f'cuda:{i}' for i in range(torch.cuda.device_count()))]
        there += ['mps'] * torch.backends.mps.is_available()
        raise AMHPError(
            f'device {device!r} cannot be used here ({reason}); expected one of {", ".join(there)}'
        ) from error
