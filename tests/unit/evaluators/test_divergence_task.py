"""The evaluator `divergence`: its keys, ranks, the original that comes and goes, and runs."""

from __future__ import annotations

import gc
import json
import re
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from ptl_plugins.distillation import teacher
from ptl_plugins.errors import PTLError
from ptl_plugins.evaluators.divergence_task import DEFAULTS, Divergence
from ptl_plugins.live import load_checkpoint
from ptl_plugins.manager import build_manager, build_registry
from ptl_plugins.ranks import SingleProcess
from ptl_plugins.recipe_file import read_recipe
from ptl_plugins.report.contents import build_document
from ptl_plugins.report.markdown import to_markdown
from ptl_plugins.report.runs import read_runs
from ptl_plugins.run import run_recipe
from ptl_plugins.testing import tiny_texts, write_tiny_checkpoint, write_tiny_corpus
from ptl_plugins.types import Subject

GOOD = {"name": "other_text", "data": "texts.jsonl"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = [*tiny_texts(6, seed=3), " ", "a"]
    rows = [{"text": text, "title": f"T{index}"} for index, text in enumerate(texts)]
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return tmp_path


@pytest.fixture
def subject(place, registry):
    write_tiny_checkpoint(place / "model")
    model, tokenizer = load_checkpoint(place / "model")
    return Subject(
        family=registry.families.get("llama"),
        model=model,
        tokenizer=tokenizer,
        stored_dtype=torch.bfloat16,
    )


def context(ranks=None, model="model"):
    return SimpleNamespace(recipe=SimpleNamespace(model=model), ranks=ranks or SingleProcess())


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"column": "title"},
        {"template": "{title}: {text}", "num_texts": 3, "max_length": 2, "batch_tokens": 1},
        {"data": "owner/name:config", "split": "test"},
    ],
)
def test_good_settings_are_taken(place, keys):
    assert Divergence().check({**GOOD, **keys}) is None


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"name": None}, "name: None names no metric; give letters, digits and _"),
        ({"name": "other text"}, "name: 'other text' names no metric"),
        ({"name": "num_texts"}, "without 'num_'"),
        ({"name": "my_num_texts"}, "without 'num_'"),
        ({"data": None}, "data: None is no file, folder or data set; allowed files: .jsonl"),
        ({"data": "nowhere.jsonl"}, "data: 'nowhere.jsonl': no such file"),
        ({"data": "./nowhere"}, "data: './nowhere': no such file"),
        ({"column": "words"}, "has no column 'words'; it has text, title"),
        ({"column": 3}, "column: 3 is no text"),
        ({"template": "no place"}, "names no column in braces"),
        ({"template": "{text}", "column": "text"}, "column: there is a template"),
        ({"num_texts": 0}, "num_texts: 0 is not a whole number >= 1"),
        ({"max_length": 1}, "max_length: 1 is not a whole number >= 2"),
        ({"batch_tokens": True}, "batch_tokens: True is not a whole number >= 1"),
        ({"num_text": 3}, "unknown key 'num_text' (did you mean 'num_texts'?); allowed: name"),
    ],
)
def test_what_is_wrong_is_one_line(place, keys, told):
    wrong = Divergence().check({**GOOD, **keys})
    assert wrong is not None
    assert told in wrong
    assert "\n" not in wrong


def test_every_key_is_documented_with_its_default():
    page = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    for key, default in DEFAULTS.items():
        told = f"`{default}`" if default is not None else r"(required|-)"
        assert re.search(rf"^\| `{key}` \| {told} \| ", page, re.MULTILINE), key


def test_the_original_itself_has_a_kl_of_exactly_zero(subject):
    metrics = Divergence().evaluate(context(), subject, GOOD)
    assert list(metrics) == [
        "other_text_loss", "other_text_kl", "other_text_agreement", "num_other_text_tokens",
    ]  # fmt: skip
    assert (metrics["other_text_kl"], metrics["other_text_agreement"]) == (0.0, 1.0)
    encoded = subject.tokenizer(tiny_texts(6, seed=3))["input_ids"]
    assert metrics["num_other_text_tokens"] == sum(len(ids) - 1 for ids in encoded)


def test_weights_in_training_are_measured_as_they_will_be_stored(subject):
    subject.model.float()
    metrics = Divergence().evaluate(context(), subject, GOOD)
    assert metrics["other_text_kl"] == 0
    assert subject.model.dtype == torch.float32


def test_a_changed_model_is_measured_against_the_original_and_not_the_other_way(subject):
    with torch.no_grad():
        subject.model.get_input_embeddings().weight.add_(0.3)
    first, shorter, fewer = (
        Divergence().evaluate(context(), subject, {**GOOD, **keys})
        for keys in ({}, {"max_length": 8}, {"num_texts": 2})
    )
    assert first["other_text_kl"] > 0
    assert 0 <= first["other_text_agreement"] < 1
    assert shorter["num_other_text_tokens"] == 6 * 7
    assert fewer["num_other_text_tokens"] < first["num_other_text_tokens"]


