"""Misspelt names and values that are not allowed, anywhere in an option file: one sentence each."""

import copy
import sys
from pathlib import Path

import pytest
import yaml
from train_helpers import write_options

from pyiqa_amhp.datasets.dataset import AMHPDataset, known_options
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.train.option_check import check_gpu, check_options
from pyiqa_amhp.train.options import read_options
from pyiqa_amhp.train.pipeline import run_test, run_train
from pyiqa_amhp.utils.options import names_read

SHIPPED = sorted((Path(__file__).parents[1] / 'options').glob('*.yml'))
CUSTOM = next(file for file in SHIPPED if file.stem == 'train_amhp_custom')


@pytest.fixture(scope='module')
def shipped():
    return read_options(CUSTOM, 'train')


def changed(shipped, place, value):
    """Copy the shipped options, with a value at a place such as ``train:optim:lr``."""
    opt = copy.deepcopy(shipped)
    *sections, name = place.split(':')
    section = opt
    for key in sections:
        section = section[key]
    section[name] = value
    return opt


@pytest.mark.parametrize('file', SHIPPED, ids=lambda file: file.stem)
def test_the_shipped_files_pass(file):
    is_train = file.stem.startswith('train')
    check_options(read_options(file, 'train' if is_train else 'test'), is_train)


@pytest.mark.parametrize(
    ('place', 'value'),
    # All names that pyiqa's own example files have beside those of the shipped ones.
    [('path:pretrain_network_g', None), ('path:strict_load_g', False), ('define', {'a': 1}),
     ('train:scheduler_finetune', {'type': 'x'}), ('train:optim_finetune', {'type': 'x'}),
     ('train:finetune_start_iter', 3), ('train:regress_opt', {'type': 'x'}),
     ('train:use_ref', True), ('logger:log_imgs_freq', 500),
     ('datasets:train:num_prefetch_queue', 1),
     ('datasets:train:mos_range', [1, 2]), ('datasets:train:img_range', 1),
     ('datasets:train:io_backend', {'type': 'disk'}), ('datasets:train:dataroot_ref', 'x'),
     ('datasets:val:split_file', 'x'), ('find_unused_parameters', True), ('split_num', 10),
     ('save_final_results_path', 'x'), ('val:suffix', None), ('my_own_anchor', 'x'),
     ('train:optim:lr_fc', 1e-3), ('train:optim:weight_decay_fc', 0),
     ('train:optim:betas', [0, 0])],
)  # fmt: skip
def test_names_of_pyiqa_pass(shipped, place, value):
    check_options(changed(shipped, place, value), is_train=True)


@pytest.mark.parametrize(
    ('place', 'nearest'),
    [('trian', 'train'), ('manual_sed', 'manual_seed'),
     ('datasets:train:spilt_index', 'split_index'),
     ('datasets:val:batch_size_per_gpus', 'batch_size_per_gpu'), ('network:bakbone', 'backbone'),
     ('path:pretrain_netwrk', 'pretrain_network'), ('train:totl_epoch', 'total_epoch'),
     ('train:clip_gradnorm', 'clip_grad_norm'), ('train:optim:lrr', 'lr'),
     ('train:optim:wieght_decay', 'weight_decay'), ('train:scheduler:Tmax', 'T_max'),
     ('train:mos_loss_opt:redution', 'reduction'), ('val:key_metrc', 'key_metric'),
     ('val:metrics:acc:treshold', 'threshold'), ('logger:print_frq', 'print_freq'),
     ('logger:keep_lst', 'keep_last')],
)  # fmt: skip
def test_a_misspelt_name_is_an_error_with_the_nearest_one(shipped, place, nearest):
    name = place.split(':')[-1]
    with pytest.raises(AMHPError, match=f"'{name}'; did you mean '{nearest}'"):
        check_options(changed(shipped, place, 1), is_train=True)


def test_a_name_like_no_other_is_an_error_too(shipped):
    with pytest.raises(AMHPError, match="datasets: train: there is no option 'typo_option'"):
        check_options(changed(shipped, 'datasets:train:typo_option', 1), is_train=True)


