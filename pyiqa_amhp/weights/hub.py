"""The Hugging Face hub: ids of models, cached files, downloads, and its errors in plain words."""

import json
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from pyiqa_amhp.errors import AMHPError

HUB_PREFIX = 'hf-hub:'
CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = 'config.json', 'model.safetensors', 'README.md'
MODEL_TYPE = 'amhp'
MAX_CONFIG_BYTES = 2**20  # of a config.json; ours have a few thousand (our choice)
# A revision becomes a file name in the cache, so it must not hold `..`.
REVISION = re.compile(r'[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)*')
LOG_IN = '`hf auth login`, or the environment variable HF_TOKEN'


@dataclass(frozen=True)
class HubId:
    """A model on the hub.

    Attributes:
        repo: the repository, ``owner/name``.
        revision: a branch, tag or commit; None: the branch ``main``.
    """

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return f'{HUB_PREFIX}{self.repo}' + (f'@{self.revision}' if self.revision else '')


def is_hub_id(weights: Any) -> bool:
    """Whether ``weights`` is the id of a model on the hub rather than a file."""
    return isinstance(weights, str | os.PathLike) and os.fspath(weights).startswith(HUB_PREFIX)


def hub_id(text: str | os.PathLike) -> HubId:
    """Parse ``hf-hub:owner/name`` or ``hf-hub:owner/name@revision``.

    Raises:
        AMHPError: text of another format.
    """
    repo, at, revision = os.fspath(text).removeprefix(HUB_PREFIX).partition('@')
    try:
        validate_repo_id(repo)
        is_valid = is_hub_id(text) and repo.count('/') == 1
    except HFValidationError:
        is_valid = False
    if not is_valid or (at and not REVISION.fullmatch(revision)):
        raise AMHPError(
            f'{os.fspath(text)!r}: expected {HUB_PREFIX}owner/name, with or without @revision (a '
            'branch, tag or commit); names have letters, digits, "-", "_" and "."'
        )
    return HubId(repo, revision or None)


def cached_file(repo: str, names: Sequence[str], revision: str | None = None) -> Path | None:
    """Return the first of these files that Hugging Face's local cache holds; None: it holds none.

    Args:
        repo: ``owner/name``; an empty string means that there is no repository.
        names: file names in the repository, the preferred one first.
        revision: a branch, tag or commit; None: ``main``.
    """
    for name in names if repo else ():
        path = huggingface_hub.try_to_load_from_cache(repo, name, revision=revision)
        if isinstance(path, str):
            return Path(path)
    return None


def cached_model(model: HubId) -> Path | None:
    """Return the cached weights of an AMHP; None unless its ``config.json`` is cached too."""
    config, weights = (
        cached_file(model.repo, (name,), model.revision) for name in (CONFIG_FILE, WEIGHTS_FILE)
    )
    return weights if config else None


def fetch_model(model: HubId, newest: bool = False) -> Path:
    """Return the weights of an AMHP from the local cache, or download them.

    Only ``config.json`` and ``model.safetensors`` are downloaded, both of the same commit. The
    weights are downloaded only if ``config.json`` describes an AMHP.

    Args:
        model: the id on the hub.
        newest: whether to look for a newer commit on the hub, if the hub is in reach.

    Raises:
        AMHPError: weights that are not cached and cannot be downloaded, with the reason, or a
            repository of another kind of model.
    """
    path = cached_model(model)
    if path is not None and not (newest and not hub_problem()):
        read_config(path.with_name(CONFIG_FILE), model)
        return path
    require_network(
        f'AMHP weights {model}',
        (
            download_hint(model.repo),
            'give a local file: pretrained_model_path=FILE or `amhp score --weights FILE`',
            'copy model.safetensors from a machine that has it, and keep it here: '
            '`amhp weights add model.safetensors --as ava`',
        ),
    )
    with explain_hub_errors(model):
        config = Path(
            huggingface_hub.hf_hub_download(model.repo, CONFIG_FILE, revision=model.revision)
        )
        read_config(config, model)
        commit = config.parent.name  # the weights come from the same commit
        return Path(huggingface_hub.hf_hub_download(model.repo, WEIGHTS_FILE, revision=commit))


def read_config(path: Path, model: HubId) -> dict[str, Any]:
    """Read the configuration from the ``config.json`` of an AMHP on the hub.

    Raises:
        AMHPError: the file of another model, not JSON, or too large.
    """
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError('too large')
        content = json.loads(path.read_text(encoding='utf-8'))
        model_type, config = content.get('model_type'), content.get(MODEL_TYPE)
    except (ValueError, AttributeError, RecursionError):
        model_type = config = None
    if model_type != MODEL_TYPE or not isinstance(config, dict):
        found = f'model_type {model_type!r}' if isinstance(model_type, str) else 'no model_type'
        raise AMHPError(
            f'{model}: not an AMHP; expected a {CONFIG_FILE} that `amhp weights push` wrote, found '
            f'one with {found}'
        )
    return config


