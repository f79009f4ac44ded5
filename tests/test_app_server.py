"""The served page and ``amhp app``: the API, limits, privacy, and how the server ends."""

import gc
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from types import SimpleNamespace

import httpx
import numpy as np
import psutil
import pytest
from app_fixtures import serve_in_thread, wait_until
from PIL import Image

from pyiqa_amhp.app.limits import Limits
from pyiqa_amhp.app.server import build_app, import_gradio, is_loopback, listen
from pyiqa_amhp.app.uploads import Upload
from pyiqa_amhp.errors import AMHPError

pytest.importorskip('gradio')
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from pyiqa_amhp.app.layout import NOT_UPLOADED

META = {'_type': 'gradio.FileData'}


@pytest.fixture(scope='module')
def client(app_server):
    client = Client(app_server.url, verbose=False)
    yield client
    client.close()


def files_in(folder):
    return [path for path in folder.rglob('*') if path.is_file()]


def send_file(server, path):
    files = {'files': (path.name, path.read_bytes())}
    response = httpx.post(f'{server.url}gradio_api/upload', files=files)
    assert response.status_code == 200
    return response.json()[0]


def call(server, name, data):
    """Call an endpoint without Gradio's client. Return the result or the error message."""
    url = f'{server.url}gradio_api/call/{name}'
    event = httpx.post(url, json={'data': data}).json()['event_id']
    stream = httpx.get(f'{url}/{event}', timeout=30).text
    kind, values = re.match(r'event: (\w+)\ndata: (.*)', stream).groups()
    return json.loads(values)[0] if kind == 'complete' else json.loads(values)['error']


# The API


def test_programs_get_scores_and_explanations(client, photo_scorer, app_photos):
    path = app_photos / 'photo1.png'
    photo = Upload(str(path), path.name)
    got = client.predict(handle_file(path), 'soft light', api_name='/score')
    expected = photo_scorer.score(photo, 'soft light')
    assert got['score'] == pytest.approx(expected['score'], abs=1e-6)
    assert (got['name'], got['scale'], got['prompt_source']) == ('photo1.png', [1, 10], 'given')
    got = client.predict(handle_file(path), 'soft light', api_name='/explain')
    expected = photo_scorer.explain(photo, 'soft light').to_dict()
    assert got.keys() == expected.keys() and got['words'] == expected['words']
    assert got['score_without_text'] == pytest.approx(expected['score_without_text'], abs=1e-6)


def test_programs_score_many_with_texts(client, photo_scorer, app_photos, tmp_path):
    texts = tmp_path / 'texts.csv'
    texts.write_text('img_name,text\nphoto2.png,soft light\n')
    names = ['photo0.png', 'text.jpg', 'photo2.png']
    files = [handle_file(app_photos / name) for name in names]
    rows = client.predict(files, handle_file(texts), api_name='/score_many')
    assert [row['name'] for row in rows] == names
    assert [row['prompt_source'] for row in rows] == ['none', 'none', 'given']
    assert rows[1]['score'] is None and 'not an image' in rows[1]['error']
    photo = Upload(str(app_photos / 'photo2.png'), 'photo2.png')
    expected = photo_scorer.score(photo, 'soft light')['score']
    assert rows[2]['score'] == pytest.approx(expected, abs=1e-6)


def test_programs_get_error_messages(client, app_photos):
    with pytest.raises(AppError, match=r'^text.jpg: not an image that Pillow can read'):
        client.predict(handle_file(app_photos / 'text.jpg'), '', api_name='/explain')
    with pytest.raises(AppError, match='no photograph: choose one first'):
        client.predict(None, '', api_name='/score')
    files = [handle_file(app_photos / 'photo0.png')] * 13
    with pytest.raises(AppError, match='13 photographs at once, and 12 is the limit'):
        client.predict(files, None, api_name='/score_many')


def test_the_api_has_three_endpoints(app_server):
    named = httpx.get(f'{app_server.url}gradio_api/info').json()['named_endpoints']
    assert set(named) == {'/score', '/explain', '/score_many'}
    for path in ('docs', 'monitoring', 'monitoring/summary'):
        assert httpx.get(app_server.url + path).status_code in (403, 404)


# Limits


@pytest.mark.parametrize('meta', [{'meta': META}, {}], ids=['as a file', 'bare'])
@pytest.mark.parametrize('kind', ['absolute', 'climbing', 'url'])
def test_files_of_the_server_and_urls_are_not_read(app_server, app_photos, kind, meta):
    path = {
        'absolute': str(app_photos / 'photo0.png'),
        'climbing': os.path.join(
            app_server.folder, os.path.relpath(app_photos / 'photo0.png', app_server.folder)
        ),
        'url': 'http://127.0.0.1:1/x.jpg',
    }[kind]
    for given in ({'path': path, **meta}, {'path': path, 'url': path, **meta}):
        assert call(app_server, 'score', [given, '']) == NOT_UPLOADED
        # None: Gradio itself finds no file in the data
        assert call(app_server, 'score_many', [[given], None]) in (NOT_UPLOADED, None)


