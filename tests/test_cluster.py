"""Scoring on Ray: real clusters on this machine, nodes and drivers that die, object stores."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from PIL import Image

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.scoring.files import score_images
from pyiqa_amhp.scoring.ray.actors import ScorerConfig
from pyiqa_amhp.scoring.ray.job import score_dataset, score_folder
from pyiqa_amhp.scoring.ray.plan import Source, write_plan
from pyiqa_amhp.scoring.ray.storage import Files
from pyiqa_amhp.scoring.scorer import create_metric

QUIET = {'logging_level': 'error', 'log_to_driver': False}


@pytest.fixture(scope='module')
def weights(tiny_weights):
    """A checkpoint whose score a text moves."""
    return tiny_weights


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """Forty small photographs, and two files that are none."""
    folder = tmp_path_factory.mktemp('photos')
    write_photos(folder, 40)
    (folder / 'text.jpg').write_text('no image')
    (folder / 'void.png').touch()
    return folder


def write_photos(folder, count):
    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = rng.integers(0, 255, (3, 4, 3), dtype=np.uint8).repeat(12, 0).repeat(12, 1)
        Image.fromarray(pixels).save(folder / f'{i:05d}.png')


@pytest.fixture(scope='module')
def cluster():
    """A cluster of this machine, which runs use instead of starting their own."""
    ray.init(num_cpus=2, include_dashboard=False, **QUIET)
    yield
    ray.shutdown()


def table(folder):
    return pd.read_parquet(folder)  # names that begin with _ are no data


def parts(folder):
    return sorted(Path(folder).glob('part-*.parquet'))


def expect_scores(found, weights, images, texts=None):
    """The rows of a table are those of ``score_images``, each once, in the same order."""
    metric = create_metric('amhp', weights, 'cpu')
    expected = list(score_images(images, texts, metric))
    assert list(found['path']) == [str(image) for image in images]
    for (_, row), score in zip(found.iterrows(), expected, strict=True):
        if score.error:
            assert row['error'] and pd.isna(row['score'])
        else:
            assert row['score'] == pytest.approx(score.score, abs=1e-5)
            assert row['p_good'] == pytest.approx(score.levels['good'], abs=1e-5)
            assert (row['prompt_source'], row['error']) == (score.prompt_source, '')


# Folders


def test_the_command_scores_as_in_one_process_and_says_what_failed(
    cluster, amhp, photos, weights, tmp_path
):
    # A run that failed before its first part: its plan gives way to other settings.
    write_plan(Source(Files([]), [str(photos)]), str(tmp_path / 'out'), {'metric': 'nima'})

    images = sorted(photos.iterdir())
    command = ('score', photos, '--engine', 'ray', '--weights', weights, '--out', tmp_path / 'out')
    code, out, err = amhp(*command, '--text', 'lovely light', '--ray-rows', 15)
    assert code == 1
    assert '42 rows in 3 parts' in out and 'scale 1..10' in out
    assert '2 of 42 images could not be scored' in err and 'the file is empty' in err
    expect_scores(table(tmp_path / 'out'), weights, images, ['lovely light'] * len(images))

    manifest = json.loads((tmp_path / 'out' / '_manifest.json').read_text())
    assert [(part['rows'], part['failed']) for part in manifest['parts']] == [
        (15, 0), (15, 0), (12, 2),
    ]  # fmt: skip
    assert (manifest['rows'], manifest['failed'], manifest['scale']) == (42, 2, '1..10')

    before = [part.stat() for part in parts(tmp_path / 'out')]
    code, out, _ = amhp(*command, '--text', 'lovely light', '--ray-rows', 15)
    assert code == 1 and '3 of them from an earlier run' in out
    assert [part.stat() for part in parts(tmp_path / 'out')] == before

    code, _, err = amhp(*command)
    assert code == 1 and "text was 'lovely light' and is None" in err


def test_images_within_a_table_are_scored_with_their_texts(cluster, photos, weights, tmp_path):
    images = sorted(photos.iterdir())
    texts = [f'light number {i}' for i in range(len(images))]
    columns = {'jpg': [image.read_bytes() for image in images], 'text': texts, 'path': images}
    columns['path'] = [str(image) for image in images]
    pq.write_table(pa.table(columns), tmp_path / 'photos.parquet', row_group_size=25)
    report = score_folder(
        [tmp_path / 'photos.parquet'], tmp_path / 'out', ScorerConfig('amhp', str(weights)),
        columns={'image': 'jpg'},
    )  # fmt: skip
    assert (report.summary.rows, report.summary.failed) == (42, 2)
    expect_scores(table(tmp_path / 'out'), weights, images, texts)


# Data sets of one's own


def test_a_data_set_of_paths_keeps_its_columns(cluster, photos, weights):
    images = sorted(map(str, photos.iterdir()))
    ds = ray.data.from_items([{'path': path, 'id': i} for i, path in enumerate(images)])
    found = score_dataset(ds, weights=str(weights), actors=1).to_pandas()
    found = found.sort_values('id')
    assert list(found['id']) == list(range(len(images)))
    expect_scores(found, weights, images)


def test_a_data_set_of_decoded_images_is_scored_exactly(cluster, photos, weights, tmp_path):
    images = sorted(photos.glob('0000*.png'))
    ds = ray.data.read_images([str(image) for image in images], include_paths=True)
    found = score_dataset(ds, weights=str(weights), image='image', actors=1).to_pandas()
    assert 'image' not in found
    expect_scores(found.sort_values('path'), weights, images)


def test_a_data_set_without_images_is_an_error(cluster):
    with pytest.raises(AMHPError, match='no column bytes, image or path; there are id'):
        score_dataset(ray.data.range(3))


# Object stores


def test_images_come_from_an_object_store_and_scores_go_there(cluster, photos, weights, tmp_path):
    moto = pytest.importorskip('moto.server', reason='moto, a double of S3, is not installed')
    server = moto.ThreadedMotoServer(ip_address='127.0.0.1', port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f'endpoint_override={host}:{port}&scheme=http&allow_bucket_creation=true'
    try:
        filesystem, _ = pa.fs.FileSystem.from_uri(f's3://key:word@photos?{address}')
        filesystem.create_dir('photos')
        images = sorted(photos.iterdir())
        for image in images:
            with filesystem.open_output_stream(f'photos/of us/{image.name}') as file:
                file.write(image.read_bytes())
        report = score_folder(
            [f's3://key:word@photos/of us?{address}'], f's3://key:word@photos/scores?{address}',
            ScorerConfig('amhp', str(weights)), part_rows=100,
        )  # fmt: skip
        assert (report.summary.rows, report.summary.failed) == (42, 2)
        assert report.folder == 's3://photos/scores'
        found = pq.read_table('photos/scores/part-000000.parquet', filesystem=filesystem)
        assert found['path'][0].as_py() == 's3://photos/of us/00000.png'
        plan = filesystem.open_input_file('photos/scores/_plan/plan.json').read()
        assert b'word' not in plan and b's3://photos/of us' in plan
        found = found.to_pandas().assign(path=list(map(str, images)))
        expect_scores(found, weights, images)
    finally:
        server.stop()


# What fails


def test_weights_that_are_gone_are_said_before_anything_is_listed(photos, tmp_path):
    with pytest.raises(AMHPError, match=r'gone\.pth: no such file'):
        score_folder([photos], tmp_path / 'out', ScorerConfig('amhp', 'gone.pth'))
    assert not (tmp_path / 'out').exists()


def test_a_metric_that_cannot_be_built_is_one_sentence(cluster, photos, tmp_path):
    with pytest.raises(AMHPError) as error:
        score_folder([photos], tmp_path / 'out', ScorerConfig('lpips'))
    assert str(error.value).startswith("metric 'lpips' needs a reference image")
    assert not parts(tmp_path / 'out')


def test_nobody_at_an_address_is_said_at_once(amhp, photos, weights, tmp_path):
    ray.shutdown()
    code, _, err = amhp(
        'score', photos, '--engine', 'ray', '--weights', weights, '--out', tmp_path / 'out',
        '--ray-address', '127.0.0.1:1',
    )  # fmt: skip
    assert code == 1 and 'no Ray cluster at 127.0.0.1:1' in err


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (('--engine', 'ray'), 'give its name with --out'),
        (('--engine', 'ray', '--column', 'path'), 'expected NAME=VALUE'),
        (('--ray-rows', '3'), 'only with --engine ray'),
        (('list.csv',), 'list.csv: tables of images take --engine ray'),
    ],
)
def test_options_that_do_not_go_together_are_said(amhp, photos, options, message):
    code, _, err = amhp('score', photos, *options)
    assert code == 1 and message in err


# What dies


@pytest.fixture
def many(tmp_path):
    """Two thousand small photographs."""
    folder = tmp_path / 'many'
    folder.mkdir()
    write_photos(folder, 2000)
    return folder


def test_a_node_that_is_lost_in_the_middle_costs_no_row_and_doubles_none(many, weights, tmp_path):
    from ray.cluster_utils import Cluster

    ray.shutdown()
    out = tmp_path / 'out'
    nodes = Cluster(
        initialize_head=True, head_node_args={'num_cpus': 1, 'include_dashboard': False}
    )
    second = nodes.add_node(num_cpus=1)
    ray.init(address=nodes.address, **QUIET)
    removed = []

    def remove_in_the_middle():
        while not removed:
            if len(parts(out)) >= 6:
                nodes.remove_node(second, allow_graceful=False)
                removed.append(len(parts(out)))
            threading.Event().wait(0.02)

    watcher = threading.Thread(target=remove_in_the_middle, daemon=True)
    watcher.start()
    try:
        report = score_folder([many], out, ScorerConfig('amhp', str(weights)), part_rows=50)
        assert report.parts == 40
        assert removed and removed[0] < 40, 'the node was to be lost before the end'
    finally:
        removed.append(None)
        watcher.join()
        ray.shutdown()
        nodes.shutdown()
    found = table(out)
    assert list(found['path']) == sorted(str(image) for image in many.iterdir())
    assert report.summary.rows == len(found) == 2000 and report.summary.failed == 0
    expect_scores(found.head(100), weights, sorted(many.iterdir())[:100])


def is_at_work(process):
    """Whether a process is there that scores or writes; Ray's agents stay a minute longer."""
    try:
        works = process.name().startswith(('raylet', 'ray::Map', 'ray::Write'))
        return works and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_driver_that_is_killed_is_run_again_and_does_what_is_missing(many, weights, tmp_path):
    out = tmp_path / 'out'
    command = [
        sys.executable, '-m', 'pyiqa_amhp', 'score', many, '--engine', 'ray', '--weights', weights,
        '--out', out, '--ray-rows', '50',
    ]  # fmt: skip
    environment = {**os.environ, 'COLUMNS': '200'}
    run = subprocess.Popen(
        [*map(str, command)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    while len(parts(out)) < 6 and run.poll() is None:
        threading.Event().wait(0.02)
    started = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert run.returncode == -signal.SIGKILL, 'the driver was to be killed before the end'
    assert not (out / '_manifest.json').exists()
    while any(map(is_at_work, started)):  # Ray's own processes end with their driver
        threading.Event().wait(0.05)
    kept = {part.name: part.stat().st_mtime_ns for part in parts(out)}
    assert 6 <= len(kept) < 40

    again = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert f'2000 rows in 40 parts, {len(kept)} of them from an earlier run' in again.stdout
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == kept
    found = table(out)
    assert list(found['path']) == sorted(str(image) for image in many.iterdir())
    assert json.loads((out / '_manifest.json').read_text())['rows'] == 2000
