"""Fixtures of TANet: a checkpoint as its authors save it, and photographs."""

import logging
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import resnet18
from torchvision.transforms.functional import to_tensor

from pyiqa_amhp.model import tanet
from pyiqa_amhp.model.tanet import TANet

# MobileNet-V2 in the authors' checkpoint: input channels, output channels, expansion, stride.
BLOCKS = [
    (32, 16, 1, 1), (16, 24, 6, 2), (24, 24, 6, 1), (24, 32, 6, 2), (32, 32, 6, 1), (32, 32, 6, 1),
    (32, 64, 6, 2), (64, 64, 6, 1), (64, 64, 6, 1), (64, 64, 6, 1), (64, 96, 6, 1), (96, 96, 6, 1),
    (96, 96, 6, 1), (96, 160, 6, 2), (160, 160, 6, 1), (160, 160, 6, 1), (160, 320, 6, 1),
]  # fmt: skip
TRUNK = 'mobileNet.base_model.0'


def authors_shapes():
    """Names and shapes of the tensors that the authors' code saves."""
    shapes = {
        f'res365_last.{k}': v.shape for k, v in resnet18(num_classes=365).state_dict().items()
    }

    def conv_and_norm(conv, norm, *shape):
        shapes[f'{conv}.weight'] = shape
        norms(norm, shape[0])

    def norms(name, size):
        for part in ('weight', 'bias', 'running_mean', 'running_var'):
            shapes[f'{name}.{part}'] = (size,)
        shapes[f'{name}.num_batches_tracked'] = ()

    def linear(name, inputs, outputs):
        shapes[f'{name}.weight'], shapes[f'{name}.bias'] = (outputs, inputs), (outputs,)

    conv_and_norm(f'{TRUNK}.0.0', f'{TRUNK}.0.1', 32, 3, 3, 3)
    for i, (inputs, outputs, expansion, _) in enumerate(BLOCKS, start=1):
        block, inner = f'{TRUNK}.{i}.conv', inputs * expansion
        conv_and_norm(f'{block}.0', f'{block}.1', inner, inputs, 1, 1)
        conv_and_norm(f'{block}.3', f'{block}.4', inner, 1, 3, 3)
        conv_and_norm(f'{block}.6', f'{block}.7', outputs, inner, 1, 1)
    conv_and_norm(f'{TRUNK}.18.0', f'{TRUNK}.18.1', 1280, 320, 1, 1)
    linear('mobileNet.head.2', 1280, 10)
    linear('hypernet.last_out_w', 365, 100)
    linear('hypernet.last_out_b', 365, 1)
    linear('tygertnet.fc1', 365, 100)
    norms('tygertnet.bn1', 100)
    shapes['tygertnet.relu1.weight'] = shapes['tygertnet.relu7.weight'] = (1,)
    linear('head_rgb.2', 20736, 10)
    linear('head.2', 30, 10)
    return shapes


@pytest.fixture(scope='module')
def authors():
    """The state of a checkpoint of the authors: their names and shapes, with random numbers."""
    torch.manual_seed(0)
    state = {}
    for name, shape in authors_shapes().items():
        if name.endswith('tracked'):
            state[name] = torch.tensor(7)
        elif len(shape) > 1:
            state[name] = torch.randn(shape) * math.sqrt(2 / math.prod(shape[1:]))
        elif name.endswith(('running_var', 'weight')):
            state[name] = 0.5 + torch.rand(shape)
        else:
            state[name] = 0.3 * torch.randn(shape)
    return state


@pytest.fixture(scope='module')
def checkpoint(authors, tmp_path_factory):
    """The file of that checkpoint."""
    file = tmp_path_factory.mktemp('tanet') / 'authors.pth'
    torch.save(authors, file)
    return file


@pytest.fixture
def net(checkpoint):
    """The authors' network, with statistics of ``bn7`` that differ from the initial ones."""
    net = TANet(pretrained_model_path=checkpoint).eval()
    net.tygertnet.bn7.running_mean.fill_(-3)
    net.tygertnet.bn7.running_var.fill_(40)
    return net


@pytest.fixture(scope='module')
def tanet_photos(tmp_path_factory):
    """A folder with five images of different sizes, colours and roughness."""
    folder = tmp_path_factory.mktemp('photos')
    rng = np.random.default_rng(0)
    for i in range(5):
        colour = rng.integers(0, 256, (3 + 2 * i, 4 + i, 3)).astype(np.uint8)
        Image.fromarray(colour).resize((60 + 90 * i, 300 - 50 * i)).save(folder / f'{i}.png')
    return folder


@pytest.fixture(scope='module')
def tanet_images(tanet_photos):
    """The five images as tensors ``(1, 3, H, W)``."""
    return [to_tensor(Image.open(file))[None] for file in sorted(tanet_photos.iterdir())]


@pytest.fixture
def batch(net, tanet_images):
    """The five images resized by the network, not normalised: ``(5, 3, 224, 224)``."""
    return torch.cat([net.preprocess(x) for x in tanet_images]) * net.std + net.mean


@pytest.fixture
def tanet_warnings(caplog, monkeypatch):
    """A function that returns the warnings logged so far; earlier tests' warnings do not count."""
    monkeypatch.setattr(tanet, '_warned', set())
    caplog.set_level(logging.WARNING, 'pyiqa_amhp')
    return lambda: [record.getMessage() for record in caplog.records]
