"""Training with frozen encoders, whose features come from disk."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from pyiqa.data import build_dataset
from pyiqa.models import build_model
from torch.utils.data import DataLoader
from torchvision.transforms.functional import to_tensor
from train_helpers import count_encoded, load_weights, read_log, same_weights, write_options

from pyiqa_amhp.datasets.dataset import frozen_encoders
from pyiqa_amhp.datasets.images import read_image
from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.model.config import VARIANTS
from pyiqa_amhp.train import frozen
from pyiqa_amhp.train.pipeline import run_train

SHIPPED = Path(__file__).parents[1] / 'options'
IMAGE, TEXT = 'backbone.clip.visual.', 'backbone.clip.'


@pytest.fixture(autouse=True)
def cache_new_files(monkeypatch):
    """Cache the features of files that are only just written."""
    monkeypatch.setattr(frozen, 'TIME_STEP', 0)


@pytest.fixture
def build(training_options, shared_rated_images, tmp_path):
    """An ``AMHPModel`` as pyiqa's trainer builds it; the text can change its scores."""

    def build(freeze=None, seed=0, train=None, optim=None, **network):
        torch.manual_seed(seed)
        opt = training_options(shared_rated_images)
        opt['train'].update(freeze=freeze, feature_cache=str(tmp_path / 'cache'))
        opt['train'].update(train or {})
        opt['train']['optim'].update(optim or {})
        opt['network'].update({'fc_init': 'default', **network})
        opt.update(is_train=True, dist=False, rank=0, world_size=1)
        opt['path'].update(models=str(tmp_path), training_states=str(tmp_path))
        return build_model(opt)

    return build


@pytest.fixture
def batches(training_options, shared_rated_images):
    """The batches of an epoch, always in the same order."""

    def batches(freeze=None, csv=shared_rated_images, phase='train', **options):
        opt = {**training_options(csv)['datasets'][phase], 'phase': phase, 'freeze': freeze}
        return list(DataLoader(build_dataset({**opt, **options}), batch_size=4))

    return batches


def train(model, batches, epochs=1):
    """Train on batches; return the loss of each step."""
    losses = []
    for batch in batches * epochs:
        model.feed_data(batch)
        model.optimize_parameters(len(losses) + 1)
        losses.append(model.get_current_log()['l_mos'])
    return losses


def part(model, start, but='-'):
    """Copy the weights whose names start with ``start``, except those that start with ``but``."""
    state = model.net.state_dict()
    return {k: v.clone() for k, v in state.items() if k.startswith(start) and not k.startswith(but)}


# What is frozen


@pytest.mark.parametrize('pixels', [True, False])
@pytest.mark.parametrize('freeze', [None, 'none', 'image', 'text', 'both'])
def test_a_frozen_encoder_is_bit_identical_after_training(build, batches, freeze, pixels):
    model = build(freeze)
    parts = {'image': (IMAGE,), 'text': (TEXT, IMAGE), 'head': ('', TEXT)}
    before = {name: part(model, *where) for name, where in parts.items()}
    train(model, batches(None if pixels else freeze), epochs=2)
    for name, where in parts.items():
        assert same_weights(before[name], part(model, *where)) == (
            name in frozen_encoders(freeze)
        ), name


def test_a_frozen_trunk_stays_and_its_projection_is_trained(build, batches):
    model = build('trunk', backbone='EfficientNet-Lite0')
    trunk, projection = (f'{IMAGE}{name}.' for name in ('trunk', 'head'))
    before = part(model, trunk), part(model, projection)
    [batch, *_] = batches('trunk')
    train(model, [batch], epochs=2)
    assert same_weights(before[0], part(model, trunk))
    assert not same_weights(before[1], part(model, projection))
    model.test()
    on_features = model.output_score
    model.feed_data(with_pixels(model.net, batch))
    model.test()
    torch.testing.assert_close(on_features, model.output_score, atol=1e-4, rtol=0)


