"""The text side of AMHP: cached features follow the weights, however those change."""

import pytest
import torch

SENTENCES = ['A photo with good light.', 'A photo with bad light.']


def by_version(parameter):
    with torch.no_grad():
        parameter.mul_(0.5)


def by_data(parameter):
    parameter.data.mul_(0.5)  # as pyiqa's own average of weights does


def in_inference_mode(parameter):
    with torch.inference_mode():
        parameter.mul_(0.5)


@pytest.mark.parametrize('change', [by_version, by_data, in_inference_mode])
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
    assert not torch.allclose(after, before)


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
