"""What every family promises, held against tiny random models of all of them.

The author of a family runs this on it: `PTL_PLUGINS=my_module pytest .../test_families.py`.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ptl_plugins.calibration import pad
from ptl_plugins.checkpoint import save_live
from ptl_plugins.criteria import needed_statistics
from ptl_plugins.errors import PruneError
from ptl_plugins.families import find_family
from ptl_plugins.geometry import geometry
from ptl_plugins.live import decoder_layers, ffn_output, width
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.profiling import profile
from ptl_plugins.ranks import SingleProcess
from ptl_plugins.surgery import prune_live
from ptl_plugins.testing import tiny_model, write_tiny_checkpoint
from ptl_plugins.types import Subject

PLUGINS = [name for name in os.environ.get("PTL_PLUGINS", "").split(",") if name]
REGISTRY = build_registry(build_manager(autoload=False, plugins=PLUGINS))
TOKENS = (torch.arange(40).reshape(2, 20) * 7 % 250) + 4
NEURONS = (0, 5, 17, 46, 47)
MIDDLE = (2,)
LAYERS_APART = (0, 2)  # what is left of any pattern differs from the pattern made anew
LISTED = ("qwen2", "qwen3", "gemma2", "gemma3")
SIDE_FILES = ("tokenizer.json", "tokenizer_config.json", "LICENSE", "generation_config.json")


@pytest.fixture(scope="class", params=REGISTRY.families.names())
def family(request):
    return REGISTRY.families.get(request.param)


@pytest.fixture(scope="class")
def original(family):
    return tiny_model(family.model_types[0])


@pytest.fixture
def model(original):
    return copy.deepcopy(original)


@pytest.fixture(scope="class")
def folder(family, tmp_path_factory):
    """A bf16 checkpoint with side files, as a user has one."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("original"), family.model_types[0])


@pytest.fixture(scope="class")
def saved(family, folder, make_plan, tmp_path_factory):
    """The pruned model of that checkpoint: as it was saved, and as it is loaded again."""
    live = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    live.config.use_cache = False  # trainers leave such marks
    live.config.architectures = ["Wrapped"]
    prune_live(live, family, make_plan(live, family, NEURONS, MIDDLE))
    path = tmp_path_factory.mktemp("pruned") / "model"
    subject = Subject(family=family, model=live, stored_dtype=torch.bfloat16)
    save_live(subject, path, original=str(folder), extra={"extra.json": {"a": 1}})
    loaded, info = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
    return live, path, loaded.eval(), info


@torch.no_grad()
def logits(model):
    return model(TOKENS).logits


def read(path):
    return json.loads((path / "config.json").read_text(encoding="utf-8"))


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def layer_lists(family, config):
    """Return the lists by layer that a config has."""
    return {key: config[key] for key in family.per_layer_keys if config.get(key) is not None}


