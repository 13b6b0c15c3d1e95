"""A model's sizes follow from its config alone, and a config that lacks one is named."""

from __future__ import annotations

import pytest

from ptl_plugins.errors import PTLError
from ptl_plugins.families import Family
from ptl_plugins.geometry import geometry
from ptl_plugins.testing import tiny_model

KEYS = {
    "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 3,
    "intermediate_size": 16, "vocab_size": 32,
}  # fmt: skip

PUBLISHED = {
    "Llama-3-8B": ("llama", 8_030_261_248, {
        "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8,
        "num_hidden_layers": 32, "intermediate_size": 14336, "vocab_size": 128256,
    }),
    "Mistral-7B": ("mistral", 7_241_732_096, {
        "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8,
        "num_hidden_layers": 32, "intermediate_size": 14336, "vocab_size": 32000,
    }),
    "Mistral-Nemo": ("mistral", 12_247_782_400, {
        "hidden_size": 5120, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
        "num_hidden_layers": 40, "intermediate_size": 14336, "vocab_size": 131072,
    }),
    "Qwen2.5-7B": ("qwen2", 7_615_616_512, {
        "hidden_size": 3584, "num_attention_heads": 28, "num_key_value_heads": 4,
        "num_hidden_layers": 28, "intermediate_size": 18944, "vocab_size": 152064,
    }),
    "Qwen3-8B": ("qwen3", 8_190_735_360, {
        "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
        "num_hidden_layers": 36, "intermediate_size": 12288, "vocab_size": 151936,
    }),
    "Gemma2-9B": ("gemma2", 9_241_705_984, {
        "hidden_size": 3584, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256,
        "num_hidden_layers": 42, "intermediate_size": 14336, "vocab_size": 256000,
    }),
    "Gemma3-1B": ("gemma3", 999_885_952, {
        "hidden_size": 1152, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256,
        "num_hidden_layers": 26, "intermediate_size": 6912, "vocab_size": 262144,
    }),
    "Phi-3-mini": ("phi3", 3_821_079_552, {
        "hidden_size": 3072, "num_attention_heads": 32, "num_key_value_heads": 32,
        "num_hidden_layers": 32, "intermediate_size": 8192, "vocab_size": 32064,
    }),
    "Phi-4": ("phi3", 14_659_507_200, {
        "hidden_size": 5120, "num_attention_heads": 40, "num_key_value_heads": 10,
        "num_hidden_layers": 40, "intermediate_size": 17920, "vocab_size": 100352,
    }),
}  # fmt: skip
"""Family, number of parameters as the model cards count them, and sizes."""


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_models_have_their_published_sizes(registry, model):
    family, number, config = PUBLISHED[model]
    assert geometry(config, registry.families.get(family)).num_parameters == number


def test_every_family_has_a_published_model_here(registry):
    assert {family for family, _, _ in PUBLISHED.values()} == set(registry.families.names())


@pytest.mark.parametrize("value", [None, 0, -1, "8", 8.0])
@pytest.mark.parametrize("key", KEYS)
def test_a_size_that_is_missing_or_no_size_is_named(registry, key, value):
    with pytest.raises(PTLError, match=rf"config\.json: {key}: {value!r} is not a positive"):
        geometry({**KEYS, key: value}, registry.families.get("llama"))


PLAIN = Family(name="plain", model_types=("plain",), qkv_bias=False, output_bias=False)


@pytest.mark.parametrize(
    ("facts", "more_fixed", "more_per_neuron"),
    [
        ({}, 0, 0),
        ({"ffn_inputs": ("mlp.fused",), "ffn_blocks": 2}, 0, 0),
        ({"ffn_inputs": ("mlp.fused",), "ffn_blocks": 2, "ffn_bias": True}, 8, 2),
        ({"ffn_inputs": ("mlp.only",)}, 0, -8),
        ({"ffn_bias": True}, 8, 2),
        ({"norms_per_layer": 4}, 16, 0),
        ({"norms_per_head": 2}, 8, 0),
        ({"norm_bias": True}, 16, 0),
        ({"qkv_bias": True, "output_bias": True}, 32, 0),
        ({"default_head_dim": 6}, 64 * 2, 0),
    ],
)
def test_every_fact_counts_for_what_it_says(facts, more_fixed, more_per_neuron):
    names = PLAIN.__dataclass_fields__
    family = Family(**{**{name: getattr(PLAIN, name) for name in names}, **facts})
    plain, other = geometry(KEYS, PLAIN), geometry(KEYS, family)
    assert plain.layer_fixed == 4 * 8 * 8 + 2 * 8
    assert plain.per_neuron == 3 * 8
    assert other.layer_fixed == plain.layer_fixed + more_fixed
    assert other.per_neuron == plain.per_neuron + more_per_neuron
    assert other.norm_bias is family.norm_bias


