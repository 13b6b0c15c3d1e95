"""What the loop of `ptl run` costs when the recovery costs nothing: 100 rounds of a tiny model.

The backend is `ptl_plugins.testing`'s, a program that copies the checkpoint. The baseline does the
unavoidable of each round by hand, in one process: load the model, forward the calibration
sequences, save it twice (pruned and recovered), start a Python that does nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from ptl_plugins.testing import tiny_texts, write_tiny_checkpoint, write_tiny_corpus

PROMISE_SECONDS = 60.0
ROUNDS = 100
SEQUENCES = 8
RECIPE = {
    "model": "model",
    "run_dir": "run",
    "data": {"path": "data/tiny.jsonl"},
    "calibration": {"num_sequences": SEQUENCES, "max_length": 64},
    "schedule": [{"unit": "neuron", "amount": 2, "rounds": ROUNDS}],
    "recover": [{"backend": "fake"}],
}


def main() -> None:
    """Measure both, print seconds and the ratio; exit 1 where the promise is broken."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tiny_checkpoint(folder / "model", intermediate_size=256)
        write_tiny_corpus(folder / "data", num_documents=ROUNDS * 10)
        (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
        by_hand = baseline(folder)
        seconds = loop(folder)
        print_steps(folder / "run")
    print(f"baseline {by_hand:.1f} s, {ROUNDS} rounds of ptl run {seconds:.1f} s, with its start")
    print(f"ratio {seconds / by_hand:.2f}")
    kept = seconds < PROMISE_SECONDS
    print(f"promise: under {PROMISE_SECONDS:g} s: {'kept' if kept else 'BROKEN'}")
    raise SystemExit(0 if kept else 1)


def loop(folder: Path) -> float:
    """Return wall seconds of the whole command."""
    plugin = "ptl_plugins.testing.fake_backend"
    words = [sys.executable, "-m", "ptl_plugins", "run", "recipe.yaml", "-p", plugin]
    start = time.perf_counter()
    subprocess.run(words, cwd=folder, check=True, capture_output=True, env=_quiet())
    return time.perf_counter() - start


def baseline(folder: Path) -> float:
    """Return wall seconds of the unavoidable, by hand."""
    start = time.perf_counter()
    for number in range(ROUNDS):
        model = AutoModelForCausalLM.from_pretrained(folder / "model")
        tokenizer = AutoTokenizer.from_pretrained(folder / "model")
        with torch.inference_mode():
            for text in tiny_texts(SEQUENCES, seed=number):
                ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=64)
                model(**ids)
        for name in ("pruned", "recovered"):
            model.save_pretrained(folder / "by_hand" / str(number) / name)
        subprocess.run([sys.executable, "-I", "-S", "-c", "pass"], check=True)
    return time.perf_counter() - start


def print_steps(run: Path) -> None:
    """Print the median seconds of each step over the rounds."""
    records = [json.loads(p.read_text(encoding="utf-8")) for p in run.glob("round_*/record.json")]
    steps = {step for record in records for step in record["seconds"]}
    for step in sorted(steps):
        values = sorted(record["seconds"].get(step, 0.0) for record in records)
        print(f"{step:<14} median {values[len(values) // 2] * 1000:.0f} ms")


def _quiet() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


if __name__ == "__main__":
    main()
