"""Prompts of an AMHP: where the attribute prompt of an image comes from, and prompts' features."""

from typing import Any

import torch
from torch import nn

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.clip import Backbone
from pyiqa_amhp.model.config import PROMPT_SOURCES, AMHPConfig
from pyiqa_amhp.model.engines import without_autocast
from pyiqa_amhp.model.prompt_predictor import AttributePrompt, LevelPredictor, PredictedPrompt
from pyiqa_amhp.utils.text import given_text
from pyiqa_amhp.weights.authors_code import is_of_authors
from pyiqa_amhp.weights.checkpoint import CONFIG_KEY, stored_config, tensor_versions, with_config
from pyiqa_amhp.weights.store import warn_unread_text


class PromptFeatures(nn.Module):
    """Base class of ``AMHP``: turns texts into features; ``AMHP`` adds Eq. 4 to 7.

    Attributes:
        config: the configuration.
        fc: the fully connected layer of Eq. 4, in variants with attributes.
        zero_shot: whether CLIP's own weights are used without any training.
        backbone: CLIP's encoders.
        predictor: predictor of the attribute prompt of an image without a text, if there is one.
        level_sentences: the second-level prompts ``Ta``, ``k`` sentences.
        level_vectors: learned vectors ``(k, n)`` in variants without quality levels.
    """

    config: AMHPConfig
    backbone: Backbone
    predictor: nn.Module | None
    level_sentences: list[str]
    level_vectors: nn.Parameter
    fc: nn.Linear
    zero_shot: bool
    _reads_text: tuple[list, bool] | None = None  # versions of the weights of fc, and the answer

    def __init__(self) -> None:
        super().__init__()
        # Versions of the text encoder's weights and features ``(M, n)``, by how the encoder runs
        # and M sentences.
        self._sentence_cache: dict[tuple, tuple[list, torch.Tensor]] = {}
        self._sentence_ids: dict[tuple, torch.Tensor] = {}  # by device and M sentences

    @property
    def reads_text(self) -> bool:
        """Whether an attribute prompt can change a score.

        It cannot in variants without attributes, and where its half of the weights of ``fc`` is
        zero: before training, and after a training without a single text. The answer is kept
        until the weights change, since a GPU has to be waited for.
        """
        if not self.config.uses_attributes:
            return False
        weight = self.fc.weight
        if weight.is_inference():  # its changes are not counted
            return bool(weight[:, self.backbone.width :].any())
        versions = tensor_versions([weight])
        if self._reads_text is None or self._reads_text[0] != versions:
            self._reads_text = versions, bool(weight[:, self.backbone.width :].any())
        return self._reads_text[1]

    def prompt_sources(self, texts: list[str], prompt_source: str | None = None) -> list[str]:
        """Determine the source of each image's attribute prompt.

        Args:
            texts: texts of N images, ``''`` for an image without a text.
            prompt_source: ``given``, ``predicted`` or ``none``; None: as the configuration says.

        Returns:
            For each image, ``given``, ``predicted`` or ``none``.

        Raises:
            AMHPError: an unknown source, or ``predicted`` for a model without a predictor.
        """
        source = self.config.prompt_source if prompt_source is None else prompt_source
        if source not in (None, *PROMPT_SOURCES):
            raise AMHPError(
                f'prompt_source={source!r}: expected one of {", ".join(PROMPT_SOURCES)}'
            )
        if not self.config.uses_attributes or source == 'none':
            return ['none'] * len(texts)
        if source == 'predicted':
            if self.predictor is None:
                raise AMHPError("prompt_source='predicted': this model has no predictor")
            return ['predicted'] * len(texts)
        otherwise = 'predicted' if self.predictor is not None and source is None else 'none'
        return ['given' if given_text(text) else otherwise for text in texts]

    def attribute_prompt(
        self,
        texts: list[str],
        Fx: torch.Tensor,
        Ft: torch.Tensor | None = None,
        predicted: torch.Tensor | None = None,
        prompt_source: str | None = None,
    ) -> AttributePrompt:
        """Compute the attribute prompts of images.

        Args:
            texts: texts of N images, ``''`` for an image without a text.
            Fx: image features ``(N, n)``.
            Ft: features of the texts, ``(N, n)``, that a frozen encoder has computed before.
            predicted: images whose prompt is predicted, ``(N,)`` of bool; None: as
                ``prompt_sources`` says.
            prompt_source: see ``prompt_sources``.
        """
        if not self.config.uses_attributes:
            return AttributePrompt(None)
        sources = self.prompt_sources(texts, prompt_source)
        if 'given' in sources and not (self.training or self.zero_shot or self.reads_text):
            warn_unread_text()
        if Ft is None or set(sources) == {'none'}:
            # In training the loss compares a predicted prompt with the given text.
            read = {'given', 'predicted'} if self.training else {'given'}
            pairs = zip(texts, sources, strict=True)
            Ft = self.text_features([t if source in read else '' for t, source in pairs], Fx)
        if predicted is None:
            predicted = torch.tensor([source == 'predicted' for source in sources])
        if self.predictor is None or not (self.training or predicted.any()):
            return AttributePrompt(Ft, Ft)
        prediction = self.predict_prompt(Fx)
        chosen = torch.where(predicted[:, None].to(Ft.device), prediction.Ft.to(Ft.dtype), Ft)
        return AttributePrompt(chosen, Ft, prediction)

    def predict_prompt(self, Fx: torch.Tensor) -> PredictedPrompt:
        """Predict the attribute prompts of images with the features ``Fx (N, n)``.

        Raises:
            AMHPError: a model without a predictor.
        """
        if self.predictor is None:
            raise AMHPError('this model has no predictor of attribute prompts')
        if isinstance(self.predictor, LevelPredictor):
            features = self.sentence_features(self.predictor.sentences)
            return self.predictor(Fx, features, self.backbone.encode_text)
        return self.predictor(Fx)

    def text_features(self, texts: list[str], Fx: torch.Tensor) -> torch.Tensor:
        """Compute ``Ft`` of Eq. 1, ``(N, n)``: zeros where no text is given (our choice)."""
        rows = [i for i, text in enumerate(texts) if given_text(text)]
        Ft = torch.zeros_like(Fx)
        if not rows:
            return Ft
        features = self.backbone.encode_text([texts[i] for i in rows])
        return Ft.index_copy(0, torch.tensor(rows, device=Ft.device), features.to(Ft.dtype))

    def level_features(self) -> torch.Tensor:
        """Compute ``FTa`` of Eq. 3, ``(k, n)``; learned vectors in variants without levels."""
        if not self.config.uses_levels:
            return self.level_vectors
        return self.sentence_features(self.level_sentences)

    def sentence_features(self, sentences: list[str]) -> torch.Tensor:
        """Compute the features ``(M, n)`` of M sentences of the model.

        They are cached until the weights of the text encoder change: in evaluation, and also in
        training if the text encoder is frozen.
        """
        parameters = self.backbone.text_parameters()
        learns = any(p.requires_grad for p in parameters)
        if learns and (self.training or torch.is_grad_enabled()):
            key = (parameters[0].device, *sentences)
            if key not in self._sentence_ids:
                self._sentence_ids[key] = self.backbone.tokenize(sentences)
            return self.backbone.encode_ids(self._sentence_ids[key])
        state, runner = tensor_versions(parameters), self.backbone.runner
        key = (runner.engine, runner.precision, *sentences)
        cached = self._sentence_cache.get(key)
        if cached is None or cached[0] != state:
            device = parameters[0].device.type
            with torch.inference_mode(False), torch.no_grad(), without_autocast(device):
                cached = (state, self.backbone.encode_text(sentences))
            self._sentence_cache[key] = cached
        return cached[1]

    def train(self, mode: bool = True):
        """Switch the mode, and clear the cached features unless the text encoder is frozen."""
        if any(p.requires_grad for p in self.backbone.text_parameters()):
            self._sentence_cache.clear()
        return super().train(mode)

    def get_extra_state(self) -> torch.Tensor:
        """Return the configuration, which torch puts into every ``state_dict``."""
        return self.config.to_tensor()

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Take nothing: ``_load_from_state_dict`` has compared the configurations."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Check that a ``state_dict`` comes from a model that computes the same; then load it.

        torch calls it before anything is loaded. A state dict of the authors' code is converted;
        one without a configuration is the caller's word.

        Raises:
            AMHPError: another value of an option that changes a score, with both values.
        """
        if not prefix and is_of_authors(state_dict):
            converted = with_config(dict(state_dict), 'this state dict')
            state_dict.clear()
            state_dict.update(converted)
        if prefix + CONFIG_KEY in state_dict:
            changed = self.differences(state_dict[prefix + CONFIG_KEY])
            if changed:
                theirs, mine = (
                    ', '.join(f'{name}={values[i]!r}' for name, values in changed.items())
                    for i in (0, 1)
                )
                raise AMHPError(
                    f'weights made with {theirs} do not fit a model with {mine}; build the model '
                    'from the file (pretrained_model_path=FILE), which also takes its options'
                )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def differences(self, state: torch.Tensor) -> dict[str, tuple[Any, Any]]:
        """Compare with the configuration that a ``state_dict`` holds.

        Args:
            state: what ``get_extra_state`` of the other model returned.

        Returns:
            See ``AMHPConfig.differences``.
        """
        return self.config.differences(stored_config(state), self.backbone.image_size)
