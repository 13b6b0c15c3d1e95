"""What the targets are given: valid inputs, and the ways in which they are spoilt.

`make test` draws a few examples, the same ones each time. PTL_FUZZ_EXAMPLES=N draws N of each
test, other ones each time.
"""

from __future__ import annotations

import copy
import json
import os
from typing import Any

import yaml
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = "PTL_FUZZ_EXAMPLES"

RUN = {
    "model": "model",
    "data": {"path": "data.jsonl", "template": "Question: {question}"},
    "schedule": [
        {"unit": "neuron", "amount": "1e-1", "selector": "fraction", "rounds": 2},
        {"unit": "layer", "amount": 1, "criterion": "block_influence"},
    ],
    "order": "listed",
    "seed": 7,
    "calibration": {"num_sequences": 4, "max_length": 32},
    "protect": {"data": "owner/name", "top": 2},
    "recover": [
        {"backend": "llamafactory", "launch": {"processes": 2, "timeout": 9.5, "options": {}},
         "rounds": [1, 2], "settings": {"learning_rate": 1e-5, "bf16": True}},
        {"backend": "verl", "settings": {"problems": {"path": "p.jsonl"}, "config": {"a.b": 1}}},
    ],
    "evaluate": {"tasks": [{"evaluator": "speed"}], "every": 2},
    "distill": {"teacher": "original", "weight": 0.5},
    "keep": {"rounds": "last"},
}  # fmt: skip
"""A recipe of `ptl run` with a key of every kind."""
TRAIN = {
    "model_name_or_path": "model", "stage": "pt", "do_train": True, "finetuning_type": "full",
    "dataset": "tiny", "dataset_dir": "data", "output_dir": "out", "learning_rate": 1e-3,
    "num_train_epochs": 1.0, "seed": 3, "deepspeed": {"zero_optimization": {"stage": 2}},
    "ptl": {"schedule": RUN["schedule"], "calibration": {"num_sequences": 4}},
}  # fmt: skip
"""A yaml of LLaMA-Factory with a `ptl:` section."""

TOKENS = (
    "a", "schedule:", "- ", ": ", "\n", "  ", "{", "}", "[", "]", "&a ", "*a", "<<: ",
    "!!python/object:os.system ",
    "!!binary ", "? ", "| ", "> ", "'", '"', "# ", "---\n", "...\n", "%YAML 1.1\n", "\t", "\ufeff",
    "2001-12-14t21:59:43.10-05:00", "0x", "1_000", "1e999", ".nan", "12:30:45", "~", "yes", "\\x1b",
    "\x85", "\u2028", "ptl:", "model: ", "recover: ", "amount: ", "rounds: ", "9999999999",
)  # fmt: skip
ANSWERS = (
    r"\boxed{", "{", "}", "\\", "$", r"\frac", r"\dfrac{1}{", "9**9**9", "^", "9^{9^{9^{9}}}", "!",
    "<think>", "</think>", "1", "0.5", "/", "1e999999999", r"\text{", r"\left(", r"\right)", "x=",
    r"\sqrt[", r"\int_0^", r"\begin{pmatrix}", "&", r"\\", ",", "%", "\n", "\u0665",
    "\u221e", "\U0001d7d9",
    "\ud800", "east", "10000000!", r"\binom{99999}{9999}", "(2^(2^(2^(2^99))))", "\x00", "\u202e",
)  # fmt: skip

SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.dates()
    | st.text(max_size=12)
    | st.sampled_from(("", "1e-5", "5B", "yes", "original", "a\nb", "\x1b[2J", "~nobody/x"))
    | st.sampled_from(("1" * 5000, "a" * 5000)) | st.binary(max_size=4)
)  # fmt: skip
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3),
    max_leaves=6,
)
JSON_TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=5,
)  # fmt: skip
WORDS = st.lists(
    st.text("ab.=01[]{}-:, ptl\"'${}", max_size=20)
    | st.sampled_from(("schedule.0.amount=5", "seed=1", "a.b=[1", "=", "data.x=*a", "0=1")),
    max_size=3,
)  # fmt: skip


def bounded(examples: int) -> Any:
    """Return the settings of a test: `examples` fixed ones, or as many as the environment says."""
    asked = os.environ.get(EXAMPLES)
    return settings(
        max_examples=int(asked or examples),
        derandomize=asked is None,
        database=None,
        deadline=None,  # what is timed is timed by the target
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def spoilt(draw: Any, tree: Any, values: st.SearchStrategy[Any] = TREES) -> Any:
    """A copy of `tree` in which one to three places hold something else, or are gone."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        place = tree
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            inner = place[key]
            if isinstance(inner, dict | list) and inner and draw(st.integers(0, 3)):
                place = inner
                continue
            _spoil(draw, place, key, values)
            break
    return tree


def _spoil(draw: Any, place: Any, key: Any, values: st.SearchStrategy[Any]) -> None:
    deed = draw(st.sampled_from(("replace", "replace", "remove", "add")))
    if deed == "replace":
        place[key] = draw(values)
    elif deed == "remove":
        del place[key]
    elif isinstance(place, dict):
        place[draw(st.text(max_size=6) | st.sampled_from((f"{key}s", "a\nb")))] = draw(values)
    else:
        place.append(draw(values))


def as_yaml(tree: Any) -> str:
    """Return a tree as YAML, whatever plain values it has."""
    return str(yaml.safe_dump(tree, allow_unicode=True, sort_keys=False))


@st.composite
def spoilt_tensors(draw: Any, file: bytes) -> bytes:
    """A copy of a safetensors file with another header, length or bytes, or cut short."""
    deed = draw(st.sampled_from(("header", "header", "header", "length", "bytes", "cut")))
    size = int.from_bytes(file[:8], "little")
    if deed == "header":
        header = draw(spoilt(json.loads(file[8 : 8 + size]), JSON_TREES))
        text = json.dumps(header, ensure_ascii=draw(st.booleans())).encode(errors="surrogatepass")
        text += b" " * draw(st.integers(0, 9))
        return len(text).to_bytes(8, "little") + text + file[8 + size :]
    if deed == "length":
        length = draw(st.integers(0, 2**64 - 1) | st.integers(size - 2, len(file)))
        return length.to_bytes(8, "little") + file[8:]
    if deed == "cut":
        return file[: draw(st.integers(0, len(file)))]
    changed = bytearray(file)
    for _ in range(draw(st.integers(1, 4))):
        changed[draw(st.integers(0, len(file) - 1))] = draw(st.integers(0, 255))
    return bytes(changed)


def pieced(tokens: tuple[str, ...], number: int) -> st.SearchStrategy[str]:
    """Text of the tokens of a language, and a little else."""
    return st.lists(st.sampled_from(tokens) | st.text(max_size=3), max_size=number).map("".join)
