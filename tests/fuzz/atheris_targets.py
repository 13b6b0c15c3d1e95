"""Fuzzing guided by coverage, by atheris where it is installed: `make fuzz`, or

    python tests/fuzz/atheris_targets.py TARGET [options of libFuzzer, such as -max_total_time=60]

The targets are those of the hypothesis tests; what atheris finds is written to the folder where it
is started, and `python tests/fuzz/atheris_targets.py TARGET FILE` shows it again.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import fuzz_targets as targets
from fuzz_inputs import RUN, TRAIN, as_yaml

OURS = ("ptl_plugins", "llamafactory_ext", "verl_ext")
MODULES = (
    "llamafactory_ext.backend", "llamafactory_ext.launching", "llamafactory_ext.recipe",
    "ptl_plugins.preflight", "ptl_plugins.profile_journal", "ptl_plugins.recipe_file",
    "ptl_plugins.scores_file", "ptl_plugins.second_moments", "ptl_plugins.shards",
    "verl_ext.reward",
)  # fmt: skip
"""What is watched while it runs, with all of ours that it imports."""
TEXT = "utf-8"


def reward(data: bytes) -> None:
    """The part of the reward that reads texts; its worker is another process."""
    targets.reward_text(data.decode(TEXT, "surrogateescape"))


def words(data: bytes) -> None:
    """Words of `--set`, one a line."""
    targets.override_words(copy.deepcopy(RUN), data.decode(TEXT, "replace").split("\n"))


def llamafactory(data: bytes) -> None:
    """A yaml, and behind a NUL words for the command line."""
    text, _, after = data.decode(TEXT, "replace").partition("\0")
    targets.llamafactory_yaml(text, after.split())


TARGETS: dict[str, tuple[Callable[[bytes], None], tuple[bytes, ...]]] = {
    "recipe": (targets.recipe_file, (as_yaml(RUN).encode(), as_yaml(TRAIN).encode())),
    "words": (words, (b"schedule.0.amount=5\nseed=[1, {a: b}]\n", b"data.path=x")),
    "shard": (targets.shard_file, (targets.good_shard(),)),
    "index": (targets.shard_index, (b'{"weight_map": {"a": "a.safetensors"}}',)),
    "tensors": (targets.tensor_file, (targets.good_scores(),)),
    "reward": (reward, (rb"<think>a</think> \boxed{\dfrac{1}{2}}",)),
    "llamafactory": (
        llamafactory,
        (as_yaml(TRAIN).encode(), as_yaml(TRAIN).encode() + b"\0seed=1"),
    ),
}
"""Name -> the target and the inputs that atheris starts from."""


def main() -> int:
    """Fuzz one target; without atheris, say so."""
    if importlib.util.find_spec("atheris") is None:
        print(
            "atheris is not installed here (pip install atheris; Python 3.11 to 3.13): not fuzzed"
        )
        return 0
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in TARGETS:
        print(f"targets: {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    return fuzz(name, sys.argv[2:])


def fuzz(name: str, options: list[str]) -> int:
    """Run atheris; it ends the process when it finds something."""
    import atheris

    logging.disable()
    with atheris.instrument_imports(include=list(OURS)):
        for module in MODULES:
            importlib.import_module(module)
    target, seeds = TARGETS[name]
    corpus = Path(tempfile.mkdtemp(prefix="ptl-fuzz-corpus-"))
    try:
        for number, seed in enumerate(seeds):
            (corpus / str(number)).write_bytes(seed)
            target(seed)
        atheris.Setup([sys.argv[0], "-max_len=4096", *options, str(corpus)], target)
        atheris.Fuzz()
    finally:
        shutil.rmtree(corpus, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
