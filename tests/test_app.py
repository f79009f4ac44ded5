"""Scores, explanations, HTML, limits and uploads of the page, without a server or a browser."""

import base64
import csv
import html
import io
import math
import re

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from pyiqa_amhp.app import render
from pyiqa_amhp.app.limits import MB, Limits, Rate
from pyiqa_amhp.app.photos import PhotoScorer, ScoredPhoto
from pyiqa_amhp.app.uploads import Upload, Uploads
from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.scoring.result import ScoreResult

HOSTILE = '<img src=x onerror=alert(1)>&"\'.png'
COMMENT = 'soft <script>alert(2)</script> light & "dark"'


def uploaded(folder, *names):
    return [Upload(str(folder / name), name) for name in names]


@pytest.fixture
def photo(app_photos):
    return uploaded(app_photos, 'photo0.png')[0]


# Scores and explanations


def test_all_functions_give_the_same_score(photo_scorer, photo):
    with torch.no_grad():
        direct = float(photo_scorer.scorer.metric(photo.path, text='soft light'))
    assert photo_scorer.score(photo, ' soft light ')['score'] == pytest.approx(direct, abs=1e-5)
    explained = photo_scorer.explain(photo, 'soft light')
    assert explained.explanation.score == pytest.approx(direct, abs=1e-5)
    without = photo_scorer.score(photo)['score']
    assert explained.score_without_text == pytest.approx(without, abs=1e-5)
    assert without != pytest.approx(direct, abs=1e-3)
    assert photo_scorer.score_many([photo])[0].result.score == pytest.approx(without, abs=1e-5)


def test_without_a_comment_there_is_no_second_score(photo_scorer, photo):
    assert photo_scorer.explain(photo).to_dict()['score_without_text'] is None


def test_a_model_that_reads_no_text_has_no_second_score(make_amhp, photo):
    scorer = PhotoScorer(make_amhp(variant='image+levels'), Limits())
    explained = scorer.explain(photo, 'soft light')
    assert explained.score_without_text is None
    assert 'reads no text' in render.explanation_panel(explained)


def test_results_keep_their_order_and_names_and_bad_files_have_an_error(photo_scorer, app_photos):
    names = ['photo2.png', 'text.jpg', 'photo1.png', 'gone.png']
    results = [photo.result for photo in photo_scorer.score_many(uploaded(app_photos, *names))]
    assert [result.path for result in results] == names
    assert [result.score is None for result in results] == [False, True, False, True]
    assert results[1].error.startswith('text.jpg: not an image')
    assert 'choose the file again' in results[3].error
    assert str(app_photos) not in results[1].error + results[3].error
    assert set(ScoredPhoto(results[0], '').to_dict()) == {
        'name', 'score', 'prompt_source', 'levels', 'error'
    }  # fmt: skip


def test_texts_come_from_a_csv(photo_scorer, app_photos, tmp_path):
    table = tmp_path / 'x.csv'
    table.write_text('img_name,text\nphoto1.png,soft light\n')
    photos = uploaded(app_photos, 'photo0.png', 'photo1.png')
    scored = photo_scorer.score_many(photos, Upload(str(table), 'comments.csv'))
    assert [photo.result.prompt_source for photo in scored] == ['none', 'given']
    expected = photo_scorer.score(photos[1], 'soft light')['score']
    assert scored[1].result.score == pytest.approx(expected)


def test_a_csv_with_other_columns_is_refused_under_its_own_name(photo_scorer, app_photos, tmp_path):
    table = tmp_path / 'x.csv'
    table.write_text('name,comment\na,b\n')
    photos, upload = uploaded(app_photos, 'photo0.png'), Upload(str(table), 'comments.csv')
    with pytest.raises(AMHPError, match='no column img_name and text') as caught:
        photo_scorer.score_many(photos, upload)
    assert str(caught.value).startswith('comments.csv') and str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize('count', [0, 13])
def test_no_photographs_and_too_many_are_refused(photo_scorer, photo, count):
    with pytest.raises(AMHPError, match='choose some first' if not count else '12 is the limit'):
        photo_scorer.score_many([photo] * count)


