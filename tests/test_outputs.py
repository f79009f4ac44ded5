"""Outputs, devices and metrics are checked before any work is done for them."""

import pytest

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.utils.environment import check_device
from pyiqa_amhp.utils.files import check_folder, check_output

COMMANDS = {  # arguments that name an output, by what it is
    'file': [
        ('score', 'PHOTOS', '--out', 'OUT.csv'),
        ('export', '--onnx', 'OUT.onnx'),
        ('tanet', 'calibrate', 'absent.pth', 'PHOTOS', '--out', 'OUT.pth'),
    ],
    'folder': [
        ('explain', 'PHOTOS', '--out', 'OUT'),
        ('benchmark', '--metrics', 'entropy', '--data', 'absent.csv', '--out', 'OUT'),
        ('reproduce', 'table1', '--small', '--out', 'OUT'),
        ('prepare', 'para', '--root', 'PHOTOS', '--out', 'OUT'),
        ('demo', '--out', 'OUT'),
        ('weights', 'push', 'absent.pth', 'hf-hub:user/name', '--dry-run', 'OUT'),
        ('score', 'PHOTOS', '--engine', 'ray', '--out', 'OUT'),
    ],
}
ALL = [*COMMANDS['file'], *COMMANDS['folder']]


@pytest.fixture
def run(amhp, photos, monkeypatch):
    """Run a command whose output is ``OUT``; building a model is an error of another kind."""
    monkeypatch.setattr('pyiqa_amhp.scoring.scorer.create_metric', lambda *_, **__: 1 / 0)

    def run(arguments, out):
        if 'ray' in arguments:
            pytest.importorskip('ray')
        names = {'PHOTOS': str(photos)}
        arguments = [names.get(name, name.replace('OUT', str(out))) for name in arguments]
        return amhp(*arguments)

    return run


def name_of(arguments):
    return '-'.join(word for word in arguments if word.isalpha() and word.islower())


@pytest.mark.parametrize('arguments', ALL, ids=name_of)
def test_an_output_that_cannot_be_written_is_found_first(run, tmp_path, arguments):
    (tmp_path / 'file').write_text('')
    code, _, err = run(arguments, tmp_path / 'file' / 'sub' / 'x')
    assert code == 1 and 'could not be written (Not a directory)' in err and 'Error' not in err
    assert (tmp_path / 'file').read_text() == ''


@pytest.mark.parametrize('arguments', COMMANDS['folder'], ids=name_of)
@pytest.mark.parametrize('exists', [True, False])
def test_a_file_in_the_place_of_a_folder_is_refused(run, tmp_path, arguments, exists):
    file = tmp_path / 'scores.csv'
    if exists:
        file.write_text('')
    code, _, err = run(arguments, file)
    assert code == 1 and 'expected a folder, such as' in err and 'Error' not in err
    assert file.exists() == exists


def test_a_check_leaves_nothing_behind(tmp_path):
    check_folder(tmp_path / 'new' / 'folder.v2')
    check_output(tmp_path / 'new' / 'scores.csv', ['.csv'])
    assert list(tmp_path.iterdir()) == []
    old = tmp_path / 'old.csv'
    old.mkdir()
    assert check_folder(old) == old


@pytest.mark.parametrize('device', ['cuda:99', 'nonsense', 'cuda:x', ''])
def test_a_device_that_is_not_there_is_named_with_those_that_are(device):
    with pytest.raises(AMHPError, match=rf'device {device!r} cannot be used here .*one of cpu'):
        check_device(device)


def test_devices_that_are_there_are_fine():
    assert check_device(None) is check_device('cpu') is None


@pytest.mark.parametrize(
    'arguments',
    [
        ('score', 'PHOTOS', '--metric', 'nima'),
        ('explain', 'PHOTOS'),
        ('benchmark', '--metrics', 'entropy', 'nima', '--data', 'DATA'),
    ],
    ids=name_of,
)
def test_no_model_is_built_for_such_a_device(
    amhp, photos, rated_images, tmp_path, monkeypatch, arguments
):
    monkeypatch.setattr('pyiqa.create_metric', lambda *_, **__: 1 / 0)
    monkeypatch.chdir(tmp_path)
    names = {'PHOTOS': photos, 'DATA': rated_images}
    code, _, err = amhp(*(names.get(name, name) for name in arguments), '--device', 'cuda:99')
    assert code == 1 and "device 'cuda:99' cannot be used here" in err
    assert not (tmp_path / 'amhp_benchmark').exists()
