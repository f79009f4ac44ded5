"""Actors of Ray Data: each loads one model and scores batch after batch of images."""

import io
import json
import logging
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.scoring.ray.plan import ParquetTable, ShardPlan, part_name
from pyiqa_amhp.scoring.ray.storage import NamedBytesIO, Storage
from pyiqa_amhp.scoring.result import ScoreResult, table_columns, to_record
from pyiqa_amhp.scoring.writer import table_schema
from pyiqa_amhp.utils.environment import limit_thread_spin
from pyiqa_amhp.utils.text import given_text

if TYPE_CHECKING:  # torch is imported by the actors only
    from pyiqa_amhp.scoring.scorer import Scorer

METADATA = b'pyiqa_amhp'
"""Key in a part file's metadata of a JSON object with ``rows``, ``failed``, ``scale``,
``lower_better``, ``note`` and the ``warnings`` of the process that wrote it."""

MAX_WARNINGS = 10  # of a process, different ones

Opener = Callable[[str], str | IO[bytes]]
Image = tuple[str, str, bytes | Opener]
"""Name, text, and the content of a file or a function that opens the name."""


@dataclass
class ScorerConfig:
    """Everything that an actor needs to build its scorer.

    Attributes:
        metric: name of the metric.
        weights: path of a checkpoint, or None.
        content: bytes of the checkpoint, or Ray's reference to them, for actors that may not see
            the path.
        options: options of ``create_metric``.
        scoring: options of ``score_images``.
    """

    metric: str = 'amhp'
    weights: str | None = None
    content: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    scoring: dict[str, Any] = field(default_factory=dict)


class ActorScorer:
    """A ``Scorer`` in an actor, and the warnings that it logged.

    If the metric cannot be created, the first call raises, since Ray Data passes the error of a
    call on to the user and retries a failed constructor.
    """

    def __init__(self, config: ScorerConfig):
        self._options = config.scoring
        self.warnings = WarningCollector()
        self._scorer: Scorer | None = None
        self._problem = ''
        try:
            self._scorer = _build_scorer(config)
        except AMHPError as error:
            self._problem = str(error)

    @property
    def scorer(self) -> 'Scorer':
        """The scorer.

        Raises:
            AMHPError: the metric could not be created.
        """
        if self._scorer is None:
            raise AMHPError(self._problem)
        return self._scorer

    def score(self, images: Iterable[Image]) -> Iterator[ScoreResult]:
        """Score images one after the other, in their order.

        Raises:
            AMHPError: the metric could not be created.
        """
        from pyiqa_amhp.scoring.files import score_images

        # Names need not be unique, so `score_images` gets numbers in their place.
        unread: dict[str, tuple[str, bytes | Opener]] = {}
        names: deque[str] = deque()
        texts: deque[str] = deque()

        def numbers() -> Iterator[str]:
            for number, (name, text, source) in enumerate(images):
                unread[str(number)] = name, source
                names.append(name)
                texts.append(text)
                yield str(number)

        def next_texts() -> Iterator[str]:
            while texts:
                yield texts.popleft()

        def open_image(number: str) -> str | IO[bytes]:
            name, source = unread.pop(number)
            return source(name) if callable(source) else NamedBytesIO(source, name)

        options = {'workers': _assigned_cpus(), **self._options}
        results = score_images(
            numbers(), next_texts(), self.scorer, open_image=open_image, **options
        )
        for result in results:
            result.path = names.popleft()
            yield result


