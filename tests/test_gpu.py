"""What only a GPU does: the captured step, precision, resume, a process of torchrun, scoring.

All other tests run on a GPU's machine too, on its processor.
"""

import copy
import math
import subprocess
import sys

import pytest
import torch
from pyiqa.models import build_model
from torch.utils.data import default_collate
from train_helpers import (
    largest_difference,
    load_weights,
    read_log,
    same_weights,
    train_steps,
    with_texts,
    write_options,
)

from pyiqa_amhp.scoring import Scorer, score_images
from pyiqa_amhp.scoring.device import default_precision
from pyiqa_amhp.train.pipeline import run_train
from pyiqa_amhp.weights.checkpoint import save_checkpoint

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here')

GPU = 'cuda'
STEPS = 20


@pytest.fixture
def build_on_gpu(training_options, shared_rated_images, tmp_path):
    """A function that builds an ``AMHPModel`` on the GPU, with changed options."""
    start = {}

    def build(**sections):
        torch.manual_seed(0)
        opt = training_options(shared_rated_images)
        opt.update(num_gpu=1, is_train=True, dist=False, rank=0, world_size=1)
        opt['train']['precision'] = 'fp32'
        opt['train']['optim'].update(lr=1e-3, eps=1e-5)
        for name, options in sections.items():
            opt[name].update(options)
        opt['path'].update(models=str(tmp_path), training_states=str(tmp_path))
        model = build_model(opt)
        start.setdefault(str(opt['network']), copy.deepcopy(model.net.state_dict()))
        model.net.load_state_dict(start[str(opt['network'])])  # all start from the same weights
        return model

    return build


@pytest.fixture
def batches(loader):
    """Batches of four images each; texts of different lengths, some missing."""
    return with_texts(list(loader(augment={'resize': [32, 32]}, use_shuffle=False)))


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'network': {'variant': 'image'}},
        {'train': {'clip_grad_norm': 0.01, 'ema_decay': 0.9}},
        {'train': {'schedule_by': 'step', 'total_iter': STEPS, 'warmup_iter': 5}},
        {'train': {'precision': 'bf16'}},
    ],
    ids=str,
)
def test_the_captured_step_gives_the_losses_of_the_plain_one(build_on_gpu, batches, options):
    plain_options = copy.deepcopy(options)
    plain_options['train'] = {**options.get('train', {}), 'cuda_graph': False}
    plain, captured = build_on_gpu(**plain_options), build_on_gpu(**copy.deepcopy(options))
    assert plain.fixed is None and captured.fixed is not None
    losses = train_steps(plain, batches), train_steps(captured, batches)
    precise = options.get('train', {}).get('precision') != 'bf16'
    assert losses[1] == pytest.approx(losses[0], abs=1e-5 if precise else 2e-2)
    assert largest_difference(plain, captured) < (1e-4 if precise else 2e-2)
    replays = captured.fixed._runs.values()
    assert all(run.__name__ == 'replay' for run in replays)
    assert len(replays) == (1 if 'network' in options else 3)  # lengths of texts


def test_a_step_waits_for_nothing(build_on_gpu, loader, batches):
    model = build_on_gpu()
    dataset = loader(augment={'resize': [32, 32]}).dataset
    batch = model.fixed.padder([dataset[i] for i in range(4)])
    batch = {k: v.pin_memory() if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
    for number in range(2):
        model.feed_data(batch)
        model.optimize_parameters(number + 1)
    torch.cuda.set_sync_debug_mode('error')
    try:
        for number in range(2, 6):
            model.feed_data(batch)
            model.optimize_parameters(number + 1)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert math.isfinite(model.get_current_log()['l_mos'])


def test_a_loss_that_cannot_be_captured_is_computed_without(build_on_gpu, batches, pyiqa_log):
    plain, model = build_on_gpu(train={'cuda_graph': False}), build_on_gpu()
    loss = model.fixed.criterion

    def waiting(predicted, rated):
        assert math.isfinite(predicted.sum().item())
        return loss(predicted, rated)

    model.fixed.criterion = waiting
    losses = train_steps(plain, batches, 6), train_steps(model, batches, 6)
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert 'could not be captured as a CUDA graph' in pyiqa_log.text


def test_a_batch_that_is_not_full_between_captured_ones(build_on_gpu, batches):
    batches[1]['read_error'][2] = 'damaged'
    plain, captured = build_on_gpu(train={'cuda_graph': False}), build_on_gpu()
    losses = train_steps(plain, batches, 6), train_steps(captured, batches, 6)
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


def test_batch_statistics_are_those_of_the_steps_alone(build_on_gpu, batches):
    """A capture is preceded by runs that must leave no trace."""
    network = {'backbone': 'EfficientNet-Lite0', 'variant': 'image'}
    small = [{**batch, 'img': torch.rand(4, 3, 224, 224)} for batch in batches]
    plain = build_on_gpu(network=network, train={'cuda_graph': False})
    captured = build_on_gpu(network=network)
    for model in (plain, captured):
        train_steps(model, small, 3)
    counts = [
        {int(b) for name, b in model.net.named_buffers() if name.endswith('num_batches_tracked')}
        for model in (plain, captured)
    ]
    assert counts == [{3}, {3}]


def test_auto_is_bf16_on_this_gpu(build_on_gpu):
    expected = 'bf16' if torch.cuda.is_bf16_supported() else 'fp32'
    assert build_on_gpu(train={'precision': 'auto'}).net.backbone.runner.precision == expected


@pytest.mark.slow
def test_compiled_encoders_in_the_captured_step(build_on_gpu, batches):
    plain, compiled = build_on_gpu(), build_on_gpu(network={'compile': True})
    compiled.net.load_state_dict(plain.net.state_dict())
    losses = train_steps(plain, batches, 6), train_steps(compiled, batches, 6)
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)


