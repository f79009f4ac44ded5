"""Sharing weights on the hub and reading them by id: the real client, a hub of this machine."""

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
def hub(tmp_path):
    """A hub that answers, whose cache is empty; who asks may write."""
    with hub_in_reach(tmp_path / 'hub') as hub:
        yield hub


@pytest.fixture
def best(trained_and_tested):
    return trained_and_tested / 'experiments' / 'tiny' / 'models' / 'net_best.pth'


@pytest.fixture(scope='module')
def repositories(tmp_path_factory):
    """Those that ``written`` made: to be read only."""
    return {}, tmp_path_factory.mktemp('repositories')


@pytest.fixture
def written(make_amhp, repositories):
    """The repository of a tiny AMHP: the network and the folder, the same for a seed."""
    made, place = repositories

    def write(seed=0):
        if seed not in made:
            net, folder = make_amhp(seed, quick_gelu=True), place / str(seed)
            file = save_checkpoint(place / f'net{seed}.pth', net.state_dict())
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


def cannot_load():
    with pytest.raises(AMHPError) as caught:
        AMHP(pretrained_model_path=ID)
    return str(caught.value)


# There and back


def test_what_was_trained_is_pushed_and_scores_the_same_bit_for_bit(
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


def test_once_fetched_it_loads_without_a_network_and_without_asking(hub, written, monkeypatch):
    net, folder = written()
    hub.add(MODEL.repo, files_of(folder))
    AMHP(pretrained_model_path=ID)
    hub.requests.clear()
    assert torch.equal(score(AMHP(pretrained_model_path=ID)), score(net))
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    assert torch.equal(score(AMHP(pretrained_model_path=ID)), score(net))
    assert hub.requests == []


def test_out_of_reach_and_not_here_names_three_ways_out(hub, monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    message = cannot_load()
    for part in (ID, 'HF_HUB_OFFLINE is set', f'`hf download {MODEL.repo}`', 'HF_ENDPOINT',
                 'pretrained_model_path=FILE', '`amhp weights add model.safetensors'):  # fmt: skip
        assert part in message
    assert hub.requests == []


def test_a_revision_stays_what_it_was_and_the_newest_is_fetched_when_asked(hub, written):
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


def test_both_files_are_of_one_commit_whatever_is_pushed_meanwhile(hub, written):
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
    given = pyiqa.create_metric('amhp', pretrained_model_path=ID, device='cpu')
    assert torch.equal(score(given.net), expected)
    assert given.net.weights_from == ID
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


def test_a_training_goes_on_from_an_id(shared, build):
    model = build(path={'pretrain_network': ID}, network={'quick_gelu': True})
    ours, theirs = model.net.state_dict(), shared.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert model.record.content['continued_from'] == ID


@pytest.mark.parametrize('metric', ['tanet', 'nima'])
def test_a_metric_that_is_no_amhp_is_told_to_take_a_file(amhp, shared_rated_images, metric):
    folder = shared_rated_images.parent / 'images'
    code, _, err = amhp('score', folder, '--metric', metric, '--weights', ID, '--device', 'cpu')
    assert code == 1
    assert 'only AMHP loads weights from the hub' in err


# What the hub says


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
def test_a_token_that_may_not_push_is_told_what_to_do(hub, written, monkeypatch, token, message):
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
        ('POST .*/commit/main', 429, 'too many requests; wait some minutes'),
        ('POST .*/commit/main', 503, 'the hub has an internal problem (HTTP 503); try again later'),
    ],
)
def test_a_push_that_breaks_off_leaves_nothing_that_loads(hub, written, refused, status, message):
    _, folder = written()
    hub.refuse = {refused: status}
    with pytest.raises(AMHPError) as caught:
        push(folder, MODEL)
    assert message in str(caught.value)
    hub.refuse = {}
    assert 'no such repository' in (said := cannot_load()) or 'no AMHP is there' in said
    push(folder, MODEL)  # and is repeated with success
    AMHP(pretrained_model_path=ID)


