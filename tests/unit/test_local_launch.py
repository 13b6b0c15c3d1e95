"""Programs of a stage: their log, their end, and that nothing of them stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from ptl_plugins.local_launch import run_command
from ptl_plugins.stage_types import Command, LaunchSpec


@pytest.fixture
def command(tmp_path):
    def make(program, **keys):
        words = (sys.executable, "-c", program)
        return Command(words=words, folder=tmp_path, log=tmp_path / "a" / "log", **keys)

    return make


def test_the_log_holds_both_outputs_and_the_exit_code_is_the_programs(command, tmp_path):
    program = "import os, sys; print(os.getcwd(), flush=True); sys.exit(os.environ['X'] + '!')"
    result = run_command(command(program, environment={"X": "end"}))
    assert (result.exit_code, result.timed_out) == (1, False)
    assert (tmp_path / "a" / "log").read_text().splitlines() == [str(tmp_path), "end!"]


def test_a_program_that_hangs_is_stopped_with_its_children(command, tmp_path):
    program = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "open('pid', 'w').write(str(child.pid))\n"
        "time.sleep(60)"
    )
    result = run_command(command(program, launch=LaunchSpec(timeout=2.0)))
    assert result.timed_out
    assert result.exit_code == -signal.SIGTERM
    time.sleep(0.5)
    pid = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_sigterm_to_the_run_stops_the_program(tmp_path):
    driver = (
        "import sys; from pathlib import Path\n"
        "from ptl_plugins.local_launch import run_command\n"
        "from ptl_plugins.stage_types import Command\n"
        'program = \'import os, time; open("pid", "w").write(str(os.getpid())); time.sleep(60)\'\n'
        "words = (sys.executable, '-c', program)\n"
        "run_command(Command(words=words, folder=Path('.'), log=Path('log')))\n"
    )
    run = subprocess.Popen([sys.executable, "-c", driver], cwd=tmp_path)
    for _ in range(200):
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            break
        time.sleep(0.05)
    pid = int((tmp_path / "pid").read_text())
    os.kill(run.pid, signal.SIGTERM)
    assert run.wait(20) == 128 + signal.SIGTERM
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_second_sigterm_kills_a_program_that_ignores_the_first(tmp_path):
    stubborn = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "open('pid', 'w').write(str(os.getpid()))\n"
        "time.sleep(60)"
    )
    words = (sys.executable, "-c", stubborn)
    program = (
        "from pathlib import Path\n"
        "from ptl_plugins.local_launch import run_command\n"
        "from ptl_plugins.termination import terminating\n"
        "from ptl_plugins.stage_types import Command\n"
        f"command = Command(words={words!r}, folder=Path('.'), log=Path('log'))\n"
        "with terminating(): run_command(command)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path)
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()):
        time.sleep(0.05)
    os.kill(run.pid, signal.SIGTERM)
    time.sleep(0.5)
    start = time.monotonic()
    os.kill(run.pid, signal.SIGTERM)
    assert run.wait(20) == 128 + signal.SIGTERM
    assert time.monotonic() - start < 5, "the grace of 10 seconds was not waited for"
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
