"""Tables of scores: written as they come, whole in the end, and gone on with after a stop."""

import json
import math
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import write_photos

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.scoring import writer as score_file
from pyiqa_amhp.scoring.result import ScoreResult, summarise
from pyiqa_amhp.scoring.writer import ScoreFile
from pyiqa_amhp.weights.checkpoint import save_checkpoint

SUFFIXES = ('csv', 'json', 'jsonl', 'parquet')
ROWS = [
    ScoreResult('a.jpg', 5.25, 'given', {'bad': 0.25, 'good': 0.75}),
    ScoreResult('b, "c".jpg', None, error='b, "c".jpg: no such file'),
    ScoreResult('ü\nd.jpg', 0.1 + 0.2, 'none', {'bad': 1.0, 'good': 0.0}),
]
COLUMNS = ['path', 'score', 'prompt_source', 'p_bad', 'p_good', 'error']


def read(path):
    return {
        '.csv': lambda: pd.read_csv(path, keep_default_na=False, na_values={'score': ['']}),
        '.json': lambda: pd.DataFrame(json.loads(path.read_text('utf-8'))),
        '.jsonl': lambda: pd.DataFrame(
            json.loads(line) for line in path.read_text('utf-8').splitlines()
        ),
        '.parquet': lambda: pd.read_parquet(path),
    }[path.suffix]()


def write(path, rows, resume=False, settings=None, levels=('bad', 'good')):
    file = ScoreFile(path, settings or {}, resume)
    for _ in file.append(rows):
        pass
    return file.finish(levels)


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_every_form_holds_every_value_as_it_was(tmp_path, suffix):
    table = read(write(tmp_path / f's.{suffix}', ROWS))
    assert list(table.columns) == COLUMNS
    assert list(table['path']) == [row.path for row in ROWS]
    assert table['score'].tolist()[::2] == [5.25, 0.1 + 0.2] and np.isnan(table['score'][1])
    assert list(table['error']) == ['', ROWS[1].error, '']
    assert float(table['p_good'][0]) == 0.75 and table['prompt_source'][0] == 'given'
    assert [file.name for file in tmp_path.iterdir()] == [f's.{suffix}']


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_a_table_without_any_score_or_row_is_still_a_table(tmp_path, suffix):
    table = read(write(tmp_path / f'failed.{suffix}', [ROWS[1]]))
    assert len(table) == 1 and table['score'].isna().all()
    assert len(read(write(tmp_path / f'none.{suffix}', []))) == 0


def test_a_score_that_is_no_number_is_null_in_json(tmp_path):
    file = write(tmp_path / 's.json', [ScoreResult('a', math.nan), ScoreResult('b', math.inf)])
    assert [row['score'] for row in json.loads(file.read_text())] == [None, None]


def test_parquet_is_written_in_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(score_file, 'CHUNK_ROWS', 2)
    file = write(tmp_path / 's.parquet', ROWS * 3)
    assert pq.ParquetFile(file).num_row_groups == 5 and len(pd.read_parquet(file)) == 9


def test_rows_are_on_disk_before_the_next_one_is_asked_for(tmp_path):
    file = ScoreFile(tmp_path / 's.csv', {})
    for count, _ in enumerate(file.append(ROWS), 1):
        assert len(file.partial.read_text('utf-8').splitlines()) == count + 1
    assert not (tmp_path / 's.csv').exists()


@pytest.mark.parametrize('cut', range(0, 140, 7))
def test_a_file_cut_anywhere_goes_on_with_its_whole_lines(tmp_path, cut):
    path = tmp_path / 's.jsonl'
    file = ScoreFile(path, {'metric': 'amhp'})
    list(file.append(ROWS))
    first = len(file.partial.read_bytes().splitlines(keepends=True)[0])
    file.partial.write_bytes(file.partial.read_bytes()[: first + cut])

    again = ScoreFile(path, {'metric': 'amhp'}, resume=True)
    left = [row for row in ROWS if row.path not in again.done]
    assert len(left) == len(ROWS) - again.count
    list(again.append(left))
    assert list(again.results()) == ROWS


def test_a_finished_run_is_overwritten_and_an_interrupted_one_is_not(tmp_path):
    path = tmp_path / 's.csv'
    write(path, ROWS)
    write(path, ROWS[:1])
    assert len(read(path)) == 1
    list(ScoreFile(path, {}).append(ROWS))
    with pytest.raises(AMHPError, match='--resume'):
        ScoreFile(path, {})
    assert len(read(path)) == 1


def test_other_settings_are_named_and_refused(tmp_path):
    list(ScoreFile(tmp_path / 's.csv', {'metric': 'amhp', 'exact': True}).append(ROWS))
    with pytest.raises(AMHPError, match=r"exact was True and is None; metric was 'amhp'"):
        ScoreFile(tmp_path / 's.csv', {'metric': 'nima'}, resume=True)


@pytest.mark.parametrize('content', [b'', b'path,score\na,1\n', b'[1]\n', b'\xff\xfe\n', b'{}\n'])
def test_another_file_in_its_place_is_refused(tmp_path, content):
    (tmp_path / 's.csv.partial.jsonl').write_bytes(content)
    with pytest.raises(AMHPError, match='not the results of an interrupted run'):
        ScoreFile(tmp_path / 's.csv', {}, resume=True)


