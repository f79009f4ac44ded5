"""Downloads in a benchmark: a metric without its weights fails within seconds, with the reason."""

import socket
import time
import urllib.request

import pytest
from huggingface_hub import constants

from pyiqa_amhp.evaluation import network
from pyiqa_amhp.evaluation.benchmark import benchmark
from pyiqa_amhp.evaluation.network import OFFLINE_TIMEOUT, TIMEOUT, bounded_downloads, reason_for
from pyiqa_amhp.evaluation.rated_set import load_rated


@pytest.fixture
def no_hub(monkeypatch):
    """A machine that is online by its settings, whose hub does not answer."""
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr(network, 'hub_problem', lambda: 'no answer in time')


@pytest.fixture
def no_names(monkeypatch):
    """A machine on which no host name can be resolved."""

    def fail(host, *args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, 'Name or service not known')

    monkeypatch.setattr(socket, 'getaddrinfo', fail)


@pytest.fixture
def silent_server(monkeypatch):
    """A server that accepts connections and sends nothing; every host name leads to it."""
    resolve = socket.getaddrinfo
    with socket.create_server(('127.0.0.1', 0)) as server:
        address = server.getsockname()
        monkeypatch.setattr(socket, 'getaddrinfo', lambda *_, **options: resolve(*address))
        yield server


def test_limits_hold_inside_the_block_only(no_hub):
    before = socket.getdefaulttimeout()
    with bounded_downloads() as problem:
        assert problem == 'no answer in time'
        assert constants.HF_HUB_OFFLINE and socket.getdefaulttimeout() == OFFLINE_TIMEOUT
    assert not constants.HF_HUB_OFFLINE and socket.getdefaulttimeout() == before


def test_a_hub_in_reach_is_used_with_a_longer_timeout(monkeypatch):
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr(network, 'hub_problem', lambda: '')
    with bounded_downloads() as problem:
        assert (problem, socket.getdefaulttimeout()) == ('', TIMEOUT)
        assert not constants.HF_HUB_OFFLINE


def test_a_server_that_sends_nothing_is_an_error_after_the_timeout(
    no_hub, silent_server, monkeypatch
):
    monkeypatch.setattr(network, 'OFFLINE_TIMEOUT', 0.5)
    start = time.monotonic()
    with bounded_downloads() as problem, pytest.raises(OSError) as caught:
        urllib.request.urlopen('https://example.com/weights.pth')
    assert time.monotonic() - start < 5
    assert 'not on this machine' in reason_for(caught.value, problem)


@pytest.mark.parametrize(
    'name', ['topiq_nr', 'musiq', 'clipiqa', 'compare2score', 'qrealign-mini', 'amhp']
)
def test_each_of_pyiqas_ways_to_download_ends_in_the_same_reason(
    no_hub, no_names, hub_cache, rated_images, tmp_path, monkeypatch, name
):
    monkeypatch.setattr('pyiqa.utils.download_util.DEFAULT_CACHE_DIR', str(hub_cache))
    start = time.monotonic()
    [row] = benchmark([name], load_rated(str(rated_images)), tmp_path / 'out', resamples=0).rows
    assert 'out of reach (no answer in time)' in row.error
    assert time.monotonic() - start < 20  # huggingface_hub's retries alone take longer


def test_other_errors_keep_their_own_text():
    assert reason_for(KeyError('colour'), 'offline') == "KeyError: 'colour'"
    assert reason_for(RuntimeError(''), '') == 'RuntimeError: no message'
    assert len(reason_for(RuntimeError('long ' * 99), '')) <= 214


def test_an_answer_of_a_server_is_no_network_error():
    missing = urllib.request.HTTPError('https://example.com/a.pth', 404, 'Not Found', {}, None)
    assert reason_for(missing, 'offline') == 'HTTPError: HTTP Error 404: Not Found'
