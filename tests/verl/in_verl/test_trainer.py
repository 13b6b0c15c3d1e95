"""The trainer `ptl_sync`: what it adds to verl's, and what of verl's it relies on."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

if not importlib.util.find_spec("verl"):
    pytest.skip("needs verl", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of engines that are not installed
    from verl_ext.in_verl import trainer as ours

from omegaconf import OmegaConf, open_dict
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from ptl_plugins.testing import tiny_tokenizer

TRAINERS = Path(inspect.getfile(PPOTrainer)).parent
CONFIG = {
    "trainer": {"v1": {"trainer_mode": "ptl_sync"}, "device": "cuda"},
    "data": {"max_prompt_length": 3, "max_response_length": 4},
    "actor_rollout_ref": {
        "actor": {"strategy": "fsdp2", "fsdp_config": {"ulysses_sequence_parallel_size": 1}}
    },
}


@pytest.fixture
def log(monkeypatch):
    """Replace what verl's own trainer does; return in what order it and we did something."""
    done = []

    def init(self, config):
        done.append(f"init {config.trainer.v1.trainer_mode}")
        self.config, self.tokenizer, self.global_steps = config, tiny_tokenizer(), 5
        self.actor_rollout_wg = Workers(done)
        self.replay_buffer = SimpleNamespace(poll_interval=2.0)
        sleep = SimpleNamespace(sleep_replicas=lambda: done.append("rollout sleeps"))
        self.checkpoint_manager = sleep

    def pools(self):
        self.role_worker_mapping = dict.fromkeys(self.roles, "verl's")

    def metrics(self, batch, metrics, timing_raw, global_steps, epoch):
        metrics["critic/rewards/mean"] = 0.5

    monkeypatch.setattr(PPOTrainerSync, "__init__", init)
    monkeypatch.setattr(PPOTrainerSync, "on_init_end", lambda self: done.append("init end"))
    monkeypatch.setattr(PPOTrainerSync, "fit", lambda self, manager: done.append(f"fit {manager}"))
    monkeypatch.setattr(PPOTrainerSync, "_init_resource_pool_mgr", pools)
    monkeypatch.setattr(PPOTrainerSync, "_compute_metrics", metrics)
    monkeypatch.setattr(ours.ray, "remote", lambda cls: cls)
    return done


class Workers:
    """Stands for the actor's worker group."""

    def __init__(self, done):
        self.done = done

    def ptl_profile(self, sequences, path):
        self.done.append(("profile", [len(ids) for ids in sequences], path))


def make(*, device="cuda", **keys):
    config = OmegaConf.create({**CONFIG, **({"ptl": keys} if keys else {})})
    config.trainer.device = device
    OmegaConf.set_struct(config, True)  # as Hydra's
    return ours.PTLTrainer(config)


def test_verl_finds_the_trainer_by_its_name():
    from verl.trainer.ppo.v1 import get_trainer_cls

    assert get_trainer_cls("ptl_sync") is ours.PTLTrainer
    assert issubclass(ours.PTLTrainer, PPOTrainerSync)


def test_verls_base_class_sees_its_own_mode(log):
    make()
    assert log == ["init sync"]


@pytest.mark.parametrize(("device", "seconds"), [("cuda", 2.0), ("cpu", ours.CPU_POLL_SECONDS)])
def test_only_a_cpus_answers_are_looked_for_more_often(log, device, seconds):
    assert make(device=device).replay_buffer.poll_interval == seconds
    source = (TRAINERS / "replay_buffer.py").read_text(encoding="utf-8")
    assert re.search(r"sleep\(self\.poll_interval\)", source)


def test_verl_still_tells_its_modes_by_name():
    source = (TRAINERS / "trainer_base.py").read_text(encoding="utf-8")
    assert set(re.findall(r"trainer_mode [!=]= (\S+)\b", source)) == {'"sync'}
    assert "self.trainer_mode = self.config.trainer.v1.trainer_mode" in source


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("__init__", ["self", "config"]),
        ("_init_resource_pool_mgr", ["self"]),
        ("on_init_end", ["self"]),
        ("fit", ["self", "agent_loop_manager"]),
        ("_compute_metrics", ["self", "batch", "metrics", "timing_raw", "global_steps", "epoch"]),
    ],
)
def test_what_is_overridden_is_still_verls_and_called(name, parameters):
    assert list(inspect.signature(getattr(PPOTrainer, name)).parameters) == parameters
    callers = "".join(path.read_text(encoding="utf-8") for path in TRAINERS.glob("*.py"))
    main = (TRAINERS.parents[1] / "main_ppo.py").read_text(encoding="utf-8")
    assert name == "__init__" or re.search(rf"\.{name}\(", callers + main)


