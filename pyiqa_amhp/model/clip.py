"""CLIP's two encoders through open_clip, and only as much of the text encoder as a batch needs.

Where the weights come from is decided in ``clip_source.py``.
"""

import functools
import json
import logging
import math
from pathlib import Path

import open_clip
import torch
from torch import nn

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.clip_weights import ClipSource, load_clip_state, resolve_clip
from pyiqa_amhp.model.runtime import Runner

__all__ = ['Backbone', 'resolve_clip']

MAX_LAYERS = 1000  # of an encoder; the largest have some fifty (our choice)

logger = logging.getLogger('pyiqa_amhp')


def _build_clip(source: ClipSource) -> nn.Module:
    model_cfg = dict(source.model_cfg)
    custom = model_cfg.pop('custom_text', False)
    model_cfg['quick_gelu'] = source.config.quick_gelu
    try:
        return (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**model_cfg)
    except Exception as error:  # a form of one's own fails in many ways
        if isinstance(source.config.backbone, str):
            raise
        raise AMHPError(
            f'backbone {json.dumps(source.config.backbone)[:200]}: not a form that open_clip can '
            f'build ({type(error).__name__}: {error})'
        ) from error


def check_architecture(source: ClipSource, path: Path) -> None:
    """Refuse a form that comes with weights and cannot be theirs, before memory is made for it.

    Args:
        path: the file of the weights; it has at least one byte for each number.

    Raises:
        AMHPError: the form has more layers than ``MAX_LAYERS``, needs more numbers than the
            file has bytes, or cannot be built.
    """
    parts = [source.model_cfg['vision_cfg'], source.model_cfg['text_cfg']]
    if isinstance(source.config.backbone, str) or 'timm_model_name' in parts[0]:
        return  # a name stands for a form that is known
    layers = [part.get('layers', 0) for part in parts]
    layers = [sum(n) if isinstance(n, list | tuple) else n for n in layers]  # of a ResNet
    size, needed = path.stat().st_size, math.inf
    if max(layers) <= MAX_LAYERS:
        with torch.device('meta'):
            needed = sum(p.numel() for p in _build_clip(source).parameters())
    if needed > size:
        raise AMHPError(
            f'{path}: refused, since the model that it says it is for has {max(layers):,} layers '
            f'and {needed:,} weights, and the file {size:,} bytes'
        )


class Backbone(nn.Module):
    """Image encoder and text encoder of Eq. 1.

    Args:
        source: the model's form, its activation, and its weights if there are any.
        runner: how the encoders run; None: by torch, in the precision of the weights.

    Raises:
        AMHPError: weights that do not fit, or a tokenizer that is out of reach.
    """

    def __init__(self, source: ClipSource, runner: Runner | None = None):
        super().__init__()
        self.runner = runner or Runner()
        text_cfg = source.model_cfg['text_cfg']
        if source.path is not None:
            check_architecture(source, source.path)
        self.clip = _build_clip(source)
        self.clip_logit_scale = math.log(1 / 0.07)  # of a CLIP that was never trained
        if source.path is not None:
            self.clip_logit_scale = load_clip_state(self.clip, source)
        # AMHP has a scale of its own; an unused parameter would only disturb distributed training.
        self.clip.logit_scale = None
        self._text_cfg = json.dumps(text_cfg)
        _ = self.tokenizer  # what it needs and cannot get is said now
        self.truncated_texts = 0
        self.frozen: set[str] = set()  # encoders that stay in evaluation mode
        projection = self._text_encoder.text_projection
        self.width = (
            projection.out_features if isinstance(projection, nn.Linear) else projection.shape[1]
        )
        size = self.clip.visual.image_size
        self.image_size = size if isinstance(size, int) else size[0]
        if self.runner.engine != 'torch':
            self.clip.requires_grad_(False)  # other engines give no gradients

    @property
    def tokenizer(self):
        """Of the text encoder; not an attribute, or each copy of a model would copy its words."""
        return _tokenizer(self._text_cfg)

    @property
    def _text_encoder(self) -> nn.Module:
        return _text_encoder(self.clip)

    def text_parameters(self) -> list[nn.Parameter]:
        """The parameters of the text encoder."""
        return [p for name, p in self.clip.named_parameters() if not name.startswith('visual.')]

    def freeze_text(self) -> None:
        """Exclude the text encoder from training."""
        self.frozen.add('text')
        for parameter in self.text_parameters():
            parameter.requires_grad_(False)

    def freeze_image(self) -> None:
        """Exclude the image encoder from training."""
        self.frozen.add('image')
        self.clip.visual.requires_grad_(False)

    def train(self, mode: bool = True):
        """Switch the mode; what is frozen stays as in evaluation: no dropout, no statistics."""
        super().train(mode)
        for name, part in self.clip.named_children():
            if ('image' if name == 'visual' else 'text') in self.frozen:
                part.eval()
        if self.frozen == {'image', 'text'}:
            self.clip.eval()
        return self

    def encode_image(self, x: torch.Tensor) -> torch.Tensor:
        """``Fx``: preprocessed images ``(N, 3, size, size)`` to ``(N, n)``, not normalised."""
        return self.runner(encode_images, self.clip, x)

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        """``Ft``: N texts to ``(N, n)``, not normalised; each different text is encoded once.

        Texts past the encoder's length (77 tokens for CLIP) are cut, counted in
        ``truncated_texts``, and said once.
        """
        unique = list(dict.fromkeys(texts))
        features = self.runner(encode_tokens, self.clip, self.tokenize(unique))
        if len(unique) == len(texts):
            return features
        row = {text: i for i, text in enumerate(unique)}
        return features[[row[text] for text in texts]]

    def tokenize(self, texts: list[str]) -> torch.Tensor:
        """Token ids, as many columns as the longest text has; counts those that had to be cut."""
        tokens = self.tokenizer(texts)
        end = _end_positions(tokens, self._text_encoder)
        longest = tokens.shape[1]
        full = [text for text, at in zip(texts, end.tolist(), strict=True) if at == longest - 1]
        encode = getattr(self.tokenizer, 'encode', None)  # Hugging Face's wrapper has none
        cut = sum(encode is None or len(encode(text)) + 2 > longest for text in full)
        if cut and not self.truncated_texts:
            logger.warning(
                'A text is longer than %d tokens and was cut there; more of them are only counted.',
                longest,
            )
        self.truncated_texts += cut
        length = int(end.max()) + 1  # on the CPU still: no wait for a GPU
        return tokens[:, :length].to(self._text_encoder.positional_embedding.device)


