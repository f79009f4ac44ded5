"""Fixtures of the page: it is served once for all tests, with a tiny AMHP."""

import os
import sys
import threading
import time
from types import SimpleNamespace

import pytest

APP_LIMITS = {
    'file_mb': 2, 'pixels': 2_000_000, 'files': 12, 'requests': 100_000, 'disk_mb': 24
}  # fmt: skip


def wait_until(condition, seconds=30):
    """Wait until a condition holds; fail if it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'the condition did not hold in time'
        threading.Event().wait(0.05)


def serve_in_thread(app):
    """Serve on a free port. Return the URL, and a function that ends the server."""
    import uvicorn

    from pyiqa_amhp.app.server import listen

    listening = listen('127.0.0.1', 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level='critical', timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={'sockets': [listening]}, daemon=True)
    thread.start()
    wait_until(lambda: server.started)

    def end():
        server.should_exit = True
        thread.join()
        listening.close()

    return f'http://127.0.0.1:{listening.getsockname()[1]}/', end


@pytest.fixture(scope='session')
def app_photos(tmp_path_factory):
    """A folder with photographs of several sizes, and a text file named ``text.jpg``."""
    from conftest import write_photos

    folder = tmp_path_factory.mktemp('photos')
    sizes = ((64, 48), (48, 64), (90, 40), (50, 50), (33, 70), (60, 45))
    write_photos(folder, [f'photo{i}.png' for i in range(len(sizes))], sizes)
    (folder / 'text.jpg').write_text('this is no photograph')
    return folder


@pytest.fixture(scope='session')
def photo_scorer(tiny_weights):
    """The scorer behind the page, for calls without the page."""
    from pyiqa_amhp.app.limits import Limits
    from pyiqa_amhp.app.photos import PhotoScorer
    from pyiqa_amhp.scoring.scorer import create_metric

    return PhotoScorer(create_metric('amhp', tiny_weights, 'cpu'), Limits(**APP_LIMITS))


@pytest.fixture(scope='session')
def app_server(photo_scorer, tmp_path_factory):
    """The served page: ``url``, ``folder`` of uploads, ``addresses`` that were connected to."""
    pytest.importorskip('gradio')
    from pyiqa_amhp.app.server import FOLDER_VARIABLE, build_app

    folder = tmp_path_factory.mktemp('uploads')
    before = os.environ.get(FOLDER_VARIABLE)
    addresses, watching = [], [True]

    def watch(event, values):  # Python cannot remove an audit hook
        if watching[0] and event in ('socket.connect', 'socket.getaddrinfo'):
            addresses.append(values[1] if event == 'socket.connect' else values[:2])

    sys.addaudithook(watch)
    app = build_app(photo_scorer.scorer.metric, photo_scorer.limits, folder)
    url, end = serve_in_thread(app)
    yield SimpleNamespace(url=url, folder=folder, addresses=addresses)
    end()
    watching[0] = False
    if before is None:
        del os.environ[FOLDER_VARIABLE]
    else:
        os.environ[FOLDER_VARIABLE] = before
