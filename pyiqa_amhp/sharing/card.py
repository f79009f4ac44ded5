"""Model card of a trained AMHP: what its records say, and "not recorded" for everything else."""

import math
import re
from collections.abc import Iterable
from typing import Any, TypeGuard

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from pyiqa_amhp.datasets.ratings import SCALES
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.model.clip_weights import repository_of
from pyiqa_amhp.model.config import LITE, AMHPConfig
from pyiqa_amhp.sharing.evidence import Evidence
from pyiqa_amhp.utils.text import printable
from pyiqa_amhp.weights.hub import HubId

TASK = 'image-classification'  # the hub's nearest task: a probability for each quality level
TAGS = ['image-aesthetics', 'image-quality-assessment', 'aesthetics', 'pyiqa', 'amhp', 'clip']
METRIC_IDS = {  # the hub's names of metrics, if it has one
    'calculate_acc': 'accuracy', 'calculate_mse': 'mse', 'calculate_srcc': 'spearmanr',
    'calculate_plcc': 'pearsonr',
}  # fmt: skip
DATASETS = {'AVACommentsDataset': 'ava', 'PARADataset': 'para', 'AADBDataset': 'aadb'}
METRICS = {'para': 'amhp-para', 'aadb': 'amhp-aadb'}
UNKNOWN = 'not recorded'
TEXT_SOURCES = {
    'comments': "the images' own comments", 'labels': "labels of the images' own attributes",
    'none': 'none', 'given': 'given', 'predicted': 'predicted by the model',
}  # fmt: skip
MAX_LENGTH = 200  # characters of a name or a value in the card (our choice)

CARD = """# {title}

{note}An [AMHP](#citation) that scores the aesthetics of a photograph on a scale from {low:g} to
{high:g}, from the image{and_text}. **Independent implementation**: made with pyiqa-amhp, not by the
paper's authors.

## Use

With pyiqa-amhp installed:

```python
import pyiqa

metric = pyiqa.create_metric('{metric}', pretrained_model_path='{id}')
metric('photo.jpg'{text})
```

```sh
amhp score photos/ --metric {metric} --weights {id}
amhp weights add {id} --as {store}       # the default weights of `{metric}` from now on
```

Without pyiqa-amhp: `model.safetensors` holds the tensors and `config.json` the configuration.

## Results

{results}

## Model

{model}

## Training

{training}

## Limits

{limits}

## Licence

{licence}

## Citation

```bibtex
@inproceedings{{amhp2024,
  title     = {{Attribute-Driven Multimodal Hierarchical Prompts for Image Aesthetic Quality
               Assessment}},
  booktitle = {{ACM Multimedia}},
  year      = {{2024}}
}}
```

The paper describes the method. These weights and this implementation are not its authors' work.
"""


def model_card(
    model: HubId, config: AMHPConfig, evidence: Evidence, parameters: int, licence: str | None
) -> ModelCard:
    """Write the model card of weights.

    Args:
        model: their id on the hub.
        config: their configuration.
        evidence: their records.
        parameters: number of parameters.
        licence: the hub's name of a licence, such as ``apache-2.0``; None: none is stated.

    Raises:
        AMHPError: an invalid licence name.
    """
    if licence is not None and not re.fullmatch(r'[a-z0-9][a-z0-9.-]*', licence):
        raise AMHPError(
            f"licence {licence!r}: expected one of the hub's names, such as apache-2.0, mit, "
            'cc-by-nc-4.0 or other'
        )
    scale = SCALES[config.dataset]
    ends = config.level_values
    if ends == scale.level_values:
        ends = scale.vote_values
    body = CARD.format(
        title=model.repo.split('/')[1],
        id=model,
        metric=METRICS.get(config.dataset, 'amhp'),
        store=config.dataset,
        note=f'**Note:** {_code(config.note)}\n\n' if config.note else '',
        low=ends[0],
        high=ends[-1],
        and_text=' and comments on it' if config.uses_attributes else ' alone',
        text=", text='Lovely soft light, strong diagonals'" if config.uses_attributes else '',
        results=_results(config, evidence),
        model=_model(config, parameters),
        training=_training(evidence),
        limits='\n'.join(f'- {limit}' for limit in _limits(config, evidence)),
        licence=_licence(licence),
    )
    data = _metadata(model, config, evidence, licence)
    return ModelCard(f'---\n{data.to_yaml()}\n---\n\n{body}')


def _metadata(
    model: HubId, config: AMHPConfig, evidence: Evidence, licence: str | None
) -> ModelCardData:
    training = evidence.training or {}
    dataset = _look_up(DATASETS, _section(training, 'data', 'train').get('type'))
    results = [result for row in evidence.measured for result in _eval_results(row, config)]
    from_clip = _section(training, 'network').get('pretrained') == 'clip'
    return ModelCardData(
        license=licence,
        library_name='pyiqa-amhp',
        pipeline_tag=TASK,
        tags=TAGS,
        datasets=[dataset] if dataset else None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        base_model=repository_of(config) if from_clip else None,
        model_name=model.repo.split('/')[1] if results else None,
        eval_results=results or None,
    )


