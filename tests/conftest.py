"""Shared fixtures: no network, an own store of weights for each test, small encoders and data."""

import copy
import os

# huggingface_hub reads this when it is imported.
os.environ['HF_HUB_OFFLINE'] = '1'
# torch reads this when it is imported. Threads gain nothing on encoders this small.
os.environ.setdefault('OMP_NUM_THREADS', '1')
# A rich console reads this when it is made: long paths of temporary folders must not wrap.
os.environ['COLUMNS'] = '200'

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

pytest_plugins = ('app_fixtures', 'tanet_fixtures')
SHARED_DATA = Path(__file__).parents[2] / 'shared' / 'data'

# The architecture of a tiny CLIP: images of 32 x 32 pixels, features of 16 numbers.
TINY = {
    'embed_dim': 16,
    'vision_cfg': {'image_size': 32, 'layers': 1, 'width': 32, 'patch_size': 16, 'head_width': 16},
    'text_cfg': {'context_length': 77, 'vocab_size': 49408, 'width': 32, 'heads': 2, 'layers': 2},
}


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory, monkeypatch):
    """Use an empty store of weights, and no weights of this user."""
    home = tmp_path_factory.mktemp('home')
    monkeypatch.setenv('PYIQA_AMHP_HOME', str(home))
    monkeypatch.delenv('PYIQA_AMHP_WEIGHTS', raising=False)
    monkeypatch.delenv('PYIQA_AMHP_DEBUG', raising=False)
    return home


@pytest.fixture(scope='session')
def shared_data():
    """A folder with real votes and photographs, which are not part of the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f'no real data beside the project ({SHARED_DATA})')
    return SHARED_DATA


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty cache of Hugging Face's hub, and a home without the cache of OpenAI's package."""
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'hub'))
    monkeypatch.setenv('HOME', str(tmp_path))
    return tmp_path / 'hub'


@pytest.fixture
def amhp(monkeypatch, capsys):
    """Run ``amhp`` with arguments; gives exit code, standard output, standard error."""
    from pyiqa_amhp.cli import main as cli

    def run(*arguments):
        monkeypatch.setattr('sys.argv', ['amhp', *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        assert 'Traceback' not in captured.err
        return stop.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture
def tiny():
    """The architecture of a tiny CLIP, for ``backbone=``."""
    return {key: dict(value) if isinstance(value, dict) else value for key, value in TINY.items()}


def build_tiny(seed=0, **options):
    """Build a tiny AMHP with random weights, the same for the same seed and options.

    Texts change its scores.
    """
    import torch

    from pyiqa_amhp.model.amhp import AMHP

    torch.manual_seed(seed)
    net = AMHP(pretrained=False, **{'backbone': TINY, **options})
    if net.config.uses_attributes:  # it starts at zero, with which no text changes a score
        torch.nn.init.normal_(net.fc.weight, std=0.2)
    return net.eval()


@pytest.fixture
def make_amhp():
    """The function ``build_tiny``, which builds a tiny AMHP."""
    return build_tiny


@pytest.fixture(scope='session')
def tiny_weights(tmp_path_factory):
    """A checkpoint of a tiny AMHP, for all tests: read only."""
    from pyiqa_amhp.weights.checkpoint import save_checkpoint

    file = tmp_path_factory.mktemp('weights') / 'tiny.pth'
    return save_checkpoint(file, build_tiny().state_dict())


def add_to_store(path, name):
    """Add a checkpoint to the store, as ``amhp weights add PATH --as NAME`` does."""
    from pyiqa_amhp.model.config import complete_checkpoint
    from pyiqa_amhp.weights.checkpoint import read_checkpoint
    from pyiqa_amhp.weights.store import add_to_store

    return add_to_store(complete_checkpoint(read_checkpoint(path, newest=True)), name)


@pytest.fixture
def watch_text_encoder():
    """Record the ``(texts, tokens)`` of every batch that the text encoder of a model reads."""

    def watch(net):
        read = []
        embedding = next(m for n, m in net.named_modules() if n.endswith('token_embedding'))
        embedding.register_forward_hook(lambda _, inputs, __: read.append(tuple(inputs[0].shape)))
        return read

    return watch


@pytest.fixture(scope='session')
def onnx_programs():
    """Exported ONNX programs of this process, by what they were exported from."""
    return {}


@pytest.fixture
def export_once(monkeypatch, onnx_programs):
    """Export equal graphs to ONNX once per process, since the exporter takes seconds."""
    from pyiqa_amhp.model import engines, export
    from pyiqa_amhp.weights.checkpoint import weights_digest

    to_onnx = engines.to_onnx

    def export_or_reuse(graph, inputs, outputs, optimize=False):
        shapes = [(name, tuple(example.shape), dims) for name, (example, dims) in inputs.items()]
        encode = getattr(graph, 'encode', None)
        key = str((repr(graph), encode, weights_digest(graph.state_dict()), shapes, optimize))
        if key not in onnx_programs:
            # Of a copy: a program shares the memory of the weights, which a test may change.
            onnx_programs[key] = to_onnx(copy.deepcopy(graph), inputs, outputs, optimize)
        return onnx_programs[key]

    for module in (engines, export):
        monkeypatch.setattr(module, 'to_onnx', export_or_reuse)


PHOTOS = ('a.png', 'b.jpg', 'sub/c.png', 'sub/d.webp')


def smooth_pixels(width, height, seed=0, brightness=1.0):
    """Make smooth random pixels, since images of noise look alike after resizing.

    Returns:
        Pixels ``(height, width, 3)``, uint8, 0 to 255 times ``brightness``.
    """
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3)).astype(np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)
    return (np.asarray(image) * brightness).astype(np.uint8)


