"""Ratings that lie outside their scale, or all in a part of it, are refused with the way out."""

import numpy as np
import pandas as pd
import pytest

from pyiqa_amhp.datasets.rated_images import read_table
from pyiqa_amhp.datasets.rating_scale import infer_scale, narrow_problem, parse_scale, scale_text
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.evaluation.rated_set import load_rated

AVA = [1.5, 3.5, 5.5, 7.5, 9.5]
FIVE = [1, 2, 3, 4, 5]


@pytest.fixture
def write(tmp_path):
    """Write a table with columns, and give the options that read it."""

    def write(**columns):
        csv = tmp_path / 'rated.csv'
        length = len(next(iter(columns.values())))
        names = [f'{i}.png' for i in range(length)]
        table = pd.DataFrame({'img_name': names, 'split': 'test', **columns})
        table.to_csv(csv, index=False)
        return {'meta_info_file': str(csv), 'dataroot_target': str(tmp_path)}

    return write


def evenly(low, high, images=40):
    return np.linspace(low, high, images).round(3)


@pytest.mark.parametrize(
    ('low', 'high', 'levels', 'advice'),
    [
        (1.6, 4.8, AVA, 'level_values: [1, 2, 3, 4, 5]'),  # 1..5
        (1.85, 6.83, AVA, 'level_values: [1, 2.5, 4, 5.5, 7]'),  # 1..7, as OASIS has it
        (0.1, 0.9, [0, 5, 10], 'level_values: [0, 0.5, 1]'),
        (5, 50, [0, 25, 50, 75, 100], 'level_values: [5, 16.25, 27.5, 38.75, 50]'),  # tenths
        (4.9, 5.1, [0, 2.5, 5, 7.5, 10], 'level_values: [4, 4.5, 5, 5.5, 6]'),  # a tenth
    ],
)
def test_means_in_a_part_of_the_scale(write, low, high, levels, advice):
    opt = write(MOS=evenly(low, high)) | {'level_values': levels}
    with pytest.raises(AMHPError) as caught:
        read_table(opt)
    assert str(caught.value) == (
        f'{opt["meta_info_file"]}: all ratings lie between {low:g} and {high:g}, in a part of the '
        f'scale from {levels[0]:g} to {levels[-1]:g}; give the scale of the ratings, such as '
        f'{advice}, or narrow_ratings: true if this is their scale'
    )
    assert len(read_table({**opt, 'narrow_ratings': True}).mos) == 40


@pytest.mark.parametrize(
    ('low', 'high', 'levels'),
    [(2.0, 8.3, AVA), (1.3, 4.7, FIVE), (1.85, 6.83, [1, 2.5, 4, 5.5, 7]), (0.05, 1, [0, 0.5, 1]),
     (3.5, 7, AVA), (3, 9, [0, 5, 10])],
)  # fmt: skip
def test_means_that_take_up_their_scale(write, low, high, levels):
    assert len(read_table(write(MOS=evenly(low, high)) | {'level_values': levels}).mos) == 40


def test_a_few_images_may_be_similar():
    assert narrow_problem(evenly(7, 7.2, 9), np.array(AVA), 9) == ''
    assert narrow_problem(evenly(7, 7.2, 10), np.array(AVA), 10)
    assert narrow_problem(evenly(2, 6.3, 39), np.array(AVA), 39) == ''
    assert narrow_problem(evenly(2, 6.3, 40), np.array(AVA), 40)


@pytest.mark.parametrize('levels', [[1, 3, 5, 7, 9], [0, 5, 10], [-5, 0, 5]])
def test_votes_that_cannot_reach_the_ends_of_the_levels(write, levels):
    opt = write(c1=[1, 2], c2=[3, 3], c3=[3, 3], c4=[1, 0], c5=[0, 1])
    with pytest.raises(AMHPError, match=r'between 1 and 5, .* level_values: \[1,'):
        read_table({**opt, 'level_values': levels})


def test_votes_of_which_only_the_lower_half_is_given(write):
    votes = {f'c{i}': [1 if i <= 5 else 0] * 12 for i in range(1, 11)}
    with pytest.raises(AMHPError, match=r'between 1 and 5, in a part of the scale from 1\.5 to'):
        read_table(write(**votes))


def test_means_beside_votes_are_on_the_scale_of_the_votes(write):
    opt = write(MOS=[2.0, 60], c1=[1, 2], c2=[3, 3], c3=[3, 3], c4=[1, 0], c5=[0, 1])
    with pytest.raises(AMHPError) as caught:
        read_table(opt)
    assert str(caught.value).endswith(
        "row 3, column 'MOS': mean score 60: expected 1 to 5, as the votes; leave the column out, "
        'or give it on their scale'
    )


def test_the_range_of_a_normalised_score_is_what_to_change(write):
    opt = write(MOS=evenly(1.2, 4.8)) | {
        'level_values': [0, 0.5, 1], 'mos_normalize': True, 'lower_better': False
    }  # fmt: skip
    with pytest.raises(AMHPError, match=r'such as mos_range: \[1, 5\]'):
        read_table({**opt, 'mos_range': [0, 100]})
    with pytest.raises(AMHPError, match=r'mos_range: \[1, 5\] would hold all ratings'):
        read_table({**opt, 'mos_range': [2, 4]})


def test_a_benchmark_refuses_them_too(write):
    opt = write(MOS=evenly(1.6, 4.8))
    with pytest.raises(AMHPError, match='all ratings lie between'):
        load_rated(opt['meta_info_file'], options={'level_values': AVA})


@pytest.mark.parametrize('levels', [3, 'abc', [1, 'x'], [[1, 2], [3, 4]], {'a': 1}, True])
def test_levels_that_are_no_list_of_numbers(write, levels):
    with pytest.raises(AMHPError, match=r'level_values .*: expected at least two finite numbers'):
        read_table(write(MOS=[1, 2]) | {'level_values': levels})


@pytest.mark.parametrize(
    ('low', 'high', 'scale'),
    [(1.85, 6.83, (1, 7)), (1, 5, (1, 5)), (0.03, 0.96, (0, 1)), (2, 97, (0, 100)),
     (0.4, 9.7, (0, 10)), (20, 80, (0, 100))],
)  # fmt: skip
def test_a_scale_is_inferred_where_the_ratings_nearly_reach_its_ends(low, high, scale):
    assert infer_scale(evenly(low, high), 40) == scale


@pytest.mark.parametrize(('low', 'high'), [(2.5, 4.4), (1.8, 8.6), (2, 5)])
def test_an_ambiguous_scale_is_an_error_that_names_the_candidates(low, high):
    with pytest.raises(AMHPError, match=r'several scales: .*1\.\.10.*such as --scale '):
        infer_scale(evenly(low, high), 40)


@pytest.mark.parametrize('text', ['5', '1-5', '5..1', 'a..b', '1..nan', '1..'])
def test_the_ends_of_a_scale_are_two_rising_numbers(text):
    assert parse_scale('0..0.5') == (0, 0.5) and scale_text((1, 7)) == '1..7'
    with pytest.raises(AMHPError, match=r'expected LOW\.\.HIGH'):
        parse_scale(text)
