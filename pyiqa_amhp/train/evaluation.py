"""Evaluation of a network on rated images: predictions, metrics, the best checkpoint, results."""

import json
import math
from collections.abc import Sequence
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pyiqa.metrics import calculate_metric
from pyiqa.utils import get_root_logger
from pyiqa.utils.dist_util import master_only
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.amhp import AMHP
from pyiqa_amhp.model.config import PROMPT_SOURCES
from pyiqa_amhp.train.batch import BatchModel
from pyiqa_amhp.train.distributed import all_gather
from pyiqa_amhp.train.metrics import CORRELATIONS, no_correlation
from pyiqa_amhp.train.record import Record, finite
from pyiqa_amhp.train.sampler import Shard
from pyiqa_amhp.utils.files import write_atomically, write_text
from pyiqa_amhp.utils.text import writable

Results = dict[str, dict[str, float]]  # by the source of attribute prompts, and by metric


class EvalModel(BatchModel):
    """Predicts the scores of rated images, and computes metrics.

    If several processes share a data set, each predicts a shard of it, and all get all results.

    Attributes:
        record: the record of this training or test.
    """

    def __init__(self, opt: dict[str, Any]):
        # By data set and metric: {better, val, iter}. Also returned without a validation.
        self.best_metric_results: dict[str, dict[str, dict[str, Any]]] = {}
        self.record = Record(opt)
        super().__init__(opt)

    @master_only
    def print_network(self, net: nn.Module) -> None:
        """Log the type and size of the network, without pyiqa's listing of all layers."""
        count = sum(parameter.numel() for parameter in net.parameters())
        get_root_logger().info(f'Network {type(net).__name__} with {count:,} parameters')

    def net_forward(self, net: nn.Module, **options) -> list:
        """Run the network on the batch that was fed.

        Args:
            net: the network.
            **options: further arguments of its ``forward``.

        Returns:
            Scores ``(N, 1)``, level distributions ``(N, k)``, and what ``options`` ask for.
        """
        options = {'return_mos': True, 'return_dist': True, **self.features, **options}
        return net(self.img_input, text=self.text, **options)

    def test(self, prompt_source: str | None = None) -> None:
        """Predict the scores of the batch that was fed, in evaluation mode.

        Args:
            prompt_source: ``given``, ``predicted`` or ``none``; None: as the network's
                configuration says.
        """
        options = {} if prompt_source is None else {'prompt_source': prompt_source}
        training = self.net.training
        net = self.eval_net()
        net.eval()
        with torch.no_grad():
            self.output_score, self.output_dist = self.net_forward(net, **options)
        self.net.train(training)

    def eval_net(self) -> nn.Module:
        """Return the network to evaluate: itself, since its wrapper waits for other processes."""
        return self.get_bare_model(self.net)

    def validation(
        self, dataloader: DataLoader, current_iter: int, tb_logger, save_img: bool = False
    ) -> None:
        """Evaluate a data set: in all processes if they share it, otherwise as pyiqa."""
        if isinstance(dataloader.dataset, Shard) or not self.opt['dist']:
            self.nondist_validation(dataloader, current_iter, tb_logger, save_img)
        else:
            self.dist_validation(dataloader, current_iter, tb_logger, save_img)

    def nondist_validation(
        self, dataloader: DataLoader, current_iter: int, tb_logger, save_img: bool
    ) -> None:
        """Predict a data set, compute the metrics, save the best checkpoint or the results.

        Args:
            dataloader: the loader of an ``AMHPDataset`` or a ``Shard`` of one.
            current_iter: the number of the iteration.
            tb_logger: TensorBoard's writer, or None.
            save_img: pyiqa's argument; ignored.
        """
        dataset: Any = dataloader.dataset
        name = dataset.opt['name']
        metrics = self.opt['val'].get('metrics') or {}
        if self.is_train:
            self.check_validation(dataset)
        if metrics:
            self._initialize_best_metric_results(name)
        sources = () if self.is_train else self._prompt_sources()
        table, *tables_by_source = self._predict(dataloader, [None, *sources])
        self.metric_results = self._compute_metrics(name, table)
        by_source = {
            source: self._compute_metrics(name, table)
            for source, table in zip(sources, tables_by_source, strict=True)
        }
        self._record_results(dataset, len(table), by_source)
        if metrics:
            is_best = self._update_best(name, current_iter)
            if is_best and self.is_train:
                self.copy_model(self.eval_net(), self.net_best)
                self.save_network(self.net_best, 'net_best')
            self._log_validation_metric_values(current_iter, name, tb_logger)
        if not self.is_train:
            self._log_by_prompt_source(name, by_source)
            self.write_results(name, table, by_source)

    @master_only
    def _record_results(self, dataset, images: int, by_source: Results) -> None:
        state = self.get_bare_model(self.eval_net()).state_dict()
        self.record.add_results(dataset, state, images, self.metric_results, by_source)

    def check_validation(self, dataset) -> None:
        """Check that the best checkpoint can be chosen by a validation set.

        Args:
            dataset: an ``AMHPDataset`` or a ``Shard`` of one.

        Raises:
            AMHPError: the key metric is not computed, or it has no value for these ratings.
        """
        metrics = (self.opt.get('val') or {}).get('metrics') or {}
        key = (self.opt.get('val') or {}).get('key_metric')
        if metrics and key is not None and key not in metrics:
            raise AMHPError(f'val: key_metric={key!r} is not one of {", ".join(metrics)}')
        images = getattr(getattr(dataset, 'dataset', dataset), 'images', None)
        problem = '' if images is None else no_correlation(images.mos, images.mos)
        deciding = [key] if key is not None else list(metrics)
        if problem and metrics and all(metrics[m]['type'] in CORRELATIONS for m in deciding):
            others = [m for m in metrics if metrics[m].get('better') == 'lower']
            raise AMHPError(
                f'{dataset.opt["name"]}: {problem}, so that {", ".join(deciding)} has no value and '
                'no checkpoint would be the best; validate on other images, or set key_metric: '
                f'{others[0] if others else "mse (of type calculate_mse)"}'
            )

    def _compute_metrics(self, name: str, table: pd.DataFrame) -> dict[str, float]:
        """Compute the option file's metrics of the predictions for a data set.

        A correlation without a value is NaN, with a warning that says why.
        """
        metrics = self.opt['val'].get('metrics') or {}
        mos, dist, gt_mos, gt_dist = (
            np.array(table[key].tolist()) for key in ('score', 'dist', 'MOS', 'rated_dist')
        )
        problem = no_correlation(mos, gt_mos)
        undefined = [m for m in metrics if problem and metrics[m]['type'] in CORRELATIONS]
        if undefined:
            get_root_logger().warning(f'{name}: no value for {", ".join(undefined)}: {problem}')
        return {
            metric: math.nan
            if metric in undefined
            else float(
                calculate_metric(
                    [dist, gt_dist] if options['type'] == 'calculate_emd' else [mos, gt_mos],
                    options,
                )
            )
            for metric, options in metrics.items()
        }

    def _prompt_sources(self) -> tuple[str, ...]:
        """Return the sources of attribute prompts to evaluate beside the configured one."""
        has_predictor = getattr(self.get_bare_model(self.net), 'predictor', None) is not None
        return PROMPT_SOURCES if has_predictor else ()

    def _log_by_prompt_source(self, name: str, by_source: Results) -> None:
        rows = [
            f'  {source:10}' + ''.join(f' {key} {value:7.4f}' for key, value in values.items())
            for source, values in by_source.items()
        ]
        if rows:
            get_root_logger().info('\n'.join([f'{name}, by the source of the prompts:', *rows]))

    def predict(self, dataloader: DataLoader) -> pd.DataFrame:
        """Predict the images of a data set that can be read.

        Returns:
            A row for each image, with the columns ``img_path``, ``text``, ``score``, ``MOS``
            (numbers) and ``dist``, ``rated_dist`` (lists over the levels).

        Raises:
            AMHPError: no image of the data set could be read.
        """
        return self._predict(dataloader, [None])[0]

    def _predict(self, dataloader: DataLoader, sources: Sequence[str | None]) -> list[pd.DataFrame]:
        """Predict a data set once for each source of attribute prompts; None: as configured.

        The image encoder runs once for each image. Tables are those of ``predict``.
        """
        dataset: Any = dataloader.dataset
        name, net = dataset.opt['name'], self.get_bare_model(self.eval_net())
        rows: list[list] = [[] for _ in sources]
        bar = tqdm(dataloader, desc=name, unit='batch', disable=not self.opt['val'].get('pbar'))
        for batch in bar:
            self.feed_data(batch)
            if not self.text:
                continue
            if len(sources) > 1:
                self._compute_image_features(net)
            for source, source_rows in zip(sources, rows, strict=True):
                self.test(source)
                source_rows += self._rows()
        if isinstance(dataset, Shard):
            rows = self._gather_rows(rows)
        if not rows[0]:
            raise AMHPError(f'{name}: none of its images could be read; check dataroot_target')
        columns = ['index', 'img_path', 'text', 'score', 'MOS', 'dist', 'rated_dist']
        tables = [pd.DataFrame(source_rows, columns=columns) for source_rows in rows]
        return [table.drop(columns='index') for table in tables]

    def _gather_rows(self, rows: list[list]) -> list[list]:
        """Collect the rows of all processes, for each source, in the order of the data set."""
        gathered = all_gather((rows, self.unreadable))
        for _, unreadable in gathered:
            self.unreadable |= unreadable
        by_source = zip(*(process_rows for process_rows, _ in gathered), strict=True)
        return [sorted(chain(*source_rows), key=itemgetter(0)) for source_rows in by_source]

    def _compute_image_features(self, net: AMHP) -> None:
        """Compute the image features of the batch once, for all sources of prompts."""
        if 'Fx' not in self.features:
            training = net.training
            net.eval()
            with torch.no_grad():
                self.features['Fx'] = net.backbone.encode_image(net.preprocess(self.img_input))
            net.train(training)

    def _rows(self) -> list[tuple]:
        """Return the batch that was tested as rows of ``predict``, each after its index."""
        columns = (
            self.output_score[:, 0],
            self.gt_mos[:, 0],
            self.output_dist,
            self.gt_mos_dist,
        )
        numbers = (column.float().cpu().tolist() for column in columns)
        return list(zip(self.index, self.img_path, self.text, *numbers, strict=True))

    @master_only
    def write_results(self, name: str, table: pd.DataFrame, by_source: Results) -> None:
        """Write the results of a test: ``<name>.csv`` and ``<name>.json``.

        Args:
            name: the name of the data set.
            table: its predictions, for the CSV.
            by_source: the metrics for each source of attribute prompts, for the JSON.
        """
        folder = Path(self.opt['path']['results_root'])
        table = table.assign(img_path=table['img_path'].map(writable))
        results: dict[str, Any] = {'images': len(table), **finite(self.metric_results)}
        if by_source:
            results['prompt_source'] = {source: finite(x) for source, x in by_source.items()}
        net = self.get_bare_model(self.net)
        if isinstance(net, AMHP) and net.config.note:
            table['note'] = results['note'] = net.config.note
        write_atomically(folder / f'{name}.csv', lambda file: table.to_csv(file, index=False))
        write_text(folder / f'{name}.json', json.dumps(results, indent=2) + '\n')

    def _update_best(self, dataset_name: str, current_iter: int) -> bool:
        """Update the best results so far; return whether the current weights are the best.

        If there is a ``key_metric``, it decides, and the other metrics of the best weights are
        kept with it. Otherwise any metric that improves is enough, as in pyiqa. As long as no
        validation had a value (all predictions are equal), the latest one is the best.
        """
        deciding = list(self.metric_results) if self.key_metric is None else [self.key_metric]
        best = self.best_metric_results[dataset_name]
        if all(math.isnan(self.metric_results[metric]) for metric in deciding):
            if any(math.isfinite(best[metric]['val']) for metric in deciding):
                return False
            for metric in deciding:
                best[metric]['iter'] = current_iter
            return True
        if self.key_metric is None:
            updates = [
                self._update_best_metric_result(dataset_name, metric, value, current_iter)
                for metric, value in self.metric_results.items()
            ]
            return any(updates)
        value = self.metric_results[self.key_metric]
        is_best = self._update_best_metric_result(
            dataset_name, self.key_metric, value, current_iter
        )
        if is_best:
            for metric, value in self.metric_results.items():
                self._update_metric_result(dataset_name, metric, value, current_iter)
        return is_best
