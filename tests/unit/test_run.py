"""`ptl run` with a backend that trains nothing: rounds, resume, results that are refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ptl_plugins.durable import digest_of_files
from ptl_plugins.errors import RecipeError, StageError
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.recipe_file import read_recipe
from ptl_plugins.run import run_recipe
from ptl_plugins.testing import write_tiny_checkpoint, write_tiny_corpus

KEYS = {
    "calibration": {"num_sequences": 8, "max_length": 32},
    "schedule": [
        {"unit": "neuron", "amount": 8, "rounds": 2},
        {"unit": "layer", "amount": 1, "rounds": 1},
    ],
    "recover": [{"backend": "fake"}],
}


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Run the recipe with other keys; return the last model."""
    monkeypatch.chdir(tmp_path)
    write_tiny_checkpoint(tmp_path / "model")
    write_tiny_corpus(tmp_path / "data", num_documents=30)

    def run(**keys):
        manager = build_manager(plugins=["ptl_plugins.testing.fake_backend"], autoload=False)
        registry = build_registry(manager)
        base = {"model": "model", "run_dir": "out", "data": {"path": "data/tiny.jsonl"}}
        (tmp_path / "r.yaml").write_text(yaml.safe_dump({**base, **KEYS, **keys}), encoding="utf-8")
        recipe = read_recipe(tmp_path / "r.yaml", manager.hook, registry)
        return run_recipe(recipe, manager, registry)

    return run


def stages(tmp_path):
    """Return the rounds whose stages ran, in order of time."""
    logs = (tmp_path / "out").glob("round_*/stage_*/train.log")
    return {str(p.parent.relative_to(tmp_path / "out")): p.stat().st_mtime_ns for p in logs}


def fake(does, *rounds):
    return [{"backend": "fake", "settings": {"does": does, "rounds": list(rounds)}}]


