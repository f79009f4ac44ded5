"""``amhp benchmark``: measured, failed and published rows, the cache, data and the command."""

import csv
import json
import re
import sys
from dataclasses import replace

import icc
import numpy as np
import pandas as pd
import pytest
from layouts import write_ava
from PIL import Image

from pyiqa_amhp.datasets.prepare import prepare
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.evaluation import benchmark as run
from pyiqa_amhp.evaluation import scores
from pyiqa_amhp.evaluation.rated_set import load_rated
from pyiqa_amhp.evaluation.tables import format_value
from pyiqa_amhp.weights.checkpoint import save_checkpoint


@pytest.fixture
def checkpoint(tiny_weights):
    return str(tiny_weights)


@pytest.fixture
def rated(rated_images):
    return load_rated(str(rated_images), split='all')


def table_of(result):
    [file] = [file for file in result.files if file.name == 'results.csv']
    return {row['method']: row for row in csv.DictReader(file.read_text('utf-8').splitlines())}


def test_measured_values_are_those_of_the_scores(rated, checkpoint, tmp_path):
    import pyiqa

    result = run.benchmark(
        ['amhp', 'entropy'], rated, tmp_path / 'out', {'amhp': checkpoint}, resamples=50
    )
    table = table_of(result)
    metric = pyiqa.create_metric('amhp', pretrained_model_path=checkpoint, device='cpu')
    predicted = pd.Series(
        [float(metric(p, text=t)) for p, t in zip(rated.paths, rated.texts, strict=True)]
    )
    row = table['amhp (tiny.pth)']
    expected = predicted.corr(pd.Series(rated.mos), method='spearman')
    assert float(row['srcc']) == pytest.approx(expected, abs=1e-6)
    assert float(row['mse']) == pytest.approx(((predicted - rated.mos) ** 2).mean(), abs=1e-4)
    assert row['emd1'] and row['text_source'] == 'comments' and row['images'] == '24'
    assert float(row['seconds_per_image']) > 0
    other = table['entropy']
    assert other['mapping'] == '0..8 to 1..10' and other['mapped'] == 'acc mse'
    assert other['emd1'] == '' and other['text_source'] == 'none'
    assert all(row['origin'] == 'measured here' for row in table.values())


def test_colour_profiles_and_the_limit_on_pixels_reach_all_metrics(
    rated_images, checkpoint, tmp_path, monkeypatch
):
    rated = load_rated(str(rated_images), split='val')  # six images
    file = rated.paths[0]
    with Image.open(file) as image:
        image.save(file, icc_profile=icc.rgb_profile('prophoto'))
    arguments = (['amhp', 'entropy'], rated, tmp_path / 'out', {'amhp': checkpoint})
    tables = []
    for on in (True, False, True):
        run.benchmark(*arguments, resamples=0, color_profiles=on)
        tables.append(pd.read_csv(tmp_path / 'out' / 'predictions.csv').iloc[:, 2:].to_numpy())
    assert np.array_equal(tables[0], tables[2])  # scores of both kinds are in the cache
    assert (tables[0][0] != tables[1][0]).all() and np.allclose(tables[0][1:], tables[1][1:])
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    result = run.benchmark(
        *arguments[:2], tmp_path / 'other', arguments[3], resamples=0, max_pixels=10**6
    )
    assert [row.images for row in result.rows] == [6, 6]
    result = run.benchmark(
        *arguments[:2], tmp_path / 'none', arguments[3], resamples=0, max_pixels=10
    )
    assert 'pixels, and 10 the limit' in str(result.rows)


def test_a_metric_that_fails_gets_an_error_row(rated, tmp_path, hub_cache, monkeypatch):
    monkeypatch.setattr('pyiqa.utils.download_util.DEFAULT_CACHE_DIR', str(hub_cache))
    result = run.benchmark(['nima', 'entropy', 'amhp-clip'], rated, tmp_path / 'out', resamples=0)
    table = table_of(result)
    assert 'not on this machine' in table['nima']['error']
    assert 'not on this machine' in table['amhp-clip']['error']
    assert table['entropy']['srcc'] and not table['entropy']['error']


