"""Comments on disk: written, mapped into memory, and refused when the file is damaged."""

import os
import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyiqa_amhp.datasets.comment_store import CommentStore, write_store
from pyiqa_amhp.datasets.comments import read_comments
from pyiqa_amhp.datasets.keywords import AttributeKeywords
from pyiqa_amhp.errors import AMHPError

LIGHT, COLOR = 1, 2
ROWS = [
    (9, 'fine color', COLOR),
    (5, 'soft light', LIGHT),
    (7, 'nice', 0),
    (5, 'wow', 0),
    (5, 'light and color', LIGHT | COLOR),
    (9, 'hard light', LIGHT),
    (7, 'cute', 0),
    (5, 'dim light', LIGHT),
    (7, 'haha', 0),
]


def as_table(rows):
    ids, texts = ([row[i] for row in rows] for i in range(2))
    return pa.table(
        {'image_id': pa.array(ids, pa.int64()), 'text': pa.array(texts, pa.large_string())}
    )


def write(path, rows, attributes=('light', 'color')):
    return write_store(path, as_table(rows), np.array([row[2] for row in rows]), attributes)


@pytest.fixture(scope='module')
def store(tmp_path_factory):
    return CommentStore(write(tmp_path_factory.mktemp('store') / 'comments.arrow', ROWS))


def test_comments_are_sorted_by_image_and_keep_their_order(store):
    assert len(store) == 9
    assert store.image_ids.tolist() == [5] * 4 + [7] * 3 + [9] * 2
    assert [store.text(row) for row in range(9)] == [
        'soft light', 'wow', 'light and color', 'dim light', 'nice', 'cute', 'haha', 'fine color',
        'hard light',
    ]  # fmt: skip
    assert store.masks.tolist() == [1, 0, 3, 1, 0, 0, 0, 2, 1]
    assert store.attributes == ('light', 'color')


def test_an_image_without_comments_has_no_rows(store):
    start, stop = store.rows(np.array([7, 8, 5, 9, 10, 0]))
    assert (stop - start).tolist() == [3, 0, 4, 2, 0, 0]
    assert start.tolist()[:3:2] == [4, 0]
    assert store.rows([])[0].shape == (0,)


@pytest.mark.parametrize('row', [-1, 9])
def test_a_row_outside_the_store_is_an_index_error(store, row):
    with pytest.raises(IndexError, match='of 9 comments'):
        store.text(row)


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.integers(-(2**63), 2**63 - 1) | st.integers(0, 3),
            st.text(st.characters(exclude_categories=['Cs'])),
            st.integers(0, 2**16 - 1),
        )
    )
)
def test_comments_are_read_as_they_were_written(tmp_path_factory, rows):
    path = write(tmp_path_factory.getbasetemp() / 'any.arrow', rows, [f'a{i}' for i in range(16)])
    store = CommentStore(path)
    expected = sorted(rows, key=lambda row: row[0])
    texts = [store.text(row) for row in range(len(store))]
    found = list(zip(store.image_ids.tolist(), texts, store.masks.tolist(), strict=True))
    assert found == expected


def test_a_table_of_several_chunks_is_written(tmp_path):
    table = pa.concat_tables([as_table(ROWS[:4]), as_table(ROWS[4:])])
    path = write_store(tmp_path / 's.arrow', table, np.array([row[2] for row in ROWS]), ['a', 'b'])
    assert CommentStore(path).text(3) == 'dim light'


def test_the_store_names_its_source(tmp_path):
    file = tmp_path / 'AVA_Comments_Full.txt'
    file.write_text('1#5#soft light#wow\n')
    table, _ = read_comments(file)
    keywords = AttributeKeywords()
    masks = keywords.masks(table['text'])
    path = write_store(tmp_path / 's.arrow', table, masks, keywords.attributes, keywords.digest)
    store = CommentStore(path)
    assert store.source == 'AVA_Comments_Full.txt'
    assert store.keywords == keywords.digest
    assert store.attributes == keywords.attributes
    assert store.masks.tolist() == [store.bits(['light']), 0]


def test_masks_of_another_length_are_refused(tmp_path):
    with pytest.raises(ValueError, match='1 masks for 9 comments'):
        write_store(tmp_path / 's.arrow', as_table(ROWS), np.zeros(1, np.uint16), ['light'])


