"""One pass against a slow reference: one sequence at a time, Act worked out by hand."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn

from ptl_plugins.calibration import Batch, Batches, pad
from ptl_plugins.criteria import Statistic, needed_statistics
from ptl_plugins.criteria.activation import ABS_MAX, ABS_SUM, SQUARE_SUM
from ptl_plugins.criteria.layer_change import L2_SUM
from ptl_plugins.criteria.released import LARGEST, SMALLEST
from ptl_plugins.families import find_family
from ptl_plugins.live import decoder_layers, ffn_output
from ptl_plugins.profiling import profile
from ptl_plugins.protection import protected
from ptl_plugins.ranks import SingleProcess
from ptl_plugins.testing import TINY, tiny_model

CPU = torch.device("cpu")
SEQUENCES = [[(7 * i + 3 * j) % 250 + 4 for j in range(n)] for i, n in enumerate((9, 1, 4, 17, 4))]
MODEL_TYPES = tuple(TINY)
CRITERIA = (
    "activation_max", "activation_mean", "activation_rms",
    "output_change", "output_change_max", "output_change_mean",
    "wanda_structured", "released", "l2", "block_influence", "last",
)  # fmt: skip
BACKWARD = "taylor"
"""Takes a backward pass: tests/unit/criteria/test_taylor.py."""
BY_INDEX = "released_by_index"
"""Has the statistics of `released`: tests/unit/test_released_by_index.py."""
GELU = nn.GELU(approximate="tanh")
ACTIVATION = {"gemma2": GELU, "gemma3_text": GELU}
SIGNALS = ("gate", "up", "act")


@functools.cache
def tiny(name):
    return tiny_model(name)


def captured(model, sequence):
    """Return per layer: the input of the FFN, and the hidden states around the layer."""
    seen = []

    def ffn(module, args):
        seen[-1]["ffn"] = args[0][0].double()

    def layer(module, args, output):
        after = output[0] if isinstance(output, tuple) else output
        after = after.reshape(args[0].shape)[0]
        seen[-1] |= {"before": args[0][0].double(), "after": after.double()}

    handles = []
    for module in model.model.layers:
        handles.append(module.register_forward_pre_hook(lambda m, args: seen.append({})))
        handles.append(module.mlp.register_forward_pre_hook(ffn))
        handles.append(module.register_forward_hook(layer))
    with torch.no_grad():
        model(input_ids=torch.tensor([sequence]))
    for handle in handles:
        handle.remove()
    return seen


@functools.cache
def by_hand(name):
    """Return gate, up and Act of all tokens [layers, tokens, width], and the hidden states."""
    model, act = tiny(name), ACTIVATION.get(name, nn.SiLU())
    rows = {key: [[] for _ in model.model.layers] for key in (*SIGNALS, "before", "after")}
    for sequence in SEQUENCES:
        for index, seen in enumerate(captured(model, sequence)):
            mlp = model.model.layers[index].mlp
            if name == "phi3":  # gate's rows stand above those of up
                w_gate, w_up = mlp.gate_up_proj.weight[:48], mlp.gate_up_proj.weight[48:]
            else:
                w_gate, w_up = mlp.gate_proj.weight, mlp.up_proj.weight
            gate = seen["ffn"] @ w_gate.double().T
            up = seen["ffn"] @ w_up.double().T
            found = {"gate": gate, "up": up, "act": act(gate) * up, **seen}
            for key, per_layer in rows.items():
                per_layer[index].append(found[key])
    return {k: torch.stack([torch.cat(r) for r in v]).detach() for k, v in rows.items()}


def lost_output(name):
    """Eq. 2 to the letter: the norm of what the FFN's output loses, per token and neuron."""
    losses = []
    for layer, act in zip(tiny(name).model.layers, by_hand(name)["act"], strict=True):
        weight = layer.mlp.down_proj.weight.detach().double()
        without = act[:, None, :] * (1 - torch.eye(48))
        losses.append(((act @ weight.T)[:, None] - without @ weight.T).norm(dim=-1))
    return torch.stack(losses)


