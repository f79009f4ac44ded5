"""Rated images that cannot be used: errors name the file, the row, the column and the way out."""

import pytest

from pyiqa_amhp.datasets.rated_images import read_table
from pyiqa_amhp.errors import AMHPError

FIVE = [1, 2, 3, 4, 5]


@pytest.fixture
def fails(tmp_path):
    """Read a CSV that cannot be used; returns the error without the file name it begins with."""

    def fails(content, **options):
        file = tmp_path / 'rated.csv'
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        options = {'level_values': FIVE, **options}
        with pytest.raises(AMHPError) as caught:
            read_table({'meta_info_file': file, 'dataroot_target': 'images', **options})
        assert str(caught.value).startswith(str(file))
        return str(caught.value).removeprefix(str(file)).lstrip(',: ')

    return fails


# Missing options


@pytest.mark.parametrize('name', ['meta_info_file', 'dataroot_target'])
def test_a_missing_option(name):
    options = {'meta_info_file': 'rated.csv', 'dataroot_target': 'images'}
    with pytest.raises(AMHPError, match=f'option {name} is missing'):
        read_table({**options, name: None})
    del options[name]
    with pytest.raises(AMHPError, match=f'option {name} is missing'):
        read_table(options)


# Names


def test_no_column_of_names(fails):
    assert fails('name,MOS\na,1\n') == "no column 'img_name'; the columns are name, MOS"


@pytest.mark.parametrize(
    ('content', 'row'),
    [
        ('img_name,MOS\na,1\n,2\n', 3),
        ('img_name,MOS\na,1\n\nb,2\n', 3),  # an empty line is a row, so that later rows count right
        ('img_name,MOS\na,1\nb,2\n\n', 4),
    ],
)
def test_a_missing_name(fails, content, row):
    assert fails(content) == f"row {row}, column 'img_name': empty, expected a name"


def test_a_repeated_name(fails):
    content = 'img_name,MOS\na.png,1\nb.png,2\nc.png,3\nb.png,2\n'
    expected = "row 5, column 'img_name': 'b.png' is in row 3 already; keep one of them"
    assert fails(content) == expected


@pytest.mark.parametrize(
    'name',
    ['/etc/a.png', '../a.png', 'x/../../a.png', 'x/..', '~/a.png', 'C:\\a.png', '\\\\host\\a.png',
     '..\\a.png', 'x\\..\\a.png'],
)  # fmt: skip
def test_a_name_that_leaves_the_folder(fails, name):
    assert fails(f'img_name,MOS\nok..png,1\n{name},2\n') == (
        f"row 3, column 'img_name': {name!r} leaves dataroot_target; give names relative to it, "
        'or allow_outside_root: true'
    )


def test_a_repeated_name_is_named_by_the_lines_of_both_rows(fails):
    content = 'img_name,MOS,text\na,1,"one\ntwo"\nb,1,\nb,1,\n'
    assert fails(content).startswith("row 5, column 'img_name': 'b' is in row 4 already")


# Scores


@pytest.mark.parametrize(
    ('value', 'problem'),
    [
        ('abc', "'abc', expected a number"),
        ('', 'empty, expected a number'),
        ('nan', 'empty, expected a number'),
        ('inf', "'inf', expected a number"),
        ('"1,5"', "'1,5', expected a number"),
        (
            '0.5',
            'mean score 0.5: expected 1 to 5; if the scale is another, '
            'level_values: [0, 2.5, 5, 7.5, 10] would hold all ratings',
        ),
        (
            '5.01',
            'mean score 5.01: expected 1 to 5; if the scale is another, '
            'level_values: [1, 2.5, 4, 5.5, 7] would hold all ratings',
        ),
        ('True', "'True', expected a number"),
    ],
)
def test_a_score_that_is_not_a_number_or_outside_the_scale(fails, value, problem):
    content = f'img_name,MOS\na,1\nb,{value}\nc,3\n'
    assert fails(content) == f"row 3, column 'MOS': {problem}"


def test_no_scores_at_all(fails):
    assert fails('img_name,score\na,1\n') == "no column 'MOS'; the columns are img_name, score"


@pytest.mark.parametrize(
    ('value', 'problem'),
    [
        ('-0.1', 'standard deviation -0.1: expected 0 or more'),
        ('wide', "'wide', expected a number"),
    ],
)
def test_a_deviation_that_is_negative_or_not_a_number(fails, value, problem):
    content = f'img_name,MOS,std\na,1,\nb,2,{value}\n'
    assert fails(content) == f"row 3, column 'std': {problem}"


