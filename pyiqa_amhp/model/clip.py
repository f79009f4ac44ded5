"""CLIP's image and text encoders, built by open_clip.

``clip_weights.py`` finds their weights.
"""

import functools
import gzip
import itertools
import json
import logging
import math
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import torch
from torch import nn

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.clip_weights import ClipSource, load_clip_state
from pyiqa_amhp.model.runtime import Runner

MAX_LAYERS = 1000  # of an encoder; the largest have about fifty (our choice)
CLIP_VOCABULARY = 49_408  # tokens of CLIP's tokenizer
CONTEXT_LENGTH = 77  # tokens of a text, unless an architecture says otherwise (CLIP)
UNTRAINED_LOGIT_SCALE = math.log(1 / 0.07)  # CLIP's initial value

logger = logging.getLogger('pyiqa_amhp')
_tokenizer_lock = threading.Lock()  # Hugging Face's tokenizers raise errors in several threads


def _build_clip(source: ClipSource) -> nn.Module:
    model_cfg = dict(source.model_cfg)
    custom_text = model_cfg.pop('custom_text', False)
    model_cfg['quick_gelu'] = source.config.quick_gelu
    try:
        return (open_clip.CustomTextCLIP if custom_text else open_clip.CLIP)(**model_cfg)
    except Exception as error:  # a user's own architecture can fail in many ways
        if isinstance(source.config.backbone, str):
            raise
        raise AMHPError(
            f'backbone {json.dumps(source.config.backbone)[:200]}: not an architecture that '
            f'open_clip can build ({type(error).__name__}: {error})'
        ) from error


def check_architecture(source: ClipSource, path: Path) -> None:
    """Check that an architecture is no larger than its weights, before memory is allocated for it.

    Args:
        source: the architecture that a file of weights says it is for.
        path: that file, which has at least one byte for each weight.

    Raises:
        AMHPError: an architecture with more than ``MAX_LAYERS`` layers in an encoder, with more
            weights than the file has bytes, or that cannot be built.
    """
    encoders = [source.model_cfg['vision_cfg'], source.model_cfg['text_cfg']]
    if isinstance(source.config.backbone, str) or 'timm_model_name' in encoders[0]:
        return  # one of a library's own architectures
    layers = [encoder.get('layers', 0) for encoder in encoders]
    layers = [sum(n) if isinstance(n, list | tuple) else n for n in layers]  # ResNet: four stages
    size, needed = path.stat().st_size, math.inf
    if max(layers) <= MAX_LAYERS:
        with torch.device('meta'):
            needed = sum(p.numel() for p in _build_clip(source).parameters())
    if needed > size:
        raise AMHPError(
            f'{path}: refused, since the model that it says it is for has {max(layers):,} layers '
            f'and {needed:,} weights, and the file {size:,} bytes'
        )


class Tokens(NamedTuple):
    """Token ids of N texts, on the CPU.

    Attributes:
        ids: the ids, ``(N, L)``, zero after the end of a text.
        length: the number of tokens of the longest text, with those of its start and end.
        cut: the number of texts that were longer than ``L`` tokens and were cut there.
    """

    ids: torch.Tensor
    length: int
    cut: int


@dataclass(frozen=True)
class TextTokenizer:
    """Turns texts into token ids, without the text encoder: also in another process.

    Attributes:
        text_cfg: the text encoder's part of open_clip's model file, as JSON.
        end: the id of the end token; None: the largest id of a text, as in CLIP.
    """

    text_cfg: str
    end: int | None

    def __call__(self, texts: list[str]) -> Tokens:
        """Tokenize N texts; a text that is too long keeps its first tokens and an end token."""
        tokenizer = _tokenizer(self.text_cfg)
        with _tokenizer_lock:
            ids = tokenizer(texts)
            ends, longest = _end_positions(ids, self.end).tolist(), ids.shape[1]
            full = [text for text, at in zip(texts, ends, strict=True) if at == longest - 1]
            encode = getattr(tokenizer, 'encode', None)  # absent in Hugging Face's wrapper
            cut = sum(encode is None or len(encode(text)) + 2 > longest for text in full)
        return Tokens(ids, max(ends) + 1, cut)


