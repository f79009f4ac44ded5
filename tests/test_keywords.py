"""The attributes that comments are about, by their keywords."""

import numpy as np
import pyarrow as pa
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pyiqa_amhp.datasets.keywords import AttributeKeywords, _default_file
from pyiqa_amhp.demo.comments import PHRASES
from pyiqa_amhp.errors import AMHPError


@pytest.fixture(scope='module')
def keywords():
    return AttributeKeywords()


@pytest.fixture
def put(tmp_path):
    """Write a YAML file of keywords; returns its path."""

    def write(text):
        path = tmp_path / 'mine.yml'
        path.write_text(text, encoding='utf-8')
        return path

    return write


def attributes_of(keywords, text):
    (mask,) = keywords.masks([text])
    return {name for bit, name in enumerate(keywords.attributes) if mask >> bit & 1}


def test_the_package_has_keywords_of_ten_attributes(keywords):
    assert keywords.attributes == (
        'color', 'light', 'composition', 'theme', 'focus', 'depth_of_field', 'contrast', 'motion',
        'perspective', 'detail',
    )  # fmt: skip


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('Lovely COLOURS!', {'color'}),
        ('a coloured door', {'color'}),
        ('works well in b&w', {'color'}),
        ('B & W suits it', {'color'}),
        ('B/W?', {'color'}),
        ('(black-and-white)', {'color'}),
        ('oversaturated', {'color'}),
        ('nicely lit', {'light'}),
        ('back-lit hair', {'light'}),
        ('blown  out', {'light'}),
        ('underexposed by a stop', {'light'}),
        ('Rule-of-thirds!', {'composition'}),
        ('the leading lines', {'composition'}),
        ('off centre', {'composition'}),
        ('your subject', {'theme'}),
        ('on theme', {'theme'}),
        ('tack sharp', {'focus'}),
        ('a bit soft', {'focus'}),
        ('nice DOF', {'depth_of_field'}),
        ('creamy bokeh', {'depth_of_field'}),
        ('low contrast', {'contrast'}),
        ('good movement', {'motion'}),
        ('slow shutter-speed', {'motion'}),
        ('an odd angle', {'perspective'}),
        ('a bird’s eye view', {'perspective'}),
        ('so much detail, no noise', {'detail'}),
        ('light\nand\tcolor', {'light', 'color'}),
        ('out of focus background', {'focus', 'composition', 'depth_of_field'}),
    ],
)
def test_words_and_phrases_match_their_attribute(keywords, text, expected):
    assert attributes_of(keywords, text) == expected


@pytest.mark.parametrize(
    'text',
    [
        'he was scolded', 'a long flight', 'what a delight', 'slightly funny', 'enlightening',
        'split it', 'literally', 'Colorado', 'I like it, nice', 'love this, congrats', '', 'élit',
        'lité', 'lit\u0301', 'lit_up', 'lit2', 'rule of the thirdly', 'soft kitten', 'no idea how',
        'a new camera', 'on a scale of 1 to 10', 'the composer', 'shape', 'sharpie', 'angler',
        'eyes wide open', 'good luck in the challenge', 'dofs', 'subb&w',
    ],
)  # fmt: skip
def test_other_words_match_no_attribute(keywords, text):
    assert attributes_of(keywords, text) == set()


