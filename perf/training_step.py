"""Time of a training step of ViT-B/16, beside that of the image encoder and the plain formulas.

All parameters are trained, in fp32, in batches of 8 images with a comment each; a step is forward,
backward and AdamW. Before that, 20 steps from the same weights, with two images each, must give
the losses of the plain formulas.
"""

import open_clip
import torch
from common import Claim, Plain, comments, in_turns, main, ratio

from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.train.loss import AMHPEMDLoss

N, STEPS, FEW = 8, 20, 2  # images in a timed step; steps to compare, and images in each


def emd(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Compute Eq. 8 by its definition, with r = 2."""
    return ((p.cumsum(-1) - q.cumsum(-1)).abs().square().mean(-1)).sqrt().mean()


def step_of(parameters, loss):
    """Build a function that makes a training step and returns the loss."""
    optimizer = torch.optim.AdamW(parameters, lr=2e-6, weight_decay=1e-3)

    def step() -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        return value.item()

    return step


def plain_twin(ours: AMHP) -> Plain:
    """Build the plain formulas with the same weights."""
    clip = open_clip.create_model('ViT-B-16', force_quick_gelu=ours.config.quick_gelu)
    clip.load_state_dict(ours.backbone.clip.state_dict(), strict=False)  # all but logit_scale
    plain = Plain(clip)
    plain.fc.load_state_dict(ours.fc.state_dict())
    plain.logit_scale.data.copy_(ours.logit_scale.data)
    return plain


def largest_difference() -> float:
    """Compute the largest difference of the two losses over 20 steps on the same batches."""
    torch.manual_seed(0)
    ours = AMHP(pretrained=False, fc_init='default').train()
    plain = plain_twin(ours).train()
    loss, worst = AMHPEMDLoss(), 0.0
    batch: dict = {}
    steps = (
        step_of(
            ours.parameters(), lambda: loss(ours.predict(batch['x'], batch['texts'])[1], batch['q'])
        ),
        step_of(plain.parameters(), lambda: emd(plain(batch['x'], batch['texts'])[1], batch['q'])),
    )
    for seed in range(STEPS):
        q = torch.rand(FEW, 5).softmax(-1)
        batch.update(x=torch.randn(FEW, 3, 224, 224), texts=comments(FEW, seed), q=q)
        first, second = (step() for step in steps)
        worst = max(worst, abs(first - second))
    return worst


def measure(rounds: int) -> list[Claim]:
    """Measure the difference of the losses, and times as ratios to a step of the image encoder."""
    difference = largest_difference()
    torch.manual_seed(0)
    ours, plain = AMHP(pretrained=False).train(), Plain().train()
    bare = open_clip.create_model('ViT-B-16').visual.train()
    x, texts, q = torch.rand(N, 3, 224, 224), comments(N, 0), torch.full((N, 5), 0.2)
    loss = AMHPEMDLoss()
    seconds = in_turns(
        {
            'floor': step_of(bare.parameters(), lambda: bare(x).square().mean()),
            'ours': step_of(ours.parameters(), lambda: loss(ours.predict(x, texts)[1], q)),
            'plain': step_of(plain.parameters(), lambda: emd(plain(x, texts)[1], q)),
        },
        rounds,
    )
    floor = seconds['floor']
    return [
        ratio('training step, a comment each / image encoder', seconds['ours'], floor, bound=1.22),
        ratio('plain formulas, training step / image encoder', seconds['plain'], floor),
        Claim(f'loss, largest difference to plain over {STEPS} steps', difference, 1e-5),
    ]


if __name__ == '__main__':
    main(measure, __doc__)