def test_the_original_is_loaded_once_per_measurement_and_freed_after_it(subject, monkeypatch):
    loaded = []
    load_beside = teacher.load_beside

    def noted(*args, **kwargs):
        model = load_beside(*args, **kwargs)
        loaded.append((weakref.ref(model), model.dtype))
        return model

    monkeypatch.setattr(teacher, "load_beside", noted)
    Divergence().evaluate(context(), subject, GOOD)
    gc.collect()
    ((original, dtype),) = loaded
    assert original() is None
    assert dtype == torch.bfloat16


def test_another_vocabulary_than_the_originals_is_one_line(subject, place):
    subject.model.resize_token_embeddings(300)
    with pytest.raises(
        PTLError, match=r"original 'model' has 256 logits per token, this model 300"
    ):
        Divergence().evaluate(context(), subject, GOOD)


def test_an_original_that_cannot_be_loaded_is_one_line(subject, place):
    (place / "model" / "model.safetensors").unlink()
    with pytest.raises(PTLError, match="'divergence': the original 'model' cannot be loaded on"):
        Divergence().evaluate(context(), subject, GOOD)


def test_texts_that_predict_nothing_are_one_line(subject, place):
    (place / "one.txt").write_text("a\n")
    with pytest.raises(PTLError, match="no text of 'other_text' has two tokens"):
        Divergence().evaluate(context(), subject, {**GOOD, "data": "one.txt"})


class ThreadRank:
    """One of two ranks that meet in threads."""

    size = 2

    def __init__(self, rank, meeting, values):
        self.rank, self.meeting, self.values = rank, meeting, values

    def gather(self, value):
        self.values[self.rank] = value
        self.meeting.wait(timeout=30)
        return list(self.values)


def test_two_ranks_return_what_one_returns(subject, monkeypatch):
    with torch.no_grad():
        subject.model.get_input_embeddings().weight.add_(0.3)
    alone = Divergence().evaluate(context(), subject, GOOD)
    original, tokenizer = load_checkpoint("model")
    monkeypatch.setattr(teacher, "load_beside", lambda *_, **__: original)
    monkeypatch.setattr("ptl_plugins.evaluators.divergence_task.encode_texts", encode(tokenizer))
    meeting, values = threading.Barrier(2), [None, None]
    with ThreadPoolExecutor(2) as pool:
        ranks = [ThreadRank(rank, meeting, values) for rank in range(2)]
        both = list(
            pool.map(lambda rank: Divergence().evaluate(context(rank), subject, GOOD), ranks)
        )
    assert both[0] == both[1] == pytest.approx(alone, rel=0.02)
    assert both[0]["num_other_text_tokens"] == alone["num_other_text_tokens"]
    assert 0 < values[0][-1] < alone["num_other_text_tokens"]


def encode(tokenizer):
    """Encode without a tokenizer's state, which threads must not share."""
    rows = {text: tokenizer(text)["input_ids"] for text in [*tiny_texts(6, seed=3), "a"]}
    return lambda texts, *_, **__: [rows[text] for text in texts]


SLICING = [{"unit": "hidden", "selector": "fraction", "amount": 0.25}]
NEURONS = [{"unit": "neuron", "amount": 8}]


@pytest.mark.parametrize("schedule", [SLICING, NEURONS])
def test_a_run_measures_every_checkpoint_and_the_report_has_the_columns(place, schedule):
    write_tiny_checkpoint(place / "model")
    write_tiny_corpus(place / "data", num_documents=30)
    tasks = [
        {"evaluator": "divergence", **GOOD},
        {"evaluator": "divergence", "name": "task", "data": "data/held_out.jsonl",
         "template": "Question: {question}\nAnswer: {answer}", "num_texts": 4},
    ]  # fmt: skip
    keys = {
        "model": "model", "run_dir": "out", "data": {"path": "data/tiny.jsonl"},
        "calibration": {"num_sequences": 8, "max_length": 64}, "schedule": schedule,
        "recover": [{"backend": "fake"}],
        "evaluate": {"before_recovery": True, "tasks": tasks},
    }  # fmt: skip
    (place / "r.yaml").write_text(yaml.safe_dump(keys))
    manager = build_manager(plugins=["ptl_plugins.testing.fake_backend"], autoload=False)
    registry = build_registry(manager)
    run_recipe(read_recipe(place / "r.yaml", manager.hook, registry), manager, registry)
    (run,) = read_runs([place / "out"], registry)
    original, first = run.records
    for name in ("other_text", "task"):
        assert original.recovered.metrics[f"{name}_kl"] == 0
        assert first.pruned.metrics[f"{name}_kl"] > 0
        counts = {r.metrics[f"num_{name}_tokens"] for r in (original.recovered, first.pruned)}
        assert len(counts) == 1
    page = to_markdown(build_document([run]))
    for column in ("loss", "kl", "agreement"):
        assert f"| other_text_{column} pruned | other_text_{column} recovered |" in page
    assert "num_other_text_tokens" in page
    assert "num_other_text_tokens recovered" not in page
