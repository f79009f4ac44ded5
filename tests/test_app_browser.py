"""The page as people see it, in a browser: on a phone and on a wide screen."""

import csv
import shutil

import pytest
from app_fixtures import until

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
    """A Chromium of this machine's; none is downloaded."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f'no browser here (looked for {", ".join(BROWSERS)})')
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=list(OPTIONS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, app_server):
    """Open the page; afterwards nothing was asked of others, and no script failed."""
    contexts, asked, failed, spoken = [], [], [], []

    def open_page(size=WIDE, **options):
        context = browser.new_context(viewport=size, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on('request', lambda request: asked.append(request.url))
        page.on('pageerror', lambda error: failed.append(str(error)))
        page.on('dialog', lambda dialog: (spoken.append(dialog.message), dialog.dismiss()))
        page.goto(app_server.url)
        page.wait_for_selector('#photo')
        return page

    yield open_page
    for context in contexts:
        context.close()
    elsewhere = [url for url in asked if not url.startswith((app_server.url, 'data:', 'blob:'))]
    assert asked and not elsewhere
    assert not failed and not spoken


def choose(page, where, *files):
    page.set_input_files(f'{where} input[type=file]', [str(file) for file in files])


def choose_many(page, *files):
    page.get_by_role('tab', name='Many photographs').click()
    choose(page, '#photos', *files)
    playwright.expect(page.locator('#photos tr.file')).to_have_count(len(files))
    page.click('#judge-all')


def shown_score(page):
    return float(page.locator('.amhp-number').get_attribute('data-score'))


def fits(page):
    """Whether nothing has to be scrolled sideways for, or is cut off."""
    return page.evaluate(
        """() => document.documentElement.scrollWidth <= innerWidth
            && [...document.querySelectorAll('[class^="amhp-"], .amhp-panel *, main button')]
                .every(shown => shown.getBoundingClientRect().right <= innerWidth)"""
    )


@pytest.mark.parametrize('size', [WIDE, NARROW], ids=['wide', 'narrow'])
def test_a_photograph_is_judged_and_a_comment_changes_it(open_page, photo_scorer, app_photos, size):
    page = open_page(size)
    assert 'Trained weights: tiny.pth' in page.text_content('.amhp-weights')
    assert 'scale from 1 to 10' in page.text_content('.amhp-weights')
    assert fits(page) and page.is_visible('#score .amhp-empty')

    path = app_photos / 'photo2.png'
    choose(page, '#photo', path)
    page.wait_for_selector('.amhp-map')
    plain = photo_scorer.explain(Upload(str(path), path.name)).explanation.score
    assert shown_score(page) == pytest.approx(plain, abs=1e-5)
    assert page.locator('.amhp-levels .amhp-track').count() == 5
    assert page.locator('.amhp-attributes tbody tr').count() == 6
    assert fits(page) and page.locator('.amhp-words').count() == 0

    page.fill('#comment textarea', 'soft light, strong diagonals')
    page.click('#judge')
    page.wait_for_selector('.amhp-words')
    said = photo_scorer.explain(Upload(str(path), path.name), 'soft light, strong diagonals')
    assert shown_score(page) == pytest.approx(said.explanation.score, abs=1e-5)
    assert f'from {said.without:.2f} without it' in page.text_content('.amhp-change')
    assert page.locator('.amhp-word').count() == 4
    assert fits(page)

    page.get_by_role('button', name='Remove Image').click()
    page.wait_for_selector('#score .amhp-empty')
    assert page.locator('.amhp-why').count() == 0


@pytest.mark.parametrize('size', [WIDE, NARROW], ids=['wide', 'narrow'])
def test_many_are_sorted_filtered_and_downloaded(open_page, photo_scorer, app_photos, size):
    page = open_page(size)
    files = [app_photos / f'photo{i}.png' for i in range(6)] + [app_photos / 'text.jpg']
    choose_many(page, *files)
    page.wait_for_selector('.amhp-gallery')
    judged = photo_scorer.score_many([Upload(str(file), file.name) for file in files])
    rows = [one.result for one in judged if not one.result.error]
    best = sorted(rows, key=lambda row: -row.score)
    assert page.locator('.amhp-name').all_text_contents() == [row.path for row in best]
    assert page.text_content('.amhp-count') == '6 of 6 at 1.0 or better'
    assert 'text.jpg: not an image' in page.text_content('#gallery .amhp-problem')
    assert fits(page)

    slider, cards = page.locator('.amhp-threshold'), page.locator('.amhp-card:visible')
    middle = round((best[2].score + best[3].score) / 2, 1)
    reached = sum(row.score >= middle for row in rows)
    slider.fill(str(middle))
    assert page.text_content('.amhp-count') == f'{reached} of 6 at {middle:.1f} or better'
    assert cards.count() == reached
    slider.fill('10')
    assert page.text_content('.amhp-count') == '0 of 6 at 10.0 or better' and not cards.count()
    assert page.is_visible('.amhp-nothing')
    slider.fill('1')
    assert cards.count() == 6 and not page.is_visible('.amhp-nothing')

    with page.expect_download() as download:
        page.click('text=Scores as CSV')
    assert download.value.suggested_filename == 'scores.csv'
    table = list(csv.DictReader(download.value.path().read_text('utf-8').splitlines()))
    assert [row['path'] for row in table] == [file.name for file in files]
    assert [row['score'] for row in table] == [
        '' if one.result.error else str(one.result.score) for one in judged
    ]


def test_what_goes_wrong_is_a_sentence_on_the_page(open_page, app_photos, tmp_path):
    page = open_page(NARROW)
    choose(page, '#photo', app_photos / 'text.jpg')
    page.wait_for_selector('#score .amhp-problem')
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
    page.wait_for_selector('#gallery .amhp-problem')
    assert '13 photographs at once, and 12 is the limit' in page.text_content('#gallery')
    assert 'Traceback' not in page.content()


def test_names_comments_and_a_csv_of_them_are_only_text(open_page, app_photos, tmp_path):
    page = open_page()
    file = tmp_path / HOSTILE
    shutil.copy(app_photos / 'photo0.png', file)
    choose(page, '#photo', file)
    page.wait_for_selector('.amhp-number')
    page.fill('#comment textarea', '<img src=x onerror=alert(2)> "light"')
    page.click('#judge')
    page.wait_for_selector('.amhp-words')
    assert page.text_content('.amhp-on span') == HOSTILE
    texts = tmp_path / 'texts.csv'
    texts.write_text(f'img_name,text\n"{HOSTILE}",<script>alert(3)</script>\n')
    page.get_by_role('tab', name='Many photographs').click()
    choose(page, '#texts', texts)
    playwright.expect(page.locator('#texts tr.file')).to_have_count(1)
    choose_many(page, file, app_photos / 'photo1.png')
    page.wait_for_selector('.amhp-gallery')
    assert HOSTILE in page.locator('.amhp-name').all_text_contents()
    assert '1 of 2 judged with a comment' in page.text_content('.amhp-many')
    assert not page.locator('img[src="x"]').count()


BRIGHTNESS = """() => ['color', 'backgroundColor'].map(name => {
    const context = document.createElement('canvas').getContext('2d');
    context.fillStyle = getComputedStyle(document.querySelector('.amhp-panel'))[name];
    context.fillRect(0, 0, 1, 1);
    const [red, green, blue] = context.getImageData(0, 0, 1, 1).data;
    return (red + green + blue) / 3;
})"""


def test_it_can_be_read_in_the_dark_and_forgets_what_was_uploaded_when_it_is_closed(
    open_page, app_server, app_photos
):
    page = open_page(color_scheme='dark')
    choose(page, '#photo', app_photos / 'photo3.png')
    page.wait_for_selector('.amhp-number')
    ink, paper = page.evaluate(BRIGHTNESS)
    assert paper < 100 and ink - paper > 120
    assert list(app_server.folder.rglob('photo3.png'))
    page.close()
    until(lambda: not list(app_server.folder.rglob('photo3.png')))
