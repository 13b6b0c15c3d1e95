"""Honest programs pass, wrong ones fail, and an early end is no pass."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from ptl_plugins.code_execution import CodeExecutionError, Containment, Limits, run_program

HONEST = {
    "arithmetic": "def add(a, b):\n    return a + b\nassert add(1, 2) == 3",
    "carriage returns": "def f(n):\r\n\treturn n * 2\r\nassert f(2) == 4",
    "heapq, re and collections": (
        "import heapq, re, math, itertools\n"
        "from collections import Counter\n"
        "assert heapq.nlargest(1, [1, 3, 2]) == [3]\n"
        "assert re.findall(r'\\d+', 'a1b22') == ['1', '22']\n"
        "assert Counter('aab')['a'] == 2 and math.gcd(4, 6) == 2\n"
        "assert len(list(itertools.permutations('abc'))) == 6"
    ),
    "recursion": (
        "import sys\nsys.setrecursionlimit(5000)\n"
        "def depth(n):\n    return 0 if n == 0 else 1 + depth(n - 1)\n"
        "assert depth(4000) == 4000"
    ),
    "a dataclass": (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Point:\n    x: int\nassert Point(3).x == 3"
    ),
    "a file of its own": "open('a', 'w').write('b')\nassert open('a').read() == 'b'",
    "asyncio and a thread": (
        "import asyncio, threading\nasync def f():\n    return 3\nassert asyncio.run(f()) == 3\n"
        "t = threading.Thread(target=print)\nt.start()\nt.join()"
    ),
    "output": "print('x' * 100000)",
    "not the main program, as in HF's code_eval": (
        "if __name__ == '__main__':\n    raise SystemExit"
    ),
    "replaced builtins": "import builtins, os\nbuiltins.len = os.write = os.read = os._exit = None",
}


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_program_passes(name):
    result = run_program(HONEST[name])
    assert (result.passed, result.outcome, result.detail) == (True, "passed", "")


def test_an_honest_program_passes_within_all_and_the_fewest_walls(walls):
    assert run_program(HONEST["heapq, re and collections"], within=walls).passed


def test_programs_of_several_threads_do_not_share_a_limit():
    sources = [f"import time\ntime.sleep(0.2)\nassert {n} % 2 == 0" for n in range(8)]
    with ThreadPoolExecutor(4) as threads:
        results = threads.map(lambda one: run_program(one, limits=Limits(processes=1)), sources)
        assert [result.passed for result in results] == [True, False] * 4


def test_a_wrong_answer_fails_and_names_the_line():
    result = run_program("def f():\n    return 1\nassert f() == 2, 'two'")
    assert (result.passed, result.outcome) == (False, "failed")
    assert result.detail == "AssertionError at line 3: two"


EARLY_ENDS = {
    "sys.exit(0)": "import sys\nsys.exit(0)\nassert False",
    "os._exit(0)": "import os\nos._exit(0)\nassert False",
    "a bare exception": "raise BaseException",
    "closed descriptors": "import os\nos.closerange(0, 100)",
    "another program": "import os, sys\nos.execv(sys.executable, ['python', '-c', 'pass'])",
    "a child that runs on": "import os\nif os.fork():\n    os.wait()\n    os._exit(0)",
    "a replaced exit": "import os\nos._exit = lambda code: None\nassert False",
    "a result of its own": "import os\nos.write(4, b'p' + b'0' * 32)\nos._exit(0)",
    "its result twice": "import os\nos.write(4, b'p')",
    "reading stdin": "assert input() is not None",
    "no syntax": "def f(:",
    "a null byte": "a = 1\0",
    "a surrogate": "a = '\ud800'",
    "a message that fails": (
        "class E(Exception):\n    def __str__(self):\n        raise ValueError\nraise E"
    ),
}


@pytest.mark.parametrize("name", EARLY_ENDS)
def test_an_end_before_the_last_statement_fails(name):
    result = run_program(EARLY_ENDS[name])
    assert (result.passed, result.outcome) == (False, "failed")
    assert result.detail


def test_a_long_source_is_refused():
    result = run_program("a = 1\n" * 2_000_000)
    assert (result.passed, result.outcome) == (False, "refused")
    assert result.detail == "source of 12000000 bytes, 1048576 allowed"


def test_the_detail_is_one_short_line_of_ascii():
    result = run_program("raise ValueError('\\n\\x1b[31m\\u2603' * 1000)")
    assert len(result.detail) <= 200
    assert result.detail.isascii()
    assert result.detail.isprintable()
    assert result.detail.startswith("ValueError at line 1: [31m")


def test_sets_of_strings_have_one_order():
    source = "raise ValueError(str({str(n) for n in range(20)}))"
    assert run_program(source).detail == run_program(source).detail


def test_a_slow_program_is_timed_from_its_first_statement():
    result = run_program("import time\ntime.sleep(0.3)")
    assert result.passed
    assert 0.3 <= result.seconds < 3


@pytest.mark.parametrize("field", ["wall_seconds", "processes", "disk"])
def test_a_limit_of_nothing_is_an_error(field):
    with pytest.raises(CodeExecutionError, match=f"limits: {field} must be above 0, is 0"):
        Limits(**{field: 0})


def test_without_any_wall_nothing_runs():
    with pytest.raises(CodeExecutionError, match="generated programs are not run: "):
        run_program("pass", within=Containment())


def test_a_machine_that_breaks_is_an_error_and_no_score():
    with pytest.raises(CodeExecutionError, match="Python did not start within its limits"):
        run_program("pass", limits=Limits(address_space=1))
