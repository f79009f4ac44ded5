"""What scoring does differently on a GPU: batch size, precision, and copies that do not wait."""

from collections.abc import Callable, Sequence

import torch

from pyiqa_amhp.model.amhp import AMHP

BATCH_SIZE = 8  # images in a batch of AMHP on a processor, which larger ones do not make faster
GPU_BATCH_SIZE = 256
"""Images in a batch of AMHP on a GPU. An H100 scores 10,062 images a second in batches of 256 with
ViT-B/16 and weights converted to bf16; with autocast 6,536, and 5,205 in batches of 64."""

GPU_PRECISION = 'fp16'
"""Precision of ``amhp score`` and ``amhp benchmark`` on a GPU: the fastest one whose scores of real
photographs have an SRCC of 0.9999 or more to those of fp32. That of bf16, with the same peak speed
of tensor cores, is below (``perf/precision.py``; the table is in docs/scoring.md)."""

TENSOR_CORES = (7, 0)  # the first compute capability for which half precision is faster


def default_precision(
    arch: str | None, device: str | None = None, engine: str | None = None
) -> str | None:
    """Choose the precision of a metric for scoring many images.

    Args:
        arch: the arch of a metric of pyiqa, see ``arch_of``.
        device: a device of torch that exists; None: a GPU if there is one, as in pyiqa.
        engine: engine of AMHP; None: torch.

    Returns:
        ``GPU_PRECISION`` for AMHP by torch on a GPU with tensor cores, else None, the default of
        ``create_metric``.
    """
    if arch != 'AMHP' or engine not in (None, 'torch') or not torch.cuda.is_available():
        return None
    chosen = torch.device(device or 'cuda')
    if chosen.type != 'cuda' or torch.cuda.get_device_capability(chosen) < TENSOR_CORES:
        return None
    return GPU_PRECISION


def join_inputs(net: AMHP, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """Join inputs of ``Scorer.to_input``, or batches of them, to the input of the encoders.

    Views of files, uint8, are copied to a GPU as they are: a quarter of the bytes of fp32.

    Returns:
        ``(N, 3, size, size)``, normalised, on the device of the network.
    """
    device, preprocess = net.logit_scale.device, net.preprocess
    if inputs[0].dim() == 4:
        x = torch.cat([batch.to(device, non_blocking=True) for batch in inputs])
    elif len({x.dtype for x in inputs}) == 1:
        x = torch.stack(list(inputs))
        if x.device != device and device.type == 'cuda':
            x = x.pin_memory()  # only from there a GPU copies beside its work
        x = x.to(device, non_blocking=True)
    else:  # views of files beside inputs of tensors
        return torch.cat([join_inputs(net, [x]) for x in inputs])
    if x.dtype != torch.uint8:
        return x
    return preprocess.normalize(x.permute(0, 3, 1, 2).float() / 255)


def copy_to_host(numbers: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Copy numbers to memory of the host, from a GPU without waiting for it.

    Returns:
        A function that waits for the copy, and for no later work of the GPU, and returns it.
    """
    if numbers.device.type != 'cuda':
        return lambda: numbers
    host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
    host.copy_(numbers, non_blocking=True)
    copied = torch.cuda.Event(blocking=True)  # waiting takes no time of the processor
    copied.record(torch.cuda.current_stream(numbers.device))

    def wait() -> torch.Tensor:
        copied.synchronize()
        return host

    return wait
