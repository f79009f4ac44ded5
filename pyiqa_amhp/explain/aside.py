"""A model as explanations need it, and afterwards as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pyiqa_amhp.model.runtime import Runner


@contextmanager
def judging(net) -> Iterator[None]:
    """Have an AMHP judge by torch in fp32, which has gradients; then put back all it was.

    No gradient is stored in it, and inside ``torch.inference_mode`` autograd works again.
    """
    modes = [(module, module.training) for module in net.modules()]
    backbone = net.backbone
    runner, truncated = backbone.runner, backbone.truncated_texts
    try:
        for module, _ in modes:  # not net.eval(), which would forget kept sentences
            module.training = False
        backbone.runner = Runner()
        with torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        backbone.runner = runner
        # What was cut here was nobody's text; but that something was cut has now been said.
        backbone.truncated_texts = max(truncated, min(1, backbone.truncated_texts))
        for module, mode in modes:
            module.training = mode
