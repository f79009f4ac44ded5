"""PARA's files, as published and damaged, read into the table of a meta file."""

import csv
import re
import shutil

import layouts
import numpy as np
import pandas as pd
import pytest

from pyiqa_amhp.datasets.para import ATTRIBUTES, read_para
from pyiqa_amhp.errors import AMHPError

VOTES = [f'c{i}' for i in range(1, 10)]
HALF_STEPS = np.arange(1, 5.5, 0.5)
GIAA = ['PARA-GiaaTrain.csv', 'PARA-GiaaTest.csv']


def edit(root, name, change):
    """Change the text of an annotation file; returns its path."""
    return layouts.edit(root / 'annotation' / name, change)


def set_cell(root, name, line, column, value):
    """Change the value on a line (2 is the first below the header)."""
    path = root / 'annotation' / name
    table = pd.read_csv(path, dtype=str)
    table.loc[line - 2, column] = value
    table.to_csv(path, index=False)
    return path


def only_raters(root, *keep):
    for name in set(GIAA) - set(keep):
        (root / 'annotation' / name).unlink()


def raters_of(root):
    """The rows of all raters by image, read without the package."""
    ratings = {}
    with (root / 'annotation' / 'PARA-Images.csv').open() as file:
        for row in csv.DictReader(file):
            ratings.setdefault(f'{row["sessionId"]}/{row["imageName"]}', []).append(row)
    return ratings


# As published


def test_every_image_is_there_with_its_split(raw_para):
    found = read_para(raw_para)
    assert found.problems == []
    assert found.images == raw_para / 'imgs'
    assert found.table['official_split'].tolist() == [0] * 12 + [2] * 6
    assert found.table['img_name'].tolist()[:2] == [
        'session1/iaa_pub1_.jpg',
        'session1/iaa_pub2_.jpg',
    ]
    assert all((found.images / name).is_file() for name in found.table['img_name'])
    attributes = [f'attr_{name}' for name in ATTRIBUTES]
    assert list(found.table) == [
        'img_name', 'MOS', 'std', *VOTES, *attributes, 'semantic', 'official_split'
    ]  # fmt: skip


def test_votes_and_means_are_those_of_the_raters(raw_para):
    table, ratings = read_para(raw_para).table, raters_of(raw_para)
    columns = {f'attr_{name}': column for name, column in ATTRIBUTES.items()}
    for _, row in table.iterrows():
        rows = ratings[row['img_name']]
        scores = [float(rating['aestheticScore']) for rating in rows]
        assert row[VOTES].tolist() == [scores.count(value) for value in HALF_STEPS]
        assert row['MOS'] == pytest.approx(np.mean(scores), abs=1e-6)
        assert row['std'] == pytest.approx(np.std(scores), abs=1e-6)
        assert row['semantic'] == rows[0]['semantic']
        for attribute, column in columns.items():
            mean = np.mean([float(rating[column]) for rating in rows])
            assert row[attribute] == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize('name', GIAA)
def test_columns_are_found_by_name_in_any_order(raw_para, para_copy, name):
    path = para_copy / 'annotation' / name
    table = pd.read_csv(path)
    table[table.columns[::-1]].to_csv(path, index=False)
    pd.testing.assert_frame_equal(read_para(para_copy).table, read_para(raw_para).table)


@pytest.mark.parametrize('prefix', ['', 'annotation/', 'download/', 'download/annotation/'])
def test_annotations_are_found_where_copies_have_them(para_copy, tmp_path, prefix):
    other = tmp_path / 'other'
    (other / prefix).mkdir(parents=True)
    for name in GIAA:
        shutil.copy(para_copy / 'annotation' / name, other / prefix)
    (other / 'imgs').symlink_to(para_copy / 'imgs')
    assert len(read_para(other).table) == 18


