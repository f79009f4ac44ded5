"""Reading of image files in processes: the same scores, bounded reading, and clear ends."""

import itertools
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
import torch
from conftest import smooth_pixels
from PIL import Image, ImageFile

from pyiqa_amhp.datasets import images
from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.scoring import processes, score_images
from pyiqa_amhp.scoring.processes import (
    MIN_IMAGES,
    Reader,
    choose_processes,
    clear_errors,
    read_in_processes,
)
from pyiqa_amhp.scoring.scorer import create_metric

CUDA, CPU = torch.device('cuda'), torch.device('cpu')


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Eleven photographs of several sizes; the fifth is damaged and the eighth does not exist."""
    folder = tmp_path_factory.mktemp('photographs')
    paths = [folder / f'{i:02}.jpg' for i in range(11)]
    for i, path in enumerate(paths):
        Image.fromarray(smooth_pixels(1300 if i == 2 else 40 + 9 * i, 700 - 50 * i, i)).save(path)
    paths[4].write_bytes(paths[4].read_bytes()[:500])
    paths[7].unlink()
    return paths


@pytest.fixture
def good(files):
    return [files[i] for i in (0, 1, 2, 3)]


@pytest.fixture(autouse=True)
def no_process_is_left():
    before = set(psutil.Process().children(recursive=True))
    yield
    deadline = time.monotonic() + 20
    while left := set(psutil.Process().children(recursive=True)) - before:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


@pytest.mark.parametrize(
    'options',
    [
        {'batch_size': 3, 'workers': 2},
        {'batch_size': 100, 'workers': 1},
        {'batch_size': 4, 'workers': 2, 'exact': True},
        {'batch_size': 1, 'workers': 1},
    ],
    ids=str,
)
def test_processes_give_the_results_of_threads_to_the_last_digit(files, make_amhp, options):
    texts = ['soft light', None, '', *['harsh shadows'] * 8]
    by_threads, by_processes = (
        list(score_images(files, texts, make_amhp(), processes=wanted, **options))
        for wanted in (False, True)
    )
    assert by_processes == by_threads
    assert [result.path for result in by_processes] == [str(path) for path in files]
    assert [i for i, result in enumerate(by_processes) if result.error] == [4, 7]
    assert 'truncated' in by_processes[4].error and 'no such file' in by_processes[7].error


def test_a_batch_is_read_in_pieces(files, make_amhp, monkeypatch):
    monkeypatch.setattr(processes, 'PIECE', 2)
    expected = list(score_images(files, None, make_amhp(), 5, processes=False))
    assert list(score_images(files, None, make_amhp(), 5, processes=True, workers=2)) == expected
    reader = Reader.on_cpu(make_amhp().preprocess, False, {})
    batches = list(read_in_processes(((f, '') for f in files), reader, 5, 1, False))
    assert [len(pairs) for pairs, _, _ in batches] == [5, 5, 1]
    assert [[len(x) for x in inputs] for _, inputs, _ in batches] == [[2, 2], [2, 1, 1], [1]]
    assert {x.dtype for _, inputs, _ in batches for x in inputs} == {torch.uint8}


def test_an_endless_iterable_is_read_a_little_ahead_and_may_be_left_early(good, make_amhp):
    requested = []

    def endless():
        for i in itertools.count():
            requested.append(i)
            yield good[i % 4]

    results = score_images(endless(), None, make_amhp(), 4, workers=2, processes=True)
    assert [next(results).path for _ in range(9)] == [str(good[i % 4]) for i in range(9)]
    assert len(requested) <= 3 * 4 + processes.PREFETCH * 2 * 4
    assert len(multiprocessing.active_children()) == 2
    results.close()
    assert not multiprocessing.active_children()


def test_options_of_reading_reach_the_processes(good, make_amhp):
    results = list(score_images(good, None, make_amhp(), processes=True, max_pixels=600_000))
    assert ['too large' in result.error for result in results] == [False, False, True, False]


def test_a_process_that_dies_is_an_error_that_says_what_to_do(good, make_amhp):
    results = score_images(itertools.cycle(good), None, make_amhp(), 4, workers=2, processes=True)
    next(results)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    says = pytest.raises(AMHPError, match=r'process that reads images ended .* Give fewer workers')
    with says, clear_errors():  # torch may raise it here, between two results
        for _ in range(10_000):
            next(results)
    results.close()


def test_an_error_of_the_metric_or_of_the_texts_ends_the_processes(good, make_amhp, monkeypatch):
    net = make_amhp()
    with pytest.raises(AMHPError, match='give one for each'):
        list(score_images(good, iter(['one']), net, processes=True))
    monkeypatch.setattr(net, 'predict', lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(score_images(good * 9, None, net, processes=True))


def test_processes_are_refused_for_what_they_cannot_read(good, make_amhp, tiny_weights):
    net, data = make_amhp(), good[0].read_bytes()
    with pytest.raises(AMHPError, match='processes=True reads paths of files, and got bytes'):
        list(score_images([*good, data], None, net, processes=True))
    with pytest.raises(AMHPError, match='processes=True: not with open_image'):
        score_images(good, None, net, processes=True, open_image=str)
    with pytest.raises(AMHPError, match="processes=True: not with metric 'piqe'"):
        score_images(good, None, create_metric('piqe', device='cpu'), processes=True)


def test_a_reader_is_small_and_reads_the_same_after_pickling(good, make_amhp):
    net = make_amhp(protocol='reference')
    for exact in (False, True):
        reader = Reader.on_cpu(net.preprocess, exact, {'max_pixels': 10**6})
        again = pickle.loads(pickle.dumps(reader))
        assert len(pickle.dumps(reader)) < 10_000
        assert torch.equal(again(good[2]), reader(good[2]))
        assert reader(good[2]).nbytes == reader.bytes_each
        with pytest.raises(ImageReadError, match='too large'):
            Reader.on_cpu(net.preprocess, exact, {'max_pixels': 10})(good[0])


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no processes are forked here')
def test_a_process_forked_while_a_thread_opens_an_image_reads_too(good, monkeypatch):
    monkeypatch.setattr(ImageFile, 'LOAD_TRUNCATED_IMAGES', True)  # as pyiqa's AVA data set does
    fork = multiprocessing.get_context('fork')
    kept = fork.Queue()

    def read():
        before = ImageFile.LOAD_TRUNCATED_IMAGES
        kept.put((images.read_image(good[0]).size, before, ImageFile.LOAD_TRUNCATED_IMAGES))

    child = fork.Process(target=read)
    with images._strict_pillow(), images._pillow_lock:  # held by a thread that is not forked
        child.start()
        assert kept.get(timeout=20) == ((40, 700), True, True)
    child.join()


@pytest.mark.slow
def test_processes_may_be_spawned(good, tiny_weights, tmp_path):
    """As on Windows and macOS, where everything that a process needs is pickled."""
    script = tmp_path / 'script.py'
    script.write_text(
        'import multiprocessing, sys\n'
        'from pyiqa_amhp.scoring import create_metric, score_images\n'
        "if __name__ == '__main__':\n"
        "    multiprocessing.set_start_method('spawn')\n"
        f"    metric = create_metric('amhp', {str(tiny_weights)!r}, 'cpu')\n"
        '    options = dict(metric=metric, workers=1)\n'
        '    a, b = (list(score_images(sys.argv[1:], processes=p, **options)) for p in (0, 1))\n'
        '    assert a == b and len(a) == 4, (a, b)\n'
    )
    subprocess.run([sys.executable, script, *good], check=True, timeout=300)


# When processes start by themselves


@pytest.fixture
def many():
    return [f'{i}.jpg' for i in range(MIN_IMAGES)]


@pytest.fixture
def reader(make_amhp, monkeypatch):
    """A reader of a machine with 16 cores and enough shared memory."""
    monkeypatch.setattr(processes, 'usable_cores', lambda: 16)
    monkeypatch.setattr(processes, '_free', lambda _: 10**10)
    return Reader.on_cpu(make_amhp().preprocess, False, {})


def test_many_paths_on_a_gpu_are_read_by_a_process_for_each_core(many, reader, monkeypatch):
    assert choose_processes(many, reader, CUDA, None) == 16
    assert choose_processes(many, reader, CUDA, 3) == 3
    monkeypatch.setattr(processes, 'usable_cores', lambda: 200)
    assert choose_processes(many, reader, CUDA, None) == processes.MAX_PROCESSES


def test_threads_read_few_images_images_in_memory_and_for_a_processor(
    many, reader, monkeypatch, caplog
):
    assert choose_processes(many, reader, CPU, None) == 0
    assert choose_processes(many[1:], reader, CUDA, None) == 0
    assert choose_processes(iter(many), reader, CUDA, None) == 0
    assert choose_processes([*many, b'data'], reader, CUDA, None) == 0
    assert choose_processes(many, reader, CUDA, 1) == 0
    monkeypatch.setattr(processes, '_free', lambda _: 2**26)  # of Docker
    monkeypatch.setattr(processes, 'SHARED_MEMORY', processes.Path(os.curdir))
    large = SimpleNamespace(bytes_each=3 * 224**2)
    assert not caplog.records
    assert choose_processes(many, large, CUDA, 16) == 0
    (record,) = caplog.records
    assert '64 MB free, and 16 processes need 156 MB (docker run' in record.getMessage()
    assert choose_processes(many, large, CUDA, 3) == 3
    monkeypatch.setattr(multiprocessing, 'get_start_method', lambda: 'spawn')
    assert choose_processes(many, large, CUDA, 3) == 0


# The command line


FORCED = """
import sys, time
from pyiqa_amhp.cli import main
from pyiqa_amhp.model.preprocess import Preprocess
from pyiqa_amhp.scoring import files
files.choose_processes = lambda *_: 2
if 'slowly' in sys.argv:
    sys.argv.remove('slowly')
    view_file = Preprocess.view_file
    Preprocess.view_file = lambda *args, **kw: (time.sleep(0.02), view_file(*args, **kw))[1]
