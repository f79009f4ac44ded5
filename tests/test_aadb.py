"""AADB's files, as published and damaged, read into the table of a meta file."""

import pandas as pd
import pytest
from layouts import AADB_LABELS, aadb_list, edit

from pyiqa_amhp.datasets.aadb import ATTRIBUTES, read_aadb
from pyiqa_amhp.errors import AMHPError

VOTES = [f'c{i}' for i in range(1, 6)]
LISTS = 'imgListFiles_label'
SIZES = {'Train': 12, 'Validation': 5, 'TestNew': 6}


def lines_of(path):
    return [line.split() for line in path.read_text().splitlines()]


def only_problem(root):
    (problem,) = read_aadb(root).problems
    return problem


# As published


def test_every_image_is_there_with_its_score_and_splits(raw_aadb):
    found = read_aadb(raw_aadb)
    assert found.problems == []
    assert found.images == raw_aadb / 'datasetImages_originalSize'
    listed = [lines_of(aadb_list(raw_aadb, part)) for part in SIZES]
    assert found.table['img_name'].tolist() == [name for part in listed for name, _ in part]
    assert found.table['MOS'].tolist() == [float(score) for part in listed for _, score in part]
    assert found.table['official_split'].tolist() == [0] * 12 + [1] * 5 + [2] * 6
    assert found.table['paper_split'].tolist() == [0] * 17 + [2] * 6
    assert all((found.images / name).is_file() for name in found.table['img_name'])
    attributes = [f'attr_{name}' for name in ATTRIBUTES]
    assert list(found.table) == [
        'img_name', 'MOS', *VOTES, *attributes, 'official_split', 'paper_split'
    ]  # fmt: skip


PAPER = {  # the paper's words in section 4.1, as our names, and the publisher's
    'content': 'Content',
    'object_emphasis': 'Object',
    'light': 'Light',
    'color_harmony': 'ColorHarmony',
    'vivid_color': 'VividColor',
    'depth_of_field': 'DoF',
    'motion_blur': 'MotionBlur',
    'rule_of_thirds': 'RuleOfThirds',
    'balancing_elements': 'BalacingElements',
    'repetition': 'Repetition',
    'symmetry': 'Symmetry',
}


@pytest.mark.parametrize(('name', 'label'), PAPER.items())
def test_an_attribute_is_read_from_its_lists(raw_aadb, name, label):
    listed = dict(pair for part in SIZES for pair in lines_of(aadb_list(raw_aadb, part, label)))
    table = read_aadb(raw_aadb).table
    expected = [float(listed[name]) for name in table['img_name']]
    assert table[f'attr_{name}'].tolist() == expected


def test_without_the_crowd_workers_rows_there_are_no_votes(raw_aadb, aadb_copy):
    (aadb_copy / 'AADB_AllinAll.csv').unlink()
    found = read_aadb(aadb_copy)
    assert found.problems == []
    pd.testing.assert_frame_equal(found.table, read_aadb(raw_aadb).table.drop(columns=VOTES))


# Where copies have the files


@pytest.mark.parametrize('folder', ['', 'AADB_imgListFiles_label/imgListFiles_label', 'labels'])
def test_lists_are_found_where_copies_have_them(raw_aadb, aadb_copy, folder):
    (aadb_copy / folder).mkdir(parents=True, exist_ok=True)
    for path in (aadb_copy / LISTS).iterdir():
        path.rename(aadb_copy / folder / path.name)
    (aadb_copy / LISTS).rmdir()
    pd.testing.assert_frame_equal(read_aadb(aadb_copy).table, read_aadb(raw_aadb).table)


def link_images(root, raw_aadb, folders):
    """Replace the images by links: ``folders`` maps names to the rows of the 23 images in it."""
    (root / 'datasetImages_originalSize').unlink()
    names = read_aadb(raw_aadb).table['img_name']
    for folder, rows in folders.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name in names[rows]:
            source = raw_aadb / 'datasetImages_originalSize' / name
            (root / folder / name).symlink_to(source)