def test_byte_order_marks_windows_line_ends_and_blank_lines_change_nothing(raw_para, para_copy):
    for name in GIAA:
        path = para_copy / 'annotation' / name
        text = '\ufeff' + path.read_text() + '\n'
        path.write_bytes(text.replace('\n', '\r\n').encode())
    found = read_para(para_copy)
    assert found.problems == []
    pd.testing.assert_frame_equal(found.table, read_para(raw_para).table)


# Raters' rows alone


def test_raters_rows_alone_give_the_same_counts_and_means(raw_para, para_copy):
    only_raters(para_copy)
    found, expected = read_para(para_copy), read_para(raw_para).table
    columns = [name for name in expected if name != 'official_split']
    pd.testing.assert_frame_equal(
        found.table[columns], expected[columns], check_dtype=False, atol=1e-6
    )
    assert found.table['official_split'].eq(0).all()
    assert [problem.count for problem in found.problems] == [1]
    assert 'every image is in train' in found.problems[0].what


@pytest.mark.parametrize('kept', GIAA)
def test_one_giaa_file_beside_raters_rows_gives_the_split(raw_para, para_copy, kept):
    only_raters(para_copy, kept)
    found = read_para(para_copy)
    expected = read_para(raw_para).table['official_split']
    assert found.table['official_split'].tolist() == expected.tolist()
    other = next(name for name in GIAA if name != kept)
    assert [p.what for p in found.problems] == [
        f'no {other}: images that are not in {kept} are assigned to it'
    ]


def test_images_of_the_giaa_file_without_raters_are_counted(para_copy):
    only_raters(para_copy, 'PARA-GiaaTest.csv')
    edit(para_copy, 'PARA-Images.csv', lambda text: re.sub('.*iaa_pub18_.*\n', '', text))
    found = read_para(para_copy)
    assert len(found.table) == 17
    assert (found.problems[0].count, found.problems[0].where) == (1, ['session5/iaa_pub18_.jpg'])
    assert 'has no votes for' in found.problems[0].what


def test_a_giaa_file_of_other_images_is_refused(para_copy):
    only_raters(para_copy, 'PARA-GiaaTest.csv')
    edit(para_copy, 'PARA-GiaaTest.csv', lambda text: text.replace('iaa_pub', 'other'))
    with pytest.raises(AMHPError, match=r'PARA-Images.csv: not one image of PARA-GiaaTest.csv'):
        read_para(para_copy)


def test_a_rater_counts_once_for_an_image(raw_para, para_copy):
    only_raters(para_copy)
    edit(para_copy, 'PARA-Images.csv', lambda text: text + text.splitlines()[1] + '\n')
    found = read_para(para_copy)
    assert found.problems[0].where == [f'{para_copy / "annotation" / "PARA-Images.csv"}, line 146']
    assert 'rated an image twice' in found.problems[0].what
    assert found.table['c1'].tolist() == read_para(raw_para).table['c1'].tolist()


def test_a_score_between_half_steps_goes_to_the_nearest_and_is_counted(para_copy):
    only_raters(para_copy)
    path = set_cell(para_copy, 'PARA-Images.csv', 2, 'aestheticScore', '4.8')
    found = read_para(para_copy)
    assert found.table['c9'][0] == 1
    assert found.problems[0].where == [f'{path}, line 2']
    assert 'rounded to the nearest' in found.problems[0].what


def test_a_rater_without_a_score_is_left_out_and_counted(para_copy):
    only_raters(para_copy)
    path = set_cell(para_copy, 'PARA-Images.csv', 3, 'lightScore', '')
    found = read_para(para_copy)
    assert found.table.loc[:1, VOTES].sum(axis=1).tolist() == [7, 8]
    assert found.problems[0].where == [f'{path}, line 3, column lightScore: empty']


# What is wrong with a download


def test_a_wrong_folder_is_an_error_with_the_names_of_files(tmp_path):
    with pytest.raises(AMHPError) as caught:
        read_para(tmp_path)
    for part in (f'{tmp_path}: no PARA-GiaaTrain.csv', 'PARA-Images.csv', 'annotation/', '--root'):
        assert part in str(caught.value)


