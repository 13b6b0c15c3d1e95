"""Running totals: in fp32, in place, of real tokens only, however they are cut into pieces."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ptl_plugins.calibration import pad
from ptl_plugins.criteria import Statistic
from ptl_plugins.criteria.activation import ABS_MAX, ABS_SUM, SQUARE_SUM
from ptl_plugins.criteria.layer_change import L2_SUM, TURN_SUM
from ptl_plugins.criteria.output_change import COLUMN_NORM
from ptl_plugins.criteria.released import LARGEST, SMALLEST
from ptl_plugins.families.llama import LLAMA
from ptl_plugins.live import decoder_layers, ffn_output
from ptl_plugins.ranks import SingleProcess
from ptl_plugins.signals import Tokens, run_batches
from ptl_plugins.tally import MomentTally, StatisticTally, pieces
from ptl_plugins.testing import tiny_model

CPU = torch.device("cpu")
ALL = (ABS_MAX, ABS_SUM, SQUARE_SUM, COLUMN_NORM, L2_SUM, TURN_SUM, *SMALLEST, *LARGEST)


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


def tokens(real, last, number):
    real = None if real is None else torch.tensor(real)
    return Tokens(real=real, last=torch.tensor(last), num_tokens=number)


def signal(rows, features=48, *, seed=0):
    return torch.randn(rows, features, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rows", [None, [0, 2, 3, 6]])
@pytest.mark.parametrize(("elements", "most"), [(1, 1), (20, 2), (1000, 7)])
def test_pieces_hold_every_wanted_row_once_in_order(rows, elements, most):
    one, two = signal(7, 8).bfloat16(), signal(7, 8, seed=1).bfloat16()
    found = list(pieces([one, two], None if rows is None else torch.tensor(rows), elements))
    assert all(len(a) == len(b) <= most for a, b in found)
    assert all(a.dtype == b.dtype == torch.float32 for a, b in found)
    wanted = slice(None) if rows is None else rows
    for index, states in enumerate((one, two)):
        assert torch.equal(torch.cat([piece[index] for piece in found]), states[wanted].float())


def test_no_rows_make_no_piece():
    assert list(pieces([signal(3)], torch.tensor([], dtype=torch.long), 8)) == []


@pytest.mark.parametrize("piece", [1, 100, 2**20])
def test_statistics_do_not_depend_on_the_pieces(model, piece):
    tallies = [StatisticTally(model, LLAMA, ALL) for _ in range(2)]
    tallies[0].piece = piece
    batches = [pad([[7, 8, 9, 10], [11, 12]], device=CPU), pad([[13] * 6], device=CPU)]
    run_batches(model, LLAMA, batches, tallies)
    one, two = (tally.scores(SingleProcess()) for tally in tallies)
    for name, value in one.statistics.items():
        np.testing.assert_allclose(value, two.statistics[name], rtol=1e-5, atol=1e-7)


def test_totals_do_not_grow_with_the_number_of_sequences(model):
    """The state is one tensor per statistic, updated in place."""
    tally = StatisticTally(model, LLAMA, ALL)
    before = {name: (t.data_ptr(), t.shape) for name, t in tally.totals.items()}
    run_batches(model, LLAMA, [pad([[5] * n], device=CPU) for n in (3, 9, 20)], [tally])
    assert {name: (t.data_ptr(), t.shape) for name, t in tally.totals.items()} == before
    held = [v for name, v in vars(tally).items() if name != "model"]
    assert not any(isinstance(value, torch.Tensor) for value in held)


def test_only_the_sites_of_the_statistics_are_looked_at(model):
    assert StatisticTally(model, LLAMA, (ABS_MAX, L2_SUM)).sites == {"neuron", "layer"}
    assert MomentTally(model, LLAMA, range(2)).sites == {"neuron"}


def test_padding_is_left_out_and_last_tokens_are_each_sequences_own(model):
    last = Statistic(
        name="last", site="neuron", merge="sum", tokens="last", measure=lambda act: act.sum(dim=0)
    )
    tally = StatisticTally(model, LLAMA, (ABS_SUM, last))
    states = signal(6)
    tally.see("neuron", 3, tokens([0, 1, 3, 4, 5], [1, 5], 5), states)
    real = states[[0, 1, 3, 4, 5]].abs().sum(dim=0)
    torch.testing.assert_close(tally.totals[ABS_SUM.name][3], real)
    torch.testing.assert_close(tally.totals["last"][3], states[[1, 5]].sum(dim=0))
    assert not tally.totals[ABS_SUM.name][[0, 1, 2, 4]].any(), "the other layers are untouched"


def test_a_maximum_may_be_negative(model):
    top = Statistic(name="top", site="up", merge="max", measure=lambda up: up.amax(dim=0))
    tally = StatisticTally(model, LLAMA, (top,))
    for seed in (0, 1):
        tally.see("up", 0, tokens(None, [3], 4), -1 - signal(4, seed=seed).abs())
    both = torch.cat([-1 - signal(4, seed=seed).abs() for seed in (0, 1)])
    assert torch.equal(tally.totals["top"][0], both.amax(dim=0))
    assert bool((tally.totals["top"][0] < 0).all())


@pytest.mark.parametrize("statistic", [ABS_MAX, ABS_SUM])
def test_a_value_that_is_not_a_number_is_not_lost(model, statistic):
    tally = StatisticTally(model, LLAMA, (statistic,))
    broken = signal(4)
    broken[1, 7] = torch.nan
    for states in (signal(4), broken, signal(4)):
        tally.see("neuron", 0, tokens(None, [3], 4), states)
    assert tally.totals[statistic.name][0].isnan().nonzero().flatten().tolist() == [7]


def test_tokens_and_sequences_are_counted_beyond_what_fp32_can(model):
    tally = StatisticTally(model, LLAMA, ())
    tally.start(tokens(None, [0], 2**24))
    tally.start(tokens(None, [0, 1], 1))
    scores = tally.scores(SingleProcess())
    assert (scores.num_tokens, scores.num_sequences) == (2**24 + 1, 3)


def test_weights_are_looked_at_in_fp32_whatever_their_dtype():
    model = tiny_model("llama", dtype=torch.bfloat16)
    scores = StatisticTally(model, LLAMA, (COLUMN_NORM,)).scores(SingleProcess())
    norms = [
        ffn_output(layer, LLAMA).weight.double().norm(dim=0)
        for layer in decoder_layers(model, LLAMA)
    ]
    expected = torch.stack(norms).detach().numpy()
    np.testing.assert_allclose(scores.statistics[COLUMN_NORM.name], expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_moments_are_the_outer_products_of_real_tokens_in_fp32(model, dtype):
    tally = MomentTally(model, LLAMA, range(1, 3))
    assert {name: total.shape for name, total in tally.totals.items()} == {
        "1": (48, 48), "2": (48, 48),
    }  # fmt: skip
    batches = [(signal(90, seed=seed) * 1e3).to(dtype) for seed in range(3)]
    for states in batches:
        tally.see("neuron", 1, tokens(list(range(70)), [69], 70), states)
    tally.complete()
    stacked = torch.cat([states[:70] for states in batches]).double()
    expected = stacked.T @ stacked
    assert tally.totals["1"].dtype == torch.float32
    torch.testing.assert_close(tally.totals["1"].double(), expected, rtol=1e-5, atol=100.0)
    assert not tally.totals["2"].any()


def test_moments_do_not_depend_on_the_pieces(model, monkeypatch):
    totals = []
    for piece in (1, 500, 2**20):
        monkeypatch.setattr("ptl_plugins.tally.MOMENT_PIECE", piece)
        tally = MomentTally(model, LLAMA, range(1))
        tally.see("neuron", 0, tokens(None, [29], 30), signal(30))
        tally.complete()
        totals.append(tally.totals["0"])
    torch.testing.assert_close(totals[0], totals[2])
    torch.testing.assert_close(totals[1], totals[2])
