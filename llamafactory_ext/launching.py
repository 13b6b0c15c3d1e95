"""The command's own process: check a `ptl:` section before anything is started.

Under torchrun the workers' exit codes are lost (torchrun ends with 1 and a traceback), so a
worker leaves a mistake of the user in a note, and the command ends with it and code 2.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from safetensors import SafetensorError

from ptl_plugins.disk_errors import disk_error
from ptl_plugins.errors import USER_ERROR_EXIT_CODE, PTLError
from ptl_plugins.file_modes import deny_others_writing
from ptl_plugins.yaml_file import read_yaml

NOTE_VARIABLE = "PTL_ERROR_NOTE"
SECTION = re.compile(r"(['\"]?)ptl\1 *:")
PIECE_CHARACTERS = 1 << 16


def launch_with_checks(launch: Callable[[], object]) -> object:
    """Call LLaMA-Factory's `launch`; with a `ptl:` section, check it first."""
    path = _recipe_in_arguments()
    if path is None:
        return launch()
    deny_others_writing()
    try:
        _check(path, sys.argv[3:])
    except PTLError as error:
        end_with(error)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        end_with(PTLError(f"{path}: {error.filename}: the name is too long for a file"))
    return _launch_with_note(launch)


def end_with(error: PTLError) -> NoReturn:
    """Print the error's lines and end the process as a mistake of the user."""
    note = os.environ.get(NOTE_VARIABLE)
    if note:  # the command prints it, once, when its workers are gone
        Path(note).write_text(str(error), encoding="utf-8")
    elif os.environ.get("RANK", "0") == "0":
        print(f"ptl: {error}", file=sys.stderr, flush=True)
    raise SystemExit(USER_ERROR_EXIT_CODE)


def _recipe_in_arguments() -> Path | None:
    """Return the yaml of `llamafactory-cli train X.yaml` when it has a `ptl:` section."""
    if len(sys.argv) < 3 or sys.argv[1] != "train" or not sys.argv[2].endswith((".yaml", ".yml")):
        return None
    path = Path(sys.argv[2])
    return path if path.is_file() and _has_section(path) else None


def _has_section(path: Path) -> bool:
    """Whether a line begins with `ptl:`; a file of any size is read in small pieces."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        begins = True
        while piece := file.readline(PIECE_CHARACTERS):
            if begins and SECTION.match(piece):
                return True
            begins = piece.endswith("\n")
    return False


def _check(path: Path, overrides: list[str]) -> None:
    from llamafactory_ext.overrides import read_as_llamafactory
    from llamafactory_ext.preflight import preflight

    _, text = read_yaml(path)
    preflight(path, read_as_llamafactory(path, text, overrides), text)


def _launch_with_note(launch: Callable[[], object]) -> object:
    with tempfile.TemporaryDirectory() as folder:
        note = Path(folder, "note")
        os.environ[NOTE_VARIABLE] = str(note)
        try:
            return launch()
        except (OSError, SafetensorError) as error:
            if (told := disk_error(error)) is None:
                raise
            print(f"ptl: {told}", file=sys.stderr, flush=True)
            raise SystemExit(USER_ERROR_EXIT_CODE) from None
        except (SystemExit, subprocess.CalledProcessError):
            if note.exists():
                print(f"ptl: {note.read_text(encoding='utf-8')}", file=sys.stderr, flush=True)
                raise SystemExit(USER_ERROR_EXIT_CODE) from None
            raise
        finally:
            os.environ.pop(NOTE_VARIABLE, None)