def test_errors_of_images_do_not_name_options_of_commands(photo_scorer, tmp_path):
    Image.new('L', (2000, 1001)).save(tmp_path / 'bomb.png')
    (tmp_path / 'empty.jpg').touch()
    bomb, empty = uploaded(tmp_path, 'bomb.png', 'empty.jpg')
    with pytest.raises(ImageReadError, match=r'bomb.png: too large .*2,000,000.*down$'):
        photo_scorer.explain(bomb)
    with pytest.raises(ImageReadError, match=r'empty\.jpg: the file is empty'):
        photo_scorer.explain(empty)
    with pytest.raises(AMHPError, match='choose one first'):
        photo_scorer.explain(None)
    with pytest.raises(AMHPError, match='2,000 is the limit'):
        photo_scorer.explain(empty, 'x' * 2001)


def test_the_table_is_the_one_that_amhp_score_writes(
    photo_scorer, app_photos, tiny_weights, amhp, tmp_path, monkeypatch
):
    names = ['photo3.png', 'text.jpg', 'photo1.png']
    monkeypatch.chdir(app_photos)
    file = tmp_path / 'scores.csv'
    options = ('--weights', tiny_weights, '--exact', '--device', 'cpu', '--out', file)
    assert amhp('score', *names, *options)[0] == 1
    scored = photo_scorer.score_many(uploaded(app_photos, *names))
    table = photo_scorer.to_csv(photo.result for photo in scored)
    page = list(csv.DictReader(io.StringIO(table)))
    command = list(csv.DictReader(file.read_text().splitlines()))
    assert list(page[0]) == list(command[0])
    for row, expected in zip(page, command, strict=True):
        for column in ('path', 'prompt_source', 'error'):
            assert row[column] == expected[column]
        if expected['score']:
            assert float(row['score']) == pytest.approx(float(expected['score']), abs=1e-5)
    assert page[0]['score'] and not page[1]['score']


def test_other_metrics_than_amhp_are_refused():
    with pytest.raises(AMHPError, match='needs an AMHP, got Linear'):
        PhotoScorer(torch.nn.Linear(1, 1), Limits())


# HTML


def test_the_score_its_levels_and_the_effect_of_the_comment_are_shown(photo_scorer, photo):
    explained = photo_scorer.explain(photo, 'soft light')
    explanation, without = explained.explanation, explained.score_without_text
    page = render.score_panel(explained)
    assert f'>{explanation.score:.2f}</p>' in page and 'on a scale from 1 to 10' in page
    widths = re.findall(r'amhp-track"><i style="width: ([\d.]+)%', page)
    expected = [100 * p for p in reversed(explanation.levels.values())]
    assert list(map(float, widths)) == pytest.approx(expected, abs=0.01)
    change = explanation.score - without
    assert f'{abs(change):.2f}' in page.split('The comment changes it by')[1][:80]
    assert f'from {without:.2f} without it' in page
    assert re.findall(r'amhp-word amhp-\w+" .*?>(\w+)<', page) == ['soft', 'light']


def test_each_attribute_is_shown_with_its_moves(photo_scorer, photo):
    explained = photo_scorer.explain(photo)
    explanation = explained.explanation
    page = render.explanation_panel(explained)
    table = page.split('<tbody>')[1]
    rows = re.findall(r'<tr>\s*<th>(.*?)</th>(.*?)</tr>', table, re.DOTALL)
    names = [a.name.replace('_', ' ') for a in explanation.attributes]
    assert [name for name, _ in rows] == names
    for attribute, (_, cells) in zip(explanation.attributes, rows, strict=True):
        for change in (attribute.up, attribute.down):
            shown = '–' if change is None else f'{abs(change):.2f}'
            assert shown in cells
    assert all(html.escape(note) in page for note in explanation.notes)


def test_the_map_covers_the_whole_photograph(photo_scorer, photo):
    explained = photo_scorer.explain(photo)
    uri = render.relevance_picture(explained)
    picture = Image.open(io.BytesIO(base64.b64decode(uri.split(',')[1])))
    assert picture.size == explained.image.size
    pixels = np.asarray(picture).astype(int)
    assert np.abs(pixels - pixels.mean(axis=2, keepdims=True)).max() > 10  # coloured
    assert uri in render.explanation_panel(explained)


