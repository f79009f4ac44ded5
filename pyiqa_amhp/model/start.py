"""The weights that a new AMHP starts from: trained ones, CLIP's own, or random ones."""

from dataclasses import dataclass
from typing import Any

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.clip import check_architecture
from pyiqa_amhp.model.clip_weights import ClipSource, resolve_clip
from pyiqa_amhp.model.config import IMAGENET, AMHPConfig
from pyiqa_amhp.model.prompt_features import PromptFeatures
from pyiqa_amhp.weights.checkpoint import CONFIG_KEY, Checkpoint, check_keys
from pyiqa_amhp.weights.store import find_checkpoint

PREDICTOR = 'predictor.'  # prefix of the predictor's tensors in a state_dict


@dataclass(frozen=True)
class Start:
    """Where the weights of a new AMHP come from.

    Attributes:
        source: the CLIP to build, with the complete configuration.
        checkpoint: trained weights, if there are any.
        zero_shot: whether CLIP's own weights are used without any training.
    """

    source: ClipSource
    checkpoint: Checkpoint | None
    zero_shot: bool


def find_start(
    options: dict[str, Any], pretrained: bool | str, pretrained_model_path: str | None
) -> Start:
    """Find the weights and the configuration of a new AMHP.

    Args:
        options: options of ``AMHPConfig``, which override those of a checkpoint.
        pretrained, pretrained_model_path: see ``AMHP``.

    Raises:
        AMHPError: impossible options; weights that are missing or not of an AMHP; a variant that
            cannot run without training.
    """
    dataset = AMHPConfig.from_options({'dataset': options.get('dataset')}).dataset
    any_scale = options.get('dataset') is None or options.get('level_values') is not None
    checkpoint = find_checkpoint(dataset, pretrained, pretrained_model_path, any_scale)
    config = AMHPConfig.from_options(options, checkpoint.config if checkpoint else None)
    zero_shot = pretrained is True and not checkpoint
    if zero_shot and not config.uses_levels:
        raise AMHPError(
            f'variant={config.variant!r} cannot run zero-shot: give pretrained_model_path= '
            "(trained weights), or pretrained='clip' to start training"
        )
    if zero_shot and config.clip_weights == IMAGENET:
        raise AMHPError(
            f'backbone={config.backbone!r} cannot run zero-shot, since its text encoder has no '
            'weights yet: give pretrained_model_path= (trained weights), or train it '
            "(pretrained='clip')"
        )
    source = resolve_clip(config, load=bool(pretrained) and not checkpoint)
    if checkpoint:
        check_architecture(source, checkpoint.path)
    return Start(source, checkpoint, zero_shot)


def load_into(net: PromptFeatures, checkpoint: Checkpoint) -> None:
    """Load a checkpoint into a model that was built from its configuration.

    The model may have another predictor than the checkpoint, if that needs no training.

    Raises:
        AMHPError: keys that do not fit, by name, or a predictor that needs training.
    """
    state = dict(checkpoint.state)
    trained_with = checkpoint.config.get('predictor', 'none')
    if trained_with != net.config.predictor:
        if net.config.predictor == 'feature':
            raise AMHPError(
                f"{checkpoint.path}: trained with predictor={trained_with!r}; predictor='feature' "
                "works only where it was trained, predictor='levels' everywhere"
            )
        state = {key: value for key, value in state.items() if not key.startswith(PREDICTOR)}
        own = net.state_dict()
        state |= {key: own[key] for key in own if key.startswith(PREDICTOR)}
    check_keys(net, state, checkpoint.path, ignore=(CONFIG_KEY,))
    net.load_state_dict({**state, CONFIG_KEY: net.get_extra_state()})
