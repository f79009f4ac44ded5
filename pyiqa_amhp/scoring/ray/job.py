"""Score on a Ray cluster: plan a job, score and write its shards, resume an earlier run."""

import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from pyiqa_amhp.datasets.texts import TextLookup
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.scoring.ray.actors import METADATA, BatchScorer, ScorerConfig, ShardScorer
from pyiqa_amhp.scoring.ray.cluster import connect, find_cause, model_resources
from pyiqa_amhp.scoring.ray.plan import ShardPlan, Source, part_name, read_plan, write_plan
from pyiqa_amhp.scoring.ray.storage import Storage, redact, scheme_of
from pyiqa_amhp.scoring.result import SCORES_SINCE, ScoreResult, Summary, summarise
from pyiqa_amhp.scoring.writer import check_settings, describe_inputs, plain_options, short_digest
from pyiqa_amhp.utils.environment import import_extra
from pyiqa_amhp.utils.files import check_folder
from pyiqa_amhp.weights.hub import fetch_model, hub_id, is_hub_id

if TYPE_CHECKING:
    import ray
else:
    ray = import_extra('ray', 'ray')

MANIFEST = '_manifest.json'
READERS = 8  # threads that read part files at the end


@dataclass
class Report:
    """Result of a job.

    Attributes:
        folder: the folder of the part files, without what is secret in its address.
        summary: counts and best results of all images.
        scale: the metric's scale in words.
        note: note of the weights, see ``AMHPConfig``; '' for none.
        shards: number of shards.
        shards_before: how many of them an earlier run had written.
        warnings: what the actors logged.
    """

    folder: str
    summary: Summary
    scale: str
    shards: int
    shards_before: int
    warnings: list[str] = field(default_factory=list)
    note: str = ''


def score_folder(
    inputs: Iterable[str | Path],
    out: str | Path,
    config: ScorerConfig,
    text: str | None = None,
    texts: str | Path | None = None,
    columns: dict[str, str] | None = None,
    shard_rows: int | None = None,
    address: str | None = None,
    actors: int | None = None,
    top: int | None = 10,
) -> Report:
    """Score images on a Ray cluster into a folder of Parquet files, ``part-000000.parquet`` ...

    The same call resumes an interrupted one. ``_manifest.json`` is written when all parts are
    there.

    Args:
        inputs: images, folders, globs; ``.csv`` and ``.parquet`` files of paths and texts, or with
            images in them. Local names or addresses, see ``scoring.ray.storage``.
        out: the folder, which all machines of the cluster must see.
        config: the metric and its options.
        text: a text for all images.
        texts: a CSV with ``img_name`` and ``text``.
        columns: the user's names for columns of tables, see ``scoring.ray.plan.Source``.
        shard_rows: rows of a part; None: see ``scoring.ray.plan.choose_shard_rows``.
        address: address of the cluster for ``ray.init``; None: the one in ``RAY_ADDRESS``, or this
            machine.
        actors: number of models; None: one for each GPU, or else for each four CPUs.
        top: how many of the best results to return; None: all.

    Raises:
        AMHPError: inputs, weights or a cluster that cannot be used; an earlier run in this folder
            with other settings; parts that could not be made.
    """
    names = [str(name) for name in inputs]
    storage = Storage([*names, str(out)])
    folder = redact(str(out)).rstrip('/')
    if text is not None and texts is not None:
        raise AMHPError('give one text for all images or a CSV of texts, not both')
    if not scheme_of(folder):
        check_folder(folder)
    config = replace(config, weights=_find_weights(config))
    settings = job_settings(names, config, text, texts, columns)
    plan, done = read_plan(storage, folder), _written_shards(storage, folder)
    if plan and done:
        check_settings(plan.settings, settings, folder, 'the folder')
    elif done:
        raise AMHPError(f'{folder}: parts without a plan lie here; give another folder')
    elif plan is None or plan.settings != settings or shard_rows:
        lookup = None if texts is None else TextLookup(texts)
        source = Source(storage, names, text, lookup, columns, shard_rows)
        plan = write_plan(source, folder, settings)
    missing = [shard for shard in range(plan.shards) if shard not in done]
    if missing:
        with connect(address) as is_local:
            config = config if is_local else _share_weights(config)
            _score_shards(plan, storage, config, missing, actors)
    return _finish(storage, plan, top, shards_before=plan.shards - len(missing))


