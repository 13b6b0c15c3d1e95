"""The two places where verl 0.9.1 leaves no other way to run on a CPU.

Both are used with VERL_PLATFORM=cpu alone; another version of verl is refused, as it may do
something else there by now. `tests/verl/in_verl/test_cpu_patches.py` notices when it does.
"""

from __future__ import annotations

import functools
from typing import Any

import torch.distributed.fsdp as fsdp

UPSTREAM = "0.9.1"


def apply() -> None:
    """Patch verl and torch in this process, once.

    Raises:
        RuntimeError: verl is another version than the patches were made for.
    """
    import verl

    if verl.__version__ != UPSTREAM:
        raise RuntimeError(
            f"PTL's CPU platform patches verl {UPSTREAM}, and this is {verl.__version__}"
        )
    _patch_process_group()
    _patch_offload()


def _patch_process_group() -> None:
    """Let verl 0.9.1 name gloo once: "cpu:gloo" and "<device>:<backend>" are twice cpu here."""
    from verl.utils import distributed

    original = distributed.initialize_global_process_group_ray
    if getattr(original, "ptl", False):
        return

    @functools.wraps(original)
    def initialize(timeout_second: float | None = None, backend: str | None = None) -> Any:
        return original(timeout_second, backend or "cpu:gloo")

    initialize.ptl = True  # type: ignore[attr-defined]
    distributed.initialize_global_process_group_ray = initialize


def _patch_offload() -> None:
    """Keep verl 0.9.1 from pinning the reference's memory: torch 2.11 needs an accelerator."""
    if fsdp.CPUOffloadPolicy is not UnpinnedOffload:
        fsdp.CPUOffloadPolicy = UnpinnedOffload  # type: ignore[misc]


class UnpinnedOffload(fsdp.CPUOffloadPolicy):
    """An offload policy whose memory is never pinned, whatever it is told."""

    def __init__(self, pin_memory: bool = False) -> None:
        super().__init__(pin_memory=False)
