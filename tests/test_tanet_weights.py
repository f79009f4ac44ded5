"""TANet: checkpoints, calibration, training."""

import re

import numpy as np
import pytest
import safetensors.torch
import torch
from scipy.stats import spearmanr
from test_tanet import response_by_hand, scene_by_hand, square_by_hand, target_of_batch_by_hand

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model import tanet_calibration
from pyiqa_amhp.model.tanet import TANet
from pyiqa_amhp.model.tanet_calibration import calibrate

# Weights


def test_random_weights_need_no_file_and_log_no_warning(tanet_warnings):
    import pyiqa

    metric = pyiqa.create_metric('tanet', pretrained=False, device='cpu')
    assert 1 < float(metric(torch.rand(1, 3, 50, 60))) < 10
    assert (metric.metric_mode, metric.score_range, metric.lower_better) == ('NR', '1, 10', False)
    assert tanet_warnings() == []


def test_without_weights_the_error_tells_how_to_give_them():
    with pytest.raises(AMHPError, match=r'pretrained_model_path=FILE.*or pretrained=False'):
        TANet()
    with pytest.raises(AMHPError, match="pretrained='clip': expected True or False"):
        TANet(pretrained='clip')


def test_a_checkpoint_of_the_authors_loads_completely(checkpoint, authors):
    state = TANet(pretrained_model_path=checkpoint).state_dict()
    assert state.keys() - authors.keys() == {
        'tygertnet.bn7.running_mean', 'tygertnet.bn7.running_var',
        'tygertnet.bn7.num_batches_tracked',
    }  # fmt: skip
    assert all(torch.equal(state[name], authors[name]) for name in authors)


@pytest.mark.parametrize('file_format', ['module', 'wrapped', 'safetensors'])
def test_other_formats_of_the_checkpoint_load_too(authors, file_format, tmp_path):
    file = tmp_path / f'tanet.{"safetensors" if file_format == "safetensors" else "pth"}'
    if file_format == 'module':
        torch.save({f'module.{name}': value for name, value in authors.items()}, file)
    elif file_format == 'wrapped':
        torch.save({'epoch': 3, 'state_dict': authors}, file)
    else:
        safetensors.torch.save_file(authors, file)
    net = TANet(pretrained_model_path=file)
    assert torch.equal(net.head[2].weight, authors['head.2.weight'])


def test_a_checkpoint_without_statistics_logs_one_warning(checkpoint, tanet_warnings):
    nets = [TANet(pretrained_model_path=checkpoint) for _ in range(2)]
    [message] = tanet_warnings()
    assert not any(net.calibrated for net in nets)
    assert 'TANet is uncalibrated' in message
    assert f'amhp tanet calibrate {checkpoint} IMAGES --out FILE.pth' in message


@pytest.mark.parametrize(
    ('change', 'expected'),
    [
        (
            lambda state: state.pop('hypernet.last_out_b.bias'),
            r'1 missing: hypernet.last_out_b.bias',
        ),
        (lambda state: state.update(extra=torch.ones(1)), '1 unexpected: extra'),
        (
            lambda state: state.update({'head_rgb.2.weight': torch.ones(10, 9)}),
            r'head_rgb.2.weight is \[10, 9\], expected \[10, 20736\]',
        ),
        (
            lambda state: state.update({'tygertnet.bn7.running_mean': torch.ones(1)}),
            '2 missing: tygertnet.bn7.num_batches_tracked, tygertnet.bn7.running_var',
        ),
        (
            lambda state: state.update(
                {'head.2.weight': torch.ones(1, 30), 'head.2.bias': torch.ones(1)}
            ),
            'one output.*TAD66K',
        ),
    ],
)
def test_keys_that_do_not_fit_are_named(authors, tmp_path, change, expected):
    state = dict(authors)
    change(state)
    torch.save(state, tmp_path / 'other.pth')
    with pytest.raises(AMHPError, match=f'other.pth: .*{expected}'):
        TANet(pretrained_model_path=tmp_path / 'other.pth')


# Calibration


def statistics_by_hand(authors, batch):
    responses = response_by_hand(authors, scene_by_hand(authors, batch))
    return responses.mean(), responses.var(ddof=1)


