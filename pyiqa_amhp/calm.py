"""How long torch's threads wait for each other. Imports nothing heavy: torch must come later."""

import os


def calm_threads() -> None:
    """Bound how long torch's threads spin while they wait for each other.

    Spinning slows a machine that does something else too (reading images, another training),
    tenfold and more; the bound costs nothing on an idle one. It holds since torch is loaded later.
    """
    os.environ.setdefault('GOMP_SPINCOUNT', '20000')
