"""``amhp reproduce``: tables and figures from the demo's data, and from tiny downloads."""

import base64
import re

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import TINY
from layouts import write_aadb, write_ava, write_para
from PIL import Image
from test_shipped_options import SHIPPED, in_small

from pyiqa_amhp.datasets.prepare import prepare
from pyiqa_amhp.demo import training
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.evaluation.plans import LITE, PLANS, Changes, full_options, small_options
from pyiqa_amhp.evaluation.published import published_rows
from pyiqa_amhp.evaluation.reproduce import reproduce, table_rows

TABLES = [name for name in PLANS if name.startswith('table')]


@pytest.fixture(scope='module')
def out(tmp_path_factory):
    """A folder whose trained models all tests share; a tiny model and three epochs suffice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, 'EPOCHS', 3)
        patch.setattr(training, 'BACKBONE', TINY)
        yield tmp_path_factory.mktemp('reproduced')


def small(what, out):
    return reproduce(what, out, small=True, scale=0.04)


@pytest.mark.parametrize(
    'what', ['table1', 'table3', pytest.param('table4', marks=pytest.mark.slow)]
)
def test_a_table_has_measured_published_and_difference_of_each_model(out, what):
    result = small(what, out)
    plan = PLANS[what]
    for i, model in enumerate(plan.models):
        measured, published, difference = result.rows[3 * i : 3 * i + 3]
        assert [row.kind for row in (measured, published, difference)] == [
            'measured', 'published', 'difference',
        ]  # fmt: skip
        assert {row.method for row in (measured, published, difference)} == {model.label}
        assert list(measured.values) == list(plan.metrics)
        for key in plan.metrics:
            ours, theirs = measured.values[key].value, published.values[key].value
            assert difference.values[key].value == pytest.approx(ours - theirs)
    assert all(row.kind == 'published' for row in result.rows[3 * len(plan.models) :])
    assert [file.name for file in result.files] == [f'{what}.{s}' for s in ('csv', 'md', 'tex')]
    assert 'small' in (out / f'{what}.md').read_text()


def test_measured_values_are_those_of_the_predictions(out):
    row = small('table3', out).rows[0]
    table = pd.read_csv(out / 'small_0' / 'results' / 'aadb_all' / 'demo_test.csv')
    assert row.values['srcc'].value == pytest.approx(
        table['score'].corr(table['MOS'], method='spearman'), abs=1e-9
    )
    assert row.text_source == 'labels'
    assert (table['text'].str.count('A photo with') == 3).all()


def test_a_model_is_not_trained_twice(out):
    small('table3', out)
    best = out / 'small_0' / 'experiments' / 'aadb_all' / 'models' / 'net_best.pth'
    before = best.stat().st_mtime_ns
    small('table3', out)
    assert best.stat().st_mtime_ns == before


def test_every_model_of_a_table_has_a_published_row():
    for what in TABLES:
        methods = [row.method for row in published_rows(PLANS[what].published)]
        assert {model.label for model in PLANS[what].models} <= set(methods)


def test_table_5_adds_one_attribute_after_another_in_the_papers_order(tmp_path):
    attributes = []
    for model in PLANS['table5'].models:
        train, test = small_options(model, tmp_path, 0, 100)
        names = test['datasets']['test_1']['attributes']
        assert train['datasets']['train']['attributes'] == names
        attributes.append(names)
    assert attributes[-1] == ['content', 'composition', 'color', 'light', 'focus', 'steadiness']
    assert [attributes[-1][:n] for n in range(1, 7)] == attributes


@pytest.mark.slow
def test_figure_3_shows_two_images_of_each_data_set(out):
    png, page = small('fig3', out).files
    with Image.open(png) as picture:
        assert picture.width > 1000 and len(np.unique(np.asarray(picture))) > 100
    html = page.read_text()
    alt = re.search(r'alt="(.*?)"', html)[1]
    shown = re.findall(
        r'(AVA|PARA|AADB) \(demo data\): rated (\S+), AMHP (\S+), CLIP ([\d.]+)', alt
    )
    assert [name for name, *_ in shown] == ['AVA', 'AVA', 'PARA', 'PARA', 'AADB', 'AADB']
    assert all(0 <= float(value) <= 1 for _, *values in shown for value in values)
    assert base64.b64encode(png.read_bytes()).decode() in html


def test_figure_4_has_a_point_for_each_epoch(out):
    png, csv, _ = small('fig4', out).files
    table = pd.read_csv(csv)
    assert list(table.columns) == ['epoch', 'SRCC', 'PLCC']
    assert table['epoch'].tolist() == [1, 2, 3]
    assert table[['SRCC', 'PLCC']].abs().max().max() <= 1
    tested = pd.read_csv(out / 'small_0' / 'results' / 'ava_curve' / 'demo_test.csv')
    best = tested['score'].corr(tested['MOS'], method='spearman')
    assert table['SRCC'].max() == pytest.approx(best, abs=1e-4)  # the best epoch was kept
    assert Image.open(png).width > 600


def test_an_unknown_table_is_an_error(out):
    with pytest.raises(AMHPError, match=r'table6.*table1.*fig4'):
        reproduce('table6', out, small=True)


# On the data sets


def test_full_options_are_the_shipped_ones_with_variant_and_paths(tmp_path):
    (tmp_path / 'meta').mkdir()
    (tmp_path / 'meta' / 'meta_info_AVADataset.csv').touch()
    for model in PLANS['table4'].models:
        train, test = full_options(
            model, SHIPPED, tmp_path / 'sets', tmp_path / 'meta', tmp_path, 7
        )
        shipped = yaml.safe_load((SHIPPED / 'train_amhp_ava.yml').read_text())
        assert train['train'] == shipped['train']
        assert train['network'] == {**shipped['network'], 'variant': model.variant}
        data = train['datasets']['train']
        assert data['dataroot_target'] == str(tmp_path / 'sets' / 'AVA' / 'images')
        assert data['comments_file'] == str(tmp_path / 'meta' / 'ava_comments.arrow')
        assert train['name'] == test['name'] == model.key
        assert test['network']['pretrained_model_path'].startswith(str(tmp_path / 'experiments'))


def test_missing_data_are_an_error_before_anything_is_written(tmp_path):
    with pytest.raises(AMHPError, match=r'meta_info_AVADataset\.csv.*amhp prepare ava'):
        reproduce('table1', tmp_path / 'out', meta=tmp_path, options=SHIPPED)
    assert not (tmp_path / 'out').exists()


def test_missing_option_files_are_an_error(tmp_path):
    with pytest.raises(AMHPError, match=r'train_amhp_ava.yml.*--options'):
        reproduce('table1', tmp_path / 'out', options=tmp_path)


@pytest.mark.parametrize(
    ('what', 'write'), [('table1', write_ava), ('table2', write_para), ('table3', write_aadb)]
)
def test_a_tiny_download_is_prepared_trained_on_and_tested(tmp_path, what, write):
    name = PLANS[what].models[0].dataset
    val_images = None if name == 'aadb' else 4
    root = write(tmp_path / 'sets' / name.upper())
    prepare(name, root, tmp_path / 'meta', val_images=val_images)
    options = tmp_path / 'options'
    options.mkdir()
    for kind in ('train', 'test'):
        opt = in_small(kind, name, tmp_path, 'paper')
        for data in opt['datasets'].values():  # relative, as in the shipped files
            data['dataroot_target'] = data['dataroot_target'].removeprefix(f'{tmp_path}/')
        (options / f'{kind}_amhp_{name}.yml').write_text(yaml.safe_dump(opt))
    result = reproduce(
        what, tmp_path / 'out', tmp_path / 'sets', tmp_path / 'meta', options, seeds=[3]
    )
    measured = result.rows[0]
    assert measured.method == 'AMHP' and measured.images == {'ava': 8}.get(name, 6)
    assert 'small' not in result.title
    predictions = pd.read_csv(next((tmp_path / 'out' / 'results').glob('*/*.csv')))
    again = table_rows(PLANS[what], [{PLANS[what].models[0].key: predictions}])
    assert again[0].values == measured.values


# With another encoder, other ratings and several seeds


@pytest.fixture
def tiny_para(tmp_path):
    """Prepared PARA in small, its folder of images, and option files that fit its size."""
    root = write_para(tmp_path / 'sets' / 'PARA')
    prepare('para', root, tmp_path / 'meta', val_images=4)
    options = tmp_path / 'options'
    options.mkdir()
    for kind, name in (('train', 'para_lite'), ('test', 'para')):
        opt = in_small(kind, name, tmp_path, 'paper')
        for data in opt['datasets'].values():
            data['dataroot_target'] = data['dataroot_target'].removeprefix(f'{tmp_path}/')
        (options / f'{kind}_amhp_{name}.yml').write_text(yaml.safe_dump(opt))
    return tmp_path / 'meta' / 'meta_info_PARADataset.csv', root / 'imgs', options


def test_a_table_on_other_ratings_has_means_over_seeds(tiny_para, tmp_path):
    csv, images, options = tiny_para
    table = pd.read_csv(csv)
    table['split'] = table.pop('official_split').map({0: 'train', 1: 'val', 2: 'test'})
    ratings = tmp_path / 'ratings.csv'
    table[[name for name in table if not name.startswith('attr_')]].to_csv(ratings, index=False)
    changes = Changes(LITE, 'trunk', 'para', ratings, images)
    out = tmp_path / 'out'
    result = reproduce('table2', out, options=options, seeds=[0, 1], changes=changes)
    trained = yaml.safe_load((out / 'seed_1' / 'train_para_all.yml').read_text())
    assert trained['network']['backbone'] == LITE
    assert trained['network']['variant'] == 'image+levels'  # nothing to make texts from
    assert trained['train']['freeze'] == trained['datasets']['val']['freeze'] == 'trunk'
    row = result.rows[0]
    assert row.text_source == 'none' and row.images == 6
    tables = [pd.read_csv(out / f'seed_{s}/results/para_all/para_test.csv') for s in (0, 1)]
    plcc = [table['score'].corr(table['MOS']) for table in tables]
    assert plcc[0] != plcc[1]
    assert row.values['plcc'].value == pytest.approx(np.mean(plcc), abs=1e-6)
    assert f'PLCC by seed: {plcc[0]:.4f}, {plcc[1]:.4f}' in '; '.join(row.notes)


def test_a_table_of_another_data_set_has_no_difference_to_the_published_one(tmp_path):
    plan = Changes(dataset='para').of(PLANS['table4'])
    assert plan.title == 'Components, PARA'
    assert [model.key for model in plan.models][:2] == ['para_image', 'para_attributes']
    table = pd.DataFrame(
        {'score': [1.5, 3, 4], 'MOS': [2, 3, 5], 'dist': '[0.5, 0.5]', 'rated_dist': '[0.5, 0.5]'}
    )
    rows = table_rows(plan, [{model.key: table for model in plan.models}])
    assert [row.kind for row in rows] == ['measured'] * 4 + ['published'] * 4
    assert rows[1].text_source == 'labels'


@pytest.mark.parametrize(
    ('what', 'changes', 'message'),
    [
        ('table2', {'ratings': 'no_split.csv'}, 'expected a column official_split or split'),
        ('table2', {'ratings': 'missing.csv'}, 'missing.csv'),
        ('fig3', {'dataset': 'para'}, 'models of aadb, ava, para'),
        ('table4', {'dataset': 'koniq'}, "'koniq': expected ava, para, aadb"),
    ],
)
def test_changes_that_do_not_fit_are_errors(tmp_path, monkeypatch, what, changes, message):
    (tmp_path / 'no_split.csv').write_text('img_name,MOS\na.jpg,3\n')
    changes |= {key: tmp_path / changes[key] for key in changes.keys() & {'ratings'}}
    with pytest.raises(AMHPError, match=message):
        reproduce(what, tmp_path / 'out', options=SHIPPED, changes=Changes(**changes))
    assert not (tmp_path / 'out').exists()


def test_a_small_reproduction_takes_no_changes(tmp_path):
    with pytest.raises(AMHPError, match='its own model and data'):
        reproduce('table4', tmp_path / 'out', small=True, changes=Changes(encoder=LITE))


def test_the_lite_options_differ_in_the_encoder_and_its_learning_rates():
    shipped, lite = (
        yaml.safe_load((SHIPPED / f'train_amhp_{name}.yml').read_text())
        for name in ('para', 'para_lite')
    )
    assert shipped['datasets'] == lite['datasets'] and shipped['val'] == lite['val']
    other = {key for key in lite['network'] if lite['network'][key] != shipped['network'].get(key)}
    assert other == {'backbone', 'clip_weights', 'tau'}
    for opt in (shipped, lite):
        for name in ('optim', 'scheduler'):
            opt['train'].pop(name)
        for name in ('schedule_by', 'total_epoch', 'warmup_iter'):
            opt['train'].pop(name, None)
    assert shipped['train'] == lite['train']
