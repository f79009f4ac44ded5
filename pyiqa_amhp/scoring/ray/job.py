"""Jobs on a cluster: plan, score, write, and go on where an earlier run ended."""

import json
import logging
import os
import re
import socket
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tqdm import tqdm

from pyiqa_amhp.errors import AMHPError, ImageReadError
from pyiqa_amhp.scoring.ray.actors import METADATA, BatchScorer, PartScorer, ScorerConfig
from pyiqa_amhp.scoring.ray.plan import Plan, Source, part_name, read_plan, write_plan
from pyiqa_amhp.scoring.ray.storage import Files, hidden, scheme_of
from pyiqa_amhp.scoring.result import ScoreResult, Summary, summarise
from pyiqa_amhp.scoring.writer import check_settings, describe_inputs, plain_options, short_digest
from pyiqa_amhp.utils.environment import version_of
from pyiqa_amhp.weights.hub import fetch_model, hub_id, is_hub_id

try:
    import ray
    import ray.data
except ImportError as error:
    raise AMHPError("Ray is missing: pip install 'pyiqa-amhp[ray]'") from error

MANIFEST = '_manifest.json'
MAX_CPUS = 4  # of an actor without a GPU: more threads than that gain little (our choice)


@dataclass
class Report:
    """What became of a job.

    Attributes:
        folder: of the parts, without what is secret in its address.
        summary: of all rows.
        scale: of the metric. warnings: what it said while it worked.
        parts: how many there are. before: how many of them an earlier run had written.
    """

    folder: str
    summary: Summary
    scale: str
    parts: int
    before: int
    warnings: list[str] = field(default_factory=list)


