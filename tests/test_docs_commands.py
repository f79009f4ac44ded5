"""Run the commands and the Python of the README and of the documentation."""

import runpy
import shutil

import docs_blocks
import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import TINY, write_rated_images
from docs_blocks import PAGES, REPLACED, ROOT, Command, check, check_mention, commands, mentions
from layouts import write_aadb, write_ava, write_para
from PIL import Image

SLOW = {'README', 'explain'}  # pages whose commands take more than 5 s
WITH_COMMANDS = [
    pytest.param(page, marks=pytest.mark.slow if page.stem in SLOW else (), id=page.stem)
    for page in PAGES
    if commands(page)
]


def shrink(opt):
    """Change shipped options to a tiny model on the processor; paths stay."""
    opt['num_gpu'] = 0
    for data in opt['datasets'].values():
        data.update(num_worker_per_gpu=0, batch_size_per_gpu=4, augment={'resize': [37, 37]})
    opt['val']['pbar'] = False
    if 'train' in opt:
        crop = {'resize': [36, 36], 'grid_crop': {'size': 32, 'step': 1}}
        opt['datasets']['train']['augment'] = crop
        opt['network'].update(pretrained=False, backbone=TINY)
        opt['train'].update(total_epoch=1)
        opt['val'].update(val_freq=2)
        opt['logger'].update(print_freq=1, use_tb_logger=False)
    return opt


def write_larger_para(root):
    """Write a PARA with enough images for `amhp prepare` to validate on more than one."""
    return write_para(root, train=40)


