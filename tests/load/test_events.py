"""The event log grows at its end alone: an event costs the same after 1 line and after 100 000."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest

from ptl_plugins.run_folder import EVENTS, RunFolder

LINE = json.dumps({"time": 1.5, "event": "step", "round": 1}) + "\n"


def written_bytes() -> int:
    """Return the bytes that this process has asked the system to write."""
    lines = Path("/proc/self/io").read_text(encoding="utf-8").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("wchar")))


def read_bytes() -> int:
    lines = Path("/proc/self/io").read_text(encoding="utf-8").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("rchar")))


@pytest.fixture(params=[1, 100_000])
def run(tmp_path, request):
    (tmp_path / EVENTS).write_text(LINE * request.param, encoding="utf-8")
    return RunFolder(tmp_path, writes=True)


def test_an_event_writes_its_own_line_and_touches_no_other(run):
    path = run.path / EVENTS
    before = path.read_bytes()
    inode = path.stat().st_ino
    with path.open("rb") as earlier:  # a copy under the old name would leave this one behind
        written, read = written_bytes(), read_bytes()
        run.event("step", round=2, seconds=0.25)
        written, read = written_bytes() - written, read_bytes() - read
        earlier.seek(len(before))
        line = earlier.read()
    assert path.stat().st_ino == inode
    assert path.read_bytes() == before + line
    assert json.loads(line)["seconds"] == 0.25
    assert written == len(line)
    # its last byte, as far as a buffer reaches, and the two looks at /proc/self/io themselves
    assert read < 20_000


def test_a_line_that_a_kill_cut_short_is_ended_and_not_repaired(run):
    path = run.path / EVENTS
    with path.open("ab") as stream:
        stream.write(b'{"time": 17')
    written = written_bytes()
    run.event("opened")
    written = written_bytes() - written
    *_, torn, last = path.read_text(encoding="utf-8").splitlines()
    assert (torn, json.loads(last)["event"]) == ('{"time": 17', "opened")
    assert written == len(last) + 2


def test_ten_thousand_events_keep_no_file_open(tmp_path):
    run = RunFolder(tmp_path, writes=True)
    before = psutil.Process().num_fds()
    for index in range(10_000):
        run.event("step", round=index)
    assert psutil.Process().num_fds() == before
    assert (tmp_path / EVENTS).read_bytes().count(b"\n") == 10_000
