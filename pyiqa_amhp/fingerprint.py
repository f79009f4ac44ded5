"""What the scores of a metric depend on, and which weights these are, as short texts."""

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import torch

from pyiqa_amhp.info import version_of
from pyiqa_amhp.model.weights import CONFIG_KEY

SAMPLE = 4096  # numbers of each tensor that count


def fingerprint(metric) -> str:
    """What a metric's scores depend on: its name, options, versions, and weights.

    Of each tensor some 4,096 numbers, evenly spaced, count: training changes them all.
    """
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    options = DEFAULT_CONFIGS.get(metric.metric_name, {}).get('metric_opts', {})
    digest = blake2b(digest_size=16)
    versions = [version_of(package) for package in ('pyiqa', 'pyiqa-amhp', 'torch')]
    digest.update(json.dumps([metric.metric_name, versions, options], default=str).encode())
    for name, value in metric.net.state_dict().items():
        _add(digest, name, value)
    return digest.hexdigest()


def weights_digest(state: Mapping[str, torch.Tensor]) -> str:
    """Which weights these are, whatever file they are in and whatever it says of them.

    Args:
        state: of a network or a checkpoint; of its configuration nothing counts.
    """
    digest = blake2b(digest_size=16)
    for name in sorted(state.keys() - {CONFIG_KEY}):
        _add(digest, name, state[name])
    return digest.hexdigest()


def _add(digest, name: str, value: Any) -> None:
    digest.update(name.encode())
    if isinstance(value, torch.Tensor):
        digest.update(f'{value.dtype}{tuple(value.shape)}'.encode())
        flat = value.detach().flatten()
        sample = flat[:: max(1, len(flat) // SAMPLE)].cpu().contiguous()
        digest.update(sample.view(torch.uint8).numpy().tobytes() if len(sample) else b'')
    else:
        digest.update(repr(value).encode())
