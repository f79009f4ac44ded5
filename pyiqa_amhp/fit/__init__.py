"""From ratings to a checkpoint in one call, which ``amhp fit`` makes."""

from pyiqa_amhp.fit.plan import FitSettings
from pyiqa_amhp.fit.run import FitResult, fit

__all__ = ['FitResult', 'FitSettings', 'fit']
