"""Malicious weights: files that run code, fill the memory, or claim to be another model."""

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

import torch
from hostile_world import Code, World, case, zipped
from hub_double import hub_in_reach

ADD = '`amhp weights add FILE`'


def weights(what: str, gets: str, name: str = 'model.pth'):
    """Decorate a function that makes the bytes of a file of weights."""

    def add(make):
        def run(world: World) -> str:
            return world.refused('weights', 'add', world.write(name, make(world)))

        return case('Weights', what, ADD, gets)(run)

    return add


def saved(content, **form) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **form)
    return file.getvalue()


def with_header(header: dict | bytes, data: bytes = b'', size: int | None = None) -> bytes:
    """Make a safetensors file; ``size`` is the size that it claims for its header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack('<Q', len(text) if size is None else size) + text + data


def tensor(dtype='F32', shape=(2,), offsets=(0, 8)) -> dict:
    return {'dtype': dtype, 'shape': list(shape), 'data_offsets': list(offsets)}


@weights('a pickle that runs code, in a zip file', 'refused, since it holds more than tensors')
def _(world):
    return saved({'params': {'w': Code(world.trace)}})


@weights("the same in PyTorch's old form", 'refused, since it holds more than tensors')
def _(world):
    return saved({'params': Code(world.trace)}, _use_new_zipfile_serialization=False)


@weights('a bare pickle that runs code', 'damaged, or not a file of weights')
def _(world):
    return pickle.dumps(Code(world.trace))


@weights('a whole model, pickled with its class', 'refused, since it holds more than tensors')
def _(world):
    return saved(torch.nn.Linear(2, 2))


@weights('a pickle of 200,000 lists within lists', 'damaged, or not a file of weights')
def _(world):
    return b'\x80\x02' + b']' * 200_000 + b'a' * 199_999 + b'.'


@weights('97 KB that unpack to 100 MB', 'bytes say that they hold')
def _(world):
    return zipped({name: bytes(50_000_000) for name in ('a/data/0', 'a/data/1')})


@weights('one number that claims to be 10,000,000 x 10,000,000', 'bytes say that they hold')
def _(world):
    return saved({'w': torch.zeros(1).expand(10**7, 10**7)})


@weights('a header that is longer than the file', 'damaged, or not a file', 'a.safetensors')
def _(world):
    return with_header({'w': tensor()}, bytes(8), size=2**62)


@weights('tensors that overlap', 'damaged, or not a file', 'a.safetensors')
def _(world):
    return with_header({'w': tensor(), 'v': tensor()}, bytes(8))


@weights('a tensor of 2^40 x 2^40 in 8 bytes', 'damaged, or not a file', 'a.safetensors')
def _(world):
    return with_header({'w': tensor(shape=(2**40, 2**40))}, bytes(8))


@weights('a type of number that does not exist', 'damaged, or not a file', 'a.safetensors')
def _(world):
    return with_header({'w': tensor('F99')}, bytes(8))


@weights('a header that is not JSON', 'damaged, or not a file of weights', 'a.safetensors')
def _(world):
    return with_header(b'[' * 100_000)


@weights('a pickle that runs code, named .safetensors', 'damaged, or not', 'a.safetensors')
def _(world):
    return saved({'w': Code(world.trace)})


@weights('a configuration that is one number, 10^12', 'no AMHP configuration in it')
def _(world):
    return saved({'params': {'_extra_state': torch.tensor(10**12), 'w': torch.ones(2)}})


@weights('a configuration without a protocol', 'protocol=None: expected one of')
def _(world):
    return changed_config(world, protocol=None)


@weights('a configuration of words where numbers belong', 'expected a list of finite numbers')
def _(world):
    return changed_config(world, level_values=['a', 'b', 'c', 'd', 'e'])


def changed_config(world: World, **changes) -> bytes:
    """Make a checkpoint whose configuration does not fit its tensors."""
    state = world.make_amhp().state_dict()
    config = {**json.loads(bytes(state['_extra_state'].tolist())), **changes}
    state['_extra_state'] = torch.tensor(list(json.dumps(config).encode()), dtype=torch.uint8)
    return saved({'params': state})


def giant(what: str, **encoder):
    """Add a case of a checkpoint that claims a huge image encoder."""

    def run(world: World) -> str:
        backbone = {**world.tiny, 'vision_cfg': {**world.tiny['vision_cfg'], **encoder}}
        path = world.write('model.pth', changed_config(world, backbone=backbone))
        return world.refused('score', world.photo(), '--weights', path, '--device', 'cpu')

    case('Weights', what, '`amhp score --weights FILE`', 'refused, since the model that')(run)


giant('a small checkpoint that claims to be a model of 480 GB', width=100_000)
giant('the same of 10^9 layers', layers=10**9)


class Script(torch.nn.Module):
    """Module that writes a file when ``torch.jit.load`` loads it."""

    def __init__(self):
        super().__init__()
        self.w = torch.zeros(2)
        self.training = True

    @torch.jit.export
    def __getstate__(self):
        return (self.w, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]):
        self.training = state[1]
        self.w = torch.from_file('PLACEHOLDER_FOR_THE_NAME_OF_THE_TRACE', shared=True, size=4)


def script_that_writes(trace: Path) -> bytes:
    """Make a TorchScript archive that writes the file ``trace`` when it is loaded."""
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(Script()), file)
    with zipfile.ZipFile(io.BytesIO(file.getvalue())) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    placeholder = b'PLACEHOLDER_FOR_THE_NAME_OF_THE_TRACE'
    parts = {name: part.replace(placeholder, str(trace).encode()) for name, part in parts.items()}
    Path(placeholder.decode()).unlink(missing_ok=True)  # saving runs the code too
    return zipped(parts)


@case(
    'Weights',
    "a TorchScript archive, the format of OpenAI's files, whose code writes a file",
    "`create_metric('amhp', clip_weights=FILE)`",
    'expected a checkpoint with named tensors, found none',
)
def _(world):
    from pyiqa_amhp.model.amhp import AMHP

    path = world.write('ViT-B-16.pt', script_that_writes(world.trace))
    return AMHP(pretrained='clip', backbone=world.tiny, clip_weights=str(path), quick_gelu=True)


@case(
    'Weights', 'a name that leaves the store, `../../x`', '`amhp weights add FILE --as NAME`',
    'use lower-case letters, digits',
)  # fmt: skip
def _(world):
    return world.refused('weights', 'add', world.write('a.pth', b'x'), '--as', '../../x')


@case(
    'Weights',
    'a pickle that runs code, as the weights of another metric of pyiqa, which would run it',
    '`amhp score --metric nima --weights FILE`',
    'refused, since it holds more than tensors',
)
def _(world):
    path = world.write('nima.pth', saved({'params': Code(world.trace)}))
    return world.refused('score', world.photo(), '--metric', 'nima', '--weights', path)


HUB, HUB_ID = '`amhp score --weights hf-hub:someone/model`', 'hf-hub:someone/model'
TYPE = '{"model_type": "amhp", "amhp": {}}'


def on_hub(what: str, gets: str, fetched: str = 'model.safetensors'):
    """Decorate a function that makes the files of a repository; only ``fetched`` may be fetched."""

    def add(make):
        def run(world: World) -> str:
            with hub_in_reach(world.folder / 'hub', token=None) as hub:
                hub.add('someone/model', make(world))
                message = world.refused(
                    'score', world.photo(), '--weights', HUB_ID, '--device', 'cpu'
                )
            files = {request.rsplit('/', 1)[1] for request in hub.requests if 'resolve' in request}
            assert files <= {'config.json', fetched}, files
            return message

        return case('Weights', what, HUB, gets)(run)

    return add


def repository(world: World, **changes) -> dict[str, bytes]:
    """Make a repository of a tiny AMHP, with changes in its ``config.json``."""
    from pyiqa_amhp.weights.checkpoint import save_checkpoint, stored_config

    state = world.make_amhp().state_dict()
    file = save_checkpoint(world.folder / 'model.safetensors', state)
    config = {**stored_config(state['_extra_state']), **changes}
    described = json.dumps({'model_type': 'amhp', 'amhp': config}).encode()
    return {'config.json': described, 'model.safetensors': file.read_bytes()}


@on_hub('a repository with a pickle that runs code, and no safetensors', 'no AMHP is there')
def _(world):
    evil = saved({'params': {'w': Code(world.trace)}})
    files = {'pytorch_model.bin': evil, 'model.pth': evil, 'model.pkl': evil}
    return {'config.json': repository(world)['config.json'], **files}


@on_hub('a pickle that runs code, named model.safetensors', 'damaged, or not a file of weights')
def _(world):
    return {**repository(world), 'model.safetensors': saved({'w': Code(world.trace)})}


@on_hub('a config.json that contradicts the weights', 'than its weights (protocol)')
def _(world):
    return repository(world, protocol='reference')


@on_hub('another model; its weights are not fetched', 'not an AMHP', 'config.json')
def _(world):
    return {**repository(world), 'config.json': b'{"model_type": "bert"}'}


@on_hub('a config.json of 100,000 lists within lists', 'not an AMHP', 'config.json')
def _(world):
    return {**repository(world), 'config.json': b'[' * 100_000}


@on_hub('a config.json of 10 MB', 'not an AMHP', 'config.json')
def _(world):
    return {**repository(world), 'config.json': TYPE.encode() + b' ' * 10**7}


@case(
    'Weights', 'ids that leave the cache, `hf-hub:a/b@../../x`, `hf-hub:../x`', HUB,
    'expected hf-hub:owner/name',
)  # fmt: skip
def _(world):
    messages = [
        world.refused('score', world.photo(), '--weights', given)
        for given in ('hf-hub:a/b@../../x', 'hf-hub:../x', 'hf-hub:a/b@/etc/passwd')
    ]
    assert len({message.split(': expected')[1] for message in messages}) == 1
    return messages[0]
