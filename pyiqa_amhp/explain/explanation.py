"""Why AMHP gives an image its score: what is said, what if it were said otherwise, and where.

Our own addition. Everything is asked of the model itself: a counterfactual is a score that it
gives to other words about the same image.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image, ImageOps
from torchvision.transforms.functional import to_tensor

from pyiqa_amhp.datasets.images import read_image
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.explain.relevance import Judged, eval_fp32, judge
from pyiqa_amhp.model.preprocess import check_images, odd_images
from pyiqa_amhp.model.prompt_predictor import LevelPredictor
from pyiqa_amhp.model.prompts import image_texts
from pyiqa_amhp.scoring.scorer import scale_ends


@dataclass(frozen=True)
class Attribute:
    """One attribute of the image, and how it moves the score.

    Attributes:
        name: as in ``AMHPConfig.attributes``.
        level: the likeliest. levels: the probability of each, by its word, worst first.
        up, down: how much the score changes when the sentence about this attribute says the next
            better, or the next worse level; None at the end of the levels, and where no text
            can move the score.
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
        word: as it stands there.
        effect: the score minus that of the text without it; None where it stands behind the last
            token that the text encoder reads.
    """

    word: str
    effect: float | None


@dataclass(frozen=True)
class Explanation:
    """Why an image has its score.

    Attributes:
        score: on the scale from ``scale[0]`` to ``scale[1]``.
        levels: the probability of each quality level, by its word, worst first.
        text: what the first-level prompt says; '' where there is none, or no sentence for it.
        text_source: ``given``, ``predicted`` or ``none``.
        attributes: of the image. attributes_from: ``trained`` or ``zero-shot`` (the encoders'
            opinion, which no labels taught).
        base: the score with the sentences of the likeliest levels, from which ``up`` and ``down``
            of the attributes are counted; None where no text can move the score.
        words: of a given text, in order; empty without one, or where it cannot move the score.
        relevance: rows of a square map over the patches, sum 1; None where there is none.
        region: what the map covers, (left, top, right, bottom) as shares of the image's sides.
        notes: what this model cannot say, and what to know about what it says.
    """

    score: float
    scale: tuple[float, float]
    levels: dict[str, float]
    text: str
    text_source: str
    attributes: tuple[Attribute, ...]
    attributes_from: str
    base: float | None
    words: tuple[Word, ...]
    relevance: tuple[tuple[float, ...], ...] | None
    region: tuple[float, float, float, float]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: dicts, lists, strings, numbers, None."""
        return _plain(dataclasses.asdict(self))


def explain(
    net, image: str | Path | Image.Image | torch.Tensor, text: str | None = None
) -> Explanation:
    """Why ``net`` gives ``image`` its score.

    Args:
        net: an AMHP. Mode, gradients and engine stay as they are; here torch computes in the
            precision of the weights, whatever they are.
        image: a file, a Pillow image, or a tensor ``(1, 3, H, W)`` with values in [0, 1].
        text: what is said about it, if anything.

    Raises:
        ImageReadError, AMHPError, TypeError: an image or a text that is not of this form.
    """
    image = check_images(as_tensor(image))
    if len(image) != 1:
        raise AMHPError(f'explain: got {len(image)} images, expected one')
    texts = image_texts(text, 1)
    runner = net.backbone.runner
    with eval_fp32(net):
        image = image.to(net.logit_scale)
        explanation = _explained(net, judge(net, net.preprocess(image), texts), texts[0], image)
    if (runner.engine, runner.precision) == ('torch', 'fp32'):
        return explanation
    note = (
        f'Explained by torch in the precision of the weights; with engine {runner.engine} in '
        f'{runner.precision} the score is the same but for rounding.'
    )
    return dataclasses.replace(explanation, notes=(*explanation.notes, note))


def as_tensor(image: str | Path | Image.Image | torch.Tensor) -> torch.Tensor:
    """Any form of one image as a tensor ``(1, 3, H, W)``."""
    if isinstance(image, torch.Tensor):
        return image
    if isinstance(image, Image.Image):
        image = ImageOps.exif_transpose(image).convert('RGB')
    else:
        image = read_image(image)
    return to_tensor(image)[None]


def _explained(net, judged: Judged, text: str, image: torch.Tensor) -> Explanation:
    source = net.prompt_sources([text])[0]
    prediction = judged.prompt.prediction
    said = text if source == 'given' else ''
    if source == 'predicted' and prediction and prediction.texts:
        said = prediction.texts[0]
    attributes, origin = tell_attributes(net, judged.Fx)
    base, words, cut = None, (), False
    if reads_text(net):
        before = net.backbone.truncated_texts
        base, attributes = counterfactuals(net, judged.Fx, attributes)
        cut = net.backbone.truncated_texts > before
        if source == 'given':
            words = leave_one_out(net, judged, text)
    relevance = judged.relevance
    if relevance is not None:
        mirrored = net.config.test_flip and bool(odd_images(image))
        grid = relevance[0].flip(-1) if mirrored else relevance[0]
        relevance = tuple(map(tuple, grid.tolist()))
    return Explanation(
        score=float(judged.mos),
        scale=tuple(map(float, scale_ends(SimpleNamespace(net=net)))),
        levels=dict(zip(net.config.levels, judged.dist[0].tolist(), strict=True)),
        text=said,
        text_source=source,
        attributes=attributes,
        attributes_from=origin,
        base=base,
        words=words,
        relevance=relevance,
        region=net.preprocess.seen_region(*image.shape[-2:]),
        notes=tuple(_notes(net, source, text, origin, cut, words, relevance)),
    )


