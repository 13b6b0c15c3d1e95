"""What `ptl prune` costs beside copying the same model; the promise is 2.5 x its CPU time.

CPU seconds (user + system, start of the interpreter included) of whole commands, in pairs that
take turns in going first, on a random Llama of 0.33 billion parameters in bf16. The anonymous
memory of each command is sampled while it runs; the promise is two of the largest tensors and
150 MB, and 150 MB alone where only layers go. `--big GB` holds the memory promise against a
model of that size instead, whose bytes are holes (the pruned one takes real room on the disk).
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from random_llama import Shape, write_llama_scores, write_model

PROMISED_RATIO = 2.5
PROMISED_BYTES = 150e6
PTL = str(Path(sys.executable).with_name("ptl"))


BIG = Shape(hidden=8192, width=28672, vocabulary=128256)


def main() -> None:
    """Measure, print, and exit with 1 where a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--big", type=float, metavar="GB", help="size of a model of holes")
    parser.add_argument("--folder", type=Path, help="where to work; default: the temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        kept = big(Path(name), options.big) if options.big else small(Path(name), options.repeats)
    raise SystemExit(0 if kept else 1)


def small(folder: Path, repeats: int) -> bool:
    """Compare with a copy; return whether the promises are kept."""
    shape = Shape()
    write_model(folder / "model", shape, random=True)
    write_llama_scores(folder, shape)
    kept = []
    for cut, ratio in (("--neurons 410", PROMISED_RATIO), ("--drop-layers 3,7", math.inf)):
        pairs = [pair(folder, cut, number) for number in range(repeats + 1)][1:]
        kept += [report(shape, cut, pairs, ratio)]
    return all(kept)


def big(folder: Path, gigabytes: float) -> bool:
    """Prune a model of holes once each way; return whether the memory promise is kept."""
    one, two = (replace(BIG, layers=number).num_bytes for number in (1, 2))
    layers = max(3, round((gigabytes * 1e9 - one) / (two - one)) + 1)
    shape = replace(BIG, layers=layers)
    write_model(folder / "model", shape, random=False)
    write_llama_scores(folder, shape)
    print(f"model of {shape.num_bytes / 1e9:.1f} GB, {layers} layers")
    kept = []
    for cut in ("--neurons 2867", "--drop-layers 0,1"):
        cpu, peak = measure(prune(cut), folder)
        shutil.rmtree(folder / "pruned")
        print(f"{cut:<18} CPU {cpu:.1f} s")
        kept.append(report_memory(shape, cut, peak))
    return all(kept)


def pair(folder: Path, cut: str, number: int) -> tuple[float, float, int]:
    """Return CPU seconds of the prune and of the copy, and the prune's peak memory."""
    arms = {"prune": [prune(cut)], "copy": [["cp", "-r", "model", "copied"], ["sync"]]}
    seen = {}
    for name in sorted(arms, reverse=bool(number % 2)):
        parts = [measure(command, folder) for command in arms[name]]
        seen[name] = (sum(cpu for cpu, _ in parts), max(peak for _, peak in parts))
        for left in ("pruned", "copied"):
            shutil.rmtree(folder / left, ignore_errors=True)
        os.sync()  # the other arm shall not pay for this one's writes
    return seen["prune"][0], seen["copy"][0], seen["prune"][1]


def prune(cut: str) -> list[str]:
    """Return the command."""
    return [
        PTL,
        "prune",
        "model",
        "--scores",
        "scores.safetensors",
        "--out",
        "pruned",
        *cut.split(),
    ]


def measure(command: list[str], folder: Path) -> tuple[float, int]:
    """Run `command`; return its CPU seconds and the most anonymous memory that it had, in bytes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    child = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    peak = 0
    while child.poll() is None:
        peak = max(peak, anonymous_bytes(child.pid))
        time.sleep(0.002)
    if child.returncode:
        raise SystemExit(f"{command} ended with {child.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak


def anonymous_bytes(pid: int) -> int:
    """Return RssAnon of a process, 0 once it has ended."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon"):
            return 1024 * int(line.split()[1])
    return 0


def report(shape: Shape, cut: str, pairs: list[tuple[float, float, int]], promised: float) -> bool:
    """Print medians, ratio and verdict; return whether the promises are kept."""
    ours, copies, peaks = zip(*pairs, strict=True)
    ratios = sorted(a / b for a, b in zip(ours, copies, strict=True))
    ratio = statistics.median(ratios)
    own, copy = statistics.median(ours), statistics.median(copies)
    print(f"{cut:<18} CPU median {own:.3f} s, cp + sync {copy:.3f} s", end=", ")
    print(f"median ratio {ratio:.2f} [{ratios[0]:.2f} .. {ratios[-1]:.2f}]")
    if promised < math.inf:
        print(f"  promise: ratio at most {promised}: {verdict(ratio <= promised)}")
    return report_memory(shape, cut, max(peaks)) and ratio <= promised


def report_memory(shape: Shape, cut: str, peak: int) -> bool:
    """Print the peak and the verdict; return it."""
    promised = PROMISED_BYTES + (2 * shape.largest if "neurons" in cut else 0)
    print(f"  anonymous memory {peak / 1e6:.0f} MB, promise {promised / 1e6:.0f} MB:", end=" ")
    print(verdict(peak <= promised))
    return peak <= promised


def verdict(kept: bool) -> str:
    """Return the word."""
    return "kept" if kept else "BROKEN"


if __name__ == "__main__":
    main()
