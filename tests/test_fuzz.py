"""Every parser gives a value or one of the package's errors, for any file.

By default each test runs a few examples, and those that once failed. The long run is
``AMHP_FUZZ=2000 python -m pytest tests/test_fuzz.py``.
"""

import csv
import io
import json
import os
import zipfile

import pandas as pd
import pytest
import safetensors.torch
import scipy.io
import torch
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from pyiqa_amhp.datasets import aadb, ava, para
from pyiqa_amhp.datasets.comment_store import CommentStore, write_store
from pyiqa_amhp.datasets.comments import clean_comment, read_comments
from pyiqa_amhp.datasets.images import read_image
from pyiqa_amhp.datasets.keywords import AttributeKeywords
from pyiqa_amhp.datasets.rated_images import read_table
from pyiqa_amhp.datasets.texts import read_texts
from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.evaluation.scores import ScoreCache
from pyiqa_amhp.model.config import AMHPConfig
from pyiqa_amhp.scoring.result import ScoreResult
from pyiqa_amhp.scoring.writer import ScoreFile
from pyiqa_amhp.train.options import read_options
from pyiqa_amhp.weights.checkpoint import read_tensors, stored_config

EXAMPLES = int(os.environ.get('AMHP_FUZZ', '40'))
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,  # for one example, since the machine may be busy; a parser must still end
    suppress_health_check=list(HealthCheck),
    derandomize=EXAMPLES < 2000,  # the same examples in every short run
    print_blob=True,
)
# Each example starts a process, in which scipy may crash; that takes half a second.
fuzz_mat = settings(fuzz, max_examples=max(3, EXAMPLES // 40))

# Texts and numbers that parsers often get wrong.
ODD = st.sampled_from([
    '', ' ', '\0', '"', "'", ',', '\n', '\r', '\r\n', '\t', '#', '\\', '/', '..', 'nan', 'inf',
    '-inf', '1e999', '-1', '0', '9' * 30, '1.5', '0x1', '٣', 'é', '\ufeff', '\ud800', '😀',
    '[', ']', '{', '}', ':', '&a', '*a', '!!python/object:os.system', '<script>', '&#39;', '&#',
    '1_0', 'True',
])  # fmt: skip
TEXT = st.lists(st.one_of(ODD, st.text(max_size=8)), max_size=12).map(''.join)


def pieces(*words):
    """Return a strategy for bytes: these words, odd ones and random ones in any order."""
    word = st.one_of(st.sampled_from(words), ODD, st.text(max_size=4))
    text = st.lists(word, max_size=40).map(''.join)
    return st.one_of(
        text.map(lambda t: t.encode('utf-8', 'surrogatepass')), st.binary(max_size=200)
    )


def damaged(content: bytes):
    """Return a strategy for a valid file with some bytes changed, removed or inserted."""

    def apply(edits):
        data = bytearray(content)
        for kind, where, new in edits:
            at = where % (len(data) + 1)
            data[at : at + (len(new) if kind == 'over' else 0 if kind == 'in' else 20)] = new
        return bytes(data)

    edit = st.tuples(
        st.sampled_from(['over', 'in', 'out']), st.integers(0, 10**6), st.binary(max_size=8)
    )
    return st.lists(edit, min_size=1, max_size=4).map(apply)


def to_csv(rows):
    """Format rows as CSV."""
    file = io.StringIO()
    csv.writer(file).writerows(rows)
    return file.getvalue().encode('utf-8', 'surrogatepass')


def table(header, cell=TEXT):
    """Return a strategy for a CSV with some of these columns, and cells of any kind."""
    columns = st.lists(st.sampled_from(header), min_size=1, max_size=len(header), unique=True)
    number = st.one_of(st.integers(-3, 12).map(str), st.floats().map(str), st.just(''))

    def rows(names):
        row = st.lists(st.one_of(number, cell), min_size=len(names), max_size=len(names))
        return st.lists(row, max_size=5).map(lambda found: to_csv([names, *found]))

    return columns.flatmap(rows)


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(), st.text(max_size=6)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=8,
)


def entries(*keys):
    """Return a strategy for dicts with some of these keys, and values of any kind."""
    return st.dictionaries(st.sampled_from(keys), JSON)


@pytest.fixture(scope='module')
def put(tmp_path_factory):
    """Write bytes to a file of this name in a folder of this module."""
    folder = tmp_path_factory.mktemp('fuzz')

    def put(name, content):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return put


def value_or_error(call, *args, also=()):
    """Return the value of a call; None if it raises an error of the package with a message."""
    try:
        return call(*args)
    except (AMHPError, ImageReadError, *also) as error:
        assert str(error)
        return None


# Tables of rated images

COLUMNS = [
    'img_name', 'MOS', 'mos', 'c1', 'c2', 'c3', 'ratings_1', 'std', 'text', 'attr_light',
    'attr_color', 'split', 'my_split', 'c0', '', 'img_name ',
]  # fmt: skip
NAMES = st.text('ab/.~\\:\0', min_size=1, max_size=6).map('{}.jpg'.format)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        'level_values': st.sampled_from([[1, 2, 3], [0.0, 1.0]]),
        'dataset': st.sampled_from(['ava', 'para', 'aadb']),
        'default_std': st.sampled_from([0, 1, 1e9]),
        'attr_range': st.just([1, 5]),
        'text_source': st.sampled_from(['comments', 'labels', 'none']),
        'attribute_labels': st.booleans(),
    },
)