def test_a_step_is_a_line_of_the_steps_file(log, tmp_path):
    path = tmp_path / "steps.jsonl"
    trainer = make(steps_file=str(path))
    trainer._compute_metrics(None, {"actor/lr": 1e-6}, {}, global_steps=5, epoch=0)
    (line,) = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    assert (line["step"], line["reward"], line["learning_rate"]) == (5, 0.5, 1e-6)


def test_the_actor_is_profiled_before_and_after_the_training(log, tmp_path):
    texts = tmp_path / "profile.json"
    texts.write_text("[[1, 2], [1, 2, 3, 4, 5, 6, 7, 8, 9]]", encoding="utf-8")
    trainer = make(profile_file=str(texts), profile_before="/b", profile_after="/a")
    trainer.on_init_end()
    trainer.fit("manager")
    assert log == [
        "init sync",
        ("profile", [7, 2], "/b"),
        "init end",
        "fit manager",
        "rollout sleeps",
        ("profile", [7, 2], "/a"),
    ]


def test_verls_rollout_sleeps_until_the_initialisation_ends():
    source = inspect.getsource(PPOTrainer._setup)
    assert source.rstrip().rfind("checkpoint_manager.sleep_replicas()") > source.rfind("create(")
    assert "self.checkpoint_manager.update_weights(" in inspect.getsource(
        PPOTrainerSync.on_init_end
    )


def test_texts_that_cannot_be_read_end_the_run_before_a_step(log, tmp_path):
    (tmp_path / "profile.json").write_text('["", []]', encoding="utf-8")
    trainer = make(profile_file=str(tmp_path / "profile.json"), profile_after="/a")
    with pytest.raises(ValueError, match=r"profile\.json: has no text to profile the actor on"):
        trainer.on_init_end()
    assert log == ["init sync"]


def test_an_actor_that_cannot_be_profiled_ends_the_run_before_verl_starts(log, monkeypatch):
    monkeypatch.setitem(CONFIG["actor_rollout_ref"]["actor"], "strategy", "megatron")
    assert make().config
    log.clear()
    with pytest.raises(ValueError, match="'megatron' cannot be profiled"):
        make(profile_file="texts")
    assert log == []


def test_without_ptls_keys_it_is_verls_own_trainer(log, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = make()
    trainer.roles = [Role.ActorRolloutRef]
    trainer._init_resource_pool_mgr()
    trainer.on_init_end()
    trainer.fit("manager")
    trainer._compute_metrics(None, {}, {}, global_steps=5, epoch=0)
    assert log == ["init sync", "init end", "fit manager"]
    assert trainer.role_worker_mapping == {Role.ActorRolloutRef: "verl's"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("role", [Role.Actor, Role.ActorRollout, Role.ActorRolloutRef])
def test_only_the_actors_worker_is_replaced_and_only_for_a_profile(log, role):
    trainer = make(profile_file="texts")
    trainer.roles = [role, Role.RefPolicy, Role.Critic]
    trainer._init_resource_pool_mgr()
    assert trainer.role_worker_mapping == {
        role: ours.ProfilingWorker,
        Role.RefPolicy: "verl's",
        Role.Critic: "verl's",
    }


@pytest.mark.parametrize(("asked", "does"), [(5, 5), (6, 6), (50, 6)])
def test_more_steps_than_the_epochs_have_are_not_waited_for(log, monkeypatch, asked, does):
    def loader(self):
        self.steps_per_epoch, self.total_training_steps, self.parameter_sync_step = 3, asked, 1

    monkeypatch.setattr(PPOTrainerSync, "_init_dataloader", loader)
    trainer = make()
    with open_dict(trainer.config):
        trainer.config.trainer.total_epochs = 2
        trainer.config.actor_rollout_ref.actor.optim = {"total_training_steps": -1}
    trainer._init_dataloader()
    assert trainer.total_training_steps == does
    assert trainer.config.actor_rollout_ref.actor.optim.total_training_steps == does


def test_questions_that_fill_no_step_are_told_of_by_number(log, monkeypatch):
    def loader(self):
        self.steps_per_epoch, self.total_training_steps, self.train_dataset = 0, 5, [1, 2]

    monkeypatch.setattr(PPOTrainerSync, "_init_dataloader", loader)
    trainer = make()
    with open_dict(trainer.config):
        trainer.config.trainer.total_epochs = 2
        trainer.config.data.train_batch_size = 4
    with pytest.raises(ValueError, match=r"2 questions are no longer than data\.max_prompt"):
        trainer._init_dataloader()
