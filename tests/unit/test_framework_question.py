"""A program in a framework's interpreter is asked: what it gets, and what it may do wrong."""

from __future__ import annotations

import sys
import time

import pytest

from ptl_plugins.framework_question import ALONE, NoAnswerError, ask, run_alone

ECHO = "import json, sys; print(json.dumps({'text': sys.stdin.read()}))"
TELL = "import json, os; print(json.dumps({'env': dict(os.environ), 'folder': os.getcwd()}))"


def question(program, text="", **keys):
    facts = {"framework": "Framework", "timeout": 20, **keys}
    return ask((sys.executable, "-I", "-S", "-c", program), text, **facts)


def test_text_goes_in_and_an_object_comes_out():
    text = "learning_rate: 1e-5\n# \u00fcber\n" + "a" * 300_000
    assert question(ECHO, text) == {"text": text}


def test_the_program_is_alone_whatever_this_process_was_launched_as(monkeypatch, tmp_path):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "LOCAL_RANK", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("KEPT", "yes")
    answer = question(TELL, environment={"MORE": "1", "HF_HUB_OFFLINE": "0"}, folder=tmp_path)
    found = answer["env"]
    assert not found.keys() & {"RANK", "WORLD_SIZE", "MASTER_ADDR", "LOCAL_RANK"}
    assert "OMPI_COMM_WORLD_SIZE" not in found
    assert {**ALONE, "KEPT": "yes", "MORE": "1", "HF_HUB_OFFLINE": "0"}.items() <= found.items()
    assert tmp_path.samefile(answer["folder"])


def test_a_program_works_where_this_process_does_unless_it_is_told(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert tmp_path.samefile(question(TELL)["folder"])


def test_what_is_no_json_is_told_with_the_last_lines_of_stderr():
    program = "import sys; print('hello'); sys.exit('\\n'.join(f'line {i}' for i in range(9)))"
    with pytest.raises(NoAnswerError) as raised:
        question(program)
    expected = "line 4 | line 5 | line 6 | line 7 | line 8"
    assert str(raised.value) == f"{sys.executable} ended with 1: {expected}"


def test_bytes_that_are_no_text_are_no_traceback():
    program = "import os; os.write(2, b'\\xff\\xfe broken')"
    with pytest.raises(NoAnswerError, match=r"ended with 0: .* broken$"):
        question(program)


def test_a_program_that_hangs_is_killed_and_named():
    begin = time.monotonic()
    with pytest.raises(NoAnswerError) as raised:
        question("import time; time.sleep(50)", timeout=0.5)
    assert time.monotonic() - begin < 10
    assert str(raised.value) == (
        f"{sys.executable} took more than 0.5 s; is Framework usable there?"
    )


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: None, "No such file or directory"),
        (lambda path: path.write_text("text"), "Permission denied"),
        (lambda path: path.mkdir(), "Permission denied"),
        (lambda path: (path.write_text("text"), path.chmod(0o755)), "Exec format error"),
    ],
)
def test_what_is_no_interpreter_cannot_be_started(tmp_path, make, why):
    path = tmp_path / "python"
    make(path)
    with pytest.raises(NoAnswerError) as raised:
        run_alone((str(path), "-c", "1"), framework="Framework", timeout=20)
    assert str(raised.value) == f"{path} cannot be started ({why})"


def test_an_exit_code_and_both_streams_come_back():
    program = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    done = run_alone((sys.executable, "-I", "-S", "-c", program), framework="Framework", timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")


def test_json_that_is_no_object_is_no_answer():
    with pytest.raises(NoAnswerError, match="ended with 0"):
        question("print('[1]')")


def test_a_relative_interpreter_is_one_of_this_processs_folder(monkeypatch, tmp_path):
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "python"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    words = ("bin/python", "-I", "-S", "-c", ECHO)
    assert ask(words, "1", framework="Framework", timeout=20) == {"text": "1"}