@fuzz
@given(
    content=st.one_of(
        table(COLUMNS, st.one_of(NAMES, TEXT)),
        pieces(*COLUMNS, 'img_name,MOS\n', 'a.jpg,3\n'),
        damaged(b'img_name,MOS,text,split\na.jpg,3,"soft, light",train\nb.jpg,4,,0\n'),
    ),
    options=OPTIONS,
)
def test_tables(put, content, options):
    path = put('rated.csv', content)
    opt = {'meta_info_file': str(path), 'dataroot_target': str(path.parent), **options}
    found = value_or_error(read_table, opt)
    if found is not None:
        assert abs(found.dist.sum(axis=1) - 1).max() < 1e-6 and (found.dist >= 0).all()
        assert abs(found.mos).max() < float('inf')
        for i in range(len(found.mos)):
            assert os.path.realpath(found.path(i)).startswith(str(path.parent))
            assert isinstance(found.text(i), str)


@fuzz
@given(
    content=st.one_of(
        table(['img_name', 'text', 'more']),
        pieces('img_name', 'text', 'img_name,text\n', 'a.jpg,', 'light\n'),
        damaged(b'img_name,text\na.jpg,"soft, light"\nb.jpg,\n'),
    )
)
@example(content=b'img_name,text\na.jpg,soft, light\n')
def test_given_texts(put, content):
    images = [put('a.jpg', b''), put('b.jpg', b'')]
    found = value_or_error(read_texts, put('texts.csv', content), images)
    assert found is None or (
        len(found) == 2 and all(text is None or isinstance(text, str) for text in found)
    )


# Files of the data sets

LINE = '1 953619 0 1 5 17 38 36 15 6 5 1 1 22 1396\n'


@fuzz
@given(
    ratings=st.one_of(
        pieces(LINE, '953958 ', '1 ', '-1 ', '--1 ', '٣ '), damaged(LINE.encode() * 3)
    ),
    test=st.one_of(pieces('953619\n', '-', '9' * 19), damaged(b'953619\n953958\n')),
)
@example(ratings=LINE.encode(), test=b'9' * 19)
@example(ratings=b'--1' + LINE.encode(), test=b'953619')
def test_ava(put, ratings, test):
    root = put('ava/AVA.txt', ratings).parent
    put('ava/generic_test.jpgl', test)
    put('ava/images/953619.jpg', b'')
    found = value_or_error(ava.read_ava, root)
    if found is not None:
        assert found.table['MOS'].between(1, 10).all()