def encode_images(clip: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """CLIP's image encoder: preprocessed images ``(N, 3, size, size)`` to features ``(N, n)``."""
    return clip.visual(x)


def encode_tokens(clip: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """CLIP's text encoder: token ids ``(N, L)``, up to the longest text's end, to ``(N, n)``.

    The encoder is causal and is read at the end token, so nothing after the longest text can
    change a feature.
    """
    encoder = _text_encoder(clip)
    length = tokens.shape[1]
    dtype = encoder.transformer.get_cast_dtype()
    x = encoder.token_embedding(tokens).to(dtype) + encoder.positional_embedding[:length].to(dtype)
    x = encoder.transformer(x, attn_mask=encoder.attn_mask[:length, :length])
    rows = torch.arange(tokens.shape[0], device=tokens.device)
    x = encoder.ln_final(x[rows, _end_positions(tokens, encoder)])
    projection = encoder.text_projection
    return projection(x) if isinstance(projection, nn.Linear) else x @ projection


def _text_encoder(clip: nn.Module) -> nn.Module:
    """What holds the text encoder's parts: open_clip has two layouts."""
    return getattr(clip, 'text', clip)


def _end_positions(tokens: torch.Tensor, encoder: nn.Module) -> torch.Tensor:
    """Where each row's end token stands, ``(M,)``, by open_clip's two rules."""
    pool = encoder.text_pool_type if hasattr(encoder, 'text_pool_type') else encoder.pool_type
    if pool == 'argmax':
        return tokens.argmax(dim=-1)
    eos = encoder.text_eos_id if hasattr(encoder, 'text_eos_id') else encoder.eos_id
    return (tokens == eos).int().argmax(dim=-1)


@functools.cache
def _tokenizer(text_cfg: str):
    """The tokenizer of a text encoder (its form as JSON), as open_clip chooses it."""
    text_cfg = json.loads(text_cfg)
    length = text_cfg.get('context_length', 77)
    options = text_cfg.get('tokenizer_kwargs') or {}
    name = text_cfg.get('hf_tokenizer_name')
    if name:
        try:
            return open_clip.tokenizer.HFTokenizer(name, context_length=length, **options)
        except (ImportError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise AMHPError(
                f'the tokenizer {name!r} of this backbone cannot be had ({reason}); it needs the '
                f'package transformers, and a network or `hf download {name}` once'
            ) from error
    return open_clip.SimpleTokenizer(context_length=length, **options)
