"""Whole trainings and tests: the files they write, their logs, and errors."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from scipy.stats import spearmanr
from train_helpers import load_weights, read_log, same_weights, write_options

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.train.model import AMHPModel
from pyiqa_amhp.train.pipeline import read_curve, run_test, run_train

SHIPPED = Path(__file__).parents[1] / 'options'
METRICS = ('acc', 'srcc', 'plcc', 'krcc', 'mse', 'emd1', 'emd2')
LOWER = ('mse', 'emd1', 'emd2')
LOSS, VAL = 'losses/l_mos', 'val_metrics/custom_val/'


def run(opt, root):
    """Train in ``root``; give the best results, the folder of the checkpoints, and the log."""
    root.mkdir(exist_ok=True)
    best = run_train(write_options(root / 'train.yml', opt), [], root)
    models = root / 'experiments' / opt['name'] / 'models'
    log = read_log(root, opt['name'])
    return SimpleNamespace(root=root, best=best, models=models, log=log, opt=opt)


def curve(result, tag):
    """Read the iterations and the values of a TensorBoard curve."""
    steps, values = zip(*read_curve(result.root, result.opt['name'], tag), strict=True)
    return list(steps), np.array(values)


@pytest.fixture(scope='module')
def trained(training_options, shared_rated_images, tmp_path_factory):
    """Four epochs of three steps; a validation and a checkpoint after each step."""
    opt = training_options(shared_rated_images)
    opt['train']['total_epoch'] = 4
    opt['val'].update(val_freq=1, key_metric='emd1')
    opt['logger'].update(save_checkpoint_freq=1)
    return run(opt, tmp_path_factory.mktemp('run') / 'trained')


# What a training writes


def test_the_train_loss_falls(trained):
    steps, losses = curve(trained, LOSS)
    assert steps == list(range(1, 13))
    assert losses[-3:].mean() < 0.7 * losses[:3].mean()


def test_the_model_learns_what_the_images_show(trained):
    assert curve(trained, VAL + 'mse')[1][-1] < 0.7 * curve(trained, VAL + 'mse')[1][0]


@pytest.mark.parametrize('metric', METRICS)
def test_a_validation_logs_every_metric_in_the_log_and_for_tensorboard(trained, metric):
    steps, values = curve(trained, VAL + metric)
    assert steps == list(range(1, 13))  # after each step
    logged = re.findall(rf'# {metric}: (\S+)\tBest: ', trained.log)
    np.testing.assert_allclose([float(value) for value in logged], values, atol=1e-4)
    assert len(set(logged)) > 1 or metric == 'acc'


def test_the_log_has_the_size_of_the_network_and_no_list_of_its_layers(trained):
    assert re.search(r'Network AMHP with [\d,]+ parameters', trained.log)
    assert 'ResidualAttentionBlock' not in trained.log


def test_the_best_validation_is_the_one_with_the_lowest_key_metric(trained):
    steps, values = curve(trained, VAL + 'emd1')
    best = trained.best['custom_val']
    assert best['emd1']['val'] == pytest.approx(values.min(), rel=1e-6)
    at = steps.index(best['emd1']['iter'])
    assert values[at] == values.min()
    for metric in METRICS:  # the others are those of the same model
        assert best[metric]['iter'] == best['emd1']['iter']
        value = curve(trained, VAL + metric)[1][at]
        assert best[metric]['val'] == pytest.approx(value, rel=1e-6)


def test_the_best_checkpoint_is_the_model_of_that_iteration(trained):
    iteration = min(trained.best['custom_val']['emd1']['iter'], 12)
    best = load_weights(trained.models / 'net_best.pth')
    assert same_weights(best, load_weights(trained.models / f'net_{iteration}.pth'))
    assert not same_weights(best, load_weights(trained.models / 'net_1.pth'))


def test_the_best_checkpoint_alone_gives_the_best_validation_again(trained, shared_rated_images):
    net = AMHP(pretrained_model_path=str(trained.models / 'net_best.pth')).eval()
    assert net.config.level_values == (1.5, 3.5, 5.5, 7.5, 9.5)
    scores, rated = predict(net, trained, shared_rated_images)
    best = trained.best['custom_val']
    assert np.mean((scores - rated) ** 2) == pytest.approx(best['mse']['val'], rel=1e-4)
    assert spearmanr(scores, rated)[0] == pytest.approx(best['srcc']['val'], abs=1e-4)


def predict(net, trained, csv):
    from pyiqa.data import build_dataset

    data = build_dataset({**trained.opt['datasets']['val'], 'phase': 'val'})
    samples = [data[i] for i in range(len(data))]
    with torch.no_grad():
        mos = net(torch.stack([s['img'] for s in samples]), text=[s['text'] for s in samples])
    return mos[:, 0].numpy(), np.array([s['mos_label'].item() for s in samples])


def test_without_a_key_metric_each_metric_keeps_its_own_best(
    training_options, shared_rated_images, tmp_path
):
    opt = training_options(shared_rated_images)
    opt['train']['total_epoch'] = 2
    opt['val'].update(val_freq=1)
    del opt['val']['key_metric']
    result = run(opt, tmp_path)
    best = result.best['custom_val']
    for metric in METRICS:
        values = curve(result, VAL + metric)[1]
        extreme = values.min() if metric in LOWER else values.max()
        assert best[metric]['val'] == pytest.approx(extreme, rel=1e-6)
    assert (result.models / 'net_best.pth').is_file()


def test_the_same_seed_gives_the_same_weights(training_options, shared_rated_images, tmp_path):
    opt = training_options(shared_rated_images)
    opt['datasets']['train']['augment']['hflip'] = True
    del opt['val'], opt['datasets']['val']
    states = []
    for name, seed in (('a', 7), ('b', 7), ('c', 8)):
        opt['manual_seed'] = seed
        states.append(load_weights(run(opt, tmp_path / name).models / 'net_latest.pth'))
    assert same_weights(states[0], states[1])
    assert not same_weights(states[0], states[2])


def test_training_without_validation_ends_with_the_latest_model(
    training_options, shared_rated_images, tmp_path
):
    opt = training_options(shared_rated_images)
    del opt['val'], opt['datasets']['val']
    result = run(opt, tmp_path)
    assert result.best == {}
    assert [path.name for path in result.models.iterdir()] == ['net_latest.pth']


def test_patience_ends_a_training_that_stalls(
    training_options, shared_rated_images, tmp_path, monkeypatch
):
    opt = training_options(shared_rated_images)
    opt['train'].update(total_epoch=9, patience=2)
    opt['val'].update(key_metric='mse')
    others = dict.fromkeys(opt['val']['metrics'], 0.0)
    metrics = iter([{**others, 'mse': error} for error in (3.0, 2.0, 2.5, 2.4, 1.0)])
    monkeypatch.setattr(AMHPModel, '_compute_metrics', lambda *_: next(metrics))
    seen = []
    root = tmp_path / 'stalled'
    root.mkdir()
    run_train(write_options(root / 'train.yml', opt), [], root, seen.append)
    best = [step.epoch for step in seen if step.is_best and step.ends_epoch]
    assert best == [1, 2] and seen[-1].epoch == 4
    assert [step.ends_epoch for step in seen[:6]] == [False, False, True] * 2
    assert seen[-1].losses['l_mos'] > 0 and 'mse' in seen[-1].metrics
    assert 'No better validation in 2 epochs' in read_log(root, opt['name'])


@pytest.mark.parametrize('patience', [0, 1.5, 'long'])
def test_patience_is_a_number_of_epochs(training_options, shared_rated_images, tmp_path, patience):
    opt = training_options(shared_rated_images)
    opt['train']['patience'] = patience
    with pytest.raises(AMHPError, match=r'patience=.*expected a whole number of epochs from 1'):
        run(opt, tmp_path)


def test_each_validation_set_keeps_its_own_best(training_options, shared_rated_images, tmp_path):
    opt = training_options(shared_rated_images)
    val = opt['datasets'].pop('val')
    opt['datasets']['val_1'] = {**val, 'name': 'one'}
    opt['datasets']['val_2'] = {**val, 'name': 'two', 'override_phase': 'test'}
    best = run(opt, tmp_path).best
    assert best.keys() == {'one', 'two'}
    assert best['one']['mse']['val'] != best['two']['mse']['val']


# Bad images and options


def damage(csv, rows):
    for row in rows:
        (csv.parent / 'images' / f'{row:02d}.png').write_bytes(b'no image')


def test_unreadable_images_are_left_out_and_counted(training_options, rated_images, tmp_path):
    damage(rated_images, [0, 13])
    (rated_images.parent / 'images' / '03.png').unlink()
    opt = training_options(rated_images)
    opt['train']['total_epoch'] = 2
    result = run(opt, tmp_path / 'run')
    warnings = re.findall(r'Left out an unreadable image \((\d) so far\): (\S+):', result.log)
    assert [int(count) for count, _ in warnings] == [1, 2, 3]  # once each, in any epoch
    assert {Path(path).name for _, path in warnings} == {'00.png', '03.png', '13.png'}
    assert np.isfinite(curve(result, LOSS)[1]).all()


def test_unreadable_images_stop_the_training_unless_they_are_skipped(
    training_options, rated_images, tmp_path
):
    damage(rated_images, [5])
    opt = training_options(rated_images)
    opt['datasets']['train']['skip_bad_images'] = False
    with pytest.raises(AMHPError, match=r'05\.png: not an image'):
        run(opt, tmp_path / 'run')


@pytest.mark.parametrize(
    ('rows', 'expected'),
    [
        (range(12), 'not one step was made. 12 images could not be read'),
        (range(12, 18), 'custom_val: none of its images could be read; check dataroot_target'),
    ],
)
def test_a_set_without_one_readable_image_is_an_error(
    training_options, rated_images, tmp_path, rows, expected
):
    damage(rated_images, rows)
    opt = training_options(rated_images)
    opt['val']['val_freq'] = 1 if rows[0] else 1000
    with pytest.raises(AMHPError, match=re.escape(expected)):
        run(opt, tmp_path / 'run')


def test_fewer_images_than_a_batch_are_an_error(training_options, shared_rated_images, tmp_path):
    opt = training_options(shared_rated_images)
    opt['datasets']['train']['batch_size_per_gpu'] = 72
    opt['val']['val_freq'] = 1000
    with pytest.raises(AMHPError, match='12 images do not fill one batch of 72'):
        run(opt, tmp_path)


def test_a_key_metric_that_is_not_calculated_is_an_error(
    training_options, shared_rated_images, tmp_path
):
    opt = training_options(shared_rated_images)
    opt['val'].update(val_freq=1, key_metric='scc')
    with pytest.raises(AMHPError, match="key_metric='scc' is not one of acc, srcc"):
        run(opt, tmp_path)
    assert not (tmp_path / 'experiments').exists()  # before training


def same_ratings(csv, split):
    table = pd.read_csv(csv, keep_default_na=False)
    table.loc[table['split'] == split, [f'c{i}' for i in range(1, 11)]] = [0, 0, 3, 4] + [0] * 6
    table.to_csv(csv, index=False)


@pytest.mark.parametrize('key', ['srcc', None])
def test_equal_validation_ratings_are_an_error_before_training(
    training_options, rated_images, tmp_path, key
):
    same_ratings(rated_images, 'val')
    opt = training_options(rated_images)
    opt['val'].update(key_metric=key, metrics={'srcc': {'type': 'calculate_srcc'}})
    with pytest.raises(AMHPError) as caught:
        run(opt, tmp_path / 'run')
    assert str(caught.value) == (
        'custom_val: all 6 ratings are 3.57143, so that srcc has no value and no checkpoint would '
        'be the best; validate on other images, or set key_metric: mse (of type calculate_mse)'
    )
    assert not list(tmp_path.rglob('*.pth'))


def test_equal_validation_ratings_are_fine_for_another_key_metric(
    training_options, rated_images, tmp_path
):
    same_ratings(rated_images, 'val')
    opt = training_options(rated_images)
    opt['val'].update(key_metric='mse')
    result = run(opt, tmp_path / 'run')
    assert 'custom_val: no value for srcc, plcc, krcc: all 6 ratings are 3.57143' in result.log
    assert np.isfinite(result.best['custom_val']['mse']['val'])
    assert (result.models / 'net_best.pth').is_file()


@pytest.mark.parametrize('until', [1, 99])
def test_equal_predictions_do_not_hide_the_best_checkpoint(
    training_options, shared_rated_images, tmp_path, monkeypatch, until
):
    rows, validations = AMHPModel._rows, []

    def equal_rows(model):
        at = model.record.iteration
        validations.append(at)
        same = at <= until
        return [(*r[:3], 5.0, *r[4:]) if same else r for r in rows(model)]

    monkeypatch.setattr(AMHPModel, '_rows', equal_rows)
    opt = training_options(shared_rated_images)
    opt['val'].update(val_freq=1)
    opt['logger'].update(save_checkpoint_freq=1)
    result = run(opt, tmp_path / 'run')
    assert 'custom_val: no value for srcc, plcc, krcc: all 6 predictions are 5' in result.log
    best = result.best['custom_val']['srcc']
    assert (best['val'] == -np.inf) == (until == 99)
    assert best['iter'] == 3 if until == 99 else best['iter'] > 1
    at = load_weights(result.models / f'net_{best["iter"]}.pth')
    assert same_weights(load_weights(result.models / 'net_best.pth'), at)


# Testing


def shipped_test(name, trained, rated_images):
    """The options of the shipped test of one's own ratings, for these images and weights."""
    opt = yaml.safe_load((SHIPPED / 'test_amhp_custom.yml').read_text())
    opt.update(num_gpu=0, name=name)
    opt['datasets']['test_1'].update(
        meta_info_file=str(rated_images),
        dataroot_target=str(rated_images.parent / 'images'),
        num_worker_per_gpu=0,
    )
    opt['network']['pretrained_model_path'] = str(trained.models / 'net_latest.pth')
    return opt