def wanda(name):
    """Wanda's score of every weight of `down_proj`, summed over each neuron's column."""
    rows = []
    for layer, act in zip(tiny(name).model.layers, by_hand(name)["act"], strict=True):
        weight = layer.mlp.down_proj.weight.detach().double()
        scores = weight.abs() * act.norm(dim=0)[None, :] / len(act) ** 0.5
        rows.append(scores.sum(dim=0))
    return torch.stack(rows)


@functools.cache
def reference(name):
    """Return the importances of every criterion but `released`, as the equations say."""
    seen, lost = by_hand(name), lost_output(name)
    act, change = seen["act"].abs(), seen["after"] - seen["before"]
    product = (seen["before"] * seen["after"]).sum(dim=-1)
    cosine = product / seen["before"].norm(dim=-1) / seen["after"].norm(dim=-1)
    return {
        "activation_max": act.amax(dim=1),
        "activation_mean": act.mean(dim=1),
        "activation_rms": (act**2).mean(dim=1).sqrt(),
        "output_change": (lost**2).mean(dim=1).sqrt(),
        "output_change_max": lost.amax(dim=1),
        "output_change_mean": lost.mean(dim=1),
        "wanda_structured": wanda(name),
        "l2": (change**2).sum(dim=-1).sqrt().mean(dim=1),
        "block_influence": (1 - cosine).mean(dim=1),
        "last": torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0]),
    }


def released_sets(name, top_n, *, largest):
    """The authors' scripts: sets per sequence, intersected; united over the three signals."""
    ends = np.cumsum([len(sequence) for sequence in SEQUENCES]) - 1
    layers = []
    for layer in range(5):
        union = set()
        for signal in SIGNALS:
            sets = []
            for end in ends:
                row = by_hand(name)[signal][layer, end].tolist()
                order = sorted(range(48), key=row.__getitem__, reverse=largest)
                sets.append(set(order[:top_n]))
            union |= set.intersection(*sets)
        layers.append(union)
    return layers


def left_padded(group):
    batch = pad(group, device=CPU)
    ids, mask = batch.input_ids.clone(), batch.attention_mask.clone()
    for row, sequence in enumerate(group):
        shift = ids.shape[1] - len(sequence)
        ids[row], mask[row] = ids[row].roll(shift), mask[row].roll(shift)
    return Batch(input_ids=ids, attention_mask=mask)


def of_size(size, side="right"):
    groups = [SEQUENCES[i : i + size] for i in range(0, len(SEQUENCES), size)]
    return [left_padded(g) if side == "left" else pad(g, device=CPU) for g in groups]


def run(model, registry, batch_list, names=CRITERIA):
    family = find_family(registry, model.config.to_dict())
    statistics = needed_statistics([registry.criteria.get(name) for name in names])
    return profile(model, family, batch_list, statistics, SingleProcess())


def num_hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def members(mask):
    return [set(np.flatnonzero(row).tolist()) for row in mask]


def test_the_reference_knows_every_built_in_criterion_and_family(registry):
    measured = {n for n, criterion in registry.criteria.items() if criterion.unit != "hidden"}
    assert measured == {*CRITERIA, BACKWARD, BY_INDEX}
    supported = {t for _, family in registry.families.items() for t in family.model_types}
    assert supported == set(MODEL_TYPES)


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", MODEL_TYPES)
def test_every_criterion_equals_the_slow_reference(registry, name, side, size):
    scores = run(tiny(name), registry, of_size(size, side))
    for criterion, expected in reference(name).items():
        importance = registry.criteria.get(criterion).importance(scores)
        assert importance.dtype == np.float32
        atol = 1e-6 if criterion == "block_influence" else 1e-8  # 1 - cosine cancels
        np.testing.assert_allclose(importance, expected.numpy(), rtol=1e-4, atol=atol)
    assert (scores.num_tokens, scores.num_sequences) == (35, 5)
    assert (scores.num_layers, scores.width) == (5, 48)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", MODEL_TYPES)
def test_released_is_the_rule_of_the_authors_scripts(registry, name, side):
    scores = run(tiny(name), registry, of_size(2, side), names=("released",))
    criterion, sizes = registry.criteria.get("released"), set()
    for top_n in (1, 5, 12, 24, 36, 48):
        candidates = released_sets(name, top_n, largest=False)
        assert members(criterion.importance(scores) < top_n) == candidates
        sizes |= {len(row) for row in candidates}
        keep = released_sets(name, top_n, largest=True)
        assert members(protected(criterion, scores, top_n)) == keep
    assert len(sizes) > 5, "the sets are neither all empty nor all full"