@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_the_command_stores_the_statistics_of_a_folder(
    amhp, authors, checkpoint, tanet_photos, batch, tmp_path, tanet_warnings, suffix
):
    out = tmp_path / f'calibrated.{suffix}'
    code, printed, _ = amhp(
        'tanet', 'calibrate', checkpoint, tanet_photos, '--out', out, '--device', 'cpu',
        '--method', 'diagonal',
    )  # fmt: skip
    assert code == 0 and '5 images, diagonal' in printed and str(out) in printed
    net = TANet(pretrained_model_path=out).eval()
    assert net.calibrated and net.statistics == 'diagonal'
    [notice] = tanet_warnings()
    assert notice.startswith(f'TANet scores by the diagonal: {out} was calibrated so')
    mean, variance = statistics_by_hand(authors, batch)
    assert net.tygertnet.bn7.running_mean.item() == pytest.approx(mean, rel=1e-4)
    assert net.tygertnet.bn7.running_var.item() == pytest.approx(variance, rel=1e-4)
    state = net.state_dict()
    assert all(torch.equal(state[name], authors[name]) for name in authors)
    assert [file.name for file in tmp_path.iterdir()] == [out.name]


def test_calibrated_responses_have_mean_0_and_variance_1(net, tanet_images):
    assert calibrate(net, tanet_images, 'diagonal') == 5
    with torch.no_grad():
        normal = net.tygertnet.bn7(torch.cat([net.response(x) for x in tanet_images]))
    assert normal.mean().item() == pytest.approx(0, abs=1e-5)
    assert normal.var().item() == pytest.approx(1, abs=1e-3)