def test_an_image_encoder_without_a_trunk_cannot_be_frozen_in_part(build):
    with pytest.raises(AMHPError, match="freeze='trunk': only for image encoders of timm"):
        build('trunk')


@pytest.mark.parametrize('variant', VARIANTS)
def test_the_head_of_each_variant_is_trained(build, batches, variant):
    model = build('both', variant=variant, optim={'weight_decay': 0})
    before = {k: v.detach().clone() for k, v in model.net.named_parameters()}
    train(model, batches('both'))
    moved = {k for k, v in model.net.named_parameters() if not torch.equal(v, before[k])}
    assert moved == {k for k in before if not k.startswith('backbone.')}


def test_a_frozen_encoder_has_no_dropout_and_keeps_its_statistics(build, batches, tiny):
    residual = {'image_size': 32, 'layers': [1, 1, 1, 1], 'width': 8, 'head_width': 16}
    model = build('image', backbone={**tiny, 'vision_cfg': residual})  # with batch norms
    before = part(model, IMAGE)
    assert any('running_mean' in name for name in before)
    train(model, batches())
    assert same_weights(before, part(model, IMAGE))

    dropping = {**tiny, 'vision_cfg': {**tiny['vision_cfg'], 'patch_dropout': 0.9}}
    net = build('image', backbone=dropping).net
    assert net.training
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(net.backbone.encode_image(x), net.backbone.encode_image(x))


def test_a_frozen_encoder_runs_without_gradient(build):
    net = build('both').net
    assert not net.backbone.encode_image(torch.rand(1, 3, 32, 32)).requires_grad
    assert not net.backbone.encode_text(['warm light']).requires_grad


@pytest.mark.parametrize(
    ('freeze', 'optim', 'expected'),
    [
        ('both', {}, [0.01]),
        ('both', {'lr_visual': 1e-5, 'lr_backbone': 1e-4}, [0.01]),
        ('image', {'lr_visual': 1e-5, 'lr_backbone': 1e-4}, [1e-4, 0.01]),
        ('text', {'lr_visual': 1e-5, 'lr_backbone': 1e-4}, [1e-5, 0.01]),
        ('both', {'lr_fc': 0.1, 'lr_backbone': 1e-4}, [0.1, 0.01]),
    ],
)
def test_groups_hold_what_is_trained_and_nothing_else(build, batches, freeze, optim, expected):
    model = build(freeze, optim=optim)
    groups = model.optimizer.param_groups
    assert [group['lr'] for group in groups] == expected
    grouped = {id(p) for group in groups for p in group['params']}
    assert grouped == {id(p) for p in model.net.parameters() if p.requires_grad}
    train(model, batches(freeze))


def test_the_log_has_one_line_for_all_frozen_parameters(build, pyiqa_log):
    count = sum(p.numel() for p in build('both').net.backbone.parameters())
    assert f'{count:,} parameters are frozen' in pyiqa_log.text
    assert 'will not be optimized' not in pyiqa_log.text


def test_distributed_training_has_only_what_is_trained(build, batches, tmp_path):
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    model, alone = build('both'), build('both')
    dist.init_process_group('gloo', f'file://{tmp_path / "store"}', rank=0, world_size=1)
    try:
        model.net = DistributedDataParallel(model.net)
        losses = train(model, batches('both'), epochs=2)  # an error if a gradient were missing
    finally:
        dist.destroy_process_group()
    assert losses == train(alone, batches('both'), epochs=2)


# The same training


def with_pixels(net, batch):
    """A batch with the view that its features are of, as the data set's own crops."""
    views = [net.preprocess.view(to_tensor(read_image(path))[None]) for path in batch['img_path']]
    return {**batch, 'img': torch.cat(views)}


