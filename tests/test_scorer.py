"""``Scorer`` and ``create_metric``: properties of a metric, its fingerprint, and its scores."""

import ast
from pathlib import Path

import pyiqa
import pytest
import torch
from conftest import smooth_pixels
from PIL import Image
from torchvision.transforms.functional import to_tensor

from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.plugin import ARCHS
from pyiqa_amhp.scoring.result import ScoreResult
from pyiqa_amhp.scoring.scorer import (
    NOT_OF_ONE_IMAGE,
    Scorer,
    arch_of,
    check_metric,
    create_metric,
    single_image_metrics,
)


@pytest.fixture
def image():
    return Image.fromarray(smooth_pixels(48, 36))


@pytest.fixture
def piqe():
    """A metric of pyiqa without weights, where lower is better."""
    return Scorer(create_metric('piqe', device='cpu'))


@pytest.fixture
def amhp_metric(tiny_weights):
    """The metric ``amhp`` as pyiqa creates it, with the weights of a tiny AMHP."""
    return create_metric('amhp', str(tiny_weights), 'cpu')


# What a metric is


@pytest.mark.parametrize(
    ('dataset', 'scale', 'text'),
    [('ava', (1, 10), '1..10'), ('para', (1, 5), '1..5'), ('aadb', (0, 1), '0..1')],
)
def test_the_scale_of_amhp_is_that_of_its_data_set(make_amhp, dataset, scale, text):
    scorer = Scorer(make_amhp(dataset=dataset))
    assert (scorer.scale, scorer.scale_text) == (scale, text)


def test_the_scale_of_own_levels_ends_at_the_levels(make_amhp):
    scorer = Scorer(make_amhp(levels=['no', 'maybe', 'yes'], level_values=[2, 4, 7]))
    assert (scorer.scale, scorer.scale_text) == ((2, 7), '2..7')
    assert scorer.levels == ('no', 'maybe', 'yes')
    assert scorer.level_values == (2, 4, 7)


@pytest.mark.parametrize(
    ('stated', 'scale', 'text'),
    [
        ('0, 100', (0, 100), '0..100'),
        ('-1.5, 2', (-1.5, 2), '-1.5..2'),
        ('~0, ~1', (0, 1), '~0..~1'),
        ('0, ~', None, '0..~'),
        (None, None, 'not stated'),
    ],
)
def test_the_scale_of_other_metrics_is_the_one_that_pyiqa_states(piqe, stated, scale, text):
    piqe.metric.score_range = stated
    assert (piqe.scale, piqe.scale_text) == (scale, text)


def test_a_metric_that_is_no_amhp(piqe):
    assert piqe.name == 'piqe' and piqe.lower_better and piqe.amhp is None
    assert piqe.levels == () and piqe.level_values is None
    assert not (piqe.takes_text or piqe.reads_text or piqe.predicts_prompts)


def test_a_metric_of_pyiqa_holds_the_network(amhp_metric):
    scorer = Scorer(amhp_metric)
    assert scorer.net is scorer.amhp is amhp_metric.net
    assert scorer.name == 'amhp' and not scorer.lower_better
    assert Scorer(amhp_metric.net).amhp is amhp_metric.net


@pytest.mark.parametrize(
    ('options', 'takes_text'),
    [
        ({'variant': 'all'}, True),
        ({'variant': 'image+attributes'}, True),
        ({'variant': 'image+levels'}, False),
        ({'variant': 'image'}, False),
    ],
)
def test_variants_with_attribute_prompts_read_text(make_amhp, options, takes_text):
    scorer = Scorer(make_amhp(**options))
    assert scorer.takes_text is scorer.reads_text is takes_text


def test_an_untrained_amhp_takes_text_but_does_not_read_it(make_amhp):
    net = make_amhp()
    torch.nn.init.zeros_(net.fc.weight)
    scorer = Scorer(net)
    assert scorer.takes_text and not scorer.reads_text


def test_a_predictor_predicts_prompts(make_amhp):
    assert Scorer(make_amhp(predictor='levels')).predicts_prompts
    assert not Scorer(make_amhp()).predicts_prompts


# The fingerprint


def test_equal_metrics_have_equal_fingerprints(make_amhp):
    assert Scorer(make_amhp()).fingerprint == Scorer(make_amhp()).fingerprint