@pytest.mark.parametrize(('mean', 'std'), [(1, 2.2), (3, 3.6), (5, 40)])
def test_a_deviation_that_no_ratings_on_the_scale_can_have(fails, mean, std):
    assert fails(f'img_name,MOS,std\na,1,\nb,{mean},{std}\n') == (
        f"row 3, column 'std': standard deviation {std}: impossible for ratings from 1 to 5 with "
        f'the mean {mean}; give it on the scale of MOS'
    )


def test_scores_without_a_scale(fails):
    assert 'give level_values' in fails('img_name,MOS\na,1\n', level_values=None)


# Votes

HEADER = 'img_name,c1,c2,c3,c4,c5\na,0,1,2,1,0\n'


@pytest.mark.parametrize(
    ('row', 'expected'),
    [
        ('b,1,2,-3,0,0', "column 'c3': vote count -3: expected a finite number from 0 on"),
        ('b,1,2,x,0,0', "column 'c3': 'x', expected a number"),
        ('b,1,2,,0,0', "column 'c3': empty, expected a number"),
        ('b,0,0,0,0,0', "column 'c1..': no votes that count towards a level"),
    ],
)
def test_votes_that_are_not_counts(fails, row, expected):
    assert fails(f'{HEADER}{row}\n', level_values=None) == f'row 3, {expected}'


def test_a_row_without_votes_needs_a_mean(fails):
    message = fails(f'{HEADER}b,,,,,\n', level_values=None)
    assert message == "row 3, column 'c1': empty, expected a number"
    header, row, _ = HEADER.split('\n')
    content = f'{header},MOS\n{row},3\nb,,,,,,\n'
    assert fails(content) == "row 3, column 'MOS': empty, expected a number"


def test_a_bad_vote_is_named_if_low_votes_are_good(fails):
    options = {'mos_normalize': True, 'mos_range': [1, 5], 'lower_better': True}
    message = fails(f'{HEADER}b,1,-2,0,0,0\n', level_values=None, **options)
    assert message.startswith("row 3, column 'c2': vote count -2")


def test_votes_in_ratings_columns_are_named_so(fails):
    content = 'img_name,ratings_1,ratings_2\na,0,0\n'
    assert fails(content, level_values=None).startswith("row 2, column 'ratings_1..': no votes")


def test_votes_that_the_authors_all_drop(fails):
    header = ','.join(f'c{i}' for i in range(1, 10))
    content = f'img_name,{header}\na,0,0,0,0,0,0,0,3,0\n'
    message = fails(content, level_values=None, dataset='para', protocol='reference')
    assert message == "row 2, column 'c1..': no votes that count towards a level"


@pytest.mark.parametrize(
    ('columns', 'options', 'expected'),
    [
        ('c1,c2,c4', {}, 'no column c3, though 3 others'),
        ('c2,c3', {}, 'no column c1, though 2 others'),
        ('c0,c1,c2', {}, "votes begin with column c1, so 'c0' is unclear"),
        ('ratings_1,ratings_3', {}, 'no column ratings_2, though 2 others'),
        ('c1,ratings_1', {}, 'votes both as c1.. and as ratings_1..; keep one of them'),
        ('c1,c2', {'vote_values': FIVE}, '2 vote columns but 5 vote_values'),
        ('c1,c2', {'dataset': 'ava'}, '2 vote columns but 10 vote_values'),
    ],
)
def test_vote_columns_that_are_not_1_to_k(fails, columns, options, expected):
    ones = ','.join('1' for _ in columns.split(','))
    assert fails(f'img_name,{columns}\na,{ones}\n', **options) == expected


# Splits


@pytest.mark.parametrize(
    ('values', 'given'),
    [
        (('train', 'tset'), 'tset'),
        ((0, 3), '3'),
        (('train', '0'), '0'),
        ((1, 0.5), '0.5'),
        (('test', 'Validation'), 'Validation'),
        (('val', '" "'), ' '),
    ],
)
def test_an_unknown_split(fails, values, given):
    content = 'img_name,MOS,my_split\n' + ''.join(f'{v},1,{v}\n' for v in values)
    expected = f"row 3, column 'my_split': {given!r}, expected train, val or test (or 0, 1, 2)"
    assert fails(content) == expected