# What is shown of a table


def test_the_best_rows_come_first_and_failed_ones_last():
    rows = [ScoreResult(str(score), score) for score in (3.0, 5.0, 1.0, 4.0)]
    rows[1:1] = [ScoreResult('bad', error='why'), ScoreResult('nan', math.nan)]
    every = summarise(rows, None)
    assert [row.path for row in every.best] == ['5.0', '4.0', '3.0', '1.0', 'nan', 'bad']
    assert (every.count, every.failed, every.errors) == (6, 1, ['why'])
    assert [row.path for row in summarise(rows, 2).best] == ['5.0', '4.0']
    assert [row.path for row in summarise(rows, 2, lower_better=True).best] == ['1.0', '3.0']


def test_equal_scores_keep_their_order():
    rows = [ScoreResult(name, 1.0) for name in 'edcba']
    for best in (None, 5, 3):
        assert ''.join(row.path for row in summarise(rows, best).best) == 'edcba'[:best]


# The command


@pytest.fixture
def twelve_files(tmp_path):
    """A folder with eleven photographs and one file that is no image."""
    folder = write_photos(tmp_path / 'photos', [f'{i:02}.png' for i in range(12)])
    (folder / '03.png').write_bytes(b'not an image')
    return folder


@pytest.fixture
def checkpoint(make_amhp, tmp_path):
    return save_checkpoint(tmp_path / 'trained.pth', make_amhp().state_dict())


def interrupt_after(monkeypatch, count):
    """Ctrl-C once that many rows have come; gives a list of the paths that are scored."""
    from pyiqa_amhp.scoring import files as score

    whole, scored = score.score_images, []

    def stopping(paths, *args, **options):
        for row in whole(paths, *args, **options):
            if len(scored) == count:
                raise KeyboardInterrupt
            scored.append(row.path)
            yield row

    monkeypatch.setattr(score, 'score_images', stopping)
    return scored


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_a_resumed_run_writes_what_an_uninterrupted_one_does(
    amhp, twelve_files, checkpoint, tmp_path, monkeypatch, suffix
):
    whole, stopped = tmp_path / f'whole.{suffix}', tmp_path / f'stopped.{suffix}'
    arguments = ('score', twelve_files, '--weights', checkpoint, '--batch-size', 1)
    code, shown, _ = amhp(*arguments, '--out', whole)
    assert code == 1  # one file is not an image

    with monkeypatch.context() as patch:
        interrupt_after(patch, 5)
        code, _, err = amhp(*arguments, '--out', stopped)
    assert code == 130 and '--resume' in err and not stopped.exists()

    with monkeypatch.context() as patch:
        scored = interrupt_after(patch, None)
        code, out, _ = amhp(*arguments, '--out', stopped, '--resume')
    assert [path[-6:-4] for path in scored] == ['05', '06', '07', '08', '09', '10', '11']
    assert code == 1 and out.replace('stopped', 'whole') == shown
    assert stopped.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob('*partial*'))


def test_a_killed_run_goes_on(amhp, twelve_files, checkpoint, tmp_path):
    arguments = ['score', str(twelve_files), '--weights', str(checkpoint), '--batch-size', '1']
    out = tmp_path / 's.csv'
    slow = (
        'import os, signal\n'
        'from pyiqa_amhp.cli.main import main\n'
        'from pyiqa_amhp.scoring import writer\n'
        'append = writer.ScoreFile.append\n'
        'def killed(self, rows):\n'
        '    for row in append(self, rows):\n'
        '        if self.count == 7: os.kill(os.getpid(), signal.SIGKILL)\n'
        '        yield row\n'
        'writer.ScoreFile.append = killed\n'
        'main()\n'
    )
    command = [sys.executable, '-c', slow, *arguments, '--out', str(out)]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    assert not out.exists()
    amhp(*arguments, '--out', out, '--resume')
    assert len(read(out)) == 12 and read(out)['path'].is_unique


def test_resume_needs_the_same_run(amhp, twelve_files, checkpoint, tmp_path, monkeypatch):
    arguments = ('score', twelve_files, '--weights', checkpoint, '--out', tmp_path / 's.csv')
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        amhp(*arguments)
    code, _, err = amhp(*arguments, '--resume', '--text', 'lovely light')
    assert code == 1 and "text was None and is 'lovely light'" in err
    code, _, err = amhp(*arguments)
    assert code == 1 and '--resume' in err
    code, _, err = amhp('score', twelve_files, '--resume')
    assert code == 1 and '--out' in err
    assert amhp(*arguments, '--resume')[0] == 1 and len(read(tmp_path / 's.csv')) == 12


def test_a_run_that_fails_before_its_first_row_leaves_nothing(
    amhp, twelve_files, checkpoint, tmp_path, monkeypatch
):
    interrupt_after(monkeypatch, 0)
    out = tmp_path / 's.csv'
    assert amhp('score', twelve_files, '--weights', checkpoint, '--out', out)[0] == 130
    assert not list(tmp_path.glob('s.csv*'))


def test_resume_with_nothing_to_go_on_with_begins(amhp, twelve_files, checkpoint, tmp_path):
    out = tmp_path / 's.csv'
    amhp('score', twelve_files, '--weights', checkpoint, '--out', out, '--resume')
    assert len(read(out)) == 12