def test_the_command_stores_images(
    amhp, authors, checkpoint, tanet_photos, batch, tmp_path, tanet_warnings, monkeypatch
):
    monkeypatch.setitem(tanet_calibration.MIN_IMAGES, 'stored', 5)
    monkeypatch.setattr(tanet_calibration, 'STORED_IMAGES', 3)
    out = tmp_path / 'stored.safetensors'
    code, printed, _ = amhp('tanet', 'calibrate', checkpoint, tanet_photos, '--out', out)
    assert code == 0 and '5 images, 3 of them stored' in printed
    assert [file.name for file in tmp_path.iterdir()] == [out.name]
    net = TANet(pretrained_model_path=out).eval()
    assert net.calibrated and net.statistics == 'stored images'
    [notice] = tanet_warnings()
    assert notice.startswith(f'TANet scores against stored images: {out} was calibrated so')
    scene = scene_by_hand(authors, batch)
    square = square_by_hand(authors, scene)[:, [0, 2, 4]]
    stored = net.tygertnet.stored
    np.testing.assert_allclose(stored.mean, square.mean(axis=0), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(stored.variance, square.var(axis=0), rtol=1e-3)
    state = net.state_dict()
    assert all(torch.equal(state[name], authors[name]) for name in authors)

    with pytest.raises(AMHPError, match='with stored images cannot be trained'):
        net.train()(batch[:2])
    code, _, _ = amhp('tanet', 'calibrate', out, tanet_photos, '--out', out, '--method', 'diagonal')
    assert code == 0 and TANet(pretrained_model_path=out).statistics == 'diagonal'


def test_a_network_trained_here_keeps_its_diagonal(net, tanet_images):
    net.tygertnet.bn7.num_batches_tracked.fill_(3)
    assert net.statistics == 'trained'
    with pytest.raises(AMHPError, match='was trained on the diagonal'):
        calibrate(net, tanet_images)
    assert net.tygertnet.bn7.running_var == 40


def test_info_and_the_fingerprint_tell_the_statistics(checkpoint, authors, tmp_path, monkeypatch):
    from pyiqa_amhp.cli.info import collect_info
    from pyiqa_amhp.scoring.scorer import Scorer, create_metric
    from pyiqa_amhp.weights import store

    stored = {
        'tygertnet.stored.weight': torch.ones(4, 100),
        'tygertnet.stored.mean': torch.ones(4),
        'tygertnet.stored.variance': torch.ones(4),
    }
    files = [checkpoint, tmp_path / 'stored.pth', tmp_path / 'other.pth']
    torch.save({**authors, **stored}, files[1])
    torch.save({**authors, **stored, 'tygertnet.stored.mean': torch.zeros(4)}, files[2])
    said = []
    for file in files:
        monkeypatch.setattr(store, 'stored', lambda file=file: {'tanet': file})
        said.append(collect_info()['weights']['store: tanet'])
    assert said == [
        f'{checkpoint} (statistics: none)',
        *(f'{f} (statistics: stored images)' for f in files[1:]),
    ]
    assert len({Scorer(create_metric('tanet', file, 'cpu')).fingerprint for file in files}) == 3


def test_damaged_stored_images_are_refused(authors, tmp_path):
    stored = {'tygertnet.stored.weight': torch.ones(4, 100), 'tygertnet.stored.mean': torch.ones(3)}
    torch.save({**authors, **stored}, tmp_path / 'other.pth')
    expected = 'tygertnet.stored.variance.*stored.weight is .4, 100., expected .3, 100.'
    with pytest.raises(AMHPError, match=expected):
        TANet(pretrained_model_path=tmp_path / 'other.pth')


def scenes(n):
    """Theme scores of many images: what they have in common, and what they differ in."""
    rng = np.random.default_rng(3)
    return rng.normal(size=365) + 0.6 * rng.normal(size=(n, 20)) @ rng.normal(size=(20, 365)) / 4


def branch_on_batches(authors, scene, size=48):
    """The target branch as the authors run it, batch by batch: ``(N, 10)``."""
    return np.concatenate(
        [target_of_batch_by_hand(authors, part) for part in np.split(scene, len(scene) // size)]
    )


def test_stored_images_rank_as_the_authors_batches_do_and_the_diagonal_does_not(net, authors):
    scene = scenes(96 + 384)
    net.layer_inputs = lambda x: (net.tygertnet.features(x), *net.hypernet(x))
    net = net.double()
    theirs = branch_on_batches(authors, scene[96:]).mean(axis=1)
    agreement = {}
    for method in tanet_calibration.METHODS:
        assert calibrate(net, [torch.tensor(scene[:96])], method) == 96
        x = torch.tensor(scene[96:])
        with torch.no_grad():
            ours = net.tygertnet(x, *net.hypernet(x))
            alone = net.tygertnet(x[7:8], *net.hypernet(x[7:8]))
        torch.testing.assert_close(ours[7:8], alone)  # whatever the batch
        agreement[method] = spearmanr(theirs, ours.mean(dim=1)).statistic
    assert agreement['stored'] > 0.95
    assert agreement['diagonal'] < 0.8
    [twice] = [branch_on_batches(authors, scene[-48:])]
    with torch.no_grad():
        calibrate(net, [torch.tensor(scene[-48:])], 'stored')
        x = torch.tensor(scene[-48:])
        same_batch = net.tygertnet(x, *net.hypernet(x))
    np.testing.assert_allclose(same_batch, twice, rtol=1e-6, atol=1e-9)


def test_images_that_cannot_be_read_are_skipped_and_reported(
    amhp, authors, checkpoint, tanet_photos, batch, tmp_path
):
    (tmp_path / 'bad.png').write_text('no image')
    out = tmp_path / 'calibrated.pth'
    code, printed, err = amhp(
        'tanet', 'calibrate', checkpoint, tmp_path / 'bad.png', tanet_photos, '--out', out,
        '--method', 'diagonal',
    )  # fmt: skip
    assert code == 0 and '5 images' in printed
    assert '1 of 6' in err and 'bad.png' in err
    mean, _ = statistics_by_hand(authors, batch)
    bn7 = TANet(pretrained_model_path=out).tygertnet.bn7
    assert bn7.running_mean.item() == pytest.approx(mean, rel=1e-4)


@pytest.mark.parametrize(
    ('given', 'out', 'expected'),
    [
        (['absent.pth', 'photos'], 'new.pth', 'absent.pth: no such file'),
        (['authors.pth', 'nowhere'], 'new.pth', '0 images.*nowhere: no such file'),
        (['authors.pth', 'photos'], 'new.pth', '5 images: the method stored needs 48 at least'),
        (['authors.pth', 'photos', '--method', 'batch'], 'new.pth', 'expected stored or diagonal'),
        (['authors.pth', 'photos/0.png', '--method', 'diagonal'], 'new.pth', '1 images'),
        (
            ['authors.pth', 'photos/0.png', 'copy.png', '--method', 'diagonal'],
            'new.pth',
            'images that differ',
        ),
        (['authors.pth', 'empty'], 'new.pth', 'empty: no images'),
        (['authors.pth', 'photos'], 'new.csv', 'ends in .pth, .pt, .safetensors'),
        (['authors.pth', 'photos'], 'folder.pth', 'is a folder'),
        (['photos/0.png', 'photos'], 'new.pth', '0.png: damaged, or not a file of weights'),
    ],
)
def test_a_wrong_argument_is_reported_and_nothing_is_written(
    amhp, checkpoint, tanet_photos, tmp_path, monkeypatch, given, out, expected
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'authors.pth').symlink_to(checkpoint)
    (tmp_path / 'photos').symlink_to(tanet_photos)
    (tmp_path / 'copy.png').write_bytes((tanet_photos / '0.png').read_bytes())
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'folder.pth').mkdir()
    before = {file.name for file in tmp_path.iterdir()}
    code, _, err = amhp('tanet', 'calibrate', *given, '--out', out)
    assert code == 1
    assert re.search(expected, err), err
    assert {file.name for file in tmp_path.iterdir()} == before


# Training


@pytest.mark.slow
def test_amhp_train_trains_it(training_options, shared_rated_images, tmp_path, tanet_warnings):
    import yaml

    from pyiqa_amhp.train.pipeline import run_train

    opt = training_options(shared_rated_images, 'tanet')
    for data in opt['datasets'].values():
        data.update(level_values=list(range(1, 11)), augment={'resize': [224, 224]})
    opt['network'] = {'type': 'TANet', 'pretrained': False}
    opt['train']['optim']['lr'] = 1e-4  # a higher one gives every image the same score
    file = tmp_path / 'train.yml'
    file.write_text(yaml.safe_dump(opt))
    best = run_train(file, [], tmp_path)['custom_val']
    assert best.keys() >= {'srcc', 'plcc', 'mse', 'emd1', 'emd2'}
    assert all(np.isfinite(entry['val']) for entry in best.values())

    trained = tmp_path / 'experiments' / 'tanet' / 'models' / 'net_latest.pth'
    net = TANet(pretrained_model_path=trained)
    assert net.calibrated and tanet_warnings() == []
    assert net.tygertnet.bn7.num_batches_tracked == 3  # 12 images, 4 at a time
    assert net.tygertnet.bn7.running_mean != 0


def test_a_step_reaches_every_weight(tanet_images):
    torch.manual_seed(0)
    net = TANet(pretrained=False).train()
    for dropout in (m for m in net.modules() if isinstance(m, torch.nn.Dropout)):
        dropout.p = 0
    x = torch.cat([net.preprocess(image) for image in tanet_images[:4]]) * net.std + net.mean
    net(x, return_mos=False, return_dist=True)[:, 3:].square().sum().backward()
    untouched = {name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()}
    # Its output for negative numbers is negative, and the ReLU that follows blocks the gradient.
    assert 'tygertnet.relu7.weight' in untouched
    # A batch norm subtracts these biases, so their gradient is 0 but for rounding.
    biases = {'hypernet.last_out_b.bias', 'tygertnet.fc1.bias'}
    assert untouched <= {'tygertnet.relu7.weight', *biases}


def test_calibration_reads_images_as_its_options_say(amhp, checkpoint, tanet_photos, tmp_path):
    arguments = ['tanet', 'calibrate', checkpoint, tanet_photos, '--out', tmp_path / 'x.pth']
    arguments += ['--method', 'diagonal']
    code, _, err = amhp(*arguments, '--device', 'cpu', '--max-pixels', 10)
    assert code == 1 and '5 cannot be read' in err and 'and 10 the limit' in err
    code, _, err = amhp(*arguments, '--device', 'cpu', '--no-color-profiles')
    assert code == 0, err
