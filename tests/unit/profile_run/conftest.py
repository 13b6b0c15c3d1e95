"""`ptl profile` in this process: tiny checkpoints, two corpora, and what a profile leaves."""

from __future__ import annotations

import functools
import json
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from transformers import AutoTokenizer

from ptl_plugins import profile_run, second_moments
from ptl_plugins.calibration import Batches
from ptl_plugins.criteria import forward_statistics, needed_statistics
from ptl_plugins.families import find_family
from ptl_plugins.live import load_checkpoint
from ptl_plugins.profile_run import ProfileRequest, run_profile
from ptl_plugins.profiling import profile
from ptl_plugins.ranks import SingleProcess
from ptl_plugins.tensor_file import metadata_of
from ptl_plugins.testing import tiny_texts, write_tiny_checkpoint

NUMBER, TOKENS = 12, 128
BATCHES, PROTECT_BATCHES = 3, 2
"""What `NUMBER` texts, and 8 others, make of `TOKENS` tokens a batch."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Tiny checkpoints, each written once."""
    root = tmp_path_factory.mktemp("models")

    @functools.cache
    def write(model_type="llama", seed=0):
        return write_tiny_checkpoint(root / f"{model_type}{seed}", model_type, seed=seed)

    return write


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two corpora; the first has its text in two columns as well."""
    folder = tmp_path_factory.mktemp("data")
    for name, number, seed in (("main", NUMBER, 0), ("other", 8, 7)):
        rows = []
        for text in tiny_texts(number, seed=seed):
            question, answer = text.split("\n", 1)
            rows.append(json.dumps({"text": text, "question": question, "answer": answer}))
        (folder / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return SimpleNamespace(main=str(folder / "main.jsonl"), other=str(folder / "other.jsonl"))


@pytest.fixture
def go(checkpoint, data, registry, tmp_path):
    """Run a profile of the llama into `tmp_path / "scores"`; keys override the request."""

    def run(*, ranks=None, report=lambda *_: None, **keys):
        facts = {
            "model": str(checkpoint()),
            "data": data.main,
            "out": tmp_path / "scores",
            "batch_tokens": TOKENS,
        }
        request = ProfileRequest(**{**facts, **keys})
        return run_profile(request, registry, ranks or SingleProcess(), report)

    return run


@pytest.fixture
def ran(monkeypatch):
    """The numbers of the batches that the model is given."""
    numbers, give = [], Batches.__getitem__

    def noted(self, index):
        numbers.append(index)
        return give(self, index)

    monkeypatch.setattr(Batches, "__getitem__", noted)
    return numbers


@pytest.fixture
def no_model(monkeypatch):
    """Call it where from then on the model must not be loaded."""

    def refuse(folder):
        raise AssertionError("the model was loaded")

    def start():
        monkeypatch.setattr(profile_run, "_load", refuse)

    return start


@pytest.fixture
def one_layer(monkeypatch):
    """So little memory that second moments are gathered layer by layer."""
    monkeypatch.setattr(second_moments, "free_memory", lambda device: 1)


def texts_of(path, form="{text}"):
    with open(path, encoding="utf-8") as file:  # noqa: PTH123
        return [form.format(**json.loads(line)) for line in file]


def tokens_of(folder, texts, max_length=1024):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [tokenizer(text)["input_ids"][:max_length] for text in texts]


def live(folder, registry, sequences, moments=None, without=()):
    """Profile the model as anybody would who has it in memory."""
    model, _ = load_checkpoint(folder)
    family = find_family(registry, model.config.to_dict())
    statistics = forward_statistics(needed_statistics([c for _, c in registry.criteria.items()]))
    statistics = [s for s in statistics if s.site not in without]
    batches = Batches(sequences, batch_tokens=TOKENS, device=torch.device("cpu"))
    return profile(model, family, batches, statistics, SingleProcess(), moments=moments)


def assert_same(one, two):
    assert one.statistics.keys() == two.statistics.keys()
    for name, value in one.statistics.items():
        assert value.tobytes() == two.statistics[name].tobytes(), name
    sizes = [(s.num_layers, s.width, s.num_tokens, s.num_sequences) for s in (one, two)]
    assert sizes[0] == sizes[1]
    assert (one.protect is None) == (two.protect is None)
    if one.protect is not None:
        assert_same(one.protect, two.protect)


def content(path):
    """Return what a safetensors file holds; the order of its metadata is anybody's guess."""
    with safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        return metadata_of(file), {n: (t.shape, t.tobytes()) for n, t in tensors.items()}


def contents(folder):
    return {str(p.relative_to(folder)): content(p) for p in folder.rglob("*") if p.is_file()}


def snapshot(folder):
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}
