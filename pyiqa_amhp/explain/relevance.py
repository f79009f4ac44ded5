"""Relevance of image patches to a score: attention to each patch, weighted by its gradient.

Attention rollout (Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020)
measures how much of a patch reaches the image feature. The gradient of the score with respect to
the patch's pixels, times their distance from the image's mean colour, measures how much the patch
matters there. Their product is our choice. The gradient of the attention itself (Chefer et al.,
ICCV 2021, Eq. 5 and 6) was less faithful on the demo's models: see docs/explain.md.
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
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.model.engines import copy_with_tensors, without_autocast
from pyiqa_amhp.model.preprocess import at_least_fp32
from pyiqa_amhp.model.prompt_predictor import AttributePrompt
from pyiqa_amhp.model.runtime import Runner

FILLS = ('mean', 'grey')


@dataclass(frozen=True)
class Attribution:
    """Scores of N images, and the relevance of their patches.

    Attributes:
        Fx: image features ``(N, n)``.
        prompt: the attribute prompts.
        mos, dist: scores ``(N, 1)`` and distributions ``(N, k)``.
        relevance: ``(N, grid, grid)``, at least 0. The sum of an image is 1, or 0 if no patch
            changes the score. None if the attention of the encoder cannot be read.
    """

    Fx: torch.Tensor
    prompt: AttributePrompt
    mos: torch.Tensor
    dist: torch.Tensor
    relevance: torch.Tensor | None


def attribute_scores(net: AMHP, x: torch.Tensor, texts: list[str]) -> Attribution:
    """Score preprocessed images ``x``, and attribute each score to the patches of its image.

    Texts, even predicted ones, are constants here: only the image feature carries gradients.
    """
    visual = net.backbone.clip.visual
    attentions = readable_attention(net)
    with_map = attentions is not None
    with torch.set_grad_enabled(with_map), record_attention(attentions or ()) as probabilities:
        x = x.detach().clone().requires_grad_(with_map)
        Fx = net.backbone.encode_image(x)
        with torch.no_grad():
            prompt = net.attribute_prompt(texts, Fx.detach())
            FTa = net.level_features()
        mos, dist = net.head(Fx, prompt.Ft, FTa)
    relevance = None
    if attentions is not None:
        (gradient,) = torch.autograd.grad(mos, x, torch.ones_like(mos))
        pixels = gradient * (x - x.mean(dim=(2, 3), keepdim=True))
        relevance = patch_relevance(probabilities, pixels.detach(), visual)
    return Attribution(Fx.detach(), prompt, mos.detach(), dist.detach(), relevance)


def readable_attention(net: AMHP) -> list[nn.MultiheadAttention] | None:
    """Return the attention layers of open_clip's vision transformer, in order.

    None for other encoders, and for layers whose attention or gradient cannot be computed.
    """
    visual = net.backbone.clip.visual
    if not isinstance(visual, VisionTransformer) or visual.attn_pool is not None:
        return None
    if any(p.is_inference() for p in net.parameters()):  # autograd refuses those
        return None
    layers: list[nn.MultiheadAttention] = []
    for block in visual.transformer.resblocks:
        layer = getattr(block, 'attn', None)
        if type(layer) is not nn.MultiheadAttention:
            return None
        if not layer.batch_first or layer.in_proj_weight is None:
            return None
        layers.append(layer)
    return layers or None


@contextmanager
def record_attention(attentions: Sequence[nn.MultiheadAttention]) -> Iterator[list[torch.Tensor]]:
    """Record the attention probabilities of layers while they run.

    torch does not return them, so the output of each layer is computed a second time.

    Yields:
        A list to which each layer appends its probabilities ``(N, heads, L, L)`` when it runs.
    """
    recorded: list[torch.Tensor] = []

    def recompute(layer: nn.MultiheadAttention, inputs, _) -> tuple[torch.Tensor, None]:
        x, width = inputs[0], layer.embed_dim // layer.num_heads  # (N, L, heads * width)
        qkv = linear(x, layer.in_proj_weight, layer.in_proj_bias)
        q, k, v = qkv.unflatten(-1, (3, layer.num_heads, width)).permute(2, 0, 3, 1, 4)
        p = (q @ k.transpose(-2, -1) / math.sqrt(width)).softmax(dim=-1)
        recorded.append(p.detach())
        return layer.out_proj((p @ v).transpose(1, 2).flatten(2)), None

    handles = [layer.register_forward_hook(recompute) for layer in attentions]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


def patch_relevance(
    probabilities: Sequence[torch.Tensor], pixels: torch.Tensor, visual: VisionTransformer
) -> torch.Tensor:
    """Combine attention rollout and gradient into the relevance of patches.

    Args:
        probabilities: attention ``(N, heads, L, L)`` of each layer, in order.
        pixels: gradient times input of the preprocessed images, ``(N, 3, size, size)``.
        visual: the image encoder.

    Returns:
        ``(N, grid, grid)``, at least 0. The sum of an image is 1, or 0 if no patch changes the
        score.
    """
    identity = torch.eye(probabilities[0].shape[-1]).to(probabilities[0])
    R = identity
    for p in probabilities:
        R = R + p.mean(dim=1) @ R  # (N, L, L)
    R = R - identity  # the path of a token to itself carries no information
    reached = R[:, 1:, 1:].mean(dim=1) if visual.pool_type == 'avg' else R[:, 0, 1:]
    strength = nn.functional.avg_pool2d(pixels.abs().sum(dim=1), visual.patch_size)
    patches = reached.unflatten(-1, visual.grid_size) * strength
    total = patches.sum(dim=(1, 2), keepdim=True)
    return torch.where(total > 0, patches / total.clamp(min=torch.finfo(total.dtype).tiny), 0)


def faithfulness(
    net: AMHP,
    images: torch.Tensor,
    texts: list[str] | None = None,
    share: float = 0.2,
    fill: str = 'mean',
) -> tuple[torch.Tensor, torch.Tensor]:
    """Measure how scores change when the most, and the least, relevant patches are deleted.

    Args:
        net: an AMHP; it is not changed.
        images: preprocessed images, ``(N, 3, size, size)``.
        texts: a text for each image, ``''`` for no text.
        share: the share of patches to delete, in (0, 1].
        fill: the colour of deleted patches: ``mean`` is the mean colour of each image, ``grey``
            is CLIP's mean.

    Returns:
        Changes of the scores ``(N,)`` without the most relevant patches, and without the least
        relevant patches.

    Raises:
        AMHPError: the image encoder has no relevance map, the share is outside (0, 1], or the
            fill is unknown.
    """
    if not 0 < share <= 1 or fill not in FILLS:
        raise AMHPError(f'share={share!r}, fill={fill!r}: expected 0 < share <= 1 and mean or grey')
    texts = texts or [''] * len(images)
    with eval_fp32(net) as net:
        attribution = attribute_scores(net, images, texts)
        if attribution.relevance is None:
            raise AMHPError('this image encoder has no relevance map')
        blank = images.mean(dim=(2, 3), keepdim=True) * (fill == 'mean')
        changes = []
        for largest in (True, False):
            deleted = _select_patches(attribution.relevance, share, largest).to(images)
            deleted = nn.functional.interpolate(deleted[:, None], images.shape[-2:])
            score, _ = net.predict(images * (1 - deleted) + blank * deleted, texts)
            changes.append((score - attribution.mos)[:, 0])
    return changes[0], changes[1]


def _select_patches(relevance: torch.Tensor, share: float, largest: bool) -> torch.Tensor:
    """Mark the most or the least relevant patches, ``(N, grid, grid)`` of bool."""
    flat = relevance.flatten(1)
    count = max(1, round(share * flat.shape[1]))
    chosen = flat.topk(count, largest=largest).indices
    return torch.zeros_like(flat, dtype=torch.bool).scatter(1, chosen, True).view_as(relevance)


@contextmanager
def eval_fp32(net: AMHP) -> Iterator[AMHP]:
    """Give a copy of a model in evaluation mode, run by torch in fp32, which has gradients.

    The model itself does not change, so that other threads may score with it. The copy shares its
    weights (but those in half precision, which are converted) and its cached features. No gradient
    is stored in it, and inside ``torch.inference_mode`` autograd works again.
    """
    copied = copy_with_tensors(net, lambda tensor: at_least_fp32(tensor, tensor.dtype))
    if all(mine is its for mine, its in zip(net.parameters(), copied.parameters(), strict=True)):
        copied._sentence_cache = net._sentence_cache
    for module in copied.modules():  # not copied.eval(), which would clear cached features
        module.training = False
    copied.backbone.runner = Runner()
    device = net.logit_scale.device.type
    with torch.inference_mode(False), torch.no_grad(), without_autocast(device):
        yield copied
    # Texts cut here were not the user's, but the warning about cut texts is given only once.
    backbone = net.backbone
    backbone.truncated_texts = max(
        backbone.truncated_texts, min(1, copied.backbone.truncated_texts)
    )
