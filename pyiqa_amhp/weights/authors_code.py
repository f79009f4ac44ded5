"""State dicts of the authors' public code (GitHub-Ju/AMHP), converted to those of this package.

Their network has OpenAI's CLIP as ``model``, the fully connected layer as ``mlp`` and a learned
``logit_scale``; their state dict records no option. What their code does is here
``protocol='reference'``: PARA's scale with their level values, and OpenAI's QuickGELU.
"""

import logging
import re
from collections.abc import Mapping
from typing import Any

import torch

from pyiqa_amhp.datasets.ratings import REFERENCE_PARA_LEVEL_VALUES
from pyiqa_amhp.errors import AMHPError

CLIP, FC = 'model.', 'mlp.'  # prefixes of their names
NOT_IN_AMHP = ('logit_scale', 'input_resolution', 'context_length', 'vocab_size')  # of their CLIP
HEAD_WIDTH = 64  # of every vision transformer of OpenAI, and of their text encoders
NAMED = ('ViT-B-16', 'ViT-B-32', 'ViT-L-14', 'ViT-L-14-336')  # OpenAI's; the authors': the first

logger = logging.getLogger('pyiqa_amhp')


def is_of_authors(state: Mapping[str, Any]) -> bool:
    """Whether the names of tensors are those of the authors' network."""
    head = {f'{FC}weight', f'{FC}bias', 'logit_scale'}
    return head <= state.keys() and any(key.startswith(f'{CLIP}visual.') for key in state)


def from_authors(
    state: Mapping[str, torch.Tensor], name: str
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Convert a state dict of the authors' network.

    Args:
        state: tensors by their names; CLIP's may be in half precision, as OpenAI stores them.
        name: what users call the file, for messages.

    Returns:
        The options of ``AMHPConfig`` that their code stands for, and the tensors in float32 by the
        names of ``AMHP``.

    Raises:
        AMHPError: another CLIP than a vision transformer of OpenAI.
    """
    converted: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        if key.startswith(CLIP):
            if (part := key.removeprefix(CLIP)) not in NOT_IN_AMHP:
                converted[f'backbone.clip.{part}'] = value
        else:
            converted[re.sub(f'^{re.escape(FC)}', 'fc.', key)] = value
    converted = {k: v.float() if v.is_floating_point() else v for k, v in converted.items()}
    clip = {k.removeprefix(CLIP): v for k, v in state.items() if k.startswith(CLIP)}
    try:
        backbone = _architecture(clip)
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise AMHPError(
            f"{name}: named as a checkpoint of the authors' code, but its CLIP is no vision "
            'transformer of OpenAI (their code has ViT-B/16): its architecture is unknown'
        ) from error
    logger.warning(
        "%s: a checkpoint of the authors' code, read as protocol='reference' on the scale of PARA "
        '(level values %s), with QuickGELU. Trained on other ratings? Give level_values=.',
        name,
        list(REFERENCE_PARA_LEVEL_VALUES),
    )
    config = {
        'dataset': 'para',
        'protocol': 'reference',
        'level_values': list(REFERENCE_PARA_LEVEL_VALUES),
        'backbone': backbone,
        'clip_weights': 'openai',
        'quick_gelu': True,
    }
    return config, converted


def _architecture(clip: Mapping[str, torch.Tensor]) -> str | dict[str, Any]:
    """Read a CLIP's architecture from the shapes of its tensors: open_clip's name or its dict."""
    width, _, patch, _ = clip['visual.conv1.weight'].shape
    tokens, _ = clip['visual.positional_embedding'].shape
    context, text_width = clip['positional_embedding'].shape
    vocabulary, _ = clip['token_embedding.weight'].shape
    _, embed = clip['text_projection'].shape
    grid = round((tokens - 1) ** 0.5)
    if grid**2 + 1 != tokens or width % HEAD_WIDTH or text_width % HEAD_WIDTH or not grid:
        raise ValueError
    architecture = {
        'embed_dim': embed,
        'vision_cfg': {
            'image_size': grid * patch,
            'layers': _layers(clip, 'visual.transformer'),
            'width': width,
            'patch_size': patch,
        },
        'text_cfg': {
            'context_length': context,
            'vocab_size': vocabulary,
            'width': text_width,
            'heads': text_width // HEAD_WIDTH,
            'layers': _layers(clip, 'transformer'),
        },
    }
    from open_clip.factory import get_model_config

    return next((name for name in NAMED if get_model_config(name) == architecture), architecture)


def _layers(clip: Mapping[str, torch.Tensor], part: str) -> int:
    """Count the blocks of a transformer."""
    pattern = re.compile(rf'{re.escape(part)}\.resblocks\.(\d+)\.')
    blocks = {match[1] for match in map(pattern.match, clip) if match}
    if not blocks:
        raise ValueError
    return len(blocks)
