"""Answers get lm-eval's marks from a worker that may hang, grow or die without losing the run.

`exact_match` is tested here with equal texts and with a stand-in for lm-eval's comparison; the real
one needs the antlr4 runtime 4.11 and is tested where `PTL_ANTLR_4_11` names it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from ptl_plugins.errors import PTLError
from ptl_plugins.evaluation import math_judge
from ptl_plugins.evaluation.math_judge import ANTLR_VARIABLE, WORKER, MathJudge

pytest.importorskip("lm_eval", reason="the extra [eval] is not installed")
pytest.importorskip("math_verify", reason="the extra [eval] is not installed")

SAID = "So.\nFinal Answer: The final answer is ${}$. I hope it is correct."
HANGS = SAID.format("200000000!")
"""Ends only with math-verify's own alarm, after 5 seconds."""
ANTLR = os.environ.get(ANTLR_VARIABLE)
READY = '{"exact_match_rule": "strings", "versions": {}}'
STUB = f"import os, sys, time\nsys.stdin.readline()\nprint('{READY}', flush=True)\n"


@pytest.fixture(scope="module")
def judge():
    """One judge without the antlr4 runtime 4.11, whatever the environment names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(ANTLR_VARIABLE, raising=False)
        with MathJudge() as judge:
            yield judge


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """A judge whose worker is ready, and then does what the given code does with each line."""

    def begin(code: str, **settings: float) -> MathJudge:
        program = tmp_path / "worker.py"
        program.write_text(STUB + code, encoding="utf-8")
        monkeypatch.setattr(math_judge, "WORKER", program)
        return MathJudge(**settings)

    return begin


@pytest.fixture
def worker():
    """The worker's functions, from its file: it is a program and not part of the package."""
    spec = importlib.util.spec_from_file_location("worker", WORKER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("response", "solution", "math_verify", "exact_match"),
    [
        (SAID.format("12"), r"It is $\boxed{12}$.", 1, 1),
        (SAID.format("13"), r"It is $\boxed{12}$.", 0, 0),
        (r"I find $\boxed{12}$.", r"It is $\boxed{12}$.", 1, 0),
        (SAID.format("1,200"), r"They are $\boxed{1200}$ men.", 1, 1),
        (SAID.format(r"\frac34"), r"$\frac{6}{8} = \boxed{\frac{3}{4}}$", 1, 1),
        (SAID.format("0.75"), r"$\boxed{\frac{3}{4}}$", 1, 0),
        (SAID.format("[0,3)"), r"The domain is $\boxed{[0,3)}$.", 1, 1),
        (SAID.format("5"), r"First $\boxed{4}$, then $\boxed{5}$.", 1, 1),
        ("", r"$\boxed{2}$", 0, 0),
        ("I do not know.", r"$\boxed{2}$", 0, 0),
        (r"}{\boxed{\frac{1}{", r"$\boxed{2}$", 0, 0),
        ("\ud800 \x00 \u221e", r"$\boxed{2}$", 0, 0),
        ("so " * 200_000, r"$\boxed{2}$", 0, 0),
    ],
)
def test_a_response_gets_both_marks(judge, response, solution, math_verify, exact_match):
    verdict = judge.judge(response, solution=solution)
    assert verdict.marks == {"math_verify": math_verify, "exact_match": exact_match}
    assert (verdict.status, verdict.gold, verdict.detail) == ("judged", "solution", "")


@pytest.mark.parametrize("answer", [r"\frac{1}{2}", r"$\frac{1}{2}$", r"\boxed{\frac{1}{2}}"])
@pytest.mark.parametrize("solution", [None, "", "it is obvious", r"\boxed{never closed"])
def test_the_plain_answer_is_used_where_the_solution_has_no_box(judge, solution, answer):
    verdict = judge.judge(SAID.format(r"\frac12"), solution=solution, answer=answer)
    assert (verdict.status, verdict.gold) == ("judged", "answer")
    assert verdict.marks == {"math_verify": 1, "exact_match": 1}


def test_the_solution_goes_before_the_plain_answer_as_in_lm_eval(judge):
    verdict = judge.judge(SAID.format("3"), solution=r"$\boxed{3}$", answer="4")
    assert (verdict.gold, verdict.exact_match) == ("solution", 1)


