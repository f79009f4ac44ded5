"""The training step on batches of one shape, which a GPU replays as one CUDA graph.

A step of ViT-B/16 launches thousands of small kernels, and one processor core takes two to three
times as long to launch them as the GPU to run them. So the whole step (forward, backward, clipping,
optimizer) is captured once for each length of texts, and then launched at once. Nothing in it waits
for the GPU: whether losses were finite is read later (``OptimizerStepper.check``).

The step computes what the plain one does, in fp32 to 1e-5 over 20 steps (``tests/test_step.py``).
What it cannot do, ``obstacle`` lists; then, and for a batch that is not full, the plain step runs.
All of this is our choice.
"""

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from pyiqa.utils import get_root_logger
from torch.utils.data import default_collate

from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.model.clip import TextTokenizer
from pyiqa_amhp.train.optim import OptimizerStepper
from pyiqa_amhp.utils.options import flag
from pyiqa_amhp.utils.text import given_text

DEVICES = ('cuda',)  # on a CPU launching costs nothing beside computing
PADDED = (32,)  # tokens that texts are padded to, beside 0 for no text and the longest possible
WARM_UPS = 3  # runs before a capture, as torch's documentation asks
OPTIMIZERS = (torch.optim.Adam, torch.optim.AdamW)  # can be captured, and skip a step on the GPU


@dataclass(frozen=True)
class Texts:
    """Texts of N images, padded to one of a few lengths.

    Attributes:
        ids: token ids ``(N, L)``; ``L`` is 0 if no image has a text.
        given: the images that have a text, ``(N,)`` of bool.
        cut: the number of texts that were too long.
    """

    ids: torch.Tensor
    given: torch.Tensor
    cut: int


