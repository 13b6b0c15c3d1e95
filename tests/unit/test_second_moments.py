"""H = X^T X on disk: in groups that fit into memory, never made twice, and never lost halfway."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ptl_plugins import second_moments, tensor_file
from ptl_plugins.calibration import Batch, pad
from ptl_plugins.criteria.activation import ABS_MAX, ABS_SUM
from ptl_plugins.criteria.layer_change import L2_SUM
from ptl_plugins.criteria.output_change import COLUMN_NORM
from ptl_plugins.criteria.released import SMALLEST
from ptl_plugins.errors import PruneError, PTLError
from ptl_plugins.families import find_family
from ptl_plugins.families.llama import LLAMA
from ptl_plugins.profiling import NoJournal, profile
from ptl_plugins.ranks import SingleProcess
from ptl_plugins.second_moments import MomentFolder, free_memory, layer_groups
from ptl_plugins.tally import MomentTally
from ptl_plugins.testing import TINY, tiny_model

CPU = torch.device("cpu")
SEQUENCES = [[(7 * i + 3 * j) % 250 + 4 for j in range(n)] for i, n in enumerate((9, 1, 4, 17, 4))]
STATISTICS = (ABS_MAX, ABS_SUM, L2_SUM, COLUMN_NORM, *SMALLEST)
LAYER = 4 * 48 * 48
"""Bytes of one layer's moment."""
ABOUT = {"model_digest": "a" * 64, "data_digest": "b" * 64}


@functools.cache
def tiny(name="llama"):
    return tiny_model(name)


def batches(side="right"):
    made = [pad(SEQUENCES[i : i + 2], device=CPU) for i in range(0, 5, 2)]
    if side == "right":
        return made
    flipped = []
    for batch in made:
        ids, mask = batch.input_ids.clone(), batch.attention_mask.clone()
        for row in range(len(ids)):
            shift = int((mask[row] == 0).sum())
            ids[row], mask[row] = ids[row].roll(shift), mask[row].roll(shift)
        flipped.append(Batch(input_ids=ids, attention_mask=mask))
    return flipped


def inputs_by_hand(model):
    """Return the inputs of `down_proj` per layer, one sequence at a time, stacked."""
    found = [[] for _ in model.model.layers]
    handles = [
        layer.mlp.down_proj.register_forward_pre_hook(
            lambda m, args, i=i: found[i].append(args[0][0])
        )
        for i, layer in enumerate(model.model.layers)
    ]
    with torch.no_grad():
        for sequence in SEQUENCES:
            model(input_ids=torch.tensor([sequence]))
    for handle in handles:
        handle.remove()
    return [torch.cat(rows).double() for rows in found]


def run(folder, *, model=None, statistics=STATISTICS, ranks=None, **options):
    """Profile into `folder`; `batch_list` replaces the batches."""
    model = model or tiny()
    moments = folder if isinstance(folder, MomentFolder) else MomentFolder(path=folder)
    batch_list = options.pop("batch_list", None) or batches()
    ranks = ranks or SingleProcess()
    return profile(model, LLAMA, batch_list, statistics, ranks, moments=moments, **options)


def moments_in(path):
    return {file.name: load_file(file)["second_moment"] for file in sorted(path.iterdir())}


