"""The real EasyR1 on the CPU: the backend's own job, its program, and its merge.

`PTL_EASYR1_HOME` is a clone, `PTL_EASYR1_PYTHON` an interpreter with EasyR1's dependencies. vLLM
and the GPUs are stand-ins (`stand_ins`): what is shown is that the yaml, the data, the reward and
the launcher fit EasyR1, and that its shards become the model; not that vLLM serves it.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from ptl_plugins.recovered import take_recovered
from ptl_plugins.stage_types import LaunchSpec, StageSpec
from ptl_plugins.testing import write_tiny_checkpoint
from ptl_plugins.types import RoundSpec
from verl_ext.easyr1_backend import EasyR1
from verl_ext.easyr1_check import easyr1_environment
from verl_ext.easyr1_home import easyr1_version
from verl_ext.easyr1_schema import key_types

HOME = os.environ.get("PTL_EASYR1_HOME")
PYTHON = os.environ.get("PTL_EASYR1_PYTHON")
STAND_INS = Path(__file__).with_name("stand_ins")
NUM_PROBLEMS = 9
"""Two steps of four: `steps` asks for three, and EasyR1 alone would do them."""
GRPO = {
    "samples_per_prompt": 4,
    "prompts_per_step": 4,
    "mini_batch": 4,
    "learning_rate": 1.0e-3,
    "max_prompt_length": 96,
    "max_response_length": 16,
    "steps": 3,
}
ON_CPU = {
    "data": {"filter_overlong_prompts_workers": 1},
    "worker.actor": {
        "micro_batch_size_per_device_for_experience": 4,
        "padding_free": False,
        "dynamic_batching": False,
        "use_torch_compile": False,
        "fsdp": {"enable_rank0_init": False, "mp_param_dtype": "fp32"},
    },
    "worker.ref.fsdp": {"enable_rank0_init": False, "torch_dtype": "fp32"},
    "worker.rollout.disable_tqdm": True,
}

OWN_REWARD = """
REWARD_TYPE = "batch"

def variety(reward_inputs, least):
    shares = [len(set(x["response"])) / (1 + len(x["response"])) for x in reward_inputs]
    return [{"overall": least + share / 2} for share in shares]
"""
KEYS_OF_CLONE = """
import dataclasses, json
from verl.trainer.config import PPOConfig

def keys(group, above=""):
    for field in dataclasses.fields(group):
        value, kind = getattr(group, field.name), field.type
        if dataclasses.is_dataclass(value):
            yield from keys(value, f"{above}{field.name}.")
        else:
            plain = kind.__name__ if isinstance(kind, type) and "[" not in str(kind) else str(kind)
            yield above + field.name, plain if field.init else "computed"

