"""Benchmarks in which something is missing: images, metrics, splits."""

from pathlib import Path

import pandas as pd
import pytest

from pyiqa_amhp.datasets.prepare import prepare
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.evaluation import benchmark as run
from pyiqa_amhp.evaluation.rated_set import load_rated


@pytest.fixture
def rated(rated_images):
    """All 24 images."""
    return load_rated(str(rated_images), split='all')


def test_a_metric_that_cannot_score_one_image_is_a_row_with_the_reason(rated, tmp_path):
    for path in map(Path, rated.paths):
        path.write_bytes(b'no image')
    result = run.benchmark(['entropy'], rated, tmp_path / 'out', resamples=0)
    [row] = result.rows
    assert row.error.startswith('no image has a score: 24 of 24 images could not be read: ')
    assert not row.values and '1 of 1 rows could not be measured.' in result.notes


def test_the_notes_state_how_many_images_were_scored(rated, tmp_path):
    result = run.benchmark(['entropy'], rated, tmp_path / 'out', resamples=0)
    assert 'Each measured metric scored all 24 images.' in result.notes
    Path(rated.paths[5]).unlink()
    result = run.benchmark(['entropy'], rated, tmp_path / 'out', resamples=0)
    assert 'entropy: scored 23 of 24 images, 1 missing.' in result.notes


@pytest.mark.parametrize(('metrics', 'code'), [(['entropy'], 0), (['entropy', 'nima'], 1)])
def test_the_exit_code_is_1_if_a_metric_was_not_measured(
    amhp, rated_images, tmp_path, hub_cache, metrics, code
):
    found, out, err = amhp(
        'benchmark', '--metrics', *metrics, '--data', rated_images, '--out', tmp_path / 'out'
    )
    assert found == code and 'Each measured metric scored all 6 images.' in out
    assert ('1 of 2 metrics could not be measured: nima' in err) == (code == 1)
    assert ('not measured: nima: ' in out) == (code == 1)


def test_a_folder_without_the_images_is_named_before_any_work(rated_images, tmp_path):
    for folder in (tmp_path, tmp_path / 'absent'):
        with pytest.raises(AMHPError, match=r'18.png: 6 of the first 6 images .*--images'):
            load_rated(str(rated_images), folder)


@pytest.mark.parametrize(
    ('split', 'expected'),
    [
        ('tset', 'expected train, val, test, all; did you mean test'),
        ('valid', 'did you mean val.*; images by split in rated.csv: train: 12, val: 6'),
        ('', 'expected train, val, test, all; images'),
    ],
)
def test_an_unknown_split_lists_those_of_the_file(rated_images, split, expected):
    with pytest.raises(AMHPError, match=expected):
        load_rated(str(rated_images), split=split)


def test_a_split_without_images_lists_the_others(rated_images):
    table = pd.read_csv(rated_images)
    table['split'] = table['split'].replace({'train': 0, 'val': 1, 'test': 1})
    table.to_csv(rated_images, index=False)
    assert len(load_rated(str(rated_images), split='val').paths) == 12
    with pytest.raises(AMHPError, match=r'--split test: .* train: 12, val: 12'):
        load_rated(str(rated_images))


def test_all_images_of_a_prepared_data_set_are_all_of_its_splits(raw_aadb, tmp_path):
    prepare('aadb', raw_aadb, tmp_path / 'meta')
    numbers = [
        len(load_rated('aadb', split=split, meta_folder=tmp_path / 'meta').paths)
        for split in ('train', 'val', 'test', 'all')
    ]
    assert numbers[3] == sum(numbers[:3]) > numbers[2]


def test_a_threshold_is_a_number(rated_images):
    with pytest.raises(AMHPError, match="threshold='high': expected a number"):
        load_rated(str(rated_images), options={'threshold': 'high'})
