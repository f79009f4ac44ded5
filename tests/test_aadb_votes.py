"""AADB's votes, counted from its crowd workers' rows."""

import numpy as np
import pandas as pd
import pytest
from layouts import aadb_url, edit

from pyiqa_amhp.datasets.aadb import read_aadb
from pyiqa_amhp.datasets.rated_images import read_table
from pyiqa_amhp.errors import AMHPError

VOTES = [f'c{i}' for i in range(1, 6)]
FILE = 'AADB_AllinAll.csv'


def set_cell(root, row, column, value):
    """Change the value in a row (2 is the first below the header)."""
    path = root / FILE
    table = pd.read_csv(path, dtype=str)
    table.loc[row - 2, column] = value
    table.to_csv(path, index=False)
    return path


def test_votes_are_counted_from_the_crowd_workers_rows(raw_aadb):
    table = read_aadb(raw_aadb).table
    raw = pd.read_csv(raw_aadb / FILE)
    for _, row in table.iterrows():
        url, votes = aadb_url(row['img_name']), [0] * 5
        for i in range(1, 11):
            for score in raw.loc[raw[f'Input.image_url{i}'] == url, f'Answer.overallScore{i}']:
                votes[int(score) - 1] += 1
        assert sum(votes) == 5
        assert row[VOTES].tolist() == votes
        assert row['MOS'] == pytest.approx(np.dot(votes, [0, 0.25, 0.5, 0.75, 1]) / 5, abs=1e-3)


def test_votes_are_found_by_the_photos_own_file_name(raw_aadb, aadb_copy):
    path = aadb_copy / FILE
    moved = r'https://live.example.com/65535/9/\1?size=b#top'
    table = pd.read_csv(path).replace(r'https://.*/(.*)', moved, regex=True)
    table.replace(r'_b\.jpg', '_B.JPG', regex=True).to_csv(path, index=False)
    found = read_aadb(aadb_copy)
    assert found.problems == []
    pd.testing.assert_frame_equal(found.table, read_aadb(raw_aadb).table)


def test_names_in_the_lists_match_in_upper_and_lower_case(raw_aadb, aadb_copy):
    for path in (aadb_copy / 'imgListFiles_label').glob('*.txt'):
        edit(path, lambda text: text.replace('_b.jpg', '_b.JPG'))
    found = read_aadb(aadb_copy)
    assert found.problems == []
    pd.testing.assert_frame_equal(found.table[VOTES], read_aadb(raw_aadb).table[VOTES])


def test_a_file_name_that_two_images_have_needs_the_whole_address(raw_aadb, aadb_copy):
    names = read_aadb(raw_aadb).table['img_name'][:2]
    twin = 'farm9_999_' + names[0].split('_', 2)[2]
    for path in (aadb_copy / 'imgListFiles_label').glob('*.txt'):
        edit(path, lambda text: text.replace(names[1], twin))
    edit(
        aadb_copy / FILE,
        lambda text: text.replace(aadb_url(names[0]), 'http://x.org/1/' + names[0].split('_', 2)[2])
        .replace(aadb_url(names[1]), aadb_url(twin)),
    )  # fmt: skip
    found = read_aadb(aadb_copy)
    assert found.table.loc[0, VOTES].isna().all()
    assert found.table.loc[1, VOTES].sum() == 5
    assert [problem.what for problem in found.problems] == [
        f'photos in {FILE} that no list names; their votes are ignored',
        f'images without votes in {FILE}; only their mean is known',
    ]


def test_an_image_without_votes_is_counted_and_trained_on_its_mean(raw_aadb, aadb_copy, tmp_path):
    name, score = read_aadb(raw_aadb).table.loc[4, ['img_name', 'MOS']]
    edit(aadb_copy / FILE, lambda text: text.replace(aadb_url(name), ''))
    found = read_aadb(aadb_copy)
    assert found.table[VOTES].isna().any(axis=1).tolist() == [i == 4 for i in range(23)]
    (problem,) = found.problems
    assert (problem.count, problem.where) == (1, [name])
    found.table.to_csv(tmp_path / 'meta.csv', index=False)
    images = read_table(
        {
            'meta_info_file': tmp_path / 'meta.csv',
            'dataroot_target': aadb_copy,
            'dataset': 'aadb',
            'text_source': 'none',
        }
    )
    np.testing.assert_allclose(images.mos, found.table['MOS'])
    assert images.dist[4] @ [0, 0.25, 0.5, 0.75, 1] == pytest.approx(score)
    votes = found.table.loc[5, VOTES].to_numpy(float)
    np.testing.assert_allclose(images.dist[5], votes / votes.sum())


@pytest.mark.parametrize('value', ['', '0', '6', '2.5', 'good'])
def test_an_invalid_score_is_ignored_and_counted(raw_aadb, aadb_copy, value):
    path = set_cell(aadb_copy, 2, 'Answer.overallScore1', value)
    found = read_aadb(aadb_copy)
    assert found.table.loc[0, VOTES].sum() == 4
    assert found.table[VOTES].sum().sum() == 23 * 5 - 1
    assert found.problems[0].where == [f'{path}, row 2, column Answer.overallScore1']


def test_a_photo_that_no_list_names_is_counted_once(aadb_copy):
    for column in ('Input.image_url2', 'Input.image_url3', 'Input.image_url4'):
        set_cell(aadb_copy, 3, column, 'https://farm9.staticflickr.com/1/2_3_b.jpg')
    set_cell(aadb_copy, 3, 'Input.image_url5', 'not an address')
    problem = read_aadb(aadb_copy).problems[0]
    assert 'that no list names' in problem.what
    assert problem.where == ['https://farm9.staticflickr.com/1/2_3_b.jpg', 'not an address']


def test_a_score_that_contradicts_its_votes_is_kept_and_counted(raw_aadb, aadb_copy):
    before = read_aadb(raw_aadb).table
    vote = pd.read_csv(aadb_copy / FILE)['Answer.overallScore1'][0]
    set_cell(aadb_copy, 2, 'Answer.overallScore1', '1' if vote > 2 else '5')
    found = read_aadb(aadb_copy)
    assert found.table['MOS'].tolist() == before['MOS'].tolist()
    (problem,) = found.problems
    assert 'differ from the mean of their votes' in problem.what
    assert problem.where == [before['img_name'][0]]


@pytest.mark.parametrize('column', ['Input.image_url1', 'Answer.overallScore10'])
def test_a_missing_column_is_named(aadb_copy, column):
    path = edit(
        aadb_copy / FILE,
        lambda text: text.replace(f'{column},', 'x,', 1).replace(f'{column}\n', 'x\n'),
    )
    with pytest.raises(AMHPError) as caught:
        read_aadb(aadb_copy)
    assert str(caught.value).startswith(f'{path}: no column {column!r} among its 32 columns')


@pytest.mark.parametrize(
    ('change', 'expected'),
    [
        (lambda text: '', ': the file is empty; download it again'),
        (lambda text: text + '"cut', ', line 14: cannot be read as CSV'),
        (
            lambda text: text.replace('_b.jpg', '_c.jpg'),
            ': not one of its 23 photos is in the lists',
        ),
        (lambda text: text.splitlines()[0], ': not one of its 0 photos is in the lists'),
    ],
)
def test_a_file_without_a_usable_row_is_refused(aadb_copy, change, expected):
    path = edit(aadb_copy / FILE, change)
    with pytest.raises(AMHPError) as caught:
        read_aadb(aadb_copy)
    assert str(caught.value).startswith(f'{path}{expected}')