@pytest.mark.parametrize('kept', GIAA)
def test_one_giaa_file_alone_gives_its_images(raw_para, para_copy, kept):
    only_raters(para_copy, kept)
    (para_copy / 'annotation' / 'PARA-Images.csv').unlink()
    found, expected = read_para(para_copy), read_para(raw_para).table
    split = GIAA.index(kept) * 2
    expected = expected[expected['official_split'] == split].reset_index(drop=True)
    pd.testing.assert_frame_equal(found.table, expected)
    other = next(name for name in GIAA if name != kept)
    there = {0: 'train', 2: 'test'}[split]
    assert [p.what for p in found.problems] == [
        f'no {other} and no PARA-Images.csv: only images of {there} are read'
    ]


def test_images_in_one_folder_are_named_without_their_session(raw_para, para_copy):
    (para_copy / 'imgs').unlink()  # a link
    (para_copy / 'imgs').mkdir()
    for file in (raw_para / 'imgs').glob('*/*.jpg'):
        (para_copy / 'imgs' / file.name).write_bytes(file.read_bytes())
    found, published = read_para(para_copy), read_para(raw_para).table
    assert found.table['img_name'].tolist() == [n.split('/')[1] for n in published['img_name']]
    assert all((found.images / name).is_file() for name in found.table['img_name'])
    [problem] = found.problems
    assert 'without folders by session' in problem.what and problem.where == [str(found.images)]


def test_a_download_without_images_is_refused(para_copy):
    (para_copy / 'imgs').unlink()
    with pytest.raises(AMHPError, match=r'no folder of images \(looked for imgs'):
        read_para(para_copy)


NEEDED = [
    'imageName', 'sessionId', 'aestheticScore_1.0', 'aestheticScore_4.5', 'aestheticScore_mean',
    'aestheticScore_std', 'dofScore_mean', 'isObjectEmphasis_mean',
]  # fmt: skip


@pytest.mark.parametrize('name', GIAA)
@pytest.mark.parametrize('column', NEEDED)
def test_a_missing_column_is_named_with_its_file(para_copy, name, column):
    path = edit(para_copy, name, lambda text: text.replace(f'{column},', 'x,', 1))
    with pytest.raises(AMHPError) as caught:
        read_para(para_copy)
    assert str(caught.value).startswith(f'{path}: no column {column!r} among its ')
    assert "download PARA's annotation again" in str(caught.value)


@pytest.mark.parametrize('column', ['userId', 'aestheticScore', 'isObjectEmphasis'])
def test_a_missing_column_of_raters_is_named(para_copy, column):
    only_raters(para_copy)
    path = edit(para_copy, 'PARA-Images.csv', lambda text: text.replace(column, 'other', 1))
    with pytest.raises(AMHPError, match=f'{re.escape(str(path))}: no column {column!r}'):
        read_para(para_copy)


def test_the_column_semantic_is_optional(para_copy):
    for name in GIAA:
        edit(para_copy, name, lambda text: text.replace('semantic', 'scene', 1))
    found = read_para(para_copy)
    assert (found.problems, set(found.table['semantic'])) == ([], {''})


def test_a_file_that_was_cut_in_a_line_loses_that_line_and_is_reported(para_copy):
    path = edit(
        para_copy, 'PARA-GiaaTrain.csv', lambda text: text[: text.rindex('iaa_pub12_') + 60]
    )
    found = read_para(para_copy)
    assert len(found.table) == 17
    (problem,) = found.problems
    assert (problem.count, len(problem.where)) == (1, 1)
    assert re.fullmatch(re.escape(f'{path}, line 13, column ') + r'\w+: empty', problem.where[0])
    assert 'where a file was cut' in problem.what
    assert 'download it again' in problem.what


