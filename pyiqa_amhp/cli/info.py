"""What ``amhp info`` tells: enough for a bug report."""

import os
import platform

from pyiqa_amhp.utils.environment import version_of

PACKAGES = (
    'pyiqa-amhp', 'pyiqa', 'torch', 'torchvision', 'open_clip_torch', 'timm', 'numpy', 'pandas',
    'pillow', 'huggingface_hub', 'safetensors', 'setuptools',
)  # fmt: skip


def collect_info() -> dict[str, dict[str, str]]:
    """Titles to tables of names and values; nothing is downloaded and no model is built."""
    return {
        'versions': {'python': platform.python_version(), **{p: version_of(p) for p in PACKAGES}},
        'devices': _devices(),
        'registered with pyiqa': _registered(),
        'weights': _weights(),
    }


def _devices() -> dict[str, str]:
    import torch

    devices = {'cpu': f'{os.cpu_count()} cores, {torch.get_num_threads()} threads for torch'}
    for i in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(i).total_memory / 2**30
        devices[f'cuda:{i}'] = f'{torch.cuda.get_device_name(i)}, {memory:.0f} GiB'
    if torch.backends.mps.is_available():
        devices['mps'] = 'available'
    return devices


def _registered() -> dict[str, str]:
    import pyiqa
    from pyiqa.utils import registry

    from pyiqa_amhp import plugin

    groups = {
        'archs': ('ARCH_REGISTRY', plugin.ARCHS),
        'datasets': ('DATASET_REGISTRY', plugin.DATASETS),
        'losses': ('LOSS_REGISTRY', plugin.LOSSES),
        'metrics': ('METRIC_REGISTRY', plugin.METRICS),
        'models': ('MODEL_REGISTRY', plugin.MODELS),
    }
    here = {
        title: ', '.join(n for n in names if n in getattr(registry, table)) or 'none'
        for title, (table, names) in groups.items()
    }
    models = [name for name in pyiqa.list_models() if name in plugin.METRIC_CONFIGS]
    return {'create_metric': ', '.join(models) or 'none', **here}


def _weights() -> dict[str, str]:
    import huggingface_hub

    from pyiqa_amhp.model.clip_weights import cached_tag
    from pyiqa_amhp.weights import store as weights

    clip = cached_tag('ViT-B-16', 'openai')
    stored = {f'store: {name}': str(path) for name, path in weights.stored().items()}
    return {
        weights.WEIGHTS_VARIABLE: _named(os.environ.get(weights.WEIGHTS_VARIABLE)),
        'store': str(weights.store_path()),
        **(stored or {'stored': 'nothing (amhp weights add FILE)'}),
        'CLIP ViT-B-16 openai': str(clip or 'not on this machine'),
        'HF_HOME': huggingface_hub.constants.HF_HOME,
        'HF_ENDPOINT': huggingface_hub.constants.ENDPOINT,
        'HF_HUB_OFFLINE': str(huggingface_hub.constants.HF_HUB_OFFLINE),
    }


def _named(weights: str | None) -> str:
    """What the environment names; of a model of the hub, whether it is here."""
    from pyiqa_amhp.errors import AMHPError
    from pyiqa_amhp.weights import hub

    if not hub.is_hub_id(weights):
        return weights or 'not set'
    try:
        here = hub.cached_model(hub.hub_id(weights))
    except AMHPError as error:
        return f'{weights} ({error})'
    return f'{weights} ({here or "not on this machine yet"})'
