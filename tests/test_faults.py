"""Disks that are full, files that may not be written: a sentence, and nothing is spoilt."""

import os
import signal
import stat
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.utils.files import write_atomically
from pyiqa_amhp.weights.checkpoint import save_checkpoint

resource = pytest.importorskip('resource', reason='limits the size of files')


@contextmanager
def little_room():
    """No file may be larger than 100,000 bytes; not for longer, since pytest's own log may be."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@little_room()
def test_what_was_there_stays_and_nothing_else_is_left(tmp_path):
    path = write_atomically(tmp_path / 'scores.csv', lambda file: file.write_text('old'))
    with pytest.raises(AMHPError, match=r'scores.csv: could not be written .*too large.*raise'):
        write_atomically(path, lambda file: file.write_bytes(bytes(200_000)))
    assert path.read_text() == 'old' and os.listdir(tmp_path) == ['scores.csv']


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@little_room()
def test_weights_that_find_no_room_leave_the_old_ones(suffix, make_amhp, tmp_path):
    path, state = tmp_path / f'net{suffix}', make_amhp().state_dict()
    path.write_text('old')
    with pytest.raises(AMHPError, match=f'net{suffix}: could not be written'):
        save_checkpoint(path, {**state, 'large': torch.zeros(100_000)})
    assert path.read_text() == 'old' and os.listdir(tmp_path) == [path.name]


def test_a_small_disk_that_is_full(tmp_path):
    disk = tmp_path / 'disk'
    disk.mkdir()
    mounted = subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip('a small disk can be mounted by root alone')
    try:
        path = write_atomically(disk / 'scores.csv', lambda file: file.write_text('old'))
        with pytest.raises(AMHPError, match='the disk is full: make room'):
            write_atomically(path, lambda file: file.write_bytes(bytes(200_000)))
        assert path.read_text() == 'old' and os.listdir(disk) == ['scores.csv']
    finally:
        subprocess.run(['umount', str(disk)], check=True)


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / 'out').write_text('a file')
    with pytest.raises(AMHPError, match=r'scores.csv: could not be written \(.*; check the folder'):
        write_atomically(tmp_path / 'out' / 'scores.csv', lambda file: file.write_text('new'))


def test_files_get_the_usual_permissions(tmp_path):
    path = write_atomically(tmp_path / 'scores.csv', lambda file: file.write_text('new'))
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_a_stop_while_scoring_leaves_what_can_be_resumed(rated_images, tmp_path):
    photos, out = rated_images.parent / 'images', tmp_path / 'scores.csv'
    partial = tmp_path / 'scores.csv.partial.jsonl'
    arguments = ['score', str(photos), '--metric', 'piqe', '--device', 'cpu', '--out', str(out)]
    command = [sys.executable, '-m', 'pyiqa_amhp', *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (partial.exists() and partial.read_text().count('\n') > 2):
        pass
    process.send_signal(signal.SIGINT)
    said = process.stderr.read()
    assert process.wait() == 130, said
    assert 'Traceback' not in said and '--resume' in said and not out.exists()
    assert said.endswith('Interrupted.\n')
    assert subprocess.run([*command, '--resume'], capture_output=True).returncode == 0
    assert len(out.read_text().splitlines()) == 25 and not partial.exists()


def test_a_long_name_is_no_obstacle(tmp_path):
    name = 'n' * 240 + '.csv'
    assert write_atomically(tmp_path / name, lambda file: file.write_text('x')).name == name


LIMITED = """
import resource, sys
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, limits[1]))
sys.argv[0] = 'amhp'
from pyiqa_amhp.cli import main
main()
"""


def test_scores_that_find_no_room_end_in_a_sentence_and_can_be_resumed(rated_images, tmp_path):
    photos, out = rated_images.parent / 'images', tmp_path / 'scores.csv'
    arguments = ['score', str(photos), '--metric', 'piqe', '--device', 'cpu', '--out', str(out)]
    run = [sys.executable, '-c', LIMITED.format(size=1500), *arguments]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert 'could not be written' in ' '.join(done.stderr.split()) and not out.exists()
    again = [sys.executable, '-m', 'pyiqa_amhp', *arguments, '--resume']
    done = subprocess.run(again, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(out.read_text().splitlines()) == 25
