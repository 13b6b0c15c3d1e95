"""`ptl data`: the same bytes whatever happens on the way, and what it refuses."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections import Counter

import pytest

from ptl_plugins import durable
from ptl_plugins.cli.main import main
from ptl_plugins.corpora import prepare, rows
from ptl_plugins.corpora.catalogue import CORPORA, Corpus, Source, find_corpus
from ptl_plugins.corpora.prepare import CorpusRequest, digest, prepare_corpus
from ptl_plugins.errors import PTLError, RunFolderError
from ptl_plugins.run_lock import lock_folder
from ptl_plugins.text_data import read_all_texts, read_rows

NUMINA, METAMATH = 57, 31
NAME = "numina_metamath"


class KilledError(BaseException):
    """What a kill looks like to code that must not catch it."""


def say_nothing(line):
    """Take a line."""


def lines_of(folder):
    texts = [shard.read_text(encoding="utf-8") for shard in sorted(folder.iterdir())]
    return "".join(texts).split("\n")[:-1]


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


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


# --- what is written ---


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
    import dataclasses

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
        repository="a/b", folder="python", config="c", limit=5, columns={"text": "{content}"}
    )
    found = [row["text"] for row in rows.source_rows("x", source, (), first=3)]
    assert found == ["3", "4"]
    options = {"streaming": True, "split": "train", "data_dir": "python"}
    assert asked == [(("a/b", "c"), options)]


def test_memory_does_not_grow_with_the_number_of_rows(tmp_path, monkeypatch):
    """Of rows that are made as they are read: 2 MB and 8 MB of text, in chunks of 0.25 MB."""
    source = Source(repository="a/b", columns={"text": "{text}"})
    monkeypatch.setitem(CORPORA, "large", Corpus(about="", sources={"only": source}))

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


# --- cut short ---


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


# --- refused ---


def test_another_request_for_a_finished_or_an_unfinished_corpus_is_refused(asking, monkeypatch):
    prepare_corpus(asking(), say_nothing)
    with pytest.raises(PTLError, match="was written with other seed, rows; give another --out"):
        prepare_corpus(asking(seed=1, rows=3), say_nothing)
    with pytest.raises(PTLError):
        prepare_corpus(asking("b", rows=10**6), say_nothing)
    with pytest.raises(PTLError, match="holds unfinished work with seed 42; go on with that seed"):
        prepare_corpus(asking("b", seed=1), say_nothing)


def test_a_folder_of_something_else_is_refused_and_left_alone(asking):
    request = asking()
    request.folder.mkdir(parents=True)
    (request.folder / "mine.jsonl").write_text("{}\n", encoding="utf-8")
    with pytest.raises(PTLError, match="is there already, and no corpus that ptl data wrote"):
        prepare_corpus(request, say_nothing)
    assert [path.name for path in request.folder.iterdir()] == ["mine.jsonl"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["numina"], "unknown corpus 'numina'"),
        ([NAME, "--source", "numina"], "--source numina: is not NAME=PATH"),
        ([NAME, "--source", "numima=x.jsonl"], "no source 'numima' (did you mean 'numina'?)"),
        ([NAME, "--source", "numina=x.jsonl"], "numina=x.jsonl: no such file"),
        ([NAME, "--source", "numina=x-*.jsonl"], "numina=x-*.jsonl: no such file"),
        ([NAME, "--source", "numina=program.py"], "holds .py; one kind of .jsonl"),
        ([NAME, "--source", "numina=mixed"], "holds .json, .jsonl; one kind of"),
        ([NAME, "--source", "numina=empty"], "numina=empty: no such file"),
        ([NAME, "--source", "numina=a.jsonl", "--source", "numina=a.jsonl"], "given twice"),
        ([NAME, "--rows", "0"], "--rows"),
        ([NAME, "--seed", "-1"], "--seed"),
    ],
)
def test_wrong_words_are_one_line_and_nothing_is_written(ptl, tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    for name in ("program.py", "a.jsonl", "mixed/a.jsonl", "mixed/b.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}\n", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    code, _, printed = ptl("data", *words, "--out", "data")
    assert code == 2
    assert printed.count("\n") == 1
    assert told in printed
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"problem": "1?"}\n', "source 'math12k': has no column 'answer'; it has problem"),
        ("not json\n", "broken.jsonl': line 1 is not JSON"),
        ("\n", "the sources have 0 rows"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_one_line(ptl, tmp_path, text, told):
    path = tmp_path / "broken.jsonl"
    path.write_text(text, encoding="utf-8")
    code, _, printed = ptl(
        "data", "math12k", "--out", tmp_path / "d", "--source", f"math12k={path}"
    )
    assert (code, printed.count("\n")) == (2, 1)
    assert told in printed


def test_a_damaged_parquet_file_is_one_line(ptl, tmp_path):
    path = tmp_path / "broken.parquet"
    path.write_bytes(b"PAR1 not really")
    code, _, printed = ptl(
        "data", "math12k", "--out", tmp_path / "d", "--source", f"math12k={path}"
    )
    assert (code, printed.count("\n")) == (2, 1)
    assert "its local copy cannot be read after row 0" in printed


def test_a_list_of_data_sets_that_is_no_json_is_refused_before_anything_is_read(asking):
    request = asking()
    request.out.mkdir()
    (request.out / "dataset_info.json").write_text("[", encoding="utf-8")
    with pytest.raises(PTLError, match=r"dataset_info\.json is not JSON"):
        prepare_corpus(request, say_nothing)
    assert [path.name for path in request.out.iterdir()] == ["dataset_info.json"]


def test_the_command_prints_what_it_does_and_lists_the_corpora(ptl, tmp_path, local):
    sources = [word for name, path in local.items() for word in ("--source", f"{name}={path}")]
    code, out, _ = ptl("data", NAME, "--out", tmp_path / "d", *sources)
    assert code == 0
    assert "numina: has 57 rows, and 859,494 when this was written" in out
    assert out.splitlines()[-1] == f"{tmp_path / 'd' / NAME}: 88 rows"
    code, out, _ = ptl("ls", "corpora")
    assert [line.split()[0] for line in out.splitlines()] == list(CORPORA)


def test_a_corpus_that_is_missing_is_refused_with_the_command_that_writes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = r"no such file \(ptl data math12k --out data writes it\), and not readable"
    with pytest.raises(PTLError, match=told):
        read_rows("data/math12k")


def test_two_at_a_time_do_not_work_on_one_corpus(asking):
    request = asking()
    request.work.mkdir(parents=True)
    lock = lock_folder(request.work)
    with pytest.raises(RunFolderError, match="another run works in this folder"):
        prepare_corpus(request, say_nothing)
    lock.release()
    assert prepare_corpus(request, say_nothing) == NUMINA + METAMATH


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_full_disk_or_no_right_to_write_is_one_line_and_what_is_there_stays(
    ptl, tmp_path, local, monkeypatch, code
):
    def fails(temporary, path):
        if path.suffix == ".rows":
            raise OSError(code, os.strerror(code), str(path))
        real(temporary, path)

    real = durable.replace
    monkeypatch.setattr(durable, "replace", fails)
    words = [word for name, path in local.items() for word in ("--source", f"{name}={path}")]
    ended, _, printed = ptl("data", NAME, "--out", tmp_path / "d", *words)
    assert (ended, printed.count("\n")) == (2, 1)
    assert os.strerror(code) in printed
    monkeypatch.setattr(durable, "replace", real)
    assert ptl("data", NAME, "--out", tmp_path / "d", *words)[0] == 0


def test_the_papers_corpus_has_as_many_rows_as_its_sources_together():
    expected = [source.expected for source in CORPORA[NAME].sources.values()]
    assert sum(expected) == 1_254_494
