"""A local test double of the Hugging Face hub, with the HTTP that the hub's client uses.

It has repositories, commits, large files by LFS with redirects, tokens, and the hub's error codes.
"""

import base64
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import pytest

WRITER, READER, STRANGER = 'hf_writer', 'hf_reader', 'hf_stranger'
OWNER = 'someone'


@dataclass
class Repository:
    """A repository: commits, the newest last, each with its name and all files by their path."""

    private: bool = False
    commits: list = field(default_factory=list)

    def files(self, revision='main'):
        """Return the commit and the files of a revision; None for an unknown one."""
        for sha, files in reversed(self.commits):
            if revision in ('main', sha):
                return sha, files
        return None

    def commit(self, files: dict[str, bytes]) -> str:
        number = f'{len(self.commits)}{sorted(files)}'.encode()
        sha = hashlib.sha1(number).hexdigest()
        self.commits.append((sha, files))
        return sha


class HubDouble:
    """State of the test double.

    Attributes:
        repos: repositories by name.
        uploaded: large files by their SHA-256, with or without a commit that holds them.
        requests: ``METHOD path`` of each request.
        refuse: HTTP status by a pattern of ``METHOD path``: such requests are refused with it.
        tokens: the token of each request.
        when: function by a pattern of ``METHOD path``, called before such a request is answered.
        xet: Xet hash and size of large files that were sent by Xet, by their SHA-256.
        storage: the address of Xet's storage.
        endpoint: the address of the hub.
        elsewhere: the address to which downloads of large files are redirected.
    """

    def __init__(self):
        self.repos: dict[str, Repository] = {}
        self.uploaded: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.refuse: dict[str, int] = {}
        self.tokens: list[str] = []
        self.when: dict[str, Callable[[], object]] = {}
        self.xet: dict[str, tuple[str, int]] = {}
        self.storage = ''
        self.endpoint = self.elsewhere = ''

    def add(self, repo: str, files: dict[str, bytes], private: bool = False) -> str:
        """Add a commit to a repository, which is created if needed."""
        return self.repos.setdefault(repo, Repository(private)).commit(files)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    hub: HubDouble

    def log_message(self, *args):
        pass

    def answer(self, status, content=b'', **headers):
        if isinstance(content, dict):
            content = json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace('_', '-'), str(value))
        if 'Content_Length' not in headers:
            self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(content)

    def refused(self, status, message, code=None):
        headers = {'X_Error_Message': message, **({'X_Error_Code': code} if code else {})}
        self.answer(status, {'error': message}, **headers)

    def handle_any(self):
        length = int(self.headers.get('Content-Length') or 0)
        self.body = self.rfile.read(length)
        path = self.path.split('?')[0]
        self.hub.requests.append(f'{self.command} {path}')
        token = (self.headers.get('Authorization') or '').removeprefix('Bearer ')
        self.token = token
        self.hub.tokens.append(token)
        for pattern, act in self.hub.when.items():
            if re.search(pattern, f'{self.command} {path}'):
                act()
        for pattern, status in self.hub.refuse.items():
            if re.search(pattern, f'{self.command} {path}'):
                return self.refused(status, 'refused by the test')
        if token and token not in (WRITER, READER, STRANGER):
            return self.refused(401, 'Invalid credentials in Authorization header')
        for method, pattern, function in ROUTES:
            if self.command in method and (found := re.fullmatch(pattern, path)):
                return function(self, *found.groups())
        return self.refused(404, f'no such address: {path}')

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def visible(self, repo):
        """Return the repository if the token may read it; else send the hub's refusal."""
        found = self.hub.repos.get(repo)
        if found is None or (found.private and self.token not in (WRITER, READER)):
            status = 404 if self.token else 401
            self.refused(status, 'Repository not found', 'RepoNotFound')
            return None
        return found

    def may_write(self, repo):
        if self.token == WRITER and repo.startswith(f'{OWNER}/'):
            return True
        if not self.token:
            self.refused(401, 'Invalid username or password.')
        else:
            self.refused(403, "you don't have the rights to write here")
        return False

    # The hub's routes

    def root(self):
        self.answer(200)

    def create(self):
        asked = json.loads(self.body)
        repo = f'{asked["organization"]}/{asked["name"]}'
        if not self.may_write(repo):
            return
        url = {'url': f'{self.hub.endpoint}/{repo}'}
        if repo in self.hub.repos:
            self.answer(409, {'error': 'You already created this model repo', **url})
            return
        private = asked.get('visibility') == 'private' or asked.get('private') is True
        self.hub.add(repo, {'.gitattributes': b'*.safetensors filter=lfs\n'}, private)
        self.answer(200, url)

    def model(self, repo, revision=None):
        if found := self.visible(repo):
            sha, files = found.files(revision or 'main')
            siblings = [{'rfilename': name} for name in files]
            info = {'id': repo, 'sha': sha, 'private': found.private, 'siblings': siblings}
            self.answer(200, info)

    def validate(self):
        self.answer(200, {'warnings': [], 'errors': []})

    def preupload(self, repo):
        if self.visible(repo) and self.may_write(repo):
            files = [
                {
                    'path': file['path'],
                    'uploadMode': 'lfs' if file['path'].endswith('.safetensors') else 'regular',
                    'shouldIgnore': False,
                    'oid': None,
                }
                for file in json.loads(self.body)['files']
            ]
            self.answer(200, {'files': files})

    def batch(self, repo):
        if self.visible(repo) and self.may_write(repo):
            objects = json.loads(self.body)['objects']
            for file in objects:
                if file['oid'] not in self.hub.uploaded:
                    upload = {'href': f'{self.hub.endpoint}/storage/{file["oid"]}'}
                    file['actions'] = {'upload': upload}
            self.answer(200, {'objects': objects, 'transfer': 'basic'})

    def store(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.answer(400)
        self.hub.uploaded[oid] = self.body
        return self.answer(200)

    def commit(self, repo):
        found = self.visible(repo)
        if found is None or not self.may_write(repo):
            return
        sha, files = found.files()
        files = dict(files)
        for line in map(json.loads, self.body.splitlines()):
            value = line['value']
            if line['key'] == 'header':
                if value.get('parentCommit') not in (None, sha):
                    self.refused(412, 'A commit has happened since. Please refresh and try again.')
                    return
            elif line['key'] == 'lfsFile':
                files[value['path']] = self.hub.uploaded.get(value['oid']) or value['oid'].encode()
            else:
                files[value['path']] = base64.b64decode(value['content'])
        sha = found.commit(files)
        url = f'{self.hub.endpoint}/{repo}/commit/{sha}'
        self.answer(200, {'commitUrl': url, 'commitOid': sha})

    def resolve(self, repo, revision, name):
        repository = self.visible(repo)
        if repository is None:
            return
        found = repository.files(revision)
        if found is None:
            self.refused(404, 'Invalid rev id', 'RevisionNotFound')
            return
        sha, files = found
        if name not in files:
            message = {'X_Error_Code': 'EntryNotFound', 'X_Repo_Commit': sha}
            self.answer(404, {'error': 'Entry not found'}, **message)
            return
        if (oid := files[name].decode('latin-1')) in self.hub.xet:
            self.in_xet(repo, sha, oid)
            return
        oid = hashlib.sha256(files[name]).hexdigest()
        if name.endswith('.safetensors'):  # large files are stored at another address
            self.hub.uploaded[oid] = files[name]
            self.answer(
                302,
                Location=f'{self.hub.elsewhere}/storage/{oid}',
                X_Linked_Etag=f'"{oid}"',
                X_Linked_Size=len(files[name]),
                X_Repo_Commit=sha,
            )
            return
        self.answer(200, files[name], ETag=f'"{oid[:40]}"', X_Repo_Commit=sha)

    def in_xet(self, repo, sha, oid):
        file_hash, size = self.hub.xet[oid]
        self.answer(
            302,
            Location=f'{self.hub.elsewhere}/storage/{oid}',
            X_Linked_Etag=f'"{oid}"',
            X_Linked_Size=size,
            X_Repo_Commit=sha,
            X_Xet_Hash=file_hash,
            X_Xet_Refresh_Route=f'{self.hub.endpoint}/api/models/{repo}/xet-read-token/main',
        )

    def xet_token(self, repo):
        token = {'casUrl': self.hub.storage, 'accessToken': 'a', 'exp': 2**32}
        headers = {'Cas_Url': self.hub.storage, 'Access_Token': 'a', 'Token_Expiration': 2**32}
        self.answer(200, token, **{f'X_Xet_{name}': value for name, value in headers.items()})

    def stored(self, oid):
        content = self.hub.uploaded.get(oid)
        self.answer(200 if content is not None else 404, content or b'', ETag=f'"{oid}"')


REPO = r'([\w.-]+/[\w.-]+)'
ROUTES = (
    ('GET HEAD', '/?', Handler.root),
    ('POST', '/api/repos/create', Handler.create),
    ('POST', '/api/validate-yaml', Handler.validate),
    ('GET', f'/api/models/{REPO}', Handler.model),
    ('GET', f'/api/models/{REPO}/revision/([^/]+)', Handler.model),
    ('POST', f'/api/models/{REPO}/preupload/main', Handler.preupload),
    ('POST', f'/{REPO}\\.git/info/lfs/objects/batch', Handler.batch),
    ('PUT', '/storage/([0-9a-f]{64})', Handler.store),
    ('GET HEAD', '/storage/([0-9a-f]{64})', Handler.stored),
    ('GET', f'/api/models/{REPO}/xet-(?:read|write)-token/main', Handler.xet_token),
    ('POST', f'/api/models/{REPO}/commit/main', Handler.commit),
    ('GET HEAD', f'/{REPO}/resolve/([^/]+)/(.+)', Handler.resolve),
)


@contextmanager
def running_hub():
    """Run a test double of the hub at ``endpoint``."""
    hub = HubDouble()
    handler = type('OneHub', (Handler,), {'hub': hub})
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        hub.endpoint = f'http://127.0.0.1:{server.server_port}'
        hub.elsewhere = f'http://localhost:{server.server_port}'  # for the client another host
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield hub
        finally:
            server.shutdown()


@contextmanager
def hub_in_reach(cache, token: str | None = WRITER, monkeypatch: pytest.MonkeyPatch | None = None):
    """Run a test double that this process uses as the hub, with an empty cache.

    The client reads the environment when it is imported, so its constants are set here. Large files
    are sent by LFS, which is plain HTTP; Xet's storage has its own protocol.

    Args:
        cache: the folder of the cache.
        token: the token that requests carry; None: none.
        monkeypatch: the test's own, so that all changes are undone in one order; None: a new one.
    """
    import huggingface_hub
    from huggingface_hub import constants

    patching = nullcontext(monkeypatch) if monkeypatch else pytest.MonkeyPatch.context()
    with running_hub() as hub, patching as patch:
        template = hub.endpoint + '/{repo_id}/resolve/{revision}/{filename}'
        patch.setattr(constants, 'ENDPOINT', hub.endpoint)
        patch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', template)
        patch.setattr(constants, 'HF_HUB_OFFLINE', False)
        patch.setattr(constants, 'HF_HUB_DISABLE_XET', True)
        patch.setattr(constants, 'HF_HUB_DISABLE_TELEMETRY', True)
        patch.setattr(constants, 'HF_HUB_CACHE', str(cache))
        patch.setattr(constants, 'HF_TOKEN_PATH', str(cache / 'no_token'))
        patch.setenv('NO_PROXY', '127.0.0.1,localhost')
        patch.delenv('HF_TOKEN', raising=False)
        if token is not None:
            patch.setenv('HF_TOKEN', token)
        huggingface_hub.close_session()  # it holds the old proxy settings
        yield hub
    huggingface_hub.close_session()
