"""The demo's data: images, votes and comments that agree with each other and repeat."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pyiqa_amhp.demo import data as demo_data
from pyiqa_amhp.demo.comments import PHRASES, comment_kinds, write_comments
from pyiqa_amhp.demo.data import CSV_NAME, IMAGES_PER_SOURCE, make_demo_data
from pyiqa_amhp.demo.photos import EDITS, SOURCES
from pyiqa_amhp.demo.raters import (
    ATTRIBUTES,
    N_RATERS,
    VOTES,
    WEIGHTS,
    attribute_levels,
    attribute_qualities,
    simulate_votes,
    vote_statistics,
)
from pyiqa_amhp.errors import AMHPError

SCALE = 0.05
UNTOUCHED = dict.fromkeys(EDITS, 0.0) | {'contrast': 0.15, 'saturation': 0.15}
# Edit, the attribute that it harms, and two strengths in increasing order.
HARMS = [
    ('exposure', 'light', (0.3, 1.5)),
    ('exposure', 'light', (-0.3, -1.5)),
    ('contrast', 'light', (0.0, -0.7)),
    ('cast', 'color', (0.1, 0.6)),
    ('saturation', 'color', (0.0, -0.9)),
    ('saturation', 'color', (0.4, 1.0)),
    ('blur', 'focus', (0.2, 1.4)),
    ('motion', 'steadiness', (1.0, 6.0)),
    ('tilt', 'composition', (2.0, 11.0)),
    ('tilt', 'composition', (-2.0, -11.0)),
    ('offset', 'composition', (0.1, 0.3)),
    ('noise', 'detail', (0.01, 0.08)),
]


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    """The folder and the table of a small demo data set."""
    folder = tmp_path_factory.mktemp('demo')
    return folder, make_demo_data(folder, seed=0, scale=SCALE)


def files_in(folder):
    paths = sorted(path for path in folder.rglob('*') if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_same_seed_writes_the_same_bytes(demo, tmp_path):
    folder, _ = demo
    make_demo_data(tmp_path, seed=0, scale=SCALE)
    assert files_in(tmp_path) == files_in(folder)


def test_another_seed_writes_other_images_votes_and_comments(demo, tmp_path):
    folder, table = demo
    other = make_demo_data(tmp_path, seed=1, scale=SCALE)
    assert (other.img_name == table.img_name).all()
    for column in ('MOS', 'text', 'exposure'):
        assert (other[column] != table[column]).any()
    first, second = files_in(folder / 'images'), files_in(tmp_path / 'images')
    assert sum(first[name] == second[name] for name in first) == 0


def test_the_csv_equals_the_table(demo):
    folder, table = demo
    pd.testing.assert_frame_equal(pd.read_csv(folder / CSV_NAME, keep_default_na=False), table)


def test_every_row_has_an_image_and_every_image_a_row(demo):
    folder, table = demo
    assert sorted(table.img_name) == sorted(path.name for path in (folder / 'images').iterdir())
    for name in table.img_name[::10]:
        with Image.open(folder / 'images' / name) as image:
            assert (image.format, image.mode, image.size) == ('JPEG', 'RGB', (128, 128))


def test_no_source_photograph_is_in_two_splits(demo):
    _, table = demo
    assert set(table.source) == {source.name for source in SOURCES}
    assert (table.groupby('source').split.nunique() == 1).all()
    assert set(table.split) == {'train', 'val', 'test'}


def test_scale_is_a_share_of_the_full_number_of_images(demo):
    _, table = demo
    counts = table.groupby('source').size()
    assert all(counts[s.name] == round(SCALE * IMAGES_PER_SOURCE[s.split]) for s in SOURCES)


@pytest.mark.parametrize('scale', [0, -1, float('nan')])
def test_a_scale_that_is_not_positive_is_an_error(scale, tmp_path):
    with pytest.raises(AMHPError, match='scale must be positive'):
        make_demo_data(tmp_path, scale=scale)


def test_an_interrupted_run_leaves_no_csv(tmp_path, monkeypatch):
    make_demo_data(tmp_path, scale=0.01)
    monkeypatch.setattr(demo_data, 'write_comments', lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_demo_data(tmp_path, scale=0.01)
    assert not (tmp_path / CSV_NAME).exists()


def test_votes_are_counts_of_one_to_ten(demo):
    _, table = demo
    votes = table[list(VOTES)]
    assert all(kind.kind == 'i' for kind in votes.dtypes)
    assert (votes >= 0).all(axis=None)
    assert votes.sum(axis=1).between(N_RATERS // 2, N_RATERS).all()
    assert (votes.sum(axis=0) > 0).all()


def test_mos_and_std_are_those_of_the_votes(demo):
    _, table = demo
    row = table.iloc[3]
    votes = np.repeat(np.arange(1, 11), row[list(VOTES)].astype(int))
    assert row['MOS'] == pytest.approx(votes.mean(), abs=1e-4)
    assert row['std'] == pytest.approx(votes.std(), abs=1e-4)


def test_vote_statistics_by_hand():
    votes = pd.DataFrame([[1, 0, 0, 0, 0, 0, 0, 0, 0, 1], [0, 0, 4] + [0] * 7], columns=VOTES)
    assert vote_statistics(votes).to_numpy().tolist() == [[5.5, 4.5], [3.0, 0.0]]


def test_scores_cover_a_wide_range(demo):
    _, table = demo
    assert table.MOS.min() < 4
    assert table.MOS.max() > 7
    assert table.MOS.between(1, 10).all()


def test_mos_correlates_with_the_attribute_levels(demo):
    _, table = demo
    levels = table[[f'attr_{name}' for name in ATTRIBUTES]]
    assert levels.mean(axis=1).corr(table.MOS, method='spearman') > 0.8


def ratings_where(attribute, quality, n=30):
    """Simulate the MOS of images that differ in one attribute only."""
    qualities = pd.DataFrame(dict.fromkeys(ATTRIBUTES, 0.7), index=range(n))
    qualities[attribute] = quality
    return vote_statistics(simulate_votes(qualities.assign(source='cat'), seed=5)).MOS


@pytest.mark.parametrize('attribute', ATTRIBUTES)
def test_an_image_that_is_worse_in_one_attribute_has_a_lower_mos(attribute):
    good, middling, bad = (ratings_where(attribute, q) for q in (1.0, 0.5, 0.0))
    assert good.mean() > middling.mean() > bad.mean()
    assert (good > bad).all()


def test_the_worst_fault_counts_beside_the_sum_of_all():
    """Content has the larger weight but is not counted as a fault."""
    usual = ratings_where('light', 0.7).mean()
    loss = {name: usual - ratings_where(name, 0.0).mean() for name in ('light', 'content')}
    assert WEIGHTS['light'] < WEIGHTS['content']
    assert loss['light'] > loss['content']


def test_raters_disagree(demo):
    _, table = demo
    assert table['std'].between(0.3, 3).all()
    assert table['std'].median() > 0.8


def test_a_missing_attribute_is_an_error():
    with pytest.raises(AMHPError, match=r"\['focus', 'source'\]"):
        simulate_votes(pd.DataFrame({name: [0.5] for name in ATTRIBUTES if name != 'focus'}), 0)


@pytest.mark.parametrize(('name', 'attribute', 'strengths'), HARMS)
def test_each_edit_harms_its_attribute_and_no_other(name, attribute, strengths):
    rows = [UNTOUCHED, *(UNTOUCHED | {name: strength} for strength in strengths)]
    photos = pd.DataFrame(rows).assign(source='cat')
    qualities = attribute_qualities(photos, seed=0)
    quality = qualities[attribute]
    assert quality[0] == pytest.approx(1)
    assert 1 > quality[1] > quality[2] >= 0
    others = [other for other in ATTRIBUTES if other not in (attribute, 'content')]
    assert (qualities[others] == qualities[others].iloc[0]).all(axis=None)


def test_qualities_become_five_levels():
    qualities = pd.DataFrame({name: [0, 0.19, 0.2, 0.5, 0.81, 1] for name in ATTRIBUTES})
    levels = attribute_levels(qualities)
    assert levels.columns.tolist() == [f'attr_{name}' for name in ATTRIBUTES]
    assert levels.attr_light.tolist() == [1, 1, 2, 3, 5, 5]


def test_all_kinds_of_comments_occur(demo):
    _, table = demo
    shares = table.comment_kind.value_counts(normalize=True)
    assert shares['attribute'] > 0.75
    assert shares['praise'] > 0.05
    assert shares['none'] > 0.05
    assert shares.sum() == pytest.approx(1)


def test_liked_images_get_praise_and_middling_ones_no_comment():
    mos = pd.Series(np.linspace(1, 10, 1000))
    kinds = comment_kinds(mos, seed=0)
    assert mos[kinds == 'praise'].mean() > 8
    assert mos[kinds == 'none'].between(2, 9).all()


def test_texts_are_of_the_kind_in_comment_kind(demo):
    _, table = demo
    assert (table.text[table.comment_kind == 'none'] == '').all()
    assert set(table.text[table.comment_kind == 'praise']) <= set(PHRASES['praise'])
    assert (table.text[table.comment_kind == 'attribute'].str.len() > 10).all()


def test_comments_fit_into_clips_context(demo):
    import open_clip

    _, table = demo
    tokenizer = open_clip.SimpleTokenizer()
    assert max(len(tokenizer.encode(text)) for text in table.text) <= 60


def test_comments_have_no_numbers(demo):
    _, table = demo
    assert not table.text.str.contains(r'\d').any()


def plain(text):
    """Convert to lower case, and each word to one of its spellings."""
    text = text.lower()
    for usual, other in PHRASES['spellings']:
        text = text.replace(other, usual) if usual in other else text.replace(usual, other)
    return text


def named_levels(text, attribute):
    """Find the levels of ``attribute`` whose phrases are in ``text``, longest phrase first."""
    text, found = plain(text), []
    phrases = [
        (plain(phrase), level)
        for level, causes in PHRASES['attributes'][attribute].items()
        for choices in causes.values()
        for phrase in choices
    ]
    for phrase, level in sorted(phrases, key=lambda item: -len(item[0])):
        if phrase in text:
            found.append(level)
            text = text.replace(phrase, '|')
    return found


def test_comments_mention_attributes_at_their_levels(demo):
    _, table = demo
    commented = table[table.comment_kind == 'attribute']
    named = 0
    for row in commented.to_dict('records'):
        for attribute in ATTRIBUTES:
            levels = named_levels(row['text'], attribute)
            assert levels in ([], [row[f'attr_{attribute}']]), (row['text'], attribute)
            named += len(levels)
    assert 2 < named / len(commented) < 5


def comments_on(levels, n=60, **strengths):
    """Write comments on images that all have these levels and edits."""
    columns = {f'attr_{name}': levels.get(name, 4) for name in ATTRIBUTES}
    row = columns | UNTOUCHED | strengths | {'comment_kind': 'attribute'}
    return [plain(text) for text in write_comments(pd.DataFrame([row] * n), seed=0)]


@pytest.mark.parametrize(
    ('attribute', 'strengths', 'word', 'absent_word'),
    [
        ('light', {'exposure': -2.0}, 'dark', 'bright'),
        ('light', {'exposure': 2.0}, 'bright', 'dark'),
        ('light', {'contrast': -0.8}, 'flat', 'harsh'),
        ('light', {'contrast': 0.9}, 'harsh', 'flat'),
        ('color', {'cast': 0.9}, 'white balance', 'oversaturated'),
        ('color', {'saturation': -0.9}, 'washed out', 'oversaturated'),
        ('color', {'saturation': 1.0}, 'oversaturated', 'washed out'),
        ('composition', {'tilt': 14.0}, 'tilted', 'crop'),
        ('composition', {'offset': 0.4}, 'crop', 'tilted'),
    ],
)
def test_comments_mention_the_edits_of_the_image(attribute, strengths, word, absent_word):
    text = ' '.join(comments_on({attribute: 2}, **strengths))
    assert plain(word) in text
    assert plain(absent_word) not in text


def test_no_comment_is_about_the_colours_of_a_grey_photograph(demo):
    _, table = demo
    grey = [source.name for source in SOURCES if source.grey]
    texts = table.text[table.source.isin(grey) & (table.comment_kind == 'attribute')]
    assert len(texts) and not any(named_levels(text, 'color') for text in texts)


def test_comments_mention_what_is_unusual():
    comments = comments_on({'focus': 1}, blur=2.0)
    assert all(named_levels(text, 'focus') == [1] for text in comments)
    assert not all(named_levels(text, 'detail') for text in comments)
