"""Who may touch what PTL writes: everything else is left to the umask of who started it."""

from __future__ import annotations

import os

OTHERS_WRITE = 0o002
STRICTEST = 0o077
"""While the umask is read, which only setting it can do."""


def deny_others_writing() -> None:
    """Keep all files and folders of this process and its children from being world-writable.

    A umask of 0, as in some containers and batch systems, would let any user of the machine
    change a checkpoint that a later round loads. A group's right to write is the user's choice.
    """
    os.umask(os.umask(STRICTEST) | OTHERS_WRITE)
