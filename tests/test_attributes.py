"""Attribute labels become level words and sentences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyiqa_amhp.datasets.attributes import (
    TEMPLATE,
    attribute_levels,
    attribute_sentences,
    check_template,
    levels_by_cuts,
    template_fields,
)
from pyiqa_amhp.datasets.ratings import LEVELS
from pyiqa_amhp.errors import AMHPError


def test_a_label_becomes_the_papers_sentence():
    assert attribute_sentences({'color': 'good'}) == 'A photo with good color.'


def test_sentences_keep_the_order_of_the_labels_and_leave_out_missing_ones():
    labels = {'light': 'bad', 'content': '', 'depth_of_field': 'perfect'}
    expected = 'A photo with bad light. A photo with perfect depth of field.'
    assert attribute_sentences(labels) == expected


@pytest.mark.parametrize('labels', [{}, {'light': '', 'color': ''}])
def test_no_label_gives_no_sentence(labels):
    assert attribute_sentences(labels) == ''


def test_a_template_can_be_chosen():
    template = '{attribute}: {level} ({attribute})'
    assert attribute_sentences({'light': 'fair'}, template) == 'light: fair (light)'


def test_other_braces_are_kept():
    assert attribute_sentences({'light': '{x}'}, '{{level} {attribute} {0}') == '{{x} light {0}'


@pytest.mark.parametrize('template', ['A photo with good {attribute}.', '{level}', ''])
def test_a_template_without_both_fields_is_refused(template):
    with pytest.raises(AMHPError, match=r'expected \{level\} and \{attribute\}') as caught:
        attribute_sentences({'light': 'fair'}, template)
    assert repr(template) in str(caught.value)


SENTENCE = '{color} color, {light} light; {color}!'


def test_a_sentence_that_names_attributes_keeps_its_order():
    levels = {'light': 'fair', 'color': 'good'}
    assert attribute_sentences(levels, SENTENCE) == 'good color, fair light; good!'


def test_a_sentence_with_a_missing_level_is_left_out():
    assert attribute_sentences({'light': '', 'color': 'good'}, SENTENCE) == ''


@pytest.mark.parametrize(
    ('template', 'fields'),
    [(SENTENCE, ['color', 'light']), (TEMPLATE, []), ('{level} {light}', []), ('none', [])],
)
def test_the_attributes_that_a_template_names(template, fields):
    assert template_fields(template) == fields


@pytest.mark.parametrize(
    ('attributes', 'expected'),
    [
        (
            ['color'],
            "'light' is not among the attributes; give a template that names exactly color",
        ),
        (['color', 'light', 'mood'], "'mood' is not in it"),
    ],
)
def test_a_sentence_names_all_attributes_and_no_others(attributes, expected):
    with pytest.raises(AMHPError, match=expected) as caught:
        check_template(SENTENCE, attributes)
    assert repr(SENTENCE) in str(caught.value)
    check_template(SENTENCE, ['light', 'color'])


def test_the_default_template_is_the_papers():
    assert TEMPLATE == 'A photo with {level} {attribute}.'


@pytest.mark.parametrize(
    ('values', 'lo', 'hi', 'expected'),
    [
        # AADB's labels, in [-1, 1]: cuts at -0.6, -0.2, 0.2, 0.6
        ([-1, -0.61, -0.59, -0.21, 0, 0.59, 0.61, 1], -1, 1, [0, 0, 1, 1, 2, 3, 4, 4]),
        # PARA's means, in 1..5: cuts at 1.8, 2.6, 3.4, 4.2
        ([1, 1.79, 1.81, 3, 4.19, 4.21, 5], 1, 5, [0, 0, 1, 2, 3, 4, 4]),
        ([0, 0.19, 0.5, 0.81, 1], 0, 1, [0, 0, 2, 4, 4]),
    ],
)
def test_numbers_fall_into_bins_of_equal_width(values, lo, hi, expected):
    assert attribute_levels(values, lo, hi) == [LEVELS[i] for i in expected]


def test_whole_numbers_from_1_to_5_are_the_five_levels():
    assert attribute_levels([1, 2, 3, 4, 5], 1, 5) == list(LEVELS)


def test_a_missing_number_gives_no_label():
    assert attribute_levels([np.nan, 5, np.nan], 1, 5) == ['', 'perfect', '']


def test_the_number_of_level_words_is_free():
    words = ['weak', 'strong']
    assert attribute_levels([0, 4.9, 5.1, 10], 0, 10, words) == ['weak', 'weak', 'strong', 'strong']


@pytest.mark.parametrize(('value', 'row'), [(5.01, 1), (0.99, 1), (np.inf, 1)])
def test_a_number_outside_the_scale_is_named_with_its_row(value, row):
    with pytest.raises(AMHPError, match=rf'row {row}: attribute value {value:g} is outside'):
        attribute_levels([3, value, 100], 1, 5)


@pytest.mark.parametrize(('lo', 'hi'), [(1, 1), (5, 1), (float('nan'), 1)])
def test_a_scale_that_does_not_rise_is_refused(lo, hi):
    with pytest.raises(AMHPError, match='expected two rising numbers'):
        attribute_levels([1], lo, hi)


def test_a_value_on_a_cut_has_the_level_below():
    values = [-3, 1, 1.001, 2, 3, 3.2, 4, 4.001, np.nan, 9]
    words = levels_by_cuts(values, [1, 2, 3, 4])
    assert words == [LEVELS[i] for i in (0, 0, 1, 1, 2, 3, 3, 4)] + ['', 'perfect']


@pytest.mark.parametrize('cuts', [[1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 2, 4], [4, 3, 2, 1], 1])
def test_cuts_of_a_wrong_number_or_order_are_refused(cuts):
    with pytest.raises(AMHPError, match=r'attr_cuts .*: expected 4 rising numbers'):
        levels_by_cuts([1], cuts)


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=20),
    st.floats(-1e3, 1e3),
    st.floats(1e-3, 1e3),
    st.integers(2, 9),
)
def test_levels_rise_with_values_and_the_ends_are_the_outer_levels(shares, lo, width, k):
    hi, words = lo + width, [str(i) for i in range(k)]
    values = np.clip(lo + np.sort(shares) * (hi - lo), lo, hi)
    levels = [int(word) for word in attribute_levels([lo, *values, hi], lo, hi, words)]
    assert levels == sorted(levels)
    assert (levels[0], levels[-1]) == (0, k - 1)
