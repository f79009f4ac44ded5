"""AMHP: Attribute-driven Multimodal Hierarchical Prompts for image aesthetic quality assessment.

Reference:
    "Attribute-Driven Multimodal Hierarchical Prompts for Image Aesthetic Quality Assessment",
    ACM Multimedia 2024. Equations 1 to 7 are here, by their numbers; the loss (Eq. 8) is in
    ``pyiqa_amhp/train/loss.py``.

In shapes: N images, n the width of CLIP's features (512 for ViT-B/16), k quality levels.
"""

import math

import torch
from torch import nn
from torch.nn.functional import normalize

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.clip import Backbone, check_architecture, resolve_clip
from pyiqa_amhp.model.config import AMHPConfig
from pyiqa_amhp.model.preprocess import Preprocess, check_images
from pyiqa_amhp.model.prompt_predictor import LevelPredictor, Prediction, Prompt, build_predictor
from pyiqa_amhp.model.prompts import image_texts, level_sentences
from pyiqa_amhp.model.runtime import Runner
from pyiqa_amhp.weights import store as weights
from pyiqa_amhp.weights.checkpoint import load_into, stored_config, tensor_versions


def fuse(Fx: torch.Tensor, Ft: torch.Tensor, fc: nn.Module) -> torch.Tensor:
    """First-level prompt: the attribute-driven multimodal feature.

    Args:
        Fx: image features ``(N, n)``.
        Ft: text features ``(N, n)``, a row of zeros where an image has no text.
        fc: the fully connected layer, ``2n`` to ``n``.

    Returns:
        ``Fm``, ``(N, n)``.
    """
    Fxt = torch.cat([normalize(Fx, dim=-1), normalize(Ft, dim=-1)], dim=-1)  # Eq. 4  (N, 2n)
    R = fc(Fxt)  # (N, n)
    return R + normalize(Fx, dim=-1)  # Eq. 5  (N, n)


def level_logits(Fm: torch.Tensor, FTa: torch.Tensor, normalize_fused: bool = True) -> torch.Tensor:
    """Second-level prompt, Eq. 6: the cosine of ``Fm (N, n)`` and ``FTa (k, n)``, ``(N, k)``.

    The authors' code does not divide by the norm of ``Fm`` (``normalize_fused=False``).
    """
    if normalize_fused:
        Fm = normalize(Fm, dim=-1)
    return Fm @ normalize(FTa, dim=-1).T


def level_distribution(logit: torch.Tensor, logit_scale: torch.Tensor) -> torch.Tensor:
    """Eq. 7: softmax over the levels, ``(N, k)``, with ``tau = 1 / exp(logit_scale)``."""
    return (logit * logit_scale.exp()).softmax(dim=-1)


