"""The hub out of reach, and a hub that answers on this machine."""

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from typing import ClassVar

import open_clip
import pytest
import safetensors.torch
import torch
from PIL import Image

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.model.clip import Backbone
from pyiqa_amhp.model.clip_weights import cached_tag, resolve_clip
from pyiqa_amhp.model.config import AMHPConfig
from pyiqa_amhp.weights.hub import require_network

pytestmark = pytest.mark.usefixtures('hub_cache')


@pytest.mark.parametrize(
    ('options', 'named'),
    [
        ({}, 'timm/vit_base_patch16_clip_224.openai'),
        ({'backbone': 'ViTamin-S', 'clip_weights': 'datacomp1b'}, 'jienengchen/ViTamin-S`'),
        ({'backbone': 'hf-hub:someone/a-clip'}, 'someone/a-clip'),
        ({'clip_weights': 'hf-hub:someone/a-clip'}, 'someone/a-clip'),
    ],
    ids=str,
)
@pytest.mark.parametrize('pretrained', [True, 'clip'])
def test_weights_that_are_not_cached_are_an_error_with_three_ways_out(options, named, pretrained):
    assert cached_tag('ViT-B-16', 'openai') is None
    with pytest.raises(AMHPError) as caught:
        AMHP(pretrained=pretrained, **options)
    message = str(caught.value)
    assert 'HF_HUB_OFFLINE is set' in message
    assert named in message
    for part in ('1. ', 'HF_HOME', 'HF_ENDPOINT', '2. ', 'clip_weights=FILE', '3. ', '--weights'):
        assert part in message


@pytest.mark.parametrize('answers', [False, True], ids=['closed', 'silent'])
def test_a_hub_out_of_reach_is_reported_without_waiting(monkeypatch, answers):
    import huggingface_hub

    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        if answers:  # accepts the connection and sends no answer
            server.listen()
        endpoint = f'http://127.0.0.1:{server.getsockname()[1]}'
        monkeypatch.setenv('NO_PROXY', '127.0.0.1')
        monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', False)
        monkeypatch.setattr(huggingface_hub.constants, 'ENDPOINT', endpoint)
        with pytest.raises(AMHPError, match=f'{endpoint} is out of reach'):
            require_network('CLIP', ['1', '2', '3'], timeout=0.2)


def test_a_resolver_that_does_not_answer_is_reported_without_waiting(monkeypatch):
    import huggingface_hub

    over = threading.Event()

    def never(*args, **kwargs):
        over.wait(30)
        raise OSError('gave up')

    monkeypatch.setattr(socket, 'getaddrinfo', never)
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr(huggingface_hub.constants, 'ENDPOINT', 'http://hub.invalid')
    try:
        with pytest.raises(AMHPError, match=r'out of reach \(no answer in time\)'):
            require_network('CLIP', ['1', '2', '3'], timeout=0.1)
    finally:
        over.set()


def run_python(arguments, home, **environment):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(('HF_', 'PYIQA_'))}
    settings = {'HOME': str(home), 'HF_HOME': str(home / 'hf'), 'NO_PROXY': '*', **environment}
    return subprocess.run(
        [sys.executable, *arguments],
        env={**clean, **settings},
        cwd=home,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_the_command_ends_with_a_message_and_no_traceback(tmp_path):
    Image.new('RGB', (40, 30), 'teal').save(tmp_path / 'photo.jpg')
    ended = run_python(['-m', 'pyiqa_amhp', 'score', 'photo.jpg'], tmp_path, HF_HUB_OFFLINE='1')
    assert ended.returncode == 1
    assert 'Three ways out' in ended.stderr
    assert 'Traceback' not in ended.stdout + ended.stderr


class Hub(http.server.BaseHTTPRequestHandler):
    """A hub with one repository, whose files its client can download."""

    files: ClassVar = {}

    def do_GET(self):
        content = self.files.get(self.path)
        self.send_response(200 if content else 404)
        self.send_header('Content-Length', str(len(content or b'')))
        if content:
            self.send_header('ETag', f'"{len(content)}"')
            self.send_header('X-Repo-Commit', '0123456789' * 4)
        self.end_headers()
        if content and self.command == 'GET':
            self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


FETCH = """
import sys
from pyiqa_amhp.model.config import AMHPConfig
from pyiqa_amhp.model.clip_weights import resolve_clip
print(resolve_clip(AMHPConfig(backbone='hf-hub:someone/a-clip'), load=True).path)
"""


@pytest.mark.slow
def test_a_hub_model_is_fetched_from_the_endpoint_that_is_set(tiny, tmp_path, monkeypatch):
    model = open_clip.CLIP(**tiny, quick_gelu=True).eval()
    described = {'model_cfg': {**tiny, 'quick_gelu': True}, 'preprocess_cfg': {}}
    folder = '/someone/a-clip/resolve/main/'
    files = {
        folder + 'open_clip_config.json': json.dumps(described).encode(),
        folder + 'open_clip_model.safetensors': safetensors.torch.save(model.state_dict()),
    }
    handler = type('OneRepository', (Hub,), {'files': files})
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f'http://127.0.0.1:{server.server_port}'
        ended = run_python(['-c', FETCH], tmp_path, HF_ENDPOINT=endpoint)
        server.shutdown()
    assert ended.returncode == 0, ended.stderr
    assert str(tmp_path / 'hf') in ended.stdout

    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'hf' / 'hub'))
    source = resolve_clip(AMHPConfig(backbone='hf-hub:someone/a-clip'), load=True)
    assert source.config.quick_gelu is True
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        features = Backbone(source).eval().encode_image(image)
        torch.testing.assert_close(features, model.encode_image(image))
