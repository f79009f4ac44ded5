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


def limit_thread_spin() -> None:
    """Limit how long torch's threads spin while they wait for each other.

    Spinning slows a machine that does something else too (reading images, another training) ten
    times and more; the limit costs nothing on an idle machine. Call it before torch is imported.
    """
    os.environ.setdefault('GOMP_SPINCOUNT', '20000')
