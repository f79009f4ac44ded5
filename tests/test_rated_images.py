"""Rated images from a CSV: names, ratings, splits and texts."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyiqa.data.base_iqa_dataset import BaseIQADataset

from pyiqa_amhp.datasets.rated_images import read_table
from pyiqa_amhp.datasets.ratings import REFERENCE_PARA_LEVEL_VALUES, SCALES, expected_score

FIVE = [1, 2, 3, 4, 5]
AVA_VALUES = SCALES['ava'].level_values
OASIS = Path(__file__).parents[2] / 'shared' / 'data' / 'oasis' / 'ratings.csv'


@pytest.fixture
def read(tmp_path):
    """Write a CSV and read it with options."""

    def read(content, **options):
        file = tmp_path / 'rated.csv'
        if isinstance(content, str | bytes):
            file.write_bytes(content.encode() if isinstance(content, str) else content)
        else:
            pd.DataFrame(content).to_csv(file, index=False)
        return read_table({'meta_info_file': file, 'dataroot_target': 'images', **options})

    return read


def votes(prefix='c', counts=((0, 1, 2, 4, 8, 8, 4, 2, 1, 0), (1,) * 10)):
    columns = np.transpose(counts)
    return {f'{prefix}{i + 1}': column for i, column in enumerate(columns)}


TWO = {'img_name': ['a.png', 'b.png']}


# Names and scores


def test_names_are_relative_to_the_folder(read):
    images = read({'img_name': ['a.png', 'sub/b.png', 'a..b.png'], 'MOS': [1, 2, 3]},
                  level_values=FIVE)  # fmt: skip
    assert images.names.tolist() == ['a.png', 'sub/b.png', 'a..b.png']
    assert images.path(1) == str(Path('images/sub/b.png'))


def test_a_tilde_is_expanded(read, monkeypatch):
    monkeypatch.setenv('HOME', '/home/of/somebody')
    images = read({**TWO, 'MOS': [1, 2]}, level_values=FIVE, dataroot_target='~/photos')
    assert images.path(0) == str(Path('/home/of/somebody/photos/a.png'))


def test_names_of_digits_stay_text(read):
    images = read('img_name,MOS\n0042,1\n7,2\n', level_values=FIVE)
    assert images.names.tolist() == ['0042', '7']


@pytest.mark.parametrize('name', ['/data/a.png', '../a.png', 'sub/../../a.png', '~/a.png'])
def test_names_may_leave_the_folder_if_allowed(read, name):
    images = read({'img_name': [name], 'MOS': [1]}, level_values=FIVE, allow_outside_root=True)
    assert images.names.tolist() == [name]


@pytest.mark.parametrize('column', ['MOS', 'mos'])
def test_scores_are_read_from_either_spelling(read, column):
    images = read({**TWO, column: [1.5, 4]}, level_values=FIVE)
    np.testing.assert_array_equal(images.mos, [1.5, 4])
    np.testing.assert_allclose(images.dist, [[0.5, 0.5, 0, 0, 0], [0, 0, 0, 1, 0]])


def test_other_columns_and_their_order_are_ignored(read):
    content = {'note': ['x', None], 'MOS': [2, 4], 'n_raters': [9, 8], 'img_name': ['a', 'b']}
    images = read(content, level_values=FIVE)
    assert images.names.tolist() == ['a', 'b']
    np.testing.assert_array_equal(images.mos, [2, 4])
    assert images.text(0) == ''


def test_a_byte_order_mark_and_windows_line_ends_are_read(read):
    images = read(b'\xef\xbb\xbfimg_name,MOS\r\na.png,1\r\nb.png,2\r\n', level_values=FIVE)
    assert images.names.tolist() == ['a.png', 'b.png']


def test_a_comma_after_the_last_value_of_each_row_is_read(read):
    images = read('img_name,MOS\na.png,1,\nb.png,2,\n', level_values=FIVE)
    assert images.names.tolist() == ['a.png', 'b.png']
    np.testing.assert_array_equal(images.mos, [1, 2])


# Votes


@pytest.mark.parametrize('prefix', ['c', 'ratings_'])
def test_votes_become_mean_and_levels(read, prefix):
    images = read({**TWO, **votes(prefix)})
    np.testing.assert_allclose(images.mos, [5.5, 5.5])
    by_hand = np.array([[1, 6, 16, 6, 1], [6, 6, 6, 6, 6]]) / 30
    np.testing.assert_allclose(images.dist, by_hand)


def test_vote_columns_are_ordered_by_their_number(read):
    shuffled = dict(reversed(votes(counts=((5, 0, 0, 0, 0, 0, 0, 0, 0, 0),) * 2).items()))
    images = read({**shuffled, **TWO})
    np.testing.assert_allclose(images.mos, 1)
    np.testing.assert_allclose(images.dist[0], [1, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ('options', 'counts', 'values'),
    [
        ({}, np.eye(10), AVA_VALUES),  # ten votes, five levels: groups of two
        ({}, np.eye(5), FIVE),
        ({}, np.eye(7), [1, 2.5, 4, 5.5, 7]),  # not a multiple: even steps
        ({'levels': ['low', 'high']}, np.eye(10), [3, 8]),
        ({'vote_values': [0, 0.5, 1]}, np.eye(3), [0, 0.25, 0.5, 0.75, 1]),
        ({'dataset': 'para'}, np.eye(9), FIVE),
        ({'dataset': 'ava'}, np.eye(10), AVA_VALUES),
        ({'dataset': 'aadb'}, np.eye(5), [0, 0.25, 0.5, 0.75, 1]),
        ({'level_values': [1, 4, 10]}, np.eye(10), [1, 4, 10]),
    ],
)
def test_level_values_come_from_the_options_the_data_set_or_the_votes(
    read, options, counts, values
):
    rng = np.random.default_rng(0)
    counts = np.concatenate([counts, rng.integers(0, 9, (20, len(counts)))])
    names = [f'{i}.png' for i in range(len(counts))]
    images = read({'img_name': names, **votes(counts=counts)}, **options)
    assert images.dist.shape == (len(counts), len(values))
    np.testing.assert_allclose(images.dist.sum(axis=1), 1)
    # with AVA's groups the lowest vote, 1, counts as the level 1.5: the mean of many is kept
    vote_values = options.get('vote_values') or SCALES.get(options.get('dataset'))
    vote_values = getattr(vote_values, 'vote_values', vote_values) or range(1, counts.shape[1] + 1)
    np.testing.assert_allclose(images.mos, counts @ list(vote_values) / counts.sum(axis=1))
    if counts.shape[1] != 10 or len(values) == 3:
        np.testing.assert_allclose(expected_score(images.dist, values), images.mos)
    else:
        per_vote = np.repeat(values, 10 // len(values))
        expected = counts @ per_vote / counts.sum(axis=1)
        np.testing.assert_allclose(expected_score(images.dist, values), expected)


def test_half_step_votes_of_para_are_split_between_their_neighbours(read):
    images = read({'img_name': ['a.png'], **votes(counts=[[0, 0, 0, 0, 0, 0, 0, 4, 0]])},
                  dataset='para')  # fmt: skip
    np.testing.assert_allclose(images.dist, [[0, 0, 0, 0.5, 0.5]])


def test_the_reference_protocol_counts_para_votes_as_the_authors_did(read):
    counts = [[1, 1, 1, 1, 1, 1, 1, 9, 1]]  # the nine at 4.5 are dropped
    content = {'img_name': ['a.png'], **votes(counts=counts)}
    images = read(content, dataset='para', protocol='reference')
    np.testing.assert_allclose(images.dist, np.array([[1, 2, 2, 2, 1]]) / 8)
    np.testing.assert_allclose(images.mos, np.dot(counts, np.arange(1, 5.1, 0.5)) / 17)


def test_the_reference_protocol_has_the_authors_level_values_for_means_too(read):
    content = {'img_name': ['a.png'], 'MOS': [REFERENCE_PARA_LEVEL_VALUES[1]]}
    images = read(content, dataset='para', protocol='reference')
    np.testing.assert_allclose(images.dist, [[0, 1, 0, 0, 0]], atol=1e-12)
    images = read(content, dataset='para', protocol='reference', level_values=FIVE)
    np.testing.assert_allclose(images.dist, [[0.25, 0.75, 0, 0, 0]])


def test_the_reference_protocol_changes_only_para(read):
    content = {**TWO, **votes()}
    as_usual = read(content, dataset='ava')
    np.testing.assert_array_equal(
        read(content, dataset='ava', protocol='reference').dist, as_usual.dist
    )


def test_a_mos_beside_votes_is_kept_and_the_levels_come_from_the_votes(read, caplog):
    with caplog.at_level(logging.WARNING, 'pyiqa_amhp'):
        images = read({**TWO, 'MOS': [5.45, 5.5], **votes()})
    np.testing.assert_allclose(images.mos, [5.45, 5.5])
    np.testing.assert_allclose(images.dist, read({**TWO, **votes()}).dist)
    assert not caplog.records


def test_a_row_without_votes_is_read_by_its_mean(read):
    mos, counts = [0.3, 0.8125], [(None,) * 5, (0, 1, 0, 0, 3)]
    images = read({**TWO, 'MOS': mos, **votes(counts=counts)}, dataset='aadb')
    assert images.mos.tolist() == mos
    np.testing.assert_allclose(images.dist, [[0, 0.8, 0.2, 0, 0], [0, 0.25, 0, 0, 0.75]])


def test_a_mos_that_differs_from_its_votes_is_warned_of(read, caplog):
    with caplog.at_level(logging.WARNING, 'pyiqa_amhp'):
        read({**TWO, 'MOS': [5.5, 6.5], **votes()})
    assert 'MOS of 1 rows differs' in caplog.text
    assert 'first: row 3' in caplog.text


# Means and deviations


def test_a_mean_and_a_deviation_become_levels_that_keep_both(read):
    images = read({**TWO, 'MOS': [3, 3.4], 'std': [0.8, 0.7]}, level_values=FIVE)
    mean = images.dist @ FIVE
    std = np.sqrt(images.dist @ np.square(FIVE) - mean**2)
    np.testing.assert_allclose(mean, [3, 3.4], atol=1e-6)
    np.testing.assert_allclose(std, [0.8, 0.7], atol=0.05)


def test_a_missing_deviation_is_the_default_one(read):
    content = {**TWO, 'MOS': [3.2, 3.2], 'std': [0.9, None]}
    narrow = read(content, level_values=FIVE).dist
    assert (narrow[0] > 0).all()
    np.testing.assert_allclose(narrow[1], [0, 0, 0.8, 0.2, 0])
    filled = read(content, level_values=FIVE, default_std=0.9).dist
    np.testing.assert_allclose(filled[1], narrow[0])


def test_the_default_deviation_is_used_without_a_column(read):
    content = {**TWO, 'MOS': [3.2, 3.2]}
    with_column = read({**content, 'std': [0.9, 0.9]}, level_values=FIVE).dist
    np.testing.assert_allclose(read(content, level_values=FIVE, default_std=0.9).dist, with_column)


# pyiqa's mos_normalize


@pytest.mark.parametrize('lower_better', [False, True])
def test_scores_are_normalised_as_pyiqa_does_it(read, lower_better, tmp_path):
    options = {'mos_normalize': True, 'mos_range': [1, 5], 'lower_better': lower_better}
    content = {**TWO, 'MOS': [1.5, 4.25], 'std': [0.4, 0.8]}
    images = read(content, level_values=[0, 0.25, 0.5, 0.75, 1], **options)
    theirs = BaseIQADataset({'meta_info_file': tmp_path / 'rated.csv', **options})
    np.testing.assert_allclose(images.mos, [row[1] for row in theirs.paths_mos])
    plain = read(content, level_values=FIVE).dist
    np.testing.assert_allclose(images.dist, plain[:, ::-1] if lower_better else plain, atol=1e-9)


@pytest.mark.parametrize('lower_better', [False, True])
def test_votes_are_normalised_with_their_scores(read, lower_better):
    options = {'mos_normalize': True, 'mos_range': [1, 10], 'lower_better': lower_better}
    counts = np.random.default_rng(1).integers(0, 9, (2, 10))
    plain = read({**TWO, **votes(counts=counts)})
    images = read({**TWO, **votes(counts=counts)}, **options)
    share = (plain.mos - 1) / 9
    np.testing.assert_allclose(images.mos, 1 - share if lower_better else share)
    np.testing.assert_allclose(images.dist, plain.dist[:, ::-1] if lower_better else plain.dist)


# Splits


def test_any_column_with_split_in_its_name_can_be_chosen(read):
    content = {
        'img_name': list('abcd'),
        'MOS': [1, 2, 3, 4],
        'official_split': [0, 1, 2, 0],
        'my split': ['test', 'train', 'val', None],
    }
    images = read(content, level_values=FIVE)
    assert images.of_phase('train', 'official_split').names.tolist() == ['a', 'd']
    assert images.of_phase('val', 'official_split').names.tolist() == ['b']
    assert images.of_phase('test', 'official_split').names.tolist() == ['c']
    assert images.of_phase('train', 'my split').names.tolist() == ['b']
    assert images.of_phase('train', None).names.tolist() == list('abcd')


def test_split_codes_may_have_gaps(read):
    content = {'img_name': list('abc'), 'MOS': [1, 2, 3], 'split': [0, None, 2]}
    images = read(content, level_values=FIVE)
    assert images.splits['split'].tolist() == ['train', '', 'test']


def test_a_phase_takes_its_rows_of_every_column(read):
    content = {
        'img_name': list('abc'),
        'MOS': [1, 2, 3],
        'text': ['one', 'two', 'three'],
        'attr_light': ['bad', 'fair', 'good'],
        'split': ['val', 'train', 'val'],
    }
    for source, expected in (('comments', 'three'), ('labels', 'A photo with good light.')):
        rows = read(content, level_values=FIVE, text_source=source).of_phase('val', 'split')
        assert rows.names.tolist() == ['a', 'c']
        np.testing.assert_array_equal(rows.mos, [1, 3])
        np.testing.assert_array_equal(rows.dist, np.eye(5)[[0, 2]])
        assert rows.text(1) == expected


# Texts

COMMENTS = {**TWO, 'MOS': [1, 2], 'text': ['soft light', None], 'theme': ['sea', 'sky']}
LABELS = {'attr_color': ['good', None], 'attr_depth_of_field': ['bad', 'perfect']}


def texts(images):
    return [images.text(i) for i in range(len(images.names))]


@pytest.mark.parametrize(
    ('columns', 'options', 'expected'),
    [
        (COMMENTS, {}, ['soft light', '']),
        ({**COMMENTS, **LABELS}, {}, ['soft light', '']),
        (COMMENTS, {'text_source': 'none'}, ['', '']),
        (COMMENTS, {'text_column': 'theme'}, ['sea', 'sky']),
        ({**TWO, 'MOS': [1, 2]}, {}, ['', '']),
        (
            {**TWO, 'MOS': [1, 2], **LABELS},
            {},
            [
                'A photo with good color. A photo with bad depth of field.',
                'A photo with perfect depth of field.',
            ],
        ),
        (
            {**COMMENTS, **LABELS},
            {
                'text_source': 'labels',
                'attributes': ['color'],
                'attr_template': '{level} {attribute}',
            },
            ['good color', ''],
        ),
        (
            {**COMMENTS, **LABELS},
            {
                'text_source': 'labels',
                'attributes': ['depth_of_field', 'color'],
                'attr_template': '{level} {attribute}',
            },
            ['bad depth of field good color', 'perfect depth of field'],
        ),
    ],
)
def test_the_text_of_an_image(read, columns, options, expected):
    assert texts(read(columns, level_values=FIVE, **options)) == expected


def test_numeric_labels_become_level_words(read):
    content = {**TWO, 'MOS': [1, 2], 'attr_light': [-1, 0.1], 'attr_color': [None, 1.0]}
    images = read(
        content, level_values=FIVE, attr_range=[-1, 1], attr_template='{level} {attribute}'
    )
    assert texts(images) == ['bad light', 'fair light perfect color']


def test_level_words_can_be_chosen(read):
    options = {'levels': ['weak', 'strong'], 'level_values': [1, 5], 'text_source': 'labels'}
    content = {**TWO, 'MOS': [1, 2], 'attr_x': ['weak', 'strong'], 'attr_y': [0, 9]}
    images = read(content, attr_range=[0, 10], attr_template='{level} {attribute}', **options)
    assert texts(images) == ['weak x weak y', 'strong x strong y']


def test_a_label_column_may_be_empty(read):
    content = {**TWO, 'MOS': [1, 2], 'attr_light': [None, None], 'attr_color': ['good', 'bad']}
    images = read(content, level_values=FIVE)
    assert texts(images) == ['A photo with good color.', 'A photo with bad color.']


AWKWARD = 'Comma, "quotes",\nnew\r\nlines; ünï-çødé 美しい 📷 #tag\ttab'


def test_a_text_keeps_commas_quotes_line_breaks_and_unicode(read):
    images = read({**TWO, 'MOS': [1, 2], 'text': [AWKWARD, 'plain']}, level_values=FIVE)
    assert texts(images) == [AWKWARD, 'plain']
    assert all(type(text) is str for text in texts(images))


def test_texts_of_digits_stay_text(read):
    images = read('img_name,MOS,text\na,1,007\nb,2,\nc,3,10\n', level_values=FIVE)
    assert texts(images) == ['007', '', '10']


# Real data


@pytest.mark.skipif(not OASIS.is_file(), reason='the OASIS ratings are not beside the project')
def test_oasis_reads_and_keeps_its_means():
    values = [1, 2.5, 4, 5.5, 7]
    options = {'meta_info_file': OASIS, 'dataroot_target': OASIS.parent / 'images'}
    images = read_table({**options, 'level_values': values, 'text_column': 'theme'})
    table = pd.read_csv(OASIS)
    np.testing.assert_array_equal(images.mos, table['MOS'])
    np.testing.assert_allclose(images.dist.sum(axis=1), 1)
    np.testing.assert_allclose(expected_score(images.dist, values), table['MOS'], atol=1e-6)
    phases = {phase: images.of_phase(phase, 'split') for phase in ('train', 'val', 'test')}
    assert sum(len(rows.names) for rows in phases.values()) == len(table)
    themes = {phase: set(rows.texts) for phase, rows in phases.items()}
    assert not themes['train'] & themes['test']
    assert all(Path(images.path(i)).is_file() for i in range(0, len(table), 50))