class TextPadder:
    """Tokenizes and pads the texts of batches; as ``collate_fn`` also those of a loader's.

    Args:
        tokenizer: of the network's text encoder.
    """

    def __init__(self, tokenizer: TextTokenizer):
        self.tokenizer = tokenizer

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Collate samples, and add ``text_ids``, ``text_given`` and ``text_cut``."""
        batch: dict[str, Any] = default_collate(list(samples))
        texts = self.pad(batch['text'])
        return {
            **batch,
            'text_ids': texts.ids,
            'text_given': texts.given,
            'text_cut': torch.tensor(texts.cut),
        }

    def pad(self, texts: Sequence[str]) -> Texts:
        """Tokenize the texts of N images; ``''`` is no text."""
        given = torch.tensor([bool(given_text(text)) for text in texts], dtype=torch.bool)
        if not given.any():
            return Texts(torch.zeros(len(texts), 0, dtype=torch.long), given, 0)
        ids, longest, cut = self.tokenizer([text if given_text(text) else '' for text in texts])
        length = next((n for n in PADDED if longest <= n < ids.shape[1]), ids.shape[1])
        return Texts(ids[:, :length].contiguous(), given, cut)


def obstacle(model: Any) -> str:
    """Say why a training cannot use ``FixedStep``; '' if it can.

    Args:
        model: an ``AMHPModel``.
    """
    train, net, stepper = model.opt['train'], model.get_bare_model(model.net), model.stepper
    skips = stepper.nonfinite == 'skip' and (model.by_step or stepper.average is not None)
    reasons = {
        f'the device is {model.device.type!r}': model.device.type not in DEVICES,
        'cuda_graph is false': not flag(train, 'cuda_graph', True),
        'several processes train': bool(model.opt['dist']),
        f'the network is {type(net).__name__}': not isinstance(net, AMHP),
        'it has a predictor': model.predictor is not None,
        'encoders are frozen': model.frozen is not None,
        'metric_loss_opt is set': bool(model.cri_metric) or not model.cri_mos,
        'accumulate is set': stepper.accumulate > 1,
        'precision is fp16': stepper.scaler.is_enabled(),
        'gradient_checkpointing is set': bool(train.get('gradient_checkpointing')),
        'nonfinite: skip is set with schedule_by: step or ema_decay': skips,
        f'the optimizer is {type(model.optimizer).__name__}, not a fused Adam or AdamW': not (
            type(model.optimizer) in OPTIMIZERS and model.optimizer.defaults.get('fused')
        ),
    }
    return next((reason for reason, applies in reasons.items() if applies), '')


class FixedStep:
    """Makes training steps on batches of one shape.

    Args:
        net: the network.
        criterion: gives the loss of predicted and rated distributions ``(N, k)``.
        stepper: makes the steps of the optimizer.
    """

    def __init__(
        self,
        net: AMHP,
        criterion: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        stepper: OptimizerStepper,
    ):
        self.net, self.criterion, self.stepper = net, criterion, stepper
        self.padder = TextPadder(net.backbone.text_tokenizer)
        self._device = stepper.device
        self._images: torch.Tensor | None = None  # the fixed batch; made by the first one
        self._rated: torch.Tensor
        self._given: torch.Tensor
        self._ids: dict[int, torch.Tensor] = {}
        self._runs: dict[int, Callable[[], torch.Tensor]] = {}  # by the length of texts
        self._pool: Any = None
        self._hold = torch.zeros((), device=self._device)  # 1: weights stay as they are
        self._rates = [
            torch.tensor(float(group['lr']), device=self._device)
            for group in stepper.optimizer.param_groups
        ]

    def fits(self, images: torch.Tensor) -> bool:
        """Whether a batch has the shape of all others: a full batch of images of one size."""
        shape = None if self._images is None else self._images.shape
        return len(images) == self.stepper.batch_size and shape in (None, images.shape)

    def __call__(
        self, images: torch.Tensor, texts: Texts, rated: torch.Tensor, paths: list[str]
    ) -> torch.Tensor:
        """Make a step.

        Args:
            images: N images ``(N, 3, H, W)`` in [0, 1], on the device.
            texts: their texts.
            rated: their rated distributions ``(N, k)``, on the device.
            paths: their paths, for messages.

        Returns:
            The loss, on the device.
        """
        self.net.backbone.count_cut(texts.cut)
        length = texts.ids.shape[1]
        if self._images is None:
            self._images, self._rated = torch.empty_like(images), torch.empty_like(rated)
            self._given = torch.empty_like(texts.given, device=self._device)
        if length not in self._ids:
            self._ids[length] = torch.empty_like(texts.ids, device=self._device)
        self._images.copy_(images)
        self._rated.copy_(rated)
        self._given.copy_(texts.given, non_blocking=True)
        self._ids[length].copy_(texts.ids, non_blocking=True)
        for rate, group in zip(self._rates, self.stepper.optimizer.param_groups, strict=True):
            rate.fill_(group['lr'])
        if length not in self._runs:
            self._runs[length] = self._prepare(length)
        loss = self._runs[length]().clone()
        self.stepper.made(loss, paths)
        return loss

    def _step(self, length: int) -> torch.Tensor:
        """Run the step on the fixed batch: Eq. 1 to 8, gradients, and the optimizer."""
        net = self.net
        Fx = net.backbone.encode_image(net.preprocess(self._images))  # Eq. 1  (N, n)
        Ft = None
        if net.config.uses_attributes:
            Ft = torch.zeros_like(Fx)
            if length:
                features = net.backbone.encode_ids(self._ids[length]).to(Fx.dtype)
                Ft = torch.where(self._given[:, None], features, Ft)
        loss = self.criterion(net.head(Fx, Ft)[1], self._rated)
        with self._rates_on_device():
            self.stepper.update(loss, self._hold)
        return loss.detach()

    @contextmanager
    def _rates_on_device(self):
        """Let the optimizer read its learning rates from the device, where they can be changed."""
        groups = self.stepper.optimizer.param_groups
        saved = [(group['lr'], group['capturable']) for group in groups]
        capturing = self._device.type == 'cuda' and torch.cuda.is_current_stream_capturing()
        for group, rate in zip(groups, self._rates, strict=True):
            group['lr'], group['capturable'] = rate, capturing
        try:
            yield
        finally:
            for group, (rate, capturable) in zip(groups, saved, strict=True):
                group['lr'], group['capturable'] = rate, capturable

    def _prepare(self, length: int) -> Callable[[], torch.Tensor]:
        """Capture the step for texts of a length; on a CPU the step itself."""

        def step() -> torch.Tensor:
            return self._step(length)

        if self._device.type != 'cuda':
            return step
        self._warm_up(step)
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads (those that pin memory) may go on calling CUDA meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode='thread_local'):
                loss = self._step(length)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            get_root_logger().warning(
                f'The training step could not be captured as a CUDA graph ({reason}); it is '
                'launched kernel by kernel, which is slower (cuda_graph: false does so at once)'
            )
            self.stepper.optimizer.zero_grad(set_to_none=True)
            return step

        def replay() -> torch.Tensor:
            graph.replay()
            return loss

        return replay

    def _warm_up(self, step: Callable[[], object]) -> None:
        """Run the step before its capture, and leave all weights, buffers and states as they were.

        The optimizer makes its states now, which a capture must find.
        """
        buffers = {id(b): (b, b.clone()) for b in self.net.buffers()}
        self._hold.fill_(1)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.random.fork_rng([self._device]), torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        self._hold.fill_(0)
        for buffer, before in buffers.values():
            buffer.copy_(before)
