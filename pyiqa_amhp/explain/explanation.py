"""Explanation of one score: attributes, counterfactual texts, words, and a relevance map.

The paper has no explanations: this is our own addition. The model itself computes all of it. A
counterfactual is the score of the same image with another text.
"""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from pyiqa_amhp.explain.relevance import Attribution, attribute_scores, eval_fp32
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.model.clip import Backbone
from pyiqa_amhp.model.config import IMAGENET
from pyiqa_amhp.model.inputs import ImageInput
from pyiqa_amhp.model.preprocess import check_images, should_mirror
from pyiqa_amhp.model.prompt_predictor import LevelPredictor
from pyiqa_amhp.model.prompts import image_texts
from pyiqa_amhp.scoring.scorer import Scorer

HALF_PRECISIONS = {torch.float16: 'fp16', torch.bfloat16: 'bf16'}


@dataclass(frozen=True)
class Attribute:
    """One attribute of an image, and how it moves the score.

    Attributes:
        name: one of ``AMHPConfig.attributes``.
        level: the likeliest level.
        levels: the probability of each level, by its word, worst first.
        up, down: change of the score when the sentence about this attribute names the next
            better or the next worse level. None where there is no such level, and for a model
            whose score does not depend on a text.
    """

    name: str
    level: str
    levels: dict[str, float]
    up: float | None = None
    down: float | None = None


@dataclass(frozen=True)
class Word:
    """A word of the given text.

    Attributes:
        word: the word as it was given.
        effect: the score minus the score of the text without the word. None for a word after
            the last token that the text encoder reads.
    """

    word: str
    effect: float | None


@dataclass(frozen=True)
class Explanation:
    """Explanation of the score of one image.

    Attributes:
        score: on the scale from ``scale[0]`` to ``scale[1]``.
        scale: the ends of the scale.
        levels: the probability of each quality level, by its word, worst first.
        text: the attribute prompt, ``''`` if there is none or if it is a feature without words.
        prompt_source: ``given``, ``predicted`` or ``none``.
        attributes: the attributes of the image; empty where the model cannot tell them, see
            ``has_attributes``.
        attributes_from: ``trained``, or ``zero-shot`` for a model that learned from no labels.
        base: the score with the sentences of the likeliest levels. ``up`` and ``down`` of the
            attributes are changes of this score. None if the score does not depend on a text, or
            there are no attributes.
        words: the words of a given text, in order. Empty if the score does not depend on it.
        relevance: rows of a square map over the patches, sum 1. None if there is no map.
        region: the part of the image that the map covers, ``(left, top, right, bottom)`` as
            shares of its width and height.
        notes: limits of this model and of this explanation.
        note: note of the weights, see ``AMHPConfig``; '' for none.
    """

    score: float
    scale: tuple[float, float]
    levels: dict[str, float]
    text: str
    prompt_source: str
    attributes: tuple[Attribute, ...]
    attributes_from: str
    base: float | None
    words: tuple[Word, ...]
    relevance: tuple[tuple[float, ...], ...] | None
    region: tuple[float, float, float, float]
    notes: tuple[str, ...]
    note: str = ''

    def to_dict(self) -> dict[str, Any]:
        """Convert to values for JSON: dicts, lists, strings, numbers and None."""
        return _to_json(dataclasses.asdict(self))


def explain(net: AMHP, image: ImageInput, text: str | None = None) -> Explanation:
    """Explain the score of one image.

    Args:
        net: an AMHP, which does not change; other threads may score with it. torch computes the
            explanation in the precision of the weights, in fp32 at least.
        image: a path, bytes, an open file, a Pillow image, or a tensor ``(3, H, W)`` or
            ``(1, 3, H, W)`` with values in [0, 1].
        text: a comment on the image; None if there is none.

    Raises:
        ImageReadError: the image cannot be read.
        AMHPError: the tensor has another shape, or values outside [0, 1].
        TypeError: the text is not a string.
    """
    pixels = check_images(net.read_input(image))
    texts = image_texts(text, 1)
    runner, dtype = net.backbone.runner, net.logit_scale.dtype
    with eval_fp32(net) as net:
        pixels = pixels.to(net.logit_scale)
        attribution = attribute_scores(net, net.preprocess(pixels), texts)
        explanation = _explain(net, attribution, texts[0], pixels)
    precision = HALF_PRECISIONS.get(dtype, runner.precision)
    if (runner.engine, precision) == ('torch', 'fp32'):
        return explanation
    note = (
        f'Explained by torch in {"fp64" if dtype == torch.float64 else "fp32"}. With engine '
        f'{runner.engine} in {precision} the score differs by rounding only.'
    )
    return dataclasses.replace(explanation, notes=(*explanation.notes, note))


