"""What a corpus was made of is kept, and work that goes on is made of the same."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_corpus import METAMATH, NUMINA, KilledError, say_nothing

from ptl_plugins import durable
from ptl_plugins.corpora import prepare, unfinished
from ptl_plugins.corpora.origins import digest, newest_commit
from ptl_plugins.corpora.prepare import CorpusRequest, prepare_corpus
from ptl_plugins.errors import PTLError


def sources_of(request):
    return json.loads(request.note.read_text(encoding="utf-8"))["sources"]


def killed_at(name, monkeypatch, request):
    """Prepare until the file `name` is about to appear."""
    real = durable.replace

    def dies(temporary, path):
        if path.name.startswith(name):
            raise KilledError
        real(temporary, path)

    monkeypatch.setattr(durable, "replace", dies)
    with pytest.raises(KilledError):
        prepare_corpus(request, say_nothing)
    monkeypatch.setattr(durable, "replace", real)


# --- local files ---


def test_the_note_has_the_digest_of_every_local_file_and_of_the_rows(asking, local):
    request = asking()
    prepare_corpus(request, say_nothing)
    for name, path in local.items():
        data = Path(path).read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        file = {"name": Path(path).name, "bytes": len(data), "sha256": sha256}
        assert sources_of(request)[name] == {"files": [file]}
    note = json.loads(request.note.read_text(encoding="utf-8"))
    assert (note["seed"], note["written"]) == (42, NUMINA + METAMATH)
    whole = b"".join(shard.read_bytes() for shard in sorted(request.folder.iterdir()))
    assert note["sha256"] == digest(request.folder) == hashlib.sha256(whole).hexdigest()


def other_bytes_of_the_same_size(path):
    text = Path(path).read_text(encoding="utf-8")
    Path(path).write_text(text.replace('"s1"', '"t1"'), encoding="utf-8")


def test_a_finished_corpus_of_files_that_changed_since_is_refused(asking, local):
    request = asking()
    prepare_corpus(request, say_nothing)
    other_bytes_of_the_same_size(local["numina"])
    with pytest.raises(PTLError, match=r"was written with other numina; give another --out"):
        prepare_corpus(request, say_nothing)


def test_work_does_not_go_on_with_a_file_that_changed(asking, local, monkeypatch):
    request = asking()
    killed_at("metamath-", monkeypatch, request)
    before = sorted(path.name for path in request.work.glob("numina*"))
    assert before
    other_bytes_of_the_same_size(local["numina"])
    with pytest.raises(PTLError) as raised:
        prepare_corpus(request, say_nothing)
    assert str(raised.value) == (
        f"data: --source numina={local['numina']}: numina.jsonl: not the bytes that the unfinished "
        f"work was read from; give the files as they were, or remove {request.work}/numina* to "
        "read them anew"
    )
    assert sorted(path.name for path in request.work.glob("numina*")) == before


def test_the_way_out_that_the_refusal_tells_ends_in_the_corpus_of_the_new_file(
    asking, local, monkeypatch
):
    request = asking()
    killed_at("part-00001", monkeypatch, request)  # shards of the old rows are there
    other_bytes_of_the_same_size(local["numina"])
    for file in request.work.glob("numina*"):
        file.unlink()
    prepare_corpus(request, say_nothing)
    fresh = asking("fresh")
    prepare_corpus(fresh, say_nothing)
    assert digest(request.folder) == digest(fresh.folder)
    assert sources_of(request) == sources_of(fresh)


def test_a_file_by_another_name_is_the_same_source(asking, local, tmp_path, monkeypatch):
    request = asking()
    killed_at("metamath-", monkeypatch, request)
    moved = Path(local["numina"]).rename(tmp_path / "moved.jsonl")
    again, said = asking(local={**local, "numina": str(moved)}), []
    prepare_corpus(again, said.append)
    assert not [line for line in said if "elsewhere" in line or "numina: 57 rows read" in line]
    assert prepare_corpus(again, say_nothing) == NUMINA + METAMATH


# --- the hub ---


@pytest.fixture
def hub(monkeypatch):
    """A hub with one data set, whose commit and rows change; what it was asked is kept."""
    state = SimpleNamespace(commit="aaa", asked=[], revisions=[])

    def commit(name, source):
        state.asked.append(source.repository)
        return state.commit

    def rows(name, source, files, *, first):
        state.revisions.append(source.revision)
        made = [f"{source.revision}-{i}" for i in range(40)]
        return iter([{"problem": text, "answer": "1"} for text in made[first:]])

    monkeypatch.setattr(unfinished, "newest_commit", commit)
    monkeypatch.setattr(prepare, "source_rows", rows)
    return state


@pytest.fixture
def of_hub(tmp_path):
    return CorpusRequest(name="math12k", out=tmp_path / "data", chunk_bytes=700, shard_rows=20)


def test_the_note_has_the_hubs_commit_and_the_rows_are_those_of_it(hub, of_hub):
    prepare_corpus(of_hub, say_nothing)
    assert sources_of(of_hub) == {"math12k": {"repository": "hiyouga/math12k", "commit": "aaa"}}
    assert (hub.asked, hub.revisions) == (["hiyouga/math12k"], ["aaa"])


def test_work_goes_on_with_the_commit_that_it_began_with(hub, of_hub, monkeypatch):
    killed_at("part-", monkeypatch, of_hub)
    for file in of_hub.work.glob("math12k*"):
        if file.suffix == ".done" or "-000000000000-" not in file.name:
            file.unlink()  # all but the first chunk
    hub.commit = "bbb"  # the data set has changed since
    prepare_corpus(of_hub, say_nothing)
    assert hub.revisions == ["aaa", "aaa"]
    assert hub.asked == ["hiyouga/math12k"]
    assert sources_of(of_hub)["math12k"]["commit"] == "aaa"


def test_a_finished_corpus_of_the_hub_is_known_again_without_asking_it(hub, of_hub):
    prepare_corpus(of_hub, say_nothing)
    hub.commit = "bbb"
    assert prepare_corpus(of_hub, say_nothing) == 40
    assert hub.asked == ["hiyouga/math12k"]


def test_the_hub_is_asked_through_its_own_client(monkeypatch):
    import huggingface_hub

    class Api:
        def dataset_info(self, repository, *, revision):
            return SimpleNamespace(sha=f"commit of {repository} at {revision}")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    source = prepare.find_corpus("math12k").sources["math12k"]
    assert newest_commit("math12k", source) == "commit of hiyouga/math12k at None"


# --- work of before origins were kept ---


def test_work_whose_sources_nobody_kept_is_read_anew(asking, monkeypatch):
    request = asking()
    killed_at("metamath-", monkeypatch, request)
    path = request.work / unfinished.ASKED
    old = {"seed": 42, "rows": None, "sources": {"numina": [["numina.jsonl", 9]], "metamath": "m"}}
    path.write_text(json.dumps(old), encoding="utf-8")
    said = []
    assert prepare_corpus(request, said.append) == NUMINA + METAMATH
    assert "numina: is read from elsewhere now, from its first row" in said