@pytest.mark.parametrize(
    ('folders', 'expected'),
    [
        ({'datasetImages_warp256': slice(23)}, None),
        ({'AADB/datasetImages_originalSize': slice(23)}, None),
        ({'datasetImages_warp256': slice(23), 'datasetImages_originalSize': slice(23)}, None),
        (
            {'originalSize_train': slice(17), 'originalSize_test': slice(17, 23)},
            ['originalSize_train'] * 17 + ['originalSize_test'] * 6,
        ),
        (
            {'datasetImages_warp256': slice(17), 'AADB_newtest': slice(15, 23)},
            ['datasetImages_warp256'] * 17 + ['AADB_newtest'] * 6,
        ),
        (
            {'datasetImages_originalSize': slice(17), 'x/AADB_newtest_originalSize': slice(17, 23)},
            ['datasetImages_originalSize'] * 17 + ['x/AADB_newtest_originalSize'] * 6,
        ),
        ({'originalSize_test': slice(17, 23), 'datasetImages_warp256': slice(23)}, None),
    ],
)
def test_images_are_found_in_the_folders_of_each_kind_of_copy(
    aadb_copy, raw_aadb, folders, expected
):
    link_images(aadb_copy, raw_aadb, folders)
    found, names = read_aadb(aadb_copy), read_aadb(raw_aadb).table['img_name']
    if expected is None:
        assert found.table['img_name'].tolist() == names.tolist()
        assert found.images == aadb_copy / list(folders)[-1]
    else:
        assert found.images == aadb_copy
        assert found.table['img_name'].tolist() == [
            *map('/'.join, zip(expected, names, strict=True))
        ]
    assert all((found.images / name).is_file() for name in found.table['img_name'])


def test_an_image_that_does_not_exist_keeps_its_row(aadb_copy, raw_aadb):
    link_images(
        aadb_copy, raw_aadb, {'originalSize_train': slice(16), 'originalSize_test': slice(17, 23)}
    )
    table = read_aadb(aadb_copy).table
    assert len(table) == 23
    assert table['img_name'][16].startswith('originalSize_train/')


# What is wrong with a download


def test_a_wrong_folder_is_an_error_with_the_names_of_files(tmp_path):
    with pytest.raises(AMHPError) as caught:
        read_aadb(tmp_path)
    for part in (f'{tmp_path}: no imgListTrainRegression_score.txt', 'AADBinfo.mat', '--root'):
        assert part in str(caught.value)


def test_a_download_without_images_is_an_error_with_the_names_of_folders(aadb_copy):
    (aadb_copy / 'datasetImages_originalSize').unlink()
    (aadb_copy / 'datasetImages_warp256').rmdir()
    with pytest.raises(AMHPError, match='no folder of images') as caught:
        read_aadb(aadb_copy)
    for folder in ('datasetImages_warp256', 'originalSize_train', 'AADB_newtest_originalSize'):
        assert folder in str(caught.value)


def test_a_missing_list_of_test_scores_is_an_error(aadb_copy):
    path = aadb_list(aadb_copy, 'TestNew')
    path.unlink()
    with pytest.raises(AMHPError) as caught:
        read_aadb(aadb_copy)
    assert str(caught.value).startswith(f'{path}: no such file')


def test_a_missing_list_of_validation_scores_is_counted(aadb_copy):
    path = aadb_list(aadb_copy, 'Validation')
    path.unlink()
    (aadb_copy / 'AADB_AllinAll.csv').unlink()
    found = read_aadb(aadb_copy)
    assert found.table['official_split'].tolist() == [0] * 12 + [2] * 6
    (problem,) = found.problems
    assert (problem.what, problem.where) == (
        'no list of validation images, so none are known', [str(path)]
    )  # fmt: skip


