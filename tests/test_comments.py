"""AVA-Comments as published: comments of both formats, damaged files, and how deep JSON nests."""

import json
import unicodedata

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pyiqa_amhp.datasets import comments
from pyiqa_amhp.datasets.comments import JsonDepth, clean_comment, read_comments
from pyiqa_amhp.errors import AMHPError


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('It&#39;s &quot;fun&quot; &amp; b&amp;w &#x1F44D;', 'It\'s "fun" & b&w 👍'),
        ('twice: &amp;#39;a&amp;#39; &amp;lt;3', "twice: 'a' <3"),
        ('R&B; rock&roll &nothing', 'R&B; rock&roll &nothing'),
        ('one<br />two<BR>three</b>', 'one two three'),
        ('<a href="http://a.b/image.php?IMAGE_ID=953619">this one</a> here', 'this one here'),
        ('I <3 it, a<b and b>a', 'I <3 it, a<b and b>a'),
        ('<i >a<img src="5.jpg"/>b<font\ncolor=red>c</I>', 'a b c'),
        ('[b]bold[/b] [url=http://x.org/1]link[/url] [sic] [I say]', 'bold link [sic] [I say]'),
        ('as in [thumb]953619[/thumb] or [user]1234[/user]!', 'as in or !'),
        ('see http://www.dpchallenge.com/image.php?IMAGE_ID=953619.', 'see .'),
        ('(HTTPS://x.org/a?b=5) www.foo.com/7, dpchallenge.com/image.php?IMAGE_ID=9', '( ) ,'),
        ('and/or 1/60 f/2.8 foo.com', 'and/or 1/60 f/2.8 foo.com'),
        ('tab\tnew\r\nline\u2028and\xa0blank ', 'tab new line and blank'),
        ('bell\x07 nul\x00 del\x7f', 'bell nul del'),
        ('it\x92s \x93so\x94 good\x85', 'it’s “so” good…'),
        ('👩‍👩‍👧 ❤️ 👍🏽 1️⃣', '👩‍👩‍👧 ❤️ 👍🏽 1️⃣'),
        ('lone \ud83d surrogate', 'lone surrogate'),
    ],
)  # fmt: skip
def test_a_comment_is_cleaned(text, expected):
    assert clean_comment(text) == expected


@pytest.fixture
def put(tmp_path):
    """Write a file of comments; returns its path."""

    def write(content, name='AVA_Comments_Full.txt'):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_comments_are_listed_by_image_in_the_files_order(put):
    path = put('1#20#nice light#so sharp\n2#10#good\n3#30\n4#31#\n')
    table, problems = read_comments(path)
    assert table.schema.types == [pa.int64(), pa.large_string()]
    assert table.to_pydict() == {
        'image_id': [20, 20, 10],
        'text': ['nice light', 'so sharp', 'good'],
    }
    assert problems == []
    assert table.schema.metadata == {b'source': b'AVA_Comments_Full.txt'}


def texts_of(path):
    table, _ = read_comments(path)
    return table['text'].to_pylist()


def test_no_running_number_id_or_vote_count_becomes_text(put):
    votes = '0 1 5 17 38 36 15 6 5 1'
    path = put(
        f'4711#953619#good light#953619#{votes}#5.37#nice #{votes}#8#mean: #5.37 #(8)#F\n'
        f'4712#953620# #{votes.replace(" ", "#")}#9,5#so sharp\n'
    )
    table, _ = read_comments(path)
    assert table.to_pydict() == {
        'image_id': [953619] * 3 + [953620],
        'text': ['good light', 'nice', 'mean:', 'so sharp'],
    }


