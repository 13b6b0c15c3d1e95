"""Errors of the user: one line each, printed without a traceback, exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

USER_ERROR_EXIT_CODE = 2


class PTLError(Exception):
    """Something the user can mend; the text names what was given, what is allowed, what to do."""


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


class RunFolderError(PTLError):
    """The run folder belongs to another recipe or to a run that is still alive."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` for the closest of `known`, or an empty string."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""