def test_an_encoder_without_a_map_is_reported(make_amhp, tiny, photo):
    tiny['vision_cfg'] = {'image_size': 32, 'layers': [1, 1, 1, 1], 'width': 16, 'patch_size': None}
    scorer = PhotoScorer(make_amhp(backbone=tiny), Limits())
    page = render.explanation_panel(scorer.explain(photo))
    assert 'has no relevance map' in page and '<img' not in page


def test_names_comments_and_errors_are_escaped(photo_scorer, app_photos):
    photo = Upload(str(app_photos / 'photo0.png'), HOSTILE)
    bad = Upload(str(app_photos / 'text.jpg'), HOSTILE)
    explained = photo_scorer.explain(photo, COMMENT)
    score, explanation = render.score_panel(explained), render.explanation_panel(explained)
    many = render.many_panel(photo_scorer, photo_scorer.score_many([photo, bad]))
    for page in (score, explanation, many, render.error_box(HOSTILE)):
        assert '<script>alert' not in page and 'src=x' not in re.sub(r'&lt;img src=x', '', page)
    name = re.search(r'amhp-scale">.*?<span title=".*?">(.*?)</span>', score)[1]
    assert html.unescape(name) == HOSTILE
    assert html.unescape(re.search(r'amhp-name" title="(.*?)"', many)[1]) == HOSTILE


def test_the_gallery_is_sorted_and_lists_unreadable_files(photo_scorer, app_photos):
    names = [f'photo{i}.png' for i in range(6)] + ['text.jpg']
    scored = photo_scorer.score_many(uploaded(app_photos, *names), pictures=True)
    page = render.many_panel(photo_scorer, scored)
    scores = [float(score) for score in re.findall(r'amhp-card" data-score="(.*?)"', page)]
    assert len(scores) == 6 and scores == sorted(scores, reverse=True)
    assert '6 of 6 at 1.0 or better' in page
    assert '1 of 7 could not be read' in page and 'text.jpg: not an image' in page
    assert page.count('data:image/jpeg;base64,') == 6


def test_without_readable_files_there_is_only_a_csv(photo_scorer, app_photos):
    scored = photo_scorer.score_many(uploaded(app_photos, 'text.jpg'))
    page = render.many_panel(photo_scorer, scored)
    assert '1 of 1 could not be read' in page and 'amhp-gallery' not in page
    assert 'download="scores.csv"' in page


def test_a_score_that_is_no_number_comes_last(photo_scorer):
    results = [ScoreResult(str(i), score) for i, score in enumerate((math.nan, 2.0, 3.0))]
    page = render.many_panel(photo_scorer, [ScoredPhoto(result, '') for result in results])
    assert re.findall(r'amhp-name" title="(\d)"', page) == ['2', '1', '0']


@pytest.mark.parametrize(
    ('scale', 'threshold', 'line'),
    [
        ((1, 10), 5, '3 of 4 at 5.0 or better'),
        ((1, 10), 9.5, '0 of 4 at 9.5 or better'),
        ((0, 1), 0.25, '4 of 4 at 0.25 or better'),
    ],
)
def test_the_slider_counts_scores_from_the_threshold(scale, threshold, line):
    slider = render.Threshold.for_scale(*scale)
    assert slider.count_line([8, 5.0, 5.5, 4.99], threshold) == line


@pytest.mark.parametrize('dataset', ['ava', 'para', 'aadb'])
def test_trained_weights_are_named_with_their_scale(make_amhp, tmp_path, dataset):
    from pyiqa_amhp.weights.checkpoint import save_checkpoint

    path = save_checkpoint(tmp_path / 'mine.pth', make_amhp(dataset=dataset).state_dict())
    photo_scorer = PhotoScorer(AMHP(pretrained_model_path=str(path)), Limits())
    notice = render.weights_notice(photo_scorer)
    scale = {'ava': '1 to 10', 'para': '1 to 5', 'aadb': '0 to 1'}[dataset]
    assert (notice.kind, notice.title) == ('trained', 'Trained weights: mine.pth')
    assert f'from {scale} ({dataset.upper()})' in notice.line
    assert 'variant all' in notice.line.lower()
    assert str(tmp_path) not in render.top(notice)
    named = render.weights_notice(photo_scorer, 'hf-hub:a/b')
    assert named.title == 'Trained weights: hf-hub:a/b'


