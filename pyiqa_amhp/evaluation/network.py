"""Limits on downloads, so that a metric without its weights fails soon and never hangs."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.error import HTTPError, URLError

from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from pyiqa_amhp.weights.hub import hub_problem

TIMEOUT, OFFLINE_TIMEOUT = 30.0, 5.0  # seconds without a byte after which a download fails
NETWORK_ERRORS = (
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    URLError,
    TimeoutError,
    socket.gaierror,
)


@contextmanager
def bounded_downloads() -> Iterator[str]:
    """Limit how long downloads of this process may take inside the block.

    A connection that is silent for ``TIMEOUT`` seconds is an error. While the hub is out of reach
    the limit is ``OFFLINE_TIMEOUT``, and ``HF_HUB_OFFLINE`` holds: huggingface_hub retries each
    file for 20 seconds and more otherwise. pyiqa's other way to download, urllib, tries once.

    Yields:
        Why the hub is out of reach; '' if it is in reach.
    """
    problem = hub_problem()
    timeout, offline = socket.getdefaulttimeout(), constants.HF_HUB_OFFLINE
    try:
        socket.setdefaulttimeout(OFFLINE_TIMEOUT if problem else TIMEOUT)
        constants.HF_HUB_OFFLINE = offline or bool(problem)
        yield problem
    finally:
        socket.setdefaulttimeout(timeout)
        constants.HF_HUB_OFFLINE = offline


def reason_for(error: BaseException, problem: str, max_length: int = 200) -> str:
    """Summarise in one line why a metric failed.

    Args:
        error: the exception that the metric raised.
        problem: why the hub is out of reach, as ``bounded_downloads`` yields it.
        max_length: number of characters of the exception's text to keep.
    """
    if problem and (_is_network_error(error) or 'is out of reach' in str(error)):
        return f'its weights are not on this machine and the network is out of reach ({problem})'
    text = ' '.join(str(error).split()) or 'no message'
    text = text.split(' Three ways out:')[0]
    text = text if len(text) <= max_length else text[: max_length - 4] + ' ...'
    return f'{type(error).__name__}: {text}'


def _is_network_error(error: BaseException | None) -> bool:
    """Whether an exception, or one that led to it, says that nothing could be downloaded."""
    while error is not None:
        if isinstance(error, NETWORK_ERRORS) and not isinstance(error, HTTPError):
            return True
        if isinstance(error, OSError) and 'huggingface.co' in str(error):  # transformers
            return True
        error = error.__cause__ or error.__context__
    return False