def _eval_results(row: dict[str, Any], config: AMHPConfig) -> Iterable[EvalResult]:
    """Convert one measured row to entries of the hub's ``model-index``."""
    data = _section(row, 'data')
    metric_options = _section(row, 'metric_options')
    for text, metrics in _by_text(row, config):
        for name, value in metrics.items():
            if value is None:
                continue
            options = dict(_section(metric_options, name))
            metric_type = str(options.pop('type', name))
            options.pop('better', None)
            yield EvalResult(
                task_type=TASK,
                task_name='Image aesthetic quality assessment',
                dataset_type=_name(_look_up(DATASETS, data.get('type')) or data.get('name')),
                dataset_name=_name(data.get('name')),
                dataset_split=_name(data.get('split')),
                dataset_config=f'text: {text}',
                metric_type=METRIC_IDS.get(metric_type, _name(name)),
                metric_name=_name(name).upper(),
                metric_value=value,
                metric_args=options or None,
            )


def _results(config: AMHPConfig, evidence: Evidence) -> str:
    """Write the table of results, one line for each data set and source of the text."""
    rows = [(row, *found) for row in evidence.measured for found in _by_text(row, config)]
    if not rows:
        return 'Not recorded.'
    names = list(dict.fromkeys(name for *_, metrics in rows for name in metrics))
    lines = [
        [
            _code(_section(row, 'data').get('name')),
            _code(_section(row, 'data').get('split')),
            text,
            _number(row.get('images')),
            *(_number(metrics.get(name)) for name in names),
        ]
        for row, text, metrics in rows
    ]
    table = _table(['data', 'split', 'text', 'images', *map(_code, names)], lines)
    key = _section(evidence.training or {}, 'validation').get('key_metric')
    chosen = (
        f' The training kept the checkpoint that is best by {_code(key)} on its validation '
        'images, so results on those images are too good.'
        if key
        else ''
    )
    return f'{table}\n\nMeasured by pyiqa-amhp on exactly these weights.{chosen}'


def _by_text(row: dict[str, Any], config: AMHPConfig) -> list[tuple[str, dict[str, float | None]]]:
    """Return the metrics of a row by the source of the text, in words for the card."""
    source = _section(row, 'data').get('text_source')
    if config.prompt_source in ('none', 'predicted'):  # whatever texts the data have
        source = config.prompt_source
    usual = (_look_up(TEXT_SOURCES, source) or UNKNOWN) if config.uses_attributes else 'not read'
    if config.predictor != 'none' and source in ('comments', 'labels'):
        usual += ', predicted where there are none'
    found = [(usual, row.get('metrics'))]
    for kind, metrics in _section(row, 'by_prompt_source').items():
        found.append((_look_up(TEXT_SOURCES, kind) or UNKNOWN, metrics))
    return [(text, _metrics(metrics)) for text, metrics in found]


def _metrics(metrics: Any) -> dict[str, float | None]:
    """Return metrics by name; None for a metric that is not defined."""
    return {
        str(name): float(value) if _is_number(value) else None
        for name, value in (metrics.items() if isinstance(metrics, dict) else ())
    }


def _model(config: AMHPConfig, parameters: int) -> str:
    rows = {
        'protocol': _code(config.protocol),
        'variant': _code(config.variant),
        'image and text encoders': _code(config.backbone)
        if isinstance(config.backbone, str)
        else 'a CLIP with its own architecture (in config.json)',
        'parameters': f'{parameters:,}',
        'quality levels': ', '.join(map(_code, config.levels)),
        'level values': ', '.join(f'{value:g}' for value in config.level_values),
        'sentence of a level': _code(config.template),
        'predictor of missing texts': _code(config.predictor),
    }
    return _table(['', ''], rows.items())


