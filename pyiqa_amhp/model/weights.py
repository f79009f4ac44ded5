"""Trained AMHP weights: checkpoints that carry their configuration, and the user's store."""

import json
import logging
import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import platformdirs
import safetensors.torch
import torch

from pyiqa_amhp.atomic import write_atomically
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model import hub
from pyiqa_amhp.model.config import AMHPConfig, stored_config
from pyiqa_amhp.model.files import check_keys, read_tensors

CONFIG_KEY = '_extra_state'  # where torch keeps what AMHP.get_extra_state gives
PREDICTOR = 'predictor.'
WEIGHTS_VARIABLE = 'PYIQA_AMHP_WEIGHTS'
HOME_VARIABLE = 'PYIQA_AMHP_HOME'

logger = logging.getLogger('pyiqa_amhp')
_said: set[str] = set()


@dataclass(frozen=True)
class Checkpoint:
    """Trained weights as read from a file: ``config`` as stored, ``state`` without it.

    ``name`` is what people call them: the file's name, or an id of the hub.
    """

    path: Path
    config: dict[str, Any]
    state: dict[str, torch.Tensor]
    name: str = ''


def read_checkpoint(path: str | Path, newest: bool = False) -> Checkpoint:
    """Read a checkpoint of AMHP, ``.pth`` (pyiqa's form) or ``.safetensors``.

    Args:
        path: a file, or ``hf-hub:owner/name``, maybe with ``@revision``: read from the cache if
            it is there, else fetched.
        newest: of the hub: look for a newer commit first.

    Raises:
        AMHPError: see ``read_tensors`` and ``fetch_model``; or the file has no AMHP
            configuration.
    """
    if hub.is_hub_id(path):
        model = hub.hub_id(path)
        checkpoint = read_checkpoint(hub.fetch_model(model, newest))
        hub.check_config(checkpoint.path, model, checkpoint.config)
        return replace(checkpoint, name=str(model))
    state = dict(read_tensors(path))
    raw = state.pop(CONFIG_KEY, None)
    try:
        config = stored_config(raw)
    except AMHPError as error:
        raise AMHPError(
            f'{path}: no AMHP configuration in it; expected a checkpoint that AMHP was saved to '
            '(CLIP weights go to clip_weights=)'
        ) from error
    return Checkpoint(Path(path).expanduser(), config, state, Path(path).name)


def save_checkpoint(path: str | Path, state: dict[str, torch.Tensor]) -> Path:
    """Write an AMHP's ``state_dict()``, atomically, in the form that the suffix names.

    ``.safetensors`` also gets the configuration as readable metadata; any other suffix gets
    pyiqa's form, ``{'params': ...}``.
    """
    state = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    if Path(path).suffix == '.safetensors':
        metadata = {'format': 'pt', 'pyiqa_amhp': json.dumps(stored_config(state[CONFIG_KEY]))}
        return write_safetensors(path, state, metadata)
    return write_torch(path, {'params': state})


