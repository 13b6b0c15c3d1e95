"""The commands that faults are tried on, each with tiny inputs, and the folders they work in."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

FAKE = "ptl_plugins.testing.fake_backend"
SCHEDULE = [
    {"unit": "neuron", "amount": 8, "rounds": 1},
    {"unit": "layer", "amount": 1, "rounds": 1},
]
CALIBRATION = {"num_sequences": 3, "max_length": 32, "batch_tokens": 32}
EVALUATE = {
    "tasks": [{"evaluator": "chain_of_thought", "data": "data/held_out.jsonl", "num_problems": 2}],
    "before_recovery": True,
}
SECTION = {
    "calibration": CALIBRATION, "refit": "ridge", "schedule": SCHEDULE, "evaluate": EVALUATE,
}  # fmt: skip
TRAINING = {
    "use_cpu": True, "bf16": True, "cutoff_len": 64, "per_device_train_batch_size": 1,
    "learning_rate": 1.0e-3, "max_steps": 2,
}  # fmt: skip
RUN = {
    "model": "model", "run_dir": "out", "data": {"path": "data/tiny.jsonl"}, **SECTION,
    "recover": [{"backend": "fake"}, {"backend": "fake"}],
}  # fmt: skip
TRAIN = {
    "model_name_or_path": "model", "stage": "pt", "do_train": True, "finetuning_type": "full",
    "dataset_dir": "data", "dataset": "tiny", "output_dir": "out", "report_to": "none",
    "logging_steps": 1, **TRAINING, "ptl": SECTION,
}  # fmt: skip
STUDY = {"title": "Two", "runs": {name: {"recipe": "r.yaml"} for name in ("a", "b")}}
NUM_QUESTIONS = 20
INJECT = Path(__file__).with_name("inject")


def write_inputs(folder: Path) -> Path:
    """Write models and data, which commands only read."""
    from ptl_plugins.testing import write_tiny_checkpoint, write_tiny_corpus

    write_tiny_checkpoint(folder / "model", num_hidden_layers=3)
    write_tiny_checkpoint(folder / "roomy", num_hidden_layers=2, max_position_embeddings=16384)
    write_tiny_corpus(folder / "data", num_documents=24)
    questions = [
        {"problem": f"What is ${n} \\cdot 2$?", "solution": f"It is $\\boxed{{{2 * n}}}$.",
         "answer": str(2 * n)}
        for n in range(1, NUM_QUESTIONS + 1)
    ]  # fmt: skip
    write_rows(folder / "data" / "math500" / "test.jsonl", questions)
    sums = [{"question": f"What is {n} + 1?", "answer": f"{n} + 1 = {n + 1}.\n#### {n + 1}"}
            for n in range(4)]  # fmt: skip
    write_rows(folder / "data" / "gsm8k" / "test.jsonl", sums)
    numina = [{"problem": f"p {i}?", "solution": f"s{i}"} for i in range(57)]
    write_rows(folder / "data" / "numina.jsonl", numina)
    metamath = [{"query": f"q{i}?", "response": "r"} for i in range(31)]
    write_rows(folder / "data" / "metamath.jsonl", metamath)
    return folder


def write_rows(path: Path, rows: Sequence[dict]) -> None:
    """Write rows as jsonl."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Door:
    """A command, and which of the files that it writes tell whether it ends the same."""

    name: str
    """As a user knows it."""
    steps: str
    """The kinds of steps that it goes through."""
    words: tuple[str, ...]
    modules: tuple[str, ...] = ("run",)
    """What its starter imports: keys of `run_starter.NEEDED`."""
    recipe: dict = field(default_factory=dict)
    """The keys of `r.yaml`."""
    files: dict = field(default_factory=dict)
    """Further yaml files by name."""
    already: str = ""
    """What the command says, and ends with code 2, where an earlier try did all of its work."""
    state: tuple[str, ...] = ()
    """Patterns of files that are finished once they are there, and not made again."""