def test_a_head_size_in_the_config_goes_before_the_familys():
    family = Family(name="mine", model_types=("mine",), default_head_dim=6)
    assert geometry({**KEYS, "head_dim": 4}, family) == geometry(KEYS, PLAIN)


def test_a_final_norm_with_a_bias_counts_twice():
    family = Family(name="mine", model_types=("mine",), norm_bias=True)
    sizes = geometry(KEYS, family)
    layers = 3 * (sizes.layer_fixed + 16 * sizes.per_neuron)
    assert sizes.non_embedding == layers + 2 * 8
    assert sizes.after(width=8, num_layers=1).non_embedding == (
        sizes.layer_fixed + 8 * sizes.per_neuron + 2 * 8
    )


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "gemma3"])
def test_attention_biases_are_counted_where_the_config_says_so(registry, name):
    family = registry.families.get(name)
    model = tiny_model(family.model_types[0], attention_bias=True)
    assert any(name.endswith("o_proj.bias") for name, _ in model.named_parameters())
    number = sum(parameter.numel() for parameter in model.parameters())
    assert geometry(model.config.to_dict(), family).num_parameters == number


WINDOWS = {
    "llama": ({"sliding_window": 5}, (None, None, None)),
    "mistral": ({}, (4096, 4096, 4096)),
    "mistral with none": ({"sliding_window": None}, (None, None, None)),
    "mistral with an unused list": (
        {"sliding_window": 5, "layer_types": ["full_attention"] * 3}, (5, 5, 5)
    ),
    "phi3": ({}, (None, None, None)),
    "phi3 with one": ({"sliding_window": 5}, (5, 5, 5)),
    "qwen2 as published": ({"sliding_window": 5, "use_sliding_window": False}, (None,) * 3),
    "qwen2 with an unused size": ({"sliding_window": 0}, (None, None, None)),
    "qwen3": (
        {"sliding_window": 5, "use_sliding_window": True, "max_window_layers": 1}, (None, 5, 5)
    ),
    "gemma2": ({}, (4096, None, 4096)),
    "gemma2 with its list": (
        {"sliding_window": 5, "layer_types": ["full_attention", *["sliding_attention"] * 2]},
        (None, 5, 5),
    ),
    "gemma3": ({"sliding_window": 5, "sliding_window_pattern": 3}, (5, 5, None)),
}  # fmt: skip
"""Config keys and the attention window of each layer; the name begins with the family's."""


@pytest.mark.parametrize("case", WINDOWS)
def test_each_layer_has_the_window_of_its_config(registry, case):
    keys, expected = WINDOWS[case]
    sizes = geometry({**KEYS, **keys}, registry.families.get(case.split()[0]))
    assert sizes.matrices.windows == expected


def test_every_family_has_its_windows_here(registry):
    assert {case.split()[0] for case in WINDOWS} == set(registry.families.names())


@pytest.mark.parametrize("value", [0, -1, "8", 8.0])
def test_a_window_that_is_no_size_is_named(registry, value):
    with pytest.raises(PTLError, match=rf"config\.json: sliding_window: {value!r} is not a posit"):
        geometry({**KEYS, "sliding_window": value}, registry.families.get("mistral"))


@pytest.mark.parametrize("kinds", [["sliding_attention"] * 2, "sliding_attention"])
def test_a_list_of_another_length_than_the_layers_is_named(registry, kinds):
    with pytest.raises(PTLError, match=r"layer_types: .* not a list of 3 entries, .* mend the mod"):
        geometry({**KEYS, "layer_types": kinds}, registry.families.get("gemma2"))


def test_shapes_with_other_windows_are_the_same_shape(registry):
    start = geometry(KEYS, registry.families.get("gemma2"))
    known = start.after(width=16, num_layers=2, kept_layers=(1, 2))
    assert known == start.after(width=16, num_layers=2)
    assert start.after(width=8, num_layers=3).matrices.windows == (4096, None, 4096)


def test_the_models_whose_texts_begin_with_a_bos_are_gemmas(registry):
    needing = {name for name, family in registry.families.items() if family.needs_bos}
    assert needing == {"gemma2", "gemma3"}
