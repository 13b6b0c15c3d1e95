"""What the machine was while a speed was measured: without it no number means anything."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import psutil

from ptl_plugins.manifest import hardware, versions


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """Load and clocks at one moment; None where the system does not tell."""

    load_average: float | None
    """Of the last minute, over all cores; this measurement's own work is in it."""
    cpu_mhz: float | None
    accelerator_mhz: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Hardware, versions, threads, and the state before and after."""

    device: str
    """Name of the accelerator, or of the processor."""
    threads: int
    """Threads that torch computes with on the CPU."""
    start: Snapshot
    end: Snapshot
    hardware: Mapping[str, Any] = field(default_factory=dict, repr=False)
    versions: Mapping[str, str] = field(default_factory=dict, repr=False)


def snapshot(device: str) -> Snapshot:
    """Return load and clocks now; `device` as torch spells it, such as cuda:0."""
    clock = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
    return Snapshot(
        load_average=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        cpu_mhz=round(clock.current, 1) if clock else None,
        accelerator_mhz=_accelerator_mhz(device),
    )


def machine(device: str, start: Snapshot) -> Machine:
    """Return the record of a measurement that began at `start` and ends now."""
    import torch

    facts = hardware()
    is_cuda = device.startswith("cuda") and torch.cuda.is_available()
    return Machine(
        device=torch.cuda.get_device_name(device) if is_cuda else str(facts["processor"]),
        threads=torch.get_num_threads(),
        start=start,
        end=snapshot(device),
        hardware=facts,
        versions=versions(),
    )


def _accelerator_mhz(device: str) -> float | None:
    """Return the clock of a CUDA device, where pynvml is there to ask."""
    if not device.startswith("cuda"):
        return None
    import torch

    try:
        return float(torch.cuda.clock_rate(device))
    except (ModuleNotFoundError, RuntimeError):  # no pynvml, or a driver that does not tell
        return None
