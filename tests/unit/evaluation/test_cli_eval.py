"""`ptl eval` as a user calls it."""

from __future__ import annotations

import errno
import json
import shutil

import pytest

from ptl_plugins.cli import main as command


@pytest.fixture
def ptl(monkeypatch, capsys):
    """Runs the command line in this process; returns exit code, output and errors."""

    def run(*words) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["ptl", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            command.main()
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run


def test_everything_is_saved_and_told(ptl, data_dir, roomy, other, tmp_path):
    out = tmp_path / "eval.json"
    code, printed, _ = ptl(
        "eval", roomy, "--tasks", "gsm8k_cot,math500,chain_of_thought", "--data-dir", data_dir,
        "--baseline", other, "--limit", 3, "--max-new-tokens", 8, "--out", out,
    )  # fmt: skip
    assert code == 0
    assert "strict_match" in printed
    assert "McNemar p" in printed
    assert "cot_loss" in printed
    saved = json.loads(out.read_text())
    assert set(saved["tasks"]) == {"gsm8k_cot", "math500"}
    assert saved["tasks"]["gsm8k_cot"]["model"]["num_questions"] == 3
    assert len(saved["tasks"]["math500"]["compared"]) == 2
    assert set(saved["loss"]) == {str(roomy), str(other)}
    for name in ("gsm8k_cot", "gsm8k_cot.baseline", "math500", "math500.baseline"):
        lines = (tmp_path / f"eval.{name}.jsonl").read_text().splitlines()
        assert [json.loads(line)["index"] for line in lines] == [0, 1, 2]
    assert not list(tmp_path.glob("*.ptl-tmp"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--tasks", "gsm8k"], "unknown task 'gsm8k' (did you mean 'gsm8k_"),
        (["--tasks", ""], "no task is named; allowed: gsm8k_cot"),
        (["--tasks", "math500,math500"], "named twice"),
        (["--tasks", "speed"], "--baseline"),
        (["--tasks", "mbpp"], "--allow-code-execution"),
        (["--tasks", "math500", "--backend", "onnx"], "--backend: 'onnx' is not one of hf, vllm"),
        (["--tasks", "math500", "--chat-template", "x"], "'x' is not one of own, qwen_math"),
        (["--tasks", "math500", "--limit", "0"], "--limit"),
        (["--tasks", "math500", "--batch-size", "-1"], "--batch-size"),
        (["--tasks", "math500", "--baseline", "./nowhere"], "no such folder"),
        (["--tasks", "math500", "--out", "nowhere/eval.json"], "there is no folder 'nowhere'"),
        (["--tasks", "math500", "--out", "."], "is a folder"),
        (["--tasks", "math500", "--backend", "vllm"], "vLLM is not installed"),
    ],
)
def test_a_wrong_word_is_one_line(words, told, ptl, data_dir, roomy, cache):
    code, _, errors = ptl("eval", roomy, "--data-dir", data_dir, *words)
    assert code == 2
    assert told in errors
    assert len(errors.strip().splitlines()) == 1
    assert not list(cache.rglob("questions.jsonl"))


@pytest.mark.parametrize("task", ["gsm8k_cot", "math500_chat", "chain_of_thought"])
def test_missing_data_are_told_before_a_model_is_loaded(task, ptl, roomy, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)
    code, _, errors = ptl("eval", roomy, "--tasks", task, "--data-dir", tmp_path / "empty")
    assert code == 2
    assert str(tmp_path / "empty") in errors
    assert len(errors.strip().splitlines()) == 1


BROKEN = {
    "model.safetensors": "ab",
    "tokenizer.json": "{",
    "config.json": '{"model_type": "llama", "hidden_size": "many"}',
}


@pytest.mark.parametrize("name", [*BROKEN, "no weights", "no tokenizer"])
def test_a_broken_checkpoint_is_one_line(name, ptl, data_dir, roomy, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(roomy, broken)
    if name in BROKEN:
        (broken / name).write_text(BROKEN[name])
    elif name == "no weights":
        (broken / "model.safetensors").unlink()
    else:
        for path in broken.glob("tokenizer*"):
            path.unlink()
    code, _, errors = ptl("eval", broken, "--tasks", "math500", "--data-dir", data_dir)
    assert code == 2
    told = [line for line in errors.splitlines() if line.startswith("ptl: ")]
    assert len(told) == 1
    assert str(broken) in told[0] or "config.json" in told[0]
    assert "Traceback" not in errors


@pytest.mark.parametrize("place", ["out", "cache"])
def test_a_full_disk_is_one_line(place, ptl, data_dir, roomy, tmp_path, monkeypatch):
    def full(path, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    module = {"out": "saved.write_json", "cache": "result_store.write_text"}[place]
    monkeypatch.setattr(f"ptl_plugins.evaluation.{module}", full)
    code, _, errors = ptl(
        "eval", roomy, "--tasks", "math500", "--data-dir", data_dir, "--limit", 1,
        "--max-new-tokens", 4, "--out", tmp_path / "eval.json",
    )  # fmt: skip
    assert code == 2
    assert "cannot be written (No space left on device)" in errors


def test_a_model_that_is_no_checkpoint_is_one_line(ptl, data_dir, tmp_path):
    code, _, errors = ptl("eval", tmp_path, "--tasks", "math500", "--data-dir", data_dir)
    assert code == 2
    assert "has no config.json" in errors
