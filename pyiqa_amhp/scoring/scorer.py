"""``Scorer``: a metric of pyiqa with its scale, levels, fingerprint and scores."""

import inspect
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.model.config import with_first_names
from pyiqa_amhp.model.inputs import ImageInput, one_or_many, one_text_each, to_batch
from pyiqa_amhp.model.prompts import image_texts
from pyiqa_amhp.scoring.device import BATCH_SIZE, GPU_BATCH_SIZE, copy_to_host, join_inputs
from pyiqa_amhp.scoring.result import MIRROR, SCORES_SINCE, ScoreResult
from pyiqa_amhp.utils.environment import check_device, version_of
from pyiqa_amhp.weights.checkpoint import (
    CONFIG_KEY,
    config_to_tensor,
    digest_tensor,
    safe_load,
    stored_config,
)

OWN_ARCHS = ('AMHP', 'TANet')  # they load weights without running code in them
NOT_OF_ONE_IMAGE = {
    'FID': 'compares two folders of images and scores no single one',
    'InceptionScore': 'scores a folder of images as a whole and no single one',
    'CLIPScore': 'scores how well a caption fits an image, not the image',
}
"""Archs that pyiqa lists among the no-reference metrics, though their call needs more than an
image: why they are refused."""

TASK = 'aesthetic'
"""What metrics with a choice of tasks (``task_``: ``qalign``, ``qrealign``) are asked for. pyiqa's
default is ``quality``, which is not what the metrics beside them measure (our choice)."""


def create_metric(
    name: str = 'amhp', weights: str | None = None, device: str | None = None, **options
):
    """Create a no-reference metric of pyiqa, with clear errors.

    Args:
        name: name of a no-reference metric.
        weights: a checkpoint, passed on as ``pretrained_model_path``.
        device: a device of torch, ``cpu``, ``cuda`` ...; None: a GPU if there is one.
        **options: options of AMHP; TANet has ``color_profiles``. Those that are None are left out.

    Returns:
        The metric that ``pyiqa.create_metric`` returns.

    Raises:
        AMHPError: the metric is unknown, scores no single image, or has no such options; there is
            no such device; or the weights do not load, or hold code, which pyiqa's own metrics
            would run.
    """
    import pyiqa

    check_metric(name)
    check_device(device)
    options = {key: value for key, value in options.items() if value is not None}
    of_others = {'color_profiles'} if arch_of(name) in OWN_ARCHS else set()
    if arch_of(name) != 'AMHP' and (unknown := options.keys() - of_others):
        raise AMHPError(f'metric {name!r} has no {", ".join(sorted(unknown))}; only AMHP has')
    if weights is not None:
        if arch_of(name) not in OWN_ARCHS and Path(weights).suffix != '.mat':
            safe_load(weights, by_torch=True)  # pyiqa would run code that is in it
        options['pretrained_model_path'] = str(weights)
    return pyiqa.create_metric(name, device=device, **options)


def check_metric(name: str) -> None:
    """Check that a metric of pyiqa scores a single image without a reference.

    Raises:
        AMHPError: an unknown metric, or one that needs more than an image.
    """
    import pyiqa

    known = single_image_metrics()
    if name in known:
        return
    reason = 'needs a reference image' if name in pyiqa.list_models() else 'is not known'
    reason = NOT_OF_ONE_IMAGE.get(arch_of(name) or '', reason)
    raise AMHPError(f'metric {name!r} {reason}; no-reference metrics: {", ".join(known)}')


def single_image_metrics() -> list[str]:
    """List the metrics of pyiqa that score a single image without a reference."""
    import pyiqa

    return [n for n in pyiqa.list_models('NR') if arch_of(n) not in NOT_OF_ONE_IMAGE]


def arch_of(name: str) -> str | None:
    """Return the arch of a metric of pyiqa; None for an unknown name."""
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    return DEFAULT_CONFIGS[name]['metric_opts']['type'] if name in DEFAULT_CONFIGS else None


