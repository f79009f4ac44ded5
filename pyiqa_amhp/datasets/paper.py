"""The paper's data sets: ``AMHPDataset`` with the defaults for AVA, PARA and AADB."""

import functools
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pyiqa_amhp.datasets import aadb, para
from pyiqa_amhp.datasets.attributes import template_fields
from pyiqa_amhp.datasets.ava import image_ids
from pyiqa_amhp.datasets.comment_sampler import CommentSampler
from pyiqa_amhp.datasets.comment_store import CommentStore
from pyiqa_amhp.datasets.dataset import AMHPDataset, with_defaults
from pyiqa_amhp.datasets.keywords import AttributeKeywords
from pyiqa_amhp.utils.text import given_text

logger = logging.getLogger('pyiqa_amhp')
COMMENT_MODE = 'one'  # our choice: the paper does not say how several comments are used


class AVACommentsDataset(AMHPDataset):
    """Photographs of AVA with their comments.

    An ``AMHPDataset`` on the files of ``amhp prepare ava``, with these defaults:

        dataset: ava (levels 1.5, 3.5, 5.5, 7.5, 9.5; votes 1 to 10).
        split_index: official_split (paper: AVA's standard split).

    Further options:

        comments_file: file of comments; ``~`` for the column ``text`` or no text at all.
        comment_mode: ``one`` (default, our choice) takes one attribute comment, in training a new
            one each time; ``join`` takes as many as fit CLIP's 77 tokens, in training in a new
            order each time. In testing the choice is always the same.
        comment_attributes: names of the attributes that comments may be about; default: all of
            ``attribute_keywords.yml``.
        comment_seed: seed of the choices that stay the same (default 0).

    An image without attribute comments gets one of its other comments (paper); an image without
    comments gets no text.
    """

    def __init__(self, opt: Mapping[str, Any]):
        defaults = {'dataset': 'ava', 'split_index': 'official_split', 'comment_mode': COMMENT_MODE}
        super().__init__(with_defaults(opt, defaults))

    def get_split(self, opt: dict[str, Any]) -> None:
        """Keep the rows of this phase, and open their comments."""
        super().get_split(opt)
        self.comments: CommentSampler | None = None
        if opt.get('comments_file') and opt.get('text_source') in (None, 'comments'):
            store = CommentStore(opt['comments_file'])
            if store.keywords != AttributeKeywords().digest:
                _warn_of_other_keywords(store.path, store.keywords)
            self.comments = CommentSampler(
                store,
                image_ids(pd.Series(self.images.names), self.images.file),
                attributes=opt.get('comment_attributes'),
                mode=opt['comment_mode'],
                seed=opt.get('comment_seed', 0),
                training=opt['phase'] == 'train',
            )

    def text(self, index: int) -> str:
        """Return the text of an image; in training another one each time."""
        return super().text(index) if self.comments is None else given_text(self.comments[index])


@functools.cache
def _warn_of_other_keywords(path: Path, keywords: str) -> None:
    """Warn once per process that a store was written with other keywords than this version's."""
    logger.warning(
        '%s: its attribute comments were found with other keywords (of %s) than those of this '
        'version, so texts and scores differ from those of a new file; write one with '
        '`amhp prepare ava --force`',
        path,
        f'digest {keywords}' if keywords else 'an older version',
    )


class PARADataset(AMHPDataset):
    """Photographs of PARA with their attributes as text.

    An ``AMHPDataset`` on the file of ``amhp prepare para``, with these defaults:

        dataset: para (levels 1 to 5; PARA's nine votes, 1 to 5 in half steps).
        split_index: official_split (paper: PARA's own split).
        text_source: labels (paper).
        attributes: content, composition, color, light, depth_of_field, object_emphasis (paper,
            all six); any of them in any order, as in its Table 5.
        attr_template: ``A photo with {level} {attribute}.`` for each (paper). ``authors`` is one
            sentence with all six, as in the authors' code: same attributes, same order, but the
            wording is ours. Any sentence that names attributes in braces can be used instead.
        attr_range: [1, 5]; object_emphasis [0, 1]. Levels are of equal width (our choice).
        attr_cuts: none.

    ``protocol: reference`` follows the authors' code: ``attr_template`` is authors, and
    ``attr_cuts`` is 1, 2, 3, 4 (a mean up to 1 is bad, up to 2 poor, .. above 4 perfect), for
    object_emphasis 0.2, 0.4, 0.6, 0.8.

    Raters answered yes or no to whether a photo emphasises an object. The share of yes gives its
    level, as in the authors' code: with 60 to 80 % it is "A photo with good object emphasis."
    """

    def __init__(self, opt: Mapping[str, Any]):
        super().__init__(para_options(opt))


def para_options(opt: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in the defaults of ``PARADataset``."""
    if opt.get('protocol') == 'reference':
        opt = with_defaults(opt, {'attr_template': 'authors', 'attr_cuts': para.AUTHORS_CUTS})
    if opt.get('attr_template') == 'authors':
        opt = {**opt, 'attr_template': para.AUTHORS_SENTENCE}
    return _label_options(opt, 'para', para.RANGES, para.ATTRIBUTES)


class AADBDataset(AMHPDataset):
    """Photographs of AADB with their attributes as text.

    An ``AMHPDataset`` on the file of ``amhp prepare aadb``, with these defaults:

        dataset: aadb (levels and votes at 0, 0.25, 0.5, 0.75, 1: our choice).
        split_index: official_split (the publisher's: 8,458 train, some 500 validation, 1,000
            test). ``paper_split`` counts the validation images to train, as in the paper (9,000).
        text_source: labels (paper).
        attributes: color_harmony, light, content (paper); any of the eleven in any order. All
            eleven in the paper's sentences are one token more than CLIP's 77.
        attr_template: ``A photo with {level} {attribute}.`` for each (paper: as for PARA).
        attr_range: [-1, 1], in five levels of equal width (our choice; the paper does not say).
    """

    def __init__(self, opt: Mapping[str, Any]):
        super().__init__(aadb_options(opt))


def aadb_options(opt: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in the defaults of ``AADBDataset``."""
    return _label_options(opt, 'aadb', aadb.ATTRIBUTE_RANGE, aadb.PAPER_ATTRIBUTES)


def _label_options(
    opt: Mapping[str, Any], dataset: str, attr_range: Any, attributes: Iterable[str]
) -> dict[str, Any]:
    """Fill in the defaults of a data set whose texts are its labels.

    Args:
        opt: options as in the option file.
        dataset: name of the data set.
        attr_range: see ``read_table``.
        attributes: those that are used if the template does not name its own.
    """
    named = template_fields(opt.get('attr_template') or '')
    defaults = {
        'dataset': dataset,
        'split_index': 'official_split',
        'text_source': 'labels',
        'attr_range': attr_range,
        'attributes': named or list(attributes),
    }
    return with_defaults(opt, defaults)
