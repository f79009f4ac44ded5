"""Names of files that are not UTF-8, and consoles that cannot print a name."""

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import smooth_pixels, write_photos
from PIL import Image

from pyiqa_amhp.datasets.texts import read_texts
from pyiqa_amhp.utils.files import write_text
from pyiqa_amhp.utils.text import existing_name, printable, writable

LATIN, BROKEN = os.fsdecode(b'caf\xe9.png'), os.fsdecode(b'bad\xff.png')
SHOWN = {'a.png': 'a.png', LATIN: 'caf\\udce9.png', BROKEN: 'bad\\udcff.png'}


@pytest.fixture
def folder(tmp_path):
    """A folder with two photographs and a broken file; two of the names are not UTF-8."""
    photos = write_photos(tmp_path / 'photos', ['a.png'])
    try:
        (photos / BROKEN).write_bytes(b'no image')
    except (OSError, UnicodeEncodeError):
        pytest.skip('this file system takes only names of characters')
    Image.fromarray(smooth_pixels(40, 30, 3)).save(photos / LATIN)
    return photos


def test_a_name_is_written_with_escapes_and_read_back():
    for name, written in SHOWN.items():
        assert writable(name) == printable(name) == written
        assert existing_name(written, 'nowhere') == name
    assert existing_name('a\\b.png') == 'a\\b.png'


@pytest.mark.skipif(os.name == 'nt', reason='a backslash separates folders there')
def test_a_file_that_has_the_escape_in_its_name_is_found(tmp_path):
    (tmp_path / SHOWN[LATIN]).touch()
    assert existing_name(SHOWN[LATIN], str(tmp_path)) == SHOWN[LATIN]
    assert existing_name(str(tmp_path / SHOWN[LATIN])) == str(tmp_path / SHOWN[LATIN])


def read(file):
    """Read the rows of a table of scores."""
    if file.suffix == '.parquet':
        return pd.read_parquet(file).to_dict('records')
    if file.suffix == '.csv':
        return pd.read_csv(file, keep_default_na=False).to_dict('records')
    text = file.read_text('utf-8')
    return json.loads(text) if file.suffix == '.json' else list(map(json.loads, text.splitlines()))


@pytest.mark.parametrize('suffix', ['csv', 'json', 'jsonl', 'parquet'])
def test_every_table_of_scores_has_the_names(amhp, folder, tiny_weights, tmp_path, suffix):
    file = tmp_path / f's.{suffix}'
    code, out, err = amhp('score', folder, '--weights', tiny_weights, '--out', file)
    assert code == 1 and SHOWN[LATIN] in out and SHOWN[BROKEN] in err
    rows = {os.path.basename(row['path']): row for row in read(file)}
    assert set(rows) == set(SHOWN.values())
    assert rows[SHOWN[BROKEN]]['error'].startswith(f'{folder}/bad\\udcff.png: not an image')
    assert Path(existing_name(rows[SHOWN[LATIN]]['path'])).is_file()


def test_an_interrupted_run_resumes_after_such_names(amhp, folder, tiny_weights, tmp_path):
    file = tmp_path / 's.csv'
    arguments = ('score', folder, '--weights', tiny_weights, '--out', file)
    amhp(*arguments)
    complete = file.read_text()
    partial = tmp_path / 's.csv.partial.jsonl'
    # As a run leaves it that was stopped after its last image.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('pyiqa_amhp.scoring.writer.ScoreFile.finish', lambda *_: 1 / 0)
        amhp(*arguments)
    lines = partial.read_bytes().splitlines(keepends=True)
    assert len(lines) == 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('pyiqa_amhp.datasets.images.Image.open', lambda *_, **__: 1 / 0)
        assert amhp(*arguments, '--resume')[0] == 1
    assert file.read_text() == complete and not partial.exists()


def test_explanations_have_the_names(amhp, folder, tiny_weights, tmp_path):
    code, out, err = amhp('explain', folder, '--weights', tiny_weights, '--out', tmp_path / 'x')
    assert code == 1 and SHOWN[BROKEN] in err
    page = (tmp_path / 'x' / 'index.html').read_text('utf-8')
    assert all(page.count(name) >= 1 for name in SHOWN.values())
    entries = json.loads((tmp_path / 'x' / 'explanations.json').read_text())
    assert {os.path.basename(entry['path']) for entry in entries} == set(SHOWN.values())
    code, out, _ = amhp('explain', folder / LATIN, '--weights', tiny_weights)
    assert code == 0 and SHOWN[LATIN] in out


def test_texts_fit_the_names_as_tables_have_them(folder, tmp_path):
    csv = tmp_path / 'texts.csv'
    csv.write_text('img_name,text\ncaf\\udce9.png,light\n')
    assert read_texts(csv, [folder / LATIN, folder / 'a.png']) == ['light', None]


