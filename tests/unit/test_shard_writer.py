"""Bytes from file to file: whole, by rows, by columns, and when the file ends too early."""

from __future__ import annotations

import os
from io import FileIO
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptl_plugins import shard_writer
from ptl_plugins.errors import PruneError
from ptl_plugins.shard_header import TensorEntry
from ptl_plugins.shard_writer import ShardWriter

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
    read=st.sampled_from([1, 16, 50, 2**12]),
    flush=st.sampled_from([1, 16, 50, 2**12]),
)
def test_pieces_are_those_of_numpy(tmp_path_factory, data, rows, columns, dtype, read, flush):
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
        mock.patch.object(shard_writer, "READ_BYTES", read),
        mock.patch.object(shard_writer, "FLUSH_BYTES", flush),
        FileIO(folder / "source") as source,
        FileIO(folder / "target", "x") as target,
    ):
        writer = ShardWriter(source, target)
        writer.rows(whole, kept[0])
        writer.columns(whole, kept[1])
        writer.rows(flat, every_third)
        writer.raw(matrix)
        writer.whole(whole)
        writer.finish()
    expected = [
        matrix[kept[0]],
        matrix[:, kept[1]],
        matrix.reshape(-1)[every_third],
        matrix,
        matrix,
    ]
    assert (folder / "target").read_bytes() == b"".join(array.tobytes() for array in expected)


def test_flushes_lie_at_multiples_of_their_size_in_the_file(files, monkeypatch):
    source, target, raw, path = files
    write, sizes = os.write, []

    def watched(file, view):
        sizes.append(len(view))
        return write(file, view)

    monkeypatch.setattr("os.write", watched)
    monkeypatch.setattr(shard_writer, "FLUSH_BYTES", 1000)
    monkeypatch.setattr(shard_writer, "READ_BYTES", 900)
    writer = ShardWriter(source, target)
    writer.raw(np.frombuffer(raw[:7], np.uint8))
    writer.whole(entry(end=OFFSET + 500))
    writer.rows(entry(shape=(100, 30), end=OFFSET + 3000), np.arange(0, 100, 2))
    writer.columns(entry(shape=(100, 30), end=OFFSET + 3000), np.arange(3, 30))
    writer.finish()
    assert sizes == [1000] * 4 + [(7 + 500 + 1500 + 2700) % 1000]
    assert len(writer._pending) <= 1000 + 30, "rows go in until one is over, not more"
    matrix = np.frombuffer(raw[OFFSET : OFFSET + 3000], np.uint8).reshape(100, 30)
    parts = [raw[:7], raw[OFFSET : OFFSET + 500], matrix[::2].tobytes(), matrix[:, 3:].tobytes()]
    assert path.read_bytes() == b"".join(parts)


def test_short_reads_and_writes_are_continued(files, monkeypatch):
    source, target, raw, path = files
    write, preadv = os.write, os.preadv
    monkeypatch.setattr("os.write", lambda file, view: write(file, view[:77]))
    monkeypatch.setattr("os.preadv", lambda file, views, at: preadv(file, [views[0][:91]], at))
    writer = ShardWriter(source, target)
    writer.whole(entry())
    writer.finish()
    assert path.read_bytes() == raw[OFFSET:4000]


def test_rows_that_go_are_not_read_but_for_those_between(files, monkeypatch):
    source, target, raw, path = files
    preadv, read = os.preadv, []

    def watched(file, views, at):
        read.append((at - OFFSET, at - OFFSET + len(views[0])))
        return preadv(file, views, at)

    monkeypatch.setattr("os.preadv", watched)
    monkeypatch.setattr(shard_writer, "READ_BYTES", 100)
    kept = np.array([15, 16, 71])  # rows of ten bytes
    writer = ShardWriter(source, target)
    writer.rows(entry(end=OFFSET + 1000, shape=(100, 10)), kept)
    writer.finish()
    assert read == [(150, 170), (710, 720)]
    rows = [raw[OFFSET + 10 * row :][:10] for row in kept]
    assert path.read_bytes() == b"".join(rows)


def test_a_file_that_shrinks_meanwhile_is_an_error_not_an_endless_loop(files):
    source, target, _, _ = files
    with pytest.raises(PruneError, match="source: ended at byte 5000 while it was read"):
        ShardWriter(source, target).whole(entry(end=6000))
    with pytest.raises(PruneError, match="ended at byte 5000"):
        ShardWriter(source, target).rows(entry(end=6000, shape=(5987, 1)), np.arange(5987))
