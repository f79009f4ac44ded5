"""Texts chosen from the comments of an image, in training and in testing."""

import os
import pickle
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from pyiqa_amhp.datasets.comment_sampler import CommentSampler
from pyiqa_amhp.datasets.comment_store import CommentStore, write_store
from pyiqa_amhp.datasets.keywords import (
    MAX_TOKENS,
    AttributeKeywords,
    count_clip_tokens,
    read_masks,
    read_part,
)
from pyiqa_amhp.errors import AMHPError

LIGHT, COLOR = 1, 2
# Image 5 has attribute comments and others, 7 only others, 9 one of each attribute; 8 has none.
ROWS = [
    (5, 'soft light', LIGHT),
    (5, 'wow', 0),
    (5, 'light and color', LIGHT | COLOR),
    (5, 'dim light', LIGHT),
    (7, 'nice', 0),
    (7, 'cute', 0),
    (7, 'haha', 0),
    (9, 'fine color', COLOR),
    (9, 'hard light', LIGHT),
]
ABOUT_5 = ['soft light', 'light and color', 'dim light']
IDS = [9, 8, 7, 5]  # in the order of a data set


@pytest.fixture(scope='module')
def make_store(tmp_path_factory):
    def make(rows):
        ids, texts, masks = ([row[i] for row in rows] for i in range(3))
        columns = {
            'image_id': pa.array(ids, pa.int64()),
            'text': pa.array(texts, pa.large_string()),
        }
        path = tmp_path_factory.mktemp('store') / 'comments.arrow'
        write_store(path, pa.table(columns), np.array(masks, np.uint16), ['light', 'color'])
        return CommentStore(path)

    return make


@pytest.fixture(scope='module')
def store(make_store):
    return make_store(ROWS)


@pytest.fixture(scope='module')
def many(make_store):
    """200 images, each with five attribute comments and one other."""
    return make_store(
        [(n, f'light {n} {i}', LIGHT) for n in range(200) for i in range(5)]
        + [(n, f'wow {n}', 0) for n in range(200)]
    )


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('mode', ['one', 'join'])
def test_attribute_comments_are_preferred_to_others_and_others_to_none(store, mode, training):
    texts = CommentSampler(store, IDS, mode=mode, training=training)
    assert len(texts) == 4
    for _ in range(20):
        nine, eight, seven, five = (texts[i] for i in range(4))
        assert 'color' in nine or 'light' in nine
        assert eight == ''
        assert seven in ('nice', 'cute', 'haha')
        assert 'light' in five
        assert 'wow' not in five


def test_training_chooses_attribute_comments_equally_often(store):
    torch.manual_seed(0)
    texts = CommentSampler(store, IDS, training=True)
    counts = Counter(texts[3] for _ in range(600))
    assert counts.keys() == set(ABOUT_5)
    assert min(counts.values()) > 150


@pytest.mark.parametrize('mode', ['one', 'join'])
def test_training_depends_on_torchs_seed(many, mode):
    texts = CommentSampler(many, range(200), mode=mode, training=True)

    def epoch(seed):
        torch.manual_seed(seed)
        return [texts[i] for i in range(200)]

    assert epoch(1) == epoch(1)
    assert epoch(1) != epoch(2)


def test_another_comment_is_the_same_in_training_and_testing(many, make_store):
    others = make_store([(n, f'wow {i}', 0) for n in range(100) for i in range(4)])
    expected = [CommentSampler(others, [n])[0] for n in range(100)]
    for mode in ('one', 'join'):
        for training in (True, False):
            texts = CommentSampler(others, range(100), mode=mode, training=training)
            assert [texts[n] for n in range(100)] == expected
    assert set(expected) == {f'wow {i}' for i in range(4)}


def test_testing_chooses_by_seed_and_image_id_alone(many):
    """The choices are written down, so that no other version or platform changes them."""
    picks = [CommentSampler(many, range(8), seed=seed)[n][-1] for seed in (0, 1) for n in range(8)]
    assert ''.join(picks) == '1020224143042034'


def test_testing_chooses_the_same_in_any_data_set(many, make_store):
    texts = CommentSampler(many, range(200))
    backwards = CommentSampler(many, range(199, -1, -1))
    assert [backwards[199 - n] for n in range(200)] == [texts[n] for n in range(200)]
    alone = make_store([(77, f'light 77 {i}', LIGHT) for i in range(5)])
    assert CommentSampler(alone, [77])[0] == texts[77]


def test_testing_chooses_all_comments_about_equally_often(many):
    texts = CommentSampler(many, range(200), seed=3)
    picks = Counter(texts[n][-1] for n in range(200))
    assert len(picks) == 5
    assert min(picks.values()) > 20


def test_testing_joins_comments_in_the_order_of_the_file(store):
    texts = CommentSampler(store, IDS, mode='join')
    assert [texts[i] for i in (0, 3)] == ['fine color hard light', ' '.join(ABOUT_5)]


def test_training_joins_comments_in_every_order(store):
    torch.manual_seed(0)
    texts = CommentSampler(store, IDS, mode='join', training=True)
    assert {texts[0] for _ in range(30)} == {'fine color hard light', 'hard light fine color'}
    assert len({texts[3] for _ in range(100)}) == 6


@pytest.mark.parametrize('training', [True, False])
def test_joined_comments_fit_clips_77_tokens(make_store, training):
    rows = [
        (n, 'light! ' * (1 + (n * i) % 17) + str(i), LIGHT) for n in range(30) for i in range(12)
    ]
    texts = CommentSampler(make_store(rows), range(30), mode='join', training=training)
    lengths = [count_clip_tokens(texts[n]) for n in range(30)]
    assert max(lengths) <= 75
    assert max(lengths) > 70
    assert sum(lengths) > 30 * 45  # as much as fits, not just one


