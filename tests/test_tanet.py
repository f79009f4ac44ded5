"""TANet: its maths against a float64 version written by hand, its inputs and outputs."""

import numpy as np
import pytest
import torch
from PIL import Image
from tanet_fixtures import BLOCKS, TRUNK
from torch.nn import functional as F
from torchvision.models import resnet18
from torchvision.transforms.functional import to_tensor

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model import tanet
from pyiqa_amhp.model.tanet_layers import self_similarity

# The maths by hand, in float64


def normalised(x):
    shape = (1, 3, 1, 1)
    mean, std = np.reshape([0.485, 0.456, 0.406], shape), np.reshape([0.229, 0.224, 0.225], shape)
    return (np.asarray(x, dtype=np.float64) - mean) / std


def linear(state, name, x):
    weight, bias = (state[f'{name}.{part}'].double().numpy() for part in ('weight', 'bias'))
    return x @ weight.T + bias


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def prelu(state, name, x):
    return np.where(x > 0, x, x * state[f'{name}.weight'].item())


def scene_by_hand(state, x):
    """ResNet-18 is torchvision's, in the authors' code too."""
    trunk = resnet18(num_classes=365)
    prefix = 'res365_last.'
    trunk.load_state_dict(
        {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    )
    with torch.no_grad():
        return trunk.double().eval()(torch.tensor(normalised(x))).numpy()


def features_by_hand(state, scene):
    norm = {k: state[f'tygertnet.bn1.{k}'].double().numpy() for k in
            ('weight', 'bias', 'running_mean', 'running_var')}  # fmt: skip
    q = linear(state, 'tygertnet.fc1', scene)
    q = (q - norm['running_mean']) / np.sqrt(norm['running_var'] + 1e-5)
    return prelu(state, 'tygertnet.relu1', q * norm['weight'] + norm['bias'])


def square_by_hand(state, scene):
    """The authors' layer on a batch: entry (i, j) is image i's features by image j's weight."""
    weight = linear(state, 'hypernet.last_out_w', scene)
    return features_by_hand(state, scene) @ weight.T + linear(state, 'hypernet.last_out_b', scene)


def target_of_batch_by_hand(state, scene):
    """The authors' branch on a batch: columns normalised, rows pooled to ten numbers."""
    square, n = square_by_hand(state, scene), len(scene)
    q = (square - square.mean(axis=0)) / np.sqrt(square.var(axis=0) + 1e-5)
    q = prelu(state, 'tygertnet.relu7', q)
    edges = [(g * n // 10, -(-(g + 1) * n // 10)) for g in range(10)]
    return np.stack([q[:, a:b].mean(axis=1) for a, b in edges], axis=1)


def response_by_hand(state, scene):
    """One number for each image: its features by the weight and bias made from it."""
    q = features_by_hand(state, scene)
    weight = linear(state, 'hypernet.last_out_w', scene)
    bias = linear(state, 'hypernet.last_out_b', scene)
    return (
        np.array(
            [sum(a * b for a, b in zip(*row, strict=True)) for row in zip(q, weight, strict=True)]
        )
        + bias[:, 0]
    )


def target_by_hand(state, scene, mean, variance):
    q = (response_by_hand(state, scene) - mean) / np.sqrt(variance + 1e-5)
    return np.repeat(prelu(state, 'tygertnet.relu7', q)[:, None], 10, axis=1)


def rgb_by_hand(state, x):
    x = normalised(x)
    edges = [(i * 224 // 12, -(-(i + 1) * 224 // 12)) for i in range(12)]
    patches = np.array(
        [[image[:, a:b, c:d].mean(axis=(1, 2)) for a, b in edges for c, d in edges] for image in x]
    )  # (N, 144, 3)
    cosine = np.zeros((len(x), 144, 144))
    for n, colours in enumerate(patches):
        for i, colour in enumerate(colours):
            lengths = np.linalg.norm(colour) * np.linalg.norm(colours, axis=1)
            cosine[n, i] = colours @ colour / lengths
    return softmax(linear(state, 'head_rgb.2', np.maximum(cosine.reshape(len(x), -1), 0)))


def mobile_by_hand(state, x):
    def conv(x, conv, norm, stride=1, groups=1):
        weight = state[f'{conv}.weight'].double()
        x = F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=groups)
        parts = ('running_mean', 'running_var', 'weight', 'bias')
        return F.batch_norm(x, *(state[f'{norm}.{part}'].double() for part in parts))

    x = conv(torch.tensor(normalised(x)), f'{TRUNK}.0.0', f'{TRUNK}.0.1', 2).clamp(min=0)
    for i, (inputs, outputs, expansion, stride) in enumerate(BLOCKS, start=1):
        block = f'{TRUNK}.{i}.conv'
        y = conv(x, f'{block}.0', f'{block}.1').clamp(0, 6)
        y = conv(y, f'{block}.3', f'{block}.4', stride, inputs * expansion).clamp(0, 6)
        y = conv(y, f'{block}.6', f'{block}.7')
        x = x + y if stride == 1 and inputs == outputs else y
    x = conv(x, f'{TRUNK}.18.0', f'{TRUNK}.18.1').clamp(min=0)
    return linear(state, 'mobileNet.head.2', x.mean(dim=(2, 3)).numpy())


def close(actual, expected, rtol=1e-9):
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=rtol, atol=1e-9)


def test_the_target_branch(net, authors):
    scene = np.random.default_rng(1).normal(size=(4, 365))
    net, x = net.double(), torch.tensor(scene)
    expected = target_by_hand(authors, scene, -3, 40)
    assert (expected < 0).any() and (expected > 0).any()  # both branches of the PReLU
    close(net.tygertnet(x, *net.hypernet(x)), expected)


def test_the_generated_layer_is_the_diagonal_of_the_authors_square(net):
    q, weight, bias = torch.randn(5, 100), torch.randn(5, 100), torch.randn(5, 1)
    square = F.linear(q, weight) + bias  # image i's features by image j's weight
    torch.testing.assert_close(tanet.generated_layer(q, weight, bias)[:, 0], square.diagonal())


def test_the_rgb_branch(net, authors, batch):
    net, x = net.double(), torch.tensor(normalised(batch))
    assert self_similarity(x).shape == (5, 20736)
    close(net.head_rgb(self_similarity(x)), rgb_by_hand(authors, batch))


def test_the_self_similarity_is_symmetric_and_1_on_the_diagonal(batch):
    similarity = self_similarity(batch).reshape(-1, 144, 144)
    torch.testing.assert_close(similarity.diagonal(dim1=1, dim2=2), torch.ones(5, 144))
    torch.testing.assert_close(similarity, similarity.transpose(1, 2))


def test_the_mobilenet_branch(net, authors, batch):
    x = batch * 20 - 8  # far enough out for ReLU and ReLU6 to differ
    close(net.double().mobileNet(torch.tensor(normalised(x))), mobile_by_hand(authors, x))


def test_the_three_branches_give_a_distribution_and_a_score(net, authors, batch):
    x = batch[:2].double()
    branches = (
        mobile_by_hand(authors, x),
        target_by_hand(authors, scene_by_hand(authors, x), -3, 40),
        rgb_by_hand(authors, x),
    )
    expected = softmax(linear(authors, 'head.2', np.maximum(np.concatenate(branches, axis=1), 0)))
    net = net.double()
    net.mean[:], net.std[:] = (  # float32 has eight digits only
        torch.tensor(values, dtype=torch.float64).reshape(1, 3, 1, 1)
        for values in (tanet.IMAGENET_MEAN, tanet.IMAGENET_STD)
    )
    mos, dist = net(x, return_mos=True, return_dist=True)
    close(dist, expected)
    close(mos, expected @ np.arange(1.0, 11)[:, None])
    assert mos.shape == (2, 1) and dist.shape == (2, 10)


# Inputs and outputs


def test_a_score_does_not_depend_on_the_rest_of_the_batch(net, batch):
    with torch.no_grad():
        whole, backwards = net(batch), net(batch.flip(0)).flip(0)
        alone = torch.cat([net(x[None]) for x in batch])
    assert whole.std() > 0.01
    torch.testing.assert_close(whole, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(whole, backwards, rtol=0, atol=1e-5)


@pytest.mark.parametrize('size', [(60, 40), (700, 230), (224, 300), (224, 224)])
def test_images_are_squashed_as_by_pillow(net, size):
    noise = np.random.default_rng(0).integers(70, 186, (*size, 3)).astype(np.uint8)
    expected = to_tensor(Image.fromarray(noise).resize((224, 224), Image.Resampling.BICUBIC))
    seen = net.preprocess(to_tensor(noise)[None]) * net.std + net.mean
    torch.testing.assert_close(seen[0], expected, rtol=0, atol=1.5 / 255)


def test_squashed_images_stay_in_range(net):
    black_and_white = torch.rand(1, 3, 60, 40).round()
    seen = net.preprocess(black_and_white) * net.std + net.mean
    assert seen.min() >= -1e-6 and seen.max() <= 1 + 1e-6


def test_grey_images_are_those_of_three_equal_channels(net):
    grey = torch.rand(2, 1, 40, 30)
    with torch.no_grad():
        torch.testing.assert_close(net(grey), net(grey.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize('size', [(1, 1), (1, 700), (31, 5)])
def test_images_of_any_size_are_scored(net, size):
    with torch.no_grad():
        score = net(torch.rand(1, 3, *size))
    assert 1 <= score.item() <= 10


def test_outputs_are_those_of_pyiqas_nima(net, batch):
    with torch.no_grad():
        mos, dist = net(batch[:2], return_mos=True, return_dist=True)
        torch.testing.assert_close(net(batch[:2]), mos)
        torch.testing.assert_close(net(batch[:2], False, True), dist)
    with pytest.raises(AMHPError, match='nothing to return'):
        net(batch[:1], return_mos=False)


@pytest.mark.parametrize(
    ('x', 'error', 'expected'),
    [
        (torch.full((2, 3, 8, 8), float('nan')), AMHPError, 'image 0: 192, image 1: 192'),
        (torch.rand(3, 8, 8), AMHPError, r'got \(3, 8, 8\)'),
        (torch.rand(1, 4, 8, 8), AMHPError, r'got \(1, 4, 8, 8\)'),
        (torch.rand(0, 3, 8, 8), AMHPError, r'got \(0, 3, 8, 8\)'),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), TypeError, 'uint8'),
    ],
)
def test_other_inputs_than_image_batches_are_refused(net, x, error, expected):
    with pytest.raises(error, match=expected):
        net(x)


@pytest.mark.parametrize('size', [(50, 40), (224, 224)])
def test_as_a_loss_its_gradient_is_finite(checkpoint, size):
    import pyiqa

    metric = pyiqa.create_metric(
        'tanet', pretrained_model_path=str(checkpoint), as_loss=True, device='cpu'
    )
    x = torch.rand(3, 3, *size)
    x[1] = 0
    x[2] = metric.net.mean[0]  # colours of length 0, once normalised
    x.requires_grad_()
    metric(x).backward()
    assert torch.isfinite(x.grad).all()
    assert (x.grad[0] != 0).any()
