"""Steps, tokens and documents of both doors, from what their stages leave."""

from __future__ import annotations

import json

import pytest

from ptl_plugins.study.training_facts import Training, trainings_of

LOG = """
[INFO|trainer.py:1] >> ***** Running training *****
[INFO|trainer.py:2] >>   Num examples = 1,025
[INFO|trainer.py:3] >>   Num Epochs = 2
[INFO|trainer.py:4] >>   Total train batch size (w. parallel, distributed & accumulation) = 4
[INFO|trainer.py:5] >>   Total optimization steps = {steps}
"""


@pytest.fixture
def manifest(tmp_path):
    """A manifest of two rounds; `data` is that of `ptl run`."""

    def make(*, data=None, rounds=None, **settings):
        stage = {"backend": "llamafactory", "settings": {"cutoff_len": 64, **settings}}
        if rounds:
            stage["rounds"] = rounds
        recipe = {"stages": [stage], "rounds": [{}, {}], "seed": 0, "data": data}
        return {"recipe": recipe, "num_ranks": 1}

    return make


def state(folder, index, **keys):
    """Write the state of a trainer that saw 36 blocks, 4 a step."""
    logged = [{"step": 1, "epoch": 4 / 36}, {"step": 9, "epoch": 1.0}]
    facts = {"global_step": 9, "train_batch_size": 1, "num_input_tokens_seen": 0}
    path = folder / f"round_{index:02d}" / "stage_0" / "trainer_state.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**facts, "log_history": logged, **keys}), encoding="utf-8")


def test_the_state_of_a_trainer_tells_blocks_by_its_epochs(tmp_path, manifest):
    state(tmp_path, 1)
    found = trainings_of(tmp_path, manifest(gradient_accumulation_steps=4), 1, ())
    assert found == [Training(round=1, steps=9, tokens=36 * 64, documents=None)]


def test_a_training_that_ends_within_an_epoch_saw_so_many_blocks(tmp_path, manifest):
    logged = [{"step": 1, "epoch": 4 / 36}, {"step": 3, "epoch": 12 / 36}]
    state(tmp_path, 1, global_step=3, log_history=logged)
    (found,) = trainings_of(tmp_path, manifest(gradient_accumulation_steps=4), 1, ())
    assert (found.steps, found.tokens) == (3, 12 * 64)


def test_tokens_that_the_trainer_counted_come_first(tmp_path, manifest):
    state(tmp_path, 1, num_input_tokens_seen=1234)
    assert trainings_of(tmp_path, manifest(), 1, ())[0].tokens == 1234


@pytest.mark.parametrize(("steps", "blocks"), [(10, 40), (600, 2050)])
def test_a_log_tells_steps_and_blocks(tmp_path, manifest, steps, blocks):
    folder = tmp_path / "round_01" / "stage_0"
    (folder / "data").mkdir(parents=True)
    (folder / "train.log").write_text(LOG.format(steps=steps), encoding="utf-8")
    (folder / "data" / "part.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n', encoding="utf-8")
    found = trainings_of(tmp_path, manifest(data={"path": "x"}), 1, (1, 1))
    assert found == [Training(round=1, steps=steps, tokens=blocks * 64, documents=2)]


def test_documents_of_a_yaml_are_shared_as_the_run_shares_them(tmp_path, manifest):
    (tmp_path / "data").mkdir()
    lines = '{"text": "a"}\n' * 10
    (tmp_path / "data" / "tiny.jsonl").write_text(lines, encoding="utf-8")
    info = {"tiny": {"file_name": "tiny.jsonl"}}
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    keys = {"dataset": "tiny", "dataset_dir": str(tmp_path / "data")}
    whole, cut = manifest(**keys), manifest(**keys, max_samples=8)
    assert [t.documents for t in trainings_of(tmp_path, whole, 2, (1, 4))] == [2, 8]
    assert [t.documents for t in trainings_of(tmp_path, cut, 2, (1, 1))] == [4, 4]
    assert trainings_of(tmp_path, manifest(dataset="hub/x"), 1, (1, 1))[0].documents is None


def test_a_round_without_a_stage_trains_on_nothing(tmp_path, manifest):
    (found,) = trainings_of(tmp_path, manifest(rounds=[2, 2]), 1, ())
    assert (found.steps, found.tokens) == (0, 0)


def test_what_nothing_tells_is_not_known(tmp_path, manifest):
    (found,) = trainings_of(tmp_path, manifest(), 1, ())
    assert found == Training(round=1, steps=None, tokens=None, documents=None)
