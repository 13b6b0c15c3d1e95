"""Whether a pruned model decodes as much faster as its smaller weights promise, at batch 1.

Cuts 40 % of the FFN neurons and six layers out of a checkpoint with `ptl profile` and
`ptl prune`, and measures the decoding of both, in turn, for every dtype and number of threads
that is asked for. Many short passes, not few long ones: what other work does to the machine
changes within seconds.

| arm | baseline | promise |
| --- | --- | --- |
| seconds per decoded token of the pruned model | those of the dense one, interleaved | speedup at least 0.8 x (bytes of dense weights / bytes of pruned weights) |
"""  # noqa: E501

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from ptl_plugins.model_config import read_config
from ptl_plugins.speed.measure import measure_speed
from ptl_plugins.speed.protocol import MEASURES, Protocol
from ptl_plugins.speed.report import SpeedReport
from ptl_plugins.speed.table import lines
from ptl_plugins.testing import tiny_texts

PROMISE = 0.8
NEURON_FRACTION, NUM_LAYERS = 0.4, 6


def main() -> None:
    """Prune, measure, print every report; exit 1 where a promise is broken."""
    arguments = parse()
    protocol = Protocol(
        measures=tuple(arguments.measures),
        repeats=arguments.repeats,
        new_tokens=arguments.new_tokens,
        prompt_tokens=arguments.prompt_tokens,
    )
    kept, reports = True, []
    with tempfile.TemporaryDirectory() as name:
        pruned = arguments.pruned or prune(arguments.dense, Path(name))
        for dtype in arguments.dtypes:
            for threads in arguments.threads:
                torch.set_num_threads(threads)
                report = measure_speed(pruned, arguments.dense, protocol, dtype=dtype)
                print("\n".join(lines(report)), flush=True)
                kept &= verdict(report)
                reports.append(report.to_json())
    if arguments.json:
        arguments.json.write_text(json.dumps(reports, indent=1), encoding="utf-8")
    raise SystemExit(0 if kept else 1)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Decode speedup of a pruned checkpoint.")
    parser.add_argument("dense", type=Path, help="a checkpoint folder")
    parser.add_argument("--pruned", type=Path, help="a pruned one; default: made on the spot")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--measures", nargs="+", default=["decode"], choices=MEASURES)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--new-tokens", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=16)
    parser.add_argument("--json", type=Path, help="where all samples are written")
    return parser.parse_args()


def prune(dense: Path, folder: Path) -> Path:
    """Cut the checkpoint; which neurons and layers go makes no difference to the speed."""
    rows = (json.dumps({"text": text}) for text in tiny_texts(16))
    (folder / "data.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    depth = int(read_config(str(dense))["num_hidden_layers"])
    middle = (depth - NUM_LAYERS) // 2
    layers = ",".join(str(layer) for layer in range(middle, middle + NUM_LAYERS))
    scores, out = folder / "scores.safetensors", folder / "pruned"
    ptl("profile", dense, "--data", folder / "data.jsonl", "--out", scores, "--samples", 16)
    ptl("prune", dense, "--scores", scores, "--out", out, "--neuron-fraction", NEURON_FRACTION,
        "--drop-layers", layers)  # fmt: skip
    return out


def ptl(*words: object) -> None:
    """Run a command of PTL."""
    subprocess.run([sys.executable, "-m", "ptl_plugins", *map(str, words)], check=True)


def verdict(report: SpeedReport) -> bool:
    """Print whether decoding is as much faster as promised."""
    decode = report.comparison("decode")
    if decode is None:
        return True
    promised = PROMISE * report.weights.ratio
    kept = decode.speedup >= promised
    print(f"decode speedup {decode.speedup:.3f} [{decode.low:.3f} .. {decode.high:.3f}], promise "
          f"{promised:.3f}: {'kept' if kept else 'BROKEN'}\n", flush=True)  # fmt: skip
    return kept


if __name__ == "__main__":
    main()
