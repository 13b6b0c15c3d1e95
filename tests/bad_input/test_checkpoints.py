"""Checkpoints that are cut short, damaged, of something else, or made to do harm."""

from __future__ import annotations

import os
import shutil

import pytest
from damaged_checkpoints import (
    INDEX,
    SINGLE,
    a_folder,
    a_pickle,
    a_pipe,
    a_zip,
    map_offsets,
    of_bytes,
    of_config,
    of_header,
    of_json,
    of_link,
    of_text,
    of_two_shards,
    of_value,
    only_pickled,
    shard,
    shift,
    transposed,
    twice_the_rows,
)
from good_recipes import FAKE, LLAMAFACTORY, RUN, write_yaml

NAN, INFINITE = b"\xc0\x7f", b"\x80\xff"
Q = "model.layers.0.self_attn.q_proj.weight"
UP = "model.layers.1.mlp.up_proj.weight"
NORM = "model.norm.weight"
FIRST, SECOND = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
DIGITS = "9" * 5000


def tensor(name, file):
    """Return what lets the index name another file for a tensor."""
    return of_two_shards(lambda model, index: index["weight_map"].update({name: file}))


CONFIGS = {
    "no config": (lambda model: (model / "config.json").unlink(), ("config.json",)),
    "an empty config": (of_text("config.json", ""), ("config.json", "JSON")),
    "a config cut short": (of_text("config.json", '{"model_type": "lla'), ("config.json", "JSON")),
    "a config that is a list": (of_text("config.json", "[1]"), ("config.json", "JSON object")),
    "a config that is a word": (of_text("config.json", '"llama"'), ("config.json", "JSON object")),
    "a config that is null": (of_text("config.json", "null"), ("config.json", "JSON object")),
    "a config that is not UTF-8": (of_text("config.json", b'{"a": "\xff"}'), ("config.json",)),
    "a config in depth": (of_text("config.json", "[" * 10**5), ("config.json", "nested")),
    "a config of many digits": (of_text("config.json", f'{{"a": {DIGITS}}}'), ("config.json",)),
    "a config that is a folder": (a_folder("config.json"), ("config.json",)),
    "a config that is a pipe": (a_pipe("config.json"), ("config.json",)),
    "a config of 100 MB": (
        lambda model: os.truncate(model / "config.json", 100 << 20), ("config.json", "larger")),
    "a config elsewhere": (of_link("config.json", "../../elsewhere.json"), ("config.json",)),
    "a config in a circle": (of_link("config.json", "config.json"), ("config.json",)),
    "an unknown architecture": (of_config(model_type="gpt2"), ("model_type", "'gpt2'")),
    "an architecture of the future": (of_config(model_type="llama9"), ("'llama9'", "supported")),
    "no architecture": (of_config(model_type=...), ("model_type",)),
    "an architecture that is a number": (of_config(model_type=3), ("model_type", "3")),
    "an architecture that is a list": (of_config(model_type=["llama"]), ("model_type", "llama")),
    "experts": (of_config(model_type="mixtral", num_local_experts=8), ("mixtral",)),
    "a quantised model": (
        of_config(quantization_config={"quant_method": "gptq"}), ("quantised",)),
    "no hidden size": (of_config(hidden_size=...), ("hidden_size",)),
    "a hidden size that is null": (of_config(hidden_size=None), ("hidden_size",)),
    "a hidden size that is text": (of_config(hidden_size="32"), ("hidden_size", "'32'")),
    "a negative hidden size": (of_config(hidden_size=-32), ("hidden_size", "-32")),
    "a hidden size of nothing": (of_config(hidden_size=0), ("hidden_size", "0")),
    "half a hidden size": (of_config(hidden_size=32.5), ("hidden_size", "32.5")),
    "a true hidden size": (of_config(hidden_size=True), ("hidden_size", "True")),
    "a negative width": (of_config(intermediate_size=-48), ("intermediate_size", "-48")),
    "a width that is a list": (of_config(intermediate_size=[48] * 5), ("intermediate_size",)),
    "no layers": (of_config(num_hidden_layers=0), ("num_hidden_layers", "0")),
    "negative layers": (of_config(num_hidden_layers=-5), ("num_hidden_layers", "-5")),
    "layers that are text": (of_config(num_hidden_layers="5"), ("num_hidden_layers", "'5'")),
    "a trillion layers": (of_config(num_hidden_layers=10**12), ("num_hidden_layers",)),
    "no vocabulary": (of_config(vocab_size=...), ("vocab_size",)),
    "a negative vocabulary": (of_config(vocab_size=-1), ("vocab_size", "-1")),
    "no heads": (of_config(num_attention_heads=0), ("num_attention_heads", "0")),
    "negative heads": (of_config(num_attention_heads=-4), ("num_attention_heads", "-4")),
    "heads that are text": (of_config(num_attention_heads="four"), ("num_attention_heads",)),
    "negative heads of keys": (of_config(num_key_value_heads=-2), ("num_key_value_heads", "-2")),
    "a head of negative size": (of_config(head_dim=-8), ("head_dim", "-8")),
}  # fmt: skip
"""What `ptl validate` sees as well: the config alone."""
WEIGHTS = {
    # cut short, or of something else
    "no weights": (lambda model: (model / SINGLE).unlink(), ("neither", SINGLE)),
    "an empty file": (of_bytes(lambda raw: b""), (SINGLE,)),
    "seven bytes": (of_bytes(lambda raw: raw[:7]), (SINGLE,)),
    "half a header": (of_bytes(lambda raw: raw[:200]), (SINGLE,)),
    "a header alone": (of_bytes(lambda raw: raw[: 8 + int.from_bytes(raw[:8], "little")]),
                       (SINGLE, "bytes of")),
    "half the weights": (of_bytes(lambda raw: raw[: len(raw) // 2]), (SINGLE, "bytes of")),
    "a byte short": (of_bytes(lambda raw: raw[:-1]), (SINGLE, "bytes of")),
    "a byte more": (of_bytes(lambda raw: raw + b"x"), (SINGLE,)),
    "zeros": (of_bytes(lambda raw: bytes(len(raw))), (SINGLE,)),
    "noise": (of_bytes(lambda raw: bytes(range(256)) * 64), (SINGLE,)),
    "a page of a login": (of_bytes(lambda raw: b"<!DOCTYPE html><html>sign in</html>"), (SINGLE,)),
    "a pointer of git-lfs": (
        of_bytes(lambda raw: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        (SINGLE,)),
    "a pickle": (a_pickle, (SINGLE,)),
    "a zip": (a_zip, (SINGLE,)),
    "a GGUF": (of_bytes(lambda raw: b"GGUF\x03\x00\x00\x00" + raw), (SINGLE,)),
    "a pickle alone": (only_pickled, ("pytorch_model.bin", "safetensors")),
    "a folder": (a_folder(SINGLE), (SINGLE,)),
    "a pipe": (a_pipe(SINGLE), (SINGLE,)),
    # headers
    "a header of 2^63 bytes": (of_bytes(lambda raw: (2**63).to_bytes(8, "little") + raw[8:]),
                               (SINGLE,)),
    "a header of 2^64 - 1 bytes": (of_bytes(lambda raw: b"\xff" * 8 + raw[8:]), (SINGLE,)),
    "a header of 300 MB": (
        of_bytes(lambda raw: (300 << 20).to_bytes(8, "little") + raw[8:]), (SINGLE,)),
    "a header that is no JSON": (of_text(SINGLE, b"\x04" + bytes(7) + b"{,,}"), (SINGLE,)),
    "a header that is a list": (of_text(SINGLE, b"\x02" + bytes(7) + b"[]"), (SINGLE,)),
    "a header in depth": (
        of_text(SINGLE, (10**5).to_bytes(8, "little") + b"[" * 10**5), (SINGLE,)),
    "no tensors": (of_text(SINGLE, b"\x02" + bytes(7) + b"{}"), ("no tensor",)),
    "a tensor without a shape": (of_header(lambda h: h[UP].pop("shape")), (SINGLE,)),
    "a tensor without a place": (of_header(lambda h: h[UP].pop("data_offsets")), (SINGLE,)),
    "a tensor without a type": (of_header(lambda h: h[UP].pop("dtype")), (SINGLE,)),
    "an unknown type": (of_header(lambda h: h[UP].update(dtype="BF17")), (SINGLE,)),
    "another type": (of_header(lambda h: h[UP].update(dtype="F32")), (SINGLE,)),
    "a negative shape": (of_header(lambda h: h[UP].update(shape=[-48, -32])), (SINGLE,)),
    "half a row": (of_header(lambda h: h[UP].update(shape=[1.5, 32])), (SINGLE,)),
    "a shape of 2^80": (of_header(lambda h: h[UP].update(shape=[2**40, 2**40])), (SINGLE,)),
    "twice the rows": (of_header(twice_the_rows), (SINGLE,)),
    "a place past the end": (
        of_header(lambda h: h[UP].update(data_offsets=[2**40, 2**40 + 3072])), (SINGLE,)),
    "a place backwards": (of_header(lambda h: h[UP]["data_offsets"].reverse()), (SINGLE,)),
    "a negative place": (of_header(lambda h: h[UP].update(data_offsets=[-3072, 0])), (SINGLE,)),
    "places that overlap": (of_header(shift), (SINGLE,)),
    "all in one place": (
        of_header(lambda h: [entry.update(data_offsets=[0, 64]) for entry in map_offsets(h)]),
        (SINGLE,)),
    # tensors
    "a matrix that is turned": (of_header(transposed(UP)), (UP, "[32, 48]")),
    "a query that is turned into a line": (of_header(lambda h: h[Q].update(shape=[1024])), (Q,)),
    "a tensor under another name": (of_header(lambda h: h.update({UP + "_": h.pop(UP)})), (UP,)),
    "a norm under another name": (of_header(lambda h: h.update({"n": h.pop(NORM)})), (NORM,)),
    "a query under another name": (of_header(lambda h: h.update({"q": h.pop(Q)})), (Q,)),
    "no embedding": (
        of_header(lambda h: h.update({"e": h.pop("model.embed_tokens.weight")})),
        ("model.embed_tokens.weight",)),
    "a width that is another": (of_config(intermediate_size=32), ("mlp.", "48", "32")),
    "a hidden size that is another": (of_config(hidden_size=64), ("weight", "32", "64")),
    "more layers than there are": (of_config(num_hidden_layers=7), ("layers.5",)),
    "fewer layers than there are": (of_config(num_hidden_layers=4), ("layers.4",)),
    "another vocabulary": (of_config(vocab_size=300), ("model.embed_tokens.weight", "300")),
    "not a number": (of_value(NAN, UP), (UP, "not finite")),
    "not a number in the embedding": (
        of_value(NAN, "model.embed_tokens.weight"), ("embed_tokens", "not finite")),
    "not a number at the end": (of_value(NAN), ("not finite",)),
    "an infinite weight": (of_value(INFINITE, Q), (Q, "not finite")),
    "an infinite norm": (of_value(INFINITE, NORM), (NORM, "not finite")),
    # shards
    "a shard that is missing": (
        of_two_shards(lambda model, index: (model / SECOND).unlink()), (INDEX, SECOND)),
    "a shard cut short": (
        of_two_shards(lambda model, index: (model / SECOND).write_bytes(b"x" * 99)), (SECOND,)),
    "a shard twice": (
        of_two_shards(lambda model, index: shutil.copy(model / FIRST, model / SECOND)),
        (FIRST, SECOND)),
    "a tensor that no shard has": (tensor("model.layers.9.x", FIRST), (INDEX, "layers.9.x")),
    "a tensor in the other shard": (tensor(NORM, FIRST), (INDEX, NORM, FIRST)),
    "a shard above": (tensor(UP, f"../model/{FIRST}"), (INDEX, UP, "../model")),
    "a shard far above": (tensor(UP, "../../../etc/passwd"), (INDEX, UP, "../../../etc/passwd")),
    "a shard at the root": (tensor(UP, "/etc/passwd"), (INDEX, UP, "/etc/passwd")),
    "a shard in a folder": (tensor(UP, "sub/x.safetensors"), (INDEX, UP, "sub/x")),
    "a shard of another system": (tensor(UP, "..\\x.safetensors"), (INDEX, UP, "x.safetensors")),
    "a shard with a NUL": (tensor(UP, f"{FIRST}\x00.safetensors"), (INDEX, UP)),
    "a shard that is a pickle": (tensor(UP, "pytorch_model.bin"), (INDEX, UP, ".bin")),
    "a shard without a name": (tensor(UP, ""), (INDEX, UP)),
    "a shard that is a number": (tensor(UP, 3), (INDEX, UP, "3")),
    "a shard that is a list": (tensor(UP, [FIRST]), (INDEX, UP)),
    "a shard on the hub": (tensor(UP, "https://x.org/a.safetensors"), (INDEX, UP, "https")),
    "an empty index": (of_two_shards(lambda model, index: index.clear()), (INDEX, "weight_map")),
    "an index of nothing": (
        of_two_shards(lambda model, index: index.update(weight_map={})), (INDEX, "weight_map")),
    "an index that is a list": (
        of_two_shards(lambda model, index: index.update(weight_map=[1])), (INDEX,)),
    "an index that is no JSON": (
        lambda model: (shard(model), of_text(INDEX, "{")(model)), (INDEX,)),
    "an index in depth": (
        lambda model: (shard(model), of_text(INDEX, "[" * 10**5)(model)), (INDEX,)),
    "an index that is a folder": (
        lambda model: (shard(model), a_folder(INDEX)(model)), (INDEX,)),
    # links
    "weights that lead outside": (of_link(SINGLE, "../other/model.safetensors"),
                                  (SINGLE, "out of the folder")),
    "weights that are a secret": (of_link(SINGLE, "/etc/passwd"), (SINGLE,)),
    "weights that end nowhere": (of_link(SINGLE, "nowhere"), (SINGLE,)),
    "weights in a circle": (of_link(SINGLE, SINGLE), (SINGLE,)),
    "weights without an end": (of_link(SINGLE, "/dev/zero"), (SINGLE,)),
    "a shard that leads outside": (
        of_two_shards(lambda model, index: of_link(SECOND, f"../other/{SECOND}")(model)),
        (SECOND,)),
    "a licence that is a secret": (of_link("LICENSE", "/etc/passwd"),
                                   ("LICENSE", "/etc/passwd", "out of the folder")),
    "a tokenizer that leads outside": (of_link("tokenizer.json", "../other/tokenizer.json"),
                                       ("tokenizer.json", "out of the folder")),
}  # fmt: skip
TOKENIZERS = {
    "no tokenizer": (lambda model: (model / "tokenizer.json").unlink(), ("tokenizer",)),
    "an empty tokenizer": (of_text("tokenizer.json", ""), ("tokenizer",)),
    "a tokenizer of another program": (of_text("tokenizer.json", "{}"), ("tokenizer",)),
    "a tokenizer cut short": (
        lambda model: of_text("tokenizer.json", (model / "tokenizer.json").read_bytes()[:300])(
            model), ("tokenizer",)),
    "tokens that the model has not": (
        lambda model: (of_config(vocab_size=100)(model), cut_embedding(model)), ("vocab_size",)),
    "code of a tokenizer": (
        of_json("tokenizer_config.json", tokenizer_class="Evil",
                auto_map={"AutoTokenizer": ["evil.Evil", None]}), ("tokenizer", "code")),
}  # fmt: skip
PRUNE = ("prune", "model", "--drop-layers", "1", "--out", "pruned")
PROFILE = ("profile", "model", "--data", "data/tiny.jsonl", "--out", "new/scores")
UNSEEN = {"a norm under another name", "a query under another name", "no embedding",
          "a query that is turned into a line", "another vocabulary"}  # fmt: skip
"""Of tensors outside the FFN `ptl prune`, which knows no model, copies the bytes."""


def cut_embedding(model):
    """Leave 100 rows of the embedding."""
    from damaged_checkpoints import read_file, write_file

    header, data = read_file(model / SINGLE)
    name = "model.embed_tokens.weight"
    start, end = header[name]["data_offsets"]
    left = start + 100 * (end - start) // header[name]["shape"][0]
    for entry in map_offsets(header):
        entry["data_offsets"] = [p - (end - left) * (p >= end) for p in entry["data_offsets"]]
    header[name]["shape"][0] = 100
    write_file(model / SINGLE, header, data[:left] + data[end:])


@pytest.fixture
def damaged(place):
    """Make what a damage may lead to, do it, and tell at the end that no pickle was loaded."""

    def damage(case):
        change, names = (CONFIGS | WEIGHTS | TOKENIZERS)[case]
        shutil.copytree(place / "model", place / "other")
        shutil.copy(place / "model/config.json", place.parent / "elsewhere.json")
        change(place / "model")
        return names

    yield damage
    assert not (place / "pwned").exists()


@pytest.mark.parametrize("command", ["validate", "plan", "run"])
@pytest.mark.parametrize("case", CONFIGS)
def test_a_recipe_whose_model_is_described_wrongly(refused, damaged, command, case):
    names = damaged(case)
    refused(command, "run.yaml", *FAKE, names=("run.yaml: model: ", *names))


@pytest.mark.parametrize("case", CONFIGS)
def test_llamafactory_with_a_model_that_is_described_wrongly(
    refused_by_llamafactory, damaged, case
):
    names = damaged(case)
    refused_by_llamafactory("train.yaml", names=("train.yaml: model_name_or_path: ", *names))


@pytest.mark.parametrize("words", [PRUNE, PROFILE], ids=["prune", "profile"])
@pytest.mark.parametrize("case", CONFIGS)
def test_a_model_that_is_described_wrongly(refused, damaged, words, case):
    refused(*words, names=damaged(case))


@pytest.mark.parametrize("case", [case for case in WEIGHTS if case not in UNSEEN])
def test_ptl_prune_refuses_weights(refused, damaged, case):
    refused(*PRUNE, names=damaged(case))


@pytest.mark.parametrize("case", WEIGHTS)
def test_ptl_profile_refuses_weights(refused, damaged, case):
    refused(*PROFILE, names=damaged(case))


@pytest.mark.parametrize("case", WEIGHTS)
def test_ptl_run_refuses_weights(refused, damaged, case):
    refused("run", "run.yaml", *FAKE, names=("run.yaml: model: ", *damaged(case)))


@pytest.mark.parametrize("case", [case for case in WEIGHTS if case != "a pickle alone"])
def test_llamafactory_does_not_load_weights(refused_by_llamafactory, damaged, case):
    names = damaged(case)
    refused_by_llamafactory("train.yaml", names=("train.yaml: model_name_or_path: ", *names))


@pytest.mark.parametrize("case", TOKENIZERS)
def test_a_tokenizer_that_cannot_be_used(place, refused, damaged, case):
    names = damaged(case)
    refused(*PROFILE, names=names)
    refused("run", "run.yaml", *FAKE, names=names)


def test_what_the_cases_damage_is_good(place, ptl):
    shard(place / "model")
    assert ptl(*PRUNE)[0] == 0
    assert ptl(*PROFILE)[0] == 0
    write_yaml(place / "again.yaml", {**RUN, "model": "pruned", "recover": []})
    assert ptl("run", "again.yaml", *FAKE)[0] == 0
    assert LLAMAFACTORY["model_name_or_path"] == "model"


def test_a_model_in_the_cache_of_the_hub_is_made_of_links(place, ptl):
    cache = place / "cache/models--owner--name"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots/0123").mkdir(parents=True)
    for file in (place / "model").iterdir():
        shutil.move(file, cache / "blobs" / f"digest-of-{file.name}")
        (cache / "snapshots/0123" / file.name).symlink_to(f"../../blobs/digest-of-{file.name}")
    (place / "model").rmdir()
    (place / "model").symlink_to(cache / "snapshots/0123")
    assert ptl(*PRUNE)[0] == 0