def _explain(net: AMHP, attribution: Attribution, text: str, image: torch.Tensor) -> Explanation:
    scorer = Scorer(net)
    source = net.prompt_sources([text])[0] if scorer.reads_text else 'none'
    prediction = attribution.prompt.prediction
    prompt = text if source == 'given' else ''
    if source == 'predicted' and prediction and prediction.texts:
        prompt = prediction.texts[0]
    attributes, origin = predict_attributes(net, attribution.Fx)
    if not has_attributes(net):
        attributes = ()
    base: float | None = None
    words: tuple[Word, ...] = ()
    cut = False
    if scorer.reads_text:
        before = net.backbone.truncated_texts
        if attributes:
            base, attributes = counterfactuals(net, attribution.Fx, attributes)
        cut = net.backbone.truncated_texts > before
        if source == 'given':
            words = leave_one_out(net, attribution, text)
    relevance: tuple[tuple[float, ...], ...] | None = None
    mirrored = net.config.test_flip and bool(should_mirror(image))
    if attribution.relevance is not None:
        grid = attribution.relevance[0]
        grid = grid.flip(-1) if mirrored else grid
        relevance = tuple(map(tuple, grid.tolist()))
    explanation = Explanation(
        score=float(attribution.mos),
        scale=scorer.scale or (-math.inf, math.inf),
        levels=dict(zip(net.config.levels, attribution.dist[0].tolist(), strict=True)),
        text=prompt,
        prompt_source=source,
        attributes=attributes,
        attributes_from=origin,
        base=base,
        words=words,
        relevance=relevance,
        region=net.preprocess.seen_region(image.shape[-2], image.shape[-1], mirrored),
        notes=(),
        note=net.config.note,
    )
    notes = _notes(net, explanation, text, scorer.reads_text, attributes_cut=cut)
    return dataclasses.replace(explanation, notes=tuple(notes))


def has_attributes(net: AMHP) -> bool:
    """Whether a model can tell the levels of attributes.

    It cannot where the text encoder began with random weights and no labels were learned.
    """
    return isinstance(net.predictor, LevelPredictor) or net.config.clip_weights != IMAGENET


def predict_attributes(net: AMHP, Fx: torch.Tensor) -> tuple[tuple[Attribute, ...], str]:
    """Predict the levels of the attributes of one image from its feature ``Fx (1, n)``.

    Returns:
        The attributes without counterfactuals, and the source: ``trained`` or ``zero-shot``.
    """
    predictor = _level_predictor(net)
    features = net.sentence_features(predictor.sentences)
    levels = predictor(Fx, features, lambda texts: None).levels[0]  # (A, k); no Ft is needed
    start = torch.tensor(net.backbone.clip_logit_scale).to(predictor.logit_scale)
    attributes = tuple(
        Attribute(
            name,
            predictor.words[int(p.argmax())],
            dict(zip(predictor.words, p.tolist(), strict=True)),
        )
        for name, p in zip(predictor.attributes, levels, strict=True)
    )
    # The scale is the only parameter of the predictor itself, and training changes it.
    is_trained = predictor is net.predictor and predictor.logit_scale != start
    return attributes, 'trained' if is_trained else 'zero-shot'


def _level_predictor(net: AMHP) -> LevelPredictor:
    """Return the predictor of the model or, if it has none, a zero-shot predictor."""
    if isinstance(net.predictor, LevelPredictor):
        return net.predictor
    return LevelPredictor(net.config, net.backbone.clip_logit_scale).to(net.logit_scale).eval()


