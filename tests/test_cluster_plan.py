"""Jobs before any machine works on them: names of files anywhere, tables, parts."""

import io
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pyiqa_amhp.datasets.texts import TextLookup
from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.scoring.ray.plan import ParquetTable, Source, read_plan, rows_of_a_part, write_plan
from pyiqa_amhp.scoring.ray.storage import Files, hidden, scheme_of

SECRET = 's3://KEY:SECRET@bucket/photos/?endpoint_override=127.0.0.1:9000&scheme=http'


def png(value=0):
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(buffer, 'PNG')
    return buffer.getvalue()


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """``photos`` with five images at several depths, in the working folder."""
    monkeypatch.chdir(tmp_path)
    for name in ('a.png', 'b/2.png', 'b/1.png', 'b.png', 'c/d/3.png'):
        file = tmp_path / 'photos' / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png())
    (tmp_path / 'photos' / 'notes.txt').write_text('no image')
    (tmp_path / 'photos' / '.hidden.png').write_bytes(png())
    return tmp_path / 'photos'


ALL = ['a.png', 'b/1.png', 'b/2.png', 'b.png', 'c/d/3.png']


@pytest.fixture
def plan(tmp_path):
    """Plan inputs; gives the plan and its rows, part by part."""

    def plan(*inputs, out=None, **options):
        files = Files([*map(str, inputs)])
        source = Source(files, [*map(str, inputs)], **options)
        written = write_plan(source, str(out or tmp_path / 'out'), {'metric': 'amhp'})
        return written, [written.part(files, number) for number in range(written.parts)]

    return plan


def paths(parts):
    return [row['path'] for part in parts for row in part]


# Names


@pytest.mark.parametrize(
    ('name', 'scheme'),
    [
        ('photos/a.jpg', ''),
        ('C:/photos/a.jpg', ''),
        ('c://photos', ''),
        ('S3://bucket/a', 's3'),
        ('hf://datasets/x', 'hf'),
    ],
)
def test_a_scheme_is_more_than_a_drive(name, scheme):
    assert scheme_of(name) == scheme


@pytest.mark.parametrize(
    ('name', 'shown'),
    [
        (SECRET, 's3://bucket/photos/'),
        ('https://me:word@host/a.jpg?size=1', 'https://host/a.jpg?size=1'),
        ('s3://bucket/a@b.jpg', 's3://bucket/a@b.jpg'),
        ('photos/why?.jpg', 'photos/why?.jpg'),
        ('abfs://container@account.dfs.core.windows.net/a', None),
    ],
)
def test_secrets_are_not_shown(name, shown):
    assert hidden(name) == (shown or name)


def test_an_address_gives_its_connection_to_all_names_of_its_scheme():
    files = Files([SECRET])
    assert files.connections == {
        's3': ('KEY:SECRET', 'endpoint_override=127.0.0.1:9000&scheme=http')
    }
    filesystem, path = files.at('s3://another/what?.jpg')
    assert path == 'another/what?.jpg'
    assert filesystem.type_name == 's3'


def test_what_nothing_opens_is_said_without_secrets():
    with pytest.raises(AMHPError, match=r'nothere://host/x: cannot be opened') as error:
        Files([]).at('nothere://me:word@host/x')
    assert 'word' not in str(error.value)


def test_relative_names_are_those_of_the_folder_where_the_job_began(photos, tmp_path, monkeypatch):
    files = Files(['photos'])
    monkeypatch.chdir('/')
    assert files.open_image('photos/a.png') == str(photos / 'a.png')


@pytest.mark.parametrize('address', [False, True])
def test_a_folder_is_listed_in_order_wherever_it_is(photos, address):
    name = photos.as_uri() if address else str(photos)
    assert list(Files([name]).images(name)) == [f'{name}/{image}' for image in ALL]


@pytest.mark.parametrize('address', [False, True])
def test_a_glob_is_expanded_wherever_it_is(photos, address):
    name = photos.as_uri() if address else str(photos)
    assert list(Files([]).images(f'{name}/b/*')) == [f'{name}/b/1.png', f'{name}/b/2.png']


def test_a_folder_without_images_is_an_error_wherever_it_is(tmp_path):
    (tmp_path / 'empty').mkdir()
    with pytest.raises(AMHPError, match='no images here'):
        list(Files([]).images((tmp_path / 'empty').as_uri()))


