"""The arch AMHP: images and texts to scores, its options, cached features, gradients."""

import copy

import pyiqa
import pytest
import torch
from conftest import TINY

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.plugin import METRIC_CONFIGS
from pyiqa_amhp.weights.checkpoint import stored_config

VARIANTS = ('image', 'image+attributes', 'image+levels', 'all')
READS_TEXT = ('image+attributes', 'all')
TEXTS = ['soft evening light', None, 'the horizon is tilted ' * 9, '', 'soft evening light']


def smooth_images(n=1, channels=3, height=40, width=52, seed=0):
    """Smooth random images: noise would become almost uniform by resizing."""
    noise = torch.rand(n, channels, 5, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise, (height, width), mode='bilinear')


def scores(net, images, text=None):
    with torch.no_grad():
        return net(images, text=text)


def test_scores_and_distributions_come_as_in_pyiqas_nima(make_amhp):
    net, images = make_amhp(), smooth_images(3)
    mos, dist = net(images, return_mos=True, return_dist=True)
    assert mos.shape == (3, 1)
    assert dist.shape == (3, 5)
    torch.testing.assert_close(dist.sum(dim=1), torch.ones(3))
    assert torch.equal(net(images), mos)
    assert torch.equal(net(images, return_mos=False, return_dist=True), dist)
    assert isinstance(net(images, return_dist=True), list)
    with pytest.raises(AMHPError, match='nothing to return'):
        net(images, return_mos=False)


@pytest.mark.parametrize(('height', 'width'), [(1, 1), (7, 300), (32, 32), (37, 37), (500, 333)])
def test_images_of_any_size_are_scored(make_amhp, height, width):
    score = scores(make_amhp(), smooth_images(2, height=height, width=width), ['a', 'b'])
    assert score.shape == (2, 1)
    assert torch.isfinite(score).all()


def test_a_grey_image_scores_as_the_same_image_in_three_channels(make_amhp):
    grey = smooth_images(2, channels=1)
    net = make_amhp()
    assert torch.equal(scores(net, grey), scores(net, grey.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize('dtype', [torch.float64, torch.float16])
def test_images_of_another_dtype_are_scored(make_amhp, dtype):
    net, images = make_amhp(), smooth_images(2)
    torch.testing.assert_close(
        scores(net, images.to(dtype)), scores(net, images), atol=0.02, rtol=0
    )


@pytest.mark.parametrize('protocol', ['paper', 'reference'])
@pytest.mark.parametrize('variant', VARIANTS)
def test_a_score_does_not_depend_on_the_rest_of_the_batch(make_amhp, variant, protocol):
    net, images = make_amhp(variant=variant, protocol=protocol), smooth_images(5)
    whole = scores(net, images, TEXTS)
    alone = [scores(net, images[i : i + 1], [TEXTS[i]]) for i in range(5)]
    torch.testing.assert_close(torch.cat(alone), whole, atol=1e-5, rtol=0)
    order = [3, 0, 4, 2, 1]
    moved = scores(net, images[order], [TEXTS[i] for i in order])
    torch.testing.assert_close(moved, whole[order], atol=1e-5, rtol=0)
    assert whole.unique().numel() == 5


# Texts


@pytest.mark.parametrize('variant', VARIANTS)
def test_only_variants_with_attributes_react_to_a_text(make_amhp, variant):
    net, image = make_amhp(variant=variant), smooth_images()
    without, one, two = (scores(net, image, text) for text in (None, 'warm light', 'a dull sky'))
    if variant in READS_TEXT:
        assert len({without.item(), one.item(), two.item()}) == 3
    else:
        assert without == one == two


@pytest.mark.parametrize('variant', VARIANTS)
def test_every_variant_reacts_to_the_image(make_amhp, variant):
    assert scores(make_amhp(variant=variant), smooth_images(4)).unique().numel() == 4


def test_none_empty_and_blank_texts_count_as_no_text(make_amhp):
    net, image = make_amhp(), smooth_images()
    same = {scores(net, image, t).item() for t in (None, '', ' \n', [None], [''], (' ',))}
    assert len(same) == 1
    assert scores(net, image, ' warm light\n') == scores(net, image, ['warm light'])


@pytest.mark.parametrize(
    ('text', 'error', 'message'),
    [
        ('one', AMHPError, 'got 1 text for 2 images'),
        ([], AMHPError, 'got 0 texts for 2 images'),
        (['a', 'b', 'c'], AMHPError, 'got 3 texts for 2 images; give one for each'),
        (['a', 5], TypeError, r'text\[1\]: expected a string or None, got int'),
        ([float('nan'), 'b'], TypeError, r'text\[0\]: expected a string or None, got float'),
        (7, TypeError, 'text: expected a string or a list of strings, got int'),
        ({'a': 'b'}, TypeError, 'got dict'),
        (b'bytes', TypeError, 'got bytes'),
    ],
)
@pytest.mark.parametrize('variant', ['all', 'image'])
def test_wrong_texts_are_reported(make_amhp, text, error, message, variant):
    with pytest.raises(error, match=message):
        make_amhp(variant=variant)(smooth_images(2), text=text)


def nan_at(*places):
    images = smooth_images(3)
    for image, value in places:
        images[image, 0, 0, :2] = value
    return images


@pytest.mark.parametrize(
    ('images', 'error', 'message'),
    [
        (nan_at((1, float('nan'))), AMHPError, r'NaN or infinite \(image 1: 2\)'),
        (nan_at((0, float('nan')), (2, float('inf'))), AMHPError, 'image 0: 2, image 2: 2'),
        (smooth_images()[0], AMHPError, r'expected \(N, 3, H, W\).*got \(3, 40, 52\)'),
        (smooth_images(channels=4), AMHPError, r'got \(1, 4, 40, 52\)'),
        (torch.zeros(1, 3, 0, 4), AMHPError, r'got \(1, 3, 0, 4\)'),
        (torch.zeros(0, 3, 4, 4), AMHPError, r'got \(0, 3, 4, 4\)'),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), TypeError, 'got torch.uint8'),
        (smooth_images().numpy(), TypeError, 'got ndarray'),
    ],
)
def test_wrong_images_are_reported(make_amhp, images, error, message):
    with pytest.raises(error, match=message):
        make_amhp()(images)


