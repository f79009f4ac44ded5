"""Malicious tables, comments, options, images and interrupted runs."""

import json
import pickle
import struct
import zlib

import numpy as np
from hostile_world import Code, World, case

# Names in tables

READ = 'the table of an `AMHPDataset`'


def read(world: World, content: str | bytes, index: int = 0, **options):
    from pyiqa_amhp.datasets.rated_images import read_table

    (world.folder / 'images').mkdir(exist_ok=True)
    opt = {'meta_info_file': world.write('rated.csv', content), 'level_values': [1, 2, 3]}
    return read_table({**opt, 'dataroot_target': world.folder / 'images', **options})


def name(what: str, given: str, gets: str = 'leaves dataroot_target'):
    def run(world: World) -> str:
        return read(world, f'img_name,MOS\nok.png,2\n"{given}",2\n').path(1)

    case('Names and paths', what, READ, gets)(run)


name('`../../etc/passwd`', '../../etc/passwd')
name('`a/../../x.png`', 'a/../../x.png')
name('`/etc/passwd`', '/etc/passwd')
name('`~/.ssh/id_rsa`', '~/.ssh/id_rsa')
name(r'`C:\Windows\x.png`', r'C:\Windows\x.png')
name(r'`..\..\x.png`', r'..\..\x.png')
name('a NUL byte', 'a.png\0.txt', 'a NUL byte in a name')


@case(
    'Names and paths', 'a link to a file outside the folder of images', READ,
    'is a link that leaves dataroot_target',
)  # fmt: skip
def _(world):
    images = read(world, 'img_name,MOS\nlink.png,2\n')
    (world.folder / 'images' / 'link.png').symlink_to(world.photo())
    return images.path(0)


@case(
    'Names and paths', 'a folder that is a link to one outside', READ,
    'is a link that leaves dataroot_target',
)  # fmt: skip
def _(world):
    images = read(world, 'img_name,MOS\nsub/photo.png,2\n')
    (world.folder / 'images' / 'sub').symlink_to(world.photo('other/photo.png').parent)
    return images.path(0)


@case(
    'Names and paths', '`../../outside.jpg` in a publisher\'s list', '`amhp prepare aadb`',
    'names that lead out of the folder of images; left out',
)  # fmt: skip
def _(world):
    from layouts import write_aadb

    root = write_aadb(world.folder / 'AADB')
    for file in root.rglob('imgListTrainRegression_*.txt'):
        first, _, rest = file.read_text().partition('\n')
        file.write_text(f'../../outside.jpg {first.split()[1]}\n{rest}')
    code, _, err = world.amhp('prepare', 'aadb', '--root', root, '--out', world.folder)
    assert code == 0 and 'outside' not in (world.folder / 'meta_info_AADBDataset.csv').read_text()
    return err


@case(
    'Names and paths', '`../../etc/passwd` in a CSV of texts: names are looked up, never opened',
    '`amhp score --texts FILE`', 'no img_name fits any of the 1 images',
)  # fmt: skip
def _(world):
    texts = world.write('texts.csv', 'img_name,text\n../../etc/passwd,nice\n')
    return world.refused('score', world.photo(), '--texts', texts)


# Tables


def rated(what: str, content: str | bytes, gets: str, **options):
    def run(world: World) -> str:
        read(world, content, **options)
        return 'no message'

    case('Tables', what, READ, gets)(run)


rated('NUL bytes in place of numbers', b'img_name,MOS\na.png,\0\0\n', 'expected a number')
rated('a quote that is never closed', 'img_name,MOS\n"a.png,2\n' * 9, 'cannot be read as CSV')
WORKBOOK = b'PK\x03\x04\x14\x00\x06\x00\x08\x00\x00\x00!\x00\xb5\xef\x13\xde' * 9
rated('a workbook of Excel, named .csv', WORKBOOK, 'cannot be read as CSV')
rated('UTF-16', 'img_name,MOS\na.png,2\n'.encode('utf-16'), 'cannot be read as CSV')
rated('more values than columns', 'img_name,MOS\na.png,2,3\n', 'more values than the header has')
rated('a score of `inf`', 'img_name,MOS\na.png,inf\n', "'inf', expected a number")
rated('a score of `1e999`', 'img_name,MOS\na.png,1e999\n', "'inf', expected a number")
rated('a score of `=1+1`', 'img_name,MOS\na.png,=1+1\n', "'=1+1', expected a number")
rated('votes below 0', 'img_name,c1,c2,c3\na.png,1,-5,6\n', "row 2, column 'c2'")
rated('a score off the scale', 'img_name,MOS\na.png,9e300\n', "row 2, column 'MOS'")