def test_a_remote_file_that_is_gone_is_an_error_of_its_row():
    with pytest.raises(ImageReadError, match=r'memory://gone\.png: no such file'):
        Files([]).open_image('memory://gone.png')


def test_a_name_that_nothing_opens_is_an_error_of_its_row():
    with pytest.raises(ImageReadError, match='nothere://x: cannot be opened'):
        Files([]).open_image('nothere://x')


def test_a_file_is_written_whole_wherever_it_is(tmp_path):
    import fsspec

    files = Files([])
    for name in (str(tmp_path / 'new' / 'x'), 'memory://new/x'):
        files.write(name, b'123')
        assert files.read(name) == b'123'
        assert files.listed(name.rpartition('/')[0]) == ['x']
    fsspec.filesystem('memory').store.clear()


# Tables


def test_images_come_once_and_in_the_order_of_the_inputs(photos, plan):
    _, parts = plan('photos/b', 'photos', 'photos/a.png', photos / 'a.png', 'gone.png')
    names = ['b/1.png', 'b/2.png', 'a.png', 'b.png', 'c/d/3.png']
    assert paths(parts) == [*(f'photos/{name}' for name in names), 'gone.png']


def test_a_csv_lists_paths_from_its_own_folder_and_texts(photos, plan):
    pd.DataFrame({
        'img_name': ['a.png', str(photos / 'b.png'), 's3://bucket/x.png', 'a.png'],
        'text': ['lovely\nlight', '', 'far', 'again'],
    }).to_csv(photos / 'list.csv', index=False)  # fmt: skip
    _, parts = plan('photos/list.csv')
    assert [(row['path'], row['text']) for row in parts[0]] == [
        ('photos/a.png', 'lovely\nlight'),
        (str(photos / 'b.png'), None),
        ('s3://bucket/x.png', 'far'),
        ('photos/a.png', 'again'),
    ]


def test_a_parquet_lists_paths_too_under_any_names(photos, plan):
    table = pa.table({'url': ['a.png', 'b.png'], 'caption': ['one', None], 'id': [1, 2]})
    pq.write_table(table, photos / 'list.parquet')
    written, parts = plan(photos / '*.parquet', columns={'path': 'url', 'text': 'caption'})
    assert paths(parts) == [f'{photos}/a.png', f'{photos}/b.png']
    assert [row['text'] for row in parts[0]] == ['one', None]
    assert written.rows == 2


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('name\na.png\n', 'no column path or img_name; there are name'),
        ('path,text\na.png\n', 'line 2 has not as many values'),
        ('path,text\na.png,light, soft\n', 'line 2 has not as many values'),
        ('path\n""\n', 'no path in line 2'),
        ('path\n"a.png\n', 'cannot be read as CSV'),
        ('', 'no column path or img_name'),
        ('path\n', 'no images in these inputs'),
    ],
)
def test_a_csv_that_is_no_list_is_an_error(tmp_path, plan, content, message):
    (tmp_path / 'list.csv').write_text(content)
    with pytest.raises(AMHPError, match=message):
        plan(tmp_path / 'list.csv')


@pytest.mark.parametrize(
    ('columns', 'wanted', 'message'),
    [
        ({'a': [b'1'], 'b': [b'2']}, None, 'a, b hold bytes; say which'),
        ({'path': ['x']}, {'image': 'path'}, 'column path holds no bytes'),
        ({'image': [b'1']}, {'text': 'said'}, 'no column said; there are image'),
        ({'id': [1]}, None, 'no column path or img_name; there are id'),
    ],
)
def test_a_parquet_whose_columns_are_not_clear_is_an_error(
    tmp_path, plan, columns, wanted, message
):
    pq.write_table(pa.table(columns), tmp_path / 'x.parquet')
    with pytest.raises(AMHPError, match=message):
        plan(tmp_path / 'x.parquet', columns=wanted)


@pytest.mark.parametrize('name', ['x.parquet', 'x.csv'])
def test_a_table_that_is_gone_or_damaged_is_an_error(tmp_path, plan, name):
    with pytest.raises(AMHPError, match='no such file'):
        plan(tmp_path / name)
    (tmp_path / name).write_bytes(b'\xff\x00junk')
    with pytest.raises(AMHPError, match='cannot be read as'):
        plan(tmp_path / name)