@pytest.mark.parametrize('name', ['/etc/hostname', __file__, 'README.md'])
def test_files_of_the_server_are_not_served(app_server, name):
    assert httpx.get(f'{app_server.url}gradio_api/file={name}').status_code in (403, 404)


def upload(server, size, **options):
    files = {'files': ('x.jpg', b'x' * size)}
    return httpx.post(f'{server.url}gradio_api/upload', files=files, **options)


def test_a_file_that_is_too_large_is_refused(app_server):
    response = upload(app_server, 2 * 2**20 + 1)
    assert response.status_code == 413 and 'maximum allowed size' in response.text
    assert not files_in(app_server.folder)


def test_uploads_that_would_fill_the_disk_are_refused(app_server):
    response = upload(app_server, 24 * 2**20)
    assert response.status_code == 507
    assert response.text.startswith('All uploads together may take 24 MB')
    assert not files_in(app_server.folder)


def test_an_upload_of_unknown_length_is_refused(app_server):
    kind = {'content-type': 'multipart/form-data; boundary=x'}
    url = f'{app_server.url}gradio_api/upload'
    response = httpx.post(url, content=iter([b'--x\r\n']), headers=kind)
    assert response.status_code == 411 and 'Content-Length' in response.text


def test_too_many_requests_are_refused(photo_scorer, app_photos, tmp_path, monkeypatch):
    monkeypatch.setenv('GRADIO_TEMP_DIR', str(tmp_path))
    url, end = serve_in_thread(build_app(photo_scorer.scorer.metric, Limits(requests=1), tmp_path))
    try:
        client = Client(url, verbose=False)
        file = handle_file(app_photos / 'photo0.png')
        client.predict(file, '', api_name='/score')
        with pytest.raises(AppError, match='1 a minute are the limit; try again in'):
            client.predict(file, '', api_name='/explain')
        client.close()
    finally:
        end()


# Privacy


def test_the_server_connects_to_nobody_else(app_server, client, app_photos):
    client.predict(handle_file(app_photos / 'photo0.png'), '', api_name='/explain')
    hosts = {str(address[0]) for address in app_server.addresses if isinstance(address, tuple)}
    assert hosts and hosts <= {'127.0.0.1', 'localhost', '::1'}


def test_the_page_loads_nothing_from_elsewhere(app_server):
    response = httpx.get(app_server.url)
    policy = response.headers['content-security-policy']
    assert "default-src 'self'" in policy and 'http' not in policy and '*' not in policy
    assert response.headers['cache-control'] == 'no-store'
    external = r'<(?:script|link|img)[^>]+(?:src|href)="(?:https?:)?//[^"]*"'
    assert not re.findall(external, response.text)
    assert 'fonts.googleapis' not in httpx.get(f'{app_server.url}theme.css').text
    config = json.loads(re.search(r'gradio_config = (\{.*?\});</script>', response.text)[1])
    assert config['analytics_enabled'] is False


def test_uploads_of_programs_are_deleted_once_they_are_scored(client, app_server, app_photos):
    for name in ('photo0.png', 'text.jpg'):
        path = send_file(app_server, app_photos / name)
        assert files_in(app_server.folder)
        call(app_server, 'score', [{'path': path, 'meta': META}, ''])
        assert not list(app_server.folder.iterdir())


def test_uploads_of_a_page_are_deleted_when_its_session_ends(app_server, app_photos):
    path = send_file(app_server, app_photos / 'photo0.png')
    functions = httpx.get(f'{app_server.url}config').json()['dependencies']
    show_one = next(f['id'] for f in functions if f['api_name'] == 'show_one')
    api, session = f'{app_server.url}gradio_api/', {'session_hash': 'abc'}
    with httpx.stream('GET', f'{api}heartbeat/abc', timeout=30):
        data = [{'path': path, 'meta': META}, 'soft light']
        httpx.post(f'{api}queue/join', json={'data': data, 'fn_index': show_one, **session})
        stream = httpx.get(f'{api}queue/data', params=session, timeout=30).text
        assert 'process_completed' in stream and 'amhp-number' in stream
        assert [str(file) for file in files_in(app_server.folder)] == [path]
    wait_until(lambda: not list(app_server.folder.iterdir()))


@pytest.mark.slow
def test_uploads_do_not_stay_in_memory(app_server, tmp_path):
    """A photograph that stayed would take 2.4 MB each time, and its tensor four times that."""
    pixels = np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8)
    file = tmp_path / 'noise.jpg'

    def explain_photo(number):
        Image.fromarray(np.roll(pixels, number, axis=0)).save(file, quality=50)
        data = [{'path': send_file(app_server, file), 'meta': META}, 'light']
        assert call(app_server, 'explain', data)['words']

    def memory():
        gc.collect()
        return psutil.Process().memory_info().rss

    for number in range(5):
        explain_photo(number)
    before = memory()
    for number in range(5, 20):
        explain_photo(number)
    assert (memory() - before) / 2**20 < 30


