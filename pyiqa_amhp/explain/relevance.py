"""Where in the image a score comes from: attention to each patch, weighted by its gradient.

Attention rolled out over the layers (Abnar and Zuidema, "Quantifying Attention Flow in
Transformers", ACL 2020) says how much of a patch reaches the feature; the gradient of the score in
the patch's pixels, times how far they are from the image's mean colour, how much it matters there.
Their product is our choice. The gradient of the attention itself (Chefer et al., ICCV 2021, Eq. 5
and 6) was less faithful on the demo's models: see docs/explain.md.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from open_clip.transformer import VisionTransformer
from torch import nn
from torch.nn.functional import linear

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.prompt_predictor import Prompt
from pyiqa_amhp.model.runtime import Runner

FILLS = ('mean', 'grey')


@dataclass(frozen=True)
class Judged:
    """What a model made of N images.

    Attributes:
        Fx: image features ``(N, n)``. prompt: the first level.
        mos, dist: scores ``(N, 1)`` and distributions ``(N, k)``.
        relevance: ``(N, grid, grid)`` over the patches, at least 0, each image's sum 1 (0 where
            no patch moves the score); None where the encoder's attention cannot be read.
    """

    Fx: torch.Tensor
    prompt: Prompt
    mos: torch.Tensor
    dist: torch.Tensor
    relevance: torch.Tensor | None


def judge(net, x: torch.Tensor, texts: list[str]) -> Judged:
    """Judge preprocessed images ``x``, and tell where each score comes from.

    The texts are held fixed, predicted ones too: it is the image's own way to the score.
    """
    visual = net.backbone.clip.visual
    attentions = readable_attention(net)
    with torch.set_grad_enabled(attentions is not None), kept_attention(attentions or ()) as kept:
        x = x.detach().clone().requires_grad_(attentions is not None)
        Fx = net.backbone.encode_image(x)
        with torch.no_grad():
            prompt = net.attribute_prompt(texts, Fx.detach())
            FTa = net.level_features()
        mos, dist = net.head(Fx, prompt.Ft, FTa)
    found = None
    if attentions is not None:
        (gradient,) = torch.autograd.grad(mos, x, torch.ones_like(mos))
        pixels = gradient * (x - x.mean(dim=(2, 3), keepdim=True))
        found = shares_of_patches(kept, pixels.detach(), visual)
    return Judged(Fx.detach(), prompt, mos.detach(), dist.detach(), found)


def readable_attention(net) -> list[nn.MultiheadAttention] | None:
    """The attention of open_clip's own vision transformer, first block first; None of others."""
    visual = net.backbone.clip.visual
    if not isinstance(visual, VisionTransformer) or visual.attn_pool is not None:
        return None
    found = [getattr(block, 'attn', None) for block in visual.transformer.resblocks]
    plain = all(
        type(a) is nn.MultiheadAttention and a.batch_first and a.in_proj_weight is not None
        for a in found
    )
    learned = not any(p.is_inference() for p in net.parameters())  # autograd refuses those
    return found if found and plain and learned else None


