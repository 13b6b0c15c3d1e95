"""FLOPs of a question: each token through all weights, and each query over what it sees."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ptl_plugins.errors import PTLError
from ptl_plugins.flops import attention_flops, multiplied_weights, question_flops
from ptl_plugins.geometry import Geometry, geometry

PAGE = Path(__file__).parents[2] / "docs" / "reproduce.md"
KEYS = {
    "model_type": "llama", "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 3,
    "intermediate_size": 16, "vocab_size": 32,
}  # fmt: skip
MIXED = {**KEYS, "model_type": "gemma2", "head_dim": 4, "sliding_window": 5}  # slides, full, slides


@pytest.fixture
def llama(registry):
    return geometry(KEYS, registry.families.get("llama"))


@pytest.fixture
def gemma(registry):
    return geometry(MIXED, registry.families.get("gemma2"))


def attention_by_hand(windows, query_size, prompt, generated):
    """Count key by key what the closed form counts at once."""
    total = 0
    for window in windows:
        total += prompt * prompt
        for position in range(prompt + 1, prompt + generated + 1):
            total += min(position, window) if window else position
    return 4 * query_size * total


def test_the_weights_are_matrices_and_lm_head_without_norms_and_embedding(llama, gemma):
    layer = 4 * 8 * 8 + 3 * 8 * 16
    assert multiplied_weights(llama) == 3 * layer + 32 * 8
    assert multiplied_weights(gemma) == multiplied_weights(llama), "tied or not, whatever norms"
    assert llama.flops_per_token == 2 * (multiplied_weights(llama) + 3 * 2 * 8 + 8), "norms too"


def test_biases_multiply_nothing(registry, llama):
    keys = {**KEYS, "attention_bias": True, "mlp_bias": True}
    biased = geometry(keys, registry.families.get("llama"))
    assert biased.num_parameters > llama.num_parameters
    assert multiplied_weights(biased) == multiplied_weights(llama)


def test_a_question_is_its_tokens_times_the_weights_and_the_attention(llama):
    tokens = {"prompt_tokens": 7, "generated_tokens": 4}
    attention = attention_flops(llama, **tokens)
    assert attention == 4 * 8 * 3 * (7 * 7 + 8 + 9 + 10 + 11)
    assert question_flops(llama, **tokens) == 2 * multiplied_weights(llama) * 11 + attention


@pytest.mark.parametrize(("prompt", "generated"), [(0, 0), (0, 9), (3, 0), (3, 9), (5, 2), (9, 4)])
def test_a_window_bounds_what_a_generated_token_sees_and_not_the_prompt(gemma, prompt, generated):
    tokens = {"prompt_tokens": prompt, "generated_tokens": generated}
    expected = attention_by_hand((5, None, 5), 8, prompt, generated)
    assert attention_flops(gemma, **tokens) == expected


def test_query_heads_count_and_not_key_value_heads(registry, llama):
    grouped = geometry({**KEYS, "num_key_value_heads": 1}, registry.families.get("llama"))
    tokens = {"prompt_tokens": 7, "generated_tokens": 4}
    assert multiplied_weights(grouped) < multiplied_weights(llama)
    assert attention_flops(grouped, **tokens) == attention_flops(llama, **tokens)


def test_a_pruned_shape_counts_what_is_left(llama):
    pruned = llama.after(width=10, num_layers=2)
    tokens = {"prompt_tokens": 7, "generated_tokens": 4}
    assert multiplied_weights(pruned) == 2 * (4 * 8 * 8 + 3 * 8 * 10) + 32 * 8
    assert 3 * attention_flops(pruned, **tokens) == 2 * attention_flops(llama, **tokens)


def test_which_layers_went_matters_where_they_differ_in_their_window(gemma):
    tokens = {"prompt_tokens": 7, "generated_tokens": 4}
    without_first = gemma.after(width=16, num_layers=2, kept_layers=(1, 2))
    without_full = gemma.after(width=16, num_layers=2, kept_layers=(0, 2))
    assert attention_flops(without_first, **tokens) == attention_by_hand((None, 5), 8, 7, 4)
    assert attention_flops(without_full, **tokens) == attention_by_hand((5, 5), 8, 7, 4)


def test_a_shape_of_which_nobody_knows_the_layers_is_refused_in_one_line(gemma):
    unknown = gemma.after(width=16, num_layers=2)
    with pytest.raises(PTLError, match=r"^FLOPs of the attention: .* read .*config\.json") as told:
        question_flops(unknown, prompt_tokens=7, generated_tokens=4)
    assert "\n" not in str(told.value)
    assert multiplied_weights(unknown) < multiplied_weights(gemma), "these do not depend on it"


def test_sizes_made_by_hand_are_refused():
    sizes = Geometry(
        num_layers=2, width=4, hidden=8, vocabulary=16, tied=True, layer_fixed=9, per_neuron=3
    )
    with pytest.raises(PTLError, match=r"do not tell the matrices; read them from a config\.json"):
        question_flops(sizes, prompt_tokens=1, generated_tokens=1)
    assert sizes.after(width=3, num_layers=1).matrices is None


@pytest.mark.parametrize("tokens", [(-1, 1), (1, -1)])
def test_a_negative_number_of_tokens_is_refused(llama, tokens):
    with pytest.raises(ValueError, match="none can be negative"):
        question_flops(llama, prompt_tokens=tokens[0], generated_tokens=tokens[1])


def test_the_example_of_the_page_counts_a_models_question(llama, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(KEYS), encoding="utf-8")
    (code,) = re.findall(r"```python\n# count_question\.py\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names = {}
    exec(compile(code, "count_question.py", "exec"), names)
    expected = question_flops(llama, prompt_tokens=7, generated_tokens=4)
    assert names["count"](str(tmp_path), 7, 4) == expected
