"""Tables of scores: their formats, partial files, and resumed runs."""

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
from pyiqa_amhp.scoring import files, writer
from pyiqa_amhp.scoring.result import ScoreResult, summarise
from pyiqa_amhp.scoring.writer import ScoreFile

SUFFIXES = ('csv', 'json', 'jsonl', 'parquet')
RESULTS = [
    ScoreResult('a.jpg', 5.25, 'given', {'bad': 0.25, 'good': 0.75}),
    ScoreResult('b, "c".jpg', None, error='b, "c".jpg: no such file'),
    ScoreResult('ü\nd.jpg', 0.1 + 0.2, 'none', {'bad': 1.0, 'good': 0.0}),
]
COLUMNS = ['path', 'score', 'prompt_source', 'p_bad', 'p_good', 'error']


def read(path):
    return {
        # By Python's float: some versions of pandas read 0.30000000000000004 as 0.3.
        '.csv': lambda: pd.read_csv(
            path, keep_default_na=False, converters={'score': lambda cell: float(cell or 'nan')}
        ),
        '.json': lambda: pd.DataFrame(json.loads(path.read_text('utf-8'))),
        '.jsonl': lambda: pd.DataFrame(
            json.loads(line) for line in path.read_text('utf-8').splitlines()
        ),
        '.parquet': lambda: pd.read_parquet(path),
    }[path.suffix]()


def write(path, results):
    file = ScoreFile(path, {})
    list(file.append(results))
    return file.finish(('bad', 'good'))


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_every_format_keeps_every_value(tmp_path, suffix):
    table = read(write(tmp_path / f's.{suffix}', RESULTS))
    assert list(table.columns) == COLUMNS
    assert list(table['path']) == [result.path for result in RESULTS]
    assert table['score'].tolist()[::2] == [5.25, 0.1 + 0.2] and np.isnan(table['score'][1])
    assert list(table['error']) == ['', RESULTS[1].error, '']
    assert float(table['p_good'][0]) == 0.75 and table['prompt_source'][0] == 'given'
    assert [file.name for file in tmp_path.iterdir()] == [f's.{suffix}']


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_tables_without_scores_and_without_rows_are_written(tmp_path, suffix):
    table = read(write(tmp_path / f'failed.{suffix}', [RESULTS[1]]))
    assert len(table) == 1 and table['score'].isna().all()
    assert len(read(write(tmp_path / f'none.{suffix}', []))) == 0


def test_nan_and_infinity_are_null_in_json(tmp_path):
    file = write(tmp_path / 's.json', [ScoreResult('a', math.nan), ScoreResult('b', math.inf)])
    assert [row['score'] for row in json.loads(file.read_text())] == [None, None]


def test_parquet_is_written_in_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, 'CHUNK_ROWS', 2)
    file = write(tmp_path / 's.parquet', RESULTS * 3)
    assert pq.ParquetFile(file).num_row_groups == 5 and len(pd.read_parquet(file)) == 9


def test_each_result_is_on_disk_before_the_next_is_requested(tmp_path):
    file = ScoreFile(tmp_path / 's.csv', {})
    for count, _ in enumerate(file.append(RESULTS), 1):
        assert len(file.partial.read_text('utf-8').splitlines()) == count + 1
    assert not (tmp_path / 's.csv').exists()


@pytest.mark.parametrize('cut', range(0, 140, 7))
def test_a_partial_file_cut_anywhere_resumes_after_its_whole_lines(tmp_path, cut):
    path = tmp_path / 's.jsonl'
    file = ScoreFile(path, {'metric': 'amhp'})
    list(file.append(RESULTS))
    first = len(file.partial.read_bytes().splitlines(keepends=True)[0])
    file.partial.write_bytes(file.partial.read_bytes()[: first + cut])

    again = ScoreFile(path, {'metric': 'amhp'}, resume=True)
    missing = [result for result in RESULTS if result.path not in again.done]
    assert len(missing) == len(RESULTS) - again.count
    list(again.append(missing))
    assert list(again.results()) == RESULTS


def test_a_finished_table_is_overwritten_but_not_an_interrupted_run(tmp_path):
    path = tmp_path / 's.csv'
    write(path, RESULTS)
    write(path, RESULTS[:1])
    assert len(read(path)) == 1
    list(ScoreFile(path, {}).append(RESULTS))
    with pytest.raises(AMHPError, match='--resume'):
        ScoreFile(path, {})
    assert len(read(path)) == 1


def test_other_settings_are_refused_and_listed(tmp_path):
    list(ScoreFile(tmp_path / 's.csv', {'metric': 'amhp', 'exact': True}).append(RESULTS))
    with pytest.raises(AMHPError, match=r"exact was True and is None; metric was 'amhp'"):
        ScoreFile(tmp_path / 's.csv', {'metric': 'nima'}, resume=True)


