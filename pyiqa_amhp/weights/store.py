"""The user's store of trained weights, and which weights are used by default."""

import logging
import os
import re
from pathlib import Path

import platformdirs

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.weights.checkpoint import (
    CONFIG_KEY,
    Checkpoint,
    config_to_tensor,
    read_checkpoint,
    read_tensors,
    save_checkpoint,
)
from pyiqa_amhp.weights.hub import is_hub_id

WEIGHTS_VARIABLE = 'PYIQA_AMHP_WEIGHTS'
HOME_VARIABLE = 'PYIQA_AMHP_HOME'
TANET = 'tanet'  # entry of the store that the metric of this name uses

logger = logging.getLogger('pyiqa_amhp')
_warned: set = set()


def find_checkpoint(
    dataset: str, pretrained: bool | str, path: str | None, any_scale: bool = False
) -> Checkpoint | None:
    """Read the trained weights to use: ``path``, else ``default_checkpoint``.

    Args:
        dataset: data set whose scale the score is on; names the entry of the store.
        pretrained: as in ``AMHP``; only True looks for the default weights.
        path: a file or an id of the hub, if the user gave one.
        any_scale: whether weights of another data set will do.

    Returns:
        The weights; None if there are none.

    Raises:
        AMHPError: weights that were given but cannot be used.
    """
    if pretrained not in (True, False, 'clip'):
        raise AMHPError(f"pretrained={pretrained!r}: expected True, False or 'clip'")
    if path is not None:
        return read_checkpoint(path)
    if pretrained is not True:
        return None
    return default_checkpoint(dataset, any_scale)


def default_checkpoint(dataset: str, any_scale: bool = False) -> Checkpoint | None:
    """Default weights: the environment variable, then the local store.

    If the variable names weights of another scale, or a TANet, the store goes first, and a warning
    says so.

    Args:
        dataset, any_scale: see ``find_checkpoint``.
    """
    named, stored = os.environ.get(WEIGHTS_VARIABLE), store_path(dataset)
    if not named:
        return read_checkpoint(stored) if stored.is_file() else None
    try:
        checkpoint = read_checkpoint(named)
    except AMHPError:
        if not (stored.is_file() and is_tanet(named)):
            raise
        reason = 'a TANet'
    else:
        trained_on = checkpoint.config.get('dataset')
        if any_scale or trained_on == dataset or not stored.is_file():
            return checkpoint
        reason = f'of the scale of {trained_on!r}'
    if (named, dataset) not in _warned:
        _warned.add((named, dataset))
        logger.warning(
            '%s=%s is %s; the weights stored as %r are used',
            WEIGHTS_VARIABLE,
            named,
            reason,
            dataset,
        )
    return read_checkpoint(stored)


def find_tanet() -> str | Path | None:
    """Find the default weights of TANet: the environment variable if they are one, or the store.

    Raises:
        AMHPError: the variable names a file that cannot be read.
    """
    named, stored = os.environ.get(WEIGHTS_VARIABLE), store_path(TANET)
    if named and is_tanet(named):
        return named
    return stored if stored.is_file() else None


def is_tanet(path: str | Path) -> bool:
    """Whether a file holds the weights of a TANet.

    Raises:
        AMHPError: a file that cannot be read.
    """
    return not is_hub_id(path) and 'tygertnet.fc1.weight' in read_tensors(path)


def warn_zero_shot(config) -> None:
    """Warn once per process that no trained weights are in use.

    Args:
        config: the ``AMHPConfig`` of the model.
    """
    if 'zero-shot' not in _warned:
        _warned.add('zero-shot')
        logger.warning(
            'AMHP has no trained weights here and runs zero-shot on CLIP (%s, %s): the quality '
            'prompts alone score the image and a text changes nothing. Train it (amhp train), or '
            'give trained weights: pretrained_model_path=FILE or `amhp weights add FILE --as %s`.',
            config.backbone if isinstance(config.backbone, str) else 'a model of your own',
            config.clip_weights,
            config.dataset,
        )


def warn_note(name: str, note: str) -> None:
    """Warn once per process what the weights ``name`` learned from, if they have a note."""
    if note and ('note', name, note) not in _warned:
        _warned.add(('note', name, note))
        logger.warning('%s: %s', name, note)


def warn_unread_text() -> None:
    """Warn once per process that a text was given to weights that read none."""
    if 'unread text' not in _warned:
        _warned.add('unread text')
        logger.warning(
            'A text changes no score with these weights: they are untrained or were trained '
            'without any text, so that the weights of the attribute prompt are zero. The prompt '
            'source is none.'
        )


def store_path(name: str | None = None) -> Path:
    """Return the folder of the store, or the file of the entry ``name`` in it.

    Raises:
        AMHPError: a name with other characters than lower-case letters, digits, ``-``, ``_``.
    """
    home = os.environ.get(HOME_VARIABLE) or platformdirs.user_data_dir('pyiqa_amhp', False)
    folder = Path(home).expanduser() / 'weights'
    if name is None:
        return folder
    if not re.fullmatch(r'[a-z0-9][a-z0-9_-]*', name):
        raise AMHPError(f'weights name {name!r}: use lower-case letters, digits, "-" and "_"')
    return folder / f'{name}.safetensors'


def add_to_store(checkpoint: Checkpoint, name: str) -> Path:
    """Copy a checkpoint into the store as the entry ``name``, in the format safetensors.

    Args:
        checkpoint: checkpoint that ``pyiqa_amhp.model.config.complete_checkpoint`` returned.
        name: name of the entry; ``ava``, ``para`` and ``aadb`` are what the metrics look for.

    Raises:
        AMHPError: a name that is not allowed, or a store that cannot be written.
    """
    if name == TANET:
        raise AMHPError(f'{checkpoint.name}: an AMHP, and the name {TANET!r} is for a TANet')
    state = {**checkpoint.state, CONFIG_KEY: config_to_tensor(checkpoint.config)}
    return save_checkpoint(store_path(name), state)


def remove_from_store(name: str) -> Path:
    """Delete an entry of the store, and return its file.

    Raises:
        AMHPError: there is no such entry.
    """
    path = store_path(name)
    if not path.is_file():
        known = ', '.join(sorted(stored())) or 'nothing'
        raise AMHPError(f'no weights are stored as {name!r} (stored: {known})')
    path.unlink()
    return path


def stored() -> dict[str, Path]:
    """Return the files in the store by the names of their entries."""
    return {path.stem: path for path in sorted(store_path().glob('*.safetensors'))}