@pytest.mark.parametrize(
    ('line', 'expected'),
    [
        ('It&#39;s#b&#x26;w#&amp;#34;so&amp;#34;', ["It's", 'b&w', '"so"']),
        ('rock & #39 ways', ['rock & #39 ways']),
        ('rock &#39 ways', ['rock &', '39 ways']),
        ('my #1 pick#2nd for me', ['my #1 pick', '2nd for me']),
        ("We're #1!#yes", ["We're", 'yes']),
        ('good #nice', ['good', 'nice']),
        ('a ##b###', []),
        ('see http://x.org/a#part two', ['see', 'part two']),
    ],
)
def test_a_hash_separates_comments_except_in_references_and_number_signs(put, line, expected):
    assert texts_of(put(f'1#5#{line}\n')) == expected


def in_json(images):
    """Comments in the format of AVA-Captions, which splits lines at every #."""
    listed = [
        {
            'filename': f'{image_id}.jpg',
            'imgid': image_id,
            'split': 'train',
            'sentences': [
                {'raw': raw, 'clean': raw.lower(), 'tokens': raw.lower().split(), 'sentid': ''}
                for raw in '#'.join(raws).split('#')
            ],
        }
        for image_id, raws in images
    ]
    return json.dumps({'images': listed, 'dataset': 'AVA'}, ensure_ascii=False)


def test_both_formats_give_the_same_comments(put):
    images = [
        (7, ['It&#39;s lit', 'my #1 pick', 'It&#39;s lit', '10', '', '<b>so</b> b&amp;w 👍', 'é']),
        (5, ['one']),
        (7, ['one', 'my #1 pick']),
    ]
    lines = ''.join(f'{n}#{i}#{"#".join(raws)}\n' for n, (i, raws) in enumerate(images, 1))
    from_lines, problems = read_comments(put(lines))
    from_json, json_problems = read_comments(put(in_json(images), 'CLEAN.json'))
    assert from_lines.to_pydict() == {
        'image_id': [7, 7, 7, 7, 5, 7],
        'text': ["It's lit", 'my #1 pick', 'so b&w 👍', 'é', 'one', 'one'],
    }
    assert from_json.equals(from_lines)
    counts = {problem.what.split(';')[0]: problem.count for problem in problems}
    assert counts == {
        'a comment without a word (numbers or signs only)': 1,
        'an image that is listed twice': 1,
    }
    assert [p.count for p in json_problems] == [p.count for p in problems]


plain = st.text(
    st.characters(exclude_categories=['Cs', 'Cc', 'Cn'], exclude_characters='&<[/'), max_size=40
).filter(lambda text: 'www.' not in text.lower())


def expected_rows(images):
    rows = {}
    for image_id, texts in images:
        for text in texts:
            text = ' '.join(text.split())
            if text.isascii():
                keep = len(text) > 1 and any(c.isalpha() for c in text)
            else:
                keep = any(c.isalpha() or unicodedata.category(c) == 'So' for c in text)
            if keep:
                rows[image_id, text] = None
    return list(rows)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 10**18 - 1), st.lists(plain, max_size=4)), min_size=1),
    st.sampled_from(['\n', '\r\n']),
    st.booleans(),
)
@example([(1, ['#1 a', 'b #2 c', '#', 'ends with #'])], '\n', True)
def test_any_text_is_kept_in_both_formats(tmp_path_factory, images, line_end, bom):
    folder = tmp_path_factory.getbasetemp()
    mark = '\ufeff' if bom else ''
    escaped = [(i, [text.replace('#', '&#35;') for text in texts]) for i, texts in images]
    lines = mark + ''.join(f'1#{i}#{"#".join(texts)}{line_end}' for i, texts in escaped)
    for name, content in (('any.txt', lines), ('any.json', mark + in_json(escaped))):
        (folder / name).write_bytes(content.encode())
        table, _ = read_comments(folder / name)
        found = zip(table['image_id'].to_pylist(), table['text'].to_pylist(), strict=True)
        assert list(found) == expected_rows(images)


def test_a_very_long_comment_is_kept(put):
    long = 'light ' * 500_000
    assert texts_of(put(f'1#5#{long}#short#{"x" * 100_000}\n')) == [
        long.strip(), 'short', 'x' * 100_000
    ]  # fmt: skip


