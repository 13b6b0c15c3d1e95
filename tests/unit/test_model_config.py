"""A model's config is found in a folder or the hub's cache, and what is wrong is named."""

from __future__ import annotations

import json

import pytest

from ptl_plugins.errors import PTLError
from ptl_plugins.families import find_family
from ptl_plugins.geometry import geometry
from ptl_plugins.model_config import looks_like_path, read_config

KEYS = {
    "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 3,
    "intermediate_size": 16, "vocab_size": 32,
}  # fmt: skip


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


@pytest.mark.parametrize("value", [None, 0, -1, "8", 8.0])
@pytest.mark.parametrize("key", KEYS)
def test_a_size_that_is_missing_or_no_size_is_named(registry, key, value):
    with pytest.raises(PTLError, match=f"config.json: {key}: {value!r} is not a positive"):
        geometry({**KEYS, key: value}, registry.families.get("llama"))


def test_the_paper_models_have_their_published_sizes(registry):
    """Parameters of Llama-3-8B, Qwen2.5-7B and Gemma2-9B, as their model cards count them."""
    llama = {
        "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8,
        "num_hidden_layers": 32, "intermediate_size": 14336, "vocab_size": 128256,
    }  # fmt: skip
    qwen = {
        "hidden_size": 3584, "num_attention_heads": 28, "num_key_value_heads": 4,
        "num_hidden_layers": 28, "intermediate_size": 18944, "vocab_size": 152064,
    }  # fmt: skip
    gemma = {
        "hidden_size": 3584, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256,
        "num_hidden_layers": 42, "intermediate_size": 14336, "vocab_size": 256000,
    }  # fmt: skip
    counts = {"llama": 8_030_261_248, "qwen2": 7_615_616_512, "gemma2": 9_241_705_984}
    for (name, number), config in zip(counts.items(), (llama, qwen, gemma), strict=True):
        assert geometry(config, registry.families.get(name)).num_parameters == number


def test_a_family_given_by_name_is_taken_whatever_the_model_type(registry):
    assert find_family(registry, {"model_type": "mine"}, "llama").name == "llama"
    with pytest.raises(PTLError, match=r"'mine' is not supported; supported: gemma2, llama, qwen2"):
        find_family(registry, {"model_type": "mine"})