# The command


def test_a_port_in_use_is_reported_before_weights_are_loaded(amhp):
    with listen('127.0.0.1', 0) as taken:
        port = taken.getsockname()[1]
        code, out, err = amhp('app', '--port', port, '--weights', 'no such file')
    assert code == 1 and f'cannot listen on 127.0.0.1, port {port}' in err and '--port' in err
    assert not out


def test_bad_weights_are_reported_before_the_page_is_served(amhp, tmp_path):
    (tmp_path / 'bad.pth').write_text('no weights')
    code, out, err = amhp('app', '--port', 0, '--weights', tmp_path / 'bad.pth')
    assert code == 1 and 'bad.pth' in err and 'AMHP is on' not in out


def test_other_metrics_and_limits_below_one_are_refused(amhp):
    code, _, err = amhp('app', '--metric', 'nima')
    assert code == 1 and 'only AMHP has' in err
    code, _, err = amhp('app', '--max-files', 0)
    assert code == 2 and '--max-files' in err


@pytest.mark.parametrize('name', ['gradio', 'matplotlib'])
def test_a_missing_library_names_the_extra(amhp, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    code, _, err = amhp('app')
    assert code == 1 and f'{name} is not installed' in err
    assert "pip install 'pyiqa-amhp[app]'" in err


def test_an_older_gradio_is_refused(monkeypatch):
    monkeypatch.setattr(import_gradio(), '__version__', '5.49.1')
    with pytest.raises(AMHPError, match=r'needs Gradio 6, found 5\.49\.1'):
        import_gradio()


@pytest.mark.parametrize(
    ('host', 'is_local'),
    [
        ('127.0.0.1', True), ('localhost', True), ('::1', True), ('[::1]', True),
        ('0.0.0.0', False), ('::', False), ('192.168.0.7', False), ('photos.example', False),
    ],
)  # fmt: skip
def test_loopback_hosts_are_recognised(host, is_local):
    assert is_loopback(host) is is_local


def test_an_unknown_host_is_reported(monkeypatch):
    def unknown(*_, **__):  # asks no name server
        raise socket.gaierror(-2, 'Name or service not known')

    monkeypatch.setattr(socket, 'getaddrinfo', unknown)
    with pytest.raises(AMHPError, match=r'cannot listen on photos\.example, port 0 .*not known'):
        listen('photos.example', 0)


SERVE = """
from pyiqa_amhp.app.server import listen, serve

async def app(scope, receive, send):
    if scope['type'] == 'http':
        await send({'type': 'http.response.start', 'status': 200, 'headers': []})
        await send({'type': 'http.response.body', 'body': b'a', 'more_body': True})
        while (await receive())['type'] != 'http.disconnect':
            pass

with listen('127.0.0.1', 0) as listening:
    print(listening.getsockname()[1], flush=True)
    serve(app, listening)
print('ended')
"""


@pytest.mark.skipif(os.name == 'nt', reason='signals')
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM], ids=['Ctrl-C', 'SIGTERM'])
def test_a_signal_ends_the_server_while_connections_are_open(number):
    process = subprocess.Popen([sys.executable, '-c', SERVE], stdout=subprocess.PIPE, text=True)
    try:
        with httpx.stream('GET', f'http://127.0.0.1:{process.stdout.readline().strip()}/'):
            process.send_signal(number)
            assert process.communicate(timeout=60)[0] == 'ended\n'
    finally:
        process.kill()
    assert process.returncode == 0


@pytest.mark.skipif(os.name == 'nt', reason='signals')
def test_ctrl_c_ends_the_command_while_a_page_is_open(
    amhp, tiny_weights, app_photos, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    monkeypatch.setenv('GRADIO_TEMP_DIR', 'as it was')
    with listen('127.0.0.1', 0) as free:
        port = free.getsockname()[1]
    seen = []

    def visit():
        url = f'http://127.0.0.1:{port}/'
        wait_until(lambda: responds(url))
        with httpx.stream('GET', f'{url}gradio_api/heartbeat/abc', timeout=60):
            send_file(SimpleNamespace(url=url), app_photos / 'photo0.png')
            seen.extend(tmp_path.glob('amhp-app-*/*/photo0.png'))
            os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C does
            wait_until(lambda: not responds(url))

    visitor = threading.Thread(target=visit)
    visitor.start()
    options = ('--weights', tiny_weights, '--device', 'cpu')
    code, out, err = amhp('app', '--port', port, '--host', '0.0.0.0', *options)
    visitor.join()
    assert code == 0 and len(seen) == 1
    assert out.splitlines() == [
        f'AMHP is on http://0.0.0.0:{port} (Ctrl-C ends it)',
        'Stopped. All uploads are deleted.',
    ]
    assert 'no password' in err
    assert not list(tmp_path.glob('amhp-app-*'))


def responds(url):
    with suppress(httpx.HTTPError):
        return httpx.get(url, timeout=5).status_code == 200