class Scorer:
    """A no-reference metric of pyiqa.

    Args:
        metric: a name for ``create_metric``, a metric that ``pyiqa.create_metric`` returned, or
            an AMHP.
        color_profiles: whether images with a colour profile are converted to sRGB; None: as the
            metric's option says, True for metrics without it.
        task: what a metric with a choice of tasks scores, ``aesthetic`` or ``quality``.

    Attributes:
        metric: the metric of pyiqa, or the AMHP.
        net: the network in the metric.
        name: pyiqa's name of the metric.
        amhp: the network if it is an AMHP, else None.
        lower_better: whether a lower score is better.
        color_profiles: whether images with a colour profile are converted to sRGB.
        task: the task; None for a metric that has no choice.
    """

    def __init__(
        self, metric: str | torch.nn.Module, color_profiles: bool | None = None, task: str = TASK
    ):
        self.metric: Any = create_metric(metric) if isinstance(metric, str) else metric
        self.net: torch.nn.Module = getattr(self.metric, 'net', self.metric)
        self.name: str = getattr(self.metric, 'metric_name', 'amhp')
        self.amhp: AMHP | None = self.net if isinstance(self.net, AMHP) else None
        self.lower_better = bool(getattr(self.metric, 'lower_better', False))
        own = getattr(self.net, 'color_profiles', True)
        self.color_profiles: bool = own if color_profiles is None else color_profiles
        self.task = task if self._has_argument('task_') else None

    @property
    def on_gpu(self) -> bool:
        """Whether the metric is an AMHP on a GPU of CUDA."""
        return self.amhp is not None and self.amhp.logit_scale.device.type == 'cuda'

    @property
    def batch_size(self) -> int:
        """Images in a batch of AMHP unless another number is given."""
        return GPU_BATCH_SIZE if self.on_gpu else BATCH_SIZE

    @property
    def levels(self) -> tuple[str, ...]:
        """Words of AMHP's quality levels, worst first; ``()`` for other metrics."""
        return self.amhp.config.levels if self.amhp else ()

    @property
    def level_values(self) -> tuple[float, ...] | None:
        """Scores of AMHP's quality levels; None for other metrics."""
        return self.amhp.config.level_values if self.amhp else None

    @property
    def note(self) -> str:
        """Note of AMHP's weights, see ``AMHPConfig``; '' for other metrics."""
        return self.amhp.config.note if self.amhp else ''

    @property
    def scale(self) -> tuple[float, float] | None:
        """Lowest and highest score; None if an end is open or not stated.

        For AMHP these are the ends of the data set's votes, or of the user's own level values.
        For other metrics pyiqa states them; its ``~1`` is read as 1.
        """
        if self.amhp:
            return self.amhp.config.scale
        number = r'~?(-?\d+(?:\.\d+)?)'
        stated = re.fullmatch(rf'{number}, *{number}', str(self.metric.score_range))
        return (float(stated[1]), float(stated[2])) if stated else None

    @property
    def scale_text(self) -> str:
        """The scale as text: ``1..10``, the range that pyiqa states, or ``not stated``."""
        if self.amhp and self.scale:
            return f'{self.scale[0]:g}..{self.scale[1]:g}'
        return str(self.metric.score_range or 'not stated').replace(', ', '..')

    @property
    def takes_text(self) -> bool:
        """Whether the metric is an AMHP whose variant has an attribute prompt."""
        return self.amhp is not None and self.amhp.config.uses_attributes

    @property
    def reads_text(self) -> bool:
        """Whether a text can change a score, see ``PromptFeatures.reads_text``."""
        return self.amhp is not None and self.amhp.reads_text

    @property
    def predicts_prompts(self) -> bool:
        """Whether the metric is an AMHP that predicts prompts of images without a text."""
        return self.amhp is not None and self.amhp.predictor is not None

    @property
    def changes(self) -> dict[str, Any]:
        """What makes scores differ from those of version 0.1.0: named settings of a run.

        Empty if nothing does, so that what 0.1.0 began resumes.
        """
        changes: dict[str, Any] = {'color_profiles': True} if self.color_profiles else {}
        if self.amhp and (precision := self.amhp.backbone.runner.reduced):
            changes['precision'] = precision
        if self.amhp and self.amhp.config.test_flip:
            changes['mirror'] = MIRROR
        return changes

    @property
    def fingerprint(self) -> str:
        """Digest of the metric: its name, options, versions and weights.

        Scores depend on ``changes`` too, and on how files are read. Of each tensor about 4,096
        evenly spaced numbers are read: training changes all numbers.
        """
        from pyiqa.default_model_configs import DEFAULT_CONFIGS

        options = DEFAULT_CONFIGS.get(self.name, {}).get('metric_opts', {})
        versions = [version_of('pyiqa'), SCORES_SINCE, version_of('torch')]
        digest = blake2b(digest_size=16)
        settings = [self.name, versions, options, *([self.task] if self.task else [])]
        digest.update(json.dumps(settings, default=str).encode())
        for name, value in self.net.state_dict().items():
            if name == CONFIG_KEY and self.amhp:
                value = config_to_tensor(with_first_names(stored_config(value)))
            digest_tensor(digest, name, value)
        return digest.hexdigest()

    def score(
        self,
        images: ImageInput | Iterable[ImageInput],
        texts: str | Iterable[str | None] | None = None,
        prompt_source: str | None = None,
    ) -> list[ScoreResult]:
        """Score images as a call of the metric does.

        Args:
            images: N images, in any mixture: paths, bytes, open files, Pillow images, or tensors
                ``(3, H, W)`` or ``(1, 3, H, W)`` with values in [0, 1]; or a tensor
                ``(N, 3, H, W)``. A single image needs no list.
            texts: N texts, None or ``''`` for no text; a string for one image. Only AMHP reads
                them.
            prompt_source: ``given``, ``predicted`` or ``none``; None: as AMHP is configured.

        Returns:
            N results. ``path`` is that of the file, ``''`` for images in memory.

        Raises:
            ImageReadError: a file cannot be read.
            AMHPError: there are not as many texts as images, or the metric has no such prompt
                source.
        """
        images = list(one_or_many(images))
        texts = one_text_each(texts, len(images))
        results = [ScoreResult(str(i) if isinstance(i, str | Path) else '') for i in images]
        inputs = [self.to_input(to_batch(i, color_profiles=self.color_profiles)) for i in images]
        texts = image_texts(None if texts is None else list(texts), len(images))
        self.fill_scores(results, inputs, texts, prompt_source)
        return results

    def to_input(self, image: Image.Image | torch.Tensor | np.ndarray) -> torch.Tensor:
        """Convert an image to an input of ``fill_scores``.

        Args:
            image: a Pillow image in RGB, a tensor ``(1, 3, H, W)`` in [0, 1], or the uint8 array
                that ``Preprocess.view_file`` of AMHP returns.

        Returns:
            For AMHP the normalised input of the network ``(3, size, size)``, or for an array
            uint8 ``(size, size, 3)``. For other metrics ``(1, 3, H, W)``.
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
        """Score a batch, and write the scores into the N results: see ``start_scores``."""
        self.start_scores(results, inputs, texts, prompt_source, with_bins)()

    def start_scores(
        self,
        results: Sequence[ScoreResult],
        inputs: Sequence[torch.Tensor],
        texts: Sequence[str],
        prompt_source: str | None = None,
        with_bins: bool = False,
    ) -> Callable[[], None]:
        """Begin to score a batch; a GPU computes on after this returns.

        Args:
            results: N results to complete.
            inputs: N inputs, see ``to_input``, or batches of them with N images in all. AMHP scores
                them in one pass, other metrics one by one, each in its own size.
            texts: N texts, ``''`` for no text.
            prompt_source: see ``score``.
            with_bins: whether to ask other metrics for their distribution (NIMA, MUSIQ, ...).

        Returns:
            A function that waits for the scores and writes them into the results.

        Raises:
            AMHPError: the metric has no such prompt source, or the GPU has too little memory.
        """
        if self.amhp and inputs:
            return self._start_amhp(self.amhp, results, inputs, texts, prompt_source)
        if prompt_source is not None and not self.amhp:
            raise AMHPError(f'prompt_source={prompt_source!r}: metric {self.name!r} has no prompts')

        def fill() -> None:
            for result, x in zip(results, inputs, strict=True):
                self._fill_other(result, x, with_bins)

        return fill

    def _start_amhp(
        self,
        net: AMHP,
        results: Sequence[ScoreResult],
        inputs: Sequence[torch.Tensor],
        texts: Sequence[str],
        prompt_source: str | None,
    ) -> Callable[[], None]:
        try:
            with torch.inference_mode():
                x = join_inputs(net, inputs)
                mos, dist = net.predict(x, list(texts), prompt_source)
                numbers = torch.cat([mos, dist], dim=1)
                wait = copy_to_host(numbers)
        except torch.cuda.OutOfMemoryError as error:
            raise AMHPError(
                f'the GPU has too little memory for {len(texts)} images at once: give a smaller '
                'batch size (--batch-size; in Python batch_size=)'
            ) from error
        sources = ['none'] * len(texts)  # a prompt that changes nothing is no source
        if net.reads_text:
            sources = net.prompt_sources(list(texts), prompt_source)

        def fill() -> None:
            rows, reduced = wait().tolist(), net.backbone.runner.reduced
            for result, source, (score, *levels) in zip(results, sources, rows, strict=True):
                if reduced and math.isnan(score):
                    result.error = f'no score: {reduced} overflows here; use --precision fp32'
                    continue
                result.score, result.prompt_source = score, source
                result.levels = dict(zip(self.levels, levels, strict=True))

        return fill

    def _fill_other(self, result: ScoreResult, x: torch.Tensor, with_bins: bool) -> None:
        if not (with_bins and self._has_argument('return_dist')):
            result.score = float(self.metric(x, **({'task_': self.task} if self.task else {})))
            return
        mos, dist = self.metric(x, return_mos=True, return_dist=True)
        result.score, bins = float(mos), dist.flatten().tolist()
        if len(bins) > 1 and min(bins) >= 0 and abs(sum(bins) - 1) < 1e-3:
            result.bins = tuple(bins)  # otherwise a single number, or not probabilities

    def _has_argument(self, name: str) -> bool:
        return name in inspect.signature(self.net.forward).parameters
