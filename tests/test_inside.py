"""Names stay in their folder, wherever links lead."""

import pandas as pd
import pytest

from pyiqa_amhp.datasets.csv import stays_within
from pyiqa_amhp.datasets.rated_images import read_table
from pyiqa_amhp.errors import AMHPError


@pytest.fixture
def root(tmp_path):
    """A folder with an image, and one beside it whose name begins the same."""
    for name in ('root/sub', 'root-2'):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / 'a.png').write_bytes(b'')
    return tmp_path / 'root'


def test_files_that_are_there_or_not_stay(root):
    assert stays_within(str(root), 'sub/a.png') and stays_within(str(root), 'no/such.png')


def test_links_within_the_folder_stay(root):
    (root / 'link.png').symlink_to('sub/a.png')
    (root / 'folder').symlink_to(root / 'sub')
    assert stays_within(str(root), 'link.png') and stays_within(str(root), 'folder/a.png')


def test_a_folder_that_is_itself_a_link_counts_as_where_it_leads(root, tmp_path):
    (tmp_path / 'images').symlink_to(root)
    (root / 'link.png').symlink_to(root / 'sub' / 'a.png')
    assert stays_within(str(tmp_path / 'images'), 'link.png')


@pytest.mark.parametrize('target', ['../root-2/a.png', '..', '/etc/passwd', '../not/there.png'])
def test_links_out_of_the_folder_do_not(root, target):
    (root / 'link').symlink_to(target)
    assert not stays_within(str(root), 'link')


def test_the_row_of_a_link_is_named_and_the_option_allows_it(root, tmp_path):
    (root / 'link.png').symlink_to(tmp_path / 'root-2' / 'a.png')
    csv = tmp_path / 'rated.csv'
    rows = {'img_name': ['sub/a.png', 'link.png'], 'MOS': [2, 3], 'split': ['train', 'test']}
    pd.DataFrame(rows).to_csv(csv, index=False)
    opt = {'meta_info_file': csv, 'dataroot_target': root, 'level_values': [1, 2, 3]}
    with pytest.raises(AMHPError, match=r"rated\.csv, row 3, column 'img_name': 'link\.png' is a"):
        read_table(opt).of_phase('test', 'split').path(0)
    allowed = read_table({**opt, 'allow_outside_root': True}).of_phase('test', 'split')
    assert allowed.path(0) == str(root / 'link.png')
