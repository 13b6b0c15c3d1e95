"""The program that asks verl about a stage: what it prints, and that it prints nothing else."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from verl_ext.verl_check import CHECK, PLUGIN

if not importlib.util.find_spec("verl"):
    pytest.skip("needs verl", allow_module_level=True)

TINY = [
    "actor_rollout_ref.rollout.name=hf_cpu",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=1",
    "algorithm.adv_estimator=grpo",
    "actor_rollout_ref.model.path=/none",
]
ULYSSES = [
    "actor_rollout_ref.actor.ulysses_sequence_parallel_size=2",
    "actor_rollout_ref.model.use_remove_padding=true",
]


def ask(*overrides, **environment):
    """Return what the program prints to a question; the rest of what is said goes to stderr."""
    question = {"overrides": [*TINY, *overrides], "rollout": "hf_cpu"}
    done = subprocess.run(
        [sys.executable, "-m", CHECK],
        input=json.dumps(question),
        env={**os.environ, "VERL_USE_EXTERNAL_MODULES": PLUGIN, **environment},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.timeout(120)
def test_a_profile_is_refused_where_the_sequences_are_cut_among_gpus():
    answer = ask(*ULYSSES, "+ptl.profile_file=/texts.json")
    assert (answer["found"], answer["version"]) == (True, "0.9.1")
    (line,) = answer["problems"]
    assert line.startswith("settings.profile: an actor whose sequences are cut among 2 GPUs")


@pytest.mark.timeout(120)
def test_whatever_is_printed_meanwhile_leaves_the_answer_alone(tmp_path):
    (tmp_path / "loud.py").write_text("import os; print('one'); os.system('echo two')\n")
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    answer = ask(PYTHONPATH=path, VERL_USE_EXTERNAL_MODULES=f"loud,{PLUGIN}")
    assert answer == {"found": True, "version": "0.9.1", "problems": []}


@pytest.mark.timeout(120)
def test_the_cpus_patches_for_another_verl_are_a_line(tmp_path):
    (tmp_path / "newer.py").write_text("import verl\nverl.__version__ = '0.9.2'\n")
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    modules = {"PYTHONPATH": path, "VERL_USE_EXTERNAL_MODULES": f"newer,{PLUGIN}"}
    cpu = ask(**modules, VERL_PLATFORM="cpu")
    assert cpu["problems"] == [
        "settings: verl cannot be imported "
        "(PTL's CPU platform patches verl 0.9.1, and this is 0.9.2)"
    ]