class Backbone(nn.Module):
    """Image encoder and text encoder of Eq. 1.

    Args:
        source: the model's architecture, its activation, and its weights if there are any.
        runner: how the encoders run; None: by torch, in the precision of the weights.

    Attributes:
        clip: open_clip's model.
        clip_logit_scale: logarithm of CLIP's own ``1 / tau``; without weights, its initial value.
        width: width ``n`` of the features.
        image_size: side of the square input in pixels.
        truncated_texts: number of texts so far that were too long and were cut.
        frozen: parts that stay in evaluation mode, of ``image``, ``trunk`` and ``text``.

    Raises:
        AMHPError: weights that do not fit, or a tokenizer that cannot be downloaded.
    """

    clip: Any
    width: int
    image_size: int

    def __init__(self, source: ClipSource, runner: Runner | None = None):
        super().__init__()
        self.runner = runner or Runner()
        text_cfg = source.model_cfg['text_cfg']
        if source.path is not None:
            check_architecture(source, source.path)
        self.clip = _build_clip(source)
        self.clip_logit_scale = UNTRAINED_LOGIT_SCALE
        if source.path is not None:
            self.clip_logit_scale = load_clip_state(self.clip, source)
        # AMHP has its own scale, and an unused parameter hinders distributed training.
        self.clip.logit_scale = None
        self._text_cfg = json.dumps(text_cfg)
        self.text_tokenizer = TextTokenizer(self._text_cfg, _end_token(_text_encoder(self.clip)))
        _ = self.tokenizer  # a missing one is an error now, not at the first text
        self.truncated_texts = 0
        self.frozen: set[str] = set()
        projection = _text_encoder(self.clip).text_projection
        self.width = (
            projection.out_features if isinstance(projection, nn.Linear) else projection.shape[1]
        )
        # A vision transformer has one convolution, for its patches.
        layers = self.clip.visual.modules()
        self._is_convolutional = sum(isinstance(layer, nn.Conv2d) for layer in layers) > 1
        size = self.clip.visual.image_size
        self.image_size = size if isinstance(size, int) else size[0]
        if self.runner.engine != 'torch':
            self.clip.requires_grad_(False)  # other engines compute no gradients

    @property
    def tokenizer(self) -> Any:
        """Tokenizer of the text encoder, cached outside so that copies of the model share it."""
        return _tokenizer(self._text_cfg)

    def text_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the text encoder."""
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

    def freeze_trunk(self) -> None:
        """Exclude the image encoder from training, but for its projection to the joint space.

        Raises:
            AMHPError: an image encoder that is not one of timm's.
        """
        if not hasattr(self.clip.visual, 'trunk'):
            raise AMHPError(
                "freeze='trunk': only for image encoders of timm, such as those of "
                "backbone='EfficientNet-Lite0' or 'convnext_base'; use freeze='image'"
            )
        self.frozen.add('trunk')
        self.clip.visual.trunk.requires_grad_(False)

    def train(self, mode: bool = True):
        """Switch the mode; frozen encoders stay in evaluation mode (no dropout, no statistics)."""
        super().train(mode)
        for name, part in self.clip.named_children():
            if ('image' if name == 'visual' else 'text') in self.frozen:
                part.eval()
        if 'trunk' in self.frozen:
            self.clip.visual.trunk.eval()
        if self.frozen == {'image', 'text'}:
            self.clip.eval()
        return self

    def encode_image(self, x: torch.Tensor) -> torch.Tensor:
        """Compute ``Fx (N, n)``, not normalised, of preprocessed images ``(N, 3, size, size)``."""
        return self.runner(encode_images, self.clip, self._in_order(x))

    def encode_trunk(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the features ``(N, w)`` of timm's trunk, of which ``project`` makes ``Fx``."""
        return self.runner(encode_trunks, self.clip, self._in_order(x))

    def project(self, trunk: torch.Tensor) -> torch.Tensor:
        """Compute ``Fx (N, n)`` of the features ``(N, w)`` of timm's trunk."""
        return self.runner(project_trunks, self.clip, trunk)

    def _in_order(self, x: torch.Tensor) -> torch.Tensor:
        """Store pixels as the encoder reads them: on a CPU that is a third of the time."""
        return x.contiguous(memory_format=torch.channels_last) if self._is_convolutional else x

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        """Compute ``Ft (N, n)``, not normalised, of N texts; repeated texts are encoded once.

        Texts longer than the encoder's input (77 tokens for CLIP) are cut and counted in
        ``truncated_texts``; the first time, a warning is logged.
        """
        unique = list(dict.fromkeys(texts))
        features = self.encode_ids(self.tokenize(unique))
        if len(unique) == len(texts):
            return features
        row = {text: i for i, text in enumerate(unique)}
        return features[[row[text] for text in texts]]

    def tokenize(self, texts: list[str]) -> torch.Tensor:
        """Return the token ids ``(N, L)`` of N texts, ``L`` the length of the longest one.

        Texts that are too long are cut and counted, see ``encode_text``.
        """
        tokens = self.text_tokenizer(texts)
        self.count_cut(tokens.cut)
        device = _text_encoder(self.clip).positional_embedding.device
        return tokens.ids[:, : tokens.length].to(device)

    def encode_ids(self, ids: torch.Tensor) -> torch.Tensor:
        """Compute ``Ft (N, n)`` of token ids ``(N, L)`` on the encoder's device."""
        return self.runner(encode_tokens, self.clip, ids)

    def count_cut(self, cut: int) -> None:
        """Count texts that were cut, and warn the first time."""
        if cut and not self.truncated_texts:
            context = json.loads(self._text_cfg).get('context_length', CONTEXT_LENGTH)
            logger.warning(
                'A text is longer than %d tokens and was cut there; more of them are only counted.',
                context,
            )
        self.truncated_texts += cut


