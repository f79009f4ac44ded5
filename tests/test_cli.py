"""The command ``amhp``, run within the test process."""

import json
import re
from importlib.metadata import version

import icc
import numpy as np
import pandas as pd
import pytest
import typer
from conftest import smooth_pixels
from layouts import write_ava
from PIL import Image

from pyiqa_amhp.cli.main import app
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.weights.checkpoint import read_checkpoint, save_checkpoint


def test_without_arguments_the_commands_are_listed(amhp):
    _, out, err = amhp()
    for command in ('demo', 'score', 'train', 'test', 'weights', 'info'):
        assert command in out + err


def test_the_version_is_shown(amhp):
    assert amhp('--version')[:2] == (0, f'pyiqa-amhp {version("pyiqa-amhp")}\n')


def test_every_command_argument_and_option_has_a_help_text():
    def check(command, path):
        assert command.help, path
        for parameter in command.params:
            assert parameter.name == 'help' or parameter.help, (path, parameter.name)
        for name, subcommand in getattr(command, 'commands', {}).items():
            check(subcommand, [*path, name])

    check(typer.main.get_command(app), ['amhp'])


def test_score_prints_every_image_of_a_folder_best_first(amhp, photos, tiny_weights):
    code, out, _ = amhp('score', photos, '--weights', tiny_weights)
    assert code == 0
    scores = [float(n) for n in re.findall(r'\b\d\.\d{4}\b', out)]
    assert len(scores) == 4 and scores == sorted(scores, reverse=True)
    assert 'scale 1..10' in out


def test_score_shows_the_scale_of_own_levels(amhp, photos, make_amhp, tmp_path):
    net = make_amhp(level_values=[1, 2.5, 4, 5.5, 7])
    own = save_checkpoint(tmp_path / 'own.pth', net.state_dict())
    assert 'scale 1..7' in amhp('score', photos, '--weights', own)[1]


def test_exact_scores_equal_the_metric_call(amhp, photos, tiny_weights, tmp_path):
    import pyiqa

    out_file = tmp_path / 'scores.csv'
    arguments = ('--weights', tiny_weights, '--out', out_file)
    assert amhp('score', photos, '--exact', *arguments)[0] == 0
    metric = pyiqa.create_metric('amhp', pretrained_model_path=str(tiny_weights), device='cpu')
    for row in pd.read_csv(out_file).itertuples():
        assert row.score == pytest.approx(float(metric(row.path)), abs=2e-5)


def test_a_text_changes_the_scores_and_their_prompt_source(amhp, photos, tiny_weights, tmp_path):
    tables = []
    for name, arguments in (('plain', []), ('text', ['--text', 'lovely light'])):
        file = tmp_path / f'{name}.csv'
        amhp('score', photos, '--weights', tiny_weights, '--out', file, *arguments)
        tables.append(pd.read_csv(file))
    plain, text = tables
    assert set(plain['prompt_source']) == {'none'} and set(text['prompt_source']) == {'given'}
    assert (plain['score'] != text['score']).all()


def test_a_csv_of_texts_has_a_text_for_each_image(amhp, photos, tiny_weights, tmp_path):
    csv = tmp_path / 'texts.csv'
    rows = [('a.png', 'dull'), ('sub/c.png', 'bright, "loud"'), ('other.png', 'not here')]
    pd.DataFrame(rows, columns=['img_name', 'text']).to_csv(csv, index=False)
    out = tmp_path / 'scores.jsonl'
    code, *_ = amhp('score', photos, '--weights', tiny_weights, '--texts', csv, '--out', out)
    assert code == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    sources = {row['path'].removeprefix(f'{photos}/'): row['prompt_source'] for row in rows}
    assert sources == {
        'a.png': 'given',
        'b.jpg': 'none',
        'sub/c.png': 'given',
        'sub/d.webp': 'none',
    }


@pytest.mark.parametrize('suffix', ['csv', 'json', 'jsonl', 'parquet'])
def test_every_output_format_holds_the_same_table(amhp, photos, tiny_weights, tmp_path, suffix):
    file = tmp_path / f'scores.{suffix}'
    code, *_ = amhp('score', photos, '--weights', tiny_weights, '--out', file)
    read = {
        'csv': lambda f: pd.read_csv(f, keep_default_na=False),
        'json': lambda f: pd.read_json(f),
        'jsonl': lambda f: pd.read_json(f, lines=True),
        'parquet': pd.read_parquet,
    }[suffix]
    table = read(file)
    levels = ['p_bad', 'p_poor', 'p_fair', 'p_good', 'p_perfect']
    assert code == 0
    assert list(table.columns) == ['path', 'score', 'prompt_source', *levels, 'error']
    assert np.allclose(table[levels].sum(axis=1), 1, atol=1e-5)
    expected = table[levels].to_numpy() @ [1.5, 3.5, 5.5, 7.5, 9.5]
    assert np.allclose(table['score'], expected, atol=1e-4)
    assert (table['error'] == '').all()
    assert [f for f in tmp_path.iterdir() if f.name.startswith('.')] == []


