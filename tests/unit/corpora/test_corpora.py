"""`ptl data`: which rows are written, in which order, from where."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc
from collections import Counter

from small_corpus import METAMATH, NAME, NUMINA, lines_of, say_nothing, write_jsonl

from ptl_plugins.corpora import prepare, rows, unfinished
from ptl_plugins.corpora.catalogue import CORPORA, Corpus, Source, find_corpus
from ptl_plugins.corpora.prepare import CorpusRequest, digest, prepare_corpus
from ptl_plugins.text_data import read_all_texts, read_rows


def test_every_row_of_every_source_is_written_once_as_a_text_of_question_and_answer(asking):
    request = asking()
    assert prepare_corpus(request, say_nothing) == NUMINA + METAMATH
    texts = read_all_texts(str(request.folder))
    numina = [f"Question: p {i}\r\n\u2028{{x}}?Answer: s{i}" for i in range(NUMINA)]
    metamath = [f"Question: q{i}?Answer: r" for i in range(METAMATH)]
    assert Counter(texts) == Counter(numina + metamath)
    assert texts != numina + metamath


def test_the_sources_are_mixed_and_each_shard_but_the_last_is_full(asking):
    request = asking()
    prepare_corpus(request, say_nothing)
    shards = [shard.read_text(encoding="utf-8") for shard in sorted(request.folder.iterdir())]
    assert [shard.count("\n") for shard in shards] == [20, 20, 20, 20, 8]
    assert all("Question: p" in shard and "Question: q" in shard for shard in shards)


def test_the_seed_alone_decides_the_order_and_chunks_shards_and_the_place_do_not(asking, tmp_path):
    def made(out, **keys):
        request = asking(out, **keys)
        prepare_corpus(request, say_nothing)
        return digest(request.folder)

    rows_ = [{"query": f"q{i}?", "response": "r"} for i in range(METAMATH)]
    elsewhere = write_jsonl(tmp_path / "other.jsonl", rows_)
    first = made("a")
    assert made("b", chunk_bytes=10**9, shard_rows=1000) == first
    assert made("c", local={**asking().local, "metamath": str(elsewhere)}) == first
    assert made("d", seed=43) != first


def test_rows_are_the_first_of_the_whole_shuffled_corpus(asking):
    whole, some = asking("a"), asking("b", rows=33)
    prepare_corpus(whole, say_nothing)
    assert prepare_corpus(some, say_nothing) == 33
    assert lines_of(some.folder) == lines_of(whole.folder)[:33]


def test_llamafactory_gets_an_entry_and_the_entries_of_others_stay(asking):
    request = asking()
    request.out.mkdir()
    info = request.out / "dataset_info.json"
    info.write_text('{"mine": {"file_name": "mine.jsonl"}}', encoding="utf-8")
    prepare_corpus(request, say_nothing)
    assert json.loads(info.read_text(encoding="utf-8")) == {
        "mine": {"file_name": "mine.jsonl"},
        NAME: {"file_name": NAME, "columns": {"prompt": "text"}},
    }


def test_nothing_but_the_corpus_is_left_when_it_is_done(asking):
    request = asking()
    prepare_corpus(request, say_nothing)
    left = {path.name for path in request.out.iterdir()}
    assert left == {NAME, f"{NAME}.corpus", "dataset_info.json", ".dataset_info.json.lock"}
    assert {path.suffix for path in request.folder.iterdir()} == {".jsonl"}


def test_problems_for_grpo_keep_their_two_columns_and_get_no_entry(tmp_path):
    rows_ = [{"problem": f"{i}?", "answer": str(i), "level": 3} for i in range(5)]
    path = write_jsonl(tmp_path / "problems.jsonl", rows_)
    request = CorpusRequest(name="math12k", out=tmp_path / "data", local={"math12k": str(path)})
    prepare_corpus(request, say_nothing)
    found = sorted(read_rows(str(request.folder)), key=lambda row: row["answer"])
    assert found == [{"problem": f"{i}?", "answer": str(i)} for i in range(5)]
    assert not (tmp_path / "data" / "dataset_info.json").exists()


def test_code_is_answers_to_instructions_and_the_first_files_of_starcoder(tmp_path, monkeypatch):

    corpus = CORPORA["opc_starcoder"]
    few = dataclasses.replace(corpus.sources["starcoder_python"], limit=3)
    sources = {**corpus.sources, "starcoder_python": few}
    monkeypatch.setitem(
        prepare.find_corpus.__globals__["CORPORA"], "opc_starcoder",
        dataclasses.replace(corpus, sources=sources),
    )  # fmt: skip
    opc = write_jsonl(tmp_path / "opc.jsonl", [{"instruction": "Add.", "output": "a + b"}])
    files = write_jsonl(tmp_path / "star.jsonl", [{"content": f"x = {i}\n"} for i in range(9)])
    local = dict.fromkeys(corpus.sources, str(opc)) | {"starcoder_python": str(files)}
    request = CorpusRequest(name="opc_starcoder", out=tmp_path / "data", local=local)
    prepare_corpus(request, say_nothing)
    texts = Counter(read_all_texts(str(request.folder)))
    assert texts == {"Question: Add.Answer: a + b": 4} | {f"x = {i}\n": 1 for i in range(3)}


def test_rows_without_any_text_are_left_out_and_others_keep_their_place(asking, tmp_path):
    request = asking("a")
    prepare_corpus(request, say_nothing)
    numina = list(read_rows(str(tmp_path / "numina.jsonl")))
    numina[5] = {"problem": " ", "solution": None}
    blank = write_jsonl(tmp_path / "blank.jsonl", numina)
    other = asking("b", local={**request.local, "numina": str(blank)})
    prepare_corpus(other, say_nothing)
    gone = [line for line in lines_of(request.folder) if "p 5\\r" not in line]
    assert lines_of(other.folder) == gone


def test_half_a_surrogate_pair_becomes_a_question_mark(tmp_path):
    path = tmp_path / "broken.jsonl"
    path.write_text('{"problem": "a \\ud800 b", "answer": "1"}\n', encoding="utf-8")
    request = CorpusRequest(name="math12k", out=tmp_path / "data", local={"math12k": str(path)})
    prepare_corpus(request, say_nothing)
    assert [row["problem"] for row in read_rows(str(request.folder))] == ["a ? b"]


def test_a_folder_and_a_pattern_are_read_in_the_order_of_their_names(tmp_path):
    for part in (1, 0):
        rows_ = [{"query": f"q{part}{i}", "response": "r"} for i in range(3)]
        write_jsonl(tmp_path / f"train-{part}.jsonl", rows_)
    write_jsonl(tmp_path / "test-0.jsonl", [{"query": "held out", "response": "r"}])
    files = rows.local_files("metamath", str(tmp_path / "train-*.jsonl"))
    assert [file.name for file in files] == ["train-0.jsonl", "train-1.jsonl"]
    source = find_corpus(NAME).sources["metamath"]
    found = [row["text"] for row in rows.source_rows("metamath", source, files, first=2)]
    assert found == [f"Question: q{n}Answer: r" for n in ("02", "10", "11", "12")]


def test_the_hub_is_asked_for_a_stream_and_resumed_by_passing_over_rows(monkeypatch):
    import datasets

    asked = []

    class Stream(list):
        def skip(self, number):
            return Stream(self[number:])

    def load_dataset(*names, **options):
        asked.append((names, options))
        return Stream({"content": str(i)} for i in range(9))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = Source(
        repository="a/b", folder="python", config="c", limit=5, revision="c0ffee",
        columns={"text": "{content}"},
    )  # fmt: skip
    found = [row["text"] for row in rows.source_rows("x", source, (), first=3)]
    assert found == ["3", "4"]
    options = {"streaming": True, "split": "train", "data_dir": "python", "revision": "c0ffee"}
    assert asked == [(("a/b", "c"), options)]


def test_memory_does_not_grow_with_the_number_of_rows(tmp_path, monkeypatch):
    """Of rows that are made as they are read: 2 MB and 8 MB of text, in chunks of 0.25 MB."""
    source = Source(repository="a/b", columns={"text": "{text}"})
    monkeypatch.setitem(CORPORA, "large", Corpus(about="", sources={"only": source}))
    monkeypatch.setattr(unfinished, "newest_commit", lambda name, source: "c0ffee")

    def peak(number):
        made = ({"text": f"{i} " + "x" * 1000} for i in range(number))
        monkeypatch.setattr(prepare, "source_rows", lambda *args, **kwargs: made)
        request = CorpusRequest(
            name="large", out=tmp_path / str(number), chunk_bytes=2**18, shard_rows=1000
        )
        tracemalloc.start()
        assert prepare_corpus(request, say_nothing) == number
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(100)  # what is imported on the way
    small, large = peak(2_000), peak(8_000)
    assert large < 2_000_000
    assert large < 2 * small
