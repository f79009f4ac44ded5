"""``amhp prepare``: counts, missing and corrupt images, interruptions, the validation split."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from layouts import write_aadb, write_ava, write_para

from pyiqa_amhp.datasets import prepare as preparing
from pyiqa_amhp.datasets.comment_store import CommentStore
from pyiqa_amhp.datasets.prepare import cut_validation, prepare, summary
from pyiqa_amhp.errors import AMHPError

WRITERS = {'ava': write_ava, 'para': write_para, 'aadb': write_aadb}


def kinds(report):
    return ' | '.join(problem.what for problem in report.problems)


@pytest.mark.parametrize('name', WRITERS)
def test_a_download_becomes_a_meta_file_and_a_report(tmp_path, name):
    root = WRITERS[name](tmp_path / 'data')
    report = prepare(name, root, tmp_path / 'out', verify_images=True)
    table = pd.read_csv(report.files[0])
    assert list(table.columns[:2]) == ['img_name', 'MOS'] and len(table) == report.images
    assert report.missing == 0 and report.corrupt == 0
    assert sum(report.splits.values()) == report.images
    assert all(count > 0 for count in report.splits.values())
    stored = json.loads((tmp_path / 'out' / 'prepare_report.json').read_text())[name]
    assert stored['splits'] == report.splits and stored['images'] == report.images
    assert sorted(path.name for path in (tmp_path / 'out').iterdir() if path.name[0] == '.') == []


def test_reports_of_several_data_sets_share_a_file(tmp_path):
    for name, write in WRITERS.items():
        prepare(name, write(tmp_path / name), tmp_path / 'out')
    assert set(json.loads((tmp_path / 'out' / 'prepare_report.json').read_text())) == set(WRITERS)


def test_comments_are_counted_by_image(ava_copy, tmp_path):
    report = prepare('ava', ava_copy, tmp_path / 'out')
    # of five kinds in turn: two with attribute comments and others, one colour, one 'nice', none
    assert (report.with_comments, report.with_attribute_comments) == (26, 20)
    assert len(CommentStore(report.files[1])) == report.comments
    assert summary(report)['with attribute comments'] == 20


def test_comments_of_either_format_are_read(ava_copy, tmp_path):
    (ava_copy / 'AVA_Comments_Full.txt').unlink()
    report = prepare('ava', ava_copy, tmp_path / 'out', comments=ava_copy / 'captions.json')
    assert (report.with_comments, report.with_attribute_comments) == (26, 20)


def test_a_data_set_without_comments_is_prepared_and_reported(ava_copy, tmp_path):
    (ava_copy / 'AVA_Comments_Full.txt').unlink()
    report = prepare('ava', ava_copy, tmp_path / 'out')
    assert 'no comments' in kinds(report) and report.comments is None
    assert len(report.files) == 1


def test_comments_of_another_data_set_are_refused(ava_copy, tmp_path):
    (ava_copy / 'AVA_Comments_Full.txt').write_text('1#5#hello there\n')
    with pytest.raises(AMHPError, match='not one comment'):
        prepare('ava', ava_copy, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_missing_images_are_left_out_and_counted(ava_copy, tmp_path):
    for name in ('1000.jpg', '1007.jpg'):
        (ava_copy / 'images' / name).unlink()
    report = prepare('ava', ava_copy, tmp_path / 'out')
    assert report.missing == 2 and report.images == 30 and report.corrupt is None
    assert not {'1000.jpg', '1007.jpg'} & set(pd.read_csv(report.files[0])['img_name'])


def test_a_corrupt_image_is_found_only_when_it_is_opened(ava_copy, tmp_path):
    file = ava_copy / 'images' / '1000.jpg'
    file.write_bytes(file.read_bytes()[:200])
    assert prepare('ava', ava_copy, tmp_path / 'out').images == 32
    report = prepare('ava', ava_copy, tmp_path / 'out', verify_images=True, force=True)
    assert report.corrupt == 1 and report.images == 31
    assert '1000.jpg' not in set(pd.read_csv(report.files[0])['img_name'])
    assert any('1000.jpg' in place for problem in report.problems for place in problem.where)


def test_a_folder_without_the_images_is_an_error(ava_copy, tmp_path):
    for file in (ava_copy / 'images').iterdir():
        file.unlink()
    with pytest.raises(AMHPError, match='none of the 32 images is there'):
        prepare('ava', ava_copy, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_an_earlier_result_is_kept_without_force(ava_copy, tmp_path):
    report = prepare('ava', ava_copy, tmp_path / 'out', seed=1)
    before = [Path(file).read_bytes() for file in report.files]
    with pytest.raises(AMHPError, match='--force'):
        prepare('ava', ava_copy, tmp_path / 'out', seed=2, val_images=7)
    assert [Path(file).read_bytes() for file in report.files] == before
    prepare('ava', ava_copy, tmp_path / 'out', seed=2, val_images=7, force=True)
    assert Path(report.files[0]).read_bytes() != before[0]


def test_an_interrupted_check_resumes(ava_copy, tmp_path, monkeypatch):
    opened = []

    class Stop(Exception):
        pass

    def counting(source):
        opened.append(source.name)
        return read(source)

    def stop_after_ten(items, total, what):
        for i, item in enumerate(items):
            if what == 'Opening images' and i == 10:
                raise Stop
            yield item

    read = preparing.read_image
    monkeypatch.setattr(preparing, 'read_image', counting)
    (ava_copy / 'images' / '1000.jpg').write_bytes(b'')
    with pytest.raises(Stop):
        prepare('ava', ava_copy, tmp_path / 'out', verify_images=True, progress=stop_after_ten)
    assert not (tmp_path / 'out' / 'meta_info_AVADataset.csv').exists()
    file = ava_copy / 'images' / '1007.jpg'
    file.write_bytes(file.read_bytes()[:200])  # changed since, so it is opened again
    opened.clear()
    report = prepare('ava', ava_copy, tmp_path / 'out', verify_images=True)
    assert len(opened) == 32 - 10 + 1
    assert report.corrupt == 2


def test_lines_of_the_journal_after_a_damaged_one_are_checked_again(ava_copy, tmp_path):
    out = tmp_path / 'out'
    out.mkdir()
    names = sorted(file.name for file in (ava_copy / 'images').iterdir())[:3]
    sizes = [(ava_copy / 'images' / name).stat().st_size for name in names]
    entries = [[name, size, 'damaged'] for name, size in zip(names, sizes, strict=True)]
    lines = [json.dumps(entry) for entry in entries]
    lines.insert(1, '["1000.jpg", 5')
    (out / '.verified_ava.txt').write_text('\n'.join(lines) + '\n')
    assert prepare('ava', ava_copy, out, verify_images=True).corrupt == 1
    assert not (out / '.verified_ava.txt').exists()


@pytest.mark.parametrize('name', WRITERS)
def test_a_wrong_folder_is_an_error_that_names_the_option(tmp_path, name):
    with pytest.raises(AMHPError, match='--root'):
        prepare(name, tmp_path, tmp_path / 'out')
    with pytest.raises(AMHPError, match='no such folder'):
        prepare(name, tmp_path / 'absent', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_an_unknown_data_set_is_an_error(tmp_path):
    with pytest.raises(AMHPError, match='ava, para, aadb'):
        prepare('spaq', tmp_path, tmp_path / 'out')


# The validation split


def rows(names):
    return pd.DataFrame({'img_name': names, 'official_split': [0] * len(names)})


def test_validation_is_drawn_by_the_seed_and_never_from_test():
    table = rows([f'{i}.jpg' for i in range(200)])
    table.loc[:49, 'official_split'] = 2
    first, again, other = (cut_validation(table, 40, seed) for seed in (0, 0, 1))
    assert (first == again).all() and (first != other).any()
    assert (first == 1).sum() == 40 and (first[:50] == 2).all()


def test_validation_changes_by_no_more_images_than_the_data_set():
    names = [f'{i}.jpg' for i in range(500)]
    whole = dict(zip(names, cut_validation(rows(names), 100, 0), strict=True))
    part = names[::-1][:-3]
    without = dict(zip(part, cut_validation(rows(part), 100, 0), strict=True))
    assert sum(whole[name] != without[name] for name in part) <= 3


def test_validation_takes_no_image_or_fewer_than_all_training_images():
    with pytest.raises(AMHPError, match='--val-images'):
        cut_validation(rows(['a', 'b']), 2, 0)
    assert (cut_validation(rows(['a', 'b']), 0, 0) == 0).all()


def test_a_tenth_of_a_small_copy_becomes_validation_by_default(ava_copy, tmp_path):
    assert prepare('ava', ava_copy, tmp_path / 'out').splits == {'train': 22, 'val': 2, 'test': 8}


def test_prepare_does_not_import_torch():
    code = 'import sys, pyiqa_amhp.datasets.prepare; sys.exit("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0
