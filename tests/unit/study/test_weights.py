"""Where a run's last model is, and what is deleted of a finished run."""

from __future__ import annotations

import pytest

from ptl_plugins.study.weights import delete_weights, last_model


@pytest.fixture
def model_in(tmp_path):
    """Write a model's files into a folder below the run folder."""

    def write(name=""):
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"weights")
        return folder

    return write


def left(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def test_the_run_folder_has_the_last_model_or_else_the_last_round(model_in, tmp_path):
    assert last_model(tmp_path) is None
    model_in("round_01/model")
    last = model_in("round_02/model")
    (tmp_path / "round_03" / "model").mkdir(parents=True)
    assert last_model(tmp_path) == last
    assert last_model(model_in()) == tmp_path


def test_records_scores_and_the_last_model_stay(model_in, tmp_path):
    for name in ("", "round_01/model", "round_01/pruned", "round_01/stage_0/checkpoint-5"):
        model_in(name)
    for name in ("record.json", "scores.safetensors", "stage_0/trainer_state.json"):
        (tmp_path / "round_01" / name).write_text("{}")
    delete_weights(tmp_path, keep_last=True)
    kept = ["round_01/record.json", "round_01/scores.safetensors"]
    kept.append("round_01/stage_0/trainer_state.json")
    assert left(tmp_path) == ["config.json", "model.safetensors", *kept]
    delete_weights(tmp_path, keep_last=False)
    assert left(tmp_path) == ["config.json", *kept]


def test_of_ptl_run_the_last_rounds_model_stays(model_in, tmp_path):
    model_in("round_01/model")
    model_in("round_02/model")
    delete_weights(tmp_path, keep_last=True)
    assert [path.parent.parent.name for path in tmp_path.rglob("*.safetensors")] == ["round_02"]
    delete_weights(tmp_path, keep_last=False)
    assert left(tmp_path) == []
