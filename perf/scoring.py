"""Speed of scoring with ViT-B/16, against its image encoder alone and against the plain formulas,
and with EfficientNet-Lite0, against ViT-B/16.

The input is a batch of eight tensors in fp32. The weights are random, which has no effect on speed.
"""

import open_clip
import torch
from common import Claim, Plain, comments, in_turns, main, ratio, speedup

from pyiqa_amhp.model.amhp import AMHP

N = 8


def measure(rounds: int) -> list[Claim]:
    """Measure the seconds over those of open_clip's image encoder in the same round."""
    torch.manual_seed(0)
    ours, plain = AMHP(pretrained=False).eval(), Plain().eval()
    lite = AMHP(pretrained=False, backbone='EfficientNet-Lite0').eval()
    bare = open_clip.create_model('ViT-B-16').visual.eval()
    x, texts = torch.rand(N, 3, 224, 224), comments(N, 0)
    with torch.inference_mode():
        seconds = in_turns(
            {
                'floor': lambda: bare(x),
                'images': lambda: ours.predict(x, [''] * N),
                'comments': lambda: ours.predict(x, texts),
                'plain': lambda: plain(x, texts),
                'lite': lambda: lite.predict(x, [''] * N),
            },
            rounds,
        )
    floor, images = seconds['floor'], seconds['images']
    return [
        ratio('scoring, images only / image encoder', images, floor, bound=1.03),
        ratio('scoring, a comment each / image encoder', seconds['comments'], floor, bound=1.12),
        ratio('plain formulas, a comment each / image encoder', seconds['plain'], floor),
        speedup('EfficientNet-Lite0 / ViT-B/16, images a second', seconds['lite'], images, bound=8),
    ]


if __name__ == '__main__':
    main(measure, __doc__, rounds=9)
