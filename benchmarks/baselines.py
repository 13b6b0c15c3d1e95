"""What the pruning step of each baseline costs beside PTL's own, and what it loses right away.

Needs a model folder; the quickstart's corpus is made on the spot (the extra `quickstart`), unless
`--data` names a folder with its `train.jsonl` and `held_out.jsonl`:

    python benchmarks/baselines.py --model SMOLLM2

A pruning step is what `ptl run` does between two trainings: profile the round's sequences for the
statistics that its criteria need, choose, write the smaller checkpoint.

| arm | baseline | promise |
| --- | --- | --- |
| ShortGPT, Prune-Once, `wanda_structured`: CPU seconds of the pruning step | PTL's (the neurons of a round by `output_change`), the same sequences | ratio at most 3 |
| `taylor`: the same | the same | none: the ratio and the peak memory are printed |

All without the refit, which would cost all arms that cut neurons as much. Arms run in turn, each
beside PTL's step; medians of the ratios. With `--loss` the cut models answer 64 held-out problems,
teacher-forced, without any training; there all arms leave about as many parameters.
"""  # noqa: E501

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ptl_plugins.calibration import Batches
from ptl_plugins.checkpoint_surgery import prune_checkpoint
from ptl_plugins.criteria import needed_statistics
from ptl_plugins.evaluators.chain_of_thought import Problem, count_chain_of_thought, metrics
from ptl_plugins.families import find_family
from ptl_plugins.geometry import geometry
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.profile_model import keep_freed_memory
from ptl_plugins.profiling import profile
from ptl_plugins.quickstart.corpus import write_corpus
from ptl_plugins.ranks import SingleProcess
from ptl_plugins.selection import choose
from ptl_plugins.text_data import encode_texts, read_texts
from ptl_plugins.types import Cut

PROMISE, MAX_LENGTH, BATCH_TOKENS = 3.0, 512, 2048
NUM_PROBLEMS = 64
PROMPT = "Question: {question}\nAnswer: "


def cut(unit: str, criterion: str, fraction: float) -> Cut:
    """Return a cut of a fraction of the neurons of each layer, or of the layers."""
    return Cut(unit=unit, criterion=criterion, selector="fraction", amount=fraction)  # type: ignore[arg-type]


def neurons(criterion: str) -> tuple[Cut, ...]:
    """Return the neurons that PTL's rounds on SmolLM2 remove together, by a criterion."""
    return (cut("neuron", criterion, 0.445),)


OURS = "ptl"
STEPS = {
    OURS: (cut("neuron", "output_change", 0.09375),),
    "shortgpt": (cut("layer", "block_influence", 1 / 3),),
    "prune_once": (cut("neuron", "output_change", 0.375), cut("layer", "l2", 1 / 15)),
    "wanda_structured": neurons("wanda_structured"),
    "taylor": neurons("taylor"),
}
"""By arm, the cuts of its pruning step; PTL's is a round of the quickstart, 144 of 1536 neurons."""
BASELINES = [arm for arm in STEPS if arm != OURS]
UNPROMISED = ("taylor",)
LOSSES = {OURS: neurons("output_change"), **{name: STEPS[name] for name in BASELINES}}
"""By arm, cuts that leave about as many parameters as PTL's five rounds."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """A model with its sequences, loaded once."""

    folder: Path
    model: Any
    batches: Batches

    def step(self, cuts: tuple[Cut, ...], out: Path) -> None:
        """Profile, choose, and write the pruned checkpoint to `out`."""
        registry = build_registry(build_manager(autoload=False))
        config = self.model.config.to_dict()
        family = find_family(registry, config)
        wanted = needed_statistics([registry.criteria.get(c.criterion) for c in cuts])
        scores = profile(self.model, family, self.batches, wanted, SingleProcess())
        plan = choose(cuts, scores, registry, original=geometry(config, family))
        prune_checkpoint(self.folder, out, family, plan, side_files=(), extra={})

    def seconds(self, arm: str) -> float:
        """Return the CPU seconds of an arm's pruning step."""
        with tempfile.TemporaryDirectory() as name:
            start = time.process_time()
            self.step(STEPS[arm], Path(name) / "out")
            return time.process_time() - start


