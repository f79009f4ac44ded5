"""The Hugging Face hub: ids of models, what its cache holds, and its refusals in sentences."""

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

PREFIX = 'hf-hub:'
CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = 'config.json', 'model.safetensors', 'README.md'
MODEL_TYPE = 'amhp'
MAX_CONFIG = 2**20  # bytes of a config.json; ours have some thousand (our choice)
# A revision becomes the name of a file in the cache, so it must not climb.
REVISION = re.compile(r'[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)*')
LOG_IN = '`hf auth login`, or the environment variable HF_TOKEN'


@dataclass(frozen=True)
class HubId:
    """A model on the hub.

    Attributes:
        repo: ``owner/name``. revision: a branch, tag or commit; None: what ``main`` is.
    """

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return f'{PREFIX}{self.repo}' + (f'@{self.revision}' if self.revision else '')


def is_hub_id(weights: Any) -> bool:
    """Whether ``weights`` names a model of the hub rather than a file."""
    return isinstance(weights, str | os.PathLike) and os.fspath(weights).startswith(PREFIX)


def hub_id(text: str | os.PathLike) -> HubId:
    """Read ``hf-hub:owner/name`` or ``hf-hub:owner/name@revision``.

    Raises:
        AMHPError: another form.
    """
    repo, at, revision = os.fspath(text).removeprefix(PREFIX).partition('@')
    try:
        validate_repo_id(repo)
        good = is_hub_id(text) and repo.count('/') == 1
    except HFValidationError:
        good = False
    if not good or (at and not REVISION.fullmatch(revision)):
        raise AMHPError(
            f'{os.fspath(text)!r}: expected {PREFIX}owner/name, maybe with @revision (a branch, '
            'tag or commit); names are of letters, digits, "-", "_" and "."'
        )
    return HubId(repo, revision or None)


def cached(repo: str, names: Sequence[str], revision: str | None = None) -> Path | None:
    """The first of these files that Hugging Face's cache holds."""
    for name in names if repo else ():
        path = huggingface_hub.try_to_load_from_cache(repo, name, revision=revision)
        if isinstance(path, str):
            return Path(path)
    return None


def cached_model(model: HubId) -> Path | None:
    """The weights of an AMHP, if this machine has them and what describes them."""
    files = [cached(model.repo, (name,), model.revision) for name in (CONFIG_FILE, WEIGHTS_FILE)]
    return files[1] if all(files) else None


def fetch_model(model: HubId, newest: bool = False) -> Path:
    """The weights of an AMHP, from the cache or else from the hub.

    Only ``config.json`` and ``model.safetensors`` are ever fetched, of one commit, and the former
    says first whether the latter is worth it.

    Args:
        newest: ask the hub, if it is in reach, whether there is a newer commit.

    Raises:
        AMHPError: an id that is not on this machine and cannot be fetched, with the reason, or
            a repository that holds something else.
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
    with hub_errors_as_sentences(model):
        config = Path(
            huggingface_hub.hf_hub_download(model.repo, CONFIG_FILE, revision=model.revision)
        )
        read_config(config, model)
        commit = config.parent.name  # so that both files are of one
        return Path(huggingface_hub.hf_hub_download(model.repo, WEIGHTS_FILE, revision=commit))


def read_config(path: Path, model: HubId) -> dict[str, Any]:
    """What the ``config.json`` of an AMHP on the hub says of its configuration.

    Raises:
        AMHPError: of another model, or not JSON.
    """
    try:
        if path.stat().st_size > MAX_CONFIG:
            raise ValueError('too large')
        described = json.loads(path.read_text(encoding='utf-8'))
        kind, config = described.get('model_type'), described.get(MODEL_TYPE)
    except (ValueError, AttributeError, RecursionError):
        kind = config = None
    if kind != MODEL_TYPE or not isinstance(config, dict):
        said = f'its model_type is {kind!r}' if isinstance(kind, str) else 'it says no model_type'
        raise AMHPError(
            f'{model}: not an AMHP; its {CONFIG_FILE} is not one that `amhp weights push` wrote '
            f'({said})'
        )
    return config


def check_config(path: Path, model: HubId, config: dict[str, Any]) -> None:
    """Refuse weights beside a ``config.json`` that says something else than they do.

    Raises:
        AMHPError: names what differs.
    """
    described = read_config(path.with_name(CONFIG_FILE), model)
    both = described.keys() | config.keys()
    if wrong := sorted(name for name in both if described.get(name) != config.get(name)):
        raise AMHPError(
            f'{model}: refused, since its {CONFIG_FILE} says something else than its weights '
            f'({", ".join(wrong[:5])}); who pushed it can mend that with `amhp weights push`'
        )


def download_hint(repo: str) -> str:
    """The way out that is the same for everything of the hub."""
    return (
        f'fetch it where there is a network (`hf download {repo}`) and copy that cache here '
        '(HF_HOME), or point HF_ENDPOINT at a mirror'
    )


def require_network(what: str, ways: Sequence[str], timeout: float = 5.0) -> None:
    """Raise in a few seconds where the hub cannot be reached, however slow the resolver is.

    Args:
        ways: three ways out.
    """
    if problem := hub_problem(timeout):
        listed = ';\n'.join(f'  {i}. {way}' for i, way in enumerate(ways, 1))
        raise AMHPError(
            f'{what}: not on this machine, and {huggingface_hub.constants.ENDPOINT} is out of '
            f'reach ({problem}). Three ways out:\n{listed}.'
        )


def hub_problem(timeout: float = 5.0) -> str:
    """Why the hub is out of reach, '' if it is not; known within ``timeout`` and a second."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return 'HF_HUB_OFFLINE is set'
    problem = ['no answer in time']

    def ask():
        try:
            session = huggingface_hub.utils.get_session()
            session.head(huggingface_hub.constants.ENDPOINT, timeout=timeout)
            problem[:] = ['']
        except Exception as error:
            problem[:] = [first_line(error)]

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout + 1)
    return problem[0]