VOTES = [f'c{i}' for i in range(1, 11)]
META = f'img_name,MOS,{",".join(VOTES)},official_split\n'


@fuzz
@given(
    content=st.one_of(
        table(['img_name', 'MOS', *VOTES, 'official_split']),
        pieces(META, '1.jpg,', '3,', '0.5,', '1\n'),
        damaged((META + '953619.jpg,5' + ',2' * 10 + ',0\n').encode()),
    )
)
@example(content=(META + '1.jpg,5' + ',0.5' * 10 + ',0\n').encode())
@example(content=(META + '1.jpg,5' + ',inf' * 10 + ',0\n').encode())
def test_meta_file_of_pyiqa(put, content):
    root = put('meta/meta_info_AVADataset.csv', content).parent
    put('meta/images/953619.jpg', b'')
    found = value_or_error(ava.read_ava, root)
    if found is not None:
        assert found.table['MOS'].between(1, 10).all()


@pytest.fixture(scope='module')
def para_files(raw_para):
    folder = raw_para / 'annotation'
    return {name: (folder / f'PARA-{name}.csv').read_bytes() for name in ('GiaaTest', 'Images')}


@fuzz
@given(data=st.data())
def test_para(put, para_files, data):
    for name, content in para_files.items():
        header, _, _ = content.partition(b'\n')
        names = header.decode().split(',')
        some = st.one_of(
            damaged(content[:2000]),
            table(names).map(lambda t, h=header: h + b'\n' + t.partition(b'\n')[2]),
            pieces(*names, ',', '\n'),
            st.just(content),
        )
        put(f'para/annotation/PARA-{name}.csv', data.draw(some))
    put('para/imgs/session1/a.jpg', b'')
    found = value_or_error(para.read_para, put('para/x', b'').parent)
    if found is not None:
        assert found.table['MOS'].between(1, 5).all()


SCORES = 'farm1_1_2.jpg 0.5\nfarm1_3_4.jpg 0.75\n'


@fuzz
@given(
    lists=st.lists(
        st.one_of(pieces(SCORES, 'a.jpg ', '0.5\n', '2\n'), damaged(SCORES.encode())),
        min_size=4,
        max_size=4,
    ),
    votes=st.one_of(
        st.just(None),
        table(
            [f'{x}{i}' for i in range(1, 11) for x in ('Input.image_url', 'Answer.overallScore')]
        ),
        pieces('Input.image_url1', 'Answer.overallScore1', ',', '\n'),
    ),
)
def test_aadb(put, lists, votes):
    names = ('Train_score', 'TestNew_score', 'Validation_score', 'Train_light')
    for name, content in zip(names, lists, strict=True):
        part, label = name.split('_')
        label = aadb.ATTRIBUTES.get(label, label)
        put(f'aadb/imgList{part}Regression_{label}.txt', content)
    root = put('aadb/datasetImages_warp256/farm1_1_2.jpg', b'').parents[1]
    raters = put(f'aadb/{aadb.RATERS_FILE}', votes or b'')
    if votes is None:
        raters.unlink()
    found = value_or_error(aadb.read_aadb, root)
    if found is not None:
        assert found.table['MOS'].between(0, 1).all()


def mat(**variables):
    file = io.BytesIO()
    scipy.io.savemat(file, variables)
    return file.getvalue()


def cell(*values):
    return pd.Series(values, dtype=object).to_numpy()


INFO = {
    'trainNameList': cell('a.jpg', 'b.jpg'),
    'trainScore': [0.1, 0.2],
    'testNameList': cell('c.jpg'),
    'testScore': [0.3],
}
ANY_VARIABLE = st.one_of(
    st.floats(),
    st.lists(st.floats(), max_size=3),
    st.text('ab.jpg', max_size=5),
    st.lists(st.text('ab.', max_size=5), max_size=3).map(lambda names: cell(*names)),
    st.lists(st.lists(st.floats(), min_size=2, max_size=2), min_size=1, max_size=3),
    st.just(cell(cell('a'), cell(1.0, 2.0))),
    st.just({'a': 1.0}),
    st.just([1 + 2j]),
)


