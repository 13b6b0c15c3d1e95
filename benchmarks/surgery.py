"""What `ptl prune` costs beside copying the same model; the promise is 2.5 x its CPU time.

CPU seconds (user + system, start of the interpreter included) of whole commands, in pairs that
take turns in going first, on a random Llama of 0.33 billion parameters in bf16. The anonymous
memory of each command is sampled while it runs; the promise is two of the largest tensors and
150 MB, and 150 MB alone where only layers go. `--big GB` holds the memory promise against a
model of that size instead, whose bytes are holes (the pruned one takes real room on the disk).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ptl_plugins.criteria import needed_statistics
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.model_digest import model_digest
from ptl_plugins.scores_file import write_scores
from ptl_plugins.shards import open_checkpoint
from ptl_plugins.types import Scores

PROMISED_RATIO = 2.5
PROMISED_BYTES = 150e6
SHARD_BYTES = 2 * 10**9
PTL = str(Path(sys.executable).with_name("ptl"))


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes of a Llama."""

    hidden: int = 1024
    width: int = 4096
    layers: int = 16
    vocabulary: int = 32000

    def tensors(self) -> Iterator[tuple[str, list[int]]]:
        """Yield names and shapes in the order of the layers."""
        yield "model.embed_tokens.weight", [self.vocabulary, self.hidden]
        for stem in (f"model.layers.{i}." for i in range(self.layers)):
            for name in ("q", "k", "v", "o"):
                yield f"{stem}self_attn.{name}_proj.weight", [self.hidden, self.hidden]
            for name in ("gate", "up"):
                yield f"{stem}mlp.{name}_proj.weight", [self.width, self.hidden]
            yield f"{stem}mlp.down_proj.weight", [self.hidden, self.width]
            for name in ("input", "post_attention"):
                yield f"{stem}{name}_layernorm.weight", [self.hidden]
        yield "model.norm.weight", [self.hidden]
        yield "lm_head.weight", [self.vocabulary, self.hidden]

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(2 * math.prod(shape) for _, shape in self.tensors())

    @property
    def largest(self) -> int:
        """Bytes of the largest tensor."""
        return 2 * self.hidden * max(self.width, self.vocabulary)

    def config(self) -> dict[str, object]:
        """Return the `config.json`."""
        return {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama",
            "hidden_size": self.hidden, "intermediate_size": self.width,
            "num_hidden_layers": self.layers, "num_attention_heads": 16,
            "num_key_value_heads": 16, "vocab_size": self.vocabulary, "dtype": "bfloat16",
            "tie_word_embeddings": False,
        }  # fmt: skip


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
    arms = {"prune": prune(cut), "copy": ["sh", "-c", "cp -r model copied && sync"]}
    seen = {}
    for name in sorted(arms, reverse=bool(number % 2)):
        seen[name] = measure(arms[name], folder)
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


def write_llama_scores(folder: Path, shape: Shape) -> None:
    """Write random scores of the model in `folder / "model"`, with all that `ptl profile` has."""
    registry = build_registry(build_manager(autoload=False))
    rng = np.random.default_rng(1)
    statistics = {}
    for statistic in needed_statistics([criterion for _, criterion in registry.criteria.items()]):
        sizes = (shape.layers, shape.width)[: 1 if statistic.site == "layer" else 2]
        statistics[statistic.name] = rng.random(sizes, dtype=np.float32)
    scores = Scores(
        statistics=statistics, num_layers=shape.layers, width=shape.width, num_tokens=1000,
        num_sequences=10,
    )  # fmt: skip
    about = {"model_digest": model_digest(open_checkpoint(folder / "model"))}
    write_scores(folder / "scores.safetensors", scores, about)


def write_model(folder: Path, shape: Shape, *, random: bool) -> None:
    """Write a bf16 checkpoint of random values, or of holes in several files."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(shape.config()), encoding="utf-8")
    if random:
        write_shard(folder / "model.safetensors", dict(shape.tensors()), random=True)
        return
    shards: list[dict[str, list[int]]] = [{}]
    for name, sizes in shape.tensors():
        if sum(2 * math.prod(s) for s in shards[-1].values()) > SHARD_BYTES:
            shards.append({})
        shards[-1][name] = sizes
    weight_map = {}
    for number, tensors in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_shard(folder / file, tensors, random=False)
        weight_map.update(dict.fromkeys(tensors, file))
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def write_shard(path: Path, tensors: dict[str, list[int]], *, random: bool) -> None:
    """Write one safetensors file."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for shape in tensors.values() if random else ():
            # below 0x4000 as bf16: finite, from 0 to 2
            file.write(rng.integers(0, 0x4000, math.prod(shape), dtype=np.uint16).tobytes())
        file.truncate(8 + len(raw) + end)


if __name__ == "__main__":
    main()
