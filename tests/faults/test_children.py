"""Programs that a command started die: killed, or out of memory; the command tells and goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from after_checks import digests, finished_files, problems_after, said_in_one_line
from doors import RUN

STAGE = "llamafactory.cli"
"""In the command line of a stage's program."""
USER_ERROR, FAILED = 2, 1
TORCHRUN = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"}
DEEDS = {"killed": "was killed by signal 9", "fail": "ended with 3", "nan": "is not finite"}


def after(place, undisturbed, *, code, says):
    """Return what is wrong with how the command ended, and with the next one."""
    wrong = [] if code else [f"ended with {code}"]
    if says not in place.said():
        wrong.append(f"does not say '{says}': {place.said()[-500:]}")
    at_fault = finished_files(place)
    return wrong + (place.again() or problems_after(place, undisturbed.digests, at_fault))


@pytest.mark.parametrize("deed", DEEDS)
def test_a_stage_whose_program_fails_is_done_again(place_of, tried, deed):
    place, undisturbed = place_of("run")
    (place.folder / "cause").touch()
    failing = {"backend": "fake", "settings": {"does": deed, "while_exists": "cause"}}
    recipe = {**RUN, "recover": [RUN["recover"][0], failing]}
    (place.folder / "r.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    code = place.run()
    (place.folder / "cause").unlink()
    wrong = after(place, undisturbed, code=code, says=DEEDS[deed])
    tried("child killed or failed", place.door, 1, int(not wrong), steps="recover")
    assert not wrong, "\n".join(wrong)


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("kind", "says"), [("kill", "was killed by signal 9"), ("no_memory", "the stage's program (")]
)
def test_a_stage_of_llamafactory_that_dies_is_done_again(place_of, tried, kind, says):
    place, undisturbed = place_of("stage")
    code = place.run(fault={"kind": kind, "at": 2, "program": STAGE})
    wrong = after(place, undisturbed, code=code, says=says)
    name = "child killed or failed" if kind == "kill" else "no more memory (RLIMIT_AS)"
    tried(name, place.door, 1, int(not wrong))
    assert not wrong, "\n".join(wrong)


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_ptl_run_that_is_killed_in_a_stage_of_llamafactory_goes_on(place_of, tried):
    place, undisturbed = place_of("stage")
    wrong, chosen = [], ("mkdir round_01/stage_0", "mkdir round_01/model.ptl-tmp")
    for name in chosen:
        place.clear()
        at = undisturbed.operations.index(name) + 1
        assert place.run(fault={"kind": "kill", "at": at}) == -signal.SIGKILL
        at_kill = finished_files(place)
        wrong += place.again() or problems_after(place, undisturbed.digests, at_kill)
    tried("kill -9", place.door, len(chosen), len(chosen) - bool(wrong))
    assert not wrong, "\n".join(wrong)


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("key", ["run", "train", "profile", "eval"])
def test_a_command_without_memory_goes_on_once_there_is_some(place_of, tried, key):
    place, undisturbed = place_of(key)
    wrong, moments = [], (1, len(undisturbed.operations) // 2)
    for moment in moments:
        place.clear()
        code = place.run(fault={"kind": "no_memory", "at": moment})
        at_fault = finished_files(place)
        if code:  # else what it had was enough
            wrong += place.again()
        wrong += problems_after(place, undisturbed.digests, at_fault)
    tried("no more memory (RLIMIT_AS)", place.door, 2, 2 - bool(wrong))
    assert not wrong, "\n".join(wrong)


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_run_of_a_study_that_is_killed_is_told_and_run_again(place_of, tried):
    place, undisturbed = place_of("study")
    code = place.run(fault={"kind": "kill", "at": 30, "program": "out/a/seed_1"})
    wrong = [] if code == FAILED else [f"ended with {code}"]
    wrong += said_in_one_line(place.said())
    wrong += after(place, undisturbed, code=code, says="a, seed 1: failed: it ended with code -9")
    tried("child killed or failed", place.door, 1, int(not wrong))
    assert not wrong, "\n".join(wrong)


def start_torchrun(place):
    """Start LLaMA-Factory in two ranks; its output goes to the file `said`."""
    program = Path(sys.executable).with_name("llamafactory-cli")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **TORCHRUN}
    environment["PATH"] = f"{program.parent}:{environment['PATH']}"
    with (place.folder / "said").open("w") as said:
        return subprocess.Popen(
            [program, "train", "r.yaml"],
            cwd=place.folder,
            env={k: v for k, v in environment.items() if k not in ("RANK", "WORLD_SIZE")},
            stdout=said,
            stderr=subprocess.STDOUT,
        )


def rank_of(folder, rank):
    """Return the process of a rank that works in the folder."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("RANK") == rank and process.cwd() == str(folder.resolve()):
                return process
    raise AssertionError(f"rank {rank} does not run")


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_a_rank_of_torchrun_that_is_killed_ends_all_and_the_same_command_goes_on(place_of, tried):
    place, _ = place_of("train")
    assert start_torchrun(place).wait(400) == 0, place.said()[-3000:]
    expected = digests(place.out)
    place.clear()
    run = start_torchrun(place)
    deadline = time.monotonic() + 300
    while not (place.out / "round_02" / "plan.json").exists():
        assert run.poll() is None, place.said()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    rank_of(place.folder, "1").kill()
    assert run.wait(100) != 0, "torchrun lost a rank"
    at_kill = finished_files(place)
    assert start_torchrun(place).wait(400) == 0, place.said()[-3000:]
    wrong = problems_after(place, expected, at_kill)
    tried("child killed or failed", place.door, 1, int(not wrong), steps="one rank of torchrun")
    assert not wrong, "\n".join(wrong)
