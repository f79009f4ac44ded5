"""Shared by the benchmarks: timing in turns, claims, their table, a plain copy of the model."""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pyiqa_amhp.utils.environment import limit_thread_spin

limit_thread_spin()  # as `amhp score` does; before torch is imported

import numpy as np  # noqa: E402
import open_clip  # noqa: E402
import torch  # noqa: E402
from torch.nn.functional import normalize  # noqa: E402

LEVELS = ('bad', 'poor', 'fair', 'good', 'perfect')
WORDS = (
    'lovely', 'soft', 'light', 'strong', 'diagonals', 'rich', 'warm', 'colours', 'sharp', 'focus',
    'calm', 'balanced', 'frame',
)  # fmt: skip


@dataclass
class Claim:
    """A measured value with its bound; a line of the table.

    Attributes:
        what: the quantity, and what it is relative to.
        value: the measured value, the median over rounds; None: not measured.
        bound: the limit of the value; None: no limit is claimed.
        at_least: whether the bound is the lowest allowed value; if False, the highest.
        low, high: lowest and highest value over rounds.
        unit: unit of all of these; '' for ratios.
        note: why a bound is missed, or why nothing was measured.
    """

    what: str
    value: float | None
    bound: float | None = None
    at_least: bool = False
    low: float | None = None
    high: float | None = None
    unit: str = ''
    note: str = ''

    @property
    def verdict(self) -> str:
        """``holds``, ``misses`` or ``skipped``; '' without a bound."""
        if self.value is None:
            return 'skipped'
        if self.bound is None:
            return ''
        met = self.value >= self.bound if self.at_least else self.value <= self.bound
        return 'holds' if met else 'misses'

    def cells(self) -> tuple[str, str, str, str, str]:
        """Return the cells of the table: quantity, value, range, bound, verdict."""

        def number(value):
            return '' if value is None else f'{value:.3g}{self.unit and " " + self.unit}'

        spread = '' if self.low is None else f'{self.low:.3g} .. {self.high:.3g}'
        sign = '≥ ' if self.at_least else '≤ '
        bound = '' if self.bound is None else sign + number(self.bound)
        verdict = self.verdict + (f': {self.note}' if self.note else '')
        return self.what, number(self.value), spread, bound, verdict


def ratio(what: str, ours: list[float], floor: list[float], **options) -> Claim:
    """Claim a ratio of seconds: ours over the floor's in the same round."""
    ratios = np.array(ours) / np.array(floor)
    return Claim(
        what,
        float(np.median(ratios)),
        low=float(ratios.min()),
        high=float(ratios.max()),
        **options,
    )


def speedup(what: str, ours: list[float], floor: list[float], **options) -> Claim:
    """Claim a throughput: how many times as fast as the floor."""
    return ratio(what, floor, ours, at_least=True, **options)


def in_turns(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Measure the seconds of each call, in turns, after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def comments(n: int, seed: int) -> list[str]:
    """Make ``n`` different comments of about 20 tokens."""
    rng = np.random.default_rng(seed)
    return [' '.join(rng.choice(WORDS, 18)) for _ in range(n)]


class Plain(torch.nn.Module):
    """Eq. 1 to 7 without any optimisation; every text has 77 tokens."""

    def __init__(self, clip: torch.nn.Module | None = None, tokenizer: Callable | None = None):
        super().__init__()
        self.clip = clip or open_clip.create_model('ViT-B-16')
        self.tokenizer = tokenizer or open_clip.get_tokenizer('ViT-B-16')
        width = self.clip.text_projection.shape[1]
        self.fc = torch.nn.Linear(2 * width, width)
        self.logit_scale = torch.nn.Parameter(torch.tensor(2.66))
        self.levels = self.tokenizer([f'A photo with {level} aesthetics.' for level in LEVELS])
        self.values = torch.tensor([1.5, 3.5, 5.5, 7.5, 9.5])

    def forward(self, x: torch.Tensor, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scores ``(N, 1)`` and distributions ``(N, 5)`` of preprocessed images."""
        image = normalize(self.clip.encode_image(x), dim=-1)
        text = normalize(self.clip.encode_text(self.tokenizer(texts)), dim=-1)
        fused = normalize(self.fc(torch.cat([image, text], dim=-1)) + image, dim=-1)
        levels = normalize(self.clip.encode_text(self.levels), dim=-1)
        p = (fused @ levels.T * self.logit_scale.exp()).softmax(dim=-1)
        return (p * self.values).sum(dim=-1, keepdim=True), p


def machine() -> str:
    """Describe the processor, the GPU and the version of torch."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path('/proc/cpuinfo')
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        name = next((x.partition(': ')[2] for x in lines if x.startswith('model name')), name)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'
    return f'{os.cpu_count()} x {name}, {gpu}, torch {torch.__version__.partition("+")[0]}'


def table(claims: list[Claim]) -> str:
    """Format claims as an aligned Markdown table."""
    return aligned(
        [('claim', 'measured', 'range', 'bound', '')] + [claim.cells() for claim in claims]
    )


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Format rows of cells, the header first, as an aligned Markdown table."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        '| ' + ' | '.join(c.ljust(w) for c, w in zip(r, widths, strict=True)) + ' |' for r in rows
    ]
    lines.insert(1, '| ' + ' | '.join('-' * width for width in widths) + ' |')
    return '\n'.join(lines)


def main(measure: Callable[[int], list[Claim]], doc: str, rounds: int = 5) -> None:
    """Run the command line of a benchmark: measure, print, and write the claims with ``--json``."""
    parser = argparse.ArgumentParser(description=doc.partition('\n')[0])
    parser.add_argument('--rounds', type=int, default=rounds)
    parser.add_argument('--json', type=Path, help='write the claims to this file')
    arguments = parser.parse_args()
    claims = measure(arguments.rounds)
    print(f'{machine()}\n\n{table(claims)}')
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(claim) for claim in claims]))