def generated(model, **keys):
    words = {"max_new_tokens": 16, "min_new_tokens": 16, "do_sample": False}
    inputs = {"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS)}
    return model.generate(**inputs, **words, **keys)


class TestFamily:
    def test_is_found_by_every_model_type_it_lists(self, family):
        for model_type in family.model_types:
            assert find_family(REGISTRY, {"model_type": model_type}) is family

    def test_cutting_nothing_leaves_the_logits_identical(self, family, model, original, make_plan):
        prune_live(model, family, make_plan(model, family))
        assert torch.equal(logits(model), logits(original))
        assert model.config.to_dict() == original.config.to_dict()

    def test_cutting_a_neuron_without_output_changes_no_logit(self, family, model, make_plan):
        for layer in decoder_layers(model, family):
            ffn_output(layer, family).weight.data[:, list(NEURONS)] = 0.0
        before = logits(model)
        prune_live(model, family, make_plan(model, family, NEURONS))
        torch.testing.assert_close(logits(model), before, rtol=1e-6, atol=1e-6)

    def test_cutting_a_neuron_with_output_changes_the_logits(
        self, family, model, original, make_plan
    ):
        prune_live(model, family, make_plan(model, family, NEURONS))
        assert (logits(model) - logits(original)).abs().max() > 1e-4

    def test_every_layer_keeps_the_same_width_everywhere(self, family, model, make_plan):
        rows = [range(i, i + 5) for i in range(5)]  # other neurons in every layer
        prune_live(model, family, make_plan(model, family, rows))
        for layer in decoder_layers(model, family):
            output = ffn_output(layer, family)
            assert output.weight.shape[1] == output.in_features == 43
            for name in family.ffn_inputs:
                module = layer.get_submodule(name)
                assert module.weight.shape[0] == module.out_features == 43 * family.ffn_blocks
        assert getattr(model.config, family.width_key) == width(model, family) == 43

    def test_the_same_neurons_go_from_every_matrix_and_block(
        self, family, model, original, make_plan
    ):
        prune_live(model, family, make_plan(model, family, NEURONS))
        kept = [i for i in range(48) if i not in NEURONS]
        layers = (decoder_layers(m, family) for m in (original, model))
        for old, new in zip(*layers, strict=True):
            for name in family.ffn_inputs:
                blocks = old.get_submodule(name).weight.unflatten(0, (family.ffn_blocks, 48))
                assert torch.equal(new.get_submodule(name).weight, blocks[:, kept].flatten(0, 1))
            assert torch.equal(
                ffn_output(new, family).weight, ffn_output(old, family).weight[:, kept]
            )

    def test_cutting_a_layer_is_running_without_it(self, family, model, original, make_plan):
        skipped = decoder_layers(original, family)[MIDDLE[0]]
        handle = skipped.register_forward_hook(lambda module, args, output: args[0])
        expected = logits(original)
        handle.remove()
        prune_live(model, family, make_plan(model, family, layers=MIDDLE))
        assert torch.equal(logits(model), expected)

    def test_generation_with_a_cache_equals_generation_without_after_a_layer_cut(
        self, family, model, make_plan
    ):
        prune_live(model, family, make_plan(model, family, layers=MIDDLE))
        cached = generated(model, use_cache=True)
        assert cached.shape == (2, 36)
        assert torch.equal(cached, generated(model, use_cache=False))

    def test_lists_of_the_config_keep_the_entries_of_the_kept_layers(
        self, family, model, original, make_plan
    ):
        prune_live(model, family, make_plan(model, family, layers=LAYERS_APART))
        assert getattr(model.config, family.depth_key) == 3
        for key, before in layer_lists(family, original.config.to_dict()).items():
            assert len(set(before)) > 1, "the tiny model's layers must differ"
            assert getattr(model.config, key) == [before[i] for i in (1, 3, 4)]
        if family.window_key is not None:  # of the 2 leading layers, one is left
            assert getattr(model.config, family.window_key) == 1

    @pytest.mark.parametrize("depth", [1, 5, 7])
    @pytest.mark.parametrize(
        "keys",
        [
            {},
            {"layer_types": None},
            {"max_window_layers": 3},
            {"use_sliding_window": True},
            {"use_sliding_window": True, "max_window_layers": 0},
            {"use_sliding_window": True, "max_window_layers": 3},
            {"use_sliding_window": True, "max_window_layers": 3, "sliding_window": None},
            {"use_sliding_window": False, "max_window_layers": 3, "sliding_window": 8},
            {"sliding_window_pattern": 1},
            {"sliding_window_pattern": 3},
        ],
    )
    def test_default_lists_are_those_of_transformers(self, family, keys, depth):
        keys = {**keys, "num_hidden_layers": depth}
        for model_type in family.model_types:
            expected = layer_lists(family, AutoConfig.for_model(model_type, **keys).to_dict())
            given = family.per_layer_defaults(keys) if family.per_layer_defaults else {}
            assert given == expected

    def test_what_a_config_leaves_out_is_counted_as_transformers_fills_it_in(self, family):
        told = tiny_model(family.model_types[0]).config.to_dict()
        left_out = {"model_type", "tie_word_embeddings", "head_dim"}
        keys = {key: value for key, value in told.items() if key not in left_out}
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(family.model_types[0], **keys)
        )
        assert geometry(keys, family).num_parameters == count(model)

    def test_layers_are_numbered_by_position_after_a_cut(self, family, model, make_plan):
        prune_live(model, family, make_plan(model, family, layers=(0, 2)))
        numbers = [layer.self_attn.layer_idx for layer in decoder_layers(model, family)]
        assert numbers == [0, 1, 2]

    @pytest.mark.parametrize("cut", [{}, {"neurons": NEURONS, "layers": MIDDLE}])
    def test_geometry_counts_the_parameters_of_the_real_model(self, family, model, make_plan, cut):
        start = geometry(model.config.to_dict(), family)
        prune_live(model, family, make_plan(model, family, **cut))
        after = geometry(model.config.to_dict(), family)
        assert after.num_parameters == count(model)
        assert after == start.after(width=after.width, num_layers=after.num_layers)

    def test_geometry_of_the_saved_config_counts_the_loaded_model(self, family, saved):
        _, path, loaded, _ = saved
        assert geometry(read(path), family).num_parameters == count(loaded)

    def test_a_pruned_model_can_be_profiled(self, family, model, make_plan):
        prune_live(model, family, make_plan(model, family, NEURONS, MIDDLE))
        statistics = needed_statistics([c for _, c in REGISTRY.criteria.items()])
        batches = [pad([[5, 6, 7], [8, 9]], device=torch.device("cpu"))]
        scores = profile(model, family, batches, statistics, SingleProcess())
        assert (scores.num_layers, scores.width, scores.num_tokens) == (4, 43, 5)
        for _, criterion in REGISTRY.criteria.items():
            if criterion.unit == "hidden":  # its directions are found while they are cut
                continue
            importance = criterion.importance(scores)
            assert importance.shape == ((4, 43) if criterion.unit == "neuron" else (4,))
            assert np.isfinite(importance).all()
            assert (importance >= 0).all()
            assert (importance.max(axis=-1) > importance.min(axis=-1)).all(), "all are alike"

    def test_a_saved_model_loads_as_it_was(self, family, saved):
        live, _, loaded, info = saved
        assert {key: len(info[key]) for key in info if key.endswith("_keys")} == {
            "missing_keys": 0,
            "unexpected_keys": 0,
            "mismatched_keys": 0,
        }
        assert loaded.dtype == torch.bfloat16
        assert torch.equal(logits(loaded), logits(live))

    def test_side_files_are_the_originals_byte_for_byte(self, folder, saved):
        _, path, _, _ = saved
        for name in SIDE_FILES:
            assert (path / name).read_bytes() == (folder / name).read_bytes()
        assert json.loads((path / "extra.json").read_text(encoding="utf-8")) == {"a": 1}

    def test_the_saved_config_keeps_every_key_of_the_original(self, family, folder, saved):
        path = saved[1]
        before, after = read(folder), read(path)
        changed = {family.width_key, family.depth_key, family.window_key, *family.per_layer_keys}
        assert {k: v for k, v in after.items() if k not in changed} == {
            k: v for k, v in before.items() if k not in changed
        }
        assert after[family.width_key] == 43
        assert after[family.depth_key] == 4
        for key, values in layer_lists(family, before).items():
            assert after[key] == [values[i] for i in (0, 1, 3, 4)]

    def test_a_default_list_is_spelled_out_once_layers_went(self, family, folder, saved, tmp_path):
        bare = {k: v for k, v in read(folder).items() if k not in family.per_layer_keys}
        source = tmp_path / "bare"
        source.mkdir()
        (source / "config.json").write_text(json.dumps(bare), encoding="utf-8")
        live = saved[0]
        subject = Subject(family=family, model=live, stored_dtype=torch.bfloat16)
        save_live(subject, tmp_path / "out", original=str(source), extra={})
        after = read(tmp_path / "out")
        assert layer_lists(family, after) == layer_lists(family, live.config.to_dict())
        assert bool(layer_lists(family, after)) is (family.per_layer_defaults is not None)
        names = {file.name for file in (tmp_path / "out").iterdir()}
        assert names == {"config.json", "model.safetensors"}, "the original has no side files"

    @pytest.mark.parametrize("tied", [True, False])
    def test_embeddings_stay_as_tied_as_they_were(self, family, make_plan, tmp_path, tied):
        source = write_tiny_checkpoint(
            tmp_path / "source", family.model_types[0], tie_word_embeddings=tied
        )
        live = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
        prune_live(live, family, make_plan(live, family, NEURONS, MIDDLE))
        subject = Subject(family=family, model=live, stored_dtype=torch.bfloat16)
        save_live(subject, tmp_path / "out", original=str(source), extra={})
        for model in (live, AutoModelForCausalLM.from_pretrained(tmp_path / "out")):
            head, embedding = model.lm_head.weight, model.model.embed_tokens.weight
            assert (head.data_ptr() == embedding.data_ptr()) is tied
            assert geometry(read(tmp_path / "out"), family).num_parameters == count(model)

    def test_trained_fp32_copies_are_saved_in_the_stored_dtype_and_stay_fp32(
        self, family, folder, tmp_path
    ):
        live = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        before = logits(live)
        subject = Subject(family=family, model=live, stored_dtype=torch.bfloat16)
        save_live(subject, tmp_path / "out", original=str(folder), extra={})
        assert {p.dtype for p in live.parameters()} == {torch.float32}
        assert torch.equal(logits(live), before)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
        assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}