def reads_text(net) -> bool:
    """Whether any text can move a score of this model."""
    if not net.config.uses_attributes:
        return False
    return bool(net.fc.weight[:, net.backbone.width :].any())


def tell_attributes(net, Fx: torch.Tensor) -> tuple[tuple[Attribute, ...], str]:
    """The levels of the attributes of one image with the feature ``Fx (1, n)``.

    Returns:
        The attributes without their moves, and ``trained`` or ``zero-shot``.
    """
    predictor = _level_predictor(net)
    features = net.sentence_features(predictor.sentences)
    levels = predictor(Fx, features, lambda texts: None).levels[0]  # (A, k); no Ft is needed
    start = torch.tensor(net.backbone.clip_logit_scale).to(predictor.logit_scale)
    own = predictor is net.predictor
    attributes = tuple(
        Attribute(
            name,
            predictor.words[int(p.argmax())],
            dict(zip(predictor.words, p.tolist(), strict=True)),
        )
        for name, p in zip(predictor.attributes, levels, strict=True)
    )
    # Training moves the scale, the one parameter of its own that such a predictor has.
    return attributes, 'trained' if own and predictor.logit_scale != start else 'zero-shot'


def _level_predictor(net) -> LevelPredictor:
    """The model's own, or an untrained one: the encoders' zero-shot opinion."""
    if isinstance(net.predictor, LevelPredictor):
        return net.predictor
    return LevelPredictor(net.config, net.backbone.clip_logit_scale).to(net.logit_scale).eval()


def counterfactuals(
    net, Fx: torch.Tensor, attributes: tuple[Attribute, ...]
) -> tuple[float, tuple[Attribute, ...]]:
    """The attributes with their moves: one level at a time set one up and one down.

    Args:
        Fx: the image's feature ``(1, n)``.

    Returns:
        The score with the sentences of the likeliest levels, and the attributes.
    """
    predictor, count = _level_predictor(net), len(net.config.levels)
    base = [net.config.levels.index(attribute.level) for attribute in attributes]
    rows, places = [base], {}
    for i, level in enumerate(base):
        for step in (1, -1):
            if 0 <= level + step < count:
                places[i, step] = len(rows)
                rows.append([*base[:i], level + step, *base[i + 1 :]])
    scores = scores_of_texts(net, Fx, predictor.say(torch.tensor(rows)))
    moves = {key: scores[place] - scores[0] for key, place in places.items()}
    return scores[0], tuple(
        dataclasses.replace(attribute, up=moves.get((i, 1)), down=moves.get((i, -1)))
        for i, attribute in enumerate(attributes)
    )


def leave_one_out(net, judged: Judged, text: str) -> tuple[Word, ...]:
    """What each word of the text does to the score; the only word is compared with no text."""
    words = text.split()
    read = _words_read(net.backbone, words)
    rest = [' '.join(words[:i] + words[i + 1 :]) for i in range(len(words)) if read[i]]
    scores = iter(scores_of_texts(net, judged.Fx, rest))
    whole = float(judged.mos)
    return tuple(
        Word(word, whole - next(scores) if is_read else None)
        for word, is_read in zip(words, read, strict=True)
    )


def _words_read(backbone, words: list[str]) -> list[bool]:
    """Which words reach the text encoder: those that change its tokens when they are added."""
    length = backbone.tokenizer.context_length
    starts = [' '.join(words[:i]) for i in range(min(len(words), length) + 1)]
    tokens = backbone.tokenizer(starts)
    read = (tokens[1:] != tokens[:-1]).any(dim=-1).tolist()
    return read + [False] * (len(words) - len(read))


def scores_of_texts(net, Fx: torch.Tensor, texts: list[str]) -> list[float]:
    """Scores of one image, ``Fx (1, n)``, with each of the texts, in one batch."""
    if not texts:
        return []
    Fx = Fx.expand(len(texts), -1)
    return net.head(Fx, net.text_features(texts, Fx))[0][:, 0].tolist()


def _notes(net, source: str, text: str, origin: str, cut: bool, words, relevance) -> Iterator[str]:
    config = net.config
    if not config.uses_attributes:
        yield (
            f'This model (variant {config.variant}) reads no text: neither words nor attributes '
            'move its score.'
        )
    elif not reads_text(net):
        yield (
            'The first-level prompt has no weight in this model, which was not trained: neither '
            'words nor attributes move its score.'
        )
    elif text and source != 'given':
        source = net.config.prompt_source
        yield f'The given text was not read: the model has prompt_source={source!r}.'
    if origin == 'zero-shot':
        yield (
            'The attributes are a zero-shot opinion: no labels taught the model to tell their '
            'levels.'
        )
    if cut:
        yield (
            'The sentences about all attributes are longer than the model reads; the last '
            'attributes have no effect.'
        )
    if any(word.effect is None for word in words):
        yield 'The text is longer than the model reads; its last words have no effect.'
    if relevance is None:
        yield (
            f'No map of where the score comes from: the image encoder '
            f'({type(net.backbone.clip.visual).__name__}) has no attention that can be read.'
        )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
