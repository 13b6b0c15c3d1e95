"""`ptl prune` in this process: profiled tiny models, and cuts of them."""

from __future__ import annotations

import functools
import json
from types import SimpleNamespace

import pytest

from ptl_plugins.profile_run import ProfileRequest, run_profile
from ptl_plugins.prune_run import PruneRequest, run_prune
from ptl_plugins.ranks import SingleProcess
from ptl_plugins.testing import tiny_texts, write_tiny_checkpoint
from ptl_plugins.types import Cut

WIDTH, DEPTH = 48, 5


def neurons(amount, selector="count", criterion="output_change"):
    return Cut(unit="neuron", criterion=criterion, selector=selector, amount=float(amount))


def layers(amount, selector="count", criterion="l2"):
    return Cut(unit="layer", criterion=criterion, selector=selector, amount=float(amount))


@pytest.fixture(scope="module")
def profiled(tmp_path_factory, registry):
    """A tiny model of a family with its scores and second moments, each made once."""
    root = tmp_path_factory.mktemp("profiled")
    for name, seed in (("main", 0), ("other", 7)):
        text = "\n".join(json.dumps({"text": text}) for text in tiny_texts(12, seed=seed))
        (root / f"{name}.jsonl").write_text(text, encoding="utf-8")

    def run(model, **keys):
        request = ProfileRequest(
            model=str(model),
            data=str(root / "main.jsonl"),
            out=model.with_name(f"{model.name}.scores"),
            second_moments=model.with_name(f"{model.name}.moments"),
            **keys,
        )
        run_profile(request, registry, SingleProcess(), lambda *_: None)
        return SimpleNamespace(model=model, scores=request.out, moments=request.second_moments)

    @functools.cache
    def make(model_type="llama", seed=0):
        model = write_tiny_checkpoint(root / f"{model_type}{seed}", model_type, seed=seed)
        (model / "chat_template.jinja").write_text("{{ messages }}\n", encoding="utf-8")
        return run(model, protect=str(root / "other.jsonl"))

    make.run = run
    return make


@pytest.fixture
def prune(profiled, registry, tmp_path):
    """Prune a profiled model into `tmp_path / "out"`; keys override the request."""

    def run(model_type="llama", *, refit=False, **keys):
        ready = profiled(model_type)
        facts = {"model": str(ready.model), "out": tmp_path / "out", "scores": ready.scores}
        if refit:
            facts["refit"] = ready.moments if refit is True else refit
        return run_prune(PruneRequest(**{"cuts": (), "protect_top": 0, **facts, **keys}), registry)

    return run


def sizes(folder):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config["intermediate_size"], config["num_hidden_layers"]


def files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}
