"""Files of a run that a failing disk tore: they are read, made again, or told of in one line."""

from __future__ import annotations

import re
import shutil
import signal

import pytest
from after_checks import left_over, other_end, said_in_one_line, unreadable

CUT_OFF_AT = {
    "run": "create round_02/record.json.ptl-tmp",
    "train": "create round_02/record.json.ptl-tmp",
    "profile": "save scores.ptl-tmp/scores",
    "data": "replace .numina_metamath.unfinished/shards-all",
    "study": "create b/seed_1/state.json.ptl-tmp",
}
"""Door -> the operation at which it is killed, so that much state lies about."""
STATE = re.compile(
    r"(manifest|corpus|record|plan|done|ended|measured_\w+|ptl_pruning|\.lock_owner|asked|state"
    r"|trainer_state)\.json$|events\.jsonl$|scores|layer_\d+\.safetensors$|\.ptl-part$|\.done$"
    r"|\.rows$|part-\d+\.jsonl$"
)
WEIGHTS = re.compile(r"(model|pruned|trained)/")
LOST = re.compile("is then lost|lack its round then")
FAST = {"run": 6, "profile": 3, "data": 3}
ALL = {"run": 60, "train": 24, "profile": 30, "data": 60, "study": 3}
TORN_TO = {
    "nothing": lambda size: 0,
    "half": lambda size: size // 2,
    "all but a bit": lambda size: size - 3,
}


@pytest.fixture
def cut_off(place_of):
    """Return a place in which the command was killed in the midst of its work, and a copy of it."""

    def make(key):
        place, undisturbed = place_of(key)
        at = undisturbed.operations.index(CUT_OFF_AT[key]) + 1
        assert place.run(fault={"kind": "kill", "at": at}) == -signal.SIGKILL, place.said()
        copy = place.folder / "copy"
        shutil.copytree(place.out, copy)
        return place, undisturbed, copy

    return make


def state_files(folder):
    names = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return sorted(n for n in names if STATE.search(n) and not WEIGHTS.search(n))


def without(digests, name):
    return {other: digest for other, digest in digests.items() if other != name}


def survives(place, undisturbed, name):
    """Give the command with the torn file, do what it says, and return what is wrong then."""
    expected = undisturbed.digests
    if place.run() != 0:
        said = place.said()
        if wrong := said_in_one_line(said):
            return wrong
        if name.rpartition("/")[2].removesuffix(".ptl-part") not in said:
            return [f"does not name the file: {said[-300:]}"]
        (place.out / name).unlink()  # as every such line says
        if wrong := place.again():
            return wrong
        if not (place.out / name).exists() and LOST.search(said):  # it cannot be made again
            expected = without(expected, name)
    elif f"{name}: is damaged; the run goes on without it" in place.said():
        (place.out / name).unlink()
        expected = without(expected, name)
    return [
        *unreadable(place.out), *left_over(place.out), *other_end(place.out, expected),
    ]  # fmt: skip


def torn_everywhere(cut_off, tried, key, number):
    place, undisturbed, copy = cut_off(key)
    names = [name for name in state_files(copy) if key != "study" or name.endswith("state.json")]
    moments = [(name, how) for name in names for how in TORN_TO]
    moments, wrong = moments[:: max(1, len(moments) // number)], {}
    for name, how in moments:
        place.clear()
        shutil.copytree(copy, place.out, dirs_exist_ok=True)
        size = (place.out / name).stat().st_size
        with (place.out / name).open("r+b") as file:
            file.truncate(max(0, TORN_TO[how](size)))
        if found := survives(place, undisturbed, name):
            wrong[f"{name}, {how}"] = found
    tried("a state file torn", place.door, len(moments), len(moments) - len(wrong))
    assert moments
    assert not wrong, "\n".join(f"{what}: {found}" for what, found in wrong.items())


@pytest.mark.parametrize("key", FAST)
def test_torn_state_is_no_end(cut_off, tried, key):
    torn_everywhere(cut_off, tried, key, FAST[key])


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("key", ALL)
def test_state_that_is_torn_anywhere_is_no_end(cut_off, tried, key):
    torn_everywhere(cut_off, tried, key, ALL[key])
