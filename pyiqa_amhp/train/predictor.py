"""Training a predictor of first-level prompts along with the rest (our addition).

Options of the section ``train``, for a network with ``predictor: levels`` or ``feature``:

    predictor_weight: of the predictor's own loss beside the EMD (default 1).
    text_dropout: the share of training images that get the predicted prompt in the place of the
        given one, so that the fusion learns to work with both (default 0.5).
"""

from typing import Any
from zlib import crc32

import torch
from pyiqa.utils import get_root_logger

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.prompt_predictor import Prompt, feature_loss, level_loss
from pyiqa_amhp.train.options import number

PREDICTOR_WEIGHT, TEXT_DROPOUT = 1.0, 0.5


class PredictorTraining:
    """What a training step needs beside the EMD if the network has a predictor.

    Args:
        net: the AMHP, with a predictor.
        train: the section ``train`` of the options.
        seed: decides whose texts are dropped.

    Raises:
        AMHPError: a weight below 0, or a share outside 0..1.
    """

    def __init__(self, net, train: dict[str, Any], seed: int = 0):
        self.net, self.seed = net, seed
        self.weight = number(
            train, 'predictor_weight', PREDICTOR_WEIGHT, lambda x: x >= 0, 'a number from 0 to inf'
        )
        self.dropout = number(
            train, 'text_dropout', TEXT_DROPOUT, lambda x: 0 <= x <= 1, 'a number from 0 to 1'
        )
        self._said_no_labels = False

    def drop_texts(self, texts: list[str], paths: list[str], iteration: int) -> torch.Tensor:
        """Whose prompt is predicted in this iteration, ``(N,)`` of bool.

        It depends on the seed, the iteration and the image alone, not on which process has it.
        """
        drawn = [crc32(f'{self.seed} {iteration} {path}'.encode()) / 2**32 for path in paths]
        dropped = torch.tensor([number < self.dropout for number in drawn], dtype=torch.bool)
        asked = [source == 'predicted' for source in self.net.prompt_sources(texts)]
        return dropped | torch.tensor(asked)

    def loss(self, prompt: Prompt, labels: dict[str, torch.Tensor] | None) -> torch.Tensor:
        """The predictor's own loss, weighted.

        Args:
            prompt: of N images. labels: ``attr_levels`` of their samples, if there are any.

        Raises:
            AMHPError: labels that lack an attribute of the network.
        """
        prediction = prompt.prediction
        if prediction.levels is None:
            return self.weight * feature_loss(prediction, prompt.given)
        if not labels:
            if not self._said_no_labels:
                self._said_no_labels = True
                get_root_logger().warning(
                    "predictor: levels has no labels to learn from; give the data set's labels "
                    '(attribute_labels: true), or use predictor: feature'
                )
            return 0 * prediction.levels.sum()
        names = self.net.config.attributes
        if missing := [name for name in names if name not in labels]:
            raise AMHPError(
                f'the network predicts {missing[0]!r}, which is no attribute of the data '
                f'({", ".join(labels)}); give both the same `attributes`'
            )
        numbers = torch.stack([labels[name] for name in names], dim=-1)  # (N, A)
        return self.weight * level_loss(prediction, numbers.to(prediction.levels.device))
