"""Full disks, unwritable files and interruptions: a clear error, and no file is damaged."""

import os
import signal
import stat
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conftest import write_photos

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.utils.files import write_atomically
from pyiqa_amhp.weights.checkpoint import save_checkpoint

resource = pytest.importorskip('resource', reason='limits the size of files')


@contextmanager
def limited_file_size():
    """Limit files to 100,000 bytes; within the block only, since pytest's log may be larger."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@limited_file_size()
def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path):
    path = write_atomically(tmp_path / 'scores.csv', lambda file: file.write_text('old'))
    with pytest.raises(AMHPError, match=r'scores.csv: could not be written .*too large.*raise'):
        write_atomically(path, lambda file: file.write_bytes(bytes(200_000)))
    assert path.read_text() == 'old' and os.listdir(tmp_path) == ['scores.csv']


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@limited_file_size()
def test_weights_that_cannot_be_written_keep_the_old_file(suffix, make_amhp, tmp_path):
    path, state = tmp_path / f'net{suffix}', make_amhp().state_dict()
    path.write_text('old')
    with pytest.raises(AMHPError, match=f'net{suffix}: could not be written'):
        save_checkpoint(path, {**state, 'large': torch.zeros(100_000)})
    assert path.read_text() == 'old' and os.listdir(tmp_path) == [path.name]


def test_a_full_disk_is_an_error_that_says_so(tmp_path):
    disk = tmp_path / 'disk'
    disk.mkdir()
    mounted = subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip('only root can mount a small disk')
    try:
        path = write_atomically(disk / 'scores.csv', lambda file: file.write_text('old'))
        with pytest.raises(AMHPError, match='the disk is full: make room'):
            write_atomically(path, lambda file: file.write_bytes(bytes(200_000)))
        assert path.read_text() == 'old' and os.listdir(disk) == ['scores.csv']
    finally:
        subprocess.run(['umount', str(disk)], check=True)


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / 'out').write_text('a file')
    with pytest.raises(AMHPError, match=r'scores.csv: could not be written \(.*; check the folder'):
        write_atomically(tmp_path / 'out' / 'scores.csv', lambda file: file.write_text('new'))


def test_files_get_the_usual_permissions(tmp_path):
    path = write_atomically(tmp_path / 'scores.csv', lambda file: file.write_text('new'))
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_a_file_with_a_long_name_can_be_written(tmp_path):
    name = 'n' * 240 + '.csv'
    assert write_atomically(tmp_path / name, lambda file: file.write_text('x')).name == name


# An interrupted `amhp score`, resumed within this process, which has loaded torch already

ARGUMENTS = ('score', 'photos', '--metric', 'piqe', '--device', 'cpu', '--out', 'scores.csv')
LIMITED = """
import resource, sys
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, limits[1]))
sys.argv[0] = 'amhp'
from pyiqa_amhp.cli import main
main.main()
"""


def check_resumes(amhp, count):
    """Resume the run, and see that it completes the table of ``count`` images."""
    out = Path('scores.csv')
    assert not out.exists() and Path('scores.csv.partial.jsonl').exists()
    code, _, err = amhp(*ARGUMENTS, '--resume')
    assert code == 0, err
    assert len(out.read_text().splitlines()) == count + 1
    assert not Path('scores.csv.partial.jsonl').exists()


@pytest.mark.slow
def test_an_interrupted_scoring_can_be_resumed(amhp, tmp_path, monkeypatch):
    write_photos(tmp_path / 'photos', [f'{i:02d}.png' for i in range(24)])
    monkeypatch.chdir(tmp_path)
    partial = tmp_path / 'scores.csv.partial.jsonl'
    command = [sys.executable, '-m', 'pyiqa_amhp', *ARGUMENTS]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (partial.exists() and partial.read_text().count('\n') > 2):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    err = process.stderr.read()
    assert process.wait() == 130, err
    assert 'Traceback' not in err and '--resume' in err
    assert err.endswith('Interrupted.\n')
    check_resumes(amhp, 24)


@pytest.mark.slow
def test_scores_that_cannot_be_written_are_an_error_and_can_be_resumed(amhp, tmp_path, monkeypatch):
    write_photos(tmp_path / 'photos', [f'{i:02d}.png' for i in range(24)])
    monkeypatch.chdir(tmp_path)
    run = [sys.executable, '-c', LIMITED.format(size=1500), *ARGUMENTS]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert 'could not be written' in ' '.join(done.stderr.split())
    check_resumes(amhp, 24)
