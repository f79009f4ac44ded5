"""Explanations: each part is computed by the model itself, which does not change."""

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from pyiqa_amhp.app.photos import ExplainedPhoto
from pyiqa_amhp.app.render import explanation_panel
from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.explain.card import draw_card
from pyiqa_amhp.explain.relevance import faithfulness, patch_relevance
from pyiqa_amhp.model.runtime import Runner

TEXT = 'soft light but poor focus'


@pytest.fixture
def grid(tiny):
    """A tiny CLIP with 4 x 4 patches and two layers of attention."""
    tiny['vision_cfg'].update(patch_size=8, layers=2)
    return tiny


@pytest.fixture
def image():
    """Random pixels, wider than high."""
    return torch.rand(1, 3, 40, 60, generator=torch.Generator().manual_seed(0))


def score(net, image, text=None):
    with torch.no_grad():
        return float(net(image, text))


@pytest.mark.parametrize('variant', ['all', 'image', 'image+levels', 'image+attributes'])
@pytest.mark.parametrize('text', [None, TEXT])
def test_score_and_levels_are_those_of_the_model(make_amhp, grid, image, variant, text):
    net = make_amhp(backbone=grid, variant=variant)
    explanation = net.explain(image, text)
    mos, dist = net(image, text, return_dist=True)
    assert explanation.score == pytest.approx(mos.item(), abs=1e-5)
    assert list(explanation.levels) == list(net.config.levels)
    assert list(explanation.levels.values()) == pytest.approx(dist[0].tolist(), abs=1e-5)
    assert explanation.scale == (1, 10)


@pytest.mark.parametrize('pool', ['tok', 'avg'])
def test_relevance_is_a_share_for_every_patch(make_amhp, grid, image, pool):
    grid['vision_cfg']['pool_type'] = pool
    relevance = np.array(make_amhp(backbone=grid).explain(image).relevance)
    assert relevance.shape == (4, 4)
    assert relevance.min() >= 0 and relevance.std() > 0
    assert relevance.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize('pool, shares', [('tok', [0.1, 0.2, 0.3, 0.4]), ('avg', [0, 0, 0, 1])])
def test_attention_counts_on_its_path_to_the_feature(pool, shares):
    """One layer: the class token attends to all patches, the patches to the last one only."""
    attention = torch.zeros(1, 2, 5, 5)
    attention[:, :, 0, 1:] = torch.tensor([0.1, 0.2, 0.3, 0.4])
    attention[:, :, 1:, 4] = 1
    visual = SimpleNamespace(pool_type=pool, grid_size=(2, 2), patch_size=(3, 3))
    relevance = patch_relevance([attention], torch.ones(1, 3, 6, 6), visual)
    assert relevance.flatten().tolist() == pytest.approx(shares, abs=1e-6)


def test_relevance_lies_on_the_patches_that_the_model_uses(make_amhp, grid):
    """A model that has learned to score the brightness of the upper right quarter."""
    net = make_amhp(backbone=grid, variant='image')
    rng = torch.Generator().manual_seed(1)

    def images(n):
        x, share = torch.rand(n, 3, 32, 32, generator=rng), torch.rand(n, 1, generator=rng)
        x = 0.5 + 0.3 * (x - 0.5)
        x[:, :, :16, 16:] = share[..., None, None]
        return x, share

    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(300):
        x, share = images(32)
        optimizer.zero_grad()
        loss = net.predict(net.preprocess.normalize(x), [''] * 32)[0] - 3 - 5 * share
        loss.square().mean().backward()
        optimizer.step()
    x, _ = images(40)
    most, least = faithfulness(net, net.preprocess.normalize(x), share=0.25, fill='grey')
    assert (most.abs() > least.abs()).float().mean() >= 0.8
    shares = [np.array(net.explain(one[None]).relevance)[:2, 2:].sum() for one in x[:8]]
    assert np.mean(shares) > 0.4  # a quarter of the patches would be 0.25