def test_a_bad_file_is_an_error_row_with_exit_code_1(amhp, photos, tiny_weights, tmp_path):
    data = (photos / 'b.jpg').read_bytes()
    (photos / 'b.jpg').write_bytes(data[: len(data) // 2])
    (photos / 'e.png').write_text('no image')
    file = tmp_path / 'scores.csv'
    absent = photos / 'absent.png'
    code, _, err = amhp('score', photos, absent, '--weights', tiny_weights, '--out', file)
    table = pd.read_csv(file, keep_default_na=False).set_index('path')
    assert code == 1 and '3 of 6' in err and 'e.png' in err
    for name in ('b.jpg', 'e.png', 'absent.png'):
        row = table.loc[str(photos / name)]
        assert row['score'] == '' and name in row['error']
    assert (table['error'] == '').sum() == 3


def test_the_limit_on_pixels_reaches_the_readers(amhp, photos, tiny_weights, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    for command in ('score', 'explain'):
        arguments = [command, photos, '--weights', tiny_weights, '--device', 'cpu']
        code, _, err = amhp(*arguments)
        assert code == 1 and 'raise the limit (--max-pixels; in Python' in err
        code, _, err = amhp(*arguments, '--max-pixels', 5)
        assert code == 1 and 'pixels, and 5 the limit' in err
        code, out, err = amhp(*arguments, '--max-pixels', 10_000)
        assert code == 0 and 'a.png' in out, err


def test_colour_profiles_can_be_switched_off(amhp, tiny_weights, tmp_path):
    image = Image.fromarray(smooth_pixels(60, 50))
    image.save(tmp_path / 'plain.png')
    image.save(tmp_path / 'wide.png', icc_profile=icc.rgb_profile('prophoto'))
    for metric in (('amhp', '--weights', tiny_weights), ('piqe',)):
        scores = []
        for option in ((), ('--no-color-profiles',)):
            out = tmp_path / f'{metric[0]}{len(option)}.csv'
            arguments = ['score', tmp_path, '--exact', '--device', 'cpu', '--out', out]
            code, _, err = amhp(*arguments, '--metric', *metric, *option)
            assert code == 0, err
            scores.append(pd.read_csv(out)['score'].tolist())
        (plain, wide), (same, off) = scores
        assert plain == same == pytest.approx(off, abs=1e-6) and abs(wide - plain) > 5e-5
    net = AMHP(pretrained_model_path=str(tiny_weights)).eval()
    for option in ((), ('--no-color-profiles',)):
        arguments = ['explain', tmp_path / 'wide.png', '--weights', tiny_weights, *option]
        code, _, err = amhp(*arguments, '--out', tmp_path / 'why', '--device', 'cpu')
        assert code == 0, err
        [entry] = json.loads((tmp_path / 'why' / 'explanations.json').read_text())
        net.color_profiles = not option
        expected = net.explain(tmp_path / 'wide.png').score
        assert entry['score'] == pytest.approx(expected, abs=1e-5)


def test_a_table_of_bad_files_is_written(amhp, tiny_weights, tmp_path):
    (tmp_path / 'x.png').write_bytes(b'')
    file = tmp_path / 'scores.csv'
    code, *_ = amhp('score', tmp_path / 'x.png', '--weights', tiny_weights, '--out', file)
    assert code == 1 and len(pd.read_csv(file)) == 1


def test_top_shows_the_best_images_and_writes_all(amhp, photos, tiny_weights, tmp_path):
    file = tmp_path / 'scores.csv'
    _, out, _ = amhp('score', photos, '--weights', tiny_weights, '--out', file, '--top', 1)
    table = pd.read_csv(file).sort_values('score')
    assert len(table) == 4
    assert table['path'].iloc[-1] in out and table['path'].iloc[0] not in out


def test_batches_give_the_scores_of_single_images(amhp, photos, tiny_weights, tmp_path):
    scores = []
    for size in (1, 3):
        file = tmp_path / f'{size}.csv'
        amhp('score', photos, '--weights', tiny_weights, '--out', file, '--batch-size', size)
        scores.append(pd.read_csv(file)['score'].to_numpy())
    assert np.allclose(*scores, atol=1e-5)


def test_another_metric_of_pyiqa_scores_images(amhp, photos, tmp_path):
    file = tmp_path / 'scores.csv'
    code, *_ = amhp('score', photos / 'a.png', '--metric', 'piqe', '--out', file)
    table = pd.read_csv(file, keep_default_na=False)
    assert code == 0 and list(table.columns) == ['path', 'score', 'prompt_source', 'error']
    assert np.isfinite(table['score'].astype(float)).all()


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        (['score', 'nowhere/*.jpg'], 'nowhere/*.jpg'),
        (['score', '.', '--metric', 'nimaa'], 'nimaa'),
        (['score', '.', '--metric', 'psnr'], 'needs a reference image'),
        (['score', '.', '--out', 'scores.xlsx'], '.parquet'),
        (['score', '.', '--text', 'a', '--texts', 'b.csv'], 'not both'),
        (['score', '.', '--texts', 'absent.csv'], 'absent.csv'),
        (['score', '.', '--weights', 'absent.pth'], 'absent.pth'),
        (['score', '.', '--top', '0'], '--top'),
        (['prepare', 'ava', '--root', 'absent'], 'no such folder'),
        (['prepare', 'ava', '--root', '.'], '--root'),
        (['prepare', 'spaq', '--root', '.'], 'ava, para, aadb'),
        (['train', '-opt', 'absent.yml'], 'absent.yml'),
        (['test', '-opt', 'absent.yml'], 'absent.yml'),
        (['weights', 'add', 'absent.pth'], 'absent.pth'),
        (['weights', 'remove', 'ava'], 'ava'),
        (['weights', 'path', '../x'], '../x'),
        (['frobnicate'], 'frobnicate'),
    ],
)
def test_mistakes_end_with_a_message(amhp, photos, monkeypatch, arguments, expected):
    monkeypatch.chdir(photos)
    code, _, err = amhp(*arguments)
    assert code != 0 and expected in err


def test_a_text_for_two_images_is_refused(amhp, photos, tiny_weights, tmp_path):
    Image.new('RGB', (20, 20)).save(photos / 'sub' / 'a.png')
    csv = tmp_path / 'texts.csv'
    csv.write_text('img_name,text\na.png,hello\n')
    code, _, err = amhp('score', photos, '--weights', tiny_weights, '--texts', csv)
    assert code == 1 and 'fits both' in err


@pytest.mark.parametrize(
    ('content', 'expected'),
    [
        ('img_name,comment\na.png,x\n', 'text'),
        ('img_name,text\na.png,x\na.png,y\n', 'two texts'),
        ('img_name,text\nzzz.png,x\n', 'no img_name fits'),
        ('', 'the file is empty'),
    ],
)
def test_bad_csvs_of_texts_are_refused(amhp, photos, tiny_weights, tmp_path, content, expected):
    csv = tmp_path / 'texts.csv'
    csv.write_text(content)
    code, _, err = amhp('score', photos, '--weights', tiny_weights, '--texts', csv)
    assert code == 1 and expected in err


def test_weights_are_added_listed_used_and_removed(amhp, tiny_weights, photos, tmp_path, own_home):
    assert 'no weights' in amhp('weights', 'list')[1]
    code, out, _ = amhp('weights', 'add', tiny_weights, '--as', 'ava')
    assert code == 0 and 'ava.safetensors' in out
    assert '1.5..9.5' in amhp('weights', 'list')[1]
    stored = amhp('weights', 'path', 'ava')[1].strip()
    assert stored.startswith(str(own_home)) and read_checkpoint(stored).config['dataset'] == 'ava'

    files = tmp_path / 'stored.csv', tmp_path / 'given.csv'
    amhp('score', photos, '--out', files[0])  # with the weights in the store
    amhp('score', photos, '--out', files[1], '--weights', tiny_weights)
    assert files[0].read_text() == files[1].read_text()

    assert amhp('weights', 'remove', 'ava')[0] == 0
    assert 'no weights' in amhp('weights', 'list')[1]


def test_prepare_lists_counts_faults_and_files(amhp, tmp_path):
    root = write_ava(tmp_path / 'AVA')
    (root / 'images' / '1000.jpg').unlink()
    (root / 'images' / '1007.jpg').write_bytes(b'no image')
    arguments = ('prepare', 'ava', '--root', root, '--out', tmp_path / 'meta')
    code, out, err = amhp(*arguments, '--verify-images', '--val-images', 4)
    assert code == 0
    counts = dict(re.findall(r'│ +(\S.*?) +│ +(\d+) │', out))
    assert counts == {
        'in the meta file': '30',
        'in train': '18',
        'in val': '4',
        'in test': '8',
        'with comments': '24',
        'with attribute comments': '18',
        'missing, left out': '1',
        'corrupt, left out': '1',
    }
    assert '1000.jpg' in err and '1007.jpg' in err
    assert f'dataroot_target: {root / "images"}' in out
    for file in ('meta_info_AVADataset.csv', 'ava_comments.arrow', 'prepare_report.json'):
        assert file in out and (tmp_path / 'meta' / file).is_file()

    code, _, err = amhp(*arguments)
    assert code == 1 and '--force' in err


def test_info_shows_versions_devices_names_and_weights(amhp, tiny_weights, monkeypatch):
    monkeypatch.setenv('PYIQA_AMHP_WEIGHTS', str(tiny_weights))
    code, out, _ = amhp('info')
    assert code == 0
    for expected in (version('torch'), version('pyiqa'), 'cpu', 'amhp-para', 'AMHPModel'):
        assert expected in out
    assert tiny_weights.name in out


def test_an_unexpected_error_names_the_debug_variable(amhp, photos, tiny_weights, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError('the device melted')

    monkeypatch.setattr('pyiqa_amhp.scoring.files.score_images', broken)
    code, _, err = amhp('score', photos, '--weights', tiny_weights)
    assert code == 1 and 'RuntimeError: the device melted' in err and 'PYIQA_AMHP_DEBUG' in err
