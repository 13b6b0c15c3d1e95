"""The files of a pruned checkpoint: order, alignment, numbers, index."""

from __future__ import annotations

import json
import math

import pytest
from safetensors import safe_open

from ptl_plugins.checkpoint_surgery import prune_checkpoint
from ptl_plugins.families import Family
from ptl_plugins.shards import INDEX_FILE, open_checkpoint
from ptl_plugins.types import PrunePlan

FAMILY = Family(
    name="f", model_types=("f",), layers="h", ffn_inputs=("up",), ffn_output="down",
)  # fmt: skip
BYTES = {"BF16": 2, "F32": 4, "F64": 8, "U8": 1}
LAYER = (("up.weight", "BF16", [5, 3]), ("down.weight", "BF16", [3, 5]))


def plan_of(neurons=(), layers=()):
    return PrunePlan(
        num_layers=3, width=5, removed_neurons=(tuple(neurons),) * 3 if neurons else (),
        removed_layers=layers, criteria={}, scores_digest="d",
    )  # fmt: skip


def layer(index):
    return [(f"h.{index}.{name}", dtype, shape) for name, dtype, shape in LAYER]


def write_shard(path, tensors, metadata=None):
    """Write (name, dtype, shape) in the order given, every byte another."""
    header = {} if metadata is None else {"__metadata__": metadata}
    end = 0
    for name, dtype, shape in tensors:
        start, end = end, end + BYTES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    raw = json.dumps(header).encode()
    data = bytes(i % 251 for i in range(end))
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    config = {"intermediate_size": 5, "num_hidden_layers": 3}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def write_sharded(folder, parts, **metadata):
    weight_map = {}
    for file, tensors in parts.items():
        write_shard(folder / file, tensors, {"of": file})
        weight_map.update({name: file for name, _, _ in tensors})
    index = {"metadata": metadata, "weight_map": weight_map}
    (folder / INDEX_FILE).write_text(json.dumps(index), encoding="utf-8")


def prune(source, plan):
    out = source.parent / "out"
    prune_checkpoint(source, out, FAMILY, plan, side_files=(), extra={})
    return open_checkpoint(out)


def data(checkpoint, name):
    entry = checkpoint.tensors[name]
    return (checkpoint.folder / entry.file).read_bytes()[entry.start : entry.end]


def test_tensors_keep_their_order_and_the_file_its_metadata(source):
    tensors = [*layer(2), ("z", "BF16", [1]), *layer(0), ("a", "BF16", [1]), *layer(1)]
    write_shard(source / "model.safetensors", tensors, {"format": "pt", "note": "k\u00e4se"})
    pruned = prune(source, plan_of(layers=(1,)))
    names = [name for name, _, _ in (*layer(1), ("z", 0, 0), *layer(0), ("a", 0, 0))]
    assert list(pruned.tensors) == names
    assert pruned.file_metadata["model.safetensors"] == {"format": "pt", "note": "k\u00e4se"}
    with safe_open(pruned.folder / "model.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(names)


def test_a_file_without_metadata_gets_none(source):
    write_shard(source / "model.safetensors", [*layer(0), *layer(1), *layer(2)])
    assert prune(source, plan_of(layers=(1,))).file_metadata == {"model.safetensors": None}


def test_elements_that_would_straddle_put_the_largest_first(source):
    # 60 bytes a layer: behind two of them and 8 bytes F64 is aligned, behind one it is not
    tensors = [*layer(0), *layer(1), ("odd", "U8", [8]), ("wide", "F64", [2]), *layer(2)]
    write_shard(source / "model.safetensors", tensors)
    before = open_checkpoint(source)
    pruned = prune(source, plan_of(layers=(1,)))
    assert next(iter(pruned.tensors)) == "wide"
    assert next(reversed(pruned.tensors)) == "odd"
    first = pruned.tensors["wide"].start
    for name, entry in pruned.tensors.items():
        assert (entry.start - first) % entry.item_bytes == 0, name
    assert first % 8 == 0
    for name in ("odd", "wide"):
        assert data(pruned, name) == data(before, name)
    assert data(pruned, "h.1.up.weight") == data(before, "h.2.up.weight")


PARTS = {
    "model-00001-of-00004.safetensors": [("a", "BF16", [4]), *layer(0)],
    "model-00002-of-00004.safetensors": layer(1),
    "model-00003-of-00004.safetensors": [layer(2)[0]],
    "model-00004-of-00004.safetensors": [layer(2)[1], ("z", "F32", [2])],
}


def test_files_that_lose_every_tensor_go_and_the_rest_is_numbered_anew(source):
    write_sharded(source, PARTS, total_size=1, total_parameters=1000, note="kept")
    pruned = prune(source, plan_of(layers=(1,)))
    files = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    names = {file.name for file in pruned.folder.iterdir()}
    assert names == {*files, INDEX_FILE, "config.json"}
    assert pruned.index.weight_map == {
        "a": files[0], "h.0.up.weight": files[0], "h.0.down.weight": files[0],
        "h.1.up.weight": files[1], "h.1.down.weight": files[2], "z": files[2],
    }  # fmt: skip
    of = [pruned.file_metadata[file]["of"][:11] for file in files]
    assert of == ["model-00001", "model-00003", "model-00004"]
    # layer 1 had 2 x 15 parameters; four vectors of 4 and 2 elements and two layers are left
    size = 8 + 8 + 2 * 60
    assert pruned.index.metadata == {"total_size": size, "total_parameters": 970, "note": "kept"}


def test_names_stay_where_no_file_goes(source):
    write_sharded(source, PARTS, total_size=1)
    pruned = prune(source, plan_of(neurons=(0, 4)))
    assert pruned.files == tuple(PARTS)
    assert pruned.index.metadata == {"total_size": 8 + 8 + 3 * 2 * 18}


def test_files_with_names_of_their_own_keep_them(source):
    write_sharded(source, {"x.safetensors": [*layer(0), *layer(2)], "y.safetensors": layer(1)})
    pruned = prune(source, plan_of(layers=(1,)))
    assert pruned.files == ("x.safetensors",)
    assert set(pruned.index.weight_map.values()) == {"x.safetensors"}
