"""EasyR1's entry: reads `config=FILE`, starts Ray, trains."""

from types import SimpleNamespace

import ray
from omegaconf import OmegaConf

from .ray_trainer import RayPPOTrainer


def main():
    given = OmegaConf.from_cli()
    keys = OmegaConf.to_container(OmegaConf.load(given.config))
    config = SimpleNamespace(
        data=SimpleNamespace(**keys["data"]),
        trainer=SimpleNamespace(**keys["trainer"]),
        worker=SimpleNamespace(actor=SimpleNamespace(optim=SimpleNamespace(training_steps=-1))),
    )
    ray.init(runtime_env={"env_vars": {"NCCL_DEBUG": "WARN"}})
    RayPPOTrainer(config=config, train_dataloader=range(keys["batches"])).fit()