def test_a_full_text_takes_75_tokens_and_no_more(make_store):
    rows = [(1, ' '.join(['light'] * n), LIGHT) for n in (40, 35, 1)]
    assert CommentSampler(make_store(rows), [1], mode='join')[0].split() == ['light'] * 75
    rows = [(1, ' '.join(['light'] * n), LIGHT) for n in (40, 36, 1)]
    assert CommentSampler(make_store(rows), [1], mode='join')[0].split() == ['light'] * 40


def test_a_first_comment_that_is_too_long_is_not_cut(make_store):
    store = make_store([(1, 'light ' * 100 + 'end', LIGHT), (1, 'color', COLOR)])
    assert CommentSampler(store, [1], mode='join')[0] == 'light ' * 100 + 'end'


def test_the_counter_of_tokens_can_be_chosen(store):
    texts = CommentSampler(store, IDS, mode='join', count_tokens=lambda text: 5 * len(text))
    assert texts[3] == 'soft light'
    texts = CommentSampler(store, IDS, mode='join', count_tokens=lambda text: 75)
    assert texts[3] == ' '.join(ABOUT_5)


@pytest.mark.parametrize(
    ('attributes', 'nine', 'five'),
    [
        (['color'], 'fine color', 'light and color'),
        (['light'], 'hard light', ' '.join(ABOUT_5)),
        (['color', 'light', 'color'], 'fine color hard light', ' '.join(ABOUT_5)),
    ],
)
def test_only_the_named_attributes_count(store, attributes, nine, five):
    texts = CommentSampler(store, IDS, attributes, mode='join')
    assert (texts[0], texts[3]) == (nine, five)


def test_an_image_without_the_named_attributes_gets_one_of_all_its_comments(make_store):
    store = make_store(
        [(n, text, LIGHT) for n in range(50) for text in ('soft light', 'dim light')]
    )
    texts = CommentSampler(store, range(50), ['color'], mode='join', training=True)
    assert {texts[n] for n in range(50)} == {'soft light', 'dim light'}
    assert texts[0] == texts[0]


def test_no_comments_give_no_text(make_store):
    texts = CommentSampler(make_store([]), [1, 2], training=True)
    assert [texts[0], texts[1]] == ['', '']


def test_unknown_attributes_and_modes_are_refused(store):
    with pytest.raises(AMHPError, match="no attribute 'colour'; it knows light, color"):
        CommentSampler(store, IDS, ['colour'])
    with pytest.raises(AMHPError, match="comment mode 'all': expected one or join"):
        CommentSampler(store, IDS, mode='all')


LATE = 'well done ' * 40 + 'lovely light'


def test_attributes_that_clip_does_not_read_do_not_count(tmp_path):
    late_and_early = 'good color ' + LATE
    texts = [
        LATE,
        'soft light',
        late_and_early,
        'wow',
        'x' * 500 + ' light',
        'light ' * 74 + 'light',
    ]
    keywords = AttributeKeywords()
    column = pa.chunked_array([texts[:2], texts[2:]], pa.large_string())
    table = pa.table({'image_id': pa.array([5] * 6, pa.int64()), 'text': column})
    masks = read_masks(keywords, column)
    light, color = (1 << keywords.attributes.index(name) for name in ('light', 'color'))
    assert masks.tolist() == [0, light, color, 0, 0, light]
    store = CommentStore(write_store(tmp_path / 's.arrow', table, masks, keywords.attributes))
    for training in (True, False):
        chosen = CommentSampler(store, [5], ['light'], training=training)
        assert {chosen[0] for _ in range(20)} <= {'soft light', texts[5]}


def test_without_another_comment_the_one_with_late_attributes_is_the_text(make_store):
    assert CommentSampler(make_store([(5, LATE, 0)]), [5])[0] == LATE


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(['light', "bird's-eye", 'f/2.8...', '#1', 'ÉLAN', '  ', '!?' * 9])))
def test_the_part_that_clip_reads_is_the_longest_of_whole_words_that_fits(words):
    text = ' '.join(words * 5)
    part = read_part(text)
    assert text.startswith(part)
    assert count_clip_tokens(part) <= MAX_TOKENS
    rest = text[len(part) :].split()
    assert not rest or count_clip_tokens(f'{part} {rest[0]}') > MAX_TOKENS


class Texts(Dataset):
    """A data set of texts and the process that read them."""

    def __init__(self, texts):
        self.texts = texts

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, index):
        return self.texts[index], os.getpid()


def epoch(loader):
    texts, workers = zip(*loader, strict=True)
    return list(texts), set(workers)


def test_forked_workers_and_epochs_choose_differently(make_store):
    same = make_store([(n, f'light {i}', LIGHT) for n in range(40) for i in range(50)])
    loader = DataLoader(
        Texts(CommentSampler(same, range(40), training=True)),
        batch_size=None, num_workers=2, multiprocessing_context='fork',
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    first, workers = epoch(loader)
    second, _ = epoch(loader)
    assert len(workers) == 2
    assert first[0::2] != first[1::2]  # the workers take turns
    assert first != second


def test_a_spawned_worker_maps_the_file_again(many):
    texts = CommentSampler(many, range(200))
    assert len(pickle.dumps(texts)) < 8000  # ids and rows, no comments
    loader = DataLoader(
        Texts(texts), batch_size=None, num_workers=1, multiprocessing_context='spawn'
    )
    found, (worker,) = epoch(loader)
    assert worker != os.getpid()
    assert found == [texts[n] for n in range(200)]
