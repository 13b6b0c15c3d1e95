"""A GRPO stage in the real verl, on the CPU: its program is killed, and so is the run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import yaml
from after_checks import finished_files, left_over, made_again, said_in_one_line, unreadable
from doors import CALIBRATION, SCHEDULE

USER_ERROR = 2
REWARD = """
def score(data_source, solution_str, ground_truth, extra_info=None):
    return sum(letter in "aeiou" for letter in solution_str) / 16
"""
GRPO = {
    "rollout": "hf_cpu",
    "grpo": {
        "samples_per_prompt": 2, "prompts_per_step": 2, "mini_batch": 2, "max_prompt_length": 96,
        "max_response_length": 8, "steps": 2, "learning_rate": 1.0e-2,
    },
    "reward": {"file": "reward.py", "function": "score"},
    "problems": {"path": "problems.jsonl"},
    "prompt": "prompt.jinja",
    "chat_template": "plain_chat",
}  # fmt: skip
RECIPE = {
    "model": "model",
    "run_dir": "out",
    "data": {"path": "data/tiny.jsonl"},
    "calibration": CALIBRATION,
    "schedule": SCHEDULE[:1],
    "recover": [{"backend": "fake"}, {"backend": "verl", "settings": GRPO}],
}
FAKE = "ptl_plugins.testing.fake_backend"
STATE = ("out/round_01/stage_0/done.json", "out/round_01/scores.safetensors")


class GrpoPlace:
    """A folder with the recipe, whose runs are started whole."""

    def __init__(self, folder) -> None:
        from ptl_plugins.testing import write_tiny_checkpoint, write_tiny_corpus

        self.folder, self.out = folder, folder / "out"
        write_tiny_checkpoint(folder / "model", "qwen2", num_hidden_layers=3)
        write_tiny_corpus(folder / "data", num_documents=24)
        rows = [{"problem": f"What is {i} + 1?", "answer": i + 1} for i in range(8)]
        texts = {
            "problems.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
            "prompt.jinja": "{{ content }}",
            "reward.py": REWARD,
            "r.yaml": yaml.safe_dump(RECIPE),
        }
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        self.door = type("Door", (), {"state": STATE})

    def start(self):
        words = [sys.executable, "-m", "ptl_plugins", "run", "r.yaml", "-p", FAKE]
        with (self.folder / "said").open("w") as said:
            return subprocess.Popen(words, cwd=self.folder, stdout=said, stderr=subprocess.STDOUT)

    def said(self):
        return (self.folder / "said").read_text(encoding="utf-8", errors="replace")

    def until_it_trains(self):
        """Start the run; return it once verl noted its first step."""
        run, deadline = self.start(), time.monotonic() + 500
        while not (self.out / "round_01" / "stage_1" / "steps.jsonl").is_file():
            assert run.poll() is None, self.said()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return run


def left_in(folder):
    """Return the processes of the folder's stage, Ray's daemons among them."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(folder) in process.environ().get("PYTHONPATH", ""):
                found.append(process)
    return found


@pytest.mark.faults
@pytest.mark.timeout(1500)
def test_a_grpo_stage_that_is_killed_is_done_again(tmp_path, tried):
    place, wrong = GrpoPlace(tmp_path), []
    run = place.until_it_trains()
    note = json.loads((place.out / "round_01" / "local_program.json").read_text(encoding="utf-8"))
    at_fault = finished_files(place)
    os.kill(note["pid"], signal.SIGKILL)
    if run.wait(200) != USER_ERROR:
        wrong.append(f"ended with {run.returncode}")
    wrong += said_in_one_line(place.said())
    run = place.until_it_trains()
    run.kill()
    run.wait()
    if (code := place.start().wait(900)) != 0:
        wrong.append(f"the next one failed with {code}: {place.said()[-3000:]}")
    wrong += unreadable(place.out) + left_over(place.out) + made_again(place, at_fault)
    wrong += [f"still runs: {process}" for process in left_in(tmp_path)]
    for fault in ("child killed or failed", "kill -9"):
        tried(fault, "ptl run", 1, int(not wrong), steps="recover (verl)")
    assert not wrong, "\n".join(wrong)
