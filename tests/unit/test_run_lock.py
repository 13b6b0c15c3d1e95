"""A folder that a living run holds is refused before anything is written."""

from __future__ import annotations

import os

import pytest

from ptl_plugins.errors import RunFolderError
from ptl_plugins.run_lock import lock_folder, require_unlocked


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