def encode_images(clip: Any, x: torch.Tensor) -> torch.Tensor:
    """Encode preprocessed images ``(N, 3, size, size)`` by CLIP's image encoder to ``(N, n)``."""
    return clip.visual(x)


def encode_trunks(clip: Any, x: torch.Tensor) -> torch.Tensor:
    """Encode preprocessed images ``(N, 3, size, size)`` by timm's trunk, before the projection."""
    return clip.visual.trunk(x)


def project_trunks(clip: Any, trunk: torch.Tensor) -> torch.Tensor:
    """Project the features of timm's trunk to the joint space ``(N, n)``."""
    return clip.visual.head(trunk)


def encode_tokens(clip: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Encode token ids ``(N, L)`` by CLIP's text encoder to ``(N, n)``.

    The encoder is causal and its feature is read at the end token, so tokens after the end of the
    longest text cannot change a feature and may be left out.
    """
    encoder = _text_encoder(clip)
    length = tokens.shape[1]
    dtype = encoder.transformer.get_cast_dtype()
    x = encoder.token_embedding(tokens).to(dtype) + encoder.positional_embedding[:length].to(dtype)
    x = encoder.transformer(x, attn_mask=encoder.attn_mask[:length, :length])
    rows = torch.arange(tokens.shape[0], device=tokens.device)
    x = encoder.ln_final(x[rows, _end_positions(tokens, _end_token(encoder))])
    projection = encoder.text_projection
    return projection(x) if isinstance(projection, nn.Linear) else x @ projection


def normalize(features: torch.Tensor) -> torch.Tensor:
    """Divide features ``(..., n)`` by their L2 norm; a row of zeros stays zero in any precision."""
    eps = max(1e-12, torch.finfo(features.dtype).tiny)  # 1e-12, torch's default, is 0 in fp16
    return nn.functional.normalize(features, dim=-1, eps=eps)


def _text_encoder(clip: nn.Module) -> Any:
    """Return the module with the text encoder's parts: open_clip has two layouts."""
    return getattr(clip, 'text', clip)


def _end_token(encoder: Any) -> int | None:
    """Return the id of a text encoder's end token; None: the largest id of a text."""
    pool = encoder.text_pool_type if hasattr(encoder, 'text_pool_type') else encoder.pool_type
    if pool == 'argmax':
        return None
    return encoder.text_eos_id if hasattr(encoder, 'text_eos_id') else encoder.eos_id


def _end_positions(ids: torch.Tensor, end: int | None) -> torch.Tensor:
    """Find the end token of each row, ``(N,)``, by open_clip's two rules."""
    return ids.argmax(dim=-1) if end is None else ids.eq(end).int().argmax(dim=-1)


@functools.cache
def _tokenizer(text_cfg: str) -> Any:
    """Build the tokenizer that open_clip chooses for a text encoder.

    Args:
        text_cfg: the text encoder's part of open_clip's model file, as JSON.
    """
    options = json.loads(text_cfg)
    length = options.get('context_length', CONTEXT_LENGTH)
    kwargs = options.get('tokenizer_kwargs') or {}
    name = options.get('hf_tokenizer_name')
    if not name:
        size = options.get('vocab_size', CLIP_VOCABULARY)
        return byte_pair_tokenizer(size, context_length=length, **kwargs)
    try:
        return open_clip.tokenizer.HFTokenizer(name, context_length=length, **kwargs)
    except (ImportError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise AMHPError(
            f'the tokenizer {name!r} of this backbone cannot be loaded ({reason}); it needs the '
            f'package transformers, and a network or `hf download {name}` once'
        ) from error


def byte_pair_tokenizer(vocab_size: int, **options: Any) -> open_clip.SimpleTokenizer:
    """Build CLIP's tokenizer, or one with the first merges of its byte pairs only.

    The merges are in the order in which they were found, so that the first ones are a vocabulary
    of their own: rarer words become several tokens.

    Args:
        vocab_size: number of tokens; from 49,408 on, all of CLIP's.
        **options: of open_clip's ``SimpleTokenizer``.

    Raises:
        AMHPError: a vocabulary without room for the bytes.
    """
    if vocab_size >= CLIP_VOCABULARY:
        return open_clip.SimpleTokenizer(**options)
    special = 2 + len(options.get('additional_special_tokens') or ())
    merges = vocab_size - 2 * 256 - special
    if merges < 0:
        raise AMHPError(f'vocab_size={vocab_size}: expected {2 * 256 + special} or more')
    with gzip.open(open_clip.tokenizer.default_bpe()) as file:
        lines = list(itertools.islice(file, 1 + merges))  # the first line is a title
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'merges.gz')
        path.write_bytes(gzip.compress(b''.join(lines).rstrip()))
        return open_clip.SimpleTokenizer(str(path), **options)