@pytest.mark.parametrize('protocol', ['paper', 'reference'])
def test_training_on_cached_features_is_that_on_features_computed_each_time(
    build, batches, protocol
):
    cached, computed = (build('both', protocol=protocol) for _ in range(2))
    computed.frozen = None  # no cache: the frozen encoders run in every step
    data = batches('both')
    losses = train(cached, data, epochs=3)
    expected = train(computed, [with_pixels(computed.net, batch) for batch in data], epochs=3)
    np.testing.assert_allclose(losses, expected, atol=1e-5)
    assert losses[-1] < losses[0]
    for name, value in part(computed, '', TEXT).items():
        torch.testing.assert_close(part(cached, '', TEXT)[name], value, atol=1e-5, rtol=0, msg=name)


def test_scores_on_features_are_those_of_the_metric(build, batches, tmp_path):
    import pyiqa

    model = build('both')
    train(model, batches('both'))
    model.save_network(model.net, 'net', -1)
    [batch, *_] = batches('both', phase='val')
    model.feed_data(batch)
    model.test()
    path = str(tmp_path / 'net_latest.pth')
    metric = pyiqa.create_metric('amhp', pretrained_model_path=path, device='cpu')
    pairs = zip(batch['img_path'], batch['text'], strict=True)
    scores = [metric(path, text=text) for path, text in pairs]
    torch.testing.assert_close(model.output_score, torch.cat(scores), atol=1e-5, rtol=0)


# Once


def test_after_the_first_epoch_no_encoder_runs_and_no_image_is_opened(build, batches, monkeypatch):
    data = batches('both')
    model = build('both')
    count = count_encoded(model.net, monkeypatch)
    train(model, data)
    texts = {text for batch in data for text in batch['text'] if text}
    assert count == {'image': 12, 'text': len(texts) + 5, 'files': 12}
    train(model, data, epochs=2)
    assert count == {'image': 12, 'text': len(texts) + 5, 'files': 12}


def test_the_next_run_finds_the_features_of_the_one_before(build, batches, monkeypatch):
    data = batches('both')
    losses = train(build('both'), data)
    model = build('both')
    count = count_encoded(model.net, monkeypatch)
    assert train(model, data) == losses
    assert count == {'image': 0, 'text': 5, 'files': 0}  # the texts of the levels, once a run


def test_levels_are_encoded_once_though_validations_come_between(build, batches, monkeypatch):
    model = build('text')
    train_data, val_data = batches('text'), batches('text', phase='val', augment={'resize': 32})
    for batch in train_data:  # all texts are known then
        model.feed_data(batch)
    for batch in val_data:
        model.feed_data(batch)
    count = count_encoded(model.net, monkeypatch)
    for _ in range(2):
        train(model, train_data)
        for batch in val_data:
            model.feed_data(batch)
            model.test()
    assert count['text'] == 5


@pytest.mark.slow
def test_the_head_is_trained_on_another_engines_features(build, batches, tmp_path):
    pytest.importorskip('openvino')
    data = batches('both')
    fp32 = {'precision': 'fp32'}
    losses = [train(build('both', **fp32, engine=e), data, 2) for e in ('torch', 'openvino')]
    np.testing.assert_allclose(*losses, atol=1e-4)
    assert len(list((tmp_path / 'cache').iterdir())) == 4  # each engine has its own


# Images that cannot be read


def test_unreadable_images_are_left_out_and_counted_in_each_epoch(build, batches, rated_images):
    images = rated_images.parent / 'images'
    (images / '01.png').write_bytes(b'no image')
    (images / '02.png').unlink()
    data = batches('both', csv=rated_images)
    model = build('both')
    for _ in range(2):
        train(model, data)
        assert {Path(path).name for path in model.unreadable} == {'01.png', '02.png'}
        model.feed_data(data[0])
        assert [Path(path).name for path in model.img_path] == ['00.png', '03.png']
    shutil.copy(images / '00.png', images / '01.png')  # repaired
    model.feed_data(data[0])
    assert [Path(path).name for path in model.img_path] == ['00.png', '01.png', '03.png']