def score_dataset(
    ds: 'ray.data.Dataset',
    metric: str = 'amhp',
    weights: str | None = None,
    image: str | None = None,
    text: str | None = None,
    batch_rows: int = 256,
    actors: int | None = None,
    scoring: dict[str, Any] | None = None,
    **options,
) -> 'ray.data.Dataset':
    """Score the images of a Ray data set, lazily.

    Args:
        ds: rows with images as bytes, names (see ``scoring.ray.storage``), or decoded pixels as
            ``ray.data.read_images`` returns them.
        metric: any no-reference metric of pyiqa.
        weights: a checkpoint, or an ``hf-hub:`` id.
        image: the column of images; None: ``bytes``, ``image`` or ``path``, the first that exists.
        text: the column of texts; None: ``text`` if it exists.
        batch_rows: rows of one call of a model, within which images are read ahead.
        actors: number of models; None: one for each GPU of the cluster, or else for each four
            CPUs.
        scoring: options of ``score_images``: ``batch_size``, ``exact``, ``max_pixels`` ...
        **options: options of AMHP: ``engine``, ``precision``, ``compile`` ...

    Returns:
        The rows without the images, with ``score``, ``prompt_source``, ``p_<level>`` and ``error``
        (why there is no score, else ``''``) in place of columns of these names.

    Raises:
        AMHPError: no such column; weights that cannot be used.
    """
    names = ds.columns() or []
    image = image or next((name for name in ('bytes', 'image', 'path') if name in names), None)
    text = text or ('text' if 'text' in names else None)
    wanted = [image or 'bytes, image or path', *([text] if text else [])]
    if missing := [name for name in wanted if name not in names]:
        raise AMHPError(f'no column {", ".join(missing)}; there are {", ".join(names)}')
    config = ScorerConfig(metric, weights, options=options, scoring=scoring or {})
    config = _share_weights(replace(config, weights=_find_weights(config)))
    return ds.map_batches(
        BatchScorer,
        fn_constructor_args=(config, image, text, Storage()),
        batch_size=batch_rows,
        batch_format='pyarrow',
        **model_resources(actors, spare_cpus=1),
    )


