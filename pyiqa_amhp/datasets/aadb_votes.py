"""Count AADB's votes from the rows of its crowd workers."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from pyiqa_amhp.datasets.csv import FIRST_ROW
from pyiqa_amhp.datasets.ratings import SCALES
from pyiqa_amhp.datasets.raw import Problem, add_problem, read_raw_csv
from pyiqa_amhp.errors import AMHPError

VOTE_VALUES = SCALES['aadb'].vote_values  # a worker's score r, 1 to 5, is (r - 1) / 4
VOTES = [f'c{number}' for number in range(1, len(VOTE_VALUES) + 1)]
MEAN_TOLERANCE = 0.01  # between a score and the mean of its votes (our choice)

IMAGES_PER_ROW = 10

FLICKR_NAME = re.compile(r'[a-z]+\d+_\d+_(.+)')  # server, folder, and the file name at Flickr


def read_votes(path: Path, table: pd.DataFrame, problems: list[Problem]) -> pd.DataFrame:
    """Count the votes for each image.

    The rows name a photo by its address at Flickr. Server, folder and file name of the address
    make the image's name in the lists (our reading; the publisher does not say). If no list has
    that name, the image with the same file name at Flickr is taken, if there is exactly one.

    Args:
        path: ``AADB_AllinAll.csv``, with ten addresses and ten scores in each row.
        table: ``img_name`` and ``MOS`` of the images, ``N`` rows.
        problems: list to which these are added: invalid scores, photos without an image, images
            without a photo, scores that differ from the mean of their votes.

    Returns:
        ``c1..c5``, ``N`` rows: votes for 0, 0.25, .. 1; empty for images without votes.

    Raises:
        AMHPError: not a CSV, a missing column, or no photo of these images.
    """
    urls, scores = _read_rows(path)
    used = ~pd.isna(urls)
    valid = used & np.isin(scores, range(1, len(VOTES) + 1))
    places = [
        f'{path}, row {i // IMAGES_PER_ROW + FIRST_ROW}, column '
        f'Answer.overallScore{i % IMAGES_PER_ROW + 1}'
        for i in np.flatnonzero(used & ~valid)
    ]
    add_problem(problems, f'scores that are not 1 to {len(VOTES)}; ignored', places)
    photo, addresses = pd.factorize(urls[valid])
    images = _match_photos(addresses, table['img_name'])
    known = images[photo] >= 0
    cells = images[photo][known] * len(VOTES) + scores[valid][known].astype(np.int64) - 1
    counts = np.bincount(cells, minlength=len(table) * len(VOTES)).reshape(len(table), -1)
    total = counts.sum(axis=1)
    if not total.any():
        raise AMHPError(
            f"{path}: not one of its {len(addresses)} photos is in the lists; is it AADB's? If "
            'not, remove it'
        )
    what = f'photos in {path.name} that no list names; their votes are ignored'
    add_problem(problems, what, addresses[images < 0])
    what = f'images without votes in {path.name}; only their mean is known'
    add_problem(problems, what, table['img_name'][total == 0])
    mean = counts @ np.array(VOTE_VALUES) / np.maximum(total, 1)
    off = (total > 0) & (np.abs(table['MOS'] - mean) > MEAN_TOLERANCE)
    what = f'scores that differ from the mean of their votes by more than {MEAN_TOLERANCE}; kept'
    add_problem(problems, what, table['img_name'][off])
    votes = pd.DataFrame(counts, table.index, VOTES).astype('Int64')
    votes[total == 0] = pd.NA
    return votes


def _read_rows(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read addresses and scores row by row, each ``(10 * rows,)``; NaN for unusable cells."""
    numbers = range(1, IMAGES_PER_ROW + 1)
    urls = [f'Input.image_url{number}' for number in numbers]
    scores = [f'Answer.overallScore{number}' for number in numbers]
    advice = 'download it again, or remove it (then only means are known)'
    table = read_raw_csv(path, [*urls, *scores], [], advice, dtype=str)
    answers = pd.Series(table[scores].to_numpy(object).ravel())
    numeric = pd.to_numeric(answers, errors='coerce').to_numpy(np.float64)
    return table[urls].to_numpy(object).ravel(), numeric


def _match_photos(addresses: np.ndarray, names: pd.Series) -> np.ndarray:
    """Find the image at each address.

    Returns:
        Positions in ``names``, one for each address; -1 if there is no image.
    """
    by_name: dict[str, int] = {}
    by_flickr_name: dict[str, list[int]] = {}
    for i, name in enumerate(names.str.lower()):
        by_name[name] = i
        match = FLICKR_NAME.fullmatch(name)
        by_flickr_name.setdefault(match[1] if match else name, []).append(i)
    found = []
    for address in addresses:
        parts = re.split(r'[?#]', address.strip().lower())[0].split('/')
        server, folder, file = parts[2:3], parts[-2:-1], parts[-1]  # after 'https:' and ''
        full_name = '_'.join((*(host.split('.')[0] for host in server), *folder, file))
        image = by_name.get(full_name, by_name.get(file))
        candidates = by_flickr_name.get(file, []) if image is None else [image]
        found.append(candidates[0] if len(candidates) == 1 else -1)
    return np.array(found, np.int64)
