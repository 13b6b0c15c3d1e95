"""What `ptl prune` writes: a model that runs, its history and its side files."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from ptl_plugins.model_digest import model_digest
from ptl_plugins.provenance import FILE, Provenance
from ptl_plugins.scores_file import digest, read_scores
from ptl_plugins.shards import open_checkpoint
from ptl_plugins.side_files import side_files
from ptl_plugins.testing import tiny_texts

from .conftest import files, layers, neurons

WITH_WINDOWS = ("gemma2", "gemma3_text", "mistral", "phi3", "qwen2", "qwen3")


def test_two_prunes_in_a_row_compose_to_the_original_indices(prune, profiled, registry, tmp_path):
    start = profiled()
    first = prune(cuts=(layers(1), neurons(6)), out=tmp_path / "one")
    again = profiled.run(tmp_path / "one")
    second = prune(
        model=str(again.model),
        scores=again.scores,
        cuts=(layers(1), neurons(4)),
        out=tmp_path / "two",
    )
    read = json.loads((tmp_path / "two" / FILE).read_text(encoding="utf-8"))
    origin = Provenance.from_json(read)
    assert (len(origin.layers), {len(row) for row in origin.neurons}) == (3, {38})
    before = load_file(start.model / "model.safetensors")
    after = load_file(tmp_path / "two" / "model.safetensors")
    for new, (old, kept) in enumerate(zip(origin.layers, origin.neurons, strict=True)):
        for name, dim in (("gate_proj", 0), ("up_proj", 0), ("down_proj", 1)):
            weight = before[f"model.layers.{old}.mlp.{name}.weight"].index_select(
                dim, torch.tensor(kept)
            )
            assert torch.equal(after[f"model.layers.{new}.mlp.{name}.weight"], weight)
    folders = (start, again)
    assert [entry["parent"] for entry in origin.history] == [
        {"model": str(f.model), "digest": model_digest(open_checkpoint(f.model))} for f in folders
    ]
    assert [entry["scores_digest"] for entry in origin.history] == [
        digest(read_scores(f.scores)[0]) for f in folders
    ]
    assert [entry["criteria"] for entry in origin.history] == [
        {"layer": "l2", "neuron": "output_change"}
    ] * 2
    assert [entry["width"] for entry in origin.history] == [[48, 42], [42, 38]]
    assert [entry["cuts"] for entry in origin.history] == [
        [
            {"unit": "layer", "criterion": "l2", "selector": "count", "amount": 1.0},
            {"unit": "neuron", "criterion": "output_change", "selector": "count", "amount": n},
        ]
        for n in (6.0, 4.0)
    ]
    assert [entry["layers"] for entry in origin.history] == [[5, 4], [4, 3]]
    assert (first.plan.new_width, second.plan.new_width) == (42, 38)


def greedy(model, ids, **keys):
    options = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 3, "eos_token_id": None}
    return model.generate(ids, attention_mask=torch.ones_like(ids), **{**options, **keys})


@pytest.mark.parametrize("cut", [(layers(2),), (layers(1), neurons(8))], ids=["layers", "both"])
@pytest.mark.parametrize("model_type", WITH_WINDOWS)
def test_the_result_loads_and_generates_the_same_with_cache(prune, tmp_path, model_type, cut):
    prune(model_type, cuts=cut)
    model, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    model.generation_config.max_length = None
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer(tiny_texts(1)[0], return_tensors="pt")["input_ids"]
    assert ids.shape[1] > 8, "longer than the window"
    with_cache, without = (greedy(model, ids, use_cache=use) for use in (True, False))
    assert torch.equal(with_cache, without)
    assert with_cache.shape[1] == ids.shape[1] + 20


@pytest.mark.parametrize("model_type", WITH_WINDOWS)
def test_every_layer_keeps_its_kind_of_attention(prune, profiled, tmp_path, model_type):
    prune(model_type, drop_layers=(1, 3))
    before, after = (
        AutoModelForCausalLM.from_pretrained(folder).config.to_dict().get("layer_types")
        for folder in (profiled(model_type).model, tmp_path / "out")
    )
    if before is not None:
        assert after == [before[i] for i in (0, 2, 4)]
    assert (before is None) is (model_type in ("mistral", "phi3"))


def test_side_files_are_the_originals_byte_for_byte(prune, profiled, tmp_path):
    model = shutil.copytree(profiled().model, tmp_path / "model")
    (model / "LICENSE").write_bytes(b"line\r\n\xff\n")
    for name in ("scores.0.ptl-part", "x.ptl-tmp", "optimizer.bin", ".hidden"):
        (model / name).write_bytes(b"x")
    (model / "folder").mkdir()
    prune(model=str(model), cuts=(neurons(1),))
    own = {"config.json", "model.safetensors", FILE}
    carried = {
        "LICENSE", "chat_template.jinja", "generation_config.json", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    assert set(files(tmp_path / "out")) == own | carried
    for name in carried:
        assert (tmp_path / "out" / name).read_bytes() == (model / name).read_bytes()
    assert {file.name for file in side_files(str(tmp_path / "out"))} == carried, "and so on"


def test_the_models_own_folder_is_left_as_it_was(prune, profiled, tmp_path):
    before = files(profiled().model)
    prune(cuts=(layers(1), neurons(8)), refit=True)
    assert files(profiled().model) == before
