"""Predicted first-level prompts: what is predicted, when it is used, and how it is trained."""

import json

import pandas as pd
import pytest
import torch
from torch.nn.functional import normalize

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.prompt_predictor import PredictedPrompt, feature_loss, level_loss
from pyiqa_amhp.train.pipeline import train_and_test
from pyiqa_amhp.weights.checkpoint import save_checkpoint

LEVELS = {'predictor': 'levels', 'attributes': ['light', 'depth_of_field']}


@pytest.fixture
def images():
    return torch.rand(3, 3, 40, 50, generator=torch.Generator().manual_seed(0))


def prediction_of(net, images):
    with torch.no_grad():
        return net.predict_prompt(net.backbone.encode_image(net.preprocess(images)))


def test_levels_are_told_by_the_cosine_with_their_sentences(make_amhp, images):
    net = make_amhp(**LEVELS)
    found = prediction_of(net, images)
    assert found.levels.shape == (3, 2, 5)
    assert torch.allclose(found.levels.sum(-1), torch.ones(3, 2))
    sentences = [f'A photo with {level} depth of field.' for level in net.config.levels]
    with torch.no_grad():
        Fx = net.backbone.encode_image(net.preprocess(images))
        cosines = normalize(Fx, dim=-1) @ normalize(net.backbone.encode_text(sentences), dim=-1).T
    expected = (cosines * net.predictor.logit_scale.exp()).softmax(-1)
    assert torch.allclose(found.levels[:, 1], expected, atol=1e-5)


def test_the_likeliest_levels_become_the_text(make_amhp, images):
    net = make_amhp(**LEVELS)
    found = prediction_of(net, images)
    light, depth = (net.config.levels[i] for i in found.levels[0].argmax(-1))
    assert found.texts[0] == f'A photo with {light} light. A photo with {depth} depth of field.'
    with torch.no_grad():
        assert torch.allclose(found.Ft, net.backbone.encode_text(found.texts), atol=1e-6)
        assert torch.allclose(net(images), net(images, text=found.texts), atol=1e-5)


def test_an_expectation_weighs_all_levels(make_amhp, images):
    net = make_amhp(**LEVELS, predicted_text='expectation')
    found = prediction_of(net, images)
    with torch.no_grad():
        features = normalize(net.backbone.encode_text(net.predictor.sentences), dim=-1)
    weights = found.levels.reshape(3, 10) / 2
    assert found.texts is None and torch.allclose(found.Ft, weights @ features, atol=1e-5)


@pytest.mark.parametrize(
    ('prompt_source', 'expected'),
    [
        (None, ['given', 'predicted', 'given']),
        ('given', ['given', 'none', 'given']),
        ('predicted', ['predicted'] * 3),
        ('none', ['none'] * 3),
    ],
)
@pytest.mark.parametrize('predictor', ['levels', 'feature'])
def test_each_prompt_source_uses_what_it_says(
    make_amhp, images, predictor, prompt_source, expected
):
    net = make_amhp(predictor=predictor, prompt_source=prompt_source)
    texts = ['lovely light', '', 'dull']
    assert net.prompt_sources(texts) == expected
    with torch.no_grad():
        got = net(images, text=texts)
        forms = {
            source: net(images, text=texts, prompt_source=source)
            for source in ('given', 'predicted', 'none')
        }
    for i, source in enumerate(expected):
        assert torch.allclose(got[i], forms[source][i], atol=1e-5)
    assert (forms['predicted'] - forms['none']).abs().min() > 1e-5


def test_without_a_predictor_nothing_is_new(make_amhp, images):
    net = make_amhp()
    assert not [key for key in net.state_dict() if key.startswith('predictor')]
    assert net.prompt_sources(['', 'x']) == ['none', 'given']


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ({'prompt_source': 'predicted'}, 'no predictor'),
        ({'predictor': 'levels', 'variant': 'image'}, 'reads no text'),
        ({'predictor': 'levels', 'attributes': []}, 'at least one name'),
        ({'predictor': 'levels', 'attributes': ['a', 'a']}, 'each once'),
        ({'predictor': 'levels', 'attribute_template': 'x {level}'}, '{attribute}'),
        ({'predictor': 'guess'}, 'none, levels, feature'),
    ],
)
def test_wrong_options_say_what_is_possible(make_amhp, options, expected):
    with pytest.raises(AMHPError, match=expected):
        make_amhp(**options)


def test_untrained_levels_go_over_any_checkpoint_and_a_feature_predictor_does_not(
    make_amhp, images, tmp_path
):
    import pyiqa

    file = save_checkpoint(tmp_path / 'plain.pth', make_amhp().state_dict())
    options = {'pretrained_model_path': str(file), 'device': 'cpu'}
    net = pyiqa.create_metric('amhp', **options, predictor='levels').net
    assert net.prompt_sources(['']) == ['predicted']
    with pytest.raises(AMHPError, match="trained with predictor='none'"):
        pyiqa.create_metric('amhp', **options, predictor='feature')


@pytest.mark.parametrize('predictor', ['levels', 'feature'])
def test_a_checkpoint_brings_its_predictor(make_amhp, images, tmp_path, predictor):
    import pyiqa

    net = make_amhp(predictor=predictor, attributes=['light'])
    file = save_checkpoint(tmp_path / 'own.safetensors', net.state_dict())
    again = pyiqa.create_metric('amhp', pretrained_model_path=str(file), device='cpu').net
    with torch.no_grad():
        assert torch.allclose(again(images), net(images), atol=1e-6)


