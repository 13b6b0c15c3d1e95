"""Surgery on a folder: bit-identical to the live model's, whole or not at all, and refusals."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ptl_plugins import shard_writer
from ptl_plugins.checkpoint import save_live, side_files
from ptl_plugins.checkpoint_surgery import prune_checkpoint
from ptl_plugins.errors import PruneError
from ptl_plugins.families import Family
from ptl_plugins.surgery import prune_live
from ptl_plugins.testing import tiny_model, write_tiny_checkpoint
from ptl_plugins.types import PrunePlan, Subject

FAMILIES = ("llama", "qwen2", "gemma2")
FUSED = Family(
    name="fused", model_types=("fused",), layers="decoder.blocks", ffn_inputs=("ffn.gate_up",),
    ffn_blocks=2, ffn_output="ffn.out",
)  # fmt: skip
QUICK = settings(max_examples=25, deadline=None)
SMALL = {"hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 16}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def plan_of(depth, size, neurons=(), layers=()):
    rows = tuple(tuple(row) for row in neurons)
    return PrunePlan(
        num_layers=depth, width=size, removed_neurons=rows, removed_layers=tuple(layers),
        criteria={}, scores_digest="d",
    )  # fmt: skip


ROWS = [range(i, i + 5) for i in range(5)]  # other neurons in every layer
CUTS = {
    "neurons": plan_of(5, 48, neurons=ROWS),
    "layers": plan_of(5, 48, layers=(0, 2)),
    "both": plan_of(5, 48, neurons=ROWS, layers=(2,)),
    "nothing": plan_of(5, 48),
}


def weights(folder):
    """Return every tensor as its shape, its dtype and its raw bytes."""
    loaded = {}
    for file in folder.glob("*.safetensors"):
        loaded.update(load_file(file))
    return {
        name: (tuple(t.shape), t.dtype, t.contiguous().view(torch.uint8).numpy().tobytes())
        for name, t in loaded.items()
    }


def cut_live(source, out, family, plan, *, extra):
    model = AutoModelForCausalLM.from_pretrained(source)
    dtype = model.dtype
    prune_live(model, family, plan)
    subject = Subject(family=family, model=model, stored_dtype=dtype)
    save_live(subject, out, original=str(source), extra=extra)


def prune(source, out, family, plan, **keys):
    keys.setdefault("side_files", side_files(str(source)))
    prune_checkpoint(source, out, family, plan, **{"extra": {}, **keys})


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, registry):
    return registry.families.get(request.param)


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("one") / "m", family.model_types[0])


@pytest.fixture(scope="module")
def sharded(folder, tmp_path_factory):
    """The same model in several files."""
    out = tmp_path_factory.mktemp("many") / "m"
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(out, max_shard_size="20KB")
    for file in side_files(str(folder)):
        (out / file.name).write_bytes(file.read_bytes())
    assert len(list(out.glob("*.safetensors"))) > 4
    return out


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("chunk", [40, 4 * 2**20])
def test_the_folder_is_the_one_that_the_live_path_writes(
    family, folder, sharded, tmp_path, monkeypatch, cut, chunk
):
    monkeypatch.setattr(shard_writer, "FLUSH_BYTES", chunk)
    monkeypatch.setattr(shard_writer, "READ_BYTES", chunk)
    extra = {"ptl_pruning.json": {"history": []}}
    cut_live(folder, tmp_path / "live", family, CUTS[cut], extra=extra)
    for source, name in ((folder, "one"), (sharded, "many")):
        out = tmp_path / name
        prune(source, out, family, CUTS[cut], extra=extra)
        assert weights(out) == weights(tmp_path / "live")
        others = {f.name for f in (tmp_path / "live").iterdir()} - {"model.safetensors"}
        for file in others:
            assert (out / file).read_bytes() == (tmp_path / "live" / file).read_bytes(), file
        expected = others | {"model.safetensors"} if source == folder else others
        weight_files = {f.name for f in source.iterdir() if "safetensors" in f.name}
        assert {f.name for f in out.iterdir()} - weight_files <= expected
    assert not list(tmp_path.glob("*.ptl-tmp"))


def test_a_pruned_folder_loads_without_missing_or_unexpected_weights(family, sharded, tmp_path):
    prune(sharded, tmp_path / "out", family, CUTS["both"])
    _, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info[key] for key in info if key.endswith("_keys"))


@st.composite
def plans(draw, depth, size):
    number = draw(st.integers(0, size - 1))
    rows = [sorted(draw(st.permutations(range(size)))[:number]) for _ in range(depth)]
    gone = draw(st.sets(st.integers(0, depth - 1), max_size=depth - 1))
    return plan_of(depth, size, neurons=rows if number else (), layers=sorted(gone))


@st.composite
def two_cuts(draw):
    depth, size = draw(st.integers(1, 4)), draw(st.integers(2, 10))
    first = draw(plans(depth, size))
    return first, draw(plans(first.new_num_layers, first.new_width))


@QUICK
@given(
    cuts=two_cuts(),
    dtype=st.sampled_from(sorted(DTYPES)),
    biased=st.booleans(),
    shard=st.sampled_from([400, 2000, 10**9]),
    chunk=st.sampled_from([16, 100, 2**20]),
)
def test_any_two_cuts_give_what_they_give_live(registry, cuts, dtype, biased, shard, chunk):
    llama = registry.families.get("llama")
    model = tiny_model(
        "llama", num_hidden_layers=cuts[0].num_layers, intermediate_size=cuts[0].width,
        dtype=DTYPES[dtype], mlp_bias=biased, **SMALL,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        current = Path(name) / "0"
        model.save_pretrained(current, max_shard_size=shard)
        for number, plan in enumerate(cuts, start=1):
            with mock.patch.object(shard_writer, "FLUSH_BYTES", chunk):
                prune(current, Path(name) / str(number), llama, plan)
            current = Path(name) / str(number)
            prune_live(model, llama, plan)
        model.save_pretrained(Path(name) / "live")
        assert weights(current) == weights(Path(name) / "live")


@pytest.fixture
def fused(tmp_path):
    """A family with gate over up in one matrix, of mixed dtypes, with biases and other tensors."""
    tensors = {name: torch.randn(4) for name in ("decoder.blocks.norm", "decoder.blocks.7th.x")}
    tensors |= {"embed.weight": torch.randn(16, 4), "step": torch.tensor(7)}
    for i in range(12):  # layer 10 comes before layer 2 in the order of names
        stem = f"decoder.blocks.{i}."
        tensors[stem + "ffn.gate_up.weight"] = torch.randn(12, 4).bfloat16()
        tensors[stem + "ffn.gate_up.bias"] = torch.randn(12, dtype=torch.float64)
        tensors[stem + "ffn.out.weight"] = torch.randn(4, 6).half()
        tensors[stem + "ffn.out.bias"] = torch.randn(4)
        tensors[stem + "mask"] = torch.randn(3) > 0
    source = tmp_path / "fused"
    source.mkdir()
    save_file(tensors, source / "model.safetensors", {"format": "pt", "by": "hand"})
    config = {"intermediate_size": 6, "num_hidden_layers": 12}
    (source / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return source


def test_fused_matrices_lose_the_same_neurons_in_each_block(fused, tmp_path):
    rows = [sorted({i % 6, (i + 2) % 6}) for i in range(12)]
    prune(fused, tmp_path / "out", FUSED, plan_of(12, 6, neurons=rows, layers=(0, 5)))
    old = load_file(fused / "model.safetensors")
    new = load_file(tmp_path / "out" / "model.safetensors")
    expected = {name: tensor for name, tensor in old.items() if ".ffn." not in name}
    expected = {name: tensor for name, tensor in expected.items() if not name.endswith("mask")}
    for position, i in enumerate(i for i in range(12) if i not in (0, 5)):
        before, after = f"decoder.blocks.{i}.", f"decoder.blocks.{position}."
        kept = [n for n in range(6) if n not in rows[i]]
        both = kept + [n + 6 for n in kept]
        for name in ("ffn.gate_up.weight", "ffn.gate_up.bias"):
            expected[after + name] = old[before + name][both]
        expected[after + "ffn.out.weight"] = old[before + "ffn.out.weight"][:, kept]
        for name in ("ffn.out.bias", "mask"):
            expected[after + name] = old[before + name]
    assert set(new) == set(expected)
    for name, tensor in expected.items():
        assert new[name].dtype == tensor.dtype
        assert torch.equal(new[name], tensor), name


def test_given_outputs_take_the_place_of_the_cut(fused, tmp_path):
    plan = plan_of(12, 6, neurons=[(1,)] * 12, layers=(3,))
    given = {i: np.arange(20, dtype=np.float16).reshape(4, 5) + i for i in range(12)}
    asked = []

    def new_outputs(layer):
        asked.append(layer)
        return np.asfortranarray(given[layer]).view(np.uint16)

    prune(fused, tmp_path / "out", FUSED, plan, new_outputs=new_outputs)
    assert sorted(asked) == [i for i in range(12) if i != 3]
    new = load_file(tmp_path / "out" / "model.safetensors")
    for position, i in enumerate(sorted(asked)):
        assert (new[f"decoder.blocks.{position}.ffn.out.weight"].numpy() == given[i]).all()


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (plan_of(12, 7), r"config\.json: intermediate_size: is 6, but the plan is for 7 neurons"),
        (plan_of(11, 6), r"config\.json: num_hidden_layers: is 12, but the plan is for 11"),
        (plan_of(12, 6, neurons=[(1,)]), "names 1 layers' neurons of 12"),
        (plan_of(12, 6, neurons=[(1,)] * 11 + [(1, 2)]), "same number"),
        (plan_of(12, 6, neurons=[(6,)] * 12), "ascending indices below 6"),
        (plan_of(12, 6, layers=(3, 3)), "ascending indices below 12"),
        (plan_of(12, 6, layers=(12,)), "ascending indices below 12"),
        (plan_of(12, 6, layers=range(12)), "leaves 0 layers of 6 neurons"),
        (plan_of(12, 6, neurons=[range(6)] * 12), "leaves 12 layers of 0 neurons"),
    ],
)
def test_a_plan_of_another_model_is_refused(fused, tmp_path, plan, words):
    with pytest.raises(PruneError, match=words):
        prune(fused, tmp_path / "out", FUSED, plan)
    assert not (tmp_path / "out").exists()


NAME = "decoder.blocks.4.ffn."


@pytest.mark.parametrize(
    ("name", "tensor", "words"),
    [
        ("gate_up.weight", torch.zeros(10, 4), "has shape [10, 4], expected [12, *]"),
        ("gate_up.weight", torch.zeros(12), "has shape [12], expected [12, *]"),
        ("gate_up.bias", torch.zeros(6), "has shape [6], expected [12]"),
        ("out.weight", torch.zeros(6, 4), "has shape [6, 4], expected [*, 6]"),
        ("out.weight", torch.zeros(4, 6).char(), "dtype I8 (allowed: F64, F32, F16, BF16)"),
        ("out.weight", None, "has no tensor 'decoder.blocks.4.ffn.out.weight'"),
    ],
)
def test_a_layer_of_another_shape_is_refused_by_name(fused, tmp_path, name, tensor, words):
    tensors = {**load_file(fused / "model.safetensors"), NAME + name: tensor}
    if tensor is None:
        del tensors[NAME + name]
    save_file(tensors, fused / "model.safetensors")
    with pytest.raises(PruneError) as caught:
        prune(fused, tmp_path / "out", FUSED, plan_of(12, 6, layers=(4,)))
    assert words in str(caught.value)
    assert NAME + name in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_more_layers_than_the_config_says_are_refused(fused, tmp_path):
    tensors = load_file(fused / "model.safetensors")
    save_file({**tensors, "decoder.blocks.12.x": torch.zeros(1)}, fused / "model.safetensors")
    with pytest.raises(PruneError, match=r"blocks\.12\.x' has shape \[1\], expected only layers"):
        prune(fused, tmp_path / "out", FUSED, plan_of(12, 6))


def test_a_target_that_is_there_is_refused_before_anything_is_read(fused, tmp_path):
    broken = tmp_path / "link"
    broken.symlink_to("nowhere")
    for out in (fused, fused / "config.json", broken):
        with pytest.raises(PruneError, match="is there already"):
            prune(tmp_path / "missing", out, FUSED, plan_of(12, 6), side_files=())
    assert (fused / "config.json").exists()


def test_a_target_that_comes_meanwhile_is_not_replaced(fused, tmp_path):
    out = tmp_path / "out"

    def meanwhile(layer):
        out.mkdir(exist_ok=True)
        (out / "precious").touch()
        return np.zeros((4, 5), dtype=np.uint16)

    plan = plan_of(12, 6, neurons=[(1,)] * 12)
    with pytest.raises(PruneError, match="came into being meanwhile"):
        prune(fused, out, FUSED, plan, new_outputs=meanwhile)
    assert [f.name for f in out.iterdir()] == ["precious"]
    assert {f.name for f in tmp_path.iterdir()} == {"fused", "out"}


def test_an_empty_folder_that_comes_meanwhile_is_not_replaced_either(fused, tmp_path):
    out = tmp_path / "out"

    def meanwhile(layer):
        out.mkdir(exist_ok=True)
        return np.zeros((4, 5), dtype=np.uint16)

    with pytest.raises(PruneError, match="came into being meanwhile"):
        prune(fused, out, FUSED, plan_of(12, 6, neurons=[(1,)] * 12), new_outputs=meanwhile)
    assert list(out.iterdir()) == []


def test_of_two_prunes_into_one_folder_one_wins_whole(fused, tmp_path):
    """The second begins and ends while the first is half way."""
    out = tmp_path / "out"
    plans = [plan_of(12, 6, neurons=[(i,)] * 12) for i in (1, 4)]
    second = []

    def meanwhile(layer):
        if not second:
            second.append(True)
            prune(fused, out, FUSED, plans[1], extra={"who.json": 2})
        return np.zeros((4, 5), dtype=np.uint16)

    with pytest.raises(PruneError, match="came into being meanwhile"):
        prune(fused, out, FUSED, plans[0], extra={"who.json": 1}, new_outputs=meanwhile)
    assert json.loads((out / "who.json").read_text(encoding="utf-8")) == 2
    prune(fused, tmp_path / "alone", FUSED, plans[1])
    assert {f.name for f in out.iterdir()} - {"who.json"} == {
        f.name for f in (tmp_path / "alone").iterdir()
    }
    whole = (tmp_path / "alone" / "model.safetensors").read_bytes()
    assert (out / "model.safetensors").read_bytes() == whole
    assert {f.name for f in tmp_path.iterdir()} == {"fused", "out", "alone"}


def test_the_folder_has_the_mode_that_the_umask_gives(fused, tmp_path):
    prune(fused, tmp_path / "out", FUSED, plan_of(12, 6))
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_failed_prune_leaves_no_parents(fused, tmp_path):
    given = {"new_outputs": lambda layer: np.zeros((4, 1), dtype=np.uint16)}
    with pytest.raises(RuntimeError, match="instead of"):
        prune(
            fused, tmp_path / "a" / "b" / "out", FUSED, plan_of(12, 6, neurons=[(1,)] * 12), **given
        )
    assert [f.name for f in tmp_path.iterdir()] == ["fused"]


def test_too_small_a_disk_is_refused_before_anything_is_written(fused, tmp_path, monkeypatch):
    usage = dataclasses.make_dataclass("Usage", ["free"])(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    monkeypatch.setattr("ptl_plugins.checkpoint_surgery._write", lambda *args: pytest.fail("wrote"))
    with pytest.raises(PruneError, match=r"out: the disk is full: .* needs \d+ bytes, 1000 are"):
        prune(fused, tmp_path / "new" / "out", FUSED, plan_of(12, 6))
    assert not (tmp_path / "new").exists()


def test_a_result_that_is_not_as_planned_is_not_left(fused, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_writer.ShardWriter, "rows", lambda *args: None)
    plan = plan_of(12, 6, neurons=[(1,)] * 12)
    with pytest.raises(PruneError, match="is not a whole safetensors file"):
        prune(fused, tmp_path / "out", FUSED, plan)
    assert [f.name for f in tmp_path.iterdir()] == ["fused"]


def test_no_side_file_and_no_extra_give_only_weights_and_config(fused, tmp_path):
    prune(fused, tmp_path / "out", FUSED, plan_of(12, 6), side_files=())
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {"config.json", "model.safetensors"}
