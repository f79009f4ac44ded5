"""Files of version 0.1.0 still work: a checkpoint, a score table, a training state, an option file.

``made_by_0_1_0/make.py`` made them.
"""

import json
import logging
import lzma
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.model.config import AMHPConfig
from pyiqa_amhp.scoring import scorer
from pyiqa_amhp.scoring.scorer import Scorer
from pyiqa_amhp.scoring.writer import check_settings, run_settings
from pyiqa_amhp.train.pipeline import run_train
from pyiqa_amhp.weights.checkpoint import save_checkpoint

FILES = Path(__file__).with_name('made_by_0_1_0')
EXPECTED = json.loads((FILES / 'expected.json').read_text())
TEXTS = ['soft light and strong colours', None]


def unpack(name, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(lzma.decompress((FILES / f'{name}.xz').read_bytes()))
    return target


@pytest.fixture
def work(tmp_path, monkeypatch):
    """The current folder, with the checkpoint in it."""
    unpack('trained.pth', tmp_path / 'trained.pth')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def scores_of(net):
    image = torch.linspace(0, 1, 3 * 40 * 48).reshape(1, 3, 40, 48)
    with torch.no_grad():
        return [float(net(image, text=text)) for text in TEXTS]


def test_a_checkpoint_gives_the_same_scores(work, caplog):
    net = AMHP(pretrained_model_path=str(work / 'trained.pth')).eval()
    assert scores_of(net) == pytest.approx(EXPECTED['scores'], abs=1e-5)
    assert net.config.prompt_source == 'given'
    assert "text_source='given': it is called prompt_source now" in caplog.text


@pytest.fixture
def begun(work, monkeypatch):
    """A table of scores that 0.1.0 began: its partial file, and the arguments of the command."""
    (work / 'photos').mkdir()
    for i in range(4):  # as make.py
        pixels = np.arange(48 * 40 * 3, dtype=np.uint32) * (i + 1) // 30 % 256
        image = Image.fromarray(pixels.astype(np.uint8).reshape(40, 48, 3))
        image.save(work / 'photos' / f'{i}.png')
    partial = unpack('scores.csv.partial.jsonl', work / 'scores.csv.partial.jsonl')
    monkeypatch.setattr(scorer, 'version_of', EXPECTED['versions'].get)
    arguments = ['photos', '--weights', 'trained.pth', '--exact', '--text', 'light']
    return partial, [*arguments, '--device', 'cpu', '--out', 'scores.csv', '--resume']


def test_an_interrupted_score_table_resumes_without_colour_profiles(work, begun, amhp, caplog):
    partial, arguments = begun
    code, _, err = amhp('score', *arguments, '--no-color-profiles')
    assert code == 0, err
    table = pd.read_csv(work / 'scores.csv')
    assert dict(zip(table['path'], table['score'], strict=True)) == pytest.approx(
        EXPECTED['table'], abs=1e-5
    )
    assert set(table['prompt_source']) == {'given'} and not partial.exists()
    assert 'its text_source is called prompt_source now' in caplog.text


def test_an_interrupted_score_table_is_not_mixed_with_converted_colours(begun, amhp):
    partial, arguments = begun
    before = partial.read_bytes()
    code, _, err = amhp('score', *arguments)
    assert code == 1 and partial.read_bytes() == before
    assert 'color_profiles was None and is True' in err
    assert 'give the same ones, or delete the file to start again. It began without' in err
    assert 'colour profiles to sRGB, as in version 0.1.0: --no-color-profiles resumes it' in err


def test_a_table_of_images_that_were_mirrored_after_the_crop_is_not_mixed(make_amhp):
    scorer = Scorer(make_amhp(protocol='reference'), color_profiles=False)
    settings = run_settings(['photos'], scorer, {})
    before = {name: value for name, value in settings.items() if name != 'mirror'}
    with pytest.raises(AMHPError, match="mirror was None and is 'before the crop'"):
        check_settings(before, settings, 'scores.csv', 'the file')
    paper = Scorer(make_amhp(), color_profiles=False)
    assert run_settings(['photos'], paper, {}).keys() == {'inputs', 'metric', 'weights'}


def test_a_ray_job_of_0_1_0_does_not_mix_two_rules_of_mirroring(make_amhp, tmp_path):
    pytest.importorskip('ray')
    from pyiqa_amhp.scoring.ray.actors import ScorerConfig, ShardScorer
    from pyiqa_amhp.scoring.ray.plan import Source, read_plan, write_plan
    from pyiqa_amhp.scoring.ray.storage import Storage

    net = make_amhp(protocol='reference')
    weights = save_checkpoint(tmp_path / 'reference.pth', net.state_dict())
    storage, out = Storage(), str(tmp_path / 'out')
    write_plan(Source(storage, [str(tmp_path / 'a.png')]), out, {})
    file = tmp_path / 'out' / '_plan' / 'plan.json'
    assert read_plan(storage, out).mirror == 'before the crop'
    content = json.loads(file.read_text())
    del content['mirror']  # as 0.1.0 wrote it
    file.write_text(json.dumps(content))
    config = ScorerConfig('amhp', str(weights), options={'device': 'cpu'})
    with pytest.raises(AMHPError, match=r'mirrored images after the crop.*delete the folder'):
        ShardScorer(config, read_plan(storage, out), storage)({'shard': np.array([0])})


def test_a_training_resumes_with_its_option_file(work, shared_rated_images, caplog):
    for name in ('rated.csv', 'images'):
        (work / name).symlink_to(shared_rated_images.parent / name)
    (work / 'train.yml').write_text((FILES / 'train.yml').read_text())
    unpack('3.state', work / 'experiments/tiny/training_states/3.state')
    with caplog.at_level(logging.WARNING, 'pyiqa_amhp'):
        run_train('train.yml', ['--auto_resume'], work)
    latest = work / 'experiments/tiny/models/net_latest.pth'
    net = AMHP(pretrained_model_path=str(latest)).eval()
    assert scores_of(net) == pytest.approx(EXPECTED['trained'], abs=1e-3)
    assert "text_source='given': it is called prompt_source now" in caplog.text


def test_a_new_name_takes_precedence_over_the_old_one():
    config = AMHPConfig.from_options({'text_source': 'given', 'prompt_source': 'none'})
    assert config.prompt_source == 'none'
