"""``AMHPModel`` without a loop: parameter groups, steps, the best model, checkpoints."""

import dataclasses

import numpy as np
import pytest
import torch
from pyiqa.models import build_model

from pyiqa_amhp.datasets.ratings import REFERENCE_PARA_LEVEL_VALUES
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.model.config import VARIANTS
from pyiqa_amhp.train.state import read_state


@pytest.fixture
def batch(loader):
    return next(iter(loader()))


def snapshot(net):
    return {name: parameter.detach().clone() for name, parameter in net.named_parameters()}


def moved(model, before):
    """Return the parts of the network that changed."""
    after = snapshot(model.net)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    parts = {'backbone.clip.visual': 'image', 'backbone.clip': 'text'}
    return {next((p for start, p in parts.items() if n.startswith(start)), n) for n in changed}


# Parameter groups


def groups_by_name(model):
    names = {id(parameter): name for name, parameter in model.net.named_parameters()}
    return [
        (
            {names[id(parameter)] for parameter in group['params']},
            group['lr'],
            group['weight_decay'],
        )
        for group in model.optimizer.param_groups
    ]


def test_by_default_one_group_has_every_parameter(build):
    model = build()
    [(names, lr, decay)] = groups_by_name(model)
    assert names == {name for name, _ in model.net.named_parameters()}
    assert (lr, decay) == (0.01, 1e-3)


def test_the_backbone_may_have_a_learning_rate_of_its_own(build):
    model = build(optim={'lr_backbone': 1e-4})
    (backbone, lr, decay), (head, head_lr, head_decay) = groups_by_name(model)
    assert (lr, head_lr) == (1e-4, 0.01)
    assert (decay, head_decay) == (1e-3, 1e-3)
    assert head == {'fc.weight', 'fc.bias', 'logit_scale'}
    assert backbone == {n for n, _ in model.net.named_parameters() if n.startswith('backbone.')}
    for part in ('visual.conv1.weight', 'token_embedding.weight', 'text_projection'):
        assert f'backbone.clip.{part}' in backbone  # both encoders


@pytest.mark.parametrize(
    ('variant', 'optim'),
    [
        *((variant, {'lr_backbone': 1e-4}) for variant in VARIANTS),
        ('all', {'lr_backbone': 1e-4, 'lr_logit_scale': 1e-3}),
        ('all', {'lr_visual': 1e-5, 'lr_backbone': 1e-4}),
        ('all', {'lr_nothing_of_this_name': 1e-4}),
    ],
)
def test_no_parameter_is_lost_and_none_is_in_two_groups(build, variant, optim):
    model = build(optim=optim, network={'variant': variant})
    grouped = [id(p) for group in model.optimizer.param_groups for p in group['params']]
    assert len(grouped) == len(set(grouped))
    trained = {id(p) for p in model.net.parameters() if p.requires_grad}
    assert set(grouped) == trained


@pytest.mark.parametrize(
    ('optim', 'expected'),
    [
        ({'lr_backbone': 1e-4, 'weight_decay': 0.2}, [0.2, 0.2]),
        ({'lr_backbone': 1e-4, 'weight_decay': 0.2, 'weight_decay_backbone': 0.5}, [0.5, 0.2]),
        ({'lr_backbone': 1e-4, 'weight_decay': 0}, [0, 0]),
        ({'lr_visual': 1e-4, 'lr_backbone': 1e-5, 'weight_decay': 0.3}, [0.3, 0.3, 0.3]),
    ],
)
def test_weight_decay_applies_to_every_group_unless_it_has_its_own(build, optim, expected):
    assert [decay for _, _, decay in groups_by_name(build(optim=optim))] == expected


def test_without_a_weight_decay_it_is_the_papers(build):
    model = build()
    model.opt['train']['optim'] = {'type': 'AdamW', 'lr': 0.01, 'lr_backbone': 1e-4}
    model.setup_optimizers()
    assert [decay for _, _, decay in groups_by_name(model)] == [1e-3, 1e-3]