main.main()
"""


def start(*arguments):
    """Start ``amhp`` with processes forced, in a group of its own, as a shell does."""
    command = [sys.executable, '-c', FORCED, *map(str, arguments)]
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
    return subprocess.Popen(command, start_new_session=True, **pipes)


@pytest.fixture
def begun(good, tiny_weights, tmp_path):
    """A run over 600 links to a photograph, after its first rows; it reads slowly."""
    folder = tmp_path / 'many'
    folder.mkdir()
    for i in range(600):
        os.link(good[0], folder / f'{i:03}.jpg')
    out, part = tmp_path / 'out.csv', tmp_path / 'out.csv.partial.jsonl'
    command = ('score', folder, '--weights', tiny_weights, '--out', out, '--device', 'cpu')
    run = start(*command, 'slowly')
    deadline = time.monotonic() + 120
    while not (part.exists() and part.read_text().count('\n') > 20):
        assert run.poll() is None and time.monotonic() < deadline, run.communicate()
        time.sleep(0.05)
    return SimpleNamespace(run=run, command=command, folder=folder, out=out, part=part)


def assert_it_resumes(begun):
    before = begun.part.read_text().count('\n') - 1
    assert 0 < before < 600
    run = start(*begun.command, '--resume')
    output, errors = run.communicate(timeout=120)
    assert run.returncode == 0 and 'Traceback' not in errors, errors
    assert '600 rows' in output
    names = [line.partition(',')[0] for line in begun.out.read_text().splitlines()[1:]]
    assert names == [str(begun.folder / f'{i:03}.jpg') for i in range(600)]


@pytest.mark.slow
def test_ctrl_c_ends_cleanly_and_the_run_resumes(begun):
    os.killpg(begun.run.pid, signal.SIGINT)  # the terminal sends it to the processes too
    _, errors = begun.run.communicate(timeout=60)
    assert begun.run.returncode == 130, errors
    assert 'Traceback' not in errors and 'resume' in errors, errors
    with pytest.raises(ProcessLookupError):
        os.killpg(begun.run.pid, 0)  # no process of the group is left
    assert_it_resumes(begun)


@pytest.mark.slow
def test_a_killed_process_ends_the_command_with_a_message_and_the_run_resumes(begun):
    workers = psutil.Process(begun.run.pid).children()
    assert len(workers) == 2
    workers[1].kill()
    _, errors = begun.run.communicate(timeout=60)
    assert begun.run.returncode == 1, errors
    assert 'Traceback' not in errors and 'error: a process that reads images ended' in errors
    assert '--resume resumes the run' in errors
    assert_it_resumes(begun)
