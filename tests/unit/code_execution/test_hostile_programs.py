"""Programs that mean harm score 0, and the machine is as it was."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ptl_plugins.code_execution import containment, run_program

from .conftest import AS_ROOT, programs_alive

MIB = 2**20


def test_a_fork_bomb_stays_small_and_dies(walls, tight, lookout):
    source = (
        "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"
    )
    with lookout:
        result = run_program(source, within=walls, limits=tight)
    assert result.outcome == "timed_out"
    assert 1 <= lookout.most_processes <= tight.processes
    assert programs_alive() == 0


FILLERS = {
    "one big file": "f = open('f', 'wb')\nwhile True:\n    f.write(b'0' * 2**20)",
    "big files": (
        "n = 0\nwhile True:\n    n += 1\n    try:\n        f = open(str(n), 'wb')\n"
        "        while True:\n            f.write(b'0' * 2**16)\n    except OSError:\n        pass"
    ),
    "small files": "n = 0\nwhile True:\n    open(str(n), 'w').close()\n    n += 1",
    "deep folders": "import os\nwhile True:\n    os.mkdir('d')\n    os.chdir('d')",
}


@pytest.mark.parametrize("name", FILLERS)
def test_the_disk_cannot_be_filled(name, walls, tight, lookout):
    with lookout:
        result = run_program(FILLERS[name], within=walls, limits=tight)
    assert not result.passed
    # where only a look now and then bounds it, there is some slack
    assert lookout.most_bytes <= (4096 if walls.new_root else 50 * tight.disk)


def test_all_files_together_stay_below_the_disk_limit(tight):
    source = FILLERS["big files"].replace("pass", "break") + (
        "\nimport os\nraise ValueError(sum(os.stat(name).st_size for name in os.listdir('.')))"
    )
    if not containment().new_root:
        pytest.skip("no file system of its own")
    detail = run_program(source, limits=replace(tight, disk=2 * MIB, file_size=3 * MIB)).detail
    assert MIB < int(detail.rpartition(" ")[2]) <= 2 * MIB


def test_one_file_stays_below_its_limit(walls, tight):
    source = "with open('f', 'wb') as f:\n    f.write(b'0' * (2**20 + 1))"
    assert run_program(source, within=walls, limits=tight).detail.endswith("File too large")


def test_a_folder_that_the_program_locks_is_not_left_out(walls, tight):
    source = (
        "import os\nos.mkdir('d')\nos.chdir('d')\nopen('f', 'wb').write(b'0' * 2**19)\n"
        "os.chmod('.', 0)\nwhile True:\n    pass"
    )
    result = run_program(source, within=walls, limits=tight)
    assert result.outcome == ("timed_out" if walls.new_root else "limit")


def test_a_secret_at_home_is_not_read(walls, tmp_path, monkeypatch):
    places = [tmp_path, Path.home()]
    monkeypatch.setenv("HOME", str(tmp_path))
    secrets = [
        place / f".ptl-secret-{os.getpid()}" for place in places if os.access(place, os.W_OK)
    ]
    try:
        for secret in secrets:
            secret.write_text("secret")
            result = run_program(f"assert open({str(secret)!r}).read()", within=walls)
            assert not result.passed or not walls.files_closed
    finally:
        for secret in secrets:
            secret.unlink(missing_ok=True)


def test_nothing_outside_its_folder_is_written(walls, tmp_path):
    repository = Path(__file__).parent
    for folder in (repository, tmp_path, Path(tempfile.gettempdir()), Path("/tmp")):
        mark = folder / f"ptl-mark-{os.getpid()}"
        result = run_program(f"open({str(mark)!r}, 'w').write('x')\nassert False", within=walls)
        there = mark.exists()
        mark.unlink(missing_ok=True)
        assert not result.passed
        assert not there or not walls.files_closed


@pytest.mark.parametrize("kind", ["TCP", "UDP", "local"])
def test_no_socket_reaches_a_listener(kind, walls):
    family = socket.AF_UNIX if kind == "local" else socket.AF_INET
    style = socket.SOCK_DGRAM if kind == "UDP" else socket.SOCK_STREAM
    with socket.socket(family, style) as listener:
        listener.bind(f"\0ptl-{os.getpid()}" if kind == "local" else ("127.0.0.1", 0))
        if style == socket.SOCK_STREAM:
            listener.listen()
        listener.settimeout(0.2)
        source = (
            "import socket\n"
            f"s = socket.socket({int(family)}, {int(style)})\n"
            f"s.connect({listener.getsockname()!r})\ns.send(b'x')\nassert False"
        )
        assert not run_program(source, within=walls).passed
        reached = _heard(listener, style)
    assert reached is not walls.network_closed
    assert walls.network_closed or "NOT contained: network open" in walls.lines()


def _heard(listener, style) -> bool:
    try:
        if style == socket.SOCK_DGRAM:
            return bool(listener.recv(1))
        listener.accept()[0].close()
    except TimeoutError:
        return False
    return True


def test_names_are_not_looked_up(walls, tight):
    source = "import socket\nassert socket.getaddrinfo('example.org', 80)"
    result = run_program(source, within=walls, limits=tight)
    assert not result.passed or "NOT contained: network open" in walls.lines()


ENDLESS = {
    "output": "while True:\n    print('x' * 1000)",
    "errors": "import sys\nwhile True:\n    sys.stderr.write('x' * 1000)",
    "a loop": "while True:\n    pass",
    "sleep": "import time\ntime.sleep(10**6)",
    "ignored signals": (
        "import signal\nfor n in set(signal.Signals) - {9, 19}:\n"
        "    signal.signal(n, signal.SIG_IGN)\nwhile True:\n    pass"
    ),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_never_ends_is_ended(name, walls, tight):
    start = time.monotonic()
    result = run_program(ENDLESS[name], within=walls, limits=tight)
    assert result.outcome == "timed_out"
    assert result.detail == "still running after 1 s"
    assert time.monotonic() - start < 15


def test_words_on_the_result_pipe_do_not_pile_up(walls, tight):
    source = "import os\nwhile True:\n    os.write(4, b'x' * 4096)"
    result = run_program(source, within=walls, limits=tight)
    assert result.detail == "wrote into the pipe of its result"


DAEMON = """
import os, signal, time
for number in set(signal.Signals) - {9, 19}:
    signal.signal(number, signal.SIG_IGN)
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
time.sleep(1000)
"""


def test_a_daemon_does_not_outlive_its_program(walls, tight):
    assert run_program(DAEMON, within=walls, limits=tight).outcome == "failed"
    assert programs_alive() == 0


def test_a_hundred_gigabytes_are_not_given(walls):
    result = run_program("x = bytearray(100 * 2**30)", within=walls)
    assert (result.outcome, result.detail) == ("limit", "memory: more than 1073741824 bytes")


def test_memory_that_the_machine_has_is_not_given_either(walls, tight):
    result = run_program("x = bytearray(600 * 2**20)", within=walls, limits=tight)
    assert result.outcome == "limit"


def test_processor_time_is_bounded(walls, tight):
    result = run_program(
        "while True:\n    pass",
        within=walls,
        limits=replace(tight, wall_seconds=20, cpu_seconds=1),
    )
    assert (result.outcome, result.detail) == ("limit", "CPU time: more than 1 s")


CRASHES = {
    "a segmentation fault": "import ctypes\nctypes.string_at(0)",
    "a deep recursion": (
        "import sys\nsys.setrecursionlimit(10**9)\n"
        "class A:\n    def __getattr__(self, name):\n        return getattr(self, name)\nA().a"
    ),
    "an abort": "import os\nos.abort()",
    "threads": (
        "import threading, time\nfor n in range(50):\n"
        "    threading.Thread(target=time.sleep, args=(9,), daemon=True).start()"
    ),
}


@pytest.mark.parametrize("name", CRASHES)
def test_a_crash_stays_with_the_program(name, walls, tight):
    assert not run_program(CRASHES[name], within=walls, limits=tight).passed


@pytest.fixture
def sibling():
    """A process that nothing may touch."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        assert process.poll() is None
        process.kill()