def counterfactuals(
    net: AMHP, Fx: torch.Tensor, attributes: tuple[Attribute, ...]
) -> tuple[float, tuple[Attribute, ...]]:
    """Score the sentences with each attribute one level up and one level down.

    Args:
        Fx: the feature of the image, ``(1, n)``.
        attributes: the attributes that ``predict_attributes`` returned.

    Returns:
        The score with the sentences of the likeliest levels, and the attributes.
    """
    predictor, count = _level_predictor(net), len(net.config.levels)
    likeliest = [net.config.levels.index(attribute.level) for attribute in attributes]
    moves = [  # (attribute, step) to a level that exists
        (i, step)
        for i, level in enumerate(likeliest)
        for step in (1, -1)
        if 0 <= level + step < count
    ]
    moved = [[*likeliest[:i], likeliest[i] + step, *likeliest[i + 1 :]] for i, step in moves]
    levels = torch.tensor([likeliest, *moved])
    base, *scores = score_texts(net, Fx, predictor.sentences_for(levels))
    changes = {move: score - base for move, score in zip(moves, scores, strict=True)}
    return base, tuple(
        dataclasses.replace(attribute, up=changes.get((i, 1)), down=changes.get((i, -1)))
        for i, attribute in enumerate(attributes)
    )


def leave_one_out(net: AMHP, attribution: Attribution, text: str) -> tuple[Word, ...]:
    """Measure the effect of each word. A single word is compared with no text."""
    words = text.split()
    read = _words_read(net.backbone, words)
    texts = [' '.join(words[:i] + words[i + 1 :]) for i in range(len(words)) if read[i]]
    scores = iter(score_texts(net, attribution.Fx, texts))
    score = float(attribution.mos)
    return tuple(
        Word(word, score - next(scores) if is_read else None)
        for word, is_read in zip(words, read, strict=True)
    )


def _words_read(backbone: Backbone, words: list[str]) -> list[bool]:
    """Find the words that the text encoder reads: adding such a word changes the tokens.

    Returns:
        For each word whether it is read.
    """
    length = backbone.tokenizer.context_length
    starts = [' '.join(words[:i]) for i in range(min(len(words), length) + 1)]
    tokens = backbone.tokenizer(starts)
    read = (tokens[1:] != tokens[:-1]).any(dim=-1).tolist()
    return read + [False] * (len(words) - len(read))


def score_texts(net: AMHP, Fx: torch.Tensor, texts: list[str]) -> list[float]:
    """Score one image, given by its feature ``Fx (1, n)``, with each of the texts in one batch."""
    if not texts:
        return []
    Fx = Fx.expand(len(texts), -1)
    return net.head(Fx, net.text_features(texts, Fx))[0][:, 0].tolist()


def _notes(
    net: AMHP, explanation: Explanation, text: str, reads_text: bool, attributes_cut: bool
) -> Iterator[str]:
    if not net.config.uses_attributes:
        yield (
            f'This model (variant {net.config.variant}) reads no text: neither words nor '
            'attributes change its score.'
        )
    elif not reads_text:
        yield (
            'This model is not trained, or was trained without texts, and its attribute prompt has '
            'no weight: neither words nor attributes change its score.'
        )
    elif text and explanation.prompt_source != 'given':
        source = net.config.prompt_source
        yield f'The given text was not read: the model has prompt_source={source!r}.'
    if not explanation.attributes:
        yield (
            'The levels of attributes are left out, since they would mean nothing: the text '
            'encoder had no pretrained weights, and the model learned from no labels.'
        )
    elif explanation.attributes_from == 'zero-shot':
        yield (
            'The levels of the attributes are predicted zero-shot: the model did not learn them '
            'from labels.'
        )
    if attributes_cut:
        yield (
            'The sentences about all attributes are longer than the model reads: the last '
            'attributes have no effect.'
        )
    if any(word.effect is None for word in explanation.words):
        yield 'The text is longer than the model reads: its last words have no effect.'
    if explanation.relevance is None:
        encoder = type(net.backbone.clip.visual).__name__
        yield (
            f'There is no relevance map: the attention of this image encoder ({encoder}) cannot be '
            'read.'
        )


def _to_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _to_json(item) for key, item in value.items()}
    return [_to_json(item) for item in value] if isinstance(value, list | tuple) else value
