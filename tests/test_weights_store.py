"""The user's store of trained weights, and atomic writing of files."""

from pathlib import Path

import pytest
import torch
from conftest import add_to_store

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.utils.files import write_atomically
from pyiqa_amhp.weights import store as weights
from pyiqa_amhp.weights.checkpoint import save_checkpoint


def score(net):
    images = torch.rand(3, 3, 41, 53, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return net.eval()(images, text=['soft evening light', None, 'the horizon is tilted'])


def save(net, path):
    return save_checkpoint(path, net.state_dict())


def test_the_store_adds_lists_and_removes(make_amhp, tmp_path, own_home):
    assert weights.stored() == {}
    net = make_amhp(seed=1, protocol='reference', quick_gelu=True)
    added = add_to_store(save(net, tmp_path / 'net.pth'), 'my_own-2')
    assert added == weights.store_path('my_own-2') == own_home / 'weights' / 'my_own-2.safetensors'
    assert weights.stored() == {'my_own-2': added}
    assert torch.equal(score(AMHP(pretrained_model_path=str(added))), score(net))
    assert weights.remove_from_store('my_own-2') == added
    assert weights.stored() == {}
    assert not added.exists()


def test_adding_a_name_again_replaces_it(make_amhp, tmp_path):
    nets = [make_amhp(seed) for seed in range(2)]
    for i, net in enumerate(nets):
        added = add_to_store(save(net, tmp_path / f'{i}.safetensors'), 'ava')
    assert torch.equal(score(AMHP(pretrained_model_path=str(added))), score(nets[1]))
    assert list(added.parent.iterdir()) == [added]


@pytest.mark.parametrize('name', ['', '../ava', 'a/b', 'AVA', '.hidden', '-x', 'a.b', 'ä', 'ava\n'])
def test_a_bad_name_is_refused_before_anything_is_written(make_amhp, tmp_path, own_home, name):
    path = save(make_amhp(), tmp_path / 'net.pth')
    for use in (
        weights.store_path,
        weights.remove_from_store,
        lambda n: add_to_store(path, n),
    ):
        with pytest.raises(AMHPError, match='use lower-case letters, digits'):
            use(name)
    assert list(own_home.rglob('*')) == []


def test_removing_an_absent_entry_lists_the_entries(make_amhp, tmp_path):
    with pytest.raises(AMHPError, match=r"no weights are stored as 'para' \(stored: nothing\)"):
        weights.remove_from_store('para')
    add_to_store(save(make_amhp(), tmp_path / 'net.pth'), 'ava')
    with pytest.raises(AMHPError, match=r'\(stored: ava\)'):
        weights.remove_from_store('para')


def test_another_file_than_a_checkpoint_is_not_stored(tmp_path):
    torch.save({'params': {'weight': torch.ones(2)}}, tmp_path / 'other.pth')
    with pytest.raises(AMHPError, match='no AMHP configuration'):
        add_to_store(tmp_path / 'other.pth', 'ava')
    assert weights.stored() == {}


def test_the_store_is_in_the_users_data_folder_or_the_given_one(monkeypatch, tmp_path):
    monkeypatch.delenv('PYIQA_AMHP_HOME')
    assert 'pyiqa_amhp' in weights.store_path().parts
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('PYIQA_AMHP_HOME', '~/mine')
    assert weights.store_path() == tmp_path / 'mine' / 'weights'


# Writing


def test_a_reader_of_the_old_file_still_reads_it_after_the_replacement(tmp_path):
    path = tmp_path / 'net.pth'
    path.write_text('before')
    with path.open() as reader:
        write_atomically(path, lambda file: file.write_text('after'))
        assert reader.read() == 'before'
    assert path.read_text() == 'after'


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / 'net.pth'
    path.write_text('before')

    def fail(file: Path):
        file.write_text('half')
        raise OSError('the disk is full')

    for target in (path, tmp_path / 'new.pth'):
        with pytest.raises(AMHPError, match=r'could not be written .*the disk is full'):
            write_atomically(target, fail)
    assert path.read_text() == 'before'
    assert list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_that_cannot_replace_its_target_leaves_no_file(make_amhp, tmp_path):
    (tmp_path / 'net.pth').mkdir()
    with pytest.raises(AMHPError, match=r'net\.pth: could not be written'):
        save(make_amhp(), tmp_path / 'net.pth')
    assert list(tmp_path.iterdir()) == [tmp_path / 'net.pth']


def test_folders_are_made_and_the_file_has_ordinary_permissions(tmp_path):
    path = write_atomically(tmp_path / 'a' / 'b.txt', lambda file: file.write_text('x'))
    ordinary = tmp_path / 'ordinary.txt'
    ordinary.write_text('x')
    assert path.stat().st_mode == ordinary.stat().st_mode
    assert path.read_text() == 'x'