def job_settings(
    inputs: list[str],
    config: ScorerConfig,
    text: str | None = None,
    texts: str | Path | None = None,
    columns: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Collect what the scores of a job depend on, without what is secret in addresses."""
    options = {**config.options, **config.scoring}
    for name in ('batch_size', 'workers'):  # no score depends on them
        options.pop(name, None)
    options |= {'text': text, 'texts': texts and Path(texts), 'columns': columns}
    options['color_profiles'] = options.get('color_profiles') is not False  # as Scorer.changes
    options = plain_options(options)
    if not all(scheme_of(name) or os.path.isabs(name) for name in inputs):
        options['folder'] = os.getcwd()  # where relative names start
    settings = {
        'inputs': describe_inputs([redact(name) for name in inputs]),
        'metric': config.metric,
        'weights': _digest_weights(config.weights) if config.weights else 'none',
        'version': SCORES_SINCE,
        **options,
    }
    return json.loads(json.dumps(settings))


def _find_weights(config: ScorerConfig) -> str | None:
    """Find the checkpoint that this machine would use: others lack its store and its folders."""
    from pyiqa_amhp.plugin import METRIC_CONFIGS

    weights: str | Path | None = config.weights
    entry: dict[str, Any] = METRIC_CONFIGS.get(config.metric, {})
    network = entry.get('metric_opts', {})
    if weights is None and network.get('type') == 'AMHP' and 'pretrained' not in network:
        from pyiqa_amhp.weights.store import default_checkpoint

        dataset = network.get('dataset')
        checkpoint = default_checkpoint(dataset or 'ava', any_scale=dataset is None)
        weights = checkpoint.path if checkpoint else None
    elif weights is None and network.get('type') == 'TANet':
        from pyiqa_amhp.weights.store import find_tanet

        weights = find_tanet()
    if weights is None:
        return None
    if is_hub_id(weights):
        return str(fetch_model(hub_id(weights)))  # once, and not by every machine
    path = Path(weights).expanduser().absolute()
    if not path.is_file():
        raise AMHPError(f'{weights}: no such file')
    return str(path)


def _digest_weights(path: str) -> str:
    """Digest of a file's size and some 1,000 places in it: training changes all of them."""
    size = os.path.getsize(path)
    with open(path, 'rb') as file:
        sample = [str(size).encode()]
        for offset in range(0, size, max(4096, size // 1000)):
            file.seek(offset)
            sample.append(file.read(4096))
    return short_digest(b''.join(sample))


def _share_weights(config: ScorerConfig) -> ScorerConfig:
    """Put the weights where every machine gets them, also one that joins later."""
    if config.weights is None:
        return config
    return replace(config, content=ray.put(Path(config.weights).read_bytes()))


def _written_shards(storage: Storage, folder: str) -> set[int]:
    """The shards whose files exist; each is complete, since it is written whole."""
    files = storage.list_files(folder)
    numbers = (name.removeprefix('part-').removesuffix('.parquet') for name in files)
    return {int(number) for number in numbers if number.isdecimal()}


def _score_shards(
    plan: ShardPlan, storage: Storage, config: ScorerConfig, shards: list[int], actors: int | None
) -> None:
    """Score these shards and write their files."""
    ray.data.DataContext.get_current().enable_progress_bars = False  # ours counts images
    tasks = ray.data.from_items(
        [{'shard': shard} for shard in shards],
        override_num_blocks=len(shards),  # a task each: what Ray repeats when a machine is lost
    )
    scored = tasks.map_batches(
        ShardScorer,
        fn_constructor_args=(config, plan, storage),
        batch_size=1,
        **model_resources(actors),
    )
    images = round(plan.rows * len(shards) / plan.shards)  # roughly
    try:
        with tqdm(total=images, desc='Scoring', disable=None, leave=False) as bar:
            for batch in scored.iter_batches(batch_size=None):
                bar.update(int(batch['rows'].sum()))
    except (ray.exceptions.RayError, RuntimeError, ValueError) as error:
        raise AMHPError(
            f'{find_cause(error)} (the finished parts stay in {plan.folder}; the same command '
            'resumes)'
        ) from error


def _finish(storage: Storage, plan: ShardPlan, top: int | None, shards_before: int) -> Report:
    """Read all part files, and write the manifest."""
    if missing := sorted(set(range(plan.shards)) - _written_shards(storage, plan.folder)):
        raise AMHPError(
            f'{plan.folder}: {len(missing)} of {plan.shards} parts are missing (first: '
            f'{part_name(missing[0])}); do all machines of the cluster see this folder?'
        )
    entries: list[dict[str, Any]] = []
    warnings: dict[str, None] = {}
    parts = _read_parts(storage, plan)
    first = next(parts)

    def results() -> Iterator[ScoreResult]:
        for part in chain([first], parts):
            warnings.update(dict.fromkeys(part.metadata['warnings']))
            counts = {name: part.metadata[name] for name in ('rows', 'failed')}
            entries.append({'file': part.name, **counts, 'bytes': part.size})
            yield from (ScoreResult(**record) for record in part.table.to_pylist())

    scale, lower_better = first.metadata['scale'], first.metadata['lower_better']
    note = first.metadata.get('note', '')  # version 0.1.0 wrote none
    summary = summarise(results(), top, lower_better)
    if summary.count != plan.rows:
        raise AMHPError(
            f'{plan.folder}: {summary.count} rows, expected {plan.rows}; has it been changed?'
        )
    manifest = {
        'settings': plan.settings,
        'scale': scale,
        **({'note': note} if note else {}),
        'rows': summary.count,
        'failed': summary.failed,
        'parts': entries,
    }
    storage.write(f'{plan.folder}/{MANIFEST}', json.dumps(manifest, indent=1).encode())
    return Report(plan.folder, summary, scale, plan.shards, shards_before, list(warnings), note)


@dataclass
class _Part:
    """What a summary needs of a part file.

    Attributes:
        name: name of the file.
        size: bytes of the file.
        metadata: see ``actors.METADATA``.
        table: ``path``, ``score``, ``prompt_source`` and ``error`` of its images.
    """

    name: str
    size: int
    metadata: dict[str, Any]
    table: pa.Table


def _read_parts(storage: Storage, plan: ShardPlan) -> Iterator[_Part]:
    """Read the part files in their order, some of them ahead."""

    def read(shard: int) -> _Part:
        name = part_name(shard)
        content = storage.read(f'{plan.folder}/{name}')
        try:
            with pq.ParquetFile(pa.BufferReader(content)) as file:
                metadata = json.loads(file.schema_arrow.metadata[METADATA])
                # Version 0.1.0 wrote `text_source`.
                is_new = 'prompt_source' in file.schema_arrow.names
                columns = ['path', 'score', 'prompt_source' if is_new else 'text_source', 'error']
                table = file.read(columns).select(columns)
        except (ValueError, KeyError, TypeError) as error:  # pyarrow's are ValueErrors
            raise AMHPError(
                f'{plan.folder}/{name}: not a part of this job; delete it, and run the command '
                'again'
            ) from error
        names = ['path', 'score', 'prompt_source', 'error']
        return _Part(name, len(content), metadata, table.rename_columns(names))

    shards = iter(range(plan.shards))
    with ThreadPoolExecutor(READERS) as pool:
        while chunk := list(islice(shards, 4 * READERS)):
            yield from pool.map(read, chunk)