def test_a_whole_run_ends_in_a_plain_checkpoint_of_the_planned_shape(start, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(start())
    assert (model.config.intermediate_size, model.config.num_hidden_layers) == (32, 4)
    assert model.dtype == torch.bfloat16, "the backend's fp32 copies are taken as bf16"
    parts = [tmp_path / "out" / f"round_0{i}" / "stage_0" / "texts.txt" for i in (1, 2, 3)]
    texts = [part.read_text().split("Question: ")[1:] for part in parts]
    assert [len(part) for part in texts] == [10, 10, 10], "each round has a part of its own"
    assert len({text.strip() for part in texts for text in part}) == 30
    names = {path.name for path in (tmp_path / "out" / "round_02").iterdir()}
    assert names == {"model", "plan.json", "record.json", "scores.safetensors", "stage_0"}
    source = tmp_path / "model"
    for name in ("tokenizer.json", "LICENSE", "generation_config.json"):
        kept = tmp_path / "out" / "round_03" / "model" / name
        assert kept.read_bytes() == (source / name).read_bytes()
    history = json.loads((kept.parent / "ptl_pruning.json").read_text(encoding="utf-8"))["history"]
    assert [entry["width"] for entry in history] == [[48, 40], [40, 32], [32, 32]]


def test_the_original_and_every_round_answer_the_questions_of_a_benchmark(
    start, tmp_path, monkeypatch
):
    monkeypatch.setenv("PTL_CACHE", str(tmp_path / "cache"))
    write_tiny_checkpoint(tmp_path / "roomy", max_position_embeddings=16384)
    (tmp_path / "math500").mkdir()
    row = {"problem": "What is 1 + 1?", "solution": r"It is $\boxed{2}$.", "answer": "2"}
    (tmp_path / "math500/test.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    task = {"evaluator": "lm_eval", "tasks": ["math500"], "data_dir": ".", "max_new_tokens": 4}
    evaluate = {"tasks": [task], "before_recovery": True}
    schedule = [{"unit": "neuron", "amount": 8, "rounds": 1}]
    start(model="roomy", schedule=schedule, evaluate=evaluate)
    for index, steps in ((0, {"evaluate"}), (1, {"evaluate", "evaluate_pruned"})):
        folder = tmp_path / "out" / f"round_0{index}"
        metrics = json.loads((folder / "record.json").read_text())["recovered"]["metrics"]
        assert metrics["math500_num_problems"] == 1
        assert metrics["math500_flops"] > 0
        assert {path.name for path in (folder / "evaluation").iterdir()} == steps
        for step in steps:
            line = (folder / "evaluation" / step / "math500.jsonl").read_text()
            assert json.loads(line)["prompt"].count("Problem:") == 5
    kept = len(list((tmp_path / "cache").rglob("questions.jsonl")))
    assert kept == 3, "the original, the pruned and the recovered model"
    start(model="roomy", schedule=schedule, evaluate=evaluate, run_dir="other")
    assert len(list((tmp_path / "cache").rglob("questions.jsonl"))) == kept


def test_the_recovered_weights_are_the_stages(start, tmp_path):
    start(keep={"intermediate": True})
    folder = tmp_path / "out" / "round_01"
    name = "model.layers.0.mlp.up_proj.weight"
    before, after = (load_file(folder / k / "model.safetensors")[name] for k in ("pruned", "model"))
    changed = before.view(torch.int16) ^ after.view(torch.int16)
    assert after.dtype == torch.bfloat16
    assert (changed == 1).all(), "the fake stage flips the lowest bit of every weight"


def test_the_same_command_again_repeats_nothing(start, tmp_path):
    first = digest_of_files(start(), "*.safetensors")
    before = stages(tmp_path)
    assert digest_of_files(start(), "*.safetensors") == first
    assert stages(tmp_path) == before
    assert len(before) == 3


@pytest.mark.parametrize("index", [1, 2, 3])
def test_a_stage_that_failed_is_done_again_and_the_end_is_the_same(start, tmp_path, index):
    whole = digest_of_files(start(), "*.safetensors")
    shutil.rmtree(tmp_path / "out")
    cause = tmp_path / "cause"
    cause.touch()
    (stage,) = fake("fail", index)
    stage["settings"]["while_exists"] = str(cause)
    message = rf"(?s)round_0{index}/stage_0.* ended with 3 .*out of memory"
    with pytest.raises(StageError, match=message):
        start(recover=[stage])
    before = stages(tmp_path)
    cause.unlink()
    assert digest_of_files(start(recover=[stage]), "*.safetensors") == whole
    after = stages(tmp_path)
    done = {name for name in before if before[name] == after[name]}
    assert done == {f"round_0{i}/stage_0" for i in range(1, index)}


def test_without_stages_the_pruned_model_is_the_rounds_model(start, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(start(recover=[]))
    assert model.config.intermediate_size == 32
    assert stages(tmp_path) == {}


def test_stages_work_on_each_others_models(start, tmp_path):
    """The fake stage flips a bit; a second one flips it back."""
    start(recover=[{"backend": "fake"}] * 2, keep={"intermediate": True})
    folder = tmp_path / "out" / "round_01"
    weights = [load_file(folder / k / "model.safetensors") for k in ("pruned", "model")]
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name])
    assert len(stages(tmp_path)) == 6


def test_the_pruned_and_the_stages_models_go_when_the_round_is_recorded(start, tmp_path):
    start(recover=[{"backend": "fake"}] * 2, keep={"rounds": "last"})
    left = {str(p.parent.relative_to(tmp_path / "out")) for p in tmp_path.rglob("out/**/*.json")
            if p.name == "config.json"}  # fmt: skip
    assert left == {"round_03/model"}
    assert stages(tmp_path).keys() >= {"round_01/stage_0", "round_01/stage_1"}


@pytest.mark.parametrize(
    ("does", "message"),
    [
        ("nan", "'model.embed_tokens.weight' is not finite: the recovery diverged"),
        ("reshape", r"changed the shape of .* from \[\d+, \d+\] to \[\d+\]"),
        ("lose", "lacks the tensor '"),
        ("fail", "ended with 3 after 0 s; its log is .*: out of memory"),
        ("killed", "was killed by signal 9"),
    ],
)
def test_a_stage_that_failed_or_whose_result_cannot_be_used(start, tmp_path, does, message):
    with pytest.raises(StageError, match=rf"(?s)round_02/stage_0.*{message}"):
        start(recover=fake(does, 2))
    assert (tmp_path / "out" / "round_01" / "record.json").exists()
    assert not (tmp_path / "out" / "round_02" / "model").exists()
    assert not (tmp_path / "out" / "round_02" / "record.json").exists()


def test_a_stage_that_hangs_is_stopped_by_the_recipes_time_out(start):
    stage = {"backend": "fake", "settings": {"does": "hang"}, "launch": {"timeout": 0.5}}
    with pytest.raises(StageError, match=r"round_01/stage_0: .* ran past its timeout of 0.5 s"):
        start(recover=[stage])


def test_a_phase_that_neither_prunes_nor_trains_is_refused(start, tmp_path):
    message = r"r.yaml: schedule\.1: unit 'none' does nothing without a stage in 'recover'"
    with pytest.raises(RecipeError, match=message):
        start(recover=[], schedule=[{"unit": "neuron", "amount": 8}, {"unit": "none"}])
    assert not (tmp_path / "out").exists()
