"""``fit``: read ratings, split, train with ``run_train``, test, and write a checkpoint."""

import dataclasses
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
import yaml
from tqdm import tqdm

from pyiqa_amhp.datasets.csv import get_column
from pyiqa_amhp.datasets.dataset import frozen_encoders, frozen_image_part
from pyiqa_amhp.datasets.rated_images import read_table
from pyiqa_amhp.datasets.raw import SPLIT_NAMES
from pyiqa_amhp.datasets.splitting import group_near_duplicates, make_split
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.fit.plan import NEAR_DUPLICATES, FitSettings, Plan, make_plan, train_options
from pyiqa_amhp.fit.ratings import SPLIT, Ratings, read_ratings, read_star_ratings
from pyiqa_amhp.fit.results import (
    SHOWN,
    EpochLines,
    Tell,
    Tested,
    draw_scatter,
    measure_text,
    test_scores,
)
from pyiqa_amhp.train.pipeline import best_checkpoint, log_to, run_train
from pyiqa_amhp.train.record import TRAINING
from pyiqa_amhp.utils.files import check_output, write_atomically, write_text
from pyiqa_amhp.weights.checkpoint import read_tensors, save_checkpoint

FOLDER = 'folder'  # value of ``group``: photographs in one folder
SUFFIXES = ('.pth', '.safetensors')
READ_AT_ONCE = 32  # photographs whose features are computed at once
READS = {
    'none': 'image only',
    'comments': 'image and comments',
    'labels': 'image and attributes',
}  # by the source of texts


@dataclass(frozen=True)
class FitResult:
    """Result of ``fit``.

    Attributes:
        checkpoint: the trained weights, with their configuration.
        files: the other files: the option file, the CSV with the split, the log, scores and plot.
        scale: ends of the scale of the scores.
        images: number of photographs in train, val and test.
        best_epoch: the epoch that was kept, from 1.
        test: measures of the held-out photographs, with their texts if the model reads any.
        without_texts: the same without texts; None if the model reads none.
        interrupted: whether Ctrl-C ended the training; the best epoch until then was kept.
        seconds: duration.
    """

    checkpoint: Path
    files: list[Path]
    scale: tuple[float, float]
    images: dict[str, int]
    best_epoch: int
    test: Tested
    without_texts: Tested | None
    interrupted: bool
    seconds: float


def fit(
    ratings: str | Path | None,
    images: str | Path,
    out: str | Path,
    settings: FitSettings | None = None,
    overwrite: bool = False,
    tell: Tell = lambda line: None,
    show_bars: bool | None = False,
) -> FitResult:
    """Train a model of your ratings, and write a checkpoint.

    Beside the checkpoint ``NAME.pth``, a folder ``NAME_fit`` gets the files of ``FitResult.files``.
    All of them are written at the end, the checkpoint last. After Ctrl-C during the training, the
    best epoch until then is tested and written; before its first epoch, or after a second Ctrl-C,
    nothing is written.

    Args:
        ratings: a CSV of rated photographs; None: the star ratings (``xmp:Rating``) of the
            photographs themselves.
        images: folder of the photographs.
        out: the checkpoint, ``FILE.pth`` or ``FILE.safetensors``.
        settings: what to train and how; None: all defaults.
        overwrite: whether an existing checkpoint and its folder are replaced.
        tell: called with each line for the screen.
        show_bars: whether to show progress bars; None: on an interactive terminal.

    Raises:
        AMHPError: ratings, photographs, settings or ``out`` that cannot be used.
        KeyboardInterrupt: Ctrl-C before anything was trained.
    """
    start, settings = time.time(), settings or FitSettings()
    images, out = Path(images).expanduser(), check_output(out, SUFFIXES)
    folder = out.with_name(f'{out.stem}_fit')
    if existing := [str(path) for path in (out, folder) if path.exists() and not overwrite]:
        raise AMHPError(f'{" and ".join(existing)}: exists already; --overwrite replaces it')
    if not images.is_dir():
        raise AMHPError(f'{images}: no such folder; --images is the folder of the photographs')
    if ratings is not None and not Path(ratings).expanduser().is_file():
        raise AMHPError(f'{ratings}: no such file; expected a CSV of ratings')
    if ratings is None:
        rated = read_star_ratings(images)
    else:
        rated = read_ratings(
            Path(ratings).expanduser(),
            images,
            settings.scale,
            settings.split,
            settings.text_source,
        )
    for note in rated.notes:
        tell(note)
    with tempfile.TemporaryDirectory() as temporary:
        run = _Run(rated, settings, Path(temporary), out, tell, show_bars)
        with log_to(run.log):
            run.split()
            run.train()
            tested = run.test()
        files = run.write(folder, tested)
    return FitResult(
        checkpoint=out,
        files=files,
        scale=run.scale,
        images=run.counts,
        best_epoch=run.best_epoch,
        test=tested[0],
        without_texts=tested[1] if len(tested) > 1 else None,
        interrupted=run.interrupted,
        seconds=time.time() - start,
    )


