"""What an actor of Ray Data does: one model, loaded once, and batch after batch of images."""

import io
import json
import logging
import os
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.scoring.ray.plan import ParquetTable, Plan, part_name
from pyiqa_amhp.scoring.ray.storage import Content, Files
from pyiqa_amhp.scoring.result import ScoreResult, table_columns, to_record
from pyiqa_amhp.scoring.writer import table_schema
from pyiqa_amhp.utils.environment import limit_thread_spin

METADATA = b'pyiqa_amhp'
"""Under which key a part says, as JSON, ``rows``, ``failed``, ``scale``, ``lower_better`` and the
``warnings`` of the process that made it."""


@dataclass
class ScorerConfig:
    """How images are judged: what every actor builds its metric from.

    Attributes:
        metric: its name. weights: a file or None.
        content: the weights' bytes, or a reference of Ray to them, where the actors may not see the
            file.
        options: of ``create_metric``. scoring: of ``score_images``.
    """

    metric: str = 'amhp'
    weights: str | None = None
    content: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    scoring: dict[str, Any] = field(default_factory=dict)


class ActorScorer:
    """A metric, and what it said in the log. Built in an actor.

    A metric that cannot be built is reported by the first call, which Ray Data passes on to the
    user; it would try a failed constructor again.
    """

    def __init__(self, judgement: ScorerConfig):
        self.judgement = judgement
        self.warnings = _Warnings()
        self.problem = ''
        try:
            self.metric = _build(judgement)
        except AMHPError as error:
            self.problem = str(error)

    def scores(self, images: Iterable[tuple[str, str, Any]]) -> Iterator[ScoreResult]:
        """Rows of images: each a name, a text, and its bytes or a function that opens the name.

        Raises:
            AMHPError: the metric could not be built.
        """
        from pyiqa_amhp.scoring.files import score_images

        if self.problem:
            raise AMHPError(self.problem)
        sources: dict[str, tuple[str, Any]] = {}  # of the images that are about to be read
        names: deque[str] = deque()
        texts: deque[str] = deque()

        def keys() -> Iterator[str]:
            for number, (name, text, source) in enumerate(images):
                sources[str(number)] = name, source
                names.append(name)
                texts.append(text)
                yield str(number)

        def said() -> Iterator[str]:
            while texts:
                yield texts.popleft()

        def open_image(key: str) -> str | IO[bytes]:
            name, source = sources.pop(key)
            return source(name) if callable(source) else Content(source, name)

        scoring = {'workers': _threads(), **self.judgement.scoring}
        for row in score_images(keys(), said(), self.metric, open_image=open_image, **scoring):
            row.path = names.popleft()
            yield row


class PartScorer:
    """Parts of a plan, by their numbers, to files.

    The actor writes them itself: Ray would start processes for writes, which costs the model time
    on few cores. A part has one name whoever writes it, and is written whole, so what is done
    twice, since a machine died, is there once.
    """

    def __init__(self, judgement: ScorerConfig, plan: Plan, files: Files):
        self.scorer = ActorScorer(judgement)
        self.plan, self.files = plan, files

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[int]]:
        """``part`` (N) to ``part``, ``rows``."""
        numbers, rows = batch['part'].tolist(), []
        for number in numbers:
            scores = list(self.scorer.scores(self._images(number)))
            self.files.write(f'{self.plan.folder}/{part_name(number)}', self._file(scores))
            rows.append(len(scores))
        return {'part': numbers, 'rows': rows}

    def _images(self, number: int) -> Iterator[tuple[str, str, Any]]:
        for row in self.plan.part(self.files, number):
            if row['table'] is None:
                yield row['path'], row['text'] or '', self.files.open_image
                continue
            table = ParquetTable(self.files, row['table'], self.plan.columns)
            yield from table.read(row['row_group'], row['first'], row['rows'])

    def _file(self, rows: list[ScoreResult]) -> bytes:
        from pyiqa_amhp.scoring.scorer import Scorer

        metric = self.scorer.metric
        said = {
            'rows': len(rows),
            'failed': sum(1 for row in rows if row.score is None),
            'scale': Scorer(metric).scale_text,
            'lower_better': bool(metric.lower_better),
            'warnings': self.scorer.warnings.said,
        }
        schema = table_schema(table_columns(Scorer(metric).levels))
        schema = schema.with_metadata({METADATA: json.dumps(said).encode()})
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist([to_record(row) for row in rows], schema), buffer)
        return buffer.getvalue()


class BatchScorer:
    """Batches of a data set of one's own: their columns, less the images, and the scores'."""

    def __init__(self, judgement: ScorerConfig, image: str, text: str | None, files: Files):
        self.scorer = ActorScorer(judgement)
        self.image, self.text, self.files = image, text, files

    def __call__(self, batch: pa.Table) -> pa.Table:
        """See ``score_dataset``."""
        from ray.data.block import BlockAccessor

        from pyiqa_amhp.scoring.scorer import Scorer

        column = batch.column(self.image)
        texts = batch.column(self.text).to_pylist() if self.text else [None] * len(batch)
        texts = ['' if text is None else str(text) for text in texts]
        if isinstance(column.type, pa.ExtensionType):  # decoded, as ray.data.read_images does
            values = BlockAccessor.for_block(batch).to_numpy(self.image)
        else:
            values = column.to_pylist()
        names = batch.column('path').to_pylist() if 'path' in batch.column_names else None
        images = (
            self._source(value, text, names[i] if names else '', i)
            for i, (value, text) in enumerate(zip(values, texts, strict=True))
        )
        rows = [to_record(row) for row in self.scorer.scores(images)]
        columns = [c for c in table_columns(Scorer(self.scorer.metric).levels) if c != 'path']
        scores = pa.Table.from_pylist(rows, table_schema(columns))
        kept = batch if self.image == 'path' else batch.drop_columns([self.image])
        for name in columns:
            if name in kept.column_names:
                kept = kept.drop_columns([name])
            kept = kept.append_column(name, scores.column(name))
        return kept

    def _source(self, value, text: str, name: str, number: int) -> tuple[str, str, Any]:
        if isinstance(value, dict):  # Hugging Face's images
            name, value = name or value.get('path') or '', value.get('bytes')
        if isinstance(value, str):
            return value, text, self.files.open_image
        if isinstance(value, np.ndarray):
            value = _as_file(value)
        return name or f'image {number} of a batch', text, value or b''


def _as_file(pixels: np.ndarray) -> bytes:
    """Decoded 8-bit pixels (H, W), (H, W, 3) or (H, W, 4) as a file, exactly."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, 'TIFF')
    return buffer.getvalue()


def _build(judgement: ScorerConfig):
    """The metric; its weights' bytes go through a file, as all loading does."""
    limit_thread_spin()
    from pyiqa_amhp.scoring.scorer import create_metric

    if judgement.content is None:
        return create_metric(judgement.metric, judgement.weights, **judgement.options)
    content = judgement.content
    if not isinstance(content, bytes):
        import ray

        content = ray.get(content)
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, os.path.basename(judgement.weights))
        with open(file, 'wb') as out:
            out.write(content)
        return create_metric(judgement.metric, file, **judgement.options)


def _threads() -> int:
    """Threads that read: as many CPUs as Ray gave this actor."""
    import ray

    resources = ray.get_runtime_context().get_assigned_resources()
    return max(1, int(resources.get('CPU', 1)))


class _Warnings(logging.Handler):
    """What the package said in the log of this process: nobody looks there."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.said: list[str] = []
        logging.getLogger('pyiqa_amhp').addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if len(self.said) < 10 and (text := record.getMessage()) not in self.said:
            self.said.append(text)