# Batches


def pinned(batch):
    return {k: v.pin_memory() if isinstance(v, torch.Tensor) else v for k, v in batch.items()}


@pytest.mark.parametrize('bad', [None, 1])
def test_a_batch_of_bytes_comes_to_the_gpu_without_a_wait(build_on_gpu, loader, bad):
    dataset = loader(augment={'resize': [32, 32]}).dataset
    dataset.gives_bytes = True
    model = build_on_gpu()
    batch = pinned(default_collate([dataset[i] for i in range(4)]))
    assert batch['img'].dtype == torch.uint8
    model.feed_data(batch)  # reads the levels of the network once
    if bad is not None:
        batch['read_error'][bad] = 'damaged'
    torch.cuda.set_sync_debug_mode('error')
    try:
        model.feed_data(batch)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    kept = [i for i in range(4) if i != bad]
    expected = batch['img'][kept].float() / 255
    torch.testing.assert_close(model.img_input.cpu(), expected, atol=1e-7, rtol=0)


# Trainings


@pytest.fixture
def options(training_options, shared_rated_images, tmp_path):
    def options(name='tiny', workers=2, **train):
        opt = training_options(shared_rated_images, name)
        opt.update(num_gpu=1)
        opt['datasets']['train']['num_worker_per_gpu'] = workers
        opt['train'].update(total_epoch=2, **train)
        opt['logger'].update(use_tb_logger=False, save_latest_freq=1)
        return write_options(tmp_path / f'{name}.yml', opt)

    return options


def weights(root):
    return load_weights(root / 'experiments' / 'tiny' / 'models' / 'net_latest.pth')


def test_a_deterministic_training_resumes_bit_for_bit(options, tmp_path):
    whole, resumed = tmp_path / 'whole', tmp_path / 'resumed'
    for root in (whole, resumed):
        run_train(options(deterministic=True), [], root)
    states = resumed / 'experiments' / 'tiny' / 'training_states'
    for state in states.glob('*.state'):
        if int(state.stem) > 5:
            state.unlink()
    assert list(states.glob('*.state'))
    run_train(options(deterministic=True), ['--auto_resume'], resumed)
    assert same_weights(weights(whole), weights(resumed))


def test_workers_change_no_weight(options, tmp_path):
    for workers in (0, 2):
        run_train(options(workers=workers, deterministic=True), [], tmp_path / str(workers))
    assert same_weights(weights(tmp_path / '0'), weights(tmp_path / '2'))


def test_one_process_of_torchrun(options, tmp_path):
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=1']
    command += ['-m', 'pyiqa_amhp', 'train', '-opt', str(options())]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert 'End of training' in read_log(tmp_path)


# Scoring


@pytest.fixture
def paths(shared_rated_images):
    return sorted((shared_rated_images.parent / 'images').glob('*.png'))


@pytest.mark.parametrize('precision', ['fp32', 'fp16', 'bf16'])
def test_scores_are_those_of_the_cpu(make_amhp, paths, tmp_path, precision):
    texts = (['warm light', None] * len(paths))[: len(paths)]
    net = make_amhp()
    save_checkpoint(tmp_path / 'amhp.pth', net.state_dict())
    on_cpu = list(score_images(paths, texts, net.eval()))
    net = type(net)(pretrained_model_path=str(tmp_path / 'amhp.pth'), precision=precision)
    on_gpu = list(score_images(paths, texts, Scorer(net.eval().to(GPU))))
    tolerance = {'fp32': 1e-3, 'fp16': 0.03, 'bf16': 0.1}[precision]  # on 1..10
    for a, b in zip(on_cpu, on_gpu, strict=True):
        assert (a.path, a.prompt_source, a.error) == (b.path, b.prompt_source, b.error)
        assert b.score == pytest.approx(a.score, abs=tolerance)


def test_processes_and_threads_give_equal_scores(make_amhp, paths, tmp_path):
    (tmp_path / 'bad.png').write_bytes(b'no image')
    files = [*paths, tmp_path / 'bad.png', *paths]
    net = make_amhp().eval().to(GPU)
    threads, processes = (
        list(score_images(files, None, net, 4, workers=2, processes=choice))
        for choice in (False, True)
    )
    assert threads == processes
    assert [bool(result.error) for result in threads].index(True) == len(paths)


def test_converted_weights_are_renewed_and_gradients_use_autocast(make_amhp):
    net = make_amhp(precision='fp16').eval().to(GPU)
    x = torch.randn(2, 3, 32, 32, device=GPU)
    with torch.no_grad():
        before = net.backbone.encode_image(x)
        copied = net.backbone.runner._copy._clip
        assert next(copied.parameters()).dtype == torch.float16
        net.backbone.clip.visual.conv1.weight.mul_(1.5)
        after = net.backbone.encode_image(x)
    assert before.dtype == after.dtype == torch.float32 and not torch.equal(before, after)
    net.backbone.encode_image(x).sum().backward()
    assert net.backbone.clip.visual.conv1.weight.grad.dtype == torch.float32


def test_scoring_of_many_chooses_for_the_gpu(make_amhp, monkeypatch):
    assert default_precision('AMHP', GPU) == 'fp16'
    assert Scorer(make_amhp().eval().to(GPU)).batch_size == 256
