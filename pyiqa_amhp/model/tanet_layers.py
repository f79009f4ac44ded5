"""Branches and layers of TANet; the network and its reference are in ``tanet.py``."""

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool1d, adaptive_avg_pool2d

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.preprocess import at_least_fp32

SCORES = 10  # AVA's votes, 1..10
SCENES = 365  # classes of Places365, on which the theme network was trained
HIDDEN = 100
GRID = 12  # the RGB branch compares 12 x 12 patches
BATCH_NORM_EPS = 1e-5  # PyTorch's, which the authors' code uses

# MobileNet-V2's stages: expansion, channels, number of blocks, stride of the first block.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def self_similarity(x: torch.Tensor) -> torch.Tensor:
    """Compare the colours of an image's patches: ``(N, 3, H, W)`` to ``(N, 20736)``.

    These are the cosines of the mean colours of each pair of 12 x 12 patches, 144 x 144 numbers.
    """
    dtype, x = x.dtype, at_least_fp32(x, x.dtype)  # products of small numbers are 0 in fp16
    patches = adaptive_avg_pool2d(x, GRID).flatten(2)  # (N, 3, 144)
    norm = patches.norm(dim=1)  # (N, 144)
    products = patches.transpose(1, 2) @ patches  # (N, 144, 144)
    norms = norm.unsqueeze(2) * norm.unsqueeze(1)
    return (products / norms.clamp(min=1e-8)).flatten(1).to(dtype)


def generated_layer(q: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Apply each image's own linear layer to its features.

    Args:
        q: features ``(N, 100)``.
        weight, bias: generated weights ``(N, 100)`` and biases ``(N, 1)``.

    Returns:
        ``(N, 1)``.
    """
    return (q * weight).sum(dim=1, keepdim=True) + bias


class HyperNet(nn.Module):
    """Generates the weight and bias of a linear layer from the theme of an image."""

    def __init__(self):
        super().__init__()
        self.last_out_w = nn.Linear(SCENES, HIDDEN)
        self.last_out_b = nn.Linear(SCENES, 1)

    def forward(self, scene: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Generate ``weight (N, 100)`` and ``bias (N, 1)`` from theme scores ``(N, 365)``."""
        return self.last_out_w(scene), self.last_out_b(scene)


class StoredImages(nn.Module):
    """Images that take the place of a batch: their generated weights, and the statistics of each.

    Args:
        weight: generated weights of ``K`` images, ``(K, 100)``.
        mean, variance: of the layer with each of these weights, over many images, ``(K,)``.
    """

    weight: torch.Tensor
    mean: torch.Tensor
    variance: torch.Tensor

    def __init__(self, weight: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor):
        super().__init__()
        for name, value in (('weight', weight), ('mean', mean), ('variance', variance)):
            self.register_buffer(name, value)

    def forward(self, q: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Compute the normalised row of each image in a batch with the stored ones: ``(N, K)``."""
        row = q @ self.weight.T + bias
        return (row - self.mean) / (self.variance + BATCH_NORM_EPS).sqrt()


class TargetNet(nn.Module):
    """The branch that applies the generated layer.

    ``bn7`` has no weights, like the batch norm that the authors' code makes at each call.

    Attributes:
        stored: the images that take the place of a batch; None for the diagonal.
    """

    stored: StoredImages | None

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(SCENES, HIDDEN)
        self.bn1 = nn.BatchNorm1d(HIDDEN)
        self.relu1 = nn.PReLU()
        self.drop1 = nn.Dropout(0.5)
        self.bn7 = nn.BatchNorm1d(1, affine=False)
        self.relu7 = nn.PReLU()
        self.register_module('stored', None)

    def features(self, scene: torch.Tensor) -> torch.Tensor:
        """Compute the input of the generated layer: ``(N, 100)``."""
        return self.drop1(self.relu1(self.bn1(self.fc1(scene))))

    def forward(
        self, scene: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        """Compute ``(N, 10)``: on the diagonal, one number for each image, ten times."""
        q = self.features(scene)
        if self.stored is None:
            q = self.relu7(self.bn7(generated_layer(q, weight, bias)))  # (N, 1)
            return q.expand(-1, SCORES)
        if self.training:
            raise AMHPError(
                'TANet with stored images cannot be trained, since their weights would not follow; '
                'train a checkpoint without them, and calibrate afterwards'
            )
        row = self.relu7(self.stored(q, bias))  # (N, K)
        return adaptive_avg_pool1d(row.unsqueeze(1), SCORES).squeeze(1)


def _conv_norm(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1):
    padding = kernel // 2
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode='fan_out')  # authors' code
    return conv, nn.BatchNorm2d(outputs)


class Block(nn.Module):
    """Block of MobileNet-V2. Unlike torchvision's it has an expanding layer for expansion 1 too."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int):
        super().__init__()
        inner = inputs * expansion
        self.conv = nn.Sequential(
            *_conv_norm(inputs, inner),
            nn.ReLU6(inplace=True),
            *_conv_norm(inner, inner, kernel=3, stride=stride, groups=inner),
            nn.ReLU6(inplace=True),
            *_conv_norm(inner, outputs),
        )
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(N, inputs, H, W)`` to ``(N, outputs, H / stride, W / stride)``."""
        return x + self.conv(x) if self.is_residual else self.conv(x)


class MobileNet(nn.Module):
    """The aesthetics branch: a MobileNet-V2 with ReLU6 in its blocks, ReLU before and after."""

    def __init__(self):
        super().__init__()
        channels, last = 32, 1280
        layers = [nn.Sequential(*_conv_norm(3, channels, kernel=3, stride=2), nn.ReLU())]
        for expansion, outputs, count, stride in STAGES:
            for i in range(count):
                layers.append(Block(channels, outputs, expansion, 1 if i else stride))
                channels = outputs
        layers.append(nn.Sequential(*_conv_norm(channels, last), nn.ReLU()))
        self.base_model = nn.Sequential(nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Sequential(nn.ReLU(), nn.Dropout(0.75), nn.Linear(last, SCORES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images ``(N, 3, 224, 224)`` to ``(N, 10)``."""
        return self.head(self.base_model(x).flatten(1))
