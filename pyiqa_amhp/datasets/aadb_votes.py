"""AADB's votes, from the rows of its crowd workers."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from pyiqa_amhp.datasets.ratings import SCALES
from pyiqa_amhp.datasets.raw import Problem, add_problem
from pyiqa_amhp.errors import AMHPError

VOTE_VALUES = SCALES['aadb'].vote_values  # workers gave 1 to 5; here (r - 1) / 4
VOTES = [f'c{number}' for number in range(1, len(VOTE_VALUES) + 1)]
MEAN_TOLERANCE = 0.01  # between a score and the mean of its votes (our choice)

FLICKR_NAME = re.compile(r'[a-z]+\d+_\d+_(.+)')  # server and folder, then the file's own name


def read_votes(path: Path, table: pd.DataFrame, problems: list[Problem]) -> pd.DataFrame:
    """Count the votes for images from the crowd workers' rows.

    A photo is known by the address it had at Flickr: server, folder and file make its name in
    the lists (our reading; the publisher does not say). Where they do not, the file's own name
    does, if one image only has it.

    Args:
        path: ``AADB_AllinAll.csv``: ten addresses and ten scores a row.
        table: ``img_name`` and ``MOS`` of the images.
        problems: gets scores that are none, photos without an image and images without a photo.

    Returns:
        ``c1..c5``, votes for 0, 0.25, .. 1, on the index of ``table``; blank where there are
        none.

    Raises:
        AMHPError: no CSV, a column that is missing, or not one photo of these images.
    """
    urls, scores = _read_rows(path)
    used = ~pd.isna(urls)
    good = used & np.isin(scores, range(1, len(VOTES) + 1))
    places = [
        f'{path}, row {i // 10 + 2}, column Answer.overallScore{i % 10 + 1}'
        for i in np.flatnonzero(used & ~good)
    ]
    add_problem(problems, f'scores that are not 1 to {len(VOTES)}; passed over', places)
    photo, addresses = pd.factorize(urls[good])
    images = _matched(addresses, table['img_name'])
    known = images[photo] >= 0
    cells = images[photo][known] * len(VOTES) + scores[good][known].astype(np.int64) - 1
    counts = np.bincount(cells, minlength=len(table) * len(VOTES)).reshape(len(table), -1)
    total = counts.sum(axis=1)
    if not total.any():
        raise AMHPError(
            f"{path}: not one of its {len(addresses)} photos is in the lists; is it AADB's? Else "
            'take it away'
        )
    what = f'photos in {path.name} that no list names; their votes are passed over'
    add_problem(problems, what, addresses[images < 0])
    what = f'images without votes in {path.name}; only their mean is known'
    add_problem(problems, what, table['img_name'][total == 0])
    mean = counts @ np.array(VOTE_VALUES) / np.maximum(total, 1)
    off = (total > 0) & (np.abs(table['MOS'] - mean) > MEAN_TOLERANCE)
    what = f'scores that are off the mean of their votes by more than {MEAN_TOLERANCE}; kept'
    add_problem(problems, what, table['img_name'][off])
    votes = pd.DataFrame(counts, table.index, VOTES).astype('Int64')
    votes[total == 0] = pd.NA
    return votes


def _read_rows(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Addresses and scores, row by row; NaN where a cell is empty or no number."""
    columns = [
        [f'{x}{i}' for i in range(1, 11)] for x in ('Input.image_url', 'Answer.overallScore')
    ]
    try:
        header = pd.read_csv(path, nrows=0, encoding_errors='replace').columns
        if missing := [name for name in columns[0] + columns[1] if name not in header]:
            raise AMHPError(
                f'{path}: no column {missing[0]!r} among its {len(header)} columns; download it '
                'again, or take it away (then only means are known)'
            )
        table = pd.read_csv(
            path, usecols=columns[0] + columns[1], encoding_errors='replace', dtype=str
        )
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise AMHPError(f'{path}: cannot be read as CSV ({error}); download it again') from error
    urls, answers = (table[names].to_numpy(object).ravel() for names in columns)
    return urls, pd.to_numeric(pd.Series(answers), errors='coerce').to_numpy(np.float64)


def _matched(addresses: np.ndarray, names: pd.Series) -> np.ndarray:
    """The place in ``names`` of the image at each address; -1 where there is none."""
    whole, own = {}, {}
    for i, name in enumerate(names.str.lower()):
        whole[name] = i
        match = FLICKR_NAME.fullmatch(name)
        own.setdefault(match[1] if match else name, []).append(i)
    found = []
    for address in addresses:
        parts = re.split(r'[?#]', address.strip().lower())[0].split('/')
        server, folder, file = parts[2:3], parts[-2:-1], parts[-1]  # after https:, ''
        built = '_'.join((*(name.split('.')[0] for name in server), *folder, file))
        place = whole.get(built, whole.get(file))
        candidates = own.get(file, []) if place is None else [place]
        found.append(candidates[0] if len(candidates) == 1 else -1)
    return np.array(found, np.int64)
