"""``AADBDataset``: levels from votes, and attributes as text."""

import logging
import re

import pandas as pd
import pytest
from pyiqa.data import build_dataset

from pyiqa_amhp.datasets.aadb import ATTRIBUTES, read_aadb
from pyiqa_amhp.datasets.paper import AADBDataset
from pyiqa_amhp.errors import AMHPError

VOTES = [f'c{i}' for i in range(1, 6)]


@pytest.fixture(scope='module')
def meta(raw_aadb, tmp_path_factory):
    """The meta file."""
    file = tmp_path_factory.mktemp('meta') / 'meta_info_AADBDataset.csv'
    read_aadb(raw_aadb).table.to_csv(file, index=False)
    return file


@pytest.fixture
def options(meta, raw_aadb):
    """The options that have no default."""
    return {
        'meta_info_file': str(meta),
        'dataroot_target': str(raw_aadb / 'datasetImages_originalSize'),
        'phase': 'test',
    }


def level(value):
    return ['bad', 'poor', 'fair', 'good', 'perfect'][
        sum(value >= cut for cut in (-0.6, -0.2, 0.2, 0.6))
    ]


def test_pyiqa_builds_it_by_name_with_samples_for_training(options, meta):
    built = build_dataset({**options, 'name': 'aadb', 'type': 'AADBDataset', 'phase': 'train'})
    assert len(built) == 12
    sample, row = built[3], pd.read_csv(meta).iloc[3]
    assert sample['img'].shape == (3, 32, 40)
    assert sample['mos_label'].item() == pytest.approx(row['MOS'])
    assert sample['mos_dist'].tolist() == pytest.approx((row[VOTES] / 5).tolist())


def test_the_default_is_the_papers_sentence_for_three_attributes(options, meta):
    dataset = AADBDataset(options)
    rows = pd.read_csv(meta).query('official_split == 2')
    seen = set()
    for i, (_, row) in enumerate(rows.iterrows()):
        harmony, light, content = (
            level(row[f'attr_{name}']) for name in ('color_harmony', 'light', 'content')
        )
        assert dataset[i]['text'] == (
            f'A photo with {harmony} color harmony. A photo with {light} light. '
            f'A photo with {content} content.'
        )
        seen |= {harmony, light, content}
    assert len(seen) >= 4


@pytest.mark.parametrize('names', [[name] for name in ATTRIBUTES] + [['symmetry', 'content']])
def test_any_of_the_eleven_in_any_order(options, names):
    text = AADBDataset({**options, 'attributes': names})[0]['text']
    levels = '(bad|poor|fair|good|perfect)'
    sentences = [f'A photo with {levels} {name.replace("_", " ")}[.]' for name in names]
    assert re.fullmatch(' '.join(sentences), text)


def test_all_eleven_are_one_token_more_than_clip_reads():
    from open_clip.tokenizer import SimpleTokenizer

    from pyiqa_amhp.datasets.attributes import attribute_sentences

    tokenizer = SimpleTokenizer()
    text = attribute_sentences(dict.fromkeys(ATTRIBUTES, 'good'))
    assert len(tokenizer.encode(text)) + 2 == 77 + 1  # with those of start and end


@pytest.mark.parametrize(
    ('split', 'phase', 'count'),
    [
        ({}, 'val', 5),
        ({}, 'test', 6),
        ({'split_index': 'paper_split'}, 'train', 17),
        ({'split_index': 'paper_split'}, 'test', 6),
    ],
)
def test_training_may_include_the_validation_images_as_in_the_paper(options, split, phase, count):
    assert len(AADBDataset({**options, **split, 'phase': phase})) == count


def test_options_replace_defaults_unless_they_are_blank(options, caplog):
    own = {'attr_template': '{light}/{symmetry}', 'attr_range': [-5, 5]}
    with caplog.at_level(logging.WARNING):
        assert AADBDataset({**options, **own})[0]['text'] == 'fair/fair'
        blank = dict.fromkeys(('attributes', 'attr_range', 'split_index', 'text_source'))
        assert AADBDataset({**options, **blank})[1]['text'] == AADBDataset(options)[1]['text']
    assert not caplog.records


def test_scores_alone_train_without_text(aadb_copy, tmp_path, options):
    for path in (aadb_copy / 'imgListFiles_label').glob('*.txt'):
        path.unlink()
    file = tmp_path / 'meta.csv'
    read_aadb(aadb_copy).table.to_csv(file, index=False)
    options['meta_info_file'] = str(file)
    with pytest.raises(AMHPError, match=r"no column 'attr_color_harmony'; .*text_source: none"):
        AADBDataset(options)
    dataset = AADBDataset({**options, 'text_source': 'none'})
    assert (len(dataset), dataset[0]['text']) == (6, '')
