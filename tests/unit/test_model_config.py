"""A model's config and its family are found, and what is wrong with them is named."""

from __future__ import annotations

import json

import pytest
import transformers

from ptl_plugins.errors import PTLError
from ptl_plugins.families import Family, find_family
from ptl_plugins.families.phi3 import PHI3
from ptl_plugins.model_config import looks_like_path, read_config
from ptl_plugins.registry import Registry


def test_a_folder_gives_its_config(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"a": 1}), encoding="utf-8")
    assert read_config(str(tmp_path)) == {"a": 1}


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "has no config.json"), ("{", "cannot be read as JSON"), ("[]", "not a JSON object")],
)
def test_a_folder_without_a_readable_config_is_refused(tmp_path, content, told):
    if content is not None:
        (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(PTLError, match=told):
        read_config(str(tmp_path))


@pytest.mark.parametrize("model", ["/not/there", "./model", "~/model", "a/b/c", "model"])
def test_what_can_only_be_a_path_never_asks_the_hub(model, monkeypatch):
    import huggingface_hub

    def refuse(*args, **keys):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    assert looks_like_path(model)
    with pytest.raises(PTLError, match="no such folder"):
        read_config(model)


def test_a_hub_name_is_looked_up_and_its_failure_is_one_line(monkeypatch):
    import huggingface_hub

    def fail(*args, **keys):
        raise ConnectionError("first line\nsecond line")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(PTLError, match=r"model 'owner/name'.*\(ConnectionError\)") as raised:
        read_config("owner/name")
    assert "\n" not in str(raised.value)


def test_the_hubs_cache_is_used_before_the_hub(tmp_path, monkeypatch):
    import huggingface_hub

    path = tmp_path / "config.json"
    path.write_text('{"cached": true}', encoding="utf-8")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args: str(path))
    assert read_config("owner/name") == {"cached": True}


def test_a_model_type_that_no_family_lists_is_refused_with_those_that_are(registry):
    told = (
        r"^model_type 'mine' is not supported; supported: gemma2, gemma3_text, llama, mistral, "
        r"phi3, qwen2, qwen3; a plugin can add a family \(docs/families\.md\)$"
    )
    with pytest.raises(PTLError, match=told):
        find_family(registry, {"model_type": "mine"})


@pytest.mark.parametrize("config", [{"model_type": "mine"}, {}, {"model_type": "qwen3"}])
def test_a_family_given_by_name_is_believed(registry, config):
    """Fine-tunes invent model types; the FFN of `llama` is where that of `qwen3` is."""
    assert find_family(registry, config, "llama").name == "llama"


def test_a_family_whose_ffn_is_elsewhere_than_the_model_types_is_refused(registry):
    told = (
        "^family 'llama' does not fit model_type 'phi3': its FFN is mlp.gate_proj, mlp.up_proj and "
        "mlp.down_proj of .* the model's is mlp.gate_up_proj in 2 blocks and .* give 'phi3'$"
    )
    with pytest.raises(PTLError, match=told):
        find_family(registry, {"model_type": "phi3"}, "llama")


def test_a_plugins_family_for_a_listed_model_type_is_taken_by_name():
    registry = Registry()
    mine = Family(name="mine", model_types=("phi3",), ffn_output="mlp.other")
    registry.families.add("mine", mine)
    registry.families.add("early", PHI3)
    assert find_family(registry, {"model_type": "phi3"}, "mine") is mine


MOE = (
    "mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v3", "olmoe", "phimoe",
    "gpt_oss", "dbrx", "granitemoe",
)  # fmt: skip
MULTIMODAL = ("gemma3", "llava", "mistral3", "qwen2_vl", "qwen2_5_vl", "phi4_multimodal")


@pytest.mark.parametrize("family", [None, "llama"])
@pytest.mark.parametrize("model_type", MOE)
@pytest.mark.parametrize("bare", [True, False])
def test_a_mixture_of_experts_is_refused_as_such_even_with_a_family(
    registry, model_type, family, bare
):
    config = {"model_type": model_type}
    if not bare:
        config = transformers.AutoConfig.for_model(model_type).to_dict()
    with pytest.raises(PTLError, match=f"^model_type '{model_type}' is a mixture of experts"):
        find_family(registry, config, family)


@pytest.mark.parametrize("experts", [{"num_experts": [64, 64]}, {"n_routed_experts": 2}])
def test_experts_in_the_config_of_a_known_model_type_are_refused_with_their_key(registry, experts):
    ((key, number),) = experts.items()
    with pytest.raises(PTLError) as raised:
        find_family(registry, {"model_type": "llama", **experts})
    assert f"is a mixture of experts ({key}: {number}): its layers have many" in str(raised.value)


@pytest.mark.parametrize("experts", [{"num_experts": 1}, {"num_local_experts": 0}, {}])
def test_one_expert_or_none_is_a_dense_model(registry, experts):
    experts = {**experts, "n_routed_experts": None}
    assert find_family(registry, {"model_type": "llama", **experts}).name == "llama"


@pytest.mark.parametrize("number", [0, 1])
def test_a_dense_model_of_an_architecture_that_can_have_experts_is_not_called_a_mixture(
    registry, number
):
    with pytest.raises(PTLError, match="model_type 'granitemoe' is not supported"):
        find_family(registry, {"model_type": "granitemoe", "num_local_experts": number})


@pytest.mark.parametrize("family", [None, "llama"])
@pytest.mark.parametrize("model_type", MULTIMODAL)
def test_a_multimodal_model_is_refused_even_with_a_family(registry, model_type, family):
    config = transformers.AutoConfig.for_model(model_type).to_dict()
    with pytest.raises(PTLError, match=f"^model_type '{model_type}' is multimodal"):
        find_family(registry, config, family)


def test_what_to_give_in_a_multimodal_models_place_is_told_where_there_is_something(registry):
    gemma3 = {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}}
    with pytest.raises(PTLError) as raised:
        find_family(registry, gemma3)
    assert str(raised.value) == (
        "model_type 'gemma3' is multimodal (config has text_config); only its text model can be "
        "pruned: save that by itself, as a checkpoint of a ...ForCausalLM class with model_type "
        "'gemma3_text' (docs/families.md)"
    )
    with pytest.raises(
        PTLError, match=r"\(config has vision_config\); PTL prunes text models only$"
    ):
        find_family(registry, {"model_type": "odd", "vision_config": {}})
    inner = {"model_type": "gemma3n_text", "intermediate_size": [1, 2]}
    with pytest.raises(PTLError, match="'gemma3n_text' gives intermediate_size as a list"):
        find_family(registry, {"model_type": "gemma3n", "text_config": inner})


@pytest.mark.parametrize("key", ["intermediate_size", "ffn_multipliers"])
@pytest.mark.parametrize("family", [None, "llama"])
def test_widths_layer_by_layer_are_refused_even_with_a_family(registry, key, family):
    told = f"^model_type 'llama' gives {key} as a list, a width for every layer; PTL prunes"
    with pytest.raises(PTLError, match=told):
        find_family(registry, {"model_type": "llama", key: [8, 8]}, family)
