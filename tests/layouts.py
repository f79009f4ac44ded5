"""Write tiny data sets in the format of their publishers, with JPEGs that can be read.

Each is the same from call to call, and its parts are consistent: counts with raters, means with
counts, lists with matrices.
"""

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image


def write_jpeg(path: Path, brightness: float, seed: int) -> None:
    """Write an image of noise, 40 x 32, of a brightness from 0 to 1."""
    rng = np.random.default_rng(seed)
    pixels = np.clip(rng.normal(40 + 170 * brightness, 15, (32, 40, 3)), 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=90)


def edit(path: Path, change) -> Path:
    """Replace the text of a file by ``change(text)``; return its path."""
    path.write_text(change(path.read_text(encoding='utf-8')), encoding='utf-8')
    return path


def write_rows(path: Path, header: list[str], rows: list[list]) -> None:
    """Write a CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(header)
        writer.writerows(rows)


# PARA

PARA_RATERS_HEADER = [
    'sessionId', 'imageName', 'userId', 'aestheticScore', 'qualityScore', 'compositionScore',
    'colorScore', 'dofScore', 'contentScore', 'lightScore', 'isObjectEmphasis', 'imageEmotion',
    'difficultyOfJudgment', 'contentPreference', 'willingnessToShare', 'semantic',
]  # fmt: skip
PARA_SCENES = ('portrait', 'animal', 'food', 'building')
PARA_HALF_STEPS = [1 + step / 2 for step in range(9)]
PARA_SCORES = (
    'compositionScore', 'colorScore', 'dofScore', 'lightScore', 'contentScore',
    'contentPreference', 'willingnessToShare',
)  # fmt: skip


def write_para(root: Path, train: int = 12, test: int = 6, raters: int = 8) -> Path:
    """Write ``annotation/PARA-*.csv`` and ``imgs/<sessionId>/<imageName>``; return ``root``."""
    rng = np.random.default_rng(0)
    votes, by_image = [], []
    for i in range(train + test):
        session, name, taste = f'session{i // 4 + 1}', f'iaa_pub{i + 1}_.jpg', (i * 5) % 9 / 8
        write_jpeg(root / 'imgs' / session / name, taste, i)
        rated = [_para_rating(rng, taste) for _ in range(raters)]
        scene = PARA_SCENES[i % len(PARA_SCENES)]
        for user, rating in enumerate(rated):
            row = {'sessionId': session, 'imageName': name, 'userId': f'A{user:04d}', **rating}
            row['semantic'] = scene
            votes.append([row[column] for column in PARA_RATERS_HEADER])
        by_image.append({'imageName': name, 'sessionId': session, 'semantic': scene})
        by_image[-1].update(_para_counts(rated))
    folder, header = root / 'annotation', list(by_image[0])
    for file, images in {'Train': by_image[:train], 'Test': by_image[train:]}.items():
        rows = [list(image.values()) for image in images]
        write_rows(folder / f'PARA-Giaa{file}.csv', header, rows)
    write_rows(folder / 'PARA-Images.csv', PARA_RATERS_HEADER, votes)
    users = [[f'A{user:04d}', '22-25', 'female'] for user in range(raters)]
    write_rows(folder / 'PARA-UserInfo.csv', ['userId', 'age', 'gender'], users)
    return root


def _para_rating(rng, taste: float) -> dict:
    def score(step):
        value = np.clip(rng.normal(1 + 4 * taste, 0.8), 1, 5)
        return round(float(np.round(value / step) * step), 1)

    rating = {'aestheticScore': score(0.5), 'qualityScore': score(0.5)}
    rating.update({column: score(1) for column in PARA_SCORES})
    rating.update(isObjectEmphasis=int(rng.random() < taste), imageEmotion='neutral')
    rating['difficultyOfJudgment'] = int(rng.integers(-1, 2))
    return rating


def _para_counts(rated: list[dict]) -> dict:
    """Compute the columns of a GIAA file for one image, in the publisher's order."""

    def counts(column, values, label):
        ratings = [rating[column] for rating in rated]
        return {f'{column}_{label(value)}': ratings.count(value) for value in values}

    def moments(column):
        values = [rating[column] for rating in rated]
        mean, std = np.mean(values), np.std(values)
        return {f'{column}_mean': mean.round(6), f'{column}_std': std.round(6)}

    row = counts('aestheticScore', PARA_HALF_STEPS, '{:.1f}'.format)
    row.update(**moments('aestheticScore'), **moments('qualityScore'))
    for column in PARA_SCORES:
        row.update(**counts(column, range(1, 6), int), **moments(column))
    row.update(counts('imageEmotion', ['amusement', 'neutral'], str))
    row.update(counts('difficultyOfJudgment', [-1, 0, 1], int))
    row.update(counts('isObjectEmphasis', [0, 1], int))
    row.update(**moments('isObjectEmphasis'), **{'personality-E_mean': 5.5})
    row.update(artExperience_beginner=len(rated), artExperience_expert=0)
    return row


# AADB

AADB_LABELS = (
    'BalacingElements', 'ColorHarmony', 'Content', 'DoF', 'Light', 'MotionBlur', 'Object',
    'Repetition', 'RuleOfThirds', 'Symmetry', 'VividColor',
)  # fmt: skip
AADB_PARTS = ('Train', 'TestNew', 'Validation')  # in the order of attMat.mat
AADB_RESIZED = 'datasetImages_warp256'