def assert_equal(one, two):
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Statistics and moments of a profile that nothing disturbed."""
    path = tmp_path_factory.mktemp("whole") / "moments"
    return run(path).statistics, moments_in(path)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", TINY)
def test_a_moment_is_the_product_of_all_real_inputs(registry, tmp_path, name, side):
    model = tiny(name)
    family = find_family(registry, model.config.to_dict())
    folder = MomentFolder(path=tmp_path / "deep" / "moments")
    profile(model, family, batches(side), (), SingleProcess(), moments=folder)
    for layer, inputs in enumerate(inputs_by_hand(model)):
        assert inputs.shape == (35, 48)
        moment = folder.read(layer, 48)
        assert moment.dtype == torch.float32
        torch.testing.assert_close(moment.double(), inputs.T @ inputs, rtol=1e-4, atol=1e-9)
    assert len(list(folder.path.iterdir())) == 5


@pytest.mark.parametrize(
    ("memory", "passes"), [(0, 5), (LAYER, 5), (2 * LAYER, 3), (3 * LAYER - 1, 3), (9 * LAYER, 1)]
)
def test_little_memory_takes_more_passes_and_gives_the_same(whole, tmp_path, memory, passes):
    model, calls = tiny_model("llama"), []
    model.model.register_forward_pre_hook(lambda *args: calls.append(1))
    scores = run(tmp_path / "m", model=model, memory=memory)
    assert len(calls) == passes * len(batches())
    assert_equal(moments_in(tmp_path / "m"), whole[1])
    for name, value in whole[0].items():
        np.testing.assert_array_equal(scores.statistics[name], value)


def test_later_passes_stop_behind_their_group(tmp_path):
    model, calls = tiny_model("llama"), []
    for index, layer in enumerate(model.model.layers):
        layer.register_forward_pre_hook(lambda m, args, i=index: calls.append(i))
    run(tmp_path, model=model, memory=2 * LAYER, statistics=(), batch_list=batches()[:1])
    assert calls == [0, 1, 0, 1, 2, 3, 0, 1, 2, 3, 4]


def test_what_is_there_is_not_made_again(whole, tmp_path):
    run(tmp_path)
    kept = {i: (tmp_path / f"layer_{i:03d}.safetensors").stat().st_mtime_ns for i in (0, 2)}
    for layer in (1, 3, 4):
        (tmp_path / f"layer_{layer:03d}.safetensors").unlink()
    model, calls = tiny_model("llama"), []
    model.model.register_forward_pre_hook(lambda *args: calls.append(1))
    run(tmp_path, model=model, statistics=())
    assert len(calls) == 2 * len(batches()), "layers 1, and 3 with 4"
    assert_equal(moments_in(tmp_path), whole[1])
    for layer, time in kept.items():
        assert (tmp_path / f"layer_{layer:03d}.safetensors").stat().st_mtime_ns == time
    run(tmp_path, model=model, statistics=())
    assert len(calls) == 2 * len(batches()), "nothing was missing"


@pytest.mark.parametrize(
    ("there", "memory", "groups"),
    [
        ((), 2 * LAYER, [range(0, 2), range(2, 4), range(4, 5)]),
        ((1,), 9 * LAYER, [range(0, 1), range(2, 5)]),
        ((0, 3), 2 * LAYER, [range(1, 3), range(4, 5)]),
        ((0, 1, 2, 3, 4), LAYER, []),
    ],
)
def test_groups_are_runs_of_missing_layers(tmp_path, there, memory, groups):
    folder = MomentFolder(path=tmp_path)
    folder.write({str(layer): torch.zeros(48, 48) for layer in there}, SingleProcess())
    assert layer_groups(tiny(), LLAMA, SingleProcess(), folder, memory) == groups


def test_the_tightest_rank_sets_the_size_of_the_groups(tmp_path):
    class Two(SingleProcess):
        def gather(self, value):
            return [value, 2 * LAYER if isinstance(value, int) else ["not asked"]]

    groups = layer_groups(tiny(), LLAMA, Two(), MomentFolder(path=tmp_path), 9 * LAYER)
    assert [len(group) for group in groups] == [2, 2, 1]


def test_free_memory_is_a_share_of_the_machines_among_its_ranks(monkeypatch):
    class Memory:
        available = 1000

    monkeypatch.setattr(second_moments.psutil, "virtual_memory", Memory)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_memory(CPU) == 100
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert free_memory(CPU) == 400


def test_without_a_folder_no_moment_is_gathered(monkeypatch):
    monkeypatch.setattr("ptl_plugins.profiling.MomentTally", None)
    assert profile(tiny(), LLAMA, batches(), STATISTICS, SingleProcess()).num_tokens == 35


def test_nothing_temporary_is_left(tmp_path):
    run(tmp_path)
    assert [file.name for file in sorted(tmp_path.iterdir())] == [
        f"layer_{layer:03d}.safetensors" for layer in range(5)
    ]


def fails(action, *parts):
    with pytest.raises(PruneError) as caught:
        action()
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text
    return True


def test_a_missing_file_is_refused(tmp_path):
    folder = MomentFolder(path=tmp_path)
    assert not folder.has(3)
    assert fails(
        lambda: folder.read(3, 48), "layer_003.safetensors", "ptl profile --second-moments"
    )


@pytest.mark.parametrize("key", list(ABOUT))
def test_a_file_of_another_model_or_other_data_is_refused(tmp_path, key):
    run(MomentFolder(path=tmp_path, about=ABOUT))
    other = MomentFolder(path=tmp_path, about={**ABOUT, key: "c" * 64})
    parts = (f"another {key.removesuffix('_digest')}", ABOUT[key][:12], "cccccccccccc")
    assert fails(lambda: other.read(0, 48), *parts)
    assert fails(lambda: other.has(0), *parts)
    assert fails(lambda: run(other), *parts), "a profile does not take it for its own"
    assert MomentFolder(path=tmp_path, about={key: ABOUT[key]}).has(0)
    assert fails(lambda: run(MomentFolder(path=tmp_path, about={"more": "x"})), "more None, not x")


@pytest.mark.parametrize("content", [b"", b"no tensors at all", b"\x08\0\0\0\0\0\0\0{}      ###"])
def test_a_damaged_file_is_refused(tmp_path, content):
    folder = MomentFolder(path=tmp_path)
    folder.file(0).write_bytes(content)
    for action in (lambda: folder.read(0, 48), lambda: folder.has(0), lambda: run(folder)):
        assert fails(action, "layer_000.safetensors", "remove it")


def test_a_file_cut_off_is_refused(tmp_path):
    folder = MomentFolder(path=tmp_path)
    folder.write({"0": torch.eye(48)}, SingleProcess())
    folder.file(0).write_bytes(folder.file(0).read_bytes()[:-100])
    assert fails(lambda: folder.require(0), "cannot be read as a second moment")


def test_other_tensors_are_refused(tmp_path):
    folder = MomentFolder(path=tmp_path)
    save_file({"weight": torch.eye(48)}, folder.file(0))
    assert fails(lambda: folder.read(0, 48), "holds no 'second_moment'")


def test_another_width_is_refused(tmp_path):
    run(tmp_path)
    assert fails(lambda: MomentFolder(path=tmp_path).read(0, 46), "of width 48", "have 46")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_not_finite_are_refused(tmp_path, value):
    moment = torch.eye(48)
    moment[3, 4] = value
    folder = MomentFolder(path=tmp_path)
    folder.write({"2": moment}, SingleProcess())
    assert fails(lambda: folder.read(2, 48), "layer_002", "not finite")


class KilledError(Exception):
    """The process was killed."""


class MemoryJournal:
    """Keeps the totals of every `every`-th batch and of the last, and dies after batch `dies`."""

    def __init__(self, *, dies=None, every=1):
        self.kept, self.seen = {}, {}
        self.dies, self.every, self.calls, self.skipped = dies, every, 0, 0

    def restore(self, tallies):
        names = [name for tally in tallies for name in tally.totals]
        counts = {self.kept[name][1] if name in self.kept else None for name in names}
        if len(counts) != 1 or None in counts:
            return None
        for tally in tallies:
            for name, total in tally.totals.items():
                total.copy_(self.kept[name][0])
        (done,) = counts
        self.seen |= {id(tally): (tally, done) for tally in tallies}
        self.skipped += done
        return done

    def batch_done(self, done, total, tallies):
        self.calls += 1
        self.seen |= {id(tally): (tally, done) for tally in tallies}
        if done % self.every == 0 or done == total:
            rows = self.seen.values()
            self.kept = {n: (t.clone(), k) for tally, k in rows for n, t in tally.totals.items()}
        if self.calls == self.dies:
            raise KilledError

    def reborn(self):
        """Return the journal as the next process finds it."""
        again = MemoryJournal(every=self.every)
        again.kept = self.kept
        return again


def goes_on(path, whole, journal, **options):
    """Profile again with what was kept, and compare with the undisturbed profile, bit by bit."""
    again = journal.reborn()
    scores = run(path, journal=again, **options)
    assert scores.num_tokens == 35
    for name, value in whole[0].items():
        np.testing.assert_array_equal(scores.statistics[name], value)
    assert_equal(moments_in(path), whole[1])
    return again


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("dies", range(1, 10))
def test_a_profile_killed_after_any_batch_goes_on(whole, tmp_path, dies, every):
    """Three batches and three groups: within a pass, at its end, and in a later group."""
    journal = MemoryJournal(dies=dies, every=every)
    with pytest.raises(KilledError):
        run(tmp_path / "m", journal=journal, memory=2 * LAYER)
    again = goes_on(tmp_path / "m", whole, journal, memory=2 * LAYER)
    assert again.calls == 9 - dies + (dies % 3 if every == 3 else dies % 3 % every)
    assert again.skipped >= 3 * (dies > 2)


def test_a_profile_that_was_killed_twice_goes_on(whole, tmp_path):
    journal = MemoryJournal()
    for dies in (2, 3):
        journal = journal.reborn()
        journal.dies = dies
        with pytest.raises(KilledError):
            run(tmp_path / "m", journal=journal, memory=LAYER)
    assert goes_on(tmp_path / "m", whole, journal, memory=LAYER).calls == 15 - 2 - 3


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_a_profile_killed_between_two_files_goes_on(whole, tmp_path, layers):
    """The first pass is over, and only some of its moments are written."""

    class Dying(SingleProcess):
        left = layers

        def merge(self, tensor, how):
            self.left -= 1
            if self.left < 0:
                raise KilledError

    journal = MemoryJournal()
    with pytest.raises(KilledError):
        run(tmp_path / "m", journal=journal, ranks=Dying())
    assert len(list((tmp_path / "m").iterdir())) == layers
    assert goes_on(tmp_path / "m", whole, journal).calls == 0


@pytest.mark.parametrize("dies", range(1, 6))
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 9), (2, 1), (9, 2), (3, 2)])
def test_a_profile_goes_on_with_other_memory(whole, tmp_path, dies, before, after):
    """The groups are others then, and no batch may be counted twice."""
    journal = MemoryJournal(dies=dies)
    try:
        run(tmp_path / "m", journal=journal, memory=before * LAYER)
    except KilledError:
        goes_on(tmp_path / "m", whole, journal, memory=after * LAYER)
    else:
        assert before == 9


def test_moments_that_are_on_disk_are_no_longer_in_memory(tmp_path):
    journal = MemoryJournal()
    run(tmp_path, journal=journal, memory=LAYER)
    names = {statistic.name for statistic in STATISTICS}
    assert set(journal.kept) == {*names, "counts", "4"}
    assert all(not t.totals for t, _ in journal.seen.values() if isinstance(t, MomentTally))


@pytest.mark.parametrize("dies", [1, 2, 3])
def test_without_moments_a_killed_profile_goes_on_too(whole, dies):
    def go(journal):
        return profile(tiny(), LLAMA, batches(), STATISTICS, SingleProcess(), journal=journal)

    journal = MemoryJournal(dies=dies)
    with pytest.raises(KilledError):
        go(journal)
    again = journal.reborn()
    scores = go(again)
    assert again.calls == 3 - dies
    for name, value in whole[0].items():
        np.testing.assert_array_equal(scores.statistics[name], value)


def test_no_journal_keeps_nothing():
    assert NoJournal().restore([]) is None


def test_the_metadata_of_a_file_say_what_it_was_made_from(tmp_path):
    run(MomentFolder(path=tmp_path, about=ABOUT))
    header = (tmp_path / "layer_000.safetensors").read_bytes()
    size = int.from_bytes(header[:8], "little")
    assert json.loads(header[8 : 8 + size])["__metadata__"] == {
        "ptl": json.dumps(ABOUT, sort_keys=True)
    }


def test_a_full_disk_is_told_in_one_line(tmp_path, monkeypatch):
    def full(*words):
        raise SafetensorError("I/O error: full")

    monkeypatch.setattr(tensor_file, "_save", full)
    told = r"layer_000.safetensors: cannot be written \(I/O error: full\); make room"
    with pytest.raises(PTLError, match=told):
        run(MomentFolder(path=tmp_path, about=ABOUT))
    assert list(tmp_path.iterdir()) == []