def test_damaged_weights_get_an_error_row(rated, tmp_path):
    (tmp_path / 'bad.pth').write_text('no weights')
    result = run.benchmark(
        ['amhp', 'entropy'], rated, tmp_path / 'out', {'amhp': str(tmp_path / 'bad.pth')}
    )
    assert 'bad.pth' in table_of(result)['amhp (bad.pth)']['error']


@pytest.fixture
def scored_paths(monkeypatch):
    """The paths of all images that are scored and not read from the cache, in order."""
    paths_so_far, score_images = [], scores.score_images

    def record(paths, *args, **options):
        paths_so_far.extend(paths)
        return score_images(paths, *args, **options)

    monkeypatch.setattr(scores, 'score_images', record)
    return paths_so_far


def test_an_interrupted_run_resumes_from_the_cache(rated, checkpoint, tmp_path, scored_paths):
    class Stop(BaseException):
        pass

    def stop_after_two(items, total, title):
        for i, item in enumerate(items):
            if i == 2:
                raise Stop
            yield item

    out, weights = tmp_path / 'out', {'amhp': checkpoint}
    with pytest.raises(Stop):
        run.benchmark(
            ['amhp'], rated, out, weights, batch_size=5, resamples=0, progress=stop_after_two
        )
    assert len(scored_paths) == 10 and not (out / 'results.csv').exists()
    [journal] = (out / 'scores').iterdir()
    journal.write_text(journal.read_text()[:-20])  # the last line was cut
    scored_paths.clear()
    whole = run.benchmark(['amhp'], rated, out, weights, batch_size=5, resamples=0)
    assert len(scored_paths) == 24 - 9
    scored_paths.clear()
    run.benchmark(['amhp'], rated, out, weights, batch_size=5, resamples=0)
    assert scored_paths == []
    again = run.benchmark(['amhp'], rated, tmp_path / 'new', weights, batch_size=5, resamples=0)
    assert float(table_of(whole)['amhp (tiny.pth)']['srcc']) == pytest.approx(
        float(table_of(again)['amhp (tiny.pth)']['srcc']), abs=1e-9
    )


def test_other_weights_texts_and_files_are_scored_again(
    rated, rated_images, make_amhp, tmp_path, scored_paths
):
    file, out = tmp_path / 'net.pth', tmp_path / 'out'

    def measure(rated=rated):
        scored_paths.clear()
        run.benchmark(['amhp'], rated, out, {'amhp': str(file)}, resamples=0)
        return len(scored_paths)

    save_checkpoint(file, make_amhp(seed=1).state_dict())
    assert (measure(), measure()) == (24, 0)
    save_checkpoint(file, make_amhp(seed=2).state_dict())
    assert measure() == 24
    image = rated_images.parent / 'images' / '03.png'
    image.write_bytes((rated_images.parent / 'images' / '04.png').read_bytes())
    assert measure() == 1
    without = load_rated(str(rated_images), split='all', text_source='none')
    assert measure(without) == sum(map(bool, rated.texts))


def test_unreadable_images_are_reported_and_not_cached(rated, rated_images, tmp_path):
    (rated_images.parent / 'images' / '05.png').write_bytes(b'no image')
    result = run.benchmark(['entropy'], rated, tmp_path / 'out', resamples=0)
    [journal] = (tmp_path / 'out' / 'scores').iterdir()
    assert len(journal.read_text().splitlines()) == 23
    row = table_of(result)['entropy']
    assert row['images'] == '23' and '1 of 24 images could not be read' in row['notes']
    assert '05.png' in row['notes']


def test_published_rows_follow_and_are_marked(rated, tmp_path):
    result = run.benchmark(['entropy'], rated, tmp_path / 'out', published=['table4'], resamples=0)
    assert [row.kind for row in result.rows] == ['measured'] + ['published'] * 4
    page = (tmp_path / 'out' / 'results.html').read_text()
    assert page.count('published (AMHP paper, Table 4)') == 4


def test_the_page_has_a_plot_for_each_metric_and_needs_no_other_file(rated, tmp_path):
    run.benchmark(['entropy', 'piqe', 'nima'], rated, tmp_path / 'out', resamples=0)
    page = (tmp_path / 'out' / 'results.html').read_text()
    sources = re.findall(r'(?:src|href)="(.*?)"', page)
    assert len(sources) == 2 + 1 and all(source.startswith('data:') for source in sources)


