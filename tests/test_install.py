"""Installs with pip into an environment that has every dependency but not this package."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from PIL import Image

try:  # not `import pip`: it makes setuptools remove its distutils, which torch.compile needs
    version('pip')
except PackageNotFoundError:
    pytest.skip('installs with pip', allow_module_level=True)

ROOT = Path(__file__).parents[1]
SOURCES = (
    'CHANGELOG.md', 'CITATION.cff', 'LICENSE', 'MANIFEST.in', 'README.md',
    '_pyiqa_amhp_autoload.py', 'datasets_meta', 'options', 'pyiqa_amhp',
    'pyiqa_amhp_autoload.pth', 'pyproject.toml', 'setup.py', 'tests',
)  # fmt: skip
SITE_PACKAGES = 'lib/python*/site-packages'

# A user's program, which does not import pyiqa_amhp. It prints the output of `pyiqa -ls`, then one
# line of JSON.
PROGRAM = """
import json, sys
import pyiqa
from pyiqa.pyiqa_cmd import main

sys.argv = ['pyiqa', '-ls']
main()
result = {'listed': 'amhp' in pyiqa.list_models()}
if result['listed']:
    encoder = {'layers': 1, 'width': 32}
    backbone = {
        'embed_dim': 16,
        'vision_cfg': {'image_size': 32, 'patch_size': 16, 'head_width': 16, **encoder},
        'text_cfg': {'context_length': 77, 'vocab_size': 49408, 'heads': 2, **encoder},
    }
    metric = pyiqa.create_metric('amhp', pretrained=False, backbone=backbone, device='cpu')
    result['score'] = float(metric('photo.png', text='lovely light'))
    result['file'] = sys.modules['pyiqa_amhp'].__file__
else:
    import torch
    result['psnr'] = float(pyiqa.create_metric('psnr', device='cpu')(
        torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)
    ))
print(json.dumps(result))
"""


def run(*command, cwd=None):
    """Run a command that must succeed, without this process's settings of Python and pip."""
    names = ('PYTHONPATH', 'PYTHONHOME', 'PYIQA_AMHP_AUTOLOAD')
    environment = {k: v for k, v in os.environ.items() if k not in names}
    environment |= {'PIP_NO_INDEX': '1', 'PIP_DISABLE_PIP_VERSION_CHECK': '1'}
    done = subprocess.run(
        [str(part) for part in command], env=environment, cwd=cwd, capture_output=True, text=True
    )
    assert done.returncode == 0, f'{command}:\n{done.stdout}\n{done.stderr}'
    return done.stdout


def copy_sources(folder):
    """Copy what a build needs into a new folder."""
    folder.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns('__pycache__', '.*', '*.csv', '*.arrow')
            shutil.copytree(ROOT / name, folder / name, ignore=ignore)
        else:
            shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    sources = copy_sources(tmp_path_factory.mktemp('wheel') / 'sources')
    build = ('wheel', '--no-deps', '--no-build-isolation', '--wheel-dir', sources.parent)
    run(sys.executable, '-m', 'pip', *build, sources)
    return next(sources.parent.glob('*.whl'))


@pytest.fixture(scope='module')
def wheel_names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope='module')
def other_packages(tmp_path_factory):
    """A folder with links to every installed package but this one."""
    folder = tmp_path_factory.mktemp('other_packages')
    for parent in map(Path, sys.path):
        if parent.name in ('site-packages', 'dist-packages'):
            for entry in parent.iterdir():
                link = folder / entry.name
                if 'pyiqa_amhp' not in entry.name and not link.exists():
                    link.symlink_to(entry)
    return folder


@dataclass
class Installation:
    """Outputs and files of an environment before, during and after an installation."""

    method: str  # wheel or editable
    sources: Path
    environment: Path
    program_output: str
    result: dict
    command_help: str
    files: tuple[set, set, set]  # before, between and after
    result_after: dict


METHODS = [pytest.param(method, marks=pytest.mark.slow) for method in ('wheel', 'editable')]


