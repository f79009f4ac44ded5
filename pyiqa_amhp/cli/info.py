"""The command ``amhp info``: what a bug report needs."""

import os
import platform
from pathlib import Path

from rich.table import Table

from pyiqa_amhp.cli.output import console, escape
from pyiqa_amhp.utils.environment import version_of

PACKAGES = (
    'pyiqa-amhp', 'pyiqa', 'torch', 'torchvision', 'open_clip_torch', 'timm', 'numpy', 'pandas',
    'pillow', 'huggingface_hub', 'safetensors', 'setuptools',
)  # fmt: skip


def info() -> None:
    """Show versions, devices, names registered with pyiqa, and the weights that are found."""
    for title, rows in collect_info().items():
        table = Table(title=title, title_justify='left', show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow='fold')
        for name, value in rows.items():
            table.add_row(name, escape(value))
        console.print(table)


def collect_info() -> dict[str, dict[str, str]]:
    """Collect tables of names and values, by title. Downloads nothing and builds no model."""
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
    registered = {
        title: ', '.join(n for n in names if n in getattr(registry, table)) or 'none'
        for title, (table, names) in groups.items()
    }
    models = [name for name in pyiqa.list_models() if name in plugin.METRIC_CONFIGS]
    return {'create_metric': ', '.join(models) or 'none', **registered}


def _weights() -> dict[str, str]:
    import huggingface_hub

    from pyiqa_amhp.model.clip_weights import cached_tag
    from pyiqa_amhp.weights import store

    clip = cached_tag('ViT-B-16', 'openai')
    stored = {
        f'store: {name}': f'{path} ({_tanet(path)})' if name == 'tanet' else f'{path}{_note(path)}'
        for name, path in store.stored().items()
    }
    return {
        store.WEIGHTS_VARIABLE: _describe(os.environ.get(store.WEIGHTS_VARIABLE)),
        'store': str(store.store_path()),
        **(stored or {'stored': 'nothing (amhp weights add FILE)'}),
        'CLIP ViT-B-16 openai': str(clip or 'not on this machine'),
        'HF_HOME': huggingface_hub.constants.HF_HOME,
        'HF_ENDPOINT': huggingface_hub.constants.ENDPOINT,
        'HF_HUB_OFFLINE': str(huggingface_hub.constants.HF_HUB_OFFLINE),
    }


def _note(path: str | Path) -> str:
    """Return the note of an AMHP's weights in brackets; '' for none, and for other files."""
    from pyiqa_amhp.errors import AMHPError
    from pyiqa_amhp.model.config import complete_checkpoint
    from pyiqa_amhp.weights.checkpoint import read_checkpoint

    try:
        note = complete_checkpoint(read_checkpoint(path)).config.get('note')
    except AMHPError:
        return ''
    return f' ({note})' if note else ''


def _tanet(path: Path) -> str:
    """Describe which statistics a TANet scores with; or why the file cannot be read."""
    from pyiqa_amhp.errors import AMHPError
    from pyiqa_amhp.model.tanet import statistics_of
    from pyiqa_amhp.weights.checkpoint import read_tensors

    try:
        return f'statistics: {statistics_of(read_tensors(path))}'
    except AMHPError as error:
        return str(error)


def _describe(weights: str | None) -> str:
    """Describe the weights that the environment names; a model of the hub with its local file."""
    from pyiqa_amhp.errors import AMHPError
    from pyiqa_amhp.weights import hub

    if not weights:
        return 'not set'
    if not hub.is_hub_id(weights):
        return f'{weights}{_note(weights)}'
    try:
        file = hub.cached_model(hub.hub_id(weights))
    except AMHPError as error:
        return f'{weights} ({error})'
    return f'{weights} ({file or "not on this machine yet"})'
