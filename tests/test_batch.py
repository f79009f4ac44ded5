"""The batch that a network is run on: selection of samples, copies, the levels of the ratings."""

import pytest
import torch

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
