"""The trainer `ptl_sync`: verl's synchronous one, which notes its steps and profiles its actor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray
from omegaconf import DictConfig, OmegaConf, open_dict
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from verl_ext.in_verl.profile_texts import profile_problem, read_sequences
from verl_ext.in_verl.step_metrics import append_line, step_line
from verl_ext.in_verl.worker import ProfilingWorker

NAME = "ptl_sync"
CPU_POLL_SECONDS = 0.1
"""How often verl looks for answers: its 2 seconds are most of a tiny model's step."""
ACTORS = (Role.Actor, Role.ActorRollout, Role.ActorRolloutRef)


@register_trainer(NAME)
class PTLTrainer(PPOTrainerSync):
    """Reads `ptl.*` of the config: `steps_file`, `profile_file`, `profile_before`, `_after`."""

    total_training_steps: int

    def __init__(self, config: DictConfig) -> None:
        with open_dict(config):
            # verl tells its modes by name, and treats any but "sync" as an asynchronous one
            config.trainer.v1.trainer_mode = "sync"
        self._ptl = OmegaConf.to_container(config.get("ptl") or OmegaConf.create({}))
        if problem := profile_problem(config):
            raise ValueError(problem)
        super().__init__(config)
        if config.trainer.device == "cpu":
            self.replay_buffer.poll_interval = CPU_POLL_SECONDS

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        if "profile_file" in self._ptl:
            for role in self.role_worker_mapping.keys() & set(ACTORS):
                self.role_worker_mapping[role] = ray.remote(ProfilingWorker)

    def _init_dataloader(self) -> None:
        super()._init_dataloader()
        most = self.steps_per_epoch * self.config.trainer.total_epochs
        if most == 0:
            raise ValueError(
                f"{len(self.train_dataset)} questions are no longer than data.max_prompt_length, "
                f"and one step takes {self.config.data.train_batch_size}"
            )
        # verl's loop ends with the epochs too, but then saves nothing and tells nobody
        self.total_training_steps = min(self.total_training_steps, most)
        with open_dict(self.config):
            self.config.actor_rollout_ref.actor.optim.total_training_steps = (
                self.total_training_steps * self.parameter_sync_step
            )

    def on_init_end(self) -> None:
        """Profile the actor before the first step, if asked: the rollout holds no memory yet."""
        if "profile_file" in self._ptl:
            self._sequences = self._read_sequences()
        self._profile("before")
        super().on_init_end()

    def fit(self, agent_loop_manager: Any) -> None:
        """Train, then profile; verl's `on_train_end` is not reached when the steps are done."""
        super().fit(agent_loop_manager)
        if "profile_after" in self._ptl:
            self.checkpoint_manager.sleep_replicas()  # their weights and caches fill a GPU
            self._profile("after")

    def _compute_metrics(
        self, batch: Any, metrics: dict[str, Any], timing_raw: Any, **place: Any
    ) -> None:
        super()._compute_metrics(batch, metrics, timing_raw, **place)
        if path := self._ptl.get("steps_file"):
            append_line(Path(path), step_line(self.global_steps, metrics))

    def _profile(self, moment: str) -> None:
        if path := self._ptl.get(f"profile_{moment}"):
            self.actor_rollout_wg.ptl_profile(self._sequences, str(path))

    def _read_sequences(self) -> list[list[int]]:
        data = self.config.data
        return read_sequences(
            Path(self._ptl["profile_file"]),
            self.tokenizer,
            max_length=data.max_prompt_length + data.max_response_length,
        )