@pytest.mark.parametrize(
    ('place', 'value', 'expected'),
    [
        *(('train:total_epoch', v, 'expected a whole number from 1') for v in
          (-1, 0.5, 0, 'five', True, float('inf'), float('nan'), [1])),
        ('train:total_iter', 0, 'expected a whole number from 1'),
        ('train:total_epoch', None, 'neither total_epoch nor total_iter'),
        ('train:warmup_iter', '5', 'without quotes'),
        *(('name', v, 'expected the name of one folder') for v in
          ('a/b', 'a\\b', '..', '.', '/a', 'a/')),
        *(('name', v, 'put it in quotes') for v in (20240101, 1.5, None, '', ' ')),
        *(('datasets:train:batch_size_per_gpu', v, 'expected a whole number from 1') for v in
          (0, -1, 1.5, 'x')),
        ('datasets:train:batch_size_per_gpu', None, 'batch_size_per_gpu is missing'),
        ('datasets:val:batch_size_per_gpu', 0, 'expected a whole number from 1'),
        ('datasets:train:num_worker_per_gpu', -1, 'expected a whole number from 0'),
        ('datasets:train:dataset_enlarge_ratio', 0, 'expected a number above 0'),
        ('datasets:train', 3, 'expected a section'),
        ('datasets:train:name', None, 'name=None: expected text'),
        ('datasets:train:type', 'AMHPData', 'Did you mean one of: AMHPDataset'),
        ('train:optim:lr', '1e-5', r'it is read as text: write 1\.0e-05, without quotes'),
        ('train:optim:lr', -1, 'expected a number from 0'),
        ('train:optim:lr', None, 'lr is missing'),
        ('train:optim:lr_fc', 'x', 'lr_fc=.*expected a number from 0'),
        ('train:optim:type', 'AdmW', "'AdmW' is not known; did you mean 'AdamW'"),
        ('train:optim', None, 'type=None is not known'),
        ('train:scheduler:type', 'CosineAnealingLR', "did you mean 'CosineAnnealingLR'"),
        ('train:mos_loss_opt:type', 'AMHPEMDLos', 'Did you mean one of: AMHPEMDLoss'),
        ('train:mos_loss_opt', 'AMHPEMDLoss', 'expected a section'),
        ('val:metrics:acc', 'calculate_acc', 'expected a section with a type'),
        ('val:metrics:acc:type', 'calculate_ac', 'Did you mean one of: calculate_acc'),
        ('val:val_freq', -3, 'expected a number of iterations from 1, or ~'),
        ('logger:print_freq', 0, 'expected a number of iterations from 1, or ~'),
        ('logger:keep_last', 0, 'expected a whole number from 1'),
        ('num_gpu', 'two', 'expected auto, or a whole number from 0'),
        ('num_gpu', -1, 'expected auto, or a whole number from 0'),
        ('manual_seed', 'a', 'expected a whole number from 0'),
        ('model_type', 'AMHP', 'Did you mean one of: AMHPModel'),
        ('datasets:train:skip_bad_images', 'False', 'expected true or false, without quotes'),
    ],
)  # fmt: skip
def test_a_value_that_is_not_allowed(shipped, place, value, expected):
    with pytest.raises(AMHPError, match=expected):
        check_options(changed(shipped, place, value), is_train=True)


