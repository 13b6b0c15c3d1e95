"""Bytes from file to file: by the kernel, past it, cut, and when files or disks end."""

from __future__ import annotations

import errno
import os
from io import FileIO
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptl_plugins import tensor_copy
from ptl_plugins.errors import PruneError
from ptl_plugins.shard_header import TensorEntry
from ptl_plugins.tensor_copy import TensorCopier

DTYPES = {"U8": np.uint8, "BF16": np.uint16, "F32": np.uint32, "F64": np.uint64}
OFFSET = 13


@pytest.fixture
def files(tmp_path):
    """A source of random bytes and an empty target."""
    raw = np.random.default_rng(0).bytes(5000)
    (tmp_path / "source").write_bytes(raw)
    with FileIO(tmp_path / "source") as source, FileIO(tmp_path / "target", "x") as target:
        yield source, target, raw, tmp_path / "target"


def entry(end=4000, shape=(0,)):
    return TensorEntry(name="t", dtype="U8", shape=shape, file="source", start=OFFSET, end=end)


@settings(max_examples=100, deadline=None)
@given(
    data=st.data(),
    rows=st.integers(1, 40),
    columns=st.integers(1, 12),
    dtype=st.sampled_from(sorted(DTYPES)),
    chunk=st.sampled_from([1, 16, 50, 2**12]),
)
def test_rows_and_columns_are_those_of_numpy(tmp_path_factory, data, rows, columns, dtype, chunk):
    matrix = np.random.default_rng(rows).integers(0, 200, (rows, columns)).astype(DTYPES[dtype])
    folder = tmp_path_factory.mktemp("copy")
    (folder / "source").write_bytes(b"x" * OFFSET + matrix.tobytes() + b"y")
    kept = [
        np.array(sorted(data.draw(st.sets(st.integers(0, size - 1)))), dtype=np.intp)
        for size in (rows, columns)
    ]
    facts = {"name": "t", "dtype": dtype, "file": "source", "start": OFFSET}
    whole = TensorEntry(**facts, shape=(rows, columns), end=OFFSET + matrix.nbytes)
    flat = TensorEntry(**facts, shape=(rows * columns,), end=OFFSET + matrix.nbytes)
    every_third = np.arange(0, rows * columns, 3)
    with (
        mock.patch.object(tensor_copy, "CHUNK_BYTES", chunk),
        FileIO(folder / "source") as source,
        FileIO(folder / "target", "x") as target,
    ):
        copier = TensorCopier()
        copier.rows(source, whole, kept[0], target)
        copier.columns(source, whole, kept[1], target)
        copier.rows(source, flat, every_third, target)
        copier.whole(source, whole, target)
    expected = [matrix[kept[0]], matrix[:, kept[1]], matrix.reshape(-1)[every_third], matrix]
    assert (folder / "target").read_bytes() == b"".join(array.tobytes() for array in expected)


def test_a_whole_tensor_is_copied_by_the_kernel(files, monkeypatch):
    source, target, raw, path = files
    monkeypatch.setattr("os.preadv", lambda *args: pytest.fail("read into memory"))
    monkeypatch.setattr(tensor_copy, "KERNEL_BYTES", 1000)
    TensorCopier().whole(source, entry(), target)
    assert path.read_bytes() == raw[OFFSET:4000]


@pytest.mark.parametrize("code", tensor_copy.CANNOT_COPY)
def test_a_kernel_that_cannot_copy_is_passed_over_even_half_way(files, monkeypatch, code):
    source, target, raw, path = files
    real, calls = os.copy_file_range, []

    def once(*args):
        calls.append(args)
        if len(calls) > 1:
            raise OSError(code, "cannot")
        return real(*args)

    monkeypatch.setattr("os.copy_file_range", once)
    monkeypatch.setattr(tensor_copy, "KERNEL_BYTES", 1000)
    monkeypatch.setattr(tensor_copy, "CHUNK_BYTES", 700)
    TensorCopier().whole(source, entry(), target)
    assert path.read_bytes() == raw[OFFSET:4000]
    assert len(calls) == 2


def test_a_system_without_that_call_and_short_reads_and_writes(files, monkeypatch):
    source, target, raw, path = files
    write, preadv = os.write, os.preadv
    monkeypatch.delattr("os.copy_file_range")
    monkeypatch.setattr("os.write", lambda file, view: write(file, view[:77]))
    monkeypatch.setattr("os.preadv", lambda file, views, at: preadv(file, [views[0][:91]], at))
    TensorCopier().whole(source, entry(), target)
    assert path.read_bytes() == raw[OFFSET:4000]


def test_a_kernel_that_copies_nothing_is_not_asked_for_ever(files, monkeypatch):
    source, target, raw, path = files
    monkeypatch.setattr("os.copy_file_range", lambda *args: 0)
    TensorCopier().whole(source, entry(), target)
    assert path.read_bytes() == raw[OFFSET:4000]


def test_chunks_of_rows_that_go_are_not_read(files, monkeypatch):
    source, target, raw, path = files
    preadv, read = os.preadv, []

    def watched(file, views, at):
        read.append((at - OFFSET, at - OFFSET + len(views[0])))
        return preadv(file, views, at)

    monkeypatch.setattr("os.preadv", watched)
    monkeypatch.setattr(tensor_copy, "CHUNK_BYTES", 100)
    kept = np.array([15, 16, 71])  # rows of ten bytes
    TensorCopier().rows(source, entry(end=OFFSET + 1000, shape=(100, 10)), kept, target)
    assert read == [(150, 250), (650, 720)]
    rows = [raw[OFFSET + 10 * row :][:10] for row in kept]
    assert path.read_bytes() == b"".join(rows)


def test_other_failures_are_not_hidden(files, monkeypatch):
    source, target, _, _ = files

    def full(*args):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("os.copy_file_range", full)
    with pytest.raises(OSError, match="full"):
        TensorCopier().whole(source, entry(), target)


def test_a_file_that_shrinks_meanwhile_is_an_error_not_an_endless_loop(files):
    source, target, _, _ = files
    with pytest.raises(PruneError, match="source: ended at byte 5000 while it was read"):
        TensorCopier().whole(source, entry(end=6000), target)
    with pytest.raises(PruneError, match="ended at byte 5000"):
        TensorCopier().rows(source, entry(end=6000, shape=(5987, 1)), np.arange(5987), target)
