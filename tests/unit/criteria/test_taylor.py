"""First-order Taylor against autograd on one sequence at a time, and what the pass leaves alone."""

from __future__ import annotations

import copy
import functools
import gc
import weakref

import numpy as np
import pytest
import torch

from ptl_plugins import gradients
from ptl_plugins.calibration import Batch, Batches, pad
from ptl_plugins.criteria import Statistic, forward_statistics, needed_statistics
from ptl_plugins.criteria.activation import ABS_SUM
from ptl_plugins.criteria.layer_change import L2_SUM
from ptl_plugins.criteria.taylor import TAYLOR, TAYLOR_SUM
from ptl_plugins.families import find_family
from ptl_plugins.profiling import NoJournal, profile
from ptl_plugins.ranks import SingleProcess
from ptl_plugins.second_moments import MomentFolder
from ptl_plugins.testing import TINY, tiny_model

CPU = torch.device("cpu")
SEQUENCES = [[(7 * i + 3 * j) % 250 + 4 for j in range(n)] for i, n in enumerate((9, 1, 4, 17, 4))]
SIGNED = Statistic(
    name="signed", site="gradient", merge="sum", measure=lambda act, grad: (act * grad).sum(dim=0)
)


@functools.cache
def tiny(name):
    return tiny_model(name)


def run(registry, model, batches, statistics=(TAYLOR_SUM,), **options):
    family = find_family(registry, model.config.to_dict())
    return profile(model, family, batches, statistics, SingleProcess(), **options)


def summed_loss(model, sequence):
    """The next-token loss of one sequence in nats, summed over its tokens."""
    if len(sequence) == 1:
        return None
    ids = torch.tensor([sequence])
    return model(input_ids=ids, labels=ids).loss * (len(sequence) - 1)


@functools.cache
def reference(name):
    """Return mean |Act * dL/dAct| over all tokens, by plain autograd in fp64: [layers, width]."""
    model = copy.deepcopy(tiny(name)).double()
    total = torch.zeros(len(model.model.layers), 48, dtype=torch.float64)
    acts = []

    def keep(module, args):
        args[0].retain_grad()
        acts.append(args[0])

    for layer in model.model.layers:
        layer.mlp.down_proj.register_forward_pre_hook(keep)
    for sequence in SEQUENCES:
        acts.clear()
        if (loss := summed_loss(model, sequence)) is not None:
            loss.backward()
            for row, act in zip(total, acts, strict=True):
                row += (act * act.grad)[0].detach().abs().sum(dim=0)
    return (total / sum(map(len, SEQUENCES))).numpy()


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


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", TINY)
def test_taylor_equals_autograd_one_sequence_at_a_time(registry, name, side, size):
    scores = run(registry, tiny(name), of_size(size, side))
    importance = TAYLOR.importance(scores)
    assert (importance.dtype, importance.shape) == (np.float32, (5, 48))
    np.testing.assert_allclose(importance, reference(name), rtol=2e-4, atol=1e-8)
    assert (scores.num_tokens, scores.num_sequences) == (35, 5)


@pytest.mark.parametrize("budget", [1, 20, 10_000])
def test_batches_by_token_budget_give_the_same_scores(registry, budget):
    batches = Batches(SEQUENCES, batch_tokens=budget, device=CPU)
    importance = TAYLOR.importance(run(registry, tiny("llama"), batches))
    np.testing.assert_allclose(importance, reference("llama"), rtol=2e-4, atol=1e-8)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_logits_exist_for_a_chunk_of_the_tokens_at_a_time(registry, monkeypatch, name, rows):
    model, seen = tiny_model(name), []
    model.lm_head.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[0]))
    monkeypatch.setitem(gradients.LOGITS_PER_CHUNK, "cpu", 256 * rows)
    importance = TAYLOR.importance(run(registry, model, of_size(5)))
    assert (max(seen), sum(seen)) == (rows, 35 - 5), "the last token of a sequence has no target"
    np.testing.assert_allclose(importance, reference(name), rtol=2e-4, atol=1e-8)


