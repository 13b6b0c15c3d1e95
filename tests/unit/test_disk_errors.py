"""What a disk refuses is one line with the file and the remedy."""

from __future__ import annotations

import errno
import os

import pytest
from safetensors import SafetensorError

from ptl_plugins import durable
from ptl_plugins.cli import main as command
from ptl_plugins.disk_errors import disk_error, named


def refused(number, name=None):
    return OSError(number, os.strerror(number), name)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            refused(errno.ENOSPC, "a/b"),
            "a/b: cannot be written or read (No space left on device); ",
        ),
        (refused(errno.EROFS, "a/b"), "a/b: cannot be written or read (Read-only file system); "),
        (refused(errno.ENOSPC), "a file cannot be written or read (No space left on device); "),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "a file cannot"),
        (SafetensorError('IoError(Os { code: 28, kind: StorageFull, message: "x" })'), "a file"),
    ],
)
def test_the_line_names_the_file_and_the_remedy(error, line):
    told = str(disk_error(error))
    assert told.startswith(line)
    assert told.endswith(", then the same command goes on")


@pytest.mark.parametrize(
    "error",
    [
        refused(errno.ENOENT, "a"),
        ValueError("28"),
        SafetensorError("code 28"),
        OSError("no number"),
    ],
)
def test_other_errors_are_ours(error):
    assert disk_error(error) is None


def test_a_write_that_fails_gets_the_files_name(tmp_path):
    with pytest.raises(OSError, match="No space") as raised, named(tmp_path / "x"):
        raise refused(errno.ENOSPC)
    assert raised.value.filename == str(tmp_path / "x")


def test_a_text_that_cannot_be_written_leaves_no_temporary_file(tmp_path, monkeypatch):
    def full(path):
        raise refused(errno.ENOSPC)

    monkeypatch.setattr(durable.os, "fsync", full)
    with pytest.raises(OSError, match="No space") as raised:
        durable.write_text(tmp_path / "x", "text")
    assert raised.value.filename.endswith("x.ptl-tmp")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_reach_the_disk_leaves_the_one_before(tmp_path, monkeypatch):
    with durable.new_folder(tmp_path / "model") as folder:
        (folder / "a").write_text("one", encoding="utf-8")

    def full(path):
        raise refused(errno.ENOSPC)

    monkeypatch.setattr(durable.os, "fsync", full)
    with pytest.raises(OSError, match="No space"), durable.new_folder(tmp_path / "model") as folder:
        (folder / "a").write_text("two", encoding="utf-8")
    assert (tmp_path / "model" / "a").read_text(encoding="utf-8") == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("error", [refused(errno.ENOSPC, "a"), SafetensorError("(os error 28)")])
def test_the_command_line_tells_it_and_ends_with_2(error, monkeypatch, capsys):
    def build(name):
        def fails(**keys):
            raise error

        return fails

    monkeypatch.setattr(command, "build_app", build)
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("ptl: a")
    assert told.count("\n") == 1
