"""What the page asks of the model, and how it shows it: without a server or a browser."""

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

from pyiqa_amhp.app import show
from pyiqa_amhp.app.about import describe
from pyiqa_amhp.app.limits import MB, Limits, Rate
from pyiqa_amhp.app.photos import PhotoScorer, ScoredPhoto
from pyiqa_amhp.app.uploads import Upload, Uploads
from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.scoring.result import ScoreResult
from pyiqa_amhp.scoring.scorer import Scorer

HOSTILE = '<img src=x onerror=alert(1)>&"\'.png'
COMMENT = 'soft <script>alert(2)</script> light & "dark"'


def uploaded(folder, *names):
    return [Upload(str(folder / name), name) for name in names]


@pytest.fixture
def photo(app_photos):
    return uploaded(app_photos, 'photo0.png')[0]


# What is asked of the model


def test_one_score_for_one_photograph_whatever_is_asked(photo_scorer, photo):
    with torch.no_grad():
        direct = float(photo_scorer.scorer.metric(photo.path, text='soft light'))
    assert photo_scorer.score(photo, ' soft light ')['score'] == pytest.approx(direct, abs=1e-5)
    explained = photo_scorer.explain(photo, 'soft light')
    assert explained.explanation.score == pytest.approx(direct, abs=1e-5)
    without = photo_scorer.score(photo)['score']
    assert photo_scorer.explain(photo, 'soft light').without == pytest.approx(without, abs=1e-5)
    assert without != pytest.approx(direct, abs=1e-3)
    assert photo_scorer.score_many([photo])[0].result.score == pytest.approx(without, abs=1e-5)


def test_without_a_comment_there_is_nothing_to_compare(photo_scorer, photo):
    assert photo_scorer.explain(photo).without is None
    assert photo_scorer.explain(photo).to_dict()['score_without_text'] is None


def test_a_model_that_reads_no_text_compares_nothing(make_amhp, photo):
    one = PhotoScorer(make_amhp(variant='image+levels'), Limits()).explain(photo, 'soft light')
    assert one.without is None
    assert 'reads no text' in show.why_panel(one)


def test_rows_keep_their_order_and_names_and_bad_files_their_reason(photo_scorer, app_photos):
    names = ['photo2.png', 'text.jpg', 'photo1.png', 'gone.png']
    rows = [one.result for one in photo_scorer.score_many(uploaded(app_photos, *names))]
    assert [row.path for row in rows] == names
    assert [row.score is None for row in rows] == [False, True, False, True]
    assert rows[1].error.startswith('text.jpg: not an image')
    assert 'choose it again' in rows[3].error
    assert str(app_photos) not in rows[1].error + rows[3].error
    assert set(ScoredPhoto(rows[0], '').to_dict()) == {
        'name', 'score', 'prompt_source', 'levels', 'error'
    }  # fmt: skip


def test_texts_come_from_a_csv(photo_scorer, app_photos, tmp_path):
    table = tmp_path / 'x.csv'
    table.write_text('img_name,text\nphoto1.png,soft light\n')
    photos = uploaded(app_photos, 'photo0.png', 'photo1.png')
    judged = photo_scorer.score_many(photos, Upload(str(table), 'said.csv'))
    assert [one.result.prompt_source for one in judged] == ['none', 'given']
    expected = photo_scorer.score(photos[1], 'soft light')['score']
    assert judged[1].result.score == pytest.approx(expected)


def test_a_csv_that_does_not_fit_is_named_as_its_owner_names_it(photo_scorer, app_photos, tmp_path):
    table = tmp_path / 'x.csv'
    table.write_text('name,said\na,b\n')
    with pytest.raises(AMHPError, match='no column img_name and text') as caught:
        photo_scorer.score_many(uploaded(app_photos, 'photo0.png'), Upload(str(table), 'said.csv'))
    assert str(caught.value).startswith('said.csv') and str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize('count', [0, 13])
def test_none_and_too_many_are_refused(photo_scorer, photo, count):
    with pytest.raises(AMHPError, match='choose some first' if not count else '12 is the limit'):
        photo_scorer.score_many([photo] * count)


def test_what_cannot_be_read_is_a_sentence_without_options_of_ours(photo_scorer, tmp_path):
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
    judged = photo_scorer.score_many(uploaded(app_photos, *names))
    ours = list(csv.DictReader(io.StringIO(photo_scorer.to_csv(one.result for one in judged))))
    theirs = list(csv.DictReader(file.open()))
    assert list(ours[0]) == list(theirs[0])
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine['path'], mine['prompt_source']) == (other['path'], other['prompt_source'])
        assert mine['error'] == other['error']
        if other['score']:
            assert float(mine['score']) == pytest.approx(float(other['score']), abs=1e-5)
    assert ours[0]['score'] and not ours[1]['score']


