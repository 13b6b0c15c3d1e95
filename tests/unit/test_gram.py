"""Second moments by blocks, and as bf16 products where those are exact."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ptl_plugins.gram import add_gram, complete


def gram(batches, *, bf16_exact):
    total = torch.zeros(batches[0].shape[1], batches[0].shape[1])
    for rows in batches:
        add_gram(total, rows, bf16_exact=bf16_exact)
    complete(total)
    return total


def exact(batches):
    rows = torch.cat(batches).double()
    return rows.T @ rows


@given(width=st.integers(1, 30), sizes=st.lists(st.integers(1, 40), min_size=1, max_size=3))
def test_the_sum_over_batches_is_the_whole_product_whatever_the_width(width, sizes):
    generator = torch.Generator().manual_seed(width)
    batches = [torch.randn(size, width, generator=generator) for size in sizes]
    torch.testing.assert_close(gram(batches, bf16_exact=False).double(), exact(batches),
                               rtol=1e-5, atol=1e-4)  # fmt: skip


def test_the_result_is_symmetric_bit_by_bit():
    total = gram([torch.randn(300, 101)], bf16_exact=True)
    lower, upper = total.tril(-26), total.T.tril(-26)  # inside a diagonal block both are computed
    assert torch.equal(lower, upper)


@pytest.mark.parametrize("width", [48, 1536])
def test_values_that_bf16_represents_lose_nothing(width):
    rows = torch.randn(500, width).bfloat16().float()
    error = (gram([rows], bf16_exact=True).double() - exact([rows])).abs().max()
    assert error < 1e-5 * exact([rows]).abs().max()


def test_the_precision_of_other_products_is_as_it_was():
    torch.manual_seed(0)
    left, right = torch.randn(2, 256, 256)
    before = left @ right
    gram([left], bf16_exact=True)
    assert torch.equal(left @ right, before)