def test_a_test_writes_no_nan_into_its_results(trained, rated_images, tmp_path):
    same_ratings(rated_images, 'test')
    opt = shipped_test('same', trained, rated_images)
    run_test(write_options(tmp_path / 'test.yml', opt), [], tmp_path)
    text = (tmp_path / 'results' / 'same' / 'custom_test.json').read_text()
    assert 'NaN' not in text and json.loads(text)['srcc'] is None


@pytest.fixture(scope='module')
def tested(trained, tmp_path_factory):
    """The results of the shipped options for testing, changed by ``--force_yml`` alone."""
    data = trained.opt['datasets']['val']
    changes = {
        'num_gpu': 0,
        'datasets:test_1:meta_info_file': data['meta_info_file'],
        'datasets:test_1:dataroot_target': data['dataroot_target'],
        'datasets:test_1:num_worker_per_gpu': 0,
        'datasets:test_1:batch_size_per_gpu': 4,
        'network:pretrained_model_path': trained.models / 'net_best.pth',
        'val:pbar': False,
    }
    root = tmp_path_factory.mktemp('run')
    forced = [f'{key}={value}' for key, value in changes.items()]
    run_test(SHIPPED / 'test_amhp_custom.yml', ['--force_yml', *forced], root)
    return root / 'results' / 'test_amhp_custom'


