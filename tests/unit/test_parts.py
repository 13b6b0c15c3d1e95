"""The corpus is cut by document: parts by weight, no overlap, decided by the seed."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptl_plugins.errors import PTLError
from ptl_plugins.parts import cut_documents, part_sizes

WEIGHTS = st.lists(st.integers(1, 10**12), min_size=1, max_size=20)


def fitting(num_documents, weights):
    """Whether every part gets a document."""
    return all(num_documents * weight >= sum(weights) for weight in weights)


@given(st.integers(1, 300), st.integers(1, 20), st.integers(0, 2**32))
def test_parts_are_equal_do_not_overlap_and_leave_few_out(documents, parts, seed):
    if documents < parts:
        return
    cut = cut_documents(documents, (1,) * parts, seed=seed)
    assert {len(part) for part in cut} == {documents // parts}
    used = np.concatenate(cut)
    assert len(set(used.tolist())) == len(used) == parts * (documents // parts)
    assert set(used.tolist()) <= set(range(documents))
    assert documents - len(used) < parts


@given(st.integers(1, 3000), WEIGHTS, st.integers(0, 2**32))
def test_parts_by_weight_do_not_overlap_and_are_within_one_of_their_shares(
    documents, weights, seed
):
    if not fitting(documents, weights):
        return
    cut = cut_documents(documents, weights, seed=seed)
    for part, weight in zip(cut, weights, strict=True):
        assert 0 <= Fraction(documents * weight, sum(weights)) - len(part) < 1
    used = np.concatenate(cut).tolist()
    assert len(set(used)) == len(used) > documents - len(weights)
    assert set(used) <= set(range(documents))
    again = cut_documents(documents, weights, seed=seed)
    assert [part.tolist() for part in again] == [part.tolist() for part in cut]


@given(st.integers(1, 300), st.integers(1, 20), st.integers(1, 9), st.integers(0, 2**32))
def test_only_the_ratio_of_the_weights_counts(documents, parts, factor, seed):
    if documents < parts:
        return
    one, other = (cut_documents(documents, (w,) * parts, seed=seed) for w in (1, factor))
    assert [part.tolist() for part in one] == [part.tolist() for part in other]


@given(st.integers(1, 50), WEIGHTS)
def test_no_part_is_ever_without_documents(documents, weights):
    if fitting(documents, weights):
        assert min(part_sizes(documents, weights)) >= 1
    else:
        with pytest.raises(PTLError):
            part_sizes(documents, weights)


def test_the_same_seed_cuts_the_same_and_another_seed_otherwise():
    one, same, other = (cut_documents(100, (1,) * 4, seed=seed) for seed in (1, 1, 2))
    assert [part.tolist() for part in one] == [part.tolist() for part in same]
    assert [part.tolist() for part in one] != [part.tolist() for part in other]


def test_documents_are_shuffled_before_they_are_cut():
    """A corpus merged of several sources has some of each in every part."""
    for part in cut_documents(1000, (1, 1), seed=0):
        assert 150 < int((part < 500).sum()) < 350


def test_the_cut_is_the_same_on_every_machine():
    """Resuming elsewhere must find the same parts: numpy's own permutation of seed 7."""
    assert [part.tolist() for part in cut_documents(6, (1, 1), seed=7)] == [[5, 2, 0], [4, 1, 3]]
    unequal = cut_documents(6, (1, 2), seed=7)
    assert [part.tolist() for part in unequal] == [[5, 2], [0, 4, 1, 3]]


def test_fewer_documents_than_rounds_are_refused_with_both_numbers():
    with pytest.raises(PTLError, match="3 documents for 4 rounds"):
        cut_documents(3, (1,) * 4, seed=0)


def test_a_part_that_would_be_empty_is_refused_with_key_part_share_and_documents():
    with pytest.raises(PTLError) as raised:
        cut_documents(9, (1, 1, 1, 30), seed=0)
    (line,) = str(raised.value).splitlines()
    assert line.startswith("tokens: part 1 of 4 would have none of 9 documents: its share is 0.03")
    assert "set 'tokens: equal'" in line
