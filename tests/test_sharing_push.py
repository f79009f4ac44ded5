"""Push to the hub and loading by id, with the real client and a test double of the hub."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import add_to_store
from hub_double import OWNER, READER, STRANGER, WRITER, hub_in_reach, running_hub

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.sharing.push import push, write_repository
from pyiqa_amhp.weights import store as weights
from pyiqa_amhp.weights.checkpoint import read_checkpoint, save_checkpoint
from pyiqa_amhp.weights.hub import HubId, hub_id

MODEL = HubId(f'{OWNER}/a-model')
ID = str(MODEL)
FILES = {'model.safetensors', 'config.json', 'README.md'}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A test double of the hub, an empty cache, and a token that may write."""
    with hub_in_reach(tmp_path / 'hub', monkeypatch=monkeypatch) as hub:
        yield hub


@pytest.fixture
def best(trained_and_tested):
    return trained_and_tested / 'experiments' / 'tiny' / 'models' / 'net_best.pth'


@pytest.fixture(scope='module')
def repositories(tmp_path_factory):
    """Repositories that ``written`` made, for all tests: read only."""
    return {}, tmp_path_factory.mktemp('repositories')


@pytest.fixture
def written(make_amhp, repositories):
    """Write the repository of a tiny AMHP; returns the network and the folder, once per seed."""
    made, root = repositories

    def write(seed=0):
        if seed not in made:
            net, folder = make_amhp(seed, quick_gelu=True), root / str(seed)
            file = save_checkpoint(root / f'net{seed}.pth', net.state_dict())
            write_repository(file, MODEL, folder)
            made[seed] = net, folder
        return made[seed]

    return write


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def score(net):
    images = torch.rand(3, 3, 41, 53, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return net.eval()(images, text=['soft evening light', None, 'the horizon is tilted'])


def loading_error():
    with pytest.raises(AMHPError) as caught:
        AMHP(pretrained_model_path=ID)
    return str(caught.value)


# Push and loading


def test_a_pushed_checkpoint_gives_identical_scores(
    hub, amhp, best, trained_and_tested, monkeypatch
):
    results = trained_and_tested / 'results' / 'tiny'
    code, out, err = amhp('weights', 'push', best, ID, '--results', results, '--licence', 'mit')
    assert code == 0, err
    assert 'not recorded' not in err and 'no licence' not in err
    assert f'pushed: {hub.endpoint}/{MODEL.repo}/commit/' in out

    monkeypatch.delenv('HF_TOKEN')  # it is public
    hub.tokens.clear()
    loaded = AMHP(pretrained_model_path=ID)
    assert torch.equal(score(loaded), score(AMHP(pretrained_model_path=str(best))))
    assert not any(hub.tokens)
    assert any('storage' in request for request in hub.requests)


def test_the_three_files_come_in_one_commit(hub, written):
    _, folder = written()
    push(folder, MODEL, message='The first one')
    [(_, empty), (_, files)] = hub.repos[MODEL.repo].commits
    assert set(empty) == {'.gitattributes'}
    assert {name: files[name] for name in FILES} == files_of(folder)
    assert set(files) == {*FILES, '.gitattributes'}


def test_cached_weights_load_without_a_network_and_without_a_request(hub, written, monkeypatch):
    net, folder = written()
    hub.add(MODEL.repo, files_of(folder))
    AMHP(pretrained_model_path=ID)
    hub.requests.clear()
    assert torch.equal(score(AMHP(pretrained_model_path=ID)), score(net))
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    assert torch.equal(score(AMHP(pretrained_model_path=ID)), score(net))
    assert hub.requests == []


def test_weights_that_cannot_be_downloaded_are_an_error_with_three_ways_out(hub, monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    message = loading_error()
    for part in (ID, 'HF_HUB_OFFLINE is set', f'`hf download {MODEL.repo}`', 'HF_ENDPOINT',
                 'pretrained_model_path=FILE', '`amhp weights add model.safetensors'):  # fmt: skip
        assert part in message
    assert hub.requests == []


def test_a_revision_is_fixed_and_adding_to_the_store_fetches_the_newest(hub, written):
    first, folder = written(1)
    sha = hub.add(MODEL.repo, files_of(folder))
    assert torch.equal(score(AMHP(pretrained_model_path=ID)), score(first))
    second, folder = written(2)
    push(folder, MODEL)
    assert torch.equal(score(AMHP(pretrained_model_path=f'{ID}@{sha}')), score(first))
    assert torch.equal(score(AMHP(pretrained_model_path=ID)), score(first))  # from the cache
    stored = add_to_store(ID, 'ava')
    assert torch.equal(score(AMHP(pretrained_model_path=str(stored))), score(second))
    assert torch.equal(score(AMHP(pretrained_model_path=ID)), score(second))


def test_both_files_come_from_one_commit_in_spite_of_a_push_meanwhile(hub, written):
    first, folder = written(1)
    hub.add(MODEL.repo, files_of(folder))
    later = files_of(written(2)[1])
    hub.when = {'HEAD .*/model.safetensors': lambda: hub.add(MODEL.repo, later)}
    assert torch.equal(score(AMHP(pretrained_model_path=ID)), score(first))


@pytest.fixture
def shared(hub, written):
    """A network whose weights are on the hub."""
    net, folder = written(7)
    hub.add(MODEL.repo, files_of(folder))
    return net


def test_pyiqas_metric_takes_an_id(shared, monkeypatch):
    import pyiqa

    expected = score(shared)
    metric = pyiqa.create_metric('amhp', pretrained_model_path=ID, device='cpu')
    assert torch.equal(score(metric.net), expected)
    assert metric.net.weights_from == ID
    monkeypatch.setenv('PYIQA_AMHP_WEIGHTS', ID)
    assert torch.equal(score(pyiqa.create_metric('amhp', device='cpu').net), expected)


def test_the_commands_take_an_id(shared, amhp, shared_rated_images, tmp_path, monkeypatch):
    import pyiqa

    folder = shared_rated_images.parent / 'images'
    metric = pyiqa.create_metric('amhp', pretrained_model_path=ID, device='cpu')
    first = metric(str(folder / '00.png')).item()
    code, out, err = amhp('score', folder / '00.png', '--weights', ID, '--device', 'cpu', '--exact')
    assert code == 0, err
    assert f'{first:.4f}' in out
    for command in (
        ('explain', folder / '00.png', '--weights', ID, '--device', 'cpu'),
        ('weights', 'add', ID, '--as', 'mine'),
        ('benchmark', '--metrics', 'amhp', '--data', shared_rated_images, '--weights', ID,
         '--device', 'cpu', '--out', tmp_path / 'benchmark'),
    ):  # fmt: skip
        code, out, err = amhp(*command)
        assert code == 0, err
    assert ID in (tmp_path / 'benchmark' / 'results.csv').read_text()
    assert torch.equal(
        score(AMHP(pretrained_model_path=str(weights.store_path('mine')))), score(shared)
    )
    monkeypatch.setenv('PYIQA_AMHP_WEIGHTS', ID)
    assert str(Path('snapshots')) in amhp('info')[1]


def test_a_training_starts_from_an_id(shared, build):
    model = build(path={'pretrain_network': ID}, network={'quick_gelu': True})
    ours, theirs = model.net.state_dict(), shared.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert model.record.content['continued_from'] == ID


@pytest.mark.parametrize('metric', ['tanet', 'nima'])
def test_another_metric_than_amhp_takes_local_files_only(amhp, shared_rated_images, metric):
    folder = shared_rated_images.parent / 'images'
    code, _, err = amhp('score', folder, '--metric', metric, '--weights', ID, '--device', 'cpu')
    assert code == 1
    assert 'only AMHP loads weights from the hub' in err


# Refusals of the hub


@pytest.mark.parametrize(
    ('token', 'message'),
    [
        (None, 'to push you must be logged in: `hf auth login`'),
        ('hf_wrong', 'your token is not valid (mistyped, expired or revoked); log in again'),
        (READER, 'it needs the permission to write'),
        (STRANGER, f'{OWNER!r} must be you or an organisation that lets you'),
    ],
    ids=['none', 'wrong', 'reader', 'stranger'],
)
def test_a_token_that_may_not_push_is_reported(hub, written, monkeypatch, token, message):
    _, folder = written()
    monkeypatch.delenv('HF_TOKEN')
    if token:
        monkeypatch.setenv('HF_TOKEN', token)
    with pytest.raises(AMHPError) as caught:
        push(folder, MODEL)
    assert message in str(caught.value)
    assert hub.repos == {}


@pytest.mark.parametrize(
    ('refused', 'status', 'message'),
    [
        (
            'POST /api/repos/create',
            500,
            'the hub has an internal problem (HTTP 500); try again later',
        ),
        ('POST .*/preupload/', 404, 'there is no such repository'),
        ('POST .*/objects/batch', 400, 'the hub refused it (HTTP 400: refused by the test)'),
        ('PUT /storage/', 400, 'the hub refused it (HTTP 400'),
        ('POST .*/commit/main', 409, 'somebody else changed it meanwhile'),
        ('POST .*/commit/main', 429, 'too many requests to the hub; wait some minutes'),
        ('POST .*/commit/main', 503, 'the hub has an internal problem (HTTP 503); try again later'),
    ],
)
def test_an_interrupted_push_leaves_nothing_that_loads(hub, written, refused, status, message):
    _, folder = written()
    hub.refuse = {refused: status}
    with pytest.raises(AMHPError) as caught:
        push(folder, MODEL)
    assert message in str(caught.value)
    hub.refuse = {}
    error = loading_error()
    assert 'no such repository' in error or 'no AMHP is there' in error
    push(folder, MODEL)  # a second push succeeds
    AMHP(pretrained_model_path=ID)


def test_an_interrupted_push_leaves_the_earlier_model(hub, written):
    first, folder = written(1)
    push(folder, MODEL)
    _, folder = written(2)
    hub.refuse = {'POST .*/commit/main': 503}
    with pytest.raises(AMHPError, match='try again later'):
        push(folder, MODEL)
    hub.refuse = {}
    assert torch.equal(score(AMHP(pretrained_model_path=ID)), score(first))


def test_a_push_of_somebody_else_meanwhile_is_not_overwritten(hub, written):
    _, folder = written()
    hub.when = {'POST .*/commit/main': lambda: hub.add(MODEL.repo, {'README.md': b'theirs'})}
    with pytest.raises(
        AMHPError, match=r'somebody else changed it meanwhile.*run the command again'
    ):
        push(folder, MODEL)
    assert hub.repos[MODEL.repo].files()[1] == {'README.md': b'theirs'}


@pytest.mark.parametrize(
    'theirs',
    [{'config.json': b'{"model_type": "bert"}'}, {'model.safetensors': b'x'}],
    ids=['config', 'weights'],
)
def test_another_model_is_not_overwritten(hub, written, theirs):
    _, folder = written()
    hub.add(MODEL.repo, theirs)
    with pytest.raises(AMHPError, match='nothing was pushed, give another name'):
        push(folder, MODEL)
    assert hub.repos[MODEL.repo].files()[1] == theirs


def test_a_private_repository_needs_a_token_that_may_read_it(hub, written, monkeypatch):
    net, folder = written()
    push(folder, MODEL, private=True)
    assert hub.repos[MODEL.repo].private
    monkeypatch.delenv('HF_TOKEN')
    assert 'it is private and you are not logged in (`hf auth login`' in loading_error()
    monkeypatch.setenv('HF_TOKEN', STRANGER)
    assert 'it is private and your token may not read it' in loading_error()
    monkeypatch.setenv('HF_TOKEN', READER)
    assert torch.equal(score(AMHP(pretrained_model_path=ID)), score(net))


def test_a_push_with_private_to_a_public_repository_is_refused(hub, written):
    _, folder = written()
    push(folder, MODEL)
    with pytest.raises(AMHPError, match='is public already'):
        push(folder, MODEL, private=True)


def test_a_push_out_of_reach_of_the_hub_is_reported(hub, written, monkeypatch):
    _, folder = written()
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    with pytest.raises(AMHPError, match=r'out of reach \(HF_HUB_OFFLINE is set\).*--dry-run DIR'):
        push(folder, MODEL)
    assert hub.requests == []


def test_a_missing_revision_and_a_missing_repository_have_their_own_errors(shared):
    for model, message in (
        (f'{ID}@v2', "there is no revision 'v2'"),
        (f'hf-hub:{OWNER}/absent', 'there is no such repository'),
    ):
        with pytest.raises(AMHPError, match=message):
            AMHP(pretrained_model_path=model)


# Without the hub


def test_a_dry_run_writes_the_files_and_sends_nothing(hub, amhp, best, tmp_path):
    code, _, err = amhp('weights', 'push', best, ID, '--dry-run', tmp_path / 'dry')
    assert code == 0, err
    assert 'no licence is stated' in err
    assert set(files_of(tmp_path / 'dry')) == FILES
    described = json.loads((tmp_path / 'dry' / 'config.json').read_text())
    assert described['amhp'] == read_checkpoint(best).config
    assert hub.requests == []
    loaded = AMHP(pretrained_model_path=str(tmp_path / 'dry' / 'model.safetensors'))
    assert torch.equal(score(loaded), score(AMHP(pretrained_model_path=str(best))))


def test_a_folder_with_other_files_is_refused(best, tmp_path):
    (tmp_path / 'thesis.tex').write_text('x')
    with pytest.raises(AMHPError, match=r"expected a new or empty folder, found 'thesis\.tex'"):
        write_repository(best, MODEL, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['thesis.tex']


def test_a_checkpoint_that_does_not_load_is_not_pushed(hub, amhp, make_amhp, tmp_path):
    state = make_amhp().state_dict()
    del state['fc.bias']
    file = save_checkpoint(tmp_path / 'net.pth', state)
    code, _, err = amhp('weights', 'push', file, ID)
    assert code == 1
    assert '1 missing: fc.bias' in err
    assert hub.requests == []


@pytest.mark.parametrize(
    'given',
    ['hf-hub:', 'hf-hub:alone', 'hf-hub:a/b/c', 'hf-hub:a//b', 'hf-hub:../x', 'hf-hub:a/..',
     'hf-hub:a/b@', 'hf-hub:a/b@../../x', 'hf-hub:a/b@/etc', 'hf-hub:a/b@v1/../..', 'hf-hub:a b/c',
     'hf-hub:a/b?x=1', 'hf-hub:a/b#x', 'hf-hub:http://x/y', 'hf-hub:a/b\n', 'hf-hub:a\\b', 'a/b',
     'hf-hub:a/b@x y', 'hf-hub:a/b@x\n'],
)  # fmt: skip
def test_an_invalid_id_is_refused(given):
    with pytest.raises(AMHPError, match='expected hf-hub:owner/name'):
        hub_id(given)


def test_ids_with_and_without_a_revision():
    assert hub_id('hf-hub:a/b.c_d-e') == HubId('a/b.c_d-e')
    assert hub_id('hf-hub:a/b@refs/pr/1') == HubId('a/b', 'refs/pr/1')
    assert str(hub_id(Path('hf-hub:a/b@v1.0'))) == 'hf-hub:a/b@v1.0'
    with pytest.raises(AMHPError, match='a push goes to `main`'):
        push(Path('nowhere'), HubId('a/b', 'v1'))


# Xet, which the client uses if hf_xet is installed

XET = """
import sys
from pathlib import Path
from pyiqa_amhp.sharing.push import push
from pyiqa_amhp.weights.checkpoint import read_checkpoint
from pyiqa_amhp.weights.hub import HubId
model = HubId(sys.argv[1])
push(Path(sys.argv[2]), model)
print(read_checkpoint(str(model)).path)
"""


@pytest.mark.slow
def test_a_large_file_is_sent_and_fetched_by_xet(written, tmp_path):
    hf_xet = pytest.importorskip('hf_xet')
    _, folder = written()
    file = folder / 'model.safetensors'
    with running_hub() as hub:
        hub.storage = f'local://{tmp_path / "xet"}'  # hf_xet's own test double of Xet's service
        [known] = hf_xet.hash_files([str(file)])
        hub.xet[sha256(file)] = (known.hash, file.stat().st_size)
        clean = {k: v for k, v in os.environ.items() if not k.startswith('HF_')}
        settings = {
            'HF_ENDPOINT': hub.endpoint,
            'HF_TOKEN': WRITER,
            'HF_HOME': str(tmp_path / 'hf'),
        }
        ended = subprocess.run(
            [sys.executable, '-c', XET, MODEL.repo, str(folder)],
            env={**clean, **settings, 'NO_PROXY': '*'},
            capture_output=True,
            text=True,
        )
    assert ended.returncode == 0, ended.stderr
    assert Path(ended.stdout.strip()).read_bytes() == file.read_bytes()
    assert hub.uploaded == {}
    assert any('xet-write-token' in request for request in hub.requests)
    assert any('xet-read-token' in request for request in hub.requests)


def sha256(file):
    import hashlib

    return hashlib.sha256(file.read_bytes()).hexdigest()
