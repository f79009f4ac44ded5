"""Start-up: what the .pth costs each start of Python, `amhp --help`, and what an import imports."""

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


def of_pth(pairs: int) -> Claim:
    """Starts of Python with our .pth, less those without, in a new environment."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, '-m', 'venv', '--without-pip', folder], check=True)
        python = next(Path(folder).glob('[bS]*/python*'))
        packages = next(Path(folder).glob('[lL]ib/**/site-packages'))
        for name in (PTH, '_pyiqa_amhp_autoload.py'):
            shutil.copy(ROOT / name, packages)
        with_it, without = packages / PTH, packages / 'put_aside'

        def start() -> float:
            begin = time.perf_counter()
            subprocess.run([python, '-I', '-c', 'pass'], check=True)
            return 1000 * (time.perf_counter() - begin)

        start()  # compiles the module, as an install does
        costs = []
        for _ in range(pairs):
            cost = start()
            with_it.rename(without)
            costs.append(cost - start())
            without.rename(with_it)
    low, high = np.quantile(costs, (0.25, 0.75))
    what = 'start of Python, with the .pth (range: quartiles)'
    return Claim(what, float(np.median(costs)), 1.0, low=low, high=high, unit='ms')


def run_python(*arguments: str) -> None:
    """A Python of its own, to its end."""
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


def measure(rounds: int) -> list[Claim]:
    """Seconds of `amhp --help`; the heavy packages that `import pyiqa_amhp` brings."""
    seconds = in_turns({'help': lambda: run_python('-m', 'pyiqa_amhp', '--help')}, rounds)['help']
    imported = 'import pyiqa_amhp, sys; sys.exit("torch" in sys.modules or "pyiqa" in sys.modules)'
    heavy = subprocess.run([sys.executable, '-c', imported]).returncode
    return [
        of_pth(12 * rounds),
        Claim(
            'amhp --help', float(np.median(seconds)), 0.3, low=min(seconds), high=max(seconds),
            unit='s',
        ),
        Claim('import pyiqa_amhp, torch and pyiqa imported by it', float(heavy), 0.0),
    ]  # fmt: skip


if __name__ == '__main__':
    main(measure, __doc__)