print(json.dumps(dict(keys(PPOConfig()))))
"""

pytestmark = [
    pytest.mark.easyr1,
    pytest.mark.timeout(400),
    pytest.mark.skipif(
        not (HOME and PYTHON), reason="PTL_EASYR1_HOME and PTL_EASYR1_PYTHON name no EasyR1"
    ),
]


@pytest.fixture
def on_cpu(monkeypatch):
    """An environment in which EasyR1 needs no GPU."""

    def set_up(num_ranks):
        monkeypatch.setenv("PYTHONPATH", str(STAND_INS))
        monkeypatch.setenv("STAND_IN_GPUS", str(num_ranks))
        monkeypatch.setenv("RAY_DEDUP_LOGS", "0")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # Ray counts its entries

    return set_up


def write_model(folder):
    """Write a checkpoint whose tokenizer transformers 4, which EasyR1 has, knows as well."""
    write_tiny_checkpoint(folder, "qwen2")
    path = folder / "tokenizer_config.json"
    keys = json.loads(path.read_text(encoding="utf-8"))
    keys["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(keys), encoding="utf-8")
    return folder


def write_settings(folder, **keys):
    """Write what the settings name; return them."""
    problems = [{"question": f"What is {i} + 1?", "answer": i + 1} for i in range(NUM_PROBLEMS)]
    text = "".join(json.dumps(row) + "\n" for row in problems)
    (folder / "problems.jsonl").write_text(text, encoding="utf-8")
    (folder / "prompt.jinja").write_text("{{ content }}", encoding="utf-8")
    return {
        "home": HOME,
        "grpo": GRPO,
        "problems": {"path": str(folder / "problems.jsonl"), "question": "question"},
        "prompt": str(folder / "prompt.jinja"),
        "chat_template": "plain_chat",
        "config": ON_CPU,
        **keys,
    }


def run(job):
    """Do what `ptl run` does with a job: its files, its program."""
    for path, text in job.files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    with job.command.log.open("w", encoding="utf-8") as log:
        return subprocess.run(
            job.command.words,
            cwd=job.command.folder,
            env={**os.environ, **job.command.environment},
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_stage_trains_and_its_shards_become_the_model(num_ranks, on_cpu, tmp_path):
    """One rank with PTL's reward, in which a random model earns nothing; two with another."""
    on_cpu(num_ranks)
    model, backend = write_model(tmp_path / "pruned"), EasyR1()
    (tmp_path / "own.py").write_text(OWN_REWARD, encoding="utf-8")
    own = {
        "reward": {"file": str(tmp_path / "own.py"), "function": "variety"},
        "config": {**ON_CPU, "worker.reward.reward_function_kwargs": {"least": 0.5}},
    }
    stage = StageSpec(
        backend="easyr1",
        settings=write_settings(tmp_path, **(own if num_ranks == 2 else {})),
        python=PYTHON,
        launch=LaunchSpec(processes=num_ranks),
    )
    assert backend.check(stage) is None
    assert backend.check_thoroughly(stage) is None
    recipe = SimpleNamespace(seed=7, planned_rounds=(None,), tokens="equal")
    spec = RoundSpec(index=1, cuts=())
    ctx = SimpleNamespace(spec=spec, recipe=recipe, original=None, registry=None)
    job = backend.job(ctx, stage, model, tmp_path / "stage")

    assert run(job) == 0, job.command.log.read_text(encoding="utf-8")[-3000:]
    steps = [json.loads(line) for line in job.steps.read_text(encoding="utf-8").splitlines()]
    assert [step["step"] for step in steps] == [1, 2]
    for step in steps:
        assert {key for key, value in step.items() if value is None} == {"rollout_correlation"}
        assert step["reward_min"] == 0.0 if num_ranks == 1 else step["reward_min"] > 0.5
        assert step["reward_min"] <= step["reward"] <= step["reward_max"]
    actor = job.result / "global_step_2" / "actor"
    assert len(list(actor.glob("model_*.pt"))) == num_ranks

    trained = backend.collect(job)
    assert backend.collect(job) == trained, "a second try finds the merged model"
    assert not list(actor.glob("model_*.pt"))
    take_recovered(trained, model, tmp_path / "model")
    before, after = (load_file(path / "model.safetensors") for path in (model, tmp_path / "model"))
    assert before.keys() == after.keys()
    assert all(tensor.dtype == torch.bfloat16 for tensor in after.values())
    assert not all(torch.equal(before[name], after[name]) for name in before)


def test_easyr1s_own_config_names_the_keys_that_it_refuses(on_cpu, tmp_path):
    on_cpu(1)
    config = {"data.image_dir": "/no/such/folder", "trainer.logger": ["console", "file"]}
    settings = write_settings(tmp_path, config=config)
    stage = StageSpec(backend="easyr1", settings=settings, python=PYTHON)
    found = EasyR1().check_thoroughly(stage)
    assert found == (
        "settings.config.data.image_dir: EasyR1 finds no '/no/such/folder' and would go on without"
    )


def test_the_snapshot_holds_every_key_of_the_clone_and_its_type(on_cpu):
    on_cpu(1)
    environment = {**os.environ, **easyr1_environment(Path(HOME))}
    done = subprocess.run(
        [PYTHON, "-c", KEYS_OF_CLONE], env=environment, capture_output=True, text=True, check=True
    )
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert theirs == dict(key_types(easyr1_version(Path(HOME))))
