"""Loss of worked answers after a cut without any training: by rule, with and without refit.

Needs a model folder and GSM8K as jsonl (`question`, `answer`), neither of which is shipped:

    python benchmarks/pruned_loss.py --model SMOLLM2 --train train.jsonl --test test.jsonl

The first 64 training problems are profiled; the loss is the mean over the answer tokens of the
first 40 test problems, calculator annotations taken out, no end token. The dense model is the
baseline. Promises, for SmolLM2-135M and the product's default (`output_change`, refit): at most
1.39 with 20 % of the neurons gone, at most 1.50 with 40 % (dense 1.33). With `--errors` the error
of every layer's FFN output on problems 64 to 96 is held against the plain cut as well.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from ptl_plugins.calibration import Batches, pad
from ptl_plugins.criteria import forward_statistics, needed_statistics
from ptl_plugins.families import Family, find_family
from ptl_plugins.geometry import geometry
from ptl_plugins.live import decoder_layers, ffn_output
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.profiling import profile
from ptl_plugins.ranks import SingleProcess
from ptl_plugins.refit import refit_live
from ptl_plugins.second_moments import MomentFolder
from ptl_plugins.selection import choose
from ptl_plugins.surgery import prune_live
from ptl_plugins.types import Cut, PrunePlan

PROMISES = {0.2: 1.39, 0.4: 1.50}
DEFAULT = "output_change"
ALL = "activation_max,activation_mean,activation_rms,output_change,output_change_mean,released"
CPU = torch.device("cpu")


def main() -> None:
    """Measure every rule, print a table; exit 1 where a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--criteria", default=DEFAULT, help=f"all: {ALL}")
    parser.add_argument("--errors", action="store_true")
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype="auto").eval()
    train = [encode(tokenizer, row) for row in problems(arguments.train, 96)]
    test = [encode(tokenizer, row) for row in problems(arguments.test, 40)]
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(model, [ids for ids, _ in train[:64]], MomentFolder(path=Path(name)))
        broken = bench.measure(arguments.criteria.replace("all", ALL).split(","), test)
        if arguments.errors:
            held_out = [ids for ids, _ in train[64:]]
            broken += sum(bench.worse_layers(fraction, held_out) for fraction in PROMISES)
    raise SystemExit(1 if broken else 0)