@pytest.fixture(scope='module', params=METHODS)
def installation(request, other_packages, wheel, tmp_path_factory):
    """Install the package, use it and uninstall it, as a wheel and as an editable install."""
    folder = tmp_path_factory.mktemp(request.param)
    environment = folder / 'env'
    venv.create(environment, symlinks=True)
    python = environment / 'bin' / 'python'
    site_packages = next(environment.glob(SITE_PACKAGES))
    # Python searches the paths of .pth files last, and runs no .pth file that is found there.
    (site_packages / 'others.pth').write_text(f'{other_packages}\n')
    Image.new('RGB', (40, 32), 'orange').save(folder / 'photo.png')
    (folder / 'program.py').write_text(PROGRAM)

    def pip(*arguments):
        run(sys.executable, '-m', 'pip', '--python', python, *arguments)

    def files():
        return {path for path in environment.rglob('*') if not path.is_dir()}

    def use():
        output = run(python, 'program.py', cwd=folder)
        return output, json.loads(output.splitlines()[-1])

    seen = [files()]
    if request.param == 'wheel':
        sources = wheel
        pip('install', '--no-deps', wheel)
    else:
        sources = copy_sources(folder / 'sources')
        pip('install', '--no-deps', '--no-build-isolation', '--editable', sources)
    program_output, result = use()
    command_help = run(environment / 'bin' / 'amhp', '--help', cwd=folder)
    seen.append(files())
    pip('uninstall', '--yes', 'pyiqa-amhp')
    seen.append(files())
    _, result_after = use()
    return Installation(
        request.param, sources, environment, program_output, result, command_help,
        tuple(seen), result_after,
    )  # fmt: skip


def test_the_wheel_has_the_pth_file_beside_the_package(wheel_names):
    assert {'pyiqa_amhp_autoload.pth', '_pyiqa_amhp_autoload.py', 'pyiqa_amhp/__init__.py'} <= set(
        wheel_names
    )


def test_the_wheel_has_every_module_and_data_file_of_the_package(wheel_names):
    here = {
        str(path.relative_to(ROOT))
        for path in (ROOT / 'pyiqa_amhp').rglob('*')
        if path.is_file() and not re.search(r'/(__pycache__|\.\w+_cache)/', path.as_posix())
    }
    assert 'pyiqa_amhp/demo/report.html' in here
    here.add('pyiqa_amhp/datasets/attribute_keywords.yml')  # copied from datasets_meta
    assert here == {name for name in wheel_names if name.startswith('pyiqa_amhp/')}


def test_the_wheel_has_nothing_else_beside_the_package(wheel_names):
    top_level = {name.split('/')[0] for name in wheel_names}
    metadata = next(top for top in top_level if top.endswith('.dist-info'))
    assert top_level == {
        'pyiqa_amhp', '_pyiqa_amhp_autoload.py', 'pyiqa_amhp_autoload.pth', metadata
    }  # fmt: skip
    assert f'{metadata}/licenses/LICENSE' in wheel_names


def test_the_pth_file_is_one_import():
    lines = (ROOT / 'pyiqa_amhp_autoload.pth').read_text().splitlines()
    assert lines == ['import _pyiqa_amhp_autoload']


def test_the_source_archive_has_what_a_build_needs(tmp_path):
    sources = copy_sources(tmp_path / 'sources')
    build = f'from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})'
    run(sys.executable, '-c', build, cwd=sources)
    with tarfile.open(next(tmp_path.glob('*.tar.gz'))) as archive:
        names = {name.partition('/')[2] for name in archive.getnames()}
    assert {*SOURCES} - {'options', 'tests'} <= names
    assert {'pyiqa_amhp/demo/report.html', 'datasets_meta/attribute_keywords.yml'} <= names


def test_pyiqa_lists_amhp_without_an_import_of_the_package(installation):
    assert installation.result['listed']
    assert "'amhp'" in installation.program_output


def test_pyiqa_scores_an_image_file_without_an_import_of_the_package(installation):
    assert 1 <= installation.result['score'] <= 10


def test_the_installed_package_is_the_one_that_ran(installation):
    root = installation.environment if installation.method == 'wheel' else installation.sources
    assert Path(installation.result['file']).is_relative_to(root)


def test_the_command_is_installed(installation):
    assert 'score' in installation.command_help


def test_uninstalling_leaves_no_file_behind(installation):
    before, between, after = installation.files
    assert between > before
    assert after == before


def test_pyiqa_works_without_amhp_after_uninstalling(installation):
    assert installation.result_after == {'listed': False, 'psnr': pytest.approx(0, abs=1e-4)}
