"""The backend `vllm`, on a stand-in for the module: vLLM itself runs in no test."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from ptl_plugins.errors import PTLError
from ptl_plugins.speed.measure import measure_speed
from ptl_plugins.speed.protocol import Protocol
from ptl_plugins.speed.vllm_engine import VllmEngine
from ptl_plugins.testing import tiny_tokenizer, write_tiny_checkpoint

SMALL = Protocol(
    warmups=1, repeats=2, new_tokens=4, num_prompts=2, prompt_tokens=10, batch_size=3,
    max_natural_tokens=9,
)  # fmt: skip


@pytest.fixture
def stand_in(monkeypatch):
    """A module `vllm` that generates 6 tokens where it may stop, and notes what it is given."""
    module = ModuleType("vllm")
    module.started, module.asked = [], []
    module.SamplingParams = lambda **keys: SimpleNamespace(**keys)

    class LLM:
        def __init__(self, **keys):
            module.started.append(keys)
            self.name = keys["model"]

        def get_tokenizer(self):
            return tiny_tokenizer()

        def generate(self, prompts, sampling, *, use_tqdm):
            assert use_tqdm is False
            module.asked.append((self.name, prompts, sampling))
            number = sampling.max_tokens
            length = number if sampling.ignore_eos else min(6, number)
            output = SimpleNamespace(outputs=[SimpleNamespace(token_ids=[7] * length)])
            return [output] * len(prompts)

    module.LLM = LLM
    monkeypatch.setitem(sys.modules, "vllm", module)
    return module


@pytest.fixture
def folders(tmp_path):
    return (
        write_tiny_checkpoint(tmp_path / "small", intermediate_size=16),
        write_tiny_checkpoint(tmp_path / "large"),
    )


def test_both_engines_share_the_memory_and_no_prompt_is_cached(stand_in, folders):
    report = measure_speed(*folders, SMALL, backend="vllm", gpu_memory=0.8)
    assert [keys["model"] for keys in stand_in.started] == [str(folder) for folder in folders]
    assert [keys["gpu_memory_utilization"] for keys in stand_in.started] == [0.4, 0.4]
    assert not any(keys["enable_prefix_caching"] for keys in stand_in.started)
    assert {keys["dtype"] for keys in stand_in.started} == {"bfloat16"}
    assert report.backend == "vllm"
    assert report.weights.ratio > 1


def test_sampling_is_greedy_and_fixed_lengths_ignore_the_end_of_the_text(stand_in, folders):
    report = measure_speed(*folders, SMALL, backend="vllm")
    asked = [sampling for _, _, sampling in stand_in.asked]
    assert {sampling.temperature for sampling in asked} == {0.0}
    assert {s.max_tokens for s in asked if s.ignore_eos} == {1, 4, 5}
    assert {s.max_tokens for s in asked if not s.ignore_eos} == {9}
    assert report.comparison("natural").tokens == 6
    assert report.comparison("throughput").tokens == 12


def test_prefill_is_one_token_and_decode_the_difference_to_more(stand_in, folders):
    small = Protocol(warmups=0, repeats=2, new_tokens=4, prompt_tokens=10, measures=("decode",))
    report = measure_speed(*folders, small, backend="vllm")
    assert [s.max_tokens for _, _, s in stand_in.asked[:2]] == [1, 5]
    assert {len(prompts[0]["prompt_token_ids"]) for _, prompts, _ in stand_in.asked} == {10}
    assert report.comparison("decode").tokens == 4


def test_seconds_of_decoding_are_those_beyond_the_first_token(stand_in):
    times = iter([0.0, 2.0, 10.0, 17.0])  # one token takes 2 s, five take 7 s
    llm = stand_in.LLM(model="m")
    engine = VllmEngine(llm, None, vllm=stand_in, clock=lambda: next(times))
    prefill, decode = engine.prefill_decode([1, 2, 3], new_tokens=4)
    assert (prefill.seconds, prefill.num_tokens) == (2, 3)
    assert (decode.seconds, decode.num_tokens) == (5, 4)


def test_engines_are_given_room_for_the_longest_sequence_and_no_more_than_the_context(
    stand_in, folders
):
    measure_speed(*folders, SMALL, ["short"] * 2, backend="vllm")
    assert {keys["max_model_len"] for keys in stand_in.started} == {14 + len("short") + 8}
    stand_in.started.clear()
    measure_speed(*folders, SMALL, ["word " * 30] * 2, backend="vllm", dtype="float16")
    assert {keys["max_model_len"] for keys in stand_in.started} == {14 + 150 + 8}
    assert {keys["dtype"] for keys in stand_in.started} == {"float16"}


def test_an_engine_without_room_is_told_in_one_line(stand_in, folders, monkeypatch):
    def refuse(**keys):
        raise ValueError("No available memory for the cache blocks.\nMore")

    monkeypatch.setattr(stand_in, "LLM", refuse)
    with pytest.raises(PTLError) as caught:
        measure_speed(*folders, SMALL, backend="vllm")
    assert "45% of the GPU's memory (No available memory" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_vllm_is_told_with_what_to_do(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(PTLError, match=r"pip install vllm, or backend 'hf'"):
        measure_speed(*folders, SMALL, backend="vllm")
