"""A first-level prompt for an image that nobody has commented on: what people would say.

Our own addition; the paper reads a comment, or raters' labels, of the very image it judges. Both
predictors take the image feature and give the text feature that Eq. 4 needs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import normalize

from pyiqa_amhp.datasets.attributes import attribute_sentences
from pyiqa_amhp.model.config import AMHPConfig

Encode = Callable[[list[str]], torch.Tensor]


@dataclass(frozen=True)
class Prediction:
    """What was predicted for N images.

    Attributes:
        Ft: text features ``(N, n)``.
        levels: the probability of each level of each attribute, ``(N, A, k)``; None where the
            predictor knows no attributes.
        texts: the sentences, in the place of a comment; None where there are none.
    """

    Ft: torch.Tensor
    levels: torch.Tensor | None = None
    texts: list[str] | None = None


@dataclass(frozen=True)
class Prompt:
    """The first-level prompts of N images.

    Attributes:
        Ft: what the fusion reads, ``(N, n)``, zeros where there is nothing; None for variants
            that read no text.
        given: the features of the texts themselves. prediction: of all images, if one was made.
    """

    Ft: torch.Tensor | None
    given: torch.Tensor | None = None
    prediction: Prediction | None = None


class LevelPredictor(nn.Module):
    """Each attribute's level by CLIP's way of telling: which sentence is closest to the image.

    For each attribute, the cosines of ``Fx`` and the features of ``A photo with {level}
    {attribute}.`` (the paper's template) times a scale that is learned, softmax over the levels.
    ``Ft`` is the feature of the sentences of the likeliest levels (``predicted_text: sentences``),
    or the mean over attributes of the expected feature under these probabilities
    (``expectation``). Without any training it is CLIP's zero-shot opinion.

    Args:
        config: ``attributes``, ``levels``, ``attribute_template`` and ``predicted_text``.
        logit_scale: at the start, as a logarithm.
    """

    def __init__(self, config: AMHPConfig, logit_scale: float):
        super().__init__()
        self.attributes, self.words = config.attributes, config.levels
        self.template, self.expects = config.attribute_template, config.predicted_text
        self.sentences = [
            attribute_sentences({name: level}, self.template)
            for name in self.attributes
            for level in self.words
        ]
        self.logit_scale = nn.Parameter(torch.tensor(logit_scale))

    def forward(self, Fx: torch.Tensor, features: torch.Tensor, encode: Encode) -> Prediction:
        """Predict.

        Args:
            Fx: image features ``(N, n)``.
            features: those of ``sentences``, ``(A * k, n)``.
            encode: texts to features ``(N, n)``.
        """
        features = normalize(features, dim=-1).unflatten(0, (len(self.attributes), -1))  # (A, k, n)
        cosines = torch.einsum('nd,akd->nak', normalize(Fx, dim=-1), features)
        levels = (cosines * self.logit_scale.exp()).softmax(dim=-1)  # (N, A, k)
        if self.expects == 'expectation':
            Ft = torch.einsum('nak,akd->nd', levels, features) / len(self.attributes)
            return Prediction(Ft, levels)
        texts = self.say(levels.argmax(dim=-1))
        return Prediction(encode(texts), levels, texts)

    def say(self, levels: torch.Tensor) -> list[str]:
        """Sentences for the levels ``(N, A)`` of images."""
        return [
            attribute_sentences(
                {name: self.words[i] for name, i in zip(self.attributes, row, strict=True)},
                self.template,
            )
            for row in levels.tolist()
        ]


class FeaturePredictor(nn.Module):
    """A small network from ``norm(Fx)`` to a comment's ``norm(Ft)``, for data without labels.

    Args:
        n: the width of the features.
    """

    def __init__(self, n: int):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(n, 2 * n), nn.GELU(), nn.Linear(2 * n, n))

    def forward(self, Fx: torch.Tensor) -> Prediction:
        """Image features ``(N, n)`` to predicted text features of length 1."""
        return Prediction(normalize(self.net(normalize(Fx, dim=-1)), dim=-1))


def build_predictor(config: AMHPConfig, n: int, logit_scale: float) -> nn.Module | None:
    """The predictor that the configuration asks for; None for ``predictor: none``."""
    if config.predictor == 'levels':
        return LevelPredictor(config, logit_scale)
    return FeaturePredictor(n) if config.predictor == 'feature' else None


def level_loss(prediction: Prediction, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy of predicted levels, the mean over images and attributes.

    A label that is missing counts 0, so that every image weighs the same in any batch.

    Args:
        prediction: of N images.
        labels: ``(N, A)``, the levels' numbers, -1 where there is no label.

    Returns:
        A number; 0 where there is no label at all.
    """
    there = labels >= 0
    p = prediction.levels.gather(-1, labels.clamp(min=0)[..., None])[..., 0]  # (N, A)
    return -(p.clamp(min=1e-12).log() * there).mean()


def feature_loss(prediction: Prediction, Ft: torch.Tensor) -> torch.Tensor:
    """Cosine distance to the real comments' features, the mean over images.

    An image without a comment counts 0, so that every image weighs the same in any batch.

    No gradient goes into the text encoder, which else would make all comments alike.

    Args:
        prediction: of N images.
        Ft: ``(N, n)``, a row of zeros where there is no comment.
    """
    Ft = Ft.detach()
    there = Ft.abs().sum(dim=-1) > 0
    distance = 1 - (normalize(prediction.Ft, dim=-1) * normalize(Ft, dim=-1)).sum(dim=-1)
    return (distance * there).mean()
