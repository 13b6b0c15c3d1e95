"""A killed `ptl profile` goes on and ends as if it had not been killed."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from ptl_plugins import profile_journal, second_moments
from ptl_plugins.criteria import needed_statistics
from ptl_plugins.profile_journal import FileJournal
from ptl_plugins.second_moments import MomentFolder
from ptl_plugins.tally import MomentTally, StatisticTally

from .conftest import BATCHES, NUMBER, PROTECT_BATCHES, TOKENS, contents


class Killed(BaseException):
    """As sudden as a signal: nothing catches it."""


@pytest.fixture
def deadly(monkeypatch, ran):
    """Keep the totals after every batch, and die in the middle of a batch."""
    monkeypatch.setitem(FileJournal.__init__.__kwdefaults__, "interval", 0.0)
    monkeypatch.setattr(profile_journal, "SHARE", math.inf)
    state = SimpleNamespace(batch=None)

    def dying(see):
        def seen(self, site, layer, *words):
            see(self, site, layer, *words)
            if len(ran) == state.batch and layer == self.layers[len(self.layers) // 2]:
                raise Killed

        return seen

    for tally in (StatisticTally, MomentTally):
        monkeypatch.setattr(tally, "see", dying(tally.see))

    def run(batch, action):
        """Run `action` until it has begun its batch number `batch`, from 1."""
        ran.clear()
        state.batch = batch
        with pytest.raises(Killed):
            action()
        state.batch = None
        ran.clear()

    return run


@pytest.fixture
def undisturbed(go, tmp_path, ran, data):
    """Return what a run that nobody kills leaves, and the batches it runs."""

    def run(**keys):
        folder = tmp_path / "undisturbed"
        ran.clear()
        go(**{**keys, "out": folder / "scores", "second_moments": folder / "moments"})
        return contents(folder), list(ran)

    return run


FULL = PROTECT_BATCHES + 5 * BATCHES


@pytest.mark.parametrize(
    "batch",
    [
        pytest.param(1, id="in the protect pass, nothing kept"),
        pytest.param(2, id="in the protect pass"),
        pytest.param(3, id="after the protect pass"),
        pytest.param(5, id="in the first pass"),
        pytest.param(6, id="between two groups"),
        pytest.param(10, id="in a later group"),
        pytest.param(FULL, id="in the last batch"),
    ],
)
def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(
    go, tmp_path, data, ran, one_layer, deadly, undisturbed, batch
):
    expected, order = undisturbed(protect=data.other)
    assert len(order) == FULL
    folder = tmp_path / "killed"
    keys = {
        "out": folder / "scores",
        "second_moments": folder / "moments",
        "protect": data.other,
    }
    deadly(batch, lambda: go(**keys))
    left = [p.name for p in folder.iterdir() if p.name.endswith(".ptl-part")]
    assert bool(left) is (batch > 1)
    go(**keys)
    assert ran == order[batch - 1 :]
    assert contents(folder) == expected
    assert not list(folder.rglob("*.ptl-*"))


def test_a_run_can_be_killed_many_times(go, tmp_path, data, ran, one_layer, deadly, undisturbed):
    expected, order = undisturbed(protect=data.other)
    folder = tmp_path / "killed"
    keys = {
        "out": folder / "scores",
        "second_moments": folder / "moments",
        "protect": data.other,
    }
    for _ in range(FULL - 1):
        deadly(2, lambda: go(**keys))  # each try gets one batch further
    go(**keys)
    assert ran == order[-1:]
    assert contents(folder) == expected


@pytest.mark.parametrize("where", ["write_scores", "moments"])
def test_a_run_that_is_killed_while_it_writes_runs_no_batch_twice(
    go, tmp_path, ran, one_layer, deadly, undisturbed, monkeypatch, where
):
    expected, order = undisturbed()
    folder = tmp_path / "killed"
    keys = {"out": folder / "scores", "second_moments": folder / "moments"}

    def die(*words):
        raise Killed

    ran.clear()
    with monkeypatch.context() as patch:
        if where == "moments":
            patch.setattr(MomentFolder, "write", die)
        else:
            patch.setattr("ptl_plugins.scores_file.write_scores", die)
        with pytest.raises(Killed):
            go(**keys)
    done = list(ran)
    go(**keys)
    assert ran == order
    assert done == order[: len(done)]
    assert contents(folder) == expected


def test_it_goes_on_where_the_memory_is_another(
    go, tmp_path, ran, deadly, undisturbed, monkeypatch
):
    expected, order = undisturbed()
    assert len(order) == BATCHES, "all layers in one group"
    folder = tmp_path / "killed"
    keys = {"out": folder / "scores", "second_moments": folder / "moments"}
    deadly(3, lambda: go(**keys))
    monkeypatch.setattr(second_moments, "free_memory", lambda device: 1)
    go(**keys)
    assert ran == [2, *[0, 1, 2] * 4], "the first layer's moments were kept as well"
    assert contents(folder) == expected


@pytest.mark.parametrize("other", ["data", "batch_tokens", "ranks"])
def test_what_is_kept_of_other_work_is_ignored(go, tmp_path, data, ran, deadly, undisturbed, other):
    changed = {"data": data.other, "batch_tokens": 2 * TOKENS}
    changed["ranks"] = SimpleNamespace(
        rank=0, size=2, gather=lambda value: [value] * 2, barrier=lambda: None
    )
    expected, order = undisturbed()
    folder = tmp_path / "killed"
    keys = {"out": folder / "scores", "second_moments": folder / "moments"}
    deadly(2, lambda: go(**keys, **{other: changed[other]}))
    assert [p.name for p in folder.glob("*.ptl-part")] == ["scores.0.ptl-part"]
    go(**keys)
    assert ran == order
    assert contents(folder) == expected


@pytest.mark.parametrize("part", ["0", "protect0", "protect"])
def test_what_is_kept_but_damaged_is_ignored(go, tmp_path, data, ran, deadly, undisturbed, part):
    expected, order = undisturbed(protect=data.other)
    folder = tmp_path / "killed"
    keys = {
        "out": folder / "scores",
        "second_moments": folder / "moments",
        "protect": data.other,
    }
    deadly(PROTECT_BATCHES + 2, lambda: go(**keys))
    path = folder / f"scores.{part}.ptl-part"
    path.write_bytes(path.read_bytes()[:-3])
    go(**keys)
    # of the protect pass either file is enough
    again = {"0": order[PROTECT_BATCHES:], "protect0": [1, 2], "protect": [1, 2]}[part]
    assert ran == again
    assert contents(folder) == expected


def test_what_is_kept_of_another_protect_corpus_is_ignored(go, tmp_path, data, ran, deadly):
    deadly(PROTECT_BATCHES + 1, lambda: go(protect=data.other))
    assert (tmp_path / "scores.protect.ptl-part").exists()
    scores, _ = go(protect=data.main)
    assert ran == [0, 1, 2, 0, 1, 2]
    assert scores.protect.num_sequences == NUMBER


def test_a_protect_pass_that_lacks_a_new_statistic_is_made_again(
    go, tmp_path, data, ran, deadly, registry, monkeypatch
):
    whole = needed_statistics([c for _, c in registry.criteria.items()])
    with monkeypatch.context() as patch:
        fewer = tuple(s for s in whole if s.name != "neuron_abs_max")
        patch.setattr("ptl_plugins.criteria.needed_statistics", lambda criteria: fewer)
        deadly(PROTECT_BATCHES + 1, lambda: go(protect=data.other))
    scores, _ = go(protect=data.other)
    assert ran == [0, 1, 0, 1, 2]
    assert "neuron_abs_max" in scores.protect.statistics


def test_what_tries_with_more_ranks_left_goes_too(go, tmp_path):
    mine = ["scores.7.ptl-part", "scores.protect1.ptl-part", "scores.0.ptl-part.ptl-tmp"]
    others = ["scores.b.0.ptl-part", "another.0.ptl-part", "scores.json", "scores.x.ptl-part"]
    for name in mine + others:
        (tmp_path / name).write_text("x", encoding="utf-8")
    go()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["scores", *others])
