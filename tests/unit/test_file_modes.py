"""Whatever the umask: no file or folder of a command can be changed by everyone."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest

from ptl_plugins.code_execution.contained_run import _work_folder
from ptl_plugins.code_execution.walls import Containment
from ptl_plugins.durable import claimed_folder, new_folder, write_json
from ptl_plugins.file_modes import deny_others_writing
from ptl_plugins.tensor_file import save_tensors


@pytest.fixture(params=[0o000, 0o002, 0o022, 0o077], ids=oct)
def umask(request):
    """The user's umask, as it is once a command has begun."""
    before = os.umask(request.param)
    deny_others_writing()
    yield request.param
    os.umask(before)


def mode(path):
    return path.stat().st_mode & 0o777


def test_nothing_is_world_writable_and_the_rest_is_the_users_choice(tmp_path, umask):
    import numpy as np

    save_tensors(tmp_path / "a.safetensors", {"a": np.zeros(1, np.float32)}, {})
    write_json(tmp_path / "b.json", {})
    with new_folder(tmp_path / "c") as folder:
        (folder / "d").touch()
    with claimed_folder(tmp_path / "e"):
        pass
    for path in tmp_path.rglob("*"):
        allowed = (0o775 if path.is_dir() else 0o664) & ~umask
        assert mode(path) == allowed, path


def test_programs_that_a_model_wrote_have_a_folder_of_their_own(umask):
    with _work_folder(0, Containment()) as folder:
        assert mode(folder) == 0o700
        assert folder.parent == Path(tempfile.gettempdir()).resolve()
        assert folder.name != "ptl-program-"  # not to be guessed
    assert not folder.exists()


def test_each_door_sees_to_it(tmp_path, monkeypatch, capsys):
    from llamafactory_ext.launching import launch_with_checks
    from ptl_plugins.cli.main import main

    path = tmp_path / "x.yaml"
    path.write_text("ptl: 1\n", encoding="utf-8")
    for words, door in (
        (["ptl", "ls", "families"], main),
        (["llamafactory-cli", "train", str(path)], lambda: launch_with_checks(lambda: None)),
    ):
        monkeypatch.setattr(sys, "argv", words)
        before = os.umask(0)
        try:
            with pytest.raises(SystemExit):
                door()
            assert os.umask(0) & 0o002
        finally:
            os.umask(before)
