"""The text side of AMHP: cached features follow the weights, however those change."""

import copy

import pytest
import torch

from pyiqa_amhp.scoring import Scorer, create_metric
from pyiqa_amhp.weights import store
from pyiqa_amhp.weights.checkpoint import save_checkpoint, tensor_versions, weights_at_rest

SENTENCES = ['A photo with good light.', 'A photo with bad light.']


def by_version(parameter):
    with torch.no_grad():
        parameter.mul_(0.5)


def by_data(parameter):
    parameter.data.mul_(0.5)  # as pyiqa's own average of weights does


def in_inference_mode(parameter):
    with torch.inference_mode():
        parameter.mul_(0.5)


def by_copy(parameter):
    parameter.data.copy_(parameter.data * 0.5)


def by_average(parameter):
    other = torch.nn.Parameter(torch.zeros_like(parameter))
    parameter.data.mul_(0.999).add_(other.data, alpha=1 - 0.999)  # the lines of pyiqa's EMA


@pytest.mark.parametrize('change', [by_version, by_data, in_inference_mode, by_copy, by_average])
@pytest.mark.parametrize('name', ['positional_embedding', 'ln_final.weight'])
def test_changed_weights_give_new_features(make_amhp, change, name):
    net = make_amhp()
    with torch.no_grad():
        before = net.sentence_features(SENTENCES)
        assert net.sentence_features(SENTENCES) is before
        change(net.backbone.clip.get_parameter(name))
        after = net.sentence_features(SENTENCES)
        assert after is not before
        assert torch.equal(after, net.backbone.encode_text(SENTENCES))
    assert not torch.equal(after, before)


def test_numbers_of_weights_at_rest_are_read_once(make_amhp, monkeypatch):
    weights = [*make_amhp().parameters()]
    before, read, samples = tensor_versions(weights), [], {}
    cat = torch.cat
    monkeypatch.setattr(torch, 'cat', lambda *args: read.append(args) or cat(*args))
    for _ in range(3):
        with weights_at_rest(samples):
            assert tensor_versions(weights) == before
    assert len(read) == 1
    by_version(weights[0])
    with weights_at_rest(samples):
        changed = tensor_versions(weights)
        by_data(weights[1])
        assert tensor_versions(weights) == changed != before  # not noticed, as documented
    assert len(read) == 2
    assert tensor_versions(weights) != changed  # outside everything is noticed again
    with torch.inference_mode():
        weights = [weight.clone() for weight in weights]
    with weights_at_rest(samples):
        before = tensor_versions(weights)
        in_inference_mode(weights[0])
        assert tensor_versions(weights) != before


def clear_text(net):
    net.fc.weight[:, 16:] = 0


def clear_image(net):
    net.fc.weight[:, :16] = 0


def clear_data(net):
    net.fc.weight.data.zero_()


def replace(net):
    net.fc.weight = torch.nn.Parameter(torch.zeros_like(net.fc.weight))


@pytest.mark.parametrize('inference', [False, True])
@pytest.mark.parametrize(
    ('change', 'reads'),
    [(clear_text, False), (clear_image, True), (clear_data, False), (replace, False)],
)
def test_whether_texts_are_read_follows_the_weights(make_amhp, change, reads, inference):
    with torch.inference_mode(inference), torch.no_grad():
        net = make_amhp()
        assert net.reads_text and copy.deepcopy(net).reads_text
        change(net)
        assert net.reads_text == copy.deepcopy(net).reads_text == reads
        net.load_state_dict(make_amhp().state_dict())
        assert net.reads_text


def test_whether_texts_are_read_is_asked_once(make_amhp, monkeypatch):
    net, asked = make_amhp(), []
    any_of = torch.Tensor.any
    monkeypatch.setattr(torch.Tensor, 'any', lambda *args: asked.append(args) or any_of(*args))
    assert [net.reads_text for _ in range(3)] == [True] * 3 and len(asked) == 1


def test_weights_loaded_in_inference_mode_give_new_scores(make_amhp):
    net, other = make_amhp(seed=0), make_amhp(seed=1)
    image = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        net(image)
        net.load_state_dict(other.state_dict())
        assert torch.equal(net(image), other(image))


def test_a_prompt_source_that_the_model_does_not_have_is_an_error(make_amhp):
    from pyiqa_amhp.errors import AMHPError

    net = make_amhp()
    with pytest.raises(AMHPError, match='no predictor'):
        net.prompt_sources(['x'], 'predicted')
    with pytest.raises(AMHPError, match='expected one of given, predicted, none'):
        net.prompt_sources(['x'], 'guess')


@pytest.mark.parametrize('options', [{'predictor': 'levels'}, {'predictor': 'feature'}], ids=str)
def test_scores_of_a_predictor_follow_an_average_of_weights(make_amhp, options):
    nets = [make_amhp(seed, **options) for seed in (0, 1)]
    averaged, expected = nets[0], make_amhp(0, **options)
    image = torch.rand(1, 3, 32, 32)
    scorer = Scorer(averaged)
    with torch.no_grad():
        before, fingerprint = averaged(image), scorer.fingerprint
        for own, other in zip(averaged.parameters(), nets[1].parameters(), strict=True):
            own.data.mul_(0.9).add_(other.data, alpha=1 - 0.9)
        expected.load_state_dict(averaged.state_dict())
        assert torch.equal(averaged(image), expected(image))
        assert not torch.equal(averaged(image), before)
    assert scorer.fingerprint != fingerprint
    assert averaged.explain(image) == expected.explain(image)


def test_a_text_given_to_weights_that_read_none_is_reported_once(
    make_amhp, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(store, '_warned', set())
    net = make_amhp()
    with torch.no_grad():
        net.fc.weight[:, 16:] = 0  # as a training without any text leaves it
    save_checkpoint(tmp_path / 'net.pth', net.state_dict())
    metric = create_metric('amhp', str(tmp_path / 'net.pth'), 'cpu')
    image = torch.rand(1, 3, 32, 32)
    caplog.clear()  # pyiqa reports the metric
    assert metric(image).isfinite() and not caplog.records
    (result,) = Scorer(metric).score([image], ['soft light'])
    assert result.prompt_source == 'none' and metric.net.explain(image, 'x').prompt_source == 'none'
    assert result.score == pytest.approx(metric(image, text='soft light').item())
    (record,) = caplog.records
    assert 'A text changes no score with these weights' in record.getMessage()


def test_training_and_weights_that_read_texts_are_not_reported(make_amhp, monkeypatch, caplog):
    monkeypatch.setattr(store, '_warned', set())
    image = torch.rand(2, 3, 32, 32)
    (result,) = Scorer(make_amhp()).score([image[:1]], ['soft light'])
    assert result.prompt_source == 'given'
    net = make_amhp()
    torch.nn.init.zeros_(net.fc.weight)
    net.train()(image, text=['soft light', 'x'])
    assert not caplog.records
