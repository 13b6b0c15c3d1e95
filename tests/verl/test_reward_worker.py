"""The worker that compares answers: its limits, its end, and what it judges with."""

import contextlib
import importlib.util
import json
import os
import runpy
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

import verl_ext

FILE = Path(verl_ext.__file__).parent / "reward.py"
TABLE = runpy.run_path(str(Path(__file__).parent / "reward_answers.py"))
ENDLESS = TABLE["ENDLESS"][0]
LOAD = f"""
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location("custom_reward_fn", {str(FILE)!r})
reward = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reward)
def accuracy(answer, truth, **settings):
    return reward.score_answer("math", "\\\\boxed{{" + answer + "}}", truth, **settings)["acc"]
"""
STAND_IN = '''
def extract_boxed_content(text: str) -> str:
    return text

def grade_answer(given_answer: str, ground_truth: str) -> bool:
    """A stand-in for mathruler's grader, that knows one pair, in this order."""
    return (given_answer, ground_truth) == ("0.5", "\\\\frac{1}{2}")
'''


@pytest.fixture
def reward():
    spec = importlib.util.spec_from_file_location("custom_reward_fn", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for judge in module._JUDGES.values():
        judge.close()


def accuracy(reward, answer, truth, **settings):
    return reward.score_answer("math", rf"\boxed{{{answer}}}", truth, **settings)["acc"]


def worker_of(reward):
    return reward._judge()._worker


def run(code, **settings):
    return subprocess.run(
        [sys.executable, "-c", LOAD + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=50,
        **settings,
    )


def without(tmp_path, *modules):
    for name in modules:
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} is hidden')\n")
    folders = filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}


def check(environment, file=FILE):
    return subprocess.run(
        [sys.executable, file, "--check"], capture_output=True, text=True, env=environment
    )


def gone(pid, seconds):
    deadline = time.monotonic() + seconds
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture
def math_verify():
    return pytest.importorskip("math_verify")


def test_an_endless_comparison_ends_at_the_limit_and_the_next_is_judged(reward, math_verify):
    assert accuracy(reward, "0.5", r"\frac12") == 1.0  # the start is not part of the limit
    first = worker_of(reward)
    start = time.monotonic()
    assert accuracy(reward, ENDLESS, "7", time_limit=1.0) == 0.0
    assert 0.9 < time.monotonic() - start < 5
    assert first.returncode == -signal.SIGKILL
    assert accuracy(reward, "0.25", r"\frac14") == 1.0
    assert worker_of(reward).pid != first.pid


@pytest.mark.parametrize("answer", TABLE["ENDLESS"])
def test_no_answer_outlasts_the_limit(reward, math_verify, answer):
    assert accuracy(reward, "0.5", r"\frac12") == 1.0
    start = time.monotonic()
    assert accuracy(reward, answer, "7", time_limit=0.5) == 0.0
    assert time.monotonic() - start < 5


def test_a_comparison_cannot_take_the_memory_of_the_machine(reward, math_verify):
    assert accuracy(reward, "0.5", r"\frac12") == 1.0
    limits = psutil.Process(worker_of(reward).pid).rlimit(psutil.RLIMIT_AS)
    assert 0 < limits[0] <= reward.WORKER_BYTES


def test_a_verdict_is_kept_so_that_the_same_answer_costs_its_time_once(reward, math_verify):
    accuracy(reward, ENDLESS, "7", time_limit=1.0)
    start = time.monotonic()
    assert accuracy(reward, ENDLESS, "7", time_limit=30.0) == 0.0
    assert time.monotonic() - start < 0.5


def test_equal_texts_and_integers_need_no_worker(reward):
    assert accuracy(reward, r"\dfrac{1}{2}", r"\frac{1}{2}") == 1.0
    assert accuracy(reward, "43", "42") == 0.0
    assert worker_of(reward) is None


def test_an_ended_worker_leaves_no_zombie(reward, math_verify):
    accuracy(reward, "0.5", r"\frac12")
    pid = worker_of(reward).pid
    accuracy(reward, ENDLESS, "7", time_limit=0.5)
    assert not psutil.pid_exists(pid)


def test_what_a_library_prints_or_raises_is_no_verdict(tmp_path, reward, monkeypatch):
    (tmp_path / "math_verify.py").write_text(
        "parse = lambda text, **_: print('true') or text\ndef verify(*_, **__): raise ValueError\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert accuracy(reward, "0.3", r"\frac12") == 0.0
    first = worker_of(reward)
    assert accuracy(reward, "0.5", r"\frac12") == 0.0
    assert worker_of(reward) is first
    assert first.poll() is None


def test_a_dead_worker_is_replaced(reward, math_verify):
    assert accuracy(reward, "0.5", r"\frac12") == 1.0
    worker_of(reward).kill()
    worker_of(reward).wait()
    assert accuracy(reward, "0.25", r"\frac14") == 1.0


@contextlib.contextmanager
def alarm(seconds):
    def interrupt(signum, frame):
        raise TimeoutError

    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, previous)


def test_an_alarm_in_mid_question_leaves_no_reply_for_the_next_one(reward, math_verify):
    assert accuracy(reward, "0.5", r"\frac12") == 1.0
    first = worker_of(reward)
    with alarm(0.5):
        assert accuracy(reward, ENDLESS, "7", time_limit=30.0) == 0.0
    assert first.returncode == -signal.SIGKILL
    assert accuracy(reward, "0.25", r"\frac14") == 1.0


