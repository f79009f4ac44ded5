"""``Journal``: JSON lines are appended, and damaged lines are cut off with all after them."""

import json

import pytest

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.utils.journal import Journal

VALUES = [{'path': 'ü\n.jpg', 'score': 0.1 + 0.2}, [1, None], 'text']


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / 'sub' / 'journal.jsonl')


@pytest.fixture
def written(journal):
    list(journal.append(VALUES))
    return journal


def test_values_are_read_as_they_were_appended(written):
    assert list(written.read()) == VALUES
    list(written.append(['more']))
    assert list(written.read()) == [*VALUES, 'more']
    assert list(written.repair()) == [*VALUES, 'more']


def test_each_value_is_on_disk_when_it_is_passed_on(journal):
    for count, value in enumerate(journal.append(VALUES), 1):
        assert value == VALUES[count - 1]
        assert len(journal.path.read_text('utf-8').splitlines()) == count


def test_an_absent_file_is_empty(journal):
    assert not journal.exists()
    assert list(journal.read()) == list(journal.repair()) == []
    assert not journal.path.parent.exists()
    journal.delete()


def test_a_file_cut_anywhere_keeps_its_whole_lines(written):
    content = written.path.read_bytes()
    for size in range(len(content) + 1):
        written.path.write_bytes(content[:size])
        kept = content[:size].count(b'\n')
        assert list(written.read()) == VALUES[:kept]
        assert list(written.repair()) == VALUES[:kept]
        assert written.path.read_bytes() == b''.join(content.splitlines(keepends=True)[:kept])


@pytest.mark.parametrize('damage', [b'{"path": \n', b'\xff\xfe\n', b'\n', b'[' * 100_000 + b'\n'])
def test_a_damaged_line_ends_the_journal(written, damage):
    first, *rest = written.path.read_bytes().splitlines(keepends=True)
    written.path.write_bytes(first + damage + b''.join(rest))
    assert list(written.read()) == VALUES[:1]
    assert list(written.repair()) == VALUES[:1]
    assert written.path.read_bytes() == first


def test_a_line_of_another_kind_ends_the_journal(written):
    values = written.repair(is_valid=lambda value: isinstance(value, dict))
    assert list(values) == VALUES[:1]
    assert list(written.read()) == VALUES[:1]


def test_values_after_a_repair_follow_the_kept_ones(written):
    written.path.write_bytes(written.path.read_bytes()[:-3])
    list(written.repair())
    list(written.append(['again']))
    assert list(written.read()) == [*VALUES[:2], 'again']


def test_the_file_is_ascii(journal):
    list(journal.append(['\udcff.jpg', 'ü']))
    assert json.loads(journal.path.read_bytes().splitlines()[0].decode('ascii')) == '\udcff.jpg'


def test_delete_removes_the_file(written):
    written.delete()
    assert not written.exists()


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(AMHPError, match=r'journal\.jsonl: could not be written'):
        list(Journal(tmp_path / 'file' / 'journal.jsonl').append([1]))
