"""The values of a recovery stage: what the recipe asks for, what is started, how it ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ptl_plugins.health import Step

if TYPE_CHECKING:
    from ptl_plugins.geometry import Geometry
    from ptl_plugins.types import RoundContext


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchSpec:
    """How a stage's program is started."""

    launcher: str = "local"
    processes: int = 1
    """Processes per machine; more than one: torchrun, where the backend knows it."""
    timeout: float | None = None
    """Seconds after which the stage is stopped; None: never."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The launcher's own settings, such as Slurm's partition."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageSpec:
    """One recovery stage: the framework's own settings, verbatim."""

    backend: str
    settings: Mapping[str, Any]
    python: str | None = None
    """The interpreter of the framework; None: the one that PTL runs in."""
    launch: LaunchSpec = field(default_factory=LaunchSpec)
    rounds: tuple[int, int] | None = None
    """The first and the last round that have it, counted from 1; None: all."""

    def is_in(self, round_index: int) -> bool:
        """Return whether a round has the stage."""
        return self.rounds is None or self.rounds[0] <= round_index <= self.rounds[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A program to start: words, never a shell's line."""

    words: tuple[str, ...]
    folder: Path
    """Where it works."""
    log: Path
    """Where its output goes; a launcher may write files of its own beside it."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables beside those that PTL runs with."""
    launch: LaunchSpec = field(default_factory=LaunchSpec)


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandResult:
    """How a command ended."""

    exit_code: int
    """Negative: killed by that signal."""
    seconds: float
    timed_out: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class StageJob:
    """Everything that a stage does, before it is done."""

    files: Mapping[Path, str]
    """Texts by path, written before the program starts."""
    command: Command
    result: Path
    """The folder that the program writes its checkpoint to."""
    steps: Path | None = None
    """A file with a JSON object per training step, which become the run's events."""
    num_machines: int = 1
    """On how many machines the program trains, each with the launch's `processes`."""

    @property
    def num_devices(self) -> int:
        """How many processes train, each on a device of its own; on a CPU the process counts."""
        return self.command.launch.processes * self.num_machines


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTime:
    """How long one recovery stage of a round took, in the try that finished it."""

    backend: str
    wall_seconds: float | None
    """Of its program, without the wait in a queue; None: not on record."""
    devices: int | None
    """How many it trained on, as `StageJob.num_devices` counts; None: not known."""

    @property
    def device_seconds(self) -> float | None:
        """Wall seconds times devices, or None where one of them is not known."""
        if self.wall_seconds is None or self.devices is None:
            return None
        return self.wall_seconds * self.devices


@dataclass(frozen=True, kw_only=True, slots=True)
class StageModel:
    """What a run's plan knows of the models that its stages train."""

    config: Mapping[str, Any]
    """The original's `config.json`."""
    folder: Path
    """Where that lies; of a model of the hub there may be nothing beside it."""
    shapes: tuple[Geometry, ...]
    """Every shape that a round leaves, as far as it is known before the scores."""
    sliced: bool = False
    """Whether the stage trains a sliced model (SliceGPT) in any of its rounds; known always."""


class Backend(Protocol):
    """A training framework that recovers a checkpoint in a stage of `ptl run`."""

    def check(self, stage: StageSpec) -> str | None:
        """Return what is wrong with the stage, a line per problem, or None; imports nothing."""
        ...

    def check_thoroughly(self, stage: StageSpec) -> str | None:
        """Let the framework's own parser read the settings where its interpreter has it.

        Return what is wrong, one line per problem as from `check`, or None. May take seconds.

        Raises:
            NotCheckedError: the framework is not there to be asked (`ptl_plugins.stage_check`).
        """
        ...

    def job(self, ctx: RoundContext, stage: StageSpec, model: Path, folder: Path) -> StageJob:
        """Return what recovers the checkpoint `model` on the round's part; write nothing.

        Args:
            ctx: the round.
            stage: its settings are the framework's own.
            model: a plain checkpoint; the program must not change it.
            folder: the stage's folder; everything that is written goes there.
        """
        ...

    def collect(self, job: StageJob) -> Path:
        """Return a folder with the trained weights as safetensors, once the program is done.

        Raises:
            StageError: the program left nothing that can be used.
        """
        ...


@runtime_checkable
class ModelChecker(Protocol):
    """A backend that can tell from a config that its program would refuse a model."""

    def check_model(self, stage: StageSpec, model: StageModel) -> str | None:
        """Return what is wrong, a line per problem as from `check`, or None; import nothing."""
        ...


@runtime_checkable
class TrainingReporter(Protocol):
    """A backend that can tell how the training of a stage went, step by step."""

    def steps(self, job: StageJob) -> Iterable[Step]:
        """Return what a program that ended well told of its steps, in order."""
        ...


class Launcher(Protocol):
    """Facts of a launcher; `ptl_launch` does the launching."""

    def check(self, launch: LaunchSpec) -> str | None:
        """Return what is wrong with a stage's `launch`, a line per problem, or None."""
        ...

    def preview(self, command: Command) -> str:
        """Return what would be run, for `ptl run --dry-run`; start nothing."""
        ...