def test_an_alarm_while_the_worker_starts_leaves_no_greeting_for_the_next_question(
    reward, math_verify
):
    with alarm(0.05):
        assert accuracy(reward, "0.5", r"\frac12") == 0.0
    assert accuracy(reward, "0.3", r"\frac12") == 0.0
    assert accuracy(reward, "0.5", r"\frac12") == 1.0


def test_threads_get_their_own_verdicts(reward, math_verify):
    def judged(number):
        assert threading.current_thread() is not threading.main_thread()
        truth = rf"\frac{{{number}}}{{{number + 1}}}"
        answers = (rf"\frac{{{2 * number}}}{{{2 * number + 2}}}", rf"\frac{{{number}}}{{7777}}")
        return [accuracy(reward, answer, truth) for answer in answers]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(judged, range(1, 33))) == [[1.0, 0.0]] * 32


def test_a_fork_starts_a_worker_of_its_own_and_leaves_its_parents(math_verify):
    done = run("""
        assert accuracy("0.5", "\\\\frac12") == 1.0
        mine = reward._judge()._worker.pid
        child = os.fork()
        if not child:
            assert accuracy("0.25", "\\\\frac14") == 1.0
            assert reward._judge()._worker.pid != mine
            sys.exit(7)
        assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 7
        assert reward._judge()._worker.poll() is None
        assert accuracy("0.2", "\\\\frac15") == 1.0
        assert reward._judge()._worker.pid == mine
    """)
    assert done.returncode == 0, done.stderr


def test_loading_the_file_starts_and_imports_nothing():
    done = run("""
        assert reward._JUDGES == {}
        assert not {"math_verify", "sympy", "mathruler"} & set(sys.modules)
    """)
    assert done.returncode == 0, done.stderr


def test_the_functions_can_be_pickled_by_value_after_use(math_verify):
    pytest.importorskip("cloudpickle")
    done = run("""
        import cloudpickle
        assert accuracy("0.5", "\\\\frac12") == 1.0
        copy = cloudpickle.loads(cloudpickle.dumps(reward.score_answers))
        item = {"response": "\\\\boxed{0.25}", "ground_truth": "\\\\frac14"}
        assert copy([item])[0]["accuracy"] == 1.0
    """)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("ending", ["sys.exit()", "os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_the_worker_ends_with_its_parent(math_verify, ending):
    done = run(f"""
        accuracy("0.5", "\\\\frac12")
        print(reward._judge()._worker.pid, flush=True)
        {ending}
    """)
    assert gone(int(done.stdout), 10)


def test_a_busy_worker_whose_parent_was_killed_ends_itself(math_verify):
    worker = subprocess.Popen(
        [sys.executable, FILE, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with worker:
        assert worker.stdout.readline() == b"true\n"
        # half a second after a limit that is as much below 0 as the grace is long
        worker.stdin.write(json.dumps(["7", ENDLESS, -9.5]).encode() + b"\n")
        worker.stdin.flush()
        assert worker.wait(20) == -signal.SIGALRM


def test_the_check_names_the_library(tmp_path, math_verify):
    done = check(dict(os.environ))
    assert (done.returncode, done.stdout) == (0, "answers are judged by math_verify\n")


def test_a_module_beside_the_file_hides_no_other(tmp_path, math_verify):
    copy = tmp_path / "reward.py"
    copy.write_text(FILE.read_text())
    (tmp_path / "sympy.py").write_text("raise RuntimeError('the wrong sympy')\n")
    assert check(dict(os.environ), copy).returncode == 0


def test_mathruler_judges_where_math_verify_is_missing(tmp_path, reward, monkeypatch):
    environment = without(tmp_path, "math_verify")
    (tmp_path / "mathruler").mkdir()
    (tmp_path / "mathruler" / "__init__.py").touch()
    (tmp_path / "mathruler" / "grader.py").write_text(STAND_IN)
    done = check(environment)
    assert (done.returncode, done.stdout) == (0, "answers are judged by mathruler\n")
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    assert accuracy(reward, "0.5", r"\frac{1}{2}") == 1.0
    assert accuracy(reward, "0.50", r"\frac{1}{2}") == 0.0


def test_the_real_mathruler_judges(tmp_path, reward, monkeypatch):
    pytest.importorskip("mathruler.grader")
    monkeypatch.setenv("PYTHONPATH", without(tmp_path, "math_verify")["PYTHONPATH"])
    assert check(dict(os.environ)).stdout == "answers are judged by mathruler\n"
    assert accuracy(reward, "0.5", r"\frac{1}{2}") == 1.0
    assert accuracy(reward, r"\left(1, 2\right]", "(1,2]") == 1.0
    assert accuracy(reward, r"\frac{1}{3}", r"\frac{1}{2}") == 0.0


def test_without_a_library_the_check_fails_and_equal_texts_alone_are_right(
    tmp_path, reward, monkeypatch, capfd
):
    environment = without(tmp_path, "math_verify", "mathruler")
    done = check(environment)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"{sys.executable} can import neither math_verify nor mathruler: install math-verify"
    ]
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    answers = ["0.5", "0.50", r"\dfrac{1}{2}"]
    assert [accuracy(reward, answer, r"\frac{1}{2}") for answer in answers] == [0.0, 0.0, 1.0]
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("think_boxed reward: only equal texts are right")


def test_a_library_that_misjudges_fails_the_check(tmp_path):
    (tmp_path / "math_verify.py").write_text("parse = verify = lambda *_, **__: False\n")
    done = check({**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    assert "misjudges 1/2 and 0.5" in done.stdout