def _training(evidence: Evidence) -> str:
    record = evidence.training
    if record is None:
        return f'The training of these weights is {UNKNOWN}.'
    data, train = _section(record, 'data', 'train'), _section(record, 'train')
    rows = {
        'data': _code(_look_up(DATASETS, data.get('type')) or data.get('name')),
        'table': _code(data.get('meta_info_file')),
        'split': f'{_code(data.get("split"))} of column {_code(data.get("split_index"))}',
        'images': _number(data.get('images')),
        'texts': _look_up(TEXT_SOURCES, data.get('text_source')) or UNKNOWN,
        'iterations': _number(evidence.iteration),
        'epochs': _epochs(record, evidence.iteration),
        'batch': f'{_code(data.get("batch_size_per_gpu"))} for each of '
        f'{_number(record.get("processes"))} processes',
        'seed': _code(record.get('seed')),
        'started from': _started_from(record),
        'optimiser': _code(_section(train, 'optim').get('type')),
        'learning rate': _code(_section(train, 'optim').get('lr')),
        'loss': _code(_section(train, 'mos_loss_opt').get('type')),
        'frozen encoders': _code(train.get('freeze') or 'none'),
        'software': ', '.join(_code(f'{k} {v}') for k, v in _section(record, 'versions').items()),
    }
    options = {name: record.get(name) for name in ('network', 'train', 'validation', 'data')}
    return f'{_table(["", ""], rows.items())}\n\nAll options:\n\n{_fenced(options)}'


def _epochs(record: dict[str, Any], iteration: int | None) -> str:
    per_epoch = record.get('iterations_per_epoch')
    if iteration is None or not _is_number(per_epoch) or per_epoch <= 0:
        return UNKNOWN
    return f'{iteration / per_epoch:.4g}'


def _started_from(record: dict[str, Any]) -> str:
    network = _section(record, 'network')
    if record.get('continued_from'):
        return _code(record['continued_from'])
    if network.get('pretrained') == 'clip' and network.get('backbone') == LITE:
        return 'ImageNet weights of the image encoder, and random ones of the text encoder'
    if network.get('pretrained') == 'clip':
        return f"CLIP's own weights ({_code(network.get('clip_weights') or 'openai')})"
    return 'random weights' if network.get('pretrained') is False else UNKNOWN


def _limits(config: AMHPConfig, evidence: Evidence) -> Iterable[str]:
    yield (
        'A score reflects the taste of the people who rated the training images, at their time '
        'and on such photographs. It does not measure the value of a photograph.'
    )
    if config.uses_attributes:
        kinds = {str(_section(row, 'data').get('text_source')) for row in evidence.measured}
        if kinds & {'comments', 'labels'}:
            yield (
                'For results with comments or labels, the model read the comments or labels of '
                'the very image that it scored. A new photograph has no such text, and these '
                'results do not hold for it.'
            )
        if not any('none' in _section(row, 'by_prompt_source') for row in evidence.measured):
            yield f'The accuracy for photographs without any text is {UNKNOWN}.'
        yield 'Texts longer than 77 tokens are cut.'
    else:
        yield 'It reads no text about a photograph.'
    if config.test_flip or config.crop == 'corner':
        yield (
            "Protocol `reference` has slips of the authors' code: in testing every other image is "
            'mirrored, or only the top-left corner is scored.'
        )
    origin = 'the ImageNet weights' if config.backbone == LITE else "CLIP's encoders"
    yield f'The errors and biases of {origin} are those of this model too.'


def _licence(licence: str | None) -> str:
    stated = f'`{licence}`.' if licence else 'Not stated by those who shared these weights.'
    return (
        f'{stated} The ratings and photographs of the training, and the CLIP weights that it may '
        'have started from, have terms of their own.'
    )


def _section(record: Any, *names: str) -> dict[str, Any]:
    """Return a nested section of a record, {} if there is none: a file may hold anything."""
    for name in names:
        record = record.get(name) if isinstance(record, dict) else None
    return record if isinstance(record, dict) else {}


def _look_up(table: dict[str, str], key: Any) -> str | None:
    return table.get(key) if isinstance(key, str) else None


def _is_number(value: Any) -> TypeGuard[int | float]:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def _number(value: Any) -> str:
    if not _is_number(value):
        return UNKNOWN
    return f'{value:,}' if isinstance(value, int) else f'{value:.4f}'


def _name(value: Any) -> str:
    """Write a value in one line of printable characters, shortened to ``MAX_LENGTH``."""
    text = ' '.join(printable(UNKNOWN if value is None else str(value)).split()) or UNKNOWN
    return text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 4] + ' ...'


def _code(value: Any) -> str:
    """Write a value as Markdown code, which hides Markdown and HTML in it."""
    if value is None:
        return UNKNOWN
    return f'`{_name(value).replace("`", chr(39))}`'


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    header = list(header)
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join(
        '| ' + ' | '.join(cell.replace('|', '\\|') for cell in line) + ' |' for line in lines
    )


def _fenced(options: dict[str, Any]) -> str:
    """Write options as a YAML code block, whose fence is longer than any backticks in them."""
    text = yaml.safe_dump(options, sort_keys=False, allow_unicode=True).rstrip()
    text = '\n'.join(map(printable, text.split('\n')))
    longest = max(map(len, re.findall('`+', text)), default=0)
    fence = '`' * max(3, longest + 1)
    return f'{fence}yaml\n{text}\n{fence}'
