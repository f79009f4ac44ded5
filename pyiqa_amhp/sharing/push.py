"""Push of a checkpoint to the hub, with its configuration and a model card."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import CommitOperationAdd, HfApi

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.model.config import AMHPConfig
from pyiqa_amhp.sharing.card import model_card
from pyiqa_amhp.sharing.evidence import find_evidence
from pyiqa_amhp.utils.environment import version_of
from pyiqa_amhp.utils.files import check_folder, write_text
from pyiqa_amhp.weights.checkpoint import (
    CONFIG_KEY,
    read_checkpoint,
    save_checkpoint,
    stored_config,
    weights_digest,
)
from pyiqa_amhp.weights.hub import (
    CARD_FILE,
    CONFIG_FILE,
    LOG_IN,
    MODEL_TYPE,
    WEIGHTS_FILE,
    HubId,
    explain_hub_errors,
    hub_problem,
    read_config,
)

FILES = (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE)


def write_repository(
    file: str | Path,
    model: HubId,
    folder: Path,
    licence: str | None = None,
    experiment: Path | None = None,
    results: Sequence[Path] = (),
) -> tuple[str, ...]:
    """Write the files of a checkpoint's repository to a folder; nothing is sent.

    Args:
        file: the checkpoint.
        model: its id on the hub.
        folder: new or empty folder for ``model.safetensors``, ``config.json`` and ``README.md``.
        licence: the hub's name of a licence; None: the card states none.
        experiment, results: folders of its records; see ``find_evidence``.

    Returns:
        Notes on records that were not found.

    Raises:
        AMHPError: a checkpoint that does not load, records of other weights, an invalid licence
            name, or a folder that holds other files or cannot be written.
    """
    _check_folder(folder)
    checkpoint = read_checkpoint(file)
    config = AMHPConfig.from_options({}, checkpoint.config)
    digest = weights_digest(checkpoint.state)
    evidence = find_evidence(file, digest, experiment, results)
    parameters = sum(value.numel() for value in checkpoint.state.values())
    card = model_card(model, config, evidence, parameters, licence)
    state = {**checkpoint.state, CONFIG_KEY: config.to_tensor()}
    written = save_checkpoint(folder / WEIGHTS_FILE, state)
    AMHP(pretrained_model_path=str(written))  # an error here if it would not load anywhere
    described = {
        'model_type': MODEL_TYPE,
        'library_name': 'pyiqa-amhp',
        'pyiqa_amhp_version': version_of('pyiqa-amhp'),
        'weights_digest': digest,
        MODEL_TYPE: stored_config(state[CONFIG_KEY]),
    }
    write_text(folder / CONFIG_FILE, json.dumps(described, indent=2) + '\n')
    write_text(folder / CARD_FILE, str(card))
    return evidence.notes


def push(folder: Path, model: HubId, private: bool = False, message: str | None = None) -> str:
    """Push the files that ``write_repository`` wrote, in one commit.

    Args:
        folder: the folder with the files.
        model: id on the hub, without a revision; a new repository is created if needed.
        private: whether a new repository is private. An existing one must be private already.
        message: message of the commit.

    Returns:
        The address of the commit.

    Raises:
        AMHPError: a revision in the id, no login, a hub that refuses or is out of reach, or a
            repository that holds another model or is public although ``private`` is given.
    """
    if model.revision is not None:
        raise AMHPError(f'{model}: a push goes to `main`; leave @{model.revision} out')
    endpoint = huggingface_hub.constants.ENDPOINT
    if problem := hub_problem():
        raise AMHPError(
            f'{model}: {endpoint} is out of reach ({problem}); check the network and HF_ENDPOINT, '
            'unset HF_HUB_OFFLINE, or look at what would be pushed with --dry-run DIR'
        )
    if not huggingface_hub.get_token():
        raise AMHPError(
            f'{model}: to push you must be logged in: {LOG_IN}, with a token that may write '
            f'({endpoint}/settings/tokens)'
        )
    api = HfApi(library_name='pyiqa-amhp', library_version=version_of('pyiqa-amhp'))
    with explain_hub_errors(model):
        api.create_repo(model.repo, private=private or None, exist_ok=True)
        info = api.model_info(model.repo)
        _check_repository(info, model, private)
        files = [CommitOperationAdd(name, str(folder / name)) for name in FILES]
        commit = api.create_commit(
            model.repo,
            files,
            commit_message=message or 'AMHP weights, with their configuration and card',
            parent_commit=info.sha,
        )
    return str(commit.commit_url)


def _check_repository(info: Any, model: HubId, private: bool) -> None:
    """Refuse a repository that holds another model, or that is public although it must not be."""
    if private and info.private is False:
        raise AMHPError(
            f'{model}: is public already, and --private does not change that; make it private on '
            'its page, or give another name'
        )
    names = {file.rfilename for file in info.siblings or ()}
    if CONFIG_FILE in names:
        config = huggingface_hub.hf_hub_download(model.repo, CONFIG_FILE, revision=info.sha)
        try:
            read_config(Path(config), model)
        except AMHPError as error:
            raise AMHPError(f'{error}; nothing was pushed, give another name') from error
    elif WEIGHTS_FILE in names:
        raise AMHPError(f'{model}: holds another model; nothing was pushed, give another name')


def _check_folder(folder: Path) -> None:
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    if others := [name for name in names if name not in FILES]:
        raise AMHPError(f'{folder}: expected a new or empty folder, found {others[0]!r} in it')
    check_folder(folder)
