"""Training of a predictor of attribute prompts, together with the network (our addition).

Options of the section ``train``, for a network with ``predictor: levels`` or ``feature``:

    predictor_prompts: how the fusion learns to work with given and with predicted prompts. ``both``
        (default): every image is scored with both in each step. ``dropout``: with one of them; the
        default if ``text_dropout`` is given, as in version 0.2.0.
    predicted_weight: with ``both``, the weight of the EMD with predicted prompts beside that with
        given ones (default 0.5): the smaller, the less does it cost where a text is given.
    predictor_weight: the weight of the predictor's own loss beside the EMD (default 0.5 with
        ``both``, else 1).
    text_dropout: with ``dropout``, the share of training images that get the predicted prompt
        instead of the given one (default 0.5).
"""

from typing import Any
from zlib import crc32

import torch
from pyiqa.utils import get_root_logger

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.model.prompt_predictor import AttributePrompt, feature_loss, level_loss
from pyiqa_amhp.train.options import number, one_of

PROMPTS = ('both', 'dropout')
PREDICTED_WEIGHT, TEXT_DROPOUT = 0.5, 0.5
PREDICTOR_WEIGHTS = {'both': 0.5, 'dropout': 1.0}


class PredictorTraining:
    """Losses of a network with a predictor, and the choice of images whose prompt is predicted.

    Args:
        net: an AMHP with a predictor.
        train: the section ``train`` of the options.
        seed: the seed of that choice.

    Attributes:
        uses_both: whether every image is scored with its given and its predicted prompt.
        predicted_weight: weight of the EMD with predicted prompts.

    Raises:
        AMHPError: a weight is below 0, the share is outside [0, 1], or an unknown way.
    """

    def __init__(self, net: AMHP, train: dict[str, Any], seed: int = 0):
        self.net, self.seed = net, seed
        if train.get('predictor_prompts') is None and train.get('text_dropout') is not None:
            train = {**train, 'predictor_prompts': 'dropout'}
        prompts = one_of(train, 'predictor_prompts', PROMPTS)
        if prompts == 'both' and train.get('text_dropout') is not None:
            raise AMHPError('train: text_dropout is for predictor_prompts: dropout; remove one')
        self.uses_both = prompts == 'both'
        is_valid, expected = (lambda x: x >= 0), 'a number from 0 to inf'
        default = PREDICTOR_WEIGHTS[prompts]
        self.weight = number(train, 'predictor_weight', default, is_valid, expected)
        self.predicted_weight = number(
            train, 'predicted_weight', PREDICTED_WEIGHT, is_valid, expected
        )
        self.dropout = number(
            train, 'text_dropout', TEXT_DROPOUT, lambda x: 0 <= x <= 1, 'a number from 0 to 1'
        )
        self._warned_of_labels = False

    def drop_texts(self, texts: list[str], paths: list[str], iteration: int) -> torch.Tensor:
        """Choose the images whose prompt is predicted in an iteration.

        The choice depends on the seed, the iteration and the image, not on the process.

        Args:
            texts: the texts of N images, ``''`` where there is none.
            paths: the paths of the images.
            iteration: the number of the iteration.

        Returns:
            ``(N,)`` of bool.
        """
        draws = [
            crc32(f'{self.seed} {iteration} {path}'.encode('utf-8', 'surrogatepass')) / 2**32
            for path in paths
        ]
        dropped = torch.tensor([draw < self.dropout for draw in draws], dtype=torch.bool)
        sources = self.net.prompt_sources(texts)
        return dropped | torch.tensor([source == 'predicted' for source in sources])

    def loss(self, prompt: AttributePrompt, labels: dict[str, torch.Tensor]) -> torch.Tensor:
        """Compute the weighted loss of the predictor.

        Args:
            prompt: the attribute prompts of N images, with their predictions.
            labels: the number of each image's level by attribute, ``(N,)`` each (``attr_levels``
                of the samples); empty if the data set has no labels.

        Raises:
            AMHPError: the labels lack an attribute of the network.
        """
        prediction = prompt.prediction
        assert prediction is not None, 'a network with a predictor predicts in training'
        if prediction.levels is None:
            assert prompt.given is not None, 'a network with a predictor reads texts'
            return self.weight * feature_loss(prediction, prompt.given)
        if not labels:
            if not self._warned_of_labels:
                self._warned_of_labels = True
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