def score_folder(
    inputs: Iterable[str],
    out: str,
    judgement: ScorerConfig,
    text: str | None = None,
    texts: str | Path | None = None,
    columns: dict[str, str] | None = None,
    part_rows: int | None = None,
    address: str | None = None,
    actors: int | None = None,
    top: int | None = 10,
) -> Report:
    """Score images on a Ray cluster into a folder of Parquet files, ``part-000000.parquet`` ...

    The same call goes on where an earlier one ended. ``_manifest.json`` is there once all parts
    are.

    Args:
        inputs: images, folders, globs; ``.csv`` and ``.parquet`` files of paths and texts, or with
            images in them. Local names or addresses, see ``cluster.files``.
        out: the folder, which all machines of the cluster must see.
        judgement: the metric and its options.
        text: said about all images. texts: a CSV with ``img_name`` and ``text``.
        columns: of tables, see ``plan.COLUMNS``.
        part_rows: rows of a part; None: see ``plan.SHARES``.
        address: of the cluster, for ``ray.init``; None: the one that ``RAY_ADDRESS`` names, or this
            machine.
        actors: how many models; None: one for each GPU, else for each four CPUs.
        top: how many of the best rows to give back.

    Raises:
        AMHPError: inputs, weights or a cluster that cannot be used; an earlier run in this folder
            with other settings; parts that could not be made.
    """
    inputs = [str(name) for name in inputs]
    files = Files([*inputs, str(out)])
    out = hidden(str(out)).rstrip('/')
    if text is not None and texts is not None:
        raise AMHPError('give one text for all images or a CSV of texts, not both')
    judgement = replace(judgement, weights=_weights(judgement))
    given = None if texts is None else Path(texts)
    settings = _settings(inputs, judgement, text, given, columns)
    plan, done = read_plan(files, out), _done(files, out)
    if plan and done:
        check_settings(plan.settings, settings, out, 'the folder')
    elif done:
        raise AMHPError(f'{out}: parts without a plan lie here; give another folder')
    elif plan is None or plan.settings != settings or part_rows:
        source = Source(files, inputs, text, _given_texts(given), columns, part_rows)
        plan = write_plan(source, out, settings)
    missing = [number for number in range(plan.parts) if number not in done]
    if missing:
        with _cluster(address) as alone:
            _run(plan, files, judgement if alone else _shared(judgement), missing, actors)
    return _finish(files, plan, top, before=plan.parts - len(missing))


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
        ds: rows with images as bytes, paths (see ``cluster.files``), or decoded pixels as
            ``ray.data.read_images`` gives them.
        metric: any no-reference metric of pyiqa. weights: a checkpoint, or an ``hf-hub:`` id.
        image: the column of images; None: ``bytes``, ``image`` or ``path``, the first of them.
        text: the column of texts; None: ``text`` where there is one.
        batch_rows: rows of a call, which are read ahead of each other.
        actors: how many models; None: one for each GPU of the cluster, else for each four CPUs.
        scoring: of ``score_images``: ``batch_size``, ``exact``, ``max_pixels`` ...
        **options: of AMHP: ``engine``, ``precision``, ``compile`` ...

    Returns:
        The rows without the images, with ``score``, ``text_source``, ``p_<level>`` and ``error``
        (why there is no score, else ''), in place of columns of these names.

    Raises:
        AMHPError: no such column; weights that cannot be used.
    """
    there = ds.columns() or []
    image = image or next((c for c in ('bytes', 'image', 'path') if c in there), None)
    text = text or ('text' if 'text' in there else None)
    if missing := {image or 'bytes, image or path', text or image} - {*there, None}:
        raise AMHPError(f'no column {", ".join(sorted(missing))}; there are {", ".join(there)}')
    judgement = ScorerConfig(metric, weights, options=options, scoring=scoring or {})
    judgement = _shared(replace(judgement, weights=_weights(judgement)))
    return ds.map_batches(
        BatchScorer,
        fn_constructor_args=(judgement, image, text, Files([])),
        batch_size=batch_rows,
        batch_format='pyarrow',
        **_actors(actors, spare=1),
    )


def _weights(judgement: ScorerConfig) -> str | None:
    """The checkpoint that this machine would use: others know neither its store nor its folders."""
    from pyiqa_amhp.plugin import METRIC_CONFIGS

    weights = judgement.weights
    config = METRIC_CONFIGS.get(judgement.metric, {}).get('metric_opts', {})
    if weights is None and config.get('type') == 'AMHP' and 'pretrained' not in config:
        from pyiqa_amhp.weights.store import default_weights

        weights = default_weights(config.get('dataset', 'ava'))
    if weights is None:
        return None
    if is_hub_id(weights):
        return str(fetch_model(hub_id(weights)))  # once, not by every machine
    path = Path(weights).expanduser().absolute()
    if not path.is_file():
        raise AMHPError(f'{weights}: no such file')
    return str(path)


def _settings(inputs, judgement: ScorerConfig, text, texts: Path | None, columns) -> dict[str, Any]:
    """What the scores depend on, without what is secret in addresses."""
    weights = judgement.weights
    if weights:
        weights = _digest_of(weights)
    given = plain_options(
        {
            **judgement.options,
            **judgement.scoring,
            'text': text,
            'texts': texts,
            'columns': columns,
        }
    )
    for name in ('batch_size', 'workers'):  # nothing of a score depends on them
        given.pop(name, None)
    if not all(scheme_of(name) or os.path.isabs(name) for name in inputs):
        given['folder'] = os.getcwd()  # of relative names
    return json.loads(
        json.dumps({
            'inputs': describe_inputs([hidden(name) for name in inputs]),
            'metric': judgement.metric,
            'weights': weights or 'none',
            'version': version_of('pyiqa-amhp'),
            **given,
        })
    )  # fmt: skip


def _digest_of(weights: str) -> str:
    """Of some 1,000 places of a large file, and its size: training changes all of it."""
    size = os.path.getsize(weights)
    with open(weights, 'rb') as file:
        sample = [str(size).encode()]
        for place in range(0, size, max(4096, size // 1000)):
            file.seek(place)
            sample.append(file.read(4096))
    return short_digest(b''.join(sample))


def _given_texts(path: Path | None):
    if path is None:
        return None
    from pyiqa_amhp.datasets.texts import TextLookup

    return TextLookup(path)


def _done(files: Files, out: str) -> set[int]:
    """The numbers of the parts that are there; each is whole, since it is written so."""
    names = (name.removeprefix('part-').removesuffix('.parquet') for name in files.listed(out))
    return {int(name) for name in names if name.isdecimal()}


@contextmanager
def _cluster(address: str | None) -> Iterator[bool]:
    """The cluster of this process: one that is there, the one that is named, or a local one.

    Yields:
        Whether it is this machine alone, and stays so.
    """
    logging.getLogger('ray.data').setLevel(logging.CRITICAL)  # errors come as exceptions
    # Ray's native part writes to the terminal what its own data sets do wrong.
    os.environ.setdefault('RAY_BACKEND_LOG_LEVEL', 'fatal')
    if ray.is_initialized():
        yield False
        return
    os.environ.setdefault('RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO', '0')  # its wish, as it warns
    here = address is None and 'RAY_ADDRESS' not in os.environ
    options = {'include_dashboard': False} if here else {}
    try:
        check_reachable(address)
        with _quiet_start():
            ray.init(address, logging_level='error', log_to_driver=False, **options)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise AMHPError(
            f'no Ray cluster at {address or "this machine"} ({str(error).splitlines()[0]}); '
            'expected the address of a running one (host:6379, ray://host:10001, auto)'
        ) from error
    try:
        yield here
    finally:
        ray.shutdown()


def check_reachable(address: str | None) -> None:
    """Raise in seconds where nobody listens at ``host:port``, for which Ray waits many minutes."""
    if found := re.fullmatch(r'(?:ray://)?\[?([^/]+?)\]?:(\d+)', address or ''):
        socket.create_connection((found[1], int(found[2])), timeout=10).close()


def _run(plan: Plan, files: Files, judgement: ScorerConfig, missing: list[int], actors) -> None:
    """Score and write these parts."""
    ray.data.DataContext.get_current().enable_progress_bars = False  # ours counts images
    parts = ray.data.from_items(
        [{'part': number} for number in missing],
        override_num_blocks=len(missing),  # one for each task, which is what is done again
    )
    scored = parts.map_batches(
        PartScorer, fn_constructor_args=(judgement, plan, files), batch_size=1, **_actors(actors)
    )
    about = round(plan.rows * len(missing) / plan.parts)
    try:
        with tqdm(total=about, desc='Scoring', disable=None, leave=False) as bar:
            for batch in scored.iter_batches(batch_size=None):
                bar.update(int(batch['rows'].sum()))
    except (ray.exceptions.RayError, RuntimeError, ValueError) as error:
        raise AMHPError(
            f'{_cause(error)} (the parts that are done stay in {plan.folder}; the same command '
            'goes on with them)'
        ) from error


def _cause(error: BaseException) -> str:
    """What went wrong on another machine, from the traceback that Ray passes on as a text."""
    first = str(error).strip().partition('\n\nThe above exception')[0]
    if found := re.findall(r'^(?:\w+\.)*(\w+): (.+?)\Z', first, re.MULTILINE | re.DOTALL):
        kind, text = found[-1]
        return text if kind in (AMHPError.__name__, ImageReadError.__name__) else f'{kind}: {text}'
    return f'{type(error).__name__}: {first.splitlines()[-1] if first else ""}'


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Ray's native part says on the terminal how much it will say there."""
    sys.stderr.flush()
    saved, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nothing)


