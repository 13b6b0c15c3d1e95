"""SIGTERM at random moments, and two of the same command at once."""

from __future__ import annotations

import random
import signal

import pytest
from after_checks import finished_files, problems_after, said_in_one_line

SEED = 21
STOPPED = {128 + signal.SIGTERM, -signal.SIGTERM}
FAST = {"run": 3, "profile": 2}
ALL = {"run": 6, "train": 4, "profile": 4, "prune": 4, "eval": 3, "data": 4, "study": 2}


def survives(place, undisturbed, moment):
    """Stop the command at an operation, and give it again; return what is wrong then."""
    place.clear()
    if (code := place.run(fault={"kind": "terminate", "at": moment})) not in STOPPED:
        return [f"ended with {code}: {place.said()[-500:]}"]
    if "Traceback" in place.said():
        return [f"a traceback: {place.said()[-500:]}"]
    at_stop = finished_files(place)
    return place.again() or problems_after(place, undisturbed.digests, at_stop)


def stopped_everywhere(place_of, tried, key, number):
    place, undisturbed = place_of(key)
    last = len(undisturbed.operations)
    chosen = random.Random(f"{SEED} {key}").sample(range(1, last + 1), number)
    wrong = {}
    for moment in sorted(chosen):
        if found := survives(place, undisturbed, moment):
            wrong[f"{moment} ({undisturbed.operations[moment - 1]})"] = found
    tried("SIGTERM", place.door, number, number - len(wrong))
    assert not wrong, "\n".join(f"{moment}: {found}" for moment, found in wrong.items())


@pytest.mark.parametrize("key", FAST)
def test_a_command_that_is_stopped_goes_on(place_of, tried, key):
    stopped_everywhere(place_of, tried, key, FAST[key])


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("key", ALL)
def test_a_command_that_is_stopped_at_any_moment_goes_on(place_of, tried, key):
    stopped_everywhere(place_of, tried, key, ALL[key])


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "key",
    ["run", "profile", *(pytest.param(key, marks=pytest.mark.faults)
                         for key in ("train", "prune", "eval", "data", "study"))],
)  # fmt: skip
def test_of_two_at_once_one_works_and_the_other_says_so(place_of, tried, key):
    place, undisturbed = place_of(key)
    pids = [place.start(said=f"said_{number}") for number in range(2)]
    codes = [place.wait(pid) for pid in pids]
    wrong = [] if set(codes) <= {0, 2} and 0 in codes else [f"ended with {codes}"]
    for number, code in enumerate(codes):
        if code:
            wrong += said_in_one_line(place.said(f"said_{number}"))
    at_end = finished_files(place)
    wrong += place.again() or problems_after(place, undisturbed.digests, at_end)
    tried("two starts at once", place.door, 1, int(not wrong))
    assert not wrong, "\n".join(wrong)