def notice_of(net):
    return render.weights_notice(PhotoScorer(net, Limits()))


def test_zero_shot_and_random_weights_are_reported(make_amhp, tiny, tmp_path):
    torch.manual_seed(5)
    torch.save(open_clip.CLIP(**tiny).state_dict(), tmp_path / 'clip.pt')
    clip = {'backbone': tiny, 'clip_weights': str(tmp_path / 'clip.pt'), 'quick_gelu': True}
    zero_shot = notice_of(AMHP(**clip))
    assert zero_shot.kind == 'zero-shot' and 'no trained weights' in render.top(zero_shot)
    assert 'Comments do not change a score' in zero_shot.line
    assert notice_of(AMHP(**clip, pretrained='clip')).kind == 'zero-shot'
    assert notice_of(make_amhp()).title == 'Random weights'


# Limits and uploads


def test_a_client_with_too_many_requests_is_told_when_to_try_again():
    now = [0.0]
    rate = Rate(2, clock=lambda: now[0])
    rate.count('a')
    now[0] = 20
    rate.count('a')
    with pytest.raises(AMHPError, match='2 a minute are the limit; try again in 40 s'):
        rate.count('a')
    rate.count('b')
    now[0] = 60
    rate.count('a')
    with pytest.raises(AMHPError, match='in 20 s'):
        rate.count('a')


def test_clients_without_recent_requests_take_no_memory():
    now = [0.0]
    rate = Rate(2, clock=lambda: now[0])
    for i in range(100):
        rate.count(str(i))
    now[0] = 60
    rate.count('new')
    assert list(rate.recent) == ['new']


@pytest.mark.parametrize('name', ['file_mb', 'pixels', 'files', 'requests', 'disk_mb', 'text'])
def test_a_limit_below_one_is_refused(name):
    with pytest.raises(AMHPError, match=f'limit {name}=0: expected 1 or more'):
        Limits(**{name: 0})


def store(root, *names):
    """Store uploads as Gradio does, each in a folder of its own."""
    uploads = []
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / 'x.jpg').write_bytes(b'123')
        uploads.append(Upload(str(root / name / 'x.jpg'), 'x.jpg'))
    return uploads


def files_in(root):
    return sorted(file.parent.name for file in root.rglob('*.jpg'))


def test_an_upload_is_deleted_when_its_last_session_releases_it(tmp_path):
    uploads = Uploads(tmp_path)
    a, b, c = store(tmp_path, 'a', 'b', 'c')
    uploads.hold('one', 'many', [a, b, None])
    uploads.hold('two', 'one', [b])
    assert uploads.size() == 9
    uploads.hold('one', 'many', [c])
    assert files_in(tmp_path) == ['b', 'c']  # the other session holds b, too
    uploads.release('two')
    assert files_in(tmp_path) == ['c']
    uploads.release('one')
    assert not list(tmp_path.iterdir())
    uploads.release('one')


def test_nothing_outside_the_folder_is_deleted(tmp_path):
    (outside,) = store(tmp_path / 'elsewhere', 'a')
    (inside,) = store(tmp_path / 'uploads', 'b')
    uploads = Uploads(tmp_path / 'uploads')
    relative = Upload(str(tmp_path / 'uploads' / '..' / 'elsewhere' / 'a' / 'x.jpg'), 'x.jpg')
    uploads.hold('one', 'many', [outside, relative, inside])
    uploads.release('one')
    assert files_in(tmp_path) == ['a']


def test_a_megabyte_is_that_of_gradio():
    from gradio.utils import _parse_file_size

    assert _parse_file_size('1mb') == MB