# Options


@pytest.mark.parametrize(
    'options',
    [
        {'levels': ['ugly', 'pretty'], 'level_values': [-1, 1]},
        {'levels': list('abcdefghijk'), 'level_values': range(11)},
        {'level_values': [10, 20, 40, 80, 160.5]},
        {'template': '{level}'},
    ],
    ids=str,
)
def test_any_levels_values_and_template(make_amhp, options):
    net = make_amhp(**options)
    values = options.get('level_values', [1.5, 3.5, 5.5, 7.5, 9.5])
    mos, dist = net(smooth_images(3), return_dist=True)
    assert dist.shape == (3, len(values))
    torch.testing.assert_close(mos[:, 0], (dist * torch.tensor(values)).sum(1))
    assert mos.min() > values[0]
    assert mos.max() < values[-1]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'variant': 'text'}, "variant='text': expected one of image, image.attributes, image"),
        ({'protocol': 'mine'}, "protocol='mine': expected one of paper, reference"),
        ({'dataset': 'AVA'}, "dataset='AVA': expected one of ava, para, aadb"),
        ({'resize': 'crop'}, 'expected one of squash, shortest'),
        ({'crop': 'left'}, 'expected one of center, corner'),
        ({'fc_init': 'ones'}, 'expected one of zero, default'),
        ({'levles': 5}, 'unknown AMHP option levles; the options are: .*backbone, .*levels'),
        ({'levels': 'bad'}, "levels='bad': expected at least two words"),
        ({'levels': ['bad']}, 'expected at least two words'),
        ({'levels': [1, 2, 3, 4, 5]}, 'expected at least two words'),
        ({'levels': 5}, 'levels=5: expected at least two words'),
        ({'levels': ['bad', 'good']}, r"2 levels \['bad', 'good'\] but 5 level_values"),
        ({'level_values': [1, 2, 3, 3, 4]}, 'expected rising numbers'),
        ({'level_values': [5, 4, 3, 2, 1]}, 'expected rising numbers'),
        ({'level_values': [1, 2, 3, 4, float('nan')]}, 'expected a list of finite numbers'),
        ({'level_values': ['a', 'b']}, 'expected a list of finite numbers'),
        ({'level_values': '12345'}, 'expected a list of finite numbers'),
        ({'template': 'A photo.'}, r"template='A photo.': expected .*\{level\}"),
        ({'template': 5}, r'template=5: expected .*\{level\}'),
        ({'tau': 0}, "tau=0: expected a positive number or 'clip'"),
        ({'tau': 'warm'}, "tau='warm': expected a positive number"),
        ({'resize_size': 31}, 'resize_size=31: expected at least the input size, 32'),
        ({'resize_size': 'big'}, 'expected a whole number of pixels'),
        ({'image_mean': [0.5]}, 'expected three numbers'),
        ({'test_flip': 'no'}, "test_flip='no': expected True or False"),
        ({'backbone': 'ViT-Z'}, "backbone 'ViT-Z': not a model of open_clip"),
        ({'backbone': 16}, 'backbone=16: expected the name of an open_clip model'),
        ({'backbone': {'embed_dim': 8}}, 'a dict needs vision_cfg, text_cfg'),
    ],
    ids=str,
)
def test_a_wrong_option_is_reported_with_the_allowed_values(tiny, options, message):
    with pytest.raises(AMHPError, match=message):
        AMHP(pretrained=False, **{'backbone': tiny, **options})