@contextmanager
def hub_errors_as_sentences(model: HubId) -> Iterator[None]:
    """Turn what the hub and its client say into an ``AMHPError`` that says what to do."""
    try:
        yield
    except AMHPError:
        raise
    except Exception as error:
        refusal = _refusal(error)
        if refusal is not None:
            raise AMHPError(f'{model}: {_advice(refusal, model)}') from error
        gone = isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled)
        reason = first_line(error)
        reason = f'the hub is out of reach ({reason})' if gone else reason
        raise AMHPError(f'{model}: {reason}') from error


def _refusal(error: BaseException | None) -> HfHubHTTPError | None:
    """What the hub answered, be it wrapped in other errors."""
    for _ in range(10):
        if error is None or isinstance(error, HfHubHTTPError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _advice(error: HfHubHTTPError, model: HubId) -> str:
    status = getattr(error.response, 'status_code', None)
    said = ' '.join(str(error.server_message or '').split())[:200]
    has_token = bool(huggingface_hub.get_token())
    if isinstance(error, GatedRepoError):
        page = f'{huggingface_hub.constants.ENDPOINT}/{model.repo}'
        return f'access has to be asked for at {page}, and then needs you to log in ({LOG_IN})'
    if isinstance(error, RevisionNotFoundError):
        return f'there is no revision {model.revision or "main"!r}'
    if isinstance(error, EntryNotFoundError):
        return (
            f'no AMHP is there: it takes {CONFIG_FILE} and {WEIGHTS_FILE}, as `amhp weights push` '
            'writes them (other files of weights are never read from the hub)'
        )
    if status == 401 and ('credentials' in said or 'token' in said):
        return f'your token is not valid (mistyped, expired or revoked); log in anew ({LOG_IN})'
    if status in (401, 404):
        if has_token:
            return 'there is no such repository, or it is private and your token may not see it'
        return f'there is no such repository, or it is private and you are not logged in ({LOG_IN})'
    if status == 403:
        owner = model.repo.split('/')[0]
        return (
            f'your token may not do this ({said or "HTTP 403"}); to push, it needs the permission '
            f'to write, and {owner!r} must be you or an organisation that lets you'
        )
    if status in (409, 412):
        return f'it was changed by somebody else meanwhile ({said or status}); run it again'
    if status == 429:
        return 'the hub says that these are too many requests; wait some minutes'
    if status is not None and status >= 500:
        return f'the hub has trouble of its own (HTTP {status}); try again later'
    return f'the hub refused it (HTTP {status}: {said or "without a reason"})'


def first_line(error: BaseException) -> str:
    """An error in one line."""
    return f'{type(error).__name__}: {error}'.splitlines()[0][:300]
