"""The journal of a profile: what it keeps, what it takes back, and what it leaves alone."""

from __future__ import annotations

import errno
import json
import math

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ptl_plugins import profile_journal, tensor_file
from ptl_plugins.errors import PTLError
from ptl_plugins.profile_journal import FileJournal
from ptl_plugins.tensor_file import save_tensors

ABOUT = {"model_digest": "m", "ranks": "1"}


class Totals:
    """As much of a tally as a journal looks at."""

    def __init__(self, **totals):
        self.totals = {name: torch.tensor(values) for name, values in totals.items()}

    def values(self):
        return {name: total.tolist() for name, total in self.totals.items()}


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves only when it is told to."""

    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(profile_journal, "time", clock)
    return clock


@pytest.fixture
def path(tmp_path):
    return tmp_path / "scores.0.ptl-part"


@pytest.fixture
def at_once(monkeypatch):
    """No pause between saves, however long they take."""
    monkeypatch.setattr(profile_journal, "SHARE", math.inf)


def kept(path, done, tally, about=ABOUT):
    """Keep `tally` after `done` of ten batches."""
    FileJournal(path, about, interval=0.0).batch_done(done, 10, [tally])


def restored(path, *tallies, about=ABOUT):
    return FileJournal(path, about).restore(tallies)


def test_totals_come_back_as_they_were_with_their_batches(path):
    kept(path, 3, Totals(a=[1.5, -2.0], b=[[7.0]]))
    tally = Totals(a=[9.0, 9.0], b=[[9.0]])
    assert restored(path, tally) == 3
    assert tally.values() == {"a": [1.5, -2.0], "b": [[7.0]]}


def test_a_part_of_what_was_kept_comes_back_by_itself(path, at_once):
    journal, one, two = FileJournal(path, ABOUT, interval=0.0), Totals(a=[1.0]), Totals(b=[2.0])
    journal.batch_done(10, 10, [one])
    journal.batch_done(4, 10, [two])
    first, second = Totals(a=[0.0]), Totals(b=[0.0])
    assert restored(path, first, second) is None, "they have seen different batches"
    assert (restored(path, first), restored(path, second)) == (10, 4)
    assert (first.values(), second.values()) == ({"a": [1.0]}, {"b": [2.0]})


def test_what_was_restored_is_kept_on_when_others_are_saved(path):
    kept(path, 10, Totals(a=[1.0]))
    journal = FileJournal(path, ABOUT, interval=0.0)
    assert journal.restore([Totals(a=[0.0])]) == 10
    journal.batch_done(2, 10, [Totals(b=[2.0])])
    assert (restored(path, Totals(a=[0.0])), restored(path, Totals(b=[0.0]))) == (10, 2)


def test_totals_that_were_cleared_are_no_longer_kept(path, at_once):
    journal, gone = FileJournal(path, ABOUT, interval=0.0), Totals(a=[1.0])
    journal.batch_done(10, 10, [gone])
    gone.totals.clear()
    journal.batch_done(1, 10, [Totals(b=[2.0])])
    assert restored(path, Totals(a=[0.0])) is None


def damage_facts(path, facts):
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, None if facts is None else {"ptl": facts})


DAMAGES = {
    "not there": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "no safetensors": lambda path: path.write_bytes(b"x" * 500),
    "no facts": lambda path: damage_facts(path, None),
    "facts that are no JSON": lambda path: damage_facts(path, "{"),
    "facts without batches": lambda path: damage_facts(path, json.dumps({"about": ABOUT})),
    "a total that is missing": lambda path: damage_facts(
        path, json.dumps({"about": ABOUT, "batches": {"a": 3, "b": 3}})
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_not_whole_is_not_taken_and_changes_no_total(path, damage):
    kept(path, 3, Totals(a=[1.0]))
    DAMAGES[damage](path)
    tally = Totals(a=[0.0], b=[0.0]) if "missing" in damage else Totals(a=[0.0])
    assert restored(path, tally) is None
    assert set(map(tuple, tally.values().values())) == {(0.0,)}


@pytest.mark.parametrize("about", [{}, {"model_digest": "m"}, {**ABOUT, "ranks": "2"}])
def test_totals_of_other_work_are_not_taken(path, about):
    kept(path, 3, Totals(a=[1.0]))
    tally = Totals(a=[0.0])
    assert restored(path, tally, about=about) is None
    assert tally.values() == {"a": [0.0]}


def test_a_total_that_was_not_gathered_then_means_starting_anew(path):
    kept(path, 3, Totals(a=[1.0]))
    assert restored(path, Totals(a=[0.0], new=[0.0])) is None


def test_it_saves_once_per_interval_and_at_the_end_of_a_pass(path, clock):
    journal, tally, saved = FileJournal(path, ABOUT, interval=60.0), Totals(a=[0.0]), []
    for done in range(1, 11):
        clock.now += 25.0
        tally.totals["a"] += 1
        journal.batch_done(done, 10, [tally])
        saved.append(restored(path, Totals(a=[0.0])))
    assert saved == [None, None, 3, 3, 3, 6, 6, 6, 9, 10]


def test_saving_that_takes_long_is_done_less_often(path, clock, monkeypatch):
    journal, tally = FileJournal(path, ABOUT, interval=60.0), Totals(a=[0.0])

    def slow(*words):
        clock.now += 10.0
        save_tensors(*words)

    monkeypatch.setattr(profile_journal, "save_tensors", slow)
    clock.now += 60.0
    journal.batch_done(1, 10, [tally])
    for done, seconds, last in ((2, 490.0, 1), (3, 20.0, 3)):
        clock.now += seconds
        journal.batch_done(done, 10, [tally])
        assert restored(path, Totals(a=[0.0])) == last, "2 % of the time, so every 500 s"


def test_it_reports_every_batch_whether_or_not_it_saves(path):
    told = []
    journal = FileJournal(path, ABOUT, report=lambda *numbers: told.append(numbers))
    for done in (1, 2, 3):
        journal.batch_done(done, 5, [Totals(a=[0.0])])
    assert (told, path.exists()) == ([(1, 5), (2, 5), (3, 5)], False)


def test_close_deletes_the_file_if_there_is_one(path):
    kept(path, 3, Totals(a=[1.0]))
    FileJournal(path, ABOUT).close()
    FileJournal(path, ABOUT).close()
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: full")]
)
def test_a_full_disk_is_told_in_one_line_and_what_was_kept_stays(path, monkeypatch, error):
    kept(path, 3, Totals(a=[1.0]))

    def full(name, tensors, facts):
        with open(name, "wb") as file:  # noqa: PTH123
            file.write(b"half")
        raise error

    monkeypatch.setattr(tensor_file, "_save", full)
    with pytest.raises(PTLError, match=r"cannot be written \(.*\); make room, then give") as raised:
        kept(path, 4, Totals(a=[2.0]))
    assert "\n" not in str(raised.value)
    assert list(path.parent.iterdir()) == [path]
    assert restored(path, Totals(a=[0.0])) == 3
