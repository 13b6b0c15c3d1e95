"""kill -9 at random moments, at every door; half of what was being written is there."""

from __future__ import annotations

import random
import signal

import pytest
from after_checks import finished_files, problems_after

SEED = 20
FAST = {"run": 5, "profile": 5, "prune": 4, "data": 4}
"""Door -> moments that are tried in every test run."""
ALL = {"run": 30, "train": 30, "profile": 30, "prune": 30, "eval": 30, "data": 30, "study": 6}
IN_TIME = 0.3
"""The share of the moments that are chosen in time, and not at an operation on a file."""


def moments(key, number, undisturbed):
    """Return numbers of operations, and negative seconds."""
    chance = random.Random(f"{SEED} {key}")
    in_time = round(number * IN_TIME)
    at = chance.sample(range(1, len(undisturbed.operations) + 1), number - in_time)
    return [*sorted(at), *(-undisturbed.seconds * chance.random() for _ in range(in_time))]


def survives(place, undisturbed, moment):
    """Kill the command at the moment and give it again; return what is wrong then."""
    place.clear()
    if moment > 0:
        code = place.run(fault={"kind": "kill", "at": moment})
    else:
        code = place.run_until(-moment)
    if code not in (-signal.SIGKILL, 0 if moment < 0 else None):
        return [f"was not killed: {code}: {place.said()[-500:]}"]
    at_kill = finished_files(place)
    return place.again() or problems_after(place, undisturbed.digests, at_kill)


def killed_everywhere(place_of, tried, key, number):
    place, undisturbed = place_of(key)
    wrong = {}
    for moment in moments(key, number, undisturbed):
        if found := survives(place, undisturbed, moment):
            where = undisturbed.operations[moment - 1] if moment > 0 else f"{-moment:.2f} s"
            wrong[f"{moment} ({where})"] = found
    tried("kill -9", place.door, number, number - len(wrong))
    assert not wrong, "\n".join(f"{moment}: {found}" for moment, found in wrong.items())


@pytest.mark.parametrize("key", FAST)
def test_a_command_that_is_killed_goes_on(place_of, tried, key):
    killed_everywhere(place_of, tried, key, FAST[key])


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("key", ALL)
def test_a_command_that_is_killed_at_any_moment_goes_on(place_of, tried, key):
    killed_everywhere(place_of, tried, key, ALL[key])