@pytest.mark.parametrize(
    ('optim', 'fused'),
    [
        ({'type': 'AdamW'}, True),
        ({'type': 'SGD'}, True),
        ({'type': 'AdamW', 'fused': False}, False),
        ({'type': 'AdamW', 'foreach': True}, None),
    ],
)
def test_the_optimizer_is_fused_unless_the_options_choose(build, optim, fused):
    model = build(optim={'lr': 0.01, **optim})
    assert {group['fused'] for group in model.optimizer.param_groups} == {fused}


def test_weight_decay_shrinks_every_parameter(build):
    model = build(optim={'lr': 0.5, 'lr_backbone': 0.25, 'weight_decay': 0.1})
    before = snapshot(model.net)
    for parameter in model.net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    model.optimizer.step()
    for name, parameter in model.net.named_parameters():
        kept = 1 - 0.1 * (0.25 if name.startswith('backbone.') else 0.5)
        torch.testing.assert_close(parameter.detach(), before[name] * kept, msg=name)


# Steps

MOVED = {
    'image': {'image', 'level_vectors', 'logit_scale'},
    'image+attributes': {'image', 'text', 'fc.weight', 'fc.bias', 'level_vectors', 'logit_scale'},
    'image+levels': {'image', 'text', 'logit_scale'},
    'all': {'image', 'text', 'fc.weight', 'fc.bias', 'logit_scale'},
}


@pytest.mark.parametrize('protocol', ['paper', 'reference'])
@pytest.mark.parametrize('variant', VARIANTS)
def test_a_step_trains_every_part_of_each_variant(build, loader, variant, protocol):
    # no decay, so that a part which no gradient reaches stays as it was
    model = build(
        network={'variant': variant, 'protocol': protocol, 'fc_init': 'default'},
        optim={'weight_decay': 0},
        train={'mos_loss_opt': {'type': 'AMHPEMDLoss', 'protocol': protocol}},
    )
    before = snapshot(model.net)
    for step, data in enumerate(loader(protocol=protocol), start=1):
        model.feed_data(data)
        model.optimize_parameters(step)
        assert np.isfinite(model.get_current_log()['l_mos'])
    assert moved(model, before) == MOVED[variant]


def test_the_loss_that_is_logged_is_eq_8_of_the_batch(build, batch):
    model = build()
    model.net.eval()
    with torch.no_grad():
        _, p = model.net(batch['img'], text=batch['text'], return_mos=True, return_dist=True)
    off = (p.cumsum(1) - batch['mos_dist'].cumsum(1)).double()
    model.feed_data(batch)
    model.optimize_parameters(1)
    expected = off.square().mean(dim=1).sqrt().mean().item()
    assert model.get_current_log() == {'l_mos': pytest.approx(expected, rel=1e-4)}


def test_the_reference_loss_weights_each_image_by_its_ratings(build, batch):
    options = {'type': 'AMHPEMDLoss', 'r': 1, 'protocol': 'reference'}
    model = build(train={'mos_loss_opt': options})
    with torch.no_grad():
        _, p = model.net(batch['img'], text=batch['text'], return_mos=True, return_dist=True)
    q = batch['mos_dist']
    distance = (p.cumsum(1) - q.cumsum(1)).abs().mean(dim=1)
    model.feed_data(batch)
    model.optimize_parameters(1)
    expected = (distance * (1.2 - q.square().sum(dim=1))).mean().item()
    assert model.get_current_log() == {'l_mos': pytest.approx(expected, rel=1e-4)}


def test_texts_change_the_loss(build, batch):
    logs = []
    for texts in (batch['text'], [''] * 4):
        model = build(network={'fc_init': 'default'})
        model.feed_data({**batch, 'text': texts})
        model.optimize_parameters(1)
        logs.append(model.get_current_log()['l_mos'])
    assert logs[0] != logs[1]


def test_a_loss_of_scores_may_be_added(build, batch):
    model = build(train={'metric_loss_opt': {'type': 'PLCCLoss'}})
    model.feed_data(batch)
    model.optimize_parameters(1)
    log = model.get_current_log()
    assert log.keys() == {'l_mos', 'l_metric'}
    assert np.isfinite(list(log.values())).all()


def test_no_loss_at_all_is_an_error(build, batch):
    model = build(train={'mos_loss_opt': None})
    model.feed_data(batch)
    with pytest.raises(AMHPError, match='no loss; give mos_loss_opt'):
        model.optimize_parameters(1)