def test_mlp_biases_of_a_family_that_has_them_are_cut_with_their_neurons(make_plan):
    family = REGISTRY.families.get("llama")
    model = tiny_model("llama", mlp_bias=True, attention_bias=True)
    before = copy.deepcopy(model)
    prune_live(model, family, make_plan(model, family, NEURONS))
    kept = [i for i in range(48) if i not in NEURONS]
    assert geometry(model.config.to_dict(), family).num_parameters == count(model)
    for old, new in zip(decoder_layers(before, family), decoder_layers(model, family), strict=True):
        assert torch.equal(new.mlp.gate_proj.bias, old.mlp.gate_proj.bias[kept])
        assert torch.equal(new.mlp.up_proj.bias, old.mlp.up_proj.bias[kept])
        assert torch.equal(new.mlp.down_proj.bias, old.mlp.down_proj.bias)


def test_biases_of_a_fused_matrix_are_cut_in_both_blocks(make_plan):
    family, model = REGISTRY.families.get("phi3"), tiny_model("phi3")
    for layer in decoder_layers(model, family):
        layer.mlp.gate_up_proj.bias = torch.nn.Parameter(torch.arange(96.0))
    prune_live(model, family, make_plan(model, family, NEURONS))
    kept = [i for i in range(48) if i not in NEURONS]
    for layer in decoder_layers(model, family):
        assert layer.mlp.gate_up_proj.bias.tolist() == kept + [48 + i for i in kept]


