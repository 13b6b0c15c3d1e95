"""Loss after slicing without any training: principal directions against random ones and dense.

Needs a model folder; the problems are made on the spot (the extra `quickstart`):

    python benchmarks/slicegpt.py --model SMOLLM2

128 worked problems calibrate; the loss is the mean over the answer tokens of 60 others. Promise:
with a quarter of the hidden size gone, SliceGPT keeps a lower loss than the same number of random
orthogonal directions. Each slicing runs in a process of its own, whose seconds and peak memory are
printed; PTL's profile of the same sequences is what they are held against.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ptl_plugins.calibration import Batches
from ptl_plugins.criteria import needed_statistics
from ptl_plugins.families import find_family
from ptl_plugins.geometry import geometry
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.model_config import read_config
from ptl_plugins.profiling import profile
from ptl_plugins.quickstart.corpus import write_corpus
from ptl_plugins.ranks import SingleProcess
from ptl_plugins.slicegpt.auto_classes import register_sliced_models
from ptl_plugins.slicegpt.sliced_checkpoint import SliceRequest, slice_checkpoint

CRITERIA = ("slicegpt", "random_directions")
BATCH_TOKENS, SEED = 2048, 0


def main() -> None:
    """Slice and measure, print a table; exit 1 where the promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--fractions", default="0.25", help="comma-separated, such as 0,0.25")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        train, test = problems(Path(name), AutoTokenizer.from_pretrained(arguments.model))
        (seconds, peak), _ = apart(profiled, arguments.model, train)
        dense, _ = apart(answer_loss, arguments.model, test)
        print(f"dense: loss {dense:.4f}; profile of the same sequences {seconds:.1f} s, {peak} MiB")
        broken = 0
        for fraction in map(float, arguments.fractions.split(",")):
            losses = [
                sliced_loss(arguments.model, Path(name), criterion, fraction, train, test)
                for criterion in CRITERIA
            ]
            broken += fraction > 0 and not losses[0] < losses[1]
    raise SystemExit(1 if broken else 0)


def problems(folder: Path, tokenizer: Any) -> tuple[list[list[int]], list[tuple[list[int], int]]]:
    """Return token ids to calibrate on, and others with the number of their prompt's tokens."""
    write_corpus(folder / "data", num_training=128, num_held_out=60, seed=1)
    texts = {path.stem: rows(path) for path in (folder / "data").glob("*.jsonl")}
    train = [tokenizer(row["text"])["input_ids"] for row in texts["train"]]
    test = []
    for row in texts["held_out"]:
        prompt = f"Question: {row['question']}\nAnswer: "
        ids = tokenizer(prompt + row["answer"])["input_ids"]
        test.append((ids, len(tokenizer(prompt)["input_ids"])))
    return train, test


def rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a jsonl file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def apart(function: Any, *arguments: Any) -> tuple[Any, int]:
    """Run `function` in a process of its own; return its result and that process's peak MiB."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(with_peak, function, *arguments).result()


def with_peak(function: Any, *arguments: Any) -> tuple[Any, int]:
    """Return the result and this process's peak memory in MiB."""
    result = function(*arguments)
    return result, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def sliced_loss(
    model: Path,
    folder: Path,
    criterion: str,
    fraction: float,
    train: list[list[int]],
    test: list[tuple[list[int], int]],
) -> float:
    """Slice in one process, measure in another, print a line and return the loss."""
    out = folder / f"{criterion}_{fraction}"
    (cost, parameters), peak = apart(sliced, model, out, criterion, fraction, train)
    loss, _ = apart(answer_loss, out, test)
    print(
        f"{criterion} {fraction:.0%}: loss {loss:.4f}; {parameters:,} parameters; {cost}, "
        f"{peak} MiB"
    )
    return float(loss)


def sliced(
    model: Path, out: Path, criterion: str, fraction: float, train: list[list[int]]
) -> tuple[str, int]:
    """Write the sliced checkpoint; return the cost and the number of parameters."""
    registry = build_registry(build_manager(autoload=False))
    config = read_config(str(model))
    family = find_family(registry, config)
    request = SliceRequest(
        source=model,
        out=out,
        family=family,
        hidden=round((1 - fraction) * config["hidden_size"]),
        sequences=train,
        batch_tokens=BATCH_TOKENS,
        basis=registry.criteria.get(criterion).basis,
        seed=SEED,
        provenance={},
    )
    cost = str(slice_checkpoint(request))
    return cost, geometry(read_config(str(out)), family).num_parameters


def profiled(model: Path, train: list[list[int]]) -> tuple[float, int]:
    """Return the seconds of PTL's profiling pass with its default criterion, and the peak MiB."""
    registry = build_registry(build_manager(autoload=False))
    family = find_family(registry, read_config(str(model)))
    live = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    batches = Batches(train, batch_tokens=BATCH_TOKENS, device=torch.device("cpu"))
    statistics = needed_statistics([registry.criteria.get("output_change")])
    start = time.perf_counter()
    profile(live, family, batches, statistics, SingleProcess())
    seconds = time.perf_counter() - start
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


@torch.inference_mode()
def answer_loss(model: Path, test: list[tuple[list[int], int]]) -> float:
    """Return nats per answer token."""
    register_sliced_models()
    live = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    total, number = 0.0, 0
    for ids, first in test:
        logits = live(torch.tensor([ids])).logits[0, first - 1 : -1]
        targets = torch.tensor(ids[first:])
        total += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
        number += len(targets)
    return total / number


if __name__ == "__main__":
    main()
