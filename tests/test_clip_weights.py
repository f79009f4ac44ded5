"""CLIP's weights in every file format, and the activation that they need."""

import functools
import json
import shutil
import warnings
from pathlib import Path

import open_clip
import pytest
import safetensors.torch
import torch
from hostile_world import Code
from torch import nn

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.model.clip import Backbone
from pyiqa_amhp.model.clip_weights import resolve_clip
from pyiqa_amhp.model.config import AMHPConfig
from pyiqa_amhp.weights.checkpoint import save_checkpoint

pytestmark = pytest.mark.usefixtures('hub_cache')

TEXTS = ['soft evening light', 'the horizon is tilted']
OPENAI_REPO = 'timm/vit_base_patch16_clip_224.openai'  # where open_clip's tag points


def put_into_hub_cache(hub_cache, repo, files):
    """Put files (paths, or contents for JSON) into a cache as the hub's client does."""
    folder, commit = hub_cache / f'models--{repo.replace("/", "--")}', '0123456789' * 4
    snapshot = folder / 'snapshots' / commit
    snapshot.mkdir(parents=True)
    (folder / 'refs').mkdir()
    (folder / 'refs' / 'main').write_text(commit)
    for name, content in files.items():
        if isinstance(content, Path):
            (snapshot / name).symlink_to(content)
        else:
            (snapshot / name).write_text(json.dumps(content))


def write_archive(state, path):
    """A TorchScript archive whose ``state_dict()`` is ``state``."""
    root = nn.Module()
    for key, value in state.items():
        *names, leaf = key.split('.')
        module = root
        for name in names:
            if not hasattr(module, name):
                module.add_module(name, nn.Module())
            module = getattr(module, name)
        module.register_buffer(leaf, value)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', FutureWarning)
        torch.jit.save(torch.jit.script(root), path)


def write_openai(state, path, write):
    sizes = {'input_resolution': 224, 'context_length': 77, 'vocab_size': 49408}
    write({**state, **{key: torch.tensor(size) for key, size in sizes.items()}}, path)
    return path


