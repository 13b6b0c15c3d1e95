"""`ptl data` that dies on the way: the same command ends in the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from small_corpus import METAMATH, NAME, NUMINA, KilledError, say_nothing, write_jsonl

from ptl_plugins import durable
from ptl_plugins.corpora import prepare
from ptl_plugins.corpora.prepare import digest, prepare_corpus
from ptl_plugins.errors import PTLError


def test_whatever_write_it_dies_at_the_same_command_ends_in_the_same_bytes(
    asking, monkeypatch, tmp_path
):
    undisturbed = asking("whole")
    prepare_corpus(undisturbed, say_nothing)
    expected, real = digest(undisturbed.folder), durable.replace
    point = 0
    while True:
        request, writes = asking(f"killed_{point}"), iter(range(10**6))

        def dies(temporary, path, writes=writes, point=point):
            number = next(writes)
            if number == point and temporary.is_file():  # torn: half of it is there
                temporary.write_bytes(temporary.read_bytes()[: temporary.stat().st_size // 2])
            if number == point:
                raise KilledError
            real(temporary, path)

        monkeypatch.setattr(durable, "replace", dies)
        try:
            prepare_corpus(request, say_nothing)
        except KilledError:
            pass
        else:
            break
        finally:
            monkeypatch.setattr(durable, "replace", real)
        assert prepare_corpus(request, say_nothing) == NUMINA + METAMATH
        assert digest(request.folder) == expected
        assert not request.work.exists()
        assert json.loads((request.out / "dataset_info.json").read_text(encoding="utf-8"))
        point += 1
    assert point > 15


def test_what_was_read_is_not_read_again(asking, monkeypatch):
    request, real, firsts = asking(), prepare.source_rows, []

    def dies_after_40(name, source, files, *, first):
        firsts.append((name, first))
        for number, row in enumerate(real(name, source, files, first=first), start=first):
            if number == 40 and len(firsts) == 1:
                raise KilledError
            yield row

    monkeypatch.setattr(prepare, "source_rows", dies_after_40)
    with pytest.raises(KilledError):
        prepare_corpus(request, say_nothing)
    prepare_corpus(request, say_nothing)
    assert [name for name, _ in firsts] == ["numina", "numina", "metamath"]
    assert next(first for name, first in firsts if name == "numina") == 0
    assert 20 < firsts[1][1] <= 40


def test_shards_that_were_finished_are_kept(asking, monkeypatch):
    request, real, written = asking(), durable.replace, []

    def dies(temporary, path):
        if path.name == "part-00002.jsonl" and "first" not in written:
            written.append("first")
            raise KilledError
        written.append(path.name)
        real(temporary, path)

    monkeypatch.setattr(durable, "replace", dies)
    with pytest.raises(KilledError):
        prepare_corpus(request, say_nothing)
    before = len(written)
    prepare_corpus(request, say_nothing)
    parts = [name for name in written if name.startswith("part-")]
    assert sorted(parts) == [f"part-{i:05d}.jsonl" for i in range(5)]
    assert not [name for name in written[before:] if name.endswith(".rows")]


@pytest.mark.slow
def test_a_process_that_is_killed_goes_on(asking, tmp_path):
    rows_ = ({"problem": f"p{i}" + "x" * 300, "solution": "s"} for i in range(6_000))
    numina = write_jsonl(tmp_path / "many.jsonl", rows_)
    local = {**asking().local, "numina": str(numina)}
    program = (
        "import sys, json; from pathlib import Path;"
        "from ptl_plugins.corpora.prepare import CorpusRequest, prepare_corpus;"
        f"prepare_corpus(CorpusRequest(name='{NAME}', out=Path(sys.argv[1]), "
        "local=json.loads(sys.argv[2]), chunk_bytes=10**5, shard_rows=2000), print)"
    )
    words = [sys.executable, "-c", program, str(tmp_path / "killed"), json.dumps(local)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    request = asking("killed", local=local, chunk_bytes=10**5, shard_rows=2000)
    deadline = time.monotonic() + 40
    while not list(request.work.glob("numina-*.rows"))[3:] and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not request.folder.exists()
    prepare_corpus(request, say_nothing)
    whole = asking("whole", local=local)
    prepare_corpus(whole, say_nothing)
    assert digest(request.folder) == digest(whole.folder)


def test_a_finished_corpus_is_left_as_it_is(asking, monkeypatch):
    request, said = asking(), []
    prepare_corpus(request, say_nothing)
    monkeypatch.setattr(prepare, "source_rows", None)
    assert prepare_corpus(request, said.append) == NUMINA + METAMATH
    assert said == [f"{request.folder}: 88 rows, written before"]


def test_a_source_that_fails_at_the_hub_can_be_given_by_a_local_copy_afterwards(asking):
    only = asking(local={"numina": asking().local["numina"]})
    with pytest.raises(PTLError, match=r"give a local copy: --source metamath=PATH$") as raised:
        prepare_corpus(only, say_nothing)  # tests are offline
    assert "\n" not in str(raised.value)
    said = []
    prepare_corpus(asking(), said.append)
    assert "metamath: is read from elsewhere now, from its first row" in said
    assert not [line for line in said if "numina" in line and "rows read" in line]


def test_a_number_of_rows_that_is_too_large_can_be_lowered_without_reading_again(asking):
    with pytest.raises(PTLError, match="--rows 89: the sources have 88 rows"):
        prepare_corpus(asking(rows=89), say_nothing)
    said = []
    assert prepare_corpus(asking(rows=80), said.append) == 80
    assert not [line for line in said if line.endswith("rows read")]
