"""Files about the project agree with each other: versions, supported Pythons, pinned tools."""

import re
import subprocess
from pathlib import Path

import yaml

import pyiqa_amhp

ROOT = Path(__file__).parents[1]
PYPROJECT = (ROOT / 'pyproject.toml').read_text(encoding='utf-8')


def test_every_file_that_names_the_version_names_the_same():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text(encoding='utf-8'))
    changes = (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')
    version = re.search(r'^version = "(.+)"', PYPROJECT, re.M)[1]
    assert pyiqa_amhp.__version__ == version
    assert citation['version'] == version
    assert re.search(r'^## \[(\d.*?)\]', changes, re.M)[1] == version


def test_the_workflow_runs_on_every_supported_python():
    workflow = yaml.safe_load((ROOT / '.github/workflows/ci.yml').read_text(encoding='utf-8'))
    oldest, after = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', PYPROJECT).groups()
    expected = [f'3.{minor}' for minor in range(int(oldest), int(after))]
    assert workflow['jobs']['tests']['strategy']['matrix']['python'] == expected
    assert workflow['jobs']['tests']['steps'][-1]['run'] == '.ci/run'


def test_ci_finds_the_pinned_tools():
    script = (ROOT / '.ci' / 'run').read_text(encoding='utf-8')
    command = re.search(r'^sed .* pyproject\.toml', script, re.M)[0]
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    names = [re.match(r'[\w-]+', line)[0] for line in done.stdout.splitlines()]
    assert names == ['import-linter', 'mypy', 'ruff', 'types-PyYAML']
