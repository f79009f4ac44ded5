"""``amhp benchmark --speed``: rows, random weights where there are none, tables, the command."""

import csv
import sys

import pytest
import torch
from PIL import Image

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.evaluation import speed
from pyiqa_amhp.evaluation.speed import measure_speed
from pyiqa_amhp.evaluation.speed_tables import SpeedRow, remarks, speed_to_markdown
from pyiqa_amhp.evaluation.untrained import create_untrained

SHORT = {'device': 'cpu', 'rounds': 1, 'seconds': 0.01}


@pytest.fixture
def photographs(tmp_path):
    """A folder with three photographs and a file that is none."""
    folder = tmp_path / 'photographs'
    folder.mkdir()
    for i, size in enumerate([(64, 48), (80, 60), (96, 40)]):
        Image.effect_noise(size, 90).convert('RGB').save(folder / f'{i}.jpg')
    (folder / 'damaged.jpg').write_bytes(b'no image')
    return folder


def test_metrics_are_measured_on_tensors_and_from_files(photographs, tiny_weights, tmp_path):
    result = measure_speed(
        ['amhp', 'entropy'], photographs, tmp_path / 'out', {'amhp': str(tiny_weights)}, **SHORT
    )
    ours, other = result.rows
    assert (ours.metric, ours.weights) == ('amhp (tiny.pth)', 'its own')
    assert (ours.width, ours.height) == (32, 32)  # the input of the tiny encoder
    assert (other.width, other.height) == (80, 48)  # the median of the photographs
    assert ours.one > 0 and ours.files > 0 and other.one > 0 and other.files > 0
    assert other.batches is None and other.batch is None  # it gets one image at a time
    assert any('3 photographs, median 80 x 48' in note for note in result.notes)
    table = list(csv.DictReader((tmp_path / 'out' / 'speed.csv').read_text().splitlines()))
    assert [float(row['files']) for row in table] == [ours.files, other.files]
    assert table[0]['height'] == '32' and table[1]['batch'] == ''
    assert '| amhp (tiny.pth) | its own | 32 x 32 |' in (tmp_path / 'out' / 'speed.md').read_text()


@pytest.fixture
def rates(monkeypatch):
    """Images a second that a warm-up finds, by the number of images of a call; else 1."""
    rates = {}
    monkeypatch.setattr(speed._Task, 'prepare', lambda task, *_: rates.get(task.images, 1.0))
    return rates


def test_amhp_is_measured_in_batches_of_the_fastest_size(
    photographs, tiny_weights, tmp_path, rates
):
    rates.update({1: 10, 2: 19, 4: 30, 8: 30.5, 16: 99})  # from 4 to 8 it gains next to nothing
    weights = {'amhp': str(tiny_weights)}
    [row] = measure_speed(['amhp'], photographs, tmp_path, weights, **SHORT).rows
    assert row.batch == 4 and row.batches > 0


def test_all_metrics_take_turns_in_each_round(
    photographs, tiny_weights, tmp_path, rates, monkeypatch
):
    measured, measure = [], speed._Task.measure

    def record(task, wait):
        measured.append(id(task))
        return measure(task, wait)

    monkeypatch.setattr(speed._Task, 'measure', record)
    weights = {'amhp': str(tiny_weights)}
    measure_speed(['amhp', 'entropy'], photographs, tmp_path, weights, 'cpu', 3, 0.01)
    first, *others = measured[:4], measured[4:8], measured[8:]  # on tensors and from files
    assert len(set(first)) == 4 and others == [first, first]