@case('Tables', 'a comment of 10 MB', READ, 'read as it is')
def _(world):
    comment = 'light, ' * 1_500_000 + 'dark'
    assert read(world, f'img_name,MOS,text\na.png,2,"{comment}"\n').text(0) == comment
    return 'read as it is'


@case('Tables', '20,000 columns', READ, 'read as it is')
def _(world):
    columns = ''.join(f',x{i}' for i in range(20_000))
    images = read(world, f'img_name,MOS{columns}\na.png,2{",1" * 20_000}\n')
    assert images.mos.tolist() == [2]
    return 'read as it is'


@case(
    'Tables', 'a split in a pickle that runs code', 'the option `split_file`',
    'pickles are not read, since loading one can run code',
)  # fmt: skip
def _(world):
    from pyiqa_amhp.datasets.dataset import AMHPDataset

    csv = world.write('rated.csv', 'img_name,MOS\na.png,2\n')
    split = world.write('split.pkl', pickle.dumps(Code(world.trace)))
    AMHPDataset(
        {
            'meta_info_file': csv, 'dataroot_target': world.folder, 'level_values': [1, 2, 3],
            'phase': 'train', 'split_file': split, 'split_index': 1,
        }
    )  # fmt: skip


@case(
    'Tables', 'commas in a text without quotes',
    '`amhp score --texts FILE`', 'more values than the header has columns',
)  # fmt: skip
def _(world):
    texts = world.write('texts.csv', 'img_name,text\nphoto.png,Nice, light\n')
    return world.refused('score', world.photo(), '--texts', texts)


@case(
    'Tables', 'votes of more than 64 bits in AVA.txt', '`amhp prepare ava`',
    'no line has the 15 whole numbers',
)  # fmt: skip
def _(world):
    world.write('AVA.txt', '1 953619 ' + '9' * 40 + ' 1' * 12 + '\n')
    return world.refused('prepare', 'ava', '--root', world.folder, '--out', world.folder / 'out')


@case(
    'Tables', 'a .mat file that holds objects in place of names', '`amhp prepare aadb`',
    'are not a name and a number for each image',
)  # fmt: skip
def _(world):
    import scipy.io

    deep = np.array([[1, 2], {'a': 'b'}], dtype=object)
    names = dict.fromkeys(('trainNameList', 'testNameList', 'trainScore', 'testScore'), deep)
    scipy.io.savemat(world.folder / 'AADBinfo.mat', names)
    return world.refused('prepare', 'aadb', '--root', world.folder, '--out', world.folder / 'out')


@case(
    'Tables',
    "a .mat file with one changed byte, which crashes scipy's reader (in a process of its own)",
    '`amhp prepare aadb`',
    'damaged, or no MATLAB file (the reader stopped',
)
def _(world):
    import scipy.io

    scipy.io.savemat(world.folder / 'AADBinfo.mat', {'a': [1.0]})
    content = bytearray((world.folder / 'AADBinfo.mat').read_bytes())
    content[176] = 0  # the type of the numbers
    world.write('AADBinfo.mat', bytes(content))
    return world.refused('prepare', 'aadb', '--root', world.folder, '--out', world.folder / 'out')


# Comments, words, options


@case(
    'Comments and options', 'JSON of 100,000 lists within lists', '`read_comments(FILE)`',
    'cut or damaged after image 0',
)  # fmt: skip
def _(world):
    from pyiqa_amhp.datasets.comments import read_comments

    return read_comments(world.write('comments.json', '{"images": ' + '[' * 100_000))


