"""Empty weights of a checkpoint, as the ranks but one of verl load it: before and after the patch.

Each is a process of its own, as the patch stays in the process that made it.
"""

from __future__ import annotations

import importlib.util
import json

import pytest

from verl_ext.verl_check import PLUGIN

if not importlib.util.find_spec("verl"):
    pytest.skip("needs verl", allow_module_level=True)

LOADED = """
import json, sys
import accelerate
from torch.nn import Module
from transformers import AutoModelForCausalLM
from verl_ext.in_verl import accelerate_patch

facts, plain = {}, (accelerate.init_empty_weights, Module.register_parameter)
def load():
    with accelerate.init_empty_weights():
        return AutoModelForCausalLM.from_pretrained(sys.argv[1])
try:
    load()
except TypeError as error:
    facts["before"] = str(error)
facts["restored"] = Module.register_parameter is plain[1]
accelerate_patch.apply()
facts["patched"] = accelerate.init_empty_weights is not plain[0]
weights = dict(load().named_parameters())
facts["devices"] = sorted({weight.device.type for weight in weights.values()})
facts["names"] = sorted(weights)
facts["restored"] &= Module.register_parameter is plain[1]
module = Module()
with accelerate.init_empty_weights():
    module.register_parameter("none", None)
facts["none"] = module.none is None
once = accelerate.init_empty_weights
accelerate_patch.apply()
facts["once"] = accelerate.init_empty_weights is once
accelerate.init_empty_weights = sound = lambda: __import__("contextlib").nullcontext()
accelerate_patch.apply()
facts["sound_is_left"] = accelerate.init_empty_weights is sound
print(json.dumps(facts))
"""
ASKED = """
import json
import verl
import accelerate
print(json.dumps(accelerate.init_empty_weights.__module__))
"""


@pytest.fixture(scope="module")
def found(run_python, checkpoint):
    return json.loads(run_python(LOADED, str(checkpoint)).splitlines()[-1])


def test_the_patch_is_made_only_where_accelerate_fails(found):
    assert found["patched"] == ("before" in found)
    assert "_is_hf_initialized" in found.get("before", "_is_hf_initialized")
    assert found["sound_is_left"]


def test_a_checkpoint_is_then_loaded_without_memory(found, model):
    assert found["devices"] == ["meta"]
    assert found["names"] == sorted(name for name, _ in model.named_parameters())


def test_nothing_else_is_changed_and_it_is_made_once(found):
    assert found["restored"]
    assert found["none"]
    assert found["once"]


@pytest.mark.parametrize("asked", [False, True])
def test_a_process_is_patched_only_if_a_stage_of_ptl_asked_for_the_plugin(run_python, found, asked):
    environment = {"VERL_USE_EXTERNAL_MODULES": PLUGIN} if asked else {}
    module = json.loads(run_python(ASKED, **environment).splitlines()[-1])
    ours = module == "verl_ext.in_verl.accelerate_patch"
    assert ours == (asked and found["patched"])