def test_a_push_that_breaks_off_leaves_the_model_before_as_it_was(hub, written):
    first, folder = written(1)
    push(folder, MODEL)
    _, folder = written(2)
    hub.refuse = {'POST .*/commit/main': 503}
    with pytest.raises(AMHPError, match='try again later'):
        push(folder, MODEL)
    hub.refuse = {}
    assert torch.equal(score(AMHP(pretrained_model_path=ID)), score(first))


def test_who_pushed_in_between_is_not_written_over(hub, written):
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
def test_another_model_is_not_written_over(hub, written, theirs):
    _, folder = written()
    hub.add(MODEL.repo, theirs)
    with pytest.raises(AMHPError, match='nothing was pushed, give another name'):
        push(folder, MODEL)
    assert hub.repos[MODEL.repo].files()[1] == theirs


def test_what_shall_be_private_is(hub, written, monkeypatch):
    net, folder = written()
    push(folder, MODEL, private=True)
    assert hub.repos[MODEL.repo].private
    monkeypatch.delenv('HF_TOKEN')
    assert 'it is private and you are not logged in (`hf auth login`' in cannot_load()
    monkeypatch.setenv('HF_TOKEN', STRANGER)
    assert 'it is private and your token may not read it' in cannot_load()
    monkeypatch.setenv('HF_TOKEN', READER)
    assert torch.equal(score(AMHP(pretrained_model_path=ID)), score(net))


def test_a_public_repository_is_not_taken_for_a_private_one(hub, written):
    _, folder = written()
    push(folder, MODEL)
    with pytest.raises(AMHPError, match='is public already'):
        push(folder, MODEL, private=True)


def test_out_of_reach_a_push_says_so(hub, written, monkeypatch):
    _, folder = written()
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    with pytest.raises(AMHPError, match=r'out of reach \(HF_HUB_OFFLINE is set\).*--dry-run DIR'):
        push(folder, MODEL)
    assert hub.requests == []


def test_an_absent_revision_and_an_absent_model_are_told_apart(shared):
    for given, said in (
        (f'{ID}@v2', "there is no revision 'v2'"),
        (f'hf-hub:{OWNER}/absent', 'there is no such repository'),
    ):
        with pytest.raises(AMHPError, match=said):
            AMHP(pretrained_model_path=given)


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


def test_a_folder_with_something_else_in_it_is_left_alone(best, tmp_path):
    (tmp_path / 'thesis.tex').write_text('x')
    with pytest.raises(AMHPError, match=r"expected a new or empty folder, found 'thesis\.tex'"):
        write_repository(best, MODEL, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['thesis.tex']


def test_what_does_not_load_is_not_pushed(hub, amhp, make_amhp, tmp_path):
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
def test_an_id_of_another_form_is_refused(given):
    with pytest.raises(AMHPError, match='expected hf-hub:owner/name'):
        hub_id(given)


def test_ids_with_and_without_a_revision():
    assert hub_id('hf-hub:a/b.c_d-e') == HubId('a/b.c_d-e')
    assert hub_id('hf-hub:a/b@refs/pr/1') == HubId('a/b', 'refs/pr/1')
    assert str(hub_id(Path('hf-hub:a/b@v1.0'))) == 'hf-hub:a/b@v1.0'
    with pytest.raises(AMHPError, match='a push goes to `main`'):
        push(Path('nowhere'), HubId('a/b', 'v1'))


# With Xet, as the client does it by itself where hf_xet is installed

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


def test_a_large_file_goes_and_comes_by_xet(written, tmp_path):
    hf_xet = pytest.importorskip('hf_xet')
    _, folder = written()
    file = folder / 'model.safetensors'
    with running_hub() as hub:
        hub.storage = f'local://{tmp_path / "xet"}'  # hf_xet's own stand-in for Xet's service
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
