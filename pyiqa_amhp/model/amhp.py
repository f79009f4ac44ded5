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

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.clip import Backbone, normalize
from pyiqa_amhp.model.inputs import ReadsImages
from pyiqa_amhp.model.preprocess import Preprocess, at_least_fp32, check_images
from pyiqa_amhp.model.prompt_features import PromptFeatures
from pyiqa_amhp.model.prompt_predictor import build_predictor
from pyiqa_amhp.model.prompts import image_texts, level_sentences
from pyiqa_amhp.model.runtime import Runner
from pyiqa_amhp.model.start import find_start, load_into
from pyiqa_amhp.weights.store import warn_note, warn_zero_shot


def fuse(Fx: torch.Tensor, Ft: torch.Tensor, fc: nn.Module) -> torch.Tensor:
    """First-level prompt: the attribute-driven multimodal feature.

    Args:
        Fx: image features ``(N, n)``.
        Ft: text features ``(N, n)``, a row of zeros where an image has no text.
        fc: the fully connected layer, ``2n`` to ``n``.

    Returns:
        ``Fm``, ``(N, n)``.
    """
    Fxt = torch.cat([normalize(Fx), normalize(Ft)], dim=-1)  # Eq. 4  (N, 2n)
    R = fc(Fxt)  # (N, n)
    return R + normalize(Fx)  # Eq. 5  (N, n)


def level_logits(Fm: torch.Tensor, FTa: torch.Tensor, normalize_fused: bool = True) -> torch.Tensor:
    """Second-level prompt, Eq. 6: the cosine of ``Fm (N, n)`` and ``FTa (k, n)``, ``(N, k)``.

    The authors' code does not divide by the norm of ``Fm`` (``normalize_fused=False``).
    """
    if normalize_fused:
        Fm = normalize(Fm)
    return Fm @ normalize(FTa).T


def level_distribution(logit: torch.Tensor, logit_scale: torch.Tensor) -> torch.Tensor:
    """Eq. 7: softmax over the levels, ``(N, k)``, with ``tau = 1 / exp(logit_scale)``.

    It is computed in fp32 at least: a half has three digits, too few for a score.
    """
    logit, logit_scale = (at_least_fp32(x, logit.dtype) for x in (logit, logit_scale))
    return (logit * logit_scale.exp()).softmax(dim=-1)


