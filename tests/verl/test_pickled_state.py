"""A pickled file gives its tensors or an error of one line; it never runs anything."""

import logging
import os

import pytest
import torch

from ptl_plugins.errors import StageError
from verl_ext.fsdp_shards import merge_shards
from verl_ext.pickled_state import read_state


class MakesFolder:
    """What a hostile file would hold."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model_world_size_1_rank_0.pt"


def refusal(path):
    with pytest.raises(StageError) as error:
        read_state(path)
    text = str(error.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text


def test_tensors_are_read_by_name(path):
    torch.save({"a": torch.arange(3), "b": torch.ones(2, 2)}, path)
    state = read_state(path)
    assert state.keys() == {"a", "b"}
    assert state["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("zipped", [True, False], ids=["zipped", "legacy"])
def test_a_hostile_pickle_is_refused_and_never_run(zipped, path, tmp_path):
    target = tmp_path / "made"
    state = {"w": torch.ones(2), "hostile": MakesFolder(target)}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    # the legacy form is refused before its classes are read
    assert ("holds posix.mkdir" in refusal(path)) == zipped
    with pytest.raises(StageError):
        merge_shards(tmp_path, tmp_path / "merged")
    assert not target.exists()
    torch.load(path, weights_only=False)
    assert target.exists()  # so it was hostile


def test_the_class_that_is_refused_is_named(path):
    torch.save({"w": torch.nn.Linear(2, 2)}, path)
    assert "holds torch.nn.modules.linear.Linear, and only tensors" in refusal(path)


def test_a_class_that_only_the_unpickler_meets_is_refused(path, monkeypatch):
    torch.save({"w": torch.nn.Linear(2, 2)}, path)
    monkeypatch.setattr(torch.serialization, "get_unsafe_globals_in_checkpoint", lambda _: [])
    assert "UnpicklingError" in refusal(path)


def test_a_missing_file_is_refused(path):
    assert "a rank's shard is missing" in refusal(path)


def test_a_file_cut_short_is_refused(path):
    torch.save({"w": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:-2000])
    assert "is no whole file of tensors" in refusal(path)


@pytest.mark.parametrize(
    "state",
    [[torch.ones(2)], {}, {"a": 1}, {0: torch.ones(2)}],
    ids=["list", "empty", "number", "key"],
)
def test_anything_but_tensors_by_name_is_refused(state, path):
    torch.save(state, path)
    assert "is no whole file of tensors" in refusal(path)


def test_a_torch_that_loads_nothing_safely_is_refused(path, monkeypatch):
    torch.save({"a": torch.ones(1)}, path)
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(StageError, match=r"^torch 2\.5\.1\+cpu: cannot read pickled shards safely"):
        read_state(path)


def test_reading_leaves_what_torch_allows_and_logs_as_it_was(path, caplog):
    torch.save({"a": torch.ones(1)}, path)
    name = "torch.distributed.device_mesh"
    caplog.set_level(logging.INFO, logger=name)
    before = set(torch.serialization.get_safe_globals())
    read_state(path)
    assert set(torch.serialization.get_safe_globals()) == before
    assert logging.getLogger(name).level == logging.INFO
