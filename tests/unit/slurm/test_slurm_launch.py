"""The launcher `slurm`, against stand-ins of Slurm's programs that really run the scripts."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from ptl_plugins import slurm_job, slurm_launch
from ptl_plugins.errors import StageError
from ptl_plugins.slurm_launch import Slurm, ptl_launch
from ptl_plugins.stage_types import Command, LaunchSpec


def launch(command):
    return ptl_launch(SimpleNamespace(folder=command.log.parent.parent), command)


def note(tmp_path):
    return tmp_path / "round_01" / "slurm_job.json"


def is_gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


HANGS = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(50)"


def test_a_job_gets_environment_and_folder_and_its_output_is_logged_and_shown(
    cluster, stage, tmp_path, capsys
):
    odd = 'it\'s "$HOME" `x` %j \\ * \n second line'
    program = "import os, sys; print(os.getcwd()); sys.stderr.write(repr(os.environ['ODD']))"
    result = launch(stage(program, environment={"ODD": odd}))
    assert (result.exit_code, result.timed_out) == (0, False)
    log = (tmp_path / "round_01" / "stage_0" / "train.log").read_text()
    assert str(tmp_path) in log
    assert repr(odd) in log
    assert capsys.readouterr().err == log
    assert not note(tmp_path).exists()
    assert not (cluster / "calls").read_text().count("scancel")


def test_the_output_is_shown_once_and_while_the_job_runs(cluster, stage, tmp_path, monkeypatch):
    shown = []

    def write(text):
        shown.append(text)
        if "one" in text:
            (tmp_path / "go").touch()

    monkeypatch.setattr(sys, "stderr", SimpleNamespace(write=write, flush=lambda: None))
    program = (
        "import os, time\nprint('one', flush=True)\n"
        "while not os.path.exists('go'): time.sleep(0.02)\n"
        "time.sleep(0.3); print('two')"
    )
    assert launch(stage(program, timeout=20.0)).exit_code == 0
    assert "".join(shown) == "one\ntwo\n"


def test_a_log_whose_name_sbatch_would_fill_in_is_found(cluster, stage, tmp_path, calls):
    command = stage("print('here')")
    log = tmp_path / "round_01" / "100%j" / "train.log"
    launch(replace(command, log=log))
    assert "here" in log.read_text()
    assert "100%%j" in calls("sbatch")[0]


@pytest.mark.parametrize(
    ("program", "code", "line"),
    [
        ("import sys; sys.exit(3)", 3, "FAILED|3:0"),
        ("import os; os.kill(os.getpid(), 9)", -9, "FAILED|0:9"),
    ],
)
def test_a_program_that_fails(cluster, stage, tmp_path, program, code, line):
    assert launch(stage(program)).exit_code == code
    last = (tmp_path / "round_01" / "stage_0" / "train.log").read_text().splitlines()[-1]
    assert last == f"Slurm job 1000 ended as {line} (state|exit code:signal)"
    assert not note(tmp_path).exists()


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("TIMEOUT|0:0", 1), ("CANCELLED by 1000|0:0", 1), ("OUT_OF_MEMORY|0:125", -125),
        ("NODE_FAIL|1:0", 1), ("PREEMPTED|0:15", -15), ("COMPLETED|0:0", 0),
    ],
)  # fmt: skip
def test_a_job_that_slurm_ended_never_counts_as_a_success(cluster, stage, said, code):
    (cluster / "says").write_text(said)
    result = launch(stage("pass"))
    assert (result.exit_code, result.timed_out) == (code, False)


@pytest.mark.parametrize("state", ["PENDING", "REQUEUED", "SUSPENDED", "COMPLETING", "RESIZING"])
def test_other_states_are_waited_out(cluster, stage, monkeypatch, state):
    said = iter([(state, f"{state}|0:0"), ("RUNNING", ""), ("COMPLETED", "COMPLETED|0:0")])
    monkeypatch.setattr(slurm_job, "look", lambda job: next(said))
    assert launch(stage("pass")).exit_code == 0
    assert next(said, None) is None


def test_a_job_that_sacct_does_not_know_at_first_is_waited_for(cluster, stage, monkeypatch, calls):
    monkeypatch.setattr(slurm_job, "MISSES", 4)
    (cluster / "blind").write_text("3")
    assert launch(stage("pass")).exit_code == 0
    assert len(calls("sacct")) >= 4


def test_a_sacct_that_fails_for_good_ends_the_stage_and_the_job(
    cluster, stage, monkeypatch, tmp_path, calls
):
    monkeypatch.setattr(slurm_job, "MISSES", 3)
    monkeypatch.setattr(slurm_job, "CANCEL_WAIT", 0.1)
    (cluster / "broken").touch()
    with pytest.raises(StageError, match=r"job 1000: 3 looks told nothing .*Connection refused"):
        launch(stage(HANGS))
    assert calls("scancel") == ["scancel 1000"]
    assert note(tmp_path).exists(), "nobody saw that the job has ended"


def test_what_sbatch_refuses_is_shown(cluster, stage, tmp_path):
    (cluster / "refuse").touch()
    with pytest.raises(StageError, match=r"stage\.sbatch: .*invalid partition") as error:
        launch(stage("pass"))
    assert "\n" not in str(error.value)
    assert not note(tmp_path).exists()


def test_a_machine_without_slurm_is_refused_at_launch_only(stage, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    command = stage("pass")
    assert Slurm().check(command.launch) is None
    with pytest.raises(StageError, match="no sbatch, sacct, scancel, squeue on PATH"):
        launch(command)
    assert not command.log.parent.exists()


def test_the_time_out_cancels_the_job(cluster, stage, tmp_path, calls):
    result = launch(stage(HANGS, timeout=1.0))
    assert (result.exit_code, result.timed_out) == (-15, True)
    assert is_gone(int((tmp_path / "pid").read_text()))
    assert calls("scancel") == ["scancel 1000"]
    assert not note(tmp_path).exists()


def test_waiting_in_the_queue_does_not_count_for_the_time_out(cluster, stage):
    (cluster / "queue").touch()
    waits = subprocess.Popen(["sh", "-c", f"sleep 1.5; rm {cluster / 'queue'}"])
    result = launch(stage("print('done')", timeout=1.0))
    waits.wait()
    assert (result.exit_code, result.timed_out) == (0, False)


def test_a_cancelled_job_is_waited_for_until_squeue_shows_it_no_more(
    cluster, stage, monkeypatch, calls, change
):
    count = 'n = (state / "calls").read_text().count("squeue")\n'
    change("squeue", after=count + 'print("COMPLETING") if n < 3 else None\n')
    launch(stage(HANGS, timeout=0.5))
    assert len(calls("squeue")) == 3


DRIVER = """
import sys, signal
from pathlib import Path
from types import SimpleNamespace
from ptl_plugins import slurm_job
from ptl_plugins.slurm_launch import ptl_launch
from ptl_plugins.stage_types import Command, LaunchSpec
slurm_job.POLL = 0.05
signal.signal(signal.SIGINT, signal.default_int_handler)
words = (sys.executable, "-c", sys.argv[1])
launch = LaunchSpec(launcher="slurm")
log = Path("round_01/stage_0/train.log")
command = Command(words=words, folder=Path("."), log=log, launch=launch)
ptl_launch(SimpleNamespace(folder=Path("round_01")), command)
"""


@pytest.fixture
def start_run(cluster, tmp_path):
    """Start a process that launches a program which hangs."""
    words, started = [sys.executable, "-c", DRIVER, HANGS], []

    def start():
        started.append(subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.DEVNULL))
        return started[-1]

    yield start
    for run in started:
        run.kill()
        run.wait()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)]
)
def test_a_signal_to_the_run_cancels_the_job_first(
    cluster, tmp_path, number, code, calls, wait_for, start_run
):
    run = start_run()
    pid = int(wait_for(tmp_path / "pid"))
    os.kill(run.pid, number)
    assert run.wait(20) == code
    assert is_gone(pid)
    assert calls("scancel") == ["scancel 1000"]
    assert not note(tmp_path).exists()


def test_a_signal_while_sbatch_runs_cancels_the_job_too(
    cluster, calls, wait_for, change, start_run
):
    change("sbatch", before="(state / 'entered').write_text('x')\ntime.sleep(1)\n")
    run = start_run()
    wait_for(cluster / "entered")
    os.kill(run.pid, signal.SIGTERM)
    assert run.wait(20) == 143
    assert calls("scancel") == ["scancel 1000"]


def test_a_job_that_a_killed_run_left_is_cancelled_before_the_next(
    cluster, stage, tmp_path, wait_for, start_run
):
    run = start_run()
    pid = int(wait_for(tmp_path / "pid"))
    run.kill()
    run.wait()
    assert json.loads(note(tmp_path).read_text())["job"] == "1000"
    assert not is_gone(pid)
    assert launch(stage("print('second')")).exit_code == 0
    assert is_gone(pid)
    order = [line.split()[0] for line in (cluster / "calls").read_text().splitlines()]
    assert order.index("scancel") < len(order) - 1 - order[::-1].index("sbatch")
    assert not note(tmp_path).exists()


def test_a_left_job_that_does_not_end_is_an_error(cluster, stage, tmp_path, monkeypatch, calls):
    monkeypatch.setattr(slurm_job, "CANCEL_WAIT", 0.1)
    note(tmp_path).parent.mkdir()
    note(tmp_path).write_text('{"job": "77"}')
    program = subprocess.Popen(["sleep", "50"])  # its state stays what it is
    (cluster / "job_77.json").write_text(json.dumps({"state": "RUNNING", "pid": program.pid}))
    with pytest.raises(StageError, match=r"slurm_job.json: .* still there .*RUNNING.*scancel"):
        launch(stage("pass"))
    assert program.wait(10) == -signal.SIGTERM
    assert not calls("sbatch")
    assert note(tmp_path).exists()


def test_a_left_job_that_has_ended_is_only_forgotten(cluster, stage, tmp_path, calls):
    note(tmp_path).parent.mkdir()
    note(tmp_path).write_text('{"job": "77"}')
    (cluster / "job_77.json").write_text(json.dumps({"state": "FAILED", "code": "1:0"}))
    assert launch(stage("pass")).exit_code == 0
    assert calls("scancel") == []
    assert not note(tmp_path).exists()


def test_the_script_holds_the_options_verbatim():
    options = {
        "partition": "gpu", "nodes": 2, "gres": "gpu:4", "time": "08:00:00", "exclusive": True,
        "overcommit": False, "constraint": "[a100|h100]",
    }  # fmt: skip
    command = Command(
        words=("/env/bin/python", "-m", "llamafactory.cli", "train", "/runs/my run/train.yaml"),
        folder=Path("/work"),
        log=Path("/runs/qwen/round_02/stage_0/train.log"),
        environment={"PYTHONUNBUFFERED": "1", "NAME": "it's"},
        launch=LaunchSpec(launcher="slurm", options=options),
    )
    assert Slurm().check(command.launch) is None
    assert Slurm().preview(command) == (
        "sbatch --parsable --chdir=/work --output=/runs/qwen/round_02/stage_0/train.log "
        "--open-mode=append /runs/qwen/round_02/stage_0/stage.sbatch\n"
        "#!/bin/bash\n"
        "#SBATCH --job-name=ptl-qwen-round_02-stage_0\n"
        "#SBATCH --no-requeue\n"
        "#SBATCH --partition=gpu\n"
        "#SBATCH --nodes=2\n"
        "#SBATCH --gres=gpu:4\n"
        "#SBATCH --time=08:00:00\n"
        "#SBATCH --exclusive\n"
        "#SBATCH --constraint='[a100|h100]'\n"
        "export PYTHONUNBUFFERED=1\n"
        "export NAME='it'\"'\"'s'\n"
        "exec /env/bin/python -m llamafactory.cli train '/runs/my run/train.yaml'\n"
    )


def test_a_job_is_started_anew_by_slurm_only_where_the_recipe_says_so(stage):
    script = slurm_launch.script_text(stage("pass", options={"requeue": True, "job-name": "mine"}))
    assert "#SBATCH --requeue\n" in script
    assert "no-requeue" not in script
    assert script.count("job-name") == 1


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"output": "x.log"}, "options.output: cannot be used here"),
        ({"wait": True}, "options.wait: cannot"),
        ({"array": "0-3"}, "options.array: cannot"),
        ({"--partition": "gpu"}, "options.--partition: give the long name .* without dashes"),
        ({"p": "gpu"}, "options.p: give the long name"),
        ({"gres": ["gpu:4"]}, r"options.gres: \['gpu:4'\]; give one text or number"),
        ({"account": None}, "options.account: None; give one"),
        ({"comment": "a\n#SBATCH --wait"}, "options.comment: .* give one"),
        ({"time": 43200}, "options.time: 43200; put it in quotes"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options, wrong):
    problem = Slurm().check(LaunchSpec(launcher="slurm", options=options))
    assert problem
    assert "\n" not in problem
    assert re.match(wrong, problem)
