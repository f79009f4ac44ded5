"""Files of a job on Ray: local names, addresses, their secrets."""

import base64
import http.server
import threading

import fsspec
import pytest
from conftest import write_photos
from fsspec.implementations.memory import MemoryFileSystem

from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.scoring.ray.storage import Storage, redact, scheme_of

SECRET = 's3://KEY:SECRET@bucket/photos/?endpoint_override=127.0.0.1:9000&scheme=http'
NAMES = ('a.png', 'b/1.png', 'b/2.png', 'b.png', 'c/d/3.png')  # in the order of their paths


@pytest.fixture
def nested_photos(tmp_path, monkeypatch):
    """The folder ``photos`` in the current one: five images at several depths, and other files."""
    monkeypatch.chdir(tmp_path)
    folder = write_photos(tmp_path / 'photos', (*NAMES, '.hidden.png', '.trash/4.png'))
    (folder / 'notes.txt').write_text('no image')
    return folder


@pytest.fixture
def address(request, nested_photos):
    """The address of the same folder in a file system: ``file`` or ``memory``."""
    if request.param == 'file':
        yield nested_photos.as_uri()
        return
    memory = fsspec.filesystem('memory')
    memory.put(str(nested_photos), '/photos', recursive=True)
    yield 'memory://photos'
    memory.rm('/photos', recursive=True)


everywhere = pytest.mark.parametrize('address', ['file', 'memory'], indirect=True)

# Names


@pytest.mark.parametrize(
    ('name', 'scheme'),
    [
        ('photos/a.jpg', ''),
        ('C:/photos/a.jpg', ''),
        ('c://photos', ''),
        ('S3://bucket/a', 's3'),
        ('hf://datasets/x', 'hf'),
    ],
)
def test_a_windows_drive_is_no_scheme(name, scheme):
    assert scheme_of(name) == scheme


@pytest.mark.parametrize(
    ('name', 'shown'),
    [
        (SECRET, 's3://bucket/photos/'),
        ('gs://anonymous@bucket/a', 'gs://bucket/a'),
        ('https://me:word@host/a.jpg?size=1', 'https://host/a.jpg?size=1'),
        ('hdfs://me@host/a', 'hdfs://me@host/a'),
        ('hdfs://me:word@host/a?kerb_ticket=x', 'hdfs://host/a'),
        ('s3://bucket/a@b.jpg', 's3://bucket/a@b.jpg'),
        ('photos/why?.jpg', 'photos/why?.jpg'),
        (
            'abfs://container@account.dfs.core.windows.net/a',
            'abfs://container@account.dfs.core.windows.net/a',
        ),
    ],
)
def test_secrets_are_removed_from_names(name, shown):
    assert redact(name) == shown


# Connections


def test_keys_and_options_of_an_address_are_used_for_all_buckets():
    filesystem, path = Storage([SECRET]).resolve('s3://another/what?.jpg')
    assert path == 'another/what?.jpg'
    assert (filesystem.key, filesystem.secret) == ('KEY', 'SECRET')
    assert filesystem.endpoint_url == 'http://127.0.0.1:9000'


def test_keys_in_an_address_are_percent_encoded():
    filesystem, _ = Storage(['s3://KEY:a%2Fb%40c@bucket/']).resolve('s3://bucket/')
    assert filesystem.secret == 'a/b@c'


def test_a_bucket_is_public_where_there_are_no_credentials(tmp_path, monkeypatch):
    for name in ('AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY', 'AWS_PROFILE'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('AWS_SHARED_CREDENTIALS_FILE', str(tmp_path / 'none'))
    monkeypatch.setenv('AWS_CONFIG_FILE', str(tmp_path / 'none'))
    monkeypatch.setenv('AWS_EC2_METADATA_DISABLED', 'true')
    address = 's3://bucket/?region=eu-west-1'
    filesystem, _ = Storage([address]).resolve(address)
    assert filesystem.anon
    assert filesystem.client_kwargs == {'region_name': 'eu-west-1'}


def test_an_unknown_option_in_an_address_is_an_error_without_secrets():
    address = 's3://KEY:SECRET@bucket/?endpoint=SECRET'
    with pytest.raises(AMHPError, match='unknown option endpoint, expected endpoint_') as error:
        Storage([address]).resolve(address)
    assert 'SECRET' not in str(error.value)


def test_an_address_of_an_unknown_kind_is_an_error_without_secrets():
    with pytest.raises(AMHPError, match=r'nothere://host/x: cannot be opened') as error:
        Storage().resolve('nothere://me:word@host/x')
    assert 'word' not in str(error.value)


@pytest.fixture
def guarded_server(nested_photos):
    """``host:port`` of a server of the photographs that asks for a user and a password."""
    expected = 'Basic ' + base64.b64encode(b'me:wo/rd').decode()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(nested_photos))

        def send_head(self):
            if self.headers['Authorization'] != expected:
                return self.send_error(401)
            return super().send_head()

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()


