"""The batch that a network is run on: selection of samples, copies, the levels of the ratings."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

from pyiqa_amhp.errors import AMHPError


@pytest.fixture
def batch(loader):
    """A batch of four training images."""
    return next(iter(loader()))


def test_a_batch_without_errors_is_not_copied_on_the_cpu(build, batch):
    model = build()
    model.feed_data(batch)
    assert model.gt_mos.data_ptr() == batch['mos_label'].data_ptr()
    assert model.img_input.data_ptr() == batch['img'].data_ptr()


def test_only_the_images_that_could_be_read_are_kept(build, batch):
    model = build()
    model.feed_data({**batch, 'read_error': ['', 'broken', '', '']})
    keep = [0, 2, 3]
    assert torch.equal(model.img_input, batch['img'][keep])
    assert torch.equal(model.gt_mos, batch['mos_label'][keep])
    assert torch.equal(model.gt_mos_dist, batch['mos_dist'][keep])
    assert model.img_path == [batch['img_path'][i] for i in keep]
    assert model.text == [batch['text'][i] for i in keep]
    assert model.unreadable == {batch['img_path'][1]: 'broken'}


def test_the_levels_of_the_network_are_read_again_after_a_change(build, batch):
    model = build()
    model.feed_data(batch)
    model.net.level_values.add_(1)
    with pytest.raises(AMHPError, match=r'the network on \[2\.5, 4\.5'):
        model.feed_data(batch)
    model.net.level_values = model.net.level_values - 1
    model.feed_data(batch)
    model.net.level_values = model.net.level_values * 2
    with pytest.raises(AMHPError, match='give both the same `level_values`'):
        model.feed_data(batch)


def test_the_levels_of_the_network_are_read_once(build, batch, monkeypatch):
    model, read = build(), []
    tolist = torch.Tensor.tolist

    def counted(values):
        read.extend([1] * (values is model.net.level_values))
        return tolist(values)

    monkeypatch.setattr(torch.Tensor, 'tolist', counted)
    for _ in range(3):
        model.feed_data(batch)
    assert len(read) == 1


# Pixels


def test_floats_of_bytes_are_the_digits_of_to_tensor(build):
    """All 256 values, in rows long enough for vector instructions and in short ones."""
    grey = np.tile(np.arange(256, dtype=np.uint8), (7, 1))
    image = np.stack([grey, grey[:, ::-1], np.roll(grey, 5)], axis=-1)
    for part in (image, image[:3, :5]):
        batch = torch.from_numpy(part.copy()).permute(2, 0, 1)[None]
        floats = build().pixels(batch)
        assert floats.dtype == torch.float32
        assert torch.equal(floats[0], to_tensor(Image.fromarray(part)))


def test_floats_stay_as_they_are(build):
    images = torch.rand(2, 3, 4, 4) * 255
    assert torch.equal(build().pixels(images), images)


def test_a_batch_of_bytes_is_the_batch_of_floats(build, loader):
    models = build(), build()
    for phase in ('train', 'val'):
        for gives_bytes, model in zip((False, True), models, strict=True):
            data = loader(phase)
            data.dataset.gives_bytes = gives_bytes
            data.dataset.begin_epoch(0, 1)
            batch = next(iter(torch.utils.data.DataLoader(data.dataset, 4)))
            assert batch['img'].dtype == (torch.uint8 if gives_bytes else torch.float32)
            model.feed_data(batch)
        floats, of_bytes = models
        assert torch.equal(floats.img_input, of_bytes.img_input)
        assert of_bytes.img_input.dtype == torch.float32
