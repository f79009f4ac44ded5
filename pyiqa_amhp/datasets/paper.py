"""The paper's data sets for pyiqa's trainer: ``AMHPDataset`` with the defaults of each."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from pyiqa_amhp.datasets import aadb, para
from pyiqa_amhp.datasets.attributes import template_fields
from pyiqa_amhp.datasets.ava import image_ids
from pyiqa_amhp.datasets.comment_sampler import CommentSampler
from pyiqa_amhp.datasets.comment_store import CommentStore
from pyiqa_amhp.datasets.dataset import AMHPDataset, with_defaults

COMMENT_MODE = 'one'  # our choice: the paper does not say what it does with several


class AVACommentsDataset(AMHPDataset):
    """Photographs of AVA with what people said about them.

    An ``AMHPDataset`` on the files that ``amhp prepare ava`` writes, with other defaults:

        dataset: ava (levels 1.5, 3.5, 5.5, 7.5, 9.5; votes 1 to 10).
        split_index: official_split (paper: AVA's standard split).

    Further options:

        comments_file: the store of comments; ``~`` for the column ``text`` or no text at all.
        comment_mode: ``one`` (default, our choice): an attribute comment, in training another one
            each time; ``join``: as many as CLIP's 77 tokens hold, in training in another order
            each time. In testing the choice is always the same.
        comment_attributes: names from the lexicon that count; default: all.
        comment_seed: of the choices that stay the same (default 0).

    An image without attribute comments gets one of its other comments (paper), one without any
    gets no text.
    """

    def __init__(self, opt: Mapping[str, Any]):
        defaults = {'dataset': 'ava', 'split_index': 'official_split', 'comment_mode': COMMENT_MODE}
        super().__init__(with_defaults(opt, defaults))

    def get_split(self, opt):
        """Keep the rows of this phase, and find their comments."""
        super().get_split(opt)
        self.comments: CommentSampler | None = None
        if opt.get('comments_file') and opt.get('text_source') in (None, 'comments'):
            self.comments = CommentSampler(
                CommentStore(opt['comments_file']),
                image_ids(pd.Series(self.images.names), self.images.file),
                attributes=opt.get('comment_attributes'),
                mode=opt['comment_mode'],
                seed=opt.get('comment_seed', 0),
                training=opt['phase'] == 'train',
            )

    def text(self, index: int) -> str:
        """A comment about an image; in training not always the same."""
        return super().text(index) if self.comments is None else self.comments[index]


class PARADataset(AMHPDataset):
    """Photographs of PARA with their attributes in words.

    An ``AMHPDataset`` on the file that ``amhp prepare para`` writes, with other defaults:

        dataset: para (levels 1 to 5; PARA's nine votes, 1 to 5 in half steps).
        split_index: official_split (paper: PARA's own split).
        text_source: labels (paper).
        attributes: content, composition, color, light, depth_of_field, object_emphasis (paper,
            all six); any of them in any order, as in its Table 5.
        attr_template: ``A photo with {level} {attribute}.`` for each (paper). ``authors`` is all
            six in one sentence, as in the authors' code: same attributes, same order, but the
            wording is ours. Any sentence that names attributes in braces can take its place.
        attr_range: [1, 5]; object_emphasis [0, 1]. Levels are of equal width (our choice).
        attr_cuts: none.

    With ``protocol: reference``, what the authors ran: ``attr_template`` is authors, and
    ``attr_cuts`` 1, 2, 3, 4 (a mean up to 1 is bad, up to 2 poor, .. above 4 perfect; of
    object_emphasis 0.2, 0.4, 0.6, 0.8).

    Raters said of each photo whether it emphasises an object, yes or no. The share who said yes
    is taken for its level, as in the authors' code: "A photo with good object emphasis." is one
    of which 60 to 80 % did.
    """

    def __init__(self, opt: Mapping[str, Any]):
        super().__init__(para_options(opt))


def para_options(opt: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a ``PARADataset`` with its defaults filled in."""
    defaults = {
        'dataset': 'para',
        'split_index': 'official_split',
        'text_source': 'labels',
        'attr_range': para.RANGES,
    }
    if opt.get('protocol') == 'reference':
        defaults.update(attr_template='authors', attr_cuts=para.AUTHORS_CUTS)
    opt = with_defaults(opt, defaults)
    if opt.get('attr_template') == 'authors':
        opt['attr_template'] = para.AUTHORS_SENTENCE
    attributes = template_fields(opt.get('attr_template') or '') or list(para.ATTRIBUTES)
    return with_defaults(opt, {'attributes': attributes})


class AADBDataset(AMHPDataset):
    """Photographs of AADB with their attributes in words.

    An ``AMHPDataset`` on the file that ``amhp prepare aadb`` writes, with other defaults:

        dataset: aadb (levels and votes at 0, 0.25, 0.5, 0.75, 1: our choice).
        split_index: official_split (the publisher's: 8,458 train, some 500 validation, 1,000
            test). ``paper_split`` has the validation images in train, as the paper's 9,000.
        text_source: labels (paper).
        attributes: color_harmony, light, content (paper); any of the eleven in any order. All
            eleven in the paper's sentences are one token more than CLIP's 77.
        attr_template: ``A photo with {level} {attribute}.`` for each (paper: as for PARA).
        attr_range: [-1, 1], in five levels of equal width (our choice; the paper does not say).
    """

    def __init__(self, opt: Mapping[str, Any]):
        super().__init__(aadb_options(opt))


def aadb_options(opt: Mapping[str, Any]) -> dict[str, Any]:
    """The options of an ``AADBDataset`` with its defaults filled in."""
    defaults = {
        'dataset': 'aadb',
        'split_index': 'official_split',
        'text_source': 'labels',
        'attr_range': aadb.ATTRIBUTE_RANGE,
    }
    attributes = template_fields(opt.get('attr_template') or '')
    defaults['attributes'] = attributes or ['color_harmony', 'light', 'content']
    return with_defaults(opt, defaults)
