"""The one file that knows pyiqa's registries and its table of metrics.

Registry names are lazy: a class is imported when pyiqa asks for it, not before.
"""

import sys
from contextlib import suppress
from typing import Any

ARCHS = {
    'AMHP': 'pyiqa_amhp.model.amhp:AMHP',
    'TANet': 'pyiqa_amhp.model.tanet:TANet',
}
DATASETS = {
    'AMHPDataset': 'pyiqa_amhp.datasets.dataset:AMHPDataset',
    'AVACommentsDataset': 'pyiqa_amhp.datasets.paper:AVACommentsDataset',
    'PARADataset': 'pyiqa_amhp.datasets.paper:PARADataset',
    'AADBDataset': 'pyiqa_amhp.datasets.paper:AADBDataset',
}
LOSSES = {'AMHPEMDLoss': 'pyiqa_amhp.train.loss:AMHPEMDLoss'}
METRICS = {
    'calculate_acc': 'pyiqa_amhp.train.metrics:calculate_acc',
    'calculate_mse': 'pyiqa_amhp.train.metrics:calculate_mse',
    'calculate_emd': 'pyiqa_amhp.train.metrics:calculate_emd',
}
MODELS = {'AMHPModel': 'pyiqa_amhp.train.model:AMHPModel'}

# What `pyiqa.create_metric(NAME)` builds. The options are those of the arch.
METRIC_CONFIGS = {
    # On AVA's scale, unless the weights that are given are of another.
    'amhp': {
        'metric_opts': {'type': 'AMHP'},
        'metric_mode': 'NR',
        'score_range': '1, 10',
    },
    'amhp-para': {
        'metric_opts': {'type': 'AMHP', 'dataset': 'para'},
        'metric_mode': 'NR',
        'score_range': '1, 5',
    },
    'amhp-aadb': {
        'metric_opts': {'type': 'AMHP', 'dataset': 'aadb'},
        'metric_mode': 'NR',
        'score_range': '0, 1',
    },
    # The row "CLIP" of the paper: CLIP as published, with the quality prompts only.
    'amhp-clip': {
        'metric_opts': {
            'type': 'AMHP',
            'variant': 'image+levels',
            'pretrained': 'clip',
            'tau': 'clip',
        },
        'metric_mode': 'NR',
        'score_range': '1, 10',
    },
    'tanet': {
        'metric_opts': {'type': 'TANet'},
        'metric_mode': 'NR',
        'score_range': '1, 10',
    },
}


def _register(registry_name: str, names: dict[str, str]) -> None:
    from pyiqa.utils import registry

    for name, import_path in names.items():
        with suppress(AssertionError):  # there already: ours from an earlier call, or pyiqa's own
            getattr(registry, registry_name).register_lazy(name, import_path)


def register_archs() -> None:
    """Entry point of the group ``pyiqa.archs``."""
    _register('ARCH_REGISTRY', ARCHS)


def register_datasets() -> None:
    """Entry point of the group ``pyiqa.datasets``."""
    _register('DATASET_REGISTRY', DATASETS)


def register_losses() -> None:
    """Entry point of the group ``pyiqa.losses``."""
    _register('LOSS_REGISTRY', LOSSES)


def register_metrics() -> None:
    """Entry point of the group ``pyiqa.metrics``."""
    _register('METRIC_REGISTRY', METRICS)


def register_models() -> None:
    """Entry point of the group ``pyiqa.models``."""
    _register('MODEL_REGISTRY', MODELS)


def register_all() -> None:
    """Everything of ours, in the registries and in the table of metrics. Safe to repeat."""
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    for name, config in METRIC_CONFIGS.items():
        DEFAULT_CONFIGS.setdefault(name, config)
    for register in (
        register_archs,
        register_datasets,
        register_losses,
        register_metrics,
        register_models,
    ):
        register()


def extend_inference_model() -> None:
    """Let pyiqa's metrics ask a network of ours how to read images and what its scale is.

    pyiqa reads ``metric('photo.jpg')`` itself before the network sees anything, and takes
    ``score_range`` from its table before there are weights. Here its class asks the network first,
    for ``read_input`` and ``score_range``; every network without them is treated as before. Does
    nothing before pyiqa's class is imported, and is safe to repeat.
    """
    module: Any = sys.modules.get('pyiqa.models.inference_model')
    if module is None or hasattr(module.InferenceModel, '_read_by_pyiqa'):
        return
    model = module.InferenceModel
    model._read_by_pyiqa = model._to_batched_tensor

    def _to_batched_tensor(self, img):
        read = getattr(self.net, 'read_input', None)
        if read is None or hasattr(img, 'dim'):  # a tensor is a batch already
            return self._read_by_pyiqa(img)
        return read(img)

    def stated(self) -> str | None:
        values = vars(self)
        net = values.get('_modules', {}).get('net')
        return getattr(net, 'score_range', None) or values.get('score_range')

    def state(self, value: str | None) -> None:
        vars(self)['score_range'] = value

    model._to_batched_tensor = _to_batched_tensor
    model.score_range = property(stated, state)