def write_safetensors(
    path: str | Path, state: dict[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> Path:
    """``safetensors.torch.save_file``, atomically.

    Raises:
        AMHPError: it could not be written; what was there before is as it was.
    """

    def write(file: Path) -> None:
        try:
            safetensors.torch.save_file(state, file, metadata=metadata)
        except safetensors.SafetensorError as error:  # what the system said is in its text alone
            if number := re.search(r'os error (\d+)', str(error)):
                raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
            raise

    return write_atomically(path, write)


def write_torch(path: str | Path, content: dict[str, Any]) -> Path:
    """``torch.save``, atomically.

    Raises:
        AMHPError: it could not be written; what was there before is as it was.
    """

    def write(file: Path) -> None:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch's own writer does not say what the system said
            raise AMHPError(
                f'{path}: could not be written; is the disk full, or the size of files limited? '
                f'({shutil.disk_usage(file.parent).free / 2**20:,.0f} MB are free)'
            ) from error

    return write_atomically(path, write)


def load_into(net: torch.nn.Module, checkpoint: Checkpoint) -> None:
    """Load a checkpoint into a model built from its configuration.

    A model may have another predictor of texts than the checkpoint, if that needs no training.

    Raises:
        AMHPError: names the keys that do not fit.
    """
    state = dict(checkpoint.state)
    stored = checkpoint.config.get('predictor', 'none')
    if stored != net.config.predictor:
        state = {key: value for key, value in state.items() if not key.startswith(PREDICTOR)}
        if net.config.predictor == 'feature':
            raise AMHPError(
                f"{checkpoint.path}: trained with predictor={stored!r}; predictor='feature' works "
                "only where it was trained, predictor='levels' everywhere"
            )
        own = net.state_dict()
        state |= {key: own[key] for key in own if key.startswith(PREDICTOR)}
    check_keys(net, state, checkpoint.path, ignore=(CONFIG_KEY,))
    net.load_state_dict({**state, CONFIG_KEY: net.get_extra_state()})


def find(dataset: str, pretrained: bool | str, path: str | None) -> Checkpoint | None:
    """The trained weights to use: ``path``, else the environment's, else the user's store's.

    Raises:
        AMHPError: a file that is named but cannot be used.
    """
    if pretrained not in (True, False, 'clip'):
        raise AMHPError(f"pretrained={pretrained!r}: expected True, False or 'clip'")
    if path is not None:
        return read_checkpoint(path)
    if pretrained is not True:
        return None
    usual = usual_weights(dataset)
    return None if usual is None else read_checkpoint(usual)


def usual_weights(dataset: str) -> str | Path | None:
    """What is used where nobody names weights: the environment's, else the user's store's."""
    if from_environment := os.environ.get(WEIGHTS_VARIABLE):
        return from_environment
    stored = store_path(dataset)
    return stored if stored.is_file() else None


def say_zero_shot(config: AMHPConfig) -> None:
    """Say, once in a process, that no trained weights are in use."""
    if 'zero-shot' not in _said:
        _said.add('zero-shot')
        logger.warning(
            'AMHP has no trained weights here and runs zero-shot on CLIP (%s, %s): the quality '
            'prompts alone judge the image and a text changes nothing. Train it (amhp train), or '
            'give trained weights: pretrained_model_path=FILE or `amhp weights add FILE --as %s`.',
            config.backbone if isinstance(config.backbone, str) else 'a model of your own',
            config.clip_weights,
            config.dataset,
        )


def store_path(name: str | None = None) -> Path:
    """The user's store of trained weights, or the place of ``name`` in it.

    Raises:
        AMHPError: a name that is not lower-case letters, digits, ``-`` and ``_``.
    """
    home = os.environ.get(HOME_VARIABLE) or platformdirs.user_data_dir('pyiqa_amhp', False)
    folder = Path(home).expanduser() / 'weights'
    if name is None:
        return folder
    if not re.fullmatch(r'[a-z0-9][a-z0-9_-]*', name):
        raise AMHPError(f'weights name {name!r}: use lower-case letters, digits, "-" and "_"')
    return folder / f'{name}.safetensors'


def add_to_store(path: str | Path, name: str) -> Path:
    """Check a checkpoint and copy it into the store, as safetensors, under ``name``.

    Args:
        path: a file or an id of the hub, of which the newest commit is taken.
    """
    target = store_path(name)
    checkpoint = read_checkpoint(path, newest=True)
    config = AMHPConfig.from_options({}, checkpoint.config)
    return save_checkpoint(target, {**checkpoint.state, CONFIG_KEY: config.to_tensor()})


def remove_from_store(name: str) -> Path:
    """Delete ``name`` from the store.

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
    """What the store holds, by name."""
    return {path.stem: path for path in sorted(store_path().glob('*.safetensors'))}
