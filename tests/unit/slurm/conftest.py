"""Stand-ins of Slurm's programs, which really run the scripts; their state is in a folder."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time

import pytest

from ptl_plugins import slurm_job
from ptl_plugins.stage_types import Command, LaunchSpec

HEAD = (
    f"#!{sys.executable} -IS\n"
    + """
import json, os, pathlib, signal, subprocess, sys, time
state = pathlib.Path(__file__).parent.parent / "slurm"
def job(number, **keys):
    path = state / f"job_{number}.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    if keys:
        path.with_suffix(".new").write_text(json.dumps({**before, **keys}))
        path.with_suffix(".new").replace(path)
    return {**before, **keys}
def asked(name):
    with (state / "calls").open("a") as calls: calls.write(" ".join([name, *sys.argv[1:]]) + "\\n")
"""
)
PROGRAMS = {
    # the job is a process of its own that notes how the script ended
    "sbatch": """
asked("sbatch")
if (state / "refuse").exists():
    sys.exit("sbatch: error: invalid partition specified: nowhere")
options = dict(word.removeprefix("--").partition("=")[::2] for word in sys.argv[1:-1])
number = str(1000 + len(list(state.glob("job_*.json"))))
job(number, state="PENDING", code="0:0")
if os.fork() == 0:
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2): os.dup2(null, descriptor)
    while (state / "queue").exists(): time.sleep(0.02)
    with open(options["output"].replace("%%", "%"), "ab") as log:
        words = ["bash", sys.argv[-1]]
        child = subprocess.Popen(words, cwd=options["chdir"], stdout=log, stderr=log)
    job(number, state="RUNNING", pid=child.pid)
    code = child.wait()
    ended = job(number).get("cancelled") and "CANCELLED by 7" or ("FAILED" if code else "COMPLETED")
    job(number, state=ended, code=f"0:{-code}" if code < 0 else f"{code}:0")
    os._exit(0)
print(number + ";main")
""",
    "sacct": """
asked("sacct")
if (state / "broken").exists():
    sys.exit("sacct: error: slurmdbd: Connection refused")
if (state / "blind").exists():
    left = int((state / "blind").read_text())
    (state / "blind").write_text(str(left - 1)) if left > 1 else (state / "blind").unlink()
    sys.exit()
entry = job(sys.argv[sys.argv.index("-j") + 1])
says = state / "says"
print(says.read_text() if says.exists() else f"{entry['state']}|{entry.get('code', '0:0')}")
""",
    "scancel": """
asked("scancel")
while "pid" not in job(sys.argv[1]): time.sleep(0.02)
entry = job(sys.argv[1], cancelled=True)
os.kill(entry["pid"], signal.SIGTERM)
""",
    "squeue": """
asked("squeue")
""",
}  # fmt: skip


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Put the stand-ins on PATH; return the folder of their state."""
    (tmp_path / "slurm").mkdir()
    (tmp_path / "bin").mkdir()
    for name, text in PROGRAMS.items():
        (tmp_path / "bin" / name).write_text(HEAD + text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(slurm_job, "POLL", 0.05)
    yield tmp_path / "slurm"
    for path in (tmp_path / "slurm").glob("job_*.json"):
        with contextlib.suppress(ProcessLookupError, KeyError):
            os.kill(json.loads(path.read_text())["pid"], signal.SIGKILL)


@pytest.fixture
def stage(tmp_path):
    """Return a command of a program; `launch` runs it."""

    def make(program, timeout=None, options=(), **keys):
        launch = LaunchSpec(launcher="slurm", timeout=timeout, options=dict(options))
        log = tmp_path / "round_01" / "stage_0" / "train.log"
        words = (sys.executable, "-c", program)
        return Command(words=words, folder=tmp_path, log=log, launch=launch, **keys)

    return make


@pytest.fixture
def calls(cluster):
    """Return the lines with which one of the programs was called."""

    def of(name):
        lines = (cluster / "calls").read_text().splitlines()
        return [line for line in lines if line.split()[0] == name]

    return of


@pytest.fixture
def change(cluster):
    """Let a program do something more, before or after what it does."""

    def write(name, *, before="", after=""):
        (cluster.parent / "bin" / name).write_text(HEAD + before + PROGRAMS[name] + after)

    return write


@pytest.fixture
def wait_for():
    """Wait until a file has a text; return it."""

    def wait(path):
        for _ in range(400):
            if path.exists() and path.read_text():
                return path.read_text()
            time.sleep(0.02)
        raise AssertionError(f"{path} did not come")

    return wait
