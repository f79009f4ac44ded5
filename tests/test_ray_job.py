"""Scoring on Ray: a cluster on this machine, nodes and drivers that die, an object store."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import fsspec
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from conftest import write_photos
from ray.cluster_utils import Cluster

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.scoring import create_metric, score_images
from pyiqa_amhp.scoring.ray.actors import METADATA, ScorerConfig
from pyiqa_amhp.scoring.ray.job import job_settings, score_dataset, score_folder
from pyiqa_amhp.scoring.ray.plan import Source, write_plan
from pyiqa_amhp.scoring.ray.storage import Storage


def numbered_photos(folder, count):
    return write_photos(folder, [f'{i:05d}.png' for i in range(count)], [(12, 9)] * count)


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """Ten photographs and two files that are none, in one folder, in their order."""
    folder = numbered_photos(tmp_path_factory.mktemp('photos'), 10)
    (folder / 'text.jpg').write_text('no image')
    (folder / 'void.png').touch()
    return sorted(folder.iterdir())


@pytest.fixture(scope='module')
def photos(images):
    """Their folder."""
    return images[0].parent


@pytest.fixture(scope='module')
def cluster():
    """A cluster of two nodes on this machine, which jobs use instead of starting Ray."""
    checks = {  # a lost node is noticed in 2 s, by default in 20 s
        'health_check_initial_delay_ms': 0,
        'health_check_period_ms': 500,
        'health_check_failure_threshold': 4,
    }
    head = {'num_cpus': 1, 'include_dashboard': False, '_system_config': checks}
    nodes = Cluster(initialize_head=True, head_node_args=head)
    nodes.add_node(num_cpus=1)
    ray.init(address=nodes.address, logging_level='error', log_to_driver=False)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


def part_files(folder):
    return sorted(Path(folder).glob('part-*.parquet'))


def check_scores(found, weights, images, texts=None):
    """Check that a table has the rows of ``score_images``, each once, in the same order."""
    metric = create_metric('amhp', str(weights), 'cpu')
    expected = list(score_images(images, texts, metric))
    assert list(found['path']) == [str(image) for image in images]
    for (_, row), result in zip(found.iterrows(), expected, strict=True):
        if result.error:
            assert row['error'] and pd.isna(row['score'])
        else:
            assert row['score'] == pytest.approx(result.score, abs=1e-5)
            assert row['p_good'] == pytest.approx(result.levels['good'], abs=1e-5)
            assert (row['prompt_source'], row['error']) == (result.prompt_source, '')


# Folders


@pytest.mark.slow
def test_the_command_scores_as_in_one_process_and_reports_failures(
    cluster, amhp, photos, images, tiny_weights, tmp_path
):
    # A job that failed before its first part: its plan is replaced if the settings differ.
    write_plan(Source(Storage(), [str(photos)]), str(tmp_path / 'out'), {'metric': 'nima'})

    command = ('score', photos, '--engine', 'ray', '--weights', tiny_weights)
    command += ('--out', tmp_path / 'out', '--ray-actors', 1)
    code, out, err = amhp(*command, '--text', 'lovely light', '--ray-rows', 5)
    assert code == 1
    assert '12 rows in 3 parts' in out and 'scale 1..10' in out
    assert '2 of 12 images could not be scored' in err and 'the file is empty' in err
    found = pd.read_parquet(tmp_path / 'out')  # without names that begin with _
    check_scores(found, tiny_weights, images, ['lovely light'] * len(images))

    manifest = json.loads((tmp_path / 'out' / '_manifest.json').read_text())
    assert [(part['rows'], part['failed']) for part in manifest['parts']] == [
        (5, 0),
        (5, 0),
        (2, 2),
    ]
    assert (manifest['rows'], manifest['failed'], manifest['scale']) == (12, 2, '1..10')

    before = [part.stat() for part in part_files(tmp_path / 'out')]
    code, out, _ = amhp(*command, '--text', 'lovely light', '--ray-rows', 5)
    assert code == 1 and '3 of them from an earlier run' in out
    assert [part.stat() for part in part_files(tmp_path / 'out')] == before

    code, _, err = amhp(*command)
    assert code == 1 and "text was 'lovely light' and is None" in err


@pytest.mark.slow
def test_images_in_a_table_are_scored_with_their_texts(cluster, images, tiny_weights, tmp_path):
    texts = [f'light number {i}' for i in range(len(images))]
    table = pa.table({
        'jpg': [image.read_bytes() for image in images],
        'text': texts,
        'path': [str(image) for image in images],
    })  # fmt: skip
    pq.write_table(table, tmp_path / 'photos.parquet', row_group_size=7)
    report = score_folder(
        [tmp_path / 'photos.parquet'],
        tmp_path / 'out',
        ScorerConfig('amhp', str(tiny_weights)),
        columns={'image': 'jpg'},
        actors=1,
    )
    assert (report.summary.count, report.summary.failed) == (12, 2)
    check_scores(pd.read_parquet(tmp_path / 'out'), tiny_weights, images, texts)


def test_a_job_of_version_0_1_0_resumes(tmp_path):
    """Its parts have a column ``text_source``; this one is complete, so that Ray is not needed."""
    out = tmp_path / 'out'
    settings = {'inputs': '/photos', 'metric': 'piqe', 'weights': 'none', 'version': '0.1.0'}
    plan = {'settings': settings, 'parts': 2, 'rows': 3, 'columns': None}
    (out / '_plan').mkdir(parents=True)
    (out / '_plan' / 'plan.json').write_text(json.dumps(plan))
    parts = [
        {'path': ['a', 'b'], 'score': [2.0, 1.0], 'text_source': ['none', 'given']},
        {'path': ['c'], 'score': [3.0], 'text_source': ['none']},
    ]
    for number, part in enumerate(parts):
        rows = len(part['path'])
        metadata = {'rows': rows, 'failed': 0, 'scale': '0..100', 'lower_better': True}
        table = pa.table({**part, 'error': [''] * rows})
        table = table.replace_schema_metadata({METADATA: json.dumps({**metadata, 'warnings': []})})
        pq.write_table(table, out / f'part-00000{number}.parquet')

    with pytest.raises(AMHPError, match='--no-color-profiles resumes it'):
        score_folder(['/photos'], out, ScorerConfig('piqe'))
    config = ScorerConfig('piqe', scoring={'color_profiles': False})
    report = score_folder(['/photos'], out, config)
    assert (report.shards, report.shards_before, report.summary.count) == (2, 2, 3)
    assert [result.path for result in report.summary.best] == ['b', 'a', 'c']  # lower is better
    assert report.summary.best[0].prompt_source == 'given'


def test_settings_of_a_job_hold_no_secrets():
    address = 's3://KEY:SECRET@bucket/photos/?endpoint_override=host:9000'
    settings = json.dumps(job_settings([address], ScorerConfig()))
    assert 's3://bucket/photos/' in settings
    assert 'KEY' not in settings and 'SECRET' not in settings and 'host' not in settings


def test_settings_of_a_job_say_whether_colour_profiles_are_applied():
    on = job_settings(['/photos'], ScorerConfig())
    assert on['color_profiles'] is True
    for off in ({'options': {'color_profiles': False}}, {'scoring': {'color_profiles': False}}):
        assert job_settings(['/photos'], ScorerConfig(**off)) == {
            name: value for name, value in on.items() if name != 'color_profiles'
        }


# Ray data sets


@pytest.mark.slow
def test_a_data_set_of_paths_keeps_its_columns(cluster, images, tiny_weights):
    rows = [{'path': str(image), 'id': i} for i, image in enumerate(images)]
    scored = score_dataset(ray.data.from_items(rows), weights=str(tiny_weights), actors=1)
    found = scored.to_pandas().sort_values('id')
    assert list(found['id']) == list(range(len(images)))
    check_scores(found, tiny_weights, images)


@pytest.mark.slow
def test_a_data_set_of_decoded_images_is_scored_exactly(cluster, images, tiny_weights):
    images = images[:10]
    ds = ray.data.read_images([str(image) for image in images], include_paths=True)
    scored = score_dataset(ds, weights=str(tiny_weights), image='image', actors=1)
    found = scored.to_pandas().sort_values('path')
    assert 'image' not in found
    check_scores(found, tiny_weights, images)


def test_a_data_set_without_images_is_an_error(cluster):
    with pytest.raises(AMHPError, match='no column bytes, image or path; there are id'):
        score_dataset(ray.data.range(3))


# Object stores


@pytest.mark.slow
def test_an_object_store_holds_images_and_takes_scores(cluster, images, tiny_weights):
    moto = pytest.importorskip('moto.server', reason='moto, a double of S3, is not installed')
    server = moto.ThreadedMotoServer(ip_address='127.0.0.1', port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = f'endpoint_override={host}:{port}&scheme=http'
    try:
        s3 = fsspec.filesystem(
            's3', key='key', secret='word', endpoint_url=f'http://{host}:{port}',
            use_listings_cache=False,
        )  # fmt: skip
        s3.mkdir('photos')
        for image in images:
            s3.put_file(str(image), f'photos/of us/{image.name}')
        report = score_folder(
            [f's3://key:word@photos/of us?{options}'],
            f's3://key:word@photos/scores?{options}',
            ScorerConfig('amhp', str(tiny_weights)),
            actors=1,
        )
        assert (report.summary.count, report.summary.failed) == (12, 2)
        assert report.folder == 's3://photos/scores'
        written = {name: s3.cat_file(name) for name in s3.find('photos/scores')}
        assert written.keys() == {
            'photos/scores/_manifest.json',
            'photos/scores/_plan/000000.parquet',
            'photos/scores/_plan/plan.json',
            'photos/scores/part-000000.parquet',
        }
        assert not any(b'word' in content for content in written.values())
        assert b's3://photos/of us' in written['photos/scores/_plan/plan.json']
        found = pd.read_parquet(s3.open('photos/scores/part-000000.parquet'))
        assert found['path'][0] == 's3://photos/of us/00000.png'
        check_scores(found.assign(path=list(map(str, images))), tiny_weights, images)
    finally:
        server.stop()


# Errors


def test_missing_weights_are_an_error_before_anything_is_listed(photos, tmp_path):
    with pytest.raises(AMHPError, match=r'gone\.pth: no such file'):
        score_folder([photos], tmp_path / 'out', ScorerConfig('amhp', 'gone.pth'))
    assert not (tmp_path / 'out').exists()


@pytest.mark.slow
def test_a_metric_that_cannot_be_created_is_reported_in_one_sentence(cluster, photos, tmp_path):
    with pytest.raises(AMHPError) as error:
        score_folder([photos], tmp_path / 'out', ScorerConfig('lpips'), actors=1)
    assert str(error.value).startswith("metric 'lpips' needs a reference image")
    assert not part_files(tmp_path / 'out')


def test_an_address_without_a_cluster_is_reported_at_once(
    amhp, photos, tiny_weights, tmp_path, monkeypatch
):
    monkeypatch.setattr(ray, 'is_initialized', lambda: False)  # that of other tests
    code, _, err = amhp(
        'score', photos, '--engine', 'ray', '--weights', tiny_weights, '--out', tmp_path / 'out',
        '--ray-address', '127.0.0.1:1',
    )  # fmt: skip
    assert code == 1 and 'no Ray cluster at 127.0.0.1:1' in err


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (('--engine', 'ray'), 'give its name with --out'),
        (('--engine', 'ray', '--out', 'scores', '--column', 'path'), 'expected NAME=VALUE'),
        (('--ray-rows', '3'), 'only with --engine ray'),
        (('list.csv',), 'list.csv: tables of images take --engine ray'),
    ],
)
def test_options_that_contradict_are_an_error(amhp, photos, options, message):
    code, _, err = amhp('score', photos, *options)
    assert code == 1 and message in err


# Processes that die


@pytest.fixture(scope='module')
def many_photos(tmp_path_factory):
    """Four hundred small photographs."""
    return numbered_photos(tmp_path_factory.mktemp('many'), 400)


def is_working(process):
    """Whether a process scores or writes; Ray's agents live a minute longer."""
    try:
        works = process.name().startswith(('raylet', 'ray::Map', 'ray::Write'))
        return works and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