def test_a_label_that_is_missing_counts_nothing():
    levels = torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]])
    loss = level_loss(PredictedPrompt(torch.zeros(1, 4), levels), torch.tensor([[1, -1]]))
    assert loss.item() == pytest.approx(-torch.tensor(0.25).log().item() / 2)
    assert (
        level_loss(PredictedPrompt(torch.zeros(1, 4), levels), torch.tensor([[-1, -1]])).item() == 0
    )


def test_the_feature_loss_is_a_cosine_distance_without_gradient_into_texts():
    predicted = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], requires_grad=True)
    Ft = torch.tensor([[2.0, 0.0], [3.0, 0.0], [0.0, 0.0]], requires_grad=True)
    loss = feature_loss(PredictedPrompt(predicted), Ft)
    loss.backward()
    assert loss.item() == pytest.approx(1 / 3)  # 0 and 1; the third has no comment
    assert Ft.grad is None and predicted.grad[1].abs().sum() > 0 and not predicted.grad[2].any()


@pytest.fixture
def labelled(rated_images):
    """Labels beside the comments."""
    table = pd.read_csv(rated_images)
    table['attr_light'] = [1 + i % 5 for i in range(len(table))]
    table.loc[3, 'attr_light'] = None
    table.to_csv(rated_images, index=False)
    return rated_images


def options_for(training_options, csv, predictor):
    train = training_options(csv)
    for data in train['datasets'].values():
        data.update(
            attribute_labels=predictor == 'levels', attr_range=[1, 5], text_source='comments'
        )
    train['network'].update(predictor=predictor, attributes=['light'], fc_init='default')
    train['train'].update(total_epoch=3)
    data = {**train['datasets']['val'], 'phase': 'test', 'name': 'tested'}
    best = csv.parent / 'experiments' / train['name'] / 'models' / 'net_best.pth'
    test = {
        'name': train['name'], 'model_type': 'AMHPModel', 'num_gpu': 0, 'manual_seed': 0,
        'datasets': {'test_1': data}, 'path': {},
        'network': {'type': 'AMHP', 'pretrained_model_path': str(best)},
        'val': {'save_img': False, 'metrics': train['val']['metrics']},
    }  # fmt: skip
    return train, test


def test_both_distributions_come_from_one_call(make_amhp):
    net = make_amhp(predictor='levels', fc_init='default')
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        mos, given, predicted = net(x, ['good light', None], return_dist=True, both_prompts=True)
        for source, dist in (('given', given), ('predicted', predicted)):
            expected = net(x, ['good light', None], True, True, prompt_source=source)[1]
            rows = slice(0, 1) if source == 'given' else slice(None)
            torch.testing.assert_close(dist[rows], expected[rows])
    torch.testing.assert_close(given[1], predicted[1])  # no text: predicted in both
    assert not torch.allclose(given[0], predicted[0], atol=1e-4)
    assert mos.shape == (2, 1)


@pytest.mark.parametrize('prompts', ['both', 'dropout'])
@pytest.mark.parametrize('predictor', ['levels', 'feature'])
def test_a_predictor_learns_with_the_rest_and_is_tested_with_each_kind_of_text(
    training_options, labelled, predictor, prompts
):
    train, test = options_for(training_options, labelled, predictor)
    train['train'].update(predictor_weight=1, predictor_prompts=prompts)
    results = train_and_test(train, test, labelled.parent)
    log = next((labelled.parent / 'experiments' / 'tiny').glob('train_*.log')).read_text()
    losses = [float(x.split()[0]) for x in log.split('l_predictor: ')[1:]]
    assert len(losses) >= 6
    if prompts == 'both':  # from the first epoch to the last, of three batches each
        assert sum(losses[-3:]) < sum(losses[:3])
    else:
        assert losses[-1] < losses[0]
    assert ('l_mos_predicted: ' in log) == (prompts == 'both')
    report = json.loads((results / 'tested.json').read_text())
    assert list(report['prompt_source']) == ['given', 'predicted', 'none']
    mse = {source: values['mse'] for source, values in report['prompt_source'].items()}
    assert len(set(mse.values())) == 3


@pytest.mark.parametrize(
    ('wrong', 'expected'),
    [
        ({'text_dropout': 1.5}, 'from 0 to 1'),
        ({'predictor_weight': -1}, 'from 0 to inf'),
        ({'predicted_weight': -1}, 'from 0 to inf'),
        ({'predictor_prompts': 'given'}, 'expected both, dropout'),
        ({'predictor_prompts': 'both', 'text_dropout': 0.5}, 'is for predictor_prompts: dropout'),
        ({'predictor_weight': 'much'}, 'predictor_weight'),
    ],
)
def test_wrong_training_options_are_refused(training_options, labelled, wrong, expected):
    train, test = options_for(training_options, labelled, 'levels')
    train['train'].update(wrong)
    with pytest.raises(AMHPError, match=expected):
        train_and_test(train, test, labelled.parent)


def test_an_attribute_without_labels_is_named(training_options, labelled):
    train, test = options_for(training_options, labelled, 'levels')
    train['network']['attributes'] = ['light', 'color']
    with pytest.raises(AMHPError, match="'color', which is no attribute of the data"):
        train_and_test(train, test, labelled.parent)