def test_an_unknown_data_set_is_refused_before_the_store_is_read():
    with pytest.raises(AMHPError, match=r"dataset='\.\./ava': expected one of ava, para, aadb"):
        AMHP(pretrained=True, dataset='../ava')


@pytest.mark.parametrize('value', ['yes', None, 'CLIP'])
def test_pretrained_is_true_false_or_clip(tiny, value):
    with pytest.raises(AMHPError, match="expected True, False or 'clip'"):
        AMHP(pretrained=value, backbone=tiny)


PROTOCOL_PARTS = {
    'normalize_fused': (True, False),
    'tuple_prompts': (False, True),
    'fc_init': ('zero', 'default'),
    'crop': ('center', 'corner'),
    'test_flip': (False, True),
}


@pytest.mark.parametrize('name', PROTOCOL_PARTS)
def test_each_difference_of_the_protocols_can_be_set_alone(tiny, name):
    paper, reference = PROTOCOL_PARTS[name]
    plain = AMHP(pretrained=False, backbone=tiny).config
    mixed = AMHP(pretrained=False, backbone=tiny, **{name: reference}).config
    other = AMHP(pretrained=False, backbone=tiny, protocol='reference', **{name: paper}).config
    for part, (of_paper, of_reference) in PROTOCOL_PARTS.items():
        assert getattr(plain, part) == of_paper
        assert getattr(mixed, part) == (of_reference if part == name else of_paper)
        assert getattr(other, part) == (of_paper if part == name else of_reference)


@pytest.mark.parametrize('name', PROTOCOL_PARTS)
def test_each_difference_of_the_protocols_changes_scores(tiny, name):
    def build(**options):
        torch.manual_seed(0)
        net = AMHP(pretrained=False, backbone=tiny, **options).eval()
        if name != 'fc_init':  # at its zero start Fm has length 1, and its norm changes nothing
            torch.nn.init.normal_(net.fc.weight, std=0.2)
        return net

    images = smooth_images(8)
    assert not torch.equal(
        scores(build(**{name: PROTOCOL_PARTS[name][1]}), images, ['warm light'] * 8),
        scores(build(), images, ['warm light'] * 8),
    )


# Cached features of the quality levels


def test_level_features_are_encoded_once_in_evaluation(make_amhp, watch_text_encoder):
    net = make_amhp()
    read = watch_text_encoder(net)
    for _ in range(3):
        scores(net, smooth_images(2))
    assert [texts for texts, _ in read] == [5]
    scores(net, smooth_images(2), ['warm light', None])
    assert [texts for texts, _ in read] == [5, 1]


def step(net):
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.05)
    net(smooth_images(2), ['warm light', '']).sum().backward()
    optimizer.step()