def test_a_password_for_a_web_server_is_used_and_not_shown(guarded_server, nested_photos):
    address = f'http://me:wo%2Frd@{guarded_server}/a.png'
    storage = Storage([address])
    (name,) = storage.find_images(address)
    assert name == f'http://{guarded_server}/a.png'
    assert storage.open_image(name).read() == (nested_photos / 'a.png').read_bytes()


# Images and tables


def test_relative_names_start_at_the_folder_of_the_job(nested_photos, monkeypatch):
    storage = Storage(['photos'])
    monkeypatch.chdir('/')
    assert storage.open_image('photos/a.png') == str(nested_photos / 'a.png')


def test_a_local_folder_is_listed_in_order(nested_photos):
    assert list(Storage().find_images('photos')) == [f'photos/{name}' for name in NAMES]


@everywhere
def test_a_folder_at_an_address_is_listed_in_order(address):
    assert list(Storage([address]).find_images(address)) == [f'{address}/{name}' for name in NAMES]


def test_a_local_glob_is_expanded(nested_photos):
    assert list(Storage().find_images('photos/b/*')) == ['photos/b/1.png', 'photos/b/2.png']


@everywhere
def test_a_glob_at_an_address_is_expanded(address):
    found = list(Storage().find_images(f'{address}/b/*'))
    assert found == [f'{address}/b/1.png', f'{address}/b/2.png']


@everywhere
def test_tables_are_found_by_a_glob(address):
    assert Storage().find_tables(f'{address}/x.csv') == [f'{address}/x.csv']
    assert Storage().find_tables(f'{address}/*.txt') == [f'{address}/notes.txt']
    with pytest.raises(AMHPError, match=r'\*\.parquet: no such files'):
        Storage().find_tables(f'{address}/*.parquet')


@pytest.mark.parametrize('scheme', ['file', 'memory'])
def test_a_folder_without_images_is_an_error(tmp_path, scheme):
    folder = tmp_path / 'empty'
    fsspec.filesystem(scheme).makedirs(str(folder))
    with pytest.raises(AMHPError, match='no images'):
        list(Storage().find_images(f'{scheme}://{folder}'))


def test_a_remote_image_that_does_not_exist_is_an_error_of_its_row():
    with pytest.raises(ImageReadError, match=r'memory://gone\.png: no such file'):
        Storage().open_image('memory://gone.png')


def test_an_image_at_an_unknown_address_is_an_error_of_its_row():
    with pytest.raises(ImageReadError, match='nothere://x: cannot be opened'):
        Storage().open_image('nothere://x')


# Reading and writing


@pytest.fixture
def hdfs():
    """In place of HDFS a file system in memory that, like HDFS, renames to a free name only."""

    class RenamingFileSystem(MemoryFileSystem):
        protocol = 'hdfs'
        store = {}  # noqa: RUF012
        pseudo_dirs = ['']  # noqa: RUF012

        def mv(self, path1, path2, **options):
            if self.exists(path2):
                raise OSError(f'{path2} exists')
            super().mv(path1, path2, **options)

    original = fsspec.get_filesystem_class('hdfs')
    fsspec.register_implementation('hdfs', RenamingFileSystem, clobber=True)
    yield
    fsspec.register_implementation('hdfs', original, clobber=True)


@pytest.mark.parametrize('scheme', ['local', 'file', 'memory', 'hdfs'])
def test_a_file_is_written_whole_and_replaced(tmp_path, hdfs, scheme):
    folder = f'{tmp_path}/new' if scheme == 'local' else f'{scheme}://{tmp_path}/new'
    storage = Storage()
    assert not storage.exists(f'{folder}/x') and storage.list_files(folder) == []
    for content in (b'123', b'45'):
        storage.write(f'{folder}/x', content)
        assert storage.read(f'{folder}/x') == content
        with storage.open(f'{folder}/x') as file:
            assert file.read() == content
    assert storage.exists(f'{folder}/x') and storage.list_files(folder) == ['x']


def test_a_file_that_does_not_exist_is_an_error():
    for read in (Storage().read, Storage().open):
        with pytest.raises(AMHPError, match='memory://gone: no such file'):
            read('memory://gone')


def test_an_address_that_takes_no_files_is_an_error(guarded_server):
    with pytest.raises(AMHPError, match='could not be written'):
        Storage().write(f'http://{guarded_server}/x', b'123')
