"""One identity of image names, in every place that compares them."""

import os
import unicodedata

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pyiqa_amhp.datasets.dataset import AMHPDataset
from pyiqa_amhp.datasets.raw import drop_duplicates
from pyiqa_amhp.datasets.texts import read_texts
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.utils.image_names import find_name, ignores_case, image_key

NFC, NFD = (unicodedata.normalize(form, 'Übersicht/café.jpg') for form in ('NFC', 'NFD'))
NAMES = st.text(st.sampled_from('aB./\\é\u0301ßÅ 한'), min_size=1)


@pytest.mark.parametrize(
    'spelling',
    ['a/b.png', './a/b.png', 'a//b.png', 'a/./b.png', 'a\\b.png', '.\\a\\.\\b.png', 'a/b.png/'],
)
def test_spellings_of_one_name(spelling):
    assert image_key(spelling) == 'a/b.png'


def test_names_that_are_not_the_same():
    names = ['a.png', 'A.png', '/a.png', '.a.png', '../a.png', 'b/../a.png', 'a.png.', ' a.png']
    assert len({image_key(name) for name in names}) == len(names)
    assert image_key(NFC) == image_key(NFD) == NFC


@given(NAMES, st.booleans())
def test_a_key_is_its_own_key_and_that_of_all_spellings(name, ignore_case):
    key = image_key(name, ignore_case)
    assert image_key(key, ignore_case) == key
    spellings = [unicodedata.normalize(form, name) for form in ('NFC', 'NFD')]
    spellings += [name.replace('/', '\\'), name.replace('/', '//'), name + '/.']
    spellings += [f'./{name}'] * (name[0] not in '/\\')
    spellings += [key.upper(), key.lower()] * ignore_case
    for spelling in spellings:
        assert image_key(spelling, ignore_case) == key


def test_case_is_ignored_only_where_the_file_system_ignores_it(tmp_path):
    folder = tmp_path / 'folder'
    folder.mkdir()
    assert ignores_case(folder) == (tmp_path / 'FOLDER').exists()
    assert not ignores_case(tmp_path / 'nowhere')
    if not ignores_case(folder):
        (tmp_path / 'FOLDER').symlink_to(folder)  # one file system entry for both: the same file
        assert ignores_case(folder)


@pytest.mark.parametrize(('on_disk', 'given'), [(NFC, NFD), (NFD, NFC), ('a/b', './a\\b')])
def test_a_file_is_found_by_another_spelling(tmp_path, on_disk, given):
    (tmp_path / on_disk).parent.mkdir()
    (tmp_path / on_disk).touch()
    found = find_name(str(tmp_path), given)
    assert os.path.exists(tmp_path / found)
    assert find_name(str(tmp_path), on_disk) == on_disk
    assert find_name(str(tmp_path), 'nothing\\here') == 'nothing\\here'


def rated(tmp_path, names, splits=None):
    """An ``AMHPDataset`` of names in a table."""
    table = pd.DataFrame({'img_name': names, 'MOS': 3.0, 'split': splits or 'train'})
    table.to_csv(tmp_path / 'rated.csv', index=False)
    opt = {'meta_info_file': str(tmp_path / 'rated.csv'), 'dataroot_target': str(tmp_path)}
    return AMHPDataset({**opt, 'level_values': [1, 2, 3, 4, 5], 'phase': 'train'})


@pytest.mark.parametrize(
    ('first', 'second'), [('a.png', './a.png'), ('x/a.png', 'x//a.png'), (NFC, NFD)]
)
def test_an_image_cannot_be_in_train_and_test_under_two_spellings(tmp_path, first, second):
    with pytest.raises(AMHPError) as caught:
        rated(tmp_path, [first, second], ['train', 'test'])
    assert f'{second!r} is in row 2 already as {first!r}; keep one of them' in str(caught.value)


@pytest.mark.parametrize(('on_disk', 'name'), [(NFC, NFD), (NFD, NFC), ('x/a.png', 'x\\a.png')])
def test_a_data_set_reads_a_file_of_another_spelling(tmp_path, on_disk, name):
    (tmp_path / on_disk).parent.mkdir()
    Image.new('RGB', (8, 8)).save(tmp_path / on_disk)
    assert rated(tmp_path, [name])[0]['img'].shape == (3, 8, 8)


def test_a_link_out_of_the_folder_is_refused_under_any_spelling(tmp_path):
    (tmp_path / 'outside').mkdir()
    Image.new('RGB', (8, 8)).save(tmp_path / 'outside' / 'a.png')
    (tmp_path / 'root').mkdir()
    (tmp_path / 'root' / 'x').symlink_to(tmp_path / 'outside')
    with pytest.raises(AMHPError, match='link that leaves'):
        rated(tmp_path / 'root', ['x\\a.png'])


@pytest.mark.parametrize('name', [NFD, './Übersicht/café.jpg', 'Übersicht\\café.jpg', 'café.jpg'])
def test_a_text_reaches_its_image_under_any_spelling(tmp_path, name):
    csv = tmp_path / 'texts.csv'
    pd.DataFrame({'img_name': [name], 'text': ['light']}).to_csv(csv, index=False)
    for spelling in (NFC, NFD):
        assert read_texts(csv, [tmp_path / spelling]) == ['light']


def test_two_texts_for_two_spellings_of_an_image_are_refused(tmp_path):
    csv = tmp_path / 'texts.csv'
    pd.DataFrame({'img_name': [NFC, NFD], 'text': ['light', 'dark']}).to_csv(csv, index=False)
    with pytest.raises(AMHPError, match='two texts for'):
        read_texts(csv, [tmp_path / NFC])


def test_prepared_data_keep_one_spelling_of_an_image():
    table = pd.DataFrame(
        {'img_name': ['a.png', './a.png', 'b', 'b//'], 'official_split': [0, 2, 0, 0], 'place': ''}
    )
    problems = []
    kept = drop_duplicates(table, problems)
    assert kept['img_name'].tolist() == ['./a.png', 'b']
    assert [problem.count for problem in problems] == [1, 1]
