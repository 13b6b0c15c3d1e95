"""The evaluator `divergence` on the live model of LLaMA-Factory, alone and on two ranks."""

from __future__ import annotations

import json

import pytest
from workplace import Workplace, recipe, records

from ptl_plugins.testing import tiny_texts, write_tiny_checkpoint, write_tiny_corpus

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
TWO_RANKS = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"}


@pytest.mark.parametrize("env", [{}, TWO_RANKS], ids=["one rank", "two ranks"])
def test_the_original_has_no_divergence_and_the_rounds_have_one(tmp_path, env):
    write_tiny_checkpoint(tmp_path / "model")
    write_tiny_corpus(tmp_path / "data", num_documents=40)
    rows = [json.dumps({"text": text}) for text in tiny_texts(9, seed=3)]
    (tmp_path / "data" / "other_text.jsonl").write_text("\n".join(rows) + "\n")
    keys = recipe()
    keys["ptl"]["schedule"] = [{"unit": "neuron", "amount": 8, "rounds": 1}]
    keys["ptl"]["evaluate"]["tasks"] = [
        {"evaluator": "divergence", "name": "other_text", "data": "data/other_text.jsonl"}
    ]
    place = Workplace(tmp_path)
    place.write("recipe.yaml", keys)
    place.run("llamafactory-cli", "train", "recipe.yaml", **env)
    original, first = records(tmp_path / "out")
    start, *rounds = (
        found["metrics"] for found in (original["recovered"], first["pruned"], first["recovered"])
    )
    assert (start["other_text_kl"], start["other_text_agreement"]) == (0.0, 1.0)
    for metrics in rounds:
        assert metrics["other_text_kl"] > 0
        assert 0 <= metrics["other_text_agreement"] <= 1
        assert metrics["num_other_text_tokens"] == start["num_other_text_tokens"] > 100
    pruned, trained = rounds  # on texts of this kind
    assert trained["other_text_loss"] < pruned["other_text_loss"]
    assert trained["other_text_kl"] > pruned["other_text_kl"]
