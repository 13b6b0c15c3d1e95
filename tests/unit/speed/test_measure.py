"""Two checkpoints, or a live model and a checkpoint, measured from end to end."""

from __future__ import annotations

import pytest
import torch

from ptl_plugins.errors import PTLError
from ptl_plugins.speed import measure as measure_module
from ptl_plugins.speed import transformers_engine
from ptl_plugins.speed.measure import measure_live, measure_speed
from ptl_plugins.speed.protocol import PAPER, Protocol
from ptl_plugins.testing import tiny_model, tiny_tokenizer, write_tiny_checkpoint

SMALL = Protocol(
    warmups=0, repeats=2, new_tokens=2, num_prompts=1, prompt_tokens=6, batch_size=2,
    max_natural_tokens=3,
)  # fmt: skip


@pytest.fixture
def small(tmp_path):
    return write_tiny_checkpoint(tmp_path / "small", intermediate_size=16)


@pytest.fixture
def large(tmp_path):
    return write_tiny_checkpoint(tmp_path / "large")


def test_two_checkpoints_give_every_measure_with_an_interval(small, large):
    report = measure_speed(small, large, SMALL, ["What is 1 + 2?"])
    names = [one.name for one in report.comparisons]
    expected = ["latency", "natural", "natural_token", "throughput", "prefill", "decode"]
    assert names == expected
    assert all(0 < one.low <= one.speedup <= one.high for one in report.comparisons)
    assert report.comparison("latency").tokens == 2
    assert (report.model.name, report.baseline.name) == (str(small), str(large))
    assert report.weights.ratio == report.baseline.num_parameters / report.model.num_parameters
    assert report.machine.threads == torch.get_num_threads()
    assert {"torch", "transformers", "python"} <= report.machine.versions.keys()
    assert report.machine.device


def test_the_paper_protocol_runs_as_named(small, large):
    report = measure_speed(small, large, PAPER)
    assert report.comparison("natural").num_pairs == 10
    assert report.comparison("natural").tokens <= 64
    assert report.protocol.caveat
    assert {len(row) for row in report.timings[0].model} == {10}


def test_both_are_loaded_in_the_dtype_of_the_model(tmp_path, small):
    large = tmp_path / "large"
    tiny_model("llama").save_pretrained(large)
    tiny_tokenizer().save_pretrained(large)
    report = measure_speed(small, large, SMALL)
    assert (report.model.dtype, report.baseline.dtype) == ("bfloat16", "bfloat16")


def test_a_live_model_is_compared_in_its_own_dtype_and_attention(large):
    model = tiny_model("llama", intermediate_size=16)
    model.set_attn_implementation("eager")
    report = measure_live(model, tiny_tokenizer(), large, SMALL)
    assert report.model.name == "live model"
    assert (report.baseline.dtype, report.baseline.attention) == ("float32", "eager")
    assert report.weights.ratio > 1


def test_other_vocabularies_and_tokenizers_are_allowed_and_told(tmp_path, large):
    model = tiny_model("llama", vocab_size=300)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["What is"])
    report = measure_live(model, tokenizer, large, SMALL, ["What is 1 + 2?"])
    assert any("vocabularies differ (300 and 256" in note for note in report.notes)
    assert any("tokenizers differ" in note for note in report.notes)


def test_equal_tokenizers_on_an_idle_machine_leave_nothing_to_note(small, large, monkeypatch):
    monkeypatch.setattr("os.getloadavg", lambda: (0.1, 0.0, 0.0))
    assert measure_speed(small, large, SMALL).notes == ()


def test_a_busy_machine_is_told(small, large, monkeypatch):
    monkeypatch.setattr("os.getloadavg", lambda: (3.5, 0.0, 0.0))
    report = measure_speed(small, large, SMALL)
    assert report.machine.start.load_average == 3.5
    assert report.notes == ("the machine was not idle: load average 3.5 before the start",)


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"backend": "vlm"}, "backend: 'vlm' is unknown (did you mean 'vllm'?)"),
        ({"dtype": "fp8"}, "dtype: 'fp8' is unknown; allowed: float32, bfloat16, float16"),
        ({"device": "nowhere"}, "device: 'nowhere' is none"),
        ({"device": "cuda:99"}, "device: 'cuda:99': torch sees"),
        ({"gpu_memory": 0}, "gpu_memory: 0 is no share"),
        ({"prompts": []}, "1 prompts are wanted and there are 0"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(small, large, keys, text):
    with pytest.raises(PTLError) as caught:
        measure_speed(small, large, SMALL, **keys)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_baseline_is_named_before_anything_is_loaded(small, tmp_path, monkeypatch):
    monkeypatch.setattr(transformers_engine, "opened", None)
    with pytest.raises(PTLError, match="no such folder"):
        measure_speed(small, tmp_path / "gone", SMALL)


def test_a_missing_scipy_is_told_before_anything_is_loaded(small, large, monkeypatch):
    def gone():
        raise PTLError("intervals of a speedup need scipy")

    monkeypatch.setattr(measure_module, "require_scipy", gone)
    monkeypatch.setattr(transformers_engine, "opened", None)
    with pytest.raises(PTLError, match="need scipy"):
        measure_speed(small, large, SMALL)


def test_a_device_that_runs_out_of_memory_is_an_error_of_the_user(small, large, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nMore")

    monkeypatch.setattr(measure_module, "measure", full)
    with pytest.raises(PTLError) as caught:
        measure_speed(small, large, SMALL)
    assert "no room for both models" in str(caught.value)
    assert "\n" not in str(caught.value)
