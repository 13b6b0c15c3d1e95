"""A third-party plugin: a criterion, a backend, and a wrapper around every cut.

Where the environment variable COPYCAT_IMPORTED names a file, importing this module writes it, so
that a test can tell whether it was imported.
"""

from __future__ import annotations

import os
from pathlib import Path

from ptl_copycat.backend import Copycat
from ptl_copycat.criterion import MeanSize
from ptl_plugins import hookimpl

MARK = "copycat.txt"

if "COPYCAT_IMPORTED" in os.environ:
    Path(os.environ["COPYCAT_IMPORTED"]).touch()


@hookimpl
def ptl_register(registry):
    """Add the names that a recipe may use."""
    registry.criteria.add("copycat_mean_size", MeanSize())
    registry.backends.add("copycat", Copycat())


@hookimpl(wrapper=True)
def ptl_prune(ctx, subject, plan):
    """Leave a note of each cut in the round's folder; change nothing."""
    pruned = yield
    note = f"round {ctx.spec.index}: width {plan.width} to {plan.new_width}\n"
    (ctx.folder / MARK).write_text(note, encoding="utf-8")
    return pruned
