"""``amhp pick``: groups of photographs that are alike, the page, links, and stars in sidecars."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance
from typer.testing import CliRunner

from pyiqa_amhp.cli.main import app
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.pick import run as run_module
from pyiqa_amhp.pick.groups import Look, group, look_at, time_taken
from pyiqa_amhp.pick.reasons import Levels, attribute_levels, in_words, why_better
from pyiqa_amhp.pick.xmp import read_rating, sidecar, stars_for, write_rating
from pyiqa_amhp.weights.checkpoint import save_checkpoint


def photograph(seed, side=200):
    """Large shapes of different colours, as photographs have them."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
    return small.resize((side * 6 // 5, side), Image.Resampling.BICUBIC)


def save(image, path, taken=None, part=None):
    exif = Image.Exif()
    if taken:
        exif.get_ifd(0x8769)[0x9003] = taken
        if part:
            exif.get_ifd(0x8769)[0x9291] = part
    image.save(path, quality=92, exif=exif)
    return path


@pytest.fixture
def photos(tmp_path):
    """Six photographs, a burst of three of the first, and a copy of the second."""
    folder = tmp_path / 'photos'
    folder.mkdir()
    for i in range(6):
        save(photograph(i), folder / f'{i}.jpg')
    first = photograph(0)
    for k in range(3):
        image = first.crop((8 * k, 5 * k, first.width, first.height))
        save(image, folder / f'burst{k}.jpg', f'2026:05:01 10:00:0{k}')
    save(ImageEnhance.Brightness(photograph(1)).enhance(0.8), folder / '1 darker.jpg')
    return folder


@pytest.fixture
def weights(make_amhp, tmp_path):
    net = make_amhp(predictor='levels')
    return save_checkpoint(tmp_path / 'amhp.pth', net.state_dict())


def amhp(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


# Groups


@pytest.mark.parametrize(
    'edit',
    [
        lambda image: ImageEnhance.Brightness(image).enhance(1.2),
        lambda image: ImageEnhance.Contrast(image).enhance(0.8),
        lambda image: image.resize((image.width // 2, image.height // 2)),
        lambda image: image.convert('L').convert('RGB'),
        lambda image: image.crop((2, 2, image.width - 2, image.height - 2)),
    ],
)
def test_an_edited_photograph_is_alike_and_others_are_not(tmp_path, edit):
    images = [photograph(i) for i in range(20)]
    looks = [look_at(image, 'none.jpg') for image in images]
    looks.append(look_at(edit(images[7]), 'none.jpg'))
    assert group(looks).tolist() == [*range(20), 7]


def test_a_burst_is_one_group_by_its_time():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, 64).astype(np.int8)
    moved = bits.copy()
    moved[:16] ^= 1  # too far for a near-duplicate
    near = [Look(bits, 100.0), Look(moved, 102.5)]
    assert group(near).tolist() == [0, 0]
    assert group([Look(bits, 100.0), Look(moved, 104.0)]).tolist() == [0, 1]
    assert group([Look(bits, 100.0), Look(moved, None)]).tolist() == [0, 1]
    other = bits ^ 1
    assert group([Look(bits, 100.0), Look(other, 100.5)]).tolist() == [0, 1]
    assert group([]).tolist() == []


def test_the_time_is_read_with_its_fraction_and_never_fails(tmp_path):
    image = photograph(0, 40)
    a = time_taken(save(image, tmp_path / 'a.jpg', '2026:05:01 10:00:01', '25'))
    b = time_taken(save(image, tmp_path / 'b.jpg', '2026:05:01 10:00:03'))
    assert b - a == pytest.approx(1.75)
    assert time_taken(save(image, tmp_path / 'c.jpg')) is None
    assert time_taken(save(image, tmp_path / 'd.jpg', '0000:00:00 00:00:00')) is None
    assert time_taken(tmp_path / 'absent.jpg') is None


def test_of_real_photographs_none_are_grouped_but_their_crops_and_edits_are(shared_data):
    files = sorted((shared_data / 'oasis' / 'images').iterdir())
    images = [Image.open(file).convert('RGB') for file in files]
    looks = [look_at(image, 'none.jpg') for image in images]
    assert len(set(group(looks).tolist())) == len(files) > 500
    found = 0
    for look, image in zip(looks[:60], images[:60], strict=True):
        x, y = image.width // 33, image.height // 33  # 3 % of each side
        cropped = image.crop((x, y, image.width - x, image.height - y))
        edited = ImageEnhance.Brightness(cropped).enhance(1.15)
        found += len(set(group([look, look_at(edited, 'none.jpg')]).tolist())) == 1
    assert found >= 50


# The command


def test_the_best_of_each_group_are_picked(photos, weights, tmp_path):
    out = tmp_path / 'out'
    done = amhp('pick', photos, '--weights', weights, '--top', 4, '--out', out)
    assert done.exit_code == 0, done.output
    table = pd.read_csv(out / 'scores.csv')
    assert len(table) == 10 and table['group'].nunique() == 6
    groups = table.groupby('group')
    assert sorted(groups.size()) == [1, 1, 1, 1, 2, 4]
    assert (table['alike'] == groups['score'].transform('size')).all()
    best = groups['score'].max().nlargest(4)
    picks = table[table['pick'].notna()].sort_values('pick')
    assert picks['score'].tolist() == pytest.approx(best.tolist())
    assert table.loc[table['score'].idxmax(), 'percentile'] == 1
    links = sorted((out / 'picks').iterdir())
    assert [link.name[4:] for link in links] == [p.rpartition('/')[2] for p in picks['path']]
    assert all(link.is_symlink() and Image.open(link) for link in links)
    page = (out / 'index.html').read_text()
    assert page.count('<figure') == 4 and 'The other 6 photographs' in page
    assert 'the best of all' in page and 'alike: ' in page
    assert not list(out.glob('*.partial.jsonl'))


def test_copies_replace_the_links_of_an_earlier_run(photos, weights, tmp_path):
    out = tmp_path / 'out'
    amhp('pick', photos, '--weights', weights, '--top', 4, '--out', out)
    (out / 'picks' / 'mine.txt').write_text('kept')
    done = amhp('pick', photos, '--weights', weights, '--top', 2, '--copy', '--out', out)
    assert done.exit_code == 0
    files = sorted((out / 'picks').iterdir())
    assert [file.name[:4] for file in files] == ['001_', '002_', 'mine']
    assert not any(file.is_symlink() for file in files)
    assert all((photos / file.name[4:]).exists() for file in files[:2])


def test_a_file_that_cannot_be_read_is_named(photos, weights, tmp_path):
    (photos / 'broken.jpg').write_bytes(b'no image')
    done = amhp('pick', photos, '--weights', weights, '--out', tmp_path / 'out')
    assert done.exit_code == 1
    table = pd.read_csv(tmp_path / 'out' / 'scores.csv')
    assert table['error'].notna().sum() == 1 and table['score'].notna().sum() == 10
    assert 'not an image' in (tmp_path / 'out' / 'index.html').read_text()


def test_the_limit_on_pixels_holds_for_scores_and_pictures(photos, weights, tmp_path, monkeypatch):
    from pyiqa_amhp.datasets import images

    monkeypatch.setattr(images, 'MAX_PIXELS', 1000)  # all photographs are above it
    arguments = ('pick', photos, '--weights', weights, '--out', tmp_path / 'out')
    assert amhp(*arguments, '--max-pixels', 10**6).exit_code == 0
    assert pd.read_csv(tmp_path / 'out' / 'scores.csv')['score'].notna().all()


def test_an_interrupted_run_resumes(photos, weights, tmp_path, monkeypatch):
    out, score_images = tmp_path / 'out', run_module.score_images

    def interrupted(images, *args, **options):
        for number, result in enumerate(score_images(images, *args, **options)):
            if number == 4:
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(run_module, 'score_images', interrupted)
    arguments = ('pick', photos, '--weights', weights, '--out', out)
    assert amhp(*arguments).exit_code != 0
    scored = []

    def counted(images, *args, **options):
        scored.extend(images)
        return score_images(images, *args, **options)

    monkeypatch.setattr(run_module, 'score_images', counted)
    assert amhp(*arguments).exit_code == 0
    assert len(scored) == 6 and len(pd.read_csv(out / 'scores.csv')) == 10


def test_names_of_any_kind_are_linked_and_shown(weights, tmp_path):
    folder = tmp_path / 'photos'
    folder.mkdir()
    for i, name in enumerate(('a#b.jpg', '<b>bold.jpg', 'sp ace%20.jpg')):
        save(photograph(i), folder / name)
    out = tmp_path / 'out'
    assert amhp('pick', folder, '--weights', weights, '--out', out).exit_code == 0
    page = (out / 'index.html').read_text()
    assert '<b>bold' not in page and '&lt;b&gt;bold.jpg' in page
    links = re.findall(r'href="(picks/\d[^"]*)"', page)
    assert len(links) == 3 and not any('#' in link or ' ' in link for link in links)


def test_a_folder_without_a_readable_photograph_is_an_error(weights, tmp_path):
    (tmp_path / 'photos').mkdir()
    (tmp_path / 'photos' / 'a.jpg').write_bytes(b'nothing')
    from pyiqa_amhp.scoring.scorer import Scorer, create_metric

    scorer = Scorer(create_metric('amhp', str(weights), 'cpu'))
    with pytest.raises(AMHPError, match='none of the 1 photographs could be read'):
        run_module.pick([tmp_path / 'photos' / 'a.jpg'], scorer, tmp_path / 'out', 3, 'x')


# Words


def test_attributes_are_told_in_words(make_amhp):
    words = ('bad', 'poor', 'fair', 'good', 'perfect')
    levels = Levels(words, {'light': 3, 'color': 4, 'depth_of_field': 0, 'content': 2}, True)
    assert in_words(levels) == 'perfect color, bad depth of field, good light'
    assert in_words(Levels(words, {'light': 2}, True)) == ''
    told = attribute_levels(make_amhp(predictor='levels'), photograph(0))
    assert told is not None and set(told.by_name.values()) <= set(range(5))
    assert attribute_levels(make_amhp(clip_weights='imagenet'), photograph(0)) is None


def test_why_a_photograph_beat_the_others():
    words = ('bad', 'fair', 'good')
    mine = Levels(words, {'light': 2, 'color': 1, 'content': 2}, True)
    theirs = Levels(words, {'light': 1, 'color': 1, 'content': 0}, True)
    others = [('b.jpg', 5.0, theirs), ('c.jpg', 4.0, None)]
    assert why_better(5.25, mine, others) == (
        'Best of 3 alike: 0.25 better than b.jpg, with better light and content'
    )
    assert why_better(5.001, None, others) == 'Best of 3 alike: less than 0.01 better than b.jpg'
    assert why_better(5, mine, []) == ''


# Sidecars

LIGHTROOM = """<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Adobe XMP Core">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/" {rating} crs:Exposure2012="+0.35">
   <crs:ToneCurve><rdf:Seq><rdf:li>0, 0</rdf:li></rdf:Seq></crs:ToneCurve>{element}
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>"""


@pytest.mark.parametrize(
    ('rating', 'element', 'before'),
    [
        ('xmp:Rating="2"', '', 2),
        ('', '<xmp:Rating>4</xmp:Rating>', 4),
        ('', '', None),
        ('xmp:Rating="-1"', '', -1),
    ],
)
def test_a_sidecar_keeps_everything_but_its_rating(tmp_path, rating, element, before):
    path = tmp_path / 'photo.jpg.xmp'
    path.write_text(LIGHTROOM.format(rating=rating, element=element))
    assert read_rating(path) == before
    write_rating(path, 5)
    assert read_rating(path) == 5
    text = path.read_text()
    assert 'crs:Exposure2012="+0.35"' in text and '<rdf:li>0, 0</rdf:li>' in text
    assert text.count('Rating') == (
        2 if element else 1
    )  # the tags of one element, or one attribute
    ElementTree.fromstring(text)


def test_a_new_sidecar_is_read_by_any_reader_of_xml(tmp_path):
    write_rating(tmp_path / 'a.jpg.xmp', 3)
    text = (tmp_path / 'a.jpg.xmp').read_text(encoding='utf-8')
    assert text.startswith('<?xpacket begin="\ufeff"') and text.rstrip().endswith(
        '<?xpacket end="w"?>'
    )
    [description] = ElementTree.fromstring(text.partition('?>')[2]).iter(
        '{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description'
    )
    assert description.get('{http://ns.adobe.com/xap/1.0/}Rating') == '3'


@pytest.mark.parametrize(
    'content', ['no xml', '<a/>', '', '<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>']
)
def test_a_sidecar_that_is_no_xmp_is_an_error_and_stays(tmp_path, content):
    path = tmp_path / 'a.jpg.xmp'
    path.write_text(content)
    with pytest.raises(AMHPError, match=r'a\.jpg\.xmp: '):
        write_rating(path, 3)
    assert path.read_text() == content


def test_the_sidecar_of_either_name_is_found(tmp_path):
    assert sidecar(tmp_path / 'a.jpg').name == 'a.jpg.xmp'
    (tmp_path / 'a.xmp').write_text('')
    assert sidecar(tmp_path / 'a.jpg').name == 'a.xmp'
    (tmp_path / 'a.jpg.xmp').write_text('')
    assert sidecar(tmp_path / 'a.jpg').name == 'a.jpg.xmp'


def test_stars_follow_the_percentile():
    assert [stars_for(x) for x in (1, 0.9, 0.89, 0.5, 0.2, 0.1, 0)] == [5, 5, 4, 3, 2, 1, 1]


def test_ratings_of_the_photographer_are_kept_unless_overwritten(photos, weights, tmp_path):
    write_rating(photos / '3.jpg.xmp', 1)
    write_rating(photos / '4.jpg.xmp', 0)  # no stars yet
    before = {file.name: file.read_bytes() for file in photos.glob('*.jpg')}
    arguments = ('pick', photos, '--weights', weights, '--out', tmp_path / 'out', '--xmp')
    done = amhp(*arguments)
    assert done.exit_code == 0 and '9 sidecars written, 1 kept' in done.output
    table = pd.read_csv(tmp_path / 'out' / 'scores.csv')
    stars = {
        path.rpartition('/')[2]: s for path, s in zip(table['path'], table['stars'], strict=True)
    }
    assert read_rating(photos / '3.jpg.xmp') == 1
    assert read_rating(photos / '4.jpg.xmp') == stars['4.jpg']
    assert amhp(*arguments, '--overwrite').exit_code == 0
    assert {name: read_rating(photos / f'{name}.xmp') for name in stars} == stars
    assert {file.name: file.read_bytes() for file in photos.glob('*.jpg')} == before