def _shared(judgement: ScorerConfig) -> ScorerConfig:
    """With the weights where every machine gets them, also one that joins later."""
    if judgement.weights is None:
        return judgement
    return replace(judgement, content=ray.put(Path(judgement.weights).read_bytes()))


def _actors(wanted: int | None, spare: int = 0) -> dict[str, Any]:
    """How many actors with how many CPUs and GPUs, for ``map_batches``.

    Args:
        spare: CPUs that each machine keeps for tasks that read and write; an actor takes none where
            none would be left.
    """
    nodes = [node['Resources'] for node in ray.nodes() if node['Alive']]
    gpus = int(sum(node.get('GPU', 0) for node in nodes))
    cpus = [node['CPU'] - spare for node in nodes if node.get('CPU', 0) > spare] or [0]
    if gpus:
        shares = [(node.get('CPU', 0) - spare) // node['GPU'] for node in nodes if node.get('GPU')]
        each, size = max(0, int(min(shares))), gpus
    else:
        each = int(min(MAX_CPUS, *cpus))
        size = int(sum(cpu // each for cpu in cpus)) if each else 1
    size = wanted or size
    return {
        'num_cpus': each,
        'num_gpus': 1 if gpus else 0,
        'compute': ray.data.ActorPoolStrategy(min_size=1, max_size=size, initial_size=size),
    }


def _finish(files: Files, plan: Plan, top: int | None, before: int) -> Report:
    """Look at all parts, and write the manifest."""
    if missing := sorted(set(range(plan.parts)) - _done(files, plan.folder)):
        raise AMHPError(
            f'{plan.folder}: {len(missing)} of {plan.parts} parts are missing (first: '
            f'{part_name(missing[0])}); do all machines of the cluster see this folder?'
        )
    entries: list[dict[str, Any]] = []
    said: dict[str, Any] = {}
    warnings: dict[str, None] = {}

    def rows() -> Iterator[ScoreResult]:
        for number, (metadata, size, table) in enumerate(_read_parts(files, plan)):
            said.update(metadata)
            warnings.update(dict.fromkeys(metadata['warnings']))
            counts = {name: metadata[name] for name in ('rows', 'failed')}
            entries.append({'file': part_name(number), **counts, 'bytes': size})
            yield from (ScoreResult(**record) for record in table.to_pylist())

    summary = summarise(rows(), top, said.get('lower_better', False))
    if summary.count != plan.rows:
        raise AMHPError(
            f'{plan.folder}: {summary.count} rows, expected {plan.rows}; has it been changed?'
        )
    manifest = {
        'settings': plan.settings,
        'scale': said['scale'],
        'rows': summary.count,
        'failed': summary.failed,
        'parts': entries,
    }
    files.write(f'{plan.folder}/{MANIFEST}', json.dumps(manifest, indent=1).encode())
    return Report(plan.folder, summary, said['scale'], plan.parts, before, list(warnings))


def _read_parts(files: Files, plan: Plan) -> Iterator[tuple]:
    """Of each part, in their order: what it says of itself, its size, what a summary needs."""

    def read(number: int):
        name = f'{plan.folder}/{part_name(number)}'
        filesystem, path = files.at(name)
        try:
            with filesystem.open_input_file(path) as source, pq.ParquetFile(source) as file:
                metadata = json.loads(file.schema_arrow.metadata[METADATA])
                return (
                    metadata,
                    source.size(),
                    file.read(['path', 'score', 'prompt_source', 'error']),
                )
        except (ValueError, KeyError, TypeError) as error:  # pyarrow's are ValueErrors
            raise AMHPError(
                f'{name}: not a part of this job; delete it, and run the command again'
            ) from error

    numbers = iter(range(plan.parts))
    with ThreadPoolExecutor(8) as pool:
        while several := list(islice(numbers, 32)):
            yield from pool.map(read, several)
