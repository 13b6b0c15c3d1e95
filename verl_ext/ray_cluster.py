"""Whether a Ray cluster runs already, which may hold the GPUs that a stage counts on."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import psutil

ADDRESS = "RAY_ADDRESS"
GCS = "gcs_server"
"""Ray's head process."""


def running_cluster_problem(ray_address: str | None) -> str | None:
    """Return why a stage must not start beside or in a Ray cluster, in one line, or None.

    A stage has a cluster of its own, and two would each give out the machine's GPUs.

    Args:
        ray_address: what the stage says; anything but None is the user's decision.
    """
    if ray_address is not None:
        return None
    found = os.environ.get(ADDRESS) or _started_address()
    if not found or found == "local":
        return None
    return (
        f"settings.ray_address: a Ray cluster runs at '{found}', and a second one would give out "
        "the same GPUs; stop it (ray stop, unset RAY_ADDRESS), or give its address to join it, or "
        "'local' for one of the stage's own"
    )


def ray_environment(ray_address: str | None) -> dict[str, str]:
    """Return the variables that make a stage's program use the cluster that it is to use."""
    return {ADDRESS: ray_address or "local"}


def _started_address() -> str | None:
    """Return the address that `ray start` left, if its head is alive."""
    folder = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray"
    try:
        address = (folder / "ray_current_cluster").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    alive = any(GCS in (process.info["name"] or "") for process in psutil.process_iter(["name"]))
    return address if alive else None