def test_a_killed_driver_is_run_again_and_scores_what_is_missing(
    cluster, amhp, many_photos, tiny_weights, tmp_path
):
    out = tmp_path / 'out'
    arguments = ('score', many_photos, '--engine', 'ray', '--weights', tiny_weights)
    arguments += ('--out', out, '--ray-rows', 20, '--ray-actors', 1)
    run = subprocess.Popen(
        [sys.executable, '-m', 'pyiqa_amhp', *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    while len(part_files(out)) < 3 and run.poll() is None:
        time.sleep(0.01)
    assert run.poll() is None, run.communicate()[0]
    started = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert run.returncode == -signal.SIGKILL, 'the driver was to be killed before the end'
    assert not (out / '_manifest.json').exists()
    while any(map(is_working, started)):  # Ray's own processes end with their driver
        time.sleep(0.05)
    kept = {part.name: part.stat().st_mtime_ns for part in part_files(out)}
    assert 3 <= len(kept) < 20

    code, printed, error = amhp(*arguments)
    assert code == 0, error
    assert f'400 rows in 20 parts, {len(kept)} of them from an earlier run' in printed
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == kept
    found = pd.read_parquet(out)
    assert list(found['path']) == sorted(str(image) for image in many_photos.iterdir())
    assert json.loads((out / '_manifest.json').read_text())['rows'] == 400


@pytest.mark.slow
def test_a_lost_node_loses_no_row_and_doubles_none(cluster, many_photos, tiny_weights, tmp_path):
    out = tmp_path / 'out'
    second = cluster.worker_nodes.copy().pop()
    parts_at_loss = []
    is_over = threading.Event()

    def remove_node():
        while not is_over.wait(0.01):
            if len(part_files(out)) >= 3:
                cluster.remove_node(second, allow_graceful=False)
                parts_at_loss.append(len(part_files(out)))
                return

    watcher = threading.Thread(target=remove_node, daemon=True)
    watcher.start()
    try:
        config = ScorerConfig('amhp', str(tiny_weights))
        report = score_folder([many_photos], out, config, shard_rows=20)
    finally:
        is_over.set()
        watcher.join()
    assert report.shards == 20
    assert parts_at_loss and parts_at_loss[0] < 20, 'the node was to be lost before the end'
    images = sorted(many_photos.iterdir())
    found = pd.read_parquet(out)
    assert list(found['path']) == list(map(str, images))
    assert report.summary.count == len(found) == 400 and report.summary.failed == 0
    check_scores(found.head(100), tiny_weights, images[:100])