def test_a_metric_that_fails_is_a_row_with_the_reason(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(speed, 'score_images', lambda *_: iter([1 / 0]))
    [row] = measure_speed(['entropy'], photographs, tmp_path, **SHORT).rows
    assert row.error == 'ZeroDivisionError: division by zero' and row.files is None


def test_damaged_weights_are_not_replaced_by_random_ones(photographs, tmp_path):
    (tmp_path / 'bad.pth').write_text('no weights')
    weights = {'amhp': str(tmp_path / 'bad.pth')}
    [row] = measure_speed(['amhp'], photographs, tmp_path, weights, **SHORT).rows
    assert 'bad.pth' in row.error and row.one is None
    assert f'not measured: {row.error}' in (tmp_path / 'speed.md').read_text()


@pytest.mark.slow
def test_without_its_weights_a_metric_has_random_ones(
    photographs, tmp_path, hub_cache, monkeypatch
):
    monkeypatch.setattr('pyiqa.utils.download_util.DEFAULT_CACHE_DIR', str(hub_cache))
    result = measure_speed(['musiq-ava'], photographs, tmp_path / 'out', **SHORT)
    [row] = result.rows
    assert row.weights == 'random' and row.one > 0 and row.files > 0 and not row.error
    assert 'not on this machine' in row.note
    assert f'musiq-ava: random weights, as fast as trained ones: {row.note}.' in remarks([row])


@pytest.mark.slow
@pytest.mark.parametrize('name', ['nima', 'musiq-ava', 'topiq_iaa', 'clipiqa', 'laion_aes'])
def test_a_metric_can_be_built_without_any_file(name, hub_cache, monkeypatch):
    import clip
    import timm

    monkeypatch.setattr('pyiqa.utils.download_util.DEFAULT_CACHE_DIR', str(hub_cache))
    loaders = clip.load, timm.models._builder.load_pretrained
    metric = create_untrained(name, 'cpu')
    with torch.inference_mode():
        score = metric.net(torch.rand(1, 3, 224, 224))
    assert torch.isfinite(score).all()
    assert loaders == (clip.load, timm.models._builder.load_pretrained)
    if name == 'clipiqa':
        bound = sys.modules['pyiqa.archs.clipiqa_arch'].load
        assert bound is sys.modules['pyiqa.archs.clip_model'].load


def test_amhp_is_measured_with_both_encoders_unless_weights_are_given():
    assert [plan[0] for plan in speed._plans('amhp', None)] == [
        'amhp, ViT-B-16', 'amhp, EfficientNet-Lite0'
    ]  # fmt: skip
    assert [plan[0] for plan in speed._plans('amhp', 'a/b.pth')] == ['amhp (b.pth)']
    assert [plan[0] for plan in speed._plans('nima', None)] == ['nima']


def test_the_markdown_table_has_numbers_that_can_be_read():
    rows = [
        SpeedRow('a|b', 'random', 224, 224, 12.345, 10062.4, 256, 0.5, note='no network'),
        SpeedRow('c', 'trained', error='it failed'),
    ]
    text = speed_to_markdown(rows, 'Speed', ['A note.'])
    assert '| a\\|b | random | 224 x 224 | 12.3 | 10,062 (256) | 0.5 |' in text
    assert '- A note.\n' in text and 'c: not measured: it failed.' in text
    assert '| c |' not in text


# The command


@pytest.fixture
def short(monkeypatch):
    """Measure for a moment only."""
    monkeypatch.setattr(speed, 'SECONDS', 0.01)
    monkeypatch.setattr(speed, 'ROUNDS', 1)


def test_the_command_needs_photographs_and_no_ratings(amhp, photographs, tmp_path, short):
    code, out, _ = amhp(
        'benchmark', '--speed', '--metrics', 'entropy', '--images', photographs, '--out',
        tmp_path / 'out', '--device', 'cpu',
    )  # fmt: skip
    assert code == 0 and 'Images a second on' in out and 'entropy' in out
    assert {path.name for path in (tmp_path / 'out').iterdir()} == {'speed.csv', 'speed.md'}


def test_the_photographs_may_be_those_of_rated_data(amhp, rated_images, tmp_path, short):
    code, out, _ = amhp(
        'benchmark', '--speed', '--metrics', 'entropy', '--data', rated_images, '--out', tmp_path
    )
    assert code == 0 and '6 photographs' in out


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--speed'], 'needs photographs'),
        (['--speed', '--images', '.', '--max-pixels', '9'], '--max-pixels: not read with --speed'),
        (['--speed', '--images', '.', '--option', 'a=b'], '--option: not read with --speed'),
        (['--metrics', 'entropy'], "Missing option '--data'"),
        (['--data', 'ava'], "Missing option '--metrics'"),
    ],
)
def test_what_is_missing_is_named(amhp, arguments, message):
    code, _, err = amhp('benchmark', *arguments)
    assert code == 2 and message in ' '.join(err.replace('│', ' ').split())


def test_a_folder_without_readable_images_is_an_error(tmp_path):
    (tmp_path / 'a.jpg').write_bytes(b'no image')
    with pytest.raises(AMHPError, match='no image can be read; the first one: '):
        measure_speed(['entropy'], tmp_path / 'a.jpg', tmp_path / 'out', **SHORT)
    with pytest.raises(AMHPError, match='is not known'):
        measure_speed(['nothing'], tmp_path / 'a.jpg', tmp_path / 'out', **SHORT)