@pytest.mark.parametrize('content', [b'', b'path,score\na,1\n', b'[1]\n', b'\xff\xfe\n', b'{}\n'])
def test_a_partial_file_with_other_content_is_refused(tmp_path, content):
    (tmp_path / 's.csv.partial.jsonl').write_bytes(content)
    with pytest.raises(AMHPError, match='not the results of an interrupted run'):
        ScoreFile(tmp_path / 's.csv', {}, resume=True)


# The summary


def paths(summary):
    return [result.path for result in summary.best]


def test_the_best_results_come_first_and_failed_ones_last():
    results = [ScoreResult(str(score), score) for score in (3.0, 5.0, 1.0, 4.0)]
    results[1:1] = [ScoreResult('bad', error='why'), ScoreResult('nan', math.nan)]
    summary = summarise(results, None)
    assert paths(summary) == ['5.0', '4.0', '3.0', '1.0', 'nan', 'bad']
    assert (summary.count, summary.failed, summary.errors) == (6, 1, ['why'])
    assert paths(summarise(results, 2)) == ['5.0', '4.0']
    assert paths(summarise(results, 2, lower_better=True)) == ['1.0', '3.0']


def test_equal_scores_keep_their_order():
    results = [ScoreResult(name, 1.0) for name in 'edcba']
    for best in (None, 5, 3):
        assert paths(summarise(results, best)) == list('edcba')[:best]


# The command


@pytest.fixture
def twelve_files(tmp_path):
    """A folder with eleven photographs and one file that is no image."""
    folder = write_photos(tmp_path / 'photos', [f'{i:02}.png' for i in range(12)])
    (folder / '03.png').write_bytes(b'not an image')
    return folder


def interrupt_after(monkeypatch, count):
    """Raise KeyboardInterrupt after ``count`` results. Return a list that gets the scored paths."""
    score_images, scored = files.score_images, []

    def interrupted(paths, *args, **options):
        for result in score_images(paths, *args, **options):
            if len(scored) == count:
                raise KeyboardInterrupt
            scored.append(result.path)
            yield result

    monkeypatch.setattr(files, 'score_images', interrupted)
    return scored


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_a_resumed_run_writes_the_same_table_as_a_run_without_interruption(
    amhp, twelve_files, tiny_weights, tmp_path, monkeypatch, suffix
):
    whole, interrupted = tmp_path / f'whole.{suffix}', tmp_path / f'interrupted.{suffix}'
    arguments = ('score', twelve_files, '--weights', tiny_weights, '--batch-size', 1)
    code, shown, _ = amhp(*arguments, '--out', whole)
    assert code == 1  # one file is not an image

    with monkeypatch.context() as patch:
        interrupt_after(patch, 5)
        code, _, err = amhp(*arguments, '--out', interrupted)
    assert code == 130 and '--resume' in err and not interrupted.exists()

    with monkeypatch.context() as patch:
        scored = interrupt_after(patch, None)
        code, out, _ = amhp(*arguments, '--out', interrupted, '--resume')
    assert [path[-6:-4] for path in scored] == ['05', '06', '07', '08', '09', '10', '11']
    assert code == 1 and out.replace('interrupted', 'whole') == shown
    assert interrupted.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob('*partial*'))


@pytest.mark.slow
def test_a_killed_run_resumes(amhp, twelve_files, tiny_weights, tmp_path):
    arguments = ['score', str(twelve_files), '--weights', str(tiny_weights), '--batch-size', '1']
    out = tmp_path / 's.csv'
    program = (
        'import os, signal\n'
        'from pyiqa_amhp.cli.main import main\n'
        'from pyiqa_amhp.scoring import writer\n'
        'append = writer.ScoreFile.append\n'
        'def append_and_kill(self, results):\n'
        '    for result in append(self, results):\n'
        '        if self.count == 7: os.kill(os.getpid(), signal.SIGKILL)\n'
        '        yield result\n'
        'writer.ScoreFile.append = append_and_kill\n'
        'main()\n'
    )
    command = [sys.executable, '-c', program, *arguments, '--out', str(out)]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    assert not out.exists()
    amhp(*arguments, '--out', out, '--resume')
    assert len(read(out)) == 12 and read(out)['path'].is_unique


def test_resume_needs_the_same_command(amhp, twelve_files, tiny_weights, tmp_path, monkeypatch):
    arguments = ('score', twelve_files, '--weights', tiny_weights, '--out', tmp_path / 's.csv')
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


def test_a_run_without_results_leaves_no_files(
    amhp, twelve_files, tiny_weights, tmp_path, monkeypatch
):
    interrupt_after(monkeypatch, 0)
    out = tmp_path / 's.csv'
    assert amhp('score', twelve_files, '--weights', tiny_weights, '--out', out)[0] == 130
    assert not list(tmp_path.glob('s.csv*'))


def test_resume_without_an_interrupted_run_starts_one(amhp, twelve_files, tiny_weights, tmp_path):
    out = tmp_path / 's.csv'
    amhp('score', twelve_files, '--weights', tiny_weights, '--out', out, '--resume')
    assert len(read(out)) == 12
