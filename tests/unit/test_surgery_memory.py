"""Surgery on a folder never holds a tensor and never imports torch; seen from a new process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HIDDEN, WIDTH, VOCABULARY = 1024, 32 * 1024, 32 * 1024
LARGEST = HIDDEN * WIDTH * 2
"""64 MiB, a multiple of the memory that the surgery may take."""
ALLOWED_GROWTH = 16 * 2**20
"""Two buffers of 1 MiB, headers, indices: far from half a tensor."""

PROGRAM = """
import json, sys, threading
from pathlib import Path
from ptl_plugins.checkpoint_surgery import prune_checkpoint
from ptl_plugins.families.llama import LLAMA
from ptl_plugins.types import PrunePlan

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])

source, out, width, neurons, layers = json.loads(sys.argv[1])
plan = PrunePlan(
    num_layers=2, width=width, removed_neurons=(tuple(neurons),) * 2 if neurons else (),
    removed_layers=tuple(layers), criteria={}, scores_digest="",
)
start, samples, done = anonymous(), [], threading.Event()

def sample():
    while not done.wait(0.002):
        samples.append(anonymous())

thread = threading.Thread(target=sample)
thread.start()
prune_checkpoint(Path(source), Path(out), LLAMA, plan, side_files=(), extra={})
samples.append(anonymous())
done.set()
thread.join()
heavy = sorted({"torch", "transformers"} & set(sys.modules))
print(json.dumps({"start": start, "peak": max(samples), "samples": len(samples), "heavy": heavy}))
"""

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="needs Linux's /proc"
)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A model whose bytes are holes: nothing is written, and reading it gives zeros."""
    folder = tmp_path_factory.mktemp("sparse")
    config = {"intermediate_size": WIDTH, "num_hidden_layers": 2}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shapes = {"model.embed_tokens.weight": [VOCABULARY, HIDDEN]}
    for layer in range(2):
        stem = f"model.layers.{layer}.mlp."
        shapes[stem + "gate_proj.weight"] = shapes[stem + "up_proj.weight"] = [WIDTH, HIDDEN]
        shapes[stem + "down_proj.weight"] = [HIDDEN, WIDTH]
    header = {
        name: {"dtype": "BF16", "shape": shape, "data_offsets": [i * LARGEST, (i + 1) * LARGEST]}
        for i, (name, shape) in enumerate(shapes.items())
    }
    raw = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + len(shapes) * LARGEST)
    return folder


@pytest.mark.parametrize(
    ("neurons", "layers"),
    [(range(0, WIDTH, 10), (0,)), ((), (0,))],
    ids=["neurons", "only layers"],
)
def test_memory_is_two_buffers_whatever_the_tensors(source, tmp_path, neurons, layers):
    facts = [str(source), str(tmp_path / "out"), WIDTH, list(neurons), list(layers)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(facts)], capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    seen = json.loads(done.stdout)
    assert seen["samples"] > 10
    assert seen["peak"] - seen["start"] < ALLOWED_GROWTH
    assert seen["peak"] < 150 * 2**20
    assert seen["heavy"] == []
    written = (tmp_path / "out" / "model.safetensors").stat().st_size
    assert written >= LARGEST + 3 * (LARGEST - len(list(neurons)) * HIDDEN * 2)


def test_the_import_alone_needs_no_torch():
    modules = "checkpoint_surgery, checkpoint_config, model_digest, plan_check, shards"
    code = f"import sys; from ptl_plugins import {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