def test_a_batch_without_a_readable_image_changes_nothing(build, batches, rated_images):
    for i in range(4):
        (rated_images.parent / 'images' / f'{i:02d}.png').write_bytes(b'')
    model = build('both')
    before = part(model, '')
    model.feed_data(batches('both', csv=rated_images)[0])
    model.optimize_parameters(1)
    assert same_weights(before, part(model, ''))


def test_an_unreadable_image_is_an_error_unless_it_is_skipped(build, batches, rated_images):
    (rated_images.parent / 'images' / '05.png').write_bytes(b'no image')
    [_, batch, _] = batches('image', csv=rated_images, skip_bad_images=False)
    with pytest.raises(ImageReadError, match=r'05\.png: not an image'):
        build('image').feed_data(batch)


# Options


@pytest.mark.parametrize('value', ['all', True, ['image'], ''])
def test_an_unknown_value_is_refused(build, batches, value):
    for use in (build, batches):
        with pytest.raises(AMHPError, match='expected one of none, image, trunk, text, both'):
            use(value)


@pytest.mark.parametrize('freeze', [None, 'text'])
def test_a_data_set_without_pixels_needs_a_frozen_image_encoder(build, batches, freeze):
    with pytest.raises(AMHPError, match='set the same in `train: freeze`'):
        build(freeze).feed_data(batches('image')[0])


def test_pixels_for_a_frozen_image_encoder_are_used_with_one_warning(
    build, batches, pyiqa_log, monkeypatch
):
    model = build('both')
    count = count_encoded(model.net, monkeypatch)
    data = batches()
    train(model, data, epochs=2)
    assert count['image'] == 24
    assert pyiqa_log.text.count('a data set gives pixels') == 1


def test_a_network_without_encoders_cannot_be_frozen(training_options, shared_rated_images):
    opt = training_options(shared_rated_images)
    opt.update(is_train=True, dist=False, network={'type': 'TANet', 'pretrained': False})
    opt['train']['freeze'] = 'image'
    with pytest.raises(AMHPError, match='needs a network with the encoders of AMHP, got TANet'):
        build_model(opt)


@pytest.mark.parametrize('name', ['custom', 'ava', 'para', 'aadb'])
def test_one_line_of_the_shipped_options_freezes_everywhere(name):
    text = (SHIPPED / f'train_amhp_{name}.yml').read_text()
    assert text.count('freeze: &freeze ~') == 1
    opt = yaml.safe_load(text.replace('&freeze ~', '&freeze both'))
    sections = (opt['datasets']['train'], opt['datasets']['val'], opt['train'])
    assert [section['freeze'] for section in sections] == ['both'] * 3


# Whole runs


def run(opt, root, freeze):
    for section in (*opt['datasets'].values(), opt['train']):
        section['freeze'] = freeze
    root.mkdir()
    best = run_train(write_options(root / 'train.yml', opt), [], root)
    state = load_weights(root / 'experiments' / opt['name'] / 'models' / 'net_latest.pth')
    return best, state, read_log(root, opt['name'])


def test_a_whole_training_and_the_same_again(
    training_options, shared_rated_images, own_home, tmp_path
):
    results = []
    for name in ('cold', 'warm'):
        opt = training_options(shared_rated_images)
        opt['train']['total_epoch'] = 4
        opt['network']['fc_init'] = 'default'
        opt['datasets']['train']['num_worker_per_gpu'] = 1
        results.append(run(opt, tmp_path / name, 'both'))
    (best, state, log), (best_again, state_again, _) = results
    assert same_weights(state, state_again)
    assert best == best_again
    losses = [float(loss) for loss in re.findall(r'l_mos: (\S+)', log)]
    assert len(losses) == 12
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert log.count('augment does not apply') == 2  # once for each data set
    assert len(list((own_home / 'features').glob('*.sqlite'))) == 2