def test_ranks_are_those_of_a_stable_sort():
    """Ties, both zeros and infinities: by value, then by index."""
    rng = torch.Generator().manual_seed(0)
    signal = torch.randint(-3, 4, (9, 40), generator=rng) * torch.rand(9, 1, generator=rng)
    signal[0, :5] = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 0.0])
    for statistic, sign in ((SMALLEST[0], 1), (LARGEST[0], -1)):
        alone = []
        for row in (sign * signal).tolist():
            order = sorted(range(40), key=row.__getitem__)
            alone.append([order.index(neuron) for neuron in range(40)])
        assert [statistic.measure(row[None]).tolist() for row in signal] == alone
        assert statistic.measure(signal).tolist() == np.max(alone, axis=0).tolist()


@pytest.mark.parametrize("broken", [torch.nan, -torch.nan])
def test_what_is_no_number_has_no_rank(broken):
    signal = torch.rand(4, 6)
    signal[1, 2] = broken
    for statistic in (*SMALLEST, *LARGEST):
        assert statistic.measure(signal).isnan().tolist() == [i == 2 for i in range(6)]


@pytest.mark.parametrize("criterion", [c for c in CRITERIA if c.startswith(("act", "out", "wan"))])
def test_the_other_criteria_protect_what_is_most_important(registry, criterion):
    scores = run(tiny("llama"), registry, of_size(2), names=(criterion,))
    mask = protected(registry.criteria.get(criterion), scores, 7)
    most = reference("llama")[criterion].argsort(dim=-1)[:, -7:]
    assert members(mask) == [set(row) for row in most.tolist()]


