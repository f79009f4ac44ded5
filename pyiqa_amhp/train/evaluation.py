"""What training and testing have in common: batches in, predictions and metrics out."""

import json
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pyiqa.metrics import calculate_metric
from pyiqa.models.general_iqa_model import GeneralIQAModel
from pyiqa.utils import get_root_logger
from pyiqa.utils.dist_util import master_only
from tqdm import tqdm

from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.model.config import PROMPT_SOURCES
from pyiqa_amhp.train.distributed import all_gather
from pyiqa_amhp.train.frozen import FrozenEncoders
from pyiqa_amhp.train.record import Record
from pyiqa_amhp.train.sampler import Shard
from pyiqa_amhp.utils.files import write_atomically


class EvalModel(GeneralIQAModel):
    """Predicts rated images, and measures how well.

    Several processes share a data set: each predicts its part, and all know the whole.
    """

    def __init__(self, opt):
        self.unreadable: dict[str, str] = {}
        self.best_metric_results = {}  # pyiqa's trainer returns it even without validation
        self.frozen: FrozenEncoders | None = None
        self._said_pixels = False
        self.record = Record(opt)
        super().__init__(opt)

    @master_only
    def print_network(self, net):
        """The kind and size of the network; its layers are listed in open_clip's model files."""
        count = sum(parameter.numel() for parameter in net.parameters())
        get_root_logger().info(f'Network {type(net).__name__} with {count:,} parameters')

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
                'The image encoder is frozen, but a data set gives pixels: they go through the '
                'encoder in each epoch. Set the same `freeze` in the data sets to keep the '
                'features on disk'
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
        self.index = data['index'][keep].tolist() if 'index' in data else [0] * len(keep)
        labels = data.get('attr_levels') or {}
        self.attr_levels = {name: numbers[keep] for name, numbers in labels.items()}
        self.features = {} if Fx is None else {'Fx': Fx[keep]}
        if self._freezes('text') and self.frozen.net.config.uses_attributes:
            self.features['Ft'] = self.frozen.text_features(self.text)

    def _freezes(self, encoder: str) -> bool:
        return self.frozen is not None and encoder in self.frozen.encoders

    def _image_features(self, data) -> tuple[torch.Tensor, list[str]]:
        """Features ``(N, n)`` of a batch without pixels, and what is wrong with each image."""
        if not self._freezes('image'):
            raise AMHPError(
                'a data set gives no pixels (its option `freeze`), but the image encoder is not '
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

    def test(self, prompt_source: str | None = None):
        """Predict the batch that was fed.

        Args:
            prompt_source: where attribute prompts come from; None: as the network is configured.
        """
        training = self.net.training
        net = self.eval_net()
        net.eval()
        with torch.no_grad():
            options = {} if prompt_source is None else {'prompt_source': prompt_source}
            self.output_score, self.output_dist = self.net_forward(net, **options)
        self.net.train(training)

    def eval_net(self):
        """What is measured."""
        return self.net

    def validation(self, dataloader, current_iter, tb_logger, save_img=False):
        """As pyiqa; a data set whose parts the processes share is measured by all of them."""
        if isinstance(dataloader.dataset, Shard) or not self.opt['dist']:
            self.nondist_validation(dataloader, current_iter, tb_logger, save_img)
        else:
            self.dist_validation(dataloader, current_iter, tb_logger, save_img)

    def nondist_validation(self, dataloader, current_iter, tb_logger, save_img):
        """Predict a data set, calculate the metrics, keep the best checkpoint."""
        name = dataloader.dataset.opt['name']
        metrics = self.opt['val'].get('metrics') or {}
        if metrics:
            self._initialize_best_metric_results(name)
        sources = () if self.is_train else self._prompt_sources()
        table, *by_source = self._predict(dataloader, [None, *sources])
        self.metric_results = self._measure(name, table)
        measured = [self._measure(name, table) for table in by_source]
        found = dict(zip(sources, measured, strict=True))
        self._note_measured(dataloader.dataset, len(table), found)
        if metrics:
            better = self._record_best(name, current_iter)
            if better and self.is_train:
                self.copy_model(self.eval_net(), self.net_best)
                self.save_network(self.net_best, 'net_best')
            self._log_validation_metric_values(current_iter, name, tb_logger)
        if not self.is_train:
            self._say_by_text_source(name, found)
            self.write_results(name, table, found)

    @master_only
    def _note_measured(self, dataset, images: int, found: dict[str, dict[str, float]]) -> None:
        state = self.get_bare_model(self.eval_net()).state_dict()
        self.record.measured(dataset, state, images, self.metric_results, found)

    def _measure(self, name: str, table: pd.DataFrame) -> dict[str, float]:
        """The option file's metrics of predictions."""
        metrics = self.opt['val'].get('metrics') or {}
        if metrics and len(table) < 2:
            raise AMHPError(f'{name}: one image; correlations need two or more')
        mos, dist, gt_mos, gt_dist = (
            np.array(table[key].tolist()) for key in ('score', 'dist', 'MOS', 'rated_dist')
        )
        return {
            metric: float(
                calculate_metric(
                    [dist, gt_dist] if options['type'] == 'calculate_emd' else [mos, gt_mos],
                    options,
                )
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

        The image encoder sees each image once.
        """
        name, net = dataloader.dataset.opt['name'], self.get_bare_model(self.eval_net())
        rows: list[list] = [[] for _ in sources]
        bar = tqdm(dataloader, desc=name, unit='batch', disable=not self.opt['val'].get('pbar'))
        for batch in bar:
            self.feed_data(batch)
            if not self.text:
                continue
            if len(sources) > 1:
                self._keep_image_features(net)
            for source, of_source in zip(sources, rows, strict=True):
                self.test(source)
                of_source += self._rows()
        if isinstance(dataloader.dataset, Shard):
            rows = self._of_all_processes(rows)
        if not rows[0]:
            raise AMHPError(f'{name}: none of its images could be read; check dataroot_target')
        columns = ['index', 'img_path', 'text', 'score', 'MOS', 'dist', 'rated_dist']
        tables = [pd.DataFrame(of_source, columns=columns) for of_source in rows]
        return [table.drop(columns='index') for table in tables]

    def _of_all_processes(self, rows: list[list]) -> list[list]:
        """Every process's rows, in the order of the data set."""
        parts = all_gather((rows, self.unreadable))
        for _, unreadable in parts:
            self.unreadable |= unreadable
        by_source = zip(*(part for part, _ in parts), strict=True)
        return [sorted(chain(*of_source), key=lambda row: row[0]) for of_source in by_source]

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
        return list(zip(self.index, self.img_path, self.text, *numbers, strict=True))

    @master_only
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


def _short(values: list[float]) -> list[float]:
    return [round(value, 4) for value in values]
