"""``PARADataset``: levels from votes, and attributes as text."""

import re

import numpy as np
import pandas as pd
import pytest
from pyiqa.data import build_dataset

from pyiqa_amhp.datasets.attributes import TEMPLATE
from pyiqa_amhp.datasets.paper import PARADataset
from pyiqa_amhp.datasets.para import AUTHORS_SENTENCE, read_para
from pyiqa_amhp.datasets.ratings import REFERENCE_PARA_LEVEL_VALUES
from pyiqa_amhp.errors import AMHPError

VOTES = [f'c{i}' for i in range(1, 10)]
HALF_STEPS = np.arange(1, 5.5, 0.5)


@pytest.fixture(scope='module')
def meta(raw_para, tmp_path_factory):
    """The meta file."""
    file = tmp_path_factory.mktemp('meta') / 'meta_info_PARADataset.csv'
    read_para(raw_para).table.to_csv(file, index=False)
    return file


@pytest.fixture
def dataset(meta, raw_para):
    """A ``PARADataset`` of the test images."""

    def make(**options):
        common = {
            'meta_info_file': meta,
            'dataroot_target': raw_para / 'imgs',
            'phase': 'test',
        }
        return PARADataset({**common, **options})

    return make


def means_of(meta, row):
    """The attributes' means of a test image."""
    return pd.read_csv(meta).query('official_split == 2').iloc[row]


def even_level(mean, lo, hi):
    words = ['bad', 'poor', 'fair', 'good', 'perfect']
    return words[sum(mean >= lo + (hi - lo) * i / 5 for i in range(1, 5))]


def cut_level(mean, cuts):
    return ['bad', 'poor', 'fair', 'good', 'perfect'][sum(mean > cut for cut in cuts)]


def test_pyiqa_builds_it_by_name_with_samples_for_training(meta, raw_para):
    options = {'name': 'para', 'type': 'PARADataset', 'phase': 'train'}
    paths = {'meta_info_file': str(meta), 'dataroot_target': str(raw_para / 'imgs')}
    built = build_dataset({**options, **paths})
    assert len(built) == 12
    sample, row = built[5], pd.read_csv(meta).iloc[5]
    assert sample['img'].shape == (3, 32, 40)
    assert sample['mos_label'].item() == pytest.approx(row['MOS'])
    halves = [0.5 if value % 1 else 1 for value in HALF_STEPS]  # a half step: to both neighbours
    for level, share in enumerate(sample['mos_dist'].tolist(), start=1):
        near = np.abs(HALF_STEPS - level) < 1
        assert share == pytest.approx((row[VOTES].to_numpy(float) * halves)[near].sum() / 8)


def test_the_default_is_the_papers_sentence_for_each_of_six_attributes(dataset, meta):
    for i in range(6):
        row = means_of(meta, i)
        expected = []
        for name in ('content', 'composition', 'color', 'light', 'depth_of_field'):
            level = even_level(row[f'attr_{name}'], 1, 5)
            expected.append(f'A photo with {level} {name.replace("_", " ")}.')
        level = even_level(row['attr_object_emphasis'], 0, 1)
        expected.append(f'A photo with {level} object emphasis.')
        assert dataset()[i]['text'] == ' '.join(expected)


TABLE_5 = ['content', 'composition', 'color', 'light', 'depth_of_field', 'object_emphasis']


@pytest.mark.parametrize(
    'names', [*(TABLE_5[:i] for i in range(1, 7)), ['light', 'content'], ['object_emphasis']]
)
def test_any_attributes_in_any_order(dataset, names):
    text = dataset(attributes=names)[0]['text']
    levels = '(bad|poor|fair|good|perfect)'
    sentences = [f'A photo with {levels} {name.replace("_", " ")}[.]' for name in names]
    assert re.fullmatch(' '.join(sentences), text)


def test_the_authors_sentence_has_all_six_in_one(dataset, meta):
    row = means_of(meta, 1)
    levels = {name: even_level(row[f'attr_{name}'], 1, 5) for name in TABLE_5[:5]}
    levels['object_emphasis'] = even_level(row['attr_object_emphasis'], 0, 1)
    text = dataset(attr_template='authors')[1]['text']
    assert text == AUTHORS_SENTENCE.format(**levels)
    assert text.count('.') == 1
    places = [text.index(name.replace('_', ' ')) for name in TABLE_5]
    assert places == sorted(places)


def test_a_template_chooses_the_attributes_that_it_names(dataset, meta):
    row = means_of(meta, 2)
    text = dataset(attr_template='Its {light} light, its {color} color')[2]['text']
    light, color = (even_level(row[f'attr_{name}'], 1, 5) for name in ('light', 'color'))
    assert text == f'Its {light} light, its {color} color'


def test_the_reference_protocol_has_the_authors_cuts_and_sentence(dataset, meta):
    images = dataset(protocol='reference')
    seen = set()
    for i in range(6):
        row = means_of(meta, i)
        levels = {name: cut_level(row[f'attr_{name}'], [1, 2, 3, 4]) for name in TABLE_5[:5]}
        emphasis = cut_level(row['attr_object_emphasis'], [0.2, 0.4, 0.6, 0.8])
        assert images[i]['text'] == AUTHORS_SENTENCE.format(**levels, object_emphasis=emphasis)
        seen |= {*levels.values(), emphasis}
    assert seen >= {'poor', 'fair', 'good', 'perfect'}
    np.testing.assert_array_equal(images.images.level_values, REFERENCE_PARA_LEVEL_VALUES)
    votes = means_of(meta, 3)[VOTES].to_numpy(float)
    counted = [votes[0], votes[1] + votes[2], votes[3] + votes[4], votes[5] + votes[6], votes[8]]
    np.testing.assert_allclose(images[3]['mos_dist'], np.array(counted) / sum(counted), atol=1e-6)


def test_the_reference_protocol_on_fewer_attributes_asks_for_a_template(dataset):
    with pytest.raises(AMHPError, match='is not among the attributes; give a template'):
        dataset(protocol='reference', attributes=['content'])
    text = dataset(protocol='reference', attributes=['content'], attr_template=TEMPLATE)[0]['text']
    assert re.fullmatch(r'A photo with \w+ content[.]', text)


def test_options_replace_defaults(dataset, meta):
    cuts = {'light': [1.01, 1.02, 1.03, 1.04]}
    options = {'attributes': ['light'], 'attr_cuts': cuts, 'attr_template': '{level} {attribute}'}
    texts = [dataset(**options)[i]['text'] for i in range(6)]
    means = [means_of(meta, i)['attr_light'] for i in range(6)]
    assert texts == [f'{cut_level(mean, cuts["light"])} light' for mean in means]
    assert dataset(text_source='none')[0]['text'] == ''


def test_an_option_that_is_blank_is_the_default(dataset):
    blank = dict.fromkeys(('attributes', 'attr_template', 'attr_range', 'split_index', 'protocol'))
    assert dataset(**blank)[0]['text'] == dataset()[0]['text']
    assert len(dataset(**blank)) == 6


def test_an_attribute_that_para_does_not_have_is_refused(dataset):
    with pytest.raises(AMHPError, match=r"no column 'attr_symmetry'; attributes there: .*'light'"):
        dataset(attributes=['light', 'symmetry'])
