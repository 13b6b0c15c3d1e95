"""EasyR1's trainer, which logs as many steps as it was told."""

from verl.utils.logger import logger


class RayPPOTrainer:
    def __init__(self, config, train_dataloader):
        self.config = config
        self.train_dataloader = train_dataloader
        self.training_steps = config.trainer.max_steps or 10**6

    def fit(self):
        loggers = [logger.LOGGERS[name](vars(self.config)) for name in self.config.trainer.logger]
        steps = self.training_steps
        assert self.config.worker.actor.optim.training_steps == steps
        for step in range(1, steps + 1):
            for each in loggers:
                each.log(data=measured(step), step=step)
        for each in loggers:
            each.log(data={"val/reward_score": 0.5}, step=steps)
            each.finish()


def measured(step):
    return {
        "critic/rewards/mean": 0.25 * step,
        "actor/kl_loss": float("nan"),
        "actor/lr": "1e-6",
        "actor/grad_norm": None,
        "response_length/mean": 12,
        "timing_s/step": 1.5,
        "perf/throughput": 3.0,
    }
