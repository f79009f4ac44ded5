"""Downloads that fail at once where there is no network, and do not hang where there is one."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import huggingface_hub
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from pyiqa_amhp.weights.hub import hub_problem

STALL = 30.0  # seconds without a byte after which a download is given up


class OutOfReach(socket.gaierror):
    """What every look-up of an address ends in while the network is out of reach."""


@contextmanager
def bounded_downloads(stall: float = STALL) -> Iterator[str]:
    """Bound what a metric may do to fetch its weights; for this process, while inside.

    Where the hub is out of reach (or ``HF_HUB_OFFLINE`` is set) no address is looked up at all:
    pyiqa's ways to download (urllib, requests, huggingface_hub) retry for up to a minute
    otherwise. Where it is in reach, a connection on which nothing comes for ``stall`` seconds is
    an error.

    Yields:
        Why the network is out of reach; '' if it is not.
    """
    problem = hub_problem()
    timeout, look_up = socket.getdefaulttimeout(), socket.getaddrinfo
    offline = huggingface_hub.constants.HF_HUB_OFFLINE

    def refuse(host, *args, **kwargs):
        raise OutOfReach(socket.EAI_NONAME, f'{host}: the network is out of reach ({problem})')

    try:
        socket.setdefaulttimeout(stall)
        if problem:
            socket.getaddrinfo = refuse
            huggingface_hub.constants.HF_HUB_OFFLINE = True
        yield problem
    finally:
        socket.setdefaulttimeout(timeout)
        socket.getaddrinfo = look_up
        huggingface_hub.constants.HF_HUB_OFFLINE = offline


def reason_for(error: BaseException, problem: str, longest: int = 200) -> str:
    """One line that says why a metric failed.

    Args:
        error: what it raised.
        problem: what ``bounded_downloads`` gave.
    """
    if problem and (_needed_network(error) or 'is out of reach' in str(error)):  # ours says so
        return f'its weights are not on this machine and the network is out of reach ({problem})'
    text = ' '.join(str(error).split()) or 'no message'
    text = text.split(' Three ways out:')[0]
    text = text if len(text) <= longest else text[: longest - 4] + ' ...'
    return f'{type(error).__name__}: {text}'


def _needed_network(error: BaseException | None) -> bool:
    seen: list[BaseException] = []
    waiting: list = [error]
    while waiting:
        error = waiting.pop()
        if isinstance(error, OutOfReach | LocalEntryNotFoundError | OfflineModeIsEnabled):
            return True
        if isinstance(error, OSError) and 'huggingface.co' in str(error):  # as transformers says it
            return True
        if isinstance(error, BaseException) and error not in seen:
            seen.append(error)
            waiting += [error.__cause__, error.__context__]
    return False
