"""A full disk, a kill or a mistake of PTL's leaves nothing behind and is told."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ptl_plugins import checkpoint_surgery, shard_writer
from ptl_plugins.checkpoint_surgery import prune_checkpoint
from ptl_plugins.durable import TEMPORARY_SUFFIX, claimed_folder
from ptl_plugins.errors import PruneError
from ptl_plugins.families.llama import LLAMA
from ptl_plugins.testing import write_tiny_checkpoint
from ptl_plugins.types import PrunePlan

PLAN = PrunePlan(
    num_layers=5, width=48, removed_neurons=((3, 9),) * 5, removed_layers=(2,), criteria={},
    scores_digest="d",
)  # fmt: skip
CALLS = {
    "weights": (os, "write"),
    "flush": (os, "fsync"),
    "JSON files": (checkpoint_surgery, "write_json"),
    "side files": (checkpoint_surgery.shutil, "copyfile"),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("source"))


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(shard_writer, "FLUSH_BYTES", 2000)


def prune(source, out):
    extra = {"extra.json": {}}
    prune_checkpoint(source, out, LLAMA, PLAN, side_files=[source / "LICENSE"], extra=extra)


def failing(monkeypatch, call, error, *, at):
    """Let the call number `at` raise `error`; return the list that counts the calls."""
    owner, name = CALLS[call]
    real, calls = getattr(owner, name), []

    def counted(*args, **keys):
        calls.append(args)
        if len(calls) == at:
            raise error
        return real(*args, **keys)

    monkeypatch.setattr(owner, name, counted)
    return calls


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("moment", ["first", "middle", "last but one", "last"])
@pytest.mark.parametrize("call", CALLS)
def test_nothing_is_left(source, tmp_path, monkeypatch, call, moment, code):
    with monkeypatch.context() as patch:
        calls = failing(patch, call, None, at=0)
        prune(source, tmp_path / "counted")
        number = len(calls)
    assert number > 0, "the call is not made at all"
    moments = {"first": 1, "middle": (number + 1) // 2, "last but one": number - 1}
    at = moments.get(moment) or number
    error = OSError(code, os.strerror(code))
    failing(monkeypatch, call, error, at=at)
    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(PruneError) as caught:
        prune(source, work / "out")
    line = str(caught.value)
    assert line.startswith(f"{work / 'out'}: the disk is full: the pruned model needs ")
    assert " bytes, " in line
    assert " are free" in line
    assert "\n" not in line
    assert list(work.iterdir()) == []


def test_another_failure_is_told_and_leaves_nothing_either(source, tmp_path, monkeypatch):
    failing(monkeypatch, "flush", OSError(errno.EIO, "Input/output error"), at=1)
    with pytest.raises(PruneError, match=r"out: not written, nothing is left .*Input/output"):
        prune(source, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing(source, tmp_path, monkeypatch):
    failing(monkeypatch, "weights", KeyboardInterrupt(), at=3)
    with pytest.raises(KeyboardInterrupt):
        prune(source, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_next_attempt_works(source, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        failing(patch, "weights", OSError(errno.ENOSPC, "full"), at=2)
        with pytest.raises(PruneError):
            prune(source, tmp_path / "out")
    prune(source, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_weights_are_flushed_before_the_folder_gets_its_name(source, tmp_path, monkeypatch):
    """A disk that reports its failure only when it is flushed must not leave a folder."""
    flushed = []
    real = os.fsync

    def watched(descriptor):
        file = Path(f"/proc/self/fd/{descriptor}").readlink()
        flushed.append((file.name, (tmp_path / "out").exists()))
        real(descriptor)

    monkeypatch.setattr("os.fsync", watched)
    prune(source, tmp_path / "out")
    weights = [there for name, there in flushed if name == "model.safetensors"]
    assert weights
    assert not any(weights)


def test_what_a_killed_prune_left_goes_with_the_next_and_a_living_ones_stays(source, tmp_path):
    script = (
        "import sys,os; from pathlib import Path; from ptl_plugins.durable import claimed_folder\n"
    )
    script += "with claimed_folder(Path(sys.argv[1])) as folder: os._exit(9)"
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "out")])
    assert done.returncode == 9
    (dead,) = tmp_path.glob("out.*" + TEMPORARY_SUFFIX)
    with claimed_folder(tmp_path / "other") as other, claimed_folder(tmp_path / "out2") as living:
        assert dead.exists(), "it is not theirs"
        (living / "x").touch()
        prune(source, tmp_path / "out")
        assert living.exists()
        assert other.exists()
    assert not dead.exists()


def test_python_o_verifies_too():
    """Asserts are gone under -O; what is written has to be looked at all the same."""
    script = (
        "from unittest import mock\nfrom ptl_plugins import checkpoint_surgery as cs\n"
        "cs.open_checkpoint = lambda folder: mock.Mock(tensors={'a': mock.Mock()})\n"
        "try:\n    cs._verify('x', [])\nexcept RuntimeError:\n    print('told')"
    )
    done = subprocess.run([sys.executable, "-O", "-c", script], capture_output=True, text=True)
    assert done.stdout == "told\n", done.stderr


def test_the_bytes_needed_are_those_that_the_disk_gives_to_it(source, tmp_path, monkeypatch):
    usage = SimpleNamespace(free=0)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda path: usage)
        with pytest.raises(PruneError) as caught:
            prune(source, tmp_path / "out")
    needed = int(str(caught.value).split("needs ")[1].split()[0])
    prune(source, tmp_path / "out")
    block = os.statvfs(tmp_path).f_frsize
    sizes = [file.stat().st_size for file in (tmp_path / "out").iterdir()]
    assert needed == block + sum(-(-size // block) * block for size in sizes)
