"""Whether explanations say what raters see: attributes of rated and of edited photographs.

    python perf/explanations.py --weights net_best.pth --data attributes.csv --images imgs/

The model has `predictor: levels`; the CSV has `attr_<name>` columns with the raters' means, as
`amhp prepare para` writes it. Three questions, on the photographs of its test split:

1. Does the level of an attribute, the mean under its predicted probabilities, rank photographs as
   the raters' means do (SRCC)? Raters' means of different attributes are much alike, so two columns
   show what is left of it: the SRCC of the predicted score with the same means, and the partial
   SRCC of the level, given the raters' mean score.
2. Does the score rise if the sentence about an attribute names the next better level?
3. On edited photographs, does the level of the edited attribute fall, and does the score?

An attribute counts as learned if its SRCC is at least 0.5, and then its level must fall in 80 % of
the strong edits (both our choice). All numbers are those of `amhp explain`; a line of the output
compares them.
"""

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import aligned, machine
from edits import CONTROLS, EDITS, STRENGTHS, Edit
from PIL import Image
from scipy import stats
from tqdm import tqdm

LEARNED, BOUND = 0.5, 80  # SRCC; per cent of strong edits
RESAMPLES = 1000  # of the bootstrap over photographs
COMPARED = 2  # photographs of which every edit is explained by `amhp explain` too


@dataclass(frozen=True)
class Reading:
    """What a model says about N images.

    Attributes:
        levels: the mean level of each attribute under its probabilities, ``(N, A)``, from 1.
        shown: the likeliest level, which explanations show, ``(N, A)``, from 1.
        scores: the scores, ``(N,)``.
    """

    levels: np.ndarray
    shown: np.ndarray
    scores: np.ndarray


def read(net, images: list[Image.Image]) -> Reading:
    """Score images and predict the levels of their attributes, as ``amhp explain`` does."""
    import torch

    from pyiqa_amhp.explain.explanation import predict_attributes

    with torch.no_grad():
        x = torch.cat([net.preprocess(net.read_input(image)) for image in images])
        Fx = net.backbone.encode_image(x)
        scores = net.head(Fx, net.attribute_prompt([''] * len(x), Fx).Ft)[0][:, 0]
        attributes = [predict_attributes(net, row[None])[0] for row in Fx]
    return as_reading(attributes, scores.double().numpy())


def as_reading(attributes: list, scores: Iterable[float]) -> Reading:
    """Make a reading of N images from the attributes of their explanations and their scores."""
    p = np.array([[list(a.levels.values()) for a in each] for each in attributes])  # (N, A, k)
    return Reading(mean_levels(p), p.argmax(-1) + 1, np.array(scores))


def mean_levels(p: np.ndarray) -> np.ndarray:
    """Average levels, numbered from 1, under their probabilities ``(..., k)``."""
    return p @ np.arange(1, p.shape[-1] + 1)


def versions(image: Image.Image, number: int) -> list[Image.Image]:
    """Make the image itself and all its edits, in the order of ``settings``."""
    return [image, *(edit.apply(image, strength, number) for edit, strength in settings())]


def settings() -> list[tuple[Edit, float]]:
    """List edits and strengths."""
    return [(edit, strength) for edit in (*EDITS, *CONTROLS) for strength in edit.strengths]


