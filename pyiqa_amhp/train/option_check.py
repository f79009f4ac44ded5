"""Checks of all options of a training or a test, before any work is done.

A name that nothing reads would be ignored in silence, and some values end in a checkpoint that was
never trained. Names come from the code that reads them: signatures, and what ``names_read`` finds.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from pathlib import PurePath, PureWindowsPath
from typing import Any

import pyiqa.archs
import pyiqa.data
import pyiqa.models
import torch
from pyiqa.losses import LOSS_REGISTRY
from pyiqa.metrics import METRIC_REGISTRY
from pyiqa.models import lr_scheduler as pyiqa_schedulers

from pyiqa_amhp.datasets.dataset import AMHPDataset, known_options
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.model.config import RENAMED, AMHPConfig
from pyiqa_amhp.train.options import SECTIONS, TOP
from pyiqa_amhp.utils.options import check_names, names_read, nearest, own_modules, parameters

READERS = (
    'pyiqa_amhp.train', 'pyiqa.models', 'pyiqa.train', 'pyiqa.test', 'pyiqa.train_nsplits',
    'pyiqa.utils',
)  # fmt: skip
# Options of pyiqa's own example files that it passes on by another way, or reads no more.
UNREAD = {
    'scheduler', 'scheduler_finetune', 'regress_opt', 'pretrain_network_g', 'strict_load_g',
    'suffix',
}  # fmt: skip
ADDED = ('is_train', 'auto_resume', 'dist', 'rank', 'world_size', 'root_path')  # by pyiqa
CLOSE = 0.75  # similarity of a name at the top to a section's; others may hold anchors (our choice)


def check_options(opt: Mapping[str, Any], is_train: bool) -> None:
    """Check the names and the values of all options.

    Args:
        opt: the options, as in the option file or as pyiqa has read it.
        is_train: whether they are those of a training.

    Raises:
        AMHPError: an option that nothing reads, with the nearest known name; or a value that is
            not allowed.
    """
    for name in opt:
        if name not in (*TOP, *ADDED) and (guess := nearest(name, TOP, CLOSE)):
            raise AMHPError(f'there is no section or option {name!r}{guess}')
    for name in SECTIONS:
        _check_flags(_section(opt, '', name), f'{name}: ')
    _check_top(opt)
    for phase, data in _section(opt, '', 'datasets').items():
        _check_data(phase, data, is_train)
    _check_network(opt['network'])
    # A test that is set up in Python may have neither data sets, nor a name, nor a type.
    model = _registered('model_type', opt.get('model_type', 'AMHPModel'), pyiqa.models)
    known = names_read(*READERS, *own_modules(model))
    known = known and known | UNREAD
    for name in ('path', 'val', 'logger'):
        check_names(name, opt.get(name) or {}, known)
    val = opt.get('val') or {}
    for metric, options in _section(val, 'val: ', 'metrics').items():
        _check_call(f'val: metrics: {metric}', options, METRIC_REGISTRY, leave_out=2)
    if is_train:
        _check_train(_section(opt, '', 'train'), known)
        _check_frequencies(val, 'val', ('val_freq',))
        frequencies = ('print_freq', 'save_checkpoint_freq', 'save_latest_freq')
        _check_frequencies(opt.get('logger') or {}, 'logger', (*frequencies, 'log_imgs_freq'))
        _check(opt['logger'], 'logger', 'keep_last', whole_from(1), 'a whole number from 1')


def whole_from(least: int) -> Callable[[Any], bool]:
    """Return a check for whole numbers from ``least`` on; 5e3 is one, true is none."""
    return lambda value: is_number(value) and value == int(value) and value >= least


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check(
    section: Mapping[str, Any], where: str, name: str, is_valid: Callable, expected: str
) -> None:
    """Check a value, unless it is missing or ``~``."""
    value = section.get(name)
    if value is None or is_valid(value):
        return
    hint = ''
    if isinstance(value, str):
        try:
            plain = re.sub(r'^(-?\d+)e', r'\1.0e', f'{float(value):g}')  # 1e-05 is text to YAML
            hint = f'; it is read as text: write {plain}, without quotes'
        except ValueError:
            pass
    raise AMHPError(f'{where}{": " * bool(where)}{name}={value!r}: expected {expected}{hint}')


def _section(holder: Mapping[str, Any], where: str, name: str) -> Mapping[str, Any]:
    value = holder.get(name)
    if value is not None and not isinstance(value, Mapping):
        raise AMHPError(f'{where}{name} is {value!r}, expected a section with options')
    return value or {}


def check_gpu(num_gpu: int | str) -> None:
    """Check that there is a GPU if the option ``num_gpu`` asks for one.

    Raises:
        AMHPError: there is none.
    """
    if num_gpu not in ('auto', 0) and not torch.cuda.is_available():
        raise AMHPError(f'num_gpu={num_gpu!r}: torch finds no GPU here; set num_gpu: 0, or auto')


def _check_flags(section: Mapping[str, Any], where: str) -> None:
    """Refuse the texts ``'true'`` and ``'false'``, which Python both takes for true."""
    for name, value in section.items():
        if isinstance(value, Mapping):
            _check_flags(value, f'{where}{name}: ')
        elif isinstance(value, str) and value.strip().lower() in ('true', 'false'):
            raise AMHPError(f'{where}{name}={value!r}: expected true or false, without quotes')


def _check_top(opt: Mapping[str, Any]) -> None:
    name = opt.get('name', 'none')
    if not isinstance(name, str) or not name.strip():
        raise AMHPError(f'name={name!r}: expected text, the name of a folder; put it in quotes')
    folders = {PurePath(name).name, PureWindowsPath(name).name}
    if folders != {name} or name in ('.', '..') or '\0' in name:
        raise AMHPError(f'name={name!r}: expected the name of one folder, without slashes')
    gpus = opt['num_gpu']
    if gpus != 'auto' and not whole_from(0)(gpus):
        raise AMHPError(f'num_gpu={gpus!r}: expected auto, or a whole number from 0 (the CPU)')
    seeds = 'a whole number from 0 to 4,294,967,000'
    _check(opt, '', 'manual_seed', lambda x: whole_from(0)(x) and x <= 4_294_967_000, seeds)


def _check_data(phase: str, data: Any, is_train: bool) -> None:
    where = f'datasets: {phase}'
    if not isinstance(data, Mapping):
        raise AMHPError(f'{where} is {data!r}, expected a section with options')
    for name in ('name', 'type'):
        if not isinstance(data.get(name), str):
            raise AMHPError(f'{where}: {name}={data.get(name)!r}: expected text')
    kind = _registered(where, data['type'], pyiqa.data)
    if issubclass(kind, AMHPDataset):
        check_names(where, data, known_options(kind))
    _check(data, where, 'batch_size_per_gpu', whole_from(1), 'a whole number from 1')
    _check(data, where, 'num_worker_per_gpu', whole_from(0), 'a whole number from 0')
    above_0 = 'a number above 0'
    _check(data, where, 'dataset_enlarge_ratio', lambda x: is_number(x) and x > 0, above_0)
    if is_train and phase == 'train' and data.get('batch_size_per_gpu') is None:
        raise AMHPError(f'{where}: batch_size_per_gpu is missing')


def _check_network(network: Mapping[str, Any]) -> None:
    kind = network.get('type')
    if kind == 'AMHP':
        fields = {field.name for field in dataclasses.fields(AMHPConfig)}
        named = set(AMHP.__init__.__code__.co_varnames[: AMHP.__init__.__code__.co_argcount])
        check_names('network', network, {'type', *fields, *named, *RENAMED} - {'self'})
    else:
        known = parameters(_registered('network', kind, pyiqa.archs))
        check_names('network', network, known and known | {'type'})


def _check_train(train: Mapping[str, Any], known: frozenset[str]) -> None:
    check_names('train', train, known)
    for name in ('total_epoch', 'total_iter'):
        _check(train, 'train', name, whole_from(1), 'a whole number from 1')
    if train.get('total_epoch') is None and train.get('total_iter') is None:
        raise AMHPError('train: neither total_epoch nor total_iter; give one of them')
    _check(train, 'train', 'warmup_iter', whole_from(-1), 'a whole number, or -1 for no warm-up')
    _check(train, 'train', 'patience', whole_from(1), 'a whole number of epochs from 1')
    for name in ('mos_loss_opt', 'metric_loss_opt'):
        if _section(train, 'train: ', name):
            _check_call(f'train: {name}', train[name], LOSS_REGISTRY)
    optim = _section(train, 'train: ', 'optim')
    optimizer = _find('train: optim', optim, vars(torch.optim), torch.optim.Optimizer)
    parts = {name for name in optim if name.startswith(('lr_', 'weight_decay_'))}
    check_names('train: optim', optim, {'type', *parameters(optimizer, ('params',)), *parts})
    if optim.get('lr') is None:
        raise AMHPError('train: optim: lr is missing; give the learning rate')
    for name in {'lr', 'weight_decay', *parts}:
        from_0 = 'a number from 0'
        _check(optim, 'train: optim', name, lambda x: is_number(x) and x >= 0, from_0)
    scheduler = _section(train, 'train: ', 'scheduler')
    kinds = {**vars(torch.optim.lr_scheduler), **vars(pyiqa_schedulers)}
    kinds['MultiStepLR'] = kinds['MultiStepRestartLR']  # as pyiqa reads it
    kind = _find('train: scheduler', scheduler, kinds, torch.optim.lr_scheduler.LRScheduler)
    check_names('train: scheduler', scheduler, {'type', *parameters(kind, ('optimizer',))})


def _find(where: str, options: Mapping[str, Any], kinds: Mapping[str, Any], base: type) -> type:
    """Find the class that ``type`` names among the subclasses of ``base``."""
    name = options.get('type')
    known = {n: k for n, k in kinds.items() if isinstance(k, type) and issubclass(k, base)}
    if name not in known or known[name] is base:
        raise AMHPError(f'{where}: type={name!r} is not known{nearest(name, known)}')
    return known[name]


def _registered(where: str, kind: Any, package: Any) -> Any:
    """Return the class of a type that pyiqa's ``archs``, ``data`` or ``models`` knows."""
    name = package.__name__.removeprefix('pyiqa.')
    one = {'archs': 'arch', 'data': 'dataset', 'models': 'model'}[name]
    registry = getattr(package, f'{one.upper()}_REGISTRY')
    if kind not in registry:
        getattr(package, f'_lazy_import_{one}')(str(kind))
    try:
        return registry.get(kind)
    except KeyError as error:
        raise AMHPError(f'{where}: {error.args[0]}') from error


def _check_call(where: str, options: Any, registry, leave_out: int = 0) -> None:
    """Check the options of a registered class or function, which gets them as arguments."""
    if not isinstance(options, Mapping) or not isinstance(options.get('type'), str):
        raise AMHPError(f'{where} is {options!r}, expected a section with a type')
    try:
        function = registry.get(options['type'])
    except KeyError as error:
        raise AMHPError(f'{where}: {error.args[0]}') from error
    known = parameters(function)
    names = list(function.__code__.co_varnames[:leave_out]) if leave_out else []
    check_names(where, options, known and (known - set(names)) | {'type'})


def _check_frequencies(section: Mapping[str, Any], where: str, names: tuple[str, ...]) -> None:
    for name in names:
        expected = 'a number of iterations from 1, or ~ for never'
        _check(section, where, name, lambda x: x is False or (is_number(x) and x >= 1), expected)