@pytest.mark.parametrize(
    ('column', 'value', 'shown'),
    [
        ('aestheticScore_mean', 'high', "'high'"),
        ('aestheticScore_mean', '5.5', "'5.5'"),
        ('aestheticScore_mean', '', 'empty'),
        ('aestheticScore_std', '-0.5', "'-0.5'"),
        ('aestheticScore_2.5', '-1', "'-1'"),
        ('aestheticScore_2.5', 'inf', "'inf'"),
        ('dofScore_mean', '0.5', "'0.5'"),
        ('isObjectEmphasis_mean', '1.5', "'1.5'"),
        ('sessionId', '', 'empty'),
        ('imageName', '', 'empty'),
    ],
)
def test_a_cell_that_cannot_be_used_is_counted_with_its_line(para_copy, column, value, shown):
    path = set_cell(para_copy, 'PARA-GiaaTest.csv', 4, column, value)
    found = read_para(para_copy)
    assert len(found.table) == 17
    (problem,) = found.problems
    assert problem.where == [f'{path}, line 4, column {column}: {shown}']


def test_bad_cells_in_both_files_are_one_problem(para_copy):
    for name in GIAA:
        set_cell(para_copy, name, 3, 'lightScore_mean', 'x')
    (problem,) = read_para(para_copy).problems
    assert problem.count == 2


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('', ': the file is empty; download it again'),
        ('{header}\n', ': not one line of it can be used; download'),
        ('{header}\na,b,c\n', r': not one line of it can be used \(the first: .*line 2, column'),
        ('{header}\n{row}\n"a,b\n', ', line 3: cannot be read as CSV'),
    ],
)
def test_a_file_without_a_usable_line_is_refused(para_copy, text, expected):
    path = para_copy / 'annotation' / 'PARA-GiaaTest.csv'
    header, row = path.read_text().splitlines()[:2]
    path.write_text(text.format(header=header, row=row))
    with pytest.raises(AMHPError, match=re.escape(str(path)) + expected):
        read_para(para_copy)


def test_an_image_that_is_listed_twice_is_used_once(para_copy):
    path = edit(para_copy, 'PARA-GiaaTrain.csv', lambda text: text + text.splitlines()[1] + '\n')
    found = read_para(para_copy)
    assert len(found.table) == found.table['img_name'].nunique() == 18
    (problem,) = found.problems
    assert problem.where == [f'{path}, line 14']
    assert 'more than once' in problem.what


def test_an_image_of_both_files_is_in_test_only(para_copy):
    row = (para_copy / 'annotation' / 'PARA-GiaaTest.csv').read_text().splitlines()[3]
    path = edit(para_copy, 'PARA-GiaaTrain.csv', lambda text: text + row + '\n')
    found = read_para(para_copy)
    assert found.table['official_split'].tolist() == [0] * 12 + [2] * 6
    (problem,) = found.problems
    assert problem.where == [f'{path}, line 14']
    assert 'kept there only' in problem.what


def test_an_image_without_votes_is_left_out(para_copy):
    for value in HALF_STEPS:
        path = set_cell(para_copy, 'PARA-GiaaTrain.csv', 5, f'aestheticScore_{value:.1f}', '0')
    found = read_para(para_copy)
    assert len(found.table) == 17
    (problem,) = found.problems
    assert (problem.what, problem.where) == ('images without votes; left out', [f'{path}, line 5'])


@pytest.mark.parametrize(('off', 'counted'), [(0.009, 0), (0.011, 1), (-0.5, 1)])
def test_a_mean_that_contradicts_its_votes_is_kept_and_counted(para_copy, off, counted):
    mean = pd.read_csv(para_copy / 'annotation' / 'PARA-GiaaTrain.csv')['aestheticScore_mean'][1]
    path = set_cell(para_copy, 'PARA-GiaaTrain.csv', 3, 'aestheticScore_mean', str(mean + off))
    found = read_para(para_copy)
    assert found.table['MOS'][1] == pytest.approx(mean + off)
    assert [p.where for p in found.problems] == [[f'{path}, line 3']] * counted
