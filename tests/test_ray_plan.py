"""The plan of a job on Ray: inputs, tables, shards."""

import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_photos
from PIL import Image

from pyiqa_amhp.datasets.texts import TextLookup
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.scoring.ray.plan import (
    ParquetTable,
    Source,
    choose_shard_rows,
    read_plan,
    write_plan,
)
from pyiqa_amhp.scoring.ray.storage import Storage


def png(value=0):
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(buffer, 'PNG')
    return buffer.getvalue()


@pytest.fixture
def nested_photos(tmp_path, monkeypatch):
    """The folder ``photos`` in the current one: five images at several depths."""
    monkeypatch.chdir(tmp_path)
    names = ('a.png', 'b/1.png', 'b/2.png', 'b.png', 'c/d/3.png')
    return write_photos(tmp_path / 'photos', names)


@pytest.fixture
def plan(tmp_path):
    """Write the plan of inputs; returns the plan, and the rows of each shard."""

    def plan(*inputs, **options):
        names = [*map(str, inputs)]
        storage = Storage(names)
        written = write_plan(
            Source(storage, names, **options), str(tmp_path / 'out'), {'metric': 'amhp'}
        )
        return written, [written.read_shard(storage, shard) for shard in range(written.shards)]

    return plan


def paths(shards):
    return [row['path'] for shard in shards for row in shard]


# Inputs


def test_images_count_once_and_keep_the_order_of_the_inputs(nested_photos, plan):
    _, shards = plan('photos/b', 'photos', 'photos/a.png', nested_photos / 'a.png', 'gone.png')
    names = ['b/1.png', 'b/2.png', 'a.png', 'b.png', 'c/d/3.png']
    assert paths(shards) == [*(f'photos/{name}' for name in names), 'gone.png']


def test_paths_in_a_csv_start_at_its_folder_and_have_texts(nested_photos, plan):
    pd.DataFrame({
        'img_name': ['a.png', str(nested_photos / 'b.png'), 's3://bucket/x.png', 'a.png'],
        'text': ['lovely\nlight', '', 'far', 'again'],
    }).to_csv(nested_photos / 'list.csv', index=False)  # fmt: skip
    _, shards = plan('photos/list.csv')
    assert [(row['path'], row['text']) for row in shards[0]] == [
        ('photos/a.png', 'lovely\nlight'),
        (str(nested_photos / 'b.png'), None),
        ('s3://bucket/x.png', 'far'),
        ('photos/a.png', 'again'),
    ]


def test_columns_of_a_parquet_list_may_have_other_names(nested_photos, plan):
    table = pa.table({'url': ['a.png', 'b.png'], 'caption': ['one', None], 'id': [1, 2]})
    pq.write_table(table, nested_photos / 'list.parquet')
    written, shards = plan(nested_photos / '*.parquet', columns={'path': 'url', 'text': 'caption'})
    assert paths(shards) == [f'{nested_photos}/a.png', f'{nested_photos}/b.png']
    assert [row['text'] for row in shards[0]] == ['one', None]
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
def test_a_csv_without_paths_is_an_error(tmp_path, plan, content, message):
    (tmp_path / 'list.csv').write_text(content)
    with pytest.raises(AMHPError, match=message):
        plan(tmp_path / 'list.csv')


@pytest.mark.parametrize(
    ('columns', 'wanted', 'message'),
    [
        ({'a': [b'1'], 'b': [b'2']}, None, 'a, b hold bytes; name the column'),
        ({'path': ['x']}, {'image': 'path'}, 'column path holds no bytes'),
        ({'image': [b'1']}, {'text': 'caption'}, 'no column caption; there are image'),
        ({'id': [1]}, None, 'no column path or img_name; there are id'),
    ],
)
def test_a_parquet_with_ambiguous_columns_is_an_error(tmp_path, plan, columns, wanted, message):
    pq.write_table(pa.table(columns), tmp_path / 'x.parquet')
    with pytest.raises(AMHPError, match=message):
        plan(tmp_path / 'x.parquet', columns=wanted)


