"""Metrics of all kinds in the benchmark: scales, distributions, texts, failures."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import stats

from pyiqa_amhp.evaluation import benchmark as run
from pyiqa_amhp.evaluation import scores
from pyiqa_amhp.evaluation.rated_set import load_rated
from pyiqa_amhp.model.tanet import TANet
from pyiqa_amhp.weights.checkpoint import save_checkpoint


@pytest.fixture
def rated(rated_images):
    return load_rated(str(rated_images), split='all')


@pytest.fixture
def measure(rated, tmp_path):
    """Measure one metric, by default on all 24 images, and return its row."""

    def measure(name, weights=None, rated=rated):
        weights = weights and {name: str(weights)}
        [row] = run.benchmark([name], rated, tmp_path / 'out', weights, resamples=0).rows
        return row

    return measure


@pytest.fixture
def few(rated_images):
    """The six test images."""
    return load_rated(str(rated_images))


@pytest.fixture
def tanet(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / 'tanet.pth'
    torch.save(TANet(pretrained=False).state_dict(), path)
    return path


# Scales and distributions


def test_ten_bins_are_merged_to_the_levels_of_the_ratings(measure, few, tanet):
    row = measure('tanet', tanet, few)
    net = TANet(pretrained=False, pretrained_model_path=tanet).eval()
    from torchvision.transforms.functional import to_tensor

    images = [to_tensor(Image.open(path).convert('RGB'))[None] for path in few.paths]
    with torch.no_grad():
        bins = np.array([net(x, return_mos=False, return_dist=True)[0].numpy() for x in images])
    gaps = bins.reshape(6, 5, 2).sum(axis=2).cumsum(axis=1) - few.dist.cumsum(axis=1)
    assert row.values['emd1'].value == pytest.approx(np.abs(gaps).mean(), abs=1e-6)
    assert row.values['emd2'].value == pytest.approx(np.sqrt((gaps**2).mean(1)).mean(), abs=1e-6)


def test_nima_has_the_scale_of_its_bins_and_not_the_one_in_pyiqas_table(measure, few, monkeypatch):
    import pyiqa
    import timm

    build = timm.create_model
    monkeypatch.setattr(timm, 'create_model', lambda name, pretrained, **k: build(name, **k))
    monkeypatch.setattr(  # random weights: the scores do not matter
        run, 'create_metric', lambda name, *_: pyiqa.create_metric(name, pretrained=False)
    )
    assert pyiqa.create_metric('nima-vgg16-ava', pretrained=False).score_range == '0, 10'
    row = measure('nima-vgg16-ava', rated=few)
    assert row.mapping == '' and row.values['mse'].value > 0 and not row.values['mse'].mapped
    assert row.values['emd2'].value > 0


def test_distributions_over_other_levels_are_not_compared(measure, make_amhp, tmp_path):
    options = {'level_values': (1, 2, 5, 8, 10), 'dataset': 'ava'}
    file = save_checkpoint(tmp_path / 'net.pth', make_amhp(**options).state_dict())
    row = measure('amhp', file)
    assert row.values['mse'].value > 0 and row.mapping == ''  # 1..10, as the ratings
    assert 'levels are not those of the ratings' in row.values['emd1'].reason


def test_a_metric_without_an_upper_end_has_no_mse_but_correlations(measure, few, monkeypatch):
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    monkeypatch.setitem(DEFAULT_CONFIGS['entropy'], 'score_range', '0, ~')
    row = measure('entropy', rated=few)
    assert row.values['srcc'].value is not None
    assert all('states no range' in row.values[key].reason for key in ('acc', 'mse'))
    assert 'no distribution' in row.values['emd1'].reason


def test_correlations_are_negated_where_lower_is_better(measure, rated):
    import pyiqa

    metric = pyiqa.create_metric('piqe', device='cpu')
    assert metric.lower_better
    predicted = [float(metric(path)) for path in rated.paths]
    row = measure('piqe')
    expected = -stats.spearmanr(predicted, rated.mos).statistic
    assert row.values['srcc'].value == pytest.approx(expected, abs=1e-6)
    assert 'negated' in row.notes[0] and row.mapping.endswith('reversed')


# Texts


def test_only_metrics_that_read_texts_have_a_text_source(measure, make_amhp, tmp_path):
    for variant, expected in (('all', 'comments'), ('image', 'none'), ('image+levels', 'none')):
        net = make_amhp(variant=variant)
        file = save_checkpoint(tmp_path / f'{len(variant)}.pth', net.state_dict())
        assert measure('amhp', file).text_source == expected


def test_zero_shot_has_no_text_source_and_a_note(measure, make_amhp, tmp_path):
    net = make_amhp()
    torch.nn.init.zeros_(net.fc.weight)
    row = measure('amhp', save_checkpoint(tmp_path / 'zero.pth', net.state_dict()))
    assert row.text_source == 'none' and 'zero-shot' in row.notes[0]


def test_a_model_that_predicts_prompts_is_measured_with_each_source(
    make_amhp, rated, rated_images, tmp_path
):
    import pyiqa

    file = save_checkpoint(tmp_path / 'net.pth', make_amhp(predictor='levels').state_dict())
    weights = {'amhp': str(file)}
    rows = run.benchmark(['amhp'], rated, tmp_path / 'out', weights, resamples=0).rows
    assert [row.text_source for row in rows] == ['comments', 'predicted', 'none']
    metric = pyiqa.create_metric('amhp', pretrained_model_path=str(file), device='cpu')
    for row, source in zip(rows, ('given', 'predicted', 'none'), strict=True):
        pairs = zip(rated.paths, rated.texts, strict=True)
        scores = [
            float(metric(path, text=text or None, prompt_source=source)) for path, text in pairs
        ]
        expected = stats.spearmanr(scores, rated.mos).statistic
        assert row.values['srcc'].value == pytest.approx(expected, abs=1e-6)
    assert len({row.values['mse'].value for row in rows}) == 3
    predictions = pd.read_csv(tmp_path / 'out' / 'predictions.csv')
    assert [row.method for row in rows] == list(predictions.columns[2:])

    bare = load_rated(str(rated_images), split='all', text_source='none')
    rows = run.benchmark(['amhp'], bare, tmp_path / 'bare', weights, resamples=0).rows
    assert [row.text_source for row in rows] == ['predicted', 'none']


def test_the_clip_row_takes_fine_tuned_weights_with_quality_prompts_only(
    measure, make_amhp, tmp_path
):
    import pyiqa

    file = save_checkpoint(
        tmp_path / 'clip.pth', make_amhp(variant='image+levels', tau=0.02).state_dict()
    )
    row = measure('amhp-clip', file)
    assert row.error == '' and row.values['emd1'].value > 0 and row.text_source == 'none'
    metric = pyiqa.create_metric('amhp-clip', pretrained_model_path=str(file), device='cpu')
    assert metric.net.logit_scale.exp().item() == pytest.approx(1 / 0.02)  # as trained
    with_fc = save_checkpoint(tmp_path / 'all.pth', make_amhp().state_dict())
    assert 'fc.weight' in measure('amhp-clip', with_fc).error


def test_an_uncalibrated_tanet_is_marked(measure, few, tanet):
    assert 'uncalibrated' in measure('tanet', tanet, few).notes


def test_a_calibrated_tanet_is_marked_with_its_statistics(measure, few, tanet):
    state = torch.load(tanet, weights_only=True)
    state['tygertnet.bn7.num_batches_tracked'].fill_(1)
    torch.save(state, tanet)
    assert 'diagonal' in measure('tanet', tanet, few).notes


# Failures


def test_images_that_a_metric_fails_on_are_reported(measure, rated, rated_images):
    Image.new('RGB', (2, 2)).save(rated_images.parent / 'images' / '07.png')
    row = measure('piqe')
    assert row.images == 23 and row.error == ''
    assert '1 of 24 images made the metric fail' in row.notes[0]


def test_an_image_that_fails_in_a_batch_does_not_affect_the_others(
    measure, rated, make_amhp, tmp_path, monkeypatch
):
    score_images = scores.score_images

    def fail(paths, *args, **options):
        if rated.paths[3] in paths:
            raise RuntimeError('out of memory')
        return score_images(paths, *args, **options)

    monkeypatch.setattr(scores, 'score_images', fail)
    row = measure('amhp', save_checkpoint(tmp_path / 'net.pth', make_amhp().state_dict()))
    assert row.images == 23 and '1 of 24 images' in row.notes[0] and 'out of memory' in row.notes[0]


def test_a_metric_that_fails_on_every_image_gets_an_error_row(measure, rated, rated_images):
    for path in rated.paths:
        Image.new('RGB', (2, 2)).save(path)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        row = measure('piqe')
    assert row.error and 'MetricFailed' not in row.error and not row.values


class Tasked(torch.nn.Module):
    """As ``qalign``: without ``task_`` it scores quality."""

    metric_name, score_range = 'qalign', '1, 5'

    def forward(self, x, task_='quality'):
        return x.mean() + (10 if task_ == 'quality' else 1)


def test_a_metric_with_a_choice_of_tasks_is_asked_for_aesthetics(measure, few, monkeypatch):
    monkeypatch.setattr(run, 'create_metric', lambda *_: Tasked())
    row = measure('qalign', rated=few)
    assert row.notes[0] == "asked for the task 'aesthetic'" and row.values['acc'].value is not None