def test_other_image_encoders_have_no_map_and_a_note(make_amhp, tiny, image):
    tiny['vision_cfg'] = {'image_size': 32, 'layers': [1, 1, 1, 1], 'width': 8, 'patch_size': None}
    net = make_amhp(backbone=tiny)
    explanation = net.explain(image, TEXT)
    assert explanation.score == pytest.approx(score(net, image, TEXT), abs=1e-5)
    assert explanation.relevance is None
    assert any('ModifiedResNet' in note for note in explanation.notes)
    with pytest.raises(AMHPError, match='no relevance map'):
        faithfulness(net, net.preprocess(image))


def sentence(levels):
    return ' '.join(
        f'A photo with {level} {name.replace("_", " ")}.' for name, level in levels.items()
    )


def test_moves_are_changes_of_the_score_with_another_sentence(make_amhp, image):
    net = make_amhp()
    explanation = net.explain(image, TEXT)
    levels = {attribute.name: attribute.level for attribute in explanation.attributes}
    assert explanation.base == pytest.approx(score(net, image, sentence(levels)), abs=1e-4)
    words, moves = net.config.levels, 0
    for attribute in explanation.attributes:
        for step, change in ((1, attribute.up), (-1, attribute.down)):
            place = words.index(attribute.level) + step
            if not 0 <= place < len(words):
                assert change is None
                continue
            moved = score(net, image, sentence({**levels, attribute.name: words[place]}))
            assert change == pytest.approx(moved - explanation.base, abs=1e-4)
            moves += change != 0
    assert moves >= len(levels)


def test_raising_a_level_that_the_model_likes_raises_the_score(make_amhp, image):
    """A model taught that better light is better, and better color worse."""
    net = make_amhp(attributes=['light', 'color'])
    words = net.config.levels
    texts = [sentence({'light': a, 'color': b}) for a in words for b in words]
    steps = torch.arange(len(words), dtype=torch.float32)
    targets = 5.5 + 0.7 * (steps[:, None] - steps).flatten()
    with torch.no_grad():
        Fx = net.backbone.encode_image(net.preprocess(image)).expand(len(texts), -1)
        Ft, FTa = net.text_features(texts, Fx), net.level_features()
    optimizer = torch.optim.Adam(net.fc.parameters(), lr=0.01)
    for _ in range(200):
        optimizer.zero_grad()
        (net.head(Fx, Ft, FTa)[0][:, 0] - targets).square().mean().backward()
        optimizer.step()
    light, color = net.explain(image).attributes
    likes, dislikes = (light.up, color.down), (light.down, color.up)
    assert all(change is None or change > 0.2 for change in likes)
    assert all(change is None or change < -0.2 for change in dislikes)
    assert any(likes) and any(dislikes)


def test_the_effect_of_a_word_is_the_score_minus_the_score_without_it(make_amhp, image):
    net = make_amhp()
    explanation = net.explain(image, f'  {TEXT} ')
    words = TEXT.split()
    assert [word.word for word in explanation.words] == words
    for i, word in enumerate(explanation.words):
        rest = ' '.join(words[:i] + words[i + 1 :])
        change = score(net, image, TEXT) - score(net, image, rest)
        assert word.effect == pytest.approx(change, abs=1e-4)
    assert len({word.effect for word in explanation.words}) == len(words)


def test_the_only_word_is_compared_with_no_text(make_amhp, image):
    net = make_amhp()
    (word,) = net.explain(image, 'lovely').words
    change = score(net, image, 'lovely') - score(net, image)
    assert word.effect == pytest.approx(change, abs=1e-4)


def test_words_after_the_last_token_have_no_effect_and_a_note(make_amhp, image):
    explanation = make_amhp().explain(image, 'light ' * 90)
    effects = [word.effect for word in explanation.words]
    assert [effect is not None for effect in effects] == [True] * 75 + [False] * 15
    assert any('longer than the model reads' in note for note in explanation.notes)


def test_no_words_without_a_text(make_amhp, image):
    explanation = make_amhp().explain(image)
    assert (explanation.words, explanation.text) == ((), '')
    assert explanation.prompt_source == 'none'


def test_a_predicted_text_is_reported_as_predicted(make_amhp, image):
    net = make_amhp(predictor='levels')
    explanation = net.explain(image)
    levels = {attribute.name: attribute.level for attribute in explanation.attributes}
    assert (explanation.prompt_source, explanation.text) == ('predicted', sentence(levels))
    assert explanation.score == pytest.approx(explanation.base, abs=1e-5)
    assert explanation.words == ()