@pytest.mark.parametrize('values', [(True, False), (False, '')])
def test_true_and_false_are_no_splits(fails, values):
    content = f'img_name,MOS,split\na,1,{values[0]}\nb,1,{values[1]}\n'
    expected = f"row 2, column 'split': '{values[0]}', expected train, val or test (or 0, 1, 2)"
    assert fails(content) == expected


@pytest.fixture
def images(tmp_path):
    file = tmp_path / 'rated.csv'
    file.write_text('img_name,MOS,a split,split_b\na,1,train,1\nb,2,train,\n')
    return read_table({'meta_info_file': file, 'dataroot_target': 'images', 'level_values': FIVE})


def test_a_missing_split_column(images):
    with pytest.raises(AMHPError, match=r"split_index='fold' is not .* \(a split, split_b\)"):
        images.of_phase('train', 'fold')


def test_a_phase_without_rows(images):
    with pytest.raises(AMHPError) as caught:
        images.of_phase('test', 'a split')
    assert str(caught.value) == (
        f"{images.file}: column 'a split' has no row for the phase 'test' (train: 2); "
        'override_phase chooses another'
    )


# Texts and labels

LABELLED = 'img_name,MOS,attr_light,attr_color\na,1,bad,1\nb,2,good,5\n'


@pytest.mark.parametrize(
    ('content', 'options', 'expected'),
    [
        (LABELLED, {'text_source': 'comments'}, "no column 'text'; the columns are"),
        (LABELLED, {'text_column': 'theme'}, "no column 'theme'; the columns are"),
        (LABELLED, {'attributes': ['light', 'mood']}, "no column 'attr_mood'; attributes there"),
        ('img_name,MOS\na,1\n', {'attributes': ['light']}, "no column 'attr_light'"),
        ('img_name,MOS\na,1\n', {'text_source': 'labels'}, "no column 'attr_<name>'"),
        (LABELLED, {}, "column 'attr_color' has numbers; give attr_range: [lo, hi]"),
        (LABELLED, {'attr_range': [1, 4]}, "row 3, column 'attr_color': 5, expected 1 to 4"),
        (LABELLED, {'attr_range': {'light': [1, 5]}}, "attr_range has light but not 'color'"),
        (
            LABELLED,
            {'attr_range': [1, 4], 'attr_cuts': [1, 2, 3, 4]},
            "row 3, column 'attr_color': 5, expected 1 to 4",
        ),
        (
            LABELLED.replace('good', 'nice'),
            {'attributes': ['light']},
            "row 3, column 'attr_light': 'nice', expected a number or one of bad, poor, fair",
        ),
    ],
)
def test_texts_and_labels_that_are_missing_or_unusable(fails, content, options, expected):
    assert fails(content, **options).startswith(expected)


# Options


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ({'text_source': 'coments'}, "text_source='coments': expected comments, labels, none"),
        ({'attributes': ['light'], 'attr_template': '{level}'}, "attr_template '{level}'"),
        ({'attributes': ['light'], 'attr_template': '{color}'}, "'color' is not among the attri"),
        ({'attr_template': '{mood}'}, "no column 'attr_mood'"),
        ({'attributes': ['color'], 'attr_range': [5, 1]}, 'expected two rising numbers'),
        ({'attributes': ['color'], 'attr_cuts': [1, 2]}, 'expected 4 rising numbers'),
        ({'dataset': 'tad'}, "dataset='tad': expected one of ava, para, aadb"),
        ({'level_values': [1, 3, 2]}, 'expected at least two finite numbers, rising'),
        ({'mos_normalize': True}, 'needs mos_range'),
        ({'mos_normalize': True, 'mos_range': [1, 5]}, 'lower_better'),
        ({'mos_normalize': True, 'mos_range': [5, 1], 'lower_better': False}, r'\[lo, hi\]'),
        ({'mos_normalize': True, 'mos_range': [5], 'lower_better': False}, r'\[lo, hi\]'),
    ],
)
def test_options_that_are_not_allowed(tmp_path, options, expected):
    file = tmp_path / 'rated.csv'
    file.write_text(LABELLED)
    with pytest.raises(AMHPError, match=expected):
        read_table(
            {'meta_info_file': file, 'dataroot_target': '.', 'level_values': FIVE, **options}
        )


def test_levels_that_do_not_reach_the_votes(tmp_path):
    file = tmp_path / 'rated.csv'
    file.write_text(HEADER)
    with pytest.raises(AMHPError, match='vote value 1 is outside the level values'):
        read_table({'meta_info_file': file, 'dataroot_target': '.', 'level_values': [2, 3, 5]})
