"""Walls to run programs within, and eyes for what they leave behind."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from pathlib import Path

import pytest

from ptl_plugins.code_execution import Containment, Limits, containment
from ptl_plugins.code_execution.contained_run import FIRST_FREE_USER
from ptl_plugins.code_execution.leftovers import bytes_used

MIB = 2**20
AS_ROOT = os.geteuid() == 0
# what programs must have at the least: another user for root, the filter for a user
FEWEST = Containment(own_user=True, new_root=True) if AS_ROOT else Containment(call_filter=True)


@pytest.fixture(scope="session", autouse=True)
def there() -> Containment:
    """What the machine gives, found out before any test replaces a part of the search."""
    return containment()


@pytest.fixture(params=["all the walls", "the fewest walls"])
def walls(request, there) -> Containment:
    if request.param == "all the walls":
        return there
    wanted = [name for name in Containment.__slots__ if getattr(FEWEST, name)]
    if not all(getattr(there, name) for name in wanted):
        pytest.skip("this machine does not even give the fewest walls")
    return FEWEST


@pytest.fixture
def tight() -> Limits:
    return Limits(wall_seconds=1.0, disk=4 * MIB, file_size=MIB, address_space=512 * MIB)


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """The folder that holds the programs' folders."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def programs_alive(ptl: int | None = None) -> int:
    """Count the processes that are a harness, or were forked from one, begun by a PTL's thread."""
    wanted = FIRST_FREE_USER + (ptl or os.getpid()) if AS_ROOT else os.geteuid()
    return sum(_is_program(folder, wanted) for folder in Path("/proc").glob("[0-9]*"))


def _is_program(folder: Path, user: int) -> bool:
    try:
        return (
            folder.stat().st_uid == user
            and b"Runs one program to its end" in (folder / "cmdline").read_bytes()
        )
    except OSError:
        return False


class Lookout:
    """Samples, while a program runs, how many processes there are and how much disk they use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.most_processes = self.most_bytes = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._over.is_set():
            self.most_processes = max(self.most_processes, programs_alive())
            self.most_bytes = max(self.most_bytes, bytes_used(self.folder, enough=2**40))
            time.sleep(0.01)

    def __enter__(self) -> Lookout:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        self._thread.join()


@pytest.fixture
def lookout(temporary) -> Lookout:
    return Lookout(temporary)


@pytest.fixture(autouse=True)
def nothing_stays(temporary):
    """After every test: no process of a program, no folder of one."""
    yield
    assert programs_alive() == 0
    assert list(temporary.iterdir()) == []
