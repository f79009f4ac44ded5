"""The cache of features: exact, shared by processes, and never wrong when its file is damaged."""

import multiprocessing
import os
import resource
import sqlite3

import numpy as np
import pytest

from pyiqa_amhp.train.feature_cache import TABLE, FeatureCache, Key

WIDTH = 16
KEYS = [Key(f'name {i}'.encode(), b'stamp') for i in range(20)]
ROWS = {key: np.random.default_rng(i).normal(size=WIDTH).astype('f4') for i, key in enumerate(KEYS)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'folder' / 'image-1.sqlite'


@pytest.fixture
def filled(path):
    FeatureCache(path, WIDTH).write(ROWS)
    return path


def check_all(path):
    """Check that a new reader gets every row, bit for bit."""
    found = FeatureCache(path, WIDTH).read(KEYS)
    assert found.keys() == ROWS.keys()
    assert all(found[key].tobytes() == ROWS[key].tobytes() for key in KEYS)


def check_none_is_wrong(path):
    for key, row in FeatureCache(path, WIDTH).read(KEYS).items():
        assert row.tobytes() == ROWS[key].tobytes()


def test_rows_are_read_as_written_bit_for_bit(filled):
    check_all(filled)


def test_reading_creates_no_file(path):
    assert FeatureCache(path, WIDTH).read(KEYS) == {}
    assert not path.parent.exists()


def test_a_new_stamp_is_a_miss_until_its_row_replaces_the_old_one(filled):
    cache, old = FeatureCache(filled, WIDTH), KEYS[0]
    new = old._replace(stamp=b'new')
    assert cache.read([new]) == {}
    cache.write({new: ROWS[KEYS[1]]})
    assert list(cache.read([old, new])) == [new]


def test_name_and_stamp_are_not_confused(path):
    cache = FeatureCache(path, WIDTH)
    cache.write({Key(b'ab', b'c'): ROWS[KEYS[0]]})
    assert cache.read([Key(b'a', b'bc'), Key(b'abc'), Key(b'ab')]) == {}


def test_rows_of_another_width_are_misses(filled):
    assert FeatureCache(filled, WIDTH // 2).read(KEYS) == {}


def other_database(path):
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute('CREATE TABLE something (else_ TEXT)')


def numbers_for_rows(path):
    with sqlite3.connect(path) as db:
        db.execute('UPDATE features SET row = 7')


def garbage_at(start, length=4096):
    def damage(path):
        with path.open('r+b') as file:
            file.seek(start)
            file.write(np.random.default_rng(0).bytes(length))

    return damage


@pytest.mark.parametrize(
    'damage',
    [
        *(lambda path, to=to: os.truncate(path, to) for to in (0, 1, 99, 100, 4096, 5000, 8192)),
        lambda path: path.write_bytes(b'no database'),
        *(garbage_at(start) for start in (0, 16, 4096, 8192)),
        other_database,
        numbers_for_rows,
    ],
)
def test_a_damaged_file_gives_no_wrong_number_and_works_again(filled, damage):
    damage(filled)
    check_none_is_wrong(filled)
    cache = FeatureCache(filled, WIDTH)
    cache.write(ROWS)  # may detect the damage
    cache.write(ROWS)
    check_all(filled)


@pytest.mark.parametrize('use', ['read', 'write'])
def test_there_is_a_warning_of_a_damaged_file(filled, pyiqa_log, use):
    filled.write_bytes(b'no database' * 1000)
    cache = FeatureCache(filled, WIDTH)
    cache.read(KEYS) if use == 'read' else cache.write(ROWS)
    [record] = pyiqa_log.records
    assert record.levelname == 'WARNING'
    assert f'{filled}: a damaged file of features' in record.getMessage()


def test_no_flipped_bit_gives_a_wrong_number(filled):
    good = filled.read_bytes()
    fewer = 0
    for at in range(0, len(good), 61):
        filled.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        check_none_is_wrong(filled)
        fewer += len(FeatureCache(filled, WIDTH).read(KEYS)) < len(KEYS)
    assert fewer > 10  # the flips did hit rows


def test_there_is_one_warning_of_a_folder_that_cannot_be_made(tmp_path, pyiqa_log):
    (tmp_path / 'file').write_text('in the way')
    cache = FeatureCache(tmp_path / 'file' / 'image.sqlite', WIDTH)
    for _ in range(3):
        cache.write(ROWS)
        assert cache.read(KEYS) == {}
    assert [r.levelname for r in pyiqa_log.records] == ['WARNING']
    assert 'feature_cache: DIR' in pyiqa_log.text


def test_rows_on_a_full_disk_are_still_read(filled, pyiqa_log):
    cache = FeatureCache(filled, WIDTH)
    more = {Key(f'more {i}'.encode()): ROWS[KEYS[0]] for i in range(2000)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (filled.stat().st_size + 4096, limits[1]))
    try:
        cache.write(more)
        cache.write(more)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [r.levelname for r in pyiqa_log.records] == ['WARNING']
    assert cache.read(more) == {}
    assert cache.read(KEYS).keys() == ROWS.keys()
    check_all(filled)


def write_and_read(path, start):
    cache = FeatureCache(path, WIDTH)
    for i in range(start, start + 10):
        cache.write({KEYS[i % 20]: ROWS[KEYS[i % 20]], Key(f'{i}'.encode()): ROWS[KEYS[0]]})
        check_none_is_wrong(path)


def test_processes_write_to_one_file_at_once(path):
    fork = multiprocessing.get_context('fork')
    workers = [fork.Process(target=write_and_read, args=(path, 10 * i)) for i in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    check_all(path)
    assert len(FeatureCache(path, WIDTH).read([Key(f'{i}'.encode()) for i in range(30)])) == 30


def die_while_writing(path):
    db = sqlite3.connect(path)
    db.execute(TABLE)
    db.execute('PRAGMA cache_size = 1')  # so that half of the rows are in the file already
    rows = [(bytes([i]) * 16, bytes(5000)) for i in range(200)]
    db.executemany('INSERT OR REPLACE INTO features VALUES (?, ?)', rows)
    os._exit(9)


def test_a_process_that_dies_while_it_writes_changes_no_row(filled):
    worker = multiprocessing.get_context('fork').Process(target=die_while_writing, args=(filled,))
    worker.start()
    worker.join()
    assert worker.exitcode == 9
    assert filled.with_name(filled.name + '-journal').stat().st_size
    check_all(filled)


@pytest.mark.parametrize('damage', [lambda path: None, garbage_at(0), garbage_at(4096)])
def test_a_file_left_half_written_and_damaged_works_again(filled, damage):
    worker = multiprocessing.get_context('fork').Process(target=die_while_writing, args=(filled,))
    worker.start()
    worker.join()
    damage(filled)
    check_none_is_wrong(filled)
    for _ in range(2):
        FeatureCache(filled, WIDTH).write(ROWS)
    check_all(filled)
