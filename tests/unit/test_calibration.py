"""Sequences become batches: by length, within a budget of tokens, made when asked for."""

from __future__ import annotations

import pytest
import torch

from ptl_plugins.calibration import Batches, group_by_length

CPU = torch.device("cpu")
SEQUENCES = [[(7 * i + 3 * j) % 250 + 4 for j in range(n)] for i, n in enumerate((9, 1, 4, 17, 4))]


def test_groups_keep_the_budget_and_lose_no_sequence():
    groups = list(group_by_length([*SEQUENCES, []], batch_tokens=20))
    assert sorted(map(len, (s for g in groups for s in g))) == [1, 4, 4, 9, 17]
    assert all(len(g) == 1 or len(g) * max(map(len, g)) <= 20 for g in groups)
    assert [len(g) for g in groups] == [1, 2, 2]


def test_a_sequence_longer_than_the_budget_is_a_group_of_its_own():
    assert list(group_by_length([[1] * 9, [1]], batch_tokens=4)) == [[[1] * 9], [[1]]]


def test_batches_are_a_sequence_that_is_made_anew_each_time():
    made = Batches([*SEQUENCES, []], batch_tokens=20, device=CPU)
    assert [batch.attention_mask.sum(dim=1).tolist() for batch in made] == [[17], [9, 4], [4, 1]]
    assert (len(made), len(made), made[1].input_ids.shape) == (3, 3, (2, 9))
    assert torch.equal(made[1].input_ids, made[1].input_ids)
    assert made[1].input_ids is not made[1].input_ids
    with pytest.raises(IndexError):
        made[3]
    with pytest.raises(TypeError, match="one at a time"):
        made[0:2]
