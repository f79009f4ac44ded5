"""Checkpoints: read safely, checked, saved whole. Nothing that is read can run code."""

import json
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.utils.files import write_atomically
from pyiqa_amhp.weights import hub
from pyiqa_amhp.weights.hub import is_hub_id
from pyiqa_amhp.weights.torchscript import is_torchscript, read_archive

CONFIG_KEY = '_extra_state'  # where torch keeps what AMHP.get_extra_state gives
PREDICTOR = 'predictor.'
# How checkpoints wrap their tensors: pyiqa, open_clip, and others.
WRAPPERS = ('params', 'state_dict', 'model_state_dict', 'model')
DIGEST_SAMPLE = 4096  # numbers of each tensor that count in a digest
MAX_TIMES = 4
"""A file holds at most this many times its own size: PyTorch and safetensors do not compress, so
more is a bomb. Tensors that share memory count each (our choice)."""


def safe_load(path: str | Path, by_torch: bool = False) -> Any:
    """What a ``.safetensors`` file or a PyTorch file holds, tensors on the CPU.

    Of TorchScript archives, OpenAI's form, only tensors are read and no code is run.

    Args:
        by_torch: take only what ``torch.load`` reads, whatever the file's name, to know that
            others may do so.

    Raises:
        AMHPError: no such file, a damaged one, or one that holds more than tensors and plain
            values (pickles with code in them are refused, never run) or more of them than its
            size can (``MAX_TIMES``).
    """
    if is_hub_id(path):
        raise AMHPError(f'{path}: of the hub only AMHP is read, and not here; give a local file')
    path = Path(path).expanduser()
    if not path.is_file():
        raise AMHPError(f'{path}: no such file')
    if not path.stat().st_size:
        raise AMHPError(f'{path}: the file is empty')
    if zipfile.is_zipfile(path):
        _check_size(path, _declared(path))
    try:
        if path.suffix == '.safetensors' and not by_torch:
            return safetensors.torch.load_file(path)
        if not by_torch and is_torchscript(path):
            return read_archive(path)
        return torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:  # its text advises weights_only=False: not passed on
        if found := re.search(r'GLOBAL (\S+)', str(error)):
            raise AMHPError(
                f'{path}: refused, since it holds more than tensors ({found[1]}) and loading it '
                'could run code'
            ) from error
        raise AMHPError(f'{path}: damaged, or not a file of weights') from error
    except Exception as error:  # damaged files fail in many ways
        reason = f'{type(error).__name__}: {error}'.splitlines()[0]
        raise AMHPError(f'{path}: damaged, or not a file of weights ({reason})') from error


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """The named tensors of a file of weights, on the CPU.

    Raises:
        AMHPError: see ``safe_load``; or there are no named tensors.
    """
    content = safe_load(path)
    path = Path(path).expanduser()
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = isinstance(content, Mapping) and {
        str(key).removeprefix('module.'): value
        for key, value in content.items()
        if isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise AMHPError(f'{path}: expected a checkpoint with named tensors, found none')
    _check_size(path, (value.numel() * value.element_size() for value in tensors.values()))
    return tensors


def _declared(path: Path) -> list[int]:
    """The sizes that a zip file's parts say they have."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [part.file_size for part in archive.infolist()]
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return []  # damaged: reading it will tell


def _check_size(path: Path, sizes: Iterable[int]) -> None:
    here, inside = path.stat().st_size, sum(sizes)
    if inside > MAX_TIMES * here:
        raise AMHPError(
            f'{path}: refused, since its {here:,} bytes say that they hold {inside:,}; weights are '
            f'stored uncompressed (at most {MAX_TIMES} times the size of the file)'
        )


def check_keys(
    module: torch.nn.Module,
    state: Mapping[str, torch.Tensor],
    path: str | Path,
    ignore: tuple[str, ...] = (),
) -> None:
    """Compare names and shapes with what ``module`` expects.

    Raises:
        AMHPError: naming the keys that are missing, unexpected, or of another shape.
    """
    expected = {k: v for k, v in module.state_dict().items() if k not in ignore}
    problems = []
    for title, keys in (
        ('missing', expected.keys() - state.keys()),
        ('unexpected', state.keys() - expected.keys()),
    ):
        if keys:
            problems.append(f'{len(keys)} {title}: {_some(sorted(keys))}')
    shapes = [
        f'{key} is {list(state[key].shape)}, expected {list(expected[key].shape)}'
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    if shapes:
        problems.append(f'{len(shapes)} of another shape: {_some(shapes)}')
    if problems:
        raise AMHPError(f'{path}: the weights do not fit the model ({"; ".join(problems)})')


def _some(items: list[str], most: int = 5) -> str:
    return ', '.join(items[:most]) + (', ...' if len(items) > most else '')


@dataclass(frozen=True)
class Checkpoint:
    """Trained weights as read from a file: ``config`` as stored, ``state`` without it.

    ``name`` is what people call them: the file's name, or an id of the hub.
    """

    path: Path
    config: dict[str, Any]
    state: dict[str, torch.Tensor]
    name: str = ''


def read_checkpoint(path: str | Path, newest: bool = False) -> Checkpoint:
    """Read a checkpoint of AMHP, ``.pth`` (pyiqa's form) or ``.safetensors``.

    Args:
        path: a file, or ``hf-hub:owner/name``, maybe with ``@revision``: read from the cache if
            it is there, else fetched.
        newest: of the hub: look for a newer commit first.

    Raises:
        AMHPError: see ``read_tensors`` and ``fetch_model``; or the file has no AMHP
            configuration.
    """
    if hub.is_hub_id(path):
        model = hub.hub_id(path)
        checkpoint = read_checkpoint(hub.fetch_model(model, newest))
        hub.check_config(checkpoint.path, model, checkpoint.config)
        return replace(checkpoint, name=str(model))
    state = dict(read_tensors(path))
    raw = state.pop(CONFIG_KEY, None)
    try:
        config = stored_config(raw)
    except AMHPError as error:
        raise AMHPError(
            f'{path}: no AMHP configuration in it; expected a checkpoint that AMHP was saved to '
            '(CLIP weights go to clip_weights=)'
        ) from error
    return Checkpoint(Path(path).expanduser(), config, state, Path(path).name)


def save_checkpoint(path: str | Path, state: dict[str, torch.Tensor]) -> Path:
    """Write an AMHP's ``state_dict()``, atomically, in the form that the suffix names.

    ``.safetensors`` also gets the configuration as readable metadata; any other suffix gets
    pyiqa's form, ``{'params': ...}``.
    """
    state = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    if Path(path).suffix == '.safetensors':
        metadata = {'format': 'pt', 'pyiqa_amhp': json.dumps(stored_config(state[CONFIG_KEY]))}
        return write_safetensors(path, state, metadata)
    return write_torch(path, {'params': state})


def write_safetensors(
    path: str | Path, state: dict[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> Path:
    """``safetensors.torch.save_file``, atomically.

    Raises:
        AMHPError: it could not be written; what was there before is as it was.
    """

    def write(file: Path) -> None:
        try:
            safetensors.torch.save_file(state, file, metadata=metadata)
        except safetensors.SafetensorError as error:  # what the system said is in its text alone
            if number := re.search(r'os error (\d+)', str(error)):
                raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
            raise

    return write_atomically(path, write)


def write_torch(path: str | Path, content: dict[str, Any]) -> Path:
    """``torch.save``, atomically.

    Raises:
        AMHPError: it could not be written; what was there before is as it was.
    """

    def write(file: Path) -> None:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch's own writer does not say what the system said
            raise AMHPError(
                f'{path}: could not be written; is the disk full, or the size of files limited? '
                f'({shutil.disk_usage(file.parent).free / 2**20:,.0f} MB are free)'
            ) from error

    return write_atomically(path, write)


def load_into(net: torch.nn.Module, checkpoint: Checkpoint) -> None:
    """Load a checkpoint into a model built from its configuration.

    A model may have another predictor of texts than the checkpoint, if that needs no training.

    Raises:
        AMHPError: names the keys that do not fit.
    """
    state = dict(checkpoint.state)
    stored = checkpoint.config.get('predictor', 'none')
    if stored != net.config.predictor:
        state = {key: value for key, value in state.items() if not key.startswith(PREDICTOR)}
        if net.config.predictor == 'feature':
            raise AMHPError(
                f"{checkpoint.path}: trained with predictor={stored!r}; predictor='feature' works "
                "only where it was trained, predictor='levels' everywhere"
            )
        own = net.state_dict()
        state |= {key: own[key] for key in own if key.startswith(PREDICTOR)}
    check_keys(net, state, checkpoint.path, ignore=(CONFIG_KEY,))
    net.load_state_dict({**state, CONFIG_KEY: net.get_extra_state()})


def config_to_tensor(config: Mapping[str, Any]) -> torch.Tensor:
    """Pack a configuration into a uint8 tensor of JSON, which every checkpoint format can carry."""
    text = json.dumps(config, sort_keys=True)
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def stored_config(tensor: torch.Tensor) -> dict[str, Any]:
    """Unpack the configuration that ``config_to_tensor`` packed.

    Raises:
        AMHPError: something else.
    """
    try:
        # bytes(tensor.tolist()) of a single number n would be n zeros
        config = json.loads(tensor.cpu().numpy().tobytes()) if tensor.dtype == torch.uint8 else None
    except (AttributeError, ValueError, TypeError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise AMHPError('not an AMHP configuration')
    return config


def weights_digest(state: Mapping[str, torch.Tensor]) -> str:
    """Which weights these are, whatever file they are in and whatever it says of them.

    Args:
        state: of a network or a checkpoint; of its configuration nothing counts.
    """
    digest = blake2b(digest_size=16)
    for name in sorted(state.keys() - {CONFIG_KEY}):
        digest_tensor(digest, name, state[name])
    return digest.hexdigest()


def digest_tensor(digest, name: str, value: Any) -> None:
    digest.update(name.encode())
    if isinstance(value, torch.Tensor):
        digest.update(f'{value.dtype}{tuple(value.shape)}'.encode())
        flat = value.detach().flatten()
        sample = flat[:: max(1, len(flat) // DIGEST_SAMPLE)].cpu().contiguous()
        digest.update(sample.view(torch.uint8).numpy().tobytes() if len(sample) else b'')
    else:
        digest.update(repr(value).encode())


def tensor_versions(tensors: Iterable[torch.Tensor]) -> list:
    """Marks that differ once any of these tensors was changed or replaced.

    Where a tensor lies and its version tell most changes. Those through ``tensor.data``, or of
    tensors made in ``torch.inference_mode``, have no version: 16 evenly spaced numbers of each
    tensor tell those.
    """
    tensors = [tensor.detach() for tensor in tensors]
    marks: list = [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors]
    samples = [t.reshape(-1)[:: max(1, t.numel() // 16)].to(torch.float64) for t in tensors]
    if samples:
        marks.append(torch.cat(samples).cpu().numpy().tobytes())
    return marks
