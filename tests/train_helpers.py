"""What the tests of training share: weights and logs of a run, option files, a forked command."""

import os
import signal
import sys
import traceback

import torch
import yaml
from PIL import Image


def load_weights(path):
    """Load the weights of a checkpoint."""
    return torch.load(path, weights_only=True)['params']


def same_weights(a, b):
    """Whether two sets of weights are equal, bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def read_log(root, name='tiny'):
    """Read the log of the training ``name``, which wrote to ``root``."""
    return next((root / 'experiments' / name).glob('train_*.log')).read_text()


def write_options(path, opt):
    """Write an option file."""
    path.write_text(yaml.safe_dump(opt, sort_keys=False))
    return path


def count_encoded(net, monkeypatch):
    """Count the images and texts that go through a network's encoders, and the files opened."""
    count = {'image': 0, 'text': 0, 'files': 0}

    def counter(encoder):
        return lambda _, inputs, __: count.update({encoder: count[encoder] + len(inputs[0])})

    net.backbone.clip.visual.register_forward_hook(counter('image'))
    net.backbone.clip.token_embedding.register_forward_hook(counter('text'))
    opened = Image.open

    def open_and_count(*args, **options):
        count['files'] += 1
        return opened(*args, **options)

    monkeypatch.setattr(Image, 'open', open_and_count)
    return count


def fork_amhp(*arguments, folder):
    """Run ``amhp`` in ``folder`` in a forked process, which needs no time for imports.

    Returns:
        The process id, which is also that of its process group, and a file with its output.
    """
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write_end)
        return pid, os.fdopen(read_end, 'rb')
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        os.close(read_end)
        for stream in (1, 2):
            os.dup2(write_end, stream)
        os.close(write_end)
        sys.stdout = os.fdopen(1, 'w', buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, 'w', buffering=1, closefd=False)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from pyiqa_amhp.cli import main as cli

        sys.argv = ['amhp', *map(str, arguments)]
        cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def with_texts(batches):
    """Give three batches of four images texts of all lengths, and none to some images."""
    batches[0]['text'] = ['warm light', '', 'a red sky over hills', ' ']
    batches[1]['text'] = [''] * 4
    batches[2]['text'] = ['word ' * 40, 'soft', 'word ' * 120, 'deep shadows, little detail']
    return batches


def train_steps(model, batches, steps=20):
    """Make steps with an ``AMHPModel``; return their losses."""
    losses = []
    for number in range(steps):
        model.feed_data(batches[number % len(batches)])
        model.optimize_parameters(number + 1)
        losses.append(model.get_current_log()['l_mos'])
    return losses


def largest_difference(a, b):
    """The largest difference of the weights of two ``AMHPModel``."""
    a, b = a.net.state_dict(), b.net.state_dict()
    return max(float((a[k] - b[k]).abs().max()) for k in a if a[k].is_floating_point())