@fuzz_mat
@given(
    info=st.one_of(
        damaged(mat(**INFO)),
        st.dictionaries(st.sampled_from(list(INFO)), ANY_VARIABLE).map(
            lambda some: mat(**{**INFO, **some})
        ),
        st.binary(max_size=300),
    )
)
@example(info=mat(**{**INFO, **dict.fromkeys(INFO, -1e308)}))
@example(info=mat(**{**INFO, 'trainNameList': cell(cell('a'), cell(1.0, 2.0))}))
def test_aadb_info(put, info):
    root = put('info/AADBinfo.mat', info).parent
    put('info/datasetImages_warp256/a.jpg', b'')
    found = value_or_error(aadb.read_aadb, root)
    if found is not None:
        assert found.table['MOS'].between(0, 1).all()


MATRIX = cell([[0.5] + [0.1] * 11, [0.75] + [0.2] * 11], [[0.5] + [0.1] * 11] * 2)


@fuzz_mat
@given(
    matrix=st.one_of(
        damaged(mat(dataset=MATRIX)),
        ANY_VARIABLE.map(lambda value: mat(dataset=value)),
        ANY_VARIABLE.map(lambda value: mat(dataset=cell(value, value))),
    )
)
def test_aadb_matrix(put, matrix):
    for part in ('Train', 'TestNew'):
        put(f'matrix/imgList{part}Regression_score.txt', SCORES.encode())
    put('matrix/datasetImages_warp256/farm1_1_2.jpg', b'')
    value_or_error(aadb.read_aadb, put('matrix/attMat.mat', matrix).parent)


# Comments

COMMENTS_JSON = json.dumps(
    {'images': [{'filename': '12.jpg', 'sentences': [{'raw': 'Soft light', 'clean': 'soft'}]}]}
).encode()


@fuzz
@given(
    content=st.one_of(
        pieces('1#12#', 'soft light', '#', '\n', '&amp;#39;', '2#13#a b\n'),
        pieces(
            '{"images": [', '{"filename": "12.jpg"', '"sentences": [', '{"raw": "a b"}', ']', ','
        ),
        damaged(COMMENTS_JSON),
        JSON.map(lambda value: json.dumps({'images': value}).encode()),
        st.lists(entries('filename', 'sentences', 'raw')).map(
            lambda images: json.dumps({'images': images}).encode()
        ),
    )
)
@example(content=b'{"images": ' + b'[' * 20_000)
def test_comments(put, content):
    found = value_or_error(read_comments, put('comments', content))
    if found is not None:
        comments, _ = found
        assert comments.schema.names == ['image_id', 'text']
        assert all(text.strip() and '\n' not in text for text in comments['text'].to_pylist())


@fuzz
@given(text=st.one_of(TEXT, st.text(max_size=200)))
def test_cleaning(text):
    clean = clean_comment(text)
    assert clean == clean.strip() and not any(c in clean for c in '\0\n\r\t')


@pytest.fixture(scope='module')
def store_bytes(tmp_path_factory):
    import pyarrow as pa

    from pyiqa_amhp.datasets.comments import SCHEMA

    path = tmp_path_factory.mktemp('store') / 'comments.arrow'
    comments = pa.table([[1, 1, 2], ['soft light', 'nice', 'colour']], schema=SCHEMA)
    return write_store(path, comments, [1, 0, 2], ['light', 'color']).read_bytes()


@fuzz
@given(data=st.data())
def test_stores_of_comments(put, store_bytes, data):
    content = data.draw(st.one_of(damaged(store_bytes), st.binary(max_size=300)))
    store = value_or_error(CommentStore, put('comments.arrow', content))
    if store is not None:
        assert all(isinstance(store.text(row), str) for row in range(len(store)))


YAML = ['light: [lit]', '- ', 'light', ': ', '[', ']', '\n', '2001-99-99', '!!python/none', '? ']


