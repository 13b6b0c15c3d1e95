"""The evaluator `speed`: how fast a round's model is against the original."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptl_plugins.errors import PTLError, did_you_mean
from ptl_plugins.given_path import is_folder
from ptl_plugins.speed.protocol import KEYS, Protocol, from_settings
from ptl_plugins.types import RoundContext, Subject

if TYPE_CHECKING:
    from ptl_plugins.speed.report import SpeedReport

ALLOWED = ("protocol", "baseline", *KEYS)


class Speed:
    """Metrics such as `speed_decode_speedup`, of the live model against a baseline.

    Settings: `protocol` (`default` or `paper`), `baseline` (a checkpoint; default: the original
    model of the recipe), and every number of a protocol. Round 0 measures the original against
    itself: what that differs from 1 is the error of the measurement.
    """

    def check(self, settings: Mapping[str, Any]) -> str | None:
        """Return what is wrong with the settings in one line, or None."""
        for key in settings:
            if key not in ALLOWED:
                hint = did_you_mean(key, ALLOWED)
                return f"unknown key '{key}'{hint}; allowed: {', '.join(ALLOWED)}"
        try:
            protocol = from_settings(settings)
            _require_prompts(protocol)
        except PTLError as error:
            return str(error)
        return _wrong_baseline(settings.get("baseline"))

    def evaluate(
        self, ctx: RoundContext, subject: Subject, settings: Mapping[str, Any]
    ) -> dict[str, float]:
        """Measure in the main rank alone; the others wait, and return what it found."""
        if subject.model is None or subject.tokenizer is None:
            raise PTLError("evaluator 'speed' needs a live model with its tokenizer")
        found: dict[str, float] | str = ""
        if ctx.ranks.rank == 0:
            try:
                found = _measure(ctx, subject, settings)
            except PTLError as error:  # the others would wait for ever
                found = str(error)
        answer: dict[str, float] | str = ctx.ranks.gather(found)[0]
        if isinstance(answer, str):
            raise PTLError(answer)
        return answer


def _measure(ctx: RoundContext, subject: Subject, settings: Mapping[str, Any]) -> dict[str, float]:
    from ptl_plugins.live import stored_weights
    from ptl_plugins.speed.measure import measure_live

    assert subject.model is not None
    assert subject.tokenizer is not None
    baseline = Path(settings.get("baseline") or ctx.recipe.model)
    with stored_weights(subject.model, subject.stored_dtype):
        report = measure_live(subject.model, subject.tokenizer, baseline, from_settings(settings))
    _keep(ctx, report)
    return report.metrics()


def _keep(ctx: RoundContext, report: SpeedReport) -> None:
    """Say what was found with its caveats, and keep the samples and the machine beside it."""
    from ptl_plugins.speed.table import lines

    for line in lines(report):
        ctx.log.say(line)
    folder = ctx.folder / "evaluation" / ctx.log.step
    ctx.run.write(folder / f"speed_{report.protocol.name}.json", report.to_json())


def _require_prompts(protocol: Protocol) -> None:
    from ptl_plugins.speed.prompts import choose

    choose(None, protocol.num_prompts)


def _wrong_baseline(baseline: Any) -> str | None:
    """Return what is wrong with a path; names of the hub are looked up when they are needed."""
    if baseline is None:
        return None
    from ptl_plugins.model_config import looks_like_path

    if not isinstance(baseline, str) or not baseline:
        return f"baseline: {baseline!r} is neither a folder nor the name of a hub model"
    if looks_like_path(baseline) and not is_folder(baseline):
        return f"baseline: no such folder: {baseline}; leave it out for the original model"
    return None
