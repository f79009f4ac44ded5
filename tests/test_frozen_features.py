"""Features of frozen encoders on disk: those of a metric call, and never outdated."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor
from train_helpers import count_encoded

from pyiqa_amhp.datasets.images import read_image
from pyiqa_amhp.train import frozen
from pyiqa_amhp.train.frozen import FrozenEncoders


@pytest.fixture(autouse=True)
def cache_new_files(monkeypatch):
    """Cache the features of files that are only just written; ``change`` waits for a new time."""
    monkeypatch.setattr(frozen, 'TIME_STEP', 0)


@pytest.fixture
def encoders(make_amhp, tmp_path):
    """Build frozen encoders of a tiny AMHP, with a cache of this test."""
    return lambda **options: FrozenEncoders(
        make_amhp(**options), ('image', 'text'), tmp_path / 'cache'
    )


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / 'photo.bmp'  # its size in bytes does not depend on the pixels
    paint(path, 0)
    return str(path)


def paint(path, seed, size=(48, 40)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)


def change(path, write):
    """Write a file again and again, until the file system gives it a new time."""
    before = os.stat(path).st_ctime_ns
    while True:
        write()
        if os.stat(path).st_ctime_ns != before:
            return


def true_features(net, paths):
    """Compute the features of images as a metric call does."""
    net.eval()
    with torch.no_grad():
        views = [net.preprocess(to_tensor(read_image(path))[None]) for path in paths]
        return torch.cat([net.backbone.encode_image(view) for view in views])


def test_frozen_encoders_are_in_evaluation_mode_at_once(make_amhp):
    net = make_amhp().train()
    FrozenEncoders(net, ('image',))
    assert not net.backbone.clip.visual.training
    assert net.backbone.clip.transformer.training
    assert net.preprocess.training


@pytest.mark.parametrize('options', [{}, {'protocol': 'reference'}, {'resize': 'shortest'}])
def test_features_are_those_of_a_metric_call(encoders, shared_rated_images, options):
    paths = [str(p) for p in sorted((shared_rated_images.parent / 'images').iterdir())[:5]]
    cached = encoders(**options)
    cached.net.train()
    for _ in range(2):  # computed, and read
        Fx, errors = cached.image_features(paths)
        assert errors == [''] * 5
        torch.testing.assert_close(Fx, true_features(cached.net, paths))


def test_features_of_texts_are_in_their_order(encoders):
    cached = encoders()
    texts = ['warm light', '', 'soft focus', 'warm light', '\ud800']
    with torch.no_grad():
        expected = cached.net.text_features(texts, torch.zeros(5, 16))
    for _ in range(2):
        torch.testing.assert_close(cached.text_features(texts), expected)
    assert cached.text_features(['', '']).tolist() == [[0] * 16] * 2


def test_images_are_encoded_in_small_batches(encoders, shared_rated_images, monkeypatch):
    monkeypatch.setattr(frozen, 'BATCH_SIZE', 5)
    paths = [str(p) for p in sorted((shared_rated_images.parent / 'images').iterdir())[:12]]
    cached, sizes = encoders(), []
    visual = cached.net.backbone.clip.visual
    visual.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    Fx, _ = cached.image_features([*paths, *paths])
    assert sizes == [5, 5, 2]
    torch.testing.assert_close(Fx, true_features(cached.net, paths).repeat(2, 1))


def test_the_default_folder_is_the_users(make_amhp, own_home, photo, monkeypatch, tmp_path):
    FrozenEncoders(make_amhp(), ('image',)).image_features([photo])
    assert [file.suffix for file in (own_home / 'features').iterdir()] == ['.sqlite']
    monkeypatch.delenv('PYIQA_AMHP_HOME')
    monkeypatch.setattr(frozen.platformdirs, 'user_cache_dir', lambda *_: str(tmp_path / 'user'))
    assert frozen.default_folder() == tmp_path / 'user' / 'features'


# Nothing is outdated


def check_fresh(encoders, paths):
    Fx, _ = encoders.image_features(paths)
    torch.testing.assert_close(Fx, true_features(encoders.net, paths))
    return Fx


def with_old_times(path, write):
    stat = os.stat(path)
    write()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def replace(path, seed):
    paint(f'{path}.bmp', seed)
    os.utime(f'{path}.bmp', ns=(0, os.stat(path).st_mtime_ns))
    os.replace(f'{path}.bmp', path)


@pytest.mark.parametrize(
    'write',
    [
        lambda path: paint(path, 1),
        lambda path: paint(path, 1, size=(40, 40)),
        lambda path: with_old_times(path, lambda: paint(path, 1)),
        lambda path: replace(path, 1),
    ],
    ids=['same size', 'another size', 'same size and time', 'replaced, same size and time'],
)
def test_a_changed_file_has_new_features(encoders, photo, write):
    cached = encoders()
    before = check_fresh(cached, [photo])
    change(photo, lambda: write(photo))
    assert not torch.allclose(check_fresh(cached, [photo]), before)


def test_files_that_swap_names_swap_features(encoders, photo):
    other = f'{photo}.other.bmp'
    paint(other, 1)
    cached = encoders()
    Fx = check_fresh(cached, [photo, other])
    third = f'{photo}.third'
    for old, new in ((photo, third), (other, photo), (third, other)):
        os.rename(old, new)
    assert torch.equal(check_fresh(cached, [other, photo]), Fx)


def test_files_of_one_name_in_two_folders_are_kept_apart(encoders, photo, tmp_path, monkeypatch):
    cached = encoders()
    (tmp_path / 'other').mkdir()
    paint(tmp_path / 'other' / 'photo.bmp', 1)
    for folder in (tmp_path, tmp_path / 'other'):
        monkeypatch.chdir(folder)
        check_fresh(cached, ['photo.bmp'])
    count = count_encoded(cached.net, monkeypatch)
    for folder in (tmp_path, tmp_path / 'other'):
        monkeypatch.chdir(folder)
        cached.image_features(['photo.bmp'])
    assert count['files'] == 0


def test_changed_weights_have_new_features(encoders, photo):
    """Of another model, and of the same one after one number was changed in place."""
    first, other = encoders(), encoders(seed=1)
    before = check_fresh(first, [photo])
    assert not torch.allclose(check_fresh(other, [photo]), before)
    with torch.no_grad():
        first.net.backbone.clip.visual.conv1.weight[-1, -1, -1, -1] += 1
    assert not torch.allclose(check_fresh(first, [photo]), before)

    text = first.text_features(['warm light'])
    assert not torch.allclose(other.text_features(['warm light']), text)
    with torch.no_grad():
        first.net.backbone.clip.token_embedding.weight[-1, -1] += 1  # of the end token
        expected = first.net.backbone.encode_text(['warm light'])
    torch.testing.assert_close(first.text_features(['warm light']), expected)


@pytest.mark.parametrize(
    'options',
    [
        {'resize': 'shortest'},
        {'resize_size': 48},
        {'crop': 'corner'},
        {'test_flip': True},
        {'image_mean': [0.1, 0.2, 0.3]},
        {'image_std': [0.5, 0.4, 0.3]},
        {'quick_gelu': True},
        {'precision': 'bf16'},
    ],
    ids=lambda options: next(iter(options)),
)
def test_other_options_have_other_features(encoders, tmp_path, options):
    paths = [str(tmp_path / f'{i}.png') for i in range(4)]
    for i, path in enumerate(paths):
        paint(path, i, size=(60, 50))  # some are mirrored in the test
    before = check_fresh(encoders(), paths)
    assert not torch.allclose(check_fresh(encoders(**options), paths), before)


def test_the_digest_depends_on_the_architecture_beside_the_weights(make_amhp, tiny):
    heads = {**tiny, 'text_cfg': {**tiny['text_cfg'], 'heads': 4}}
    plain, other = make_amhp(), make_amhp(backbone=heads)
    other.load_state_dict(
        {**plain.state_dict(), '_extra_state': other.get_extra_state()}
    )  # the shapes are the same
    digest = frozen.encoder_digest
    assert digest(plain, 'text') != digest(other, 'text')
    assert digest(plain, 'image') == digest(other, 'image')


def test_options_of_the_head_leave_the_features_as_they_are(make_amhp):
    plain = make_amhp()
    other = make_amhp(tau=0.1, dataset='para', template='{level}', crop='center')
    other.backbone.load_state_dict(plain.backbone.state_dict())
    for encoder in ('image', 'text'):
        assert frozen.encoder_digest(plain, encoder) == frozen.encoder_digest(
            other.train(), encoder
        )


def test_features_of_a_file_written_just_now_are_not_cached(encoders, photo, monkeypatch):
    monkeypatch.setattr(frozen, 'TIME_STEP', 10**15)
    cached = encoders()
    count = count_encoded(cached.net, monkeypatch)
    for _ in range(2):
        cached.image_features([photo])
    assert count['image'] == count['files'] == 2


def test_features_of_a_file_that_changes_while_it_is_read_are_not_cached(
    encoders, photo, monkeypatch
):
    def read_and_change(path):
        image = read_image(path)
        change(path, lambda: paint(path, 1))
        return image

    cached = encoders()
    with monkeypatch.context() as patch:
        patch.setattr(frozen, 'read_image', read_and_change)
        cached.image_features([photo])
    check_fresh(cached, [photo])


def test_features_in_a_damaged_cache_are_computed_again(encoders, photo, tmp_path, pyiqa_log):
    before = check_fresh(encoders(), [photo])
    for file in (tmp_path / 'cache').iterdir():
        file.write_bytes(b'no database' * 1000)
    assert torch.equal(check_fresh(encoders(), [photo]), before)
    assert 'damaged' in pyiqa_log.text
