"""ViT-B/16 on a GPU: autocast, torch.compile, channels-last, and peak memory at batch 72."""

import open_clip
import torch
from common import Claim, Plain, comments, in_turns, main, ratio

from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.train.loss import AMHPEMDLoss

N = 72  # the paper's batch


def synchronised(call):
    """Return a call that waits for the GPU to finish."""

    def run() -> None:
        call()
        torch.cuda.synchronize()

    return run


def peak_gigabytes(net, call) -> float:
    """Measure the peak memory of a call in GiB: its weights and all it allocates."""
    weights = sum(value.numel() * value.element_size() for value in net.parameters())
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    return (torch.cuda.max_memory_allocated() - before + weights) / 2**30


def training_step(net, loss):
    """Return a training step: forward, backward and AdamW."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-6, weight_decay=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def measure(rounds: int) -> list[Claim]:
    """Measure ratios to the image encoder in fp32, in the same round, and peak memory."""
    if not torch.cuda.is_available():
        return [Claim('GPU: autocast, compile, channels-last, memory', None, note='no GPU here')]
    torch.manual_seed(0)
    x, texts = torch.rand(N, 3, 224, 224, device='cuda'), comments(N, 0)
    bare = open_clip.create_model('ViT-B-16').visual.eval().cuda()
    plain = Plain().eval().cuda()
    plain.values, plain.levels = plain.values.cuda(), plain.levels.cuda()
    tokenizer = plain.tokenizer
    plain.tokenizer = lambda texts: tokenizer(texts).cuda()
    configurations = {
        'fp32': {},
        'bf16': {'precision': 'bf16'},
        'fp16': {'precision': 'fp16'},
        'bf16, compiled': {'precision': 'bf16', 'compile': True},
        'bf16, channels-last': {'precision': 'bf16'},
    }
    calls = {'floor': synchronised(lambda: bare(x)), 'plain': synchronised(lambda: plain(x, texts))}
    nets = {}
    for name, options in configurations.items():
        layout = torch.channels_last if 'channels-last' in name else torch.contiguous_format
        net = AMHP(pretrained=False, **options).eval().cuda().to(memory_format=layout)
        nets[name], images = net, x.to(memory_format=layout)
        calls[name] = synchronised(lambda net=net, images=images: net.predict(images, texts))
    with torch.inference_mode():
        seconds = in_turns(calls, 4 * rounds)
        claims = [
            ratio(f'GPU, scoring {name}, a comment each / encoder fp32', values, seconds['floor'])
            for name, values in seconds.items()
            if name != 'floor'
        ]
        peak = peak_gigabytes(nets['fp32'], calls['fp32'])
    claims.append(Claim(f'GPU, peak memory, scoring {N} images', peak, unit='GB'))

    calls.clear()
    nets.clear()
    loss, q = AMHPEMDLoss(), torch.full((N, 5), 0.2, device='cuda')
    bare.train()
    steps = {'floor': synchronised(training_step(bare, lambda: bare(x).square().mean()))}
    for precision in ('fp32', 'bf16'):
        net = AMHP(pretrained=False, precision=precision).train().cuda()
        step = training_step(net, lambda net=net: loss(net.predict(x, texts)[1], q))
        steps[precision] = synchronised(step)
        peak = peak_gigabytes(net, steps[precision])
        what = f'GPU, peak memory, training step {precision}, batch {N}'
        claims.append(Claim(what, peak, unit='GB'))
    seconds = in_turns(steps, rounds)
    claims += [
        ratio(f'GPU, training step {name} / encoder fp32', seconds[name], seconds['floor'])
        for name in ('fp32', 'bf16')
    ]
    return claims


if __name__ == '__main__':
    main(measure, __doc__)