@pytest.mark.parametrize(
    'change',
    [
        lambda net, other: net.load_state_dict(other.state_dict()),
        lambda net, other: net.load_state_dict(other.state_dict(), assign=True),
        lambda net, other: step(net),
        lambda net, other: (net.train(), step(net), net.eval()),
        lambda net, other: net.backbone.load_state_dict(other.backbone.state_dict()),
        lambda net, other: net.double(),
    ],
    ids=['load', 'assign', 'step', 'train', 'load the encoders', 'double'],
)
@pytest.mark.parametrize('first_pass', [torch.no_grad, torch.inference_mode])
def test_level_features_are_never_stale(make_amhp, change, first_pass):
    net, other, images = make_amhp(), make_amhp(seed=1), smooth_images(2)
    with first_pass():
        before = net(images)
    change(net, other)
    fresh = copy.deepcopy(net)
    fresh.train().eval()  # clears the cache
    after = scores(net, images)
    assert torch.equal(after, scores(fresh, images))
    assert not torch.equal(after, before)


def test_level_features_have_a_gradient_if_grad_is_enabled(make_amhp):
    net = make_amhp(variant='image+levels')
    scores(net, smooth_images())
    net(smooth_images()).sum().backward()
    assert net.backbone.clip.token_embedding.weight.grad.abs().sum() > 0


# Training and use as a loss


@pytest.mark.parametrize('variant', VARIANTS)
def test_every_parameter_that_is_trained_gets_a_finite_gradient(make_amhp, variant):
    net = make_amhp(variant=variant).train()
    net(smooth_images(3), ['warm light', None, '']).sum().backward()
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
    text_encoder = {p.requires_grad for p in net.backbone.text_parameters()}
    assert text_encoder == {variant != 'image'}  # that variant reads no text


@pytest.mark.parametrize(
    'metric_name', [name for name in METRIC_CONFIGS if name.startswith('amhp')]
)
@pytest.mark.parametrize('protocol', ['paper', 'reference'])
def test_pyiqa_creates_every_metric(tiny, metric_name, protocol):
    metric = pyiqa.create_metric(
        metric_name, pretrained=False, backbone=tiny, protocol=protocol, device='cpu'
    )
    score = metric(smooth_images(4), text=['warm light', None, '', 'a tilted horizon'])
    assert score.shape == (4, 1)
    assert not score.requires_grad
    low, high = map(float, metric.score_range.split(','))
    assert low <= score.min() <= score.max() <= high
    assert score.min() >= metric.net.level_values[0]
    assert score.max() <= metric.net.level_values[-1]
    assert not metric.lower_better


@pytest.mark.parametrize(
    'image', [smooth_images(2), torch.full((2, 3, 40, 40), 0.5), torch.zeros(2, 1, 9, 9)]
)
@pytest.mark.parametrize('text', [None, ['warm light', '']])
@pytest.mark.parametrize('protocol', ['paper', 'reference'])
def test_as_a_loss_it_gives_the_image_a_finite_gradient(tiny, image, text, protocol):
    metric = pyiqa.create_metric(
        'amhp', pretrained=False, backbone=tiny, as_loss=True, protocol=protocol, device='cpu'
    )
    image = image.clone().requires_grad_()
    loss = metric(image, text=text)
    assert loss.dim() == 0
    loss.backward()
    assert torch.isfinite(image.grad).all()
    assert image.grad.abs().sum() > 0


def test_the_state_dict_carries_the_configuration(make_amhp, tiny):
    net = make_amhp(dataset='para', protocol='reference', levels=list('abcde'), variant='all')
    stored = stored_config(net.state_dict()['_extra_state'])
    assert stored['dataset'] == 'para'
    assert stored['protocol'] == 'reference'
    assert stored['levels'] == list('abcde')
    assert stored['level_values'] == [1, 1.75, 2.75, 3.75, 5]
    assert stored['backbone'] == tiny
    assert stored['quick_gelu'] is False
    assert stored['normalize_fused'] is False


@pytest.mark.parametrize(
    'options', [{'variant': 'image'}, {'quick_gelu': True}], ids=['variant', 'quick_gelu']
)
def test_weights_of_a_model_that_computes_something_else_are_refused(make_amhp, options):
    with pytest.raises(AMHPError, match=f'made with {next(iter(options))}='):
        make_amhp().load_state_dict(make_amhp(**options).state_dict(), strict=False)