@fuzz
@given(content=st.one_of(pieces(*YAML), damaged(b'light: [lit, backlit]\ncolor: [hue]\n')))
@example(content=b'2001-99-99')
def test_keywords(put, content):
    keywords = value_or_error(AttributeKeywords, put('words.yml', content))
    if keywords is not None:
        assert keywords.masks(['soft light']).shape == (1,)


OPTION_FILE = yaml.safe_dump({
    **dict.fromkeys(('name', 'model_type'), 'x'), 'num_gpu': 0, 'datasets': {'train': {}},
    **{name: {'a': [1, None]} for name in ('network', 'path', 'train', 'logger', 'val')},
})  # fmt: skip


@fuzz
@given(
    content=st.one_of(pieces(*YAML, 'datasets', 'train:'), damaged(OPTION_FILE.encode())),
    kind=st.sampled_from(['train', 'test']),
)
def test_option_files(put, content, kind):
    found = value_or_error(read_options, put('options.yml', content), kind)
    assert found is None or {'network', 'datasets'} <= found.keys()


# Weights

FIELDS = [name for name in AMHPConfig.__dataclass_fields__ if name != 'backbone']


@fuzz
@given(config=st.one_of(entries(*FIELDS), entries(*FIELDS, 'x'), JSON))
@example(config={'protocol': None})
@example(config={'levels': None})
@example(config={'attributes': 1})
def test_configurations(config):
    tensor = torch.tensor(list(json.dumps(config).encode()), dtype=torch.uint8)
    stored = value_or_error(stored_config, tensor)
    if stored is not None:
        found = value_or_error(AMHPConfig.from_options, {}, stored)
        assert found is None or len(found.levels) == len(found.level_values)


@fuzz
@given(
    shape=st.lists(st.integers(0, 3), max_size=3),
    dtype=st.sampled_from([torch.uint8, torch.int64, torch.float32, torch.bool, torch.complex64]),
)
def test_configurations_that_are_tensors_of_other_values(shape, dtype):
    stored = value_or_error(stored_config, torch.full(shape, 10).to(dtype))
    assert stored is None


def torch_bytes(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


STATE = {'a.weight': torch.ones(2, 3), 'b': torch.arange(4)}
SAFE = safetensors.torch.save(STATE)
HEADER = st.dictionaries(
    st.sampled_from(['w', 'v', '__metadata__']),
    st.one_of(
        JSON,
        st.fixed_dictionaries({
            'dtype': st.sampled_from(['F32', 'U8', 'F4', 'X']),
            'shape': st.lists(st.integers(-1, 2**63), max_size=3),
            'data_offsets': st.lists(st.integers(-1, 2**63), max_size=3),
        }),
    ),
)  # fmt: skip


def with_header(header, data):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, 'little') + text + data


def script_bytes():
    module = torch.nn.Linear(2, 2)
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(module), file)
    return file.getvalue()


