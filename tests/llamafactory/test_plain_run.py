"""One uninterrupted run through the real `llamafactory-cli`, and what it leaves behind."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, AutoTokenizer
from workplace import recipe, records

pytestmark = pytest.mark.timeout(300)


def test_every_round_has_the_planned_shape(plain_run):
    shapes = [(r["width"], r["num_layers"]) for r in records(plain_run)]
    assert shapes == [(48, 5), (40, 5), (32, 5), (32, 4)]


def test_the_last_model_loads_from_output_dir(plain_run):
    model, info = AutoModelForCausalLM.from_pretrained(plain_run, output_loading_info=True)
    assert not any(info.values())
    assert model.config.intermediate_size == 32
    assert model.config.num_hidden_layers == 4
    tokens = AutoTokenizer.from_pretrained(plain_run)("Question:", return_tensors="pt")
    assert model.generate(**tokens, max_new_tokens=3, do_sample=False).shape[1] > 3


def test_weights_are_stored_in_the_dtype_of_the_original_and_stay_tied(plain_run):
    with safe_open(plain_run / "model.safetensors", "pt") as file:
        names = list(file.keys())
        assert {file.get_tensor(name).dtype for name in names} == {torch.bfloat16}
    assert "lm_head.weight" not in names
    model = AutoModelForCausalLM.from_pretrained(plain_run)
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "LICENSE"]
)
def test_side_files_are_those_of_the_original(workplace, plain_run, name):
    assert (plain_run / name).read_bytes() == (workplace.folder / "model" / name).read_bytes()


def test_training_changed_the_weights_and_lowered_the_loss(plain_run):
    losses = [
        entry["loss"]
        for entry in json.loads((plain_run / "trainer_state.json").read_text())["log_history"]
        if "loss" in entry
    ]
    assert losses[-1] < losses[0] - 0.1


def test_the_saved_state_shows_the_facts_of_each_entry(plain_run):
    entries = json.loads((plain_run / "trainer_state.json").read_text())["log_history"]
    assert {entry["ptl_width"] for entry in entries} == {40, 32}
    assert [e["step"] for e in entries] == sorted(e["step"] for e in entries)


def test_another_corpus_under_the_same_name_is_refused(workplace, plain_run):
    corpus = workplace.folder / "data" / "tiny.jsonl"
    text = corpus.read_text()
    corpus.write_text(text.replace("What is", "How much is"))
    try:
        done = workplace.run("llamafactory-cli", "train", "plain.yaml", code=2)
    finally:
        corpus.write_text(text)
    assert "the corpus is not the one" in done.stderr.splitlines()[-1]


def test_original_and_rounds_are_measured_before_and_after_recovery(plain_run):
    first, *rounds = records(plain_run)
    assert first["recovered"]["metrics"]["cot_loss"] > 0
    for record in rounds:
        before, after = record["pruned"]["metrics"], record["recovered"]["metrics"]
        assert after["cot_loss"] < before["cot_loss"]


def test_tensorboard_shows_the_rounds_facts(plain_run):
    (events,) = (plain_run / "round_02").rglob("events.out.tfevents*")
    log = EventAccumulator(str(events)).Reload()
    assert {e.value for e in log.Scalars("train/ptl_width")} == {32.0}
    assert {e.value for e in log.Scalars("train/ptl_round")} == {2.0}
    assert {e.value for e in log.Scalars("train/ptl_layers")} == {5.0}
    assert "train/ptl_parameters" in log.Tags()["scalars"]


def test_provenance_is_composed_over_the_rounds(plain_run):
    origin = json.loads((plain_run / "ptl_pruning.json").read_text())
    assert len(origin["layers"]) == 4
    assert set(origin["layers"]) < set(range(5))
    assert all(len(set(row)) == 32 and max(row) < 48 for row in origin["neurons"])
    assert [entry["width"] for entry in origin["history"]] == [[48, 40], [40, 32], [32, 32]]


def test_pruning_a_pruned_model_composes_with_what_it_came_from(workplace, plain_run):
    ptl = {"schedule": [{"unit": "neuron", "amount": 4}]}
    workplace.write("more.yaml", recipe(output_dir="more", model_name_or_path="plain", ptl=ptl))
    workplace.run("llamafactory-cli", "train", "more.yaml")
    before = json.loads((plain_run / "ptl_pruning.json").read_text())
    after = json.loads((workplace.folder / "more" / "ptl_pruning.json").read_text())
    assert after["layers"] == before["layers"]
    assert all(
        set(new) < set(old) for new, old in zip(after["neurons"], before["neurons"], strict=True)
    )
    assert len(after["history"]) == 4


def test_the_same_command_again_changes_nothing(workplace, plain_run):
    before = (plain_run / "model.safetensors").read_bytes()
    workplace.run("llamafactory-cli", "train", "plain.yaml")
    assert (plain_run / "model.safetensors").read_bytes() == before


def test_a_changed_recipe_in_the_same_folder_is_refused_with_the_key(workplace, plain_run):
    done = workplace.run("llamafactory-cli", "train", "plain.yaml", "learning_rate=1.0e-4", code=2)
    assert "learning_rate: 0.001 -> 0.0001" in done.stderr.splitlines()[-1]
