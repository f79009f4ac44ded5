"""Prediction of the attribute prompt of an image that nobody has commented on (our addition).

The paper's first-level prompt is a comment or raters' labels of the very image that is scored. The
predictors take the image feature and return the text feature that Eq. 4 needs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from pyiqa_amhp.datasets.attributes import attribute_sentences
from pyiqa_amhp.model.clip import normalize
from pyiqa_amhp.model.config import AMHPConfig

Encode = Callable[[list[str]], torch.Tensor]


@dataclass(frozen=True)
class PredictedPrompt:
    """Predicted attribute prompts of N images.

    Attributes:
        Ft: text features ``(N, n)``.
        levels: probability of each level of each attribute, ``(N, A, k)``; None for a predictor
            without attributes.
        texts: the predicted sentences of each image; None for a predictor without sentences.
    """

    Ft: torch.Tensor
    levels: torch.Tensor | None = None
    texts: list[str] | None = None


@dataclass(frozen=True)
class AttributePrompt:
    """Attribute prompts (first-level prompts) of N images.

    Attributes:
        Ft: text features that the fusion reads, ``(N, n)``, zeros for an image without a prompt;
            None for variants that read no text.
        given: features of the images' own texts, ``(N, n)``; None as for ``Ft``.
        prediction: predicted prompts of all N images, if they were predicted.
    """

    Ft: torch.Tensor | None
    given: torch.Tensor | None = None
    prediction: PredictedPrompt | None = None


class LevelPredictor(nn.Module):
    """Predicts the level of each attribute as CLIP classifies images, by the nearest sentence.

    For each attribute, softmax over the levels of the cosines of ``Fx`` and the features of ``A
    photo with {level} {attribute}.`` (the paper's template), times a learned scale. ``Ft`` is the
    feature of the sentences of the likeliest levels (``predicted_text: sentences``), or the mean
    over attributes of the expected feature under these probabilities (``expectation``). Without
    training it is CLIP's zero-shot prediction.

    Args:
        config: the options ``attributes``, ``levels``, ``attribute_template`` and
            ``predicted_text`` count.
        logit_scale: initial value of the learned scale, a logarithm.
    """

    def __init__(self, config: AMHPConfig, logit_scale: float):
        super().__init__()
        self.attributes, self.words = config.attributes, config.levels
        self.template, self.predicted_text = config.attribute_template, config.predicted_text
        self.sentences = [
            attribute_sentences({name: level}, self.template)
            for name in self.attributes
            for level in self.words
        ]
        self.logit_scale = nn.Parameter(torch.tensor(logit_scale))

    def forward(self, Fx: torch.Tensor, features: torch.Tensor, encode: Encode) -> PredictedPrompt:
        """Predict the prompts of images.

        Args:
            Fx: image features ``(N, n)``.
            features: features of ``sentences``, ``(A * k, n)``.
            encode: function that encodes N texts to features ``(N, n)``.
        """
        features = normalize(features).unflatten(0, (len(self.attributes), -1))  # (A, k, n)
        cosines = torch.einsum('nd,akd->nak', normalize(Fx), features)
        levels = (cosines * self.logit_scale.exp()).softmax(dim=-1)  # (N, A, k)
        if self.predicted_text == 'expectation':
            Ft = torch.einsum('nak,akd->nd', levels, features) / len(self.attributes)
            return PredictedPrompt(Ft, levels)
        texts = self.sentences_for(levels.argmax(dim=-1))
        return PredictedPrompt(encode(texts), levels, texts)

    def sentences_for(self, levels: torch.Tensor) -> list[str]:
        """Write the sentences of N images for the indices of their levels, ``(N, A)``."""
        return [
            attribute_sentences(
                {name: self.words[i] for name, i in zip(self.attributes, row, strict=True)},
                self.template,
            )
            for row in levels.tolist()
        ]


class FeaturePredictor(nn.Module):
    """Predicts a comment's ``norm(Ft)`` from ``norm(Fx)``, for data without attribute labels.

    Args:
        n: width of the features.
    """

    def __init__(self, n: int):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(n, 2 * n), nn.GELU(), nn.Linear(2 * n, n))

    def forward(self, Fx: torch.Tensor) -> PredictedPrompt:
        """Predict text features of length 1 from image features ``(N, n)``."""
        return PredictedPrompt(normalize(self.net(normalize(Fx))))


def build_predictor(config: AMHPConfig, n: int, logit_scale: float) -> nn.Module | None:
    """Build the predictor that the configuration names; None for ``predictor: none``."""
    if config.predictor == 'levels':
        return LevelPredictor(config, logit_scale)
    return FeaturePredictor(n) if config.predictor == 'feature' else None


def level_loss(prediction: PredictedPrompt, labels: torch.Tensor) -> torch.Tensor:
    """Compute the cross entropy of predicted levels, the mean over images and attributes.

    A missing label counts 0, so that every image has the same weight in any batch.

    Args:
        prediction: prompts that ``LevelPredictor`` predicted for N images.
        labels: indices of the levels, ``(N, A)``, -1 where there is no label.

    Returns:
        A scalar; 0 if there is no label at all.

    Raises:
        ValueError: a prediction without levels.
    """
    if prediction.levels is None:
        raise ValueError('expected a prediction with levels')
    has_label = labels >= 0
    p = prediction.levels.gather(-1, labels.clamp(min=0)[..., None])[..., 0]  # (N, A)
    return -(p.clamp(min=1e-12).log() * has_label).mean()


def feature_loss(prediction: PredictedPrompt, Ft: torch.Tensor) -> torch.Tensor:
    """Compute the cosine distance to the real comments' features, the mean over images.

    An image without a comment counts 0, so that every image has the same weight in any batch. No
    gradient reaches the text encoder, which could otherwise learn to make all comments alike.

    Args:
        prediction: prompts predicted for N images.
        Ft: features of the comments, ``(N, n)``, a row of zeros where there is no comment.
    """
    Ft = Ft.detach()
    has_comment = Ft.abs().sum(dim=-1) > 0
    distance = 1 - (normalize(prediction.Ft) * normalize(Ft)).sum(dim=-1)
    return (distance * has_comment).mean()
