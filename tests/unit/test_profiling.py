"""One pass against a slow reference: one sequence at a time, Act worked out by hand."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from ptl_plugins.calibration import Batch, batches, group_by_length, pad
from ptl_plugins.criteria import Statistic, needed_statistics
from ptl_plugins.criteria.activation import ABS_MAX, ABS_SUM
from ptl_plugins.criteria.layer_change import L2_SUM
from ptl_plugins.live import decoder_layers, ffn_output
from ptl_plugins.profiling import _Tally, profile
from ptl_plugins.ranks import SingleProcess
from ptl_plugins.testing import tiny_model

CPU = torch.device("cpu")
SEQUENCES = [[(7 * i + 3 * j) % 250 + 4 for j in range(n)] for i, n in enumerate((9, 1, 4, 17, 4))]
FAMILIES = ("llama", "qwen2", "gemma2")
CRITERIA = ("activation_max", "activation_mean", "l2", "last")
ACTIVATION = {"llama": nn.SiLU(), "qwen2": nn.SiLU(), "gemma2": nn.GELU(approximate="tanh")}


@functools.cache
def tiny(name):
    return tiny_model(name)


def captured(model, sequence):
    """Return per layer: the input of the FFN, and the hidden states around the layer."""
    seen = []

    def ffn(module, args):
        seen[-1]["ffn"] = args[0][0]

    def layer(module, args, output):
        after = output[0] if isinstance(output, tuple) else output
        seen[-1] |= {"before": args[0][0], "after": after.reshape(args[0].shape)[0]}

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
def reference(name):
    """Return the importances of every criterion, as the paper's equations say."""
    model, act = tiny(name), ACTIVATION[name]
    acts = [[] for _ in model.model.layers]
    changes = [[] for _ in model.model.layers]
    for sequence in SEQUENCES:
        for index, seen in enumerate(captured(model, sequence)):
            mlp = model.model.layers[index].mlp
            for x in seen["ffn"]:
                acts[index].append((act(mlp.gate_proj.weight @ x) * (mlp.up_proj.weight @ x)).abs())
            for before, after in zip(seen["before"], seen["after"], strict=True):
                changes[index].append(((after - before) ** 2).sum().sqrt())
    acts = torch.stack([torch.stack(rows) for rows in acts]).detach()
    return {
        "activation_max": acts.amax(dim=1),
        "activation_mean": acts.mean(dim=1),
        "l2": torch.tensor(changes).mean(dim=1),
        "last": torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0]),
    }


def left_padded(group):
    batch = pad(group, device=CPU)
    ids, mask = batch.input_ids.clone(), batch.attention_mask.clone()
    for row, sequence in enumerate(group):
        shift = ids.shape[1] - len(sequence)
        ids[row], mask[row] = ids[row].roll(shift), mask[row].roll(shift)
    return Batch(input_ids=ids, attention_mask=mask)


def of_size(size, side):
    groups = [SEQUENCES[i : i + size] for i in range(0, len(SEQUENCES), size)]
    return [left_padded(g) if side == "left" else pad(g, device=CPU) for g in groups]


def run(model, registry, batch_list, names=CRITERIA):
    family = registry.families.get(model.config.model_type)
    statistics = needed_statistics([registry.criteria.get(name) for name in names])
    return profile(model, family, batch_list, statistics, SingleProcess())


def num_hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_the_reference_knows_every_built_in_criterion_and_family(registry):
    assert set(registry.criteria.names()) == set(CRITERIA)
    assert set(registry.families.names()) == set(FAMILIES)


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_criterion_equals_the_slow_reference(registry, name, side, size):
    scores = run(tiny(name), registry, of_size(size, side))
    for criterion in CRITERIA:
        importance = registry.criteria.get(criterion).importance(scores)
        torch.testing.assert_close(importance, reference(name)[criterion], rtol=1e-4, atol=1e-6)
    assert (scores.num_tokens, scores.num_sequences) == (35, 5)


@pytest.mark.parametrize("budget", [1, 20, 10_000])
def test_batches_by_token_budget_give_the_same_scores(registry, budget):
    scores = run(tiny("llama"), registry, batches(SEQUENCES, batch_tokens=budget, device=CPU))
    importance = registry.criteria.get("activation_mean").importance(scores)
    torch.testing.assert_close(importance, reference("llama")["activation_mean"])


def test_what_stands_under_the_padding_does_not_matter(registry):
    plain = of_size(5, "right")[0]
    ids = plain.input_ids.masked_fill(plain.attention_mask == 0, 99)
    other = Batch(input_ids=ids, attention_mask=plain.attention_mask)
    one, two = (run(tiny("qwen2"), registry, [batch]) for batch in (plain, other))
    for statistic, value in one.statistics.items():
        assert torch.equal(value, two.statistics[statistic])


def test_only_the_statistics_asked_for_are_gathered(registry):
    scores = run(tiny("llama"), registry, of_size(5, "right"), names=("activation_max",))
    assert set(scores.statistics) == {ABS_MAX.name}


