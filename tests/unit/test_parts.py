"""The corpus is cut by document: equal parts, no overlap, decided by the seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptl_plugins.errors import PTLError
from ptl_plugins.parts import cut_documents


@given(st.integers(1, 300), st.integers(1, 20), st.integers(0, 2**32))
def test_parts_are_equal_do_not_overlap_and_leave_few_out(documents, parts, seed):
    if documents < parts:
        return
    cut = cut_documents(documents, parts, seed=seed)
    assert {len(part) for part in cut} == {documents // parts}
    used = np.concatenate(cut)
    assert len(set(used.tolist())) == len(used) == parts * (documents // parts)
    assert set(used.tolist()) <= set(range(documents))
    assert documents - len(used) < parts


def test_the_same_seed_cuts_the_same_and_another_seed_otherwise():
    one, same, other = (cut_documents(100, 4, seed=seed) for seed in (1, 1, 2))
    assert [part.tolist() for part in one] == [part.tolist() for part in same]
    assert [part.tolist() for part in one] != [part.tolist() for part in other]


def test_documents_are_shuffled_before_they_are_cut():
    """A corpus merged of several sources has some of each in every part."""
    for part in cut_documents(1000, 2, seed=0):
        assert 150 < int((part < 500).sum()) < 350


def test_the_cut_is_the_same_on_every_machine():
    """Resuming elsewhere must find the same parts: numpy's own permutation of seed 7."""
    assert [part.tolist() for part in cut_documents(6, 2, seed=7)] == [[5, 2, 0], [4, 1, 3]]


def test_fewer_documents_than_rounds_are_refused_with_both_numbers():
    with pytest.raises(PTLError, match="3 documents for 4 rounds"):
        cut_documents(3, 4, seed=0)