@pytest.mark.parametrize(
    ("solution", "answer", "gold", "reason"),
    [
        ("The answer is 7.", None, None, "no closed box in the solution and no answer"),
        (r"\fbox{7}", "  ", None, "no closed box"),
        (None, None, None, "no closed box"),
        (r"$\boxed{}$", None, "solution", "nothing is left"),
    ],
)
def test_a_gold_answer_that_cannot_be_read_is_said(judge, solution, answer, gold, reason):
    verdict = judge.judge(SAID.format("7"), solution=solution, answer=answer)
    assert (verdict.status, verdict.gold) == ("unreadable_gold", gold)
    assert verdict.marks == {"math_verify": 0, "exact_match": 0}
    assert reason in verdict.detail


def test_one_mark_is_kept_where_the_other_has_no_gold(judge):
    verdict = judge.judge(SAID.format("x"), solution=r"$\boxed{x}$ is $\boxed{ }$, $x$")
    assert verdict.status == "unreadable_gold"
    assert verdict.marks == {"math_verify": 1, "exact_match": 0}


def test_the_rule_and_the_versions_that_judged_are_known(judge):
    assert judge.exact_match_rule == "strings"
    assert {"lm_eval", "math-verify", "sympy"} <= {k for k, v in judge.versions.items() if v}
    assert judge.judge(SAID.format(r"\frac{2}{4}"), solution=r"\boxed{\frac12}").exact_match == 0


def test_a_verdict_cannot_be_changed(judge):
    verdict = judge.judge("", solution=r"\boxed{1}")
    with pytest.raises(dataclasses.FrozenInstanceError):
        verdict.math_verify = 1


@pytest.mark.parametrize(("rule", "value"), [("strings", 0), ("sympy", 1)])
def test_lm_evals_comparison_decides_where_its_grammar_is_there(worker, rule, value):
    rules = {
        "remove_boxed": lambda text: text,
        "last_boxed_only_string": lambda text: text,
        "normalize_final_answer": lambda text: text,
        "get_unnormalized_answer": lambda text: text,
        "is_equiv": lambda given, gold: (given, gold) == ("2/4", "1/2"),
    }
    question = {"response": "2/4", "solution": "1/2", "answer": None}
    assert worker.exact_match(question, rules, rule)["value"] == value


@pytest.mark.skipif(not ANTLR, reason=f"{ANTLR_VARIABLE} names no antlr4 runtime 4.11")
def test_formulas_match_where_the_real_grammar_is_there(monkeypatch):
    monkeypatch.setenv(ANTLR_VARIABLE, str(ANTLR))
    with MathJudge() as judge:
        assert judge.exact_match_rule == "sympy"
        assert judge.versions["antlr4-python3-runtime"].startswith("4.11")
        verdict = judge.judge(SAID.format(r"\frac{2}{4}"), solution=r"\boxed{\frac12}")
        assert verdict.marks == {"math_verify": 1, "exact_match": 1}
        verdict = judge.judge(SAID.format("2x + x"), solution=r"\boxed{3x + 1}")
        assert verdict.marks == {"math_verify": 0, "exact_match": 0}


def test_an_answer_that_takes_too_long_is_wrong_and_the_next_is_judged():
    with MathJudge(time_limit=1.0) as judge:
        begun = time.monotonic()
        verdict = judge.judge(HANGS, solution=r"$\boxed{2}$")
        assert time.monotonic() - begun < 10
        assert (verdict.status, verdict.detail) == ("timed_out", "no verdict in 1 s")
        assert verdict.marks == {"math_verify": 0, "exact_match": 0}
        assert judge.judge(SAID.format("2"), solution=r"$\boxed{2}$").math_verify == 1


def test_a_mark_is_kept_when_the_other_takes_too_long(stub):
    code = (
        "for line in sys.stdin:\n"
        "    if 'math_verify' in line.split('\"mark\"')[1]: time.sleep(60)\n"
        '    print(\'{"value": 1, "gold": "solution", "unreadable_gold": null}\', flush=True)\n'
    )
    with stub(code, time_limit=0.5) as judge:
        verdict = judge.judge("x", solution="y")
    assert (verdict.status, verdict.marks) == ("timed_out", {"math_verify": 0, "exact_match": 1})
    assert verdict.gold == "solution"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("sys.stdin.readline(); os.kill(os.getpid(), 9)", "exit code -9"),
        ("os._exit(3)", "exit code 3"),
        ("sys.stdin.readline(); print('half a line', end='', flush=True)", "exit code 0"),
        ("sys.stdin.readline(); [sys.stdout.write('x' * 9999) for _ in iter(int, 1)]", "exit"),
        (
            'for line in sys.stdin: print(\'{"failed": "RecursionError: a\\\\nb"}\', flush=True)',
            "RecursionError: a b",
        ),
    ],
)
def test_a_worker_that_dies_or_babbles_loses_only_that_answer(stub, code, reason):
    with stub(code, time_limit=5.0) as judge:
        verdict = judge.judge("x", solution="y")
        assert verdict.status == "failed"
        assert reason in verdict.detail
        assert "\n" not in verdict.detail
        assert judge.judge("x", solution="y").status == "failed"


