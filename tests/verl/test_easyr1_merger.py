"""EasyR1's own merger, where a clone of it exists, writes the same tensors, bit for bit.

`PTL_EASYR1_HOME` is the clone, `PTL_EASYR1_PYTHON` an interpreter with torch and transformers that
its merger runs with; the ranks run there too.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from verl_ext.fsdp_shards import merge_shards

PROGRAM = Path(__file__).parent / "fsdp_ranks.py"
HOME = os.environ.get("PTL_EASYR1_HOME")
PYTHON = os.environ.get("PTL_EASYR1_PYTHON", sys.executable)
NAMES = ("fsdp2_of_2", "fsdp2_of_4", "fsdp1_of_1", "fsdp1_of_2x2")

pytestmark = [
    pytest.mark.easyr1,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not HOME, reason="PTL_EASYR1_HOME names no clone of EasyR1"),
]


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Actor folders of real ranks, as EasyR1's torch saves them."""
    folder = tmp_path_factory.mktemp("ranks")
    subprocess.run([PYTHON, PROGRAM, folder, *NAMES], check=True, capture_output=True)
    return folder


def merged_by_easyr1(actor):
    """EasyR1 writes its merged model beside the config, in the actor's folder."""
    script = Path(HOME) / "scripts" / "model_merger.py"
    done = subprocess.run(
        [PYTHON, script, "--local_dir", actor], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return load_file(actor / "huggingface" / "model.safetensors")


@pytest.mark.parametrize("name", NAMES)
def test_easyr1s_merger_writes_the_same_bits(name, real, tmp_path):
    theirs = merged_by_easyr1(Path(shutil.copytree(real / name, tmp_path / "theirs")))
    ours = load_file(merge_shards(real / name, tmp_path / "ours") / "model.safetensors")
    same = [
        tensor
        for tensor in theirs
        if theirs[tensor].dtype == ours[tensor].dtype
        and torch.equal(theirs[tensor].view(torch.int16), ours[tensor].view(torch.int16))
    ]
    assert len(same) == len(theirs)
    # lm_head is tied to the embeddings; whether it is written twice depends on transformers
    assert ours.keys() - theirs.keys() <= {"lm_head.weight"}
    assert len(ours) == 36
