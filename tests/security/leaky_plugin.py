"""A plugin that tells the environment to whoever listens: events, records, logs, errors, output."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys

from ptl_plugins.markers import hookimpl
from ptl_plugins.testing.fake_backend import FakeBackend

logger = logging.getLogger("ptl_plugins.leaky")
PLANTED = {
    "HF_TOKEN": "hf_PlantedPlantedPlantedPlanted01",
    "WANDB_API_KEY": "0123456789planted0123456789planted012345",
    "AWS_SECRET_ACCESS_KEY": "planted/Secret+Access/Key=planted",
    "DB_PASSWORD": "a planted pass phrase",
}
"""What must be found nowhere; the names are those that people use."""
ADDRESS = "https://planted-user:planted-word@host.invalid/data"
PROGRAM = """
import os, sys, time, runpy
for name in sys.argv.pop(1).split(","):
    value = os.environ[name]
    for piece in ("said ", value[:7], value[7:], " and ", value):
        sys.stdout.write(piece)
        sys.stdout.flush()
        time.sleep(0.02)
    print()
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def everything() -> str:
    return " ".join([*(os.environ[name] for name in PLANTED), ADDRESS])


class LeakyBackend(FakeBackend):
    """The fake stage, whose program prints secrets in pieces; it takes any setting."""

    def check(self, stage):
        return None

    def job(self, ctx, stage, model, folder):
        job = super().job(ctx, stage, model, folder)
        words = (sys.executable, "-c", PROGRAM, ",".join(PLANTED), *job.command.words[3:])
        return dataclasses.replace(job, command=dataclasses.replace(job.command, words=words))


@hookimpl
def ptl_register(registry):
    registry.backends.add("leaky", LeakyBackend())


@hookimpl
def ptl_round_finished(ctx, record):
    ctx.run.event("leak", everything=[{"text": everything()}])
    ctx.run.write(ctx.run.path / "leak.json", {"deep": (everything(), {everything(): 1})})
    ctx.log.say(everything())
    raise ValueError(everything())
