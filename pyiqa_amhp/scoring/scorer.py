"""A metric of pyiqa, and all that the commands need to know about it."""

import functools
import inspect
import json
import re
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

from pyiqa_amhp.datasets.images import read_image
from pyiqa_amhp.datasets.ratings import SCALES
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.model.config import with_first_names
from pyiqa_amhp.model.prompts import image_texts
from pyiqa_amhp.scoring.result import SCORES_SINCE, ScoreResult
from pyiqa_amhp.utils.environment import version_of
from pyiqa_amhp.weights.checkpoint import (
    CONFIG_KEY,
    config_to_tensor,
    digest_tensor,
    safe_load,
    stored_config,
)

OWN_ARCHS = ('AMHP', 'TANet')  # they read weights without running any code


def create_metric(
    name: str = 'amhp', weights: str | None = None, device: str | None = None, **options
):
    """Create a no-reference metric of pyiqa, with errors that say what to do.

    Args:
        name: any no-reference metric of pyiqa, ours among them.
        weights: a checkpoint, for ``pretrained_model_path``.
        device: ``cpu``, ``cuda`` ...; None: a GPU if there is one.
        **options: options of AMHP; those that are None are left out.

    Returns:
        What ``pyiqa.create_metric`` returns.

    Raises:
        AMHPError: no such metric, one that needs a reference image or has no such options, or
            weights that do not load or, for pyiqa's metrics too, that could run code.
    """
    import pyiqa

    known = pyiqa.list_models('NR')
    if name not in known:
        reason = 'needs a reference image' if name in pyiqa.list_models() else 'is not known'
        raise AMHPError(f'metric {name!r} {reason}; no-reference metrics: {", ".join(known)}')
    options = {key: value for key, value in options.items() if value is not None}
    if options and arch_of(name) != 'AMHP':
        raise AMHPError(f'metric {name!r} has no {", ".join(options)}; only AMHP has')
    if weights is not None:
        if arch_of(name) not in OWN_ARCHS and Path(weights).suffix != '.mat':
            safe_load(weights, by_torch=True)  # pyiqa would run code that is in it
        options['pretrained_model_path'] = str(weights)
    return pyiqa.create_metric(name, device=device, **options)


def arch_of(name: str) -> str | None:
    """The arch behind a metric of pyiqa; None for a name that pyiqa does not know."""
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    return DEFAULT_CONFIGS[name]['metric_opts']['type'] if name in DEFAULT_CONFIGS else None


