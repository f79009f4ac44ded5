"""``FixedStep``: the training step that a GPU replays gives what the plain step does.

A GPU is not needed: only the capture is left out on a CPU. ``test_gpu.py`` has the capture.
"""

import copy
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from train_helpers import (
    largest_difference,
    load_weights,
    read_log,
    same_weights,
    train_steps,
    with_texts,
    write_options,
)

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.train import step
from pyiqa_amhp.train.pipeline import run_train
from pyiqa_amhp.train.step import TextPadder

STEPS = 20


@pytest.fixture
def fixed(monkeypatch):
    """Use ``FixedStep`` on the CPU."""
    monkeypatch.setattr(step, 'DEVICES', ('cuda', 'cpu'))


@pytest.fixture
def batches(loader):
    """Batches of four images each, all of one size, some of them without a text."""
    return with_texts(list(loader(augment={'resize': [32, 32]}, use_shuffle=False)))


OPTIONS = [
    {},
    {'network': {'variant': 'image'}},
    {'network': {'variant': 'image+attributes'}},
    {'network': {'variant': 'image+levels'}},
    {'train': {'clip_grad_norm': 0.01}},
    {'train': {'ema_decay': 0.9}},
    {'train': {'schedule_by': 'step', 'total_iter': STEPS, 'warmup_iter': 5}},
    {'optim': {'lr': 1e-3, 'lr_backbone': 1e-4, 'eps': 1e-5}},
    {'train': {'mos_loss_opt': {'type': 'AMHPEMDLoss', 'root': 'batch'}}},
]


@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_losses_and_weights_are_those_of_the_plain_step(build, batches, monkeypatch, options):
    # AdamW would make whole steps of gradients that are rounding alone.
    options = {**options, 'optim': {'lr': 1e-3, 'eps': 1e-5, **options.get('optim', {})}}
    network = {'fc_init': 'default', **options.get('network', {})}
    if network.get('variant') == 'image+attributes':
        batches = [batches[0], batches[2]]  # the plain step leaves a text encoder without texts out
    options = {**options, 'network': network}
    plain = build(**copy.deepcopy(options))
    assert plain.fixed is None
    monkeypatch.setattr(step, 'DEVICES', ('cpu',))
    fixed = build(**copy.deepcopy(options))
    assert fixed.fixed is not None and largest_difference(plain, fixed) == 0
    start = copy.deepcopy(fixed.net)
    losses = train_steps(plain, batches), train_steps(fixed, batches)
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert largest_difference(plain, fixed) < 1e-4
    pairs = zip(start.parameters(), fixed.net.parameters(), strict=True)
    assert max((p - q).abs().max() for p, q in pairs) > 5e-3
    assert fixed.stepper.steps == plain.stepper.steps == STEPS
    if plain.stepper.average is not None:
        a, b = plain.stepper.average.parameters(), fixed.stepper.average.parameters()
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(x, y, atol=1e-4, rtol=0)


def test_a_batch_that_is_not_full_takes_the_plain_step_between_fixed_ones(
    build, batches, monkeypatch
):
    batches[1]['read_error'][2] = 'damaged'
    plain = build(optim={'lr': 1e-3, 'eps': 1e-5})
    monkeypatch.setattr(step, 'DEVICES', ('cpu',))
    fixed = build(optim={'lr': 1e-3, 'eps': 1e-5})
    calls = []
    monkeypatch.setattr(type(fixed.fixed), '__call__', spy(type(fixed.fixed).__call__, calls))
    losses = train_steps(plain, batches, 6), train_steps(fixed, batches, 6)
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert len(calls) == 4 and largest_difference(plain, fixed) < 1e-5


def spy(function, calls):
    def call(*args, **options):
        calls.append(args)
        return function(*args, **options)

    return call


# Losses that are not finite


def make_bad(batch):
    batch['mos_dist'][1, 0] = math.nan


def test_a_loss_that_is_not_finite_stops_with_the_files_of_its_batch(fixed, build, batches):
    model = build()
    make_bad(batches[1])
    for number, batch in enumerate(batches):
        model.feed_data(batch)
        model.optimize_parameters(number + 1)
    with pytest.raises(AMHPError) as error:
        model.get_current_log()
    assert 'the loss is nan after 1 steps' in str(error.value)
    assert all(path in str(error.value) for path in batches[1]['img_path'])
    assert not any(path in str(error.value) for path in batches[2]['img_path'])
    assert all(torch.isfinite(p).all() for p in model.net.parameters())