def test_only_amhp_is_behind_the_page():
    with pytest.raises(AMHPError, match='needs an AMHP, got Linear'):
        PhotoScorer(torch.nn.Linear(1, 1), Limits())


# How it is shown


def test_the_score_its_levels_and_what_the_comment_changes_are_shown(photo_scorer, photo):
    one = photo_scorer.explain(photo, 'soft light')
    page = show.score_panel(one)
    assert f'>{one.explanation.score:.2f}</p>' in page and 'on a scale from 1 to 10' in page
    widths = re.findall(r'amhp-track"><i style="width: ([\d.]+)%', page)
    expected = [100 * p for p in reversed(one.explanation.levels.values())]
    assert list(map(float, widths)) == pytest.approx(expected, abs=0.01)
    change = one.explanation.score - one.without
    assert f'{abs(change):.2f}' in page.split('The comment moves it')[1][:80]
    assert f'from {one.without:.2f} without it' in page
    assert re.findall(r'amhp-word amhp-\w+" .*?>(\w+)<', page) == ['soft', 'light']


def test_each_attribute_is_shown_with_its_moves(photo_scorer, photo):
    one = photo_scorer.explain(photo)
    page = show.why_panel(one)
    table = page.split('<tbody>')[1]
    rows = re.findall(r'<tr>\s*<th>(.*?)</th>(.*?)</tr>', table, re.DOTALL)
    names = [a.name.replace('_', ' ') for a in one.explanation.attributes]
    assert [name for name, _ in rows] == names
    for attribute, (_, cells) in zip(one.explanation.attributes, rows, strict=True):
        for change in (attribute.up, attribute.down):
            shown = '–' if change is None else f'{abs(change):.2f}'
            assert shown in cells
    assert all(html.escape(note) in page for note in one.explanation.notes)


def test_the_map_lies_over_the_whole_photograph(photo_scorer, photo, make_amhp):
    import base64

    one = photo_scorer.explain(photo)
    address = show.relevance_picture(one)
    picture = Image.open(io.BytesIO(base64.b64decode(address.split(',')[1])))
    assert picture.size == one.image.size
    pixels = np.asarray(picture).astype(int)
    assert np.abs(pixels - pixels.mean(axis=2, keepdims=True)).max() > 10  # there is colour
    assert address in show.why_panel(one)


def test_a_encoder_without_a_map_says_so(make_amhp, tiny, photo):
    tiny['vision_cfg'] = {'image_size': 32, 'layers': [1, 1, 1, 1], 'width': 16, 'patch_size': None}
    page = show.why_panel(PhotoScorer(make_amhp(backbone=tiny), Limits()).explain(photo))
    assert 'has no map' in page and '<img' not in page


def test_names_comments_and_errors_of_others_are_only_text(photo_scorer, app_photos):
    photo = Upload(str(app_photos / 'photo0.png'), HOSTILE)
    bad = Upload(str(app_photos / 'text.jpg'), HOSTILE)
    one = photo_scorer.explain(photo, COMMENT)
    many = show.many_panel(photo_scorer, photo_scorer.score_many([photo, bad]))
    for page in (show.score_panel(one), show.why_panel(one), many, show.problem(HOSTILE)):
        assert '<script>alert' not in page and 'src=x' not in re.sub(r'&lt;img src=x', '', page)
    assert html.unescape(
        re.search(r'amhp-on">.*?<span title=".*?">(.*?)</span>', show.score_panel(one))[1]
    ) == (HOSTILE)
    assert html.unescape(re.search(r'amhp-name" title="(.*?)"', many)[1]) == HOSTILE


def test_the_gallery_is_sorted_and_says_what_was_not_read(photo_scorer, app_photos):
    names = [f'photo{i}.png' for i in range(6)] + ['text.jpg']
    judged = photo_scorer.score_many(uploaded(app_photos, *names), pictures=True)
    page = show.many_panel(photo_scorer, judged)
    scores = [float(score) for score in re.findall(r'amhp-card" data-score="(.*?)"', page)]
    assert len(scores) == 6 and scores == sorted(scores, reverse=True)
    assert '6 of 6 at 1.0 or better' in page
    assert '1 of 7 could not be read' in page and 'text.jpg: not an image' in page
    assert page.count('data:image/jpeg;base64,') == 6


def test_nothing_readable_gives_no_gallery_but_the_list(photo_scorer, app_photos):
    page = show.many_panel(photo_scorer, photo_scorer.score_many(uploaded(app_photos, 'text.jpg')))
    assert '1 of 1 could not be read' in page and 'amhp-gallery' not in page
    assert 'download="scores.csv"' in page


def test_a_score_that_is_no_number_comes_last(photo_scorer):
    rows = [ScoreResult(str(i), score, levels={}) for i, score in enumerate((math.nan, 2.0, 3.0))]
    page = show.many_panel(photo_scorer, [ScoredPhoto(row, '') for row in rows])
    assert re.findall(r'amhp-name" title="(\d)"', page) == ['2', '1', '0']