class _Run:
    """One run of ``fit`` in a temporary folder.

    Attributes:
        log: the log file.
        plan: what is trained.
        counts: number of photographs in train, val and test.
        best_epoch: the best epoch so far, from 1; 0: none yet.
        interrupted: whether Ctrl-C ended the training.
    """

    plan: Plan

    def __init__(
        self,
        ratings: Ratings,
        settings: FitSettings,
        root: Path,
        out: Path,
        tell: Tell,
        show_bars: bool | None,
    ):
        self.ratings, self.settings, self.root, self.out = ratings, settings, root, out
        self.tell, self._no_bars = tell, None if show_bars is None else not show_bars
        self.log, self.csv = root / 'log.txt', root / 'ratings.csv'
        self.log.touch()
        self.name = re.sub(r'[^\w.-]+', '_', out.stem).strip('._') or 'fit'
        if 'debug' in self.name:  # pyiqa ends trainings of such a name after a few batches
            self.name = 'fit'
        levels = ratings.options['level_values']
        self.scale = (float(levels[0]), float(levels[-1]))
        self.counts: dict[str, int] = {}
        self.best_epoch = 0
        self.interrupted = False

    @property
    def best(self) -> Path:
        return best_checkpoint(self.root, self.name)

    @property
    def data(self) -> dict[str, Any]:
        """Options of the data sets, with files in the temporary folder."""
        files = {'meta_info_file': str(self.csv), 'dataroot_target': str(_absolute(self.ratings))}
        return {**files, **self.ratings.options}

    def bar(self, items: Iterable, total: int, title: str) -> Iterable:
        """Show a progress bar over items."""
        return tqdm(items, total=total, desc=title, leave=False, disable=self._no_bars)

    def split(self) -> None:
        """Split the photographs, and write the CSV."""
        ratings, settings = self.ratings, self.settings
        self._groups()  # a column that does not exist is an error before the encoder runs
        features, groups = self._features(), self._groups()
        by = 'your split column'
        if ratings.split is None:
            if groups is not None:
                by = f'one side for all photographs with the same {settings.group}'
            else:
                assert features is not None
                least = NEAR_DUPLICATES[self._image_part]
                groups, least = group_near_duplicates(features, least)
                count = len(groups) - len(np.unique(groups))
                by = (
                    f'at random; {count:,} near-duplicates, by a cosine of {least:.3g}, are on the '
                    'side of their originals'
                )
            split = make_split(groups, settings.seed)
        else:
            groups = np.arange(len(ratings.split)) if groups is None else groups
            parts = set(ratings.split.tolist())
            if missing := [name for name in ('val', 'test') if name not in parts]:
                by += f'; it has no {" and no ".join(missing)}, taken out of train'
            split = make_split(groups, settings.seed, ratings.split)
        table = ratings.table.assign(**{SPLIT: split})
        write_atomically(self.csv, lambda file: table.to_csv(file, index=False))
        self.counts = {name: int((split == name).sum()) for name in SPLIT_NAMES.values()}
        listed = ', '.join(f'{name} {count:,}' for name, count in self.counts.items())
        self.tell(f'{listed} ({by})')
        if ratings.split is None and settings.group is None:
            self.tell(
                'Photographs of one subject or occasion may be on both sides, which makes the test '
                'too easy; --group keeps them apart.'
            )

    def _groups(self) -> np.ndarray | None:
        """Return the group of each photograph as ``--group`` says; None without it."""
        table, group = self.ratings.table, self.settings.group
        if group == FOLDER and FOLDER not in table:
            return np.array([str(PurePosixPath(name).parent) for name in table['img_name']])
        return None if group is None else get_column(table, group, 'ratings').to_numpy()

    @property
    def _image_part(self) -> str:
        """What is frozen of the image encoder, or would be: near-duplicates have like features."""
        frozen = frozen_image_part(frozen_encoders(self.settings.freeze))
        return frozen or ('trunk' if self.settings.is_lite else 'image')

    def _features(self) -> np.ndarray | None:
        """Compute the features of the frozen image encoder, which training reads from disk.

        Photographs that cannot be read are left out. Without a frozen image encoder and with a
        split, there are none.
        """
        plan = make_plan(self.settings, len(self.ratings.table), self._has_texts)
        is_split = self.ratings.split is not None or self.settings.group is not None
        if is_split and not frozen_image_part(frozen_encoders(plan.freeze)):
            return None
        from pyiqa_amhp.model.amhp import AMHP
        from pyiqa_amhp.train.frozen import FrozenEncoders

        device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
        net = AMHP(pretrained='clip', variant='image', **self.settings.network()).to(device)
        encoders = FrozenEncoders(net, (self._image_part,))
        names = self.ratings.table['img_name'].tolist()
        paths = [str(_absolute(self.ratings) / name) for name in names]
        blocks, errors = [], []
        with tqdm(
            total=len(paths), desc='Reading photographs', leave=False, disable=self._no_bars
        ) as bar:
            for i in range(0, len(paths), READ_AT_ONCE):
                some = paths[i : i + READ_AT_ONCE]
                block, problems = encoders.image_features(
                    some, max_pixels=None, color_profiles=True
                )
                blocks.append(block.float().cpu().numpy())
                errors += problems
                bar.update(len(some))
        keep = np.array([not error for error in errors])
        if not keep.all():
            bad = [error for error in errors if error]
            self.tell(f'{len(bad):,} photographs cannot be read, left out; the first: {bad[0]}')
            self.ratings.select(keep)
        return np.concatenate(blocks)[keep]

    @property
    def _has_texts(self) -> bool:
        return self.ratings.text_source != 'none'

    def train(self) -> None:
        """Train until the last epoch, until no epoch is better, or until Ctrl-C."""
        self.plan = plan = make_plan(self.settings, self.counts['train'], self._has_texts)
        self.tell(
            f'{self.settings.encoder_name}, {READS[self.ratings.text_source]}; {plan.why}; at most '
            f'{plan.epochs} epochs'
        )
        self.options = train_options(
            self.name, plan, self.settings, self.data, self.counts['train']
        )
        file = self.root / 'train.yml'
        write_text(file, yaml.safe_dump(self.options, sort_keys=False))
        with tqdm(desc='Training', leave=False, disable=self._no_bars, unit='batch') as bar:
            screen = EpochLines(bar, self.tell)
            try:
                run_train(file, [], self.root, screen)
            except KeyboardInterrupt:
                if not self.best.exists():
                    raise
                self.interrupted = True
            finally:
                self.best_epoch = screen.best_epoch
        if self.interrupted:
            self.tell(
                f'Interrupted in epoch {screen.epoch + 1}; the best one so far is tested now.'
            )
        elif screen.epoch < plan.epochs:
            self.tell(f'no better epoch in {plan.patience}: training ends')

    def test(self) -> list[Tested]:
        """Test the best epoch on the held-out photographs, with and without texts."""
        if not self.best.exists():
            raise AMHPError(f'nothing was trained; see {self.log}')
        rated = read_table({**self.data, 'narrow_ratings': True}).of_phase('test', SPLIT)
        kinds = (True, False) if self._has_texts else (False,)
        tested = [test_scores(self.best, rated, texts, self.bar) for texts in kinds]
        self.tell(f'epoch {self.best_epoch} is kept. Held-out photographs, with 95% intervals:')
        for result in tested:
            title = '' if not self._has_texts else ' with texts' if result.texts else ' no texts'
            words = '  '.join(measure_text(result.evaluation))
            self.tell(f'{len(result.table):,}{title}: {words}')
        return tested

    def write(self, folder: Path, tested: list[Tested]) -> list[Path]:
        """Write all files; the checkpoint last.

        Returns:
            The files beside the checkpoint.
        """
        csv = write_atomically(folder / 'ratings.csv', _copy(self.csv))
        options = json.loads(json.dumps(self.options).replace(*_json_pair(self.csv, csv)))
        head = (
            f'# The training of {self.out.name}, made by amhp fit. The same again:\n'
            f'#   amhp train -opt {folder.name}/train.yml   (writes to ./experiments)\n'
        )
        if self.interrupted:
            head += '# amhp fit was interrupted; this trains on to the end.\n'
        files = [
            csv,
            write_text(folder / 'train.yml', head + yaml.safe_dump(options, sort_keys=False)),
            write_atomically(
                folder / 'test.csv', lambda file: tested[0].table.to_csv(file, index=False)
            ),
            write_text(folder / 'results.json', json.dumps(self._summary(tested), indent=1) + '\n'),
        ]
        if find_spec('matplotlib') is None:
            self.tell("no plot, since matplotlib is missing: pip install 'pyiqa-amhp[demo]'")
        else:
            title = f'{self.out.name}: {len(tested[0].table):,} held-out photographs'
            files.append(draw_scatter(folder / 'scatter.png', tested[0], self.scale, title))
        record = self.best.parents[1] / TRAINING
        if record.exists():
            files.append(write_atomically(folder / TRAINING, _copy(record)))
        files.append(write_atomically(folder / 'log.txt', _copy(self.log)))
        save_checkpoint(self.out, read_tensors(self.best))
        return files

    def _summary(self, tested: list[Tested]) -> dict[str, Any]:
        return {
            'images': self.counts,
            'scale': self.scale,
            'level_values': self.ratings.options['level_values'],
            'settings': dataclasses.asdict(self.settings),
            'best_epoch': self.best_epoch,
            'test': [
                {
                    'texts': result.texts,
                    **{
                        name: {'value': value.value, 'low': value.low, 'high': value.high}
                        for name, value in result.evaluation.values.items()
                        if name in SHOWN
                    },
                }
                for result in tested
            ],
        }


def _absolute(ratings: Ratings) -> Path:
    return ratings.images.absolute()


def _copy(source: Path) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(source.read_bytes())


def _json_pair(old: Path, new: Path) -> tuple[str, str]:
    """Return two paths as they are written in JSON."""
    return json.dumps(str(old)), json.dumps(str(new.absolute()))
