"""Malicious input gets an error message, and none of its code runs."""

import hostile
import hostile_world
import pytest

from pyiqa_amhp.errors import AMHPError, ImageReadError


@pytest.fixture
def world(tmp_path, amhp, make_amhp, tiny, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return hostile.World(tmp_path, amhp, make_amhp, tiny)


@pytest.mark.parametrize('case', hostile.CASES, ids=lambda case: f'{case.way}: {case.what}')
def test_hostile_input(case, world):
    try:
        message = case.run(world)
    except (AMHPError, ImageReadError) as error:
        message = str(error)
    assert case.gets in ' '.join(str(message).split())
    assert 'Traceback' not in message
    assert not world.trace.exists()


def test_the_malicious_code_runs_when_it_is_loaded_without_checks(tmp_path):
    import pickle

    import torch

    trace = tmp_path / 'trace'
    pickle.loads(pickle.dumps(hostile_world.Code(trace))).close()
    assert trace.exists()
    trace.unlink()
    script = tmp_path / 'script.pt'
    script.write_bytes(hostile.hostile_weights.script_that_writes(trace))
    torch.jit.load(script)
    assert trace.exists()


def test_every_kind_is_in_the_table():
    assert {case.kind for case in hostile.CASES} == set(hostile.KINDS)


def test_the_docs_have_the_table():
    page = hostile.DOCS.read_text(encoding='utf-8')
    assert hostile.with_table(page) == page, 'python tests/hostile.py writes it anew'
