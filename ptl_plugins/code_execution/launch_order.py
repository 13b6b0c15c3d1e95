"""What the parent tells the launcher: one line of JSON, then the bytes of the program."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from ptl_plugins.code_execution.limits import Limits
from ptl_plugins.code_execution.walls import Containment


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchOrder:
    """One program to run and the walls around it."""

    source_bytes: int
    limits: Limits
    containment: Containment
    nonce: str
    """What the harness must say at the end of the program."""
    harness: str
    """Text of the harness; its file is not visible in a new root."""
    python: str
    """The interpreter, with no link in its path."""
    prefix: str
    """Where the standard library of the interpreter lies."""
    work: str
    """An empty folder: the program's, or the place where its new root is mounted."""
    user: int
    """Number of the user, and of the group, that the program runs as."""


def to_line(order: LaunchOrder) -> bytes:
    """Return the order as a line of JSON."""
    return json.dumps(asdict(order)).encode() + b"\n"


def from_line(line: bytes) -> LaunchOrder:
    """Read the order back."""
    values: dict[str, Any] = json.loads(line)
    limits, walls = Limits(**values.pop("limits")), Containment(**values.pop("containment"))
    return LaunchOrder(**values, limits=limits, containment=walls)