def test_a_criterion_without_statistics_runs_no_model(registry):
    def refuse():
        raise AssertionError("a batch was drawn")
        yield

    scores = run(tiny("llama"), registry, refuse(), names=("last",))
    assert dict(scores.statistics) == {}
    assert scores.num_tokens == 0


def test_the_lm_head_is_never_run(registry):
    model = tiny_model("gemma2")

    def refuse(module, args):
        raise AssertionError("lm_head was run")

    model.lm_head.register_forward_pre_hook(refuse)
    assert run(model, registry, of_size(2, "right")).num_tokens == 35


def test_totals_do_not_grow_with_the_number_of_sequences(registry):
    """The state is one tensor per statistic, updated in place."""
    model, family = tiny("llama"), registry.families.get("llama")
    tally = _Tally(model, family, (ABS_MAX, ABS_SUM, L2_SUM))
    before = {name: (t.data_ptr(), t.shape) for name, t in tally.totals.items()}
    sizes = []
    with torch.inference_mode(), tally.hooks():
        for batch in of_size(1, "right") * 3:
            tally.start(batch)
            model.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
            held = [v for v in vars(tally).values() if isinstance(v, torch.Tensor)]
            sizes.append(sum(t.numel() for t in [*held, *tally.totals.values()]))
    assert {name: (t.data_ptr(), t.shape) for name, t in tally.totals.items()} == before
    assert sizes[-5:] == sizes[:5], "what is held depends on the batch alone"


def test_batches_are_drawn_one_at_a_time(registry):
    model, drawn, seen = tiny("llama"), [], []
    handle = model.model.register_forward_hook(lambda *args: seen.append(len(drawn)))

    def stream():
        for batch in of_size(1, "right"):
            drawn.append(batch)
            yield batch

    run(model, registry, stream())
    handle.remove()
    assert seen == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("training", [True, False])
def test_mode_hooks_and_gradients_are_as_before(registry, training):
    model = tiny_model("llama").train(training)
    run(model, registry, of_size(2, "right"))
    assert all(module.training is training for module in model.modules())
    assert num_hooks(model) == 0
    model(torch.tensor([[5, 6]]), labels=torch.tensor([[5, 6]])).loss.backward()


def test_hooks_are_gone_and_the_mode_is_back_when_the_forward_fails(registry):
    model = tiny_model("qwen2").train()
    handle = model.model.norm.register_forward_pre_hook(lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(model, registry, of_size(2, "right"))
    handle.remove()
    assert num_hooks(model) == 0
    assert all(module.training for module in model.modules())


def test_dropout_does_not_act_while_profiling(registry):
    model = tiny_model("llama", attention_dropout=0.9).train()
    one, two = (run(model, registry, of_size(2, "right")) for _ in range(2))
    assert torch.equal(one.statistics[ABS_SUM.name], two.statistics[ABS_SUM.name])


def test_a_bf16_model_is_summed_in_fp32(registry):
    """A bf16 sum over thousands of tokens would stop growing."""
    model = tiny_model("llama", dtype=torch.bfloat16)
    sequence = [[5] * 200] * 4
    one, twenty = (run(model, registry, [pad(sequence, device=CPU)] * n) for n in (1, 20))
    for statistic in (ABS_SUM, L2_SUM):
        total = twenty.statistics[statistic.name]
        assert total.dtype == torch.float32
        torch.testing.assert_close(total, 20 * one.statistics[statistic.name], rtol=1e-5, atol=0)
    exact = []
    family = registry.families.get("llama")
    down = ffn_output(decoder_layers(model, family)[0], family)
    handle = down.register_forward_pre_hook(lambda module, args: exact.append(args[0].double()))
    run(model, registry, [pad(sequence, device=CPU)])
    handle.remove()
    torch.testing.assert_close(
        one.statistics[ABS_SUM.name][0].double(), exact[0].abs().sum(dim=(0, 1)), rtol=1e-5, atol=0
    )


def test_an_outside_statistic_of_two_signals_is_gathered(registry):
    """A plugin's own statistic sees real tokens only: [tokens, hidden] before and after."""
    shapes = []

    def measure(before, after):
        shapes.append((tuple(before.shape), tuple(after.shape)))
        return (after - before).abs().amax().float()

    mine = Statistic(name="mine", site="layer", merge="max", measure=measure)
    model, family = tiny("llama"), registry.families.get("llama")
    scores = profile(model, family, of_size(5, "left"), [mine], SingleProcess())
    assert shapes == [((35, 32), (35, 32))] * 5
    assert bool((scores.statistics["mine"] > 0).all())


def test_groups_keep_the_budget_and_lose_no_sequence():
    groups = list(group_by_length([*SEQUENCES, []], batch_tokens=20))
    assert sorted(map(len, (s for g in groups for s in g))) == [1, 4, 4, 9, 17]
    assert all(len(g) == 1 or len(g) * max(map(len, g)) <= 20 for g in groups)
    assert [len(g) for g in groups] == [1, 2, 2]


def test_a_sequence_longer_than_the_budget_is_a_group_of_its_own():
    assert list(group_by_length([[1] * 9, [1]], batch_tokens=4)) == [[[1] * 9], [[1]]]
