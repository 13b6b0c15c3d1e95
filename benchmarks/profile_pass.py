"""What profiling costs: over the bare forward pass, and as commands against the naive way.

On a random Llama in bf16 (hidden 1024, intermediate 4096, 16 layers, vocabulary 32000) and 32
sequences of 256 tokens, made on the spot:

| arm | baseline | promise |
| --- | --- | --- |
| the pass that gathers every statistic of neurons and layers | the same decoder forward of the same batches, no hooks, no lm_head | ratio at most 1.10 |
| CPU seconds of `ptl profile` + `ptl prune --neurons 410` | `naive_prune.py`, which cuts as much | ratio at most 0.65 |

The arms of a pair run one after the other in alternating order; medians of the paired ratios.
"""  # noqa: E501

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from ptl_plugins.calibration import Batches
from ptl_plugins.criteria import forward_statistics, needed_statistics
from ptl_plugins.families import find_family
from ptl_plugins.live import decoder, evaluating
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.profile_model import keep_freed_memory
from ptl_plugins.profiling import profile
from ptl_plugins.ranks import SingleProcess
from ptl_plugins.testing import tiny_texts, tiny_tokenizer

SIZES = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 16,
    "vocab_size": 32000,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
}
NUM_SEQUENCES, LENGTH = 32, 256
LAUNCHER = """\
import os, sys
child = os.spawnv(os.P_NOWAIT, sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(child, 0)
print(usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""A small process between: a child's peak starts at the memory of the process that forked it."""
PASS_PROMISE, COMMAND_PROMISE = 1.10, 0.65


def main() -> None:
    """Measure, print ratios and peaks; exit 1 where a promise is broken."""
    parser = argparse.ArgumentParser(description="What profiling costs.")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", choices=("pass", "commands"))
    arguments = parser.parse_args()
    kept = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model")
        write_data(folder / "data.jsonl")
        if arguments.only != "commands":
            kept &= measure_pass(folder, arguments.pairs)
        if arguments.only != "pass":
            kept &= measure_commands(folder, arguments.pairs)
    raise SystemExit(0 if kept else 1)


def write_model(folder: Path) -> None:
    """Write the random model and a tokenizer."""
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **SIZES)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)


def write_data(path: Path) -> None:
    """Write texts of more than 256 tokens each."""
    rng, texts = random.Random(0), tiny_texts(2000)
    rows = [json.dumps({"text": " ".join(rng.sample(texts, 20))}) for _ in range(NUM_SEQUENCES)]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def measure_pass(folder: Path, pairs: int) -> bool:
    """Compare the profiling pass with the bare forward in this process."""
    keep_freed_memory()
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype="auto").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    rows = [json.loads(line)["text"] for line in (folder / "data.jsonl").open(encoding="utf-8")]
    ids = tokenizer(rows, truncation=True, max_length=LENGTH)["input_ids"]
    batches = Batches(ids, batch_tokens=2048, device=torch.device("cpu"))
    registry = build_registry(build_manager(autoload=False))
    family = find_family(registry, model.config.to_dict())
    wanted = forward_statistics(
        needed_statistics([criterion for _, criterion in registry.criteria.items()])
    )

    def gather() -> None:
        profile(model, family, batches, wanted, SingleProcess())

    ratios, seconds = paired(gather, lambda: forward(model, batches), pairs)
    print(f"profiling pass, {len(wanted)} statistics: {seconds[0]:.2f} s, bare forward "
          f"{seconds[1]:.2f} s of CPU ({torch.get_num_threads()} threads)")  # fmt: skip
    return verdict("profiling pass / bare forward", ratios, PASS_PROMISE)


def forward(model: PreTrainedModel, batches: Batches) -> None:
    """Run the decoder alone."""
    family = find_family(build_registry(build_manager(autoload=False)), model.config.to_dict())
    with evaluating(model):
        for batch in batches:
            decoder(model, family)(input_ids=batch.input_ids, use_cache=False)


def paired(
    ours: Callable[[], None], baseline: Callable[[], None], pairs: int
) -> tuple[list[float], tuple[float, float]]:
    """Return the ratios of the pairs and the median CPU seconds of both; one more pair warms up."""
    times: list[dict[bool, float]] = []
    for number in range(pairs + 1):
        row = {}
        for is_ours in (True, False) if number % 2 else (False, True):
            start = time.process_time()
            (ours if is_ours else baseline)()
            row[is_ours] = time.process_time() - start
        times.append(row)
    rows = times[1:]
    medians = tuple(statistics.median(row[key] for row in rows) for key in (True, False))
    return [row[True] / row[False] for row in rows], (medians[0], medians[1])


def measure_commands(folder: Path, pairs: int) -> bool:
    """Compare the two commands with the naive script."""
    ptl = [sys.executable, "-m", "ptl_plugins"]
    here, out, scores = Path(__file__).parent, folder / "out", folder / "scores.safetensors"
    ours = [
        [*ptl, "profile", "model", "--data", "data.jsonl", "--out", scores, "--samples",
         str(NUM_SEQUENCES), "--max-length", str(LENGTH)],
        [*ptl, "prune", "model", "--scores", scores, "--out", out, "--neurons", "410"],
    ]  # fmt: skip
    naive = [[sys.executable, here / "naive_prune.py", "model", "data.jsonl", out]]
    ratios: list[float] = []
    for number in range(pairs):
        seconds = {}
        for commands in (ours, naive) if number % 2 else (naive, ours):
            seconds[commands is ours] = sum(cpu_seconds(words, folder) for words in commands)
            shutil.rmtree(out)
            scores.unlink(missing_ok=True)
        ratios.append(seconds[True] / seconds[False])
        print(f"ptl profile + ptl prune {seconds[True]:.1f} s, naive {seconds[False]:.1f} s of CPU")
    return verdict("ptl profile + ptl prune / naive", ratios, COMMAND_PROMISE)


def cpu_seconds(words: list[str | Path], folder: Path) -> float:
    """Run a command and return its user and system seconds; print its peak memory."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", LAUNCHER, *map(str, words)],
        cwd=folder, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))} failed:\n{done.stderr}")
    seconds, peak = done.stdout.splitlines()[-1].split()
    print(f"  {' '.join(map(str, words[1:4]))}: peak {float(peak) / 1024:.0f} MB resident")
    return float(seconds)


def verdict(what: str, ratios: list[float], promise: float) -> bool:
    """Print the median ratio with its range; return whether the promise is kept."""
    ratio = statistics.median(ratios)
    kept = ratio <= promise
    print(f"{what}: {ratio:.3f} [{min(ratios):.3f} .. {max(ratios):.3f}], promise {promise}: "
          f"{'kept' if kept else 'BROKEN'}", flush=True)  # fmt: skip
    return kept


if __name__ == "__main__":
    main()