@pytest.mark.parametrize("changed", [{"ffn_blocks": 1}, {"ffn_inputs": ("mlp",)}])
def test_a_family_whose_facts_do_not_fit_is_refused_and_nothing_is_cut(make_plan, changed):
    family, model = REGISTRY.families.get("phi3"), tiny_model("phi3")
    before = copy.deepcopy(model.state_dict())
    wrong = dataclasses.replace(family, **changed)
    told = r"^family 'phi3': mlp.* of layer 0 is .*, not a Linear with (48|96) rows .*family$"
    with pytest.raises(PruneError, match=told):
        prune_live(model, wrong, make_plan(model, family, NEURONS))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_layer_of_another_width_is_refused_and_nothing_is_cut(make_plan):
    family, model = REGISTRY.families.get("llama"), tiny_model("llama")
    odd = decoder_layers(model, family)[3].mlp
    odd.down_proj.weight = torch.nn.Parameter(torch.ones(32, 40))
    with pytest.raises(PruneError, match=r"mlp\.down_proj of layer 3 is .* 48 columns"):
        prune_live(model, family, make_plan(model, family, NEURONS))
    assert width(model, family) == 48


@pytest.mark.parametrize("name", LISTED)
@pytest.mark.parametrize("spelled_out", [True, False])
def test_families_whose_layer_types_break_other_tools_prune_by_layer_save_reload_and_generate(
    name, spelled_out, make_plan, tmp_path
):
    family = REGISTRY.families.get(name)
    source = write_tiny_checkpoint(tmp_path / "source", family.model_types[0])
    config = read(source)
    before = config["layer_types"]
    if not spelled_out:  # as on the hub: Qwen2 gives max_window_layers, Gemma3 its pattern
        del config["layer_types"]
        (source / "config.json").write_text(json.dumps(config), encoding="utf-8")
        assert family.per_layer_defaults(config) == {"layer_types": before}

    live = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    prune_live(live, family, make_plan(live, family, layers=LAYERS_APART))
    subject = Subject(family=family, model=live, stored_dtype=torch.bfloat16)
    save_live(subject, tmp_path / "out", original=str(source), extra={})

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    left = [before[i] for i in (1, 3, 4)]
    assert read(tmp_path / "out")["layer_types"] == loaded.config.layer_types == left
    made_anew = tiny_model(family.model_types[0], num_hidden_layers=3).config.layer_types
    assert left != made_anew
    assert torch.equal(logits(loaded), logits(live))
    cached = generated(loaded, use_cache=True)
    assert torch.equal(cached, generated(loaded, use_cache=False))
    assert torch.equal(cached, generated(live, use_cache=True))


@pytest.mark.parametrize("name", ["llama", "mistral", "phi3"])
def test_a_layer_list_that_the_family_does_not_use_stays_in_step_so_that_the_model_loads(
    name, make_plan, tmp_path
):
    """transformers refuses a config whose `layer_types` is of another length, used or not."""
    family, kinds = REGISTRY.families.get(name), ["full_attention"] * 5
    source = write_tiny_checkpoint(tmp_path / "source", name, layer_types=kinds)
    live = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    prune_live(live, family, make_plan(live, family, layers=MIDDLE))
    subject = Subject(family=family, model=live, stored_dtype=torch.bfloat16)
    save_live(subject, tmp_path / "out", original=str(source), extra={})
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.config.layer_types == kinds[:4]
    assert torch.equal(logits(loaded), logits(live))