ATTACKS = {
    "the parent": "import os\nos.kill(os.getppid(), 9)\nassert False",
    "everybody": "import os\nos.kill(-1, 9)\nassert False",
    "its group": "import os\nos.killpg(0, 9)\nassert False",
    "a sibling": "import os\nos.kill({sibling}, 9)\nassert os.getpid() == 0",
    "a sibling's limits": "import resource as r\nassert r.prlimit({sibling}, r.RLIMIT_CPU, (0, 0))",
    "a sibling's memory": (
        "import ctypes\nassert ctypes.CDLL(None).ptrace(16, {sibling}, None, None) == 0"
    ),
    "a sibling, by a pipe's signals": (
        "import fcntl, os, time\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, {sibling})\n"
        "fcntl.fcntl(r, 10, 9)\nfcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC)\nos.write(w, b'x')\n"
        "time.sleep(0.2)\nassert os.getpid() == 0"
    ),
    "a sibling's environment": "assert open('/proc/{sibling}/environ').read()",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_other_processes_are_out_of_reach(name, walls, sibling, tight):
    source = ATTACKS[name].format(sibling=sibling.pid)
    passed = run_program(source, within=walls, limits=tight).passed
    assert not passed or (name == "a sibling's environment" and not walls.files_closed)


def test_the_environment_holds_no_secrets(walls, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    result = run_program("import os\nraise ValueError(sorted(os.environ))", within=walls)
    assert result.detail == "ValueError at line 2: ['LC_CTYPE', 'PYTHONHASHSEED']"
    parent = f"assert b'secret' in open('/proc/{os.getpid()}/environ', 'rb').read()"
    assert not run_program(parent, within=walls).passed or not walls.files_closed


def test_shared_memory_that_outlives_processes_is_refused(walls):
    if not walls.call_filter:
        pytest.skip("only the filter refuses it")
    source = "import ctypes\nassert ctypes.CDLL(None).shmget(0, 4096, 0o1600) >= 0"
    assert not run_program(source, within=walls).passed


def test_the_end_with_its_launcher_is_not_called_off(walls):
    if not walls.call_filter:
        pytest.skip("only the filter refuses it")
    source = "import ctypes\nassert ctypes.CDLL(None).prctl(1, 0, 0, 0, 0) == 0"
    assert not run_program(source, within=walls).passed


def test_more_rights_are_not_to_be_had(walls):
    if not (walls.call_filter or walls.new_root):
        pytest.skip("nothing refuses it")
    new_user = "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0"
    assert not run_program(new_user, within=walls).passed


@pytest.mark.skipif(not AS_ROOT, reason="programs of a user cannot be told from each other")
def test_a_program_does_not_outlive_a_killed_ptl(walls, tmp_path):
    text = (
        "from ptl_plugins.code_execution import *\n"
        "source = 'import time\\ntime.sleep(60)'\n"
        f"run_program(source, limits=Limits(wall_seconds=60), within={walls})"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", text], env=environment) as ptl:
        assert _becomes(1, ptl.pid)
        ptl.send_signal(signal.SIGKILL)
        assert _becomes(0, ptl.pid)


def _becomes(count: int, ptl: int) -> bool:
    limit = time.monotonic() + 20
    while time.monotonic() < limit:
        if programs_alive(ptl) == count:
            return True
        time.sleep(0.02)
    return False