def test_weights_options_and_names_change_the_fingerprint(make_amhp, piqe):
    changed = make_amhp()
    changed.fc.weight.data += 1e-3
    nets = [make_amhp(), changed, make_amhp(seed=1), make_amhp(tau=0.02)]
    fingerprints = [Scorer(net).fingerprint for net in nets] + [piqe.fingerprint]
    assert len(set(fingerprints)) == len(fingerprints)


def test_another_version_of_scores_changes_the_fingerprint(make_amhp, monkeypatch):
    before = Scorer(make_amhp()).fingerprint
    monkeypatch.setattr('pyiqa_amhp.scoring.scorer.SCORES_SINCE', '99.0.0')
    assert Scorer(make_amhp()).fingerprint != before


# Scores


def test_files_pillow_images_and_tensors_have_one_score(amhp_metric, image, tmp_path):
    image.save(tmp_path / 'x.png')
    expected = float(amhp_metric(str(tmp_path / 'x.png')))
    images = [tmp_path / 'x.png', str(tmp_path / 'x.png'), image, to_tensor(image)[None]]
    results = Scorer(amhp_metric).score(images)
    assert [result.score for result in results] == pytest.approx([expected] * 4, abs=1e-5)
    assert [result.path for result in results] == [str(tmp_path / 'x.png')] * 2 + ['', '']
    levels = list(results[0].levels.values())
    assert list(results[0].levels) == list(amhp_metric.net.config.levels)
    assert sum(levels) == pytest.approx(1, abs=1e-5)


def test_images_of_several_sizes_share_a_call(make_amhp):
    net = make_amhp()
    images = [Image.fromarray(smooth_pixels(40 + 9 * i, 60 - 7 * i, i)) for i in range(3)]
    single = [Scorer(net).score([image])[0].score for image in images]
    together = [result.score for result in Scorer(net).score(images)]
    assert together == pytest.approx(single, abs=1e-5)


def test_texts_and_prompt_sources_reach_the_network(make_amhp, image):
    net = make_amhp(predictor='levels')
    x = to_tensor(image)[None]
    results = Scorer(net).score([image, image], ['soft light', None])
    assert [result.prompt_source for result in results] == ['given', 'predicted']
    with torch.no_grad():
        expected = [float(net(x, text=text)) for text in ('soft light', None)]
    assert [result.score for result in results] == pytest.approx(expected, abs=1e-5)

    for source in ('given', 'predicted', 'none'):
        (result,) = Scorer(net).score([image], ['soft light'], source)
        with torch.no_grad():
            expected = float(net(x, text='soft light', prompt_source=source))
        assert result.prompt_source == source
        assert result.score == pytest.approx(expected, abs=1e-5)


def test_the_network_does_not_change_by_scoring(make_amhp, image):
    net = make_amhp(prompt_source='none')
    Scorer(net).score([image], ['soft light'], 'given')
    assert net.config.prompt_source == 'none'
    assert Scorer(net).score([image], ['soft light'])[0].prompt_source == 'none'


def test_other_metrics_score_one_by_one_and_have_no_prompt_source(piqe):
    images = [Image.fromarray(smooth_pixels(70 + 20 * i, 90, i)) for i in range(2)]
    results = piqe.score(images, ['ignored', None])
    expected = [float(piqe.metric(to_tensor(image)[None])) for image in images]
    assert [result.score for result in results] == pytest.approx(expected)
    assert all(result.prompt_source == 'none' and not result.levels for result in results)
    with pytest.raises(AMHPError, match="metric 'piqe' has no prompts"):
        piqe.score(images, prompt_source='none')


def test_no_images_have_no_scores(make_amhp, piqe):
    assert Scorer(make_amhp()).score([]) == piqe.score([]) == []


def test_bad_files_texts_and_prompt_sources_are_refused(make_amhp, image, tmp_path):
    scorer = Scorer(make_amhp())
    with pytest.raises(ImageReadError, match='no such file'):
        scorer.score([tmp_path / 'absent.png'])
    with pytest.raises(AMHPError, match='2 texts'):
        scorer.score([image], ['a', 'b'])
    with pytest.raises(AMHPError, match="'guessed'"):
        scorer.score([image], prompt_source='guessed')
    with pytest.raises(AMHPError, match='predict'):
        scorer.score([image], prompt_source='predicted')


