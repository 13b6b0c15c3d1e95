"""A folder that a living run holds is refused before anything is written."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ptl_plugins.errors import RunFolderError
from ptl_plugins.run_lock import lock_folder, require_unlocked, sole_writer


def test_an_unused_folder_passes_and_stays_as_it_is(tmp_path):
    require_unlocked(tmp_path / "none")
    require_unlocked(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_held_folder_is_refused_with_the_pid(tmp_path):
    lock = lock_folder(tmp_path)
    with pytest.raises(RunFolderError, match=f"pid {os.getpid()} on "):
        require_unlocked(tmp_path)
    lock.release()
    require_unlocked(tmp_path)


def test_a_sole_writer_is_alone_and_leaves_nothing(tmp_path):
    lock = tmp_path / "scores.lock"
    with sole_writer(lock):
        told = rf"writes the same \(pid {os.getpid()} on "
        with pytest.raises(RunFolderError, match=told), sole_writer(lock):
            pass
        assert lock.exists(), "who is refused takes nothing away"
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_dead_writer_is_free(tmp_path):
    program = (
        "import os, sys; from pathlib import Path; from ptl_plugins.run_lock import sole_writer;"
        "held = sole_writer(Path(sys.argv[1])); held.__enter__(); os._exit(9)"
    )
    lock = tmp_path / "scores.lock"
    assert subprocess.run([sys.executable, "-c", program, lock], check=False).returncode == 9
    assert lock.exists()
    with sole_writer(lock):
        pass
    assert not lock.exists()
