"""Safetensors files of any bytes: what they hold, or an error; never memory that is not there."""

from __future__ import annotations

import json
import tracemalloc

import fuzz_targets as targets
import pytest
from fuzz_inputs import JSON_TREES, bounded, spoilt, spoilt_tensors
from hypothesis import example, given
from hypothesis import strategies as st

INDEX = {"metadata": {"total_size": 24}, "weight_map": {"a": "a.safetensors"}}


def test_what_is_spoilt_is_sound_at_first():
    from ptl_plugins.scores_file import read_scores

    path = targets.workplace() / "scores.safetensors"
    path.write_bytes(targets.good_scores())
    assert read_scores(path)[0].width == 3
    targets.shard_file(targets.good_shard())


@bounded(80)
@given(st.binary(max_size=64))
@example(b"")
@example(b"\x02" + b"\0" * 7 + b"{}")
@example(b"\xff" * 8)
def test_bytes(data):
    targets.shard_file(data)
    targets.tensor_file(data)


@bounded(200)
@given(spoilt_tensors(targets.good_shard()))
def test_spoilt_shards(data):
    targets.shard_file(data)


@bounded(150)
@given(spoilt_tensors(targets.good_scores()))
def test_spoilt_files_of_ptl(data):
    targets.tensor_file(data)


@bounded(150)
@given(spoilt(targets.FACTS, JSON_TREES))
def test_spoilt_facts_of_ptl(facts):
    targets.tensor_file(with_facts(json.dumps(facts)))


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "1", '"a"', "{", '{"num_layers": 1e999}'])
def test_facts_that_are_no_facts(text):
    targets.tensor_file(with_facts(text))


def with_facts(text: str) -> bytes:
    import numpy as np
    from safetensors.numpy import save

    return save({"total": np.ones((2, 3), np.float32)}, {"ptl": text})


@bounded(100)
@given(spoilt(INDEX, JSON_TREES | st.sampled_from(("../a.safetensors", "/etc/passwd", "a\0b"))))
def test_spoilt_indices(index):
    targets.shard_index(json.dumps(index).encode())


@bounded(40)
@given(st.binary(max_size=64))
@example(b"[" * 100_000)
@example(b'{"weight_map": {"a": ' + b"9" * 5000 + b"}}")
def test_indices_of_any_bytes(data):
    targets.shard_index(data)


@pytest.mark.parametrize("length", [2**31, 2**40, 2**62, 2**63, 2**64 - 1])
def test_a_header_that_claims_much_takes_no_memory(length):
    data = length.to_bytes(8, "little") + targets.good_shard()[8:]
    tracemalloc.start()
    try:
        targets.shard_file(data)
        targets.tensor_file(data)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
