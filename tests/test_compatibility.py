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

from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.model.config import AMHPConfig
from pyiqa_amhp.scoring import scorer
from pyiqa_amhp.train.pipeline import run_train

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


def test_an_interrupted_score_table_resumes(work, amhp, monkeypatch, caplog):
    (work / 'photos').mkdir()
    for i in range(4):  # as make.py
        pixels = np.arange(48 * 40 * 3, dtype=np.uint32) * (i + 1) // 30 % 256
        image = Image.fromarray(pixels.astype(np.uint8).reshape(40, 48, 3))
        image.save(work / 'photos' / f'{i}.png')
    partial = unpack('scores.csv.partial.jsonl', work / 'scores.csv.partial.jsonl')
    monkeypatch.setattr(scorer, 'version_of', EXPECTED['versions'].get)
    arguments = ['photos', '--weights', 'trained.pth', '--exact', '--text', 'light']
    code, _, err = amhp('score', *arguments, '--device', 'cpu', '--out', 'scores.csv', '--resume')
    assert code == 0, err
    table = pd.read_csv(work / 'scores.csv')
    assert dict(zip(table['path'], table['score'], strict=True)) == pytest.approx(
        EXPECTED['table'], abs=1e-5
    )
    assert set(table['prompt_source']) == {'given'} and not partial.exists()
    assert 'its text_source is called prompt_source now' in caplog.text


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
