"""Registration with pyiqa: by the import finder, by entry points, and in the registries.

Most tests run a new Python without site-packages, and with a pyiqa that has only the table of
metrics and the registries of the real one, since that imports at once.
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
def package(tmp_path_factory):
    """A folder with this package alone, without its metadata."""
    folder = tmp_path_factory.mktemp('package')
    sources = Path(plugin.__file__).parent
    shutil.copytree(sources, folder / 'pyiqa_amhp', ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copy(importlib.util.find_spec('_pyiqa_amhp_autoload').origin, folder)
    return folder


@pytest.fixture(scope='module')
def metadata(tmp_path_factory):
    """A folder with the entry points of this package."""
    folder = tmp_path_factory.mktemp('metadata')
    metadata = folder / 'pyiqa_amhp-0.2.0.dist-info'
    metadata.mkdir()
    (metadata / 'METADATA').write_text('Metadata-Version: 2.1\nName: pyiqa-amhp\nVersion: 0.2.0\n')
    entry_points = importlib.metadata.distribution('pyiqa-amhp').read_text('entry_points.txt')
    (metadata / 'entry_points.txt').write_text(entry_points)
    return folder


@pytest.fixture
def pyiqa_parts(tmp_path):
    """A folder with the table of metrics and the registries of pyiqa."""
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
    """Run code in a Python without site-packages and .pth files, with ``folders`` on its path."""

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


def output_of(result):
    """Return what a run printed; the run must have succeeded without a warning."""
    assert (result.returncode, result.stderr) == (0, '')
    return result.stdout.strip()


def test_autoload_imports_nothing_beyond_what_python_has_loaded(python, package):
    code = (
        'import os, sys; before = set(sys.modules); import _pyiqa_amhp_autoload; '
        'print(sorted(set(sys.modules) - before))'
    )
    assert output_of(python(code, package)) == "['_pyiqa_amhp_autoload']"


def test_importing_the_package_imports_neither_torch_nor_pyiqa(python, package, pyiqa_parts):
    code = (
        'import os, sys; before = set(sys.modules); import pyiqa_amhp; '
        'print(sorted(set(sys.modules) - before))'
    )
    assert output_of(python(code, package, pyiqa_parts)) == "['_pyiqa_amhp_autoload', 'pyiqa_amhp']"


@pytest.mark.parametrize('first', ['_pyiqa_amhp_autoload', 'pyiqa_amhp'])
def test_metrics_are_there_as_soon_as_pyiqa_is_imported(python, package, pyiqa_parts, first):
    assert output_of(python(f'import {first}, pyiqa; {LISTED}', package, pyiqa_parts)) == 'True'


@pytest.mark.parametrize('second', ['_pyiqa_amhp_autoload', 'pyiqa_amhp'])
def test_a_pyiqa_that_was_imported_before_gets_them_at_once(python, package, pyiqa_parts, second):
    assert output_of(python(f'import pyiqa, {second}; {LISTED}', package, pyiqa_parts)) == 'True'


def test_without_the_package_pyiqa_has_no_amhp(python, package, pyiqa_parts):
    assert output_of(python(f'import pyiqa; {LISTED}', package, pyiqa_parts)) == 'False'


def test_the_plugin_imports_no_torch(python, package, pyiqa_parts):
    code = (
        'import sys, _pyiqa_amhp_autoload, pyiqa; '
        'print(sorted(n for n in sys.modules if n.split(".")[0] in ("torch", "pyiqa_amhp")))'
    )
    assert output_of(python(code, package, pyiqa_parts)) == "['pyiqa_amhp', 'pyiqa_amhp.plugin']"


def test_a_pyiqa_that_is_imported_anew_gets_the_metrics_again(python, package, pyiqa_parts):
    code = (
        'import sys, _pyiqa_amhp_autoload, pyiqa\n'
        'for name in [name for name in sys.modules if name.startswith("pyiqa.")]:\n'
        '    del sys.modules[name]\n'
        f'del sys.modules["pyiqa"]\nimport pyiqa\n{LISTED}'
    )
    assert output_of(python(code, package, pyiqa_parts)) == 'True'


def test_the_import_hook_does_not_hide_where_the_table_comes_from(python, package, pyiqa_parts):
    code = (
        'import _pyiqa_amhp_autoload, pyiqa, inspect; '
        'print(inspect.getsourcefile(pyiqa.default_model_configs))'
    )
    path = pyiqa_parts / 'pyiqa' / 'default_model_configs.py'
    assert output_of(python(code, package, pyiqa_parts)) == str(path)


def test_switched_off_by_the_environment(python, package, pyiqa_parts):
    code = f'import _pyiqa_amhp_autoload, pyiqa; {LISTED}'
    assert output_of(python(code, package, pyiqa_parts, PYIQA_AMHP_AUTOLOAD='0')) == 'False'


def test_switched_off_an_import_of_the_package_still_registers(python, package, pyiqa_parts):
    code = f'import _pyiqa_amhp_autoload, pyiqa, pyiqa_amhp; {LISTED}'
    assert output_of(python(code, package, pyiqa_parts, PYIQA_AMHP_AUTOLOAD='0')) == 'True'


def test_without_pyiqa_there_is_no_warning(python, package):
    code = (
        'import _pyiqa_amhp_autoload, pyiqa_amhp\n'
        'try:\n    import pyiqa\nexcept ModuleNotFoundError as error:\n    print(error)'
    )
    assert output_of(python(code, package)) == "No module named 'pyiqa'"


def test_a_module_of_that_name_in_another_package_is_not_changed(python, package, tmp_path):
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'default_model_configs.py').write_text('DEFAULT_CONFIGS = {}\n')
    code = 'import _pyiqa_amhp_autoload, other.default_model_configs as m; print(m.DEFAULT_CONFIGS)'
    assert output_of(python(code, package, tmp_path)) == '{}'


def test_a_metric_of_pyiqa_with_the_same_name_is_kept(python, package, pyiqa_parts):
    with open(pyiqa_parts / 'pyiqa' / 'default_model_configs.py', 'a') as file:
        file.write("\nDEFAULT_CONFIGS['amhp'] = 'theirs'\n")
    code = (
        'import _pyiqa_amhp_autoload, pyiqa; '
        'table = pyiqa.default_model_configs.DEFAULT_CONFIGS; '
        'print(table["amhp"], table["amhp-clip"]["metric_mode"])'
    )
    assert output_of(python(code, package, pyiqa_parts)) == 'theirs NR'


@pytest.mark.parametrize(
    'theirs', ["register(dict, name='AMHP')", "register_lazy('AMHP', 'builtins:dict')"]
)
def test_an_arch_of_pyiqa_with_the_same_name_is_kept(python, package, pyiqa_parts, theirs):
    with open(pyiqa_parts / 'pyiqa' / 'utils' / 'registry.py', 'a') as file:
        file.write(f'\nARCH_REGISTRY.{theirs}\n')
    code = (
        f'import _pyiqa_amhp_autoload, pyiqa; {IMPORT_REGISTRIES}; '
        'print(ARCH_REGISTRY.get("AMHP"), "AMHPModel" in MODEL_REGISTRY)'
    )
    assert output_of(python(code, package, pyiqa_parts)) == "<class 'dict'> True"


@pytest.mark.parametrize(
    'broken', ["raise RuntimeError('no registries')", 'class Registry: pass', 'import nosuchmodule']
)
def test_an_error_of_the_plugin_is_a_warning_and_pyiqa_is_imported(
    python, package, pyiqa_parts, broken
):
    (pyiqa_parts / 'pyiqa' / 'utils' / 'registry.py').write_text(broken)
    code = (
        'import _pyiqa_amhp_autoload, pyiqa; '
        'print("psnr" in pyiqa.default_model_configs.DEFAULT_CONFIGS)'
    )
    result = python(code, package, pyiqa_parts)
    assert (result.returncode, result.stdout) == (0, 'True\n')
    assert result.stderr.count('RuntimeWarning: pyiqa-amhp could not register its metrics') == 1
    assert 'PYIQA_AMHP_AUTOLOAD=0 switches this off' in result.stderr


def test_an_autoload_left_without_its_package_is_a_warning(python, package, pyiqa_parts, tmp_path):
    (tmp_path / 'left').mkdir()
    shutil.copy(package / '_pyiqa_amhp_autoload.py', tmp_path / 'left')
    result = python(f'import _pyiqa_amhp_autoload, pyiqa; {LISTED}', tmp_path / 'left', pyiqa_parts)
    assert (result.returncode, result.stdout) == (0, 'False\n')
    assert "No module named 'pyiqa_amhp'" in result.stderr


@pytest.mark.parametrize(('registry', 'name'), NAMES)
def test_registries_are_filled_without_entry_points(python, package, pyiqa_parts, registry, name):
    code = f'import pyiqa_amhp, pyiqa; {IMPORT_REGISTRIES}; print({name!r} in {registry})'
    assert output_of(python(code, package, pyiqa_parts)) == 'True'


@pytest.mark.parametrize(('registry', 'name'), NAMES)
def test_entry_points_alone_fill_the_registries(
    python, package, metadata, pyiqa_parts, registry, name
):
    """Checks a ``--target`` install, where Python reads no .pth file."""
    code = f'import pyiqa; {IMPORT_REGISTRIES}; print({name!r} in {registry})'
    assert output_of(python(code, package, pyiqa_parts)) == 'False'
    assert output_of(python(code, package, metadata, pyiqa_parts)) == 'True'


@pytest.mark.parametrize(('registry', 'name'), NAMES)
def test_registered_names_give_the_classes(registry, name):
    from pyiqa.utils import registry as registries

    found = getattr(registries, registry).get(name)
    module, attribute = REGISTRIES[registry][name].split(':')
    assert found is getattr(importlib.import_module(module), attribute)
    assert found.__name__ == name


def test_no_class_has_the_name_of_a_class_of_pyiqa():
    # From pyiqa's source, since its registries are filled only as its modules are imported.
    source = Path(importlib.util.find_spec('pyiqa').submodule_search_locations[0])
    registered = re.compile(r'_REGISTRY\.register\(.*\)\n(?:@.*\n)*(?:class|def) (\w+)')
    theirs = {name for f in source.rglob('*.py') for name in registered.findall(f.read_text())}
    assert {'AVADataset', 'EMDLoss', 'calculate_rmse', 'GeneralIQAModel', 'NIMA'} <= theirs
    assert not theirs & {name for _, name in NAMES}


def test_no_metric_has_the_name_of_a_metric_of_pyiqa(python, pyiqa_parts):
    code = 'from pyiqa.default_model_configs import DEFAULT_CONFIGS; print(*DEFAULT_CONFIGS)'
    theirs = output_of(python(code, pyiqa_parts)).split()
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
def test_metrics_score_on_the_scale_that_they_state(name, low, high, tiny):
    import pyiqa
    import torch

    metric = pyiqa.create_metric(name, pretrained=False, backbone=tiny, device='cpu')
    values = metric.net.config.level_values
    assert low <= values[0] < values[-1] <= high
    assert metric.score_range == f'{low}, {high}'
    assert low <= float(metric(torch.rand(1, 3, 32, 32))) <= high
