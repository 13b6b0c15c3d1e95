"""The two patches for a CPU: that verl still needs them, and that they are made once."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
from pathlib import Path

import pytest

SPEC = importlib.util.find_spec("verl")
if SPEC is None:
    pytest.skip("needs verl", allow_module_level=True)

VERL = Path(SPEC.origin).parent
PATCHED = """
import json, os
import verl
import torch.distributed.fsdp as fsdp
from verl.plugin.platform import get_platform
from verl.utils import distributed
from verl_ext.in_verl import cpu_patches

def state():
    return [id(distributed.initialize_global_process_group_ray), id(fsdp.CPUOffloadPolicy)]

before = state()
cpu_patches.apply()
facts = {"once": state() == before, "platform": get_platform().device_name}
facts["pinned"] = fsdp.CPUOffloadPolicy(pin_memory=True).pin_memory
facts["is_policy"] = isinstance(fsdp.CPUOffloadPolicy(), fsdp.OffloadPolicy)
from verl.workers.engine.fsdp import transformer_impl
facts["verls_pinned"] = transformer_impl.CPUOffloadPolicy(pin_memory=True).pin_memory
os.environ.update(RANK="0", WORLD_SIZE="1", DIST_INIT_METHOD="file://" + os.path.abspath("store"))
distributed.initialize_global_process_group_ray(timeout_second=20)
import torch
total = torch.ones(2)
torch.distributed.all_reduce(total)
facts["total"] = total.tolist()
torch.distributed.destroy_process_group()
verl.__version__ = "0.9.2"
try:
    cpu_patches.apply()
except RuntimeError as error:
    facts["refused"] = str(error)
print(json.dumps(facts), flush=True)
os._exit(0)  # at the interpreter's own end gloo's threads may abort it: not what is tested
"""


@pytest.fixture(scope="module")
def patched(run_python):
    """What a process of verl's with VERL_PLATFORM=cpu finds."""
    return json.loads(run_python(PATCHED, VERL_PLATFORM="cpu").splitlines()[-1])


def function(path, name):
    source = (VERL / path).read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return ast.get_source_segment(source, node)
    raise AssertionError(f"{path} has no function {name}: the patches are for another verl")


def test_verl_still_names_gloo_beside_the_devices_own_backend():
    source = function("utils/distributed.py", "initialize_global_process_group_ray")
    assert 'backend = backend or f"cpu:gloo,{' in source, "the patch may be needless now"


def test_verl_still_pins_the_references_memory():
    source = (VERL / "workers/engine/fsdp/transformer_impl.py").read_text(encoding="utf-8")
    assert "offload_policy = CPUOffloadPolicy(pin_memory=True)" in source


def test_the_patches_are_for_the_verl_that_is_installed():
    source = Path(importlib.util.find_spec("verl_ext.in_verl").origin).with_name("cpu_patches.py")
    assert f'UPSTREAM = "{importlib.metadata.version("verl")}"' in source.read_text()


def test_a_process_for_the_cpu_is_patched_once(patched):
    assert patched["once"]
    assert patched["platform"] == "cpu"


def test_nothing_is_pinned_whatever_verl_asks(patched):
    assert patched["pinned"] is patched["verls_pinned"] is False
    assert patched["is_policy"]


def test_the_process_group_works(patched):
    assert patched["total"] == [1.0, 1.0]


def test_another_version_is_refused_in_one_line(patched):
    assert patched["refused"] == "PTL's CPU platform patches verl 0.9.1, and this is 0.9.2"
