"""The final values of a study's runs by seed, as its tables and plots need them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ptl_plugins.report.comparison import last_of, original_of
from ptl_plugins.report.metrics import Metric, measured, metrics_of
from ptl_plugins.report.runs import Run
from ptl_plugins.study.models import Axis
from ptl_plugins.study.records import SeedResult, finished_runs
from ptl_plugins.study.study_types import Study

Results = Mapping[str, Sequence[SeedResult]]


@dataclass(frozen=True, kw_only=True)
class StudyResults:
    """A study and what is on record of it."""

    study: Study
    results: Results
    """By name of a run, in the order of its seeds."""

    def of(self, names: Sequence[str]) -> Iterator[SeedResult]:
        """Yield the results of several runs."""
        for name in dict.fromkeys(names):
            yield from self.results[name]

    def finished(self, names: Sequence[str]) -> list[Run]:
        """Return the finished runs of these names, all seeds."""
        return finished_runs(list(self.of(names)))

    def metrics(self, names: Sequence[str], chosen: Sequence[str] | None) -> tuple[Metric, ...]:
        """Return the metrics that finished runs recorded: all, or the chosen ones in order."""
        found = {metric.name: metric for metric in metrics_of(self.finished(names))}
        if chosen is None:
            return tuple(found.values())
        return tuple(found[name] for name in chosen if name in found)

    def values(self, name: str, metric: Metric) -> dict[int, float]:
        """Return a run's final values by seed; only of finished runs that measured it."""
        values = {}
        for result in self.results[name]:
            last = last_of(metric, result.finished) if result.finished else None
            if last is not None:
                values[result.seed] = last.value
        return values

    def values_after(self, name: str, metric: Metric, round_index: int) -> dict[int, float]:
        """Return a run's values by seed after the recovery of a round; 0 is the original."""
        values = {}
        for result in self.results[name]:
            run = result.finished
            for record in run.records if run else ():
                found = measured(metric, record.recovered, run) if run else None
                if record.round == round_index and found is not None:
                    values[result.seed] = found.value
        return values


def original_values(runs: Sequence[Run], metric: Metric) -> list[float]:
    """Return what the original measured in each run, once for values that are the same."""
    found = (original_of(metric, run) for run in runs)
    return sorted({one.value for one in found if one is not None})


def places_on(axis: Axis, results: Sequence[SeedResult]) -> list[int]:
    """Return where each finished result stands on an axis, as far as it is on record."""
    return [at for result in results if (at := _place(axis, result)) is not None]


def _place(axis: Axis, result: SeedResult) -> int | None:
    if result.finished is None or result.finished.last is None:
        return None
    match axis:
        case "parameters":
            return result.finished.last.num_parameters
        case "rounds" | "round":
            return len(result.finished.rounds)
        case "final_tokens":
            return result.trained("tokens", at_final_size=True)
        case _:
            return result.trained(axis)


def missing_lines(results: StudyResults) -> list[str]:
    """Return a line for every run and seed that has no numbers."""
    return [
        f"{result.name}, seed {result.seed}: {result.missing}"
        for result in results.of(list(results.results))
        if result.missing
    ]
