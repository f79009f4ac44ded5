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
from pyiqa_amhp.model import weights
from pyiqa_amhp.model.backbone import Backbone, resolve_clip
from pyiqa_amhp.model.config import AMHPConfig, stored_config
from pyiqa_amhp.model.preprocess import Preprocess, check_images
from pyiqa_amhp.model.prompts import image_texts, level_sentences
from pyiqa_amhp.model.runtime import Runner


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
        precision, compile, engine: how the towers run, which no checkpoint records: see
            :class:`pyiqa_amhp.model.runtime.Runner`.
        **options: see :class:`pyiqa_amhp.model.config.AMHPConfig`.

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
        found = weights.find(dataset, pretrained, pretrained_model_path)
        config = AMHPConfig.from_options(options, found and found.config)
        zero_shot = pretrained is True and not found
        if zero_shot and not config.uses_levels:
            raise AMHPError(
                f'variant={config.variant!r} has no zero-shot form: give pretrained_model_path= '
                "(trained weights), or pretrained='clip' to start training"
            )

        source = resolve_clip(config, load=bool(pretrained) and not found)
        self.config = source.config
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
        self._level_cache: tuple = (None, None)

        if found:
            weights.load_into(self, found)
        elif zero_shot:
            weights.say_zero_shot(self.config)

    def forward(
        self,
        x: torch.Tensor | None,
        text: str | list[str | None] | None = None,
        return_mos: bool = True,
        return_dist: bool = False,
        Fx: torch.Tensor | None = None,
        Ft: torch.Tensor | None = None,
    ) -> torch.Tensor | list[torch.Tensor]:
        """Judge a batch.

        Args:
            x: ``(N, 3, H, W)`` or grey ``(N, 1, H, W)``, values in [0, 1], any size.
            text: what is said about each image: a string for one image, or a list of N
                strings, None where there is nothing. Variants without attributes ignore it.
            return_mos: give the scores, ``(N, 1)``, on the scale of ``level_values``.
            return_dist: give the level distributions, ``(N, k)``.
            Fx, Ft: features ``(N, n)`` that a frozen tower made before, in the place of ``x``
                and of ``text``.

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
        mos, dist = self.judge(x, texts, Fx, Ft)
        outputs = [mos] * return_mos + [dist] * return_dist
        return outputs if len(outputs) > 1 else outputs[0]

    def judge(
        self,
        x: torch.Tensor | None,
        texts: list[str],
        Fx: torch.Tensor | None = None,
        Ft: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores ``(N, 1)`` and distributions ``(N, k)`` of preprocessed images ``x``.

        Features that are given are not made again.
        """
        if Fx is None:
            Fx = self.backbone.encode_image(x)  # Eq. 1  (N, n)
        if Ft is None and self.config.uses_attributes:
            Ft = self.text_features(texts, Fx)  # (N, n)
        return self.head(Fx, Ft)

    def head(
        self, Fx: torch.Tensor, Ft: torch.Tensor | None, FTa: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Eq. 4 to 7 on the towers' features ``(N, n)``; ``Ft`` only where texts are used.

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
        """``FTa`` of Eq. 3, ``(k, n)``.

        Kept in evaluation, and in training too if the text tower is frozen, until its weights
        change.
        """
        parameters = self.backbone.text_parameters()
        learns = any(p.requires_grad for p in parameters)
        if learns and (self.training or torch.is_grad_enabled()):
            return self.backbone.encode_text(self.level_sentences)
        key = [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in parameters]
        if self._level_cache[0] != key:
            with torch.inference_mode(False), torch.no_grad():
                self._level_cache = (key, self.backbone.encode_text(self.level_sentences))
        return self._level_cache[1]

    def train(self, mode: bool = True):
        """Switch the mode, and forget the quality levels' features unless their tower is frozen."""
        if any(p.requires_grad for p in self.backbone.text_parameters()):
            self._level_cache = (None, None)
        return super().train(mode)

    def get_extra_state(self) -> torch.Tensor:
        """The configuration, so that any trainer's checkpoint carries it."""
        return self.config.to_tensor()

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Refuse weights of towers that compute something else; the rest may differ."""
        stored = stored_config(state)
        for name in ('backbone', 'quick_gelu', 'variant'):
            if stored.get(name) != getattr(self.config, name):
                raise AMHPError(
                    f'weights made with {name}={stored.get(name)!r} do not fit a model with '
                    f'{name}={getattr(self.config, name)!r}'
                )
