"""Tables of ``perf/explanations.py`` where the truth is known, and its command line."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import write_photos

sys.path.append(str(Path(__file__).parents[1] / 'perf'))

import explanations
from edits import EDITS
from explanations import (
    Reading,
    agreement_rows,
    control_rows,
    edit_rows,
    mean_levels,
    partial_srcc,
    settings,
)

NAMES = ['light', 'color']


@pytest.fixture
def original():
    """Twenty photographs with levels from 1 to 5; light and color rank them in opposite ways."""
    levels = np.stack([np.linspace(1, 5, 20), np.linspace(5, 1, 20)], axis=1)
    return Reading(levels, np.rint(levels).astype(int), levels[:, 0])


def edited(original, changes):
    """Readings of all edits: levels and scores change by the numbers given for an edit's name."""
    readings = []
    for edit, strength in settings():
        change = changes.get((edit.name, strength), changes.get(edit.name, np.zeros((20, 2))))
        scores = original.scores + change[:, 0]
        readings.append(Reading(original.levels + change, original.shown, scores))
    return readings


def by_header(rows):
    return [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]


def test_mean_levels_are_counted_from_one():
    p = np.array([[1, 0, 0], [0, 0, 1], [0.5, 0, 0.5]])
    assert mean_levels(p).tolist() == [1, 3, 2]


def test_partial_srcc_is_that_of_scipys_residuals():
    rng = np.random.default_rng(0)
    x, y, z = rng.normal(size=(3, 500))
    x, y = x + z, y + z + 0.5 * x
    ranks = pd.DataFrame({'x': x, 'y': y, 'z': z}).rank()
    residuals = [
        ranks[name] - np.polyval(np.polyfit(ranks['z'], ranks[name], 1), ranks['z'])
        for name in ('x', 'y')
    ]
    assert partial_srcc(x, y, z) == pytest.approx(np.corrcoef(*residuals)[0, 1], abs=1e-12)
    assert abs(partial_srcc(z + 0.01 * x, z + 0.01 * y, z)) < 0.5  # what both share is z


def test_agreement_is_that_of_levels_and_raters(original):
    rng = np.random.default_rng(0)
    rated = np.stack([original.levels[:, 0], -original.levels[:, 1]], axis=1)
    moves = np.full((20, 2, 2), np.nan)
    moves[:, 0] = [0.2, 0.1]  # the wrong way down
    moves[:5, 1, 0] = [0.1, 0.1, 0.1, -0.1, -0.1]
    rows = by_header(agreement_rows(NAMES, original, rated, rng.normal(size=20), moves))
    light, color = rows
    assert light['SRCC'] == '1.00 [1.00, 1.00]' and light['learned'] == 'yes'
    assert color['SRCC'] == '-1.00 [-1.00, -1.00]' and color['learned'] == 'no'
    assert color['of the score'] == '1.00 [1.00, 1.00]'
    assert (light['rises with better'], light['falls with worse']) == ('100', '0')
    assert (color['rises with better'], color['falls with worse']) == ('60', '–')
    assert light['mean changes'] == '+0.200, +0.100'


def test_edits_count_the_photographs_whose_edited_level_falls(original):
    falls = np.zeros((20, 2))
    falls[:16] = [-1, 0.5]  # of 16 of 20, light falls and color rises
    noise = np.zeros((20, 2))
    noise[:10, 0] = -2
    changes = {('darker', EDITS[0].strengths[-1]): falls, 'desaturated': falls, 'JPEG': noise}
    rows = by_header(
        edit_rows(NAMES, original, edited(original, changes), {'light': True, 'color': False})
    )
    assert len(rows) == 4 * 3  # of the edits of light and of color
    strong = {row['edit']: row for row in rows if row['strength'].startswith('strong')}
    darker = strong['darker']
    assert darker['its level falls %'].startswith('80 [') and darker['bound 80 %'] == 'holds'
    assert darker['more than JPEG %'] == '0'  # JPEG alone changes light by 2
    assert darker['more than the others %'] == '80'
    assert darker['mean change'] == '-0.80' and darker['score falls %'] == '80'
    assert strong['desaturated']['its level falls %'].startswith('0 [')
    assert strong['desaturated']['bound 80 %'] == 'not learned'
    assert strong['overexposed']['bound 80 %'] == 'misses'
    assert {row['bound 80 %'] for row in rows if row['strength'][0] != 's'} == {''}
    controls = by_header(control_rows(NAMES, original, edited(original, changes)))
    assert [row['control'] for row in controls][:2] == ['mirrored', 'JPEG']
    assert controls[1]['light'] == '50, -1.00' and controls[1]['color'] == '0, +0.00'


@pytest.fixture
def world(tmp_path, make_amhp):
    """Twelve images with random means of raters, and a tiny model that predicts levels."""
    from pyiqa_amhp.weights.checkpoint import save_checkpoint

    names = [f'{i:02}.png' for i in range(12)]
    write_photos(tmp_path / 'imgs', names)
    rng = np.random.default_rng(0)
    table = pd.DataFrame({'img_name': names, 'MOS': rng.uniform(1, 5, 12), 'official_split': 2})
    for name in NAMES:
        table[f'attr_{name}'] = rng.uniform(1, 5, 12)
    table.to_csv(tmp_path / 'para.csv', index=False)

    def save(**options):
        net = make_amhp(dataset='para', attributes=NAMES, **options)
        return save_checkpoint(tmp_path / 'net.pth', net.state_dict())

    return tmp_path, save


def run(monkeypatch, folder, weights, *more):
    words = ['--weights', weights, '--data', folder / 'para.csv', '--images', folder / 'imgs']
    monkeypatch.setattr('sys.argv', ['explanations.py', *map(str, words), *more])
    explanations.main()


def test_the_command_reads_what_explain_says(world, monkeypatch, capsys):
    folder, save = world
    run(monkeypatch, folder, save(predictor='levels'), '--edited', '10')
    out = capsys.readouterr().out
    assert out.startswith('12 photographs, score without texts: SRCC ')
    assert '\nEdits of 10 photographs\n' in out
    difference = float(out.partition('explain`: ')[2].partition('\n')[0])
    assert difference < 1e-4
    assert out.count('\n| darker ') == 3 and out.count('\n| light ') == 1
    assert 'composition' not in out and out.count('\n| JPEG ') == 1


def test_a_model_without_levels_is_refused(world, monkeypatch):
    folder, save = world
    with pytest.raises(SystemExit, match=r"predictor='none'; expected a model .* levels"):
        run(monkeypatch, folder, save())


def test_missing_raters_means_are_named(world, monkeypatch):
    folder, save = world
    table = pd.read_csv(folder / 'para.csv').drop(columns='attr_color')
    table.to_csv(folder / 'para.csv', index=False)
    with pytest.raises(SystemExit, match='attr_color'):
        run(monkeypatch, folder, save(predictor='levels'))
