"""What a machine can contain is found by trying, said plainly, and each wall holds alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ptl_plugins.code_execution import CodeExecutionError, Containment, run_program, trials
from ptl_plugins.code_execution.contained_run import run_contained

from .conftest import AS_ROOT

NAMES = Containment.__slots__
NOT_OURS = "user_namespace" if AS_ROOT else "own_user"


def test_a_wall_that_fails_its_trial_is_not_claimed(monkeypatch, there):
    monkeypatch.setattr(trials, "TRIALS", {**trials.TRIALS, "new_root": "assert False"})
    walls = trials.containment.__wrapped__()
    assert not walls.new_root
    assert walls == replace(there, new_root=False, own_user=walls.own_user)


def test_a_wall_that_cannot_be_put_up_is_not_claimed(monkeypatch, there):
    def broken(source, *, limits, containment):
        if containment.process_namespace:
            raise CodeExecutionError("unshare: Operation not permitted")
        return run_contained(source, limits=limits, containment=containment)

    monkeypatch.setattr(trials, "run_contained", broken)
    assert trials.containment.__wrapped__() == replace(there, process_namespace=False)


def test_a_machine_that_starts_nothing_is_an_error(monkeypatch):
    def broken(source, *, limits, containment):
        raise CodeExecutionError("no python")

    monkeypatch.setattr(trials, "run_contained", broken)
    with pytest.raises(CodeExecutionError, match="no python"):
        trials.containment.__wrapped__()


def test_another_system_is_an_error_with_a_way_out(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(CodeExecutionError, match="needs Linux; leave the task out"):
        trials.containment.__wrapped__()


def test_the_lines_say_what_is_not_there():
    none = "\n".join(Containment().lines())
    for gap in ("network open", "files of this machine", "no process namespace", "signals to"):
        assert f"NOT contained: {gap}" in none
    everything = Containment(**dict.fromkeys(NAMES, True)).lines()
    assert [line for line in everything if "NOT" in line] == [
        "NOT contained: errors of the kernel; a program made to forge its own result"
    ]
    assert all(line.isascii() for line in [*everything, *none.splitlines()])


@pytest.mark.parametrize(
    ("walls", "root", "why"),
    [
        (Containment(), False, "a program could end other processes"),
        (Containment(call_filter=True), False, ""),
        (Containment(user_namespace=True, process_namespace=True), False, ""),
        (Containment(call_filter=True, process_namespace=True), True, "PTL runs as root"),
        (Containment(own_user=True), True, ""),
    ],
)
def test_programs_run_only_where_others_are_safe(walls, root, why):
    assert walls.missing(root=root).startswith(why)
    assert bool(walls.missing(root=root)) is bool(why)


HARMS = {
    "network_namespace": "import socket\nassert len(socket.if_nameindex()) != 1",
    "process_namespace": "import os\nassert os.getppid() != 0",
    "new_root": "import os\nassert os.stat('/etc/passwd')",
    "file_rules": "assert open('/etc/passwd').read()",
    "own_user": "import os\nassert os.getuid() == 0",
    "call_filter": "import socket\nassert socket.socket()",
}


@pytest.mark.parametrize("name", sorted(set(HARMS) - {NOT_OURS}))
def test_each_wall_alone_stops_its_harm(name, there):
    base = Containment(user_namespace=there.user_namespace)
    # no more than is needed: root's Python may lie where only root can read
    helped = replace(base, new_root=there.new_root) if name == "own_user" else base
    alone = replace(helped, **{name: True})
    try:
        run_contained("pass", limits=trials.PATIENT, containment=alone)
    except CodeExecutionError:
        pytest.skip(f"this machine has no {name}")
    assert run_contained(HARMS[name], limits=trials.PATIENT, containment=base).passed
    assert not run_contained(HARMS[name], limits=trials.PATIENT, containment=alone).passed
    assert getattr(there, name)


AS_A_USER = """
import json, os, sys
from ptl_plugins.code_execution import *
from ptl_plugins.code_execution.leftovers import descendants
from dataclasses import asdict, replace
there = containment()
user = Containment(call_filter=True)
ruled = Containment(call_filter=True, file_rules=True)
bomb = "import os\\nwhile True:\\n    try: os.fork()\\n    except OSError: pass"
many = "n = 0\\nwhile True:\\n    open(str(n), 'w').close()\\n    n += 1"
locked = "import os\\nos.mkdir('d')\\nos.chmod('d', 0)\\nwhile True:\\n    pass"
prlimit = "import resource as r\\nr.prlimit({}, r.RLIMIT_CORE, (0, 0))"
tight = Limits(wall_seconds=0.5, disk=2**20)
scores = {}
for name, walls in (("all", there), ("filter", user), ("rules", ruled)):
    run = lambda source: asdict(run_program(source, limits=tight, within=walls))
    scores[name] = {
        "honest": run_program("assert 1 + 1 == 2", within=walls).outcome,
        "bomb": run(bomb)["outcome"],
        "many": run(many)["outcome"],
        "locked": run(locked)["outcome"],
        "kill": run(f"import os\\nos.kill({os.getpid()}, 9)")["passed"],
        "everybody": run("import os\\nos.kill(-1, 9)")["passed"],
        "socket": run("import socket\\nsocket.socket()")["passed"],
        "secret": run(f"assert open({sys.argv[1]!r}).read()")["passed"],
        "limits": run(prlimit.format(os.getpid()))["passed"],
        "first to go": run("assert open('/proc/self/oom_score_adj').read() > '1'")["passed"],
        "left": len(descendants(os.getpid())),
    }
print(json.dumps([asdict(there), scores]))
"""


@pytest.mark.skipif(not AS_ROOT, reason="the other tests run as an ordinary user already")
def test_an_ordinary_user_is_contained_too(there):
    python = Path("/usr/bin/python3")
    here = Path(trials.__file__).parents[2]
    packages = [path for path in sys.path if path.endswith("site-packages")]
    environment = {"PYTHONPATH": os.pathsep.join([str(here), *packages]), "HOME": "/"}
    user = {"user": 65533, "group": 65533, "extra_groups": [], "env": environment, "cwd": "/"}
    try:
        subprocess.run(
            [python, "-c", "import ptl_plugins"], check=True, capture_output=True, **user
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no Python that another user could run PTL with")
    command = [python, "-B", "-c", AS_A_USER, "/etc/passwd"]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, **user).stdout
    theirs, scores = json.loads(answer)
    assert theirs["own_user"] is False
    assert theirs["call_filter"] == there.call_filter
    for walls, score in scores.items():
        assert score == {
            "honest": "passed",
            "bomb": "timed_out",
            "many": "failed" if walls == "all" else "limit",
            "locked": "timed_out" if walls == "all" else "limit",
            "kill": False,
            "everybody": False,
            "socket": False,
            "secret": walls == "filter",  # the filter leaves files open, and lines() says so
            "limits": False,
            "first to go": walls == "filter",  # elsewhere /proc cannot be read
            "left": 0,
        }


def test_the_default_is_all_that_the_machine_gives(there):
    assert run_program("import os\nassert os.getpid() == 1").passed is there.process_namespace