class FixedDistribution(torch.nn.Module):
    """A metric that returns a score of 1.75 and a fixed distribution, like pyiqa's NIMA."""

    score_range = '1, 2'

    def __init__(self, dist):
        super().__init__()
        self.dist = torch.tensor([dist])

    def forward(self, x, return_mos=True, return_dist=False):
        mos = torch.tensor([[1.75]])
        return (mos, self.dist) if return_dist else mos


@pytest.mark.parametrize(
    ('dist', 'bins'), [([0.25, 0.75], (0.25, 0.75)), ([0.9, 0.9], ()), ([1.0], ())]
)
def test_bins_are_kept_if_they_are_probabilities(dist, bins):
    scorer = Scorer(FixedDistribution(dist))
    for with_bins, expected in ((True, bins), (False, ())):
        result = ScoreResult('x')
        scorer.fill_scores([result], [torch.zeros(1, 3, 8, 8)], [''], with_bins=with_bins)
        assert result.score == 1.75 and result.bins == pytest.approx(expected)


# Creating metrics


def test_options_of_amhp_are_refused_for_other_metrics():
    with pytest.raises(AMHPError, match=r"'piqe' has no precision"):
        create_metric('piqe', precision='bf16')


def test_unknown_metrics_and_those_with_a_reference_are_refused():
    with pytest.raises(AMHPError, match="'nimaa' is not known"):
        create_metric('nimaa')
    with pytest.raises(AMHPError, match="'psnr' needs a reference image"):
        create_metric('psnr')


def test_archs_are_those_of_pyiqa():
    assert (arch_of('amhp-para'), arch_of('tanet'), arch_of('nimaa')) == ('AMHP', 'TANet', None)


# What pyiqa's metrics ask for beside an image


def forward_arguments():
    """Read the arguments of ``forward`` of each class among pyiqa's archs, without importing it."""
    found = {}
    for file in (Path(pyiqa.__file__).parent / 'archs').glob('*_arch.py'):
        for item in ast.walk(ast.parse(file.read_text('utf-8'))):
            for part in item.body if isinstance(item, ast.ClassDef) else ():
                if isinstance(part, ast.FunctionDef) and part.name == 'forward':
                    found[item.name] = [argument.arg for argument in part.args.args[1:]]
    return found


def test_metrics_that_score_no_single_image_are_not_among_those_that_do():
    arguments = forward_arguments()
    offered = single_image_metrics()
    for name in pyiqa.list_models('NR'):
        if (arch := arch_of(name)) in ARCHS:
            assert name in offered
            continue
        needs_more = any('dir' in word or 'caption' in word for word in arguments[arch])
        assert needs_more == (arch in NOT_OF_ONE_IMAGE) == (name not in offered), name
    for name in ('fid', 'fid_dinov2', 'sfid', 'inception_score', 'clipscore'):
        assert name not in offered


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('fid', "metric 'fid' compares two folders of images and scores no single one; "),
        ('inception_score', 'scores a folder of images as a whole'),
        ('clipscore', 'scores how well a caption fits an image'),
        ('ssim', 'needs a reference image'),
        ('nimaa', 'is not known'),
    ],
)
def test_such_metrics_are_refused_before_anything_is_downloaded(monkeypatch, name, expected):
    monkeypatch.setattr('pyiqa.create_metric', lambda *_, **__: 1 / 0)
    for refuse in (check_metric, create_metric):
        with pytest.raises(AMHPError, match=expected) as error:
            refuse(name)
        listed = str(error.value).partition('no-reference metrics: ')[2].split(', ')
        assert 'amhp' in listed and name not in listed


def test_the_metrics_with_a_choice_of_tasks_are_those_of_pyiqa():
    with_task = {arch for arch, words in forward_arguments().items() if 'task_' in words}
    assert with_task == {'QAlign', 'QReAlign'}


class Tasked(torch.nn.Module):
    """As ``qalign``: without ``task_`` it scores quality."""

    metric_name = 'qalign'

    def forward(self, x, task_='quality', input_='image'):
        return {'quality': 1.0, 'aesthetic': 2.0}[task_]


def test_a_metric_with_a_choice_of_tasks_scores_aesthetics(image, piqe, amhp_metric):
    scorer, other = Scorer(Tasked()), Scorer(Tasked(), task='quality')
    assert (scorer.task, scorer.score([image])[0].score) == ('aesthetic', 2.0)
    assert (other.task, other.score([image])[0].score) == ('quality', 1.0)
    assert scorer.fingerprint != other.fingerprint
    assert piqe.task is Scorer(amhp_metric).task is None
