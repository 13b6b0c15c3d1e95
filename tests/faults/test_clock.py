"""A clock that jumps a day back, while a command works and between two tries of it."""

from __future__ import annotations

import random
import signal
import subprocess
import sys

import psutil
import pytest
from after_checks import finished_files, problems_after
from fault_points import DAY

from ptl_plugins.left_program import end_leftover, note_program
from ptl_plugins.stage_types import Command

SEED = 22
FAST = ("run", "profile")
ALL = ("run", "train", "profile", "prune", "eval", "data", "study")


def survives(place, undisturbed, moment):
    """Set the clock back at an operation, and in the try after a kill; return what is wrong."""
    place.clear()
    back = {"kind": "clock_back"}
    if place.run(fault={**back, "at": moment}) != 0:
        return [f"failed: {place.said()[-800:]}"]
    wrong = problems_after(place, undisturbed.digests, {})
    place.clear()
    assert place.run(fault={"kind": "kill", "at": moment}) == -signal.SIGKILL
    at_kill = finished_files(place)
    if place.run(fault={**back, "at": 1}) != 0 and not place.door.already:
        return [*wrong, f"failed after a kill: {place.said()[-800:]}"]
    return [*wrong, *problems_after(place, undisturbed.digests, at_kill)]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "key",
    [*FAST, *(pytest.param(key, marks=pytest.mark.faults) for key in ALL if key not in FAST)],
)
def test_a_clock_that_jumps_back_changes_nothing(place_of, tried, key):
    place, undisturbed = place_of(key)
    moment = random.Random(f"{SEED} {key}").randint(1, len(undisturbed.operations))
    wrong = survives(place, undisturbed, moment)
    tried("clock a day back", place.door, 2, 2 - bool(wrong))
    assert not wrong, "\n".join(wrong)


def test_a_program_that_was_left_is_found_though_the_clock_was_set(tmp_path, monkeypatch, tried):
    words = (sys.executable, "-c", "import time; time.sleep(60)")
    command = Command(words=words, folder=tmp_path, log=tmp_path / "log")
    left = subprocess.Popen(words, start_new_session=True)
    try:
        note_program(tmp_path / "note.json", command, left.pid)
        yesterday = psutil.boot_time() - DAY  # the system's, which the clock decides
        monkeypatch.setattr("psutil._pslinux.boot_time", lambda: yesterday)
        end_leftover(tmp_path / "note.json")
        assert left.wait(5) == -signal.SIGTERM
    finally:
        left.kill()
        left.wait()
    tried("clock a day back", "ptl run", 1, 1, steps="a stage's program that a kill left")