@pytest.mark.parametrize(
    ('scale', 'at_least', 'line'),
    [
        ((1, 10), 5, '3 of 4 at 5.0 or better'),
        ((1, 10), 9.5, '0 of 4 at 9.5 or better'),
        ((0, 1), 0.25, '4 of 4 at 0.25 or better'),
    ],
)
def test_the_threshold_counts_what_reaches_it(scale, at_least, line):
    assert show.Threshold.of(*scale).line([8, 5.0, 5.5, 4.99], at_least) == line


@pytest.mark.parametrize('dataset', ['ava', 'para', 'aadb'])
def test_trained_weights_are_named_with_their_scale(make_amhp, tmp_path, dataset):
    from pyiqa_amhp.weights.checkpoint import save_checkpoint

    path = save_checkpoint(tmp_path / 'mine.pth', make_amhp(dataset=dataset).state_dict())
    photo_scorer = PhotoScorer(AMHP(pretrained_model_path=str(path)), Limits())
    about = describe(photo_scorer.scorer)
    scale = {'ava': '1 to 10', 'para': '1 to 5', 'aadb': '0 to 1'}[dataset]
    assert (about.kind, about.title) == ('trained', 'Trained weights: mine.pth')
    assert f'from {scale} ({dataset.upper()})' in about.line and 'variant all' in about.line.lower()
    assert str(tmp_path) not in show.top(about)
    assert describe(photo_scorer.scorer, 'hf-hub:a/b').title == 'Trained weights: hf-hub:a/b'


def test_zero_shot_and_random_weights_say_that_they_are(make_amhp, tiny, tmp_path):
    torch.manual_seed(5)
    torch.save(open_clip.CLIP(**tiny).state_dict(), tmp_path / 'clip.pt')
    clip = {'backbone': tiny, 'clip_weights': str(tmp_path / 'clip.pt'), 'quick_gelu': True}
    zero_shot = describe(Scorer(AMHP(**clip)))
    assert zero_shot.kind == 'zero-shot' and 'no trained weights' in show.top(zero_shot)
    assert 'Comments change nothing' in zero_shot.line and not zero_shot.reads_text
    assert describe(Scorer(AMHP(**clip, pretrained='clip'))).kind == 'zero-shot'
    assert describe(Scorer(make_amhp())).title == 'Random weights'


# What is taken


def test_a_client_that_asks_too_often_is_told_when_to_come_again():
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


def test_clients_that_are_gone_take_no_memory():
    now = [0.0]
    rate = Rate(2, clock=lambda: now[0])
    for i in range(100):
        rate.count(str(i))
    now[0] = 60
    rate.count('new')
    assert list(rate._recent) == ['new']


@pytest.mark.parametrize('name', ['file_mb', 'pixels', 'files', 'requests', 'disk_mb', 'text'])
def test_a_limit_below_one_is_refused(name):
    with pytest.raises(AMHPError, match=f'limit {name}=0: expected 1 or more'):
        Limits(**{name: 0})


def store(root, *names):
    """Files as Gradio stores them: each in a folder of its own."""
    found = []
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / 'x.jpg').write_bytes(b'123')
        found.append(Upload(str(root / name / 'x.jpg'), 'x.jpg'))
    return found


def files_in(root):
    return sorted(file.parent.name for file in root.rglob('*.jpg'))


def test_an_upload_is_deleted_when_its_last_holder_lets_it_go(tmp_path):
    uploads = Uploads(tmp_path)
    a, b, c = store(tmp_path, 'a', 'b', 'c')
    uploads.hold('one', 'many', [a, b, None])
    uploads.hold('two', 'one', [b])
    assert uploads.size() == 9
    uploads.hold('one', 'many', [c])
    assert files_in(tmp_path) == ['b', 'c']  # b is the other session's, too
    uploads.let_go('two')
    assert files_in(tmp_path) == ['c']
    uploads.let_go('one')
    assert not list(tmp_path.iterdir())
    uploads.let_go('one')


def test_nothing_outside_the_folder_is_deleted(tmp_path):
    (outside,) = store(tmp_path / 'elsewhere', 'a')
    (inside,) = store(tmp_path / 'uploads', 'b')
    uploads = Uploads(tmp_path / 'uploads')
    around = Upload(str(tmp_path / 'uploads' / '..' / 'elsewhere' / 'a' / 'x.jpg'), 'x.jpg')
    uploads.hold('one', 'many', [outside, around, inside])
    uploads.let_go('one')
    assert files_in(tmp_path) == ['a']


def test_a_megabyte_is_what_gradio_calls_one():
    from gradio.utils import _parse_file_size

    assert _parse_file_size('1mb') == MB
