"""Configuration of an AMHP, which its checkpoints carry.

Each option names the source of its default: the *paper*, the *authors' code* (GitHub-Ju/AMHP), or
*our choice* where both are silent. ``protocol`` sets the options on which paper and code disagree.
"""

import dataclasses
import json
import logging
import math
from dataclasses import dataclass
from typing import Any

import torch

from pyiqa_amhp.datasets.attributes import TEMPLATE
from pyiqa_amhp.datasets.ratings import LEVELS, REFERENCE_PARA_LEVEL_VALUES, SCALES
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.utils.text import printable
from pyiqa_amhp.weights.checkpoint import Checkpoint, config_to_tensor

logger = logging.getLogger('pyiqa_amhp')

# The paper's formulas, without the four slips of the authors' code; and the authors' code.
PROTOCOLS: dict[str, dict[str, Any]] = {
    'paper': {
        'normalize_fused': True,
        'tuple_prompts': False,
        'fc_init': 'zero',
        'crop': 'center',
        'test_flip': False,
    },
    'reference': {
        'normalize_fused': False,
        'tuple_prompts': True,
        'fc_init': 'default',
        'crop': 'corner',
        'test_flip': True,
    },
}

# Rows of the paper's Table 4 (Img, Img + Attr, Img + Qual, Img + Attr + Qual).
VARIANTS = ('image', 'image+attributes', 'image+levels', 'all')
# Attributes of PARA that the paper uses (its Table 5); the default of ``attributes``.
ATTRIBUTES = ('content', 'composition', 'color', 'light', 'depth_of_field', 'object_emphasis')

# Sources of the attribute prompt.
PROMPT_SOURCES = ('given', 'predicted', 'none')

CHOICES = {
    'dataset': tuple(SCALES),
    'protocol': tuple(PROTOCOLS),
    'variant': VARIANTS,
    'fc_init': ('zero', 'default'),
    'resize': ('squash', 'shortest'),
    'crop': ('center', 'corner'),
    'prompt_source': PROMPT_SOURCES,
    'predictor': ('none', 'levels', 'feature'),
    'predicted_text': ('sentences', 'expectation'),
}
OPTIONAL = ('fc_init', 'crop', 'prompt_source')  # may be None
# Option names of earlier versions, which are still read.
RENAMED = {'text_source': 'prompt_source'}
# The name of a scale and of a bundle of options, and what only the start of training reads.
NOT_IN_SCORES = ('dataset', 'protocol', 'clip_weights', 'tau', 'fc_init', 'note')
LITE, IMAGENET = 'EfficientNet-Lite0', 'imagenet'  # a backbone, and its clip_weights
MAX_RESIZE = 10_000  # pixels of resize_size (our choice)
MAX_NOTE = 200  # characters of a note (our choice)
SET_LATER: Any = None  # default of options that ``__post_init__`` sets


