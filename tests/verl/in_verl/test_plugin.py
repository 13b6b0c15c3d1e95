"""How verl loads PTL's plugin: by the entry point, from a stage's copy, and both at once."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from verl_ext.verl_check import inside_environment, inside_files

if not importlib.util.find_spec("verl"):
    pytest.skip("needs verl", allow_module_level=True)

LOADED = """
import json, sys
import verl
print(json.dumps(sorted(sys.modules)))
"""
RESOLVED = """
import json, sys
import verl
finders = [each for each in sys.meta_path if type(each).__module__.startswith("verl_ext")]
facts = {"modules": sorted(sys.modules), "finders": len(finders)}
facts["patched"] = "verl_ext.in_verl.cpu_patches" in sys.modules
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.workers.rollout.base import get_rollout_class
from verl.workers.rollout.replica import RolloutReplicaRegistry
from verl.plugin.platform import get_platform
found = {
    "trainer": get_trainer_cls("ptl_sync"),
    "adapter": get_rollout_class("hf_cpu"),
    "replica": RolloutReplicaRegistry.get("hf_cpu"),
}
facts["names"] = {name: each.__name__ for name, each in found.items()}
facts["files"] = {sys.modules[each.__module__].__file__ for each in found.values()}
facts["files"] |= {each.__file__ for name, each in sys.modules.items()
                   if name.startswith("verl_ext")}
facts["files"] = sorted(facts["files"])
facts["platform"] = get_platform().device_name
print(json.dumps(facts))
"""
NAMES = {"trainer": "PTLTrainer", "adapter": "HfAdapter", "replica": "HfReplica"}


def last_line(text):
    return json.loads(text.splitlines()[-1])


@pytest.fixture(scope="module")
def by_entry_point(run_python):
    return last_line(run_python(RESOLVED))


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The code that a stage brings."""
    folder = tmp_path_factory.mktemp("stage") / "code"
    for path, text in inside_files(folder).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def by_both(run_python, copy):
    """A stage's copy, beside the installed entry point."""
    return last_line(run_python(RESOLVED, **inside_environment(copy, rollout="hf_cpu")))


@pytest.mark.parametrize("way", ["by_entry_point", "by_both"])
def test_verl_finds_trainer_and_rollout(way, request):
    assert request.getfixturevalue(way)["names"] == NAMES


def test_the_installed_plugin_makes_verl_import_nothing_else(run_python, by_entry_point):
    without = last_line(run_python(LOADED, VERL_USE_EXTERNAL_PLUGINS="none"))
    assert not any(name.startswith("verl_ext") for name in without)
    added = set(by_entry_point["modules"]) - set(without) - {"__mp_main__"}
    assert "verl_ext.in_verl.plugin" in added
    assert {name for name in added if not name.startswith("verl_ext")} == set()


def test_the_installed_plugin_leaves_a_gpus_verl_as_it_is(by_entry_point):
    assert not by_entry_point["patched"]
    assert by_entry_point["platform"] != "cpu"


def test_a_stages_copy_is_what_is_imported(by_both, copy):
    assert len(by_both["files"]) >= 5
    assert [path for path in by_both["files"] if not Path(path).is_relative_to(copy)] == []


def test_both_ways_at_once_load_it_once(by_entry_point, by_both):
    assert by_entry_point["finders"] == 3
    assert by_both["finders"] == 4  # accelerate is mended where a stage asks, and nowhere else


def test_a_stage_on_the_cpu_is_patched(by_both):
    assert by_both["patched"]
    assert by_both["platform"] == "cpu"


def test_a_stages_copy_stands_alone(copy):
    texts = [path.read_text(encoding="utf-8") for path in copy.rglob("*.py")]
    assert len(texts) >= 10
    assert not any("ptl_plugins" in text for text in texts)
