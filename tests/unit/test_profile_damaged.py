"""`ptl profile` of damaged models: one line, and nothing is written."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from ptl_plugins import profile_run
from ptl_plugins.errors import PTLError
from ptl_plugins.profile_run import ProfileRequest, run_profile
from ptl_plugins.ranks import SingleProcess
from ptl_plugins.testing import write_tiny_checkpoint, write_tiny_corpus

DOWN = "model.layers.2.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    write_tiny_corpus(root / "data", num_documents=12)
    write_tiny_checkpoint(root / "model")
    return root


@pytest.fixture
def folder(source, tmp_path):
    return shutil.copytree(source / "model", tmp_path / "model")


@pytest.fixture
def refusal(source, folder, registry, tmp_path):
    """Return the one line with which the folder is refused."""

    def refuse():
        data = str(source / "data" / "tiny.jsonl")
        request = ProfileRequest(model=str(folder), data=data, out=tmp_path / "scores")
        with pytest.raises(PTLError) as raised:
            run_profile(request, registry, SingleProcess(), lambda *_: None)
        assert "\n" not in str(raised.value)
        assert not (tmp_path / "scores").exists()
        return str(raised.value)

    return refuse


def configure(folder, **keys):
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, **keys}), encoding="utf-8")


def change(folder, name, tensor=None):
    """Replace a tensor, or leave it out."""
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    if tensor is not None:
        tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    "name", [DOWN, "model.norm.weight", "model.layers.2.self_attn.q_proj.weight"]
)
def test_a_missing_tensor_is_named(folder, refusal, name):
    change(folder, name)
    assert f"{folder}: tensor '{name}' is missing" in refusal()


def test_a_tensor_of_another_shape_is_named(folder, refusal):
    change(folder, DOWN, torch.ones(32, 40, dtype=torch.bfloat16))
    assert f"tensor '{DOWN}' is of shape [32, 40], config.json makes it [32, 48]" in refusal()


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"num_hidden_layers": 6}, "tensor 'model.layers.5.input_layernorm.weight' (and 8 more) "),
        ({"num_hidden_layers": 4}, "tensor 'model.layers.4.input_layernorm.weight' (and 8 more) "),
        ({"intermediate_size": 40}, "config.json makes it [32, 40]"),
        ({"num_attention_heads": 8, "head_dim": 8}, "config.json makes it [32, 64]"),
        ({"hidden_act": "none"}, "the model cannot be loaded ("),
    ],
)
def test_a_config_of_another_model_is_refused(folder, refusal, keys, told):
    configure(folder, **keys)
    assert told in refusal()


@pytest.fixture
def no_model(monkeypatch):
    def refuse(work):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(profile_run, "_load", refuse)


@pytest.mark.usefixtures("no_model")
def test_a_folder_without_a_tokenizer_is_refused(folder, refusal):
    (folder / "tokenizer.json").unlink()
    assert refusal().startswith(f"{folder}: has no tokenizer, ")


@pytest.mark.usefixtures("no_model")
def test_a_tokenizer_that_does_not_know_the_text_is_refused(folder, refusal):
    path = folder / "tokenizer.json"
    keys = json.loads(path.read_text(encoding="utf-8"))
    keys["model"]["merges"] = []
    keys["model"]["vocab"] = {"<unk>": 0, "<s>": 1, "</s>": 2, "<pad>": 3}
    path.write_text(json.dumps(keys), encoding="utf-8")
    assert "tokens are the unknown token '<unk>'" in refusal()


@pytest.mark.usefixtures("no_model")
def test_tokens_beyond_the_vocabulary_are_refused(folder, refusal):
    write_tiny_checkpoint(folder, vocab_size=100)
    assert "the model's vocab_size is 100; the tokenizer is of another model" in refusal()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(folder, refusal, value):
    tensor = load_file(folder / "model.safetensors")[DOWN].clone()
    tensor[3, 4] = value
    change(folder, DOWN, tensor)
    assert f"model.safetensors: tensor '{DOWN}' is not finite" in refusal()


def test_statistics_that_are_not_finite_are_refused(folder, refusal):
    tensor = load_file(folder / "model.safetensors")[DOWN].clone()
    change(folder, DOWN, tensor.fill_(3e38))  # its products overflow
    line = refusal()
    assert "' of layer 2 is not finite: the model or its weights are damaged" in line