@pytest.mark.parametrize("budget", [1, 20, 10_000])
def test_batches_by_token_budget_give_the_same_scores(registry, budget):
    scores = run(tiny("llama"), registry, Batches(SEQUENCES, batch_tokens=budget, device=CPU))
    expected = reference("llama")["activation_mean"]
    importance = registry.criteria.get("activation_mean").importance(scores)
    np.testing.assert_allclose(importance, expected.numpy(), rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", MODEL_TYPES)
def test_what_stands_under_the_padding_does_not_matter(registry, name, side):
    plain = of_size(5, side)[0]
    ids = plain.input_ids.masked_fill(plain.attention_mask == 0, 99)
    other = Batch(input_ids=ids, attention_mask=plain.attention_mask)
    one, two = (run(tiny(name), registry, [batch]) for batch in (plain, other))
    for statistic, value in one.statistics.items():
        np.testing.assert_array_equal(value, two.statistics[statistic])


def test_only_the_statistics_asked_for_are_gathered(registry):
    scores = run(tiny("llama"), registry, of_size(5), names=("activation_max",))
    assert set(scores.statistics) == {ABS_MAX.name}


class Refusing:
    """Batches that must not be asked for."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        raise AssertionError("a batch was asked for")


def test_a_criterion_without_statistics_runs_no_model(registry):
    scores = run(tiny("llama"), registry, Refusing(), names=("last",))
    assert dict(scores.statistics) == {}
    assert scores.num_tokens == 0


def test_a_statistic_of_the_weights_alone_runs_no_model(registry):
    norm = Statistic(
        name="n", site="weight", merge="max", measure=lambda weight: weight.norm(dim=0)
    )
    model, family = tiny("llama"), registry.families.get("llama")
    scores = profile(model, family, Refusing(), [norm], SingleProcess())
    down = torch.stack([layer.mlp.down_proj.weight.norm(dim=0) for layer in model.model.layers])
    np.testing.assert_allclose(scores.statistics["n"], down.detach().numpy(), rtol=1e-6)


def test_the_lm_head_is_never_run(registry):
    model = tiny_model("gemma2")

    def refuse(module, args):
        raise AssertionError("lm_head was run")

    model.lm_head.register_forward_pre_hook(refuse)
    assert run(model, registry, of_size(2)).num_tokens == 35


@pytest.mark.parametrize("training", [True, False])
def test_mode_hooks_and_gradients_are_as_before(registry, training):
    model = tiny_model("llama").train(training)
    run(model, registry, of_size(2))
    assert all(module.training is training for module in model.modules())
    assert num_hooks(model) == 0
    model(torch.tensor([[5, 6]]), labels=torch.tensor([[5, 6]])).loss.backward()


@pytest.mark.parametrize("where", ["norm", "layers.2.mlp.down_proj"])
def test_hooks_are_gone_and_the_mode_is_back_when_the_forward_fails(registry, where):
    model = tiny_model("qwen2").train()
    handle = model.model.get_submodule(where).register_forward_pre_hook(lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(model, registry, of_size(2))
    handle.remove()
    assert num_hooks(model) == 0
    assert all(module.training for module in model.modules())


def test_dropout_does_not_act_while_profiling(registry):
    model = tiny_model("llama", attention_dropout=0.9).train()
    one, two = (run(model, registry, of_size(2)) for _ in range(2))
    np.testing.assert_array_equal(one.statistics[ABS_SUM.name], two.statistics[ABS_SUM.name])


def test_gradient_checkpointing_is_off_while_profiling(registry):
    model = tiny_model("llama").train()
    model.gradient_checkpointing_enable()
    plain = run(tiny("llama"), registry, of_size(2))
    scores = run(model, registry, of_size(2))
    np.testing.assert_array_equal(scores.statistics[ABS_SUM.name], plain.statistics[ABS_SUM.name])


def test_a_bf16_model_is_summed_in_fp32(registry):
    """A bf16 sum over thousands of tokens would stop growing."""
    model = tiny_model("llama", dtype=torch.bfloat16)
    batch = pad([[5] * 200] * 4, device=CPU)
    one, twenty = (run(model, registry, [batch] * n) for n in (1, 20))
    for statistic in (ABS_SUM, SQUARE_SUM, L2_SUM):
        total = twenty.statistics[statistic.name]
        assert total.dtype == np.float32
        np.testing.assert_allclose(total, 20 * one.statistics[statistic.name], rtol=1e-5)
    exact = []
    family = registry.families.get("llama")
    down = ffn_output(decoder_layers(model, family)[0], family)
    handle = down.register_forward_pre_hook(lambda module, args: exact.append(args[0].double()))
    run(model, registry, [batch])
    handle.remove()
    total = exact[0].abs().sum(dim=(0, 1)).numpy()
    np.testing.assert_allclose(one.statistics[ABS_SUM.name][0], total, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_activations_of_3e4_are_squared_without_overflow(registry, dtype):
    """fp16 ends at 65504, and bf16 holds 8 bits of a sum of squares of 9e8 each."""
    model = tiny_model("llama", dtype=dtype)
    large = torch.tensor(3e4, dtype=dtype).double()
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.data.zero_()  # what comes out would overflow fp16
        layer.mlp.down_proj.register_forward_pre_hook(
            lambda module, args: (torch.full_like(args[0], 3e4),)
        )
    scores = run(model, registry, [pad([[5] * 100] * 10, device=CPU)] * 3)
    for name in ("activation_max", "activation_mean", "activation_rms"):
        importance = registry.criteria.get(name).importance(scores)
        np.testing.assert_allclose(importance, large, rtol=1e-6)
    assert scores.statistics[SQUARE_SUM.name].min() > 2.6e12


def test_an_outside_statistic_of_two_signals_is_gathered(registry):
    """A plugin's own statistic sees real tokens only: [tokens, hidden] before and after."""
    shapes = []

    def measure(before, after):
        shapes.append((tuple(before.shape), tuple(after.shape)))
        return (after - before).abs().amax()

    mine = Statistic(name="mine", site="layer", merge="max", measure=measure)
    model, family = tiny("llama"), registry.families.get("llama")
    scores = profile(model, family, of_size(5, "left"), [mine], SingleProcess())
    assert shapes == [((35, 32), (35, 32))] * 5
    expected = (by_hand("llama")["after"] - by_hand("llama")["before"]).abs().amax(dim=(1, 2))
    np.testing.assert_allclose(scores.statistics["mine"], expected.numpy(), rtol=1e-4)