def test_attributes_that_would_mean_nothing_are_left_out(make_amhp, image, tmp_path):
    net = make_amhp(clip_weights='imagenet')  # with it the text encoder's weights are random
    explanation = net.explain(image, 'soft light')
    assert explanation.attributes == () and explanation.base is None
    assert len(explanation.words) == 2
    assert 'The levels of attributes are left out' in ' '.join(explanation.notes)
    photograph = Image.new('RGB', (120, 80), 'olive')
    card = draw_card(tmp_path / 'card.png', 'a.jpg', photograph, explanation)
    assert Image.open(card).width > 500
    panel = explanation_panel(ExplainedPhoto('a.jpg', photograph, explanation, None))
    assert 'Its attributes' not in panel and 'are left out' in panel
    assert make_amhp(clip_weights='imagenet', predictor='levels').explain(image).attributes


def test_attributes_are_zero_shot_until_a_predictor_was_trained(make_amhp, image):
    net = make_amhp(predictor='levels')
    untrained, without = net.explain(image), make_amhp().explain(image)
    assert untrained.attributes_from == without.attributes_from == 'zero-shot'
    assert [a.levels for a in untrained.attributes] == [
        pytest.approx(a.levels, abs=1e-6) for a in without.attributes
    ]
    net.predictor.logit_scale.data += 1
    trained = net.explain(image)
    assert trained.attributes_from == 'trained'
    assert not any('zero-shot' in note for note in trained.notes)
    for attribute, p in zip(
        trained.attributes, net(image, return_prompt=True)[1].prediction.levels[0], strict=True
    ):
        assert list(attribute.levels.values()) == pytest.approx(p.tolist(), abs=1e-6)
        assert attribute.level == net.config.levels[int(p.argmax())]


@pytest.mark.parametrize('variant', ['image', 'image+levels'])
def test_a_variant_without_texts_has_no_moves_and_a_note(make_amhp, image, variant):
    explanation = make_amhp(variant=variant).explain(image, TEXT)
    assert explanation.base is None and explanation.words == ()
    assert all(a.up is None and a.down is None for a in explanation.attributes)
    assert any('reads no text' in note for note in explanation.notes)


def test_a_model_that_ignores_texts_has_no_moves_and_a_note(make_amhp, image):
    net = make_amhp()
    torch.nn.init.zeros_(net.fc.weight)
    explanation = net.explain(image, TEXT)
    assert explanation.base is None and explanation.words == ()
    assert any('no weight' in note for note in explanation.notes)


def test_a_text_that_prompt_source_excludes_is_not_explained(make_amhp, image):
    explanation = make_amhp(prompt_source='none').explain(image, TEXT)
    assert explanation.words == () and explanation.text == ''
    assert any("prompt_source='none'" in note for note in explanation.notes)


@pytest.mark.parametrize('mode', [True, False])
def test_the_model_does_not_change(make_amhp, grid, image, mode):
    net = make_amhp(backbone=grid, predictor='levels').train(mode)
    net.backbone.freeze_text()
    net.backbone.train(mode)
    net.backbone.runner = runner = Runner('bf16')
    state = copy.deepcopy(net.state_dict())
    modes = [m.training for m in net.modules()]
    trainable = [p.requires_grad for p in net.parameters()]
    hooks = [len(m._forward_hooks) for m in net.modules()]
    explanation = net.explain(image, TEXT)
    assert any('bf16' in note for note in explanation.notes)
    assert net.backbone.runner is runner
    assert [m.training for m in net.modules()] == modes
    assert [p.requires_grad for p in net.parameters()] == trainable
    assert [len(m._forward_hooks) for m in net.modules()] == hooks
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_frozen_models_and_inference_mode_give_the_same_map(make_amhp, grid, image):
    net = make_amhp(backbone=grid)
    expected = net.explain(image)
    net.requires_grad_(False)
    with torch.inference_mode():
        explanation = net.explain(image.clone())
    assert np.array(explanation.relevance) == pytest.approx(np.array(expected.relevance), abs=1e-6)