class Clip:
    """A CLIP with random weights, its features, and its weights in every file format."""

    def __init__(self, architecture, folder, dtype=torch.float32):
        torch.manual_seed(0)
        self.architecture, self.folder = architecture, folder
        self.model = open_clip.CLIP(**architecture).eval()
        self.state = {key: value.to(dtype) for key, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.state)
        size = self.model.visual.image_size
        self.image = (
            torch.randn(1, 3, size, size) if isinstance(size, int) else torch.randn(1, 3, *size)
        )
        with torch.no_grad():
            tokens = open_clip.tokenize(TEXTS)
            self.features = self.model.encode_image(self.image), self.model.encode_text(tokens)

    @functools.cached_property
    def archive(self):
        return write_openai(self.state, self.folder / 'ViT-B-16.pt', write_archive)

    @functools.cached_property
    def openai_state_dict(self):
        return write_openai(self.state, self.folder / 'openai_state.pt', torch.save)

    @functools.cached_property
    def checkpoint(self):
        """A checkpoint as open_clip's trainer saves it."""
        state = {f'module.{key}': value for key, value in self.state.items()}
        path = self.folder / 'epoch_32.pt'
        torch.save({'epoch': 32, 'name': 'run', 'state_dict': state}, path)
        return path

    @functools.cached_property
    def safetensors(self):
        path = self.folder / 'alone' / 'open_clip_model.safetensors'
        path.parent.mkdir()
        safetensors.torch.save_file(self.state, path)
        return path

    def beside_config(self, folder, **model_cfg):
        """The safetensors with an ``open_clip_config.json`` beside them."""
        path = folder / 'open_clip_model.safetensors'
        path.symlink_to(self.safetensors)
        described = {'model_cfg': {**self.architecture, **model_cfg}, 'preprocess_cfg': {}}
        (folder / 'open_clip_config.json').write_text(json.dumps(described))
        return path

    @torch.no_grad()
    def check(self, backbone):
        """Assert that ``backbone`` gives this CLIP's features."""
        image, text = self.features
        torch.testing.assert_close(backbone.encode_image(self.image), image, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(backbone.encode_text(TEXTS), text, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope='module')
def vit(tmp_path_factory):
    """A full-size ViT-B/16 like OpenAI's: QuickGELU, in half precision on disk."""
    folder = tmp_path_factory.mktemp('vit')
    yield Clip(open_clip.get_model_config('ViT-B-16-quickgelu'), folder, torch.float16)
    shutil.rmtree(folder)


@pytest.fixture
def quick(tiny, tmp_path):
    """A tiny CLIP with QuickGELU."""
    return Clip({**tiny, 'quick_gelu': True}, tmp_path)


@pytest.fixture
def plain(tiny, tmp_path):
    """A tiny CLIP with GELU."""
    return Clip(tiny, tmp_path)


def load(**options):
    source = resolve_clip(AMHPConfig(**options), load=True)
    return source.config, Backbone(source).eval()


# A full-size ViT-B/16 in each file format


def tag_in_hub_cache(vit, hub_cache, home):
    put_into_hub_cache(hub_cache, OPENAI_REPO, {'open_clip_model.safetensors': vit.safetensors})
    return {}


def tag_in_openai_cache(vit, hub_cache, home):
    (home / '.cache' / 'clip').mkdir(parents=True)
    (home / '.cache' / 'clip' / 'ViT-B-16.pt').symlink_to(vit.archive)
    return {}


def hub_model(vit, hub_cache, home):
    files = {
        'open_clip_model.safetensors': vit.safetensors,
        'open_clip_config.json': {'model_cfg': vit.architecture, 'preprocess_cfg': {}},
    }
    put_into_hub_cache(hub_cache, 'someone/a-clip', files)
    return {'backbone': 'hf-hub:someone/a-clip'}


SOURCES = {
    'OpenAI archive': lambda vit, hub_cache, home: {'clip_weights': str(vit.archive)},
    'OpenAI state dict': lambda vit, hub_cache, home: {'clip_weights': str(vit.openai_state_dict)},
    'open_clip checkpoint': lambda vit, hub_cache, home: {
        'clip_weights': str(vit.checkpoint),
        'quick_gelu': True,
    },
    'safetensors': lambda vit, hub_cache, home: {
        'clip_weights': str(vit.safetensors),
        'backbone': 'ViT-B-16-quickgelu',
    },
    'safetensors and config': lambda vit, hub_cache, home: {
        'clip_weights': str(vit.beside_config(home)),
    },
    'tag in the hub cache': tag_in_hub_cache,
    'tag in the cache of OpenAI': tag_in_openai_cache,
    'hub model': hub_model,
}


@pytest.mark.parametrize('source', SOURCES)
def test_a_vit_gives_its_own_features_from_every_source(vit, hub_cache, tmp_path, source):
    config, backbone = load(**SOURCES[source](vit, hub_cache, tmp_path))
    assert config.quick_gelu is True
    assert str(tmp_path) not in json.dumps(config.clip_weights)
    assert str(vit.folder) not in json.dumps(config.clip_weights)
    vit.check(backbone)


def test_open_clip_reads_the_archive_of_these_tests_as_one_of_openai(vit):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', FutureWarning)
        model = open_clip.load_openai_model(str(vit.archive), device='cpu').eval()
    with torch.no_grad():
        torch.testing.assert_close(
            model.encode_image(vit.image), vit.features[0], atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize('file_format', ['checkpoint', 'safetensors'])
def test_a_vit_whose_activation_is_unknown_is_refused(vit, file_format):
    with pytest.raises(AMHPError, match=r'which activation.*quick_gelu=True.*quick_gelu=False'):
        AMHP(pretrained='clip', clip_weights=str(getattr(vit, file_format)))


# The activation


def test_the_activation_matters(quick, plain):
    difference = quick.features[0] - plain.features[0]
    assert all(torch.equal(quick.state[key], plain.state[key]) for key in plain.state)
    assert difference.abs().max() > 1e-3


@pytest.mark.parametrize('quick_gelu', [False, True])
def test_the_activation_can_be_given(tiny, quick, plain, quick_gelu):
    for file in (quick.checkpoint, quick.archive):
        config, backbone = load(backbone=tiny, clip_weights=str(file), quick_gelu=quick_gelu)
        assert config.quick_gelu is quick_gelu
        (quick if quick_gelu else plain).check(backbone)


@pytest.mark.parametrize('quick_gelu', [False, True])
def test_the_activation_is_read_from_a_config_beside_the_file(
    tiny, quick, plain, tmp_path, quick_gelu
):
    says = {'quick_gelu': True} if quick_gelu else {}
    path = plain.beside_config(tmp_path, **says)
    config, backbone = load(backbone=tiny, clip_weights=str(path))
    assert config.quick_gelu is quick_gelu
    (quick if quick_gelu else plain).check(backbone)


@pytest.mark.parametrize('quick_gelu', [False, True])
def test_activation_and_normalisation_of_a_hub_model_are_read(
    tiny, quick, plain, hub_cache, quick_gelu
):
    architecture = {**tiny, 'quick_gelu': True} if quick_gelu else tiny
    preprocess = {'mean': [0.5, 0.5, 0.5], 'std': [0.25, 0.5, 1]}
    files = {
        'open_clip_model.safetensors': plain.safetensors,
        'open_clip_config.json': {'model_cfg': architecture, 'preprocess_cfg': preprocess},
    }
    put_into_hub_cache(hub_cache, 'someone/a-clip', files)
    config, backbone = load(clip_weights='hf-hub:someone/a-clip')
    assert config.quick_gelu is quick_gelu
    assert config.image_mean == (0.5, 0.5, 0.5)
    assert config.image_std == (0.25, 0.5, 1)
    (quick if quick_gelu else plain).check(backbone)
    config, backbone = load(clip_weights='hf-hub:someone/a-clip', quick_gelu=not quick_gelu)
    assert config.quick_gelu is not quick_gelu  # the user's option overrides it
    (plain if quick_gelu else quick).check(backbone)


def test_the_model_computes_with_the_activation_that_it_records(quick, tiny):
    net = AMHP(pretrained='clip', backbone=tiny, clip_weights=str(quick.archive)).eval()
    assert net.config.quick_gelu is True
    assert net.config.clip_weights == 'ViT-B-16.pt'
    quick.check(net.backbone)


def test_a_checkpoint_of_a_hub_model_needs_no_hub(plain, hub_cache, tmp_path):
    files = {
        'open_clip_pytorch_model.bin': plain.checkpoint,
        'open_clip_config.json': {'model_cfg': plain.architecture, 'preprocess_cfg': {}},
    }
    put_into_hub_cache(hub_cache, 'someone/a-clip', files)
    net = AMHP(pretrained='clip', backbone='hf-hub:someone/a-clip').eval()
    path = save_checkpoint(tmp_path / 'trained.pth', net.state_dict())
    shutil.rmtree(hub_cache)
    plain.check(AMHP(pretrained_model_path=str(path)).eval().backbone)


# Contents of files


def test_the_scale_of_clip_is_read(quick, tiny):
    quick.state['logit_scale'] = torch.tensor(4.6052)
    _, backbone = load(backbone=tiny, clip_weights=str(quick.openai_state_dict))
    assert backbone.clip_logit_scale == pytest.approx(4.6052)


def test_both_layouts_of_open_clip_load_the_same_weights(quick, tiny):
    architecture = {**tiny, 'custom_text': True}
    _, backbone = load(backbone=architecture, clip_weights=str(quick.archive))
    assert isinstance(backbone.clip, open_clip.CustomTextCLIP)
    quick.check(backbone)


def test_a_mismatch_names_the_keys(quick, tiny):
    del quick.state['visual.proj']
    quick.state['visual.extra'] = torch.ones(1)
    quick.state['text_projection'] = torch.ones(32, 8)
    with pytest.raises(AMHPError) as caught:
        load(backbone=tiny, clip_weights=str(quick.openai_state_dict))
    for part in (
        str(quick.openai_state_dict),
        '1 missing: visual.proj',
        '1 unexpected: visual.extra',
        '1 of another shape: text_projection is [32, 8], expected [32, 16]',
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize('name', ['evil.pt', 'open_clip_pytorch_model.bin'])
def test_a_pickle_with_code_in_it_is_refused_and_never_runs(tiny, hub_cache, tmp_path, name):
    torch.save({'state_dict': {'visual.proj': Code(tmp_path / 'trace')}}, tmp_path / name)
    put_into_hub_cache(
        hub_cache,
        'someone/evil',
        {name: tmp_path / name, 'open_clip_config.json': {'model_cfg': tiny}},
    )
    given = 'hf-hub:someone/evil' if name.endswith('.bin') else str(tmp_path / name)
    with pytest.raises(AMHPError, match=r'refused.*could run code'):
        load(backbone=tiny, clip_weights=given, quick_gelu=True)
    assert not (tmp_path / 'trace').exists()


@pytest.mark.parametrize('damage', ['cut', 'directory', 'content'])
def test_a_damaged_archive_is_reported(quick, tiny, damage):
    data = bytearray(quick.archive.read_bytes())
    if damage == 'cut':
        del data[len(data) // 2 :]
    elif damage == 'directory':  # the list of files at the end
        at = data.rindex(b'/version') - 100
        data[at : at + 50] = bytes(50)
    else:
        at = data.index(b'/data.pkl')
        data[at : at + 4000] = bytes(4000)
    quick.archive.write_bytes(data)
    with pytest.raises(AMHPError, match=r'ViT-B-16\.pt: .*damaged'):
        load(backbone=tiny, clip_weights=str(quick.archive), quick_gelu=True)


def test_a_name_that_is_neither_tag_nor_file_is_reported():
    with pytest.raises(AMHPError, match=r"'openia': neither a file nor .*tags: openai, "):
        AMHP(pretrained='clip', clip_weights='openia')
    with pytest.raises(AMHPError, match='neither a file nor an open_clip tag'):
        AMHP(pretrained='clip', clip_weights='weights/ViT-B-16.pt')
