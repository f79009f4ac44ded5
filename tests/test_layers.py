"""The order of the layers, which pyproject.toml states and import-linter checks."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('importlinter', reason='runs on Python 3.11 and later')

ROOT = Path(__file__).parents[1]
LINT_IMPORTS = 'from importlinter.cli import lint_imports_command; lint_imports_command()'


def lint_imports(folder):
    """Run ``lint-imports`` in a folder; gives its exit code and what it prints."""
    command = [sys.executable, '-c', LINT_IMPORTS, '--no-cache']
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode, ' '.join((done.stdout + done.stderr).split())


@pytest.fixture
def package(tmp_path):
    """A copy of the package and of the contracts, for one test."""
    ignore = shutil.ignore_patterns('__pycache__')
    shutil.copytree(ROOT / 'pyiqa_amhp', tmp_path / 'pyiqa_amhp', ignore=ignore)
    shutil.copy(ROOT / 'pyproject.toml', tmp_path)
    return tmp_path / 'pyiqa_amhp'


def test_each_layer_imports_only_from_those_below():
    code, output = lint_imports(ROOT)
    assert code == 0, output
    assert '2 kept, 0 broken' in output


def test_an_import_from_a_layer_above_breaks_the_contract(package):
    with (package / 'datasets' / 'ratings.py').open('a') as file:
        file.write('\n\ndef scale_of(net):\n    from pyiqa_amhp.model import config\n')
    code, output = lint_imports(package.parent)
    assert code == 1
    assert 'pyiqa_amhp.datasets is not allowed to import pyiqa_amhp.model' in output
    assert 'pyiqa_amhp.datasets.ratings -> pyiqa_amhp.model.config' in output


def test_a_circle_within_a_layer_breaks_the_contract(package):
    for name, other in (('first', 'second'), ('second', 'first')):
        (package / 'utils' / f'{name}.py').write_text(f'from pyiqa_amhp.utils import {other}\n')
    code, output = lint_imports(package.parent)
    assert code == 1
    assert 'No circles between modules BROKEN' in output


def test_a_new_module_at_the_top_needs_a_layer(package):
    (package / 'helpers.py').write_text('')
    code, output = lint_imports(package.parent)
    assert code == 1 and 'pyiqa_amhp.helpers' in output


def test_the_top_of_the_package_has_at_most_six_modules():
    modules = [file.stem for file in (ROOT / 'pyiqa_amhp').glob('*.py')]
    assert len(modules) <= 6, modules


def test_every_exception_of_a_contract_is_explained():
    text = (ROOT / 'pyproject.toml').read_text(encoding='utf-8')
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.startswith('ignore_imports'):
            assert re.match('# .{20}', lines[number - 1]), f'pyproject.toml:{number + 1}'
