"""What the tests of the corpora share."""

from __future__ import annotations

import sys

import pytest
from small_corpus import METAMATH, NAME, NUMINA, write_jsonl

from ptl_plugins import durable
from ptl_plugins.cli.main import main
from ptl_plugins.corpora.prepare import CorpusRequest


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    """Leave fsync out: only a machine that goes down could tell, and a shared disk takes long."""
    monkeypatch.setattr(durable, "_sync", lambda path: None)


@pytest.fixture
def local(tmp_path):
    """Small copies of both sources of the mathematical corpus."""
    import pyarrow
    from pyarrow import parquet

    numina = [{"problem": f"p {i}\r\n\u2028{{x}}?", "solution": f"s{i}"} for i in range(NUMINA)]
    metamath = {"query": [f"q{i}?" for i in range(METAMATH)], "response": ["r"] * METAMATH}
    write_jsonl(tmp_path / "numina.jsonl", numina)
    parquet.write_table(pyarrow.table(metamath), tmp_path / "metamath.parquet")
    return {
        "numina": str(tmp_path / "numina.jsonl"), "metamath": str(tmp_path / "metamath.parquet"),
    }  # fmt: skip


@pytest.fixture
def asking(tmp_path, local):
    """Requests that make several chunks of a source and several shards."""

    def ask(out="data", **keys):
        facts = {"name": NAME, "local": local, "chunk_bytes": 700, "shard_rows": 20}
        return CorpusRequest(out=tmp_path / out, **{**facts, **keys})

    return ask


@pytest.fixture
def ptl(capsys, monkeypatch):
    """Run the command line in this process: exit code and what it printed."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["ptl", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return run