def test_without_matplotlib_there_are_tables_but_no_page(rated, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib', None)  # as if it were not installed
    result = run.benchmark(['entropy'], rated, tmp_path / 'out', resamples=0)
    assert (tmp_path / 'out' / 'results.md').is_file()
    assert not (tmp_path / 'out' / 'results.html').exists()
    assert any('no page' in note and 'matplotlib' in note for note in result.notes)


def test_predictions_have_a_row_for_each_image(rated, tmp_path):
    run.benchmark(['entropy', 'piqe'], rated, tmp_path / 'out', resamples=0)
    table = pd.read_csv(tmp_path / 'out' / 'predictions.csv')
    assert list(table) == ['img_name', 'MOS', 'entropy', 'piqe'] and len(table) == 24
    assert table['MOS'].tolist() == pytest.approx(rated.mos.tolist())


def test_published_rows_of_other_data_are_marked_as_not_comparable(rated, tmp_path):
    result = run.benchmark(['entropy'], rated, tmp_path / 'out', published=['table2'], resamples=0)
    [note] = [note for note in result.notes if 'not comparable' in note]
    assert 'table2 were measured on para' in note
    same = replace(rated, dataset='para')
    result = run.benchmark(['entropy'], same, tmp_path / 'out', published=['table2'], resamples=0)
    assert not any('not comparable' in note for note in result.notes)


def test_patterns_match_names_and_each_metric_is_measured_once(rated, tmp_path):
    rows = run.benchmark(['pi?e', 'entropy', 'piqe'], rated, tmp_path / 'out', resamples=0).rows
    assert [row.method for row in rows] == ['piqe', 'entropy']


def test_names_and_weights_are_checked_before_any_work(rated, tmp_path):
    for metrics, weights, expected in (
        (['nimaa'], {}, 'nimaa'),
        (['psnr'], {}, 'psnr'),
        ([], {}, 'no metric'),
        (['entropy'], {'amhp': 'x.pth'}, "'amhp'"),
    ):
        with pytest.raises(AMHPError, match=expected):
            run.benchmark(metrics, rated, tmp_path / 'out', weights)
    assert not (tmp_path / 'out').exists()


# The data


def test_split_and_scale_are_those_of_the_file(rated_images):
    rated = load_rated(str(rated_images))
    assert len(rated.paths) == 6 and rated.scale == (1, 10) and rated.threshold == 5.5
    assert rated.dist.shape == (6, 5) and rated.text_source == 'comments'


def test_prepared_data_sets_are_found_by_name(raw_aadb, tmp_path):
    prepare('aadb', raw_aadb, tmp_path / 'meta')
    rated = load_rated('aadb', meta_folder=tmp_path / 'meta')
    assert rated.dataset == 'aadb' and rated.text_source == 'labels'
    assert rated.scale == (0, 1) and rated.threshold == 0.5
    assert all(text.count('A photo with') == 3 for text in rated.texts)
    assert load_rated('aadb', text_source='none', meta_folder=tmp_path / 'meta').texts[0] == ''


def test_ava_by_name_reads_the_comments_that_were_prepared(tmp_path):
    prepare('ava', write_ava(tmp_path / 'AVA'), tmp_path / 'meta')
    rated = load_rated('ava', meta_folder=tmp_path / 'meta')
    assert rated.text_source == 'comments' and any(rated.texts) and rated.threshold == 5
    assert rated.scale == (1, 10) and rated.level_values == (1.5, 3.5, 5.5, 7.5, 9.5)
    assert (
        load_rated('ava', text_source='none', meta_folder=tmp_path / 'meta').text_source == 'none'
    )


def test_normalised_ratings_have_the_scale_0_to_1(rated_images):
    options = {'mos_normalize': True, 'mos_range': [1, 10], 'lower_better': False}
    rated = load_rated(str(rated_images), options=options)
    assert rated.scale == (0, 1) and rated.threshold == 0.5 and 0 < rated.mos.min() < 1


def test_a_folder_with_one_csv_is_read(rated_images, tmp_path):
    assert load_rated(str(rated_images.parent)).names == load_rated(str(rated_images)).names
    (rated_images.parent / 'more.csv').write_text('img_name,MOS\n')
    with pytest.raises(AMHPError, match='2 CSV files'):
        load_rated(str(rated_images.parent))


def test_means_without_votes_have_no_distribution(tmp_path, rated_images):
    table = pd.read_csv(rated_images)[['img_name', 'split']]
    table['MOS'] = np.linspace(1, 5, len(table))
    csv_file = tmp_path / 'means.csv'
    table.to_csv(csv_file, index=False)
    rated = load_rated(str(csv_file), options={'level_values': [1, 2, 3, 4, 5]})
    assert rated.dist is None and rated.scale == (1, 5)


@pytest.mark.parametrize(
    ('source', 'options', 'expected'),
    [
        ('absent.csv', {}, 'absent.csv'),
        ('ava', {}, 'amhp prepare ava'),
        (None, {'colour': 1}, "'colour'"),
        (None, {'split_index': 'fold'}, 'fold'),
    ],
)
def test_missing_data_and_unknown_options_are_named(
    rated_images, tmp_path, source, options, expected
):
    with pytest.raises(AMHPError, match=expected):
        load_rated(source or str(rated_images), options=options, meta_folder=tmp_path)


# Tables and the command


def test_values_are_formatted_with_interval_mark_and_bound():
    from pyiqa_amhp.evaluation.measures import Value

    assert format_value('acc', Value(0.845, 0.84, 0.85)) == '84.5 [84.0, 85.0]'
    assert format_value('mse', Value(0.1864, mapped=True)) == '0.186*'
    assert format_value('srcc', Value(0.9, bound='>')) == '> 0.9'
    assert format_value('srcc', Value(0.01), signed=True) == '+0.010'
    assert format_value('srcc', None) == '-'


@pytest.mark.parametrize(
    'metrics',
    [
        ['--metrics', 'amhp', 'entropy'],
        ['--metrics=amhp', 'entropy'],
        ['--metrics', 'amhp,entropy'],
        ['--metrics', 'amhp', '--metrics', 'entropy'],
    ],
)
def test_an_option_of_the_command_takes_several_values(
    amhp, rated_images, checkpoint, tmp_path, metrics
):
    code, out, _ = amhp(
        'benchmark', *metrics, '--data', rated_images, '--split', 'all', '--weights', checkpoint,
        '--option', 'threshold=4', 'levels=[low, high]', 'level_values=[3, 8]',
        '--out', tmp_path / 'out', '--published', 'table3', 'newer',
    )  # fmt: skip
    assert code == 0
    assert 'measured' in out and 'published' in out and 'above 4 is high' in out
    table = (tmp_path / 'out' / 'results.csv').read_text('utf-8')
    rows = list(csv.DictReader(table.splitlines()))
    assert [row['method'] for row in rows[:2]] == ['amhp (tiny.pth)', 'entropy']
    assert {row['kind'] for row in rows[2:]} == {'published'} and len(rows) == 2 + 12 + 10
    assert 'levels are not those of the ratings' in rows[0]['emd1_reason']
    for suffix in ('csv', 'md', 'tex', 'html'):
        assert (tmp_path / 'out' / f'results.{suffix}').is_file()
    lines = [path.read_text().splitlines() for path in (tmp_path / 'out' / 'scores').iterdir()]
    assert sorted(map(len, lines)) == [24, 24]  # of all splits
    assert all(json.loads(line)['score'] is not None for file in lines for line in file)


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        (['--metrics', 'nimaa', '--data', 'DATA'], 'nimaa'),
        (['--metrics', 'entropy', '--data', 'absent.csv'], 'absent.csv'),
        (['--metrics', 'entropy', '--data', 'DATA', '--weights', 'amhp='], 'NAME=VALUE'),
        (['--metrics', 'entropy', '--data', 'DATA', '--weights', 'x.pth'], "weights for 'amhp'"),
        (['--metrics', 'entropy', '--data', 'DATA', '--published', 'table9'], 'table9'),
        (['--data', 'DATA'], '--metrics'),
    ],
)
def test_mistakes_end_in_a_message(amhp, rated_images, tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    arguments = [str(rated_images) if a == 'DATA' else a for a in arguments]
    code, _, err = amhp('benchmark', *arguments)
    assert code != 0 and expected in err