def test_torch_explains_whatever_the_engine(make_amhp, grid, image):
    pytest.importorskip('onnxruntime')
    expected = make_amhp(backbone=grid).explain(image, TEXT)
    explanation = make_amhp(backbone=grid, engine='onnxruntime').explain(image, TEXT)
    assert explanation.relevance == expected.relevance and explanation.score == expected.score
    assert 'onnxruntime' in explanation.notes[-1]


def test_a_file_a_pillow_image_and_a_tensor_are_explained_alike(make_amhp, image, tmp_path):
    net = make_amhp()
    pixels = (image[0].permute(1, 2, 0) * 255).round().byte().numpy()
    picture = Image.fromarray(pixels)
    picture.save(tmp_path / 'x.png')
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    explanations = [net.explain(given) for given in (tmp_path / 'x.png', picture, tensor)]
    assert explanations[0] == explanations[1] == explanations[2]


@pytest.mark.parametrize('resize', ['squash', 'shortest'])
@pytest.mark.parametrize('crop', ['center', 'corner'])
def test_region_is_what_the_model_sees(make_amhp, resize, crop):
    """Pixels hold their own position, so the crop of the model shows its region."""
    net = make_amhp(resize=resize, crop=crop)
    x = torch.zeros(1, 3, 70, 120)
    x[:, 0], x[:, 1] = torch.arange(120) / 120 + 1 / 240, torch.arange(70)[:, None] / 70 + 1 / 140
    view = net.preprocess.view(x)[0]
    left, top, right, bottom = net.explain(x).region
    half = (right - left) / 64, (bottom - top) / 64  # of one of the 32 pixels
    seen = view[0, 0, 1] - 3 * half[0], view[1, 1, 0] - 3 * half[1]
    assert (left, top) == pytest.approx(tuple(map(float, seen)), abs=0.02)
    seen = view[0, 0, -2] + 3 * half[0], view[1, -2, 0] + 3 * half[1]
    assert (right, bottom) == pytest.approx(tuple(map(float, seen)), abs=0.02)


def test_the_map_of_a_mirrored_image_is_mirrored_back(make_amhp, grid, image):
    pixels = (image * 255).round()
    if pixels.sum() % 2 == 0:
        pixels[0, 0, 0, 0] += 1 if pixels[0, 0, 0, 0] < 255 else -1
    options = {'backbone': grid, 'resize_size': 36}  # an even margin: the same crop of both
    net, plain = (make_amhp(test_flip=flip, **options) for flip in (True, False))
    mirrored = np.array(plain.explain((pixels / 255).flip(-1)).relevance)
    assert np.array(net.explain(pixels / 255).relevance) == pytest.approx(
        mirrored[:, ::-1], abs=1e-5
    )


@pytest.mark.parametrize('odd', [True, False])
def test_of_a_mirrored_image_the_corner_is_its_right_side(make_amhp, grid, image, odd):
    pixels = (image * 255).round()
    if bool(pixels.sum() % 2) != odd:
        pixels[0, 0, 0, 0] += 1 if pixels[0, 0, 0, 0] < 255 else -1
    left, top, right, bottom = (
        make_amhp(backbone=grid, protocol='reference').explain(pixels / 255).region
    )
    assert (left, right) == pytest.approx((5 / 37, 1) if odd else (0, 32 / 37))
    assert (top, bottom) == pytest.approx((0, 32 / 37))


def test_an_explanation_is_plain_json(make_amhp, image):
    explanation = make_amhp().explain(image, TEXT)
    values = explanation.to_dict()
    assert json.loads(json.dumps(values)) == values
    assert values['words'][0] == {'word': 'soft', 'effect': explanation.words[0].effect}
    assert values['attributes'][0]['levels'].keys() == explanation.levels.keys()


def test_bad_images_and_texts_are_refused(make_amhp, image, tmp_path):
    net = make_amhp()
    with pytest.raises(AMHPError, match='2 images'):
        net.explain(image.expand(2, -1, -1, -1))
    with pytest.raises(ImageReadError, match='no such file'):
        net.explain(tmp_path / 'missing.jpg')
    with pytest.raises(TypeError, match='text'):
        net.explain(image, 3)
    with pytest.raises(AMHPError, match='share'):
        faithfulness(net, net.preprocess(image), share=2)
