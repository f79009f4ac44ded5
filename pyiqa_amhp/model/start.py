"""What an AMHP starts from: trained weights, CLIP's own weights, or random ones."""

from dataclasses import dataclass
from typing import Any

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.clip import check_architecture
from pyiqa_amhp.model.clip_weights import ClipSource, resolve_clip
from pyiqa_amhp.model.config import AMHPConfig
from pyiqa_amhp.weights.checkpoint import Checkpoint
from pyiqa_amhp.weights.store import find_checkpoint


@dataclass(frozen=True)
class Start:
    """Where the weights of a new AMHP come from.

    Attributes:
        source: the CLIP to build, with the whole configuration.
        checkpoint: trained weights, if there are any.
        zero_shot: whether CLIP's own weights score without any training.
    """

    source: ClipSource
    checkpoint: Checkpoint | None
    zero_shot: bool


def find_start(
    options: dict[str, Any], pretrained: bool | str, pretrained_model_path: str | None
) -> Start:
    """Find the weights and the configuration of a new AMHP.

    Args:
        options: those of ``AMHPConfig``; they override what a checkpoint says.
        pretrained, pretrained_model_path: see ``AMHP``.

    Raises:
        AMHPError: impossible options; weights that are missing or do not belong to an AMHP; a
            variant that scores nothing without training.
    """
    dataset = AMHPConfig.from_options({'dataset': options.get('dataset')}).dataset
    checkpoint = find_checkpoint(dataset, pretrained, pretrained_model_path)
    config = AMHPConfig.from_options(options, checkpoint.config if checkpoint else None)
    zero_shot = pretrained is True and not checkpoint
    if zero_shot and not config.uses_levels:
        raise AMHPError(
            f'variant={config.variant!r} has no zero-shot form: give pretrained_model_path= '
            "(trained weights), or pretrained='clip' to start training"
        )
    source = resolve_clip(config, load=bool(pretrained) and not checkpoint)
    if checkpoint:
        check_architecture(source, checkpoint.path)
    return Start(source, checkpoint, zero_shot)