@dataclass(frozen=True)
class AMHPConfig:
    """Options of the arch ``AMHP``; each is also a keyword of ``create_metric('amhp')``.

    Attributes:
        dataset: data set whose scale the score is on: ``ava`` (1..10), ``para`` (1..5) or ``aadb``
            (0..1). Sets ``level_values`` unless they are given.
        protocol: ``paper`` (default) or ``reference`` (the authors' code). Sets
            ``normalize_fused``, ``tuple_prompts``, ``fc_init``, ``crop`` and ``test_flip`` unless
            they are given.
        variant: ``all`` (the paper's AMHP), ``image``, ``image+attributes`` or ``image+levels``
            (Table 4). Without quality levels, ``k`` learned vectors take the place of their text
            features in Eq. 6: our choice, the paper does not say.
        levels: words of the quality levels, worst first (paper).
        level_values: score of each level, rising: the mean score of the level's bin (our choice;
            for PARA the authors' values under ``reference``).
        template: sentence of a quality level, with ``{level}`` in it (paper).
        backbone: an open_clip model name, ``hf-hub:owner/name``, or a dict in the format of
            open_clip's model files (``embed_dim``, ``vision_cfg``, ``text_cfg``). Paper: ViT-B/16.
            ``EfficientNet-Lite0`` is ours: a small CLIP that is trained without any hub.
        clip_weights: CLIP's own weights to start from: an open_clip tag or a file. Paper: OpenAI's.
            ``imagenet``, the default of EfficientNet-Lite0: the image encoder's ImageNet weights
            from a package (extra ``lite``); the text encoder starts from random weights.
        quick_gelu: whether the encoders' activation is QuickGELU; None: as the weights need it (see
            ``clip_weights.py``).
        tau: temperature of Eq. 7 at the start of training. It is learned, as in the authors' code,
            which starts at 0.07. ``clip``: CLIP's own, which zero-shot use takes.
        normalize_fused: whether Eq. 6 divides by the norm of ``Fm`` (paper: yes; code: no).
        tuple_prompts: whether a level is written as in the code's prompts, ``('bad',)`` for
            ``bad`` (a slip).
        fc_init: ``zero``: an untrained model is CLIP's zero-shot (our choice, the paper is
            silent); ``default``: PyTorch's initialisation (code).
        resize: ``squash`` the image to a square (code; the paper is silent) or scale its
            ``shortest`` side (CLIP's own preprocessing).
        resize_size: length of the resized side in pixels; None: 256/224 of the input size (code:
            256 for 224).
        crop: crop in testing: ``center`` or ``corner`` (top-left; the code's slip).
        test_flip: whether testing mirrors every other image at random (the code's slip; here it
            depends on the image's own pixels, so that a score can be repeated).
        image_mean, image_std: mean and standard deviation of each channel of the encoders' input;
            None: as CLIP's weights need them.
        predictor: predictor of the attribute prompt for images without a text (our addition, see
            ``prompt_predictor.py``): ``none`` (paper), ``levels`` or ``feature``. ``levels`` works
            untrained too, as CLIP's zero-shot prediction.
        prompt_source: source of the attribute prompt (called ``text_source`` before version
            0.2.0). None: the text of the image, else the predictor, else no prompt. ``given``: the
            text or no prompt; ``predicted``: always the predictor; ``none``: no prompt.
        attributes: names of the attributes whose levels ``predictor='levels'`` predicts.
        attribute_template: sentence of an attribute, with ``{level}`` and ``{attribute}`` (paper).
        predicted_text: what ``predictor='levels'`` returns: ``sentences``: the feature of the
            likeliest levels' sentences; ``expectation``: the mean of the levels' features under
            their probabilities.
        note: warning about what the weights learned from, which is shown with every score (our
            addition); '' (default) for none. A training writes the note of its own options, not
            that of the weights that it starts from.
    """

    dataset: str = 'ava'
    protocol: str = 'paper'
    variant: str = 'all'
    levels: tuple[str, ...] = LEVELS
    level_values: tuple[float, ...] = SET_LATER
    template: str = 'A photo with {level} aesthetics.'
    backbone: str | dict = 'ViT-B-16'
    clip_weights: str | None = 'openai'
    quick_gelu: bool | None = None
    tau: float | str = 0.07
    normalize_fused: bool = SET_LATER
    tuple_prompts: bool = SET_LATER
    fc_init: str = SET_LATER
    resize: str = 'squash'
    resize_size: int | None = None
    crop: str = SET_LATER
    test_flip: bool = SET_LATER
    image_mean: tuple[float, ...] | None = None
    image_std: tuple[float, ...] | None = None
    predictor: str = 'none'
    prompt_source: str | None = None
    attributes: tuple[str, ...] = ATTRIBUTES
    attribute_template: str = TEMPLATE
    predicted_text: str = 'sentences'
    note: str = ''

    @classmethod
    def from_options(
        cls, options: dict[str, Any], stored: dict[str, Any] | None = None
    ) -> 'AMHPConfig':
        """Combine options with the configuration stored in a checkpoint, which they override.

        Another protocol than the stored one also resets the options that a protocol sets.

        Args:
            options: options by name; None counts as not given.
            stored: the checkpoint's configuration; None: there is no checkpoint.

        Raises:
            AMHPError: an unknown option, a value that is not allowed, or another ``dataset`` than
                that of the checkpoint, without ``level_values``.
        """
        fields = {field.name for field in dataclasses.fields(cls)}
        options, stored = _with_new_names(options), stored and _with_new_names(stored)
        given = {name: value for name, value in options.items() if value is not None}
        if unknown := sorted(given.keys() - fields):
            raise AMHPError(
                f'unknown AMHP option{"s" * (len(unknown) > 1)} {", ".join(unknown)}; '
                f'the options are: {", ".join(sorted(fields))}'
            )
        values = {name: value for name, value in (stored or {}).items() if name in fields}
        if given.get('protocol', values.get('protocol')) != values.get('protocol'):
            for name in PROTOCOLS['paper']:
                values.pop(name, None)
        if stored and {'dataset', 'level_values'} & given.keys() == {'dataset'}:
            trained_on = values.get('dataset')
            if given['dataset'] != trained_on:
                raise AMHPError(
                    f'these weights were trained on the scale of {trained_on!r} (level values '
                    f'{list(values["level_values"])}) and cannot score on the scale of '
                    f'{given["dataset"]!r}; use the metric of their own scale, or give '
                    'level_values='
                )
        return cls(**{**values, **given})

    def __post_init__(self):
        for name, allowed in CHOICES.items():
            value = getattr(self, name)
            if value is None and name in OPTIONAL:
                continue
            if value not in allowed:
                raise AMHPError(f'{name}={value!r}: expected one of {", ".join(allowed)}')
        for name, value in PROTOCOLS[self.protocol].items():
            if getattr(self, name) is None:
                self._set(name, value)
        if self.level_values is None:
            reference_para = (self.protocol, self.dataset) == ('reference', 'para')
            scale = SCALES[self.dataset].level_values
            self._set('level_values', REFERENCE_PARA_LEVEL_VALUES if reference_para else scale)
        for name in ('level_values', 'image_mean', 'image_std'):
            if getattr(self, name) is not None:
                self._set(name, self._numbers(name))
        self._check_backbone()
        self._check_levels()
        self._check_numbers()
        self._check_predictor()
        if not isinstance(self.note, str):
            raise self._invalid('note', 'a text')
        self._set('note', printable(' '.join(self.note.split()))[:MAX_NOTE])

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _invalid(self, name: str, expected: str) -> AMHPError:
        return AMHPError(f'{name}={getattr(self, name)!r}: expected {expected}')

    def _numbers(self, name: str) -> tuple[float, ...]:
        values = getattr(self, name)
        try:
            numbers = tuple(float(value) for value in values)
        except (TypeError, ValueError):
            numbers = (math.nan,)
        if isinstance(values, str) or not all(map(math.isfinite, numbers)):
            raise self._invalid(name, 'a list of finite numbers')
        return numbers

    def _words(self, name: str) -> tuple[str, ...]:
        """Return a list of words as a tuple; () for anything else."""
        values = getattr(self, name)
        words = tuple(values) if isinstance(values, list | tuple) else ()
        return words if all(isinstance(word, str) for word in words) else ()

    def _check_backbone(self) -> None:
        if isinstance(self.backbone, dict):  # plain JSON, as a checkpoint gives it back
            self._set('backbone', json.loads(json.dumps(self.backbone)))
        elif isinstance(self.backbone, str):
            if ':' not in self.backbone:  # ViT-B/16 is another spelling of ViT-B-16
                self._set('backbone', self.backbone.replace('/', '-'))
            if self.backbone == LITE and self.clip_weights == 'openai':  # which has no such model
                self._set('clip_weights', IMAGENET)
        else:
            raise self._invalid('backbone', 'the name of an open_clip model, hf-hub:..., or a dict')

    def _check_levels(self) -> None:
        words = self._words('levels')
        if len(words) < 2:
            raise self._invalid('levels', 'at least two words, worst first')
        self._set('levels', words)
        if len(self.level_values) != len(words):
            raise AMHPError(
                f'{len(words)} levels {list(words)} but {len(self.level_values)} '
                f'level_values {list(self.level_values)}: give one value for each level'
            )
        if list(self.level_values) != sorted(set(self.level_values)):
            raise self._invalid('level_values', 'rising numbers')
        if not isinstance(self.template, str) or '{level}' not in self.template:
            raise self._invalid('template', 'a sentence with the field {level} in it')

    def _check_numbers(self) -> None:
        if self.tau != 'clip' and not (isinstance(self.tau, int | float) and 0 < self.tau < 1e6):
            raise self._invalid('tau', "a positive number or 'clip'")
        if self.resize_size is not None and not (
            isinstance(self.resize_size, int) and 0 < self.resize_size <= MAX_RESIZE
        ):
            raise self._invalid('resize_size', f'a whole number of pixels up to {MAX_RESIZE}')
        for name in ('image_mean', 'image_std'):
            if getattr(self, name) is not None and len(getattr(self, name)) != 3:
                raise self._invalid(name, 'three numbers')
        for name in ('quick_gelu', 'normalize_fused', 'tuple_prompts', 'test_flip'):
            if getattr(self, name) not in (None, True, False):
                raise self._invalid(name, 'True or False')

    def _check_predictor(self) -> None:
        names = self._words('attributes')
        if not names or len(set(names)) < len(names):
            raise self._invalid('attributes', 'at least one name, each once')
        self._set('attributes', names)
        for field in ('{level}', '{attribute}'):
            if not isinstance(self.attribute_template, str) or field not in self.attribute_template:
                raise self._invalid(
                    'attribute_template', f'a sentence with the field {field} in it'
                )
        if self.predictor != 'none' and not self.uses_attributes:
            raise AMHPError(
                f'predictor={self.predictor!r}: variant={self.variant!r} reads no text; use all or '
                'image+attributes'
            )
        if self.prompt_source == 'predicted' and self.predictor == 'none':
            raise AMHPError(
                "prompt_source='predicted': this model has no predictor; give predictor='levels' "
                "(untrained: CLIP's zero-shot prediction), or weights that were trained with one"
            )

    @property
    def uses_attributes(self) -> bool:
        """Whether the attribute prompt (a text for each image) is used."""
        return self.variant in ('image+attributes', 'all')

    @property
    def uses_levels(self) -> bool:
        """Whether the sentences of the quality levels are used."""
        return self.variant in ('image+levels', 'all')

    @property
    def scale(self) -> tuple[float, float]:
        """Lowest and highest score: the ends of the data set's votes, or of own level values."""
        scale = SCALES[self.dataset]
        ends = scale.vote_values if self.level_values == scale.level_values else self.level_values
        return float(ends[0]), float(ends[-1])

    def differences(self, stored: dict[str, Any], image_size: int) -> dict[str, tuple[Any, Any]]:
        """Compare with the configuration of a checkpoint: the options that change a score.

        Args:
            stored: the checkpoint's configuration.
            image_size: side of the encoders' input in pixels.

        Returns:
            The checkpoint's value and this one, by the names of the options that differ.

        Raises:
            AMHPError: a configuration that this version does not accept.
        """
        theirs = AMHPConfig.from_options({}, stored)._score_options(image_size)
        mine = self._score_options(image_size)
        for name in ('image_mean', 'image_std'):
            if theirs[name] is None:  # of a checkpoint that does not say
                theirs[name] = mine[name]
        return {
            name: (theirs.get(name), mine.get(name))
            for name in {**mine, **theirs}
            if theirs.get(name) != mine.get(name)
        }

    def _score_options(self, image_size: int) -> dict[str, Any]:
        """Return the options that change a score of given weights."""
        without = {*NOT_IN_SCORES}
        if not self.uses_levels:
            without |= {'template', 'tuple_prompts'}
        if self.predictor != 'levels':
            without |= {'attributes', 'attribute_template', 'predicted_text'}
        if self.predictor == 'none' and self.prompt_source in (None, 'given'):
            without.add('prompt_source')  # the same there
        values = {k: v for k, v in dataclasses.asdict(self).items() if k not in without}
        values['resize_size'] = values['resize_size'] or round(image_size * 256 / 224)
        return values

    def to_tensor(self) -> torch.Tensor:
        """Pack the configuration into a tensor, for checkpoints."""
        return config_to_tensor(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the options by name; without an empty note, so that digests stay the same."""
        values = dataclasses.asdict(self)
        return values if self.note else {k: v for k, v in values.items() if k != 'note'}


def _with_new_names(options: dict[str, Any]) -> dict[str, Any]:
    """Replace option names of earlier versions by today's, with a warning."""
    renamed = {}
    for name, value in options.items():
        new = RENAMED.get(name, name)
        if new != name and value is not None:
            logger.warning('AMHP option %s=%r: it is called %s now', name, value, new)
        if new == name or options.get(new) is None:
            renamed[new] = value
    return renamed


def with_first_names(options: dict[str, Any]) -> dict[str, Any]:
    """Options under the names that they had first, so that a digest of them stays the same."""
    first = {new: old for old, new in RENAMED.items()}
    return {first.get(name, name): value for name, value in options.items()}


def complete_checkpoint(checkpoint: Checkpoint) -> Checkpoint:
    """Check a checkpoint's configuration, and add the options that are newer than the checkpoint.

    Raises:
        AMHPError: a configuration that this version does not accept.
    """
    config = AMHPConfig.from_options({}, checkpoint.config)
    return dataclasses.replace(checkpoint, config=config.to_dict())