def test_something_else_in_place_of_the_configuration_is_refused(make_amhp):
    net = make_amhp()
    for state in (torch.ones(3), torch.tensor([300]), torch.tensor(list(b'[]'))):
        with pytest.raises(AMHPError, match='not an AMHP configuration'):
            net.load_state_dict({**net.state_dict(), '_extra_state': state})


def test_a_backbone_with_tuples_takes_its_own_weights(make_amhp, tiny):
    encoder = {'layers': (1, 1, 1, 1), 'width': 8, 'image_size': 32, 'patch_size': None}
    net, other = (make_amhp(seed, backbone={**tiny, 'vision_cfg': encoder}) for seed in (0, 1))
    net.load_state_dict(other.state_dict())
    assert torch.equal(scores(net, smooth_images(2)), scores(other, smooth_images(2)))


def test_a_deep_copy_scores_the_same_and_is_its_own(make_amhp):
    net, images = make_amhp(), smooth_images(2)
    before = scores(net, images, TEXTS[:2])
    twin = copy.deepcopy(net)
    assert torch.equal(scores(twin, images, TEXTS[:2]), before)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.1)
    assert torch.equal(scores(net, images, TEXTS[:2]), before)
    assert not torch.equal(scores(twin, images, TEXTS[:2]), before)


@pytest.mark.parametrize(
    ('theirs', 'mine', 'message'),
    [
        ({'level_values': [1, 2, 3, 4, 5]}, {}, 'level_values=.*1.0, 2.0.*level_values=.*1.5, 3.5'),
        ({'levels': list('abcde')}, {}, "levels=.'a', 'b'.*levels=.'bad', 'poor'"),
        ({'template': 'Is it {level}?'}, {}, 'template='),
        ({'protocol': 'reference'}, {}, 'normalize_fused=False.*normalize_fused=True'),
        ({'resize': 'shortest'}, {}, "resize='shortest'.*resize='squash'"),
        ({'resize_size': 40}, {}, 'resize_size=40.*resize_size=37'),
        ({'crop': 'corner'}, {}, "crop='corner'"),
        ({'test_flip': True}, {}, 'test_flip=True'),
        ({'image_mean': [0.5, 0.5, 0.5]}, {}, 'image_mean='),
        ({'predictor': 'feature'}, {}, "predictor='feature'.*predictor='none'"),
        ({'prompt_source': 'none'}, {}, "prompt_source='none'.*prompt_source=None"),
        (
            {'predictor': 'levels', 'attributes': ['light']},
            {'predictor': 'levels'},
            'attributes=.*light',
        ),
    ],
    ids=str,
)
def test_weights_of_other_options_that_change_a_score_are_refused(
    make_amhp, tmp_path, theirs, mine, message
):
    metric = pyiqa.create_metric('amhp', pretrained=False, backbone=TINY, device='cpu')
    metric.net = make_amhp(**mine)
    before = {k: v.clone() for k, v in metric.net.state_dict().items()}
    torch.save({'params': make_amhp(seed=1, **theirs).state_dict()}, tmp_path / 'net.pth')
    with pytest.raises(AMHPError, match=f'weights made with .*{message}'):
        metric.load_weights(str(tmp_path / 'net.pth'))
    assert all(torch.equal(before[k], v) for k, v in metric.net.state_dict().items())


@pytest.mark.parametrize(
    'theirs',
    [
        {'tau': 0.1},
        {'dataset': 'para', 'level_values': [1.5, 3.5, 5.5, 7.5, 9.5]},
        {'fc_init': 'default'},
        {'resize_size': 37},
        {'attributes': ['light']},  # which only a predictor reads
    ],
    ids=str,
)
def test_weights_of_options_that_change_no_score_are_loaded(make_amhp, theirs):
    net, other = make_amhp(), make_amhp(seed=1, **theirs)
    net.load_state_dict(other.state_dict())
    assert torch.equal(scores(net, smooth_images(2)), scores(other, smooth_images(2)))


def test_a_state_without_a_configuration_is_the_callers_word(make_amhp):
    net, state = make_amhp(), make_amhp(seed=1, level_values=[1, 2, 3, 4, 5]).state_dict()
    del state['_extra_state']
    net.load_state_dict(state, strict=False)
    assert torch.equal(net.fc.weight, state['fc.weight'])
    assert net.config.level_values[0] == 1.5