def write_photos(folder):
    """Write the photographs, ratings and comments that the pages assume."""
    (folder / 'photos' / '2019').mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f'{"2019/" * (i % 2)}{i:02d}.jpg' for i in range(5)]
    rows = []
    for i, name in enumerate(names):
        pixels = np.clip(rng.normal(45 * i + 20, 20, (40, 48, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / 'photos' / name)
        votes = rng.multinomial(20, np.full(10, 0.1))
        counts = {f'c{j + 1}': count for j, count in enumerate(votes)}
        rows.append({'img_name': name, **counts, 'text': 'soft light', 'split': 'test'})
    pd.DataFrame(rows).to_csv(folder / 'ratings.csv', index=False)
    pd.DataFrame(rows)[['img_name', 'text']].to_csv(folder / 'comments.csv', index=False)
    shutil.copy(folder / 'photos' / names[0], folder / 'photo.jpg')


@pytest.fixture(scope='module')
def template(tmp_path_factory, tiny_weights):
    """A folder with every file that the commands name, for all pages: to be copied."""
    folder = tmp_path_factory.mktemp('docs') / 'world'
    write_photos(folder)
    shutil.copy(tiny_weights, folder / 'amhp.pth')
    (folder / 'amhp_demo').mkdir()
    for other in ('FILE', 'amhp_demo/amhp_demo.pth'):
        shutil.copy(folder / 'amhp.pth', folder / other)
    (folder / 'options').mkdir()
    for file in (ROOT / 'options').glob('*.yml'):
        options = shrink(yaml.safe_load(file.read_text(encoding='utf-8')))
        (folder / 'options' / file.name).write_text(yaml.safe_dump(options))
    for name, write in (('AVA', write_ava), ('PARA', write_larger_para), ('AADB', write_aadb)):
        write(folder / 'datasets' / name)
    (folder / 'datasets' / 'custom').mkdir()
    (folder / 'datasets_meta').mkdir()
    csv = write_rated_images(folder / 'datasets' / 'custom')
    csv.rename(folder / 'datasets_meta' / 'meta_info_custom.csv')
    for image in (folder / 'datasets' / 'custom' / 'images').iterdir():
        image.rename(folder / 'datasets' / 'custom' / image.name)
    (folder / 'perf').symlink_to(ROOT / 'perf')
    return folder


@pytest.fixture
def world(template, tmp_path, monkeypatch):
    """A copy of the template as the current folder, for one page; tiny weights replace CLIP's."""
    folder = tmp_path / 'world'
    shutil.copytree(template, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv('PYIQA_AMHP_WEIGHTS', str(folder / 'amhp.pth'))
    return folder


@pytest.fixture
def names():
    """The names that Python on the pages assumes."""
    import pyiqa
    import torch

    rng = np.random.default_rng(0)
    predicted_dist, rated_dist = rng.dirichlet(np.ones(5), 20), rng.dirichlet(np.ones(5), 20)
    values = np.array([1.5, 3.5, 5.5, 7.5, 9.5])
    return {
        'batch': torch.rand(2, 3, 40, 48),
        'paths': ['photos/00.jpg', 'photos/2019/01.jpg'],
        'metric': pyiqa.create_metric('amhp', pretrained_model_path='amhp.pth', device='cpu'),
        'predicted_dist': predicted_dist,
        'rated_dist': rated_dist,
        'predicted': predicted_dist @ values,
        'rated': rated_dist @ values,
    }


@pytest.fixture
def own_log(monkeypatch):
    """Remove pyiqa's log handlers that a test adds: they write to streams that end with it."""
    from pyiqa.utils import logger as pyiqa_logger

    logger = pyiqa_logger.get_root_logger()  # made here, not by a later test for its own streams
    monkeypatch.setattr(pyiqa_logger, 'initialized_logger', {})
    monkeypatch.setattr(logger, 'handlers', [])
    yield
    for handler in logger.handlers:
        handler.close()


@pytest.fixture
def run(own_log, amhp, monkeypatch, request):
    """Run a command of a page; a failure names its place."""

    def run(command):
        if command.python:
            code = compile(command.text, command.place, 'exec')
            exec(code, request.getfixturevalue('names'))
            return
        program, *words = command.words
        if program == 'amhp':
            code, out, err = amhp(*words)
            assert code == 0, f'{command.place}: {command.text}\n{out}{err}'
        elif program == 'python' and words[0].endswith('.py'):
            monkeypatch.setattr('sys.argv', words)
            monkeypatch.syspath_prepend(str(ROOT / 'perf'))
            runpy.run_path(words[0], run_name='__main__')
        else:
            pytest.fail(
                f'{command.place}: the tests cannot run {program!r}; mark what it needs '
                '(docs/hooks/needs.py)'
            )

    return run


@pytest.mark.parametrize('page', WITH_COMMANDS)
def test_commands_of_a_page_run_or_are_marked(page, world, run):
    for command in commands(page):
        check(command)
        if command.runs:
            run(command)


def test_the_pages_have_at_least_forty_commands_that_run():
    found = [command for page in PAGES for command in commands(page)]
    assert sum(command.runs for command in found) >= 40


def test_every_block_of_commands_has_a_known_language():
    for page in PAGES:
        for fence in docs_blocks.FENCE.finditer(page.read_text(encoding='utf-8')):
            assert fence[2] in ('', 'sh', 'python', 'math', 'nginx'), f'{page.name}: {fence[2]}'
            if not fence[2]:
                assert not fence[3].lstrip().startswith(('amhp ', 'pip ', 'python ', '$ '))


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_commands_that_the_text_names_exist(page):
    for text in mentions(page):
        check_mention(text)


def test_a_mention_of_an_unknown_command_is_found():
    check_mention('amhp weights add FILE --as ava')
    for text in ('amhp weights ad FILE', 'amhp score photos/ --tpo 3', 'amhp'):
        with pytest.raises(AssertionError):
            check_mention(text)


def page_with(folder, text):
    """Write a page with this text."""
    page = folder / 'page.md'
    page.write_text(text, encoding='utf-8')
    return page


def test_an_unmarked_command_that_fails_is_found(world, run):
    command = Command('page.md:1', 'amhp score nowhere/', frozenset())
    check(command)
    with pytest.raises(AssertionError, match=r'page\.md:1.*nowhere'):
        run(command)


def test_an_unmarked_command_that_cannot_run_here_is_found(run):
    with pytest.raises(pytest.fail.Exception, match='mark what it needs'):
        run(Command('page.md:1', "pip install '.[demo]'", frozenset()))


@pytest.mark.parametrize(
    'text',
    [
        'amhp frobnicate photos/',
        'amhp score photos/ --wieghts amhp.pth',
        'amhp weights push',
        'amhp train -opt options/train_amhp_nothing.yml',
        'amhp train -opt options/train_amhp_ava.yml --auto_resum',
        'torchrun --nproc_per_node=4 -m pyiqa_amhp trian -opt options/train_amhp_ava.yml',
        'python perf/absent.py',
        'python perf/run.py --raedme',
        'python -m pyiqa.absent',
        "pip install '.[dmeo]'",
        'frobnicate',
    ],
)
def test_a_marked_command_that_does_not_exist_is_found(text):
    with pytest.raises(AssertionError):
        check(Command('page.md:1', text, frozenset({'network'})))


def test_a_mark_applies_to_a_block_or_to_its_lines_with_a_word(tmp_path):
    page = page_with(
        tmp_path,
        '<!-- needs: AVA, time -->\n<!-- needs: network for nima -->\n```sh\n'
        "amhp score a --metric nima  # pyiqa's\namhp score a \\\n    --top 3\n```\n\n"
        '```sh\namhp info && amhp demo\n```\n',
    )
    first, second, *others = commands(page)
    assert first.needs == {'AVA', 'time', 'network'} and first.place == 'page.md:4'
    assert second.needs == {'AVA', 'time'} and second.words[-2:] == ['--top', '3']
    assert [c.text for c in others] == ['amhp info', 'amhp demo']
    assert not first.runs and all(c.runs for c in others) and {'AVA'} <= REPLACED


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('<!-- needs: AVA -->\n\n```sh\namhp info\n```\n', 'directly above'),
        ('<!-- needs: money -->\n```sh\namhp info\n```\n', 'money'),
    ],
)
def test_a_mark_without_a_block_or_of_an_unknown_need_is_an_error(tmp_path, text, expected):
    with pytest.raises(ValueError, match=expected):
        commands(page_with(tmp_path, text))