def problems(path: Path, number: int) -> list[tuple[str, str]]:
    """Return prompts and answers, calculator annotations taken out."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:number]]
    return [
        (f"Question: {row['question']}\nAnswer: ", re.sub(r"<<.*?>>", "", row["answer"]))
        for row in rows
    ]


def encode(tokenizer: Any, problem: tuple[str, str]) -> tuple[list[int], int]:
    """Return the token ids and the number of those of the prompt."""
    prompt, answer = problem
    return tokenizer(prompt + answer)["input_ids"], len(tokenizer(prompt)["input_ids"])


@torch.inference_mode()
def answer_loss(model: PreTrainedModel, test: list[tuple[list[int], int]]) -> float:
    """Return nats per answer token."""
    total, number = 0.0, 0
    for ids, first in test:
        logits = model(torch.tensor([ids])).logits[0, first - 1 : -1].float()
        targets = torch.tensor(ids[first:])
        total += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
        number += len(targets)
    return total / number


class Bench:
    """One profile of a model, and the cuts made from it."""

    def __init__(
        self, model: PreTrainedModel, sequences: list[list[int]], moments: MomentFolder
    ) -> None:
        self.registry = build_registry(build_manager(autoload=False))
        config = model.config.to_dict()
        self.family: Family = find_family(self.registry, config)
        self.geometry = geometry(config, self.family)
        self.model, self.moments = model, moments
        batches = Batches(sequences, batch_tokens=2048, device=CPU)
        statistics = forward_statistics(
            needed_statistics([c for _, c in self.registry.criteria.items()])
        )
        self.scores = profile(
            model, self.family, batches, statistics, SingleProcess(), moments=moments
        )

    def measure(self, criteria: list[str], test: list[tuple[list[int], int]]) -> int:
        """Print the losses; return how many promises are broken."""
        dense, broken = answer_loss(self.model, test), 0
        print(f"{'criterion':<20} {'cut':>4} {'plain':>7} {'refit':>7}   dense {dense:.3f}")
        for name in criteria:
            for fraction, bar in PROMISES.items():
                plan = self.plan(name, fraction)
                plain, refit = (answer_loss(self.cut(plan, r), test) for r in (False, True))
                line = f"{name:<20} {fraction:>4.0%} {plain:7.3f} {refit:7.3f}"
                if name == DEFAULT:
                    broken += refit > bar
                    line += f"   promise {bar}: {'kept' if refit <= bar else 'BROKEN'}"
                print(f"{line}, {refit / dense:.3f} x dense", flush=True)
        return broken

    def plan(self, criterion: str, fraction: float) -> PrunePlan:
        """Return what goes."""
        cut = Cut(unit="neuron", criterion=criterion, selector="fraction", amount=fraction)
        return choose([cut], self.scores, self.registry, original=self.geometry)

    def cut(self, plan: PrunePlan, refit: bool) -> PreTrainedModel:
        """Return a pruned copy."""
        model = copy.deepcopy(self.model)
        if refit:
            refit_live(model, self.family, plan, self.moments, SingleProcess())
        prune_live(model, self.family, plan)
        return model

    def worse_layers(self, fraction: float, held_out: list[list[int]]) -> int:
        """Print the error of the FFN outputs on other data; return layers worse than plain."""
        plan = self.plan(DEFAULT, fraction)
        refitted = copy.deepcopy(self.model)
        refit_live(refitted, self.family, plan, self.moments, SingleProcess())
        plain, refit = output_errors(self.model, refitted, self.family, plan, held_out)
        ratios = [r / p for r, p in zip(refit, plain, strict=True)]
        worse = sum(ratio >= 1 for ratio in ratios)
        print(f"{fraction:.0%}: error of the FFN outputs, refit / plain cut, on held-out data: "
              f"{min(ratios):.3f} to {max(ratios):.3f} over {len(ratios)} layers, "
              f"{worse} not below 1")  # fmt: skip
        return worse


@torch.inference_mode()
def output_errors(
    model: PreTrainedModel,
    refitted: PreTrainedModel,
    family: Family,
    plan: PrunePlan,
    sequences: list[list[int]],
) -> tuple[list[float], list[float]]:
    """Return per layer the squared error of the FFN output: plain cut, and refitted columns.

    The inputs are the dense model's own; `refitted` has its new columns, not yet cut.
    """
    plain, refit, handles = [0.0] * plan.num_layers, [0.0] * plan.num_layers, []
    pairs = zip(decoder_layers(model, family), decoder_layers(refitted, family), strict=True)
    for index, (layer, other) in enumerate(pairs):
        old, new = ffn_output(layer, family), ffn_output(other, family).weight.float()
        weight, gone = old.weight.float(), list(plan.removed_neurons[index])

        def see(
            module: torch.nn.Module,
            inputs: tuple[torch.Tensor, ...],
            i: int = index,
            old: torch.Tensor = weight,
            new: torch.Tensor = new,
            gone: list[int] = gone,
        ) -> None:
            act = inputs[0].reshape(-1, plan.width).float()
            cut = act.clone()
            cut[:, gone] = 0
            plain[i] += float((cut @ old.T - act @ old.T).square().sum())
            refit[i] += float((cut @ new.T - act @ old.T).square().sum())

        handles.append(old.register_forward_pre_hook(see))
    for ids in sequences:
        model(pad([ids], device=CPU).input_ids)
    for handle in handles:
        handle.remove()
    return plain, refit


if __name__ == "__main__":
    main()
