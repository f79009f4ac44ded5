"""Steps of the optimizer: accumulation, precision, clipping, averages, schedules, bad losses."""

import math

import pytest
import torch

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.train.optim import set_precision, torch_settings_kept


@pytest.fixture
def batches(loader):
    """Three batches of four images each, and one of all twelve."""
    small = list(loader(augment={'resize': [32, 32]}, use_shuffle=False))
    large = next(iter(loader(augment={'resize': [32, 32]}, batch_size_per_gpu=12)))
    order = [large['img_path'].index(path) for batch in small for path in batch['img_path']]
    assert sorted(order) == list(range(12))
    return small, large


def gradients(model):
    return {name: p.grad.clone() for name, p in model.net.named_parameters() if p.grad is not None}


def feed(model, batch, iteration=1):
    model.feed_data(batch)
    model.optimize_parameters(iteration)


@pytest.fixture
def keep_gradients(monkeypatch):
    """Return a function that stops an optimizer from changing weights and gradients."""

    def keep(model):
        monkeypatch.setattr(model.optimizer, 'step', lambda: None)
        monkeypatch.setattr(model.optimizer, 'zero_grad', lambda set_to_none=True: None)

    return keep


@pytest.mark.parametrize('bad', [(), (0,), (0, 1, 2, 3)])
def test_accumulated_gradients_are_those_of_the_large_batch(build, batches, keep_gradients, bad):
    small, large = batches
    for i in bad:  # images that cannot be read leave a batch smaller than the others
        small[0]['read_error'][i] = 'damaged'
        large['read_error'][large['img_path'].index(small[0]['img_path'][i])] = 'damaged'
    one = build(network={'fc_init': 'default'})
    many = build(network={'fc_init': 'default'}, train={'accumulate': 3})
    for model in (one, many):
        keep_gradients(model)
    one.stepper.batch_size = 12
    feed(one, large)
    for number, batch in enumerate(small):
        feed(many, batch, number + 1)
    many.end_epoch()
    a, b = gradients(one), gradients(many)
    assert a.keys() == b.keys() and one.stepper.steps == many.stepper.steps == 1
    largest = max(x.abs().max() for x in a.values())
    for name in a:
        assert (a[name] - b[name]).abs().max() <= 1e-5 * largest, name


def test_a_step_is_made_after_accumulate_batches_and_at_the_end_of_an_epoch(build, batches):
    model = build(train={'accumulate': 2})
    steps = []
    for number, batch in enumerate(batches[0]):
        feed(model, batch, number + 1)
        steps.append(model.stepper.steps)
    assert steps == [0, 1, 1] and model.stepper.pending == 1
    model.end_epoch()
    assert model.stepper.steps == 2 and model.stepper.pending == 0


@pytest.mark.parametrize(
    'loss', [{'mos_loss_opt': {'type': 'AMHPEMDLoss', 'root': 'batch'}},
             {'metric_loss_opt': {'type': 'PLCCLoss'}}],
)  # fmt: skip
def test_losses_that_compare_images_cannot_be_accumulated(build, loss):
    with pytest.raises(AMHPError, match='accumulate needs a loss that is a mean over images'):
        build(train={'accumulate': 2, **loss})


@pytest.mark.parametrize(
    'wrong',
    [{'accumulate': 0}, {'accumulate': 1.5}, {'clip_grad_norm': -1}, {'ema_decay': 1},
     {'precision': 'int8'}, {'nonfinite': 'ignore'}, {'schedule_by': 'minute'},
     {'accumulate': True}],
)  # fmt: skip
def test_options_that_are_not_allowed_are_named(build, wrong):
    with pytest.raises(AMHPError, match=next(iter(wrong))):
        build(train=wrong)


def test_the_norm_of_the_gradient_is_clipped(build, batches, keep_gradients):
    norms = []
    for limit in (None, 0.01):
        model = build(train={'clip_grad_norm': limit})
        keep_gradients(model)
        feed(model, batches[0][0])
        norms.append(math.sqrt(sum(g.square().sum() for g in gradients(model).values())))
    assert norms[0] > 0.02 and norms[1] == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize('precision', ['auto', 'tf32'])
def test_what_only_a_gpu_has_is_fp32_on_a_cpu(build, batches, precision):
    losses = []
    for name in ('fp32', precision):
        model = build(train={'precision': name})
        assert model.net.backbone.runner.precision == 'fp32'
        assert model.record.content['train']['precision'] == 'fp32'
        for number, batch in enumerate(batches[0]):
            feed(model, batch, number + 1)
        losses.append(model.get_current_log()['l_mos'])
    assert losses[0] == losses[1]


@pytest.mark.parametrize(('has_bf16', 'expected'), [(True, 'bf16'), (False, 'fp32')])
def test_auto_is_bf16_on_a_gpu_that_computes_in_it(make_amhp, monkeypatch, has_bf16, expected):
    net = make_amhp()
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda: has_bf16)
    on_gpu = type('Parameter', (), {'device': torch.device('cuda')})
    monkeypatch.setattr(net, 'parameters', lambda: iter([on_gpu()]))
    assert set_precision(net, {'precision': 'auto'}) == expected


def test_settings_of_torch_are_restored_after_a_training():
    before = torch.get_float32_matmul_precision()
    with torch_settings_kept():
        torch.set_float32_matmul_precision('high')
        torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.get_float32_matmul_precision() == before
    assert not torch.are_deterministic_algorithms_enabled()


