"""What `ptl data` refuses, in one line."""

from __future__ import annotations

import errno
import os

import pytest
from small_corpus import METAMATH, NAME, NUMINA, say_nothing

from ptl_plugins import durable
from ptl_plugins.corpora.catalogue import CORPORA
from ptl_plugins.corpora.prepare import prepare_corpus
from ptl_plugins.errors import PTLError, RunFolderError
from ptl_plugins.run_lock import lock_folder
from ptl_plugins.text_data import read_rows


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
