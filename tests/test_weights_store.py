"""The user's store of trained weights, default weights, and atomic writing of files."""

import pickle
import re
from pathlib import Path

import pyiqa
import pytest
import torch
from conftest import add_to_store

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.model.tanet import TANet
from pyiqa_amhp.plugin import METRIC_CONFIGS
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


def test_weights_of_another_scale_in_the_variable_give_way_to_the_store(
    make_amhp, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(weights, '_warned', set())
    ava, para = make_amhp(0), make_amhp(1, dataset='para')
    monkeypatch.setenv('PYIQA_AMHP_WEIGHTS', str(save(ava, tmp_path / 'ava.pth')))
    with pytest.raises(AMHPError, match=r"trained on the scale of 'ava'.* of 'para'"):
        pyiqa.create_metric('amhp-para', device='cpu')
    add_to_store(save(para, tmp_path / 'para.pth'), 'para')
    add_to_store(tmp_path / 'para.pth', 'ava')
    for _ in range(2):
        assert torch.equal(score(pyiqa.create_metric('amhp-para', device='cpu').net), score(para))
    assert torch.equal(score(pyiqa.create_metric('amhp', device='cpu').net), score(ava))
    (line,) = [line for line in caplog.messages if 'PYIQA_AMHP_WEIGHTS' in line]
    assert "ava.pth is of the scale of 'ava'; the weights stored as 'para' are used" in line
    own = {'level_values': [0, 1, 2, 3, 4], 'device': 'cpu'}  # with which any weights will do
    net = pyiqa.create_metric('amhp-para', **own).net
    assert torch.equal(net.fc.weight, ava.fc.weight)


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ({}, '1, 10'),
        ({'dataset': 'para'}, '1, 5'),
        ({'level_values': [1, 2.5, 4, 5.5, 7]}, '1, 7'),
        ({'levels': ['a', 'b'], 'level_values': [-0.5, 3]}, '-0.5, 3'),
    ],
    ids=str,
)
def test_score_range_is_that_of_the_weights(make_amhp, tmp_path, options, expected):
    path = save(make_amhp(**options), tmp_path / 'net.pth')
    metric = pyiqa.create_metric('amhp', pretrained_model_path=str(path), device='cpu')
    assert metric.score_range == expected
    assert pickle.loads(pickle.dumps(metric)).score_range == expected
    assert pyiqa.create_metric('psnr', device='cpu').score_range == '~0, ~40'
    metric.score_range = 'own'
    metric.net = torch.nn.Identity()
    assert metric.score_range == 'own'


# TANet


def test_tanet_finds_its_weights_in_the_variable_and_in_the_store(
    make_amhp, tmp_path, monkeypatch, checkpoint, amhp, tanet_warnings
):
    with pytest.raises(AMHPError, match='amhp weights add FILE --as tanet'):
        pyiqa.create_metric('tanet', device='cpu')
    code, out, _ = amhp('weights', 'add', checkpoint)
    assert code == 0 and 'tanet.safetensors' in out
    expected = TANet(pretrained_model_path=checkpoint).head[2].weight
    monkeypatch.setenv('PYIQA_AMHP_WEIGHTS', str(save(make_amhp(), tmp_path / 'amhp.pth')))
    assert torch.equal(TANet().head[2].weight, expected)
    monkeypatch.setenv('PYIQA_AMHP_WEIGHTS', str(checkpoint))
    assert amhp('weights', 'remove', 'tanet')[0] == 0
    assert torch.equal(TANet().head[2].weight, expected)
    with pytest.raises(AMHPError, match='no AMHP configuration'):
        pyiqa.create_metric('amhp', device='cpu')
    net = make_amhp(1)
    add_to_store(save(net, tmp_path / 'net.pth'), 'ava')
    assert torch.equal(score(pyiqa.create_metric('amhp', device='cpu').net), score(net))


def test_the_names_of_tanet_and_amhp_in_the_store_are_not_exchanged(
    make_amhp, tmp_path, checkpoint, amhp
):
    path = save(make_amhp(), tmp_path / 'net.pth')
    code, _, err = amhp('weights', 'add', path, '--as', 'tanet')
    assert code == 1 and "the name 'tanet' is for a TANet" in err
    code, _, err = amhp('weights', 'add', checkpoint, '--as', 'ava')
    assert code == 1 and "a TANet, which is stored as 'tanet', not 'ava'" in err
    assert weights.stored() == {}
    assert amhp('weights', 'add', checkpoint, '--as', 'tanet')[0] == 0
    assert amhp('weights', 'add', path)[0] == 0
    assert list(weights.stored()) == ['ava', 'tanet']
    code, out, _ = amhp('weights', 'list')
    assert code == 0 and 'TANet' in out


def test_a_ray_job_takes_the_weights_of_its_metric(make_amhp, tmp_path, monkeypatch, checkpoint):
    from pyiqa_amhp.scoring.ray.job import ScorerConfig, _find_weights

    ava, para = (tmp_path / f'{name}.pth' for name in ('ava', 'para'))
    save(make_amhp(), ava)
    stored = add_to_store(save(make_amhp(dataset='para'), para), 'para')
    monkeypatch.setenv('PYIQA_AMHP_WEIGHTS', str(ava))
    found = [_find_weights(ScorerConfig(metric=m)) for m in ('amhp', 'amhp-para', 'tanet')]
    assert found == [str(ava), str(stored), None]
    monkeypatch.setenv('PYIQA_AMHP_WEIGHTS', str(checkpoint))
    assert _find_weights(ScorerConfig(metric='tanet')) == str(checkpoint)


# What pyiqa tests of each of its metrics


@pytest.fixture
def every_metric(make_amhp, tiny, tmp_path, checkpoint, amhp):
    """Build a metric of ours by its name, with weights in the store."""
    for dataset in ('ava', 'para', 'aadb'):
        net = make_amhp(dataset=dataset)
        add_to_store(save(net, tmp_path / f'{dataset}.pth'), dataset)
    assert amhp('weights', 'add', checkpoint)[0] == 0

    def build(name, **options):
        if name == 'amhp-clip':  # it has CLIP's own weights, which are not here
            options |= {'pretrained': False, 'backbone': tiny}
        return pyiqa.create_metric(name, device='cpu', **options)

    return build


def test_every_metric_scores_and_has_a_gradient(every_metric):
    x, y = torch.rand(2, 3, 224, 224), torch.rand(2, 3, 224, 224)
    for name in METRIC_CONFIGS:
        score = every_metric(name)(x, y)  # a reference image is ignored
        assert score.shape == (2, 1) and score.isfinite().all(), name
        noise = torch.randn(2, 3, 224, 224, requires_grad=True)  # as a loss any range is allowed
        every_metric(name, as_loss=True)(noise, y).sum().backward()
        assert noise.grad.isfinite().all() and noise.grad.any(), name


@pytest.mark.parametrize('name', [name for name in METRIC_CONFIGS if name != 'amhp-clip'])
def test_pyiqas_command_scores_a_file(every_metric, photos, monkeypatch, capsys, name):
    from pyiqa.pyiqa_cmd import main

    file = str(photos / 'a.png')
    monkeypatch.setattr('sys.argv', ['pyiqa', name, '-t', file, '--device', 'cpu', '-v'])
    main()
    printed = re.search(r"a\.png': (\S+?)[,}]", capsys.readouterr().out)
    assert float(printed[1]) == pytest.approx(float(every_metric(name)(file)), abs=1e-5)


# The store


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