def test_signed_sums_are_the_product_of_a_column_and_its_own_gradient(registry):
    """Sum over t of Act(t) * dL/dAct(t) = W[:, N] . dL/dW[:, N], an identity of the chain rule."""
    model = copy.deepcopy(tiny("qwen2"))
    sums = run(registry, model, of_size(2), (SIGNED,)).statistics["signed"]
    for sequence in SEQUENCES:
        if (loss := summed_loss(model, sequence)) is not None:
            loss.backward()
    columns = [layer.mlp.down_proj.weight for layer in model.model.layers]
    expected = torch.stack([(w * w.grad).sum(dim=0) for w in columns]).detach().numpy()
    np.testing.assert_allclose(sums, expected, rtol=1e-3, atol=1e-6)


def test_a_neuron_that_writes_nothing_is_of_no_importance(registry):
    model = copy.deepcopy(tiny("llama"))
    with torch.no_grad():
        model.model.layers[3].mlp.down_proj.weight[:, 11] = 0
    importance = TAYLOR.importance(run(registry, model, of_size(2)))
    assert importance[3, 11] == 0
    assert (importance > 0).sum() == importance.size - 1


@pytest.mark.parametrize("factor", [0.5, 8.0])
def test_the_scale_between_up_and_down_does_not_matter(registry, factor):
    """Act times c and its column over c is the same model, and the same importance."""
    model = copy.deepcopy(tiny("llama"))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.up_proj.weight[5] *= factor
            layer.mlp.down_proj.weight[:, 5] /= factor
    importance = TAYLOR.importance(run(registry, model, of_size(2)))
    np.testing.assert_allclose(importance, reference("llama"), rtol=2e-4, atol=1e-8)


def test_tokens_do_not_cancel(registry):
    both = run(registry, tiny("llama"), of_size(2), (TAYLOR_SUM, SIGNED)).statistics
    assert (both[TAYLOR_SUM.name] >= np.abs(both["signed"]) - 1e-7).all()
    assert (both[TAYLOR_SUM.name] > 2 * np.abs(both["signed"])).any()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen2"])
def test_what_stands_under_the_padding_does_not_matter(registry, name, side):
    plain = of_size(5, side)[0]
    ids = plain.input_ids.masked_fill(plain.attention_mask == 0, 99)
    other = Batch(input_ids=ids, attention_mask=plain.attention_mask)
    one, two = (run(registry, tiny(name), [batch]).statistics for batch in (plain, other))
    np.testing.assert_array_equal(one[TAYLOR_SUM.name], two[TAYLOR_SUM.name])


def test_sequences_of_one_token_have_no_loss(registry):
    scores = run(registry, tiny("llama"), [pad([[5], [6]], device=CPU)])
    assert not scores.statistics[TAYLOR_SUM.name].any()
    assert scores.num_tokens == 2


def test_the_other_statistics_of_the_pass_are_those_of_a_forward_pass(registry, tmp_path):
    folders = [MomentFolder(path=tmp_path / name) for name in ("both", "alone")]
    both = run(
        registry, tiny("llama"), of_size(2), (TAYLOR_SUM, ABS_SUM, L2_SUM), moments=folders[0]
    )
    alone = run(registry, tiny("llama"), of_size(2), (ABS_SUM, L2_SUM), moments=folders[1])
    for statistic in (ABS_SUM, L2_SUM):
        one, two = (s.statistics[statistic.name] for s in (both, alone))
        np.testing.assert_allclose(one, two, rtol=1e-6)
    for layer in range(5):
        one, two = (folder.read(layer, 48) for folder in folders)
        torch.testing.assert_close(one, two)


def test_ranks_add_up_to_the_whole(registry):
    whole = run(registry, tiny("llama"), of_size(5)).statistics[TAYLOR_SUM.name]
    shares = [
        run(registry, tiny("llama"), [pad(SEQUENCES[rank::2], device=CPU)]).statistics
        for rank in (0, 1)
    ]
    np.testing.assert_allclose(sum(s[TAYLOR_SUM.name] for s in shares), whole, rtol=1e-4)


def test_a_bf16_model_is_summed_in_fp32(registry):
    model = tiny_model("llama", dtype=torch.bfloat16)
    batch = pad([[5, 9] * 50] * 4, device=CPU)
    one, twenty = (run(registry, model, [batch] * n).statistics for n in (1, 20))
    total = twenty[TAYLOR_SUM.name]
    assert total.dtype == np.float32
    assert (total > 0).all()
    np.testing.assert_allclose(total, 20 * one[TAYLOR_SUM.name], rtol=1e-5)


