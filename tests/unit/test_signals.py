"""What a tally is told, and how far a pass goes."""

from __future__ import annotations

import functools

import pytest
import torch

from ptl_plugins.calibration import Batch, pad
from ptl_plugins.families import find_family
from ptl_plugins.signals import real_tokens, run_batches
from ptl_plugins.testing import TINY, tiny_model

CPU = torch.device("cpu")
SEQUENCES = [[5, 6, 7], [8, 9, 10, 11], [12]]


class Recorder:
    """A tally that keeps every signal it is told."""

    def __init__(self, sites, layers=range(5)):
        self.sites, self.layers, self.totals = frozenset(sites), layers, {}
        self.started, self.seen = [], []

    def start(self, tokens):
        self.started.append(tokens)

    def see(self, site, layer, tokens, *signal):
        assert tokens is self.started[-1]
        self.seen.append((site, layer, *[states.clone() for states in signal]))

    def places(self):
        return [(site, layer) for site, layer, *_ in self.seen]


@functools.cache
def tiny(name):
    return tiny_model(name)


@pytest.fixture
def go(registry):
    """Run batches of a tiny model through tallies."""

    def run(*tallies, name="llama", model=None, batches=None, **options):
        model = model or tiny(name)
        family = find_family(registry, model.config.to_dict())
        batches = [pad(SEQUENCES, device=CPU)] if batches is None else batches
        run_batches(model, family, batches, tallies, **options)

    return run


def calls(model, *names):
    """Count the calls of the named modules in a list of names."""
    log = []
    for name in names:
        module = model.model.get_submodule(name)
        module.register_forward_pre_hook(lambda m, args, name=name: log.append(name))
    return log


def hooked(model):
    return {n for n, m in model.named_modules() if m._forward_hooks or m._forward_pre_hooks}


@pytest.mark.parametrize(
    ("mask", "real", "last"),
    [
        ([[1, 1, 0], [1, 1, 1]], [0, 1, 3, 4, 5], [1, 5]),
        ([[0, 1, 1], [1, 1, 1]], [1, 2, 3, 4, 5], [2, 5]),
        ([[1, 1, 1], [1, 1, 1]], None, [2, 5]),
        ([[0, 0, 0], [1, 0, 0]], [3], [3]),
    ],
)
def test_real_tokens_and_the_last_of_each_sequence(mask, real, last):
    mask = torch.tensor(mask)
    tokens = real_tokens(Batch(input_ids=torch.zeros_like(mask), attention_mask=mask))
    assert (tokens.real is None) if real is None else (tokens.real.tolist() == real)
    assert tokens.last.tolist() == last
    assert tokens.num_tokens == int(mask.sum())


@pytest.mark.parametrize("name", TINY)
def test_the_signals_are_those_of_the_ffn(go, name):
    """`neuron` is act(gate) * up, and the layer's hidden states are what the next one gets."""
    tally = Recorder(("gate", "up", "neuron", "layer"))
    go(tally, name=name)
    act = tiny(name).model.layers[0].mlp
    act = getattr(act, "act_fn", None) or act.activation_fn
    found = {(site, layer): signal for site, layer, *signal in tally.seen}
    assert len(found) == len(tally.seen) == 20
    for layer in range(5):
        (gate,), (up,), (neuron,) = (found[site, layer] for site in ("gate", "up", "neuron"))
        assert gate.shape == up.shape == neuron.shape == (12, 48), "padding is among the rows"
        torch.testing.assert_close(neuron, act(gate) * up)
        assert all(states.shape == (12, 32) for states in found["layer", layer])
        if layer:
            assert torch.equal(found["layer", layer][0], found["layer", layer - 1][1])


@pytest.mark.parametrize("last", range(5))
def test_the_decoder_stops_behind_the_last_layer_that_is_looked_at(go, last):
    model = tiny_model("llama")
    names = [*(f"layers.{i}" for i in range(5)), "norm"]
    log = calls(model, *names)
    go(Recorder({"neuron"}, range(last + 1)), model=model, batches=[pad(SEQUENCES, device=CPU)] * 2)
    assert log == (names if last == 4 else names[: last + 1]) * 2


def test_the_tally_that_looks_furthest_decides(go):
    model = tiny_model("llama")
    log = calls(model, "layers.3", "layers.4")
    tallies = [Recorder({"neuron"}, range(1, 2)), Recorder({"layer"}, range(2, 4))]
    go(*tallies, model=model)
    assert log == ["layers.3"]
    assert [tally.places() for tally in tallies] == [
        [("neuron", 1)], [("layer", 2), ("layer", 3)],
    ]  # fmt: skip


def test_a_shorter_pass_tells_the_same_signals(go):
    short, whole = Recorder({"neuron", "layer"}, range(2)), Recorder({"neuron", "layer"})
    go(short)
    go(whole)
    assert short.places() == whole.places()[:4]
    for (_, _, *one), (_, _, *two) in zip(short.seen, whole.seen[:4], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_hooks_sit_only_where_somebody_looks(go):
    model, places = tiny_model("llama"), []
    model.model.norm.register_forward_pre_hook(lambda *args: places.append(hooked(model)))
    go(Recorder({"gate"}, range(1, 2)), Recorder({"layer"}, range(4, 5)), model=model)
    assert places == [{"model.norm", "model.layers.1.mlp.gate_proj", "model.layers.4"}]
    assert hooked(model) == {"model.norm"}


@pytest.mark.parametrize("layers", [range(5), range(3)])
def test_hooks_and_mode_are_as_before_when_a_tally_fails(go, layers):
    class Failing(Recorder):
        def see(self, site, layer, tokens, *signal):
            if layer == 2:
                raise ZeroDivisionError

    model = tiny_model("llama").train()
    with pytest.raises(ZeroDivisionError):
        go(Failing({"neuron", "gate", "layer"}, layers), model=model)
    assert hooked(model) == set()
    assert all(module.training for module in model.modules())


def test_after_a_stopped_pass_the_model_runs_to_its_end_again(go):
    model = tiny_model("gemma2")
    ids = torch.tensor([[5, 6, 7]])
    before = model(ids).logits
    go(Recorder({"neuron"}, range(1)), model=model)
    assert hooked(model) == set()
    assert torch.equal(model(ids).logits, before)


def test_batches_are_taken_one_at_a_time_from_number_skip_on(go):
    class Counted(list):
        def __getitem__(self, index):
            events.append(f"take {index}")
            return super().__getitem__(index)

    events = []
    batches = Counted(pad([sequence], device=CPU) for sequence in SEQUENCES)
    tally = Recorder({"neuron"})
    go(tally, batches=batches, skip=1, after_batch=lambda done: events.append(f"done {done}"))
    assert events == ["take 1", "done 2", "take 2", "done 3"]
    assert [tokens.num_tokens for tokens in tally.started] == [4, 1]


def test_the_decoder_gets_a_mask_only_where_there_is_padding(go):
    model, masks = tiny_model("llama"), []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
    )
    padded = pad(SEQUENCES, device=CPU)
    go(Recorder({"neuron"}), model=model, batches=[padded, pad(SEQUENCES[:1], device=CPU)])
    assert torch.equal(masks[0], padded.attention_mask)
    assert masks[1] is None


def test_no_graph_is_kept(go):
    tally = Recorder({"neuron", "layer"})
    go(tally)
    assert not any(states.requires_grad for _, _, *signal in tally.seen for states in signal)
