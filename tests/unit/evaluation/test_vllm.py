"""The backend `vllm` through lm-eval's real class, on a stand-in for vLLM."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path


def test_answers_and_tokens_come_from_the_engine(data_dir, roomy, tmp_path, cache):
    stand_in = _stand_in().write_stand_in(tmp_path / "modules")
    out = tmp_path / "eval.json"
    words = ["eval", roomy, "--tasks", "gsm8k_cot", "--data-dir", data_dir, "--backend", "vllm",
             "--limit", 3, "--max-new-tokens", 7, "--out", out]  # fmt: skip
    path = os.pathsep.join([str(stand_in), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "ptl_plugins", *map(str, words)],
        env={**os.environ, "PYTHONPATH": path, "PTL_CACHE": str(cache)},
        capture_output=True,
        text=True,
        timeout=55,
    )
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "eval.gsm8k_cot.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert sorted(row["generated_tokens"] for row in rows) == [5, 6, 7]
    assert [row["finish"] for row in sorted(rows, key=lambda r: r["generated_tokens"])] == [
        "stop", "stop", "length",
    ]  # fmt: skip
    assert [row["marks"]["strict_match"] for row in rows] == [1.0, 0.0, 0.0]
    assert all(row["prompt_tokens"] > 1000 for row in rows)


def _stand_in():
    spec = importlib.util.spec_from_file_location(
        "stand_in_vllm", Path(__file__).with_name("stand_in_vllm.py")
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