ROUND_STATE = (
    "out/round_*/record.json", "out/round_*/stage_*/done.json",
    "out/round_*/model/model.safetensors", "out/round_*/scores.safetensors",
)  # fmt: skip
DOORS = {
    "run": Door(
        name="ptl run",
        steps="profile, select, prune, recover, evaluate",
        words=("ptl", "run", "r.yaml", "-p", FAKE),
        recipe=RUN,
        state=ROUND_STATE,
    ),
    "train": Door(
        name="llamafactory-cli train",
        steps="profile, select, prune, recover, evaluate",
        words=("llamafactory-cli", "train", "r.yaml"),
        modules=("run", "llamafactory"),
        recipe=TRAIN,
        state=("out/round_*/record.json",),
    ),
    "profile": Door(
        name="ptl profile",
        steps="profile, second moments, protect set",
        words=(
            "ptl", "profile", "model", "--data", "data/tiny.jsonl", "--out", "out/scores",
            "--samples", "5", "--max-length", "32", "--batch-tokens", "64",
            "--second-moments", "out/moments", "--protect", "data/tiny.jsonl",
        ),
        state=("out/scores", "out/moments/layer_*.safetensors"),
    ),
    "prune": Door(
        name="ptl prune",
        steps="prune, refit",
        words=(
            "ptl", "prune", "model", "--scores", "profiled/scores", "--out", "out/smaller",
            "--neurons", "8", "--layers", "1", "--refit", "profiled/moments",
        ),
        already="smaller: is there already; remove it, or name another folder",
    ),
    "eval": Door(
        name="ptl eval",
        steps="evaluate",
        words=(
            "ptl", "eval", "roomy", "--tasks", "math500,chain_of_thought", "--data-dir", "data",
            "--batch-size", "1", "--max-new-tokens", "2", "--out", "out/eval.json",
        ),
        modules=("run", "eval"),
    ),
    "data": Door(
        name="ptl data",
        steps="read, shuffle, write",
        words=(
            "ptl", "data", "numina_metamath", "--out", "out",
            "--source", "numina=data/numina.jsonl", "--source", "metamath=data/metamath.jsonl",
        ),
        state=("out/*/part-*.jsonl", "out/.*/shards-all/part-*.jsonl", "out/.*/*.rows"),
    ),
    "stage": Door(
        name="ptl run",
        steps="recover (LLaMA-Factory)",
        words=("ptl", "run", "r.yaml"),
        recipe={
            **RUN, "schedule": SCHEDULE[:1], "evaluate": {**EVALUATE, "tasks": []},
            "recover": [{"backend": "llamafactory", "settings": TRAINING}],
        },
        state=ROUND_STATE,
    ),
    "study": Door(
        name="ptl study",
        steps="profile, select, prune, recover, evaluate, of two runs",
        words=("ptl", "study", "study.yaml", "--folder", "out", "-p", FAKE),
        recipe={**RUN, "evaluate": {**EVALUATE, "tasks": []}},
        files={"study.yaml": STUDY},
        state=tuple(pattern.replace("out/", "out/*/seed_1/run/") for pattern in ROUND_STATE),
    ),
}  # fmt: skip


class Place:
    """A folder in which a door's command is given, again and again."""

    def __init__(self, starter, inputs: Path, folder: Path, door: Door) -> None:
        self.starter, self.folder, self.door = starter, folder, door
        self.out = folder / "out"
        folder.mkdir(exist_ok=True)
        for source in inputs.iterdir():
            (folder / source.name).symlink_to(source)
        for name, keys in {"r.yaml": door.recipe, **door.files}.items():
            (folder / name).write_text(yaml.safe_dump(keys, sort_keys=False), encoding="utf-8")
        self.clear()

    def clear(self) -> None:
        """Take away all that the command wrote."""
        for path in (self.out, self.folder / "cache"):
            shutil.rmtree(path, ignore_errors=True)
        if self.door.name in ("ptl prune", "ptl eval"):  # their results lie in it
            self.out.mkdir()

    def start(self, *, fault: dict | None = None, said: str = "said", **environment: str) -> int:
        """Start the command and return its pid; the fault is that of `fault_points`.

        A fault with a `program` is for one that the command starts.
        """
        (self.folder / "trace").unlink(missing_ok=True)
        order = {"folder": str(self.out), "trace": str(self.folder / "trace"), **(fault or {})}
        given = {"PTL_CACHE": str(self.folder / "out" / "cache"), "PTL_FAULT": json.dumps(order)}
        if "program" in order:
            given["PYTHONPATH"] = os.pathsep.join([str(INJECT), os.environ.get("PYTHONPATH", "")])
        return self.starter.ask(
            start=list(self.door.words),
            folder=str(self.folder),
            environment={**given, **environment},
            said=said,
        )

    def wait(self, pid: int) -> int:
        """Return the exit code, negative for a signal."""
        return self.starter.ask(wait=pid)

    def run(self, **keys) -> int:
        """Give the command and return its exit code."""
        return self.wait(self.start(**keys))

    def again(self) -> list[str]:
        """Give the command once more; return what is wrong with its end."""
        if self.run() == 0 or (self.door.already and self.door.already in self.said()):
            return []
        return [f"the next one failed: {self.said()[-800:]}"]

    def run_until(self, seconds: float) -> int:
        """Give the command, and kill -9 it after so many seconds."""
        pid = self.start()
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
        return self.wait(pid)

    def said(self, said: str = "said") -> str:
        """Return what the command printed."""
        return (self.folder / said).read_text(encoding="utf-8", errors="replace")

    def operations(self) -> list[str]:
        """Return the operations of the last command below the folder, in order."""
        trace = self.folder / "trace"
        return trace.read_text(encoding="utf-8").splitlines() if trace.exists() else []
