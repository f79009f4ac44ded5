"""``amhp export``: graphs for onnxruntime and OpenVINO, and their metadata."""

import json
import sys

import onnx
import onnxruntime
import pytest
import torch

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model import engines, export
from pyiqa_amhp.weights.checkpoint import save_checkpoint

pytestmark = pytest.mark.usefixtures('export_once')

TEXTS = ['sky', '', 'A red sky at night, and a house by the water', 'light ' * 100, 'warm']


def by_onnxruntime(file):
    session = onnxruntime.InferenceSession(file)
    return lambda **inputs: session.run(None, {k: v.numpy() for k, v in inputs.items()})


def by_openvino(file):
    pytest.importorskip('openvino')
    core = engines.openvino_core()
    options = {'INFERENCE_PRECISION_HINT': 'f32'}
    model = core.compile_model(core.read_model(file), 'CPU', options)
    return lambda **inputs: list(model({k: v.numpy() for k, v in inputs.items()}).values())


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """A tiny model and its export, in a folder that did not exist."""
    from conftest import TINY

    from pyiqa_amhp.model.amhp import AMHP

    torch.manual_seed(0)
    net = AMHP(pretrained=False, backbone=TINY, level_values=(0, 1, 3, 6, 9)).eval()
    torch.nn.init.normal_(net.fc.weight, std=0.2)
    folder = tmp_path_factory.mktemp('export') / 'new' / 'folder'
    return net, export.export_onnx(net, folder / 'amhp.onnx')


@pytest.mark.parametrize('run', [by_onnxruntime, by_openvino])
@torch.inference_mode()
def test_the_graphs_give_the_scores_of_the_model(exported, run):
    net, (image_file, texts_file) = exported[0], exported[1].files
    score, encode = run(image_file), run(texts_file)
    image = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    image *= torch.linspace(0.1, 1, 5)[:, None, None, None]
    for rows in ([0, 1, 2, 3, 4], [0], [2], [1], [0, 3]):
        texts = [TEXTS[i] for i in rows]
        features = torch.zeros(len(rows), 16)
        for i, text in enumerate(texts):
            if text:
                features[i] = torch.from_numpy(encode(tokens=net.backbone.tokenize([text]))[0])[0]
        expected = net.predict(net.preprocess.normalize(image[rows]), texts)
        got = score(image=image[rows], text_features=features)
        for e, g in zip(expected, got, strict=True):
            torch.testing.assert_close(torch.from_numpy(g), e, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_texts_may_be_padded_to_any_length(exported):
    net, (_, texts_file) = exported[0], exported[1].files
    texts = [text for text in TEXTS if text]
    tokens = net.backbone.tokenizer(texts)
    assert tokens.shape == (4, 77)
    (features,) = by_onnxruntime(texts_file)(tokens=tokens)
    expected = net.backbone.encode_text(texts)
    torch.testing.assert_close(torch.from_numpy(features), expected, atol=1e-5, rtol=0)


def test_inputs_and_outputs_have_documented_names_types_and_free_dimensions(exported):
    def ports(file):
        session = onnxruntime.InferenceSession(file)
        both = (*session.get_inputs(), *session.get_outputs())
        return [(port.name, port.type, port.shape) for port in both]

    image_file, texts_file = exported[1].files
    assert ports(image_file) == [
        ('image', 'tensor(float)', ['N', 3, 32, 32]),
        ('text_features', 'tensor(float)', ['N', 16]),
        ('score', 'tensor(float)', ['N', 1]),
        ('levels', 'tensor(float)', ['N', 5]),
    ]
    assert ports(texts_file) == [
        ('tokens', 'tensor(int64)', ['N', 'L']),
        ('text_features', 'tensor(float)', ['N', 16]),
    ]


def test_the_metadata_describe_the_inputs_and_hold_no_paths(exported):
    net, files = exported[0], exported[1].files
    for file in files:
        model = onnx.load(file)
        found = {prop.key: json.loads(prop.value) for prop in model.metadata_props}
        assert found.pop('config') == json.loads(bytes(net.config.to_tensor().tolist()))
        assert found.pop('version')
        assert found == {
            'image_size': 32,
            'resize': {
                'rule': 'squash',
                'side': 37,
                'interpolation': 'bilinear, antialiased',
                'crop': 'center',
                'flip': False,
            },
            'levels': ['bad', 'poor', 'fair', 'good', 'perfect'],
            'level_values': [0, 1, 3, 6, 9],
            'context_length': 77,
        }
        assert str(export.__file__).encode() not in file.read_bytes()  # no path of this machine


def test_an_export_is_compared_with_torch_and_leaves_two_files(exported):
    written = exported[1]
    assert 0 <= written.difference < 1e-4
    names = [file.name for file in written.files]
    assert names == ['amhp.onnx', 'amhp_text.onnx']
    assert sorted(file.name for file in written.files[0].parent.iterdir()) == sorted(names)


def test_a_model_in_training_is_exported_in_evaluation_and_stays_in_training(make_amhp, tmp_path):
    net = make_amhp(variant='image+levels').train()
    written = export.export_onnx(net, tmp_path / 'amhp.onnx')
    assert net.training and written.difference < 1e-4
    assert [port.name for port in onnxruntime.InferenceSession(written.files[0]).get_inputs()] == [
        'image'
    ]


# Errors


def test_scores_that_differ_are_an_error_and_leave_no_file(make_amhp, tmp_path, monkeypatch):
    def session(file):
        real = onnxruntime.InferenceSession(file)

        class Other:
            def run(self, outputs, inputs):
                return [array + 0.001 for array in real.run(outputs, inputs)]

        return Other()

    monkeypatch.setattr(export, 'onnxruntime_session', session)
    with pytest.raises(AMHPError, match=r'differ from torch by 0.001.* nothing was written'):
        export.export_onnx(make_amhp(variant='image'), tmp_path / 'amhp.onnx')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('amhp.pth', r'amhp\.pth: expected a name that ends in \.onnx'),
        ('amhp', 'expected a name that ends in'),
        ('folder.onnx', r'folder\.onnx: is a folder'),
        ('taken.onnx', r'taken_text\.onnx: is a folder'),
        ('file/amhp.onnx', 'could not be written'),
    ],
)
def test_a_path_that_cannot_be_written_is_reported_first(amhp, tmp_path, name, message):
    (tmp_path / 'folder.onnx').mkdir()
    (tmp_path / 'taken_text.onnx').mkdir()
    (tmp_path / 'file').write_text('')
    with pytest.raises(AMHPError, match=message):
        export.check_file(tmp_path / name)
    assert amhp('export', '--onnx', tmp_path / name, '--weights', '/no/such/file')[0] == 1


