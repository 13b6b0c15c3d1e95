"""Masks of a sliced model: which keys a query sees, and what they take."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ptl_plugins.slicegpt.configuration_ptl_sliced import PTLSlicedConfig
from ptl_plugins.slicegpt.modeling_ptl_sliced import layer_masks

LONG = 65_536
"""Tokens of which all pairs, one byte each, take 4 GiB."""


class Largest(TorchDispatchMode):
    """Remembers the greatest number of entries of any tensor made, by its dtype."""

    def __init__(self):
        super().__init__()
        self.entries = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            most = max(self.entries.get(made.dtype, 0), made.numel())
            self.entries[made.dtype] = most
        return made


def masks(num_queries, *, windows=(None,), past=0, padding=None, device="cpu"):
    """Return the masks of layers with these windows, and the largest tensors made."""
    config = PTLSlicedConfig(num_hidden_layers=len(windows), attention_windows=list(windows))
    with Largest() as largest:
        made = layer_masks(config, num_queries, past, padding, device=torch.device(device))
    return made, largest.entries


@pytest.mark.parametrize(
    ("num_queries", "past", "window", "padding"),
    [
        (LONG, 0, None, None),
        (LONG, 0, LONG, None),
        (1, LONG - 1, None, None),
        (2048, 0, None, torch.ones(1, 2048)),
    ],
)
def test_plain_causal_attention_makes_no_mask(num_queries, past, window, padding):
    # on no device at all: a mask that was made after all would not take the memory, but be seen
    device = "cpu" if padding is not None else "meta"
    made, entries = masks(num_queries, windows=(window,), past=past, padding=padding, device=device)
    assert made == [None]
    assert max(entries.values(), default=0) <= past + num_queries


@pytest.mark.parametrize(
    ("windows", "padding"), [((8, None, 8), None), ((8,), True), ((None,), True)]
)
def test_a_mask_takes_a_byte_for_each_pair_and_is_made_once_for_a_window(windows, padding):
    real = None if padding is None else (torch.arange(64) >= 5).long()[None]
    made, entries = masks(64, windows=windows, padding=real)
    assert entries.pop(torch.bool) == 64 * 64
    assert max(entries.values()) <= 64
    assert made[0].dtype == torch.bool
    assert made[0] is made[-1]


@pytest.mark.parametrize("window", [None, 1, 4])
@pytest.mark.parametrize("past", [0, 5])
@pytest.mark.parametrize("padded", [0, 3])
def test_a_query_sees_itself_and_the_real_tokens_of_its_window(window, past, padded):
    num_keys = past + 7
    real = torch.arange(num_keys)[None] >= padded
    (mask,), _ = masks(7, windows=(window,), past=past, padding=real)
    for query in range(past, num_keys):
        first = max(padded, 0 if window is None else query - window + 1)
        seen = {key for key in range(num_keys) if first <= key <= query} | {query}
        if mask is None:  # plain: all tokens up to itself
            assert seen == set(range(query + 1))
        else:
            assert set(mask[0, 0, query - past].nonzero().flatten().tolist()) == seen