def test_deterministic_uses_torchs_deterministic_algorithms(build):
    with torch_settings_kept():
        build(train={'deterministic': True})
        assert torch.are_deterministic_algorithms_enabled()
    with pytest.raises(AMHPError, match="deterministic='yes': expected true or false"):
        build(train={'deterministic': 'yes'})


@pytest.mark.parametrize('precision', ['bf16', 'fp16'])
def test_half_precision_trains_what_single_precision_trains(build, batches, precision):
    losses = {}
    for name in ('fp32', precision):
        model = build(train={'precision': name}, network={'fc_init': 'default'})
        losses[name] = []
        for iteration in range(1, 13):
            feed(model, batches[0][0], iteration)
            losses[name].append(model.get_current_log()['l_mos'])
        assert all(p.dtype == torch.float32 for p in model.net.parameters())
    assert losses[precision][-1] < 0.8 * losses[precision][0]
    assert losses[precision] != losses['fp32']
    assert losses[precision][0] == pytest.approx(losses['fp32'][0], abs=0.01)


def test_steps_that_overflow_in_fp16_are_left_out_and_counted(build, batches):
    model = build(train={'precision': 'fp16'})
    before = {name: p.clone() for name, p in model.net.named_parameters()}
    model.stepper.scaler = torch.amp.GradScaler('cpu', init_scale=2.0**40)
    feed(model, batches[0][0])
    assert model.stepper.overflows == 1 and model.stepper.steps == 0
    assert all(torch.equal(before[name], p) for name, p in model.net.named_parameters())


def test_gradient_checkpointing_changes_no_gradient(build, batches, keep_gradients):
    found = []
    for on in (False, True):
        model = build(train={'gradient_checkpointing': on})
        keep_gradients(model)
        encoder = model.net.backbone.clip.visual.transformer
        assert encoder.grad_checkpointing is on
        feed(model, batches[0][0])
        found.append(gradients(model))
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-6) for name in found[0])


def make_loss_nan(model, iteration):
    """Make the loss of one iteration NaN."""
    real, calls = model.cri_mos, iter(range(1, 100))

    def loss(p, q):
        return real(p, q) * (math.nan if next(calls) == iteration else 1)

    model.cri_mos = loss


def test_a_loss_that_is_not_finite_stops_with_the_names_of_the_files(build, batches):
    model = build()
    make_loss_nan(model, 1)
    with pytest.raises(AMHPError, match='the loss is nan') as error:
        feed(model, batches[0][0])
    assert all(path in str(error.value) for path in batches[0][0]['img_path'])


def test_a_loss_that_is_not_finite_can_be_left_out_and_counted(build, batches, pyiqa_log):
    model = build(train={'nonfinite': 'skip'})
    make_loss_nan(model, 2)
    feed(model, batches[0][0], 1)
    before = {name: p.clone() for name, p in model.net.named_parameters()}
    feed(model, batches[0][1], 2)
    assert all(torch.equal(before[name], p) for name, p in model.net.named_parameters())
    assert (model.stepper.skipped, model.stepper.steps) == (1, 1)
    assert batches[0][1]['img_path'][0] in pyiqa_log.text
    feed(model, batches[0][2], 3)
    assert model.stepper.steps == 2


def test_the_average_is_what_is_validated_and_saved(build, batches, loader, tmp_path):
    model = build(train={'ema_decay': 0.5})
    first = model.net.fc.weight.detach().clone()
    feed(model, batches[0][0], 1)
    assert torch.equal(model.eval_net().fc.weight, model.net.fc.weight)  # the first step's
    second = model.net.fc.weight.detach().clone()
    feed(model, batches[0][1], 2)
    expected = (second + model.net.fc.weight) / 2
    average = model.eval_net().fc.weight
    assert torch.allclose(average, expected, atol=1e-7)
    assert not torch.equal(first, second) and not torch.equal(average, model.net.fc.weight)
    model.save(0, -1)
    saved = torch.load(tmp_path / 'net_latest.pth', weights_only=True)['params']['fc.weight']
    assert torch.equal(saved, average)
    scores = model.predict(loader('val'))['score']
    model.stepper._average = None
    assert not scores.equals(model.predict(loader('val'))['score'])


def rates(model, batches, epochs=2):
    """Train, and return the learning rate of every step."""
    found = []
    for epoch in range(epochs):
        for batch in batches:
            found.append(model.get_current_learning_rate()[0])
            feed(model, batch, len(found))
        model.update_learning_rate(epoch + 2, -1)
    return found


def test_a_schedule_by_epochs_is_that_of_the_authors(build, batches):
    model = build(train={'scheduler': {'type': 'CosineAnnealingLR', 'T_max': 2}})
    assert rates(model, batches[0]) == pytest.approx([0.01] * 3 + [0.005] * 3)


def test_a_schedule_by_steps_warms_up_from_the_first_one(build, batches):
    model = build(
        train={
            'schedule_by': 'step', 'warmup_iter': 2, 'total_iter': 6,
            'scheduler': {'type': 'CosineAnnealingLR', 'T_max': None},
        }
    )  # fmt: skip
    cosine = [0.005 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    assert rates(model, batches[0]) == pytest.approx([0.01 / 3, 0.02 / 3, *cosine])