@pytest.mark.parametrize(
    ('text', 'attribute'),
    [
        ('rather busy behind the vase', 'composition'),
        ('A busy-ness that tires the eye', 'composition'),
        ('a plainer plate would be less busy', 'composition'),
        ('there is a blue-ish cast on the wall', 'color'),
        ('the snow has a cyan cast', 'color'),
        ('everything went greenish', 'color'),
        ('make it warmer', 'color'),
        ('the sand is too yellow', 'color'),
        ('the bread could be whiter', 'color'),
        ('a monotone lake', 'color'),
        ('too much green', 'color'),
        ('the blue of the eye', 'color'),
        ('white on white is hard', 'color'),
        ('an odd coloration', 'color'),
        ('the chair should be lighter', 'light'),
        ('the cat could be brighter', 'light'),
        ('golden sun near dusk', 'light'),
        ('come back at dawn', 'light'),
        ('the midday sun is hard on a face', 'light'),
        ('a hot-spot on the nose', 'light'),
        ('the boat is cut off on the left', 'composition'),
        ('Chopped off at the knees', 'composition'),
        ('the vase is clipped at the rim', 'composition'),
        ('too much water on the left', 'composition'),
        ('too many dull old boats at the bottom', 'composition'),
        ('too much on the right', 'composition'),
        ('a little more room on the side', 'composition'),
        ('too many things', 'composition'),
        ('shoot it tighter', 'composition'),
        ('the wall needs straightening', 'composition'),
        ('the hair should be sharper', 'focus'),
        ('the nose might be clearer', 'focus'),
        ('make it shallower', 'depth_of_field'),
        ('a flatter look', 'contrast'),
        ('what aperature was this?', 'depth_of_field'),
        ('the simmetry of the bridge', 'composition'),
        ('nice compositon', 'composition'),
        ('the backround', 'composition'),
        ('super lighitng', 'light'),
        ('the shaddows', 'light'),
        ('wonderful coulors', 'color'),
        ('a little blury', 'focus'),
        ('more constrast', 'contrast'),
        ('good prespective', 'perspective'),
        ('the tecture of bark', 'detail'),
        ('a dull suject', 'theme'),
        ('an easy subject to shoot', 'theme'),
        ('the subject to the left', 'theme'),
        ('one of my favourite subjects to shoot', 'theme'),
        ('the dark chocolate is in the dark', 'light'),
        ('I was busy, and so is the wall: busy', 'composition'),
    ],
)
def test_other_ways_to_name_an_attribute_are_found(keywords, text, attribute):
    assert attribute in attributes_of(keywords, text)


@pytest.mark.parametrize(
    'text',
    [
        'all of this is subject to taste', 'prices are subject to change',
        'Maths is not my favourite subject', 'cats are not my favorite subjects',
        'I read a book on the subject of bread',
        'my worst school subject', 'a funny subject line', 'we were busy', "I'm busy", 'business',
        'it kept you busy', 'too busy to vote', 'a busy day', 'a busy street', 'a light beer',
        'dark chocolate!', 'in light of the votes', 'hoping for a higher placement',
        'this time frame',
        'take it with a grain of salt', 'cut the cake', 'a warm welcome', 'the broadcast',
        'finish it',
        'too much of a good thing', 'thanks a lot, see you on the left',
    ],
)  # fmt: skip
def test_the_same_words_outside_photography_are_not(keywords, text):
    assert attributes_of(keywords, text) == set()


def test_each_keyword_of_the_package_is_found_and_each_exception_is_not(keywords):
    """No exception hides a keyword of its attribute, and none is without effect."""
    for attribute, phrases in yaml.safe_load(_default_file().read_text('utf-8')).items():
        texts = [f'so {phrase.replace("...", "two words")}, yes' for phrase in phrases]
        found = keywords.masks([text.replace('so -', 'so ') for text in texts])
        bit = 1 << keywords.attributes.index(attribute)
        for phrase, mask in zip(phrases, found, strict=True):
            assert bool(mask & bit) != phrase.startswith('-'), f'{attribute}: {phrase}'
        assert len(set(phrases)) == len(phrases)


@pytest.mark.parametrize(
    ('text', 'found'),
    [
        ('lit up', 1), ('lit', 1), ('un lit', 0), ('un-lit', 0), ('un  lit and lit', 1),
        ('so lit up un lit', 1), ('get a bit lit', 0), ('get a little too much lit', 1),
        ('sun lit', 1),
        ('in x out', 1), ('in out', 1), ('in a b c out', 1), ('in a b c d out', 0), ('in.out', 0),
    ],
)  # fmt: skip
def test_dots_stand_for_words_and_a_minus_sign_for_an_exception(put, text, found):
    mine = AttributeKeywords(put('light: [lit, -un lit, -get ... lit, in ... out]'))
    assert mine.masks([text]).tolist() == [found]


