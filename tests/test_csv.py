"""A CSV and its lines, errors that name a cell, and names that stay in their folder."""

import pandas as pd
import pytest

from pyiqa_amhp.datasets.csv import escapes_root, get_column, read_csv, stays_within, to_numbers
from pyiqa_amhp.datasets.rated_images import read_table
from pyiqa_amhp.errors import AMHPError


@pytest.fixture
def read(tmp_path):
    """Write a CSV and read it; an error must begin with its name, which is cut off."""

    def read(content):
        file = tmp_path / 'rated.csv'
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        try:
            return read_csv(str(file), text_columns=('img_name', 'text'))
        except AMHPError as error:
            assert str(error).startswith(str(file))
            raise AMHPError(str(error).removeprefix(str(file)).lstrip(',: ')) from None

    return read


# The file


def test_a_missing_file_is_an_error(tmp_path):
    file = tmp_path / 'nothing.csv'
    with pytest.raises(AMHPError) as caught:
        read_csv(str(file), ())
    assert str(caught.value) == f'{file}: no such file; check meta_info_file'


@pytest.mark.parametrize(
    ('content', 'expected'),
    [
        ('', 'the file is empty; expected a CSV with a header line'),
        ('img_name,MOS\n', 'a header but no rows'),
        (b'img_name,MOS\n\xff\xfe,1\n', 'cannot be read as CSV'),
        ('img_name,MOS\na,1\nb,2,3\n', 'cannot be read as CSV (Error tokenizing data. C error: '
         'Expected 2 fields in line 3, saw 3)'),
        ('img_name,MOS,text\na,1,so, so\nb,2,fine\n', 'row 2: more values than the header has '
         'columns; put a text with commas in double quotes'),
    ],
)  # fmt: skip
def test_a_file_that_is_not_a_csv_with_rows_is_an_error(read, content, expected):
    with pytest.raises(AMHPError) as caught:
        read(content)
    assert str(caught.value).startswith(expected)


def test_a_folder_in_place_of_a_file_is_an_error(tmp_path):
    with pytest.raises(AMHPError, match='cannot be read as CSV') as caught:
        read_csv(str(tmp_path), ())
    assert str(caught.value).startswith(str(tmp_path))


def test_text_columns_keep_their_digits(read):
    table = read('img_name,MOS,text\n0042,007,1e3\n')
    assert table['img_name'].tolist() == ['0042'] and table['text'].tolist() == ['1e3']
    assert table['MOS'].tolist() == [7]


# Lines as an editor counts them


@pytest.mark.parametrize('end', ['\n', '\r\n'])
def test_rows_are_indexed_by_their_line_after_a_text_of_many_lines(read, end):
    content = end.join(['img_name,text,MOS', f'a,"one{end}two{end}three",1', 'b,x,2', 'c,x,oops'])
    assert content.split(end)[5] == 'c,x,oops'
    assert read(content).index.tolist() == [2, 5, 6]


def test_a_row_of_many_lines_is_indexed_by_its_first_line(read):
    content = 'img_name,MOS,text\na,1,"one\ntwo"\nb,oops,"one\ntwo"\nc,1,\n'
    assert read(content).index.tolist() == [2, 4, 6]


def test_blank_lines_count(read):
    assert read('img_name,MOS\na,1\n\nb,2\n').index.tolist() == [2, 3, 4]


# Cells


def test_a_missing_column_is_an_error_with_the_columns(read):
    table = read('name,MOS\na,1\n')
    with pytest.raises(AMHPError, match=r"x\.csv: no column 'img_name'; .* are name, MOS"):
        get_column(table, 'img_name', 'x.csv')


@pytest.mark.parametrize(
    ('cell', 'problem'),
    [('abc', "'abc'"), ('', 'empty'), ('inf', "'inf'"), ('"1,5"', "'1,5'")],
)
def test_a_cell_that_is_not_a_number_is_named(read, cell, problem):
    column = read(f'img_name,MOS\na,1\nb,{cell}\nc,3\n')['MOS']
    with pytest.raises(AMHPError) as caught:
        to_numbers(column, 'x.csv')
    assert str(caught.value) == f"x.csv, row 3, column 'MOS': {problem}, expected a number"


def test_an_empty_cell_may_be_allowed(read):
    numbers = to_numbers(read('img_name,std\na,1\nb,\n')['std'], 'x.csv', missing_ok=True)
    assert pd.isna(numbers).tolist() == [False, True]


# Names and links


@pytest.mark.parametrize(
    'name',
    ['/etc/a', '\\\\host\\a', '~/a', 'C:\\a', 'c:a', '..', '../a', 'x/..', 'x/../../a', '..\\a',
     'x\\..\\a', 'x\n/../../a', 'a\0b', 'x\ny\0'],
)  # fmt: skip
def test_names_that_escape_the_root(name):
    assert escapes_root(pd.Series(['ok.png', name])).tolist() == [False, True]


@pytest.mark.parametrize('name', ['a.png', 'x/a.png', 'a..b', '..a/b..', 'x/...', 'a b', 'ü/美'])
def test_names_that_stay_below_the_root(name):
    assert not escapes_root(pd.Series([name])).any()


@pytest.fixture
def root(tmp_path):
    """A folder with an image, and a folder beside it whose name begins with the same word."""
    for name in ('root/sub', 'root-2'):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / 'a.png').write_bytes(b'')
    return tmp_path / 'root'


def test_names_without_links_stay_within_the_folder(root):
    assert stays_within(str(root), 'sub/a.png') and stays_within(str(root), 'no/such.png')


def test_links_within_the_folder_are_allowed(root):
    (root / 'link.png').symlink_to('sub/a.png')
    (root / 'folder').symlink_to(root / 'sub')
    assert stays_within(str(root), 'link.png') and stays_within(str(root), 'folder/a.png')


def test_the_folder_itself_may_be_a_link(root, tmp_path):
    (tmp_path / 'images').symlink_to(root)
    (root / 'link.png').symlink_to(root / 'sub' / 'a.png')
    assert stays_within(str(tmp_path / 'images'), 'link.png')


@pytest.mark.parametrize('target', ['../root-2/a.png', '..', '/etc/passwd', '../not/there.png'])
def test_links_out_of_the_folder_are_found(root, target):
    (root / 'link').symlink_to(target)
    assert not stays_within(str(root), 'link')


def test_a_link_out_of_the_folder_is_an_error_with_its_row_unless_allowed(root, tmp_path):
    (root / 'link.png').symlink_to(tmp_path / 'root-2' / 'a.png')
    csv = tmp_path / 'rated.csv'
    rows = {'img_name': ['sub/a.png', 'link.png'], 'MOS': [2, 3], 'split': ['train', 'test']}
    pd.DataFrame(rows).to_csv(csv, index=False)
    opt = {'meta_info_file': csv, 'dataroot_target': root, 'level_values': [1, 2, 3]}
    with pytest.raises(AMHPError, match=r"rated\.csv, row 3, column 'img_name': 'link\.png' is a"):
        read_table(opt).of_phase('test', 'split').path(0)
    allowed = read_table({**opt, 'allow_outside_root': True}).of_phase('test', 'split')
    assert allowed.path(0) == str(root / 'link.png')