def test_bad_bytes_are_read_as_windows_1252_and_counted(put):
    path = put(b'1#5#caf\xe9 it\x92s caf\xc3\xa9\n2#6#fine\n3#7#bad \x81\xff\n')
    table, (problem,) = read_comments(path)
    assert table['text'].to_pylist() == ['café it’s café', 'fine', 'bad ÿ']
    assert (problem.what, problem.count) == ('bytes that are not UTF-8; read as Windows-1252', 2)
    assert problem.where == [f'{path}, line 1', f'{path}, line 3']


def test_malformed_lines_are_ignored_and_counted_with_their_line(put):
    bad = (
        'no mark',
        '3#x#light',
        '#5#light',
        '4##light',
        '5 light',
        f'6#{"9" * 19}#light',
        '٧#7#a',
    )
    path = put('1#5#good\n' + '\n'.join(bad) + '\n\n9#6#sharp\n')
    table, (problem,) = read_comments(path)
    assert table['text'].to_pylist() == ['good', 'sharp']
    assert problem.what == 'not "number#image id#comments"; the line was ignored'
    assert problem.where == [f'{path}, line {n}' for n in range(2, 9)]


@pytest.mark.parametrize(
    ('end', 'texts', 'problems'),
    [
        ('2#6#so sha', ['good', 'so sha'], ['no line end']),
        ('2#6#', ['good'], ['no line end']),
        ('2#6', ['good'], ['no line end']),
        ('2', ['good'], ['no line end', 'not "number#image id']),
    ],
)
def test_a_file_that_was_cut_in_a_line_is_reported(put, end, texts, problems):
    path = put('1#5#good\n' + end)
    table, found = read_comments(path)
    assert table['text'].to_pylist() == texts
    assert [
        problem.what[: len(start)] for problem, start in zip(found, problems, strict=True)
    ] == problems
    assert found[0].where == [f'{path}, line 2']


def test_an_image_on_two_lines_has_the_comments_of_both_once(put):
    path = put('1#5#one#two\n2#6#one\n3#5#two#three\n')
    table, (problem,) = read_comments(path)
    assert table.to_pydict() == {'image_id': [5, 5, 6, 5], 'text': ['one', 'two', 'one', 'three']}
    assert problem.where == [f'{path}, line 3: image 5']
    assert problem.what.endswith('its comments were merged')