def rank_agreement(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Compute SRCC and its 95 % interval (NaN where there is none)."""
    from pyiqa_amhp.evaluation.measures import evaluate

    value = evaluate(x, y, threshold=0, mapping='ranks only', resamples=RESAMPLES).values['srcc']
    numbers = (value.value, value.low, value.high)
    return tuple(np.nan if number is None else number for number in numbers)


def partial_srcc(x: np.ndarray, y: np.ndarray, given: np.ndarray) -> float:
    """Compute the SRCC of x and y with the ranks of a third variable held constant."""
    r = np.corrcoef(stats.rankdata([x, y, given], axis=1))
    xy, xz, yz = r[0, 1], r[0, 2], r[1, 2]
    return float((xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2)))


def partial_agreement(x, y, given) -> tuple[float, float, float]:
    """Compute the partial SRCC and its 95 % interval (percentile bootstrap, seed 0)."""
    rng, values = np.random.default_rng(0), np.stack([x, y, given])
    with np.errstate(all='ignore'):  # resamples without a value are left out
        samples = (values[:, rng.integers(0, len(x), len(x))] for _ in range(RESAMPLES))
        resampled = np.array([partial_srcc(*sample) for sample in samples])
        finite = resampled[np.isfinite(resampled)]
        low, high = np.quantile(finite, [0.025, 0.975]) if len(finite) else (np.nan, np.nan)
        return partial_srcc(x, y, given), float(low), float(high)


def share(holds: np.ndarray) -> tuple[float, float, float]:
    """Compute the per cent of True and its 95 % interval (Wilson)."""
    result = stats.binomtest(int(holds.sum()), holds.size)
    interval = result.proportion_ci(method='wilson')
    return 100 * result.statistic, 100 * interval.low, 100 * interval.high


def agreement_rows(names: Iterable[str], original: Reading, rated, mos, moves) -> list[list[str]]:
    """Make the rows of the first table, an attribute each.

    Args:
        names: the A attributes.
        original: readings of N photographs.
        rated: the raters' means of the attributes, ``(N, A)``.
        mos: their mean scores, ``(N,)``.
        moves: changes of the score by the next better and the next worse level, ``(N, A, 2)``, NaN
            where there is no such level.
    """
    rows = [['attribute', 'SRCC', 'of the score', 'partial, given MOS', 'learned',
             'rises with better', 'falls with worse', 'mean changes']]  # fmt: skip
    for i, name in enumerate(names):
        level, y = original.levels[:, i], rated[:, i]
        srcc = rank_agreement(level, y)
        up, down = (column[np.isfinite(column)] for column in moves[:, i].T)
        rows.append([
            name, interval(srcc, 2), interval(rank_agreement(original.scores, y), 2),
            interval(partial_agreement(level, y, mos), 2), 'yes' if srcc[0] >= LEARNED else 'no',
            percent(up > 0), percent(down < 0), f'{mean(up):+.3f}, {mean(down):+.3f}',
        ])  # fmt: skip
    return rows


def edit_rows(
    names: list[str], original: Reading, edited: list[Reading], learned: dict[str, bool]
) -> list[list[str]]:
    """Make the rows of the second table: edits of an attribute of the model, at each strength.

    Args:
        names: the A attributes.
        original: readings of N photographs.
        edited: readings of their edits, in the order of ``settings``.
        learned: which attributes the model has learned.
    """
    rows = [['edit', 'strength', 'attribute', 'its level falls %', 'more than JPEG %',
             'more than the others %', 'shown level falls %', 'mean change', 'score falls %',
             'mean change', f'bound {BOUND} %']]  # fmt: skip
    noise = noise_by_attribute(original, edited)
    for (edit, strength), reading in zip(settings(), edited, strict=True):
        if not edit.attribute or edit.attribute not in names:
            continue
        i = names.index(edit.attribute)
        change = reading.levels - original.levels  # (N, A)
        falls = share(change[:, i] < 0)
        verdict = ''
        if strength == edit.strengths[-1]:
            verdict = 'holds' if falls[0] >= BOUND else 'misses'
            verdict = verdict if learned[edit.attribute] else 'not learned'
        others = np.delete(change, i, axis=1).mean(axis=1) if len(names) > 1 else 0
        word = STRENGTHS[edit.strengths.index(strength)]
        rows.append([
            edit.name, f'{word}: {edit.unit.format(strength)}', edit.attribute, interval(falls, 0),
            percent(change[:, i] < -noise[i]), percent(change[:, i] < others),
            percent(reading.shown[:, i] < original.shown[:, i]), f'{mean(change[:, i]):+.2f}',
            *score_cells(original, reading), verdict,
        ])  # fmt: skip
    return rows


def noise_by_attribute(original: Reading, edited: list[Reading]) -> np.ndarray:
    """Find the change of a level that 95 % of photographs stay below as JPEG, ``(A,)``."""
    place = [edit.name for edit, _ in settings()].index('JPEG')
    return np.quantile(np.abs(edited[place].levels - original.levels), 0.95, axis=0)


def control_rows(names: list[str], original: Reading, edited: list[Reading]) -> list[list[str]]:
    """Make the rows of the third table: falls and mean changes of all levels in the controls."""
    rows = [['control', 'strength', *names, 'score falls %', 'mean change']]
    for (edit, strength), reading in zip(settings(), edited, strict=True):
        if edit.attribute:
            continue
        change = reading.levels - original.levels
        cells = [f'{percent(column < 0)}, {mean(column):+.2f}' for column in change.T]
        unit = edit.unit.format(strength)
        rows.append([edit.name, unit, *cells, *score_cells(original, reading)])
    return rows


def score_cells(original: Reading, reading: Reading) -> tuple[str, str]:
    """Format the share of photographs whose score falls, and the mean change."""
    change = reading.scores - original.scores
    return percent(change < 0), f'{mean(change):+.2f}'


def mean(values: np.ndarray) -> float:
    """Average; NaN for no value."""
    return float(np.mean(values)) if len(values) else np.nan


def percent(holds: np.ndarray) -> str:
    """Format the share of True in per cent; – for no value."""
    return f'{100 * holds.mean():.0f}' if len(holds) else '–'


def interval(numbers: tuple[float, float, float], digits: int) -> str:
    """Format a value and its interval, as in ``0.71 [0.66, 0.75]``; – for no value."""
    if np.isnan(numbers[0]):
        return '–'
    value, low, high = (f'{number:.{digits}f}' for number in numbers)
    return value if np.isnan(numbers[1]) else f'{value} [{low}, {high}]'


def load(arguments: argparse.Namespace):
    """Read the model, the names and ratings of the photographs, and the raters' means.

    Returns:
        The model, the paths of N photographs, their mean scores ``(N,)``, and the raters' means
        ``(N, A)`` of the model's attributes.

    Raises:
        AMHPError: a model without levels of attributes, or a table without their means.
    """
    from pyiqa_amhp.datasets.csv import get_column, read_csv, to_numbers
    from pyiqa_amhp.datasets.rated_images import read_table
    from pyiqa_amhp.errors import AMHPError
    from pyiqa_amhp.model.amhp import AMHP

    net = AMHP(pretrained_model_path=str(arguments.weights)).eval()
    if net.config.predictor != 'levels':
        raise AMHPError(
            f'{arguments.weights}: predictor={net.config.predictor!r}; expected a model that was '
            'trained with predictor: levels and attribute_labels: true'
        )
    data = str(arguments.data)
    images = read_table({
        'meta_info_file': data, 'dataroot_target': str(arguments.images), 'text_source': 'none',
        'level_values': list(net.config.level_values), 'dataset': net.config.dataset,
    }).of_phase('test', arguments.split_column)  # fmt: skip
    columns = read_csv(data, ('img_name',)).loc[images.rows]
    rated = np.stack(
        [to_numbers(get_column(columns, f'attr_{a}', data), data) for a in net.config.attributes],
        axis=1,
    )
    paths = [Path(images.path(i)) for i in range(len(images.names))]
    return net, paths, images.mos, rated


@dataclass(frozen=True)
class Measured:
    """What a model says about N photographs, and about the edits of M of them.

    Attributes:
        original: what explanations of all photographs say.
        moves: changes of the score by better and worse levels, ``(N, A, 2)``.
        before: ``original`` of the M photographs that are edited.
        edited: readings of their edits, in the order of ``settings``.
        difference: the largest difference between a reading and the explanation of the same image.
    """

    original: Reading
    moves: np.ndarray
    before: Reading
    edited: list[Reading]
    difference: float


def measure(net, paths: list[Path], count: int | None = None) -> Measured:
    """Explain photographs, and read the edits of some of them, evenly spaced.

    Args:
        net: a model with ``predictor: levels``.
        paths: N photographs.
        count: M, the photographs that are edited; None: all.
    """
    from pyiqa_amhp.datasets.images import read_image

    chosen = np.unique(np.linspace(0, len(paths) - 1, count or len(paths)).astype(int))
    originals, moves, edits, differences = [], [], [], []
    for number, path in enumerate(tqdm(paths, unit='photograph')):
        image = read_image(path)
        explanation = net.explain(image)
        originals.append(as_reading([explanation.attributes], [explanation.score]))
        moves.append([[a.up, a.down] for a in explanation.attributes])
        if number in chosen:
            images = versions(image, number)
            edits.append(read(net, images))
            same = originals[-1] if number not in chosen[:COMPARED] else explained(net, images)
            for ours, theirs in (
                (edits[-1].levels, same.levels),
                (edits[-1].scores, same.scores),
            ):
                differences.append(float(np.abs(ours[: len(theirs)] - theirs).max()))
    original = join(originals)
    return Measured(
        original,
        np.array(moves, float),
        Reading(*(part[chosen] for part in vars(original).values())),
        [
            Reading(*(np.stack(part) for part in zip(*rows, strict=True)))
            for rows in zip(*(list(rows_of(reading))[1:] for reading in edits), strict=True)
        ],
        max(differences),
    )


def explained(net, images: list[Image.Image]) -> Reading:
    """Take levels and scores from the explanations of images."""
    explanations = [net.explain(image) for image in images]
    return as_reading([e.attributes for e in explanations], [e.score for e in explanations])


def rows_of(reading: Reading) -> Iterable[tuple]:
    """List the parts of a reading by image."""
    return zip(*vars(reading).values(), strict=True)


def join(readings: list[Reading]) -> Reading:
    """Join readings of several images."""
    return Reading(
        *(np.concatenate(p) for p in zip(*(vars(r).values() for r in readings), strict=True))
    )


def main() -> None:
    """Run the measurement from the command line."""
    from pyiqa_amhp.errors import AMHPError

    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--weights', type=Path, required=True, help='a trained checkpoint')
    parser.add_argument('--data', type=Path, required=True, help='CSV with img_name, MOS, attr_*')
    parser.add_argument('--images', type=Path, required=True, help='the folder of the images')
    parser.add_argument('--split-column', default='official_split', help="'' for all images")
    parser.add_argument('--edited', type=int, help='photographs to edit; default: all of them')
    arguments = parser.parse_args()
    if arguments.edited is not None and arguments.edited < 1:
        parser.error(f'--edited {arguments.edited}: expected at least 1')
    try:
        net, paths, mos, rated = load(arguments)
        found = measure(net, paths, arguments.edited)
    except AMHPError as error:
        sys.exit(f'{parser.prog}: {error}')
    names = list(net.config.attributes)
    first = agreement_rows(names, found.original, rated, mos, found.moves)
    learned = {row[0]: row[4] == 'yes' for row in first[1:]}
    edits = edit_rows(names, found.before, found.edited, learned)
    score = interval(rank_agreement(found.original.scores, mos), 3)
    print(f'{len(paths)} photographs, score without texts: SRCC {score}\n{machine()}')
    print(f'largest difference from `amhp explain`: {found.difference:.1g}')
    print(f'\nRaters and explanations\n\n{aligned(first)}')
    print(f'\nEdits of {len(found.before.scores)} photographs\n\n{aligned(edits)}')
    controls = aligned(control_rows(names, found.before, found.edited))
    print(f'\nControls: per cent of photographs whose level falls, mean change\n\n{controls}')


if __name__ == '__main__':
    main()