def write_aadb(root: Path, train: int = 12, validation: int = 5, test: int = 6) -> Path:
    """Write all files of AADB: lists, matrices, raters' rows, images; return ``root``.

    Images are in ``datasetImages_originalSize``, and all but the test images in
    ``datasetImages_warp256``.
    """
    from scipy.io import savemat

    rng = np.random.default_rng(1)
    images = []
    for i in range(train + validation + test):
        name = f'farm{i % 3 + 1}_{300 + i}_{19438364933 + 7 * i}_{0x87C8ABC60 + i:x}_b.jpg'
        taste = (i * 4) % 9 / 8
        scores = np.clip(np.round(rng.normal(1 + 4 * taste, 0.7, 5)), 1, 5).astype(int)
        labels = np.clip(np.round(rng.normal(2 * taste - 1, 0.3, 11) * 5) / 5, -1, 1)
        images.append((name, scores, np.round([(scores.mean() - 1) / 4, *labels], 3)))
        write_jpeg(root / 'datasetImages_originalSize' / name, taste, i)
        if i < train + validation:
            write_jpeg(root / AADB_RESIZED / name, taste, i)
    first = train + validation
    parts = dict(
        zip(AADB_PARTS, (images[:train], images[first:], images[train:first]), strict=True)
    )
    folder = aadb_list(root).parent
    folder.mkdir(parents=True)
    for part, of_part in parts.items():
        for column, label in enumerate(('score', *AADB_LABELS)):
            lines = [f'{name} {values[column]:g}\n' for name, _, values in of_part]
            aadb_list(root, part, label).write_text(''.join(lines))
    cells = np.empty((1, 3), object)
    cells[0, :] = [np.array([values for *_, values in parts[part]]) for part in AADB_PARTS]
    savemat(folder / 'attMat.mat', {'dataset': cells, 'attID': 12})
    info = {}
    for part, key in (('Train', 'train'), ('TestNew', 'test')):
        names = np.empty((1, len(parts[part])), object)
        names[0, :] = [name for name, *_ in parts[part]]
        info[f'{key}NameList'] = names
        info[f'{key}Score'] = np.array([[values[0] for *_, values in parts[part]]])
    savemat(root / 'AADBinfo.mat', info)
    write_aadb_raters(root / 'AADB_AllinAll.csv', images)
    return root


def aadb_list(root: Path, part: str = 'Train', label: str = 'score') -> Path:
    """Return the path of the list file of a part and a label."""
    return root / 'imgListFiles_label' / f'imgList{part}Regression_{label}.txt'


def write_aadb_raters(path: Path, images: list[tuple]) -> None:
    """Write the crowd workers' rows of ten images each; an image is in a row for each score."""
    header = ['HITId', *(f'Input.image_url{i}' for i in range(1, 11)), 'WorkerId']
    header += [f'Answer.{what}{i}' for what in ('Light', 'overallScore') for i in range(1, 11)]
    rated = [(name, score) for name, scores, _ in images for score in scores]
    rows = []
    for start in range(0, len(rated), 10):
        ten = rated[start : start + 10]
        blank = [''] * (10 - len(ten))
        urls = [aadb_url(name) for name, _ in ten] + blank
        scores = [score for _, score in ten] + blank
        rows.append([f'H{start}', *urls, 'W1', *[1] * 10, *scores])
    write_rows(path, header, rows)


def aadb_url(name: str) -> str:
    """Return the address at Flickr from which a name in the lists was made."""
    server, folder, file = name.split('_', 2)
    return f'https://{server}.staticflickr.com/{folder}/{file}'


# AVA

AVA_COMMENTS = (
    'Great use of light &amp; shadow, I love it#congrats on the ribbon',
    'The colours are washed out',
    'nice',
    '',
    'Rule of thirds works well here#the focus is soft, tho#my #1 pick',
)


def write_ava(root: Path, train: int = 24, test: int = 8) -> Path:
    """Write ``AVA.txt``, the test ids, ``images/<id>.jpg`` and the comments in both formats."""
    rng = np.random.default_rng(2)
    ratings, comments, captions = [], [], []
    ids = [1000 + 7 * i for i in range(train + test)]
    for i, image_id in enumerate(ids):
        taste = (i * 5) % 9 / 8
        write_jpeg(root / 'images' / f'{image_id}.jpg', taste, i)
        likes = np.exp(-((np.arange(10) - 1 - 7 * taste) ** 2) / 4)
        votes = rng.multinomial(200, likes / likes.sum())
        tags = (i % 66 + 1, 0 if i % 3 else 5)
        ratings.append(' '.join(map(str, (i + 1, image_id, *votes, *tags, 1396))))
        comment = AVA_COMMENTS[i % len(AVA_COMMENTS)]
        comments.append(f'{i + 1}#{image_id}#{comment}')
        raws = comment.split('#')
        sentences = [{'raw': raw, 'clean': raw.lower(), 'tokens': []} for raw in raws]
        captions.append({'filename': f'{image_id}.jpg', 'split': 'train', 'sentences': sentences})
    (root / 'AVA.txt').write_text('\n'.join(ratings) + '\n')
    lists = root / 'aesthetics_image_lists'
    lists.mkdir()
    (lists / 'generic_test.jpgl').write_text('\n'.join(map(str, ids[train:])))  # no last newline
    (root / 'AVA_Comments_Full.txt').write_text('\n'.join(comments) + '\n', encoding='utf-8')
    (root / 'captions.json').write_text(json.dumps({'images': captions}), encoding='utf-8')
    return root
