"""A backend that trains nothing: a real program, started by the real launcher, in milliseconds.

As a plugin it registers the backend `fake`: `ptl run RECIPE -p ptl_plugins.testing.fake_backend`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import ptl_plugins.testing.fake_stage as program
from ptl_plugins.kept_files import TRAINED
from ptl_plugins.markers import hookimpl
from ptl_plugins.registry import Registry
from ptl_plugins.stage_types import Command, StageJob, StageSpec
from ptl_plugins.text_corpus import TextCorpus
from ptl_plugins.types import RoundContext

ALLOWED = {"does", "rounds", "seconds", "while_exists"}


class FakeBackend:
    """A stage that succeeds or fails on demand.

    Settings: `does`, one of `fake_stage.DEEDS` (`success` by default); `rounds`, in which it does
    so, in the others it succeeds (default: all); `while_exists`, a file without which it succeeds
    as well, a cause that can be mended; `seconds` that it sleeps first.
    """

    def check(self, stage: StageSpec) -> str | None:
        """Return what is wrong with the settings in one line, or None."""
        for key in stage.settings.keys() - ALLOWED:
            return f"settings.{key}: unknown key; allowed: {', '.join(sorted(ALLOWED))}"
        if (does := stage.settings.get("does", "success")) not in program.DEEDS:
            return f"settings.does: {does!r}; allowed: {', '.join(program.DEEDS)}"
        return None

    def check_thoroughly(self, stage: StageSpec) -> str | None:
        """Return None: `check` knows everything."""
        return None

    def job(self, ctx: RoundContext, stage: StageSpec, model: Path, folder: Path) -> StageJob:
        """Return a job of one program, whose only file holds the round's texts."""
        settings: dict[str, Any] = dict(stage.settings)
        now = ctx.spec.index in settings.get("rounds", [ctx.spec.index])
        now = now and Path(settings.get("while_exists", "/")).exists()
        does = settings.get("does", "success") if now else "success"
        words = (model, folder / TRAINED, does, settings.get("seconds", 0))
        assert isinstance(ctx.corpus, TextCorpus), "a backend recovers in ptl run only"
        texts = ctx.corpus.texts(ctx.spec.index)
        return StageJob(
            files={folder / "texts.txt": "\n".join(texts)},
            command=Command(
                words=(sys.executable, "-I", "-S", program.__file__, *map(str, words)),
                folder=Path.cwd(),
                log=folder / "train.log",
                launch=stage.launch,
            ),
            result=folder / TRAINED,
        )

    def collect(self, job: StageJob) -> Path:
        """Return what the program wrote."""
        return job.result


@hookimpl
def ptl_register(registry: Registry) -> None:
    """Add the backend `fake`."""
    registry.backends.add("fake", FakeBackend())