def test_a_worker_that_starts_no_more_is_not_tried_for_ever(stub, monkeypatch):
    with stub("os._exit(1)") as judge:
        starts = []
        monkeypatch.setattr(judge, "_start", lambda: starts.append(1) or _raise("no memory"))
        judge._end()
        verdicts = [judge.judge("x", solution="y") for _ in range(4)]
    assert len(starts) == math_judge.MOST_FAILED_STARTS
    assert {verdict.status for verdict in verdicts} == {"failed"}
    assert "no memory" in verdicts[0].detail
    assert "did not start" in verdicts[-1].detail


def test_an_interrupted_question_does_not_give_its_reply_to_the_next(judge, monkeypatch):
    before = judge._worker.pid
    with monkeypatch.context() as patch:
        patch.setattr(math_judge, "_next_line", lambda *_: _raise(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            judge.judge(SAID.format("1"), solution=r"\boxed{1}")
    assert not psutil.pid_exists(before)
    assert judge.judge(SAID.format("2"), solution=r"\boxed{1}").math_verify == 0


def test_memory_of_the_worker_is_bounded():
    source = "import resource; print('limit', resource.getrlimit(resource.RLIMIT_AS)[0])"
    setup = {"source": source, "antlr": None, "memory": 3 << 30}
    ran = subprocess.run(
        [sys.executable, "-P", str(WORKER)],
        input=json.dumps(setup) + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"limit {3 << 30}" in ran.stderr
    assert "limit" not in ran.stdout  # what is printed is no reply


def test_a_worker_nobody_kills_ends_itself_after_its_computing_time():
    source = "remove_boxed = str\ndef last_boxed_only_string(text):\n    while True: pass\n"
    setup = {"source": source, "antlr": None, "memory": 4 << 30}
    question = {"mark": "exact_match", "response": "", "solution": "", "answer": ""}
    lines = "".join(json.dumps(line) + "\n" for line in (setup, question | {"seconds": 1}))
    ran = subprocess.run(
        [sys.executable, "-P", str(WORKER)],
        input=lines,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == -signal.SIGXCPU


def test_a_worker_ends_when_its_parent_is_killed():
    program = (
        "import time; from ptl_plugins.evaluation.math_judge import MathJudge\n"
        "with MathJudge() as judge:\n    print(judge._worker.pid, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    gone, _ = psutil.wait_procs([worker], timeout=10)
    assert gone or worker.status() == psutil.STATUS_ZOMBIE  # not ours to reap


def test_ctrl_c_on_the_group_does_not_reach_the_worker(judge):
    judge.judge("", solution="")
    os.kill(judge._worker.pid, signal.SIGINT)
    before = judge._worker.pid
    assert judge.judge(SAID.format("1"), solution=r"\boxed{1}").math_verify == 1
    assert judge._worker.pid == before


def test_the_worker_is_gone_after_the_with():
    with MathJudge() as judge:
        process = judge._worker
    assert process.returncode is not None


def test_a_folder_without_the_grammar_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv(ANTLR_VARIABLE, str(tmp_path))
    with pytest.raises(PTLError) as raised, MathJudge():
        pass
    line = str(raised.value)
    assert f"{ANTLR_VARIABLE}={tmp_path}" in line
    assert "antlr4-python3-runtime==4.11.0" in line
    assert "\n" not in line


def test_a_missing_math_verify_is_one_line_with_the_command(tmp_path, monkeypatch):
    (tmp_path / "math_verify.py").write_text("raise ModuleNotFoundError('No module math_verify')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(PTLError, match=r"No module math_verify.*pip install 'ptl\[eval\]'"):
        MathJudge().__enter__()


def test_a_worker_that_does_not_start_names_the_program(stub):
    judge = stub("")
    math_judge.WORKER.write_text("raise SystemExit(4)")
    with pytest.raises(PTLError, match=r"did not start .*exit code 4.*worker\.py"):
        judge.__enter__()


def test_a_time_limit_of_nothing_is_refused():
    with pytest.raises(PTLError, match="above 0"):
        MathJudge(time_limit=0)


def _raise(error):
    raise error if not isinstance(error, str) else OSError(error)
