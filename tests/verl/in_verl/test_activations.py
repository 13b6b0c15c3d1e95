"""Statistics of the FFN's neurons, against a plain computation over all tokens at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from verl_ext.in_verl.activations import Activations

RANKS = Path(__file__).with_name("activation_ranks.py")
LAYERS = 5


def observe(model, prompts, counts=None):
    with Activations(model) as activations, torch.no_grad():
        for index, prompt in enumerate(prompts):
            activations.counting = counts is None or counts[index]
            model(input_ids=torch.tensor([prompt]))
    return activations


def plainly(model, prompts):
    """Return the inputs of each down_proj over all tokens, [tokens, neurons] in fp64."""
    caught = {f"model.layers.{i}.mlp.down_proj": [] for i in range(LAYERS)}
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, rows=rows: rows.append(inputs[0][0].double())
        )
        for name, rows in caught.items()
    ]
    with torch.no_grad():
        for prompt in prompts:
            model(input_ids=torch.tensor([prompt]))
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(rows) for name, rows in caught.items()}


def test_statistics_are_those_of_all_tokens(model, prompts):
    activations = observe(model, prompts)
    found = activations.statistics()
    assert activations.tokens == sum(map(len, prompts))
    assert len(found) == 3 * LAYERS
    for name, values in plainly(model, prompts).items():
        size = values.abs()
        expected = {"abs_max": size.amax(0), "abs_mean": size.mean(0)}
        expected["rms"] = values.square().mean(0).sqrt()
        for statistic, value in expected.items():
            assert found[f"{name}.{statistic}"].dtype == torch.float32
            torch.testing.assert_close(
                found[f"{name}.{statistic}"], value.float(), rtol=1e-5, atol=1e-6
            )


def test_tokens_that_do_not_count_leave_no_trace(model, prompts):
    counts = [True, False, True, False]
    some = observe(model, prompts, counts)
    alone = observe(model, prompts[::2])
    assert some.tokens == alone.tokens == 4
    for name, value in alone.statistics().items():
        assert torch.equal(some.statistics()[name], value)


def test_a_rank_that_counted_nothing_has_zeros(model, prompts):
    activations = observe(model, prompts[:1], [False])
    assert activations.tokens == 0
    assert not any(value.any() for value in activations.statistics().values())


def test_the_size_does_not_grow_with_the_sequences(model, prompts):
    few, many = observe(model, prompts), observe(model, prompts * 20)
    assert kept_numbers(few) == kept_numbers(many) == LAYERS * 3 * 48


def kept_numbers(activations):
    kept = [*activations._largest.values(), *activations._sums.values()]
    return sum(tensor.untyped_storage().nbytes() // 4 for tensor in kept)


def test_bf16_is_summed_in_fp32(model, prompts):
    import copy

    low = copy.deepcopy(model).bfloat16()
    found = observe(low, prompts * 10).statistics()
    name, values = next(iter(plainly(low, prompts * 10).items()))
    torch.testing.assert_close(
        found[f"{name}.abs_mean"], values.abs().mean(0).float(), rtol=1e-5, atol=1e-6
    )


def test_no_hook_stays(model, prompts):
    observe(model, prompts)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_the_file_has_the_number_of_tokens(model, prompts, tmp_path):
    activations = observe(model, prompts)
    activations.save(str(tmp_path / "a.safetensors"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == {"tokens": str(sum(map(len, prompts)))}
    for name, value in load_file(tmp_path / "a.safetensors").items():
        assert torch.equal(value, activations.statistics()[name])


def test_what_fsdp_puts_into_names_is_left_out(model):
    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self._fsdp_wrapped_module = model

    names = list(Activations(Wrapped())._modules)
    assert names == [f"model.layers.{i}.mlp.down_proj" for i in range(LAYERS)]


def test_a_model_without_such_a_layer_is_refused_by_name():
    with pytest.raises(ValueError, match=r"^Linear has no 'mlp.down_proj' to profile$"):
        Activations(torch.nn.Linear(2, 2))


def test_two_ranks_together_find_what_one_finds(model, prompts, tmp_path):
    model.save_pretrained(tmp_path / "model")
    sequences = [*prompts, [9, 8, 7, 6]]  # of five, the second rank's last one does not count
    torch.save(sequences, tmp_path / "sequences.pt")
    done = subprocess.run(
        [sys.executable, str(RANKS), str(tmp_path)], capture_output=True, text=True, timeout=55
    )
    assert done.returncode == 0, done.stderr
    alone = observe(model, sequences)
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert file.metadata() == {"tokens": str(alone.tokens)}
    found = load_file(tmp_path / "out.safetensors")
    assert found.keys() == alone.statistics().keys()
    for name, value in alone.statistics().items():
        assert found[name].numpy() == pytest.approx(value.numpy(), rel=1e-5, abs=1e-7)
