"""Start-up time: of Python with the .pth file, of `amhp --help`; imports of the package."""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import Claim, in_turns, main

ROOT = Path(__file__).parents[1]
PTH = 'pyiqa_amhp_autoload.pth'


def measure_pth(pairs: int) -> Claim:
    """Measure what the .pth file adds to a start of Python, in a new environment."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, '-m', 'venv', '--without-pip', folder], check=True)
        python = next(Path(folder).glob('[bS]*/python*'))
        packages = next(Path(folder).glob('[lL]ib/**/site-packages'))
        for name in (PTH, '_pyiqa_amhp_autoload.py'):
            shutil.copy(ROOT / name, packages)
        enabled, disabled = packages / PTH, packages / 'disabled'

        def start() -> float:
            begin = time.perf_counter()
            subprocess.run([python, '-I', '-c', 'pass'], check=True)
            return 1000 * (time.perf_counter() - begin)

        start()  # compiles the module, which an install does too
        costs = []
        for _ in range(pairs):
            cost = start()
            enabled.rename(disabled)
            costs.append(cost - start())
            disabled.rename(enabled)
    low, high = np.quantile(costs, (0.25, 0.75))
    what = 'start of Python, with the .pth (range: quartiles)'
    return Claim(what, float(np.median(costs)), 1.0, low=low, high=high, unit='ms')


def run_python(*arguments: str) -> None:
    """Run Python with these arguments, and wait until it ends."""
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


def measure(rounds: int) -> list[Claim]:
    """Measure start-up times, and whether `import pyiqa_amhp` imports torch or pyiqa."""
    seconds = in_turns({'help': lambda: run_python('-m', 'pyiqa_amhp', '--help')}, rounds)['help']
    imported = 'import pyiqa_amhp, sys; sys.exit("torch" in sys.modules or "pyiqa" in sys.modules)'
    heavy = subprocess.run([sys.executable, '-c', imported]).returncode
    return [
        measure_pth(12 * rounds),
        Claim(
            'amhp --help', float(np.median(seconds)), 0.3, low=min(seconds), high=max(seconds),
            unit='s',
        ),
        Claim('import pyiqa_amhp, torch and pyiqa imported by it', float(heavy), 0.0),
    ]  # fmt: skip


if __name__ == '__main__':
    main(measure, __doc__)