def test_a_test_writes_one_row_for_each_image(tested, shared_rated_images):
    table = pd.read_csv(tested / 'custom_test.csv', keep_default_na=False)
    assert table.columns.tolist() == ['img_path', 'text', 'score', 'MOS', 'dist', 'rated_dist']
    rated = pd.read_csv(shared_rated_images, keep_default_na=False).iloc[18:]
    assert [Path(path).name for path in table['img_path']] == rated['img_name'].tolist()
    assert table['text'].tolist() == rated['text'].tolist()
    votes = rated[[f'c{i}' for i in range(1, 11)]].to_numpy()
    np.testing.assert_allclose(table['MOS'], votes @ np.arange(1, 11) / 20, rtol=1e-6)


def test_scores_are_the_expectations_of_the_distributions_beside_them(tested):
    table = pd.read_csv(tested / 'custom_test.csv')
    dist = np.array([json.loads(row) for row in table['dist']])
    np.testing.assert_allclose(dist.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(dist @ [1.5, 3.5, 5.5, 7.5, 9.5], table['score'], atol=1e-4)


def test_the_metrics_of_a_test_can_be_calculated_again_from_its_rows(tested):
    table = pd.read_csv(tested / 'custom_test.csv')
    metrics = json.loads((tested / 'custom_test.json').read_text())
    assert list(metrics) == ['images', *METRICS]
    assert metrics['images'] == len(table) == 6
    score, mos = table['score'].to_numpy(), table['MOS'].to_numpy()
    p, q = (np.array([json.loads(row) for row in table[name]]) for name in ('dist', 'rated_dist'))
    off = np.abs(np.cumsum(p, axis=1) - np.cumsum(q, axis=1))
    expected = {
        'acc': np.mean((score > 5) == (mos > 5)),
        'srcc': spearmanr(score, mos)[0],
        'mse': np.mean((score - mos) ** 2),
        'emd1': np.mean(off),
        'emd2': np.mean(np.sqrt(np.mean(off**2, axis=1))),
    }
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, abs=1e-5), name


def test_a_test_leaves_unreadable_images_out_of_rows_and_metrics(trained, rated_images, tmp_path):
    damage(rated_images, [19, 22])
    opt = shipped_test('damaged', trained, rated_images)
    del opt['val']['metrics']
    run_test(write_options(tmp_path / 'test.yml', opt), [], tmp_path)
    folder = tmp_path / 'results' / 'damaged'
    names = [Path(path).name for path in pd.read_csv(folder / 'custom_test.csv')['img_path']]
    assert names == ['18.png', '20.png', '21.png', '23.png']
    assert json.loads((folder / 'custom_test.json').read_text()) == {'images': 4}