class ShardScorer:
    """Scores the shards of a plan, given by their numbers, and writes their files.

    The actor writes the files itself: Ray would start processes for that, which costs the model
    time on few cores. The file of a shard has one name and is written whole, so a shard that is
    scored twice, because a machine was lost, is there once.
    """

    def __init__(self, config: ScorerConfig, plan: ShardPlan, storage: Storage):
        self.actor = ActorScorer(config)
        self.plan, self.storage = plan, storage

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[int]]:
        """Score a batch of shards.

        Args:
            batch: ``shard``, numbers ``(N,)``.

        Returns:
            ``shard`` and ``rows``, the number of images of each.
        """
        if self.actor.scorer.changes.get('mirror', self.plan.mirror) != self.plan.mirror:
            raise AMHPError(
                f'{self.plan.folder}: begun by a version that mirrored images after the crop, and '
                'this one does it before; delete the folder to start again'
            )
        shards, rows = batch['shard'].tolist(), []
        for shard in shards:
            results = list(self.actor.score(self._images(shard)))
            self.storage.write(f'{self.plan.folder}/{part_name(shard)}', self._to_parquet(results))
            rows.append(len(results))
        return {'shard': shards, 'rows': rows}

    def _images(self, shard: int) -> Iterator[Image]:
        for row in self.plan.read_shard(self.storage, shard):
            if row['table'] is None:
                yield row['path'], row['text'] or '', self.storage.open_image
                continue
            table = ParquetTable(self.storage, row['table'], self.plan.columns)
            yield from table.read(row['row_group'], row['first'], row['rows'])

    def _to_parquet(self, results: list[ScoreResult]) -> bytes:
        scorer = self.actor.scorer
        metadata = {
            'rows': len(results),
            'failed': sum(result.score is None for result in results),
            'scale': scorer.scale_text,
            'lower_better': scorer.lower_better,
            'note': scorer.note,
            'warnings': self.actor.warnings.messages,
        }
        schema = table_schema(table_columns(scorer.levels, scorer.note))
        schema = schema.with_metadata({METADATA: json.dumps(metadata).encode()})
        buffer = io.BytesIO()
        records = [to_record(result, scorer.note) for result in results]
        pq.write_table(pa.Table.from_pylist(records, schema), buffer)
        return buffer.getvalue()


class BatchScorer:
    """Scores the batches of a Ray data set: see ``score_dataset``.

    Args:
        config: the metric.
        image, text: the columns of images and of texts; no texts where ``text`` is None.
        storage: the file systems of images that are given by their names.
    """

    def __init__(self, config: ScorerConfig, image: str, text: str | None, storage: Storage):
        self.actor = ActorScorer(config)
        self.image, self.text, self.storage = image, text, storage

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the batch without its images and with the columns of its scores."""
        note = self.actor.scorer.note
        results = [to_record(result, note) for result in self.actor.score(self._images(batch))]
        columns = [name for name in table_columns(self.actor.scorer.levels, note) if name != 'path']
        scores = pa.Table.from_pylist(results, table_schema(columns))
        if self.image != 'path':
            batch = batch.drop_columns([self.image])
        for name in columns:
            if name in batch.column_names:
                batch = batch.drop_columns([name])
            batch = batch.append_column(name, scores.column(name))
        return batch

    def _images(self, batch: pa.Table) -> Iterator[Image]:
        from ray.data.block import BlockAccessor

        column = batch.column(self.image)
        if isinstance(column.type, pa.ExtensionType):  # decoded, as ray.data.read_images does
            images = BlockAccessor.for_block(batch).to_numpy(self.image)
        else:
            images = column.to_pylist()
        texts = batch.column(self.text).to_pylist() if self.text else [None] * len(batch)
        has_paths = 'path' in batch.column_names
        paths = batch.column('path').to_pylist() if has_paths else [None] * len(batch)
        for number, (image, text, path) in enumerate(zip(images, texts, paths, strict=True)):
            text = given_text(text)
            if isinstance(image, dict):  # as Hugging Face stores images
                path, image = path or image.get('path'), image.get('bytes')
            if isinstance(image, str):
                yield image, text, self.storage.open_image
                continue
            if isinstance(image, np.ndarray):
                image = _encode(image)
            yield path or f'image {number} of a batch', text, image or b''


class WarningCollector(logging.Handler):
    """Collects the warnings of this package in a process whose log nobody reads."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []
        logging.getLogger('pyiqa_amhp').addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message that is new."""
        message = record.getMessage()
        if len(self.messages) < MAX_WARNINGS and message not in self.messages:
            self.messages.append(message)


def _encode(pixels: np.ndarray) -> bytes:
    """Encode 8-bit pixels (H, W), (H, W, 3) or (H, W, 4) as a file, without loss."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, 'TIFF')
    return buffer.getvalue()


def _build_scorer(config: ScorerConfig) -> 'Scorer':
    """Create the metric; its weights' bytes go through a file, from which all weights are read."""
    limit_thread_spin()
    from pyiqa_amhp.scoring.scorer import Scorer, create_metric

    if config.content is None or config.weights is None:
        return Scorer(create_metric(config.metric, config.weights, **config.options))
    content = config.content
    if not isinstance(content, bytes):
        import ray

        content = ray.get(content)
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, os.path.basename(config.weights))
        with open(file, 'wb') as out:
            out.write(content)
        return Scorer(create_metric(config.metric, file, **config.options))


def _assigned_cpus() -> int:
    """The CPUs that Ray gave this actor, at least one: as many threads read images."""
    import ray

    resources = ray.get_runtime_context().get_assigned_resources()
    return max(1, int(resources.get('CPU', 1)))