@contextmanager
def kept_attention(attentions: Sequence[nn.MultiheadAttention]) -> Iterator[list[torch.Tensor]]:
    """Have attention layers compute their probabilities openly, and keep them.

    torch's own computation gives none on its way to the output.

    Yields:
        A list that gets ``(N, heads, L, L)`` of each layer as it runs.
    """
    kept: list[torch.Tensor] = []

    def again(layer: nn.MultiheadAttention, inputs, _) -> tuple[torch.Tensor, None]:
        x, width = inputs[0], layer.embed_dim // layer.num_heads  # (N, L, heads * width)
        qkv = linear(x, layer.in_proj_weight, layer.in_proj_bias)
        q, k, v = qkv.unflatten(-1, (3, layer.num_heads, width)).permute(2, 0, 3, 1, 4)
        p = (q @ k.transpose(-2, -1) / math.sqrt(width)).softmax(dim=-1)
        kept.append(p.detach())
        return layer.out_proj((p @ v).transpose(1, 2).flatten(2)), None

    handles = [layer.register_forward_hook(again) for layer in attentions]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def shares_of_patches(
    attentions: Sequence[torch.Tensor], pixels: torch.Tensor, visual: VisionTransformer
) -> torch.Tensor:
    """Relevance, ``(N, grid, grid)``.

    Args:
        attentions: of the layers, first one first, ``(N, heads, L, L)``.
        pixels: how much each of the preprocessed images moves the score, ``(N, 3, size, size)``.
    """
    itself = torch.eye(attentions[0].shape[-1]).to(attentions[0])
    R = itself
    for a in attentions:
        R = R + a.mean(dim=1) @ R  # (N, L, L)
    R = R - itself  # that a token is there says nothing about the score
    reached = R[:, 1:, 1:].mean(dim=1) if visual.pool_type == 'avg' else R[:, 0, 1:]
    felt = nn.functional.avg_pool2d(pixels.abs().sum(dim=1), visual.patch_size)
    patches = reached.unflatten(-1, visual.grid_size) * felt
    total = patches.sum(dim=(1, 2), keepdim=True)
    return torch.where(total > 0, patches / total.clamp(min=torch.finfo(total.dtype).tiny), 0)


def faithfulness(
    net,
    images: torch.Tensor,
    texts: list[str] | None = None,
    share: float = 0.2,
    fill: str = 'mean',
) -> tuple[torch.Tensor, torch.Tensor]:
    """What happens to scores when the most, and the least, relevant patches are deleted.

    Args:
        net: an AMHP; it is left as it was.
        images: preprocessed, ``(N, 3, size, size)``.
        texts: one for each, '' where there is none.
        share: of the patches that are deleted.
        fill: what takes their place: each image's ``mean`` colour, or CLIP's mean (``grey``).

    Returns:
        Score changes ``(N,)`` without the most relevant and without the least relevant patches.

    Raises:
        AMHPError: an encoder without a map, a share outside 0..1, another fill.
    """
    if not 0 < share <= 1 or fill not in FILLS:
        raise AMHPError(f'share={share!r}, fill={fill!r}: expected 0 < share <= 1 and mean or grey')
    texts = texts or [''] * len(images)
    with eval_fp32(net):
        judged = judge(net, images, texts)
        if judged.relevance is None:
            raise AMHPError('this image encoder has no relevance map to be checked')
        blank = images.mean(dim=(2, 3), keepdim=True) * (fill == 'mean')
        changes = []
        for largest in (True, False):
            deleted = _places(judged.relevance, share, largest).to(images)
            deleted = nn.functional.interpolate(deleted[:, None], images.shape[-2:])
            score, _ = net.predict(images * (1 - deleted) + blank * deleted, texts)
            changes.append((score - judged.mos)[:, 0])
    return changes[0], changes[1]


def _places(relevance: torch.Tensor, share: float, largest: bool) -> torch.Tensor:
    """Which patches are the most or the least relevant, ``(N, grid, grid)`` of bool."""
    flat = relevance.flatten(1)
    count = max(1, round(share * flat.shape[1]))
    chosen = flat.topk(count, largest=largest).indices
    return torch.zeros_like(flat, dtype=torch.bool).scatter(1, chosen, True).view_as(relevance)


@contextmanager
def eval_fp32(net) -> Iterator[None]:
    """Have an AMHP judge by torch in fp32, which has gradients; then put back all it was.

    No gradient is stored in it, and inside ``torch.inference_mode`` autograd works again.
    """
    modes = [(module, module.training) for module in net.modules()]
    backbone = net.backbone
    runner, truncated = backbone.runner, backbone.truncated_texts
    try:
        for module, _ in modes:  # not net.eval(), which would forget kept sentences
            module.training = False
        backbone.runner = Runner()
        with torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        backbone.runner = runner
        # What was cut here was nobody's text; but that something was cut has now been said.
        backbone.truncated_texts = max(truncated, min(1, backbone.truncated_texts))
        for module, mode in modes:
            module.training = mode