@case(
    'Comments and options', 'a file of random bytes as a store of comments', '`CommentStore(FILE)`',
    'cut, damaged, or not an Arrow file',
)  # fmt: skip
def _(world):
    from pyiqa_amhp.datasets.comment_store import CommentStore

    return CommentStore(world.write('ava_comments.arrow', b'ARROW1\0\0' + b'\xff' * 500))


def options(what: str, content: str, gets: str):
    def run(world: World) -> str:
        file = world.write('options.yml', content.replace('TRACE', str(world.trace)))
        return world.refused('train', '-opt', file)

    case('Comments and options', what, '`amhp train -opt FILE`', gets)(run)


options(
    'YAML that runs a command', 'name: !!python/object/apply:os.system ["touch TRACE"]\n',
    'not a plain YAML file',
)  # fmt: skip
options(
    'YAML that makes an object', 'name: !!python/object/new:pathlib.Path [TRACE]\n',
    'not a plain YAML file',
)  # fmt: skip
options('a list in place of options', '- a\n- b\n', 'expected sections such as')


@case(
    'Comments and options', 'a list of attributes in YAML that runs a command',
    '`AttributeKeywords(FILE)`', 'not YAML',
)  # fmt: skip
def _(world):
    from pyiqa_amhp.datasets.keywords import AttributeKeywords

    code = f'light: !!python/object/apply:os.system ["touch {world.trace}"]\n'
    return AttributeKeywords(world.write('words.yml', code))


# Images

SCORE = '`read_image(FILE)`'


def image(what: str, gets: str, name: str = 'photo.png'):
    """Decorate a function that makes the bytes of an image file."""

    def add(make):
        def run(world: World) -> str:
            from pyiqa_amhp.datasets.images import read_image

            return read_image(world.write(name, make()))

        return case('Images', what, SCORE, gets)(run)

    return add


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    head = chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + head + b''.join(chunks) + chunk(b'IEND', b'')


@image('a script named .jpg', 'not an image that Pillow can read', 'photo.jpg')
def _():
    return b'#!/bin/sh\necho no image\n'


@image('an SVG with a script', 'not an image that Pillow can read', 'photo.svg')
def _():
    return b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


@image('an empty file', 'the file is empty', 'photo.jpg')
def _():
    return b''


@image('65 bytes whose header claims 100,000 x 100,000 pixels', 'too large')
def _():
    return png(100_000, 100_000, chunk(b'IDAT', zlib.compress(b'')))


@image('a PNG whose text unpacks to 300 MB', 'a damaged or truncated image')
def _():
    text = zlib.compress(bytes(300_000_000), 9)
    return png(1, 1, chunk(b'zTXt', b'a\0\0' + text), chunk(b'IDAT', zlib.compress(bytes(4))))


@case(
    'Images',
    'a file name with a command for the terminal',
    '`amhp weights add FILE`',
    r'\x1b]0;owned',
)
def _(world):
    message = world.refused('weights', 'add', world.folder / '\x1b]0;owned\x07.pth')
    assert '\x1b' not in message
    return message


# Results of an interrupted run


@case(
    'Interrupted runs', 'rows with values of other types', '`ScoreFile(FILE, resume=True)`',
    'scored again',
)  # fmt: skip
def _(world):
    from pyiqa_amhp.scoring.writer import ScoreFile

    first, row = json.dumps({'settings': {}}), {'path': ['a'], 'score': 'x', 'bins': 7}
    world.write('scores.csv.partial.jsonl', f'{first}\n{json.dumps(row)}\n')
    file = ScoreFile(world.folder / 'scores.csv', {}, resume=True)
    assert file.count == 0 and not file.done
    return 'scored again'


@case(
    'Interrupted runs', 'scores that are no numbers, in the cache', '`ScoreCache(FILE)`',
    'scored again',
)  # fmt: skip
def _(world):
    from pyiqa_amhp.evaluation.scores import ScoreCache

    rows = [{'key': 'a', 'score': '9', 'bins': []}, {'key': ['b'], 'score': 1.0, 'bins': []}]
    cache = ScoreCache(world.write('j.jsonl', ''.join(json.dumps(r) + '\n' for r in rows)))
    assert not cache.known
    return 'scored again'
