"""Slicing holds one layer and the activations, whatever the depth of the model."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ptl_plugins.testing import tiny_model

PROGRAM = """
import json
from pathlib import Path
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.slicegpt.criterion import SLICEGPT
from ptl_plugins.slicegpt.sliced_checkpoint import SliceRequest, slice_checkpoint
family = build_registry(build_manager(autoload=False)).families.get("llama")
peaks = []

def memory(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024

for name in ("shallow", "deep"):
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew: getrusage's is inherited
    slice_checkpoint(SliceRequest(
        source=Path(name), out=Path(name + "_sliced"), family=family, hidden=96,
        sequences=[list(range(4, 68))] * 4, batch_tokens=128, basis=SLICEGPT.basis, seed=0,
        provenance={}, shard_bytes=2**24,
    ))
    peaks.append(memory("VmHWM"))
print(json.dumps(peaks))
"""
SIZES = {"hidden_size": 128, "intermediate_size": 8192, "head_dim": 32}


@pytest.mark.timeout(180)
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="no /proc of Linux")
def test_a_model_eight_times_as_deep_takes_no_more_memory(tmp_path):
    bytes_ = {}
    for name, depth in (("shallow", 2), ("deep", 16)):
        tiny_model("llama", **SIZES, num_hidden_layers=depth).save_pretrained(tmp_path / name)
        bytes_[name] = (tmp_path / name / "model.safetensors").stat().st_size
    words = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    shallow, deep = json.loads(done.stdout.splitlines()[-1])
    more = bytes_["deep"] - bytes_["shallow"]
    assert more > 150 * 2**20
    assert deep - shallow < more / 3, f"{(deep - shallow) / 2**20:.0f} MiB of {more / 2**20:.0f}"
