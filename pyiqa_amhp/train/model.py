"""The model class that pyiqa's trainer and tester drive (``model_type: AMHPModel``)."""

import json
import logging
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pyiqa.metrics import calculate_metric
from pyiqa.models.general_iqa_model import GeneralIQAModel
from pyiqa.utils import get_root_logger
from pyiqa.utils.dist_util import master_only
from tqdm import tqdm

from pyiqa_amhp.atomic import write_atomically
from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.freeze import frozen_towers
from pyiqa_amhp.model.config import PROMPT_SOURCES
from pyiqa_amhp.model.weights import save_checkpoint
from pyiqa_amhp.train.frozen import FrozenTowers
from pyiqa_amhp.train.predictor import PredictorTraining

WEIGHT_DECAY = 1e-3  # paper, section 4.2.1


class AMHPModel(GeneralIQAModel):
    """Trains and tests an arch that takes texts and gives level distributions.

    Differs from pyiqa's ``GeneralIQAModel`` in these: images go with their texts; the loss
    compares distributions; weight decay holds for every parameter group; samples that could
    not be read are left out and counted; the best checkpoint carries its configuration;
    testing works without a training section; and towers can be frozen.

    Options of the section ``train``, beside pyiqa's:

        freeze: ``image``, ``text``, ``both`` or ``none`` (default; paper: everything is trained).
            The features of a frozen tower are made once and kept on disk. For images that takes
            the same option in the data sets, which then give no pixels.
        feature_cache: the folder for them; default: in the user's cache.
        predictor_weight, text_dropout: see ``predictor.py``.

    In testing, a network with a predictor is measured with given texts, with predicted ones and
    without any, side by side.

    Raises:
        AMHPError: options that cannot be, or that do not fit each other or the data.
    """

    def __init__(self, opt):
        self.unreadable: dict[str, str] = {}
        self.steps = 0
        self.best_metric_results = {}  # pyiqa's trainer returns it even without validation
        self.frozen: FrozenTowers | None = None
        self.predictor: PredictorTraining | None = None
        self._said_pixels = False
        super().__init__(opt)

    def model_to_device(self, net):
        """As pyiqa; towers are frozen before distributed training looks for what is trained."""
        train = self.opt['train'] if self.is_train else {}
        if towers := frozen_towers(train.get('freeze')):
            self.frozen = FrozenTowers(net, towers, train.get('feature_cache'))
        if self.is_train and getattr(net, 'predictor', None) is not None:
            self.predictor = PredictorTraining(net, train)
        return super().model_to_device(net)

    @master_only
    def print_network(self, net):
        """The kind and size of the network; its layers are listed in open_clip's model files."""
        count = sum(parameter.numel() for parameter in net.parameters())
        get_root_logger().info(f'Network {type(net).__name__} with {count:,} parameters')

    def setup_optimizers(self):
        """As pyiqa, but groups from ``lr_<part>`` keys get the weight decay too."""
        optim = self.opt['train']['optim']
        optim.setdefault('weight_decay', WEIGHT_DECAY)
        for key in [key for key in optim if key.startswith('lr_')]:
            optim.setdefault(f'weight_decay_{key.removeprefix("lr_")}', optim['weight_decay'])
        with _one_line_for_what_is_frozen(self.net):
            super().setup_optimizers()
        groups = self.optimizer.param_groups
        groups[:] = [group for group in groups if group['params']]  # pyiqa keeps some empty ones

    def feed_data(self, data):
        """Take a batch of ``AMHPDataset``, without the samples that could not be read.

        Raises:
            AMHPError: the levels of the data are not those of the network.
        """
        self._check_levels(data)
        Fx, errors = None, data.get('read_error') or [''] * len(data['img_path'])
        if 'img' not in data:
            Fx, errors = self._image_features(data)
        elif self._freezes('image') and not self._said_pixels:
            self._said_pixels = True
            get_root_logger().warning(
                'The image tower is frozen, but a data set gives pixels: they go through the tower '
                'in each epoch. Set the same `freeze` in the data sets to keep the features on disk'
            )
        keep = [i for i, error in enumerate(errors) if not error]
        for path, error in zip(data['img_path'], errors, strict=True):
            if error and path not in self.unreadable:
                self.unreadable[path] = error
                get_root_logger().warning(
                    f'Left out an unreadable image ({len(self.unreadable)} so far): {error}'
                )
        self.img_input = data['img'][keep].to(self.device) if 'img' in data else None
        self.gt_mos = data['mos_label'][keep].to(self.device)
        self.gt_mos_dist = data['mos_dist'][keep].to(self.device)
        texts = data.get('text') or [''] * len(errors)
        self.text = [texts[i] for i in keep]
        self.img_path = [data['img_path'][i] for i in keep]
        labels = data.get('attr_levels') or {}
        self.attr_levels = {name: numbers[keep] for name, numbers in labels.items()}
        self.features = {} if Fx is None else {'Fx': Fx[keep]}
        if self._freezes('text') and self.frozen.net.config.uses_attributes:
            self.features['Ft'] = self.frozen.text_features(self.text)

    def _freezes(self, tower: str) -> bool:
        return self.frozen is not None and tower in self.frozen.towers

    def _image_features(self, data) -> tuple[torch.Tensor, list[str]]:
        """Features ``(N, n)`` of a batch without pixels, and what is wrong with each image."""
        if not self._freezes('image'):
            raise AMHPError(
                'a data set gives no pixels (its option `freeze`), but the image tower is not '
                'frozen; set the same in `train: freeze`, or take it out of the data set'
            )
        Fx, errors = self.frozen.image_features(data['img_path'])
        for error, skip in zip(errors, data['skip_bad_images'], strict=True):
            if error and not skip:
                raise ImageReadError(error)
        return Fx, errors

    def _check_levels(self, data):
        """Scores on one scale and ratings on another would train and be quite wrong."""
        given = data['level_values'][0].tolist()
        expected = self.get_bare_model(self.net).level_values.tolist()
        if given != expected:
            raise AMHPError(
                f'the ratings are on level_values {_short(given)} and the network on '
                f'{_short(expected)}; give both the same `level_values` (or the same `dataset`)'
            )

    def net_forward(self, net, **options):
        """Scores ``(N, 1)`` and level distributions ``(N, k)``, and what options add."""
        options = {'return_mos': True, 'return_dist': True, **self.features, **options}
        return net(self.img_input, text=self.text, **options)

    def optimize_parameters(self, current_iter):
        """One step on the batch that was fed."""
        self.log_dict = OrderedDict()
        if not self.text:  # every image of the batch was unreadable
            return
        self.optimizer.zero_grad()
        losses, options = OrderedDict(), {}
        if self.predictor is not None:
            options = {'predicted': self.predictor.drop_texts(self.text), 'return_prompt': True}
        self.output_score, self.output_dist, *prompt = self.net_forward(self.net, **options)
        if self.cri_mos:
            losses['l_mos'] = self.cri_mos(self.output_dist, self.gt_mos_dist)
        if self.cri_metric:
            losses['l_metric'] = self.cri_metric(self.output_score, self.gt_mos)
        if prompt:
            losses['l_predictor'] = self.predictor.loss(prompt[0], self.attr_levels)
        if not losses:
            raise AMHPError('train: no loss; give mos_loss_opt: {type: AMHPEMDLoss}')
        sum(losses.values()).backward()
        self.optimizer.step()
        self.steps += 1
        self.log_dict = self.reduce_loss_dict(losses)

    def resume_training(self, resume_state):
        """As pyiqa; the steps made before count too."""
        super().resume_training(resume_state)
        self.steps = resume_state['iter']

    def update_learning_rate(self, current_iter, warmup_iter=-1):
        """pyiqa calls this at the end of each epoch.

        Raises:
            AMHPError: nothing was trained in the first epoch.
        """
        if not self.steps:
            raise AMHPError(
                f'train: not one step was made. {len(self.unreadable)} images could not be read; '
                'pyiqa drops the last batch if it is smaller than batch_size_per_gpu, so there '
                'must be at least that many images'
            )
        super().update_learning_rate(current_iter, warmup_iter)

    def test(self):
        """Predict the batch that was fed."""
        training = self.net.training
        self.net.eval()
        with torch.no_grad():
            self.output_score, self.output_dist = self.net_forward(self.net)
        self.net.train(training)

    def nondist_validation(self, dataloader, current_iter, tb_logger, save_img):
        """Predict a data set, calculate the metrics, keep the best checkpoint."""
        name = dataloader.dataset.opt['name']
        metrics = self.opt['val'].get('metrics') or {}
        if metrics:
            self._initialize_best_metric_results(name)
        sources = () if self.is_train else self._prompt_sources()
        table, *by_source = self._predict(dataloader, [None, *sources])
        self.metric_results = self._measure(name, table)
        if metrics:
            better = self._record_best(name, current_iter)
            if better and self.is_train:
                self.copy_model(self.net, self.net_best)
                self.save_network(self.net_best, 'net_best')
            self._log_validation_metric_values(current_iter, name, tb_logger)
        if not self.is_train:
            measured = [self._measure(name, table) for table in by_source]
            found = dict(zip(sources, measured, strict=True))
            self._say_by_text_source(name, found)
            self.write_results(name, table, found)

    def _measure(self, name: str, table: pd.DataFrame) -> dict[str, float]:
        """The option file's metrics of predictions."""
        metrics = self.opt['val'].get('metrics') or {}
        if metrics and len(table) < 2:
            raise AMHPError(f'{name}: one image; correlations need two or more')
        mos, dist, gt_mos, gt_dist = (
            np.array(table[key].tolist()) for key in ('score', 'dist', 'MOS', 'rated_dist')
        )
        return {
            metric: calculate_metric(
                [dist, gt_dist] if options['type'] == 'calculate_emd' else [mos, gt_mos], options
            )
            for metric, options in metrics.items()
        }

    def _prompt_sources(self) -> tuple[str, ...]:
        """The kinds of first-level prompts to measure beside the usual one."""
        predicts = getattr(self.get_bare_model(self.net), 'predictor', None) is not None
        return PROMPT_SOURCES if predicts else ()

    def _say_by_text_source(self, name: str, found: dict[str, dict[str, float]]) -> None:
        rows = [
            f'  {source:10}' + ''.join(f' {key} {value:7.4f}' for key, value in values.items())
            for source, values in found.items()
        ]
        if rows:
            get_root_logger().info('\n'.join([f'{name}, by the text that was used:', *rows]))

    def predict(self, dataloader) -> pd.DataFrame:
        """One row for each image that could be read.

        Returns:
            Columns ``img_path, text, score, MOS`` (numbers) and ``dist, rated_dist`` (lists over
            the levels).

        Raises:
            AMHPError: no image of the data set could be read.
        """
        return self._predict(dataloader, [None])[0]

    def _predict(self, dataloader, sources: list[str | None]) -> list[pd.DataFrame]:
        """A table as of ``predict`` for each source of first-level prompts; None: the usual one.

        The image tower sees each image once.
        """
        name, net = dataloader.dataset.opt['name'], self.get_bare_model(self.net)
        rows: list[list] = [[] for _ in sources]
        bar = tqdm(dataloader, desc=name, unit='batch', disable=not self.opt['val'].get('pbar'))
        for batch in bar:
            self.feed_data(batch)
            if not self.text:
                continue
            if len(sources) > 1:
                self._keep_image_features(net)
            for source, of_source in zip(sources, rows, strict=True):
                with _prompts_from(net, source):
                    self.test()
                of_source += self._rows()
        if not rows[0]:
            raise AMHPError(f'{name}: none of its images could be read; check dataroot_target')
        columns = ['img_path', 'text', 'score', 'MOS', 'dist', 'rated_dist']
        return [pd.DataFrame(of_source, columns=columns) for of_source in rows]

    def _keep_image_features(self, net) -> None:
        """Let the passes over a batch share its image features, in evaluation."""
        if 'Fx' not in self.features:
            training = net.training
            net.eval()
            with torch.no_grad():
                self.features['Fx'] = net.backbone.encode_image(net.preprocess(self.img_input))
            net.train(training)

    def _rows(self) -> list[tuple]:
        """The batch that was tested, as rows of ``predict``."""
        columns = (
            self.output_score[:, 0],
            self.gt_mos[:, 0],
            self.output_dist,
            self.gt_mos_dist,
        )
        numbers = (column.float().cpu().tolist() for column in columns)
        return list(zip(self.img_path, self.text, *numbers, strict=True))

    def write_results(
        self, name: str, table: pd.DataFrame, by_text_source: dict[str, dict[str, float]]
    ) -> None:
        """In testing: ``<name>.csv`` with all predictions and ``<name>.json`` with the metrics."""
        folder = Path(self.opt['path']['results_root'])
        write_atomically(folder / f'{name}.csv', lambda file: table.to_csv(file, index=False))
        results = {'images': len(table), **self.metric_results}
        if by_text_source:
            results['text_source'] = by_text_source
        metrics = json.dumps(results, indent=2)
        write_atomically(folder / f'{name}.json', lambda file: file.write_text(metrics + '\n'))

    def _record_best(self, dataset_name, current_iter) -> bool:
        """Note the best values so far; whether this model is the one to keep.

        With ``key_metric`` that metric decides and the others are noted with it, else any
        metric that gets better does, as in pyiqa.
        """
        if self.key_metric is None:
            updates = [
                self._update_best_metric_result(dataset_name, metric, value, current_iter)
                for metric, value in self.metric_results.items()
            ]
            return any(updates)
        if self.key_metric not in self.metric_results:
            known = ', '.join(self.metric_results)
            raise AMHPError(f'val: key_metric={self.key_metric!r} is not one of {known}')
        value = self.metric_results[self.key_metric]
        better = self._update_best_metric_result(dataset_name, self.key_metric, value, current_iter)
        if better:
            for metric, value in self.metric_results.items():
                self._update_metric_result(dataset_name, metric, value, current_iter)
        return better

    @master_only
    def save_network(self, net, net_label, current_iter=None, param_key='params'):
        """Write a checkpoint under pyiqa's name for it, atomically."""
        label = {None: '', -1: '_latest'}.get(current_iter, f'_{current_iter}')
        path = Path(self.opt['path']['models'], f'{net_label}{label}.pth')
        save_checkpoint(path, self.get_bare_model(net).state_dict())


@contextmanager
def _prompts_from(net, source: str | None):
    """First-level prompts from ``source`` only; None: from where the model has them from."""
    if source is None:
        yield
        return
    usual, net.text_source = net.text_source, source
    try:
        yield
    finally:
        net.text_source = usual


@contextmanager
def _one_line_for_what_is_frozen(net):
    """pyiqa warns of each parameter that is not trained, some 300 for CLIP's towers."""
    frozen = sum(p.numel() for p in net.parameters() if not p.requires_grad)
    logger = get_root_logger()
    if frozen:
        logger.info(f'{frozen:,} parameters are frozen')
    logger.addFilter(_is_no_frozen_parameter)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_frozen_parameter)


def _is_no_frozen_parameter(record: logging.LogRecord) -> bool:
    return not record.getMessage().endswith('will not be optimized.')


def _short(values: list[float]) -> list[float]:
    return [round(value, 4) for value in values]
