"""Real installs with pip into an environment that has all we need but not ourselves."""

import json
import os
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

try:  # importing it would have setuptools give up its distutils, which torch.compile needs
    version('pip')
except PackageNotFoundError:
    pytest.skip('installs with pip', allow_module_level=True)

ROOT = Path(__file__).parents[1]
SOURCES = (
    'LICENSE', 'MANIFEST.in', 'README.md', '_pyiqa_amhp_autoload.py', 'datasets_meta', 'options',
    'pyiqa_amhp', 'pyiqa_amhp_autoload.pth', 'pyproject.toml', 'setup.py', 'tests',
)  # fmt: skip
SITE_PACKAGES = 'lib/python*/site-packages'

# A user's program: nothing of ours is imported. Prints what `pyiqa -ls` does, then one line.
PROGRAM = """
import json, sys
import pyiqa
from pyiqa.pyiqa_cmd import main

sys.argv = ['pyiqa', '-ls']
main()
answer = {'listed': 'amhp' in pyiqa.list_models()}
if answer['listed']:
    encoder = {'layers': 1, 'width': 32}
    backbone = {
        'embed_dim': 16,
        'vision_cfg': {'image_size': 32, 'patch_size': 16, 'head_width': 16, **encoder},
        'text_cfg': {'context_length': 77, 'vocab_size': 49408, 'heads': 2, **encoder},
    }
    metric = pyiqa.create_metric('amhp', pretrained=False, backbone=backbone, device='cpu')
    answer['score'] = float(metric('photo.png', text='lovely light'))
    answer['file'] = sys.modules['pyiqa_amhp'].__file__
else:
    import torch
    answer['psnr'] = float(pyiqa.create_metric('psnr', device='cpu')(
        torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)
    ))
print(json.dumps(answer))
"""


def run(*command, cwd=None):
    """The output of a command that must succeed, without anything set up for this process."""
    names = ('PYTHONPATH', 'PYTHONHOME', 'PYIQA_AMHP_AUTOLOAD')
    environment = {k: v for k, v in os.environ.items() if k not in names}
    environment |= {'PIP_NO_INDEX': '1', 'PIP_DISABLE_PIP_VERSION_CHECK': '1'}
    result = subprocess.run(
        [str(part) for part in command], env=environment, cwd=cwd, capture_output=True, text=True
    )
    assert result.returncode == 0, f'{command}:\n{result.stdout}\n{result.stderr}'
    return result.stdout


def copy_sources(folder):
    folder.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns('__pycache__', '*.csv', '*.arrow')
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
def others(tmp_path_factory):
    """A folder with links to every installed package but ours, however ours is installed."""
    folder = tmp_path_factory.mktemp('others')
    for place in sys.path:
        if Path(place).name in ('site-packages', 'dist-packages'):
            for entry in Path(place).iterdir():
                link = folder / entry.name
                if 'pyiqa_amhp' not in entry.name and not link.exists():
                    link.symlink_to(entry)
    return folder


@dataclass
class Life:
    """What was seen of an environment in which our package was installed and uninstalled."""

    way: str
    sources: Path
    environment: Path
    program_output: str
    answer: dict
    command_help: str
    files: tuple[set, set, set]  # before, between and after
    answer_after: dict


@pytest.fixture(scope='module', params=['wheel', 'editable'])
def life(request, others, wheel, tmp_path_factory):
    """Install, use, uninstall, in each of both ways."""
    folder = tmp_path_factory.mktemp(request.param)
    environment = folder / 'env'
    venv.create(environment, symlinks=True)
    python = environment / 'bin' / 'python'
    site_packages = next(environment.glob(SITE_PACKAGES))
    # A path that a .pth file names is searched last, and .pth files in it are not run.
    (site_packages / 'others.pth').write_text(f'{others}\n')
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
    program_output, answer = use()
    command_help = run(environment / 'bin' / 'amhp', '--help', cwd=folder)
    seen.append(files())
    pip('uninstall', '--yes', 'pyiqa-amhp')
    seen.append(files())
    _, answer_after = use()
    return Life(
        request.param, sources, environment, program_output, answer, command_help,
        tuple(seen), answer_after,
    )  # fmt: skip


def test_wheel_has_the_pth_beside_the_package(wheel_names):
    assert {'pyiqa_amhp_autoload.pth', '_pyiqa_amhp_autoload.py', 'pyiqa_amhp/__init__.py'} <= set(
        wheel_names
    )


def test_wheel_has_every_module_and_data_file_of_the_package(wheel_names):
    here = {
        str(path.relative_to(ROOT))
        for path in (ROOT / 'pyiqa_amhp').rglob('*')
        if path.is_file() and '__pycache__' not in path.parts
    }
    assert 'pyiqa_amhp/demo/report.html' in here
    here.add('pyiqa_amhp/datasets/attribute_keywords.yml')  # from datasets_meta
    assert here == {name for name in wheel_names if name.startswith('pyiqa_amhp/')}


def test_wheel_has_nothing_beside_the_package(wheel_names):
    tops = {name.split('/')[0] for name in wheel_names}
    metadata = next(top for top in tops if top.endswith('.dist-info'))
    assert tops == {
        'pyiqa_amhp', '_pyiqa_amhp_autoload.py', 'pyiqa_amhp_autoload.pth', metadata
    }  # fmt: skip
    assert f'{metadata}/licenses/LICENSE' in wheel_names


def test_pth_is_one_import_line():
    lines = (ROOT / 'pyiqa_amhp_autoload.pth').read_text().splitlines()
    assert lines == ['import _pyiqa_amhp_autoload']


def test_source_archive_has_what_a_build_needs(tmp_path):
    sources = copy_sources(tmp_path / 'sources')
    build = f'from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})'
    run(sys.executable, '-c', build, cwd=sources)
    with tarfile.open(next(tmp_path.glob('*.tar.gz'))) as archive:
        names = {name.partition('/')[2] for name in archive.getnames()}
    assert {*SOURCES} - {'options', 'tests'} <= names
    assert {'pyiqa_amhp/demo/report.html', 'datasets_meta/attribute_keywords.yml'} <= names


def test_pyiqa_lists_amhp_with_nothing_of_ours_imported(life):
    assert life.answer['listed']
    assert "'amhp'" in life.program_output


def test_pyiqa_scores_an_image_file_with_nothing_of_ours_imported(life):
    assert 1 <= life.answer['score'] <= 10


def test_the_installed_package_is_the_one_that_ran(life):
    home = life.environment if life.way == 'wheel' else life.sources
    assert Path(life.answer['file']).is_relative_to(home)


def test_the_command_is_installed(life):
    assert 'score' in life.command_help


def test_uninstalling_leaves_no_file_behind(life):
    before, between, after = life.files
    assert between > before
    assert after == before


def test_pyiqa_works_as_before_after_uninstalling(life):
    assert life.answer_after == {'listed': False, 'psnr': pytest.approx(0, abs=1e-4)}