def with_errors(batch, *rows):
    errors = ['cannot be read' if i in rows else '' for i in range(len(batch['img']))]
    return {**batch, 'read_error': errors}


def test_a_step_leaves_out_unreadable_images(build, batch):
    part, whole = build(), build()
    part.feed_data(with_errors(batch, 1, 2))
    whole.feed_data({key: [value[0], value[3]] if isinstance(value, list) else value[[0, 3]]
                     for key, value in batch.items()})  # fmt: skip
    for model in (part, whole):
        model.optimize_parameters(1)
    assert part.get_current_log() == whole.get_current_log()
    assert set(part.unreadable) == {batch['img_path'][1], batch['img_path'][2]}
    assert not moved(part, snapshot(whole.net))


def test_a_batch_without_a_readable_image_changes_nothing(build, batch):
    model = build()
    before = snapshot(model.net)
    model.feed_data(with_errors(batch, 0, 1, 2, 3))
    model.optimize_parameters(1)
    assert not moved(model, before)
    assert model.get_current_log() == {}
    with pytest.raises(AMHPError, match=r'not one step was made\. 4 images'):
        model.update_learning_rate(2)


def test_a_validation_of_one_image_is_refused(build, loader):
    val = loader('val')
    val.dataset.images = dataclasses.replace(
        val.dataset.images,
        **{
            name: getattr(val.dataset.images, name)[:1]
            for name in ('names', 'mos', 'dist', 'texts')
        },
    )
    with pytest.raises(AMHPError, match='one image'):
        build().nondist_validation(val, 1, None, False)


def test_ratings_on_another_scale_than_the_network_are_refused(build, loader):
    model = build(network={'level_values': [1, 2, 3, 4, 5]})
    with pytest.raises(AMHPError, match=r'level_values \[1.5, .* network on \[1.0, '):
        model.feed_data(next(iter(loader())))


# The best model


def test_a_worse_model_does_not_replace_the_best(build, loader, tmp_path):
    model = build(val={'key_metric': 'mse'})
    val = loader('val')
    errors = []
    for iteration, values in enumerate(([4.0, 4, 5, 5.5, 6], [0.0, 0, 0, 0, 1], [4.0, 4, 5, 6, 7])):
        model.net.level_values.copy_(torch.tensor(values))  # the middle one is far off
        val.dataset.images = dataclasses.replace(val.dataset.images, level_values=np.array(values))
        with torch.no_grad():
            model.net.logit_scale.fill_(float(iteration))  # identifies the model
        model.nondist_validation(val, iteration, None, False)
        errors.append(model.metric_results['mse'])
        best = int(np.argmin(errors))
        assert model.best_metric_results['custom_val']['mse'] == {
            'better': 'lower', 'val': errors[best], 'iter': best,
        }  # fmt: skip
        saved = torch.load(tmp_path / 'net_best.pth', weights_only=True)['params']
        assert saved['logit_scale'] == best
    assert errors[1] == max(errors)


def test_higher_is_better_unless_the_options_say_lower(build):
    model = build(val={'key_metric': 'srcc'})
    model._initialize_best_metric_results('set')
    best = []
    for iteration, (srcc, mse) in enumerate([(0.1, 1), (0.5, 3), (0.4, 2)]):
        model.metric_results = dict.fromkeys(model.opt['val']['metrics'], mse)
        model.metric_results['srcc'] = srcc
        best.append(model._update_best('set', iteration))
    assert best == [True, True, False]
    assert model.best_metric_results['set']['srcc']['val'] == 0.5
    assert model.best_metric_results['set']['mse']['val'] == 3  # of the same model, not the lowest


def test_without_a_key_metric_any_metric_that_gets_better_makes_a_best_model(build):
    model = build()
    del model.opt['val']['key_metric']
    model._initialize_best_metric_results('set')
    best = []
    for iteration, (srcc, others) in enumerate([(0.1, 1), (0.5, 2), (0.4, 3)]):
        worse = dict.fromkeys(('acc', 'plcc', 'krcc'), -others)
        worse |= dict.fromkeys(('mse', 'emd1', 'emd2'), others)
        model.metric_results = {**worse, 'srcc': srcc}
        best.append(model._update_best('set', iteration))
    assert best == [True, True, False]
    kept = model.best_metric_results['set']
    assert (kept['srcc']['val'], kept['mse']['val'], kept['acc']['val']) == (0.5, 1, -1)


