"""Errors of the user: one line each, printed without a traceback, exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from ptl_plugins.secret_values import redacted

USER_ERROR_EXIT_CODE = 2
ADVICE = (
    "try a smaller step of pruning, a lower learning rate, or 'on_divergence: retry_with_half_step'"
)
"""For who finds that a training diverged."""
LONGEST_LINE = 1500
"""Characters; of a longer line the middle is left out."""


class PTLError(Exception):
    """Something the user can mend; the text names what was given, what is allowed, what to do.

    What it quotes comes from files that others may have written: characters that a terminal would
    obey are shown as escapes, a value of a megabyte does not hide the rest, and secrets are out.
    """

    def __init__(self, text: str = "") -> None:
        super().__init__("\n".join(_plain(line) for line in redacted(str(text)).split("\n")))


class RecipeError(PTLError):
    """A recipe file is wrong; the text holds one line per problem, each with file and key."""


class PluginError(PTLError):
    """A plugin could not be loaded, or two of them claim one name."""


class UnknownNameError(PTLError):
    """A name that nothing registered."""


class PruneError(PTLError):
    """A cut that cannot be made: too few neurons or layers, scores of another model."""


class StageError(PTLError):
    """A recovery stage failed, or its result cannot be used."""


class DivergedError(StageError):
    """The training of a recovery stage went wrong; one after a smaller cut may go well."""

    def __init__(self, what: str, advice: str = ADVICE) -> None:
        """Say what went wrong in which folder, and what to try."""
        super().__init__(f"{what}; {advice}")
        self.what, self.advice = what, advice


class RunFolderError(PTLError):
    """The run folder belongs to another recipe or to a run that is still alive."""


def _plain(line: str) -> str:
    if not line.isprintable():
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    half = LONGEST_LINE // 2 - 3
    return line if len(line) <= LONGEST_LINE else f"{line[:half]} ... {line[-half:]}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` for the closest of `known`, or an empty string."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""