@pytest.mark.parametrize('look', ['eval_net', 'end_epoch', 'get_current_log'])
def test_nothing_is_validated_saved_or_logged_before_the_losses_were_checked(
    fixed, build, batches, look
):
    model = build()
    make_bad(batches[0])
    model.feed_data(batches[0])
    model.optimize_parameters(1)
    with pytest.raises(AMHPError, match='the loss is nan'):
        getattr(model, look)()


def test_skipped_batches_are_counted_and_leave_no_trace(fixed, build, batches, pyiqa_log):
    skipping, without = build(train={'nonfinite': 'skip'}), build(train={'nonfinite': 'skip'})
    others = [batches[0], batches[2]]
    train_steps(without, others, 4)
    make_bad(batches[1])
    for number, batch in enumerate([batches[0], batches[1], batches[2], *others]):
        skipping.feed_data(batch)
        skipping.optimize_parameters(number + 1)
    skipping.stepper.check()
    assert (skipping.stepper.steps, skipping.stepper.skipped) == (4, 1)
    assert largest_difference(skipping, without) == 0
    assert 'Left out a batch (1 so far): the loss is nan after 1 steps' in pyiqa_log.text
    state = skipping.optimizer.state_dict()['state']
    assert {float(values['step']) for values in state.values()} == {4}


def test_many_steps_are_checked_even_if_nobody_asks(fixed, build, batches, monkeypatch):
    from pyiqa_amhp.train import optim

    monkeypatch.setattr(optim, 'MAX_UNCHECKED', 3)
    model = build()
    make_bad(batches[0])
    with pytest.raises(AMHPError, match='the loss is nan after 0 steps'):
        for number in range(3):
            model.feed_data(batches[number])
            model.optimize_parameters(number + 1)


class NoWaiting(TorchDispatchMode):
    """Refuses operations for which a GPU's results would have to be waited for."""

    WAITS = ('_local_scalar_dense', 'nonzero', 'is_nonzero', 'equal', 'masked_select', 'unique')

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().removeprefix('aten::').partition('.')[0]
        assert name not in self.WAITS, f'{name} waits for the GPU'
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize('clip', [None, 1.0])
def test_a_step_waits_for_nothing(fixed, build, batches, loader, monkeypatch, clip):
    dataset = loader(augment={'resize': [32, 32]}).dataset
    samples = [dataset[i] for i in range(4)]
    model = build(train={'clip_grad_norm': clip})
    train_steps(model, batches, 3)  # the first one makes the fixed batch
    # On a CPU the fused kernels read the learning rate themselves.
    monkeypatch.setattr(model.optimizer, 'step', lambda: None)
    model.feed_data(model.fixed.padder(samples))  # its texts are tokenized, as by a loader
    with NoWaiting():
        model.optimize_parameters(4)
    with pytest.raises(AssertionError, match='waits for the GPU'), NoWaiting():
        model.get_current_log()


# Which trainings use it


def test_the_cpu_takes_the_plain_step(build):
    assert build().fixed is None


@pytest.mark.parametrize(
    ('options', 'reason'),
    [
        ({'train': {'cuda_graph': False}}, 'cuda_graph is false'),
        ({'network': {'predictor': 'feature'}}, 'it has a predictor'),
        ({'train': {'freeze': 'text'}}, 'encoders are frozen'),
        ({'train': {'metric_loss_opt': {'type': 'PLCCLoss'}}}, 'metric_loss_opt is set'),
        ({'train': {'accumulate': 2}}, 'accumulate is set'),
        ({'train': {'precision': 'fp16'}}, 'precision is fp16'),
        ({'train': {'gradient_checkpointing': True}}, 'gradient_checkpointing is set'),
        ({'train': {'nonfinite': 'skip', 'ema_decay': 0.9}}, 'nonfinite: skip is set with'),
        ({'optim': {'type': 'SGD'}}, 'the optimizer is SGD, not a fused Adam or AdamW'),
        ({'optim': {'fused': False}}, 'the optimizer is AdamW, not a fused Adam or AdamW'),
        ({'train': {'precision': 'bf16', 'ema_decay': 0.9, 'clip_grad_norm': 1}}, ''),
        ({'train': {'nonfinite': 'skip'}}, ''),
    ],
    ids=str,
)
def test_what_it_cannot_do_is_named(fixed, build, options, reason):
    model = build(**options)
    assert (model.fixed is None) == bool(reason)
    assert step.obstacle(model).startswith(reason) and bool(step.obstacle(model)) == bool(reason)