def test_validation_sees_images_as_scoring_does(build, loader):
    val = loader('val', augment={'resize': [32, 32]})  # in training these would not be resized
    model = build()
    predicted = model.predict(val)
    data = next(iter(val))
    model.net.eval()
    with torch.no_grad():
        expected = model.net(data['img'], text=data['text'])[:, 0]
    np.testing.assert_allclose(predicted['score'][: len(expected)], expected, rtol=1e-5)


def test_validation_leaves_the_network_in_the_mode_it_was_in(build, loader):
    model = build()
    for training in (True, False):
        model.net.train(training)
        model.predict(loader('val'))
        assert model.net.training is training


def test_predictions_do_not_depend_on_the_batch(build, loader):
    model = build(is_train=False)
    one, four = (model.predict(loader('val', batch_size_per_gpu=n)) for n in (1, 4))
    assert one['img_path'].tolist() == four['img_path'].tolist()
    np.testing.assert_allclose(one['score'], four['score'], rtol=1e-5)


# Checkpoints


def test_a_checkpoint_gives_the_scores_of_the_network_that_was_trained(build, loader, tmp_path):
    import pyiqa

    model = build()
    for step, data in enumerate(loader(), start=1):
        model.feed_data(data)
        model.optimize_parameters(step)
    model.save(0, 3)
    data = next(iter(loader('val')))
    model.net.eval()
    with torch.no_grad():
        expected = model.net(data['img'], text=data['text'])
    path = str(tmp_path / 'net_3.pth')
    assert torch.load(path, weights_only=True).keys() == {'params'}
    metric = pyiqa.create_metric('amhp', pretrained_model_path=path, device='cpu')
    torch.testing.assert_close(metric(data['img'], text=data['text']), expected)


@pytest.mark.parametrize(
    ('label', 'iteration', 'name'),
    [('net', 20, 'net_20.pth'), ('net', -1, 'net_latest.pth'), ('net_best', None, 'net_best.pth')],
)
def test_checkpoints_have_pyiqas_names(build, tmp_path, label, iteration, name):
    model = build()
    model.save_network(model.net, label, iteration)
    assert [path.name for path in tmp_path.glob('*.pth')] == [name]


def test_a_checkpoint_carries_the_configuration(build, tmp_path):
    options = {'protocol': 'reference', 'level_values': None, 'dataset': 'para', 'tau': 0.1}
    model = build(network=options)
    model.save_network(model.net, 'net', -1)
    config = AMHP(pretrained_model_path=str(tmp_path / 'net_latest.pth')).config
    assert config == model.net.config
    assert config.level_values == REFERENCE_PARA_LEVEL_VALUES


def test_training_starts_with_the_weights_of_a_checkpoint(build, tmp_path):
    first = build()
    first.save_network(first.net, 'net', -1)
    path = {'pretrain_network': str(tmp_path / 'net_latest.pth')}
    second = build(seed=1, path=path)
    assert not moved(second, snapshot(first.net))
    assert moved(build(seed=1), snapshot(first.net))


@pytest.mark.filterwarnings('ignore:Detected call of')  # the scheduler's, about this order
def test_resuming_counts_the_steps_made_before(build, batch, tmp_path):
    first = build()
    first.feed_data(batch)
    first.optimize_parameters(1)
    first.save_training_state(0, 1)
    second = build(seed=1)
    second.resume_training(read_state(tmp_path / '1.state'))
    assert not moved(second, snapshot(first.net))
    second.update_learning_rate(2)  # an error if no step had been made
    assert second.optimizer.state_dict()['state']


def test_a_state_of_another_model_is_refused(build):
    with pytest.raises(AMHPError, match='not written by AMHPModel'):
        build().resume_training({'iter': 1, 'optimizers': [], 'schedulers': []})


def test_one_process_with_several_gpus_is_refused(build):
    opt = build().opt
    opt['train']['optim']['type'], opt['train']['scheduler']['type'] = 'AdamW', 'CosineAnnealingLR'
    with pytest.raises(AMHPError, match='torchrun --nproc_per_node=4'):
        build_model({**opt, 'num_gpu': 4})