def test_a_benchmark_reads_and_writes_the_names(folder, tiny_weights, tmp_path):
    from pyiqa_amhp.evaluation.benchmark import benchmark
    from pyiqa_amhp.evaluation.rated_set import load_rated

    images = folder.rename(tmp_path / os.fsdecode(b'ph\xf8tos'))
    csv = tmp_path / 'rated.csv'
    names = [SHOWN[name] for name in (LATIN, 'a.png', BROKEN)]
    pd.DataFrame({'img_name': names, 'MOS': [2, 3, 4]}).to_csv(csv, index=False)
    options = {'level_values': [1, 2.5, 4, 5.5, 7], 'dataset': 'ava'}
    rated = load_rated(str(csv), images, 'all', options=options)
    assert rated.paths[0] == str(images / LATIN)
    result = benchmark(['amhp'], rated, tmp_path / 'out', {'amhp': str(tiny_weights)}, device='cpu')
    assert result.rows[0].images == 2
    assert 'ph\\udcf8tos/bad\\udcff.png: not an image' in (tmp_path / 'out/results.md').read_text()
    table = pd.read_csv(tmp_path / 'out' / 'predictions.csv')
    assert table['img_name'].tolist() == names and table['amhp (tiny.pth)'].notna().sum() == 2


def test_a_job_on_ray_plans_and_opens_the_names(folder, tmp_path):
    pytest.importorskip('ray')
    from pyiqa_amhp.scoring.ray.plan import Source, write_plan
    from pyiqa_amhp.scoring.ray.storage import Storage

    storage = Storage()
    source = Source(storage, [str(folder), str(folder / LATIN)])
    plan = write_plan(source, str(tmp_path / 'out'), {})
    rows = plan.read_shard(storage, 0)
    assert [os.path.basename(row['path']) for row in rows] == sorted(SHOWN.values())
    opened = [storage.open_image(row['path']) for row in rows]
    assert opened == [str(folder / name) for name in sorted(SHOWN)]


def test_pages_and_logs_can_hold_the_names(folder, tmp_path, caplog):
    from pyiqa_amhp.datasets.images import read_image
    from pyiqa_amhp.errors import ImageReadError

    assert write_text(tmp_path / 'page.html', LATIN).read_text('utf-8') == SHOWN[LATIN]
    handler = logging.FileHandler(tmp_path / 'log.txt', encoding='utf-8')
    with pytest.raises(ImageReadError) as error:
        read_image(folder / BROKEN)
    handler.emit(logging.LogRecord('x', logging.WARNING, '', 0, str(error.value), None, None))
    handler.close()
    assert SHOWN[BROKEN] in (tmp_path / 'log.txt').read_text('utf-8')


def test_the_gallery_of_the_page_has_the_names(folder, make_amhp):
    from pyiqa_amhp.app.limits import Limits
    from pyiqa_amhp.app.photos import PhotoScorer
    from pyiqa_amhp.app.render import many_panel
    from pyiqa_amhp.app.uploads import Upload

    scorer = PhotoScorer(make_amhp(), Limits())
    photos = scorer.score_many([Upload(str(folder / name), name) for name in sorted(SHOWN)])
    assert SHOWN[BROKEN] in many_panel(scorer, photos).encode().decode()


@pytest.mark.parametrize('encoding', ['ascii', 'cp1252'])
def test_what_a_console_cannot_print_is_escaped(
    photos, tiny_weights, tmp_path, monkeypatch, encoding
):
    from pyiqa_amhp.cli import main as cli

    (photos / 'a.png').rename(photos / '光.png')
    stdout, stderr = (io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2))
    monkeypatch.setattr('sys.stdout', stdout)
    monkeypatch.setattr('sys.stderr', stderr)
    for command in ('score', 'explain'):
        arguments = ['amhp', command, photos / '光.png', photos / '晴.png', '--text', '光']
        monkeypatch.setattr('sys.argv', [*map(str, arguments), '--weights', str(tiny_weights)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 1
    for stream in (stdout, stderr):
        stream.flush()
    assert stdout.buffer.getvalue().count(b'\\u5149.png') == 2
    assert stderr.buffer.getvalue().count(b'\\u6674.png: no such file') == 2


@pytest.mark.slow
def test_a_console_of_windows_shows_scores_and_the_table_is_whole(photos, tiny_weights, tmp_path):
    (photos / 'a.png').rename(photos / '光.png')
    program = 'from pyiqa_amhp.cli.main import main; main()'
    command = [sys.executable, '-c', program, 'score', photos, '--weights', tiny_weights]
    bare = {'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'}
    environment = {**os.environ, **bare, 'PYTHONIOENCODING': 'cp1252'}
    run = subprocess.run([*command, '--out', tmp_path / 's.csv'], env=environment, stdout=-1)
    assert run.returncode == 0
    assert len(pd.read_csv(tmp_path / 's.csv')) == 4 and b'4 rows written' in run.stdout


def test_the_table_is_written_before_anything_is_printed(
    amhp, photos, tiny_weights, tmp_path, monkeypatch
):
    monkeypatch.setattr('pyiqa_amhp.cli.score._print_scores', lambda *_: 1 / 0)
    amhp('score', photos, '--weights', tiny_weights, '--out', tmp_path / 's.csv')
    assert len(pd.read_csv(tmp_path / 's.csv')) == 4
