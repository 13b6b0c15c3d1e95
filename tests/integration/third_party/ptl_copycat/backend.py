"""A backend of its own, after the protocol `ptl_plugins.stage_types.Backend`."""

from __future__ import annotations

import sys
from pathlib import Path

from ptl_plugins.stage_types import Command, StageJob

PROGRAM = Path(__file__).with_name("program.py")


class Copycat:
    """Recovers a checkpoint by copying it; setting `greeting`: what its log begins with."""

    def check(self, stage):
        """Return what is wrong with the stage in one line, or None."""
        for key in stage.settings.keys() - {"greeting"}:
            return f"settings.{key}: unknown key; allowed: greeting"
        return None

    def check_thoroughly(self, stage):
        """Return None: `check` knows everything."""
        return None

    def job(self, ctx, stage, model, folder):
        """Return the program that copies `model`, and the file that it greets with."""
        greeting, result = folder / "greeting.txt", folder / "copy"
        words = (stage.python or sys.executable, PROGRAM, greeting, model, result)
        return StageJob(
            files={greeting: f"{stage.settings.get('greeting', 'hello')}\n"},
            command=Command(
                words=tuple(map(str, words)),
                folder=Path.cwd(),
                log=folder / "train.log",
                launch=stage.launch,
            ),
            result=result,
        )

    def collect(self, job):
        """Return the copy."""
        return job.result
