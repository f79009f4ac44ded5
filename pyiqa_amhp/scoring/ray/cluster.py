"""Connection to a Ray cluster, and the share of its CPUs and GPUs that each model gets."""

import logging
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.utils.environment import import_extra

if TYPE_CHECKING:
    import ray
else:
    import_extra('ray.data', 'ray')
    ray = import_extra('ray', 'ray')

MAX_CPUS = 4  # of a model without a GPU: more threads than that gain little (our choice)


@contextmanager
def connect(address: str | None) -> Iterator[bool]:
    """Connect to a cluster: one that this process uses already, the given one, or a new local one.

    Args:
        address: ``host:port``, ``ray://host:port`` or ``auto``; None: the one in ``RAY_ADDRESS``,
            or a cluster of this machine alone, which ends with the context.

    Yields:
        Whether the cluster is this machine alone, and remains so.

    Raises:
        AMHPError: there is no such cluster.
    """
    logging.getLogger('ray.data').setLevel(logging.CRITICAL)  # errors come as exceptions
    # Ray's native part writes to the terminal what it finds wrong with Ray's own data sets.
    os.environ.setdefault('RAY_BACKEND_LOG_LEVEL', 'fatal')
    if ray.is_initialized():
        yield False
        return
    os.environ.setdefault('RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO', '0')  # without it Ray warns
    is_local = address is None and 'RAY_ADDRESS' not in os.environ
    # Without an address Ray might attach to another user's cluster on this machine.
    options: dict[str, Any] = (
        {'address': 'local', 'include_dashboard': False} if is_local else {'address': address}
    )
    try:
        check_reachable(address)
        with _silence_stderr():
            ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise AMHPError(
            f'no Ray cluster at {address or "this machine"} ({str(error).splitlines()[0]}); '
            'expected the address of a running one (host:6379, ray://host:10001, auto)'
        ) from error
    try:
        yield is_local
    finally:
        ray.shutdown()


def check_reachable(address: str | None) -> None:
    """Check within seconds that something listens at ``host:port``; Ray itself waits for minutes.

    Raises:
        OSError: nothing listens there.
    """
    if found := re.fullmatch(r'(?:ray://)?\[?([^/]+?)\]?:(\d+)', address or ''):
        socket.create_connection((found[1], int(found[2])), timeout=10).close()


def model_resources(models: int | None, spare_cpus: int = 0) -> dict[str, Any]:
    """Choose how many models run, with how many CPUs and GPUs each.

    Args:
        models: number of models; None: one for each GPU, or else for each ``MAX_CPUS`` CPUs.
        spare_cpus: CPUs that each machine keeps for tasks that read and write. A model reserves
            no CPU where none would be left.

    Returns:
        Options of ``map_batches``.
    """
    nodes = [node['Resources'] for node in ray.nodes() if node['Alive']]
    gpus = int(sum(node.get('GPU', 0) for node in nodes))
    if gpus:
        shares = [
            (node.get('CPU', 0) - spare_cpus) // node['GPU'] for node in nodes if node.get('GPU')
        ]
        cpus_each, size = max(0, int(min(shares))), gpus
    else:
        cpus = [node.get('CPU', 0) - spare_cpus for node in nodes]
        cpus = [number for number in cpus if number > 0] or [0]
        cpus_each = int(min(MAX_CPUS, *cpus))
        size = int(sum(number // cpus_each for number in cpus)) if cpus_each else 1
    size = models or size
    return {
        'num_cpus': cpus_each,
        'num_gpus': 1 if gpus else 0,
        'compute': ray.data.ActorPoolStrategy(min_size=1, max_size=size, initial_size=size),
    }


def find_cause(error: BaseException) -> str:
    """Find what went wrong on another machine in the traceback that Ray passes on as a text."""
    first = str(error).strip().partition('\n\nThe above exception')[0]
    if found := re.findall(r'^(?:\w+\.)*(\w+): (.+?)\Z', first, re.MULTILINE | re.DOTALL):
        kind, text = found[-1]
        return text if kind in (AMHPError.__name__, ImageReadError.__name__) else f'{kind}: {text}'
    return f'{type(error).__name__}: {first.splitlines()[-1] if first else ""}'


@contextmanager
def _silence_stderr() -> Iterator[None]:
    """Discard standard error, also of native code: Ray writes about its logging there."""
    sys.stderr.flush()
    saved, devnull = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(devnull, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(devnull)
