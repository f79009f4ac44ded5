"""Training with several processes that ``torchrun`` started, each with a GPU or on the CPU."""

import os
from typing import Any

import torch
import torch.distributed as dist

from pyiqa_amhp.errors import AMHPError

FAILURE = 'pyiqa_amhp/failure'  # the key under which the processes share the first error


def init_processes(num_gpu: int | str) -> tuple[int, int]:
    """Connect to the other processes that ``torchrun`` started.

    They communicate by NCCL if GPUs are asked for and present, otherwise by Gloo.

    Args:
        num_gpu: the option of this name; 0 is the CPU.

    Returns:
        The rank of this process and the number of processes; ``(0, 1)`` without ``torchrun``.

    Raises:
        AMHPError: there are more processes on this machine than GPUs.
    """
    if 'RANK' not in os.environ or int(os.environ.get('WORLD_SIZE', 1)) < 2:
        return 0, 1
    on_gpu = num_gpu != 0 and torch.cuda.is_available()
    if on_gpu:
        local_rank = int(os.environ['LOCAL_RANK'])
        if local_rank >= torch.cuda.device_count():
            raise AMHPError(
                f'torchrun started more processes than there are GPUs '
                f'({torch.cuda.device_count()}): lower --nproc_per_node, or set num_gpu: 0'
            )
        torch.cuda.set_device(local_rank)
    if not dist.is_initialized():
        dist.init_process_group('nccl' if on_gpu else 'gloo')
    return dist.get_rank(), dist.get_world_size()


def cause_of(error: Exception) -> Exception:
    """Tell the other processes of an error, or find out which of theirs is the cause of it.

    When a process ends, those that wait for it fail with an error of the connection, which says
    nothing of the cause. So the first error goes to the store that the processes share, and which
    ``torchrun`` keeps.

    Args:
        error: the error that ends this process.

    Returns:
        The error to raise: that of the process that failed first, where this one is a consequence.
    """
    if world_size() == 1:
        return error
    try:
        rank, _, message = _publish(error).partition(' ')
    except Exception:  # the store ended with the process that kept it
        message = f'another process ended the training; see its message ({error})'
        return error if isinstance(error, AMHPError) else AMHPError(message)
    is_cause = int(rank) == dist.get_rank() or isinstance(error, AMHPError)
    return error if is_cause else AMHPError(f'process {rank} ended the training: {message}')


def _publish(error: Exception) -> str:
    """Store an error unless there is one; return the rank and the message that is stored."""
    kind = '' if isinstance(error, AMHPError) else f'{type(error).__name__}: '
    store = dist.distributed_c10d._get_default_store()
    return store.compare_set(FAILURE, '', f'{dist.get_rank()} {kind}{error}').decode()


def end_processes() -> None:
    """Close the connection to the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def all_reduce_sum(values: list[float], device: torch.device) -> list[float]:
    """Sum each value over all processes."""
    if world_size() == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64 if device.type == 'cpu' else torch.float32)
    tensor = tensor.to(device)
    dist.all_reduce(tensor)
    return tensor.tolist()


def all_gather(value: Any) -> list[Any]:
    """Collect a value from each process, in the order of their ranks."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait until all processes have reached this call."""
    if world_size() > 1:
        dist.barrier()
