"""A disk that is full or may not be written to, injected at writes and for real."""

from __future__ import annotations

import re
import subprocess

import pytest
from after_checks import finished_files, problems_after, said_in_one_line
from fault_points import NEEDS_ROOM

FAST = {"run": 4, "profile": 3, "data": 3}
ALL = {"run": 60, "train": 12, "profile": 40, "prune": 40, "eval": 8, "data": 40, "study": 3}
READ_ONLY = ("run", "train", "profile", "prune", "eval", "data", "study")
USER_ERROR = 2


def moments(operations, number):
    """Return the numbers of writes, each kind once before any twice, spread over the command."""
    kinds, first, others = set(), [], []
    for moment, name in enumerate(operations, 1):
        if name.split()[0] in NEEDS_ROOM:
            kind = re.sub(r"\d+", "N", name)
            (others if kind in kinds else first).append(moment)
            kinds.add(kind)
    chosen = first[:: max(1, round(len(first) / number))][:number]
    return sorted(chosen + others[: number - len(chosen)])


def survives(place, undisturbed, fault):
    """Give the command on the bad disk, and again on a good one; return what is wrong then."""
    place.clear()
    code = place.run(fault=fault)
    if code == 0:  # it could do without
        return problems_after(place, undisturbed.digests, {})
    if code != USER_ERROR:
        return [f"ended with {code}: {place.said()[-1500:]}"]
    if wrong := said_in_one_line(place.said()):
        return wrong
    at_fault = finished_files(place)
    return place.again() or problems_after(place, undisturbed.digests, at_fault)


def full_everywhere(place_of, tried, key, number):
    place, undisturbed = place_of(key)
    chosen, wrong = moments(undisturbed.operations, number), {}
    for moment in chosen:
        if found := survives(place, undisturbed, {"kind": "full_disk", "at": moment}):
            wrong[f"{moment} ({undisturbed.operations[moment - 1]})"] = found
    tried("disk full, injected", place.door, len(chosen), len(chosen) - len(wrong))
    assert not wrong, "\n".join(f"{moment}: {found}" for moment, found in wrong.items())


@pytest.mark.parametrize("key", FAST)
def test_a_command_on_a_full_disk_goes_on(place_of, tried, key):
    full_everywhere(place_of, tried, key, FAST[key])


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("key", ALL)
def test_a_command_whose_disk_fills_at_any_write_goes_on(place_of, tried, key):
    full_everywhere(place_of, tried, key, ALL[key])


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "key",
    [*READ_ONLY[:1], *(pytest.param(key, marks=pytest.mark.faults) for key in READ_ONLY[1:])],
)
def test_a_folder_that_may_not_be_written_to_is_one_line(place_of, tried, key):
    place, undisturbed = place_of(key)
    wrong = []
    for kind in ("read_only", "forbidden"):
        wrong += survives(place, undisturbed, {"kind": kind, "at": 1})
    tried("read-only folder, injected", place.door, 2, 2 - bool(wrong))
    assert not wrong, "\n".join(wrong)


@pytest.fixture
def mounted():
    """Mount something; it is unmounted at the end."""
    places = []

    def mount(place, *options):
        done = subprocess.run(
            ["mount", *options, place], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"needs the right to mount: {done.stderr.strip()}")
        if not any("remount" in str(option) for option in options):
            places.append(place)

    yield mount
    for place in reversed(places):
        subprocess.run(["umount", "--lazy", place], check=True)


def num_bytes(folder):
    """Return how many bytes the files below a folder take in blocks."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "key",
    ["profile", *(pytest.param(key, marks=pytest.mark.faults) for key in ("run", "train", "data"))],
)
def test_a_disk_that_is_really_full_is_one_line(place_of, tried, mounted, key):
    place, undisturbed = place_of(key)
    place.out.mkdir(exist_ok=True)
    needed = num_bytes(undisturbed.place.out)
    mounted(place.out, "-t", "tmpfs", "-o", "size=64m", "tmpfs")
    wrong, shares = [], (0.2, 0.5, 0.8)
    for share in shares:
        for path in place.out.iterdir():
            subprocess.run(["rm", "-r", path], check=True)
        size = max(1, int(needed * share) // 4096)
        mounted(place.out, "-o", f"remount,size={size * 4}k")
        if (code := place.run()) != USER_ERROR:
            wrong.append(f"{share}: ended with {code}: {place.said()[-800:]}")
        else:
            wrong += said_in_one_line(place.said())
        at_fault = finished_files(place)
        mounted(place.out, "-o", "remount,size=64m")
        wrong += place.again() or problems_after(place, undisturbed.digests, at_fault)
    tried("disk full, a small tmpfs", place.door, len(shares), len(shares) - bool(wrong))
    assert not wrong, "\n".join(wrong)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "key",
    ["run", *(pytest.param(key, marks=pytest.mark.faults) for key in ("train", "profile", "data"))],
)
def test_a_folder_that_is_really_read_only_is_one_line(place_of, tried, mounted, key):
    place, undisturbed = place_of(key)
    place.out.mkdir(exist_ok=True)
    mounted(place.out, "--bind", place.out)
    mounted(place.out, "-o", "remount,ro,bind")
    code = place.run()
    wrong = said_in_one_line(place.said())
    wrong += [] if code == USER_ERROR else [f"ended with {code}"]
    wrong += [f"written: {name}" for name in place.out.iterdir()]
    mounted(place.out, "-o", "remount,rw,bind")
    wrong += place.again() or problems_after(place, undisturbed.digests, {})
    tried("read-only folder, a bind mount", place.door, 1, int(not wrong))
    assert not wrong, "\n".join(wrong)