def test_a_failed_write_keeps_the_old_file(tmp_path):
    resource = pytest.importorskip('resource', reason='limits the size of files')
    path = write(tmp_path / 's.arrow', ROWS)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        with pytest.raises(AMHPError, match='could not be written'):
            write(path, [(1, 'light' * 100_000, 0)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ['s.arrow']


def test_a_store_is_mapped_not_read(tmp_path):
    path = write(tmp_path / 's.arrow', [(n, f'<{n}>' * 1000, 1) for n in range(1000)])
    before = pa.total_allocated_bytes()
    store = CommentStore(path)
    assert store.text(999) == '<999>' * 1000
    assert pa.total_allocated_bytes() - before < 10_000
    with path.open('r+b') as file:  # a change of the file is seen in the store
        file.seek(path.read_bytes().index(b'<7>'))
        file.write(b'!')
    assert store.text(7) == '!7>' + '<7>' * 999


def test_a_store_pickles_as_its_path(tmp_path):
    path = write(tmp_path / 's.arrow', [(n, 'light' * 100, 1) for n in range(2000)])
    pickled = pickle.dumps(CommentStore(path))
    assert len(pickled) < 500
    assert pickle.loads(pickled).text(7) == 'light' * 100


@pytest.mark.parametrize('keep', [0, 1, 6, 100, 0.3, 0.7, -1])
def test_a_cut_store_is_refused(tmp_path, keep):
    path = write(tmp_path / 's.arrow', [(n, f'light {n}', 1) for n in range(500)])
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(AMHPError, match=r's\.arrow: .*prepare ava --force'):
        CommentStore(path)


def arrow_file(path, columns, metadata=None, batches=1):
    batch = pa.record_batch(columns).replace_schema_metadata(metadata)
    with pa.ipc.new_file(str(path), batch.schema) as writer:
        for _ in range(batches):
            writer.write_batch(batch)
    return path


COLUMNS = {
    'image_id': pa.array([5, 7], pa.int64()),
    'text': pa.array(['a', 'b'], pa.large_string()),
    'attributes': pa.array([0, 1], pa.uint16()),
}
ABOUT = {'pyiqa_amhp': '{"format": 1, "attributes": ["light"], "source": ""}'}


def test_the_format_is_as_documented(tmp_path):
    store = CommentStore(arrow_file(tmp_path / 's.arrow', COLUMNS, ABOUT))
    assert (store.text(1), store.keywords) == ('b', '')  # older versions noted no keywords


@pytest.mark.parametrize(
    ('columns', 'metadata', 'batches'),
    [
        (COLUMNS, None, 1),
        (COLUMNS, {'pyiqa_amhp': 'x'}, 1),
        (COLUMNS, {'pyiqa_amhp': '[]'}, 1),
        (COLUMNS, {'pyiqa_amhp': '{"format": 2, "attributes": [], "source": ""}'}, 1),
        (COLUMNS, {'pyiqa_amhp': '{"format": 1}'}, 1),
        (COLUMNS, ABOUT, 0),
        (COLUMNS, ABOUT, 2),
        ({**COLUMNS, 'text': pa.array(['a', 'b'])}, ABOUT, 1),
        ({**COLUMNS, 'attributes': pa.array([0, 1], pa.int16())}, ABOUT, 1),
        ({'text': COLUMNS['text']}, ABOUT, 1),
    ],
)
def test_another_arrow_file_is_refused(tmp_path, columns, metadata, batches):
    path = arrow_file(tmp_path / 's.arrow', columns, metadata, batches)
    with pytest.raises(AMHPError, match=r's\.arrow: an Arrow file, but not one of comments'):
        CommentStore(path)


def test_a_store_out_of_order_is_refused(tmp_path):
    columns = {**COLUMNS, 'image_id': pa.array([7, 5], pa.int64())}
    with pytest.raises(AMHPError, match=r's\.arrow: damaged'):
        CommentStore(arrow_file(tmp_path / 's.arrow', columns, ABOUT))


def test_offsets_past_the_text_are_refused(tmp_path):
    path = arrow_file(tmp_path / 's.arrow', COLUMNS, ABOUT)
    data = path.read_bytes()
    offsets = np.array([0, 1, 2], np.int64).tobytes()
    assert data.count(offsets) == 1
    path.write_bytes(data.replace(offsets, np.array([0, 1, 99999], np.int64).tobytes()))
    with pytest.raises(AMHPError, match=r's\.arrow: .*damaged'):
        CommentStore(path)


@pytest.mark.parametrize('content', [b'image_id,text\n', b'ARROW1\0\0 or not', bytes(5000)])
def test_a_file_that_is_not_arrow_is_refused(tmp_path, content):
    path = tmp_path / 's.arrow'
    path.write_bytes(content)
    with pytest.raises(AMHPError, match=r's\.arrow: cut, damaged, or not an Arrow file'):
        CommentStore(path)


def test_a_missing_store_is_an_error_with_the_command(tmp_path):
    with pytest.raises(AMHPError, match='no such file; `amhp prepare ava`'):
        CommentStore(tmp_path / 's.arrow')
    with pytest.raises(AMHPError, match='cut, damaged, or not an Arrow file'):
        CommentStore(tmp_path)