class Scorer:
    """A no-reference metric of pyiqa.

    Args:
        metric: a name for ``create_metric``, what ``pyiqa.create_metric`` returned, or an AMHP.

    Attributes:
        metric: what ``pyiqa.create_metric`` returned, or the AMHP.
        net: the network in it.
        name: pyiqa's name of the metric.
        amhp: the network, if it is an AMHP; else None.
        lower_better: whether a lower score is a better one.
    """

    def __init__(self, metric):
        self.metric = create_metric(metric) if isinstance(metric, str) else metric
        self.net: torch.nn.Module = getattr(self.metric, 'net', self.metric)
        self.name: str = getattr(self.metric, 'metric_name', 'amhp')
        self.amhp: AMHP | None = self.net if isinstance(self.net, AMHP) else None
        self.lower_better = bool(getattr(self.metric, 'lower_better', False))

    @property
    def levels(self) -> tuple[str, ...]:
        """The words of AMHP's quality levels, worst first; none for another metric."""
        return self.amhp.config.levels if self.amhp else ()

    @property
    def level_values(self) -> tuple[float, ...] | None:
        """The scores of AMHP's quality levels; None for another metric."""
        return self.amhp.config.level_values if self.amhp else None

    @property
    def scale(self) -> tuple[float, float] | None:
        """The ends of the scale: of the votes, or of levels that are the user's own.

        None where an end is open or not stated. pyiqa's ``~1`` is read as 1.
        """
        if self.amhp:
            scale, values = SCALES[self.amhp.config.dataset], self.amhp.config.level_values
            ends = scale.vote_values if values == scale.level_values else values
            return float(ends[0]), float(ends[-1])
        number = r'~?(-?\d+(?:\.\d+)?)'
        stated = re.fullmatch(rf'{number}, *{number}', str(self.metric.score_range))
        return (float(stated[1]), float(stated[2])) if stated else None

    @property
    def scale_text(self) -> str:
        """The scale in words: ``1..10``, what pyiqa states, or ``not stated``."""
        if self.amhp and self.scale:
            return f'{self.scale[0]:g}..{self.scale[1]:g}'
        return str(self.metric.score_range or 'not stated').replace(', ', '..')

    @property
    def takes_text(self) -> bool:
        """Whether the metric is an AMHP with an attribute prompt."""
        return self.amhp is not None and self.amhp.config.uses_attributes

    @property
    def reads_text(self) -> bool:
        """Whether a text can change a score: not before AMHP was trained with some."""
        if not (self.amhp and self.takes_text):
            return False
        return bool(self.amhp.fc.weight[:, self.amhp.backbone.width :].any())

    @property
    def predicts_prompts(self) -> bool:
        """Whether the metric is an AMHP that predicts the attribute prompts of bare images."""
        return self.amhp is not None and self.amhp.predictor is not None

    @property
    def fingerprint(self) -> str:
        """What the scores depend on: name, options, versions and weights of the metric.

        Of each tensor some 4,096 numbers, evenly spaced, count: training changes them all.
        """
        from pyiqa.default_model_configs import DEFAULT_CONFIGS

        options = DEFAULT_CONFIGS.get(self.name, {}).get('metric_opts', {})
        versions = [version_of('pyiqa'), SCORES_SINCE, version_of('torch')]
        digest = blake2b(digest_size=16)
        digest.update(json.dumps([self.name, versions, options], default=str).encode())
        for name, value in self.net.state_dict().items():
            if name == CONFIG_KEY and self.amhp:
                value = config_to_tensor(with_first_names(stored_config(value)))
            digest_tensor(digest, name, value)
        return digest.hexdigest()

    def score(
        self,
        images: Sequence[str | Path | Image.Image | torch.Tensor],
        texts: Sequence[str | None] | None = None,
        prompt_source: str | None = None,
    ) -> list[ScoreResult]:
        """Score images, as a call of the metric does.

        Args:
            images: N files, Pillow images in RGB, or tensors ``(1, 3, H, W)`` with values in
                [0, 1].
            texts: one for each image, None or ``''`` where there is none. Only AMHP reads them.
            prompt_source: ``given``, ``predicted`` or ``none``; None: as AMHP is configured.

        Returns:
            N results; ``path`` is the file's, ``''`` for images in memory.

        Raises:
            ImageReadError: a file that cannot be read.
            AMHPError: not as many texts as images, or a source that this metric does not have.
        """
        results = [ScoreResult(str(i) if isinstance(i, str | Path) else '') for i in images]
        inputs = [self.to_input(_in_memory(image)) for image in images]
        texts = image_texts(list(texts) if texts is not None else None, len(images))
        self.fill_scores(results, inputs, texts, prompt_source)
        return results

    def to_input(self, image: Image.Image | torch.Tensor | np.ndarray) -> torch.Tensor:
        """Turn an image into what ``fill_scores`` takes.

        Args:
            image: a Pillow image, a tensor ``(1, 3, H, W)`` in [0, 1], or the uint8 array that
                ``Preprocess.view_file`` of AMHP returns.

        Returns:
            For AMHP the network's input ``(3, size, size)``, normalised, or uint8
            ``(size, size, 3)`` for an array; for other metrics ``(1, 3, H, W)``.
        """
        if isinstance(image, np.ndarray):
            return torch.from_numpy(image)
        x: torch.Tensor = to_tensor(image)[None] if isinstance(image, Image.Image) else image
        if self.amhp:
            return self.amhp.preprocess(x.to(self.amhp.logit_scale.device))[0]
        return x

    def fill_scores(
        self,
        results: Sequence[ScoreResult],
        inputs: Sequence[torch.Tensor],
        texts: Sequence[str],
        prompt_source: str | None = None,
        with_bins: bool = False,
    ) -> None:
        """Score a batch, and write the scores into its results.

        Args:
            results: N results to complete.
            inputs: N inputs, see ``to_input``. AMHP gets them in one pass, other metrics one by
                one, each in its own size.
            texts: N texts, ``''`` where there is none.
            prompt_source: see ``score``.
            with_bins: ask other metrics for their distribution too (NIMA, MUSIQ, ...).
        """
        if self.amhp and inputs:
            self._fill_amhp(self.amhp, results, torch.stack(list(inputs)), texts, prompt_source)
        elif prompt_source is not None and not self.amhp:
            raise AMHPError(f'prompt_source={prompt_source!r}: metric {self.name!r} has no prompts')
        else:
            for result, x in zip(results, inputs, strict=True):
                self._fill_other(result, x, with_bins)

    def _fill_amhp(self, net: AMHP, results, x: torch.Tensor, texts, prompt_source) -> None:
        if x.dtype == torch.uint8:
            x = x.to(net.logit_scale.device).permute(0, 3, 1, 2)
            x = net.preprocess.normalize(x.float() / 255)
        with torch.inference_mode():
            mos, dist = net.predict(x, list(texts), prompt_source)
        sources = net.prompt_sources(list(texts), prompt_source)
        numbers = zip(mos[:, 0].tolist(), dist.tolist(), strict=True)
        for result, source, (score, levels) in zip(results, sources, numbers, strict=True):
            result.score, result.prompt_source = score, source
            result.levels = dict(zip(self.levels, levels, strict=True))

    def _fill_other(self, result: ScoreResult, x: torch.Tensor, with_bins: bool) -> None:
        if not (with_bins and self._has_bins):
            result.score = float(self.metric(x))
            return
        mos, dist = self.metric(x, return_mos=True, return_dist=True)
        result.score, bins = float(mos), dist.flatten().tolist()
        if len(bins) > 1 and min(bins) >= 0 and abs(sum(bins) - 1) < 1e-3:
            result.bins = tuple(bins)  # else it is one number, or no probabilities

    @functools.cached_property
    def _has_bins(self) -> bool:
        return 'return_dist' in inspect.signature(self.net.forward).parameters


def _in_memory(image: Any) -> Any:
    return read_image(image) if isinstance(image, str | Path) else image