def test_attributes_without_lists_and_matrix_are_counted_and_left_blank(aadb_copy):
    (aadb_copy / LISTS / 'attMat.mat').unlink()
    gone = [aadb_list(aadb_copy, part, 'DoF') for part in SIZES] + [
        aadb_list(aadb_copy, 'TestNew', 'Light')
    ]
    for path in gone:
        path.unlink()
    found = read_aadb(aadb_copy)
    assert 'attr_depth_of_field' not in found.table
    assert found.table['attr_light'].isna().tolist() == [False] * 17 + [True] * 6
    (problem,) = found.problems
    assert sorted(problem.where) == sorted(map(str, gone))


@pytest.mark.parametrize(
    'line', ['farm1_30', 'farm1_30.jpg x', 'a.jpg 1.01', 'a.jpg -0.1', 'a.jpg nan', 'a b.jpg 0.5']
)
def test_a_line_that_is_not_a_name_and_a_score_is_counted(aadb_copy, line):
    path = edit(aadb_list(aadb_copy), lambda text: text + line)
    problem = only_problem(aadb_copy)
    assert problem.where == [f'{path}, line 13: {line!r}']
    assert 'where a file was cut' in problem.what
    assert len(read_aadb(aadb_copy).table) == 23


def test_a_list_that_was_cut_in_a_line_loses_the_rest_and_is_reported(raw_aadb, aadb_copy):
    path = edit(aadb_list(aadb_copy), lambda text: text[: text.rindex('farm') + 8])
    found = read_aadb(aadb_copy)
    assert len(found.table) == 22
    cut, left, unnamed = found.problems
    assert cut.where == [f'{path}, line 12: {path.read_text().splitlines()[-1]!r}']
    assert left.count == 11  # one for each attribute
    assert left.where[0].endswith(read_aadb(raw_aadb).table['img_name'][11])
    assert (unnamed.count, 'no list names' in unnamed.what) == (1, True)


@pytest.mark.parametrize('text', ['', '\n', 'a.jpg good\n'])
def test_a_list_without_a_usable_line_is_refused(aadb_copy, text):
    path = edit(aadb_list(aadb_copy, 'TestNew', 'DoF'), lambda _: text)
    with pytest.raises(AMHPError) as caught:
        read_aadb(aadb_copy)
    assert str(caught.value).startswith(
        f'{path}: not one line is a file name and a number from -1 to 1'
    )


def test_an_image_without_an_attribute_is_counted_and_left_blank(aadb_copy):
    path = edit(aadb_list(aadb_copy, label='Light'), lambda text: text[text.index('\n') + 1 :])
    name = lines_of(aadb_list(aadb_copy))[0][0]
    found = read_aadb(aadb_copy)
    assert found.table['attr_light'].isna().tolist() == [True] + [False] * 22
    assert found.problems[0].where == [f'{path}: {name}']


def test_an_attribute_list_of_other_images_is_refused(aadb_copy):
    path = edit(aadb_list(aadb_copy, label='Light'), lambda text: text.replace('farm', 'barn'))
    with pytest.raises(AMHPError) as caught:
        read_aadb(aadb_copy)
    assert str(caught.value).startswith(f'{path}: not one of its images is in the list of scores')


@pytest.mark.parametrize(
    ('part', 'again', 'expected'),
    [('Train', 'Train', 'more than once'), ('TestNew', 'Train', 'kept there only')],
)
def test_an_image_that_is_listed_twice_is_used_once(raw_aadb, aadb_copy, part, again, expected):
    for label in (*AADB_LABELS, 'score'):
        name = lines_of(aadb_list(aadb_copy, part, label))[2][0]
        path = edit(
            aadb_list(aadb_copy, again, label), lambda text, name=name: f'{text}{name} 0.1\n'
        )
    problem = only_problem(aadb_copy)
    assert problem.where == [f'{path}, line 13']
    assert expected in problem.what
    pd.testing.assert_frame_equal(read_aadb(aadb_copy).table, read_aadb(raw_aadb).table)
