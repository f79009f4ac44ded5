"""AVA's files: ratings, the standard split, and the data set with comments."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from pyiqa_amhp.datasets import ava
from pyiqa_amhp.datasets.ava import read_ava, read_ava_txt, read_id_list
from pyiqa_amhp.datasets.comment_store import write_store
from pyiqa_amhp.datasets.comments import SCHEMA
from pyiqa_amhp.datasets.paper import AVACommentsDataset
from pyiqa_amhp.datasets.prepare import prepare
from pyiqa_amhp.datasets.raw import TEST, TRAIN
from pyiqa_amhp.errors import AMHPError


def problems_of(raw):
    return {problem.what.partition(';')[0]: problem for problem in raw.problems}


def edit(path, change):
    lines = path.read_text().splitlines()
    path.write_text('\n'.join(change(lines)) + '\n')


def test_every_line_becomes_a_row_in_pyiqas_columns(ava_copy):
    table = read_ava(ava_copy).table
    assert list(table.columns) == [
        'img_name', 'MOS', *(f'c{i}' for i in range(1, 11)), 'semantic_tag1', 'semantic_tag2',
        'official_split',
    ]  # fmt: skip
    lines = (ava_copy / 'AVA.txt').read_text().splitlines()
    assert len(table) == len(lines) == 32
    for line, row in zip(lines, table.to_dict('records'), strict=True):
        fields = [int(field) for field in line.split()]
        votes = fields[2:12]
        assert row['img_name'] == f'{fields[1]}.jpg'
        assert [row[f'c{i}'] for i in range(1, 11)] == votes
        mean = sum(score * n for score, n in enumerate(votes, start=1)) / sum(votes)
        assert row['MOS'] == pytest.approx(mean, abs=1e-12)
        assert [row['semantic_tag1'], row['semantic_tag2']] == fields[12:14]


def test_the_list_of_test_ids_gives_the_split(ava_copy):
    raw = read_ava(ava_copy)
    test_ids = (ava_copy / 'aesthetics_image_lists' / 'generic_test.jpgl').read_text().split()
    in_test = raw.table['official_split'] == TEST
    assert set(raw.table['img_name'][in_test]) == {f'{i}.jpg' for i in test_ids}
    assert (raw.table['official_split'][~in_test] == TRAIN).all()
    assert raw.problems == [] and raw.images == ava_copy / 'images'


def test_pyiqas_meta_file_gives_the_same_table(ava_copy, tmp_path):
    table = read_ava(ava_copy).table
    other = tmp_path / 'other'
    (other / 'images').mkdir(parents=True)
    table.assign(MOS=0, ILGnet_split=0).to_csv(other / 'meta_info_AVADataset.csv', index=False)
    pd.testing.assert_frame_equal(read_ava(other).table, table, check_dtype=False)


@pytest.mark.parametrize(
    ('change', 'what', 'place'),
    [
        (lambda lines: [*lines[:-1], lines[-1][:20]], 'not 15 whole numbers', 'line 32'),
        (lambda lines: [lines[0] + ' 7', *lines[1:]], 'not 15 whole numbers', 'line 1'),
        (lambda lines: [lines[0].replace(' ', ' x', 1), *lines[1:]], 'not 15 whole', 'line 1'),
        (lambda lines: [lines[0].replace(' ', ' 1.5', 1), *lines[1:]], 'not 15 whole', 'line 1'),
        (lambda lines: [lines[0], lines[0], *lines[1:]], 'more than once', 'line 2'),
        (lambda lines: ['1 5 0 0 0 0 0 0 0 0 0 0 1 2 3', *lines], 'without votes', 'line 1'),
        (lambda lines: ['1 5 9 0 -1 0 0 0 0 0 0 0 1 2 3', *lines], 'negative', 'line 1'),
    ],
)
def test_bad_lines_are_left_out_and_named(ava_copy, change, what, place):
    good = read_ava(ava_copy).table
    edit(ava_copy / 'AVA.txt', change)
    raw = read_ava(ava_copy)
    [problem] = [problem for problem in raw.problems if what in problem.what]
    assert problem.count == 1 and place in problem.where[0] and 'AVA.txt' in problem.where[0]
    names = set(raw.table['img_name'])
    assert names <= set(good['img_name']) and len(names) >= len(good) - 1


def test_blank_lines_and_windows_line_ends_are_read(ava_copy):
    good = read_ava(ava_copy).table
    file = ava_copy / 'AVA.txt'
    file.write_bytes(file.read_bytes().replace(b'\n', b'\r\n') + b'\r\n  \r\n')
    raw = read_ava(ava_copy)
    assert raw.problems == []
    pd.testing.assert_frame_equal(raw.table, good)


def test_a_file_of_another_format_is_refused(ava_copy):
    (ava_copy / 'AVA.txt').write_text('<html>404</html>\n')
    with pytest.raises(AMHPError, match=r'AVA\.txt.*15 whole numbers'):
        read_ava(ava_copy)


def test_ids_of_the_list_that_are_not_rated_are_counted(ava_copy):
    with (ava_copy / 'aesthetics_image_lists' / 'generic_test.jpgl').open('a') as file:
        file.write('\n999999\nabc\n')
    problems = problems_of(read_ava(ava_copy))
    assert problems['test ids that AVA.txt does not have'].where == ['999999']
    assert 'line 10' in problems['lines that are not 1 whole numbers'].where[0]


def test_a_list_of_another_data_set_is_refused(ava_copy):
    (ava_copy / 'aesthetics_image_lists' / 'generic_test.jpgl').write_text('1\n2\n3\n')
    with pytest.raises(AMHPError, match='none of the 3 test ids is in it'):
        read_ava(ava_copy)


@pytest.mark.parametrize(
    ('absent', 'named'),
    [
        ('AVA.txt', 'AVA.txt'),
        ('aesthetics_image_lists', 'generic_test.jpgl'),
        ('images', 'images'),
    ],
)
def test_a_missing_file_is_named_with_the_option(ava_copy, absent, named):
    (ava_copy / absent).rename(ava_copy.parent / 'elsewhere')
    with pytest.raises(AMHPError, match=named) as error:
        read_ava(ava_copy)
    assert '--root' in str(error.value)


def test_real_ratings_equal_an_independent_count(shared_data):
    """All 25,551 real rows: counts, MOS and levels."""
    file = shared_data / 'ava' / 'AVA_excerpt.txt'
    problems = []
    table = read_ava_txt(file, problems)
    assert problems == [] and len(table) == 25551
    for line, row in zip(file.read_text().splitlines(), table.itertuples(index=False), strict=True):
        fields = line.split()
        votes = [int(field) for field in fields[2:12]]
        assert row.img_name == f'{fields[1]}.jpg' and list(row[2:12]) == votes
        mean = sum((i + 1) * n for i, n in enumerate(votes)) / sum(votes)
        assert abs(row.MOS - mean) < 1e-9


def test_real_levels_equal_an_independent_count(shared_data, tmp_path):
    problems = []
    table = read_ava_txt(shared_data / 'ava' / 'AVA_excerpt.txt', problems)
    test = read_id_list(shared_data / 'ava' / 'generic_test.jpgl', problems)
    ids = ava.image_ids(table['img_name'], 'x')
    table['official_split'] = np.where(np.isin(ids, test), TEST, TRAIN)
    csv = tmp_path / 'meta.csv'
    table.to_csv(csv, index=False)
    lines = (shared_data / 'ava' / 'AVA_excerpt.txt').read_text().splitlines()
    listed = set((shared_data / 'ava' / 'generic_test.jpgl').read_text().split())
    seen = 0
    for phase in ('train', 'test'):
        part = table.loc[table['official_split'] == (TEST if phase == 'test' else TRAIN)]
        for name in part['img_name'][:20]:  # a data set looks for its first images
            (tmp_path / name).touch()
        dataset = AVACommentsDataset(
            {
                'phase': phase,
                'meta_info_file': str(csv),
                'dataroot_target': str(tmp_path),
                'skip_bad_images': True,
            }
        )
        expected = [
            line.split() for line in lines if (line.split()[1] in listed) == (phase == 'test')
        ]
        assert len(dataset) == len(expected)
        for i, fields in enumerate(expected):
            votes = [int(field) for field in fields[2:12]]
            levels = [(votes[j] + votes[j + 1]) / sum(votes) for j in range(0, 10, 2)]
            assert np.allclose(dataset.images.dist[i], levels, atol=1e-12)
        seen += len(expected)
    assert seen == 25551


# The data set


@pytest.fixture
def dataset(ava_copy, tmp_path):
    """Prepare and open one phase."""
    out = tmp_path / 'meta'
    report = prepare('ava', ava_copy, out, val_images=6)

    def open_phase(phase, **options):
        opt = {
            'phase': phase,
            'meta_info_file': report.files[0],
            'comments_file': report.files[1],
            'dataroot_target': report.images_folder,
        }
        return AVACommentsDataset({**opt, **options})

    return open_phase


def comments_by_name(root):
    """The comments of each image, read line by line."""
    comments_of = {}
    for line in (root / 'AVA_Comments_Full.txt').read_text(encoding='utf-8').splitlines():
        _, image_id, *comments = line.replace(' #1', ' ＃1').split('#')
        comments_of[f'{image_id}.jpg'] = [
            comment.replace('＃', '#').replace('&amp;', '&') for comment in comments if comment
        ]
    return comments_of


def test_images_get_their_own_attribute_comments(dataset, ava_copy):
    texts = {}
    for phase in ('train', 'val', 'test'):
        data = dataset(phase)
        texts.update({name: data.text(i) for i, name in enumerate(data.images.names)})
    assert len(texts) == 32
    for name, comments in comments_by_name(ava_copy).items():
        about = [c for c in comments if any(w in c for w in ('light', 'colour', 'thirds', 'focus'))]
        assert texts[name] in (about or comments or [''])


def test_a_store_of_other_keywords_logs_one_warning(dataset, tmp_path, caplog):
    dataset('test')
    assert caplog.records == []
    table = pa.table([[1], ['soft light']], schema=SCHEMA)
    for keywords in ('', 'abc'):
        file = write_store(tmp_path / f'{keywords}.arrow', table, [1], ['light'], keywords)
        for phase in ('train', 'test'):
            dataset(phase, comments_file=str(file))
    texts = [record.getMessage() for record in caplog.records]
    assert ['an older version' in text for text in texts] == [True, False]
    assert 'digest abc' in texts[1] and all('amhp prepare ava --force' in text for text in texts)


def test_training_chooses_new_comments_and_testing_does_not(dataset):
    torch.manual_seed(0)
    train, test = dataset('train'), dataset('test')
    drawn = {tuple(train.text(i) for i in range(len(train))) for _ in range(6)}
    assert len(drawn) > 1
    assert len({tuple(test.text(i) for i in range(len(test))) for _ in range(6)}) == 1


def test_join_uses_several_comments(dataset):
    joined = dataset('test', comment_mode='join')
    texts = [joined.text(i) for i in range(len(joined))]
    assert 'Rule of thirds works well here the focus is soft, tho' in texts


def test_texts_can_be_turned_off(dataset):
    assert dataset('test', text_source='none').text(0) == ''
    assert dataset('test', comments_file=None).text(0) == ''


def test_samples_have_the_level_values_of_ava(dataset):
    sample = dataset('train')[0]
    assert sample['level_values'].tolist() == [1.5, 3.5, 5.5, 7.5, 9.5]
    assert sample['mos_dist'].sum() == pytest.approx(1) and sample['img'].shape[0] == 3


def test_an_unknown_mode_attribute_or_store_is_an_error(dataset):
    with pytest.raises(AMHPError, match='comment mode'):
        dataset('test', comment_mode='all')
    with pytest.raises(AMHPError, match='absent'):
        dataset('test', comments_file='absent.arrow')
    with pytest.raises(AMHPError, match='smell'):
        dataset('test', comment_attributes=['smell'])
