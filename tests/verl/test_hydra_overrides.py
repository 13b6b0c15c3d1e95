"""Values survive Hydra's own parser."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from verl_ext.hydra_overrides import override

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
KEYS = st.from_regex(r"k[A-Za-z0-9_]*", fullmatch=True)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=6
)
PARSER = OverridesParser.create()


@given(VALUES)
def test_hydra_reads_back_what_was_written(value):
    read = PARSER.parse_override(override("a.b", value)).value()
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("text", ["true", "Null", "1e-6", ".5", "nan", "a\nb", "it's", "c:\\", ""])
def test_text_that_looks_like_something_else_stays_text(text):
    assert PARSER.parse_override(override("a", text)).value() == text


@pytest.mark.parametrize("value", [object(), {"a b": 1}, [{1: 2}], {"true": 1}])
def test_what_hydra_cannot_hold_is_refused(value):
    with pytest.raises(TypeError, match="override"):
        override("a", value)