def test_a_gpu_is_not_asked_for_where_there_is_none(monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    check_gpu('auto')
    check_gpu(0)
    with pytest.raises(AMHPError, match='num_gpu=2: torch finds no GPU here'):
        check_gpu(2)


def test_an_error_in_an_option_leaves_nothing_behind(shipped, tmp_path):
    (tmp_path / 'run').mkdir()
    for run, file in ((run_train, CUSTOM), (run_test, CUSTOM.with_stem('test_amhp_custom'))):
        with pytest.raises(AMHPError, match="no option 'typo'"):
            run(file, ['--force_yml', 'val:typo=1', 'num_gpu=0'], tmp_path / 'run')
    assert not list((tmp_path / 'run').iterdir())


# --force_yml


def forced(tmp_path, *entries):
    return read_options(CUSTOM, 'train', entries)


@pytest.mark.parametrize(
    ('entry', 'value'),
    [('train:optim:lr=1e-5', 1e-5), ('train:optim:lr=-2.5E+3', -2500.0), ('train:optim:lr=.5e1', 5),
     ('train:warmup_iter=-1', -1), ('train:total_epoch= 7 ', 7), ('train:freeze=none', 'none'),
     ('train:freeze=~', None), ('train:freeze=None', None), ('train:freeze=', None),
     ('val:pbar=false', False), ('datasets:train:level_values=[1, 2.5, 4e0]', [1, 2.5, 4.0]),
     ('path:resume_state=a=b.state', 'a=b.state'), ('path:resume_state=C:\\x', 'C:\\x'),
     ('name=20240101', '20240101'), ('name=1.10', '1.10'), ('logger:wandb:project=x', 'x'),
     ('train:metric_loss_opt:type=PLCCLoss', 'PLCCLoss'),
     ('network:template="{level}"', '{level}')],
)  # fmt: skip
def test_a_value_is_read_as_in_the_file(tmp_path, entry, value):
    opt = forced(tmp_path, entry)
    for key in entry.partition('=')[0].split(':'):
        opt = opt[key]
    assert (opt == value and type(opt) is type(value)) or isinstance(value, int)


@pytest.mark.parametrize(
    ('entry', 'expected'),
    [('train', 'expected SECTION:NAME=VALUE'), ('=1', 'expected SECTION:NAME=VALUE'),
     ('train:=1', 'expected SECTION:NAME=VALUE'), (':lr=1', 'expected SECTION:NAME=VALUE'),
     ('trian:total_epoch=1', "no section 'trian'; did you mean 'train'"),
     ('datasets:tarin:name=x', "no section 'tarin'; did you mean 'train'"),
     ('train:total_epoch:x=1', "no section 'total_epoch'"),
     ('protocol=reference', "no option 'protocol' is read at the top"),
     ('nme=x', "'nme' is read at the top of the file; did you mean 'name'"),
     ('train:freeze=[1', 'not a YAML value'),
     ('train:freeze=!!python/name:os.system', 'not a YAML')],
)  # fmt: skip
def test_an_entry_that_sets_nothing(tmp_path, entry, expected):
    with pytest.raises(AMHPError, match=expected) as caught:
        forced(tmp_path, entry)
    assert str(caught.value).startswith(f'--force_yml {entry}: ')


def test_set_takes_points_in_place_of_colons():
    entries = ['train.optim.lr=1e-5', 'val.key_metric=mse', 'path.resume_state=a.state']
    opt = read_options(CUSTOM, 'train', ['train:total_epoch=7'], entries)
    assert opt['train']['optim']['lr'] == 1e-5 and opt['train']['total_epoch'] == 7
    assert (opt['val']['key_metric'], opt['path']['resume_state']) == ('mse', 'a.state')
    with pytest.raises(
        AMHPError, match=r"^--set trian\.lr=1: there is no section 'trian'; did you"
    ):
        read_options(CUSTOM, 'train', changed=['trian.lr=1'])
    with pytest.raises(AMHPError, match=r'expected SECTION\.NAME=VALUE, as in train\.optim\.lr'):
        read_options(CUSTOM, 'train', changed=['train:optim:lr'])


def test_numbers_without_a_point_are_numbers_in_a_file_too(tmp_path):
    path = tmp_path / 'options.yml'
    path.write_text(CUSTOM.read_text().replace('!!float 2e-6', '2e-6').replace('&protocol', '&p'))
    with pytest.raises(AMHPError, match='not a plain YAML'):  # an alias without its anchor
        read_options(path, 'train')
    path.write_text(CUSTOM.read_text().replace('!!float 2e-6', '2e-6'))
    assert read_options(path, 'train')['train']['optim']['lr'] == 2e-6
    path.write_text(CUSTOM.read_text().replace('name: train_amhp_custom', "name: '1e5'"))
    assert read_options(path, 'train')['name'] == '1e5'


def test_the_options_of_a_model_are_checked_under_pyiqas_own_command_too(build):
    with pytest.raises(AMHPError, match="train: there is no option 'acumulate'"):
        build(train={'acumulate': 2})
    with pytest.raises(AMHPError, match=r"lr='1e-5': .* write 1\.0e-05"):
        build(optim={'lr': '1e-5'})


def test_a_learning_rate_of_a_misspelt_part_is_an_error(build, pyiqa_log):
    with pytest.raises(AMHPError, match="'bakbone' in it; did you mean 'backbone'"):
        build(optim={'lr_bakbone': 1e-3})
    build(optim={'lr_predictor': 1e-3})  # of a variant with a predictor
    assert "lr_predictor: no parameter of the network has 'predictor' in it" in pyiqa_log.text


def test_names_are_found_in_the_code_that_reads_them(tmp_path, monkeypatch):
    source = (
        "def f(opt, table):\n    a = opt['one'], opt.get('two'), 'three' in opt, g(opt, 'four')\n"
    )
    (tmp_path / 'reads_options.py').write_text(
        source + "    return table['column'], opt['s']['t']\n"
    )
    monkeypatch.setattr(sys, 'path', [str(tmp_path), *sys.path])
    assert names_read('reads_options') == {'one', 'two', 'three', 'four', 's', 't'}
    assert names_read('no_such_module') == names_read('__main__') == frozenset()


def test_a_class_of_the_users_may_have_options_of_its_own(tmp_path, monkeypatch):
    source = (
        'from pyiqa_amhp.datasets.dataset import AMHPDataset\n\n\n'
        'class Mine(AMHPDataset):\n'
        "    def get_split(self, opt):\n        self.tone = opt.get('tone')\n"
        '        super().get_split(opt)\n'
    )
    (tmp_path / 'my_images.py').write_text(source)
    monkeypatch.setattr(sys, 'path', [str(tmp_path), *sys.path])
    from my_images import Mine

    assert 'tone' in known_options(Mine) and 'split_index' in known_options(Mine)
    assert 'tone' not in known_options(AMHPDataset)


def test_sections_that_are_written_twice_are_read(tmp_path, shipped):
    path = write_options(tmp_path / 'options.yml', shipped)
    assert yaml.safe_load(path.read_text()) == read_options(path, 'train')