def check_config(path: Path, model: HubId, config: dict[str, Any]) -> None:
    """Check that ``config.json`` agrees with the configuration stored in the weights beside it.

    Args:
        path: the weights.
        model: the id on the hub, for the error message.
        config: the configuration stored in the weights.

    Raises:
        AMHPError: they differ; the message names some of the options.
    """
    described = read_config(path.with_name(CONFIG_FILE), model)
    names = described.keys() | config.keys()
    if wrong := sorted(name for name in names if described.get(name) != config.get(name)):
        raise AMHPError(
            f'{model}: refused, since its {CONFIG_FILE} has other values than its weights '
            f'({", ".join(wrong[:5])}); its owner can repair that with `amhp weights push`'
        )


def download_hint(repo: str) -> str:
    """Describe how to get a repository onto a machine that cannot reach the hub."""
    return (
        f'fetch it where there is a network (`hf download {repo}`) and copy that cache here '
        '(HF_HOME), or point HF_ENDPOINT at a mirror'
    )


def require_network(what: str, alternatives: Sequence[str], timeout: float = 5.0) -> None:
    """Check that the hub is in reach; takes a few seconds at most, however slow the resolver is.

    Args:
        what: what is to be downloaded, for the error message.
        alternatives: three things that a user can do without the hub.
        timeout: seconds to wait for an answer.

    Raises:
        AMHPError: the hub is out of reach.
    """
    if problem := hub_problem(timeout):
        listed = ';\n'.join(f'  {i}. {text}' for i, text in enumerate(alternatives, 1))
        raise AMHPError(
            f'{what}: not on this machine, and {huggingface_hub.constants.ENDPOINT} is out of '
            f'reach ({problem}). Three ways out:\n{listed}.'
        )


def hub_problem(timeout: float = 5.0) -> str:
    """Return the reason why the hub is out of reach, '' if it is in reach.

    The answer comes within ``timeout`` and one second.
    """
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return 'HF_HUB_OFFLINE is set'
    problem = ['no answer in time']

    def request():
        try:
            session = huggingface_hub.utils.get_session()
            session.head(huggingface_hub.constants.ENDPOINT, timeout=timeout)
            problem[:] = ['']
        except Exception as error:
            problem[:] = [_first_line(error)]

    thread = threading.Thread(target=request, daemon=True)
    thread.start()
    thread.join(timeout + 1)
    return problem[0]


@contextmanager
def explain_hub_errors(model: HubId) -> Iterator[None]:
    """Turn errors of the hub and its client into an ``AMHPError`` that tells what to do."""
    try:
        yield
    except AMHPError:
        raise
    except Exception as error:
        if (response := _find_http_error(error)) is not None:
            raise AMHPError(f'{model}: {_explain(response, model)}') from error
        reason = _first_line(error)
        if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
            reason = f'the hub is out of reach ({reason})'
        raise AMHPError(f'{model}: {reason}') from error


def _find_http_error(error: BaseException | None) -> HfHubHTTPError | None:
    """Find the hub's own error among the causes of an error; None: there is none."""
    for _ in range(10):
        if error is None or isinstance(error, HfHubHTTPError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _explain(error: HfHubHTTPError, model: HubId) -> str:
    """Explain an HTTP error of the hub, and tell what to do."""
    status = getattr(error.response, 'status_code', None)
    message = ' '.join(str(error.server_message or '').split())[:200]
    has_token = bool(huggingface_hub.get_token())
    if isinstance(error, GatedRepoError):
        page = f'{huggingface_hub.constants.ENDPOINT}/{model.repo}'
        return f'ask for access at {page}, then log in ({LOG_IN})'
    if isinstance(error, RevisionNotFoundError):
        return f'there is no revision {model.revision or "main"!r}'
    if isinstance(error, EntryNotFoundError):
        return (
            f'no AMHP is there: expected {CONFIG_FILE} and {WEIGHTS_FILE}, as `amhp weights push` '
            'writes them (other weights files are never read from the hub)'
        )
    if status == 401 and ('credentials' in message or 'token' in message):
        return f'your token is not valid (mistyped, expired or revoked); log in again ({LOG_IN})'
    if status in (401, 404):
        if has_token:
            return 'there is no such repository, or it is private and your token may not read it'
        return f'there is no such repository, or it is private and you are not logged in ({LOG_IN})'
    if status == 403:
        owner = model.repo.split('/')[0]
        return (
            f'your token may not do this ({message or "HTTP 403"}); to push, it needs the '
            f'permission to write, and {owner!r} must be you or an organisation that lets you'
        )
    if status in (409, 412):
        return f'somebody else changed it meanwhile ({message or status}); run the command again'
    if status == 429:
        return 'too many requests to the hub; wait some minutes'
    if status is not None and status >= 500:
        return f'the hub has an internal problem (HTTP {status}); try again later'
    return f'the hub refused it (HTTP {status}: {message or "without a reason"})'


def _first_line(error: BaseException) -> str:
    """Return the type and the first line of an error."""
    return f'{type(error).__name__}: {error}'.splitlines()[0][:300]
