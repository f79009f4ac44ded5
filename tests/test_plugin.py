"""How pyiqa comes to know AMHP: the note in the import system, the entry points, the registries.

Most tests run in a Python of their own, without site-packages, and with a pyiqa that consists of
the real one's table of metrics and registries only: it imports at once.
"""

import importlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pyiqa_amhp import plugin

REGISTRIES = {
    'ARCH_REGISTRY': plugin.ARCHS,
    'DATASET_REGISTRY': plugin.DATASETS,
    'LOSS_REGISTRY': plugin.LOSSES,
    'METRIC_REGISTRY': plugin.METRICS,
    'MODEL_REGISTRY': plugin.MODELS,
}
NAMES = [(registry, name) for registry, names in REGISTRIES.items() for name in names]
IMPORT_REGISTRIES = 'from pyiqa.utils.registry import *'
LISTED = 'from pyiqa.default_model_configs import DEFAULT_CONFIGS as T; print("amhp" in T)'


@pytest.fixture(scope='module')
def ours(tmp_path_factory):
    """A folder with this package and nothing else, its metadata neither."""
    folder = tmp_path_factory.mktemp('ours')
    package = Path(plugin.__file__).parent
    shutil.copytree(package, folder / 'pyiqa_amhp', ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copy(importlib.util.find_spec('_pyiqa_amhp_autoload').origin, folder)
    return folder


@pytest.fixture(scope='module')
def metadata(tmp_path_factory):
    """A folder with the entry points of this package."""
    folder = tmp_path_factory.mktemp('metadata')
    metadata = folder / 'pyiqa_amhp-0.1.0.dist-info'
    metadata.mkdir()
    (metadata / 'METADATA').write_text('Metadata-Version: 2.1\nName: pyiqa-amhp\nVersion: 0.1.0\n')
    entry_points = importlib.metadata.distribution('pyiqa-amhp').read_text('entry_points.txt')
    (metadata / 'entry_points.txt').write_text(entry_points)
    return folder


@pytest.fixture
def pyiqa_parts(tmp_path):
    """A folder with the parts of pyiqa that a plug-in meets."""
    real = Path(importlib.util.find_spec('pyiqa').submodule_search_locations[0])
    folder = tmp_path / 'parts'
    (folder / 'pyiqa' / 'utils').mkdir(parents=True)
    (folder / 'pyiqa' / '__init__.py').write_text('from . import default_model_configs\n')
    (folder / 'pyiqa' / 'utils' / '__init__.py').touch()
    for name in ('default_model_configs.py', 'utils/registry.py'):
        shutil.copy(real / name, folder / 'pyiqa' / name)
    return folder


@pytest.fixture
def python(tmp_path):
    """Run code in a bare Python (no site-packages, no .pth files) with ``folders`` on its path."""

    def run(code, *folders, **environment):
        return subprocess.run(
            [sys.executable, '-S', '-c', code],
            env={'PATH': os.defpath, 'PYTHONPATH': os.pathsep.join(map(str, folders))}
            | environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    return run


def said(result):
    """What a run printed, after it is clear that it neither failed nor complained."""
    assert (result.returncode, result.stderr) == (0, '')
    return result.stdout.strip()


def test_autoload_imports_nothing_beyond_what_python_has_loaded(python, ours):
    code = (
        'import os, sys; before = set(sys.modules); import _pyiqa_amhp_autoload; '
        'print(sorted(set(sys.modules) - before))'
    )
    assert said(python(code, ours)) == "['_pyiqa_amhp_autoload']"


def test_importing_the_package_imports_neither_torch_nor_pyiqa(python, ours, pyiqa_parts):
    code = (
        'import os, sys; before = set(sys.modules); import pyiqa_amhp; '
        'print(sorted(set(sys.modules) - before))'
    )
    assert said(python(code, ours, pyiqa_parts)) == "['_pyiqa_amhp_autoload', 'pyiqa_amhp']"


@pytest.mark.parametrize('first', ['_pyiqa_amhp_autoload', 'pyiqa_amhp'])
def test_metrics_are_there_as_soon_as_pyiqa_is_imported(python, ours, pyiqa_parts, first):
    assert said(python(f'import {first}, pyiqa; {LISTED}', ours, pyiqa_parts)) == 'True'


@pytest.mark.parametrize('second', ['_pyiqa_amhp_autoload', 'pyiqa_amhp'])
def test_a_pyiqa_that_was_imported_before_gets_them_at_once(python, ours, pyiqa_parts, second):
    assert said(python(f'import pyiqa, {second}; {LISTED}', ours, pyiqa_parts)) == 'True'


def test_without_us_pyiqa_has_no_amhp(python, ours, pyiqa_parts):
    assert said(python(f'import pyiqa; {LISTED}', ours, pyiqa_parts)) == 'False'


def test_nothing_is_imported_for_a_name_that_nobody_asked_for(python, ours, pyiqa_parts):
    code = (
        'import sys, _pyiqa_amhp_autoload, pyiqa; '
        'print(sorted(n for n in sys.modules if n.split(".")[0] in ("torch", "pyiqa_amhp")))'
    )
    assert said(python(code, ours, pyiqa_parts)) == "['pyiqa_amhp', 'pyiqa_amhp.plugin']"


def test_a_pyiqa_that_is_loaded_anew_is_told_again(python, ours, pyiqa_parts):
    code = (
        'import sys, _pyiqa_amhp_autoload, pyiqa\n'
        'for name in [name for name in sys.modules if name.startswith("pyiqa.")]:\n'
        '    del sys.modules[name]\n'
        f'del sys.modules["pyiqa"]\nimport pyiqa\n{LISTED}'
    )
    assert said(python(code, ours, pyiqa_parts)) == 'True'


def test_the_import_hook_does_not_hide_where_the_table_comes_from(python, ours, pyiqa_parts):
    code = (
        'import _pyiqa_amhp_autoload, pyiqa, inspect; '
        'print(inspect.getsourcefile(pyiqa.default_model_configs))'
    )
    path = pyiqa_parts / 'pyiqa' / 'default_model_configs.py'
    assert said(python(code, ours, pyiqa_parts)) == str(path)


def test_switched_off_by_the_environment(python, ours, pyiqa_parts):
    code = f'import _pyiqa_amhp_autoload, pyiqa; {LISTED}'
    assert said(python(code, ours, pyiqa_parts, PYIQA_AMHP_AUTOLOAD='0')) == 'False'


def test_switched_off_an_import_of_the_package_still_registers(python, ours, pyiqa_parts):
    code = f'import _pyiqa_amhp_autoload, pyiqa, pyiqa_amhp; {LISTED}'
    assert said(python(code, ours, pyiqa_parts, PYIQA_AMHP_AUTOLOAD='0')) == 'True'


def test_silent_where_pyiqa_is_not_installed(python, ours):
    code = (
        'import _pyiqa_amhp_autoload, pyiqa_amhp\n'
        'try:\n    import pyiqa\nexcept ModuleNotFoundError as error:\n    print(error)'
    )
    assert said(python(code, ours)) == "No module named 'pyiqa'"


def test_another_package_with_such_a_module_is_left_alone(python, ours, tmp_path):
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'default_model_configs.py').write_text('DEFAULT_CONFIGS = {}\n')
    code = 'import _pyiqa_amhp_autoload, other.default_model_configs as m; print(m.DEFAULT_CONFIGS)'
    assert said(python(code, ours, tmp_path)) == '{}'


def test_a_metric_of_pyiqas_with_our_name_is_kept(python, ours, pyiqa_parts):
    with open(pyiqa_parts / 'pyiqa' / 'default_model_configs.py', 'a') as file:
        file.write("\nDEFAULT_CONFIGS['amhp'] = 'theirs'\n")
    code = (
        'import _pyiqa_amhp_autoload, pyiqa; '
        'table = pyiqa.default_model_configs.DEFAULT_CONFIGS; '
        'print(table["amhp"], table["amhp-clip"]["metric_mode"])'
    )
    assert said(python(code, ours, pyiqa_parts)) == 'theirs NR'


@pytest.mark.parametrize(
    'theirs', ["register(dict, name='AMHP')", "register_lazy('AMHP', 'builtins:dict')"]
)
def test_an_arch_of_pyiqas_with_our_name_is_kept(python, ours, pyiqa_parts, theirs):
    with open(pyiqa_parts / 'pyiqa' / 'utils' / 'registry.py', 'a') as file:
        file.write(f'\nARCH_REGISTRY.{theirs}\n')
    code = (
        f'import _pyiqa_amhp_autoload, pyiqa; {IMPORT_REGISTRIES}; '
        'print(ARCH_REGISTRY.get("AMHP"), "AMHPModel" in MODEL_REGISTRY)'
    )
    assert said(python(code, ours, pyiqa_parts)) == "<class 'dict'> True"


@pytest.mark.parametrize(
    'broken', ["raise RuntimeError('no registries')", 'class Registry: pass', 'import nosuchmodule']
)
def test_a_fault_of_ours_is_a_warning_and_pyiqa_is_imported(python, ours, pyiqa_parts, broken):
    (pyiqa_parts / 'pyiqa' / 'utils' / 'registry.py').write_text(broken)
    code = (
        'import _pyiqa_amhp_autoload, pyiqa; '
        'print("psnr" in pyiqa.default_model_configs.DEFAULT_CONFIGS)'
    )
    result = python(code, ours, pyiqa_parts)
    assert (result.returncode, result.stdout) == (0, 'True\n')
    assert result.stderr.count('RuntimeWarning: pyiqa-amhp could not register its metrics') == 1
    assert 'PYIQA_AMHP_AUTOLOAD=0 switches this off' in result.stderr


def test_an_autoload_left_without_its_package_is_a_warning(python, ours, pyiqa_parts, tmp_path):
    (tmp_path / 'left').mkdir()
    shutil.copy(ours / '_pyiqa_amhp_autoload.py', tmp_path / 'left')
    result = python(f'import _pyiqa_amhp_autoload, pyiqa; {LISTED}', tmp_path / 'left', pyiqa_parts)
    assert (result.returncode, result.stdout) == (0, 'False\n')
    assert "No module named 'pyiqa_amhp'" in result.stderr


@pytest.mark.parametrize(('registry', 'name'), NAMES)
def test_registries_are_filled_without_entry_points(python, ours, pyiqa_parts, registry, name):
    code = f'import pyiqa_amhp, pyiqa; {IMPORT_REGISTRIES}; print({name!r} in {registry})'
    assert said(python(code, ours, pyiqa_parts)) == 'True'


@pytest.mark.parametrize(('registry', 'name'), NAMES)
def test_entry_points_alone_fill_the_registries(
    python, ours, metadata, pyiqa_parts, registry, name
):
    """As in a ``--target`` install, where Python reads no .pth file."""
    code = f'import pyiqa; {IMPORT_REGISTRIES}; print({name!r} in {registry})'
    assert said(python(code, ours, pyiqa_parts)) == 'False'
    assert said(python(code, ours, metadata, pyiqa_parts)) == 'True'


@pytest.mark.parametrize(('registry', 'name'), NAMES)
def test_registered_names_give_our_classes(registry, name):
    from pyiqa.utils import registry as registries

    found = getattr(registries, registry).get(name)
    module, attribute = REGISTRIES[registry][name].split(':')
    assert found is getattr(importlib.import_module(module), attribute)
    assert found.__name__ == name


def test_no_class_of_ours_has_the_name_of_one_of_pyiqas():
    """Its registries are filled as its modules are imported, so this reads their source."""
    source = Path(importlib.util.find_spec('pyiqa').submodule_search_locations[0])
    registered = re.compile(r'_REGISTRY\.register\(.*\)\n(?:@.*\n)*(?:class|def) (\w+)')
    theirs = {name for f in source.rglob('*.py') for name in registered.findall(f.read_text())}
    assert {'AVADataset', 'EMDLoss', 'calculate_rmse', 'GeneralIQAModel', 'NIMA'} <= theirs
    assert not theirs & {name for _, name in NAMES}


def test_no_metric_of_ours_has_the_name_of_one_of_pyiqas(python, pyiqa_parts):
    code = 'from pyiqa.default_model_configs import DEFAULT_CONFIGS; print(*DEFAULT_CONFIGS)'
    theirs = said(python(code, pyiqa_parts)).split()
    assert 'psnr' in theirs
    assert not set(theirs) & set(plugin.METRIC_CONFIGS)


def test_registering_again_changes_nothing():
    import pyiqa
    from pyiqa.default_model_configs import DEFAULT_CONFIGS
    from pyiqa.utils import registry as registries

    def state():
        maps = [
            (dict(r._obj_map), dict(r._lazy_map))
            for r in (getattr(registries, name) for name in REGISTRIES)
        ]
        return dict(DEFAULT_CONFIGS), maps, pyiqa.list_models()

    before = state()
    plugin.register_all()
    plugin.register_all()
    assert state() == before


@pytest.mark.parametrize('name', plugin.METRIC_CONFIGS)
def test_metrics_are_listed_as_no_reference_metrics(name):
    import pyiqa

    assert name in pyiqa.list_models(metric_mode='NR')
    assert name not in pyiqa.list_models(metric_mode='FR')


@pytest.mark.parametrize(
    ('name', 'low', 'high'), [('amhp', 1, 10), ('amhp-para', 1, 5), ('amhp-aadb', 0, 1)]
)
def test_metrics_judge_on_the_scale_they_state(name, low, high, tiny):
    import pyiqa
    import torch

    metric = pyiqa.create_metric(name, pretrained=False, backbone=tiny, device='cpu')
    values = metric.net.config.level_values
    assert low <= values[0] < values[-1] <= high
    assert metric.score_range == f'{low}, {high}'
    assert low <= float(metric(torch.rand(1, 3, 32, 32))) <= high
