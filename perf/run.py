"""Measure every claim about speed and memory, and print one table.

    python perf/run.py                 # all: about half an hour on two cores
    python perf/run.py scoring startup # some
    python perf/run.py --docs          # and write the table into docs/speed.md

Each script runs in its own process, one after the other, on a machine that does nothing else.
`perf/gpu.py` has the figures of a GPU.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

from common import Claim, machine, table

HERE = Path(__file__).parent
SCRIPTS = (
    'scoring', 'training_step', 'photographs', 'loading', 'memory', 'frozen', 'engines', 'startup',
)  # fmt: skip
START, END = '<!-- perf/run.py writes from here -->', '<!-- to here -->'


def run(script: str, folder: Path) -> list[Claim]:
    """Run a script and read its claims; a script that fails is a line of the table too."""
    file = folder / f'{script}.json'
    print(f'\n# {script}', flush=True)
    command = [sys.executable, str(HERE / f'{script}.py'), '--json', str(file)]
    if subprocess.run(command).returncode or not file.exists():
        return [Claim(script, None, note='the script failed')]
    return [Claim(**claim) for claim in json.loads(file.read_text())]


def write_docs(text: str) -> None:
    """Write the table between the two marks of the page about speed."""
    page = HERE.parent / 'docs' / 'speed.md'
    before, _, rest = page.read_text('utf-8').partition(START)
    after = rest.partition(END)[2]
    page.write_text(f'{before}{START}\n{text}\n{END}{after}', 'utf-8')


def main() -> None:
    """Measure, print, and write the page with ``--docs``."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('scripts', nargs='*', help=f'some of {", ".join(SCRIPTS)}; default: all')
    parser.add_argument('--docs', action='store_true', help='write the table into docs/speed.md')
    arguments = parser.parse_args()
    if unknown := set(arguments.scripts) - set(SCRIPTS):
        parser.error(f'no script {", ".join(sorted(unknown))}; there are {", ".join(SCRIPTS)}')
    with tempfile.TemporaryDirectory() as folder:
        chosen = arguments.scripts or SCRIPTS
        claims = [claim for script in chosen for claim in run(script, Path(folder))]
    text = f'Measured {date.today()}: {machine()}.\n\n{table(claims)}'
    print(f'\n{text}')
    if arguments.docs:
        write_docs(text)


if __name__ == '__main__':
    main()