def write_photos(folder, names=PHOTOS, sizes=()):
    """Write a photograph for each name; the later ones are brighter. Returns ``folder``.

    Args:
        names: paths relative to ``folder``; the suffix decides the file format.
        sizes: ``(width, height)`` of each photograph; by default 40 x 30, each one pixel
            larger than the one before.
    """
    for i, name in enumerate(names):
        width, height = sizes[i] if sizes else (40 + i, 30 + i)
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = smooth_pixels(width, height, seed=i, brightness=(i + 1) / len(names))
        Image.fromarray(pixels).save(file)
    return folder


@pytest.fixture
def photos(tmp_path):
    """A folder with the four photographs ``PHOTOS``, for one test; see ``write_photos``."""
    return write_photos(tmp_path / 'photos')


def write_rated_images(root):
    """Write 24 images to ``images``, and a CSV with their votes, comments and split.

    Brighter images have higher votes. Returns the path of the CSV.
    """
    rng = np.random.default_rng(0)
    folder = root / 'images'
    folder.mkdir()
    rows = []
    for i in range(24):
        level = i % 8
        pixels = np.clip(rng.normal(30 + 25 * level, 12, (40, 48, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f'{i:02d}.png')
        likes = np.exp(-((np.arange(10) - 1 - level) ** 2) / 4)
        votes = rng.multinomial(20, likes / likes.sum())
        rows.append(
            {
                'img_name': f'{i:02d}.png',
                **{f'c{j + 1}': votes[j] for j in range(10)},
                'text': '' if i % 5 == 0 else f'light number {level}',
                'split': ('train', 'train', 'val', 'test')[i // 6],
            }
        )
    csv = root / 'rated.csv'
    pd.DataFrame(rows).to_csv(csv, index=False)
    return csv


@pytest.fixture
def rated_images(tmp_path):
    """The CSV of ``write_rated_images``, for one test."""
    return write_rated_images(tmp_path)


@pytest.fixture(scope='session')
def shared_rated_images(tmp_path_factory):
    """The CSV of ``write_rated_images``, for all tests: read only."""
    return write_rated_images(tmp_path_factory.mktemp('rated'))


@pytest.fixture
def ava_copy(tmp_path):
    """A tiny AVA in the publisher's files, for one test."""
    from layouts import write_ava

    return write_ava(tmp_path / 'AVA')


@pytest.fixture(scope='session')
def raw_para(tmp_path_factory):
    """A tiny PARA in the publisher's files, for all tests: read only."""
    from layouts import write_para

    return write_para(tmp_path_factory.mktemp('raw') / 'PARA')


@pytest.fixture(scope='session')
def raw_aadb(tmp_path_factory):
    """A tiny AADB in the publisher's files, for all tests: read only."""
    from layouts import write_aadb

    return write_aadb(tmp_path_factory.mktemp('raw') / 'AADB')


def copy_without(raw, root, images):
    """Copy a raw data set to ``root``, but link its folder ``images``."""
    import shutil

    shutil.copytree(raw, root, ignore=shutil.ignore_patterns('*.jpg'))
    shutil.rmtree(root / images)
    (root / images).symlink_to(raw / images)
    return root


@pytest.fixture
def para_copy(raw_para, tmp_path):
    """A copy of PARA for one test; its images are links."""
    return copy_without(raw_para, tmp_path / 'PARA', 'imgs')


@pytest.fixture
def aadb_copy(raw_aadb, tmp_path):
    """A copy of AADB for one test; its images are links."""
    return copy_without(raw_aadb, tmp_path / 'AADB', 'datasetImages_originalSize')


@pytest.fixture(scope='session')
def training_options():
    """A function that gives the shipped training options for a tiny model and a CSV of images."""
    from pathlib import Path

    import yaml

    shipped = Path(__file__).parents[1] / 'options' / 'train_amhp_custom.yml'

    def options(csv, name='tiny'):
        opt = yaml.safe_load(shipped.read_text())
        opt.update(name=name, num_gpu=0)
        for data in opt['datasets'].values():
            data.update(
                meta_info_file=str(csv),
                dataroot_target=str(csv.parent / 'images'),
                num_worker_per_gpu=0,
                batch_size_per_gpu=4,
            )
        opt['datasets']['train']['augment'] = {
            'resize': [36, 36],
            'grid_crop': {'size': 32, 'step': 1},
        }
        opt['datasets']['val']['augment'] = {'resize': [37, 37]}
        opt['network'].update(pretrained=False, backbone=TINY)
        opt['train'].update(total_epoch=1)
        opt['train']['optim']['lr'] = 0.01
        opt['val'].update(val_freq=3, pbar=False)
        opt['logger'].update(print_freq=1)
        return opt

    return options


@pytest.fixture(scope='session')
def trained_and_tested(training_options, shared_rated_images, tmp_path_factory):
    """The folder of a tiny training and its test, for all tests: read only."""
    from pyiqa_amhp.train.pipeline import train_and_test

    root = tmp_path_factory.mktemp('trained')
    train = training_options(shared_rated_images)
    train['logger'].update(save_latest_freq=2, save_checkpoint_freq=2)
    test = {key: train[key] for key in ('name', 'model_type', 'num_gpu', 'manual_seed', 'val')}
    data = {**train['datasets']['val'], 'name': 'custom_test', 'phase': 'test'}
    best = root / 'experiments' / 'tiny' / 'models' / 'net_best.pth'
    test |= {'datasets': {'test_1': data}, 'path': {'pretrain_network': None}}
    test['network'] = {'type': 'AMHP', 'pretrained_model_path': str(best)}
    train_and_test(train, test, root)
    return root


@pytest.fixture
def build(training_options, shared_rated_images, tmp_path):
    """A function that builds an ``AMHPModel`` as pyiqa's trainer does, with changed options."""
    import torch
    from pyiqa.models import build_model

    def build(seed=0, optim=None, is_train=True, **sections):
        torch.manual_seed(seed)
        opt = training_options(shared_rated_images)
        for name, options in sections.items():
            opt[name].update(options)
        opt['train']['optim'].update(optim or {})
        opt.update(is_train=is_train, dist=False, rank=0, world_size=1)
        opt['path'].update(models=str(tmp_path), training_states=str(tmp_path))
        if not is_train:
            del opt['train']
        return build_model(opt)

    return build


@pytest.fixture
def loader(training_options, shared_rated_images):
    """A function that makes a loader of the training or the validation images."""
    from pyiqa.data import build_dataloader, build_dataset

    def loader(phase='train', **options):
        opt = {**training_options(shared_rated_images)['datasets'][phase], 'phase': phase}
        opt.update(options)
        return build_dataloader(build_dataset(opt), opt, num_gpu=0)

    return loader


@pytest.fixture
def pyiqa_log(caplog):
    """The log of pyiqa, whose logger does not propagate to others."""
    from pyiqa.utils import get_root_logger

    logger = get_root_logger()
    caplog.set_level('INFO', logger=logger.name)
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)