class AMHP(ReadsImages, PromptFeatures):
    """The arch ``AMHP`` of pyiqa: scores an image, and what people say about it.

    Args:
        pretrained: True: trained weights (``pretrained_model_path``, then the environment
            variable ``PYIQA_AMHP_WEIGHTS``, then the user's store), else zero-shot on CLIP's
            own weights, with one warning. ``clip``: CLIP's own weights, the start of training.
            False: random weights, and no network whatever happens.
        pretrained_model_path: a checkpoint of AMHP (``.pth`` or ``.safetensors``). It carries
            its own options; those given here override them.
        precision, compile, engine: how the encoders run, which no checkpoint records: see
            :class:`pyiqa_amhp.model.runtime.Runner`.
        color_profiles: whether images with a colour profile are converted to sRGB when they are
            read (our choice), which no checkpoint records either. False: as pyiqa.
        **options: see :class:`pyiqa_amhp.model.config.AMHPConfig`.

    Attributes:
        weights_from: the name of the trained weights that it started from, a file's name without
            its folder or an id of the hub; None without any.
        zero_shot: whether it started from CLIP's own weights instead.

    Raises:
        AMHPError: unknown or impossible options; weights that are missing, out of reach, not
            AMHP's, or do not fit.
    """

    level_values: torch.Tensor

    def __init__(
        self,
        pretrained: bool | str = True,
        pretrained_model_path: str | None = None,
        precision: str | None = None,
        compile: bool = False,
        engine: str | None = None,
        color_profiles: bool = True,
        **options,
    ):
        super().__init__()
        self.set_reading(color_profiles)
        runner = Runner(precision, compile, engine)
        start = find_start(options, pretrained, pretrained_model_path)
        self.config = config = start.source.config
        self.backbone = Backbone(start.source, runner)
        self.preprocess = Preprocess.from_config(config, self.backbone.image_size)
        self.level_sentences = level_sentences(config.levels, config.template, config.tuple_prompts)
        values = torch.tensor(config.level_values, dtype=torch.float32)
        self.register_buffer('level_values', values, persistent=False)
        n, k = self.backbone.width, len(config.levels)
        if config.uses_attributes:
            self.fc = nn.Linear(2 * n, n)
            if config.fc_init == 'zero':
                nn.init.zeros_(self.fc.weight)
                nn.init.zeros_(self.fc.bias)
        if not config.uses_levels:
            self.level_vectors = nn.Parameter(torch.randn(k, n) / math.sqrt(n))
        if not (config.uses_attributes or config.uses_levels):
            self.backbone.freeze_text()  # no text is ever read
        scale = self.backbone.clip_logit_scale
        if not (start.zero_shot or config.tau == 'clip'):
            scale = math.log(1 / float(config.tau))
        self.logit_scale = nn.Parameter(torch.tensor(scale))
        self.predictor = build_predictor(config, n, self.backbone.clip_logit_scale)
        self.weights_from = start.checkpoint.name if start.checkpoint else None
        self.zero_shot = bool(pretrained) and not start.checkpoint
        if start.checkpoint:
            load_into(self, start.checkpoint)
            warn_note(start.checkpoint.name, config.note)
        elif start.zero_shot:
            warn_zero_shot(config)

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
        prompt_source: str | None = None,
        trunk: torch.Tensor | None = None,
        both_prompts: bool = False,
    ) -> torch.Tensor | list:
        """Score a batch.

        Args:
            x: ``(N, 3, H, W)`` or grey ``(N, 1, H, W)``, values in [0, 1], any size.
            text: what people say about each image: a string for one image, or a list of N
                strings, None where there is nothing. Variants without attributes ignore it.
            return_mos: return the scores, ``(N, 1)``, on the scale of ``level_values``.
            return_dist: return the level distributions, ``(N, k)``.
            Fx, Ft: features ``(N, n)`` that a frozen encoder computed before, in the place of
                ``x`` and of ``text``.
            predicted: whose attribute prompt is predicted, ``(N,)`` of bool; None: as
                ``prompt_sources`` says.
            return_prompt: return the ``AttributePrompt`` too, last.
            prompt_source: ``given``, ``predicted`` or ``none``; None: as the configuration says.
            trunk: features ``(N, w)`` that a frozen trunk of timm computed before, in the place
                of ``x``.
            both_prompts: return the level distributions ``(N, k)`` with predicted prompts too,
                after the others. For models with a predictor.

        Returns:
            One tensor, or ``[mos, dist]`` as in pyiqa's NIMA.

        Raises:
            AMHPError, TypeError: images or texts that are not of this form.
        """
        if not (return_mos or return_dist):
            raise AMHPError('nothing to return: return_mos and return_dist are both False')
        if trunk is not None:
            Fx = self.backbone.project(trunk)
        if Fx is None:
            if x is None:
                raise AMHPError('nothing to score: give images x, or their features Fx')
            x = self.preprocess(at_least_fp32(check_images(x), self.logit_scale.dtype))
            texts = image_texts(text, len(x))
            Fx = self.backbone.encode_image(x)  # Eq. 1  (N, n)
        else:
            texts = image_texts(text, len(Fx))
        prompt = self.attribute_prompt(texts, Fx, Ft, predicted, prompt_source)
        FTa = self.level_features()  # Eq. 3  (k, n)
        mos, dist = self.head(Fx, prompt.Ft, FTa)
        outputs: list = [mos] * return_mos + [dist] * return_dist
        if both_prompts:
            prediction = prompt.prediction or self.predict_prompt(Fx)
            outputs.append(self.head(Fx, prediction.Ft, FTa)[1])
        outputs += [prompt] * return_prompt
        return outputs if len(outputs) > 1 else outputs[0]

    def predict(
        self, x: torch.Tensor, texts: list[str], prompt_source: str | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict scores ``(N, 1)`` and distributions ``(N, k)`` of preprocessed images ``x``."""
        Fx = self.backbone.encode_image(x)  # Eq. 1  (N, n)
        return self.head(Fx, self.attribute_prompt(texts, Fx, prompt_source=prompt_source).Ft)

    def head(
        self, Fx: torch.Tensor, Ft: torch.Tensor | None, FTa: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Eq. 4 to 7 on the encoders' features ``(N, n)``.

        Args:
            Fx: features of images.
            Ft: features of their texts; None for variants that read no text.
            FTa: features of the quality levels, ``(k, n)``; None: those of the weights as they are.

        Returns:
            Scores ``(N, 1)`` and distributions ``(N, k)``.
        """
        Fm = normalize(Fx) if Ft is None else fuse(Fx, Ft, self.fc)  # Eq. 4, 5  (N, n)
        FTa = self.level_features() if FTa is None else FTa  # Eq. 3  (k, n)
        logit = level_logits(Fm, FTa, self.config.normalize_fused)  # Eq. 6  (N, k)
        p = level_distribution(logit, self.logit_scale)  # Eq. 7  (N, k)
        return (p * self.level_values).sum(dim=-1, keepdim=True), p

    @property
    def score_range(self) -> str:
        """The ends of the scale, as pyiqa's metrics state them: ``1, 10``."""
        return '{:g}, {:g}'.format(*self.config.scale)

    def explain(self, image, text: str | None = None):
        """Explain the score of one image: a path, bytes, a Pillow image or a tensor.

        See :func:`pyiqa_amhp.explain.explanation.explain`.
        """
        from pyiqa_amhp.explain.explanation import explain

        return explain(self, image, text)