# Texts


def test_texts_are_padded_to_one_of_three_lengths(make_amhp):
    tokenizer = make_amhp().backbone.text_tokenizer
    pad = TextPadder(tokenizer).pad
    assert [pad(texts).ids.shape for texts in (['', ' '], ['soft light', ''], ['word ' * 31])] == [
        (2, 0),
        (2, 32),
        (1, 77),
    ]
    texts = pad(['warm light', '', 'word ' * 100])
    assert texts.given.tolist() == [True, False, True] and texts.cut == 1
    start = make_amhp().backbone.tokenize(['warm light'])[0].tolist()
    assert texts.ids[0].tolist() == start + [0] * (77 - len(start))


def test_compile_compiles_nothing_anew_for_texts_of_other_lengths(
    fixed, build, batches, monkeypatch
):
    from torch._dynamo.utils import counters

    compile_ = torch.compile
    monkeypatch.setattr(torch, 'compile', lambda f: compile_(f, backend='eager'))
    torch._dynamo.reset()
    plain, compiled = build(), build(network={'compile': True})
    texts = [' '.join(['soft'] * n) for n in (1, 5, 20, 35, 60, 90)]
    compiled_graphs = []
    for number, text in enumerate(texts):
        for model in (plain, compiled):
            model.feed_data({**batches[number % 3], 'text': [text] * 4})
            model.optimize_parameters(number + 1)
        assert compiled.get_current_log()['l_mos'] == pytest.approx(
            plain.get_current_log()['l_mos'], abs=1e-5
        )
        compiled_graphs.append(counters['stats']['unique_graphs'])
    assert compiled_graphs[0] == compiled_graphs[2]  # padded to 32 tokens
    assert compiled_graphs[3] == compiled_graphs[-1]  # padded to 77


# Trainings


@pytest.fixture
def options(training_options, shared_rated_images, tmp_path):
    def options(name='tiny', workers=0, **train):
        opt = training_options(shared_rated_images, name)
        opt['datasets']['train']['num_worker_per_gpu'] = workers
        opt['train'].update(total_epoch=2, **train)
        opt['logger'].update(use_tb_logger=False, save_latest_freq=1)
        return write_options(tmp_path / f'{name}.yml', opt)

    return options


def weights(root, name='tiny', file='net_latest.pth'):
    return load_weights(root / 'experiments' / name / 'models' / file)


@pytest.mark.parametrize('workers', [0, 2])
def test_a_resumed_training_ends_with_the_same_weights(fixed, options, tmp_path, workers):
    whole, resumed = tmp_path / 'whole', tmp_path / 'resumed'
    for root in (whole, resumed):
        run_train(options(workers=workers), [], root)
    assert 'kernel by kernel' not in read_log(whole)
    states = resumed / 'experiments' / 'tiny' / 'training_states'
    for state in states.glob('*.state'):
        if int(state.stem) > 5:
            state.unlink()
    assert list(states.glob('*.state'))
    run_train(options(workers=workers), ['--auto_resume'], resumed)
    assert same_weights(weights(whole), weights(resumed))


def test_a_training_that_stops_writes_no_checkpoint_after_the_bad_batch(
    fixed, options, tmp_path, monkeypatch
):
    from pyiqa_amhp.train.model import AMHPModel

    feed = AMHPModel.feed_data
    fed = []

    def feed_and_spoil(model, data):
        feed(model, data)
        fed.append(len(fed) + 1)
        if len(fed) == 2:
            model.gt_mos_dist = model.gt_mos_dist * math.nan

    monkeypatch.setattr(AMHPModel, 'feed_data', feed_and_spoil)
    with pytest.raises(AMHPError, match='the loss is nan after 1 steps; its images: '):
        run_train(options(), [], tmp_path)
    states = sorted((tmp_path / 'experiments' / 'tiny' / 'training_states').glob('*.state'))
    assert [state.stem for state in states] == ['1']
