"""What has changed between a training state and the training that is to resume from it."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.utils.options import flag

# What a training state holds, so that another value would have no effect.
IN_STATE = ('train:optim:', 'train:scheduler:', 'train:schedule_by', 'train:freeze', 'network:')
# Options that do not change what is trained, only extend it, or are compared in another way.
FREE = {
    'train': {
        'total_epoch', 'total_iter', 'patience', 'feature_cache', 'nonfinite', 'changed_data',
        'cuda_graph', 'deterministic',
    },
    'network': {'clip_weights', 'pretrained_model_path'},  # only the start; folders may move
    'data': {
        'name', 'phase', 'meta_info_file', 'dataroot_target', 'comments_file', 'skip_bad_images',
        'batch_size_per_gpu', 'num_worker_per_gpu', 'pin_memory', 'persistent_workers',
        'prefetch_mode', 'num_prefetch_queue',
    },
}  # fmt: skip
EXACT = 'datasets:train:exact'


def options_of(opt: Mapping[str, Any]) -> dict[str, Any]:
    """List the options that decide what a training does, by their place: ``train:optim:lr``."""
    data = (opt.get('datasets') or {}).get('train') or {}
    listed = {'manual_seed': opt.get('manual_seed')}
    for place, section, free in (
        ('train', opt.get('train') or {}, FREE['train']),
        ('network', opt.get('network') or {}, FREE['network']),
        ('datasets:train', data, FREE['data']),
    ):
        listed |= _flat(place, {k: v for k, v in section.items() if k not in free})
    # States without this one are of trainings that decoded whole images: see `keep_decoding`.
    listed[EXACT] = flag(data, 'exact')
    return listed


def keep_decoding(state: Mapping[str, Any], data: dict[str, Any]) -> bool:
    """Make a training that resumes decode its images as before, unless an option says otherwise.

    Args:
        state: the training state. Version 0.2.0 and earlier decoded every JPEG at its full size.
        data: the options of the training set; may get ``exact: true``.

    Returns:
        Whether every JPEG is decoded at its full size without an option that says so.
    """
    before = (state.get('options') or {}).get(EXACT, True)
    if data.get('exact') is not None or not before:
        return False
    data['exact'] = True
    return True


def _flat(place: str, value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        items = [_flat(f'{place}:{name}', part) for name, part in value.items()]
        return {name: part for item in items for name, part in item.items()}
    return {} if value is None else {place: copy.deepcopy(value)}


def data_digest(dataset) -> str:
    """Hash the images, ratings and texts of a data set; '' if it is not one of ours."""
    images = getattr(dataset, 'images', None)
    if images is None:
        return ''
    comments = dataset.opt.get('comments_file')
    size = Path(comments).expanduser().stat().st_size if comments else 0
    return f'{images.digest()} {size}'


def compare_options(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Compare the options of a training state with those of this training.

    Args:
        before, now: what ``options_of`` returned.

    Returns:
        The differences that apply from now on, in words; '' without any.

    Raises:
        AMHPError: an option whose value the state holds has changed.
    """
    if EXACT in now:
        before = {EXACT: True, **before}
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    words = {name: f'{name}: {before.get(name)!r} before, {now.get(name)!r} now' for name in names}
    fixed = [words[name] for name in names if name.startswith(IN_STATE)]
    if fixed:
        raise AMHPError(
            f'the training state holds these options, and cannot be resumed with others '
            f'({"; ".join(fixed)}); give the same, or start a training under another name from its '
            'weights (path: pretrain_network)'
        )
    return '; '.join(words.values())


def check_data(
    before: Mapping[str, str], now: Mapping[str, str], train: Mapping[str, Any]
) -> list[str]:
    """Compare the data of a training state with those of this training.

    Args:
        before, now: what ``data_digest`` returned, by the names in the section ``datasets``.
        train: the section ``train`` of the options.

    Returns:
        The names of the data sets that have changed, which ``changed_data: true`` allows.

    Raises:
        AMHPError: data have changed, and it is not allowed.
    """
    changed = [name for name in now if name in before and before[name] != now[name]]
    if changed and not flag(train, 'changed_data'):
        raise AMHPError(
            f'datasets: {", ".join(changed)}: the images, ratings or texts are not those of the '
            'training state; give the same, start again under another name, or resume with them '
            'all the same (train: changed_data: true)'
        )
    return changed
