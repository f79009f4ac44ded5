"""The page of a tiny AMHP, served once for all tests, and photographs for it."""

import os
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

APP_LIMITS = {
    'file_mb': 2, 'pixels': 2_000_000, 'files': 12, 'requests': 100_000, 'disk_mb': 24
}  # fmt: skip


def until(what, seconds=30):
    """Wait for what happens elsewhere; fails if it does not."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, 'it did not happen'
        threading.Event().wait(0.05)


def serve_in_thread(app):
    """Serve on a free port; gives the address, and what ends it."""
    import uvicorn

    from pyiqa_amhp.app.server import listen

    listening = listen('127.0.0.1', 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level='critical', timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={'sockets': [listening]}, daemon=True)
    thread.start()
    until(lambda: server.started)

    def end():
        server.should_exit = True
        thread.join()
        listening.close()

    return f'http://127.0.0.1:{listening.getsockname()[1]}/', end


@pytest.fixture(scope='session')
def app_photos(tmp_path_factory):
    """Photographs of several sizes, and a text that is called a photograph."""
    folder = tmp_path_factory.mktemp('photos')
    rng = np.random.default_rng(0)
    for i, size in enumerate(((64, 48), (48, 64), (90, 40), (50, 50), (33, 70), (60, 45))):
        pixels = rng.integers(0, 40 * (i + 1), (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(folder / f'photo{i}.png')
    (folder / 'text.jpg').write_text('this is no photograph')
    return folder


@pytest.fixture(scope='session')
def photo_scorer(tiny_weights):
    """What is behind the page, asked without it."""
    from pyiqa_amhp.app.limits import Limits
    from pyiqa_amhp.app.photos import PhotoScorer
    from pyiqa_amhp.scoring.scorer import create_metric

    return PhotoScorer(create_metric('amhp', tiny_weights, 'cpu'), Limits(**APP_LIMITS))


@pytest.fixture(scope='session')
def app_server(photo_scorer, tmp_path_factory):
    """The served page: ``url``, ``folder`` of its uploads, ``calls`` to other addresses."""
    pytest.importorskip('gradio')
    from pyiqa_amhp.app.server import FOLDER_VARIABLE, build_app

    folder = tmp_path_factory.mktemp('uploads')
    before = os.environ.get(FOLDER_VARIABLE)
    called, watching = [], [True]

    def watch(event, values):  # cannot be taken off again, only silenced
        if watching[0] and event in ('socket.connect', 'socket.getaddrinfo'):
            called.append(values[1] if event == 'socket.connect' else values[:2])

    sys.addaudithook(watch)
    app = build_app(photo_scorer.scorer.metric, photo_scorer.limits, folder)
    url, end = serve_in_thread(app)
    yield SimpleNamespace(url=url, folder=folder, called=called)
    end()
    watching[0] = False
    if before is None:
        del os.environ[FOLDER_VARIABLE]
    else:
        os.environ[FOLDER_VARIABLE] = before
