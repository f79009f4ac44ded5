"""How deep JSON nests, whatever its strings hold and wherever it is cut into blocks."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyiqa_amhp.datasets.comments import JsonDepth

TEXTS = st.text('[]{}"\\\\ab', max_size=6)
JSON = st.recursive(
    st.one_of(TEXTS, st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=12,
)


def depth(value):
    inner = (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    )
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


@pytest.mark.parametrize('size', [1, 2, 3, 1000])
@settings(deadline=None, max_examples=60)
@given(value=JSON)
def test_it_is_as_deep_as_it_is(size, value):
    content = json.dumps(value).encode()

    def feed(limit):
        limits = JsonDepth(limit)
        for at in range(0, len(content), size):
            limits.feed(content[at : at + size])

    feed(depth(value))
    if depth(value):
        with pytest.raises(ValueError, match=f'more than {depth(value) - 1} deep'):
            feed(depth(value) - 1)