@pytest.mark.parametrize('name', ['x.parquet', 'x.csv'])
def test_a_missing_or_damaged_table_is_an_error(tmp_path, plan, name):
    with pytest.raises(AMHPError, match='no such file'):
        plan(tmp_path / name)
    (tmp_path / name).write_bytes(b'\xff\x00junk')
    with pytest.raises(AMHPError, match='cannot be read as'):
        plan(tmp_path / name)


@pytest.mark.parametrize('struct', [False, True])
def test_each_image_in_a_parquet_is_read_once(tmp_path, plan, struct):
    images = [png(i) for i in range(150)]
    column = [{'bytes': b, 'path': None} for b in images] if struct else images
    table = pa.table({'image': column, 'text': [f'text {i}' for i in range(150)]})
    pq.write_table(table, tmp_path / 'x.parquet', row_group_size=100)
    written, shards = plan(tmp_path / 'x.parquet', shard_rows=40)
    assert [row['rows'] for shard in shards for row in shard] == [40, 40, 20, 40, 10]
    assert written.rows == 150
    read = [
        found
        for (row,) in shards
        for found in ParquetTable(Storage(), row['table'], None).read(
            row['row_group'], row['first'], row['rows']
        )
    ]
    name = tmp_path / 'x.parquet'
    assert read == [(f'{name}#{i}', f'text {i}', images[i]) for i in range(150)]


# Shards


@pytest.mark.parametrize(
    ('rows', 'expected'), [(1, 32), (2_000, 32), (6_400, 100), (64_000, 1000), (5 * 10**7, 1000)]
)
def test_shards_are_neither_small_nor_large(rows, expected):
    assert choose_shard_rows(rows) == expected


def test_rows_keep_their_order_over_several_files_of_a_plan(tmp_path, plan):
    names = [f'{i}.png' for i in range(300)]
    pd.DataFrame({'path': names}).to_csv(tmp_path / 'list.csv', index=False)
    written, shards = plan(tmp_path / 'list.csv', shard_rows=3)
    assert written.shards == 100
    assert paths(shards) == [f'{tmp_path}/{name}' for name in names]
    assert {len(shard) for shard in shards} == {3}
    assert read_plan(Storage(), str(tmp_path / 'out')) == written


def test_folders_and_tables_of_images_mix(nested_photos, tmp_path, plan):
    pq.write_table(pa.table({'image': [png()] * 5}), tmp_path / 'x.parquet')
    written, shards = plan(nested_photos / 'b', tmp_path / 'x.parquet', nested_photos / 'c')
    assert [row['rows'] for shard in shards for row in shard] == [None, None, 5, None]
    assert [len(shard) for shard in shards] == [2, 1, 1]
    assert written.rows == 8


def test_texts_are_found_by_name(nested_photos, tmp_path, plan):
    (tmp_path / 'texts.csv').write_text('img_name,text\nb/1.png,one\na.png,two\n')
    _, shards = plan('photos', texts=TextLookup(tmp_path / 'texts.csv'))
    assert [row['text'] for row in shards[0]] == ['two', 'one', None, None, None]


def test_texts_that_fit_no_image_are_an_error(nested_photos, tmp_path, plan):
    (tmp_path / 'texts.csv').write_text('img_name,text\nx.png,one\n')
    with pytest.raises(AMHPError, match='no img_name fits any of the 5 images'):
        plan('photos', texts=TextLookup(tmp_path / 'texts.csv'))


def test_half_a_plan_does_not_count(nested_photos, tmp_path):
    source = Source(Storage(), ['photos', str(tmp_path / 'gone.csv')], shard_rows=1)
    with pytest.raises(AMHPError, match='no such file'):
        write_plan(source, str(tmp_path / 'out'), {})
    assert read_plan(Storage(), str(tmp_path / 'out')) is None


@pytest.mark.parametrize('content', ['', '[]', '{"parts": 1}', '{"settings": 1, "parts": 1}'])
def test_another_file_in_place_of_a_plan_is_an_error(tmp_path, content):
    file = tmp_path / '_plan' / 'plan.json'
    file.parent.mkdir()
    file.write_text(content)
    with pytest.raises(AMHPError, match='not the plan of a job; delete it'):
        read_plan(Storage(), str(tmp_path))
