"""Two runs in one folder, locks of the dead, and a recipe that was changed on the way."""

from __future__ import annotations

import json
import signal
import socket

import pytest

OWNER = ".lock_owner.json"


@pytest.fixture
def held(workplace, wait_for):
    """A run whose first stage takes a second; its pid, once the stage's program runs."""
    workplace.recipe(recover=[{"backend": "fake", "settings": {"seconds": 1.0, "rounds": [1]}}])
    pid = workplace.start(said="first")
    wait_for(lambda: "the program runs" in workplace.trace("point", "first"))
    return pid


def snapshot(folder):
    """Return every file's bytes and time of change."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def only_line(workplace):
    """Return the one line of PTL's that was said."""
    (line,) = workplace.said().splitlines()
    return line


def test_the_second_run_is_refused_with_pid_and_host_and_the_first_goes_on(workplace, held):
    assert workplace.run() == 2
    assert f"(pid {held} on {socket.gethostname()})" in only_line(workplace)
    assert workplace.trace("work") == []
    assert workplace.wait(held) == 0, workplace.said("first")
    assert (workplace.out / "round_02" / "record.json").exists()
    work = workplace.trace("work", "first")
    assert workplace.run() == 0
    assert (work.count("1 launch"), workplace.trace("work")) == (1, [])


def test_a_torn_note_of_the_owner_does_not_hide_the_lock(workplace, held):
    for text in ("", '{"pid": 12', "[]", "null", '{"pid": 1}'):
        (workplace.out / OWNER).write_text(text, encoding="utf-8")
        assert workplace.run() == 2, text
        assert "another run works in this folder (its owner is not known)" in only_line(workplace)
    assert workplace.wait(held) == 0, workplace.said("first")


def test_the_lock_of_a_killed_run_is_taken_over(workplace, held):
    workplace.kill(held)
    owner = json.loads((workplace.out / OWNER).read_text(encoding="utf-8"))
    assert owner["pid"] == held
    (workplace.out / OWNER).write_text('{"pid": ', encoding="utf-8")
    assert workplace.run() == 0, workplace.said()
    owner = json.loads((workplace.out / OWNER).read_text(encoding="utf-8"))
    assert owner["pid"] != held


def test_of_runs_that_start_together_one_alone_works(workplace):
    pids = [workplace.start(said=f"run{number}") for number in range(3)]
    codes = [workplace.wait(pid) for pid in pids]
    work = [piece for number in range(3) for piece in workplace.trace("work", f"run{number}")]
    assert (work.count("0 load"), work.count("1 profile"), work.count("2 profile")) == (1, 1, 1)
    assert set(codes) <= {0, 2}
    for number, code in enumerate(codes):
        if code:
            assert "another run works in this folder" in workplace.said(f"run{number}")


CHANGES = {
    "schedule.0.amount=4": "rounds.0.cuts.0.amount: 8.0 -> 4.0",
    "recover.1.settings.seconds=1": "stages.1.settings.seconds: 0 -> 1",
    "model=other": "model: 'model' -> 'other'",
}


@pytest.fixture
def begun(workplace):
    """A run that was killed after its first round."""
    (workplace.folder / "other").symlink_to((workplace.folder / "model").resolve())
    assert workplace.run() == 0, workplace.said()
    kill_at = workplace.trace("point").index("round 2: before ptl_profile") + 1
    workplace.clear()
    assert workplace.run(kill_at=kill_at) == -signal.SIGKILL
    return workplace


def test_a_changed_recipe_is_refused_with_what_changed_and_nothing_is(begun):
    before = snapshot(begun.out)
    for changes in ([change] for change in CHANGES):
        refused_with(begun, changes)
    refused_with(begun, list(CHANGES))
    assert snapshot(begun.out) == before
    assert begun.run() == 0, begun.said()


def refused_with(workplace, changes):
    words = [word for change in changes for word in ("--set", change)]
    assert workplace.run(*words) == 2
    line = only_line(workplace)
    for change, told in CHANGES.items():
        assert (told in line) == (change in changes), line
    assert line.endswith("give the old recipe, or choose another folder")
