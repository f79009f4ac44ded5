"""``TrainingView``: a bar for each epoch, and a table of validations with the best one marked."""

import io
import logging
import math

from train_helpers import read_log, write_options

from pyiqa_amhp.train.loop import TrainProgress
from pyiqa_amhp.train.pipeline import run_train
from pyiqa_amhp.train.view import TrainingView

ENDS = ('mse', '2.2500', '3.0000')  # of the rows of numbers


def test_the_table_marks_the_best_validation_and_missing_values():
    file = io.StringIO()
    view = TrainingView(file)
    rows = []
    view.write = rows.append
    for iteration, (metrics, best) in enumerate(
        [({}, False), ({'srcc': 0.5, 'mse': 2.25}, True), ({'srcc': math.nan, 'mse': 3}, False)], 1
    ):
        losses = {'l_mos': 0.25} if iteration == 3 else {}
        view(
            TrainProgress(iteration, 3, 1, 1, iteration == 3, losses, metrics, best, iteration > 1)
        )
    assert [row.split() for row in rows] == [
        ['epoch', 'step', 'loss', 'srcc', 'mse'],
        ['1', '2', '-', '0.5000', '2.2500', 'best', 'so', 'far'],
        ['1', '3', '0.2500', '-', '3.0000'],
    ]
    ends = [row.index(word) + len(word) for row, word in zip(rows, ENDS, strict=True)]
    assert len(set(ends)) == 1  # aligned
    assert 'epoch 1 of 1' in file.getvalue() and view.bar is None


def test_a_training_shows_bars_and_rows_and_logs_the_rest(
    training_options, shared_rated_images, tmp_path, capfd
):
    opt = training_options(shared_rated_images)
    opt['train'].update(total_epoch=2)
    opt['val'].update(val_freq=1000)  # above an epoch: once each
    opt['logger'].update(use_tb_logger=False)
    file = io.StringIO()
    view = TrainingView(file)
    run_train(write_options(tmp_path / 'a.yml', opt), [], tmp_path, view)
    text = file.getvalue().replace('\r', '\n')
    assert 'epoch 1 of 2' in text and 'epoch 2 of 2' in text
    rows = [
        line.split() for line in text.splitlines() if line.split()[:2] in (['1', '3'], ['2', '6'])
    ]
    assert len(rows) == 2 and rows[0][-3:] == ['best', 'so', 'far']
    assert 'INFO' not in capfd.readouterr().err
    assert 'l_mos' in read_log(tmp_path) and 'Validation custom_val' in read_log(tmp_path)
    assert logging.getLogger('pyiqa').level == logging.INFO
