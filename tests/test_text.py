"""What counts as a text, the same in every reader; names that UTF-8 or a terminal cannot write."""

import csv
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from conftest import write_photos
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pyiqa_amhp.datasets.comment_store import CommentStore, write_store
from pyiqa_amhp.datasets.comments import read_comments
from pyiqa_amhp.datasets.csv import parse_csv
from pyiqa_amhp.datasets.dataset import AMHPDataset
from pyiqa_amhp.datasets.texts import TextLookup, read_texts
from pyiqa_amhp.evaluation.rated_set import load_rated
from pyiqa_amhp.scoring.files import score_images
from pyiqa_amhp.utils.text import given_text

NOTHING = (
    '', ' \t\n', '&nbsp;', '&#160;', '&#xa0;', '&amp;nbsp;', '&nbsp; &nbsp;', '\xa0\u3000\u2028',
    '\ufeff', '\x00\x07', '\x1b[31m', '&#8203;', '\u200b\u200d', '&zwnj;', '&shy;', '\u2060',
)  # fmt: skip
WORDS = (
    'NA',
    'None',
    'null',
    'nan',
    'NaN',
    'N/A',
    '<NA>',
    '0',
    '.',
    '&amp;',
    '&nbsp;a',
    '光',
    '👍',
)


@pytest.mark.parametrize('text', NOTHING)
def test_what_has_nothing_to_read_is_no_text(text):
    assert given_text(text) == ''


@pytest.mark.parametrize('text', WORDS)
def test_words_of_any_kind_are_a_text(text):
    assert given_text(f' {text}\n') == text


def test_missing_values_of_tables_are_no_text():
    assert [given_text(value) for value in (None, float('nan'), np.nan)] == ['', '', '']
    assert given_text(0) == '0'


@settings(max_examples=60, deadline=None)
@given(
    st.text(st.sampled_from('&;#nbspamx16 0\x1b[m\x00\xa0Â\xad\u200b!é'), max_size=12) | st.text()
)
@example('&#0;')
@example('Â ')
def test_a_text_is_one_where_clip_has_tokens_that_can_be_seen(text):
    import open_clip

    tokens = open_clip.tokenizer._tokenizer.encode(text.strip())
    if not tokens:
        assert not given_text(text)
    elif text.isprintable() and '&' not in text:
        assert given_text(text)


def test_what_is_no_text_changes_no_score(make_amhp):
    net = make_amhp()
    x = torch.rand(1, 3, 40, 40)
    none = net(x)
    assert net(x, text='light') != none
    for text in NOTHING:
        assert net(x, text=text) == none
        assert net.predict(net.preprocess(x), [text])[0] == none
        assert net.prompt_sources([text]) == ['none']


def test_files_are_scored_by_the_same_rule(make_amhp, tmp_path):
    photo = write_photos(tmp_path, ['a.png']) / 'a.png'
    texts = [None, *NOTHING, 'NA']
    *without, given_one = score_images([photo] * len(texts), texts, make_amhp())
    assert {result.prompt_source for result in without} == {'none'}
    assert len({result.score for result in without}) == 1
    assert given_one.prompt_source == 'given' and given_one.score != without[0].score


def test_an_explanation_follows_the_same_rule(make_amhp, tmp_path):
    photo = write_photos(tmp_path, ['a.png']) / 'a.png'
    net = make_amhp()
    assert net.explain(photo, '&nbsp;').score == net.explain(photo).score
    # Without its one word, the text is the same as none.
    word, _ = net.explain(photo, 'light &nbsp;').words
    expected = net.explain(photo, 'light').score - net.explain(photo).score
    assert word.effect == pytest.approx(expected, abs=1e-6)


CELLS = [*WORDS, '&nbsp;', '']
EXPECTED = [*WORDS, '', '']


@pytest.fixture
def table(tmp_path):
    """A folder ``images``, and a table of ratings and texts; one MOS is missing as "NA"."""
    names = [f'{i:02d}.png' for i in range(len(CELLS))]
    write_photos(tmp_path / 'images', names, [(32, 32)] * len(names))
    rows = {
        'img_name': names,
        'MOS': np.linspace(1.5, 4.5, len(names)),
        'std': ['NA', *['1'] * (len(names) - 1)],
        'text': CELLS,
    }
    frame = pd.DataFrame(rows)
    frame.to_csv(tmp_path / 'rated.csv', index=False, quoting=csv.QUOTE_MINIMAL)
    return frame


RATED = {'level_values': [1, 2, 3, 4, 5], 'default_std': 1}


def test_the_same_texts_come_from_every_reader_of_csv(table, tmp_path, caplog):
    file, folder = tmp_path / 'rated.csv', tmp_path / 'images'
    opt = {'meta_info_file': str(file), 'dataroot_target': str(folder), 'phase': 'test', **RATED}
    dataset = AMHPDataset(opt)
    assert [dataset[i]['text'] for i in range(len(dataset))] == EXPECTED
    assert np.isfinite(dataset.images.dist).all(), '"NA" is a missing value among numbers'
    rated = load_rated(str(file), split='all', options=RATED)
    assert rated.texts == EXPECTED and '2 of 15 images have no text.' in rated.notes
    images = [folder / name for name in table['img_name']]
    assert read_texts(file, images) == [text or None for text in EXPECTED]
    assert '2 of 15 images have no text' in caplog.text
    assert [given_text(t) for t in parse_csv(file, ('text',))['text']] == EXPECTED


def test_the_same_texts_come_from_every_reader_of_a_job_on_ray(table, tmp_path):
    pytest.importorskip('ray')
    from pyiqa_amhp.scoring.ray.actors import BatchScorer
    from pyiqa_amhp.scoring.ray.plan import ParquetTable, Source
    from pyiqa_amhp.scoring.ray.storage import Storage

    table['image'] = b'x'
    table.loc[table['text'] == '', 'text'] = None
    table.drop(columns='image').to_parquet(tmp_path / 'paths.parquet')
    table.to_parquet(tmp_path / 'images.parquet')
    lookup = TextLookup(tmp_path / 'rated.csv')
    expected = [text or None for text in EXPECTED]
    for inputs, texts in (('rated.csv', None), ('paths.parquet', None), ('images', lookup)):
        source = Source(Storage(), [str(tmp_path / inputs)], texts=texts)
        assert [row['text'] for row in source.rows()] == expected, inputs
    content = ParquetTable(Storage(), str(tmp_path / 'images.parquet'), None)
    assert [text for _, text, _ in content.read(0, 0, len(table))] == EXPECTED
    scorer = BatchScorer.__new__(BatchScorer)
    scorer.image, scorer.text, scorer.storage = 'image', 'text', Storage()
    batch = pa.Table.from_pandas(table)
    assert [text for _, text, _ in scorer._images(batch)] == EXPECTED


def test_the_same_words_are_comments_in_each_of_their_files(tmp_path):
    words = [word for word in WORDS if word.isalpha() and word.isascii()]
    text, dump = tmp_path / 'comments.txt', tmp_path / 'comments.json'
    text.write_text('1#7#' + '#'.join(words) + '##&nbsp;\n')
    sentences = [{'raw': word} for word in [*words, '&nbsp;']] + [{'raw': None, 'clean': None}]
    dump.write_text(json.dumps({'images': [{'filename': '7.jpg', 'sentences': sentences}]}))
    for file in (text, dump):
        comments, _ = read_comments(file)
        assert comments['text'].to_pylist() == words
        stored = write_store(tmp_path / 'store.arrow', comments, np.zeros(len(comments)), [])
        store = CommentStore(stored)
        assert [store.text(row) for row in range(len(store))] == words
