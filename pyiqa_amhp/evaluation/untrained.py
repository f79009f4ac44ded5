"""Metrics of pyiqa with random weights: their speed is that of trained ones."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from pyiqa_amhp.scoring.scorer import arch_of


def create_untrained(name: str, device: str | None = None, **options: Any) -> nn.Module:
    """Create a metric of pyiqa with random weights, without any file of weights.

    Its arch gets ``pretrained=False``. Some archs load their encoder all the same; meanwhile timm
    and OpenAI's CLIP load nothing.

    Args:
        name: name of a metric.
        device: a device of torch; None: a GPU if there is one.
        **options: further options of its arch.

    Raises:
        TypeError: the arch has no option ``pretrained``; other errors are those of the arch.
    """
    import pyiqa

    with _no_weights(str(arch_of(name))):
        return pyiqa.create_metric(name, device=device, pretrained=False, **options)


@contextmanager
def _no_weights(arch: str) -> Iterator[None]:
    """Make the functions that load the encoders of pyiqa's archs give random weights."""
    import clip
    import pyiqa.archs
    import timm.models._builder
    from pyiqa.archs import clip_model

    # An arch that was imported inside the block would keep the replaced functions.
    pyiqa.archs._lazy_import_arch(arch)
    with ExitStack() as stack:

        def replace(holder: object, function: str, other: Any) -> None:
            stack.enter_context(patch.object(holder, function, other))

        replace(timm.models._builder, 'load_pretrained', lambda *_, **__: None)
        replace(clip, 'load', lambda model, *_, **__: (_random_clip(clip.model.CLIP, model), None))
        for module in [m for name, m in sys.modules.items() if name.startswith('pyiqa.archs.')]:
            if module is not clip_model and getattr(module, 'load', None) is clip_model.load:
                replace(
                    module, 'load', lambda model, *_, **__: _random_clip(clip_model.CLIP, model)
                )
        yield


def _random_clip(kind: Any, name: str) -> nn.Module:
    """Build one of OpenAI's CLIPs with random weights.

    Args:
        kind: the class ``CLIP`` of the package ``clip``, or pyiqa's variant of it.
        name: a name of that package, ``RN50``, ``ViT-L/14``, ``ViT-L/14@336px`` ...
    """
    import open_clip

    config = open_clip.get_model_config(name.replace('/', '-').replace('@336px', '-336'))
    vision, text = config['vision_cfg'], config['text_cfg']
    with torch.no_grad():
        return kind(
            embed_dim=config['embed_dim'],
            image_resolution=vision['image_size'],
            vision_layers=vision['layers'],
            vision_width=vision['width'],
            vision_patch_size=vision.get('patch_size'),
            context_length=text['context_length'],
            vocab_size=text['vocab_size'],
            transformer_width=text['width'],
            transformer_heads=text['heads'],
            transformer_layers=text['layers'],
        ).eval()
