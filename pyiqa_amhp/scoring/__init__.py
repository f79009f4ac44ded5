"""Scores of images by any metric of pyiqa. The names below are imported on first use."""

from importlib import import_module

_NAMES = {
    'Scorer': 'scorer',
    'create_metric': 'scorer',
    'score_images': 'files',
    'ScoreResult': 'result',
}
__all__ = ['ScoreResult', 'Scorer', 'create_metric', 'score_images']


def __getattr__(name: str):
    if name not in _NAMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'{__name__}.{_NAMES[name]}'), name)