def with_pickle(archive, pickled):
    """Return the archive with another pickle in it."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(file, 'w') as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith('/data.pkl') else old.read(name))
    return file.getvalue()


def pickle_of(archive):
    with zipfile.ZipFile(io.BytesIO(archive)) as old:
        return old.read(next(name for name in old.namelist() if name.endswith('/data.pkl')))


ZIPPED, LEGACY = torch_bytes(STATE), torch_bytes(STATE, _use_new_zipfile_serialization=False)
SCRIPT = script_bytes()


@fuzz
@given(
    file=st.one_of(
        st.tuples(st.just('w.safetensors'), damaged(SAFE)),
        st.tuples(st.just('w.safetensors'), st.builds(with_header, HEADER, st.binary(max_size=64))),
        st.tuples(st.just('w.pth'), damaged(ZIPPED)),
        st.tuples(st.just('w.pth'), damaged(LEGACY)),
        st.tuples(
            st.just('w.pth'), damaged(pickle_of(ZIPPED)).map(lambda p: with_pickle(ZIPPED, p))
        ),
        st.tuples(
            st.just('w.pt'), damaged(pickle_of(SCRIPT)).map(lambda p: with_pickle(SCRIPT, p))
        ),
        st.tuples(st.just('w.pt'), damaged(SCRIPT)),
        st.tuples(st.sampled_from(['w.pth', 'w.safetensors']), st.binary(max_size=300)),
    )
)
def test_weights(put, file):
    path = put(*file)
    found = value_or_error(read_tensors, path)
    assert found is None or all(isinstance(value, torch.Tensor) for value in found.values())


# Images


def image_bytes(file_format):
    file = io.BytesIO()
    Image.effect_noise((12, 10), 60).convert('RGB').save(file, file_format)
    return file.getvalue()


FORMATS = ('JPEG', 'PNG', 'GIF', 'BMP', 'TIFF', 'WEBP', 'PPM')
IMAGES = [image_bytes(file_format) for file_format in FORMATS]


@fuzz
@given(content=st.one_of(*map(damaged, IMAGES), st.binary(max_size=200)))
@pytest.mark.filterwarnings('ignore')
def test_images(content):
    image = value_or_error(read_image, content)
    assert image is None or image.mode == 'RGB'


# Results of an interrupted run

ROW = json.dumps({
    'path': 'a.jpg', 'score': 5.0, 'levels': {'bad': 1.0}, 'text_source': 'none', 'error': '',
    'bins': [],
})  # fmt: skip
SETTINGS = json.dumps({'settings': {'metric': 'amhp'}}) + '\n'


def lines(*keys):
    return st.lists(st.one_of(entries(*keys), JSON).map(json.dumps), max_size=4).map(
        lambda found: ''.join(f'{line}\n' for line in found).encode()
    )


@fuzz
@given(
    content=st.one_of(
        st.one_of(pieces(ROW, '\n', '{"path": "b"}'), damaged((ROW + '\n').encode() * 2)).map(
            lambda rest: SETTINGS.encode() + rest
        ),
        lines('path', 'score', 'levels', 'text_source', 'error', 'bins').map(
            lambda rest: SETTINGS.encode() + rest
        ),
        damaged(SETTINGS.encode()),
        JSON.map(lambda value: (json.dumps({'settings': value}) + '\n').encode()),
    )
)
@example(content=(SETTINGS + '{"path": "a"}\n').encode())
@example(content=(SETTINGS + '{"path": ["a"], "bins": []}\n').encode())
@example(content=(SETTINGS + '{"path": "a", "bins": null}\n').encode())
@example(content=(SETTINGS + '{"path": "a", "bins": [], "levels": null}\n').encode())
@example(content=(SETTINGS + '{"path": "a", "bins": [], "levels": {"": 1.0}}\n').encode())
@example(content=b'{"settings": []}\n')
def test_rows_of_an_interrupted_run(put, content):
    path = put('scores.csv.partial.jsonl', content).with_name('scores.csv')
    file = value_or_error(ScoreFile, path, {'metric': 'amhp'}, True)
    if file is not None:
        rows = list(file.results())
        assert len(rows) == file.count and {row.path for row in rows} == file.done
        assert all(isinstance(row, ScoreResult) for row in rows)
        written = value_or_error(file.finish, ['bad'])
        assert written is None or len(pd.read_csv(written)) == len(rows)


CACHED = json.dumps({
    'key': 'k', 'score': 5.0, 'bins': [], 'text': False, 'seconds': 0.1, 'unreadable': '',
    'failed': '',
})  # fmt: skip


@fuzz
@given(
    content=st.one_of(
        pieces(CACHED, '\n', '{"key": "a"'),
        damaged((CACHED + '\n').encode() * 2),
        lines('key', 'score', 'bins', 'text', 'seconds', 'unreadable', 'failed'),
    )
)
@example(content=b'{"key": "k", "score": "5", "bins": []}\n')
def test_journals(put, content):
    for cached in ScoreCache(put('journal.jsonl', content)).known.values():
        assert isinstance(cached.score, float | None)
        assert all(isinstance(share, float) for share in cached.bins)