def test_a_bf16_model_ranks_neurons_as_its_fp32_copy_does(registry):
    model = tiny_model("llama", dtype=torch.bfloat16)
    copied = copy.deepcopy(model).float()
    low, high = (TAYLOR.importance(run(registry, m, of_size(2))).ravel() for m in (model, copied))
    assert np.corrcoef(low, high)[0, 1] > 0.99


@pytest.mark.parametrize("training", [True, False])
def test_parameters_get_no_gradient_and_may_have_one_afterwards(registry, training):
    model = tiny_model("llama").train(training)
    frozen = model.model.layers[1].mlp.up_proj.weight.requires_grad_(False)
    during = []
    model.model.norm.register_forward_pre_hook(
        lambda *args: during.extend(p.requires_grad for p in model.parameters())
    )
    run(registry, model, of_size(5))
    assert not any(during)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [p for p in model.parameters() if not p.requires_grad] == [frozen]
    assert all(module.training is training for module in model.modules())
    hooks = (len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    assert sum(hooks) == 1


def test_everything_is_as_before_when_the_backward_pass_fails(registry):
    broken = Statistic(name="b", site="gradient", merge="sum", measure=lambda act, grad: 1 / 0)
    model = tiny_model("llama").train()
    with pytest.raises(ZeroDivisionError):
        run(registry, model, of_size(2), (broken,))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_no_dropout_and_no_checkpointing_while_gradients_are_taken(registry):
    model = tiny_model("llama", attention_dropout=0.9).train()
    model.gradient_checkpointing_enable()
    importance = TAYLOR.importance(run(registry, model, of_size(2)))
    np.testing.assert_allclose(importance, reference("llama"), rtol=2e-4, atol=1e-8)


def test_the_graph_of_a_batch_is_gone_when_the_next_one_runs(registry):
    """What hooks hold must not hold the graph: memory would grow with the number of batches."""
    model, graphs, alive = tiny_model("llama"), [], []

    def note(module, args):
        alive.append(sum(graph() is not None for graph in graphs))
        graphs.append(weakref.ref(args[0]))

    model.model.norm.register_forward_pre_hook(note)
    gc.disable()
    try:
        run(registry, model, of_size(1), (TAYLOR_SUM, ABS_SUM, L2_SUM))
    finally:
        gc.enable()
    assert alive == [0] * 5


def tensor_ids():
    """Return the live tensors that Python knows, and that have an element."""
    gc.collect()
    return {id(o) for o in gc.get_objects() if issubclass(type(o), torch.Tensor) and o.numel()}


def test_nothing_of_a_batch_is_held_when_it_is_done(registry):
    """The number of live tensors after a batch is the same after the first and after the fifth."""

    class Counting(NoJournal):
        def batch_done(self, done, total, tallies):
            alive.append(len(tensor_ids() - before))

    class Noted(Batches):
        def __getitem__(self, index):
            batch = super().__getitem__(index)
            taken.append(weakref.ref(batch.input_ids))
            held.append(sum(ref() is not None for ref in taken[:-1]))
            return batch

    model, alive, taken, held = tiny_model("gemma2"), [], [], []
    batches, before = Noted(SEQUENCES, batch_tokens=1, device=CPU), tensor_ids()
    run(registry, model, batches, (TAYLOR_SUM, ABS_SUM, L2_SUM), journal=Counting())
    assert len(alive) == 5
    assert len(set(alive)) == 1, alive
    assert max(held) <= 1, "the one before, until its name is given to the next"


def test_the_graph_of_one_layer_exists_at_a_time(registry):
    model, graphs, alive = tiny_model("gemma2"), [], []

    def note(module, args):
        if args[0].requires_grad:
            alive.append(sum(graph() is not None for graph in graphs))
            graphs.append(weakref.ref(args[0]))

    for layer in model.model.layers:
        layer.mlp.register_forward_pre_hook(note)
    gc.disable()
    try:
        run(registry, model, of_size(5))
    finally:
        gc.enable()
    assert alive == [0] * 5


def test_only_taylor_asks_for_a_backward_pass(registry):
    statistics = needed_statistics([c for _, c in registry.criteria.items()])
    assert set(statistics) - set(forward_statistics(statistics)) == {TAYLOR_SUM}
