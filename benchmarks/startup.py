"""How long `ptl --help`, `ptl plan` and `ptl validate` take; the promise is under one second.

Wall seconds of whole commands on a tiny checkpoint and recipe, interleaved with the baseline
`python -c pass`, so that a busy machine slows them all alike.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ptl_plugins.testing import write_tiny_checkpoint

PROMISE_SECONDS = 1.0
BASELINE = "python -c pass"
RECIPE = """\
model_name_or_path: model
stage: pt
do_train: true
finetuning_type: full
dataset: tiny
output_dir: out
ptl:
  schedule:
    - {unit: neuron, amount: 8, rounds: 4}
    - {unit: layer, amount: 1}
"""


def main() -> None:
    """Measure, print medians and ratios; exit 1 where the promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tiny_checkpoint(folder / "model")
        (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
        times = measure(folder, repeats)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        ratio = median / medians[BASELINE]
        low, high = min(times[name]), max(times[name])
        print(f"{name:<26} median {median:.3f} s [{low:.3f} .. {high:.3f}], {ratio:.1f} x baseline")
    kept = max(medians.values()) < PROMISE_SECONDS
    print(f"promise: every median under {PROMISE_SECONDS:g} s: {'kept' if kept else 'BROKEN'}")
    raise SystemExit(0 if kept else 1)


def measure(folder: Path, repeats: int) -> dict[str, list[float]]:
    """Return wall seconds per command, `repeats` each; one more round warms the disk."""
    ptl = str(Path(sys.executable).with_name("ptl"))
    commands = {
        BASELINE: [sys.executable, "-c", "pass"],
        "ptl --help": [ptl, "--help"],
        "ptl plan recipe.yaml": [ptl, "plan", "recipe.yaml"],
        "ptl validate recipe.yaml": [ptl, "validate", "recipe.yaml"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(repeats + 1):
        for name, command in commands.items():
            seconds = _seconds(command, folder)
            if number:
                times[name].append(seconds)
    return times


def _seconds(command: list[str], folder: Path) -> float:
    start = time.perf_counter()
    subprocess.run(
        command, cwd=folder, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True,
        check=True,
    )  # fmt: skip
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
