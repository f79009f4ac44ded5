"""What the scores of a metric depend on, as a short text."""

import json
from hashlib import blake2b

import torch

from pyiqa_amhp.info import version_of

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
        digest.update(name.encode())
        if isinstance(value, torch.Tensor):
            digest.update(f'{value.dtype}{tuple(value.shape)}'.encode())
            flat = value.detach().flatten()
            sample = flat[:: max(1, len(flat) // SAMPLE)].cpu().contiguous()
            digest.update(sample.view(torch.uint8).numpy().tobytes() if len(sample) else b'')
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()
