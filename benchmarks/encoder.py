"""Scoring and a training step of ViT-B/16, beside the image encoder alone.

    python benchmarks/encoder.py [--rounds 5] [--batch 8]

In turns, in one process, random weights (speed does not depend on them): the floor is what bare
open_clip needs for its image encoder; "plain" is the paper's formulas written down in a few lines,
with every text at 77 tokens. Prints ratios to the floor: the median over rounds, and the range.
"""

import argparse
import time

import numpy as np
import open_clip
import torch
from torch.nn.functional import normalize

from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.train.loss import AMHPEMDLoss

WORDS = (
    'lovely', 'soft', 'light', 'strong', 'diagonals', 'rich', 'warm', 'colours', 'sharp', 'focus',
    'calm', 'balanced', 'frame',
)  # fmt: skip


class Plain(torch.nn.Module):
    """Eq. 1 to 7 as they are written, and nothing else."""

    def __init__(self):
        super().__init__()
        self.clip = open_clip.create_model('ViT-B-16')
        self.tokenizer = open_clip.get_tokenizer('ViT-B-16')
        self.fc = torch.nn.Linear(1024, 512)
        self.logit_scale = torch.nn.Parameter(torch.tensor(2.66))
        levels = ('bad', 'poor', 'fair', 'good', 'perfect')
        self.levels = self.tokenizer([f'A photo with {level} aesthetics.' for level in levels])
        self.values = torch.tensor([1.5, 3.5, 5.5, 7.5, 9.5])

    def forward(self, x, texts):
        image = normalize(self.clip.encode_image(x), dim=-1)
        text = normalize(self.clip.encode_text(self.tokenizer(texts)), dim=-1)
        fused = normalize(self.fc(torch.cat([image, text], dim=-1)) + image, dim=-1)
        levels = normalize(self.clip.encode_text(self.levels), dim=-1)
        p = (fused @ levels.T * self.logit_scale.exp()).softmax(dim=-1)
        return (p * self.values).sum(dim=-1, keepdim=True), p


def comments(n: int, seed: int) -> list[str]:
    """Different comments of about 20 tokens."""
    rng = np.random.default_rng(seed)
    return [' '.join(rng.choice(WORDS, 18)) for _ in range(n)]


def in_turns(calls: dict, rounds: int) -> dict[str, list[float]]:
    """Seconds of each call, one after the other, after one round that does not count."""
    seconds = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def report(title: str, seconds: dict[str, list[float]], floor: str) -> None:
    """Ratios to the floor of the same round."""
    print(f'\n{title}: {floor} takes {np.median(seconds[floor]):.2f} s')
    for name, values in seconds.items():
        ratios = np.array(values) / np.array(seconds[floor])
        print(f'  {name:32} {np.median(ratios):5.2f}  ({ratios.min():.2f} .. {ratios.max():.2f})')


def step_of(parameters, loss):
    """A training step: backward and AdamW."""
    optimizer = torch.optim.AdamW(parameters, lr=2e-6, weight_decay=1e-3)

    def step():
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--batch', type=int, default=8)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    ours, plain = AMHP(pretrained=False), Plain()
    bare = open_clip.create_model('ViT-B-16').visual
    n = arguments.batch
    x, texts = torch.rand(n, 3, 224, 224), comments(n, 0)
    q = torch.full((n, 5), 0.2)
    print(f'torch {torch.__version__}, {torch.get_num_threads()} threads, batch {n}, fp32')

    def scoring(call):
        def run():
            with torch.inference_mode():
                call()

        return run

    for net in (ours, plain, bare):
        net.eval()
    calls = {
        'image encoder': scoring(lambda: bare(x)),
        'ours, images only': scoring(lambda: ours.judge(x, [''] * n)),
        'ours, a comment each': scoring(lambda: ours.judge(x, texts)),
        'plain, a comment each': scoring(lambda: plain(x, texts)),
    }
    report('Scoring', in_turns(calls, arguments.rounds), 'image encoder')

    for net in (ours, plain, bare):
        net.train()
    loss = AMHPEMDLoss()
    calls = {
        'image encoder': step_of(bare.parameters(), lambda: bare(x).square().mean()),
        'ours, a comment each': step_of(
            ours.parameters(), lambda: loss(ours.judge(x, texts)[1], q)
        ),
        'plain, a comment each': step_of(plain.parameters(), lambda: loss(plain(x, texts)[1], q)),
    }
    report('Training step', in_turns(calls, arguments.rounds), 'image encoder')


if __name__ == '__main__':
    main()