class AMHP(nn.Module):
    """The arch ``AMHP`` of pyiqa: an image, and what people say about it, to a score.

    Args:
        pretrained: True: trained weights (``pretrained_model_path``, then the environment
            variable ``PYIQA_AMHP_WEIGHTS``, then the user's store), else zero-shot on CLIP's
            own weights, and says so once. ``clip``: CLIP's own weights, the start of training.
            False: random weights, and no network whatever happens.
        pretrained_model_path: a checkpoint of AMHP (``.pth`` or ``.safetensors``). It carries
            its own options; those given here go over them.
        precision, compile, engine: how the encoders run, which no checkpoint records: see
            :class:`pyiqa_amhp.model.runtime.Runner`.
        **options: see :class:`pyiqa_amhp.model.config.AMHPConfig`.

    Attributes:
        weights_from: the name of the trained weights that it began with, a file's without its
            folder or an id of the hub; None without any.
        zero_shot: whether it began with CLIP's own weights instead.

    Raises:
        AMHPError: unknown or impossible options; weights that are missing, out of reach, not
            AMHP's, or do not fit.
    """

    def __init__(
        self,
        pretrained: bool | str = True,
        pretrained_model_path: str | None = None,
        precision: str | None = None,
        compile: bool = False,
        engine: str | None = None,
        **options,
    ):
        super().__init__()
        runner = Runner(precision, compile, engine)
        dataset = AMHPConfig.from_options({'dataset': options.get('dataset')}).dataset
        found = weights.find_checkpoint(dataset, pretrained, pretrained_model_path)
        config = AMHPConfig.from_options(options, found and found.config)
        zero_shot = pretrained is True and not found
        if zero_shot and not config.uses_levels:
            raise AMHPError(
                f'variant={config.variant!r} has no zero-shot form: give pretrained_model_path= '
                "(trained weights), or pretrained='clip' to start training"
            )

        source = resolve_clip(config, load=bool(pretrained) and not found)
        self.config = source.config
        if found:
            check_architecture(source, found.path)
        self.backbone = Backbone(source, runner)
        n, k = self.backbone.width, len(config.levels)
        self.preprocess = Preprocess(
            size=self.backbone.image_size,
            mean=self.config.image_mean,
            std=self.config.image_std,
            resize=config.resize,
            resize_size=config.resize_size or round(self.backbone.image_size * 256 / 224),
            crop=config.crop,
            flip=config.test_flip,
        )
        self.level_sentences = level_sentences(config.levels, config.template, config.tuple_prompts)
        self.register_buffer(
            'level_values', torch.tensor(config.level_values, dtype=torch.float32), persistent=False
        )
        if config.uses_attributes:
            self.fc = nn.Linear(2 * n, n)
            if config.fc_init == 'zero':
                nn.init.zeros_(self.fc.weight)
                nn.init.zeros_(self.fc.bias)
        if not config.uses_levels:
            self.level_vectors = nn.Parameter(torch.randn(k, n) / math.sqrt(n))
        if not (config.uses_attributes or config.uses_levels):
            self.backbone.freeze_text()  # no text is ever read
        clip_scale = zero_shot or config.tau == 'clip'
        start = self.backbone.clip_logit_scale if clip_scale else math.log(1 / config.tau)
        self.logit_scale = nn.Parameter(torch.tensor(start))
        self.predictor = build_predictor(config, n, self.backbone.clip_logit_scale)
        self.text_source = config.text_source
        self.weights_from = found.name if found else None
        self.zero_shot = bool(pretrained) and not found
        self._sentence_cache: dict[tuple[str, ...], tuple] = {}

        if found:
            load_into(self, found)
        elif zero_shot:
            weights.warn_zero_shot(self.config)

    def forward(
        self,
        x: torch.Tensor | None,
        text: str | list[str | None] | None = None,
        return_mos: bool = True,
        return_dist: bool = False,
        Fx: torch.Tensor | None = None,
        Ft: torch.Tensor | None = None,
        predicted: torch.Tensor | None = None,
        return_prompt: bool = False,
    ) -> torch.Tensor | list:
        """Judge a batch.

        Args:
            x: ``(N, 3, H, W)`` or grey ``(N, 1, H, W)``, values in [0, 1], any size.
            text: what is said about each image: a string for one image, or a list of N
                strings, None where there is nothing. Variants without attributes ignore it.
            return_mos: give the scores, ``(N, 1)``, on the scale of ``level_values``.
            return_dist: give the level distributions, ``(N, k)``.
            Fx, Ft: features ``(N, n)`` that a frozen encoder made before, in the place of ``x``
                and of ``text``.
            predicted: ``(N,)`` of bool, whose first-level prompt is to be predicted; None: as
                ``text_sources`` says.
            return_prompt: give the ``Prompt`` too, last.

        Returns:
            One tensor, or ``[mos, dist]`` as in pyiqa's NIMA.

        Raises:
            AMHPError, TypeError: images or texts that are not of this form.
        """
        if not (return_mos or return_dist):
            raise AMHPError('nothing to return: return_mos and return_dist are both False')
        if Fx is None:
            x = self.preprocess(check_images(x).to(self.logit_scale.dtype))
        texts = image_texts(text, len(x if Fx is None else Fx))
        if Fx is None:
            Fx = self.backbone.encode_image(x)  # Eq. 1  (N, n)
        prompt = self.attribute_prompt(texts, Fx, Ft, predicted)
        mos, dist = self.head(Fx, prompt.Ft)
        outputs = [mos] * return_mos + [dist] * return_dist + [prompt] * return_prompt
        return outputs if len(outputs) > 1 else outputs[0]

    def judge(self, x: torch.Tensor, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores ``(N, 1)`` and distributions ``(N, k)`` of preprocessed images ``x``."""
        Fx = self.backbone.encode_image(x)  # Eq. 1  (N, n)
        return self.head(Fx, self.attribute_prompt(texts, Fx).Ft)

    def explain(self, image, text: str | None = None):
        """Why one image (a file, a Pillow image, or ``(1, 3, H, W)``) has its score.

        See :func:`pyiqa_amhp.explain.explanation.explain`.
        """
        from pyiqa_amhp.explain.explanation import explain

        return explain(self, image, text)

    def text_sources(self, texts: list[str]) -> list[str]:
        """What the first-level prompt of each image is: ``given``, ``predicted`` or ``none``."""
        if not self.config.uses_attributes or self.text_source == 'none':
            return ['none'] * len(texts)
        if self.text_source == 'predicted':
            return ['predicted'] * len(texts)
        predicts = self.predictor is not None and self.text_source is None
        return ['given' if text else 'predicted' if predicts else 'none' for text in texts]

    def attribute_prompt(
        self,
        texts: list[str],
        Fx: torch.Tensor,
        Ft: torch.Tensor | None = None,
        predicted: torch.Tensor | None = None,
    ) -> Prompt:
        """The first-level prompts of images with the features ``Fx (N, n)``; see ``forward``."""
        if not self.config.uses_attributes:
            return Prompt(None)
        sources = self.text_sources(texts)
        if Ft is None or self.text_source == 'none':
            read = {'given', 'predicted' if self.training else 'given'}  # the loss compares both
            pairs = zip(texts, sources, strict=True)
            Ft = self.text_features([t if source in read else '' for t, source in pairs], Fx)
        if predicted is None:
            predicted = torch.tensor([source == 'predicted' for source in sources])
        if self.predictor is None or not (self.training or predicted.any()):
            return Prompt(Ft, Ft)
        prediction = self.predict(Fx)
        chosen = torch.where(predicted[:, None].to(Ft.device), prediction.Ft.to(Ft.dtype), Ft)
        return Prompt(chosen, Ft, prediction)

    def predict(self, Fx: torch.Tensor) -> Prediction:
        """What people would say about images with the features ``Fx (N, n)``."""
        if isinstance(self.predictor, LevelPredictor):
            features = self.sentence_features(self.predictor.sentences)
            return self.predictor(Fx, features, self.backbone.encode_text)
        return self.predictor(Fx)

    def head(
        self, Fx: torch.Tensor, Ft: torch.Tensor | None, FTa: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Eq. 4 to 7 on the encoders' features ``(N, n)``; ``Ft`` only where texts are used.

        Args:
            Fx, Ft: features of images and of their texts.
            FTa: ``(k, n)``; None: those of the quality levels as the weights are.

        Returns:
            Scores ``(N, 1)`` and distributions ``(N, k)``.
        """
        attributes = self.config.uses_attributes
        Fm = fuse(Fx, Ft, self.fc) if attributes else normalize(Fx, dim=-1)  # Eq. 4, 5  (N, n)
        if FTa is None:
            FTa = self.level_features() if self.config.uses_levels else self.level_vectors  # (k, n)
        logit = level_logits(Fm, FTa, self.config.normalize_fused)  # Eq. 6  (N, k)
        p = level_distribution(logit, self.logit_scale)  # Eq. 7  (N, k)
        return (p * self.level_values).sum(dim=-1, keepdim=True), p

    def text_features(self, texts: list[str], Fx: torch.Tensor) -> torch.Tensor:
        """``Ft`` of Eq. 1, ``(N, n)``: zeros where a text is ``''`` (our choice)."""
        rows = [i for i, text in enumerate(texts) if text]
        Ft = torch.zeros_like(Fx)
        if not rows:
            return Ft
        features = self.backbone.encode_text([texts[i] for i in rows])
        return Ft.index_copy(0, torch.tensor(rows, device=Ft.device), features.to(Ft.dtype))

    def level_features(self) -> torch.Tensor:
        """``FTa`` of Eq. 3, ``(k, n)``."""
        return self.sentence_features(self.level_sentences)

    def sentence_features(self, sentences: list[str]) -> torch.Tensor:
        """Features of sentences that are always the same, ``(M, n)``.

        Kept in evaluation, and in training too if the text encoder is frozen, until its weights
        change.
        """
        parameters = self.backbone.text_parameters()
        learns = any(p.requires_grad for p in parameters)
        if learns and (self.training or torch.is_grad_enabled()):
            return self.backbone.encode_text(sentences)
        state = tensor_versions(parameters)
        kept = self._sentence_cache.get(tuple(sentences))
        if kept is None or kept[0] != state:
            with torch.inference_mode(False), torch.no_grad():
                kept = (state, self.backbone.encode_text(sentences))
            self._sentence_cache[tuple(sentences)] = kept
        return kept[1]

    def train(self, mode: bool = True):
        """Switch the mode, and forget the sentences' features unless their encoder is frozen."""
        if any(p.requires_grad for p in self.backbone.text_parameters()):
            self._sentence_cache.clear()
        return super().train(mode)

    def get_extra_state(self) -> torch.Tensor:
        """The configuration, so that any trainer's checkpoint carries it."""
        return self.config.to_tensor()

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Refuse weights of encoders that compute something else; the rest may differ."""
        stored = stored_config(state)
        for name in ('backbone', 'quick_gelu', 'variant'):
            if stored.get(name) != getattr(self.config, name):
                raise AMHPError(
                    f'weights made with {name}={stored.get(name)!r} do not fit a model with '
                    f'{name}={getattr(self.config, name)!r}'
                )
