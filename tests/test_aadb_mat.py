"""AADB's MATLAB files: attributes in the order of the lists, and scores without lists."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from layouts import AADB_LABELS, aadb_list, edit
from scipy.io import loadmat, savemat

from pyiqa_amhp.datasets.aadb import read_aadb
from pyiqa_amhp.errors import AMHPError

LISTS = 'imgListFiles_label'
PARTS = ('Train', 'Validation', 'TestNew')
REAL = Path(__file__).parents[2] / 'shared' / 'data' / 'aadb' / 'AADBinfo.mat'


# Attributes from attMat.mat


@pytest.mark.parametrize('labels', [AADB_LABELS, ['DoF', 'Light']])
def test_attributes_without_lists_come_from_the_matrix(raw_aadb, aadb_copy, labels):
    for label in labels:
        for part in PARTS:
            aadb_list(aadb_copy, part, label).unlink()
    found = read_aadb(aadb_copy)
    assert found.problems == []
    pd.testing.assert_frame_equal(found.table, read_aadb(raw_aadb).table)


def test_a_matrix_outside_the_lists_folder_is_found(raw_aadb, aadb_copy):
    aadb_list(aadb_copy, label='Light').unlink()
    (aadb_copy / LISTS / 'attMat.mat').rename(aadb_copy / 'attMat.mat')
    pd.testing.assert_frame_equal(read_aadb(aadb_copy).table, read_aadb(raw_aadb).table)


def test_a_matrix_without_the_lists_of_its_order_is_not_used(aadb_copy):
    for path in (aadb_copy / LISTS).glob('*.txt'):
        path.unlink()
    found = read_aadb(aadb_copy)
    assert not [name for name in found.table if name.startswith('attr_')]
    assert any('attMat.mat is in the order of the list files' in p.what for p in found.problems)


def test_a_bad_line_does_not_shift_the_matrix(raw_aadb, aadb_copy):
    for part in PARTS:
        aadb_list(aadb_copy, part, 'Light').unlink()
    edit(aadb_list(aadb_copy), lambda text: text.replace(text.split()[1], 'x', 1))
    (aadb_copy / 'AADB_AllinAll.csv').unlink()
    expected = read_aadb(raw_aadb).table['attr_light'].tolist()[1:]
    assert read_aadb(aadb_copy).table['attr_light'].tolist() == expected


def edit_matrix(root, change):
    """Change the cells of ``attMat.mat`` in a copy that has no list of Light; returns its path."""
    for part in PARTS:
        aadb_list(root, part, 'Light').unlink()
    path = root / LISTS / 'attMat.mat'
    mat = loadmat(path)
    savemat(path, {'dataset': change(mat['dataset'])})
    return path


def set_first(row, column, value):
    def change(cells):
        cells[0, 0][row, column] = value
        return cells

    return change


@pytest.mark.parametrize(
    ('change', 'expected'),
    [
        (set_first(3, 0, 0.99), r'dataset{1} has the score 0.99 in row 4 and imgListTrain'),
        (lambda cells: cells[:, ::-1], 'dataset{1} holds (5, 12), expected 12 x 12 for the 12 li'),
        (lambda cells: cells[:, :1], 'dataset{3} holds nothing, expected 5 x 12 for the 5 lines'),
        (lambda cells: np.ones((1, 3)), 'dataset{1} holds (), expected 12 x 12'),
    ],
)
def test_a_matrix_of_other_lists_is_refused(aadb_copy, change, expected):
    path = edit_matrix(aadb_copy, change)
    with pytest.raises(AMHPError) as caught:
        read_aadb(aadb_copy)
    assert str(caught.value).startswith(f'{path}: {expected}')


def test_an_attribute_outside_its_range_is_counted_and_left_blank(aadb_copy):
    path = edit_matrix(aadb_copy, set_first(2, 5, 1.5))  # the fifth after the score is Light
    found = read_aadb(aadb_copy)
    assert np.flatnonzero(found.table['attr_light'].isna()).tolist() == [2]
    (problem,) = found.problems
    assert problem.where == [f'{path}, dataset{{1}}, row 3']


# Scores from AADBinfo.mat


def test_without_lists_the_scores_come_from_the_info_file(raw_aadb, aadb_copy):
    shutil.rmtree(aadb_copy / LISTS)
    (aadb_copy / 'AADB_AllinAll.csv').unlink()
    found, expected = read_aadb(aadb_copy), read_aadb(raw_aadb).table
    expected = expected[expected['official_split'] != 1].reset_index(drop=True)
    columns = ['img_name', 'MOS', 'official_split', 'paper_split']
    pd.testing.assert_frame_equal(found.table, expected[columns])
    (problem,) = found.problems
    assert 'text_source: none' in problem.what


@pytest.mark.skipif(not REAL.is_file(), reason='the real AADBinfo.mat is not beside the project')
def test_the_real_info_file(tmp_path):
    (tmp_path / 'AADBinfo.mat').symlink_to(REAL)
    (tmp_path / 'datasetImages_originalSize').mkdir()
    table, mat = read_aadb(tmp_path).table, loadmat(REAL, simplify_cells=True)
    for part, code, count in (('train', 0, 8458), ('test', 2, 1000)):
        rows = table[table['official_split'] == code]
        assert len(rows) == count
        assert rows['img_name'].tolist() == mat[f'{part}NameList'].tolist()
        assert rows['MOS'].tolist() == mat[f'{part}Score'].tolist()
    assert len(table) == 9458


def edit_info(root, **variables):
    """Change variables of ``AADBinfo.mat`` in a copy without lists; returns its path."""
    shutil.rmtree(root / LISTS)
    path = root / 'AADBinfo.mat'
    mat = {name: value for name, value in loadmat(path).items() if not name.startswith('__')}
    savemat(path, {name: v for name, v in {**mat, **variables}.items() if v is not None})
    return path


@pytest.mark.parametrize(
    ('variables', 'expected'),
    [
        ({'testScore': None}, "no variable 'testScore'; there are trainNameList, trainScore, t"),
        ({'trainScore': np.ones((1, 3))}, '12 names in trainNameList but 3 numbers in trainScore'),
    ],
)
def test_an_incomplete_info_file_is_refused(aadb_copy, variables, expected):
    path = edit_info(aadb_copy, **variables)
    with pytest.raises(AMHPError) as caught:
        read_aadb(aadb_copy)
    assert str(caught.value).startswith(f'{path}: {expected}')


def test_a_score_outside_its_range_is_left_out_and_counted(aadb_copy):
    path = edit_info(aadb_copy, testScore=np.array([[0, 0.5, 1.01, 1, 1, 1]]))
    (aadb_copy / 'AADB_AllinAll.csv').unlink()
    found = read_aadb(aadb_copy)
    assert len(found.table) == 17
    assert found.problems[0].where == [f'{path}, testNameList, 3']


@pytest.mark.parametrize(
    ('content', 'expected'),
    [
        (lambda content: content[:-40], 'damaged, or no MATLAB file'),
        (lambda content: b'no matrix at all', 'damaged, or no MATLAB file'),
        (
            lambda content: b'MATLAB 7.3 MAT-file'.ljust(124) + b'\x00\x02IM' + bytes(400),
            'a MATLAB 7.3 file; save it again with -v7',
        ),
    ],
)
def test_a_damaged_info_file_is_refused(aadb_copy, content, expected):
    path = edit_info(aadb_copy)
    path.write_bytes(content(path.read_bytes()))
    with pytest.raises(AMHPError) as caught:
        read_aadb(aadb_copy)
    assert str(caught.value).startswith(f'{path}: {expected}')