@pytest.mark.parametrize('struct', [False, True])
def test_images_in_a_parquet_are_read_part_by_part_each_once(tmp_path, plan, struct):
    images = [png(i) for i in range(150)]
    column = [{'bytes': b, 'path': None} for b in images] if struct else images
    table = pa.table({'image': column, 'text': [f'text {i}' for i in range(150)]})
    pq.write_table(table, tmp_path / 'x.parquet', row_group_size=100)
    written, parts = plan(tmp_path / 'x.parquet', part_rows=40)
    assert [row['rows'] for part in parts for row in part] == [40, 40, 20, 40, 10]
    assert written.rows == 150
    read = [
        found
        for (row,) in parts
        for found in ParquetTable(Files([]), row['table'], None).read(
            row['row_group'], row['first'], row['rows']
        )
    ]
    name = tmp_path / 'x.parquet'
    assert read == [(f'{name}#{i}', f'text {i}', images[i]) for i in range(150)]


# Parts


@pytest.mark.parametrize(
    ('rows', 'expected'), [(1, 32), (2_000, 32), (6_400, 100), (64_000, 1000), (5 * 10**7, 1000)]
)
def test_parts_are_neither_tiny_nor_long(rows, expected):
    assert rows_of_a_part(rows) == expected


def test_rows_keep_their_order_and_part_over_several_files_of_a_plan(tmp_path, plan):
    names = [f'{i}.png' for i in range(300)]
    pd.DataFrame({'path': names}).to_csv(tmp_path / 'list.csv', index=False)
    written, parts = plan(tmp_path / 'list.csv', part_rows=3)
    assert written.parts == 100
    assert paths(parts) == [f'{tmp_path}/{name}' for name in names]
    assert {len(part) for part in parts} == {3}
    assert read_plan(Files([]), str(tmp_path / 'out')) == written


def test_tables_of_images_and_paths_go_together(photos, tmp_path, plan):
    pq.write_table(pa.table({'image': [png()] * 5}), tmp_path / 'x.parquet')
    written, parts = plan(photos / 'b', tmp_path / 'x.parquet', photos / 'c')
    assert [row['rows'] for part in parts for row in part] == [None, None, 5, None]
    assert [len(part) for part in parts] == [2, 1, 1]
    assert written.rows == 8


def test_texts_are_found_by_name(photos, tmp_path, plan):
    (tmp_path / 'said.csv').write_text('img_name,text\nb/1.png,one\na.png,two\n')
    _, parts = plan('photos', texts=TextLookup(tmp_path / 'said.csv'))
    assert [row['text'] for row in parts[0]] == ['two', 'one', None, None, None]


def test_texts_of_which_none_fits_are_an_error(photos, tmp_path, plan):
    (tmp_path / 'said.csv').write_text('img_name,text\nx.png,one\n')
    with pytest.raises(AMHPError, match='no img_name fits any of the 5 images'):
        plan('photos', texts=TextLookup(tmp_path / 'said.csv'))


def test_a_plan_that_was_not_written_to_its_end_does_not_count(photos, tmp_path):
    source = Source(Files([]), ['photos', str(tmp_path / 'gone.csv')], part_rows=1)
    with pytest.raises(AMHPError, match='no such file'):
        write_plan(source, str(tmp_path / 'out'), {})
    assert read_plan(Files([]), str(tmp_path / 'out')) is None


@pytest.mark.parametrize('content', ['', '[]', '{"parts": 1}', '{"settings": 1, "parts": 1}'])
def test_something_else_in_place_of_a_plan_is_an_error(tmp_path, content):
    file = tmp_path / '_plan' / 'plan.json'
    file.parent.mkdir()
    file.write_text(content)
    with pytest.raises(AMHPError, match='not the plan of a job; delete it'):
        read_plan(Files([]), str(tmp_path))


def test_a_plan_holds_no_secrets(photos, tmp_path, plan):
    from pyiqa_amhp.scoring.ray.job import ScorerConfig, _settings

    settings = _settings([SECRET], ScorerConfig(), None, None, None)
    assert 's3://bucket/photos/' in json.dumps(settings)
    assert 'SECRET' not in json.dumps(settings)