def test_only_a_plain_amhp_is_exported(make_amhp, tmp_path):
    with pytest.raises(AMHPError, match='export writes the arch AMHP, got Linear'):
        export.export_onnx(torch.nn.Linear(1, 1), tmp_path / 'a.onnx')
    with pytest.raises(AMHPError, match='export one without a predictor'):
        export.export_onnx(make_amhp(predictor='feature'), tmp_path / 'a.onnx')
    with pytest.raises(AMHPError, match="engine='onnxruntime' and precision='fp32'; export one"):
        export.export_onnx(make_amhp(engine='onnxruntime'), tmp_path / 'a.onnx')


def test_a_missing_onnxscript_is_reported_with_its_extra(make_amhp, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    with pytest.raises(AMHPError, match=r"pip install 'pyiqa-amhp\[onnx\]'"):
        export.export_onnx(make_amhp(), tmp_path / 'a.onnx')


def test_the_command_writes_a_checkpoint_as_onnx(make_amhp, amhp, tmp_path, monkeypatch):
    net = make_amhp(variant='image')
    weights = save_checkpoint(tmp_path / 'amhp.pth', net.state_dict())
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    code, out, err = amhp('export', '--onnx', tmp_path / 'a.onnx', '--weights', weights)
    assert (code, err) == (0, '')
    assert f'written: {tmp_path / "a.onnx"}' in out
    assert "not checked: onnxruntime is missing (pip install 'pyiqa-amhp[onnx]')" in out
    monkeypatch.undo()
    image = torch.rand(2, 3, 32, 32)
    score, _ = by_onnxruntime(tmp_path / 'a.onnx')(image=image)
    with torch.inference_mode():
        expected, _ = net.predict(net.preprocess.normalize(image), ['', ''])
    torch.testing.assert_close(torch.from_numpy(score), expected, atol=1e-4, rtol=0)


def test_the_command_prints_the_score_difference_to_torch(make_amhp, amhp, tmp_path):
    weights = save_checkpoint(tmp_path / 'w.pth', make_amhp(variant='image+levels').state_dict())
    code, out, _ = amhp('export', '--onnx', tmp_path / 'a.onnx', '--weights', weights)
    assert code == 0
    assert 'largest score difference to torch:' in out and '(at most 0.001)' in out


def test_another_metric_is_refused_by_the_command(amhp, tmp_path):
    code, _, err = amhp('export', '--onnx', tmp_path / 'a.onnx', '--metric', 'psnr')
    assert code == 1
    assert 'psnr' in err
