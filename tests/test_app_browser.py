"""The page in a browser, on a phone and on a wide screen."""

import csv
import shutil

import pytest
from app_fixtures import wait_until

from pyiqa_amhp.app.uploads import Upload

pytest.importorskip('gradio')
playwright = pytest.importorskip('playwright.sync_api')

BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
OPTIONS = (
    '--no-sandbox', '--disable-gpu', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--no-first-run',
)  # fmt: skip
WIDE, NARROW = {'width': 1280, 'height': 900}, {'width': 390, 'height': 844}
HOSTILE = "<img src=x onerror=alert(1)>&'.png"


@pytest.fixture(scope='module')
def browser():
    """The Chromium of this machine; none is downloaded."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f'no browser here (looked for {", ".join(BROWSERS)})')
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(OPTIONS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, app_server):
    """Open the page; it must request no other host, open no dialog, and no script may fail."""
    contexts, requests, errors, dialogs = [], [], [], []

    def open_page(size=WIDE, **options):
        context = browser.new_context(viewport=size, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on('request', lambda request: requests.append(request.url))
        page.on('pageerror', lambda error: errors.append(str(error)))
        page.on('dialog', lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        page.goto(app_server.url)
        page.wait_for_selector('#photo')
        return page

    yield open_page
    for context in contexts:
        context.close()
    own = (app_server.url, 'data:', 'blob:')
    assert requests and all(url.startswith(own) for url in requests)
    assert not errors and not dialogs


def choose(page, selector, *files):
    page.set_input_files(f'{selector} input[type=file]', [str(file) for file in files])


def choose_many(page, *files):
    page.get_by_role('tab', name='Many photographs').click()
    choose(page, '#photos', *files)
    playwright.expect(page.locator('#photos tr.file')).to_have_count(len(files))
    page.click('#score-all')


def shown_score(page):
    return float(page.locator('.amhp-number').get_attribute('data-score'))


def fits(page):
    """Whether nothing is cut off or has to be scrolled sideways."""
    return page.evaluate(
        """() => document.documentElement.scrollWidth <= innerWidth
            && [...document.querySelectorAll('[class^="amhp-"], .amhp-panel *, main button')]
                .every(element => element.getBoundingClientRect().right <= innerWidth)"""
    )


@pytest.mark.parametrize('size', [WIDE, NARROW], ids=['wide', 'narrow'])
def test_a_photograph_is_scored_with_and_without_a_comment(
    open_page, photo_scorer, app_photos, size
):
    page = open_page(size)
    assert 'Trained weights: tiny.pth' in page.text_content('.amhp-weights')
    assert 'scale from 1 to 10' in page.text_content('.amhp-weights')
    assert fits(page) and page.is_visible('#score .amhp-empty')

    path = app_photos / 'photo2.png'
    choose(page, '#photo', path)
    page.wait_for_selector('.amhp-map')
    explained = photo_scorer.explain(Upload(str(path), path.name))
    assert shown_score(page) == pytest.approx(explained.explanation.score, abs=1e-5)
    assert page.locator('.amhp-levels .amhp-track').count() == 5
    assert page.locator('.amhp-attributes tbody tr').count() == 6
    assert fits(page) and page.locator('.amhp-words').count() == 0

    page.fill('#comment textarea', 'soft light, strong diagonals')
    page.click('#score-one')
    page.wait_for_selector('.amhp-words')
    explained = photo_scorer.explain(Upload(str(path), path.name), 'soft light, strong diagonals')
    assert shown_score(page) == pytest.approx(explained.explanation.score, abs=1e-5)
    assert f'from {explained.score_without_text:.2f} without it' in page.text_content(
        '.amhp-change'
    )
    assert page.locator('.amhp-word').count() == 4
    assert fits(page)

    page.get_by_role('button', name='Remove Image').click()
    page.wait_for_selector('#score .amhp-empty')
    assert page.locator('.amhp-explanation').count() == 0


@pytest.mark.parametrize('size', [WIDE, NARROW], ids=['wide', 'narrow'])
def test_many_are_sorted_filtered_and_downloaded(open_page, photo_scorer, app_photos, size):
    page = open_page(size)
    files = [app_photos / f'photo{i}.png' for i in range(6)] + [app_photos / 'text.jpg']
    choose_many(page, *files)
    page.wait_for_selector('.amhp-gallery')
    scored = photo_scorer.score_many([Upload(str(file), file.name) for file in files])
    results = [photo.result for photo in scored if not photo.result.error]
    best = sorted(results, key=lambda result: -result.score)
    assert page.locator('.amhp-name').all_text_contents() == [result.path for result in best]
    assert page.text_content('.amhp-count') == '6 of 6 at 1.0 or better'
    assert 'text.jpg: not an image' in page.text_content('#gallery .amhp-error')
    assert fits(page)

    slider, cards = page.locator('.amhp-threshold'), page.locator('.amhp-card:visible')
    middle = round((best[2].score + best[3].score) / 2, 1)
    count = sum(result.score >= middle for result in results)
    slider.fill(str(middle))
    assert page.text_content('.amhp-count') == f'{count} of 6 at {middle:.1f} or better'
    assert cards.count() == count
    slider.fill('10')
    assert page.text_content('.amhp-count') == '0 of 6 at 10.0 or better' and not cards.count()
    assert page.is_visible('.amhp-none-shown')
    slider.fill('1')
    assert cards.count() == 6 and not page.is_visible('.amhp-none-shown')

    with page.expect_download() as download:
        page.click('text=Scores as CSV')
    assert download.value.suggested_filename == 'scores.csv'
    table = list(csv.DictReader(download.value.path().read_text('utf-8').splitlines()))
    assert [row['path'] for row in table] == [file.name for file in files]
    assert [row['score'] for row in table] == [
        '' if photo.result.error else str(photo.result.score) for photo in scored
    ]


def test_errors_are_messages_on_the_page(open_page, app_photos, tmp_path):
    page = open_page(NARROW)
    choose(page, '#photo', app_photos / 'text.jpg')
    page.wait_for_selector('#score .amhp-error')
    assert 'text.jpg: not an image that Pillow can read' in page.text_content('#score')
    assert not page.locator('#photo img:visible').count()
    assert fits(page)

    page.get_by_role('button', name='Remove Image').click()
    page.wait_for_selector('#score .amhp-empty')
    (tmp_path / 'large.jpg').write_bytes(b'x' * (2 * 2**20 + 1))
    choose(page, '#photo', tmp_path / 'large.jpg')
    message = page.locator('.toast-wrap')
    playwright.expect(message).to_contain_text('maximum allowed size of 2.0 Mb: "large.jpg"')
    choose_many(page, *[app_photos / 'photo0.png'] * 13)
    page.wait_for_selector('#gallery .amhp-error')
    assert '13 photographs at once, and 12 is the limit' in page.text_content('#gallery')
    assert 'Traceback' not in page.content()


def test_names_and_comments_are_escaped(open_page, app_photos, tmp_path):
    page = open_page()
    file = tmp_path / HOSTILE
    shutil.copy(app_photos / 'photo0.png', file)
    choose(page, '#photo', file)
    page.wait_for_selector('.amhp-number')
    page.fill('#comment textarea', '<img src=x onerror=alert(2)> "light"')
    page.click('#score-one')
    page.wait_for_selector('.amhp-words')
    assert page.text_content('.amhp-scale span') == HOSTILE
    texts = tmp_path / 'texts.csv'
    texts.write_text(f'img_name,text\n"{HOSTILE}",<script>alert(3)</script>\n')
    page.get_by_role('tab', name='Many photographs').click()
    choose(page, '#texts', texts)
    playwright.expect(page.locator('#texts tr.file')).to_have_count(1)
    choose_many(page, file, app_photos / 'photo1.png')
    page.wait_for_selector('.amhp-gallery')
    assert HOSTILE in page.locator('.amhp-name').all_text_contents()
    assert '1 of 2 scored with a comment' in page.text_content('.amhp-many')
    assert not page.locator('img[src="x"]').count()


BRIGHTNESS = """() => ['color', 'backgroundColor'].map(name => {
    const context = document.createElement('canvas').getContext('2d');
    context.fillStyle = getComputedStyle(document.querySelector('.amhp-panel'))[name];
    context.fillRect(0, 0, 1, 1);
    const [red, green, blue] = context.getImageData(0, 0, 1, 1).data;
    return (red + green + blue) / 3;
})"""


def test_the_dark_page_is_readable_and_uploads_are_deleted_when_it_is_closed(
    open_page, app_server, app_photos
):
    page = open_page(color_scheme='dark')
    choose(page, '#photo', app_photos / 'photo3.png')
    page.wait_for_selector('.amhp-number')
    ink, paper = page.evaluate(BRIGHTNESS)
    assert paper < 100 and ink - paper > 120
    assert list(app_server.folder.rglob('photo3.png'))
    page.close()
    wait_until(lambda: not list(app_server.folder.rglob('photo3.png')))
