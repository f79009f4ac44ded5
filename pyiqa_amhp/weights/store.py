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
    save_checkpoint,
)

WEIGHTS_VARIABLE = 'PYIQA_AMHP_WEIGHTS'
HOME_VARIABLE = 'PYIQA_AMHP_HOME'

logger = logging.getLogger('pyiqa_amhp')
_warned: set[str] = set()


def find_checkpoint(dataset: str, pretrained: bool | str, path: str | None) -> Checkpoint | None:
    """Read the trained weights to use: ``path``, else ``default_weights``.

    Args:
        dataset: data set whose scale the score is on; names the entry of the store.
        pretrained: as in ``AMHP``; only True looks for the default weights.
        path: a file or an id of the hub, if the user gave one.

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
    default = default_weights(dataset)
    return None if default is None else read_checkpoint(default)


def default_weights(dataset: str) -> str | Path | None:
    """Default weights: the environment variable, then the local store."""
    if from_environment := os.environ.get(WEIGHTS_VARIABLE):
        return from_environment
    stored = store_path(dataset)
    return stored if stored.is_file() else None


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