@pytest.mark.parametrize(
    ('content', 'name'),
    [
        ('1 953619 0 1 5 17 38 36 15 6 5 1 1 22 1396\n', 'AVA.txt'),
        ('img_name,MOS\n1.jpg,5.2\n', 'meta.csv'),
        ('', 'empty.txt'),
        (bytes(range(256)) * 8, 'image.jpg'),
        ('1#5#good\n'.encode('utf-16'), 'wide.txt'),
        ('{"annotations": []}', 'coco.json'),
        ('{"images": []}', 'none.json'),
        ('[{"filename": "1.jpg"}]', 'list.json'),
    ],
)
def test_a_file_of_another_format_is_refused(put, content, name):
    path = put(content, name)
    with pytest.raises(AMHPError, match=r'expected AVA_Comments_Full\.txt .* CLEAN_') as caught:
        read_comments(path)
    assert str(caught.value).startswith(str(path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(AMHPError, match=r'none\.txt: cannot be read'):
        read_comments(tmp_path / 'none.txt')


@pytest.mark.parametrize(
    ('change', 'after'),
    [(lambda text: text[:-80], 1), (lambda text: text[:10], 0), (lambda text: text + ',', None)],
)
def test_cut_or_damaged_json_is_refused(put, change, after):
    whole = in_json([(5, ['good light']), (6, ['so sharp'])])
    path = put(change(whole), 'CLEAN.json')
    with pytest.raises(AMHPError, match=r'CLEAN\.json: cut or damaged after image') as caught:
        read_comments(path)
    assert 'download it again' in str(caught.value)
    assert after is None or f'after image {after} ' in str(caught.value)


def test_json_falls_back_to_clean_and_counts_unusable_sentences(put):
    images = [
        {
            'filename': '5.jpg',
            'sentences': [{'raw': '', 'clean': 'soft light'}, {'clean': 'sharp'}],
        },
        {
            'filename': 'AVA/6.jpeg',
            'sentences': [{'raw': 'a#b c'}, {'tokens': []}, 'good', {'raw': 1}],
        },
        {'filename': '7.jpg'},
        {'filename': 'x.jpg', 'sentences': [{'raw': 'lost'}]},
        None,
    ]
    path = put(json.dumps({'dataset': {'images': 1}, 'images': images}), 'CLEAN.json')
    table, problems = read_comments(path)
    assert table.to_pydict() == {'image_id': [5, 5, 6], 'text': ['soft light', 'sharp', 'a#b c']}
    sentences, names = problems
    assert (sentences.count, sentences.where[0]) == (3, f'{path}, image 2 (AVA/6.jpeg)')
    assert names.where == [f'{path}, image 4', f'{path}, image 5']


def test_json_may_hold_bad_bytes_raw_control_characters_and_half_surrogates(put):
    raw = b'"it\x92s\x01 a\tgood \\ud83d one"'
    content = b'{"images": [{"filename": "5.jpg", "sentences": [{"raw": %b}]}]}' % raw
    table, (problem,) = read_comments(put(content))
    (text,) = table['text'].to_pylist()
    assert text.replace('?', '').split() == ['it’s', 'a', 'good', 'one']
    assert 'Windows-1252' in problem.what


@pytest.mark.parametrize('size', [1, 7, 64])
def test_blocks_and_batches_of_any_size_give_the_same(put, monkeypatch, size):
    images = [(n, [f'light {n}', 'é👍 &#39;so&#39;', 'one']) for n in range(20)]
    lines = ''.join(f'{n}#{i}#{"#".join(raws)}\r\n' for n, (i, raws) in enumerate(images, 1))
    for content in (lines, in_json(images)):
        path = put(content)
        monkeypatch.undo()
        expected, _ = read_comments(path)
        assert len(expected) == 60
        monkeypatch.setattr(comments, '_BATCH_ROWS', size)
        monkeypatch.setattr(comments, '_BLOCK_BYTES', size)
        monkeypatch.setattr(comments, '_HEAD_BYTES', 1 << 10)
        table, problems = read_comments(path)
        assert table.equals(expected)
        assert problems == []


def test_progress_wraps_all_blocks_of_the_file(put):
    path = put('1#5#' + 'light ' * 600_000 + '\n')
    seen = []

    def progress(blocks, total, what):
        seen.append((total, what))
        for block in blocks:
            seen.append(len(block))
            yield block

    table, _ = read_comments(path, progress)
    assert len(table) == 1
    assert seen[0] == (4, 'Reading comments')
    assert len(seen) == 1 + 4
    assert sum(seen[1:]) == path.stat().st_size


# How deep JSON nests

STRINGS = st.text('[]{}"\\\\ab', max_size=6)
JSON = st.recursive(
    st.one_of(STRINGS, st.none()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(STRINGS, inner, max_size=3)
    ),
    max_leaves=12,
)


def depth(value):
    inner = (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    )
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


@pytest.mark.parametrize('size', [1, 2, 3, 1000])
@settings(deadline=None, max_examples=60)
@given(value=JSON)
def test_the_depth_of_json_is_limited_exactly(size, value):
    content = json.dumps(value).encode()

    def feed(limit):
        json_depth = JsonDepth(limit)
        for start in range(0, len(content), size):
            json_depth.feed(content[start : start + size])

    feed(depth(value))
    if depth(value):
        with pytest.raises(ValueError, match=f'more than {depth(value) - 1} deep'):
            feed(depth(value) - 1)