def test_the_digest_is_that_of_the_keywords_and_not_of_the_file(put):
    digests = [
        AttributeKeywords(put(text)).digest
        for text in (
            'light: [lit, dark]', '# mine\nlight:\n- dark\n- lit', 'light: [lit]',
            'lit: [lit, dark]',
        )
    ]  # fmt: skip
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_empty_praise_is_about_no_attribute(keywords):
    assert not keywords.masks(PHRASES['praise']).any()


@pytest.mark.parametrize('attribute', ['light', 'color', 'focus'])
def test_what_the_demos_critics_write_is_about_an_attribute(keywords, attribute):
    levels = PHRASES['attributes'][attribute].values()
    phrases = [phrase for causes in levels for phrases in causes.values() for phrase in phrases]
    assert keywords.masks(phrases).all()


# Up to Cyrillic: there RE2 and Python agree on what a letter is, of whatever Unicode version.
letters = st.characters(categories=['L', 'M', 'N'], max_codepoint=0x52F)
others = st.characters(
    exclude_categories=['L', 'M', 'N', 'Cn'], exclude_characters='_', max_codepoint=0x52F
)


@pytest.fixture(scope='module')
def lit(tmp_path_factory):
    """Keywords of one word, which match fast."""
    path = tmp_path_factory.mktemp('lit') / 'lit.yml'
    path.write_text('light: [lit]')
    return AttributeKeywords(path)


@given(st.text(letters, max_size=3), st.text(letters, max_size=3))
def test_a_word_within_another_is_never_found(lit, before, after):
    found = lit.masks([f'so {before}lit{after} up'])
    assert found.tolist() == [0 if before or after else 1]


@given(st.text(others, max_size=3), st.text(others, max_size=3))
def test_a_word_is_found_between_any_signs(lit, before, after):
    assert lit.masks([f'{before}LIT{after}']).tolist() == [1]


def test_bit_i_is_the_ith_attribute_of_up_to_16(put):
    mine = AttributeKeywords(put('\n'.join(f'a{i}: [w{i}]' for i in range(16))))
    masks = mine.masks([f'W{i} and w15' for i in range(16)])
    assert masks.dtype == np.uint16
    assert masks.tolist() == [1 << i | 1 << 15 for i in range(16)]


def test_chunked_arrow_texts_have_the_masks_of_a_list(keywords):
    texts = ['good light', 'hm', 'sharp', 'color']
    chunks = pa.chunked_array([texts[:1], [], texts[1:]], pa.large_string())
    assert keywords.masks(chunks).tolist() == keywords.masks(texts).tolist()
    assert keywords.masks(pa.array(texts)).tolist() == keywords.masks(texts).tolist()
    assert keywords.masks([]).shape == (0,)


def test_signs_in_a_users_words_are_taken_literally(put):
    mine = AttributeKeywords(put("aperture: ['f/2.8', 'f(8)', 'a*']"))
    assert mine.masks(['at f/2.8.', 'f/208', 'f(8)', 'a*', 'aa']).tolist() == [1, 0, 1, 1, 0]


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'expected attributes with lists of words'),
        ('[lit, dark]', 'expected attributes with lists of words'),
        ('light: lit', "light: 'lit', expected a list of words"),
        ('light: []', 'light: .*expected a list of words'),
        ('light: [on]', 'light: True, expected a word or phrase'),
        ("light: [' ']", "light: ' ', expected a word or phrase"),
        ("light: [lit, '-']", "light: '-', expected a word or phrase"),
        ("light: ['...']", r"light: '\.\.\.', expected a word or phrase"),
        ('light: [-lit]', 'light: every phrase has a minus sign, expected words too'),
        ('no: [negative]', 'attribute False: expected a name'),
        ('light: [lit', 'not YAML'),
        ('\n'.join(f'a{i}: [w]' for i in range(17)), '17 attributes, expected at most 16'),
    ],
)
def test_a_file_of_another_format_is_refused(put, text, message):
    path = put(text)
    with pytest.raises(AMHPError, match=message) as caught:
        AttributeKeywords(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(AMHPError, match=r'none\.yml: cannot be read'):
        AttributeKeywords(tmp_path / 'none.yml')