def main() -> None:
    """Measure, print a line per arm; exit 1 where a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="a folder with train.jsonl and held_out.jsonl")
    parser.add_argument("--samples", type=int, default=48)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--loss", action="store_true")
    parser.add_argument("--arms", nargs="+", choices=BASELINES, default=BASELINES)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        data = arguments.data or Path(name)
        if arguments.data is None:
            write_corpus(data, num_training=420, num_held_out=200, seed=0)
        peaks = {arm: peak_gb(arguments, data, arm) for arm in (OURS, *arguments.arms)}
        bench = load(arguments.model, data, arguments.samples)
        broken = compare(bench, arguments.pairs, peaks)
        if arguments.loss:
            print_losses(bench, data)
    raise SystemExit(1 if broken else 0)


def load(folder: Path, data: Path, samples: int) -> Bench:
    """Load the model and the sequences of a round."""
    keep_freed_memory()
    texts = read_texts(str(data / "train.jsonl"), number=samples)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    sequences = encode_texts(texts, tokenizer, max_length=MAX_LENGTH)
    batches = Batches(sequences, batch_tokens=BATCH_TOKENS, device=torch.device("cpu"))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    return Bench(folder=folder, model=model, batches=batches)


def compare(bench: Bench, pairs: int, peaks: dict[str, float]) -> int:
    """Print every arm beside PTL's step; return how many promises are broken."""
    bench.seconds(OURS)  # warms up
    broken, ours = 0, []
    for arm in [arm for arm in peaks if arm != OURS]:
        times = [paired(bench, arm, number) for number in range(pairs)]
        ours += [mine for mine, _ in times]
        ratios = [other / mine for mine, other in times]
        ratio = statistics.median(ratios)
        kept = arm in UNPROMISED or ratio <= PROMISE
        broken += not kept
        told = "no promise" if arm in UNPROMISED else f"promise {PROMISE}: {_word(kept)}"
        theirs = statistics.median(t for _, t in times)
        print(f"{arm:<17} {theirs:6.2f} s of CPU, {ratio:.2f} x PTL's "
              f"[{min(ratios):.2f} .. {max(ratios):.2f}], {told}; peak {peaks[arm]:.2f} GB",
              flush=True)  # fmt: skip
    print(f"{OURS:<17} {statistics.median(ours):6.2f} s of CPU; peak {peaks[OURS]:.2f} GB "
          f"({torch.get_num_threads()} threads)")  # fmt: skip
    return broken


def paired(bench: Bench, arm: str, number: int) -> tuple[float, float]:
    """Return the seconds of PTL's step and of the arm's, in alternating order."""
    order = (OURS, arm) if number % 2 else (arm, OURS)
    seconds = {each: bench.seconds(each) for each in order}
    return seconds[OURS], seconds[arm]


def _word(kept: bool) -> str:
    return "kept" if kept else "BROKEN"


def peak_gb(arguments: argparse.Namespace, data: Path, arm: str) -> float:
    """Return the peak resident memory of a process that does nothing but an arm's step."""
    words = (arguments.model, data, arguments.samples, arm)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak, *words).result()


def _peak(folder: Path, data: Path, samples: int, arm: str) -> float:
    load(folder, data, samples).seconds(arm)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def print_losses(bench: Bench, data: Path) -> None:
    """Print the loss of worked answers right after each arm's cut."""
    lines = (data / "held_out.jsonl").read_text(encoding="utf-8").splitlines()[:NUM_PROBLEMS]
    rows = [json.loads(line) for line in lines]
    asked = [
        Problem(prompt=PROMPT.format(question=r["question"]), answer=r["answer"]) for r in rows
    ]
    print(f"{'dense':<17} loss {answer_loss(bench.folder, bench.folder, asked)}")
    for arm, cuts in LOSSES.items():
        with tempfile.TemporaryDirectory() as name:
            out = Path(name) / "out"
            bench.step(cuts, out)
            print(f"{arm:<17} loss {answer_loss(out, bench.folder, asked)}", flush=True)


def answer_loss(folder: Path, original: Path, asked: list[Problem]) -> str:
    """Return nats per answer token, and the parameters that are left."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    tokenizer = AutoTokenizer.from_pretrained(original)
    found = metrics(count_chain_of_thought(model, tokenizer, asked, batch_tokens=1024))
    return f"{found['cot_loss']:.3f} ({model.num_parameters() / 1e6:.1f} M parameters)"


if __name__ == "__main__":
    main()
